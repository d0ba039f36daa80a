"""Addresses of weights: the path of the layer through the model's own layers, and a weight's name.

Keras's `variable.path` is not enough: it lacks the nested models around a layer, is not unique,
and keeps old names. An address is made from the layers as the model holds them now.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import keras
import numpy as np

from keras_graft import _keras
from keras_graft import ties as _ties
from keras_graft.layers.fixed_training import FixedTraining
from keras_graft.layers.frozen import Frozen
from keras_graft.layers.renamed import Renamed
from keras_graft.layers.weight import KeepWeights
from keras_graft.layers.weight import Weight as Weight_

_UNNAMED = "variable"
"""What Keras calls a variable without a name, before the number."""

T = TypeVar("T")


@dataclass(eq=False)
class Weight:
    """One weight of a model or a file.

    Attributes:
        address: `"encoder/attention/query/kernel"`. A second weight of the same address gets `#1`.
        name: Its name within the layer; a number in files that hold no names.
        shape: Its shape.
        dtype: Its dtype, as Keras names it.
        read: Returns its values as an array.
        layer: The layer that owns it; None in a file.
        variable: The variable; None in a file.
        path: Where a Keras file keeps it; None elsewhere.
        again: Whether a file holds it as one more copy of a weight that has a partner.
        merged: Whether its values include the LoRA adapters of its layer.
        converted: Whether its axes are in Keras's order although the file has another.
    """

    address: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray] = field(repr=False)
    layer: Any = None
    variable: Any = field(default=None, repr=False)
    path: str | None = None
    again: bool = False
    merged: bool = False
    converted: bool = False

    @property
    def size(self) -> int:
        """The number of its elements."""
        return int(np.prod(self.shape))

    @property
    def mode(self) -> str | None:
        """How its layer is quantized, None if it is not."""
        return getattr(self.layer, "quantization_mode", None)


@dataclass(eq=False)
class Group:
    """A layer, a model, or a group in a file: its own weights, and the groups inside.

    Attributes:
        name: The layer's name.
        layer: The layer; None in a file.
        automatic: The name that Keras gives to a layer of its class, before the number.
        keyed: Whether its weights have numbers as names, as in Keras files.
        named: Whether the name is the layer's; old files do not hold it.
        own: Its own weights.
        inside: The groups inside, except those without any weights.
        tied: Its tied weights, and those of the groups left out: (address, variable).
        format: The format that a file says it has; only on its outermost group.
    """

    name: str
    layer: Any = None
    automatic: str | None = None
    keyed: bool = False
    named: bool = True
    own: list[Weight] = field(default_factory=list)
    inside: list[Group] = field(default_factory=list)
    tied: list[tuple[str, Any]] = field(default_factory=list, repr=False)
    format: str | None = None

    def walk(self) -> Iterator[Group]:
        """Yield this group and all inside."""
        yield self
        for group in self.inside:
            yield from group.walk()

    def weights(self) -> list[Weight]:
        """Return all weights, each once, in order."""
        return list({id(w): w for group in self.walk() for w in group.own}.values())

    def ties(self) -> dict[str, str]:
        """Return the address of each tied weight, and of the weight that it is tied to."""
        known = {id(weight.variable): weight.address for weight in self.weights()}
        tied = [pair for group in self.walk() for pair in group.tied]
        return {address: known[id(v)] for address, v in tied if id(v) in known}


class Addresses:
    """Makes unique addresses."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def take(self, path: Iterable[str], name: str) -> str:
        """Return the address of a weight; a second weight of the same address gets a number."""
        address = "/".join([*path, name])
        number = self._taken[address] = self._taken.get(address, -1) + 1
        return f"{address}#{number}" if number else address


