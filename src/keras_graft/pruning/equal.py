"""Two networks run on random numbers: a change that should change no output must not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.record import record_of
from keras_graft.graph.select import everything
from keras_graft.model.build import build
from keras_graft.printable import words_of
from keras_graft.weights.taken import taken_from

_LENGTHS = (8, 32, 64)  # what an open size is, until both run


def check_equal(
    old: Graph, new: Graph, texts: Sequence[str], value: Callable[[Any, Any], np.ndarray]
) -> None:
    """Refuse a graph that gives other outputs than another one.

    Both compute in float32, also those that else compute in 16 bits or keep their weights so: then a
    difference is not one of rounding.

    Args:
        old: The graph before.
        new: The graph after.
        texts: What is known to change numbers, for the message.
        value: Returns the value of a variable of the new graph: of an old variable, and of what was
            taken of its value.
    """
    models = [build(graph.replace(past=None, edits=())) for graph in (old, new)]
    failed: Exception | None = None
    with _keras.in_float32(models) as scope:
        _exact_values(scope, models[0], models[1], value)
        for length in _LENGTHS:
            inputs = keras.tree.map_structure(lambda t, n=length: _drawn(t, n), models[0].input)
            try:
                given = [
                    [_array(t) for t in keras.tree.flatten(model(inputs, training=False))]
                    for model in models
                ]
            except Exception as error:  # of a layer or of the backend
                failed = error
                continue
            return _compare(old, given, texts)
    raise EditError(
        f"widen: the networks do not run on random numbers, so nobody knows whether they are equal: "
        f"{words_of(failed)}. check=False widens without that."  # type: ignore[arg-type]
    )


def _exact_values(
    scope: keras.StatelessScope, old: Any, new: Any, value: Callable[[Any, Any], np.ndarray]
) -> None:
    """Give 16-bit variables that were made of others the values that they have in float32."""
    known = {id(v): v for v in old.variables}
    for variable in new.variables:
        source = taken_from(variable, known) if variable.dtype in ("float16", "bfloat16") else None
        if source is not None:
            array = record_of(variable).taken.of(_array(scope.get_current_value(source)))
            exact = keras.ops.convert_to_tensor(value(source, array), dtype="float32")
            scope.add_update((variable, exact))


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor), "float64")


def _compare(old: Graph, given: list[list[np.ndarray]], texts: Sequence[str]) -> None:
    bound = 2e-2 if _rounds(old) else 2e-3
    for value, before, after in zip(old.outputs, *given, strict=True):
        finite = np.isfinite(before)
        size = np.abs(before[finite]).max(initial=0)
        same = (before == after) | (np.isnan(before) & np.isnan(after))
        apart = np.abs(np.subtract(before, after, where=~same, out=np.zeros(before.shape)))
        difference = np.inf if np.isnan(apart).any() else apart.max(initial=0)
        if not difference <= bound * size + 1e-5:
            why = f" ({'; '.join(texts)})" if texts else ""
            raise EditError(
                f"widen: {old.label(value)!r} would differ by {difference:g}, of {size:g}: something sums "
                f"over the repeated units without weights of its own, or scales them{why}. Or choose other "
                "layers; check=False widens in spite of it."
            )


def _rounds(graph: Graph) -> bool:
    """Whether a graph still rounds to 16 bits: in an op, or at the inputs of a nested model."""
    for node in everything(graph):
        op = node.operation
        inputs = () if node.nested is None else node.nested.inputs
        halves = [v.spec.dtype for v in inputs if v.spec is not None]
        halves.append("" if isinstance(op, keras.Layer) else getattr(op, "dtype", ""))
        if any(isinstance(dtype, str) and dtype.endswith("float16") for dtype in halves):
            return True
    return False


def _drawn(tensor: Any, length: int) -> Any:
    rng = np.random.default_rng(0)
    shape = [2 if tensor.shape[0] is None else tensor.shape[0]]
    shape += [length if size is None else size for size in tensor.shape[1:]]
    if tensor.dtype == "bool" or "int" in tensor.dtype:
        return keras.ops.cast(rng.integers(0, 2, shape), tensor.dtype)
    return keras.ops.cast(rng.standard_normal(shape).astype("float32"), tensor.dtype)
