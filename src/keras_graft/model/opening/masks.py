"""Masks that Keras attaches to tensors while code runs, and those that a call takes off."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.graph.sizes import deep, leaves
from keras_graft.layers.add_loss import WithMask
from keras_graft.model.opening.frame import Frame, in_world


def attach_masks(frame: Frame, flat: list[Any], args: Any, kwargs: Any) -> None:
    """Attach the masks that Keras attaches behind a call."""
    first = next(iter((*args, *kwargs.values())), None)
    known = kwargs.get("mask")
    if known is None:
        known = keras.tree.map_structure(_keras.mask_of, first)
    own = [None if leaf is None else _keras.mask_of(leaf) for leaf in flat]
    if not any(mask is None for mask in own):
        return
    masks = frame.layer.compute_mask(first, known)
    for i, mask in enumerate([] if masks is None else keras.tree.flatten(masks)):
        if i < len(flat) and mask is not None and own[i] is None and flat[i] is not None:
            flat[i] = put(frame, WithMask(name="with_mask"), flat[i], mask=mask)
            _keras.set_mask(flat[i], mask)
            frame.handed_on.append(mask)


def put(frame: Frame, layer: Any, tensor: Any, *args: Any, **kwargs: Any) -> Any:
    """Record a call of a layer of the package, that returns its first input."""
    made = frame.born(in_world(tensor, 0), in_world(tensor, 1))
    frame.record(layer, (tensor, *args), kwargs, made)
    return made


def strip(frame: Frame, tensors: Iterable[Any]) -> None:
    """Take the masks off tensors, as `MultiHeadAttention` does: what runs later finds none."""
    for tensor in tensors:
        mask = _keras.mask_of(tensor)
        if mask is not None and frame.owns(tensor):
            frame.stripped[id(tensor)] = tensor, mask
            _keras.set_mask(tensor, None)


def restore_masks(frame: Frame) -> None:
    """Give tensors the masks again that they lost: in the graph, some calls saw them."""
    for tensor, mask in frame.stripped.values():
        _keras.set_mask(tensor, mask)


def without_lost_masks(structure: Any, frame: Frame) -> Any:
    """Return arguments with a copy of each tensor that lost its mask: a copy has none, in any order."""

    def change(leaf: Any) -> Any:
        if id(leaf) not in frame.stripped:
            return leaf
        if id(leaf) not in frame.copies:
            made = frame.born(in_world(leaf, 0), in_world(leaf, 1))
            frame.record(_keras.copying_op(), (leaf,), {}, made)
            frame.copies[id(leaf)] = made
        return frame.copies[id(leaf)]

    return deep(structure, change) if frame.stripped else structure


def loses_masks(layer: Any, args: Any, kwargs: Any, opened: Frame | None) -> list[Any]:
    """Return the tensors among the arguments of a call that have lost their masks behind it."""
    given = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, keras.KerasTensor)]
    if opened is None:
        if not _keras.takes_masks_off(layer):
            return []
        return [leaf for leaf in given if not _keras.is_cast(layer, leaf)]
    lost = {
        id(s)
        for t, s in zip(opened.tensors, opened.sources, strict=True)
        if id(t) in opened.stripped
    }
    return [leaf for leaf in given if id(leaf) in lost]
