"""`Line`: the calls of a graph in the order in which they run, and what passes between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Value
from keras_graft.look.numbers import Place, place_of
from keras_graft.look.wiring import Wiring

End = tuple[Place | None, int]
"""A value: the call that gives it, or None for an input of the graph; and which one of these."""


class Line:
    """The calls that the outputs need, those inside nested models in place of these models.

    Attributes:
        graph: The graph.
        places: The places of the calls, in the order in which they run.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._wiring = Wiring(graph)
        self._ends = [(s.place, s.index) for s in self._wiring.ends() if s is not None]
        needed: set[Place] = set()
        stack = [place for place, _ in self._ends if place is not None]
        while stack:
            place = stack.pop()
            if place not in needed:
                needed.add(place)
                stack += [source for source, _ in self.reads(place) if source is not None]
        self.places: list[Place] = [p for p in self._wiring.nodes if p in needed]

    def node(self, place: Place) -> Node:
        """Return the call at a place."""
        return self._wiring.nodes[place]

    def reads(self, place: Place) -> list[End]:
        """Return what a call reads, through the borders of nested models; masks too."""
        found = self._wiring.reads(self.node(place))
        return [(s.place, s.index) for s in found if s is not None]

    def value(self, end: End) -> Value:
        """Return the value, as a handle in the graph, inside a nested model too."""
        place, index = end
        if place is None:
            return self.graph.inputs[index]
        node = self.node(place)
        return node.gives[index].within(node.home, node.scope)

    def spans(self, stages: Mapping[Place, int]) -> dict[End, tuple[int, int]]:
        """Return for each value the stage that has it first, and the last one that needs it.

        Args:
            stages: The stage of each call, from 0. Inputs are there from stage 0 on, and outputs
                are needed by the last stage.
        """
        last = max(stages.values(), default=0)
        found: dict[End, int] = {}
        for place in self.places:
            for end in self.reads(place):
                found[end] = max(found.get(end, 0), stages[place])
        found.update((end, last) for end in self._ends)
        return {
            end: (0 if end[0] is None else stages[end[0]], until) for end, until in found.items()
        }

    def crossing(self, stages: Mapping[Place, int]) -> list[tuple[Value, ...]]:
        """Return for each stage but the last the values that it hands on, in graph order."""
        found: list[list[End]] = [[] for _ in range(max(stages.values(), default=0))]
        for end, (start, stop) in self.spans(stages).items():
            for stage in range(start, stop):
                found[stage].append(end)
        order = {place: i for i, place in enumerate(self.places, 1)}
        inside: dict[Place, set[int]] = {}
        for place, stage in stages.items():
            for node in self.node(place).scope:
                inside.setdefault(place_of(node), set()).add(stage)

        def at(end: End) -> tuple[int, int]:
            return (0 if end[0] is None else order[end[0]]), end[1]

        def outer(value: Value) -> Value:
            """Return what a nested model gives, in place of the value inside, if it stays whole."""
            while value.scope and len(inside[place_of(value.scope[-1])]) == 1:
                call = value.scope[-1]
                given = [*value.home.outputs, *(mask for _, mask in call.unseen)]
                index = [v.key for v in given].index(value.key)
                value = call.gives[index].within(call.home, call.scope)
            return value

        return [tuple(outer(self.value(end)) for end in sorted(ends, key=at)) for ends in found]


def running(starts: Sequence[tuple[int, int, int]], count: int) -> list[int]:
    """Return at each of so many places the sum of the amounts that pass there.

    Args:
        starts: Triples: the first place, the first one that it no longer passes, the amount.
        count: How many places there are.

    >>> running([(0, 2, 5), (1, 3, 2)], 4)
    [5, 7, 2, 0]
    """
    changes = [0] * (count + 1)
    for start, stop, amount in starts:
        changes[start] += amount
        changes[stop] -= amount
    return list(accumulate(changes[:count]))
