"""A Keras model as an immutable graph of plain objects. Nothing here imports Keras."""
