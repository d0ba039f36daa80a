"""The places of an edit, and what it puts in there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from keras_graft import advice
from keras_graft.edit.factory import put_in
from keras_graft.edit.incoming import At
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed
from keras_graft.graph.node import Node, Value
from keras_graft.graph.select import is_exact, select
from keras_graft.graph.select_nodes import select_nodes
from keras_graft.printable import quoted, shown


class WhatComesIn:
    """What an edit puts in, at one place or at several."""

    def __init__(self, new: Any, verb: str) -> None:
        self._new = new
        self._verb = verb
        self._places: list[Node | Value] = []
        self._names: set[str] = set()

    def begin(self, places: Iterable[Node | Value]) -> None:
        """Add the places of one level; refuse one layer for several places."""
        self._names = set()
        self._places += places
        if len(self._places) > 1 and isinstance(self._new, keras.Layer):
            labels = listed(place.label for place in self._places)
            raise EditError(
                f"{self._verb}: {len(self._places)} places, {labels}, and one "
                f"{type(self._new).__name__} {self._new.name!r}. Give a factory, lambda node: ..., "
                "that makes one for each; or lambda node: layer, if all should share this one."
            )

    def put(self, at: At) -> tuple[list[Node], list[Value], Any]:
        return put_in(self._new, at, self._names)


def nodes_named(graph: Graph, selector: Any, verb: str) -> tuple[Node, ...]:
    """Return the nodes that a selector names; refuse a selector of an input."""
    several = isinstance(selector, list | tuple) and selector
    nodes: dict[Node, None] = {}
    for part in selector if several else [selector]:
        found = select(graph, part)
        nodes.update(dict.fromkeys(select_nodes(graph, part)))
        inputs = [v for v in found.items if isinstance(v, Value) and v.producer is None]
        # A pattern may match inputs too, if it also matches nodes.
        if inputs and (is_exact(graph, part) or len(inputs) == len(found)):
            label = inputs[0].path
            raise EditError(
                f"{verb} {label!r}: it is an input, which nothing computes. To put something behind "
                f"it: {advice.call('insert', ('new', advice.As('new')), after=label)}; for another shape, kg.reinput."
            )
    return tuple(nodes)


def values_named(graph: Graph, selector: Any, verb: str, argument: str = "") -> list[Value]:
    """Return the values that a selector names: of a node with several outputs, those used.

    Args:
        graph: The graph.
        selector: A selector of values.
        verb: For messages.
        argument: The name of the argument that holds the selector; empty if it has none.

    Raises:
        EditError: If it is the name of a node of which not exactly one output is used.
    """
    exact = is_exact(graph, selector)
    values: list[Value] = []
    for item in select(graph, selector).items:
        found = item.values if isinstance(item, Node) else (item,)
        if len(found) > 1:
            used = [v for v in found if v.consumers or v.within(None) in v.home.outputs]
            if exact and len(used) != 1:
                names = listed(v.path for v in used or found)
                way = f"{argument}=" if argument else ""
                raise EditError(
                    f"{verb} {item.path!r}: it gives {names}. Name one, such as "
                    f"{way}{quoted(found[0].path)}."
                )
            found = tuple(used)
        values += found
    if not values:
        raise EditError(f"{verb} {shown(selector)}: nothing that it names is used.")
    return values
