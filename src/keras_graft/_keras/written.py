"""Write down the calls of layers and ops on placeholders that have no shape and no dtype."""

from __future__ import annotations

import contextlib
import dis
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras

_LOCK = threading.RLock()

Written = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
"""Takes a layer or op and the arguments of its call, and returns what the call gives."""


class Placeholder(keras.KerasTensor):
    """A tensor of which nothing is known. Keras takes it for a symbolic one.

    Uses that `KerasTensor` sets its attributes in `__init__` only (3.12 - 3.15).
    """

    def __init__(self, name: str) -> None:  # without that of Keras, which wants a shape
        self.name = name
        self.record_history = False

    def unknown(self, what: str) -> Any:
        """Refuse to tell something that a placeholder does not have; raises."""
        raise NotImplementedError(what)

    def unpacked(self, count: int | None) -> list[Any]:
        """Return the tensors when it is unpacked into `count` names; None: count not known."""
        raise NotImplementedError

    @property
    def shape(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.unknown("shape")

    @property
    def dtype(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.unknown("dtype")

    @property
    def sparse(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.unknown("sparse")

    @property
    def ragged(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.unknown("ragged")

    def __iter__(self) -> Iterator[Any]:
        return iter(self.unpacked(_names_unpacked()))

    def __repr__(self) -> str:
        return f"<{self.name}>"


def _names_unpacked() -> int | None:
    """Return into how many names the caller of `__iter__` unpacks: `a, b = x`.

    As torch.fx's `Proxy.__iter__`: the instruction that runs in the calling frame says it.
    """
    frame = sys._getframe(2)
    for instruction in dis.get_instructions(frame.f_code):
        if instruction.offset == frame.f_lasti:
            return instruction.arg if instruction.opname == "UNPACK_SEQUENCE" else None
    return None


@contextlib.contextmanager
def calls_written(write: Written) -> Iterator[None]:
    """Hand all calls on placeholders in this thread to `write`; others run as always.

    Uses `Operation.symbolic_call` (3.12 - 3.15).
    """
    thread = threading.get_ident()
    with _LOCK:
        op_call, layer_call = keras.Operation.symbolic_call, keras.Layer.__call__

        def op(self: Any, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == thread and _reads_placeholders(args, kwargs):
                return write(self, args, kwargs)
            return op_call(self, *args, **kwargs)

        def layer(self: Any, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == thread and _reads_placeholders(args, kwargs):
                return write(self, args, kwargs)
            return layer_call(self, *args, **kwargs)

        filtering = keras.config.is_traceback_filtering_enabled()
        # Otherwise Keras replaces each error by another one, with the arguments in its text.
        keras.config.disable_traceback_filtering()
        keras.Operation.symbolic_call, keras.Layer.__call__ = op, layer  # type: ignore[method-assign]
        try:
            yield
        finally:
            keras.Operation.symbolic_call, keras.Layer.__call__ = op_call, layer_call  # type: ignore[method-assign]
            if filtering:
                keras.config.enable_traceback_filtering()


def _reads_placeholders(args: Any, kwargs: Any) -> bool:
    return any(isinstance(leaf, Placeholder) for leaf in keras.tree.flatten((args, kwargs)))
