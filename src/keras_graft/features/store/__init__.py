"""A store of features on disk or behind a URL."""
