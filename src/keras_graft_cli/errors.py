"""Errors of the command itself; those of the library are in `keras_graft.errors`."""

from __future__ import annotations


class UsageError(Exception):
    """Options or arguments that do not fit, or a file that cannot be read: exit code 2."""
