"""The two factors of an adapter: which axes of a weight each has, and how they start."""

from __future__ import annotations

import math
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.adapters.state import Adapter

_TRANSPOSED = (
    keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose,
)  # fmt: skip


def logical_shape(layer: Any, variable: Any) -> tuple[int, ...]:
    """Return the shape of a weight; of a quantized one, the shape before it was packed."""
    if getattr(layer, "quantization_mode", None) != "int4":
        return tuple(variable.shape)
    if isinstance(layer, keras.layers.EinsumDense):
        return tuple(layer.original_kernel_shape)
    if isinstance(layer, keras.layers.Embedding):
        return (layer.input_dim, layer.output_dim)
    return (layer.input_spec.axes[-1], layer.units)


def input_axes(layer: Any, variable: Any) -> tuple[int, ...]:
    """Return the axes of a weight that meet the input of the layer: the factor `a` has these.

    The product of the factors then has the rank that was asked for as a map from inputs to
    outputs. Keras's `enable_lora` takes all axes but the last, whatever they are: for the query of
    an attention layer its factor is as many times larger as there are heads.
    """
    axes = range(len(logical_shape(layer, variable)))
    if isinstance(layer, keras.layers.EinsumDense):
        reads, kernel = layer.equation.split("->")[0].split(",")
        found = tuple(i for i, letter in enumerate(kernel) if letter in reads)
        if 0 < len(found) < len(axes):
            return found
    if isinstance(layer, _TRANSPOSED):
        return (*axes[:-2], axes[-1])
    if "depthwise" in variable.name or isinstance(
        layer, keras.layers.DepthwiseConv1D | keras.layers.DepthwiseConv2D
    ):
        return tuple(axes[:-2])
    return tuple(axes[:-1])


def new_factors(
    adapter: Adapter, layer: Any, variable: Any, initializer: Any = "zeros"
) -> tuple[Any, Any]:
    """Return new variables for an adapter of a weight. The second starts at zero.

    Args:
        adapter: The adapter; its name, rank and input axes count.
        layer: The layer that owns the weight.
        variable: The weight.
        initializer: How the first factor starts.
    """
    shape = logical_shape(layer, variable)
    inputs = [shape[axis] for axis in adapter.inputs]
    outputs = [length for axis, length in enumerate(shape) if axis not in adapter.inputs]
    start: Any = keras.initializers.get(initializer)
    first = start((math.prod(inputs), adapter.rank), "float32")
    values = {
        "a": keras.ops.reshape(first, (*inputs, adapter.rank)),
        "b": keras.ops.zeros((adapter.rank, *outputs), "float32"),
    }
    place = variable.path.rpartition("/")[0]
    made = []
    for letter, value in values.items():
        name = f"lora_{adapter.name}_{variable.name}_{letter}"
        made.append(_keras.float_variable(value, name, f"{place}/{name}"))
    return made[0], made[1]
