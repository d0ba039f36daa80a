"""A network as a value. Nothing here imports Keras."""
