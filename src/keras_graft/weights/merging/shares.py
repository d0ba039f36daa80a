"""How much each checkpoint counts for a weight."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_graft.errors import WeightsError
from keras_graft.graph.names import listed
from keras_graft.printable import shown
from keras_graft.tables import counted
from keras_graft.weights.merging.sources import Source
from keras_graft.weights.rule_for import names

VERB = _VERB = "merge_checkpoints"


def is_number(given: Any) -> bool:
    real = isinstance(given, int | float | np.number) and not isinstance(given, bool)
    try:
        return real and math.isfinite(given)
    except OverflowError:
        return False


class Shares:
    """How much each source counts for a weight."""

    def __init__(self, given: Any, count: int, first: Source) -> None:
        self._count = count
        addresses = [entry.address for entry in first.entries.values()]
        table = (
            given if isinstance(given, Mapping) else {"*": [1] * count if given is None else given}
        )
        self._table: dict[str, list[float]] = {}
        for glob, numbers in table.items():
            if not isinstance(glob, str):
                raise WeightsError(f"{_VERB}: weights= names weights by globs, got {shown(glob)}.")
            if isinstance(given, Mapping):
                check_glob(glob, addresses, "weights")
            self._table[glob] = self._numbers(numbers)

    def _numbers(self, numbers: Any) -> list[float]:
        found = list(numbers) if isinstance(numbers, list | tuple | np.ndarray) else None
        if found is None or len(found) != self._count or not all(map(is_number, found)):
            raise WeightsError(
                f"{_VERB}: weights={shown(numbers)} is not one number for each of "
                f"{counted(self._count, 'source')}."
            )
        return [float(number) for number in found]

    def of(self, address: str) -> list[float]:
        for glob, numbers in self._table.items():
            if names(glob, address):
                return numbers
        return [1.0] * self._count


def check_glob(glob: str, addresses: Sequence[str], what: str) -> None:
    if not any(names(glob, address) for address in addresses):
        raise WeightsError(
            f"{_VERB}: {what}= names {shown(glob)}, which matches no weight; there are "
            f"{listed(addresses, 5)}."
        )
