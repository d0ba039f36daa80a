"""Two networks run on random numbers: a change that should change no output must not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.model.build import build
from keras_graft.printable import words_of

_LENGTHS = (8, 32, 64)  # what an open size is, until both run


def check_equal(old: Graph, new: Graph, texts: Sequence[str]) -> None:
    """Refuse a graph that gives other outputs than another one.

    Args:
        old: The graph before.
        new: The graph after.
        texts: What is known to change numbers, for the message.
    """
    models = [build(graph.replace(past=None, edits=())) for graph in (old, new)]
    failed: Exception | None = None
    for length in _LENGTHS:
        inputs = keras.tree.map_structure(lambda t, n=length: _drawn(t, n), models[0].input)
        try:
            with keras.StatelessScope():
                given = [
                    [
                        np.asarray(keras.ops.convert_to_numpy(t), "float64")
                        for t in keras.tree.flatten(out)
                    ]
                    for out in (model(inputs, training=False) for model in models)
                ]
        except Exception as error:  # of a layer or of the backend
            failed = error
            continue
        return _compare(old, given, texts)
    raise EditError(
        f"widen: the networks do not run on random numbers, so nobody knows whether they are equal: "
        f"{words_of(failed)}. check=False widens without that."  # type: ignore[arg-type]
    )


def _compare(old: Graph, given: list[list[np.ndarray]], texts: Sequence[str]) -> None:
    loose = any("16" in v.spec.dtype for n in old.nodes for v in n.outputs if v.spec is not None)
    bound = 0.1 if loose else 2e-3
    for value, before, after in zip(old.outputs, *given, strict=True):
        size = np.nanmax(np.abs(before), initial=0)
        difference = np.nanmax(np.abs(before - after), initial=0)
        if not difference <= bound * size + 1e-5:
            why = f" ({'; '.join(texts)})" if texts else ""
            raise EditError(
                f"widen: {old.label(value)!r} would differ by {difference:g}, of {size:g}: something sums "
                f"over the repeated units without weights of its own, or scales them{why}. Or choose other "
                "layers; check=False widens in spite of it."
            )


def _drawn(tensor: Any, length: int) -> Any:
    rng = np.random.default_rng(0)
    shape = [2 if tensor.shape[0] is None else tensor.shape[0]]
    shape += [length if size is None else size for size in tensor.shape[1:]]
    if tensor.dtype == "bool" or "int" in tensor.dtype:
        return keras.ops.cast(rng.integers(0, 2, shape), tensor.dtype)
    return keras.ops.cast(rng.standard_normal(shape).astype("float32"), tensor.dtype)
