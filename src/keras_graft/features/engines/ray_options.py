"""How a Ray cluster is used: what a user may say about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from keras_graft.errors import FeatureError
from keras_graft.printable import shown, words_of


@dataclass(frozen=True)
class RayOptions:
    """How `kg.features.compute` uses a Ray cluster.

    Uses the cluster given to `ray.init`, or starts a local one. Reading a Ray dataset needs
    processors that the actors do not take: leave some.

    Attributes:
        actors: The number of actors; each holds the trunk. None: two, or one if there are too few
            processors.
        cpus: Processors per actor.
        gpus: GPUs per actor.
        backend: The actors' backend of Keras; None: the caller's.
        inputs: For a Ray dataset, the column that the trunk takes; for several inputs a list or
            dict of names. None: the only column, or the columns named like the trunk's inputs.
        targets: The column of targets, or several.
        weights: The column of sample weights.
    """

    actors: int | None = None
    cpus: float = 1
    gpus: float = 0
    backend: str | None = None
    inputs: Any = None
    targets: Any = None
    weights: str | None = None


def options(given: RayOptions | Mapping[str, Any] | None) -> RayOptions:
    """Return the options that a user gave.

    Raises:
        FeatureError: If an option is unknown, or if Ray is not installed.
    """
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise FeatureError(
            "engine=\"ray\" needs Ray, which is an extra: pip install 'keras-graft[ray]'"
        ) from error
    try:
        found = given if isinstance(given, RayOptions) else RayOptions(**(given or {}))
    except TypeError as error:
        known = ", ".join(RayOptions.__dataclass_fields__)
        raise FeatureError(f"ray={given!r}: {words_of(error)}. The options are {known}.") from error
    whole = isinstance(found.actors, Integral) and not isinstance(found.actors, bool)
    if found.actors is not None and not (whole and found.actors > 0):
        raise FeatureError(
            f"ray: actors must be a whole number, 1 or more, got {shown(found.actors)}."
        )
    if not all(isinstance(n, Real) and n >= 0 for n in (found.cpus, found.gpus)):
        raise FeatureError(
            f"ray: cpus and gpus must be numbers, got {shown(found.cpus)}, {shown(found.gpus)}."
        )
    if found.backend not in (None, "jax", "tensorflow", "torch"):
        raise FeatureError(
            f'ray: backend must be "jax", "tensorflow" or "torch", got {shown(found.backend)}.'
        )
    return found
