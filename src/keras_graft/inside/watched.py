"""A layer behind a value at which a gradient is asked for, and the report of gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_graft.edit.changes import Made
from keras_graft.edit.incoming import At
from keras_graft.edit.places import WhatComesIn
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Value
from keras_graft.inside.running import Watch


class Watched(keras.Layer):
    """Hands a tensor to a `Watch`, and returns what that returns. It is never saved."""

    keras_graft_checked = True

    def __init__(self, watch: Watch) -> None:
        super().__init__(autocast=False)
        self.__dict__["watch"] = watch
        self.supports_masking = True
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Return the tensor that all consumers read."""
        return self.watch(inputs)

    def compute_output_spec(self, inputs: Any) -> Any:
        """Return the spec of the tensor."""
        return keras.KerasTensor(inputs.shape, inputs.dtype)


class Watching:
    """Puts a `Watched` behind one value."""

    def __init__(self) -> None:
        self.watch = Watch()
        self._what = WhatComesIn(lambda node: Watched(self.watch), "gradients")

    def begin(self, values: Sequence[Value]) -> None:
        """Get to know the place."""
        self._what.begin(values)

    def put(self, graph: Graph, value: Value) -> Made:
        """Return the node, and its output."""
        return self._what.put(At(graph, (value,), value.producer, "gradients", value))[:2]
