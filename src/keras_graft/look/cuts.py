"""`cuts`: the single values at which a model can be split, with sizes and parameter counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Value
from keras_graft.graph.parameters import weights_of
from keras_graft.graph.walk import needed
from keras_graft.model.verb import question
from keras_graft.tables import Table, Tabular


@dataclass(frozen=True)
class Cut:
    """One value through which everything between inputs and outputs passes.

    Attributes:
        value: The value; a cut is itself a selector.
        bytes_per_sample: The size of one sample of the value; None where a dimension varies.
        parameters_below: Parameters on the input side.
        parameters_above: Parameters on the output side; a shared layer counts on both sides.
    """

    value: Value = field(repr=False)
    bytes_per_sample: int | None
    parameters_below: int
    parameters_above: int

    @property
    def name(self) -> str:
        """The name that selects this cut."""
        return self.value.label

    def __repr__(self) -> str:
        return f"<Cut {self.name!r}: {self.value.spec}>"


class Cuts(Tabular, list[Cut]):
    """The cuts of a model, in order; prints as a table."""

    def tables(self) -> list[Table]:
        """Return the cuts as a table, one per line."""
        head = ("cut", "output", "bytes/sample", "params below", "params above")
        return [("", head, [
            (c.name, c.value.spec, c.bytes_per_sample, c.parameters_below, c.parameters_above)
            for c in self
        ])]  # fmt: skip

    def to_dict(self) -> list[dict[str, Any]]:
        """Return the cuts as plain data, ready for JSON."""
        return [
            {
                "name": c.name,
                "shape": list(c.value.spec.shape) if c.value.spec else None,
                "dtype": c.value.spec.dtype if c.value.spec else None,
                "bytes_per_sample": c.bytes_per_sample,
                "parameters_below": c.parameters_below,
                "parameters_above": c.parameters_above,
            }
            for c in self
        ]


@question
def cuts(graph: Graph) -> Cuts:
    """Return all single values that everything from inputs to outputs passes through, in order.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> h = keras.layers.Dense(3, name="h")(x)
    >>> print(kg.cuts(keras.Model(x, keras.layers.Dense(2, name="out")(h))))
    cut  output          bytes/sample  params below  params above
    h    (?, 3) float32            12            15             8
    """
    nodes = needed(graph, graph.outputs)
    used = {v for n in nodes for v in n.reads} | set(graph.outputs)
    place: dict[Value, int] = {}
    for value in graph.inputs:
        if value in used:
            place[value] = len(place) + 1
    for node in nodes:
        for value in node.gives:
            if value in used and value not in place:
                place[value] = len(place) + 1
    end = len(place) + 1
    over = [0] * (end + 2)

    def edge(start: int, stop: int) -> None:
        if stop - start > 1:
            over[start + 1] += 1
            over[stop] -= 1

    for value in graph.inputs:
        if value in place:
            edge(0, place[value])
    for node in nodes:
        stops = [place[v] for v in node.gives if v in place]
        for value in node.reads:
            for stop in stops:
                edge(place[value], stop)
    for value in graph.outputs:
        edge(place[value], end)

    sizes: dict[int, int] = {}
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    weights: dict[int, dict[int, int]] = {}
    for node in nodes:
        at = min(place[v] for v in node.gives if v in place)
        own = weights.get(id(node.operation))
        if own is None:
            own = weights[id(node.operation)] = weights_of(node.operation)
        sizes.update(own)
        for key in own:
            first.setdefault(key, at)
            last[key] = at
    below = [0] * (end + 2)
    above = [0] * (end + 2)
    for key, size in sizes.items():
        below[first[key]] += size
        above[last[key]] += size
    total = sum(sizes.values())
    result = Cuts()
    ends = {*graph.inputs, *graph.outputs, *(v for n in nodes for v, _ in n.unseen)}
    crossing = so_far = gone = 0
    for value, position in place.items():
        crossing += over[position]
        so_far += below[position]
        gone += above[position]
        if crossing == 0 and value not in ends:
            bound = graph.value(value)
            size = bound.spec.bytes_per_sample if bound.spec else None
            result.append(Cut(bound, size, so_far, total - gone))
    return result
