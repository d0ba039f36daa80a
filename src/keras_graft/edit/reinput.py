"""The verb `reinput`: give a model another input shape, dtype or number of channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace as changed
from numbers import Integral
from typing import Any

import keras

from keras_graft.edit.new_inputs import Refit
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import is_one_of, listed, nearest
from keras_graft.graph.node import Spec
from keras_graft.model.verb import verb
from keras_graft.printable import shown, words_of
from keras_graft.shared.kept import edited
from keras_graft.weights.channels import RULES, ChannelRule

InputShape = Sequence[int | None]


@verb
def reinput(
    graph: Graph,
    shape: InputShape | Mapping[str, InputShape] | None = None,
    *,
    batch_shape: InputShape | Mapping[str, InputShape] | None = None,
    dtype: str | Mapping[str, str] | None = None,
    channels: ChannelRule | None = None,
) -> Graph:
    """Give a model another image size, sequence length, batch shape, dtype or number of channels.

    The layers are the donor's own, with their weights. Nested models whose own inputs no longer
    fit are built again around their layers. Every call is then traced as it would run, to refuse
    what Keras accepts but cannot run.

    With `channels`, the first layers that read the new channels get new weights by that rule, in
    new layers of the same names; the donor's stay as they are. These may be convolutions, `Dense`
    layers on the channel axis, and the normalizations and `Rescaling` layers in front. The rules:

    - `"mean"`: the new model gives what the old one gave for the mean over the new channels.
    - `"repeat"`: fewer channels count as if repeated in turn; more share the old weights in turn.
    - `"pad"`: new channels get zeros; if there are fewer, the weights of the first ones are kept.
    - a function of the kernel, as an array `(..., old channels, filters)`, and the new number of
      channels, that returns `(..., new channels, filters)`.

    With `"mean"` and `"repeat"`, one channel gives what a grey image gave in three, unless each
    channel is normalized differently in front. The idea comes from `adapt_input_conv` in timm
    (https://github.com/huggingface/pytorch-image-models).

    Args:
        model: A Keras model or a `Graph`.
        shape: The new shape of the input without the batch, None for a dimension that may vary;
            for a model of several inputs, or to leave some as they are, a dict by input name.
        batch_shape: The same, including the batch.
        dtype: The new dtype, or a dict by input name.
        channels: What becomes of the first weights where the number of channels changes.

    Returns:
        A Keras model or a `Graph`, as `model` is.

    Raises:
        EditError: If something does not fit. The message names the layer, what it reads, and the
            expected and found shapes. Nothing is changed then.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((64, 64, 3), name="image")
    >>> y = keras.layers.Conv2D(4, 3, name="stem")(x)
    >>> model = keras.Model(x, keras.layers.GlobalAveragePooling2D(name="pool")(y))
    >>> small = kg.reinput(model, (48, 48, 3))
    >>> small.input.shape, small.get_layer("stem") is model.get_layer("stem")
    ((None, 48, 48, 3), True)
    >>> grey = kg.reinput(model, (None, None, 1), channels="mean")
    >>> grey.input.shape, grey.get_layer("stem").kernel.shape
    ((None, None, None, 1), (3, 3, 1, 4))
    """
    if shape is None and batch_shape is None and dtype is None:
        raise EditError("reinput: give shape=..., batch_shape=... or dtype=...")
    if not (channels is None or callable(channels) or is_one_of(channels, *RULES)):
        raise EditError(
            f"reinput: channels must be one of {', '.join(map(repr, RULES))} or a function of the "
            f"kernel and the new number of channels, got {shown(channels)}."
        )
    specs = _specs(graph, shape, batch_shape, dtype)
    return edited(graph, Refit(channels, graph, specs).run(), "reinput")


def _specs(graph: Graph, shape: Any, batch_shape: Any, dtype: Any) -> list[Spec]:
    """Return the new specs of the inputs."""
    names = [
        value.name or label for value, label in zip(graph.inputs, graph.input_names, strict=True)
    ]
    specs: list[Spec] = []
    for value in graph.inputs:
        if value.spec is None:
            raise EditError(f"reinput: input {value.label!r} of {graph.name!r} has no spec.")
        specs.append(value.spec)
    given = {place for place, _ in _by_input(names, shape, "shape")}
    for place, wanted in _by_input(names, batch_shape, "batch_shape"):
        if place in given:
            raise EditError(
                f"reinput: input {names[place]!r} has both a shape= and a batch_shape=. Give one."
            )
        old = specs[place].shape
        specs[place] = changed(specs[place], shape=_shape(wanted, names[place], old, "batch_shape"))
    for place, wanted in _by_input(names, shape, "shape"):
        old = specs[place].shape
        rest = _shape(wanted, names[place], old[1:], "shape")
        specs[place] = changed(specs[place], shape=(old[0], *rest))
    for place, wanted in _by_input(names, dtype, "dtype"):
        specs[place] = changed(specs[place], dtype=_dtype(wanted, names[place]))
    return specs


def _by_input(names: Sequence[str], given: Any, what: str) -> Iterator[tuple[int, Any]]:
    """Yield the number of each input for which something is given, and what."""
    if given is None:
        return
    if not isinstance(given, Mapping):
        if len(names) != 1:
            raise EditError(
                f"reinput: the model has {len(names)} inputs, {listed(names)}. Give {what}= by "
                f"name: {what}={{{names[0]!r}: {shown(given)}}}."
            )
        yield 0, given
        return
    for name, wanted in given.items():
        if name not in names:
            near = nearest(str(name), names)
            hint = f"Nearest: {listed(near)}." if near else f"There are {listed(names)}."
            raise EditError(f"reinput: {what}= names {shown(name)}, which is not an input. {hint}")
        yield names.index(name), wanted


def _shape(
    wanted: Any, name: str, old: tuple[int | None, ...], what: str
) -> tuple[int | None, ...]:
    good = isinstance(wanted, Sequence) and not isinstance(wanted, str)
    if not good or not all(
        d is None or (isinstance(d, Integral) and not isinstance(d, bool) and 0 < int(d) < 2**63)
        for d in wanted
    ):
        raise EditError(
            f"reinput: {what}= of input {name!r} must be a tuple of positive numbers and None, "
            f"got {shown(wanted)}."
        )
    if len(wanted) != len(old):
        batch = "with" if what == "batch_shape" else "without"
        raise EditError(
            f"reinput: input {name!r} has {len(old)} dimensions {batch} the batch, {old}; "
            f"{what}={shown(tuple(wanted))} has {len(wanted)}."
        )
    return tuple(wanted)


def _dtype(wanted: Any, name: str) -> str:
    try:
        return keras.backend.standardize_dtype(wanted)
    except (ValueError, TypeError, AttributeError) as error:
        raise EditError(f"reinput: dtype= of input {name!r}: {words_of(error)}") from error
