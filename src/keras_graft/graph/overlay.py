"""A dict with cheap copies: a changed copy costs the size of the change, not of the dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

_GONE: Any = object()
_SPARE = 16
"""Changes are merged into the base once their number, squared, is more than this many times the
size of the base: a copy then costs about the square root of a large table."""


class Overlay(Generic[K, V]):
    """A dict in two layers: its own changes, and below them a base shared with its copies.

    >>> first = Overlay({"a": 1, "b": 2})
    >>> second = first.copy()
    >>> second["a"] = 3
    >>> del second["b"]
    >>> first["a"], second["a"], "b" in first, "b" in second
    (1, 3, True, False)
    """

    __slots__ = ("_base", "_own")

    def __init__(self, base: Mapping[K, V] | None = None) -> None:
        self._base: Mapping[K, V] = {} if base is None else base  # shared: never changed in place
        self._own: dict[K, V] = {}

    def copy(self) -> Overlay[K, V]:
        """Return a table with the same items; changes to one do not affect the other."""
        if len(self._own) ** 2 > _SPARE * len(self._base):
            whole = {**self._base, **self._own}
            self._base = {key: value for key, value in whole.items() if value is not _GONE}
            self._own = {}
        new: Overlay[K, V] = Overlay(self._base)
        new._own = self._own.copy()
        return new

    def get(self, key: K, default: Any = None) -> Any:
        """Return the value of `key`."""
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
        """Return all values, the changed ones last."""
        left = [value for key, value in self._base.items() if key not in self._own]
        return left + [value for value in self._own.values() if value is not _GONE]

    def __contains__(self, key: K) -> bool:
        return self.get(key, _GONE) is not _GONE

    def __setitem__(self, key: K, value: V) -> None:
        self._own[key] = value

    def __delitem__(self, key: K) -> None:
        self._own[key] = _GONE
