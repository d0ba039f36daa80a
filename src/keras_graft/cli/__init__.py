"""The command `keras-graft`."""
