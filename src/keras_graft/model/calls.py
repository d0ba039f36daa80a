"""Fill the recorded arguments of a call with tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_graft.graph.node import Slot, Template

_SCALARS = (str, int, float, bool, type(None))
_LEAVES = (Slot, keras.KerasTensor)
Change = Callable[[Any], Any]


def mapped(structure: Any, change: Change) -> Any:
    """Return recorded arguments with each leaf changed; plain Python scalars stay.

    Plain containers are handled here: `keras.tree` is many times slower on some backends, and a
    large model has thousands of them. `keras.tree` handles everything else.
    """
    kind = type(structure)
    if kind in _SCALARS:
        return structure
    if kind in _LEAVES:
        return change(structure)
    if kind is dict:
        return {key: mapped(leaf, change) for key, leaf in structure.items()}
    if kind is list:
        return [mapped(leaf, change) for leaf in structure]
    if kind is tuple:
        return tuple([mapped(leaf, change) for leaf in structure])
    return keras.tree.map_structure(change, structure)


def fill(structure: Any, get: Callable[[int], Any], other: Change = lambda leaf: leaf) -> Any:
    """Return a structure with `get(index)` in place of each slot, and other leaves changed."""
    return mapped(structure, lambda x: get(x.index) if isinstance(x, Slot) else other(x))


def filled(
    template: Template, tensors: Sequence[Any], other: Change = lambda leaf: leaf
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call with these tensors as its inputs, other leaves changed."""
    get = tensors.__getitem__
    return fill(template.args, get, other), fill(dict(template.kwargs), get, other)


def caller(operation: Callable[..., Any], template: Template) -> Callable[..., Any]:
    """Return a function of tensors that makes a recorded call."""

    def call(*tensors: Any) -> Any:
        args, kwargs = filled(template, tensors)
        return operation(*args, **kwargs)

    return call
