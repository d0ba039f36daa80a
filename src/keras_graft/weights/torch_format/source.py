"""A source of PyTorch weights for `transplant`: its weights in Keras's layouts, matched with layers."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from keras_graft.errors import WeightsError
from keras_graft.graph.names import listed
from keras_graft.printable import quoted
from keras_graft.tables import counted, table
from keras_graft.weights.address import Group, Weight
from keras_graft.weights.match import Pairs
from keras_graft.weights.report import ModulePair
from keras_graft.weights.rule_for import names as is_named
from keras_graft.weights.torch_format.modules import Module, modules_of, thirds
from keras_graft.weights.torch_format.names import Given, names_from, of_one_name
from keras_graft.weights.torch_format.order import in_order
from keras_graft.weights.torch_format.slot import Part, Slot
from keras_graft.weights.torch_format.slots import slots_of
from keras_graft.weights.torch_format.tensors import State, Tensor, state_of
from keras_graft.weights.torch_format.walks import flat_of, graph_of, places_of

WAYS = ("name", "order")


class TorchSource:
    """The tensors of a source, matched with the layers of a target.

    Attributes:
        label: What reports call the source.
        group: The source's weights: in Keras's layouts where they have a layer.
        ignored: The names of integers: counters and tables, which are not weights.
        tensors: All tensors of the source.
        slots: The places in the target that a module fits in.
        modules: The modules of the source.
        found: Which module belongs to which slot.
    """

    def __init__(self, state: State, into: Group, match: Any, keep: Sequence[str]) -> None:
        self.label = state.label
        self.tensors = state.tensors
        self.group = Group("")
        self.ignored = tuple(t.name for t in state.tensors if not t.is_float)
        self._into = into
        graph = graph_of(into.layer)
        slots = slots_of(into, flat_of(graph))
        self.slots = [s for s in slots if not all(_kept(keep, p.weight.address) for p in s.parts)]
        floats = [t for t in state.tensors if t.is_float]
        self._kept = [t for t in floats if _kept(keep, t.name)]
        modules = modules_of(t for t in floats if not _kept(keep, t.name))
        places = places_of(graph, self.slots)
        way = match if isinstance(match, str) and match in WAYS else None
        given = Given({} if way else names_from(match, modules), modules, places, state.ordered)
        self.found, rest, places = given.found, given.modules, given.places
        known = {} if way == "order" else of_one_name(rest, places.slots)
        rest = [part for m in rest for part in _apart(m, places.slots)]
        single = _without_twins(rest, places.slots, known.values())
        self.found.update(in_order(single, places, state.ordered, known))
        self.modules = [*(m for m, _ in self.found.pairs.values()), *given.unmatched, *rest]
        self.modules = list(dict.fromkeys(self.modules))
        self.ignored += tuple(t.name for m in given.left_out for t in m.tensors.values())

    def check(self) -> None:
        """Refuse a source of which the names and shapes do not tell what belongs where.

        Raises:
            WeightsError: If there are modules that may belong to several layers, or layers that PyTorch
                does not have.
        """
        for slot in self.slots:
            if slot.why:
                raise WeightsError(
                    f"transplant: {slot.address!r} ({slot.kind}) of the target computes what no module of "
                    f"PyTorch does: {slot.why}. Make the layer so that it does, or leave it out with "
                    f"keep={quoted(slot.address)}, and its module with match={{...: None}}."
                )
        doubts = self.found.doubts
        if not doubts:
            return
        count = sum(len(modules) for modules, _ in doubts)
        rows = [
            (
                module.name,
                module.main.shape,
                listed((s.address for s in slots if s.takes(module)), 4),
            )
            for modules, slots in doubts
            for module in modules
        ]
        module, slots = (self.found.hints or [(doubts[0][0][0], doubts[0][1][:2])])[0]
        one = f"match={{{quoted(module.name)}: {quoted(slots[0].address)}}}"
        other = f" or {quoted(slots[1].address)}" if len(slots) > 1 else ""
        raise WeightsError(
            f"transplant: {counted(count, 'module')} of {self.label} may each belong to several layers of "
            f"{self._into.name!r}, and no order is certain:\n"
            + table(("module", "shape", "may be one of"), rows[:20])
            + (f"\nand {len(rows) - 20} more" if len(rows) > 20 else "")
            + f"\nThe way out: say which is which, {one}{other}; one module may settle the others, and "
            "'*' stands for a number. Or write what was found to a file, correct it, and give it: "
            'kg.torch_names(source, target).save("names.json"), then match="names.json".'
        )

    def pairs(self) -> Pairs:
        """Return the source of each weight of the target, and fill `group` with all weights."""
        pairs: Pairs = {}
        used: dict[tuple[int, ...], list[Tensor]] = {}
        for slot, (module, _) in self.found.pairs.items():
            for part, names in slot.names(module):
                tensors = [module.tensors[name] for name in names]
                pairs[part.weight] = _converted(part, tensors)
                for tensor in tensors:
                    used.setdefault(tensor.shape, []).append(tensor)
        taken = {tensor.name for tensors in used.values() for tensor in tensors}
        rest = [t for m in self.modules for t in m.tensors.values() if t.name not in taken]
        self.group.own = list(pairs.values())
        for tensor in [*rest, *self._kept]:
            last = tensor.name.rpartition(".")[2]
            left = Weight(tensor.name, last, tensor.shape, tensor.dtype, tensor.read)
            left.again = any(_is_twin(tensor, other) for other in used.get(tensor.shape, ()))
            self.group.own.append(left)
        return pairs

    def rows(self) -> tuple[ModulePair, ...]:
        """Return which module became which layer, and how that was found, in the target's order."""
        place = {slot: i for i, slot in enumerate(self.slots)}
        pairs = sorted(self.found.pairs.items(), key=lambda pair: place[pair[0]])
        return tuple(ModulePair(self.name_of(m, s), s.address, how) for s, (m, how) in pairs)

    @staticmethod
    def name_of(module: Module, slot: Slot) -> str:
        """Return what reports call a module: for one weight of a layer, the name of the tensor."""
        return f"{module.name}.weight" if slot.parameter and not module.bare else module.name

    def twins(self) -> dict[str, str]:
        """Return the tensors without a layer that are the weight of another module too."""
        taken = [t for m, _ in self.found.pairs.values() for t in m.tensors.values()]
        names = {t.name for t in taken}
        left = [t for m in self.modules for t in m.tensors.values() if t.name not in names]
        return {t.name: o.name for t in left for o in taken if _is_twin(t, o)}


