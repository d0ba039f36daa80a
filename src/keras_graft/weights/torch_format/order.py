"""Match modules with layers by what can be seen: names, roles, shapes and the order of both.

An order is only believed where the kinds and shapes of the modules follow each other as those of
the layers do, and where only one way to put them together fits.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keras_graft.weights.torch_format.modules import Module
from keras_graft.weights.torch_format.search import Rules, tree_of, ways_of
from keras_graft.weights.torch_format.slot import Slot
from keras_graft.weights.torch_format.walks import Places


@dataclass
class Found:
    """Modules and slots that belong together.

    Attributes:
        pairs: The module of each slot that has one, and how it was found.
        doubts: Modules and slots of one shape each that may belong together in several ways.
        hints: A module on which it depends, and the slots that it may be.
    """

    pairs: dict[Slot, tuple[Module, str]] = field(default_factory=dict)
    doubts: list[tuple[list[Module], list[Slot]]] = field(default_factory=list)
    hints: list[tuple[Module, list[Slot]]] = field(default_factory=list)

    def update(self, more: Found) -> None:
        """Add what another search found."""
        self.pairs.update(more.pairs)
        self.doubts += more.doubts
        self.hints += more.hints

    def add(self, pairs: Mapping[Slot, Module], how: Callable[[Module], str]) -> None:
        """Add pairs, and how each was found."""
        self.pairs.update((slot, (module, how(module))) for slot, module in pairs.items())


class _Fits:
    """Which modules may be which slots; what is known already fits nothing else."""

    def __init__(
        self, modules: Sequence[Module], slots: Sequence[Slot], known: Mapping[Slot, Module]
    ) -> None:
        self._known = known
        self._named = set(known.values())
        self._heads: set[tuple[Module, Slot]] = set()
        self._taken: dict[tuple[Module, Slot], bool] = {}
        alike: dict[Any, list[Slot]] = defaultdict(list)
        for slot in slots:
            alike[_key(slot) if slot.main.tensors[0] != "bias" else None].append(slot)
        self._slots = {m: [s for s in alike[_key(m)] + alike[None] if self(m, s)] for m in modules}
        self._count = Counter(s for found in self._slots.values() for s in found)
        self._heads = self._of_new_sizes(modules, slots)

    def __call__(self, module: Module, slot: Slot) -> bool:
        if slot in self._known or module in self._named:
            return self._known.get(slot) is module
        key = module, slot
        if key not in self._taken:
            self._taken[key] = slot.takes(module)
        return self._taken[key] or key in self._heads

    def sole(self, module: Module) -> Slot | None:
        """Return the slot that takes a module, if both fit nothing else."""
        slots = self._slots[module]
        return slots[0] if len(slots) == 1 and self._count[slots[0]] == 1 else None

    def how(self, module: Module) -> str:
        """Return whether a module was found by its name, its shape, or its order among several."""
        if module in self._named:
            return "name"
        return "order" if self.sole(module) is None else "shape"

    def _of_new_sizes(
        self, modules: Sequence[Module], slots: Sequence[Slot]
    ) -> set[tuple[Module, Slot]]:
        """Return pairs of one kind whose sizes the other side does not have: a head of new classes."""
        ours = [m for m in modules if not self._slots[m]]
        theirs = [s for s in slots if not self._count[s]]
        if not 0 < len(ours) <= 4 or len(ours) != len(theirs):
            return set()
        return {
            (m, s) for m in ours for s in theirs
            if s.alike(m) and len(s.main.layout.torch) == len(m.main.shape)
        }  # fmt: skip


def in_order(
    modules: Sequence[Module],
    places: Places,
    ordered: bool,
    known: Mapping[Slot, Module] | None = None,
) -> Found:
    """Match modules and slots by their shapes, and equal ones by their order.

    Args:
        modules: The modules, in the order of the source.
        places: The slots.
        ordered: Whether the source tells in which order the modules were made.
        known: Those among them that are known to belong together, by their names.
    """
    found = Found()
    if not modules or not places.slots:
        return found
    fits = _Fits(modules, places.slots, known or {})
    whole = _whole(modules, places.orders, fits) if ordered else None
    ways: list[dict[Slot, Module]] = []
    for fixed in (True, False) if ordered else (False,):
        for follows in (places.follows, None):
            if whole is None:
                ways = ways_of(tree_of(modules), places.orders, Rules(fits, follows, fixed))
                whole = ways[0] if len(ways) == 1 else None
    if whole is not None:
        found.add(whole, fits.how)
        return found
    _by_class(modules, places.orders, fits, found)
    if found.doubts and ways:
        found.hints.append(_hint(ways))
    return found


def _hint(ways: list[dict[Slot, Module]]) -> tuple[Module, list[Slot]]:
    """Return a module that is another slot in each of two ways: one without numbers, if there is."""
    first, second = ({m: s for s, m in way.items()} for way in ways[:2])
    unlike = [m for m in first if first[m] is not second[m]]
    module = min(unlike, key=lambda m: (len(m.numbers), len(m.name)))
    return module, [first[module], second[module]]


def _whole(
    modules: Sequence[Module], orders: Sequence[Sequence[Slot]], fits: Any
) -> dict[Slot, Module] | None:
    """Pair all in the order of the source, if kinds and shapes are the same all along."""
    ways = []
    for order in orders:
        if len(order) == len(modules) and all(map(fits, modules, order)):
            ways.append(dict(zip(order, modules, strict=True)))
    return ways[0] if ways and all(way == ways[0] for way in ways) else None


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


def _by_class(
    modules: Sequence[Module], orders: Sequence[Sequence[Slot]], fits: _Fits, found: Found
) -> None:
    """Pair what fits nothing else, and of one shape and role what numbers in names order."""
    sole = {slot: m for m in modules if (slot := fits.sole(m)) is not None}
    partly = len(modules) != len(orders[0])

    def how(module: Module) -> str:
        way = fits.how(module)
        return "part" if partly and way == "shape" else way

    found.add(sole, how)
    modules = [m for m in modules if m not in sole.values()]
    orders = [[s for s in order if s not in sole] for order in orders]
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
        whole = len(own) == len(rows[0]) and all(map(lambda s, m: s.takes(m), rows[0], own))
        clear = len({m.template for m in own}) == 1 and all(row == rows[0] for row in rows)
        if whole and clear:
            found.add(dict(zip(rows[0], own, strict=True)), fits.how)
        elif any(s.takes(m) for s in rows[0] for m in own):
            found.doubts.append((own, list(rows[0])))
