"""The verb `rewire`: let consumers read other values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_graft.edit import changes as _edit
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.select import select
from keras_graft.model.infer import infer
from keras_graft.model.nested import Place, at_depth, pairs
from keras_graft.model.verb import verb
from keras_graft.shared.kept import edited


@verb
def rewire(graph: Graph, reads: Mapping[Any, Any]) -> Graph:
    """Let the consumers of values read other values: `{old value: new value}`.

    Raises:
        EditError: If this closes a cycle; the message shows its path.
        BuildError: If a consumer does not take what it would read.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> y = keras.layers.Dense(4, name="b")(keras.layers.Dense(4, name="a")(x))
    >>> [layer.name for layer in kg.rewire(keras.Model(x, y), {"a": "x"}).layers]
    ['x', 'b']
    """
    if not isinstance(reads, Mapping):
        raise EditError(f"rewire: give {{old value: new value}}, got {type(reads).__name__}.")
    places = [
        place
        for old, new in reads.items()
        for place in pairs(graph, old, new, "rewire", select(graph, new).values)
    ]

    def edit(level: Graph, places: list[Place]) -> Graph:
        pairs = {level.value(old): level.value(new) for old, new in places}  # type: ignore
        return _edit.rewire(level, pairs, infer)

    return edited(graph, at_depth(graph, places, edit), "rewire")
