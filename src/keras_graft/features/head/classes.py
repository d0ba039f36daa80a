"""The classes of a store's targets: counted, weighted, and divided evenly."""

from __future__ import annotations

import numpy as np

from keras_graft.features.store.store import FeatureStore

_MOST = 10_000
"""The most classes: integers with more values are numbers, not classes."""


def classes_of(store: FeatureStore) -> np.ndarray | None:
    """Return the class of each sample, or None if the targets are not classes.

    They are if there is one target: one whole number for each sample (or bool), or one row of zeros
    with a single one. Whole numbers must be 0 or more, and occur more than once on average.
    """
    manifest = store.manifest
    column = manifest.columns.get("targets/")
    if column is None or len(column.shape) > 1 or not len(store):
        return None
    width = column.shape[0] if column.shape else 1
    coded = width > 1
    if width > _MOST or not (coded or column.dtype == "bool" or "int" in column.dtype):
        return None
    targets = store.take(np.arange(len(store)), "targets")["targets"]
    if coded:
        ones = (targets == 1).sum(1) == 1
        return targets.argmax(1) if ones.all() and (targets != 0).sum() == len(targets) else None
    found = targets.reshape(len(targets)).astype(np.int64)
    distinct = len(np.unique(found))
    return found if found.min() >= 0 and distinct <= max(2, len(found) // 2) else None


def divided(
    rows: np.ndarray, classes: np.ndarray | None, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows for training and those for validation, each in ascending order.

    They are drawn at random. With classes, each class is divided in the same proportion, as far as
    its samples allow.

    Args:
        rows: The numbers of the samples.
        classes: The class of each of these samples, or None.
        share: The share of samples for validation.
        seed: The seed.
    """
    draw = np.random.default_rng([seed, 1])
    order = draw.permutation(len(rows))
    count = round(len(rows) * share)
    if classes is not None:
        # Each sample gets its place in its class, from 0 to 1. Those with the lowest places are
        # chosen, so each class gives its share, and the whole number is exact.
        places = np.empty(len(rows))
        for one in np.unique(classes):
            own = order[classes[order] == one]
            places[own] = (np.arange(len(own)) + draw.random()) / len(own)
            places[own[-1]] = 1 + draw.random()  # one sample of each class stays for training
        order = np.argsort(places, kind="stable")
    return np.sort(rows[order[count:]]), np.sort(rows[order[:count]])


def counts(classes: np.ndarray) -> dict[int, int]:
    """Return how many samples each class has."""
    values, numbers = np.unique(classes, return_counts=True)
    return dict(zip(values.tolist(), numbers.tolist(), strict=True))


def balanced(found: dict[int, int]) -> dict[int, float]:
    """Return weights with which each class counts the same, and a sample counts 1 on average."""
    total = sum(found.values())
    return {one: total / (len(found) * number) for one, number in found.items()}


def are_uneven(found: dict[int, int]) -> bool:
    """Whether the largest class has more than twice as many samples as the smallest."""
    return max(found.values()) > 2 * min(found.values())
