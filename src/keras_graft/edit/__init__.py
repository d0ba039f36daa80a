"""Changes: one verb per file, and the few mechanisms below them."""
