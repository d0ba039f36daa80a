"""`stages`: the last value at each resolution, or of each block, with channels and stride."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from numbers import Integral
from typing import Any

from keras_graft.errors import SelectionError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import is_one_of
from keras_graft.graph.node import Value
from keras_graft.graph.parameters import count_parameters
from keras_graft.graph.record import unwrapped
from keras_graft.look.blocks import blocks, has_kernel
from keras_graft.look.numbers import Place
from keras_graft.look.strides import Resolution, pads, resolutions
from keras_graft.look.wiring import Wiring
from keras_graft.model.verb import question
from keras_graft.printable import shown
from keras_graft.tables import Table, Tabular


@dataclass(frozen=True)
class Stage:
    """The last value of one stage.

    Attributes:
        index: Its number, from 0: what `kg.extract(model, stages=...)` takes.
        value: The value; a stage is itself a selector.
        channels: The length of the channel axis; None if it varies.
        stride: By how much the resolution of the input was reduced: 32, or (1, 2) if the axes
            differ, or 0.5 after an upsampling. None if the value has no resolution.
        parameters: Parameters of everything that the value is computed by.
    """

    index: int
    value: Value = field(repr=False)
    channels: int | None
    stride: float | tuple[float, ...] | None
    parameters: int

    @property
    def name(self) -> str:
        """The name that selects this stage."""
        return self.value.path

    def __repr__(self) -> str:
        return f"<Stage {self.index} {self.name!r}: {self.value.spec}>"


class Stages(Tabular, list[Stage]):
    """The stages of a model, in order; prints as a table.

    Attributes:
        by: "resolution" or "block".
    """

    by: str = "resolution"

    def tables(self) -> list[Table]:
        """Return the stages as a table, one per line."""
        if not self:
            return [(_NONE, (), [])]
        head = ("stage", "last value", "output", "channels", "stride", "params so far")
        return [("", head, [
            (s.index, s.name, s.value.spec or "?", s.channels, _text(s.stride), s.parameters)
            for s in self
        ])]  # fmt: skip

    def to_dict(self) -> list[dict[str, Any]]:
        """Return the stages as plain data, ready for JSON."""
        return [
            {
                "index": s.index,
                "name": s.name,
                "shape": list(s.value.spec.shape) if s.value.spec else None,
                "dtype": s.value.spec.dtype if s.value.spec else None,
                "channels": s.channels,
                "stride": list(s.stride) if isinstance(s.stride, tuple) else s.stride,
                "parameters": s.parameters,
            }
            for s in self
        ]


_NONE = "no stages: no layer reduces the resolution, and no names show repeated blocks"


@question
def stages(graph: Graph, by: str | None = None) -> Stages:
    """Return the last value at each resolution, or of each block, with its channels and stride.

    The idea is that of `feature_info` in timm. A resolution ends where a layer changes it: the
    stage is the last value there that everything passes through, else the last one that joins
    several; padding does not count. A resolution on the way up, as in the decoder of a U-Net, is a
    stage of its own. What comes before the first kernel is none, and neither is what comes after
    a global pooling. Nested models are looked into.

    Args:
        model: A Keras model or a `Graph`.
        by: "resolution", or "block": the last value of each block, told by names such as
            `layer_0` and `layer_1`, or by layers of one class that hold other layers. None: by
            resolution where there are three or more of them, or no blocks.

    Returns:
        The stages. Each is a selector: `kg.split(model, at=kg.stages(model)[2])`. It is empty if
        the model has none.

    Raises:
        SelectionError: If `by` is another word.

    >>> import keras, keras_graft as kg
    >>> x = y = keras.Input((32, 32, 3))
    >>> for i, channels in enumerate((8, 16, 32)):
    ...     y = keras.layers.Conv2D(channels, 3, 2, padding="same", name=f"down{i}")(y)
    ...     y = keras.layers.ReLU(name=f"relu{i}")(y)
    >>> print(kg.stages(keras.Model(x, y)))
    stage  last value  output                  channels  stride  params so far
        0  relu0       (?, 16, 16, 8) float32         8       2            224
        1  relu1       (?, 8, 8, 16) float32         16       4          1,392
        2  relu2       (?, 4, 4, 32) float32         32       8          6,032
    """
    if by is not None and not is_one_of(by, "resolution", "block"):
        raise SelectionError(
            f'stages: by= is "resolution" or "block", or None to choose, got {shown(by)}.'
        )
    wiring = Wiring(graph)
    known = resolutions(wiring)
    groups = _by_resolution(wiring, known) if by != "block" else []
    strides = {known[place].stride for place in groups}
    if by == "block" or (by is None and len(strides) < 3):
        found = blocks(wiring)
        if found and (by == "block" or len(strides) < 2 or _composite(wiring, found)):
            by, groups = "block", [_end(wiring, places) for places in found]
    result = Stages()
    result.by = by or "resolution"
    for index, place in enumerate(groups):
        node = wiring.nodes[place]
        value, at = node.values[0], known.get(place)
        spec = value.spec
        axis = 1 if at is not None and at.first else -1
        channels = spec.shape[axis] if spec and len(spec.shape) > 1 else None
        stride = None if at is None else _stride(at.stride)
        total = count_parameters(n.operation for n in wiring.behind(node))
        result.append(Stage(index, value, channels, stride, total))
    return result


def chosen(found: Stages, wanted: Any) -> list[Stage]:
    """Return the stages of these numbers; negative numbers count from the end.

    Raises:
        SelectionError: If there is no such stage; the stages are listed.
    """
    if not found:
        raise SelectionError(
            f"The model has {_NONE}. kg.cuts(model) lists where it can be cut; give the names of "
            'values instead: kg.extract(model, ["name", ...]).'
        )
    numbers = wanted if isinstance(wanted, list | tuple | range) else [wanted]
    listed = ", ".join(f"{s.index} {s.name!r}" for s in found)
    if not numbers:
        raise SelectionError(f"stages={shown(wanted)} names no stage. There are: {listed}.")
    result = []
    for number in numbers:
        whole = isinstance(number, Integral) and not isinstance(number, bool)
        if not whole or not -len(found) <= int(number) < len(found):
            raise SelectionError(
                f"stages={shown(wanted)}: {shown(number)} is no number of a stage, from "
                f"{-len(found)} to {len(found) - 1}. There are: {listed}."
            )
        result.append(found[int(number)])
    return list({s.index: s for s in result}.values())


def _by_resolution(wiring: Wiring, known: dict[Place, Resolution]) -> list[Place]:
    """Return the last call at each resolution, in graph order."""
    groups: dict[Any, list[Place]] = {}
    begun: set[Place] = set()
    for place, at in known.items():
        node = wiring.nodes[place]
        sources = (s.place for s in wiring.reads(node) if s is not None)
        if has_kernel(node) or any(s in begun for s in sources):
            begun.add(place)
            if not pads(unwrapped(node.operation)):
                groups.setdefault((at.inputs, at.turns, at.stride), []).append(place)
    through, depths = wiring.cuts(), wiring.depths()
    for places in groups.values():
        places.sort(key=depths.__getitem__)
    ends = [_last(wiring, places, through) for places in groups.values()]
    order = {place: i for i, place in enumerate(wiring.nodes)}
    return sorted(ends, key=order.__getitem__)


def _last(wiring: Wiring, places: Sequence[Place], through: set[Place]) -> Place:
    """Return the last call through which everything passes; else the last one that joins several."""
    cuts = [place for place in places if place in through]
    if cuts:
        return cuts[-1]
    here = set(places)
    joins = [p for p in places if _within(wiring, p, here) > 1]
    if not joins:
        return places[-1]
    last = joins[-1]
    while len(users := wiring.users(last)) == 1 and users[0] in here:
        if getattr(wiring.nodes[users[0]].operation, "weights", ()):
            break  # an activation belongs to what it follows, a convolution does not
        last = users[0]
    return last


def _within(wiring: Wiring, place: Place, here: set[Place]) -> int:
    """Return from how many calls at the same resolution a call reads."""
    reads = wiring.reads(wiring.nodes[place])
    return len({s.place for s in reads if s is not None and s.place in here})


def _end(wiring: Wiring, places: Sequence[Place]) -> Place:
    """Return the last call of a block that is used outside; the outermost of these."""
    outer = [p for p in places if not any((p[0][:i], p[0][i]) in places for i in range(len(p[0])))]
    here = set(places)
    used = [p for p in outer if any(u not in here for u in wiring.users(p))]
    return (used or outer)[-1]


def _composite(wiring: Wiring, found: Sequence[Sequence[Place]]) -> bool:
    """Whether each block is one call of a layer that attends: a transformer, also with strides."""
    return all(len(p) == 1 and wiring.nodes[p[0]].nested is None for p in found)


def _stride(stride: Sequence[Fraction]) -> float | tuple[float, ...]:
    plain = tuple(int(s) if s.denominator == 1 else float(s) for s in stride)
    return plain[0] if len(set(plain)) == 1 else plain


def _text(stride: float | tuple[float, ...] | None) -> str:
    if stride is None:
        return ""
    return " x ".join(map(str, stride)) if isinstance(stride, tuple) else str(stride)
