"""Compare the first batch with what a trunk takes, before the trunk runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_graft.errors import FeatureError
from keras_graft.graph.names import listed
from keras_graft.printable import quoted

tree = keras.tree


def check_inputs(trunk: Any, x: Any) -> None:
    """Refuse inputs of which a trunk takes another number, kind or shape.

    What Keras adapts by itself passes: a missing or additional last axis of length 1, and dtypes.

    Args:
        trunk: The model. One with its own `call` is not compared: it does not say what it takes.
        x: The inputs of a batch.

    Raises:
        FeatureError: It says what the trunk takes, and the way out.
    """
    for name, taken, given in _pairs(trunk, x):
        what = f"The input {quoted(name)} of {trunk.name!r}"
        texts, shape = given.dtype.kind in "OSU", tuple(taken.shape)
        if texts != (taken.dtype == "string"):
            raise FeatureError(_about_texts(what, texts, taken.dtype))
        if texts or _fits(shape, given.shape):
            continue
        raise FeatureError(
            f"{what} has samples of shape {_said(shape[1:])}, but those of the data have the shape "
            f"{_said(given.shape[1:])}: {_way_out(shape, given.shape)}."
        )


def _pairs(trunk: Any, x: Any) -> list[tuple[str, Any, np.ndarray]]:
    """Return name, tensor and array of each input; nothing if that is not known."""
    takes, leaves = getattr(trunk, "inputs", None), tree.flatten(x)
    if not takes or not all(isinstance(leaf, np.ndarray) for leaf in leaves):
        return []
    names = [tensor.name for tensor in takes]
    if isinstance(x, Mapping):
        own = getattr(trunk, "input", None)
        wanted = own if isinstance(own, Mapping) else dict(zip(names, takes, strict=True))
        missing = [str(name) for name in wanted if name not in x]
        if missing and len(takes) > 1:
            raise FeatureError(
                f"{trunk.name!r} takes {listed(map(str, wanted))}, and the data has {listed(map(str, x))}: "
                f"{listed(missing)} is missing. Give a dict with these names."
            )
        return [] if missing else [(str(name), wanted[name], x[name]) for name in wanted]
    if len(leaves) != len(takes):
        raise FeatureError(
            f"{trunk.name!r} takes {len(takes)} inputs ({listed(names)}), and the data gives "
            f"{len(leaves)}: give a dict or list of {len(takes)} arrays in front of the targets, "
            "(x, y)."
        )
    return list(zip(names, takes, leaves, strict=True))


def _fits(taken: tuple[Any, ...], given: tuple[int, ...]) -> bool:
    if len(given) == len(taken) + 1 and given[-1] == 1:
        given = given[:-1]
    elif len(given) == len(taken) - 1 and taken[-1] == 1:
        given = (*given, 1)
    return len(given) == len(taken) and all(
        a is None or a == b for a, b in zip(taken[1:], given[1:], strict=True)
    )


def _about_texts(what: str, texts: bool, dtype: str) -> str:
    if not texts:
        return f"{what} takes texts, but the data holds numbers: give an array of texts."
    return (
        f"{what} takes {dtype}, but the inputs are texts. Turn them into numbers first, "
        "x = keras.layers.TextVectorization(vocabulary=words)(x), or give a model that begins with "
        "such a layer (on TensorFlow)."
    )


def _said(shape: tuple[Any, ...]) -> str:
    return f"({', '.join('?' if d is None else str(d) for d in shape)})"


def _way_out(taken: tuple[Any, ...], given: tuple[int, ...]) -> str:
    if _fits(taken, (1, *given)):
        return "this is one sample and not a batch of them, so add .batch(32)"
    if len(given) == len(taken) and len(taken) > 2:
        if _fits(taken, (given[0], *given[2:], given[1])):
            return "the channels come first, so move them, np.moveaxis(x, 1, -1)"
        if _fits(taken, (given[0], given[-1], *given[1:-1])):
            return "the channels come last, so move them, np.moveaxis(x, -1, 1)"
        if len(taken) == 4 and taken[-1] in (given[-1], None) and None not in taken[1:3]:
            size = taken[1:3]
            return (
                f"resize them, keras.ops.image.resize(x, {size}), or read them in this size, "
                f"image_size={size}"
            )
        if len(taken) == 4 and given[-1] == 1:
            return f"repeat the only channel, np.repeat(x, {taken[-1]}, -1)"
    return "bring the data to the shape that the model takes"
