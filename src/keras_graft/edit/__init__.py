"""Edits of a graph: one verb per file, and the mechanisms they share."""
