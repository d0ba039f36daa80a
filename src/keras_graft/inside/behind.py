"""Put something of its own behind each of several values, at any depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from keras_graft.edit import changes as _edit
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Value
from keras_graft.model.infer import infer
from keras_graft.model.nested import Tag, at_depth


class Putting(Protocol):
    """What is put behind a value."""

    def begin(self, values: Sequence[Value]) -> None:
        """Get to know the places of one level."""

    def put(self, graph: Graph, value: Value) -> _edit.Made:
        """Return the new nodes, and the one value that is read in the place of the old one."""
        ...


def put_behind(graph: Graph, places: Sequence[tuple[Value, Putting]]) -> Graph:
    """Let all consumers of each value read what is put behind it.

    Calls of one nested model stay calls of one model if the same objects are put into each;
    otherwise they are opened.
    """
    tags = {id(new): Tag(new) for _, new in places}

    def edit(level: Graph, here: list[Any]) -> Graph:
        found: dict[Value, Putting] = {level.value(value): tag.what for value, tag in here}
        for new in {id(new): new for new in found.values()}.values():
            new.begin([value for value, what in found.items() if what is new])

        def put(graph: Graph, inputs: Sequence[Value], node: Node | None) -> _edit.Made:
            (value,) = inputs
            return found[value].put(graph, graph.value(value))

        return _edit.insert_after(level, list(found), put, infer)

    tagged: Any = [(value, tags[id(new)]) for value, new in places]
    return at_depth(graph, tagged, edit)
