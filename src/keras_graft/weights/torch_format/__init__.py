"""Weights under PyTorch's names and in PyTorch's layouts: read, matched and written."""