def groups(layer: Any) -> Group:
    """Return the groups of a built layer or model.

    A layer inside several appears several times in the result, with the same weights. A tied
    weight belongs to the layer that it is tied to, if that layer is here too.
    """
    weights: dict[int, Weight] = {}
    addresses = Addresses()
    owned = {id(v) for x in _keras.layers_inside(layer) for v in _own_proper(x)}

    def weight(variable: Any, owner: Any, path: tuple[str, ...]) -> Weight:
        found = weights.get(id(variable))
        if found is None:
            found = weights[id(variable)] = Weight(
                addresses.take(path, variable.name),
                variable.name,
                tuple(variable.shape),
                keras.backend.standardize_dtype(variable.dtype),
                lambda: np.array(keras.ops.convert_to_numpy(variable)),
                owner,
                variable,
            )
        return found

    def group(layer: Any, path: tuple[str, ...]) -> Group:
        name = layer.name
        while isinstance(layer, FixedTraining | Frozen | Renamed):
            layer = layer.layer  # the wrapper has this layer's variables, or views of them
        mine = {id(v) for v in _own_proper(layer)}
        own = [
            weight(v, layer, path)
            for v in _keras.own_weights(layer)
            if id(v) in mine or id(v) not in owned
        ]
        inside = layer.layers if isinstance(layer, keras.Model) else _keras.sublayers(layer)
        # A weight that code uses itself is one of the layer around it: "block_0/scale".
        bare = [x for x in inside if isinstance(x, Weight_ | KeepWeights)]
        own += [weight(v, x, path) for x in bare for v in _own_proper(x)]
        tied_bare = [("/".join([*path, x.name]), t.source) for x in bare for t in _ties.ties_of(x)]
        inside = [x for x in inside if not isinstance(x, Weight_ | KeepWeights)]
        below = [group(x, (*path, x.name)) for x in inside]
        tied = [("/".join([*path, tie.weight]), tie.source) for tie in _ties.ties_of(layer)]
        tied += tied_bare
        empty = [p for p in below if not p.own and not p.inside]
        tied += [tie for p in empty for tie in p.tied]
        below = [p for p in below if p not in empty]
        automatic = _keras.automatic_name(layer)
        return Group(name, layer, automatic, own=own, inside=below, tied=tied)

    return group(layer, ())


def _own_proper(layer: Any) -> list[Any]:
    tied = {id(tie.source) for tie in _ties.ties_of(layer)}
    return [v for v in _keras.own_weights(layer) if id(v) not in tied]


def paired(source: Group, target: Group) -> Iterator[tuple[Weight, Weight]]:
    """Yield (weight of the target, weight of the source) for each address that both have.

    Layers are matched level by level, by their names. Names that Keras gave (`conv2d_7`) depend on
    what was made before: see `_rows`. Layers of the same name are matched in order.
    """
    yield from _own(source, target)
    for mine, its in _children(source.inside, target.inside):
        yield from paired(mine, its)


def _own(source: Group, target: Group) -> Iterator[tuple[Weight, Weight]]:
    if source.keyed:
        yield from _by_key(source, target)
        return
    by_name: dict[str, list[Weight]] = defaultdict(list)
    for weight in source.own:
        by_name[weight.name].append(weight)
    for weight in target.own:
        if _number(weight.name, _UNNAMED) is None and by_name[weight.name]:
            yield weight, by_name[weight.name].pop(0)
    rows = (
        [(n, w) for w in group.own if (n := _number(w.name, _UNNAMED)) is not None]
        for group in (source, target)
    )
    yield from ((mine, its) for its, mine in _rows(*rows))


