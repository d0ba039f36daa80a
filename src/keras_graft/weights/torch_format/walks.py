"""What a model's graph says of its layers: in which order they are, and which read flattened images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import layers

from keras_graft import _keras
from keras_graft.errors import ReadError
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Value
from keras_graft.graph.record import unwrapped
from keras_graft.model.read import read
from keras_graft.weights.torch_format.slot import Slot
from keras_graft.weights.torch_format.slots import Flat

_SPATIAL = (
    layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.DepthwiseConv1D, layers.DepthwiseConv2D,
    layers.SeparableConv1D, layers.SeparableConv2D, layers.Conv1DTranspose, layers.Conv2DTranspose,
    layers.Conv3DTranspose, layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D,
    layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D, layers.UpSampling2D,
    layers.UpSampling3D,
)  # fmt: skip
_ELEMENTWISE = (
    layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.PReLU, layers.Dropout,
    layers.SpatialDropout2D, layers.GaussianNoise, layers.BatchNormalization, layers.Identity,
    layers.Add, layers.Multiply, layers.Average, layers.GroupNormalization,
)  # fmt: skip


def graph_of(layer: Any) -> Graph | None:
    """Return a model as a graph; None if its calls cannot be read."""
    try:
        return read(layer) if isinstance(layer, keras.Model) else None
    except ReadError:
        return None


@dataclass(frozen=True)
class Places:
    """Slots, in the orders in which PyTorch's modules for them may have been made.

    Attributes:
        orders: The orders; each has all slots. Branches are kept together: from each layer that joins
            several, the first branch comes before the second, or after it.
        before: For each layer, by its `id`, its number and the numbers of those that it needs, as bits.
    """

    orders: list[list[Slot]]
    before: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def slots(self) -> list[Slot]:
        """The slots."""
        return self.orders[0]

    def of(self, slots: Collection[Slot]) -> Places:
        """Return these slots alone."""
        orders = [[slot for slot in order if slot in slots] for order in self.orders]
        return Places(orders, self.before)

    def without(self, slots: Collection[Slot]) -> Places:
        """Return the other slots."""
        return self.of({slot for slot in self.slots if slot not in slots})

    def follows(self, slot: Slot, first: Slot) -> bool:
        """Whether a slot may come behind another in the flow of data."""
        number, _ = self.before.get(id(first.main.weight.layer), (-1, 0))
        own, needs = self.before.get(id(slot.main.weight.layer), (-1, 0))
        return number < 0 or own < 0 or number == own or bool(needs >> number & 1)


def places_of(graph: Graph | None, slots: Sequence[Slot]) -> Places:
    """Return the slots of a model with what its graph says of their order."""
    orders: list[list[Slot]] = []
    for turned in (False, True):
        if graph is None:
            break
        place: dict[int, int] = {}
        _walk(graph, turned, place)
        known = [place.get(id(slot.main.weight.layer)) for slot in slots]
        if None in known:
            break
        order = [slots[i] for i in sorted(range(len(slots)), key=lambda i: (known[i], i))]
        if order not in orders:
            orders.append(order)
    before: dict[int, tuple[int, int]] = {}
    if graph is not None:
        _needs(graph, {}, before)
    return Places(orders or [list(slots)], before)


def _needs(graph: Graph, given: dict[Any, int], before: dict[int, tuple[int, int]]) -> None:
    """Note for each layer which layers run before it and give it what it reads."""
    for node in graph.steps:
        needs = 0
        for value in node.inputs:
            needs |= given.get(value.key, 0)
        if node.nested is not None:
            for value in node.nested.inputs:
                given[value.key] = needs
            _needs(node.nested, given, before)
            made = 0
            for value in node.nested.outputs:
                made |= given.get(value.key, 0)
        else:
            number = len(before)
            for layer in _keras.layers_inside(unwrapped(node.operation)):
                before.setdefault(id(layer), (number, needs))
            made = needs | 1 << number
        given.update((value.key, made) for value in node.outputs)


def _walk(graph: Graph, turned: bool, place: dict[int, int]) -> None:
    """Number the layers of a graph: each after all that it needs, branch by branch."""
    seen: set[Node] = set()
    for output in graph.outputs:
        stack: list[tuple[Node | None, bool]] = [(graph.producer(output), False)]
        while stack:
            node, ready = stack.pop()
            if node is None or (node in seen and not ready):
                continue
            if ready:
                _number(node, turned, place)
                continue
            seen.add(node)
            stack.append((node, True))
            makers = [(graph.producer(value), False) for value in node.inputs]
            stack += makers if turned else reversed(makers)  # the last one is walked first


def _number(node: Node, turned: bool, place: dict[int, int]) -> None:
    if node.nested is not None:
        _walk(node.nested, turned, place)
        return
    number = len(place)  # the order inside a layer is that of its own layers
    for layer in _keras.layers_inside(unwrapped(node.operation)):
        place.setdefault(id(layer), number)


def flat_of(graph: Graph | None) -> Flat:
    """Return, for Dense layers that read a flattened image, the shape of the image.

    PyTorch's images have the channels first, so it flattens them in another order.
    """
    found: dict[int, tuple[int, ...]] = {}
    if graph is not None:
        _flat(graph, {}, found)
    return found


def _flat(graph: Graph, given: dict[Any, Any], found: dict[int, tuple[int, ...]]) -> None:
    """Follow images and what is flattened of them: "image", or the image's shape."""
    for node in graph.steps:
        layer = unwrapped(node.operation)
        its = [given.get(value.key) for value in node.inputs]
        gives = None
        if node.nested is not None:
            inside = {
                value.key: given.get(node.reads[entry.source].key)
                for value, entry in zip(node.nested.inputs, node.entries, strict=False)
                if entry.source is not None
            }
            _flat(node.nested, inside, found)
            for value, inner in zip(node.outputs, node.nested.outputs, strict=False):
                given[value.key] = inside.get(inner.key)
            continue
        if isinstance(layer, _SPATIAL):
            gives = "image" if getattr(layer, "data_format", "") == "channels_last" else None
        elif isinstance(layer, layers.Flatten | layers.Reshape) and its == ["image"]:
            sizes, made = _shape(node.inputs[0])[1:], _shape(node.outputs[0])
            gives = sizes if None not in sizes and len(made) == 2 else None
        elif isinstance(layer, layers.Dense) and isinstance(its[0], tuple):
            found[id(layer)] = its[0]
        elif isinstance(layer, _ELEMENTWISE) or not hasattr(layer, "weights"):
            alike = all(x == its[0] for x in its)
            same = all(_shape(v) == _shape(node.outputs[0]) for v in node.inputs)
            gives = its[0] if its and alike and same else None
        given.update((value.key, gives) for value in node.outputs)


def _shape(value: Value) -> tuple[Any, ...]:
    return () if value.spec is None else tuple(value.spec.shape)
