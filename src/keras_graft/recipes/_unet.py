"""A decoder on an encoder's pyramid: U-Net (Ronneberger, Fischer and Brox, 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import keras

import keras_graft as kg
from keras_graft.recipes import _arguments


def unet(
    encoder: Any,
    classes: int = 1,
    taps: Any = None,
    filters: int | Sequence[int] = (256, 128, 64, 32, 16),
    activation: Any = None,
) -> Any:
    """Put a decoder on an image network, whose output has the height and width of its input.

    The decoder starts at the deepest map and goes back up: at each step the map is resized to
    exactly the size of the next tap (bilinear, so sizes that do not halve evenly fit as well),
    joined with it along the channels, and goes through two convolutions with batch normalization.
    What lies behind the deepest map, such as a classifier, is dropped; the encoder's layers are
    shared.

    Args:
        encoder: A Keras model or a `Graph`, with one image as input, channels last, of a fixed
            size.
        classes: The channels of the output.
        taps: Selectors of the maps, the finest first, the deepest last; or of one. None: the last
            value at each resolution before it is halved, of those through which everything passes.
        filters: The channels of the decoder's steps, from the deepest up; the last goes on. A
            number is that of all.
        activation: That of the output. None: logits.

    Returns:
        What `encoder` is.

    Raises:
        EditError: If the input is no image of a fixed size, or no pyramid is found, or if another
            argument is not what it must be.

    >>> import keras, keras_graft as kg
    >>> x = y = keras.Input((15, 15, 3), name="image")
    >>> for i in range(3):
    ...     y = keras.layers.Conv2D(4, 3, strides=2, padding="same", name=f"c{i}")(y)
    >>> kg.recipes.unet(keras.Model(x, y), classes=2, filters=(8, 4)).output_shape
    (None, 15, 15, 2)
    """
    graph = kg.read(encoder)
    image: Any = graph.inputs[0].spec
    if len(graph.inputs) != 1 or image is None or len(image.shape) != 4 or None in image.shape[1:]:
        raise kg.EditError(
            f"unet: {graph.name!r} must have one image of a fixed size as its input, but it has "
            f"{', '.join(str(v.spec) for v in graph.inputs)}."
        )
    classes = _arguments.whole("unet", "classes", classes)
    activation = _arguments.activation("unet", "activation", activation)
    filters = [_arguments.whole("unet", "filters", number) for number in _several(filters)]
    if not filters:
        raise kg.EditError("unet: filters is empty; give the channels of at least one step.")
    found = _pyramid(graph) if taps is None else [_one(graph, tap) for tap in _several(taps)]
    if not found:
        raise kg.EditError("unet: taps is empty; name at least one map, or leave it out.")
    maps = [(value.label, value.spec.shape[1:], value.spec.dtype) for value in found]
    for (fine, above, _), (coarse, below, _) in pairwise(maps):
        if below[0] > above[0] or below[1] > above[1]:
            raise kg.EditError(f"unet: taps go from fine to coarse; {coarse!r} is above {fine!r}.")
    trunk = kg.submodel(graph, outputs=found)
    first = [
        node for node in kg.select(trunk, "**").nodes
        if getattr(node.operation, "data_format", None) == "channels_first"
    ]  # fmt: skip
    if first:
        raise kg.EditError(
            f"unet: {first[0].path!r} has its channels first, and the decoder takes maps with the "
            'channels last: make the encoder with data_format="channels_last".'
        )
    decoder = _decoder(maps, image.shape[1:3], classes, filters, activation, graph.dtype_policy)
    result = kg.join(trunk, decoder).replace(name=f"{graph.name}_unet")
    return result if isinstance(encoder, kg.Graph) else kg.build(result)


def _pyramid(graph: kg.Graph) -> list[Any]:
    """Return the last value at each resolution before it is halved, and the deepest one."""
    passing: list[Any] = [cut.value for cut in kg.cuts(graph)]
    result: list[Any] = []
    last: Any = graph.inputs[0]
    channels = last.spec.shape[-1]
    for value in [*passing, *graph.outputs]:
        shape = value.spec.shape if value.spec else ()
        producer = value.producer
        if producer is None or len(shape) != 4 or producer.kind.startswith("Global"):
            if result:
                break
            continue
        before, now = last.spec.shape[1:3], shape[1:3]
        if now > before and producer.kind == "ZeroPadding2D":
            continue  # it only makes room for the convolution behind it
        if any(2 * b <= a + 1 and b < a for a, b in zip(before, now, strict=True)):
            result.append(last)
        last = value
    # What has the channels of the image is the image, scaled perhaps, and nothing learned.
    result = [v for v in result if v.spec.shape[-1] != channels]
    if not result or last in graph.inputs:
        raise kg.EditError(
            f"unet: {graph.name!r} has no value that everything passes through and that is halved "
            'in size later. Name the maps, finest first: kg.recipes.unet(encoder, taps=["...", "..."]).'
        )
    return [*result, last]


def _several(given: Any) -> list[Any]:
    """Return what was given one by one, or the one thing that was given."""
    several = isinstance(given, (list, tuple, kg.Selection))
    return list(given) if several else [given]


def _one(graph: kg.Graph, tap: Any) -> Any:
    found: Any = kg.select(graph, tap).values
    shapes = [v.spec.shape for v in found if v.spec]
    if len(found) != 1 or len(shapes[0]) != 4 or None in shapes[0][1:]:
        raise kg.EditError(
            f"unet: the tap {tap!r} must be one map (batch, height, width, channels); it is "
            + ", ".join(repr(v) for v in found)
        )
    return found[0]


def _decoder(
    maps: list[tuple[str, Any, str]], size: tuple[int, int], classes: int,
    filters: Sequence[int], activation: Any, policy: Any,
) -> kg.Graph:  # fmt: skip
    inputs = [keras.Input(shape, dtype=dtype) for _, shape, dtype in maps]
    *skips, x = inputs
    layers = keras.layers
    steps = [(shape[:2], skip) for (_, shape, _), skip in zip(maps, skips, strict=False)][::-1]
    if (steps[-1][0] if steps else maps[-1][1][:2]) != size:
        steps.append((size, None))
    for i, ((height, width), skip) in enumerate(steps):
        name = f"decoder{i}"
        x = layers.Resizing(
            height, width, data_format="channels_last", name=f"{name}_resize", dtype=policy
        )(x)
        if skip is not None:
            x = layers.Concatenate(name=f"{name}_concat", dtype=policy)([x, skip])
        for j in range(2):
            x = layers.Conv2D(
                filters[min(i, len(filters) - 1)], 3, padding="same", use_bias=False,
                data_format="channels_last", name=f"{name}_conv{j}", dtype=policy,
            )(x)  # fmt: skip
            x = layers.BatchNormalization(name=f"{name}_bn{j}", dtype=policy)(x)
            x = layers.ReLU(name=f"{name}_relu{j}", dtype=policy)(x)
    x = layers.Conv2D(
        classes, 1, data_format="channels_last", activation=activation, name="mask", dtype="float32"
    )(x)
    graph = kg.read(keras.Model(inputs, x, name="decoder"))
    # `Resizing` hands its training flag on to what is called later; what a verb puts in does not.
    return kg.replace(graph, layers.Resizing, lambda node: node.operation) if steps else graph
