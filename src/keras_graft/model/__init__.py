"""Keras models: read as a graph, built from a graph, cloned, saved."""
