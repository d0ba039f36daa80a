"""Batches from stores, for `fit` on every backend."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import keras
import numpy as np

from keras_graft.errors import FeatureError
from keras_graft.features.head.epoch import Epoch
from keras_graft.features.store.store import FeatureStore
from keras_graft.graph.names import listed
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
        shuffle: Shuffle the samples in each epoch.
        seed: The seed for shuffling. The same seed gives the same order in each epoch.
        validation_split: The share of samples in the subset `"validation"`: the last ones of
            `indices`.
        subset: `"training"` or `"validation"`.
        indices: Use only these samples, given as numbers or as a mask: a bool for each.
        names: For several stores, the name of the features of each; by default `"0"`, `"1"`, ...

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
        shuffle: bool = True,
        seed: int = 0,
        validation_split: float = 0.0,
        subset: str | None = None,
        indices: Any = None,
        names: Sequence[str] | None = None,
    ) -> None:
        # Keras's own threads would give batches of one epoch to the next.
        super().__init__(workers=1)
        several = isinstance(store, list | tuple)
        opened = [_opened(s) for s in (store if several else [store])]
        self._stores = opened
        self._names = None if not several else [*(names or map(str, range(len(opened))))]
        _check_together(opened, self._names)
        if not isinstance(batch_size, Integral) or batch_size < 1:
            raise FeatureError(
                f"batch_size must be a whole number, 1 or more, got {shown(batch_size)}."
            )
        if not isinstance(seed, Integral) or seed < 0:
            raise FeatureError(f"seed must be a whole number, 0 or more, got {shown(seed)}.")
        chosen = opened[0].numbers(np.arange(len(opened[0])) if indices is None else indices)
        self.indices = _part(chosen, validation_split, subset)
        self._batch_size, self._shuffle, self._seed = batch_size, shuffle, seed
        self._row_bytes = sum(c.bytes for s in opened for c in s.manifest.columns.values())
        self._lock = threading.Lock()
        self._number = 0
        self._epoch = self._started()

    def _started(self) -> Epoch:
        """Return the epoch of the current number."""
        order = self.indices
        if self._shuffle:
            order = np.random.default_rng([self._seed, self._number]).permutation(order)
        return Epoch(self._rows, order, self._batch_size, self._row_bytes)

    def _over(self) -> Epoch:
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
        return -(-len(self.indices) // self._batch_size)

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        if not 0 <= index < len(self):
            raise IndexError(f"There are {len(self)} batches, not number {shown(index)}.")
        return self._epoch.batch(index)

    def _rows(self, indices: np.ndarray) -> tuple[Any, ...]:
        kinds = ("features", "targets", "weights")
        several = [store.take(indices, *kinds) for store in self._stores]
        found = {kind: part for one in reversed(several) for kind, part in one.items()}
        parts = [_given(one["features"]) for one in several]
        x = parts[0] if self._names is None else _side_by_side(self._names, parts)
        if "targets" not in found:
            return (x,)
        if "weights" not in found:
            return x, found["targets"]
        return x, found["targets"], found["weights"]

    def to_numpy(self) -> tuple[Any, ...]:
        """Return all samples in order, as `(x, y, weights)`, `(x, y)` or `(x,)`."""
        return self._rows(self.indices)

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

    def _handed(self, epoch: Callable[[], Epoch]) -> Any:
        """Return a `tf.data.Dataset` whose passes are the epochs that a function returns."""
        import tensorflow as tf

        batch_bytes = max(1, self._batch_size * self._row_bytes)
        together = max(1, min(_HANDED, _HANDED_BYTES // batch_bytes))

        def spec(array: np.ndarray) -> Any:
            return tf.TensorSpec((None, *array.shape[1:]), array.dtype)

        def batches() -> Any:  # a list would be taken for one tensor
            yield from map(keras.tree.lists_to_tuples, epoch().several(together))

        one = keras.tree.lists_to_tuples(self._rows(self.indices[:1]))
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


def _opened(store: Any) -> FeatureStore:
    opened = store if isinstance(store, FeatureStore) else FeatureStore(store)
    if not opened.complete:
        raise FeatureError(
            f"{opened.path} is not complete: {len(opened)} samples so far. Finish it with "
            "kg.features.compute and the same data."
        )
    return opened


def _check_together(stores: list[FeatureStore], names: list[str] | None) -> None:
    if not stores:
        raise FeatureError("No store was given.")
    if names is not None and (len(names) != len(stores) or len(set(names)) != len(names)):
        raise FeatureError(f"{len(stores)} stores have the names {names}: give each its own name.")
    first = stores[0]
    for other in stores[1:]:
        ours, theirs = ({s.index for s in store.manifest.skipped} for store in (first, other))
        if ours != theirs:
            raise FeatureError(
                f"{first.path} and {other.path} do not leave out the same samples: "
                f"{listed(map(str, sorted(ours ^ theirs)))} are in only one of them."
            )
        if len(other) != len(first):
            raise FeatureError(
                f"{first.path} holds {len(first)} samples, {other.path} {len(other)}: stores that "
                "are used together must hold the same samples."
            )
    for one, other in itertools.combinations(stores, 2):
        if not one.same_inputs(other):
            raise FeatureError(
                f"{one.path} and {other.path} were made of different inputs, or in a different order."
            )
        sums = _checksums(one), _checksums(other)
        wrong = {part for at, part in sums[0].keys() & sums[1].keys()
                 if sums[0][at, part] != sums[1][at, part]}  # fmt: skip
        if "inputs" in wrong:
            raise FeatureError(
                f"{one.path} and {other.path} were made of different inputs, or in a different order."
            )
        if wrong:
            raise FeatureError(
                f"{one.path} and {other.path} hold different {listed(sorted(wrong))}, and only "
                "one can be given: compute the other store with targets=False."
            )
    layouts = [store.manifest.layout for store in stores]
    if any("weights" in layout for layout in layouts) and not any(
        "targets" in layout for layout in layouts
    ):
        raise FeatureError(
            f"{first.path} holds sample weights but no targets, and fit takes weights only with "
            "targets: compute it with targets, or with targets=False."
        )


def _checksums(store: FeatureStore) -> dict[tuple[Any, str], Any]:
    """Return the checksums of inputs, targets and weights, by the samples they belong to.

    Shards of different stores may begin at different samples. Those are not compared.
    """
    found: dict[tuple[Any, str], Any] = {}
    columns = store.manifest.columns
    names = sorted(name for name in columns if not name.startswith(("features/", "digests/")))
    start = 0
    for shard in store.manifest.shards:
        at = start, start + shard.samples
        found[at, "inputs"] = shard.inputs
        for kind in ("targets", "weights"):
            own = [
                (name, columns[name], value)
                for name, value in zip(names, shard.labels, strict=True)
                if name.startswith(f"{kind}/")
            ]
            if own:
                found[at, kind] = own
        start += shard.samples
    return found


def _part(chosen: np.ndarray, split: float, subset: str | None) -> np.ndarray:
    if not 0 <= split < 1 or subset not in (None, "training", "validation"):
        raise FeatureError(
            'validation_split must be between 0 and 1, and subset "training" or "validation".'
        )
    if bool(split) != (subset is not None):
        raise FeatureError(
            "validation_split and subset belong together: validation_split=0.2, "
            'subset="training" and the same with subset="validation".'
        )
    edge = len(chosen) - round(len(chosen) * split)
    return chosen[edge:] if subset == "validation" else chosen[:edge]


def _given(features: Any) -> Any:
    """Return features as every backend takes them: some take no NumPy array of bfloat16."""
    return keras.tree.map_structure(
        lambda a: a.astype("float32") if a.dtype.name == "bfloat16" else a, features
    )


def _side_by_side(names: Sequence[str], features: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, own in zip(names, features, strict=True):
        if isinstance(own, dict):
            found.update((f"{name}/{key}", value) for key, value in own.items())
        elif isinstance(own, list):
            found.update((f"{name}/{i}", value) for i, value in enumerate(own))
        else:
            found[name] = own
    return found
