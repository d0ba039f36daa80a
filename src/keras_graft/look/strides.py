"""By how much each call of a network has reduced the resolution of the input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from keras_graft.graph.node import Node, Spec
from keras_graft.graph.record import unwrapped
from keras_graft.look.numbers import Place
from keras_graft.look.wiring import Wiring

Size = tuple[int | None, ...]


@dataclass(frozen=True)
class Resolution:
    """The resolution of what a call gives.

    Attributes:
        stride: By how much each axis was reduced since the input: 2 after a convolution of stride
            2, 1/2 after an upsampling by 2.
        turns: How often the resolution began to fall after it rose, or to rise after it fell. So
            the encoder of a U-Net is told from its decoder.
        falls: Whether it fell last; None before the first change.
        size: The length of each axis when it was last known.
        first: Whether the channels are the first axis after the batch.
        inputs: The inputs of the graph, by number, whose resolution this is.
        here: Whether the call gives a map or a sequence. Not behind a global pooling or `Flatten`.
    """

    stride: tuple[Fraction, ...]
    turns: int
    falls: bool | None
    size: Size
    first: bool
    inputs: frozenset[int]
    here: bool = True
    sure: bool = True
    """Whether unknown lengths are known as shares of the input's: not behind a slice or a transpose."""


_MOVE = {
    "GetItem", "Repeat", "RepeatVector", "Tile", "Transpose", "Permute", "Swapaxes", "Moveaxis", "Reshape",
    "Take", "TakeAlongAxis", "Stack", "Split", "Append", "Concatenate", "Lambda", "Map", "Squeeze",
    "ExpandDims",
}  # fmt: skip
"""Layers and ops that may change lengths in ways which no stride tells."""


def resolutions(wiring: Wiring) -> dict[Place, Resolution]:
    """Return the resolution behind each call that gives a map or a sequence.

    Strides are those of the layers. Of a layer without any, the sizes of its input and output
    tell.
    """
    starts = [at_input(v.spec, i) for i, v in enumerate(wiring.graph.inputs)]
    found: dict[Place, Resolution] = {}
    for place, node in wiring.nodes.items():
        if node.nested is not None:
            continue
        read = []
        for source, value in zip(wiring.reads(node), node.inputs, strict=False):
            if source is not None:
                at = starts[source.index] if source.place is None else found.get(source.place)
                read.append((at, value.spec))
        given = _after(node, read)
        if given is not None:
            found[place] = given
    return {place: r for place, r in found.items() if r.here}


def spatial(spec: Spec | None, first: bool) -> Size:
    """Return the lengths of a map or sequence, without batch and channels."""
    if spec is None:
        return ()
    return spec.shape[2:] if first else spec.shape[1:-1]


def at_input(spec: Spec | None, number: int) -> Resolution | None:
    """Return the resolution of an input of the graph; None if it is no map and no sequence."""
    axes = 0 if spec is None else len(spec.shape) - 2
    if spec is None or axes < 1:
        return None
    one = (Fraction(1),) * axes
    return Resolution(one, 0, None, spatial(spec, False), False, frozenset([number]))


def _after(node: Node, read: list[tuple[Resolution | None, Spec | None]]) -> Resolution | None:
    operation = unwrapped(node.operation)
    spec = node.outputs[0].spec if node.outputs else None
    known = [(at, s) for at, s in read if at is not None and at.here] or [
        (at, s) for at, s in read if at is not None
    ]
    if not known:
        return _embedded(spec, [s for _, s in read])
    at, given = max(known, key=lambda pair: pair[0].turns)
    at = replace(at, inputs=frozenset().union(*(r.inputs for r, _ in known)))
    first = _channels_first(operation, at.first)
    sure = all(r.sure for r, _ in known) and not _moves(operation, spec, first)
    at = replace(at, sure=sure)
    size = spatial(spec, first)
    axes = len(at.stride)
    if len(size) != axes or type(operation).__name__.startswith("Global"):
        return replace(at, here=False)
    factor = _factor(operation, axes) if at.here else None
    if factor is None:
        same = at.here and given is not None and len(given.shape) == axes + 2
        before = spatial(given, first) if same else at.size
        if _gone(size) and not (same and _gone(before)):
            return replace(at, here=False)
        factor = tuple(_ratio(a, b) for a, b in zip(before, size, strict=True))
    stride = tuple(s * f for s, f in zip(at.stride, factor, strict=True))
    falls, turns = at.falls, at.turns
    if max(factor) > 1 or min(factor) < 1:
        falls = max(factor) > 1
        turns += at.falls is not None and falls != at.falls
    return Resolution(stride, turns, falls, size, first, at.inputs, sure=sure)


def _moves(operation: Any, spec: Spec | None, first: bool) -> bool:
    """Whether a call may change lengths in ways which no stride tells."""
    name = type(operation).__name__
    if name == "Concatenate" and spec is not None and isinstance(operation.axis, int):
        return operation.axis % len(spec.shape) != (1 if first else len(spec.shape) - 1)
    return name in _MOVE


def _embedded(spec: Spec | None, read: list[Spec | None]) -> Resolution | None:
    """Return the resolution of embedded tokens: one vector for each."""
    tokens = [s for s in read if s is not None and len(s.shape) == 2]
    if spec is None or len(spec.shape) != 3 or not tokens or spec.shape[1] != tokens[0].shape[1]:
        return None
    return Resolution((Fraction(1),), 0, None, spec.shape[1:2], False, frozenset())


def _channels_first(operation: Any, before: bool) -> bool:
    given = getattr(operation, "data_format", None)
    return given == "channels_first" if given in ("channels_first", "channels_last") else before


def _gone(size: Size) -> bool:
    """Whether nothing is left of a map, as in squeeze-and-excitation after pooling."""
    return len(size) > 1 and all(length == 1 for length in size)


def _factor(operation: Any, axes: int) -> tuple[Fraction, ...] | None:
    """Return by how much a layer of Keras reduces each axis, if it says so."""
    inner = getattr(operation, "layer", None)  # TimeDistributed
    operation = operation if inner is None else inner
    if not type(operation).__module__.startswith("keras."):
        return None
    if pads(operation):
        return (Fraction(1),) * axes
    given = getattr(operation, "strides", None)
    if given is None and hasattr(operation, "pool_size"):
        given = operation.pool_size
    up = "Transpose" in type(operation).__name__
    if "UpSampling" in type(operation).__name__:
        given, up = operation.size, True
    given = (given,) * (axes if inner is None else 1) if isinstance(given, int) else given
    if not isinstance(given, list | tuple) or not all(isinstance(s, int) and s > 0 for s in given):
        return None
    if len(given) > axes:
        return None
    factors = [Fraction(1, s) if up else Fraction(s) for s in given]
    return (Fraction(1),) * (axes - len(given)) + tuple(factors)


def pads(operation: Any) -> bool:
    """Whether a layer or op only pads or crops."""
    return any(word in type(operation).__name__ for word in ("Pad", "Cropping"))


def _ratio(before: int | None, now: int | None) -> Fraction:
    """Return the stride that two lengths suggest; padding and cropping are none."""
    if not before or not now:
        return Fraction(1)
    if before >= now:
        return Fraction(max(1, round(before / now)))
    return Fraction(1, max(1, round(now / before)))
