"""Blocks of a Ray dataset as batches for a trunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_graft.errors import FeatureError
from keras_graft.features.data import Batch

tree = keras.tree


@dataclass(frozen=True)
class Rows:
    """Which columns are inputs, targets and weights.

    Attributes:
        inputs: The names of the columns that the trunk takes, nested as it takes them.
        shapes: The shape of a sample of each input, in the order of the names.
        targets: The names of the targets.
        weights: The name of the sample weights.
        batch_size: Samples in a batch.
    """

    inputs: Any
    shapes: tuple[tuple[int | None, ...], ...]
    targets: Any
    weights: str | None
    batch_size: int

    @classmethod
    def of(
        cls, trunk: Any, block: Mapping[str, Any], inputs: Any, targets: Any, weights: Any,
        batch_size: int,
    ) -> Rows:  # fmt: skip
        """Find out which columns are which.

        Raises:
            FeatureError: If the inputs cannot be told, or if a column is missing.
        """
        if inputs is None:
            names = [i.name for i in trunk.inputs]
            if all(name in block for name in names):
                inputs = tree.pack_sequence_as(_structure(trunk), names)
            elif len(block) == 1 == len(names):
                (inputs,) = block
            else:
                raise FeatureError(
                    f"The Ray dataset has the columns {', '.join(block)}, and the trunk takes "
                    f"{', '.join(names)}: say which is which, RayOptions(inputs=..., targets=...)."
                )
        used = tree.flatten((inputs, targets, weights))
        missing = [name for name in used if name is not None and name not in block]
        if missing:
            raise FeatureError(
                f"The Ray dataset has no column {missing[0]!r}: it has {', '.join(block)}."
            )
        by_name = {i.name: tuple(i.shape[1:]) for i in trunk.inputs}
        shapes = tuple(by_name.values())
        if isinstance(inputs, Mapping) and by_name.keys() >= inputs.keys():
            shapes = tuple(by_name[name] for name in sorted(inputs))  # as they are flattened
        return cls(inputs, shapes, targets, weights, batch_size)

    def batches(self, block: Mapping[str, Any]) -> Iterator[tuple[Batch, dict[int, str]]]:
        """Yield the batches of a block, and for samples that cannot be inputs, why.

        Such a sample is replaced by zeros.
        """
        names = tree.flatten(self.inputs)
        failed: dict[int, str] = {}
        columns = {}
        for name, shape in zip(names, self.shapes, strict=True):
            columns[name], bad = _stacked(name, np.asarray(block[name]), shape)
            failed.update(bad)
        x = tree.map_structure(lambda name: columns[name], self.inputs)
        y = self.targets and tree.map_structure(lambda name: np.asarray(block[name]), self.targets)
        w = self.weights and np.asarray(block[self.weights])
        whole = Batch(x, y, w)
        for start in range(0, len(whole), self.batch_size):
            stop = start + self.batch_size
            yield (
                whole[start:stop],
                {i - start: why for i, why in failed.items() if start <= i < stop},
            )


def _structure(trunk: Any) -> Any:
    """Return how the inputs are nested."""
    given = getattr(trunk, "input", None)
    return trunk.inputs[0] if given is None else given


def _stacked(
    name: str, column: np.ndarray, shape: tuple[int | None, ...]
) -> tuple[np.ndarray, dict[int, str]]:
    """Return a column as one array, and why some of its rows do not fit."""
    if column.dtype != object:
        return column, {}
    if None in shape:
        raise FeatureError(
            f"The column {name!r} has rows of different shapes, and the trunk takes {shape}: bring "
            "them to one shape first, with dataset.map."
        )
    rows = [None if row is None else np.asarray(row) for row in column]
    failed = {
        i: f"{name} is {'None' if row is None else row.shape}, and the trunk takes {shape}"
        for i, row in enumerate(rows)
        if row is None or row.shape != shape or row.dtype == object
    }
    dtype = next(
        (row.dtype for i, row in enumerate(rows) if row is not None and i not in failed), np.uint8
    )
    zeros = np.zeros(tuple(d or 0 for d in shape), dtype)
    return np.stack([zeros if i in failed else row for i, row in enumerate(rows)]), failed  # type: ignore[misc]
