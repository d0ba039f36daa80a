"""Code that reads the weight of a layer without calling the layer: it would read integers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.graph.node import Node
from keras_graft.model.calls import filled


def read_outside(
    nodes: Iterable[Node], copy: Callable[[Any], Any], layers: Sequence[Any]
) -> list[tuple[Any, Node]]:
    """Return layers whose matrix is read by the code around them, and the calls of that code.

    The code of layers that hold these layers runs once on abstract tensors. Keras's own is run too:
    `TimeDistributed` uses `layer.call`, which knows of no integers.

    Args:
        nodes: Calls of layers.
        copy: Returns the copy of a layer, which no other model uses.
        layers: The layers whose weights are asked about; the originals.
    """
    originals = {id(copy(layer)): layer for layer in layers}
    found: list[tuple[Any, Node]] = []
    for node in nodes:
        layer = copy(node.operation)
        held = [x for x in _keras.layers_inside(layer) if id(x) in originals and x is not layer]
        if not held or node.nested is not None:
            continue
        read: dict[int, Any] = {}
        with _keras.weights_read_outside(held, lambda x, read=read: read.setdefault(id(x), x)):
            _run(layer, node)
        found += [(originals[key], node) for key in read]
    return found


def _run(layer: Any, node: Node) -> None:
    if any(value.spec is None for value in node.inputs):
        return
    tensors = [keras.KerasTensor(v.spec.shape, v.spec.dtype) for v in node.inputs]  # type: ignore[union-attr]
    try:
        with _keras.losses_kept(layer):
            _Once(layer, node).compute_output_spec(*tensors)
    except Exception:  # it tells nothing
        return


class _Once(keras.Operation):
    """One recorded call."""

    def __init__(self, layer: Any, node: Node) -> None:
        super().__init__()
        self._layer, self._node = layer, node

    def call(self, *tensors: Any) -> Any:
        args, kwargs = filled(self._node.template, tensors)
        return self._layer(*args, **kwargs)
