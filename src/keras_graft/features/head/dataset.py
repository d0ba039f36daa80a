"""Batches from stores, for `fit` on every backend."""

from __future__ import annotations

import copy
import functools
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, Literal

import keras
import numpy as np

from keras_graft.errors import FeatureError
from keras_graft.features.head.classes import classes_of, divided
from keras_graft.features.head.epoch import Epoch
from keras_graft.features.head.order import BlockOrder, edges
from keras_graft.features.head.reading import Reading, planned, share
from keras_graft.features.head.several import check_together, open_store, side_by_side
from keras_graft.features.head.windows import WindowEpoch
from keras_graft.features.store.store import FeatureStore
from keras_graft.printable import shown

_HANDED, _HANDED_BYTES = 32, 16 << 20
"""Batches given to TensorFlow at once: each call into Python costs it as much as a step."""


class FeatureDataset(keras.utils.PyDataset):
    """Features, targets and weights of a store, in shuffled batches, for `fit`.

    Only the rows that are needed are read. Rows that are not in the page cache are read in a
    thread, while the step runs. Features stored as bfloat16 are given as float32.

    Use `fit(..., shuffle=False)`: samples are shuffled by this dataset, reproducibly for a given
    seed. By default Keras shuffles the batches as well, and then none can be read ahead.

    Args:
        store: A `FeatureStore` or its path. A list of stores gives the features of the same
            samples from several trunks, as a dict by name. Targets and sample weights come from
            the first store that has them. Inputs, targets and weights are compared where the
            shards of two stores are of the same samples.
        batch_size: Samples in a batch.
        shuffle: Shuffle the samples in each epoch. `"rows"` mixes all of them; `"blocks"` reads blocks
            in a random order, each in sequence, and mixes those that fit into memory together. True
            takes blocks for a store of more than half of the memory of the machine, or of the
            container. `dataset.reading` says which.
        seed: The seed for shuffling. The same seed gives the same order in each epoch.
        validation_split: The share of samples in the subset `"validation"`. They are drawn with
            `seed`; if the targets are classes, each class is divided in this proportion.
        subset: `"training"` or `"validation"`.
        indices: Use only these samples, given as numbers or as a mask: a bool for each.
        names: For several stores, the name of the features of each; by default `"0"`, `"1"`, ...
        views: Give one augmented view of each sample, where the store has any: in each epoch the
            next one, so that all are given equally often. The subset `"validation"` gives features
            without augmentation.
        part: `(rank, world)`, where `world` processes train together: each gets other samples, and as
            many, in each epoch. All must give the same `seed`. Batches of all processes are together
            a batch of one process with `world` times the batch size (but for `"blocks"`).
        remainder: Where the samples cannot be divided by `world`: `"drop"` leaves some out, other
            ones in each epoch; `"repeat"` gives some twice. `dataset.reading` counts them.

    Raises:
        FeatureError: If a store is not complete, or if stores do not hold the same samples.

    >>> import keras, numpy as np, keras_graft as kg, tempfile
    >>> trunk = kg.freeze(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]))
    >>> head = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> head.compile("sgd", "mse")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     data = np.ones((10, 4), "float32"), np.ones((10, 1))
    ...     store = kg.features.compute(trunk, data, folder, progress=False)
    ...     history = head.fit(kg.features.FeatureDataset(store, 4), epochs=2, verbose=0)
    >>> len(history.history["loss"])
    2
    """

    def __init__(
        self,
        store: FeatureStore | str | os.PathLike[str] | Sequence[Any],
        batch_size: int,
        shuffle: bool | Literal["rows", "blocks"] = True,
        seed: int = 0,
        validation_split: float = 0.0,
        subset: str | None = None,
        indices: Any = None,
        names: Sequence[str] | None = None,
        views: bool = True,
        part: tuple[int, int] | None = None,
        remainder: Literal["drop", "repeat"] = "drop",
    ) -> None:
        # Keras's own threads would give batches of one epoch to the next.
        super().__init__(workers=1)
        several = isinstance(store, list | tuple)
        opened = [open_store(s) for s in (store if several else [store])]
        self._stores = opened
        self._names = None if not several else [*(names or map(str, range(len(opened))))]
        check_together(opened, self._names)
        if not isinstance(batch_size, Integral) or batch_size < 1:
            raise FeatureError(
                f"batch_size must be a whole number, 1 or more, got {shown(batch_size)}."
            )
        if not isinstance(seed, Integral) or seed < 0:
            raise FeatureError(f"seed must be a whole number, 0 or more, got {shown(seed)}.")
        # All samples need no list of them, which would take 8 bytes for each.
        self._chosen: np.ndarray | None = None
        if indices is not None or _divides(validation_split, subset):
            chosen = opened[0].numbers(np.arange(len(opened[0])) if indices is None else indices)
            self._chosen = _part(opened[0], chosen, validation_split, subset, seed)
        samples = len(opened[0]) if self._chosen is None else len(self._chosen)
        self._view_order: np.ndarray | None = None
        self._views = views and subset != "validation"
        self._batch_size, self._seed = int(batch_size), seed
        self._row_bytes = sum(c.bytes for s in opened for c in s.manifest.columns.values())
        self._reading = planned(
            opened, shuffle, share(samples, part, remainder), self._batch_size, self._row_bytes
        )  # fmt: skip
        self._lock = threading.Lock()
        self._number = 0
        self._epoch = self._started()

    @property
    def indices(self) -> np.ndarray:
        """The numbers of the samples that it gives, of all parts."""
        return np.arange(len(self._stores[0])) if self._chosen is None else self._chosen

    @property
    def reading(self) -> Reading:
        """How the stores are read: by rows or in blocks, and which part; prints as a table."""
        return self._reading

    def _started(self) -> Epoch | WindowEpoch:
        """Return the epoch of the current number."""
        rows = functools.partial(self._rows, views_of=self._number) if self._views else self._rows
        plan, draws = self._reading, [self._seed, self._number]
        if plan.shuffle == "blocks":
            order = BlockOrder(self._blocks(), plan.share, plan.window, draws)
            return WindowEpoch(rows, order, self._batch_size, self._sorted)
        order = self.indices
        if plan.shuffle == "rows":
            order = np.random.default_rng(draws).permutation(order)
        order = plan.share.of(order, self._batch_size)
        return Epoch(rows, order, self._batch_size, self._row_bytes)

    def _blocks(self) -> np.ndarray:
        """Return where blocks begin: in the store, or among the chosen samples in its order."""
        if self._chosen is not None:
            most = min(self._reading.block, max(1, len(self._chosen)))
            return edges(np.array([0, len(self._chosen)]), most)
        shards = self._stores[0].manifest.shards.array["rows"]
        return edges(np.concatenate([[0], np.cumsum(shards)]), self._reading.block)

    def _sorted(self, rows: np.ndarray) -> np.ndarray:
        return rows if self._chosen is None else np.sort(self._chosen)[rows]

    def _over(self) -> Epoch | WindowEpoch:
        """Start the next epoch, and return the one before it."""
        with self._lock:
            before = self._epoch
            self._number += 1
            self._epoch = self._started()
            return before

    def on_epoch_end(self) -> None:
        """Shuffle for the next epoch. Keras calls it."""
        self._over()

    @property
    def num_batches(self) -> int:
        """Batches in an epoch; the last one may be smaller."""
        return -(-self._reading.samples // self._batch_size)

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        if not 0 <= index < len(self):
            raise IndexError(f"There are {len(self)} batches, not number {shown(index)}.")
        batch: Any = self._epoch.batch(index)
        # Keras makes tensors of it there, and TensorFlow takes a list for one tensor.
        if keras.backend.backend() == "tensorflow":
            batch = keras.tree.lists_to_tuples(batch)
        return batch

    def _drawn(
        self, store: FeatureStore, indices: np.ndarray, number: int | None
    ) -> dict[str, np.ndarray]:
        """Return the view of each sample in an epoch: as many of each, and each in its turn."""
        if not store.views or number is None:
            return {}
        if self._view_order is None:
            order = np.random.default_rng([self._seed, 2]).permutation(len(store))
            self._view_order = order.astype(np.uint32)
        return {"views": 1 + (self._view_order[indices].astype(int) + number) % store.views}

    def _rows(self, indices: np.ndarray, views_of: int | None = None) -> tuple[Any, ...]:
        kinds = ("features", "targets", "weights")
        several = [
            store.take(indices, *kinds, **self._drawn(store, indices, views_of))
            for store in self._stores
        ]
        found = {kind: part for one in reversed(several) for kind, part in one.items()}
        parts = [_given(one["features"]) for one in several]
        x = parts[0] if self._names is None else side_by_side(self._names, parts)
        if "targets" not in found:
            return (x,)
        if "weights" not in found:
            return x, found["targets"]
        return x, found["targets"], found["weights"]

    def to_numpy(self) -> tuple[Any, ...]:
        """Return all samples in order, as `(x, y, weights)`, `(x, y)` or `(x,)`, without views."""
        return self._rows(self.indices)

    def plain(self) -> FeatureDataset:
        """Return the same samples in order, without augmented views."""
        found = copy.copy(self)
        found._lock, found._views = threading.Lock(), False
        found._reading = replace(self._reading, shuffle="none")
        found._epoch = found._started()
        return found

    def as_tf(self) -> Any:
        """Return a `tf.data.Dataset` of the batches, in a new order in each pass.

        On TensorFlow it is faster than the dataset itself, which Keras reads batch by batch.
        """
        return self._handed(self._over)

    def fed(self) -> tuple[Any, list[keras.callbacks.Callback]]:
        """Return what is fastest for `fit` on this backend, with the callbacks that it needs.

        The order of the samples is the same as in `fit` on the dataset itself. There Keras ends
        an epoch when training begins and after each epoch of training. To count passes would be
        wrong: Keras may begin a pass only to look at its first batch.
        """
        if keras.backend.backend() != "tensorflow":
            return self, []
        ended = keras.callbacks.LambdaCallback(
            on_train_begin=lambda *_: self.on_epoch_end(),
            on_epoch_end=lambda *_: self.on_epoch_end(),
        )
        return self._handed(lambda: self._epoch), [ended]

    def _handed(self, epoch: Callable[[], Epoch | WindowEpoch]) -> Any:
        """Return a `tf.data.Dataset` whose passes are the epochs that a function returns."""
        import tensorflow as tf

        batch_bytes = max(1, self._batch_size * self._row_bytes)
        together = max(1, min(_HANDED, _HANDED_BYTES // batch_bytes))

        def spec(array: np.ndarray) -> Any:
            return tf.TensorSpec((None, *array.shape[1:]), array.dtype)

        def batches() -> Any:  # a list would be taken for one tensor
            yield from map(keras.tree.lists_to_tuples, epoch().several(together))

        one = keras.tree.lists_to_tuples(
            self._rows(np.zeros(1, int) if self._chosen is None else self._chosen[:1])
        )
        signature = keras.tree.map_structure(spec, one)
        made = tf.data.Dataset.from_generator(batches, output_signature=signature)
        made = made.rebatch(self._batch_size)
        return made.apply(tf.data.experimental.assert_cardinality(len(self))).prefetch(2)

    def as_torch(self) -> Any:
        """Return a torch `DataLoader` of the batches, in a new order in each pass."""
        import torch

        dataset = self

        class Passes(torch.utils.data.IterableDataset):
            def __iter__(self) -> Any:
                for batch in dataset._pass():
                    yield keras.tree.map_structure(torch.from_numpy, batch)

            def __len__(self) -> int:
                return len(dataset)

        return torch.utils.data.DataLoader(Passes(), batch_size=None)

    def _pass(self) -> Any:
        """Yield the batches of a new epoch: several passes may run at the same time."""
        epoch = self._over()
        for i in range(len(self)):
            yield epoch.batch(i)


def _divides(split: float, subset: str | None) -> bool:
    """Whether a part of the samples is asked for; refuse what does not belong together."""
    if not 0 <= split < 1 or subset not in (None, "training", "validation"):
        raise FeatureError(
            'validation_split must be between 0 and 1, and subset "training" or "validation".'
        )
    if bool(split) != (subset is not None):
        raise FeatureError(
            "validation_split and subset belong together: validation_split=0.2, "
            'subset="training" and the same with subset="validation".'
        )
    return subset is not None


def _part(
    store: FeatureStore, chosen: np.ndarray, split: float, subset: str | None, seed: int
) -> np.ndarray:
    if not _divides(split, subset):
        return chosen
    classes = classes_of(store)
    parts = divided(chosen, None if classes is None else classes[chosen], split, seed)
    return parts[subset == "validation"]


def _given(features: Any) -> Any:
    """Return features as every backend takes them: some take no NumPy array of bfloat16."""
    return keras.tree.map_structure(
        lambda a: a.astype("float32") if a.dtype.name == "bfloat16" else a, features
    )
