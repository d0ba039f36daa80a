"""Which calls must be tried: of those that compute the same, one is enough."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.graph.node import Node, Slot

_NUMBERS = {
    "BatchNormalization": None,
    "Conv1D": "filters",
    "Conv2D": "filters",
    "Conv3D": "filters",
    "Dense": "units",
}
"""Layers that compute the same whatever the numbers of channels are, if these fit their weights; and
the name of the number in their configuration."""
_EACH = (
    *(
        f"{kind}Pooling{n}D"
        for kind in ("Average", "Max", "GlobalAverage", "GlobalMax")
        for n in "123"
    ),
    *(f"{kind}{n}D" for kind in ("ZeroPadding", "Cropping", "UpSampling") for n in "123"),
)
"""Layers that do the same with each channel, and know nothing of their number."""
_MERGES = ("Add", "Average", "Maximum", "Minimum", "Multiply", "Subtract")
"""Layers that change each number alone where their inputs have one shape."""


def unlike(
    nodes: Mapping[Node, Node | None], configs: Mapping[int, Mapping[str, Any]]
) -> list[Node]:
    """Return the calls that must run to know that all of them run.

    Of calls of Keras's own layers with one configuration, weights of the same shapes and inputs of
    the same specs, the first is enough. Convolutions, Dense and BatchNormalization may differ in
    their channels too. No trial is needed of a layer that changes each number alone, or does the same
    with each channel.

    Args:
        nodes: The calls, each with the call that it takes the place of; None if it is new.
        configs: The configurations that are known, by the ids of their layers.
    """
    found: dict[Any, Node] = {}
    for node, before in nodes.items():
        if not (_is_elementwise(node) or _is_the_same(node, before)):
            found.setdefault(_what(node, before, configs) or node.key, node)
    return list(found.values())


def _is_elementwise(node: Node) -> bool:
    layer = node.operation
    if not isinstance(layer, keras.Layer) or layer.variables:
        return False
    if not (_keras.is_elementwise(layer) or _is_one_of(layer, _MERGES)):
        return False
    if not _has_kerass_activation(layer):
        return False
    (spec, *others) = {v.spec for v in (*node.inputs, *node.outputs)}
    return not others and spec is not None and "float" in spec.dtype


def _is_the_same(node: Node, before: Node | None) -> bool:
    """Whether a layer does what it did before, with fewer or more channels."""
    if before is None or node.operation is not before.operation:
        return False
    return _is_one_of(node.operation, _EACH) and bool(_channels(node, before))


def _is_one_of(layer: Any, names: Collection[str]) -> bool:
    name = type(layer).__name__
    return name in names and type(layer) is getattr(keras.layers, name, None)


def _has_kerass_activation(layer: Any) -> bool:
    return getattr(getattr(layer, "activation", None), "__module__", "keras.").startswith("keras.")


def _what(node: Node, before: Node | None, configs: Mapping[int, Mapping[str, Any]]) -> Any:
    """Return what a call computes; None if that is not sure."""
    layer = node.operation
    if not isinstance(layer, keras.Layer) or not _keras.is_kerass(layer):
        return None
    if node.nested is not None or _keras.sublayers(layer):
        return None
    if node.hidden or any(v.mask is not None for v in node.inputs):
        return None
    config = configs.get(id(layer)) or _keras.get_config(layer)
    config = {k: v for k, v in config.items() if k != "name"}
    if not _is_text((node.template.args, node.template.kwargs, config)):
        return None
    specs: Any = tuple(v.spec for v in (*node.inputs, *node.outputs))
    names = _channels(node, before)
    if names:
        config.pop(_NUMBERS.get(type(layer).__name__) or "", None)
        specs = [(len(spec.shape), spec.dtype) for spec in specs]
    weights = [([names.get(n, n) for n in v.shape], v.dtype) for v in layer.variables]
    axes = getattr(layer.input_spec, "axes", None) or {}
    wanted = {axis: names.get(n, n) for axis, n in axes.items()}
    return type(layer), repr((node.template, config, weights, wanted)), repr(specs)


def _channels(node: Node, before: Node | None) -> dict[int, str]:
    """Return names for the numbers of channels that a call reads and gives; {} if these matter."""
    layer = node.operation
    if not _is_one_of(layer, (*_NUMBERS, *_EACH)) or getattr(layer, "quantization_mode", None):
        return {}
    if getattr(layer, "groups", 1) != 1 or not _has_kerass_activation(layer) or before is None:
        return {}
    now, old = ([v.spec for v in (*n.inputs, *n.outputs)] for n in (node, before))
    if len(now) != 2 or None in (*now, *old) or list(map(_rank, now)) != list(map(_rank, old)):
        return {}
    first = getattr(layer, "data_format", "") == "channels_first"
    axis = getattr(layer, "axis", 1 if first else -1)
    read, given = _size(now[0], axis), _size(now[1], axis)
    number = _NUMBERS.get(type(layer).__name__)
    if given != (getattr(layer, number) if number else read) or None in (read, given):
        return {}
    if list(map(_rest, now, (axis, axis))) != list(map(_rest, old, (axis, axis))):
        return {}  # other sizes are new too
    return {read: "both"} if read == given else {read: "read", given: "given"}


def _rank(spec: Any) -> int:
    return len(spec.shape)


def _size(spec: Any, axis: int) -> Any:
    return spec.shape[axis]


def _rest(spec: Any, axis: int) -> Any:
    return *spec.shape[: axis % len(spec.shape)], *spec.shape[axis % len(spec.shape) + 1 :]


def _is_text(structure: Any) -> bool:
    """Whether the text of a structure tells all of it: that of an array does not tell its shape."""
    if isinstance(structure, Mapping):
        return all(map(_is_text, structure.values()))
    if isinstance(structure, list | tuple) and not isinstance(structure, Slot):
        return all(map(_is_text, structure))
    return structure is None or isinstance(structure, bool | int | float | str | Slot)
