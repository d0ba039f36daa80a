"""Find out which sizes that are not known must be equal, by running code without data."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.layers.sized_call import inferred_function
from keras_graft.model.opening.worlds import Groups, Pair, pool_of

tree = keras.tree

Dim = tuple[int, int]
"""The number of a tensor, and an axis of it."""

_MOST = 60
"""How many ways to choose sizes are tried at most."""


def groups_of(
    layer: Any, args: Any, kwargs: Any, family: dict[str, list[Pair]], batch: int
) -> Groups:
    """Return the groups of sizes that are not known: those that the code needs to be equal.

    Sizes that may differ must differ in the trace: where they are computed with, one could be taken
    for the other. A subset of them is given another value than the rest; where the code runs so,
    they are independent of the rest.

    Args:
        layer: The layer.
        args: Its arguments, with None for sizes that are not known.
        kwargs: The other arguments.
        family: Values for sizes.
        batch: The size of a batch.
    """
    tensors = _tensors((args, kwargs))
    dims = [
        (number, axis)
        for number, tensor in enumerate(tensors)
        for axis, size in enumerate(tensor.shape)
        if size is None and axis > 0
    ]
    if len(dims) < 2:
        return dict.fromkeys(dims, 0)
    run = _Run(layer, args, kwargs, tensors, family, batch)
    apart = {dim: number for number, dim in enumerate(dims)}
    by_axis = {dim: dim[1] - 1 for dim in dims}
    equal = dict.fromkeys(dims, 0)
    run.trains = any(run.runs(groups, True) for groups in (apart, by_axis, equal))
    if run.takes(apart):
        return apart
    start = next((groups for groups in (by_axis, equal) if run.takes(groups)), by_axis)
    # Which of the sizes may take another value while the rest keep theirs?
    marks: dict[Dim, list[int]] = {dim: [start[dim]] for dim in dims}
    for other in itertools.islice(_subsets(dims), _MOST):
        moved = {dim: group + (50 if dim in other else 0) for dim, group in start.items()}
        if run.takes(moved):
            for dim in dims:
                marks[dim].append(dim in other)
    known: dict[tuple[int, ...], int] = {}
    return {dim: known.setdefault(tuple(mark), len(known)) for dim, mark in marks.items()}


def _subsets(dims: list[Dim]) -> Iterator[tuple[Dim, ...]]:
    for count in range(1, len(dims) // 2 + 1):
        yield from itertools.combinations(dims, count)


def _tensors(structure: Any) -> list[Any]:
    """Return the symbolic tensors of arguments, and their masks, as `sized` numbers them."""
    found: dict[int, Any] = {}

    def take(leaf: Any) -> Any:
        if isinstance(leaf, keras.KerasTensor) and id(leaf) not in found:
            found[id(leaf)] = leaf
            mask = _keras.mask_of(leaf)
            if mask is not None:
                take(mask)
        return leaf

    tree.map_structure(take, structure)
    return list(found.values())


class _Run:
    def __init__(
        self, layer: Any, args: Any, kwargs: Any, tensors: list[Any],
        family: dict[str, list[Pair]], batch: int,
    ) -> None:  # fmt: skip
        self._layer = layer
        self._given = args, kwargs
        self._tensors = tensors
        self._family = family
        self._batch = batch
        self.trains = False

    def takes(self, groups: Groups) -> bool:
        """Whether the code runs with these sizes equal, and the others different."""
        return self.runs(groups) and (not self.trains or self.runs(groups, True))

    def runs(self, groups: Groups, training: bool | None = None) -> bool:
        """Whether the code runs with these sizes, in training or not."""
        if training and not _keras.takes_training(self._layer):
            return False
        twins = [
            keras.KerasTensor(self._shape(i, groups), t.dtype) for i, t in enumerate(self._tensors)
        ]
        places = {id(tensor): i for i, tensor in enumerate(self._tensors)}

        def call(*given: Any) -> Any:
            for tensor, backend in zip(self._tensors, given, strict=True):
                mask = _keras.mask_of(tensor)
                if mask is not None:
                    _keras.set_mask(backend, given[places[id(mask)]])
            filled: Any = tree.map_structure(
                lambda leaf: given[places[id(leaf)]] if id(leaf) in places else leaf, self._given
            )
            args, kwargs = filled
            if training:
                kwargs = {**kwargs, "training": True}
            outputs = self._layer(*args, **kwargs)
            return [leaf for leaf in tree.flatten(outputs) if keras.ops.is_tensor(leaf)]

        with _keras.own_call_context(), _keras.losses_kept(self._layer), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                inferred_function(call, twins)
            except Exception:
                return False
        return True

    def _shape(self, number: int, groups: Groups) -> tuple[int, ...]:
        shape = self._tensors[number].shape
        pool = pool_of(self._family, self._tensors)
        return tuple(
            size
            if size is not None
            else self._batch
            if axis == 0
            else _value(pool, groups[number, axis])
            for axis, size in enumerate(shape)
        )


def _value(pool: list[Pair], group: int) -> int:
    return pool[group % len(pool)][0] if group < 50 else pool[-1][1]
