"""All steps in one call: split, freeze, compute, train the head, join, check."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from keras_graft import advice
from keras_graft.edit.freeze import freeze
from keras_graft.errors import FeatureError, WeightsError
from keras_graft.features._compute import compute
from keras_graft.features.augment import augmentation, names_of
from keras_graft.features.fixed_trunk import changing
from keras_graft.features.head import heads
from keras_graft.features.head.checks import check_joined, check_store, tried
from keras_graft.features.head.report import Fitted, Times
from keras_graft.features.head.training import Training
from keras_graft.features.sources.given import class_names, opened
from keras_graft.features.store.store import FeatureStore
from keras_graft.graph.names import listed
from keras_graft.layers.frozen import Frozen
from keras_graft.parts.join import join
from keras_graft.parts.split import split
from keras_graft.printable import shown
from keras_graft.weights.go_on_training import go_on_training


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
        The joined model, compiled as the head was and with its optimizer's state; the history; and
        a report: losses, metrics, classes, times and bytes. It
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
    data = opened(data, model, batch_size)
    if validation_data is not None:
        validation_data = opened(validation_data, model, batch_size)
    trunk, own = split(model, at, complete)
    new = _head(trunk, own, head, compile)
    augmented = _augmented(trunk, augment, views)
    frozen = tuple(name for name in changing(trunk) if name not in augmented)
    trunk = freeze(trunk)
    sources = {"data": data}
    if validation_data is not None:
        sources["validation_data"] = validation_data
    first = {}
    for name, source in sources.items():
        first[name], sources[name] = tried(trunk, source, batch_size, dtype, name)
        if name == "data":
            _check_weights(class_weight, first[name].batch.w)
            heads.compiled(new, head, model, compile, first[name].batch.y)
        heads.check_trains(new, first[name].features, first[name].batch)

    started = time.perf_counter()
    stores = [
        _computed(
            trunk, source, store, "" if name == "data" else "-validation", batch_size=batch_size,
            dtype=dtype, views=(views or 0) if name == "data" else 0, seed=seed, resume=resume,
            on_error=on_error, progress=progress,
        )
        for name, source in sources.items()
    ]  # fmt: skip
    compute_seconds = time.perf_counter() - started
    for one, computed in zip(first.values(), stores, strict=True):
        check_store(one, computed)

    training = Training(new, stores, batch_size, seed, validation_split, class_weight)
    try:
        training.fit(epochs, progress, fit)
    except KeyboardInterrupt as error:
        if store is not None:
            error.add_note(
                f"The features are kept in {stores[0].path}: call again, and only the head is trained again."
            )
        raise
    joined = join(trunk, new)
    with contextlib.suppress(WeightsError):  # an optimizer that cannot be made again
        go_on_training(new, joined)
    one = first["data"]
    return Fitted(
        model=joined, head=new, history=training.history, store=stores[0],
        validation_store=stores[1] if len(stores) > 1 else None, training=training.report(0),
        validation=training.report(1) if len(training.parts) > 1 else None,
        class_names=class_names(data),
        times=Times(
            one.compile_seconds, compute_seconds, training.clock.compiling, training.clock.epoch,
            one.seconds * len(training.parts[0].indices),
        ),
        views=views or 0, augmented=augmented, frozen=frozen, class_weight=training.weights,
        difference=check_joined(joined, new, one, stores[0]), checked=len(one.batch),
    )  # fmt: skip


def _augmented(trunk: Any, augment: str | None, views: int | None) -> tuple[str, ...]:
    """Return the layers that augment; refuse them if nothing says what should happen."""
    nodes = augmentation(trunk)
    if views is None:  # a frozen layer draws for views alone
        nodes = [node for node in nodes if not isinstance(node.operation, Frozen)]
    names = names_of(nodes)
    if names and augment is None and views is None:
        raise FeatureError(
            f"Layers of the trunk draw random numbers in training: {listed(names)}. A trunk that runs once "
            f"gives the same features in each epoch. Say what to do: {advice.option('augment', 'off')} trains without, "
            f"{advice.option('views', 4)} stores 4 augmented views of each sample."
        )
    return tuple(names)


def _check_choices(
    split: Any, data: Any, augment: Any, views: Any, class_weight: Any, fit: dict[str, Any]
) -> None:
    if not 0 <= split < 1:
        raise FeatureError(f"validation_split must be between 0 and 1, got {shown(split)}.")
    if split and data is not None:
        raise FeatureError("Give validation_split or validation_data, not both.")
    if augment not in (None, "off") or (augment and views is not None):
        raise FeatureError(
            f"Give {advice.option('augment', 'off')} or views=, not both; got {shown(augment)} and views={shown(views)}."
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


def _check_weights(class_weight: Any, weights: Any) -> None:
    """Refuse both kinds of weights: Keras does, when the trunk has run over everything."""
    if class_weight is not None and weights is not None:
        raise FeatureError(
            "class_weight= and the sample weights of data=(x, y, weights) do not go together. Leave one "
            "out, or multiply the weights yourself: data=(x, y, weights * np.array([1.0, 2.0])[y])."
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
