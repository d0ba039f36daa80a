"""Which module is which layer, as a user says it: a dict, a file of it, or a function."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_graft.errors import WeightsError
from keras_graft.graph.names import listed, nearest
from keras_graft.printable import shown, words_of
from keras_graft.weights.torch_format.modules import Module, thirds
from keras_graft.weights.torch_format.order import Found, in_order
from keras_graft.weights.torch_format.slot import Slot
from keras_graft.weights.torch_format.walks import Places

UNKNOWN = "?"
"""What stands in a file of names for a layer that is not known."""
Names = Mapping[str, "str | None"] | Callable[[str], "str | None"] | str | os.PathLike[str]


def names_from(match: Any, modules: Sequence[Module]) -> dict[str, str | None]:
    """Return what a user gave as `match=`, as a dict of modules and addresses.

    Raises:
        WeightsError: If it is no dict of names, or the file or function does not give one.
    """
    if isinstance(match, os.PathLike) or (isinstance(match, str) and match.endswith(".json")):
        match = _loaded(Path(match))
    if callable(match) and not isinstance(match, Mapping):
        match = {module.name: called(match, module.name) for module in modules}
    if not isinstance(match, Mapping):
        raise WeightsError(
            f'transplant: match={shown(match)} is not "name", "order", a dict of the source\'s modules '
            "and the target's layers, the path of a .json file of it, or a function of a module's name."
        )
    for name, address in match.items():
        if not isinstance(name, str) or not isinstance(address, str | None):
            raise WeightsError(
                f"transplant: match= holds {shown(name)}: {shown(address)}, but must name modules and "
                'layers: match={"layer1.0.conv1": "block1_conv1"}, or None to leave a module out.'
            )
        if address == UNKNOWN:
            raise WeightsError(
                f"transplant: match= has no layer for {name!r} yet, only '?'. Write the address of a "
                "layer, or null (None in Python) to leave the module out."
            )
    return dict(match)


def _loaded(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"transplant: match= names the file {str(path)!r}, which cannot be read as JSON: "
            f"{words_of(error)}. kg.torch_names writes one: kg.torch_names(source, target).save(path)."
        ) from error


def called(match: Callable[[str], Any], name: str, verb: str = "transplant") -> Any:
    """Return what a user's function says of a name.

    Raises:
        WeightsError: If it raises.
    """
    try:
        return match(name)
    except Exception as error:
        what = "the name of a module, and must return the address of a layer"
        what = (
            what
            if verb == "transplant"
            else "the address of a layer, and must return a module's name"
        )
        raise WeightsError(
            f"{verb}: match= raised {type(error).__name__} for {name!r}: {words_of(error)}. It is called "
            f"with {what}, or None."
        ) from error


class Given:
    """The pairs that a user named.

    Attributes:
        found: The modules and slots that belong together.
        modules: The modules that are not named.
        left_out: The modules that are named as None.
        unmatched: Modules inside a named one for which no layer was found.
        places: The slots that are not named.

    Args:
        names: The dict.
        modules: All modules.
        places: All slots.
        ordered: Whether the order of the modules is known.
    """

    def __init__(
        self,
        names: Mapping[str, str | None],
        modules: Sequence[Module],
        places: Places,
        ordered: bool,
    ) -> None:
        self.found = Found()
        self.left_out: list[Module] = []
        self.unmatched: list[Module] = []
        self.modules = list(modules)
        self.places = places
        self._ordered = ordered
        self._all = list(modules), list(places.slots)
        for whole in (True, False):  # what names one module exactly comes first
            for name in sorted(names, key=lambda n: ("*" in n, -len(n))):
                for module, address in self._expanded(name, names[name], whole):
                    self._pair(name, module, address, whole)

    def _expanded(
        self, name: str, address: str | None, whole: bool
    ) -> Iterator[tuple[str, str | None]]:
        """Yield the modules that a name with globs stands for; all are known."""
        known = [m.name for m in self._all[0]]
        above = dict.fromkeys(
            ".".join(n.split(".")[:i]) for n in known for i in range(1, n.count(".") + 1)
        )
        if "*" not in name:
            if name not in known:
                name = name.removesuffix(".weight")  # a tensor that is one weight of a layer
            if name not in known and name not in above:
                near = nearest(name, [*known, *above])
                raise WeightsError(
                    f"transplant: match= names the module {name!r}, which the source does not have. "
                    f"Nearest: {listed(near or known)}."
                )
            if (name in known) == whole:
                yield name, address
            return
        pattern = re.compile("([^.]*)".join(map(re.escape, name.split("*"))))
        hits = [(n, m) for n in (*known, *above) if (m := pattern.fullmatch(n))]
        if not hits:
            raise WeightsError(f"transplant: match= names {name!r}, which matches no module.")
        for hit, match in hits:
            if (hit in known) == whole:
                yield hit, _filled(address, match.groups(), name)

    def _pair(self, name: str, module: str, address: str | None, whole: bool) -> None:
        own = [m for m in self.modules if m.name == module or m.name.startswith(f"{module}.")]
        if not own:
            return  # named more exactly by another entry
        if address is None:
            self.left_out += own
            self._take(own, [])
            return
        exact = [s for s in self._all[1] if s.owns(address)]
        prefix = exact or [s for s in self._all[1] if s.address.startswith(f"{address}/")]
        if not prefix:
            known = [s.address for s in self._all[1]]
            known += dict.fromkeys(a.rpartition("/")[0] for a in known if "/" in a)
            raise WeightsError(
                f"transplant: match= gives {name!r} the layer {address!r}, which the target does not "
                f"have, or which has no weights. Nearest: {listed(nearest(address, known) or known)}."
            )
        slots = [s for s in prefix if s in self.places.slots]
        if len(own) == 1 and len(slots) > 1:
            own = self._split(own[0])
        if len(prefix) == 1 and len(own) == 1:
            if not slots:
                raise WeightsError(
                    f"transplant: match= gives {address!r} to two modules; one is {own[0].name!r}."
                )
            self.found.pairs[slots[0]] = own[0], "given"
        else:
            self.found.update(in_order(own, self.places.of(slots), self._ordered))
            self.unmatched += own
        self._take(own, slots)

    def _split(self, module: Module) -> list[Module]:
        parts = thirds(module)
        if not parts:
            return [module]
        self._all[0].extend(parts)
        self.modules[self.modules.index(module) : self.modules.index(module) + 1] = parts
        return parts

    def _take(self, modules: Sequence[Module], slots: Sequence[Slot]) -> None:
        self.modules = [m for m in self.modules if m not in modules]
        self.places = self.places.without(slots)


def _filled(address: str | None, words: Sequence[str], name: str) -> str | None:
    if address is None or "*" not in address:
        return address
    parts = address.split("*")
    if len(parts) - 1 > len(words):
        raise WeightsError(
            f"transplant: match= gives {name!r} the layer {address!r}, which has more '*' than the name. "
            "Each '*' of a layer is replaced by what the '*' at its place in the name stands for."
        )
    return "".join(a + b for a, b in zip(parts, [*words[: len(parts) - 1], ""], strict=True))


def of_one_name(modules: Sequence[Module], slots: Sequence[Slot]) -> dict[Slot, Module]:
    """Pair modules and layers of one name, where dots stand for the slashes of an address.

    A name that Keras gave is believed only if all layers find a module of their name.
    """
    known = {f"{m.name}.weight": m for m in modules if list(m.tensors) == ["weight"]}
    known |= {m.name: m for m in modules}
    found = {s: known[s.module] for s in slots if s.module in known and s.takes(known[s.module])}
    if len(found) == len(slots):
        return found
    return {slot: module for slot, module in found.items() if not slot.automatic}
