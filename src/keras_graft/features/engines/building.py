"""Make one shard from batches, with checksums and a list of the samples that fail."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import keras
import numpy as np

from keras_graft import advice
from keras_graft.errors import FeatureError
from keras_graft.features.augment import AugmentedTrunk
from keras_graft.features.data import Batch
from keras_graft.features.fixed_trunk import check_places
from keras_graft.features.store.checksum import Checksums, checksum
from keras_graft.features.store.column import INPUTS, Column, is_label
from keras_graft.features.store.columns import Columns
from keras_graft.features.store.entries import ShardEntry, Skipped
from keras_graft.features.store.shards import dtype_of, encode
from keras_graft.tables import counted

tree = keras.tree


class Runner:
    """Runs a trunk on batches. If a batch fails, it finds the samples that make it fail.

    Args:
        trunk: The model, or an `AugmentedTrunk`.
        worked: Whether it has worked on samples of this data before.
    """

    def __init__(self, trunk: Any, worked: bool = False) -> None:
        self._trunk, self._worked = trunk, worked
        self._longest = 0

    def __call__(self, batch: Batch) -> tuple[Any, dict[int, str]]:
        """Return the outputs of the samples that work (None if none does), and why the rest fail.

        Raises:
            FeatureError: If an output does not have one row for each sample; or if no sample has
                worked yet, so that the cause is not a single sample.
        """
        try:
            outputs = self._outputs(batch)
        except Exception as error:
            first = error
        else:
            return self._kept(batch, outputs), {}
        failed: dict[int, str] = {}
        for i in range(len(batch)):
            try:
                self._trunk.predict_on_batch(batch[i : i + 1].x)
            except Exception as error:
                failed[i] = reason(error)
        works = [i for i in range(len(batch)) if i not in failed]
        if not failed or not (works or self._worked):
            shapes = tree.map_structure(lambda leaf: f"{np.shape(leaf)} {leaf.dtype}", batch.x)
            takes = getattr(self._trunk, "input_shape", None)
            what = f"all of the first {len(batch)} samples, of {shapes} (it takes {takes})"
            if not failed:
                what = f"{len(batch)} samples at once, but on none of them alone (smaller batches?)"
            raise FeatureError(f"{self._trunk.name!r} fails on {what}: {reason(first)}") from first
        if not works:
            return None, failed
        rest = batch[works]
        return self._kept(rest, self._trunk.predict_on_batch(rest.x)), failed

    def _outputs(self, batch: Batch) -> Any:
        """Run the trunk on a batch.

        JAX compiles a network once for each number of samples, so a shorter batch at the end is
        filled up with its last sample.
        """
        length = len(batch)
        self._longest = max(self._longest, length)
        fills = keras.backend.backend() == "jax" and not isinstance(self._trunk, AugmentedTrunk)
        if not fills or length == self._longest:
            return self._trunk.predict_on_batch(batch.x)
        rows = [*range(length), *[length - 1] * (self._longest - length)]
        outputs = _of_each(self._trunk.predict_on_batch(batch[rows].x), self._longest)
        return tree.map_structure(lambda leaf: leaf[:length], outputs)

    def _kept(self, batch: Batch, outputs: Any) -> Any:
        outputs = _of_each(outputs, len(batch))
        if not self._worked:
            if isinstance(self._trunk, AugmentedTrunk):
                check_places(self._trunk.plain, batch, outputs[0])
            else:
                check_places(self._trunk, batch, outputs)
            self._worked = True
        return outputs


def reason(error: Exception) -> str:
    """Return what an error says, in one line, without the place that Keras names first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith("Exception encountered when calling")]
    text = (said or lines or [""])[0]
    for mark in ("\x1b[1m", "\x1b[0m"):  # Keras prints in bold
        text = text.replace(mark, "")
    return f"{type(error).__name__}: {text[:200]}" if text else repr(error)


