"""Specs, and the symbolic tensors that stand for them."""

from __future__ import annotations

from typing import Any

import keras

from keras_graft.node import Spec


def spec_of(tensor: Any) -> Spec:
    """Return what a KerasTensor says of itself."""
    # Keras calls `x * 2.0` sparse (3.15), also where there are no sparse tensors.
    sparse = tensor.sparse and keras.backend.backend() != "torch"
    if not (sparse or tensor.ragged):
        return Spec(tuple(tensor.shape), tensor.dtype)
    return Spec(
        tuple(tensor.shape), tensor.dtype, sparse, tensor.ragged,
        tensor.ragged_rank, tensor.row_splits_dtype,
    )  # fmt: skip


def tensor_of(spec: Spec | None, name: str = "") -> Any:
    """Return a KerasTensor that says `spec` of itself."""
    assert spec is not None
    if not (spec.sparse or spec.ragged):
        return keras.KerasTensor(spec.shape, spec.dtype, name=name)
    extra = {} if not spec.ragged else {
        "ragged_rank": spec.ragged_rank, "row_splits_dtype": spec.row_splits_dtype,
    }  # fmt: skip
    return keras.KerasTensor(
        spec.shape, spec.dtype, sparse=spec.sparse, ragged=spec.ragged, name=name, **extra
    )
