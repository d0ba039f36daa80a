"""The axis order of PyTorch's kernels, and how to tell that a file comes from PyTorch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import keras

from keras_graft.weights.address import Weight

_NAMES = re.compile(r"weight|in_proj_weight|weight_[ih]h_l[0-9]+(_reverse)?")
_RECURRENT = (
    keras.layers.RNN,
    keras.layers.LSTMCell,
    keras.layers.GRUCell,
    keras.layers.SimpleRNNCell,
)
_KERNEL = re.compile(r"(.*_)?kernel")


def as_torch(its: Weight, mine: Weight, written: str | None, turned: str | None) -> str | None:
    """Return why a file's kernel is taken for PyTorch's, with axes in another order; else None.

    Args:
        its: The weight of the source.
        mine: The weight of the target.
        written: The format that the file says it has.
        turned: What `shapes_are_turned` returned for all pairs.
    """
    if not _may_differ(its, mine):
        return None
    if written == "pt":
        return "the header of the file says format 'pt', which is PyTorch's"
    named = "/" not in its.address and _NAMES.fullmatch(its.name)
    if written is None and named:
        return f"{its.address!r} is a PyTorch name"
    return turned


def _may_differ(its: Weight, mine: Weight) -> bool:
    of_tensors = its.variable is None and its.path is None and not its.converted
    return of_tensors and len(mine.shape) > 1 and bool(_KERNEL.fullmatch(mine.name))


def axes_from_torch(weight: Weight) -> tuple[int, ...] | None:
    """Return PyTorch's axes in Keras's order; None for a kernel that differs in more than that."""
    rank, layer = len(weight.shape), weight.layer
    if not _KERNEL.fullmatch(weight.name) or isinstance(layer, _RECURRENT):
        return None
    if rank == 2:
        return (1, 0)
    kind = type(layer).__name__
    if "Conv" not in kind or rank > 5:
        return None
    spatial = tuple(range(2, rank))
    # PyTorch's depthwise kernels are (channels, 1, ...), Keras's (..., channels, 1).
    by_channel = weight.name == "depthwise_kernel" or "Depthwise" in kind
    return (*spatial, 0, 1) if by_channel else (*spatial, 1, 0)


def shapes_are_turned(pairs: Mapping[Weight, Weight]) -> str | None:
    """Return a text if all matrices of a file that are not square are transposed, else None.

    Args:
        pairs: The source of each weight of the target.
    """
    found: Any = None
    for mine, its in pairs.items():
        if _may_differ(its, mine) and len(mine.shape) == 2 and mine.shape[0] != mine.shape[1]:
            if its.shape != mine.shape[::-1]:
                return None
            found = its
    return found and f"{found.address!r} of the same file has the target's shape reversed"
