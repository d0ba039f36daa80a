"""Questions about a graph: reports that change nothing."""
