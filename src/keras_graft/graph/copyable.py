"""What `copy` and `pickle` do with a graph, a node or a value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Key:
    """An identity: equal only to itself."""

    __slots__ = ()


class Copyable:
    """Immutable, so `copy.copy` returns the object itself. The rest is in `model/pickling.py`."""

    __slots__ = ()

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> Any:
        return _HOW["deepcopy"](self, memo)

    def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:
        return _HOW["pickle"](self)


_HOW: dict[str, Callable[..., Any]] = {}


def copied_by(deepcopy: Callable[..., Any], pickle: Callable[..., Any]) -> None:
    """Register how copies are made: they need new layers, and this folder imports no Keras."""
    _HOW.update(deepcopy=deepcopy, pickle=pickle)
