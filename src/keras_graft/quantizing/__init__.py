"""Weights in fewer bits: which layers, how, and what it changes."""
