"""The formulas by which the values of one weight are merged, on blocks of rows.

A delta is what training changed: a source's values minus those of the base.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Read = Callable[[slice], np.ndarray]
"""Returns some rows of a weight in the dtype in which is calculated."""

METHODS = ("mean", "slerp", "task_arithmetic", "ties", "dare")
NEED_BASE = ("task_arithmetic", "ties", "dare")

_COLLINEAR = 0.9995
"""Above this cosine two weights are interpolated on a line: the angle says nothing."""


@dataclass(frozen=True)
class Settings:
    """How weights are merged.

    Attributes:
        method: One of `METHODS`.
        density: The share of the elements of a delta that is kept.
        scale: What the merged delta is multiplied by.
        seed: For `dare`.
    """

    method: str
    density: float
    scale: float
    seed: int


def merged(
    settings: Settings,
    reads: Sequence[Read],
    base: Read | None,
    weights: Sequence[float],
    blocks: Sequence[slice],
    address: str,
) -> Iterator[np.ndarray]:
    """Yield the merged values of one weight, one block of rows after the other."""
    match settings.method:
        case "mean":
            total = sum(weights)
            for rows in blocks:
                yield sum_of(reads, [w / total for w in weights], rows)
        case "slerp":
            yield from _slerp(reads, weights, blocks)
        case "task_arithmetic":
            assert base is not None
            for rows in blocks:
                start = base(rows)
                yield start + settings.scale * sum_of(reads, weights, rows, start)
        case "dare":
            assert base is not None
            draws = [
                np.random.default_rng([settings.seed, zlib.crc32(address.encode()), i])
                for i in range(len(reads))
            ]
            for rows in blocks:
                start = base(rows)
                delta = np.zeros_like(start)
                for read, weight, draw in zip(reads, weights, draws, strict=True):
                    kept = draw.random(start.shape, "float32") < settings.density
                    delta += weight * kept * (read(rows) - start) / settings.density
                yield start + settings.scale * delta
        case _:
            assert base is not None
            yield from _ties(settings, reads, base, weights, blocks)


def sum_of(
    reads: Sequence[Read], weights: Sequence[float], rows: slice, start: np.ndarray | None = None
) -> np.ndarray:
    """Return the weighted sum of the sources, or of their deltas from `start`."""
    result = None
    for read, weight in zip(reads, weights, strict=True):
        part = read(rows) if start is None else read(rows) - start
        part = part * part.dtype.type(weight)
        result = part if result is None else result + part
    assert result is not None
    return result


def _slerp(
    reads: Sequence[Read], weights: Sequence[float], blocks: Sequence[slice]
) -> Iterator[np.ndarray]:
    """Yield the point on the arc between two weights, taken as vectors.

    sin((1 - t) a) / sin(a) * x + sin(t a) / sin(a) * y, where a is the angle between x and y. Shoemake,
    "Animating Rotation with Quaternion Curves", SIGGRAPH 1985.
    """
    one, other = reads
    t = weights[1] / sum(weights)
    dot = norm = norm2 = 0.0
    for rows in blocks:
        x, y = one(rows).ravel().astype("float64"), other(rows).ravel().astype("float64")
        dot, norm, norm2 = dot + x @ y, norm + x @ x, norm2 + y @ y
    cosine = dot / np.sqrt(norm * norm2) if norm and norm2 else 1.0
    if abs(cosine) > _COLLINEAR:
        shares = 1 - t, t
    else:
        angle = np.arccos(np.clip(cosine, -1, 1))
        shares = np.sin((1 - t) * angle) / np.sin(angle), np.sin(t * angle) / np.sin(angle)
    for rows in blocks:
        yield sum_of(reads, [float(share) for share in shares], rows)


def _ties(
    settings: Settings,
    reads: Sequence[Read],
    base: Read,
    weights: Sequence[float],
    blocks: Sequence[slice],
) -> Iterator[np.ndarray]:
    """Yield base + scale * the mean of the deltas that agree: trim, elect signs, merge.

    Of each delta the elements of the largest magnitudes stay, a share of `density`. Of each
    element the sign of the weighted sum is elected, and the weighted mean is taken over the deltas
    that have this sign there. Yadav et al., "TIES-Merging: Resolving Interference When Merging
    Models", NeurIPS 2023 (arXiv:2306.01708).
    """
    least = [_threshold(read, base, settings.density, blocks) for read in reads]
    for rows in blocks:
        start = base(rows)
        signs = np.zeros_like(start)
        for read, weight, limit in zip(reads, weights, least, strict=True):
            signs += weight * _trimmed(read(rows) - start, limit)
        signs = np.sign(signs)
        total, share = np.zeros_like(start), np.zeros_like(start)
        for read, weight, limit in zip(reads, weights, least, strict=True):
            delta = _trimmed(read(rows) - start, limit)
            agrees = (np.sign(delta) == signs) & (delta != 0)
            total += weight * np.where(agrees, delta, 0)
            share += weight * agrees
        yield start + settings.scale * np.divide(total, share, out=total, where=share != 0)


def _threshold(read: Read, base: Read, density: float, blocks: Sequence[slice]) -> float:
    """Return the smallest magnitude of a delta that is kept."""
    sizes = np.concatenate([np.abs(read(rows) - base(rows)).ravel() for rows in blocks])
    kept = round(density * sizes.size)
    if kept >= sizes.size:
        return 0.0
    if kept == 0:
        return float("inf")
    place = sizes.size - kept
    sizes.partition(place)
    return float(sizes[place])


def _trimmed(delta: np.ndarray, least: float) -> np.ndarray:
    return np.where(np.abs(delta) >= least, delta, 0)
