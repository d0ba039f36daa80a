"""Give sizes that are not known a value in each of two worlds, small enough to run code on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.graph.sizes import Axis, Size

Pair = tuple[int, int]

BATCH: Pair = (2, 3)

FAMILIES: list[dict[str, list[Pair]]] = [
    {
        "short": [(16, 24), (24, 40), (40, 56), (56, 72), (72, 88), (88, 104)],
        "image": [(64, 96), (96, 160), (160, 224), (128, 192)],
    },
    {
        "short": [(5, 7), (6, 9), (11, 13), (8, 10), (9, 12), (7, 11)],
        "image": [(32, 48), (48, 80), (80, 112), (112, 144)],
    },
    {
        "short": [(64, 96), (96, 160), (160, 224), (128, 192)],
        "image": [(224, 256), (256, 288), (288, 320), (320, 352)],
    },
]
"""Values for sizes, of sequences and of images. Code may need long ones, or take only short ones."""

APART, BY_AXIS, EQUAL = "apart", "by axis", "equal"
"""Which sizes are the same: none; those of one axis of all tensors; all."""

WAYS = [(family, way) for family in FAMILIES for way in (APART, BY_AXIS, EQUAL)]
"""The ways to choose sizes, in the order in which they are tried."""

Way = tuple[dict[str, list[Pair]], str]


def sized(structure: Any, way: Way, swapped: bool) -> tuple[Any, dict[int, Any]]:
    """Return arguments with new tensors, whose unknown sizes have two values.

    Returns:
        The arguments, and for each new tensor, by its identity, the one that it was made from.
    """
    made: dict[int, Any] = {}
    given: dict[int, Any] = {}
    pairs = _Pairs(way, swapped)

    def change(leaf: Any) -> Any:
        if not isinstance(leaf, keras.KerasTensor):
            return leaf
        if id(leaf) not in made:
            new = made[id(leaf)] = keras.KerasTensor(
                tuple(0 if d is None else d for d in leaf.shape), leaf.dtype,
                sparse=bool(leaf.sparse),
            )  # fmt: skip
            given[id(new)] = leaf
            _keras.set_shape(new, tuple(pairs.of(new, leaf.shape)))
            mask = _keras.mask_of(leaf)
            if mask is not None:
                _keras.set_mask(new, pairs.like(new, change(mask)))
        return made[id(leaf)]

    return keras.tree.map_structure(change, structure), given


class _Pairs:
    def __init__(self, way: Way, swapped: bool) -> None:
        self._family, self._way = way
        self._swapped = swapped
        self._taken = {"short": 0, "image": 0}

    def of(self, tensor: Any, shape: Sequence[Any]) -> Iterator[Any]:
        kind = "image" if len(shape) >= 4 else "short"
        pool = self._family[kind]
        for axis, size in enumerate(shape):
            if size is not None:
                yield size
                continue
            pair = BATCH if axis == 0 else pool[self._place(kind, axis) % len(pool)]
            yield Size(*(pair[::-1] if self._swapped else pair), Axis(tensor, axis))

    def _place(self, kind: str, axis: int) -> int:
        if self._way == EQUAL:
            return 0
        if self._way == BY_AXIS:
            return axis - 1
        self._taken[kind] += 1
        return self._taken[kind] - 1

    @staticmethod
    def like(tensor: Any, mask: Any) -> Any:
        """Let a mask have the sizes of the tensor that it lies on."""
        shape = [
            Size(int(a), a.other, Axis(mask, axis)) if isinstance(a, Size) else b
            for axis, (a, b) in enumerate(zip(tensor.shape, mask.shape, strict=False))
        ]
        _keras.set_shape(mask, tuple([*shape, *mask.shape[len(shape) :]]))
        return mask


def loose(worlds: Sequence[Sequence[Pair]], values: Sequence[int]) -> list[list[int]] | None:
    """Return sizes that are all different where they are not known; None if they are anyhow.

    Sizes that had the same two values may still be different ones.

    Args:
        worlds: For each tensor, its sizes in both worlds.
        values: The values to choose from, in turn.
    """
    free = [pair for sizes in worlds for pair in sizes[1:] if pair[0] != pair[1]]
    if len(set(free)) == len(free):
        return None
    chosen = iter(values)
    return [
        [
            a if a == b else BATCH[0] if axis == 0 else next(chosen, values[-1])
            for axis, (a, b) in enumerate(sizes)
        ]
        for sizes in worlds
    ]
