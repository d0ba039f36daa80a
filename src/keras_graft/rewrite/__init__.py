"""Rewrite a network by patterns: find parts of it, and put others in their place."""
