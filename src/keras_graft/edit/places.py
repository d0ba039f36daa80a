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
