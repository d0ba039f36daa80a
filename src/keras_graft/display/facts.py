"""What a picture says about an operation: parameters, flags, sharing and ties. Each is asked once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from keras_graft import _keras
from keras_graft.display.arguments import arguments
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node
from keras_graft.graph.parameters import variable_behind
from keras_graft.graph.record import unwrapped
from keras_graft.look.sharing import sharing
from keras_graft.printable import printable


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about one operation.

    Attributes:
        sizes: The parameters of each variable, by the identity of the variable.
        trained: The identities of the variables that training changes.
        state: `"trainable"`, `"frozen"`, `"mixed"` or `"none"`.
        shared: `"encoder (3 calls)"`, or None if it is called once.
        ties: The variables that other layers use too.
        arguments: Its arguments, as pairs of texts.
        form: Equal for operations that compute the same.
    """

    sizes: dict[int, int]
    trained: frozenset[int]
    state: str
    shared: str | None
    ties: list[str]
    arguments: list[list[str]]
    form: str


class Known:
    """The facts about every operation of a graph."""

    def __init__(self, graph: Graph) -> None:
        report = sharing(graph)
        self._trainable = graph.trainable
        self._found: dict[int, tuple[Any, Facts]] = {}
        self._calls = {id(o.operation): len(o.calls) for o in report.operations}
        self._tied = {id(v.variable): printable(v.name) for v in report.variables}

    def of(self, node: Node, name: str) -> Facts:
        """Return the facts about the operation of a call."""
        key = id(node.operation)
        if key not in self._found:
            # The operation is kept too: so no other one gets its `id`.
            self._found[key] = node.operation, self._ask(node, name)
        return self._found[key][1]

    def _ask(self, node: Node, name: str) -> Facts:
        operation: Any = node.operation
        weights: list[Any] = list(getattr(operation, "weights", ()))
        behind = [id(variable_behind(w)) for w in weights]
        sizes = {
            key: math.prod(d or 0 for d in w.shape) for key, w in zip(behind, weights, strict=True)
        }
        trains = [self._trainable and bool(getattr(w, "trainable", False)) for w in weights]
        trained = frozenset(key for key, on in zip(behind, trains, strict=True) if on)
        calls = self._calls.get(id(operation))
        rows, form = ([], "") if node.nested is not None else arguments(unwrapped(operation))
        return Facts(
            sizes,
            trained,
            _state(operation, weights, trains),
            f"{printable(name)} ({calls} calls)" if calls else None,
            [self._tied[key] for key in dict.fromkeys(behind) if key in self._tied],
            rows,
            f"{type(operation).__name__} {form}",
        )


def _state(operation: Any, weights: list[Any], trains: list[bool]) -> str:
    if not weights:
        return "none"
    if all(trains):
        return "trainable"
    if not any(trains):
        return "frozen"
    # Statistics, as those of a BatchNormalization, are never trained: they do not count.
    able = {id(w) for layer in _keras.layers_inside(operation) for w in _keras.own_trained(layer)}
    off = [w for w, on in zip(weights, trains, strict=True) if not on and id(w) in able]
    return "mixed" if off else "trainable"
