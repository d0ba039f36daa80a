"""The head that is trained: the donor's own, a model, layers, or a number of classes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_graft import _keras, advice
from keras_graft.errors import FeatureError
from keras_graft.features.data import Batch
from keras_graft.printable import shown, words_of
from keras_graft.tables import counted

tree = keras.tree


def copied(head: Any) -> Any:
    """Return a copy of a head, so that the donor's layers are not trained."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.keras"
        _keras.save(head, path)
        # We wrote the file ourselves, so Lambda layers in it may be loaded.
        return keras.saving.load_model(path, compile=False, safe_mode=False)


def made(head: Any, trunk: Any, compile: Mapping[str, Any] | None) -> Any:
    """Return a model of what the user gave as head.

    Args:
        head: A model; a layer or a list of layers; or a number of classes.
        trunk: The model whose outputs it takes.
        compile: What it will be compiled with. A loss that takes logits gets logits.

    Raises:
        FeatureError: If it is none of these, or if the trunk has several outputs and it is not a
            model.
    """
    if isinstance(head, keras.Model):
        return head
    layers: list[Any] = [*head] if isinstance(head, list | tuple) else [head]
    number = int(head) if isinstance(head, Integral) and not isinstance(head, bool) else None
    layered = bool(layers) and all(isinstance(layer, keras.Layer) for layer in layers)
    if number is None and not layered:
        raise FeatureError(
            f"head must be a model, a layer, a list of layers or a number of classes, got {shown(head)}."
        )
    outputs = tree.flatten(trunk.outputs)
    if len(outputs) != 1:
        raise FeatureError(
            f"The trunk gives {counted(len(outputs), 'value')} at the cut, and head={shown(head)} takes one: give "
            f"a model with as many inputs, or cut at one value ({advice.call('cuts')} lists them)."
        )
    if number is not None:
        if number < 1:
            raise FeatureError(f"head must be 1 class or more, got {number}.")
        layers = _classifier(number, outputs[0], compile)
    taken = keras.Input(outputs[0].shape[1:], dtype=outputs[0].dtype, name="features")
    x = taken
    try:
        for layer in layers:
            x = layer(x)
    except Exception as error:
        raise FeatureError(
            f"The head cannot take the features, of shape {outputs[0].shape}: {words_of(error)}. Put pooling or "
            "Flatten in front: head=[keras.layers.GlobalAveragePooling2D(), ...]."
        ) from error
    return keras.Model(taken, x, name="head")


def _classifier(classes: int, features: Any, compile: Mapping[str, Any] | None) -> list[Any]:
    """Return the layers of a linear classifier on the mean of the features."""
    rank = len(features.shape)
    if rank < 2 or rank > 5:
        raise FeatureError(
            f"head={classes} needs features of 2 to 5 axes with the batch, and they are {features.shape}: "
            "give a model as head."
        )
    activation = "sigmoid" if classes == 1 else "softmax"
    if compile is not None and not _takes_probabilities(compile.get("loss")):
        activation = None
    # Numbers of classes stay float32 in mixed precision, as Keras advises.
    dense = keras.layers.Dense(classes, activation, name="predictions", dtype="float32")
    if rank == 2:
        return [dense]
    pool = getattr(keras.layers, f"GlobalAveragePooling{rank - 2}D")
    return [pool(name="head_pool"), dense]


def _takes_probabilities(loss: Any) -> bool:
    """Whether a loss compares probabilities of classes, and not logits or other numbers."""
    if isinstance(loss, Mapping | list | tuple) and len(loss) == 1:
        (loss,) = loss.values() if isinstance(loss, Mapping) else loss
    if isinstance(loss, keras.Loss):
        config = _keras.get_config(loss)
        return config.get("from_logits") is False or isinstance(loss, keras.losses.KLDivergence)
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", "")
    return "crossentropy" in name.lower() or name in ("kl_divergence", "kld", "KLDivergence")


