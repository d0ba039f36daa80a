"""Fuse activations into the layers before them: fewer layers, the same bits."""

from __future__ import annotations

from typing import Any

import keras

import keras_graft as kg
from keras_graft.recipes import _arguments

_L = keras.layers
LAYERS = (
    _L.Dense, _L.EinsumDense, _L.Conv1D, _L.Conv2D, _L.Conv3D, _L.Conv1DTranspose,
    _L.Conv2DTranspose, _L.Conv3DTranspose, _L.DepthwiseConv1D, _L.DepthwiseConv2D,
    _L.SeparableConv1D, _L.SeparableConv2D,
)  # fmt: skip


def fuse_activation(model: Any) -> Any:
    """Let each convolution or `Dense` apply the activation that follows it, as its `activation=`.

    Activations are `Activation` layers, and layers and ops that are nothing but one of
    `keras.activations` in its plain form: `ReLU()`, `keras.ops.relu`. A layer is made again from its
    configuration, under its name, and trained values are copied to it. Stay as they are: layers
    that have an activation, whose output is used elsewhere too, that are called several times, share
    a weight, are quantized, have LoRA weights, a loss of what they give, or a class of their own; and
    activations in another dtype, with weights or a mask.

    Args:
        model: A Keras model or a `Graph`.

    Returns:
        What `model` is. Outputs are equal: the arithmetic is the same.

    Raises:
        NothingSelectedError: If there is nothing to fuse; the nearest places are listed.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> model = keras.Model(x, keras.layers.ReLU(name="r")(keras.layers.Dense(3, name="d")(x)))
    >>> new = kg.recipes.fuse_activation(model)
    >>> [layer.name for layer in new.layers], new.get_layer("d").activation.__name__
    (['x', 'd'], 'relu')
    """
    graph = kg.read(model)
    shared = _arguments.shared_layers(graph)

    def why_not(match: kg.Match) -> str:
        layer = match["layer"]
        (node,) = match.calls("layer")
        why = shared.get(id(layer), "")
        if why:
            return f"{node.path!r} {why}"
        if type(layer) not in LAYERS:
            return f"{node.path!r} is a {node.kind}, which may have code of its own"
        why = _arguments.regularized([layer, match["act"]])
        if why:
            return why
        if _arguments.has_weights(_function(match["act"])):
            return f"{match.path!r} is a layer with weights"
        if len(match.calls("act")[0].inputs) > 1:
            return f"{match.path!r} reads a mask"
        if layer.activation is not keras.activations.linear:
            return f"{node.path!r} has an activation"
        gives, wants = node.values[0].spec, match.outputs[0].spec
        return "" if gives == wants else f"{node.path!r} gives {gives}, and {match.path!r} {wants}"

    def fused(x: Any, layer: Any, act: Any) -> Any:
        new = type(layer).from_config({**layer.get_config(), "activation": _function(act)})
        y = new(x)
        new.set_weights(layer.get_weights())
        _arguments.copy_flags(layer, new)
        return y

    result = kg.rewrite(
        graph,
        lambda x, layer, act: act(layer(x)),
        fused,
        where=why_not,
        layer=LAYERS,
        act=lambda operation: _function(operation) is not None,
    )
    return result if isinstance(model, kg.Graph) else kg.build(result)


def _function(operation: Any) -> Any:
    """Return the activation function that an operation is; None if it is another thing."""
    if type(operation) is keras.layers.Activation:
        return operation.activation
    name = _arguments.function_of(operation)
    return getattr(keras.activations, name, None) if name else None
