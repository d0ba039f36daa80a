"""A Keras model: read as a graph, built from one, made again, saved."""
