"""`fold`: put parts into groups."""

from __future__ import annotations

from keras_graft.display.parts import Part


def fold(parts: list[Part]) -> list[Part]:
    """Return parts with groups."""
    return parts
