"""Match modules with layers by what can be seen: names, roles, shapes and the order of both.

An order is only believed where the kinds and shapes of the modules follow each other as those of
the layers do, and where only one way to put them together fits.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from keras_graft.weights.torch_format.modules import Module
from keras_graft.weights.torch_format.slots import Slot

_MOST = 20_000
"""How many places of the search for an order are looked at before it is given up."""
_WIDEST = 300
"""The most modules beside each other in a search."""

Orders = Sequence[Sequence[Slot]]


@dataclass
class Found:
    """Modules and slots that belong together.

    Attributes:
        pairs: The module of each slot that has one, and how it was found.
        doubts: Modules and slots of one shape each that may belong together in several ways.
    """

    pairs: dict[Slot, tuple[Module, str]] = field(default_factory=dict)
    doubts: list[tuple[list[Module], list[Slot]]] = field(default_factory=list)

    def update(self, more: Found) -> None:
        """Add what another search found."""
        self.pairs.update(more.pairs)
        self.doubts += more.doubts

    def add(self, pairs: dict[Slot, Module], how: str | None = None) -> None:
        """Add pairs; without `how`, those of a shape of their own are found by it."""
        count: dict[Any, int] = defaultdict(int)
        for module in pairs.values():
            count[_key(module)] += 1
        for slot, module in pairs.items():
            self.pairs[slot] = module, how or ("shape" if count[_key(module)] == 1 else "order")


def in_order(modules: Sequence[Module], orders: Orders, ordered: bool) -> Found:
    """Match modules and slots by their shapes, and equal ones by their order.

    Args:
        modules: The modules, in the order of the source.
        orders: Orders in which the slots may be meant.
        ordered: Whether the source tells in which order the modules were made.
    """
    found = Found()
    if not modules or not orders[0]:
        return found
    orphans = _orphans(modules, orders[0])

    def fits(module: Module, slot: Slot) -> bool:
        return slot.takes(module) or (module, slot) in orphans

    whole = _whole(modules, orders, fits) if ordered else None
    if whole is None:
        whole = _searched(modules, orders, fits)
    if whole is not None:
        found.add(whole)
        return found
    _by_class(modules, orders, found)
    return found


def _whole(modules: Sequence[Module], orders: Orders, fits: Any) -> dict[Slot, Module] | None:
    """Pair all in the order of the source, if kinds and shapes are the same all along."""
    ways = []
    for order in orders:
        if len(order) == len(modules) and all(map(fits, modules, order)):
            ways.append(dict(zip(order, modules, strict=True)))
    return ways[0] if ways and all(way == ways[0] for way in ways) else None


def _orphans(modules: Sequence[Module], slots: Sequence[Slot]) -> set[tuple[Module, Slot]]:
    """Return pairs of one kind, of sizes that the other side does not have: a head with new classes."""
    ours = [m for m in modules if not any(s.takes(m) for s in slots)]
    theirs = [s for s in slots if not any(s.takes(m) for m in modules)]
    if not 0 < len(ours) <= 4 or len(ours) != len(theirs):
        return set()
    return {
        (m, s) for m in ours for s in theirs
        if s.alike(m) and len(s.main.layout.torch) == len(m.main.shape)
    }  # fmt: skip


class _Tree:
    """The modules by the parts of their names; what stands beside each other has some order."""

    def __init__(self) -> None:
        self.module: Module | None = None
        self.inside: dict[str, _Tree] = {}
        self.size = 0

    def add(self, module: Module, parts: list[str]) -> None:
        self.size += 1
        if not parts:
            self.module = module
            return
        self.inside.setdefault(parts[0], _Tree()).add(module, parts[1:])

    def rows(self) -> list[list[_Tree]]:
        """Return the parts inside; of those that only a number tells apart the order is known."""
        rows: dict[str, list[tuple[Any, _Tree]]] = defaultdict(list)
        for name, inner in self.inside.items():
            numbers = tuple(int(n[:18]) for n in re.findall("[0-9]+", name))
            rows[re.sub("[0-9]+", "#", name)].append((numbers, inner))
        found = [[x for _, x in sorted(row, key=lambda x: x[0])] for row in rows.values()]
        if self.module is not None:
            own = _Tree()
            own.module, own.size = self.module, 1
            found.append([own])
        return found


def _searched(modules: Sequence[Module], orders: Orders, fits: Any) -> dict[Slot, Module] | None:
    """Pair all in an order that the names allow, if only one fits.

    Modules whose names begin alike follow each other, and `conv1` comes before `conv2`.
    """
    root = _Tree()
    for module in modules:
        root.add(module, re.split(r"[./]", module.name))
    ways: list[dict[Slot, Module]] = []
    for order in orders:
        if len(order) != len(modules):
            continue
        try:
            for way in _Search(order, fits).ways(root, 0):
                found = dict(zip(order, _flat(way), strict=True))
                if found not in ways:
                    ways.append(found)
        except (_TooManyError, RecursionError):
            return None
    return ways[0] if len(ways) == 1 else None


class _TooManyError(Exception):
    """The search takes too long."""


class _Search:
    """All orders of a tree that fit a row of slots; at most two, as two are too many.

    A way is a module, or a pair of ways of which one follows the other; () if there is nothing.
    """

    def __init__(self, slots: Sequence[Slot], fits: Any) -> None:
        self._slots = slots
        self._fits = fits
        self._known: dict[Any, list[Any]] = {}

    def ways(self, tree: _Tree, start: int) -> list[Any]:
        """Return ways to put a tree at a place of the row."""
        rows = tree.rows()
        if tree.module is not None and not tree.inside:
            return [tree.module] if self._fits(tree.module, self._slots[start]) else []
        if max(map(len, rows)) > _WIDEST:
            raise _TooManyError
        return self._rest(id(tree), rows, (0,) * len(rows), start)

    def _rest(self, key: int, rows: Any, places: tuple[int, ...], start: int) -> list[Any]:
        known = self._known.get((key, places, start))
        if known is not None:
            return known
        if len(self._known) > _MOST:
            raise _TooManyError
        found: list[Any] = []
        heads = [i for i, row in enumerate(rows) if places[i] < len(row)]
        for i in heads:
            tree = rows[i][places[i]]
            after = (*places[:i], places[i] + 1, *places[i + 1 :])
            firsts = self.ways(tree, start)
            rests = self._rest(key, rows, after, start + tree.size) if firsts else []
            found += [(first, rest) for first in firsts for rest in rests]
        result = found[:2] if heads else [()]
        self._known[key, places, start] = result
        return result


def _flat(way: Any) -> Iterator[Module]:
    waiting = [way]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Module):
            yield item
        else:
            waiting += reversed(item)


def _key(item: Module | Slot, roles: frozenset[str | None] = frozenset()) -> Any:
    """Return what is equal for a module and the slots that may take it."""
    if isinstance(item, Module):
        shape, statistics = item.main.shape, "running_mean" in item.tensors
        recurrent = "weight_ih" in item.tensors
    else:
        shape, statistics = item.main.layout.torch, "running_mean" in item.allowed
        recurrent = "weight_ih" in item.allowed
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape, statistics, recurrent, item.role if item.role in roles else None


def _by_class(modules: Sequence[Module], orders: Orders, found: Found) -> None:
    """Pair those of one shape and role if it is the only one, or if numbers in names order them."""
    roles = frozenset(m.role for m in modules) & {s.role for s in orders[0]}
    its: dict[Any, list[Module]] = defaultdict(list)
    for module in modules:
        its[_key(module, roles)].append(module)
    mine: dict[Any, list[list[Slot]]] = defaultdict(lambda: [[] for _ in orders])
    for i, order in enumerate(orders):
        for slot in order:
            mine[_key(slot, roles)][i].append(slot)
    for key, own in its.items():
        if key not in mine:
            continue
        rows, own = mine[key], sorted(own, key=lambda m: m.numbers)
        fits = len(own) == len(rows[0]) and all(map(lambda s, m: s.takes(m), rows[0], own))
        clear = len({m.template for m in own}) == 1 and all(row == rows[0] for row in rows)
        if fits and clear:
            found.add(dict(zip(rows[0], own, strict=True)))
        elif any(s.takes(m) for s in rows[0] for m in own):
            found.doubts.append((own, list(rows[0])))
