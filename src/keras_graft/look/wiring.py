"""Which call gives what another one reads, through the borders of nested models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Value
from keras_graft.graph.select import everything
from keras_graft.look.numbers import Place, place_of
from keras_graft.tables import shortened


@dataclass(frozen=True)
class Source:
    """Where a tensor comes from.

    Attributes:
        place: The call that gives it, which is no nested model; None for an input of the graph.
        index: Which output of the call, or which input of the graph.
        path: The path that selects it.
    """

    place: Place | None
    index: int
    path: str


class Wiring:
    """The calls of a graph and of its nested models, and how they are connected.

    Attributes:
        nodes: The calls by their places, in graph order, outer before inner.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: dict[Place, Node] = {place_of(node): node for node in everything(graph)}
        self._known: dict[Any, Source | None] = {}
        self._reads: dict[Place, tuple[Source | None, ...]] = {}
        users: dict[tuple[Place | None, int], dict[str, None]] = {}
        self._readers: dict[tuple[Place | None, int], dict[Place, None]] = {}
        for place, node in self.nodes.items():
            if node.nested is not None:
                continue
            found = tuple(self._source(node.home, node.scope, v) for v in node.reads)
            self._reads[place] = found
            for source in found:
                if source is not None:
                    users.setdefault((source.place, source.index), {})[node.path] = None
                    self._readers.setdefault((source.place, source.index), {})[place] = None
        for value in graph.outputs:
            source = self._source(graph, (), value)
            if source is not None:
                users.setdefault((source.place, source.index), {})[""] = None
        self._users = users

    def reads(self, node: Node) -> tuple[Source | None, ...]:
        """Return where the tensors that a call reads come from; None: an input left out."""
        return self._reads.get(place_of(node), ())

    def source(self, value: Value) -> Source | None:
        """Return where a value of the graph itself comes from."""
        return self._source(self.graph, (), value.within(None))

    def ends(self) -> list[Source | None]:
        """Return where the outputs of the graph come from."""
        return [self._source(self.graph, (), value) for value in self.graph.outputs]

    def readers(self, place: Place | None, index: int) -> list[Place]:
        """Return the calls that read an output of a call, or, for None, an input of the graph."""
        return list(self._readers.get((place, index), ()))

    def users(self, place: Place) -> list[Place]:
        """Return the calls that read what a call gives, each once; for a nested model, none."""
        count = len(self.nodes[place].gives)
        found = [self._readers.get((place, i), {}) for i in range(count)]
        return list(dict.fromkeys(p for users in found for p in users))

    def behind(self, node: Node) -> list[Node]:
        """Return the calls that a call depends on, and itself; inside nested models."""
        stack = [place_of(node)]
        if node.nested is not None:
            ends = [self._source(node.home, node.scope, v) for v in node.values]
            stack = [s.place for s in ends if s is not None and s.place is not None]
        found: dict[Place, Node] = {}
        while stack:
            place = stack.pop()
            if place not in found:
                found[place] = self.nodes[place]
                sources = self._reads.get(place, ())
                stack += [s.place for s in sources if s is not None and s.place is not None]
        return list(found.values())

    def cuts(self) -> set[Place]:
        """Return the calls that everything which runs later needs, directly or through others.

        Outputs of the graph do not count, and neither do masks: a mask accompanies its tensor.
        """
        order = {place: i for i, place in enumerate(self._reads)}
        last = dict.fromkeys(order, -1)
        last[None] = -1  # type: ignore[index]
        for place, sources in self._reads.items():
            for source in sources[: len(self.nodes[place].inputs)]:
                if source is not None:
                    last[source.place] = order[place]  # type: ignore[index]
        result = set()
        furthest = last.pop(None)  # type: ignore[call-overload]
        for place, at in order.items():
            if furthest <= at:
                result.add(place)
            furthest = max(furthest, last[place])
        return result

    def depths(self) -> dict[Place, int]:
        """Return for each call how many calls follow each other up to it, at most."""
        found: dict[Place, int] = {}
        for place, sources in self._reads.items():
            known = (found.get(s.place, 0) for s in sources if s is not None and s.place)
            found[place] = 1 + max(known, default=0)
        return found

    def where(self, node: Node) -> str:
        """Return the neighbours of a call as text: `"between a and b"`."""
        before = dict.fromkeys(
            s.path for s in self.reads(node)[: len(node.inputs)] if s is not None
        )
        after: dict[str, None] = {}
        for i in range(len(node.gives)):
            after.update(self._users.get((place_of(node), i), {}))
        ends = after.pop("", "no") is None
        return between(before, after, ends)

    def _source(self, graph: Graph, scope: tuple[Node, ...], value: Value) -> Source | None:
        key = (tuple(n.key for n in scope), value.key)
        if key not in self._known:
            self._known[key] = self._found(graph, scope, value)
        return self._known[key]

    def _found(self, graph: Graph, scope: tuple[Node, ...], value: Value) -> Source | None:
        while True:
            node = graph.producer(value)
            if node is None:
                index = [v.key for v in graph.inputs].index(value.key)
                if not scope:
                    return Source(None, index, graph.input_names[index])
                call = scope[-1]
                entry = call.entries[index].source if index < len(call.entries) else None
                if entry is None:
                    return None
                graph, scope, value = call.home, scope[:-1], call.reads[entry]
                continue
            index = [v.key for v in node.gives].index(value.key)
            here = node.within(graph, scope)
            if node.nested is None:
                return Source(place_of(here), index, value.within(graph, scope).path)
            outside = len(node.outputs)
            inner = (
                node.nested.outputs[index] if index < outside else node.unseen[index - outside][1]
            )
            graph, scope, value = node.nested, (*scope, here), inner


def between(before: Iterable[str], after: Iterable[str], ends: bool) -> str:
    """Return the neighbours of a call as text, shortened where there are many.

    >>> between(["a"], ["b"], False), between(["a", "b", "c", "d"], [], True)
    ('between a and b', 'after a, b and 2 more, before the output')
    >>> between([], ["b", "c"], False)
    'before b and c'
    """
    before, after = list(before), list(after)
    if len(before) == len(after) == 1 and not ends:
        return f"between {before[0]} and {after[0]}"
    after += ["the output"] if ends else []
    parts = [f"after {shortened(before)}"] if before else []
    parts += [f"before {shortened(after)}"] if after else []
    return ", ".join(parts)