def _by_key(source: Group, target: Group) -> Iterator[tuple[Weight, Weight]]:
    """Pair the weights of a layer in a Keras file, which have numbers as names.

    If the counts differ, the numbers may mean different weights (a BatchNormalization without
    `scale`), unless the shapes tell the weights apart: a kernel and a bias.
    """
    store: dict[str, Any] = {}
    if target.own:
        target.layer.save_own_variables(store)
    mine = {id(w.variable): w for w in target.own}
    known = {id(value) for value in store.values()}
    for value in store.values():  # a file holds a kernel with LoRA as the merged values
        if id(value) not in mine:
            fits = [w for w in target.own if id(w.variable) not in known
                    and w.shape == tuple(value.shape) and not w.name.startswith("lora_")]  # fmt: skip
            if len(fits) == 1:
                mine[id(value)] = fits[0]
    if len(store) != len(source.own) and len({len(w.shape) for w in target.own}) < len(target.own):
        return
    found = [(mine.get(id(store.get(weight.name))), weight) for weight in source.own]
    unlike = [pair for pair in found if pair[0] and _whole(pair[0]) != _whole(pair[1])]
    # One side is quantized: the number of a scale there may be the number of a bias here.
    for its, weight in unlike or found:
        if its is not None:
            yield its, weight
        elif len(weight.shape) == 1 and getattr(target.layer, "bias", weight) is None:
            weight.address = weight.address.removesuffix(weight.name) + "bias"
            weight.name = "bias"  # the other weight that a layer of that class can have


def _whole(weight: Weight) -> bool:
    return not weight.dtype.startswith(("float", "bfloat"))


def _children(source: list[Group], target: list[Group]) -> Iterator[tuple[Group, Group]]:
    unclear = _unclear(source)
    rest = [p for p in source if p not in unclear]
    rows: dict[str, list[tuple[int, Group]]] = defaultdict(list)
    named: dict[str, list[Group]] = defaultdict(list)
    for group in target:
        base, number = _automatic(group)
        if base is None:
            named[group.name].append(group)
        else:
            rows[base].append((number, group))
    # A name that was given first: it may look like one that Keras gives to another class.
    for name, its in named.items():
        fits = [p for p in rest if p.name == name][: len(its)]
        rest = [p for p in rest if not any(p is one for one in fits)]
        yield from zip(fits, its, strict=False)
    for base, row in rows.items():
        own = [(n, p) for p in rest if (n := _number(p.name, base)) is not None]
        rest = [p for p in rest if _number(p.name, base) is None]
        yield from _rows(own, row)


def _unclear(among: list[Group]) -> list[Group]:
    """Return the groups of a file that names do not tell apart: a file holds no order."""
    names = Counter(p.name for p in among)
    return [p for p in among if not p.named or (p.keyed and names[p.name] > 1)]


def unclear(group: Group) -> list[Weight]:
    """Return the weights of a file in groups that no name identifies."""
    found = _unclear(group.inside)
    result = [w for p in found for w in p.weights()]
    return result + [w for p in group.inside if p not in found for w in unclear(p)]


def named_by_keras(group: Group) -> bool:
    """Whether Keras named a layer, so that the name depends on what was made before."""
    return group.layer is not None and _automatic(group)[0] is not None


def _automatic(group: Group) -> tuple[str | None, int]:
    """Return the base and the number of a name that Keras gave; (None, 0) for other names."""
    # Bidirectional names its two layers after the one it was given.
    for base in (group.automatic, f"forward_{group.automatic}", f"backward_{group.automatic}"):
        number = _number(group.name, str(base))
        if number is not None:
            return base, number
    return None, 0


def _number(name: str, base: str) -> int | None:
    match = re.fullmatch(re.escape(base) + r"(?:_([0-9]{1,18}))?", name)  # Keras counts no further
    return int(match.group(1) or 0) if match else None


def _rows(source: list[tuple[int, T]], target: list[tuple[int, T]]) -> Iterator[tuple[T, T]]:
    """Pair layers (or variables) of one automatic name, given with their numbers.

    - If both sides have the same count and no number in common, in order: a model made again.
    - Otherwise by name: the same model, a part of it, or an edited one. If a model made again has
      some numbers in common, weights are left over on both sides, so the mismatch is noticed.
    """
    source, target = (sorted(row, key=lambda x: x[0]) for row in (source, target))
    ours, theirs = [n for n, _ in source], [n for n, _ in target]
    if len(ours) == len(theirs) and not set(ours) & set(theirs):
        yield from ((s, t) for (_, s), (_, t) in zip(source, target, strict=True))
        return
    left = list(source)
    for number, its in target:
        for item in left:
            if item[0] == number:
                yield item[1], its
                left.remove(item)
                break
