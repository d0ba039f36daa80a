"""What a wildcard may be, and whether an operation of a graph is what a pattern names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.errors import EditError, SelectionError
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node
from keras_graft.graph.select import Selection, select
from keras_graft.layers.operator import Operator
from keras_graft.printable import shown, words_of
from keras_graft.rewrite.constants import comparable, is_wide, same_constant
from keras_graft.rewrite.pattern import Wildcard

Fits = Callable[[Node], str]
"""Returns why an operation does not fit; nothing if it does."""

_L = keras.layers
COMMUTING_LAYERS = (_L.Add, _L.Multiply, _L.Average, _L.Maximum, _L.Minimum)
"""Layers that give the same for their inputs in any order."""

COMMUTING_OPS = frozenset(
    f"numpy.{name}"
    for name in (
        "Add", "Multiply", "Maximum", "Minimum", "Equal", "NotEqual", "LogicalAnd", "LogicalOr",
        "LogicalXor", "BitwiseAnd", "BitwiseOr", "BitwiseXor",
    )
)  # fmt: skip
"""Ops that give the same for their first two arguments in either order."""

_SIGNS = {
    "add": "Add", "sub": "Subtract", "mul": "Multiply", "truediv": "TrueDivide",
    "floordiv": "FloorDivide", "mod": "Mod", "pow": "Power", "matmul": "Matmul", "eq": "Equal",
    "ne": "NotEqual", "lt": "Less", "le": "LessEqual", "gt": "Greater", "ge": "GreaterEqual",
}  # fmt: skip
"""The ops that `Operator` computes in the backend's own way."""

_NOT_COMPARED = ("name", "dtype", "trainable")
"""What may differ between a layer in a pattern and the one that it matches."""


class Meanings:
    """Tells what fits a wildcard, or a layer or op that a pattern names; asks once for each."""

    def __init__(self, graph: Graph, wildcards: dict[str, Any], verb: str) -> None:
        self._graph = graph
        self._verb = verb
        self._wide = is_wide(graph)
        self._fits = {name: self._meant(name, what) for name, what in wildcards.items()}
        self._known: dict[tuple[Any, Any], tuple[Any, str]] = {}
        self._configs: dict[int, Any] = {}

    def why_not(self, target: Any, node: Node) -> str:
        """Return why the operation of a node is not what a call of a pattern names."""
        key = target.name if isinstance(target, Wildcard) else id(target), id(node.operation)
        # The operation is held: its `id` must stay its own.
        if key not in self._known:
            self._known[key] = node.operation, self._why_not(target, node)
        return self._known[key][1]

    def same(self, one: Any, other: Any) -> bool:
        """Whether two constants are the same for this graph."""
        return same_constant(one, other, self._wide)

    def constant(self, wildcard: Wildcard, value: Any) -> str:
        """Return why a constant is not what a wildcard that is given away stands for."""
        meant = wildcard.meant
        for one in meant if isinstance(meant, list | tuple) else [meant]:
            if isinstance(one, type):
                if isinstance(value, one):
                    return ""
            elif callable(one):
                if self._holds(wildcard.name, one, value, shown(value)):
                    return ""
            elif self.same(one, value):
                return ""
        return f"it is given {shown(value)}, expected {_told(meant)}"

    def _why_not(self, target: Any, node: Node) -> str:
        if isinstance(target, Wildcard):
            if any(fits(node) for fits in self._fits[target.name]):
                return ""
            return f"{node.path} is {node.kind}, expected {_told(target.meant)}"
        if isinstance(target, keras.Layer):
            return self._why_not_layer(target, node)
        if identity(target) == identity(node.operation):
            return ""
        return f"{node.path} is {_op_told(node.operation)}, expected {_op_told(target)}"

    def _why_not_layer(self, layer: Any, node: Node) -> str:
        if layer is node.operation:
            return ""
        kind = type(layer).__name__
        if type(layer) is not type(node.operation):
            return f"{node.path} is {node.kind}, expected {kind}"
        if layer.weights:
            return f"{node.path} is not the layer {layer.name!r}"
        own, other = self._config(layer), self._config(node.operation)
        for key in own:
            if key not in _NOT_COMPARED and comparable(own[key]) != comparable(other.get(key)):
                return f"{node.path} has {key}={shown(other.get(key))}, expected {shown(own[key])}"
        return ""

    def _config(self, layer: Any) -> dict[str, Any]:
        if id(layer) not in self._configs:
            self._configs[id(layer)] = layer, _keras.get_config(layer)
        return self._configs[id(layer)][1]

    def _meant(self, name: str, meant: Any) -> list[Callable[[Node], bool]]:
        many = isinstance(meant, list | tuple)
        if many and not meant:
            raise EditError(f"{self._verb}: {name}={shown(meant)} names nothing that it may be.")
        return [self._one(name, one) for one in (meant if many else [meant])]

    def _one(self, name: str, meant: Any) -> Callable[[Node], bool]:
        if isinstance(meant, type):
            return lambda node: isinstance(node.operation, meant)
        if isinstance(meant, keras.Operation):
            return lambda node: node.operation is meant
        if isinstance(meant, str | re.Pattern | Selection | Node):
            found = {id(n.operation) for n in select(self._graph, meant).nodes}
            return lambda node: id(node.operation) in found
        if callable(meant) and not isinstance(meant, keras.KerasTensor):
            return lambda node: self._holds(name, meant, node.operation, node.path)
        if isinstance(meant, bool | int | float | complex):
            return lambda node: False  # a constant: it is given away, not called
        raise EditError(
            f"{self._verb}: {name}={shown(meant)} is no wildcard: give a class, such as "
            f"{name}=keras.layers.Dense, a layer, a name or a pattern of names, a function of the "
            "layer that says whether it fits, or a list of these."
        )

    def _holds(self, name: str, function: Any, asked: Any, path: str) -> bool:
        try:
            return bool(function(asked))
        except AttributeError as error:
            if error.obj is asked:  # another kind of layer
                return False
            raise self._raised(name, function, path, error) from error
        except Exception as error:  # a user's function
            raise self._raised(name, function, path, error) from error

    def _raised(self, name: str, function: Any, path: str, error: Exception) -> SelectionError:
        return SelectionError(
            f"{self._verb}: {name}={shown(function)}, asked about {path!r}, raised "
            f"{type(error).__name__}: {words_of(error)}"
        )


