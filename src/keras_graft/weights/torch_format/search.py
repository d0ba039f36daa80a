"""Search for the orders of PyTorch's modules that fit the order of a model's layers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from keras_graft.weights.torch_format.modules import Module
from keras_graft.weights.torch_format.slot import Slot

_ORDINALS = {"before": "1", "after": "2", "first": "1", "second": "2"}
_MOST = 20_000
"""How many places of the search for an order are looked at before it is given up."""
_WAYS = 64
"""How many ways are looked at."""
_WIDEST = 300
"""The most modules beside each other in a search."""


class Tree:
    """The modules by the parts of their names; what stands beside each other has some order."""

    def __init__(self) -> None:
        self.module: Module | None = None
        self.inside: dict[str, Tree] = {}
        self.size = 0

    def add(self, module: Module, parts: list[str]) -> None:
        self.size += 1
        if not parts:
            self.module = module
            return
        self.inside.setdefault(parts[0], Tree()).add(module, parts[1:])

    def rows(self, fixed: bool) -> list[list[Tree]]:
        """Return the parts inside, in rows of a known order: of those that only a number tells apart.

        With `fixed` it is known of all modules. A module's parameters come before all modules in it,
        whatever they are used for: their place says nothing.
        """
        rows: dict[str, list[tuple[Any, Tree]]] = defaultdict(list)
        for place, (name, inner) in enumerate(self.inside.items()):
            if fixed:
                bare = inner.module is not None and inner.module.bare
                rows[name if bare else ""].append((place, inner))
                continue
            name = "".join(_ORDINALS.get(word, word) for word in re.split("([a-z]+)", name))
            numbers = tuple(int(n[:18]) for n in re.findall("[0-9]+", name))
            rows[re.sub("[0-9]+", "#", name)].append((numbers, inner))
        found = [[x for _, x in sorted(row, key=lambda x: x[0])] for row in rows.values()]
        if self.module is not None:
            own = Tree()
            own.module, own.size = self.module, 1
            found.append([own])
        return found


@dataclass(frozen=True)
class Rules:
    """What an order of modules must keep to.

    Attributes:
        fits: Whether a module may be a slot.
        follows: Whether a slot may come behind another one. With it, the layer of `conv2` must need
            what that of `conv1` gives.
        fixed: Whether modules stay in the order of the source. Otherwise only those that a number
            tells apart do.
    """

    fits: Callable[[Module, Slot], bool]
    follows: Callable[[Slot, Slot], bool] | None
    fixed: bool


def tree_of(modules: Sequence[Module]) -> Tree:
    root = Tree()
    for module in modules:
        root.add(module, re.split(r"[./]", module.name))
    return root


def ways_of(root: Tree, orders: Sequence[Sequence[Slot]], rules: Rules) -> list[dict[Slot, Module]]:
    """Return ways to pair all modules with all slots; several if that is not clear.

    Modules whose names begin alike follow each other. If blocks of the same parts have the same
    order in one way alone, it is that one.
    """
    ways: list[dict[Slot, Module]] = []
    regular: list[dict[Slot, Module]] = []
    for order in orders:
        if len(order) != root.size:
            continue
        try:
            found = _Search(order, rules).ways(root, 0)
        except (_TooManyError, RecursionError):
            return []
        for way in found:
            row = list(_flat(way))
            pairs = dict(zip(order, row, strict=True))
            if pairs not in ways:
                ways.append(pairs)
                if len(found) < _WAYS and _is_regular(row):
                    regular.append(pairs)
    return regular if len(regular) == 1 else ways


def _is_regular(row: Sequence[Module]) -> bool:
    """Whether blocks of the same parts have them in the same order."""
    inside: dict[str, dict[str, None]] = defaultdict(dict)
    for module in row:
        parts = module.name.split(".")
        for i, part in enumerate(parts):
            inside[".".join(parts[:i])][part] = None
    orders: dict[Any, tuple[str, ...]] = {}
    for block, parts in inside.items():
        key = re.sub("[0-9]+", "#", block), frozenset(parts)
        if orders.setdefault(key, tuple(parts)) != tuple(parts):
            return False
    return True


class _TooManyError(Exception):
    """The search takes too long."""


class _Search:
    """Orders of a tree that fit a row of slots: all, or as many as are looked at.

    A way is a module, or a pair of ways of which one follows the other; () if there is nothing.
    """

    def __init__(self, slots: Sequence[Slot], rules: Rules) -> None:
        self._slots = slots
        self._rules = rules
        self._rows: dict[int, list[list[Tree]]] = {}
        self._known: dict[Any, list[Any]] = {}

    def ways(self, tree: Tree, start: int) -> list[Any]:
        """Return ways to put a tree at a place of the row."""
        if tree.module is not None and not tree.inside:
            return [tree.module] if self._rules.fits(tree.module, self._slots[start]) else []
        rows = self._rows.setdefault(id(tree), tree.rows(self._rules.fixed))
        if max(map(len, rows)) > _WIDEST:
            raise _TooManyError
        return self._rest(id(tree), (0,) * len(rows), (-1,) * len(rows), start)

    def _rest(
        self, key: int, taken: tuple[int, ...], last: tuple[int, ...], start: int
    ) -> list[Any]:
        """Return ways to put what is left of a tree, after so many trees of each row.

        `last` is the place of the last module of each row, -1 if that was no module.
        """
        state = key, taken, last, start
        if state in self._known:
            return self._known[state]
        if len(self._known) > _MOST:
            raise _TooManyError
        found: list[Any] = []
        rows = self._rows[key]
        heads = [i for i, row in enumerate(rows) if taken[i] < len(row)]
        for i in heads:
            tree = rows[i][taken[i]]
            follows = self._rules.follows if tree.size == 1 else None
            if follows and last[i] >= 0 and not follows(self._slots[start], self._slots[last[i]]):
                continue
            firsts = self.ways(tree, start)
            if firsts:
                after = (*taken[:i], taken[i] + 1, *taken[i + 1 :])
                place = (*last[:i], start if follows else -1, *last[i + 1 :])
                rests = self._rest(key, after, place, start + tree.size)
                found += [(first, rest) for first in firsts for rest in rests]
        result = self._known[state] = found[:_WAYS] if heads else [()]
        return result


def _flat(way: Any) -> Iterator[Module]:
    waiting = [way]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Module):
            yield item
        else:
            waiting += reversed(item)
