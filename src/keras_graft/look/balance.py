"""`balance`: where to cut a model into stages of which the dearest is as cheap as possible."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from keras_graft import advice
from keras_graft.costs.formula import at_one
from keras_graft.errors import CutError, SelectionError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import is_one_of
from keras_graft.graph.node import Node, Value
from keras_graft.look.balance_report import WHAT, Balance, Balanced
from keras_graft.look.balancing import Piece, balanced
from keras_graft.look.costing import Costing, Spent, weights_in
from keras_graft.look.costs_report import Cost
from keras_graft.look.line import Line, running
from keras_graft.look.numbers import Place
from keras_graft.look.sizes import sized
from keras_graft.model.verb import question
from keras_graft.printable import shown

_NEEDS = {
    "flops": ("multiply_adds", "operations"), "bytes": ("activation_bytes",), "parameters": (),
}  # fmt: skip

_MOST = 10**9
"""More parts than this are as many: no graph has so many calls."""


@question
def balance(
    graph: Graph,
    parts: int,
    by: str = "flops",
    *,
    complete: bool = False,
    input_shape: Any = None,
) -> Balance:
    """Find the cuts that make the dearest of several stages as cheap as possible.

    Stages are runs of calls, in the order of the graph. No other cuts there make the dearest stage
    cheaper; among equal ones, the fewest bytes cross. Nested models are cut inside where that is
    better. `kg.split(model, parts=4)` makes these stages.

    Args:
        model: A Keras model or a `Graph`.
        parts: How many stages.
        by: What is balanced, as `kg.costs` counts it. "flops": two for each multiply-add, one for
            each other operation. "bytes": of weights, and of the values of one sample.
            "parameters". A weight that two stages use counts in both, and once within one.
        complete: Cut at any place, where several values cross. Otherwise only where a single value
            has everything pass through it, as `kg.cuts` lists; an output that is given early
            crosses all that come later.
        input_shape: The shape of one sample of the inputs, as for `kg.costs`, for a model that
            leaves lengths open. Without it, each unknown length counts as one.

    Returns:
        The boundaries, a list that `kg.split(model, at=...)` takes. It prints as a table of the
        stages: what each costs, what it hands on, which layers several stages use, and what is not
        known, which counts as nothing.

    Raises:
        SelectionError: If an argument is none of these, or the shape fits no input.
        CutError: If there are not as many places to cut.

    >>> import keras, keras_graft as kg
    >>> x = y = keras.Input((8,), name="x")
    >>> for i, units in enumerate((8, 8, 16, 16)):
    ...     y = keras.layers.Dense(units, name=f"d{i}")(y)
    >>> model = keras.Model(x, y, name="tiny")
    >>> print(kg.balance(model, 2))
    2 stages, balanced by flops (2 for each multiply-add, 1 for each other operation)
    the dearest is stage0, with 50.7% of the whole
    stage   calls  hands on  bytes  multiply-adds  operations  params  weights  values  share
    stage0      3  d2         64 B            256          32     288   1.2 kB   128 B  50.7%
    stage1      1                             256          16     272   1.1 kB    64 B  49.3%
    """
    if not is_one_of(by, *WHAT):
        raise SelectionError(
            f'balance: what is balanced is one of "flops", "bytes", "parameters"; got {shown(by)}.'
        )
    whole = isinstance(parts, Integral) and not isinstance(parts, bool)
    if not whole or int(parts) < 2:
        raise SelectionError(
            f"balance: parts= says how many stages to make, 2 or more; got {shown(parts)}."
        )
    parts = min(int(parts), _MOST)
    known = Line(sized(graph, input_shape, "balance"))
    costing = Costing(known.graph)
    places = known.places
    sizes = {end: _bytes(known.value(end)) for end in known.spans(dict.fromkeys(places, 0))}
    positions = known.spans({place: i for i, place in enumerate(places)})
    spans = [(start + 1, stop + 1, sizes[end]) for end, (start, stop) in positions.items()]
    crossing = running(spans, len(places) + 1)
    inputs = [(s, t, 1) for (p, _), (s, t) in positions.items() if p is None]
    passes = running([(start, stop, 1) for start, stop, _ in spans], len(places) + 1)
    given = running([(start + 1, stop + 1, 1) for start, stop, _ in inputs], len(places) + 1)
    single = [i for i in range(1, len(places)) if passes[i] == 1 and not given[i]]
    allowed = list(range(1, len(places))) if complete else single
    if len(allowed) < parts - 1:
        _refuse(graph, parts, len(allowed), len(places) - 1, complete)
    costs = {place: costing.of([known.node(place)]) for place in places}
    borders = [0, *allowed, len(places)]
    pieces = []
    for start, stop in zip(borders, borders[1:], strict=False):
        piece = Piece()
        for place in places[start:stop]:
            piece.add(_amount(costs[place], by), _held(known.node(place), by))
        pieces.append(piece)
    cuts = balanced(pieces, [crossing[i] for i in borders], parts)
    starts = [0, *(borders[cut] for cut in cuts), len(places)]
    stages = [places[i:j] for i, j in zip(starts, starts[1:], strict=False)]
    return _report(graph, known, stages, costing, by)


def _refuse(graph: Graph, parts: int, allowed: int, most: int, complete: bool) -> None:
    few = allowed + 1
    again: dict[str, Any] = {"complete": True} if complete else {}
    ways = [advice.call("split", parts=few, **again)] if few > 1 else []
    if not complete and most >= parts - 1:
        ways.append(advice.call("split", parts=parts, complete=True))
    many = "" if allowed == 1 else "s"
    what = f"call{many} to cut between" if complete else f"place{many} where a single value crosses"
    way = f" This works: {', or '.join(ways)}." if ways else ""
    raise CutError(
        f"{graph.name!r} has {allowed or 'no'} {what}, and {parts} stages need {parts - 1}.{way}"
    )


def _amount(spent: Spent, by: str) -> int:
    if by == "flops":
        return 2 * at_one(spent.multiply_adds or 0) + at_one(spent.operations or 0)
    return at_one(spent.activation_bytes or 0) if by == "bytes" else 0


def _held(node: Node, by: str) -> dict[int, int]:
    if by == "flops":
        return {}
    return {key: size[by == "bytes"] for key, size in weights_in([node]).items()}


def _bytes(value: Value) -> int:
    """Return the bytes of one sample, each unknown length as one."""
    if value.spec is None:
        return 0
    ones = tuple(1 if d is None else d for d in value.spec.shape[1:])
    return dataclasses.replace(value.spec, shape=(None, *ones)).bytes_per_sample or 0


def _report(
    graph: Graph, known: Line, stages: Sequence[Sequence[Place]], costing: Costing, by: str
) -> Balance:
    numbers = {place: i for i, stage in enumerate(stages) for place in stage}
    handed = [*known.crossing(numbers), ()]
    found = Balance(Line(graph).crossing(numbers))
    found.by = by
    spent = [costing.of([known.node(place) for place in stage]) for stage in stages]
    all_nodes = [known.node(place) for place in known.places]

    def amount(one: Spent, nodes: Sequence[Node]) -> int:
        held: dict[int, int] = {}
        for node in nodes:
            held |= _held(node, by)
        return _amount(one, by) + sum(held.values())

    whole = amount(costing.of(all_nodes), all_nodes)
    rows = []
    for i, (one, stage) in enumerate(zip(spent, stages, strict=True)):
        nodes = [known.node(place) for place in stage]
        total = amount(one, nodes)
        share = total / whole if whole else 0.0
        specs = "; ".join(str(value.spec or "?") for value in handed[i])
        cost = Cost(
            f"stage{i}", f"{len(nodes):,}", specs, one.multiply_adds, one.operations, one.padding,
            one.parameters, one.weight_bytes, one.activation_bytes, share, tuple(sorted(one.lower)),
        )  # fmt: skip
        paths = tuple(value.path for value in handed[i])
        rows.append(Balanced(cost, total, share, paths, sum(map(_bytes, handed[i]))))
    found.stages = tuple(rows)
    found.shared = _shared(known, stages)
    lower = {why for one in spent for why in one.why if one.lower & set(_NEEDS[by])}
    found.unknown = tuple(sorted(lower))
    return found


def _shared(known: Line, stages: Sequence[Sequence[Place]]) -> tuple[tuple[str, Any], ...]:
    """Return the layers with a weight that several stages use, with the numbers of these."""
    first: dict[int, str] = {}
    users: dict[int, dict[int, None]] = {}
    for i, stage in enumerate(stages):
        for node in map(known.node, stage):
            for key in weights_in([node]):
                first.setdefault(key, "/".join(n.name for n in (*node.scope, node)))
                users.setdefault(key, {})[i] = None
    found: dict[str, dict[int, None]] = {}
    for key, numbers in users.items():
        if len(numbers) > 1:
            found.setdefault(first[key], {}).update(numbers)
    return tuple((name, tuple(sorted(numbers))) for name, numbers in found.items())
