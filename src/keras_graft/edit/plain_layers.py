"""The layers of this package as calls of Keras's own layers and ops, for `kg.plain`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft import layers as own
from keras_graft.graph.node import Node, Template
from keras_graft.graph.sizes import Axis, Computed, deep, evaluate
from keras_graft.model.calls import caller

ops = keras.ops

Made = Callable[..., Any]
"""Takes the tensors of a call, and gives what the call gives."""

_OPERATORS = {
    "add": ops.add, "sub": ops.subtract, "mul": ops.multiply, "truediv": ops.true_divide,
    "floordiv": ops.floor_divide, "mod": ops.mod, "pow": ops.power, "matmul": ops.matmul,
    "eq": ops.equal, "ne": ops.not_equal, "lt": ops.less, "le": ops.less_equal, "gt": ops.greater,
    "ge": ops.greater_equal, "and": ops.bitwise_and, "or": ops.bitwise_or, "xor": ops.bitwise_xor,
}  # fmt: skip


class NotPlainError(Exception):
    """A call that Keras's own layers cannot express; the message says why."""


class Expressed:
    """Expresses calls; the calls of one layer share what was made for it."""

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}

    def of(self, node: Node) -> Any:
        """Return a layer or a function of tensors that does what a call does.

        Raises:
            NotPlainError: If there is none.
        """
        layer: Any = node.operation
        for kind, rule in _RULES.items():
            if type(layer) is kind:
                return rule(self, node, layer)
        raise NotPlainError("")

    def _frozen(self, node: Node, layer: Any) -> Any:
        inside = layer.layer
        if _acts_in_training(inside):
            raise NotPlainError(
                "in training, a layer of Keras that is not trained still drops and draws; "
                "kg.unfreeze it first"
            )
        inside.trainable = False
        return inside

    def _weight(self, node: Node, layer: Any) -> Made:
        variable = layer.value
        dtype = keras.backend.standardize_dtype(variable.dtype)
        if "float" not in dtype:
            raise NotPlainError(f"it holds {dtype}")
        if variable.constraint is not None:
            raise NotPlainError("it has a constraint")
        shape, size = tuple(variable.shape), math.prod(variable.shape)
        if id(layer) not in self._made:
            self._made[id(layer)] = keras.layers.Embedding(
                1, size, embeddings_regularizer=variable.regularizer, name=layer.name,
                dtype=layer.dtype_policy if layer.autocast else dtype,
            )  # fmt: skip
        table = self._made[id(layer)]
        values: Any = ops.convert_to_numpy(variable)
        values = values.reshape(1, size)

        def give(anchor: Any) -> Any:
            # A row that is always the same: Keras has no layer that gives a variable.
            flat: Any = ops.reshape(anchor, (-1,))
            row = table(ops.zeros_like(flat[0], dtype="int32"))
            table.set_weights([values])
            table.trainable = layer.trains
            return ops.reshape(row, shape)

        return give

    def _operator(self, node: Node, layer: Any) -> Made:
        function = _OPERATORS[layer.sign]
        given = node.inputs[0].spec
        if given is not None and given.dtype == "bool" and layer.sign in ("and", "or", "xor"):
            function = getattr(ops, f"logical_{layer.sign}")
        return caller(function, node.template)

    def _patched(self, node: Node, layer: Any) -> Made:
        if node.outputs[0].mask is not None:
            raise NotPlainError("a mask goes through it")
        if layer.value is None:
            return lambda x, new: ops.add(ops.zeros_like(x), ops.cast(new, x.dtype))
        return lambda x: ops.add(ops.zeros_like(x), np.asarray(layer.value, x.dtype))

    def _then(self, node: Node, layer: Any) -> Made:
        def both(*args: Any, **kwargs: Any) -> Any:
            given = layer.layer(*args, **kwargs)
            if isinstance(given, list | tuple):
                return [layer.second(given[0]), *given[1:]]
            return layer.second(given)

        return caller(both, node.template)

    def _keep(self, node: Node, layer: Any) -> Made:
        return lambda first, *more: [first, *more] if more else first

    def _dynamic(self, node: Node, layer: Any) -> Made:
        """Return the op with the sizes that are known; one that is not may be -1 in a reshape."""
        call = layer.sized
        unknown = []

        def size(i: int, axis: int) -> Any:
            spec = node.inputs[i].spec
            return None if spec is None else spec.shape[axis]

        def sized(leaf: Any) -> Any:
            if not isinstance(leaf, Axis | Computed):
                return leaf
            try:
                found = evaluate(leaf, size)
            except TypeError:  # calculated with a size that is not known
                found = None
            unknown.extend([leaf] if found is None else [])
            return -1 if found is None else found

        parts = call.attributes, call.args, call.kwargs
        attributes, args, kwargs = (deep(part, sized) for part in parts)
        reshape = call.target == "op:numpy.Reshape"
        if len(unknown) > reshape or not call.target.startswith("op:"):
            raise NotPlainError(f"{call.name} reads a size that is not known")
        if reshape:
            return lambda x: ops.reshape(x, attributes["newshape"])
        return caller(call._class(**attributes), Template(args, kwargs))


def _acts_in_training(layer: Any) -> bool:
    """Whether a layer that is not trained still does something else in training."""
    if type(layer) in _AROUND:
        return any(map(_acts_in_training, _keras.layers_inside(layer)[1:]))
    norm = type(layer) is keras.layers.BatchNormalization  # in inference mode then
    if norm or not _keras.takes_training(layer) or _keras.ignores_training(layer):
        return False
    config = _keras.get_config(layer)
    rates = [config[name] for name in ("dropout", "recurrent_dropout") if name in config]
    return any(rates) or not rates


_AROUND = (
    keras.layers.Bidirectional, keras.layers.RNN, keras.layers.StackedRNNCells,
    keras.layers.TimeDistributed,
)  # fmt: skip
"""Layers that do in training what the layers inside them do."""

_RULES: dict[type, Callable[..., Any]] = {
    own.Frozen: Expressed._frozen,
    own.Weight: Expressed._weight,
    own.KeepWeights: Expressed._keep,
    own.Operator: Expressed._operator,
    own.Patched: Expressed._patched,
    own.Then: Expressed._then,
    own.DynamicOp: Expressed._dynamic,
}
