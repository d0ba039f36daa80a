"""Turn any data that Keras takes into batches of NumPy arrays, in a fixed order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_graft.errors import FeatureError
from keras_graft.features.sources.arrays import array, is_array, no_numbers, own, rows
from keras_graft.features.sources.samples import collated, is_samples
from keras_graft.features.sources.tables import plain
from keras_graft.printable import shown

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
    whole: Any = tree.map_structure(lambda *a: None if a[0] is None else np.concatenate(a), *one)
    return Batch(*whole)


def count(data: Any) -> int | None:
    """Return the number of samples, or None if it is known only after reading them."""
    data = _columned(data)
    if _is_arrays(data):
        return rows(tree.flatten(_parts(data)[0])[0])
    sampler: Any = getattr(data, "sampler", None)  # of a DataLoader
    if hasattr(sampler, "__len__") and data.batch_size and not data.drop_last:
        return len(sampler)
    if is_samples(data):
        return len(data)
    samples = getattr(data, "samples", None)
    return samples if isinstance(samples, int) else None


def batches(data: Any, batch_size: int) -> Iterator[Batch]:
    """Yield the batches of any data that Keras takes.

    Args:
        data: Arrays, or a dict or list of them for several inputs, or a tuple (x, y) or
            (x, y, weights) of these; a torch `Dataset` of samples; a `tf.data.Dataset`, a torch
            `DataLoader`, a Keras `PyDataset`, or any iterable of batches.
        batch_size: For arrays and samples; other data comes in its own batches.

    Raises:
        FeatureError: If it has no end, is not in batches, or holds something other than arrays.
    """
    data = _columned(data)
    if _is_arrays(data):
        whole = _even(Batch(*_parts(data)), "The arrays have")
        for start in range(0, len(whole), batch_size):
            yield _each(whole[start : start + batch_size], array)
        return
    for item in collated(data, batch_size) if is_samples(data) else _items(data):
        # A DataLoader makes lists of tuples, and tuples of texts.
        parts = tuple(item) if isinstance(item, list) and len(item) <= 3 else item
        x, y, w = _parts(parts)
        if isinstance(x, tuple | list) and x and all(isinstance(text, str) for text in x):
            x = np.array(x, object)
        yield _even(_each(Batch(x, y, w), own), "The arrays of a batch have")


def numbered(data: Any) -> Batch | None:
    """Return whole arrays, with numbers in place of inputs; None if the data is not arrays."""
    data = _columned(data)
    if not _is_arrays(data):
        return None
    _, y, w = _parts(data)
    return _each(Batch(np.arange(count(data)), y, w), array)  # type: ignore[arg-type]


def _each(batch: Batch, function: Callable[..., Any]) -> Batch:
    """Return the batch with a function applied to its arrays; it is also told what each is."""
    parts = zip(_PARTS, (batch.x, batch.y, batch.w), strict=True)
    return Batch(*(
        None if part is None else tree.map_structure(partial(function, what=what), part)
        for what, part in parts
    ))  # fmt: skip


def _items(data: Any) -> Iterator[Any]:
    if isinstance(data, keras.utils.PyDataset):
        if data.num_batches is None:
            raise FeatureError("The PyDataset has no end: num_batches is None.")
        yield from (data[i] for i in range(data.num_batches))
        return
    cardinality = getattr(data, "cardinality", None)
    if callable(cardinality) and int(cardinality()) == -1:  # type: ignore[call-overload]
        raise FeatureError("The dataset has no end: remove .repeat().")
    if callable(data) and not hasattr(data, "__iter__") and not hasattr(data, "__getitem__"):
        raise FeatureError(
            f"The data is a function, {shown(getattr(data, '__name__', ''))}: call it, if it gives batches."
        )
    try:
        yield from data  # type: ignore[misc]
    except TypeError as error:
        if hasattr(data, "__iter__") or hasattr(data, "__getitem__"):
            raise
        raise FeatureError(
            f"{type(data).__name__} is not data: give arrays, (x, y), a tf.data.Dataset, a torch "
            "DataLoader, a PyDataset, an iterable of batches, or the path of a folder of images."
        ) from error


def _columned(data: Any) -> Any:
    """Return data with NumPy arrays in place of pandas tables, which are indexed by label.

    Raises:
        FeatureError: If numbers or nested structures stand where arrays are meant.
    """
    if not isinstance(data, tuple):
        return plain(data, "inputs") if _is_arrays(data) else data
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
        if single and not (is_array(part[0]) and len(part[0].shape)):
            raise FeatureError(
                f"The {name} are a list of {type(part[0]).__name__}: give np.asarray({name}), one "
                "row for each sample."
            )
    return tuple(map(plain, data, _PARTS))


def _is_arrays(data: Any) -> bool:
    """Whether these are whole arrays, rather than something that gives batches."""
    if isinstance(data, tuple):
        return 0 < len(data) <= 3 and all(_is_arrays(d) or d is None for d in data)
    if isinstance(data, Mapping):
        return bool(data) and all(is_array(d) for d in data.values())
    if isinstance(data, list):
        return bool(data) and all(is_array(d) for d in data)
    return is_array(data)


def _parts(item: Any) -> tuple[Any, Any, Any]:
    """Return x, y and weights."""
    if isinstance(item, tuple):
        if len(item) > 3:
            raise FeatureError(f"A batch is x, (x, y) or (x, y, weights), got {len(item)} items.")
        return (*item, *(None,) * (3 - len(item)))  # type: ignore[return-value]
    return item, None, None


def _even(batch: Batch, what: str) -> Batch:
    """Return the batch; refuse one whose arrays differ in their number of samples."""
    lengths = {
        rows(leaf)
        for part in (batch.x, batch.y, batch.w)
        for leaf in tree.flatten(part)
        if leaf is not None
    }
    if len(lengths) != 1:
        raise FeatureError(
            f"{what} different numbers of samples: {sorted(lengths)}. Inputs, targets and weights "
            "have one row for each sample."
        )
    return batch
