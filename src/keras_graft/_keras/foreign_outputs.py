"""Model inputs with a clear error for `keras.Model(inputs, outputs)` with foreign outputs."""

from __future__ import annotations

import sys
from typing import Any

import keras

from keras_graft._keras.private import base
from keras_graft.printable import quoted


class _Input(base("Node")):
    """The node of a model's input, as Keras makes it, with a check when Keras reads `is_input`."""

    @property
    def is_input(self) -> bool:  # type: ignore[override]
        """True. Keras reads this also for an input that no output depends on."""
        _check(sys._getframe(1))
        return True


def watch(tensor: Any) -> None:
    """Raise a clear error if somebody makes a model from an input and a donor's tensor.

    Layers are shared, and `layer.output` belongs to the model that called the layer first. For
    `keras.Model(result.input, layer.output)` Keras only says that the name of the input is used
    twice, or that "Output with path `` is not connected". Uses `KerasTensor._keras_history`,
    `Operation._inbound_nodes` and the variables of `map_graph` (3.14 - 3.15; if they differ,
    Keras's own errors remain).
    """
    operation, index, _ = tensor._keras_history
    operation._inbound_nodes[index].__class__ = _Input


def _check(frame: Any) -> None:
    """Refuse outputs that are computed from inputs other than those of the model."""
    if frame.f_code.co_name != "map_graph":
        return
    known = frame.f_locals
    if not {"inputs", "outputs", "operations_depths"} <= known.keys():
        return
    own = [tensor._keras_history.operation for tensor in known["inputs"]]
    strangers = [
        operation
        for operation in known["operations_depths"]
        if isinstance(operation, keras.layers.InputLayer) and all(operation is not x for x in own)
    ]
    if strangers:
        asked = dict.fromkeys(tensor._keras_history.operation.name for tensor in known["outputs"])
        raise ValueError(
            f"The output of {', '.join(map(repr, asked))} comes from the input {strangers[0].name!r} of "
            f"another model, not from the input {own[0].name!r} of this one. A layer that models "
            "share has one `layer.output`: that of the model that called it first. For "
            f"its output in this model: keras_graft.extract(model, {quoted(next(iter(asked)))})."
        )
