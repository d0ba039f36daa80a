"""Specs of symbolic tensors, and KerasTensors and inputs made from specs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras

from keras_graft.graph.node import Spec, Template
from keras_graft.model.calls import filled


def spec_of(tensor: Any, sparse: bool | None = None) -> Spec:
    """Return the spec of a KerasTensor.

    Args:
        tensor: The tensor.
        sparse: Whether it really is sparse (see `are_sparse`); what the tensor says if None.
    """
    sparse = bool(tensor.sparse if sparse is None else sparse)
    if not (sparse or tensor.ragged):
        return Spec(tuple(tensor.shape), tensor.dtype)
    return Spec(
        tuple(tensor.shape), tensor.dtype, sparse, tensor.ragged,
        tensor.ragged_rank, tensor.row_splits_dtype,
    )  # fmt: skip


def are_sparse(
    outputs: Sequence[Any], operation: Any, template: Template, specs: Sequence[Spec | None]
) -> list[bool]:
    """Return which outputs of a call are sparse.

    Keras 3.15 marks `x * 2.0` as sparse for any `x`, and layers like `Flatten` pass the flag on.
    In fact an output is sparse only if an input is, or if the operation was given `sparse=True`.

    Args:
        outputs: The symbolic tensors that Keras recorded.
        operation: What was called.
        template: How it was called.
        specs: The specs of its inputs, known to be true.
    """
    said = [bool(tensor.sparse) for tensor in outputs]
    given = any(spec is not None and spec.sparse for spec in specs)
    layer = isinstance(operation, keras.Layer)
    if not any(said) or getattr(operation, "sparse", None) is True:
        return said
    if not given and not layer:
        return [False] * len(said)
    args, kwargs = filled(template, [tensor_of(spec) for spec in specs])
    # A layer follows the flags of its inputs; an op must be run on abstract tensors to know.
    ask = operation.compute_output_spec if layer else _run_abstractly(operation)
    try:
        return [bool(tensor.sparse) for tensor in keras.tree.flatten(ask(*args, **kwargs))]
    except Exception:
        return said if given else [False] * len(said)


def _run_abstractly(operation: Any) -> Any:
    return functools.partial(keras.Operation.compute_output_spec, operation)


def input_of(spec: Spec | None, name: str | None = None, optional: bool = False) -> Any:
    """Return a symbolic input of a model that takes tensors of this spec."""
    assert spec is not None
    return keras.Input(
        batch_shape=spec.shape, dtype=spec.dtype, sparse=spec.sparse, ragged=spec.ragged,
        name=name, optional=optional,
    )  # fmt: skip


def tensor_of(spec: Spec | None, name: str = "") -> Any:
    """Return a KerasTensor with this spec."""
    assert spec is not None
    if not (spec.sparse or spec.ragged):
        return keras.KerasTensor(spec.shape, spec.dtype, name=name)
    extra = {} if not spec.ragged else {
        "ragged_rank": spec.ragged_rank, "row_splits_dtype": spec.row_splits_dtype,
    }  # fmt: skip
    return keras.KerasTensor(
        spec.shape, spec.dtype, sparse=spec.sparse, ragged=spec.ragged, name=name, **extra
    )
