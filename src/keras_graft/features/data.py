"""Turn any data that Keras takes into batches of NumPy arrays, in a fixed order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from numbers import Number
from typing import Any

import keras
import numpy as np

from keras_graft.errors import FeatureError

tree = keras.tree

_PARTS = "inputs", "targets", "sample weights"


@dataclass(frozen=True)
class Batch:
    """Some samples: inputs, targets, sample weights and keys.

    Attributes:
        x: Inputs, nested as the trunk takes them.
        y: Targets, or None.
        w: Sample weights, or None.
        k: Keys, as a store holds them, or None.
    """

    x: Any
    y: Any = None
    w: Any = None
    k: Any = None

    def __len__(self) -> int:
        return int(tree.flatten(self.x)[0].shape[0])

    def rows(self, numbers: list[int]) -> Batch:
        """Return some of the samples; if it is all of them, without a copy."""
        return self if len(numbers) == len(self) else self[numbers]

    def __getitem__(self, rows: Any) -> Batch:
        return self.map(lambda array: array[rows])

    def map(self, function: Callable[[Any], Any]) -> Batch:
        """Return the batch with a function applied to each of its arrays."""
        return Batch(*(
            None if part is None else tree.map_structure(function, part)
            for part in (self.x, self.y, self.w, self.k)
        ))  # fmt: skip


def joined(parts: list[Batch]) -> Batch:
    """Return one batch of the samples of several, whose arrays have the same shapes and dtypes."""
    if len(parts) == 1:
        return parts[0]
    one = [(part.x, part.y, part.w, part.k) for part in parts]
    return Batch(*tree.map_structure(lambda *a: None if a[0] is None else np.concatenate(a), *one))


def count(data: Any) -> int | None:
    """Return the number of samples, or None if it is known only after reading them."""
    data = _columned(data)
    if _is_arrays(data):
        return _rows(tree.flatten(_parts(data)[0])[0])
    sampler: Any = getattr(data, "sampler", None)  # of a DataLoader
    if hasattr(sampler, "__len__") and data.batch_size and not data.drop_last:
        return len(sampler)
    samples = getattr(data, "samples", None)
    return samples if isinstance(samples, int) else None


def batches(data: Any, batch_size: int) -> Iterator[Batch]:
    """Yield the batches of any data that Keras takes.

    Args:
        data: Arrays, or a dict or list of them for several inputs, or a tuple (x, y) or
            (x, y, weights) of these; a `tf.data.Dataset`, a torch `DataLoader`, a Keras
            `PyDataset`, or any iterable of batches.
        batch_size: For arrays; other data comes in its own batches.

    Raises:
        FeatureError: If it has no end, is not in batches, or holds something other than arrays.
    """
    data = _columned(data)
    if _is_arrays(data):
        whole = _even(Batch(*_parts(data)), "The arrays have")
        for start in range(0, len(whole), batch_size):
            yield _each(whole[start : start + batch_size], _array)
        return
    for item in _items(data):
        # A DataLoader makes lists of tuples.
        parts = tuple(item) if isinstance(item, list) and len(item) <= 3 else item
        yield _even(_each(Batch(*_parts(parts)), _own), "The arrays of a batch have")


def numbered(data: Any) -> Batch | None:
    """Return whole arrays, with numbers in place of inputs; None if the data is not arrays."""
    data = _columned(data)
    if not _is_arrays(data):
        return None
    _, y, w = _parts(data)
    return _each(Batch(np.arange(count(data)), y, w), _array)  # type: ignore[arg-type]


def _each(batch: Batch, function: Callable[..., Any]) -> Batch:
    """Return the batch with a function applied to its arrays; it is also told what each is."""
    parts = zip(_PARTS, (batch.x, batch.y, batch.w), strict=True)
    return Batch(*(
        None if part is None else tree.map_structure(partial(function, what=what), part)
        for what, part in parts
    ))  # fmt: skip


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
        way_out = "give an array of texts of one length, x.astype(str)"
    else:
        way_out = (
            "give each class a number, names, y = np.unique(y, return_inverse=True), or keep them "
            "as the keys of the samples, kg.features.compute(trunk, x, store, keys=y)"
        )
    kind = "texts" if texts else "not numbers"
    return FeatureError(f"The {what} are {kind} ({dtype}), which a store cannot hold: {way_out}.")


def _items(data: Any) -> Iterator[Any]:
    if isinstance(data, keras.utils.PyDataset):
        if data.num_batches is None:
            raise FeatureError("The PyDataset has no end: num_batches is None.")
        yield from (data[i] for i in range(data.num_batches))
        return
    cardinality = getattr(data, "cardinality", None)
    if callable(cardinality) and int(cardinality()) == -1:  # type: ignore[call-overload]
        raise FeatureError("The dataset has no end: remove .repeat().")
    try:
        yield from data
    except TypeError as error:
        if hasattr(data, "__iter__") or hasattr(data, "__getitem__"):
            raise
        raise FeatureError(
            f"{type(data).__name__} is not data: give arrays, (x, y), a tf.data.Dataset, a torch "
            "DataLoader, a PyDataset or an iterable of batches."
        ) from error


def _columned(data: Any) -> Any:
    """Return data with NumPy arrays in place of pandas tables, which are indexed by label.

    Raises:
        FeatureError: If numbers or nested structures stand where arrays are meant.
    """

    def plain(part: Any) -> Any:
        return tree.map_structure(lambda a: a.to_numpy() if hasattr(a, "iloc") else a, part)

    if not isinstance(data, tuple):
        return plain(data) if _is_arrays(data) else data
    if len(data) > 3 or not data:
        return data
    if data[0] is None:
        raise FeatureError("The data has no inputs: the first of (x, y) is None.")
    for name, part in zip(("inputs", "targets", "weights"), data, strict=False):
        inner = [*part.values()] if isinstance(part, Mapping) else part
        if isinstance(part, Mapping) and any(isinstance(v, Mapping | list | tuple) for v in inner):
            raise FeatureError(
                f"The {name} are nested more than once: give an array, or a dict or list of arrays."
            )
        single = isinstance(part, list) and part and not isinstance(part[0], tuple | Mapping)
        if single and isinstance(part[0], str | bytes):
            raise no_numbers(name, f"a list of {type(part[0]).__name__}", True)
        if single and not (_is_array(part[0]) and len(part[0].shape)):
            raise FeatureError(
                f"The {name} are a list of {type(part[0]).__name__}: give np.asarray({name}), one "
                "row for each sample."
            )
    return tuple(map(plain, data))


def _is_arrays(data: Any) -> bool:
    """Whether these are whole arrays, rather than something that gives batches."""
    if isinstance(data, tuple):
        return 0 < len(data) <= 3 and all(_is_arrays(d) or d is None for d in data)
    if isinstance(data, Mapping):
        return bool(data) and all(_is_array(d) for d in data.values())
    if isinstance(data, list):
        return bool(data) and all(_is_array(d) for d in data)
    return _is_array(data)


def _is_array(item: Any) -> bool:
    if not (hasattr(item, "dtype") or hasattr(item, "iloc")):
        return False
    return not callable(getattr(item, "shape", len))  # the module numpy has a function `shape`


def _rows(leaf: Any) -> int:
    """Return the number of samples in an array; refuse what has no rows."""
    if not _is_array(leaf):
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


def _parts(item: Any) -> tuple[Any, Any, Any]:
    """Return x, y and weights."""
    if isinstance(item, tuple):
        if len(item) > 3:
            raise FeatureError(f"A batch is x, (x, y) or (x, y, weights), got {len(item)} items.")
        return (*item, *(None,) * (3 - len(item)))  # type: ignore[return-value]
    return item, None, None


def _even(batch: Batch, what: str) -> Batch:
    """Return the batch; refuse one whose arrays differ in their number of samples."""
    rows = {
        _rows(leaf)
        for part in (batch.x, batch.y, batch.w)
        for leaf in tree.flatten(part)
        if leaf is not None
    }
    if len(rows) != 1:
        raise FeatureError(
            f"{what} different numbers of samples: {sorted(rows)}. Inputs, targets and weights "
            "have one row for each sample."
        )
    return batch


def _own(leaf: Any, what: str) -> np.ndarray:
    """Return an array of our own: some sources fill the same array for each batch.

    TensorFlow's tensors are copied when they become arrays; they are not copied twice.
    """
    array = _array(leaf, what)
    copied = type(leaf).__module__.startswith("tensorflow.") and array.base is None
    return array if copied else array.copy()


def _array(given: Any, what: str) -> np.ndarray:
    if isinstance(given, str | bytes) and what != "inputs":  # a DataLoader gives texts as lists
        raise no_numbers(what, f"a list of {type(given).__name__}", True)
    _rows(given)
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
            raise no_numbers(what, leaf.dtype, True)
        if all(isinstance(item, Number) for item in items):
            raise no_numbers(what, leaf.dtype, False)
        raise FeatureError(
            f"The {what} hold Python objects, or rows of different lengths ({leaf.dtype}): give "
            "arrays of numbers or texts, padded to one length."
        )
    return leaf if leaf.dtype.isnative else leaf.astype(leaf.dtype.newbyteorder("="))
