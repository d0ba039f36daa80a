"""What `copy` and `pickle` do with a graph and what lies in it."""

from __future__ import annotations

from typing import Any


class Key:
    """An identity. Nothing but itself is equal to it."""

    __slots__ = ()


class Copyable:
    """Never changed, so `copy.copy` gives the thing itself; the rest is in `pickling`."""

    __slots__ = ()

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> Any:
        from keras_graft.pickling import deep_copied  # it makes layers; a graph knows no Keras

        return deep_copied(self, memo)

    def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:
        from keras_graft.pickling import reduced

        return reduced(self)
