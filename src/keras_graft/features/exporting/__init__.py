"""Stores as the files of other libraries: one module for each format."""
