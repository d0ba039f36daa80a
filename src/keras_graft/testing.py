"""Assertions about models, for our tests and yours."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

tree = keras.tree


def random_inputs(model: Any, batch: int = 2, seed: int = 0) -> Any:
    """Return random inputs of the structure, shapes and dtypes that `model` takes.

    Integers are 0 or 1, which every vocabulary and every mask has; a dimension that may vary
    is 8.
    """
    rng = np.random.default_rng(seed)

    def draw(tensor: Any) -> Any:
        shape = [batch if tensor.shape[0] is None else tensor.shape[0]]
        shape += [8 if d is None else d for d in tensor.shape[1:]]
        if tensor.dtype == "bool" or "int" in tensor.dtype:
            return rng.integers(0, 2, shape).astype(tensor.dtype)
        return keras.ops.cast(rng.standard_normal(shape).astype("float32"), tensor.dtype)

    inputs = model.inputs if isinstance(model, keras.Sequential) else model.input
    return tree.map_structure(draw, inputs[0] if inputs is model.inputs else inputs)


def assert_same_outputs(
    a: Any, b: Any, inputs: Any = None, exact: bool = True, batches: tuple[int, ...] = (1, 3)
) -> None:
    """Assert that two models give the same outputs for the same inputs, in inference mode.

    Args:
        a: A Keras model, or any function of its inputs if `inputs` are given.
        b: Another; `a` and `b` may differ in everything but their inputs and outputs.
        inputs: The inputs; random ones, for each of `batches`, if None.
        exact: To the bit; else within 1e-4, relative and absolute.
        batches: The batch sizes of the random inputs.

    Raises:
        AssertionError: If structures, shapes, dtypes or values differ: it says which output,
            and by how much.
    """
    cases = [inputs] if inputs is not None else [random_inputs(a, n, n) for n in batches]
    for case in cases:
        left, right = a(case), b(case)
        tree.assert_same_structure(left, right)
        # With paths on both sides: Keras orders a dict's leaves differently without them.
        pairs = zip(tree.flatten_with_path(left), tree.flatten_with_path(right), strict=True)
        for (path, x), (_, y) in pairs:
            where = ".".join(map(str, path)) or "the output"
            kinds = keras.backend.standardize_dtype(x.dtype), keras.backend.standardize_dtype(
                y.dtype
            )  # fmt: skip
            assert kinds[0] == kinds[1], f"{where}: dtype {kinds[0]} is not {kinds[1]}"
            x, y = (np.asarray(keras.ops.convert_to_numpy(t), "float64") for t in (x, y))
            assert x.shape == y.shape, f"{where}: shape {x.shape} is not {y.shape}"
            same = (
                np.array_equal(x, y, equal_nan=True)
                if exact
                else np.allclose(x, y, rtol=1e-4, atol=1e-4, equal_nan=True)
            )
            if not same:
                raise AssertionError(f"{where} differs by up to {np.nanmax(np.abs(x - y)):g}")
