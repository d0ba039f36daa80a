"""All steps in one call: split, freeze, compute, train the head, join, check."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import keras

from keras_graft.edit.freeze import freeze
from keras_graft.errors import FeatureError
from keras_graft.features._compute import compute
from keras_graft.features.augment import augmentation, names_of
from keras_graft.features.fixed_trunk import changing
from keras_graft.features.head import heads
from keras_graft.features.head.checks import check_joined, check_store, tried
from keras_graft.features.head.classes import balanced, classes_of, counts
from keras_graft.features.head.dataset import FeatureDataset
from keras_graft.features.head.report import Fitted, Part, Times
from keras_graft.features.store.store import FeatureStore
from keras_graft.graph.names import listed
from keras_graft.layers.frozen import Frozen
from keras_graft.parts.join import join
from keras_graft.parts.split import split
from keras_graft.printable import shown

tree = keras.tree


def fit_head(
    model: Any,
    at: Any,
    data: Any,
    *,
    store: str | os.PathLike[str] | None = None,
    head: Any = None,
    complete: bool = False,
    compile: Mapping[str, Any] | None = None,
    epochs: int = 1,
    batch_size: int = 32,
    validation_split: float = 0.0,
    validation_data: Any = None,
    augment: Literal["off"] | None = None,
    views: int | None = None,
    class_weight: Mapping[int, float] | Literal["balanced"] | None = None,
    dtype: Literal["float16", "bfloat16", "float32"] | None = "float16",
    seed: int = 0,
    resume: bool = True,
    on_error: Literal["raise", "skip"] = "raise",
    progress: bool = True,
    **fit: Any,
) -> Fitted:
    """Train the part of a model above a cut, on features that the part below computes once.

    The donor stays as it was: the head that is trained is a copy, or `head`. The trunk is frozen:
    no weight of it is trained, dropout is off, BatchNormalization keeps its averages. Before the
    trunk runs over the data, everything is tried on the first batch.

    Args:
        model: The donor.
        at: Where to cut, as `kg.split` takes it.
        data: Data with targets, as `kg.features.compute` takes it.
        store: The folder for the features, or its URL. An existing store is reused if it was
            computed from the same trunk and data. None: a temporary folder, which is deleted with
            the report, or on TensorFlow when Python exits; the system keeps it in memory while it
            is small.
        head: What to train instead of a copy of the donor's own head: a model that takes the
            features; a layer or a list of layers; or a number of classes, for a `Dense` layer on
            the mean of the features.
        complete: Add the other values that cross the cut, instead of refusing.
        compile: Arguments for `head.compile`; by default those of `head` or of the donor. For a
            number of classes: Adam, the cross-entropy that fits the targets, and accuracy.
        epochs: How many epochs to train.
        batch_size: Samples in a batch, for computing and for training.
        validation_split: The share of the samples to validate on. They are drawn with `seed`; if
            the targets are classes, each class is divided in this proportion.
        validation_data: Data to validate on, in any form that `data` may have. Its features are
            stored beside those of `data`, in the folder of the name `store` with `-validation`.
        augment: `"off"` trains without the layers of the trunk that augment (`RandomFlip`,
            `GaussianNoise`). A trunk that has some is refused, unless you give this or `views`.
        views: Store so many views of each sample, with augmentation on, beside its features
            without; each epoch trains on one of them. The trunk runs `views + 1` times.
        class_weight: How much a sample of each class counts, as `fit` takes it; `"balanced"`: each
            class counts the same.
        dtype: The dtype in which features are stored.
        seed: The seed for the order of the samples, for `validation_split` and for `views`.
        resume: As for `kg.features.compute`.
        on_error: As for `kg.features.compute`.
        progress: Show bars.
        **fit: Other arguments of `fit`.

    Returns:
        The joined model, the history, and a report: losses, metrics, classes, times and bytes. It
        prints as tables, is drawn with curves in a notebook, and has `to_dict()`.

    Raises:
        FeatureError: If the data has no targets; if the head cannot be compiled, or trained on the
            first batch; if the store does not hold what the trunk gives, which is checked before
            training; or if the joined model does not give what the head gave.
        CutError: If a value is missing at the cut.

    >>> import keras, numpy as np, keras_graft as kg
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, name="features")])
    >>> x = np.random.default_rng(0).random((30, 4), "float32")
    >>> fitted = kg.features.fit_head(
    ...     model, "features", (x, np.arange(30) % 3), head=3, validation_split=0.2, progress=False
    ... )
    >>> fitted.model.output_shape, fitted.validation.classes
    ((None, 3), {0: 2, 1: 2, 2: 2})
    """
    _check_choices(validation_split, validation_data, augment, views, class_weight, fit)
    trunk, own = split(model, at, complete)
    new = _head(trunk, own, head, compile)
    drawing = [node for node in augmentation(trunk) if not isinstance(node.operation, Frozen)]
    augmented = names_of(drawing)
    if augmented and augment is None and views is None:
        raise FeatureError(
            f"{listed(augmented)} of the trunk draw random numbers in training, and a trunk that runs "
            'once gives the same features in each epoch. Say what to do: augment="off" trains without, '
            "views=4 stores 4 augmented views of each sample."
        )
    frozen = [name for name in changing(trunk) if name not in augmented]
    trunk = freeze(trunk)
    try_out, data = tried(trunk, data, batch_size, dtype, "data")
    heads.compiled(new, head, model, compile, try_out.batch.y)
    heads.check_trains(new, try_out.features, try_out.batch)
    tries = [try_out]
    if validation_data is not None:
        other, validation_data = tried(trunk, validation_data, batch_size, dtype, "validation_data")
        heads.check_trains(new, other.features, other.batch)
        tries.append(other)

    started = time.perf_counter()
    how = {
        "batch_size": batch_size, "dtype": dtype, "progress": progress, "resume": resume,
        "on_error": on_error,
    }  # fmt: skip
    computed = _computed(trunk, data, store, "", views=views or 0, seed=seed, **how)
    stores = [computed]
    if validation_data is not None:
        stores.append(_computed(trunk, validation_data, store, "-validation", **how))
    compute_seconds = time.perf_counter() - started
    for one, there in zip(tries, stores, strict=True):
        check_store(one, there)

    parts = _parts(stores, batch_size, seed, validation_split)
    classes = [
        _classes(part, there) for part, there in zip(parts, [stores[0], stores[-1]], strict=False)
    ]
    for found in filter(None, classes):
        heads.check_classes(new, max(found))
    weight = _weights(class_weight, classes[0])
    clock = _Clock()
    fed, callbacks = parts[0].fed()
    given = fit.pop("callbacks", None)
    given = given.callbacks if isinstance(given, keras.callbacks.CallbackList) else given
    if progress:
        print(f"The head is trained on {len(parts[0].indices):,} samples.")
    history = new.fit(
        fed,
        validation_data=parts[1].fed()[0] if len(parts) > 1 else None,
        epochs=epochs,
        callbacks=[clock, *callbacks, *([] if given is None else tree.flatten(given))],
        class_weight=weight,
        **{"verbose": "auto" if progress else 0, "shuffle": False, **fit},
    )
    joined = join(trunk, new)
    difference = check_joined(joined, new, try_out, computed)
    reports = [
        Part(len(part.indices), found, _final(new, part))
        for part, found in zip(parts, classes, strict=True)
    ]  # fmt: skip
    return Fitted(
        model=joined,
        head=new,
        history=history,
        store=computed,
        validation_store=stores[1] if len(stores) > 1 else None,
        training=reports[0],
        validation=reports[1] if len(reports) > 1 else None,
        class_names=_class_names(data),
        times=Times(
            try_out.compile_seconds, compute_seconds, clock.first, clock.rest,
            try_out.seconds * len(parts[0].indices),
        ),
        views=views or 0,
        augmented=tuple(augmented),
        frozen=tuple(frozen),
        class_weight=weight,
        difference=difference,
        checked=len(try_out.batch),
        _epochs=len(history.epoch),
    )  # fmt: skip


def _check_choices(
    split: Any, data: Any, augment: Any, views: Any, class_weight: Any, fit: dict[str, Any]
) -> None:
    if not 0 <= split < 1:
        raise FeatureError(f"validation_split must be between 0 and 1, got {shown(split)}.")
    if split and data is not None:
        raise FeatureError("Give validation_split or validation_data, not both.")
    if augment not in (None, "off") or (augment and views is not None):
        raise FeatureError(
            f'augment must be "off", and without views=; got {shown(augment)} and views={shown(views)}.'
        )
    if views is not None and (isinstance(views, bool) or not isinstance(views, int) or views < 1):
        raise FeatureError(f"views must be a whole number, 1 or more, got {shown(views)}.")
    if not (class_weight in (None, "balanced") or isinstance(class_weight, Mapping)):
        raise FeatureError(
            f'class_weight must be "balanced" or a dict of numbers, got {shown(class_weight)}.'
        )
    taken = {"x", "y", "sample_weight"} & fit.keys()
    if taken:
        raise FeatureError(
            f"fit_head takes no {listed(sorted(taken))}: give data=(x, y) or data=(x, y, weights)."
        )


def _head(trunk: Any, own: Any, head: Any, compile: Mapping[str, Any] | None) -> Any:
    """Return the head to train; refuse one that shares weights with the trunk."""
    fixed = {id(variable) for variable in trunk.variables}
    # Weights only: a Dropout that both sides call has a state, which may be copied.
    crossing = [w.path for w in own.weights if id(w) in fixed] if head is None else []
    if crossing:
        raise FeatureError(
            f"The head also uses weights of the trunk ({listed(crossing)}), tied or in a "
            "layer that both call. Training them would change the trunk, and a head with its own "
            "would lose the tie: kg.untie or kg.unshare them first, or give a different head=."
        )
    new = heads.copied(own) if head is None else heads.made(head, trunk, compile)
    common = [v.path for v in new.trainable_variables if id(v) in fixed]
    if common:
        raise FeatureError(
            f"The head would train weights of the trunk ({listed(common)}), and the stored "
            "features would no longer match the trunk: give a head with its own layers."
        )
    return new


def _computed(trunk: Any, data: Any, store: Any, suffix: str, **how: Any) -> FeatureStore:
    """Compute a store; without a path, in a folder that is deleted with the store."""
    if store is not None:
        return compute(trunk, data, f"{os.fspath(store).rstrip('/')}{suffix}", **how)
    folder = tempfile.mkdtemp(prefix="keras-graft-features-")
    try:
        found = compute(trunk, data, Path(folder) / "store", **how)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(found, shutil.rmtree, folder, ignore_errors=True)
    return found


def _parts(
    stores: list[FeatureStore], batch_size: int, seed: int, split: float
) -> list[FeatureDataset]:
    """Return the datasets for training and, if there is one, for validation; none is empty."""
    if len(stores) > 1:
        parts = [
            FeatureDataset(stores[0], batch_size, seed=seed),
            FeatureDataset(stores[1], batch_size, shuffle=False, views=False),
        ]
    else:
        parts = [
            FeatureDataset(
                stores[0], batch_size, shuffle=subset != "validation", seed=seed,
                validation_split=split, subset=subset,
            )
            for subset in (["training", "validation"] if split else [None])
        ]  # fmt: skip
    for name, part in zip(("training", "validation"), parts, strict=False):
        if not len(part):
            raise FeatureError(
                f"validation_split={split} of {len(stores[0])} samples leaves none for {name}."
            )
    return parts


def _classes(part: FeatureDataset, store: FeatureStore) -> dict[int, int] | None:
    found = classes_of(store)
    return None if found is None else counts(found[part.indices])


def _weights(
    given: Mapping[int, float] | str | None, classes: dict[int, int] | None
) -> dict[int, float] | None:
    if given != "balanced":
        return None if given is None else dict(given)  # type: ignore[arg-type]
    if classes is None:
        raise FeatureError(
            'class_weight="balanced" needs targets that are classes: whole numbers, or rows with a '
            "single one. Store sample weights instead: data=(x, y, weights)."
        )
    return balanced(classes)


def _final(head: Any, part: FeatureDataset) -> dict[str, float]:
    """Return the loss and the metrics of a trained head, without augmentation."""
    if not heads.evaluates(head):
        return {}
    plain = part.plain()
    found = head.evaluate(plain, verbose=0, return_dict=True)
    return {name: float(value) for name, value in found.items()}


def _class_names(data: Any) -> tuple[str, ...] | None:
    names = getattr(data, "class_names", None)
    return tuple(map(str, names)) if isinstance(names, list | tuple) else None


class _Clock(keras.callbacks.Callback):
    """Measures training: `first` until the first step has ended, and `rest` after it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.rest = 0.0
        self._start = self._last = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        self._start = self._last = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self.first:
            self._last = time.perf_counter()
            self.first = self._last - self._start

    def on_train_end(self, logs: Any = None) -> None:
        self.rest = time.perf_counter() - self._last
