"""All steps in one call: split, freeze, compute, train the head, join, check."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from keras_graft import _keras
from keras_graft.edit.freeze import freeze
from keras_graft.errors import FeatureError
from keras_graft.features._compute import compute
from keras_graft.features.data import Batch, batches
from keras_graft.features.head.dataset import FeatureDataset
from keras_graft.features.sources.given import opened
from keras_graft.features.store.columns import Columns
from keras_graft.features.store.store import FeatureStore
from keras_graft.graph.names import listed
from keras_graft.parts.join import join
from keras_graft.parts.split import split
from keras_graft.printable import shown
from keras_graft.tables import Table, Tabular

tree = keras.tree

_CLOSE = {"float16": 1e-2, "bfloat16": 5e-2}


@dataclass(frozen=True)
class Fitted(Tabular):
    """A head trained from a store, joined to its trunk; prints as a table.

    Attributes:
        model: The joined model: the frozen trunk, which shares the donor's weights, and the head.
        head: The head alone.
        history: What `head.fit` returned.
        store: The store.
        compute_seconds: The time to compute the store, or to check that it was there.
        epoch_seconds: The average time of an epoch from the store.
        whole_seconds: The time of the trunk's forward pass over the same samples. An epoch through
            the whole model takes longer.
        difference: The largest difference between the outputs of the joined model and those of
            the head on the stored features, on `checked` samples.
        checked: How many samples were compared.
    """

    model: Any
    head: Any
    history: Any
    store: FeatureStore
    compute_seconds: float
    epoch_seconds: float
    whole_seconds: float
    difference: float
    checked: int

    @property
    def speed_up(self) -> float:
        """How many times faster an epoch is than through the whole model, at least."""
        return self.whole_seconds / self.epoch_seconds

    def tables(self) -> list[Table]:
        """Return the report as a table."""
        rows = [
            ("samples", f"{len(self.store):,}"),
            ("bytes in the store", f"{self.store.bytes:,}"),
            ("seconds to compute the store", f"{self.compute_seconds:.2f}"),
            ("seconds an epoch from the store", f"{self.epoch_seconds:.3f}"),
            ("seconds an epoch through the whole model, more than", f"{self.whole_seconds:.2f}"),
            ("times faster, more than", f"{self.speed_up:.1f}"),
            (f"largest difference of the joined model, {self.checked} samples",
             f"{self.difference:.3g}"),
        ]  # fmt: skip
        return [("", ("the head, trained from the store", ""), rows)]


def fit_head(
    model: Any,
    at: Any,
    data: Any,
    *,
    store: str | os.PathLike[str],
    head: Any = None,
    complete: bool = False,
    compile: Mapping[str, Any] | None = None,
    epochs: int = 1,
    batch_size: int = 32,
    validation_split: float = 0.0,
    dtype: Literal["float16", "bfloat16", "float32"] | None = "float16",
    seed: int = 0,
    resume: bool = True,
    on_error: Literal["raise", "skip"] = "raise",
    progress: bool = True,
    **fit: Any,
) -> Fitted:
    """Train the part of a model above a cut, on features that the part below computes once.

    The donor stays as it was: the head that is trained is a copy, or `head`.

    Args:
        model: The donor.
        at: Where to cut, as `kg.split` takes it.
        data: Data with targets, as `kg.features.compute` takes it. An iterator is refused: the
            first batch is read twice.
        store: The folder for the features, or its URL. An existing store is reused if it was
            computed from the same trunk and data.
        head: A model that takes the features, to train instead of the donor's own head.
        complete: Add the other values that cross the cut, instead of refusing.
        compile: Arguments for `head.compile`; by default those of the donor or of `head`.
        epochs: How many epochs to train.
        batch_size: Samples in a batch, for computing and for training.
        validation_split: The share of the samples, the last ones, to validate on.
        dtype: The dtype in which features are stored.
        seed: The seed for the order of the samples.
        resume: As for `kg.features.compute`.
        on_error: As for `kg.features.compute`.
        progress: Show bars.
        **fit: Other arguments of `fit`.

    Returns:
        The joined model, the history, and a report of times and bytes.

    Raises:
        FeatureError: If the data has no targets or can be read only once; if the head cannot be
            compiled; if the store does not hold what the trunk gives, which is checked before
            training; or if the joined model does not give what the head gave.
        CutError: If a value is missing at the cut.
    """
    data = opened(data, model, batch_size)
    _check_data(data, batch_size)
    if not 0 <= validation_split < 1 or "validation_data" in fit:
        raise FeatureError(
            "validation_split must be between 0 and 1. fit_head takes no validation_data, which would "
            "have to be features: use validation_split. Or train by hand: "
            "kg.features.compute, then head.fit on kg.features.FeatureDataset."
        )
    trunk, own = split(model, at, complete)
    fixed = {id(variable) for variable in trunk.variables}
    # Weights only: a Dropout that both sides call has a state, which may be copied.
    crossing = [w.path for w in own.weights if id(w) in fixed] if head is None else []
    if crossing:
        raise FeatureError(
            f"The head also uses weights of the trunk ({listed(crossing)}), tied or in a "
            "layer that both call. Training them would change the trunk, and a head with its own "
            "would lose the tie: kg.untie or kg.unshare them first, or give a different head=."
        )
    new = _copied(own) if head is None else head
    common = [v.path for v in new.trainable_variables if id(v) in fixed]
    if common:
        raise FeatureError(
            f"The head would train weights of the trunk ({listed(common)}), and the stored "
            "features would no longer match the trunk: give a head with its own layers."
        )
    _compile(new, model, compile)
    trunk = freeze(trunk)
    computed, compute_seconds = _timed(
        lambda: compute(
            trunk, data, store, batch_size=batch_size, dtype=dtype, progress=progress,
            resume=resume, on_error=on_error,
        )
    )  # fmt: skip
    first, numbers = _first(data, batch_size, computed)
    rows = computed.take(numbers, "features")["features"]
    per_sample = _looked_at(trunk, computed, first, rows)
    parts = {
        subset: FeatureDataset(
            computed, batch_size, shuffle=subset != "validation", seed=seed,
            validation_split=validation_split, subset=subset,
        )
        for subset in (["training", "validation"] if validation_split else [None])
    }  # fmt: skip
    training = parts["training" if validation_split else None]
    for subset, part in parts.items():
        if not len(part):
            raise FeatureError(
                f"validation_split={validation_split} of {len(computed)} samples leaves none for "
                f"{subset or 'training'}."
            )
    fed, callbacks = training.fed()
    validation = parts["validation"].fed()[0] if validation_split else None
    given = fit.pop("callbacks", None)
    given = given.callbacks if isinstance(given, keras.callbacks.CallbackList) else given
    history, seconds = _timed(
        lambda: new.fit(
            fed, validation_data=validation, epochs=epochs,
            callbacks=[*callbacks, *([] if given is None else tree.flatten(given))],
            **{"verbose": "auto" if progress else 0, "shuffle": False, **fit},
        )
    )  # fmt: skip
    joined = join(trunk, new)
    difference = _proved(joined, new, computed, first, rows)
    return Fitted(
        joined, new, history, computed, compute_seconds, seconds / max(len(history.epoch), 1),
        per_sample * len(training.indices), difference, len(first),
    )  # fmt: skip


def _check_data(data: Any, batch_size: int) -> None:
    """Refuse data without targets, and data that can be read only once."""
    if hasattr(data, "__next__"):
        raise FeatureError(
            f"The {type(data).__name__} can be read only once, and fit_head reads the first "
            "batch twice: give arrays, a list of batches, a tf.data.Dataset, a DataLoader or a "
            "PyDataset."
        )
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise FeatureError(
            f"batch_size must be a whole number, 1 or more, got {shown(batch_size)}."
        )
    first = next(iter(batches(data, batch_size)), None)
    if first is None:
        raise FeatureError("The data is empty.")
    if first.y is None:
        raise FeatureError("fit_head needs targets: give data as (x, y), or batches of (x, y).")
    Columns(None, True, None).check(first)


def _first(data: Any, batch_size: int, store: FeatureStore) -> tuple[Batch, np.ndarray]:
    """Return the stored samples of the first batch that has any, and their numbers in the store."""
    skipped = {sample.index for sample in store.manifest.skipped}
    start = 0
    for batch in batches(data, batch_size):
        if store.manifest.by_content:
            found = store.find(batch.x)
        else:
            there = np.array([start + i not in skipped for i in range(len(batch))])
            found = np.where(there, np.cumsum(there) - 1, -1)
        kept = np.flatnonzero(found >= 0)
        if len(kept):
            return batch.rows(kept.tolist()), found[kept]
        start += len(batch)
        if not skipped:
            raise FeatureError(
                f"None of the first {start} samples is in {store.path}, which was just computed from this "
                "data: it changes the inputs in each pass (random crops or flips?). Put augmentation "
                "into the model, or leave it out."
            )
    raise FeatureError(f"The trunk fails on each of the {start} samples.")


def _timed(run: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    return run(), time.perf_counter() - start


def _copied(head: Any) -> Any:
    """Return a copy of the head, so that the donor's layers are not trained."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.keras"
        _keras.save(head, path)
        # We wrote the file ourselves, so Lambda layers in it may be loaded.
        return keras.saving.load_model(path, compile=False, safe_mode=False)


