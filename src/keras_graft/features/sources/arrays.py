"""What data holds, as NumPy arrays: tensors of every library, texts, and what is refused."""

from __future__ import annotations

from numbers import Number
from typing import Any

import keras
import numpy as np

from keras_graft.errors import FeatureError


def no_numbers(what: str, dtype: Any, texts: bool) -> FeatureError:
    """Return the error for targets, weights or inputs that are not numbers.

    Args:
        what: Which of them.
        dtype: Their dtype, or kind.
        texts: Whether they are texts.
    """
    if not texts:
        way_out = "give arrays of numbers, such as y.astype('float32')"
    elif what.startswith("inputs"):
        way_out = "give an array of texts, np.asarray(x, str)"
    else:
        way_out = (
            "give each class a number, names, y = np.unique(y, return_inverse=True), or keep them "
            "as the keys of the samples, kg.features.compute(trunk, x, store, keys=y)"
        )
    kind = "texts" if texts else "not numbers"
    return FeatureError(f"The {what} are {kind} ({dtype}), which a store cannot hold: {way_out}.")


def is_array(item: Any) -> bool:
    """Whether something is an array, a tensor or a table."""
    if not (hasattr(item, "dtype") or hasattr(item, "iloc")):
        return False
    return not callable(getattr(item, "shape", len))  # the module numpy has a function `shape`


def rows(leaf: Any) -> int:
    """Return the number of samples in an array; refuse what has no rows."""
    if not is_array(leaf):
        raise FeatureError(f"A batch holds a {type(leaf).__name__}, which is not an array.")
    layout, device = str(getattr(leaf, "layout", "torch.strided")), getattr(leaf, "device", None)
    if (
        any(hasattr(leaf, name) for name in ("tocsr", "row_splits", "dense_shape"))
        or (layout.startswith("torch.") and layout != "torch.strided")
        or getattr(leaf, "is_nested", False)
        or getattr(device, "type", None) == "meta"
    ):
        raise FeatureError(
            f"The data holds a {type(leaf).__name__} that is sparse, ragged or without values: make "
            "it dense, with rows padded to one length."
        )
    if not len(leaf.shape):
        raise FeatureError(
            "The data gives one sample, not a batch of samples: add .batch(n), or batch_size=n."
        )
    if leaf.shape[0] is None:
        raise FeatureError(
            f"The data holds a {type(leaf).__name__} without values: give arrays, or a dataset."
        )
    return int(leaf.shape[0])


def own(leaf: Any, what: str) -> np.ndarray:
    """Return an array of our own: some sources fill the same array for each batch.

    TensorFlow's tensors are copied when they become arrays; they are not copied twice.
    """
    found = array(leaf, what)
    copied = type(leaf).__module__.startswith("tensorflow.") and found.base is None
    return found if copied else found.copy()


def array(given: Any, what: str) -> np.ndarray:
    """Return an array of NumPy of anything that is one.

    Args:
        given: An array or a tensor.
        what: Whether it is of inputs, targets or sample weights.

    Raises:
        FeatureError: If it has no rows of numbers, or of texts that are inputs.
    """
    if isinstance(given, str | bytes) and what != "inputs":  # a DataLoader gives texts as lists
        raise no_numbers(what, f"a list of {type(given).__name__}", True)
    rows(given)
    leaf: Any = given
    if not isinstance(leaf, np.ndarray):
        if hasattr(leaf, "detach"):  # torch's own tensors, whatever the backend is
            leaf = leaf.detach().cpu()
            leaf = leaf.float() if str(leaf.dtype) == "torch.bfloat16" else leaf
        leaf = np.asarray(keras.ops.convert_to_numpy(leaf) if not hasattr(leaf, "numpy") else
                          leaf.numpy())  # fmt: skip
    if leaf.dtype.hasobject:
        items = leaf.reshape(-1).tolist()
        if items and all(isinstance(item, str | bytes) for item in items):
            if what == "inputs":  # for a trunk that takes texts
                return leaf
            raise no_numbers(what, leaf.dtype, True)
        if all(isinstance(item, Number) for item in items):
            raise no_numbers(what, leaf.dtype, False)
        raise FeatureError(
            f"The {what} hold Python objects, or rows of different lengths ({leaf.dtype}): give "
            "arrays of numbers or texts, padded to one length."
        )
    return leaf if leaf.dtype.isnative else leaf.astype(leaf.dtype.newbyteorder("="))