@contextlib.contextmanager
def torch_source(source: Any, into: Group, match: Any, keep: Any) -> Iterator[TorchSource]:
    """Yield a source matched with a target; nothing is copied.

    Raises:
        WeightsError: If the source cannot be read, or `match` is wrong.
    """
    globs = [keep] if isinstance(keep, str) else [g for g in keep or () if isinstance(g, str)]
    with state_of(source) as state:
        yield TorchSource(state, into, match, globs)


def _kept(globs: Sequence[str], address: str) -> bool:
    return any(is_named(glob, address) for glob in globs)


def _apart(module: Module, slots: Sequence[Slot]) -> list[Module]:
    """Return a module, or the parts of a fused projection that no layer takes whole."""
    whole = any(slot.takes(module) for slot in slots)
    return [module] if whole else thirds(module) or [module]


def _without_twins(
    modules: Sequence[Module], slots: Sequence[Slot], known: Collection[Module]
) -> list[Module]:
    """Leave out modules whose weight is that of another, where there are more modules than layers.

    A tied weight is in a file once for each of its modules. What is known already stays.
    """
    if len(modules) <= len(slots):
        return list(modules)
    result: dict[Module, None] = {}
    known = set(known)
    by_shape: dict[tuple[int, ...], list[Module]] = {}
    for module in modules:
        by_shape.setdefault(module.main.shape, []).append(module)
    places = {
        shape: sum(any(slot.takes(m) for m in alike) for slot in slots)
        for shape, alike in by_shape.items()
    }
    for module in modules:
        alike = by_shape[module.main.shape]
        earlier = [m for m in alike if m in result or m in known]
        spare = len(alike) > places[module.main.shape] and module not in known
        if spare and any(_is_twin(module.main, m.main) for m in earlier):
            continue
        result[module] = None
    return list(result)


def _is_twin(tensor: Tensor, other: Tensor) -> bool:
    """Whether two tensors are one weight of two modules: equal matrices that are not constant."""
    if tensor.shape != other.shape or tensor.dtype != other.dtype or tensor.digest is None:
        return False
    return tensor.digest == other.digest


def _converted(part: Part, tensors: list[Tensor]) -> Weight:
    """Return tensors as one weight in Keras's layout."""
    shapes = {part.layout.shape(tensor.shape) for tensor in tensors}
    shape = shapes.pop() if len(shapes) == 1 else None
    name, dtype = " + ".join(tensor.name for tensor in tensors), tensors[0].dtype
    if shape is None:  # of another number of axes: as it is
        first = tensors[0]
        return Weight(name, part.weight.name, first.shape, dtype, first.read, converted=True)
    if part.stacked:
        shape = (len(tensors), *shape)
    elif len(tensors) > 1:
        dtype = "float64" if dtype == "float64" else "float32"

    def read() -> np.ndarray:
        return part.to_keras([tensor.read() for tensor in tensors])

    return Weight(name, part.weight.name, shape, dtype, read, converted=True)
