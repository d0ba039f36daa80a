"""Which units `prune` removes: by number, or the least important ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import numpy as np

from keras_graft.edit.places import nodes_named
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node
from keras_graft.graph.select import is_exact, select
from keras_graft.printable import shown
from keras_graft.pruning.closure import Axis
from keras_graft.pruning.group import Group, group_of, no_source, reached
from keras_graft.pruning.network import Network


@dataclass(frozen=True)
class Wish:
    """One entry of what the user wants to remove.

    Attributes:
        selector: The selector, as it was given.
        much: A number of units, a fraction, or a tuple of channels.
        exact: Whether the selector names one thing: then it must be done, or is refused.
        nodes: The nodes.
    """

    selector: Any
    much: Any
    exact: bool
    nodes: tuple[Node, ...]


@dataclass
class Part:
    """The layers of one group that are asked for, with what is asked.

    Attributes:
        group: The group.
        wishes: Pairs: a wish, and the axis of a layer that it names.
    """

    group: Group
    wishes: list[tuple[Wish, Axis]] = field(default_factory=list)
    classes: np.ndarray = field(default_factory=lambda: np.zeros(0, "int64"))

    @property
    def exact(self) -> bool:
        """Whether one of the layers is named, and not only matched by a pattern."""
        return any(wish.exact for wish, _ in self.wishes)


def wishes(graph: Graph, given: Any, verb: str, check: Callable[[Any, Any], Any]) -> list[Wish]:
    """Return the entries of a dict of selectors, with their nodes."""
    if not isinstance(given, Mapping) or not given:
        raise EditError(
            f"{verb}: the second argument is a dict from selectors to numbers, such as "
            f'{{"conv1": 0.5}}, got {shown(given)}.'
        )
    found = []
    for selector, much in given.items():
        much = check(selector, much)
        nodes = {id(n.operation): n for n in nodes_named(graph, selector, verb)}
        exact = all(is_exact(graph, s) for s in _each(selector))
        found.append(Wish(selector, much, exact, tuple(nodes.values())))
    return found


def _each(selector: Any) -> Sequence[Any]:
    return selector if isinstance(selector, list | tuple) else [selector]


def much(selector: Any, given: Any) -> Any:
    """Return how much the user wants to remove: a count, a fraction, or a tuple of channels."""
    if isinstance(given, np.ndarray):
        given = given.tolist()
    whole = isinstance(given, Integral) and not isinstance(given, bool)
    if whole and int(given) > 0:
        return int(given)
    if isinstance(given, Real) and not isinstance(given, Integral) and 0 < float(given) < 1:
        return float(given)
    listed = list(given) if isinstance(given, list | tuple | range) else []
    if listed and all(isinstance(i, Integral) and not isinstance(i, bool) for i in listed):
        return tuple(int(i) for i in listed)
    raise EditError(
        f"prune: {shown(selector)}: expected the channels to remove ([0, 3]), how many (8), or a "
        f"fraction between 0 and 1 (0.5), got {shown(given)}."
    )


def parts(graph: Graph, asked: list[Wish], keep: Any, verb: str) -> tuple[Network, list[Part]]:
    """Return the network, and the groups that are asked for, each once.

    Layers in one group, or in groups that overlap, are one part.
    """
    kept = [] if keep is None else list(select(graph, keep).nodes)
    nodes = [node for wish in asked for node in wish.nodes]
    network, found = reached(graph, [*nodes, *kept])
    sources = dict(zip((id(n.operation) for n in [*nodes, *kept]), found, strict=True))
    pairs: list[tuple[Wish, Axis]] = []
    for wish in asked:
        axes = [(node, sources[id(node.operation)]) for node in wish.nodes]
        missing = [node for node, axis in axes if axis is None]
        if missing and (wish.exact or len(missing) == len(axes)):
            raise EditError(no_source(network, missing[0], verb))
        pairs += [(wish, axis) for _, axis in axes if axis is not None]
    return network, _parts(network, pairs, [axis for n in kept for axis in network.channels(n)])


def _parts(network: Network, pairs: list[tuple[Wish, Axis]], fixed: list[Axis]) -> list[Part]:
    closure = network.closure
    known = {axis: closure.classes(axis) for _, axis in pairs}
    size = max((int(c.max()) for c in known.values()), default=0) + 1
    of = np.full(size, -1, "int64")  # of each class, the number of its part
    above: list[int] = []
    for classes in known.values():
        numbers = {_top(above, int(n)) for n in np.unique(of[classes]) if n >= 0}
        if not numbers:
            above.append(len(above))
            numbers = {len(above) - 1}
        first = min(numbers)
        for number in numbers:
            above[number] = first
        of[classes] = first
    axes: dict[int, list[Axis]] = {}
    within: dict[int, tuple[Any, set[int]]] = {}
    for axis in closure.axes:
        classes = closure.classes(axis)
        if id(classes) not in within:  # most axes have the same classes as others
            numbers = of[classes[(classes >= 0) & (classes < size)]]
            own = np.unique(numbers[numbers >= 0]).tolist()
            within[id(classes)] = classes, {_top(above, n) for n in own}
        for number in within[id(classes)][1]:
            axes.setdefault(number, []).append(axis)
    held: dict[int, list[tuple[Wish, Axis]]] = {}
    for wish, axis in pairs:
        held.setdefault(_top(above, int(of[known[axis][0]])), []).append((wish, axis))
    stay = [closure.classes(axis) for axis in fixed]
    never = np.unique(np.concatenate(stay)) if stay else np.zeros(0, "int64")
    found = []
    for number, wanted in held.items():
        sources = list(dict.fromkeys(axis for _, axis in wanted))
        name = next(n.path for w, a in wanted for n in w.nodes if network.source(n) == a)
        group = group_of(network, name, sources, axes[number])
        row = np.concatenate([known[axis] for axis in sources])
        classes = row[np.sort(np.unique(row, return_index=True)[1])]
        for unit in np.flatnonzero(np.isin(classes, never)).tolist():
            group.protected.setdefault(unit, "keep= names a layer of it")
        found.append(Part(group, wanted, classes))
    return found


def _top(above: list[int], number: int) -> int:
    while above[number] != number:
        number = above[number]
    return number


def removed_by_number(network: Network, part: Part) -> np.ndarray | None:
    """Return the units that are removed by their channels' numbers; None if none are named.

    Raises:
        EditError: If a number is no channel, if channels that go together are not all named, or if
            two layers of one group name different ones.
    """
    named = [(w, axis) for w, axis in part.wishes if isinstance(w.much, tuple)]
    if not named:
        return None
    if len(named) < len(part.wishes):
        other = next(w for w, _ in part.wishes if not isinstance(w.much, tuple))
        raise EditError(
            f"prune: {shown(named[0][0].selector)} and {shown(other.selector)} are in one group, and "
            f"one names channels, the other how many. Give one of the two."
        )
    place = {int(c): i for i, c in enumerate(part.classes.tolist())}
    chosen: list[tuple[Wish, set[int], set[int]]] = []
    for wish, axis in named:
        of = np.array([place[c] for c in network.closure.classes(axis).tolist()])
        wrong = [i for i in wish.much if not -len(of) <= i < len(of)]
        if wrong:
            raise EditError(
                f"prune: {shown(wish.selector)} has {len(of)} channels, 0 to {len(of) - 1}, and no "
                f"channel {wrong[0]}."
            )
        gone = {i % len(of) for i in wish.much}
        units = set(of[sorted(gone)].tolist())
        together = set(np.flatnonzero(np.isin(of, list(units))).tolist())
        if together != gone:
            raise EditError(
                f"prune: {shown(wish.selector)}: channels {sorted(gone)} go together with "
                f"{sorted(together - gone)}. Name them all: {sorted(together)}."
            )
        chosen.append((wish, units, set(of.tolist())))
    wish, units, own = chosen[0]
    for other, theirs, known in chosen[1:]:
        if units & known != theirs & own:
            raise EditError(
                f"prune: {shown(wish.selector)} and {shown(other.selector)} are in one group, and name "
                f"different channels of it. Name the channels of one of the two."
            )
        units, own = units | theirs, own | known
    _check_free(part.group, units, wish)
    return np.array(sorted(units))


def _few(units: list[int]) -> str:
    return ", ".join(map(str, units[:8])) + (", ..." if len(units) > 8 else "")


def _check_free(group: Group, units: set[int], wish: Wish) -> None:
    held = [unit for unit in sorted(units) if unit in group.protected]
    if held:
        raise EditError(
            f"prune: {shown(wish.selector)}: its channels cannot be removed: "
            f"{group.protected[held[0]]}."
        )
    for own in group.alone:
        if units.issuperset(own.tolist()):
            raise EditError(
                f"prune: {shown(wish.selector)}: all {len(own)} units on one axis of the group of "
                f"{group.layer!r} would be gone. Leave one of them: {_few(own.tolist())}."
            )