def compiled(head: Any, given: Any, model: Any, compile: Mapping[str, Any] | None, y: Any) -> None:
    """Compile a head as the user says, or as the donor is; a new classifier by its targets.

    Args:
        head: The head.
        given: What the user gave as head.
        model: The donor.
        compile: The arguments for `head.compile`.
        y: Some targets.

    Raises:
        FeatureError: If nothing says how.
    """
    if compile is not None:
        head.compile(**compile)
    elif isinstance(given, Integral):
        head.compile("adam", loss_for(int(given), y), metrics=["accuracy"])
    elif not getattr(head, "compiled", False):
        if not getattr(model, "compiled", False):
            count = len(head.outputs)
            loss = "sparse_categorical_crossentropy"
            losses = repr(loss if count == 1 else [loss] * count)
            raise FeatureError(
                f"Nothing says how to train the head. Give compile={{'optimizer': 'adam', 'loss': {losses}}}, "
                "or compile the head."
            )
        _keras.compile_like(head, model)


def loss_for(classes: int, y: Any) -> str:
    """Return the name of the loss for targets that are classes.

    Raises:
        FeatureError: If they are not.
    """
    leaves = tree.flatten(y)
    array = np.asarray(leaves[0])
    whole = array.dtype.kind in "iub"
    width = array.shape[1] if array.ndim == 2 else 1
    if len(leaves) == 1 and array.ndim <= 2:
        if classes == 1 and width == 1 and np.isin(array, (0, 1)).all():
            return "binary_crossentropy"
        if width == 1 and whole and classes > 1:
            return "sparse_categorical_crossentropy"
        if width == classes > 1 and np.isin(array, (0, 1)).all() and (array.sum(1) == 1).all():
            return "categorical_crossentropy"
    if len(leaves) == 1 and width == 1 < classes and array.dtype.kind == "f" and _whole(array):
        raise FeatureError(
            f"head={classes} needs targets that are classes, and these are whole numbers of "
            f'{array.dtype}. Give integers: y.astype("int64").'
        )
    if len(leaves) > 1:
        raise FeatureError(
            f"head={classes} has one output, and the data has {len(leaves)} targets: give one of them, or "
            "a model with as many outputs as head."
        )
    raise FeatureError(
        f"head={classes} needs targets that are classes: whole numbers, or one-hot rows of {classes}; these "
        f"have the shape {array.shape} and {array.dtype}. For other numbers: "
        f"head=keras.layers.Dense({classes}), compile={{'optimizer': 'adam', 'loss': 'mse'}}."
    )


def _whole(array: np.ndarray) -> bool:
    return bool((np.isfinite(array) & (array == np.round(array)) & (array >= 0)).all())


def check_trains(head: Any, features: Any, batch: Batch) -> None:
    """Refuse a head that cannot be evaluated on the first batch, before the trunk runs over all.

    Args:
        head: The compiled head.
        features: The trunk's outputs for the batch.
        batch: The batch.

    Raises:
        FeatureError: If its outputs, loss and targets do not fit together.
    """
    if not evaluates(head):
        return
    y: Any = batch.y
    check_classes(head, int(np.max(y)) if _are_classes(y) and np.size(y) else 0)
    try:
        head.test_on_batch(features, y, sample_weight=batch.w)
    except Exception as error:
        shapes = [tree.map_structure(np.shape, part) for part in (features, y)]
        raise FeatureError(
            f"The head cannot be trained on the first batch, with features of shape {shapes[0]} and "
            f"targets of shape {shapes[1]}: {words_of(error)}"
        ) from error


def _are_classes(y: Any) -> bool:
    return not isinstance(y, dict | list | tuple) and np.asarray(y).dtype.kind in "iu"


def check_classes(head: Any, highest: int) -> None:
    """Refuse a class that a head has no output for: some backends give a loss of nan.

    Raises:
        FeatureError: If there is one.
    """
    loss = getattr(head, "loss", None)
    named = loss if isinstance(loss, str) else getattr(loss, "name", "")
    outputs = tree.flatten(head.outputs) if hasattr(head, "outputs") else []
    if len(outputs) != 1 or named not in ("sparse_categorical_crossentropy", "binary_crossentropy"):
        return
    width = outputs[0].shape[-1]
    if named == "binary_crossentropy":
        width = 2 if width == 1 else None
    if width is not None and highest >= width:
        raise FeatureError(
            f"The targets have classes up to {highest}, but the head and its loss know the "
            f"classes 0 to {width - 1}: head={highest + 1}, or number the classes from 0."
        )


def evaluates(head: Any) -> bool:
    """Whether a head is evaluated as Keras does it: not by methods of its own."""
    steps = ("train_step", "test_step")
    return all(getattr(type(head), s, None) is getattr(keras.Model, s, None) for s in steps)
