"""`cuts`: the single values at which a model can be split, with sizes and parameter counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, TypeVar

from keras_graft import advice
from keras_graft.errors import SelectionError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import is_one_of
from keras_graft.graph.node import Spec, Value
from keras_graft.graph.parameters import weights_of
from keras_graft.graph.walk import needed
from keras_graft.look.costing import Shares
from keras_graft.look.sizes import Size, Sizes, sized
from keras_graft.model.verb import question
from keras_graft.printable import shown
from keras_graft.tables import Table, Tabular, counted

T = TypeVar("T")

MOST = 8
"""How many cuts are printed."""


@dataclass(frozen=True)
class Cut:
    """One value through which everything between inputs and outputs passes.

    Attributes:
        value: The value; a cut is itself a selector.
        bytes_per_sample: The size of one sample of the value; None where a length is unknown.
        parameters_below: Parameters on the input side.
        parameters_above: Parameters on the output side; a shared layer counts on both sides.
        size: The same size, with the names of the unknown lengths; its text is `"32 B x length"`.
        spec: Shape and dtype of the value; for the `input_shape` that was given.
        shares: Gives `compute_below`; counted when first asked for.
        number: Which of the cuts it is, in the order of the graph.
    """

    value: Value = field(repr=False)
    bytes_per_sample: int | None
    parameters_below: int
    parameters_above: int
    size: Size = field(repr=False)
    spec: Spec | None = field(repr=False)
    shares: Shares = field(repr=False, compare=False)
    number: int = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """The name that selects this cut."""
        return self.value.label

    @property
    def compute_below(self) -> float:
        """The share of the multiply-adds on the input side, of those that `kg.costs` knows."""
        return self.shares.below(self.number)

    def __repr__(self) -> str:
        return f"<Cut {self.name!r}: {self.spec}>"


class Cuts(Tabular, list[Cut]):
    """The cuts of a model; prints as a table of the smallest. As a list it has all of them.

    Attributes:
        most: How many are printed; None: all.
    """

    most: int | None = MOST

    def tables(self) -> list[Table]:
        """Return the smallest cuts as a table, one per line."""
        head = ("cut", "output", "bytes/sample", "params below", "params above", "compute below")
        lines, title = smallest(self, self.most)
        return [(title, head, [
            (
                c.name, c.spec or "?", str(c.size), c.parameters_below, c.parameters_above,
                f"{c.compute_below:.1%}",
            )
            for c in lines
        ])]  # fmt: skip

    def to_dict(self) -> list[dict[str, Any]]:
        """Return all cuts as plain data, ready for JSON."""
        return [
            {
                "name": c.name,
                "shape": list(c.spec.shape) if c.spec else None,
                "dtype": c.spec.dtype if c.spec else None,
                "bytes_per_sample": c.bytes_per_sample,
                "bytes": str(c.size),
                "parameters_below": c.parameters_below,
                "parameters_above": c.parameters_above,
                "compute_below": c.compute_below,
            }
            for c in self
        ]


def smallest(found: Sequence[Cut], most: int | None) -> tuple[list[Cut], str]:
    """Return the cuts to print, in their order, and a title that says how many there are."""
    if most is None or len(found) <= most:
        return list(
            found
        ), "" if found else "no cuts: no single value has everything pass through it"
    chosen = sorted(range(len(found)), key=lambda i: (found[i].size.rank, i))[:most]
    few = "one" if most == 1 else f"{most}"
    title = f"{counted(len(found), 'cut')}; the {few} with the smallest tensor (all: {advice.option('most', None)})"
    return [found[i] for i in sorted(chosen)], title


def printed(most: Any, verb: str, what: str = "cuts") -> int | None:
    """Return how many cuts, or rows, to print.

    Raises:
        SelectionError: If it is neither a whole number from 1 on nor None.
    """
    whole = isinstance(most, Integral) and not isinstance(most, bool)
    if most is not None and not (whole and int(most) > 0):
        raise SelectionError(
            f"{verb}: most= says how many {what} to print, 1 or more, or None for all; got "
            f"{shown(most)}."
        )
    return None if most is None else int(most)


def in_order(found: Sequence[T], sort: Any, size: Callable[[T], Size], verb: str) -> list[T]:
    """Return cuts in the order of the graph, or by size.

    Raises:
        SelectionError: If `sort` is another word.
    """
    if not is_one_of(sort, "graph", "bytes"):
        raise SelectionError(
            f'{verb}: sort= is "graph", for the order of the graph, or "bytes", for the smallest '
            f"first; got {shown(sort)}."
        )
    return list(found) if sort == "graph" else sorted(found, key=lambda item: size(item).rank)


@question
def cuts(
    graph: Graph,
    *,
    sort: str = "graph",
    most: int | None = MOST,
    input_shape: Any = None,
    dtype: str | None = None,
) -> Cuts:
    """Return all single values that everything from inputs to outputs passes through.

    "compute below" is the share of the multiply-adds of `kg.costs`, each unknown length as one.
    Where a length is unknown, the size is a formula: `32 B x length`, or, in terms of the input's
    height and width, `16 B x height x width`.

    Args:
        model: A Keras model or a `Graph`.
        sort: "graph": in the order of the graph. "bytes": the smallest tensor first.
        most: How many to print: those with the smallest tensor. None: all. The result, a list, has
            all of them in any case.
        input_shape: The shape of one sample of the inputs, without the batch, for a model that
            leaves lengths open: `(224, 224, 3)`; a dict by name for several.
        dtype: What floating values are kept as, such as "float16"; None: their own dtypes.
            `kg.features.advise` takes the same.

    Raises:
        SelectionError: If an argument is none of these, or the shape fits no input.
        BuildError: If a layer does not take that shape.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> h = keras.layers.Dense(3, name="h")(x)
    >>> print(kg.cuts(keras.Model(x, keras.layers.Dense(2, name="out")(h))))
    cut  output          bytes/sample  params below  params above  compute below
    h    (?, 3) float32          12 B            15             8          66.7%
    """
    most = printed(most, "cuts")
    known = sized(graph, input_shape, "cuts")
    sizes = Sizes(known, dtype, "cuts")
    crossed = _crossed(graph)
    shares = Shares(known, [value for value, _, _ in crossed])
    found = []
    for number, (value, below, above) in enumerate(crossed):
        here = known.value(value)
        size = sizes.of(here)
        cut = Cut(graph.value(value), size.bytes, below, above, size, here.spec, shares, number)
        found.append(cut)
    result = Cuts(in_order(found, sort, lambda cut: cut.size, "cuts"))
    result.most = most
    return result


def _crossed(graph: Graph) -> list[tuple[Value, int, int]]:
    """Return the cuts, each with the parameters below and above it, in the order of the graph."""
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
    result = []
    ends = {*graph.inputs, *graph.outputs, *(v for n in nodes for v, _ in n.unseen)}
    crossing = so_far = gone = 0
    for value, position in place.items():
        crossing += over[position]
        so_far += below[position]
        gone += above[position]
        if crossing == 0 and value not in ends:
            result.append((value, so_far, total - gone))
    return result
