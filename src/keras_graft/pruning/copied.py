"""Copies of Keras's own layers with other sizes: cheaper than layers made from a configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.graph.record import forget, record_of
from keras_graft.pruning.call import Path
from keras_graft.pruning.initial import holds_arrays

NAMES = """
    Activation Add AlphaDropout Average AveragePooling1D AveragePooling2D AveragePooling3D
    BatchNormalization Concatenate Conv1D Conv1DTranspose Conv2D Conv2DTranspose Conv3D
    Conv3DTranspose Cropping1D Cropping2D Cropping3D Dense DepthwiseConv1D DepthwiseConv2D Dropout
    ELU Embedding Flatten GaussianDropout GaussianNoise GlobalAveragePooling1D
    GlobalAveragePooling2D GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D
    GlobalMaxPooling3D GroupNormalization Identity LayerNormalization LeakyReLU MaxPooling1D
    MaxPooling2D MaxPooling3D Maximum Minimum Multiply PReLU RMSNormalization ReLU SeparableConv1D
    SeparableConv2D Softmax SpatialDropout1D SpatialDropout2D SpatialDropout3D Subtract UpSampling1D
    UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D
"""
"""Layers that keep nothing of their sizes but weights, `input_spec` and what is in their
configuration under the same name. A test compares each with one made from its configuration."""

COPIED = {cls for name in NAMES.split() if (cls := getattr(keras.layers, name, None)) is not None}


def copied(
    old: Any, config: Mapping[str, Any], changes: Mapping[Path, Any], built: Mapping[str, Any] | None,
    variable: Callable[[Any], Any], checked: set[Any],
) -> Any:  # fmt: skip
    """Return a copy of a layer with other sizes; None if this layer must be made again.

    A layer that knows nothing of its sizes, such as an activation, is returned itself.

    Args:
        old: The layer.
        config: The configuration that the copy must have.
        changes: What differs in it.
        built: The arguments with which the copy would be built: shapes by name.
        variable: Returns the variable of the copy for one of the layer.
        checked: The classes, and what changed in them, of copies whose configurations were compared.
    """
    if type(old) not in COPIED or not old.built or built is None or not _is_plain(old):
        return None
    if not (changes or built or old.variables):
        return old  # nothing in it depends on sizes
    if holds_arrays(old) or not all(_is_attribute(old, path) for path in changes):
        return None
    own = {id(v) for v in old.variables}

    def made(source: Any) -> Any:
        if id(source) not in own:
            raise TypeError("a user made the layer hold another one, which is not copied with it")
        return variable(source)

    try:
        new = _keras.Copier(made).object(old)
        forget(new.__dict__)
        for path, value in changes.items():
            setattr(new, path[0], value)
        if getattr(new.input_spec, "axes", None):
            new.input_spec = _fitting(old.input_spec, next(iter(built.values())))
        if built:
            _keras.set_built_for(new, built)
        kind = (type(old), frozenset(changes))
        if kind not in checked and _keras.get_config(new) != config:
            return None
        checked.add(kind)
        return new
    except (TypeError, ValueError):  # a function around another layer; arrays in the configuration
        return None


def _is_attribute(layer: Any, path: Path) -> bool:
    return len(path) == 1 and isinstance(getattr(layer, path[0], None), int)


def _is_plain(layer: Any) -> bool:
    """Whether a layer has its own variables alone, and nothing of this package on it."""
    known = record_of(layer)
    return not (
        known.ties or known.uses or known.file or known.sums or known.adapted or known.pending
        or getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False)
        or any(isinstance(v, _keras.View | _keras.Tied | _keras.Adapted) for v in layer.variables)
    )  # fmt: skip


def _fitting(spec: Any, shape: Any) -> Any:
    """Return an `InputSpec` with the sizes of a shape on the axes that it names."""
    axes = {axis: shape[axis] for axis in spec.axes or {}}
    return keras.InputSpec(
        dtype=spec.dtype, shape=spec.shape, ndim=spec.ndim, max_ndim=spec.max_ndim,
        min_ndim=spec.min_ndim, axes=axes, allow_last_axis_squeeze=spec.allow_last_axis_squeeze,
        name=spec.name, optional=spec.optional,
    )  # fmt: skip
