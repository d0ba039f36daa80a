"""What Keras does around the code of a call: casts of inputs, and a Sequential that takes any shape."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.graph.sizes import Axis, Size, deep, leaves
from keras_graft.model.opening.frame import Frame, in_world, tensors_of


def is_other_sequential(layer: Any, args: Any) -> bool:
    """Whether a Sequential is called with other shapes than Keras built it for: it takes any."""
    if (
        getattr(type(layer), "call", None) is not keras.Sequential.call
        or _keras.functional(layer) is None
    ):
        return False
    known = keras.tree.flatten(_keras.functional(layer).input)
    given = list(tensors_of(args))
    return len(known) != len(given) or any(
        len(a.shape) != len(b.shape)
        or any(x is not None and not (type(y) is int and x == y) for x, y in zip(a.shape, b.shape))  # noqa: B905
        for a, b in zip(known, given, strict=True)
    )


def cast(op: Any, tensor: Any) -> Any:
    """Return the symbolic tensor that a cast gives, with the sizes and the mask of the first."""
    made = op.compute_output_spec(in_world(tensor, 0))
    sizes = (
        Size(int(d), d.other, Axis(made, axis)) if isinstance(d, Size) else d
        for axis, d in enumerate(tensor.shape)
    )
    _keras.set_shape(made, tuple(sizes))
    _keras.set_mask(made, _keras.mask_of(tensor))
    return made


def cast_again(outside: Any, inside: Any, before: Mapping[int, Any]) -> Any:
    """Return the arguments of the root as its code gets them: cast as Keras cast them outside."""
    dtypes = {id(leaf): leaf.dtype for leaf in leaves(outside) if id(leaf) in before}
    cast = iter(leaves(outside))

    def change(leaf: Any) -> Any:
        dtype = dtypes.get(id(next(cast)))
        return leaf if dtype is None else keras.ops.cast(leaf, dtype)

    return deep(inside, change)


def originals(frame: Frame, before: Any, after: Any) -> list[Any]:
    """Return the tensors outside as they were before Keras converted them."""
    args, kwargs = before
    now_args, now_kwargs = after
    pairs = list(zip(leaves(args), leaves(now_args), strict=False))
    for key, value in kwargs.items():
        if key in now_kwargs:
            pairs += zip(leaves(value), leaves(now_kwargs[key]), strict=False)
    found = {id(new): old for old, new in pairs if isinstance(old, keras.KerasTensor)}
    return [found.get(id(source), source) for source in frame.sources]


def specs_of(layer: Any, args: Any, kwargs: Any, world: int) -> Any:
    """Return what a layer gives, in one world."""
    args, kwargs = in_world((args, kwargs), world)
    if not _keras.is_kerass(layer):
        with contextlib.suppress(Exception):  # what a user's layer announces may be wrong
            return _as_run(layer, args, kwargs)
    try:
        found = layer.compute_output_spec(*args, **kwargs)
    except TypeError:  # that of a base class, which does not know all its arguments
        return _as_run(layer, args, kwargs)
    if any(None in leaf.shape for leaf in tensors_of(found)):
        # Some layers announce the shape that they were built for: `EinsumDense`.
        return _as_run(layer, args, kwargs)
    return found


def _as_run(layer: Any, args: Any, kwargs: Any) -> Any:
    """Return what the code of a layer gives; Keras itself would run `call` of a quantized layer."""
    quantized = getattr(layer, "quantization_mode", None) is not None
    ran = _Quantized(layer) if quantized else layer
    return keras.Operation.compute_output_spec(ran, *args, **kwargs)


class _Quantized(keras.Operation):
    """What a quantized layer does when it is called."""

    def __init__(self, layer: Any) -> None:
        super().__init__(name=layer.name)
        self._layer = layer

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self._layer.quantized_call(*args, **kwargs)
