"""Finish a frame: what its code gives, with its losses, its masks and the weights it did not use."""

from __future__ import annotations

from typing import Any

import keras

from keras_graft import _keras
from keras_graft.graph.sizes import Doubt
from keras_graft.layers.add_loss import AddLoss
from keras_graft.layers.weight import KeepWeights, Weight, spec_of_weight
from keras_graft.model.opening.constants import with_constants
from keras_graft.model.opening.frame import Frame, in_world
from keras_graft.model.opening.masks import attach_masks, put, restore_masks, without_lost_masks


def finish(
    frame: Frame, outputs: Any, flat: list[Any], args: Any, kwargs: Any, whole: bool
) -> None:
    """Keep what the code of a call gives, and drop the calls that nothing needs.

    Args:
        frame: The call.
        outputs: What the code returned.
        flat: Its leaves.
        args: The arguments that the code got.
        kwargs: The other arguments.
        whole: Whether it is the outermost call.
    """
    flat = _tensors(without_lost_masks(with_constants(flat, frame), frame), frame, whole)
    restore_masks(frame)
    frame.log.append(("gives", [frame.said(leaf) for leaf in (*flat, *frame.losses)]))
    frame.outputs = frame.plain = [leaf for leaf in flat if leaf is not None]
    beside = _adding_losses(frame)
    if frame.losses or beside:
        more = {"beside": beside} if beside else {}
        adding = AddLoss(name="add_loss", in_training=frame.adds_in_training)
        _around_all(frame, adding, flat, frame.losses, **more)
    if frame.layer.supports_masking:
        attach_masks(frame, flat, args, kwargs)
    frame.outputs = [leaf for leaf in flat if leaf is not None]
    left = _unused(frame)
    if left:
        specs = [spec_of_weight(variable) for variable in left]
        keeper = KeepWeights(specs, variables=left, name="unused_weights")
        _around_all(frame, keeper, flat)
        frame.outputs = [leaf for leaf in flat if leaf is not None]
    frame.structure = outputs, flat
    frame.anchor_weights(lambda step: isinstance(step.operation, Weight))
    used = {id(step) for step in frame.needed()}
    frame.steps = [step for step in frame.steps if id(step) in used]


def _tensors(flat: list[Any], frame: Frame, whole: bool) -> list[Any]:
    """Return what the code gives, if it is tensors of this call.

    Keras pairs the tensors of a call in order, so an inner call may have None at the end only.
    """
    while flat and flat[-1] is None and not whole:
        flat = flat[:-1]
    wrong = [
        type(leaf).__name__
        for leaf in flat
        if not isinstance(leaf, keras.KerasTensor) and not (whole and leaf is None)
    ]
    if wrong or not any(leaf is not None for leaf in flat):
        raise Doubt(f"it gives {', '.join(wrong) or 'nothing'}")
    if not all(leaf is None or frame.owns(leaf) for leaf in flat):
        raise Doubt("it gives a tensor that the code of another call made")
    return flat


def _adding_losses(frame: Frame) -> list[Any]:
    """Return what calls give that add losses, and whose results nothing else needs."""
    used = {id(step) for step in frame.needed([*frame.outputs, *frame.losses])}
    return [
        step.outputs[0]
        for step in frame.steps
        if id(step) not in used and step.outputs and _adds_losses(frame.inner.get(id(step)))
    ]


def _adds_losses(frame: Frame | None) -> bool:
    return frame is not None and any(
        isinstance(step.operation, AddLoss) or _adds_losses(frame.inner.get(id(step)))
        for step in frame.steps
    )


def _unused(frame: Frame) -> list[Any]:
    covered = {id(v) for step in frame.needed() for v in getattr(step.operation, "weights", ())}
    return [v for v in frame.layer.weights if id(v) not in covered]


def _around_all(frame: Frame, layer: Any, flat: list[Any], *args: Any, **kwargs: Any) -> None:
    """Let all that a call gives pass through a layer: it stays as long as one of it is used."""
    given = [leaf for leaf in flat if leaf is not None]
    masks = [_keras.mask_of(leaf) for leaf in given]
    if len(given) == 1:
        made = [put(frame, layer, given[0], *args, **kwargs)]
    else:
        made = [frame.born(in_world(leaf, 0), in_world(leaf, 1)) for leaf in given]
        frame.record(layer, (given, *args), kwargs, made)
    for tensor, mask in zip(made, masks, strict=True):
        if mask is not None:
            _keras.set_mask(tensor, mask)
    new = iter(made)
    flat[:] = [None if leaf is None else next(new) for leaf in flat]
