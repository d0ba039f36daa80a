"""The verb `widen`: more channels, units and heads, with the same outputs (Net2Net)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from keras_graft import advice
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.model.verb import verb
from keras_graft.printable import shown
from keras_graft.pruning.call import variable_behind_views
from keras_graft.pruning.choose import Part, parts, wishes
from keras_graft.pruning.closure import Axis
from keras_graft.pruning.equal import check_equal
from keras_graft.pruning.network import Network
from keras_graft.pruning.prune import made_of


@verb
def widen(
    graph: Graph, widths: Any, noise: float = 0.0, seed: int | None = None, check: bool = True
) -> Graph:
    """Give layers more channels, and all that depends on them, with the same outputs.

    The inverse of `prune`: units of a group are repeated, and the layers that sum over a unit divide
    its weights by how often it is there (Chen et al., "Net2Net: Accelerating Learning via Knowledge
    Transfer", 2016, arXiv:1511.05641). Outputs are equal within float tolerance, in inference mode.
    What mixes channels, such as the mean of a `LayerNormalization`, stays what it was only if every
    channel is repeated as often: other widths are refused there. Repeated units train alike, as
    long as nothing breaks the symmetry: `noise`, or a `Dropout` behind them.

    Args:
        model: A Keras model or a `Graph`.
        widths: A dict from selectors of layers to a width (channels, units or heads: a whole number),
            or to a factor (a float of 1.0 or more). A pattern skips what cannot be widened.
        noise: Standard deviation of what is added to the weights that compute a repeated unit, as a
            share of that of the weight. With noise, outputs are not equal.
        seed: For which units are repeated, and for the noise. None: the first ones are repeated.
        check: Whether both networks run on random numbers, and the result is refused if their
            outputs differ. Not done with noise.

    Raises:
        EditError: If a layer that is named cannot be widened (the message says why), or not to this
            width; if outputs would differ.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> y = keras.layers.Dense(8, name="a", activation="relu")(x)
    >>> model = keras.Model(x, keras.layers.Dense(2, name="b")(y))
    >>> wide = kg.widen(model, {"a": 12})
    >>> wide.get_layer("a").units, kg.widen(model, {"a": 2.0}).get_layer("a").units
    (12, 16)
    """
    if isinstance(noise, bool) or not isinstance(noise, Real) or not 0 <= noise < 1e9:
        raise EditError(f"widen: noise= must be a number of 0 or more, got {shown(noise)}.")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0):
        raise EditError(f"widen: seed= must be an integer from 0 on, got {shown(seed)}.")
    if not isinstance(check, bool):
        raise EditError(f"widen: check= must be True or False, got {shown(check)}.")
    asked = wishes(graph, widths, "widen", _much)
    network, found = parts(graph, asked, None, "widen")
    generator = np.random.default_rng(seed)
    order = np.arange if seed is None else generator.permutation
    whole = [(part, _counts(network, part, order)) for part in found]
    wider = [(part, counts) for part, counts in whole if counts is not None]
    if not wider:
        group = found[0].group
        why = next(iter(group.protected.values()), "it has no units")
        raise EditError(f"widen: nothing that is selected can be widened. {group.layer!r}: {why}.")
    repeats = _Repeats(network, wider, float(noise), generator)
    new = made_of(network, graph, repeats.positions, "widen", repeats.scaled)
    if check and not noise:
        changes = [_said(*one) for one in wider if one[0].group.changes]
        check_equal(graph, new, changes, repeats.scaled)
    return new


def _much(selector: Any, given: Any) -> Any:
    """Return the width or the factor that the user wants."""
    whole = isinstance(given, Integral) and not isinstance(given, bool) and 0 < int(given) < 2**31
    if whole or (isinstance(given, float | np.floating) and 1 <= float(given) < np.inf):
        return int(given) if whole else float(given)
    raise EditError(
        f"widen: {shown(selector)}: expected a width (64), or a factor of 1.0 or more (1.5), got "
        f"{shown(given)}."
    )


def _counts(network: Network, part: Part, order: Any) -> np.ndarray | None:
    """Return how often each class of positions is there afterwards; None if the part is skipped."""
    group, (wish, axis) = part.group, part.wishes[0]
    free = np.array(group.free, "int64")
    if not len(free):
        if not part.exact:
            return None
        why = next(iter(group.protected.values()))
        raise EditError(f"widen: {shown(wish.selector)} cannot be widened: {why}.")
    given = {w.much for w, _ in part.wishes}
    if len(given) > 1:
        raise EditError(
            f"widen: {group.layer!r} and what is coupled with it should have the widths "
            f"{sorted(map(str, given))}. Give the same for all layers of one group, or only one."
        )
    much = wish.much
    of = network.closure.classes(axis)
    mine = np.flatnonzero(np.isin(part.classes, of))
    every = all(np.isin(part.classes, network.closure.classes(a)).all() for _, a in part.wishes)
    if isinstance(much, int) and not every:
        raise EditError(
            f"widen: {shown(wish.selector)} selects layers that share a part of their channels. Name "
            "one of them, or give a factor."
        )
    if isinstance(much, float):
        total, mine = round(much * group.count), np.arange(group.count)
    else:
        size = axis.size // max(len(mine), 1)
        total = much // size
        if much % size or total < len(mine):
            near = f"a multiple of {size}" if much % size else f"{axis.size} or more"
            raise EditError(
                f"widen: {shown(wish.selector)}: width {much}, and {group.layer!r} has {axis.size} "
                f"channels in {len(mine)} units: give {near}. {advice.call('prune')} makes less."
            )
    counts = np.ones(group.count, "int64")
    extra = total - len(mine)
    able = np.intersect1d(mine, free)
    able = able[order(len(able))]
    counts[able] += extra // len(able)
    counts[able[: extra % len(able)]] += 1
    found = np.ones(int(part.classes.max()) + 1, "int64")
    found[part.classes] = counts
    return found


def _said(part: Part, counts: np.ndarray) -> str:
    group = part.group
    changes = "; ".join(group.changes)
    if len(set(counts[part.classes].tolist())) == 1:
        return changes
    twice = advice.option("widths", {group.layer: 2.0})
    return f"{changes}: repeat every unit of {group.layer!r} as often, {twice}"


@dataclass
class _Repeats:
    """Which positions each axis has afterwards, and what becomes of the weights."""

    network: Network
    wider: Sequence[tuple[Part, np.ndarray]]
    noise: float
    generator: np.random.Generator

    def __post_init__(self) -> None:
        size = max(len(counts) for _, counts in self.wider)
        self._counts = np.ones(size + 1, "int64")  # the last one is for what no unit has
        self._reading: dict[int, list[int]] = {}
        self._giving: dict[int, list[int]] = {}
        for part, counts in self.wider:
            self._counts[: len(counts)] = np.maximum(self._counts[: len(counts)], counts)
            for member in part.group.members:
                key = id(variable_behind_views(member.variable))
                axis = Axis(("weight", key), member.axis, member.shape[member.axis])
                calls = self.network.calls_of(axis)
                if any(axis in call.scaling for call in calls):
                    continue
                inside = any(axis in call.summed for call in calls)
                axes = self._giving if member.gives and not inside else self._reading
                axes.setdefault(key, []).append(member.axis)

    def _times(self, axis: Axis) -> np.ndarray:
        of = self.network.closure.classes(axis)
        return self._counts[np.where((of < 0) | (of >= len(self._counts)), -1, of)]

    def positions(self, axis: Axis) -> np.ndarray:
        """Return the old position of each new one: rows of one unit are repeated as a whole."""
        times = self._times(axis)
        if (times == 1).all():
            return np.arange(axis.size)
        of = self.network.closure.classes(axis)
        starts = np.flatnonzero(np.diff(of, prepend=of[0] - 1))
        rows = np.split(np.arange(axis.size), starts[1:])
        return np.concatenate([np.tile(row, times[row[0]]) for row in rows])

    def scaled(self, source: Any, array: np.ndarray) -> np.ndarray:
        """Divide what sums over repeated units; add noise to what computes them."""
        dtype = array.dtype
        for at in self._reading.get(id(source), ()):
            axis = Axis(("weight", id(source)), at, int(source.shape[at]))
            share = 1 / self._times(axis)[self.positions(axis)]
            array = array * share.reshape([-1 if i == at else 1 for i in range(array.ndim)])
        if self.noise and array.ndim > 1:
            for at in self._giving.get(id(source), ()):
                axis = Axis(("weight", id(source)), at, int(source.shape[at]))
                positions = self.positions(axis)
                again = np.ones(len(positions), bool)
                again[np.unique(positions, return_index=True)[1]] = False
                drawn = self.generator.normal(0, self.noise * float(np.std(array)), array.shape)
                drawn *= again.reshape([-1 if i == at else 1 for i in range(array.ndim)])
                array = array + drawn
        return np.asarray(array, dtype)
