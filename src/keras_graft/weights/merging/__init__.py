"""Merge checkpoints: the formulas, the sources, and the files that are written."""
