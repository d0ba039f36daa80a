"""The stages that a function gives the calls of a graph, and the boundaries between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

from keras_graft.errors import CutError, SelectionError
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Value
from keras_graft.look.line import Line
from keras_graft.look.numbers import Place, place_of
from keras_graft.printable import shown, words_of


def labelled(graph: Graph, by: Callable[[Node], Any]) -> list[tuple[Value, ...]]:
    """Return the boundaries between the stages that a function gives the calls of a graph.

    Args:
        graph: The graph.
        by: Returns the stage of a call: a number, or another label. For a nested model, None means
            that it is asked for the calls inside; for another call, that this runs where the last
            value that it reads is computed.

    Raises:
        SelectionError: If it gives all calls the same stage, or a label that cannot be compared.
        CutError: If a stage needs a value of a later one; both calls are named.
    """
    line = Line(graph)
    given = _given(graph, by)
    stages = _numbers(line, given)
    return line.crossing(stages)


def _given(graph: Graph, by: Callable[[Node], Any]) -> dict[Place, Any]:
    """Return the label of each call, those inside nested models that none was given."""
    found: dict[Place, Any] = {}

    def ask(nodes: Sequence[Node], outer: Any) -> None:
        for node in nodes:
            label = _asked(by, node) if outer is None else outer
            if node.nested is None:
                found[place_of(node)] = label
            else:
                scope = (*node.scope, node)
                ask([n.within(node.nested, scope) for n in node.nested.steps], label)

    ask(graph.nodes, None)
    return found


def _asked(by: Callable[[Node], Any], node: Node) -> Any:
    try:
        return by(node)
    except Exception as error:
        raise SelectionError(
            f"split(by=...) raised {type(error).__name__} for {node.path!r}: {words_of(error)}"
        ) from error


def _numbers(line: Line, given: dict[Place, Any]) -> dict[Place, int]:
    """Return the number of the stage of each call."""
    labels = [given[place] for place in line.places if given[place] is not None]
    try:
        kinds = list(dict.fromkeys(labels))
    except TypeError as error:
        raise SelectionError(
            "split(by=...) gives a label that cannot be compared, "
            f"{shown(next(x for x in labels if not _hashable(x)))}: give a number or a text."
        ) from error
    if len(kinds) < 2:
        what = f"the stage {shown(kinds[0])}" if kinds else "no stage"
        raise SelectionError(
            f"split(by=...) gives all {len(line.places)} calls of {line.graph.name!r} {what}: "
            "it must give two or more."
        )
    numbered = all(isinstance(kind, Real) for kind in kinds)
    order = sorted(kinds) if numbered else _sorted(line, given, kinds)
    number = {kind: i for i, kind in enumerate(order)}
    stages: dict[Place, int] = {}
    for place in line.places:
        sources = [source for source, _ in line.reads(place) if source is not None]
        latest = max((stages[source] for source in sources), default=0)
        label = given[place]
        stages[place] = latest if label is None else number[label]
        if stages[place] < latest:
            source = next(s for s in sources if stages[s] == latest)
            _refuse(line, source, place, order[latest], label)
    return stages


def _refuse(line: Line, source: Place, place: Place, first: Any, then: Any) -> None:
    one, other = line.node(source).path, line.node(place).path
    raise CutError(
        f"split(by=...) puts {other!r} into stage {shown(then)}, and {one!r}, which it needs, into "
        f"stage {shown(first)}, which runs later. Put {other!r} into stage {shown(first)} too, or "
        f"{one!r} into an earlier one. None puts a call into the stage of what it reads."
    )


def _sorted(line: Line, given: dict[Place, Any], kinds: Sequence[Any]) -> list[Any]:
    """Return labels in an order in which their stages can run; of several, the first met first."""
    before: dict[Any, set[Any]] = {kind: set() for kind in kinds}
    label: dict[Place, Any] = {}
    for place in line.places:
        own = given[place]
        found = {label[s] for s, _ in line.reads(place) if s is not None} - {None}
        if own is None:  # it runs where the last of these does
            own = max(found, key=kinds.index, default=kinds[0])
        label[place] = own
        before[own] |= found - {own}
    order: list[Any] = []
    left = list(kinds)
    while left:
        ready = next((k for k in left if before[k].issubset(order)), left[0])
        order.append(ready)  # where none is, the check of each call finds why
        left.remove(ready)
    return order


def _hashable(thing: Any) -> bool:
    try:
        hash(thing)
    except TypeError:
        return False
    return True
