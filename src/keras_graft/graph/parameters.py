"""How many parameters operations hold, each variable counted once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any


def weights_of(operation: Any) -> dict[int, int]:
    """Return the weights of an operation as {identity: number of parameters}."""
    weights = getattr(operation, "weights", ())
    return {id(variable_behind(w)): math.prod(w.shape) for w in weights}


def variable_behind(weight: Any) -> Any:
    """Return the variable behind a weight: a weight of a frozen layer is a view of another one."""
    return getattr(weight, "source", weight)


def count_parameters(operations: Iterable[Any]) -> int:
    """Return the number of parameters in `operations`, each variable counted once."""
    found: dict[int, int] = {}
    for operation in operations:
        found.update(weights_of(operation))
    return sum(found.values())
