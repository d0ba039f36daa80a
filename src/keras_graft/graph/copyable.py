"""What `copy` and `pickle` do with a graph and what lies in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Key:
    """An identity. Nothing but itself is equal to it."""

    __slots__ = ()


class Copyable:
    """Never changed, so `copy.copy` gives the thing itself; the rest is in `model/pickling.py`."""

    __slots__ = ()

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> Any:
        return _HOW["deepcopy"](self, memo)

    def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:
        return _HOW["pickle"](self)


_HOW: dict[str, Callable[..., Any]] = {}


def copied_by(deepcopy: Callable[..., Any], pickle: Callable[..., Any]) -> None:
    """Say how copies are made: they need new layers, and a graph knows no Keras."""
    _HOW.update(deepcopy=deepcopy, pickle=pickle)