def identity(operation: Any) -> Any:
    """Return what two ops have in common that compute the same."""
    if isinstance(operation, Operator) and operation.sign in _SIGNS:
        return f"numpy.{_SIGNS[operation.sign]}", ()
    own = {k: comparable(v) for k, v in _keras.op_attributes(operation).items()}
    kind = _keras.op_name(operation) or type(operation)
    return kind, tuple(sorted(own.items()))


def commutes(operation: Any) -> str:
    """Return how an operation may exchange its inputs: "list", "two", or "" if it may not."""
    if type(operation) in COMMUTING_LAYERS:
        return "list"
    return "two" if identity_kind(operation) in COMMUTING_OPS else ""


def identity_kind(operation: Any) -> Any:
    if isinstance(operation, keras.Layer):
        return type(operation)
    if isinstance(operation, Operator):
        return f"numpy.{_SIGNS.get(operation.sign)}"
    return _keras.op_name(operation)


def _told(meant: Any) -> str:
    parts = meant if isinstance(meant, list | tuple) else [meant]
    return " or ".join(
        one.__name__ if isinstance(one, type) else
        one.name if isinstance(one, keras.Operation) else
        _function_told(one) if callable(one) and not isinstance(one, str) else shown(one)
        for one in parts
    )  # fmt: skip


def _function_told(function: Any) -> str:
    name = getattr(function, "__name__", "")
    return (
        f"one for which {name} holds"
        if name and name != "<lambda>"
        else "one that its function accepts"
    )


def _op_told(operation: Any) -> str:
    kind = type(operation).__name__
    if isinstance(operation, keras.Layer):
        return kind
    own = ", ".join(f"{k}={shown(v)}" for k, v in _keras.op_attributes(operation).items())
    return f"{kind}({own})" if own else kind
