"""Edit history: which layers and tensors took the place of the donor's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed
from keras_graft.graph.node import Node, Value
from keras_graft.graph.origin import Move
from keras_graft.graph.select import everything


class Gone(Exception):
    """An attribute cannot be copied; the message continues a sentence that names the attribute."""


class Removed(Gone):
    """The attribute holds a layer that was removed and that nothing replaced."""


class History:
    """Finds what edits made of the operations and values that a graph had when it was read."""

    def __init__(self, graph: Graph, base: Graph) -> None:
        self._here: set[int] = set()
        self._makers: dict[Any, Any] = {}
        levels = {id(graph): graph}
        for node in everything(graph):
            self._here |= {id(layer) for layer in _keras.layers_inside(node.operation)}
            for value in node.outputs:
                for key in _keys(value):
                    self._makers.setdefault(key, node.operation)
            if node.nested is not None:
                levels[id(node.nested)] = node.nested
        self._edits: list[dict[Any, Move]] = []
        for level in levels.values():
            for moves in [] if level.past is None else level.past.moves():
                edit: dict[Any, Move] = {}
                for move in moves:
                    for key in _keys(move[0]):
                        edit.setdefault(key, move)
                self._edits.append(edit)
        self._calls: dict[int, list[Node]] = {}
        self._around: dict[int, Any] = {}
        self._inside: set[int] = set()
        for node in everything(base):
            self._calls.setdefault(id(node.operation), []).append(node)
            if node.scope:
                self._inside |= {id(v.origin) for v in node.outputs}
            for layer in _keras.layers_inside(node.operation)[1:]:
                self._around.setdefault(id(layer), node.operation)

    def now(self, value: Value) -> Value:
        """Return the value that the edited graph reads in place of `value`."""
        for _, new, _ in self._moves(value):
            value = new
        return value.within(None)

    def _moves(self, value: Value, taken: bool = False) -> Iterator[Move]:
        """Yield the moves of a value, in the order of the edits.

        Args:
            value: The value.
            taken: Whether to count only edits that removed the producer of the value.
        """
        for edit in self._edits:
            move = next((edit[key] for key in _keys(value) if key in edit), None)
            if move is not None and (not taken or move[2] is not None):
                yield move
                value = move[1]

    def reads_inside(self, tensor: Any) -> bool:
        """Whether a tensor lies inside a nested model of the donor."""
        return id(tensor) in self._inside

    def layer(self, layer: Any) -> Any:
        """Return the layer that stands in place of a layer of the donor.

        Raises:
            Gone: If there is no such layer, or more than one.
        """
        if id(layer) in self._here or not (id(layer) in self._calls or id(layer) in self._around):
            return layer
        if id(layer) not in self._calls:
            around = self._around[id(layer)]
            raise Gone(
                f"the layer {layer.name!r}, which it holds, was inside {around.name!r}, which is "
                "no longer in the model"
            )
        found: dict[int, Any] = {}
        for node in self._calls[id(layer)]:
            for value in node.outputs:
                found.update((id(op), op) for op in self._instead(value))
        if not found:
            raise Removed(f"the layer {layer.name!r}, which it holds, was removed by an edit")
        inside = {id(item) for item in _keras.layers_inside(layer)}
        if found.keys() & inside:
            raise Gone(
                f"the model {layer.name!r}, which it holds, was opened by an edit: its layers are "
                "in the model itself"
            )
        (one, *others) = found.values()
        if others or not isinstance(one, keras.layers.Layer):
            names = listed(operation.name for operation in found.values())
            raise Gone(
                f"the layer {layer.name!r}, which it holds, is no longer in the model: in its "
                f"place {'are' if others else 'is'} {names}"
            )
        return one

    def _instead(self, value: Value) -> list[Any]:
        """Return the operations in place of the producer of a value; empty if it was removed."""
        for _, new, put in self._moves(value, taken=True):
            if not put or len({id(operation) for operation in put}) > 1:
                return list(put or ())
            value = new
        return [self._makers[key] for key in _keys(value) if key in self._makers][:1]


def _keys(value: Value) -> list[Any]:
    """Return the keys that find a value: itself and, in another reading, its Keras tensor."""
    value = value.within(None)
    return [value] if value.origin is None else [value, id(value.origin)]
