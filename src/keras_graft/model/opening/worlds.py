"""Give sizes that are not known a value in each of two worlds, small enough to run code on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.graph.sizes import Axis, Size

Pair = tuple[int, int]

BATCH: Pair = (2, 5)

MULTIPLE = 48
"""What a batch is a multiple of where code takes no other: it holds the frames of videos."""

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
    {"short": [(3, 5), (4, 6), (2, 7), (6, 8)], "image": [(8, 12), (12, 20), (20, 28), (16, 24)]},
]
"""Values for sizes, of sequences and of images. Code may need long ones, or take only short ones."""


def pool_of(family: dict[str, list[Pair]], tensors: Sequence[Any]) -> list[Pair]:
    """Return the values for the sizes of some tensors: those of images if the first is one."""
    image = bool(tensors) and len(tensors[0].shape) >= 4
    return family["image" if image else "short"]


CHECKS: list[tuple[Pair, dict[str, list[Pair]]]] = [
    (
        (3, 7),
        {
            "short": [(37, 41), (43, 53), (59, 67), (71, 79), (83, 97), (101, 103)],
            "image": [(197, 227), (211, 239), (223, 251), (229, 257)],
        },
    ),
    (
        (4, 1),
        {
            "short": [(320, 448), (576, 704), (832, 1088), (960, 1216)],
            "image": [(320, 448), (576, 704), (832, 1088), (960, 1216)],
        },
    ),
]
"""Further sizes of a batch and the rest: code must do the same for them, where it takes them."""

Groups = dict[tuple[int, int], int]
"""For each size that is not known, by the number of the tensor and the axis: its group. Sizes of one
group are always equal."""

Way = tuple[dict[str, list[Pair]], Groups, Pair]
"""A family of values, the groups of sizes, and the sizes of a batch."""


def sized(structure: Any, way: Way) -> tuple[Any, dict[int, Any]]:
    """Return arguments with new tensors, whose unknown sizes have two values.

    Returns:
        The arguments, and for each new tensor, by its identity, the one that it was made from.
    """
    made: dict[int, Any] = {}
    given: dict[int, Any] = {}
    given_tensors = [t for t in keras.tree.flatten(structure) if isinstance(t, keras.KerasTensor)]
    pairs = _Pairs(way, given_tensors)

    def change(leaf: Any) -> Any:
        if not isinstance(leaf, keras.KerasTensor):
            return leaf
        if id(leaf) not in made:
            new = made[id(leaf)] = keras.KerasTensor(
                tuple(0 if d is None else d for d in leaf.shape), leaf.dtype,
                sparse=bool(leaf.sparse),
            )  # fmt: skip
            given[id(new)] = leaf
            _keras.set_shape(new, tuple(pairs.of(len(given) - 1, new, leaf.shape)))
            mask = _keras.mask_of(leaf)
            if mask is not None:
                _keras.set_mask(new, pairs.like(new, change(mask)))
        return made[id(leaf)]

    return keras.tree.map_structure(change, structure), given


class _Pairs:
    def __init__(self, way: Way, tensors: Sequence[Any]) -> None:
        family, self._groups, self._batch = way
        self._pool = pool_of(family, tensors)

    def of(self, number: int, tensor: Any, shape: Sequence[Any]) -> Iterator[Any]:
        pool = self._pool
        for axis, size in enumerate(shape):
            if size is not None:
                yield size
                continue
            group = self._groups.get((number, axis), 0)
            pair = self._batch if axis == 0 else pool[group % len(pool)]
            yield Size(*pair, Axis(tensor, axis))

    @staticmethod
    def like(tensor: Any, mask: Any) -> Any:
        """Let a mask have the sizes of the tensor that it lies on."""
        shape = [
            Size(int(a), a.other, Axis(mask, axis)) if isinstance(a, Size) else b
            for axis, (a, b) in enumerate(zip(tensor.shape, mask.shape, strict=False))
        ]
        _keras.set_shape(mask, tuple([*shape, *mask.shape[len(shape) :]]))
        return mask
