"""Try everything on the first batch, before the trunk runs over all; and prove it at the end."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import keras
import numpy as np

from keras_graft import advice
from keras_graft.errors import FeatureError
from keras_graft.features.data import Batch, batches
from keras_graft.features.engines.building import Runner
from keras_graft.features.sources.check import check_inputs
from keras_graft.features.store.columns import Columns
from keras_graft.features.store.store import FeatureStore
from keras_graft.printable import shown

tree = keras.tree

_CLOSE = {"float16": 1e-2, "bfloat16": 5e-2}


@dataclass(frozen=True)
class Tried:
    """The first batch, and what the trunk gives for it.

    Attributes:
        batch: The samples of it that can be stored.
        numbers: The numbers of these samples in the data.
        features: The outputs of the trunk for them.
        seconds: The time of the trunk for one sample.
        compile_seconds: How much longer the first call took.
    """

    batch: Batch
    numbers: np.ndarray
    features: Any
    seconds: float
    compile_seconds: float


def tried(
    trunk: Any, data: Any, batch_size: int, dtype: str | None, name: str
) -> tuple[Tried, Any]:
    """Run the trunk on the first batch that has samples which can be stored.

    Args:
        trunk: The frozen trunk.
        data: The data.
        batch_size: Samples in a batch, for arrays.
        dtype: The dtype of the store.
        name: The argument that the data is.

    Returns:
        What it gives, and the data, which still begins with that batch if it is an iterator.

    Raises:
        FeatureError: If the data is empty or has no targets, or if the trunk fails.
    """
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise FeatureError(
            f"batch_size must be a whole number, 1 or more, got {shown(batch_size)}."
        )
    once = hasattr(data, "__next__")
    read: list[Any] = []
    runner, start, columns = Runner(trunk), 0, Columns(dtype, True, None)
    for batch in batches(_kept(data, read) if once else data, batch_size):
        if batch.y is None:
            raise FeatureError(
                f"fit_head needs targets: give {name} as (x, y), or batches of (x, y)."
            )
        columns.check(batch)
        check_inputs(trunk, batch.x)
        started = time.perf_counter()
        features, failed = runner(batch)
        first = time.perf_counter() - started
        works = np.array([i for i in range(len(batch)) if i not in failed], int)
        lost = _overflows(columns, features)
        good = [row for row in range(len(works)) if row not in lost]
        if good:
            part = batch.rows(works[good].tolist())
            features = Batch(features)[good].x
            started = time.perf_counter()
            trunk.predict_on_batch(part.x)
            second = time.perf_counter() - started
            compiling = max(0.0, first - second)
            found = Tried(part, start + works[good], features, second / len(part), compiling)
            return found, itertools.chain(read, data) if once else data
        start += len(batch)
    if not start:
        raise FeatureError(f"The {name} is empty.")
    raise FeatureError(f"The trunk fails on each sample of {name}, {start:,} in all.")


def _overflows(columns: Columns, features: Any) -> set[int]:
    """Return the rows of features that are too large for the dtype of the store."""
    named = columns.of(features)[1]
    return {row for n, array in named.items() for row in columns.cast(n, np.asarray(array))[1]}


def _kept(data: Any, read: list[Any]) -> Any:
    for item in data:
        read.append(item)
        yield item


def check_store(one: Tried, store: FeatureStore) -> None:
    """Compare the store with what the trunk gives, before training.

    Raises:
        FeatureError: If they differ.
    """
    difference, close = _apart(one.features, _in_store(one, store), store)
    if not difference <= close:
        raise FeatureError(
            f"The store in {store.path} does not hold what the trunk gives for the first batch: they "
            f"differ by up to {difference:g}. kg.features.FeatureStore({store.path!r}).verify() checks "
            f"whether shards are damaged; {advice.option('resume', False)} computes them again."
        )


def check_joined(joined: Any, head: Any, one: Tried, store: FeatureStore) -> float:
    """Compare the joined model with the head on the store, on the first batch.

    Returns:
        The largest difference.

    Raises:
        FeatureError: If they differ by more than the dtype of the store explains.
    """
    rows = tree.map_structure(
        lambda a: a.astype("float32") if a.dtype.kind in "fV" else a, _in_store(one, store)
    )
    whole, parts = joined.predict_on_batch(one.batch.x), head.predict_on_batch(rows)
    difference, close = _apart(whole, parts, store)
    if not difference <= close:
        raise FeatureError(
            f"The joined model differs from the head on the store by up to {difference:g}: the "
            "stored dtype is not exact enough for these features: use dtype='float32'."
        )
    return difference


def _in_store(one: Tried, store: FeatureStore) -> Any:
    """Return the features that were stored for the samples of the first batch."""
    if store.manifest.by_content:
        rows = store.find(one.batch.x)
        if (rows < 0).any():
            raise FeatureError(
                f"{(rows < 0).sum()} of the first {len(rows)} samples are not in {store.path}, which was "
                "just computed from this data: it gives other inputs in each pass (random crops or "
                f"flips?). Put augmentation into the model, and give {advice.option('views', 4)}."
            )
    else:  # an earlier version wrote the store
        left_out = np.array(sorted(sample.index for sample in store.manifest.skipped), int)
        rows = one.numbers - np.searchsorted(left_out, one.numbers)
    return store.take(rows, "features")["features"]


def _apart(whole: Any, parts: Any, store: FeatureStore) -> tuple[float, float]:
    """Return how much outputs differ, and how much they may, given the dtype of the store."""
    pairs = [
        (np.asarray(a, "float64"), np.asarray(b, "float64"))
        for a, b in zip(tree.flatten(whole), tree.flatten(parts), strict=True)
    ]
    kinds = {c.dtype for n, c in store.manifest.columns.items() if n.startswith("features/")}
    close = max((_CLOSE.get(kind, 1e-4) for kind in kinds), default=1e-4)
    scale, apart = 1.0, 0.0
    for a, b in pairs:
        finite = np.isfinite(b)
        scale = max(scale, float(np.abs(b[finite]).max(initial=0.0)))
        # A nan equals a nan.
        differs = ~(finite | np.isclose(a, b, equal_nan=True))
        furthest = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
        apart = max(apart, furthest, np.inf if differs.any() else 0.0)
    return apart, close * scale