def _compile(head: Any, model: Any, arguments: Mapping[str, Any] | None) -> None:
    if arguments is not None:
        head.compile(**arguments)
    elif not getattr(head, "compiled", False):
        if not getattr(model, "compiled", False):
            raise FeatureError(
                "Nothing says how to train the head. Give compile={'optimizer': 'adam', 'loss': "
                "'sparse_categorical_crossentropy'}, or compile the head."
            )
        _keras.compile_like(head, model)


def _looked_at(trunk: Any, store: FeatureStore, first: Batch, rows: Any) -> float:
    """Compare the trunk with the store before training; return its time for a sample."""
    given = trunk.predict_on_batch(first.x)  # compiled before it is timed
    _, seconds = _timed(lambda: trunk.predict_on_batch(first.x))
    difference, close = _apart(given, rows, store)
    if not difference <= close:
        raise FeatureError(
            f"The store in {store.path} does not hold what the trunk gives for the first batch: they "
            f"differ by up to {difference:g}. Does the data come in a different order each time "
            "(shuffle=True)? If not, kg.features.FeatureStore("
            f"{store.path!r}).verify() checks the shards; resume=False computes them again."
        )
    return seconds / len(first)


def _proved(joined: Any, head: Any, store: FeatureStore, first: Batch, rows: Any) -> float:
    """Compare the joined model with the head on the store, on the first batch."""
    rows = tree.map_structure(lambda a: a.astype("float32") if a.dtype.kind in "fV" else a, rows)
    whole, parts = joined.predict_on_batch(first.x), head.predict_on_batch(rows)
    difference, close = _apart(whole, parts, store)
    if not difference <= close:
        raise FeatureError(
            f"The joined model differs from the head on the store by up to {difference:g}: the "
            "stored dtype is not exact enough for these features: use dtype='float32'."
        )
    return difference


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
