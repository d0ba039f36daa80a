"""Compare data with the store that is there, sample by sample, whatever the order is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import keras
import numpy as np

from keras_graft.features.data import Batch, count, joined, numbered
from keras_graft.features.store.content import MISSING, OTHER_LABELS, Samples
from keras_graft.tables import counted

if TYPE_CHECKING:
    from keras_graft.features.engines.run import Run

tree = keras.tree

_SURE = 8
"""After so many samples with other labels, and none with its own, the labels are different."""


def check_reused(run: Run, stream: Iterator[Batch], data: Any) -> None:
    """Refuse a complete store of other data.

    In the order of the store the samples of its first shard are compared, and in another order
    those of the first batch.
    """
    assert run.found is not None
    samples, done, checked = Samples(run.folder, run.found), 0, False
    while done < run.compared:
        batch = next(stream, None)
        if batch is None:
            run.refuse([f"{counted(run.found.samples, 'sample')}, now {done:,}"])
        places = samples.match(*run.columns.digests(batch).values())
        other = np.flatnonzero(places == OTHER_LABELS)
        if len(other):
            _refuse_labels(run, batch, done + int(other[0]))
        if (places == MISSING).any():
            run.refuse([_not_there(done, places, data)])
        checked = checked or run.check_columns(batch, ~samples.left_out(places))
        if not np.array_equal(places, np.arange(done, done + len(batch))):
            return
        done += len(batch)
    run.check_labels(data)


class Rest:
    """The samples of data that a store lacks, in batches.

    Args:
        run: The run.
        stream: The batches of the data.
        data: The data.
    """

    def __init__(self, run: Run, stream: Iterator[Batch], data: Any) -> None:
        assert run.found is not None
        self._run, self._stream, self._data = run, stream, data
        self._samples = Samples(run.folder, run.found)
        self._seen = self._matched = 0
        self._others: list[int] = []  # samples with inputs of the store and other labels

    def check_all_found(self) -> None:
        """Refuse data that lacks samples of the store: they would stay in it."""
        left, found = self._samples.left, self._run.found
        assert found is not None
        if left == found.samples and not self._others:
            self._run.refuse([_nothing_common(self._seen, self._data)])
        if left:
            self._run.refuse([
                f"{left:,} of its {counted(found.samples, 'sample')} {'is' if left == 1 else 'are'} not in the data, "
                f"which has {counted(self._seen, 'sample')} now"
                + (f" (of these, {len(self._others)} have inputs of samples in the store, and other "
                   "targets, sample weights or keys)" if self._others else "")
            ])  # fmt: skip

    def __iter__(self) -> Iterator[Batch]:
        samples, found = self._samples, self._run.found
        assert found is not None
        total, new, checked = count(self._data), 0, False
        waiting = _Waiting()
        while samples.left:
            batch = next(self._stream, None)
            if batch is None:
                break
            first, places = not self._seen, self._places(batch)
            known = places >= 0
            if first:
                self._look_ahead(places)
            checked = checked or (
                known.any() and self._run.check_columns(batch[known], ~samples.left_out(places[known]))
            )  # fmt: skip
            new += int((~known).sum())
            if total is not None and found.samples + new > total:
                return  # the store holds samples that the data has not: they will be left
            if not known.all():
                yield from waiting.add(batch.rows(np.flatnonzero(~known).tolist()), len(batch))
        yield from waiting.rest()
        if not samples.left:
            yield from self._stream

    def _places(self, batch: Batch) -> np.ndarray:
        """Return the places of samples in the store, and refuse them if all have other labels.

        The same inputs may occur with several labels, so a few are not enough to refuse.
        """
        places = self._samples.match(*self._run.columns.digests(batch).values())
        self._others += (self._seen + np.flatnonzero(places == OTHER_LABELS)).tolist()
        self._matched += int((places >= 0).sum())
        if not self._matched and len(self._others) >= _SURE:
            _refuse_labels(self._run, batch, self._others[0])
        self._seen += len(batch)
        return places

    def _look_ahead(self, places: np.ndarray) -> None:
        """Refuse data that has nothing in common with the store, before the trunk runs.

        Args:
            places: The places of the samples of the first batch.
        """
        run, whole = self._run, numbered(self._data) is not None
        if np.array_equal(places, np.arange(len(places))) or (not whole and (places >= 0).any()):
            return
        if hasattr(self._data, "__next__"):
            return  # it can be read only once
        again = Rest(run, iter(()), self._data)
        for batch in run.stream(self._data):
            known = again._places(batch) >= 0
            # Arrays are there to be read: all their samples are compared.
            if known.any() and not whole or not again._samples.left:
                return
        again.check_all_found()


class _Waiting:
    """Collects the samples that are left of several batches into whole batches."""

    def __init__(self) -> None:
        self._parts: list[Batch] = []

    def add(self, batch: Batch, size: int) -> Iterator[Batch]:
        if self._parts and _kind(self._parts[0]) != _kind(batch):
            yield from self.rest()
        self._parts.append(batch)
        if sum(map(len, self._parts)) >= size:
            whole = joined(self._parts)
            self._parts = [whole[size:]] if len(whole) > size else []
            yield whole[:size]

    def rest(self) -> Iterator[Batch]:
        if self._parts:
            yield joined(self._parts)
        self._parts = []


def _kind(batch: Batch) -> Any:
    leaves = tree.flatten((batch.x, batch.y, batch.w))
    return [None if leaf is None else (leaf.shape[1:], leaf.dtype) for leaf in leaves]


def _refuse_labels(run: Run, batch: Batch, number: int) -> NoReturn:
    run.check_label_columns(batch)
    run.refuse([
        f"sample {number} had different targets, sample weights or keys"
        + (" (keys are in the order of the data: does it come shuffled?)"
           if run.columns.keys is not None else "")
    ])  # fmt: skip


def _not_there(start: int, places: np.ndarray, data: Any) -> str:
    new = np.flatnonzero(places == MISSING)
    if len(new) == len(places):
        return _nothing_common(start + len(places), data)
    return (
        f"{len(new)} of the samples {start} to {start + len(places) - 1} are not in it, the first is "
        f"{start + new[0]}"
    )


def _nothing_common(seen: int, data: Any) -> str:
    once = hasattr(data, "__next__")
    return (
        f"none of the {'' if once else 'first '}{counted(seen, 'sample')} is in it. It was made of different "
        "inputs, or the data changes them in each pass (random crops or flips: put them into "
        "the model, or leave them out)"
    )
