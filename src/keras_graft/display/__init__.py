"""Graphs and reports as text and HTML."""
