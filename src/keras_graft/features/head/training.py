"""Train a head on stores: their parts, the weights of classes, and the time it takes."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Mapping
from typing import Any

import keras

from keras_graft import advice
from keras_graft.errors import FeatureError
from keras_graft.features.head import heads
from keras_graft.features.head.classes import balanced, classes_of, counts
from keras_graft.features.head.dataset import FeatureDataset
from keras_graft.features.head.report import Part
from keras_graft.features.store.store import FeatureStore
from keras_graft.tables import counted

tree = keras.tree


class Training:
    """The training of a compiled head.

    Args:
        head: The head.
        stores: The store of the data and, if there is one, that of `validation_data`.
        batch_size: Samples in a batch.
        seed: The seed for the order and for `split`.
        split: The share of the store to validate on, if there is only one store.
        class_weight: As `fit_head` takes it.

    Attributes:
        parts: The dataset for training and, if there is one, that for validation.
        weights: How much a sample of each class counts, or None.
        history: What `fit` returned.
        clock: How long it took.

    Raises:
        FeatureError: If a part is empty, or has a class that the head does not know.
    """

    def __init__(
        self,
        head: Any,
        stores: list[FeatureStore],
        batch_size: int,
        seed: int,
        split: float,
        class_weight: Mapping[int, float] | str | None,
    ) -> None:
        self._head = head
        self.parts = _parts(stores, batch_size, seed, split)
        found = map(classes_of, stores)
        every = list(found) * (2 if len(stores) == 1 else 1)
        self._classes = [
            None if classes is None else counts(classes[part.indices])
            for part, classes in zip(self.parts, every, strict=False)
        ]
        for classes in filter(None, self._classes):
            heads.check_classes(head, max(classes))
        self.weights = _weights(class_weight, self._classes[0])
        self.history: Any = None
        self.clock = Clock()

    def fit(self, epochs: int, progress: bool, more: dict[str, Any]) -> None:
        """Train.

        Args:
            epochs: How many epochs.
            progress: Show bars.
            more: Other arguments of `fit`.
        """
        more = dict(more)
        given = more.pop("callbacks", None)
        given = given.callbacks if isinstance(given, keras.callbacks.CallbackList) else given
        fed, callbacks = self.parts[0].fed()
        if progress:
            print(
                f"Training the head on the features of {counted(len(self.parts[0].indices), 'sample')}."
            )
        self.history = self._head.fit(
            fed,
            validation_data=self.parts[1].fed()[0] if len(self.parts) > 1 else None,
            epochs=epochs,
            callbacks=[self.clock, *callbacks, *([] if given is None else tree.flatten(given))],
            class_weight=self.weights,
            **{"verbose": "auto" if progress else 0, "shuffle": False, **more},
        )

    def report(self, number: int) -> Part:
        """Return what the trained head gives for a part, without augmentation."""
        part, final = self.parts[number], {}
        if heads.evaluates(self._head):
            found = self._head.evaluate(part.plain(), verbose=0, return_dict=True)
            final = {name: float(value) for name, value in found.items()}
        return Part(len(part.indices), self._classes[number], final)


def _parts(
    stores: list[FeatureStore], batch_size: int, seed: int, split: float
) -> list[FeatureDataset]:
    """Return the datasets for training and validation; refuse an empty one."""
    if len(stores) > 1:
        return [
            FeatureDataset(stores[0], batch_size, seed=seed),
            FeatureDataset(stores[1], batch_size, shuffle=False, views=False),
        ]
    subsets = ["training", "validation"] if split else [None]
    parts = [
        FeatureDataset(
            stores[0], batch_size, shuffle=subset != "validation", seed=seed,
            validation_split=split, subset=subset,
        )
        for subset in subsets
    ]  # fmt: skip
    for name, part in zip(subsets, parts, strict=True):
        if not len(part):
            raise FeatureError(
                f"validation_split={split} of {counted(len(stores[0]), 'sample')} leaves none for "
                f"{name or 'training'}."
            )
    return parts


def _weights(
    given: Mapping[int, float] | str | None, classes: dict[int, int] | None
) -> dict[int, float] | None:
    if given != "balanced":
        return None if given is None else dict(given)  # type: ignore[arg-type]
    if classes is None:
        raise FeatureError(
            f"{advice.option('class_weight', 'balanced')} needs targets that are classes: whole numbers, or rows with a "
            "single one. Store sample weights instead: data=(x, y, weights)."
        )
    return balanced(classes)


class Clock(keras.callbacks.Callback):
    """Measures training in seconds.

    Attributes:
        compiling: How much longer the first epoch took than the others: until the first step has
            ended, if there is only one epoch.
        epoch: How long an epoch takes: the median of those after the first.
        count: How many epochs there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ends: list[float] = []
        self._start = self._first_step = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        self._start = self._first_step = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._first_step == self._start:
            self._first_step = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._ends.append(time.perf_counter())

    @property
    def count(self) -> int:
        return len(self._ends)

    @property
    def epoch(self) -> float:
        if self.count < 2:
            return sum(self._ends) - self._first_step * self.count
        return statistics.median(b - a for a, b in itertools.pairwise(self._ends))

    @property
    def compiling(self) -> float:
        if self.count < 2:
            return self._first_step - self._start
        return max(0.0, self._ends[0] - self._start - self.epoch)
