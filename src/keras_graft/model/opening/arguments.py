"""The arguments with which the code of a subclassed model is run on symbolic tensors."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft.errors import ReadError
from keras_graft.printable import quoted

tree = keras.tree


def arguments_of(model: Any, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of `model.call`, with a symbolic tensor for each array or tensor.

    Args:
        model: The model.
        inputs: What its `call` takes: one structure of tensors, a tuple for several arguments, or a
            dict of the arguments by name. None: of the shapes that Keras recorded when it was built.
    """
    if not model.built:
        raise ReadError(
            f"{_name(model)} was never built, so it has no weights yet. Call it once on data first: "
            f"{'model' if isinstance(model, keras.Model) else 'layer'}(x)."
        )
    if inputs is None and _keras.is_functional_subclass(model):
        inputs = model.input
    if inputs is None:
        return _recorded(model)
    names = list(inspect.signature(model.call).parameters)
    given = tree.map_structure(_symbolic, inputs)
    if isinstance(given, dict) and given and all(key in names for key in given):
        return (), given
    return (given if isinstance(given, tuple) else (given,)), {}


def _symbolic(leaf: Any) -> Any:
    if leaf is None or isinstance(leaf, bool | str):
        return leaf
    if isinstance(leaf, keras.KerasTensor):
        new = keras.KerasTensor(tuple(leaf.shape), leaf.dtype, name=leaf.name)
        return new
    if isinstance(leaf, int | float):
        return leaf
    if not hasattr(leaf, "shape"):
        leaf = np.asarray(leaf)
    dtype = keras.backend.standardize_dtype(leaf.dtype)
    if dtype == "float64":
        dtype = keras.config.floatx()
    shape = tuple(int(d) for d in leaf.shape)
    return keras.KerasTensor((None, *shape[1:]) if shape else (), dtype)


def _recorded(model: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    config = model.get_build_config() or {}
    shapes = config.get("shapes_dict") or {
        key: value for key, value in config.items() if key.endswith("shape")
    }
    if not shapes or any(_is_unknown(shape) for shape in shapes.values()):
        raise ReadError(f"{_name(model)} has no record of its inputs. {how(model)}")
    dtype = model.compute_dtype if "float" in model.compute_dtype else keras.config.floatx()
    tensors = {key: _tensors(shape, dtype) for key, shape in shapes.items()}
    if len(tensors) == 1:
        return (next(iter(tensors.values())),), {}
    return (), {key.removesuffix("_shape"): value for key, value in tensors.items()}


def _is_shape(item: Any) -> bool:
    return isinstance(item, list | tuple) and all(d is None or isinstance(d, int) for d in item)


def _is_unknown(shape: Any) -> bool:
    if shape is None:
        return True
    if _is_shape(shape):
        return False
    parts = shape.values() if isinstance(shape, dict) else shape
    return not isinstance(shape, dict | list | tuple) or any(map(_is_unknown, parts))


def _tensors(shape: Any, dtype: str) -> Any:
    if _is_shape(shape):
        return keras.KerasTensor((None, *shape[1:]), dtype)
    if isinstance(shape, dict):
        return {key: _tensors(part, dtype) for key, part in shape.items()}
    return [_tensors(part, dtype) for part in shape]


def how(model: Any) -> str:
    """Return how to give the inputs of a model, as text."""
    names = [
        p.name
        for p in inspect.signature(model.call).parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and p.default is p.empty
        and p.name not in ("training", "mask")
    ] or ["x"]
    one = 'keras.Input((None,), dtype="int32")'
    many = ", ".join(f"{quoted(name)}: keras.Input(...)" for name in names)
    call = f"kg.read(model, {one})" if len(names) == 1 else f"kg.read(model, {{{many}}})"
    return f"Give what its call takes, as arrays, tensors or inputs: {call}."


def _name(model: Any) -> str:
    return f"{type(model).__name__} {model.name!r}"
