"""A table of which a changed copy costs what has changed, not what it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

_GONE: Any = object()
_SPARE = 16
"""A copy takes the changes along until their number, squared, is this many times the size of what
lies beneath: copies then cost about the square root of a large table."""


class Overlay(Generic[K, V]):
    """A table: what was changed since a copy, over what it has in common with others.

    >>> first = Overlay({"a": 1, "b": 2})
    >>> second = first.copy()
    >>> second["a"] = 3
    >>> del second["b"]
    >>> first["a"], second["a"], "b" in first, "b" in second
    (1, 3, True, False)
    """

    __slots__ = ("_base", "_own")

    def __init__(self, base: Mapping[K, V] | None = None) -> None:
        self._base: Mapping[K, V] = {} if base is None else base  # never changed from here on
        self._own: dict[K, V] = {}

    def copy(self) -> Overlay[K, V]:
        """Return a table that holds the same; changes to one are not seen in the other."""
        if len(self._own) ** 2 > _SPARE * len(self._base):
            whole = {**self._base, **self._own}
            self._base = {key: value for key, value in whole.items() if value is not _GONE}
            self._own = {}
        new: Overlay[K, V] = Overlay(self._base)
        new._own = self._own.copy()
        return new

    def get(self, key: K, default: Any = None) -> Any:
        """Return what is held for `key`."""
        found = self._own.get(key, self)
        if found is self:
            return self._base.get(key, default)
        return default if found is _GONE else found

    def __getitem__(self, key: K) -> V:
        found = self.get(key, _GONE)
        if found is _GONE:
            raise KeyError(key)
        return found

    def values(self) -> list[V]:
        """Return all that is held, what was changed last."""
        left = [value for key, value in self._base.items() if key not in self._own]
        return left + [value for value in self._own.values() if value is not _GONE]

    def __contains__(self, key: K) -> bool:
        return self.get(key, _GONE) is not _GONE

    def __setitem__(self, key: K, value: V) -> None:
        self._own[key] = value

    def __delitem__(self, key: K) -> None:
        self._own[key] = _GONE