def _of_each(outputs: Any, samples: int) -> Any:
    """Return the outputs; refuse any that does not have one row for each sample."""
    for leaf in tree.flatten(outputs):
        shape = np.shape(leaf)
        if shape[:1] != (samples,):
            raise FeatureError(
                f"The trunk gives an output of shape {shape} for {counted(samples, 'sample')}, but a store "
                "holds one row for each sample: use a trunk that ends before the batch axis is "
                "merged with another axis or reduced."
            )
    return outputs


class Building:
    """Collects batches into one shard.

    Args:
        columns: How batches become columns.
        known: The shape and dtype of each column.
    """

    def __init__(self, columns: Columns, known: Mapping[str, Column]) -> None:
        self._columns, self._known = columns, known
        self._parts: list[dict[str, np.ndarray]] = []
        self._inputs, self._labels = Checksums(), Checksums()
        self.samples = 0
        self.skipped: list[Skipped] = []

    def add(self, outputs: Any, batch: Batch, start: int, failed: Mapping[int, str]) -> None:
        """Add a batch.

        Args:
            outputs: The trunk's outputs for the samples that did not fail; None if all failed.
            batch: The samples.
            start: The number of the first sample.
            failed: For samples that failed, by their place in the batch, why.
        """
        labels = self._columns.labels(batch)[1]
        # Of samples that fail too: each of these columns has a checksum.
        computed = {name for name in self._known if not is_label(name)}
        self._check_names(computed | labels.keys(), start)
        self._inputs.add(batch.x)
        self._labels.add(list(labels.values()))
        digests = self._columns.digests(batch)
        labels.update(digests)
        failed = dict(failed)
        works = np.array([i for i in range(len(batch)) if i not in failed], int)
        cast: dict[str, np.ndarray] = {}
        for name, array in self._columns.of(outputs)[1].items():
            cast[name], lost = self._columns.cast(name, np.asarray(array))
            failed.update((int(works[row]), why) for row, why in lost.items())
        good = [i for i in range(len(batch)) if i not in failed]
        if len(good) < len(batch):
            kept = np.isin(works, good)
            cast = {name: array[kept] for name, array in cast.items()}
            labels = {name: np.asarray(array)[good] for name, array in labels.items()}
        for i in sorted(failed):
            digest = f"{digests[INPUTS][i]:016x}" if digests else ""
            self.skipped.append(Skipped(start + i, failed[i], digest))
        self.samples += len(batch)
        if good:
            part = {name: np.asarray(array) for name, array in {**cast, **labels}.items()}
            self._check(part, start)
            self._parts.append(part)

    def _check_names(self, names: Set[str], start: int) -> None:
        other = sorted(name.removesuffix("/") for name in names ^ self._known.keys())
        if other:
            raise FeatureError(
                f"The samples from {start} on have different columns than those before: "
                f"{', '.join(other)}. Give targets and weights with every batch or with none, or take "
                f"{advice.option('targets', False)}."
            )

    def _check(self, part: dict[str, np.ndarray], start: int) -> None:
        self._check_names(part.keys(), start)
        for name, array in part.items():
            known = self._known[name]
            if tuple(array.shape[1:]) != known.shape or array.dtype.name != known.dtype:
                raise FeatureError(
                    f"{name.removesuffix('/')} of the samples from {start} on is "
                    f"{tuple(array.shape[1:])} {array.dtype.name}, and was {known.shape} "
                    f"{known.dtype} before: a store holds rows of one shape."
                )

    def finish(self, name: str) -> tuple[list[memoryview], ShardEntry]:
        """Return the bytes of the shard, in pieces, and its entry in the manifest."""
        columns = {}
        for column, known in self._known.items():
            none = np.empty((0, *known.shape), dtype_of(known.dtype))
            columns[column] = [none, *(part[column] for part in self._parts)]
        pieces = encode(columns)
        rows = self.samples - len(self.skipped)
        entry = ShardEntry(
            name, rows, sum(map(len, pieces)), checksum(pieces), self._inputs.values, self._labels.values,
            tuple(self.skipped),
        )  # fmt: skip
        return pieces, entry
