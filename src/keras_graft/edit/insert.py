"""The verb `insert`: put a layer, a model or a function between a value and its consumers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from keras_graft.edit import changes as _edit
from keras_graft.edit.incoming import At
from keras_graft.edit.places import WhatComesIn, nodes_named, values_named
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed
from keras_graft.graph.node import Node, Value
from keras_graft.graph.select import select
from keras_graft.graph.walk import read_places
from keras_graft.model.infer import infer
from keras_graft.model.nested import Place, at_depth, pairs
from keras_graft.model.verb import verb
from keras_graft.printable import quoted, shown


@verb
def insert(
    graph: Graph,
    new: Any,
    after: Any = None,
    before: Any = None,
    between: tuple[Any, Any] | None = None,
) -> Graph:
    """Put a layer, a model or a function between a value and its consumers.

    A layer that a function makes without a name is named after its place, as for `replace`.

    Args:
        model: A Keras model or a `Graph`.
        new: A layer, a model, a function of one tensor or a factory, as for `replace`. A factory
            gets the node behind which, or before which, something is inserted; behind an input of
            the model, which has no node, it gets the `Value`.
        after: A selector of values: all consumers of each value read the new output instead. Of a
            node with several outputs, those that are used; by its name, the only one that is used.
        before: A selector of nodes with one input; `"add:1"` names one of several inputs.
        between: A value and a node: only this node reads the new output.

    Raises:
        EditError: If not exactly one of `after`, `before` and `between` is given; if it is not
            clear which value is meant.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> model = keras.Model(x, keras.layers.Dense(3, name="d")(x), name="tiny")
    >>> new = kg.insert(model, keras.layers.Dropout(0.5, name="drop"), before="d")
    >>> [layer.name for layer in new.layers]
    ['x', 'drop', 'd']
    >>> new = kg.insert(model, lambda node: keras.layers.Dropout(0.5), after=["x", "d"])
    >>> [layer.name for layer in new.layers]
    ['x', 'x_dropout', 'd', 'd_dropout']
    """
    if sum(place is not None for place in (after, before, between)) != 1:
        raise EditError("insert: give one of after=..., before=... and between=(value, node).")
    if between is not None and not (isinstance(between, tuple | list) and len(between) == 2):
        raise EditError(
            f"insert: between= is a value and a node that reads it, got {shown(between)}."
        )
    what = WhatComesIn(new, "insert")
    side = "before" if after is None else "after"

    def put(graph: Graph, inputs: Sequence[Value], node: Node | None) -> _edit.Made:
        item = inputs[0] if node is None or side == "after" else node
        return what.put(At(graph, tuple(inputs), node, f"insert {side}", item))[:2]

    def behind(level: Graph, places: list[Place]) -> Graph:
        values = [level.value(value) for (value,) in places]  # type: ignore[arg-type]
        what.begin(values)
        return _edit.insert_after(level, values, put, infer)

    def in_front(level: Graph, places: list[Place]) -> Graph:
        edges = [_edge(level, place, number) for place in places]
        what.begin(node for node, _ in edges)
        return _edit.insert_before(level, edges, put, infer)

    number = None
    if after is not None:
        values = values_named(graph, after, "insert after", "after")
        return at_depth(graph, [(value,) for value in values], behind)
    if between is not None:
        places = pairs(graph, *between, "insert between", select(graph, between[1]).nodes)
    else:
        named = (
            re.fullmatch(r"(.*):([0-9]{1,9})", before, re.DOTALL)
            if isinstance(before, str)
            else None
        )
        if named:
            before, number = named[1], int(named[2])
        places = [(node,) for node in nodes_named(graph, before, "insert before")]
    return at_depth(graph, places, in_front)


def _edge(graph: Graph, place: Place, number: int | None) -> tuple[Node, list[int]]:
    """Return a node, and the numbers of its inputs that must read something else."""
    *values, end = place
    node = graph.node(end)  # type: ignore[arg-type]
    own = read_places(node)
    inputs = [graph.label(node.inputs[i]) for i in own]
    if values:
        places = [i for i, read in enumerate(node.inputs) if read == values[0].within(None)]
        if not places:
            raise EditError(
                f"insert between {graph.label(values[0])!r} and {node.label!r}: the second does "
                f"not read the first; it reads {listed(inputs)}."
            )
        return node, places
    if number is not None:
        if number >= len(inputs):
            raise EditError(
                f"insert before {quoted(f'{node.label}:{number}')}: {node.label!r} has {len(inputs)} inputs: "
                f"{listed(inputs)}."
            )
        return node, [own[number]]
    if len(set(inputs)) > 1:
        raise EditError(
            f"insert before {node.label!r}: it has {len(inputs)} inputs, {listed(inputs)}. Name "
            f"one by its number, such as before={quoted(node.label + ':0')}."
        )
    return node, own
