"""`Costing`: what each call of a graph costs, and what several calls cost together."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from keras_graft._keras import dtype_of
from keras_graft.costs.count import Counted, Counter
from keras_graft.costs.formula import Formula, Lost, Number, at_one
from keras_graft.costs.inside import fitted, opened
from keras_graft.costs.work import Dims
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Spec, Value
from keras_graft.graph.parameters import variable_behind
from keras_graft.graph.select import leaves
from keras_graft.graph.walk import needed
from keras_graft.look.numbers import Place, place_of
from keras_graft.look.sizes import named
from keras_graft.look.strides import Resolution, at_input, resolutions
from keras_graft.look.wiring import Wiring


@dataclass(frozen=True)
class Spent:
    """What calls cost together.

    Attributes:
        multiply_adds: The multiply-adds that are known; None if none is.
        operations: The other operations that are known; None if none is.
        padding: How many of the multiply-adds only multiply zeros of the padding.
        activation_bytes: The bytes of the values that the calls give; None if none is known.
        parameters: The parameters of the calls, each variable once.
        weight_bytes: The bytes of these variables.
        lower: Which of the numbers are lower bounds, as something is not known.
        why: By path, why something is not known.
    """

    multiply_adds: Number | None
    operations: Number | None
    padding: Number
    activation_bytes: Number | None
    parameters: int
    weight_bytes: int
    lower: frozenset[str] = frozenset()
    why: tuple[tuple[str, str], ...] = ()


class Costing:
    """What the calls of a graph cost.

    Args:
        graph: The graph. Lengths that it leaves open are those of its inputs: `length`, `height`.
        batch: How many samples.
    """

    def __init__(self, graph: Graph, batch: int = 1) -> None:
        inside = opened(fitted(graph), batch)
        self._lengths = _Lengths(inside)
        fixed = _batch_of(graph)
        starts = [
            _start(v.spec, batch, fixed, self._lengths, i) for i, v in enumerate(graph.inputs)
        ]
        counter = Counter(self._lengths.axes, starts, batch, fixed)
        self._given = counter.given
        self._under: dict[Place, list[Counted]] = {}
        for (scope, key), one in counter.count(inside).items():
            for depth, outer in enumerate((*scope, key)):
                self._under.setdefault((scope[:depth], outer), []).append(one)

    def of(self, nodes: Iterable[Node]) -> Spent:
        """Return what calls cost together; none of them may lie inside another one."""
        nodes = list(nodes)
        multiply_adds, operations, given = _Sum(), _Sum(), _Sum()
        padding: Any = 0
        why: dict[str, str] = {}
        for node in nodes:
            for one in self._under.get(place_of(node), ()):
                multiply_adds.add(one.work and one.work.multiply_adds)
                operations.add(one.work and one.work.operations)
                padding = padding + (one.work.padding if one.work else 0)
                if one.why:
                    why[one.path] = one.why
            for leaf in leaves([node]):
                size, reason = self._given[place_of(leaf)]
                given.add(size)
                if reason:
                    why.setdefault(leaf.path, reason)
        sums = {"multiply_adds": multiply_adds, "operations": operations, "activation_bytes": given}
        sizes = weights_in(nodes)
        return Spent(
            **{name: one.number for name, one in sums.items()}, padding=padding,
            parameters=sum(size for size, _ in sizes.values()),
            weight_bytes=sum(held for _, held in sizes.values()),
            lower=frozenset(name for name, one in sums.items() if one.lower),
            why=tuple(why.items()),
        )  # fmt: skip

    def multiply_adds(self, node: Node) -> int | None:
        """Return the multiply-adds of a call, each unknown length as one; None if not known."""
        found = [one.work for one in self._under.get(place_of(node), ())]
        if found and all(work is None for work in found):
            return None
        return sum(at_one(work.multiply_adds) for work in found if work is not None)


class Shares:
    """The share of the multiply-adds below each cut of a graph; counted when first asked for.

    Each unknown length counts as one, and what is not known as nothing.

    Args:
        graph: The graph.
        values: The cuts, each of which separates the next one from the inputs.
    """

    def __init__(self, graph: Graph, values: Sequence[Value]) -> None:
        self._graph, self._values = graph, tuple(values)

    def __getstate__(self) -> dict[str, Any]:
        # A copy of a report holds what was counted, and no graph.
        return {"_graph": None, "_values": (), "_below": self._below, "whole": self.whole}

    @functools.cached_property
    def costing(self) -> Costing:
        """What the calls of the graph cost."""
        return Costing(self._graph)

    @functools.cached_property
    def whole(self) -> Spent:
        """What the whole graph costs."""
        return self.costing.of(self._graph.nodes)

    @functools.cached_property
    def _below(self) -> list[float]:
        total = at_one(self.whole.multiply_adds or 0)
        found: list[float] = []
        below, before = 0, self._graph.inputs
        for value in self._values:
            nodes = needed(self._graph, (value,), before)
            below += sum(self.costing.multiply_adds(self._graph.node(n)) or 0 for n in nodes)
            before = (value,)
            found.append(below / total if total else 0.0)
        return found

    def below(self, number: int) -> float:
        """Return the share below a cut, by its number."""
        return self._below[number]


class _Sum:
    """A sum in which some numbers may not be known."""

    def __init__(self) -> None:
        self._known: Any = 0
        self._some, self.lower = False, False

    def add(self, number: Number | None) -> None:
        """Add a number; None: one that is not known."""
        if number is None:
            self.lower = True
        else:
            self._known, self._some = self._known + number, True

    @property
    def number(self) -> Any:
        """The sum of what is known; None if nothing is."""
        return None if self.lower and not self._some else self._known


def weights_in(nodes: Iterable[Node]) -> dict[int, tuple[int, int]]:
    """Return the size and the bytes of each variable of calls, by its identity."""
    found: dict[int, tuple[int, int]] = {}
    seen: set[int] = set()
    for node in nodes:
        if id(node.operation) in seen:
            continue
        seen.add(id(node.operation))
        for weight in getattr(node.operation, "weights", ()):
            variable = variable_behind(weight)
            size = math.prod(weight.shape)
            each = Spec((None, size), dtype_of(variable)).bytes_per_sample or 0
            found[id(variable)] = size, each
    return found


def _batch_of(graph: Graph) -> int | None:
    """Return the batch size that all inputs of a graph have; None if they leave it open."""
    sizes = {v.spec.shape[0] for v in graph.inputs if v.spec is not None and v.spec.shape}
    return sizes.pop() if len(sizes) == 1 else None


def _start(
    spec: Spec | None, batch: int, fixed: int | None, lengths: _Lengths, index: int
) -> Dims:  # fmt: skip
    if spec is None:
        return Dims((Lost("the shape of an input is not known"),))
    axes = lengths.of_input(index, spec)
    first = [batch if axes[0] in (None, fixed) else axes[0]] if axes else []
    return Dims([*first, *axes[1:]])


class _Lengths:
    """The lengths of values, as numbers or as formulas of those of the inputs."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._known: dict[Place, Resolution] | None = None

    def axes(self, place: Place, index: int, spec: Spec) -> Sequence[Any]:
        """Return the shape of an output of a call, the batch as in the spec."""
        if None not in spec.shape[1:]:
            return spec.shape
        if self._known is None:
            self._known = resolutions(Wiring(self._graph))
        return self._shape(spec, named(spec, self._known.get(place)))

    def of_input(self, index: int, spec: Spec) -> Sequence[Any]:
        """Return the shape of an input of the graph."""
        if None not in spec.shape[1:]:
            return spec.shape
        tokens = len(spec.shape) == 2  # a sequence of numbers
        wide = Spec((*spec.shape, 1)) if tokens else spec
        known = named(wide, at_input(wide, index))
        return self._shape(spec, known)

    def _shape(self, spec: Spec, names: Any) -> Sequence[Any]:
        found: list[Any] = [spec.shape[0]]
        for i, length in enumerate(spec.shape[1:], 1):
            if length is not None:
                found.append(length)
            elif names and i in names:
                name, stride = names[i]
                found.append(Formula.of(name) / stride)
            else:
                found.append(Lost(f"the length of axis {i} is not known: {_GIVE}"))
        return found


_GIVE = "say it with input_shape="
