"""Run a graph on abstract tensors: does it do what its specs say?

Keras's own inference believes the layers. Many say of themselves what shape they give without
looking at their weights: a `LayerNormalization` or an LSTM takes any number of features then, and
fails when it runs, or, where sizes of one meet others, gives a shape that it did not announce.
Here every call runs as it would with data, without any: the backend traces it. (Where that does not
tell, zeros run besides.)
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_graft.call import filled
from keras_graft.errors import EditError
from keras_graft.graph import Graph
from keras_graft.node import Node, Value
from keras_graft.printable import words_of

Shape = tuple[int, ...]

_SIZES = (8, 64, 256)
"""What is tried for a dimension that may vary and of which no size was ever known."""

_FACTORS = (2, 0.5)
"""By what a known size is multiplied for a dimension that may vary from now on."""

_NOISE = re.compile(
    r"\x1b\[\d*m|Exception encountered when calling .*|\n+Arguments received by[\s\S]*"
)


@dataclass(frozen=True)
class Failure:
    """A call that does not do what the graph says of it.

    Attributes:
        node: The call.
        shapes: The shapes that it read.
        given: The shapes of the graph's inputs.
        reason: What the backend says, or what the call gave instead.
    """

    node: Node
    shapes: tuple[Shape, ...]
    given: tuple[Shape, ...]
    reason: str


def trial(
    graph: Graph, before: Mapping[Value, Sequence[int | None] | None] | None = None
) -> Failure | None:
    """Run a graph on abstract tensors of whole shapes.

    A dimension that may vary must fit at some size: if it was fixed before, at another one.

    Args:
        graph: The graph, its specs inferred.
        before: The shapes that the inputs had, where they were others.

    Returns:
        The first call that fails, if there is one at every size that was tried.
    """
    specs = [value.spec for value in graph.inputs]
    if any(spec is None or spec.sparse or spec.ragged for spec in specs):
        return None  # nothing stands for such a tensor on every backend
    old = [(before or {}).get(value.within(None)) or () for value in graph.inputs]
    shapes = [tuple(spec.shape) for spec in specs if spec is not None]
    batches = [s[0] for s in shapes if s and s[0]] or [s[0] + 1 for s in old if s and s[0]] or [2]
    failure = None
    for size, factor in itertools.product(_SIZES, _FACTORS):
        tried = [
            tuple(_size(d, i, was, batches[0], size, factor) for i, d in enumerate(shape))
            for shape, was in zip(shapes, old, strict=True)
        ]
        failure = _attempt(graph, tried)
        if failure is None or all(None not in shape[1:] for shape in shapes):
            break
    return failure


def _size(
    size: int | None, place: int, before: Sequence[int | None], batch: int, free: int, factor: float
) -> int:
    if size is not None:
        return size
    if place == 0:
        return batch
    was = before[place] if place < len(before) else None
    return free if was is None else max(1, int(was * factor))


def _attempt(graph: Graph, shapes: Sequence[Shape]) -> Failure | None:
    run = _Run(graph, tuple(shapes))
    tensors = [
        keras.KerasTensor(shape, value.spec.dtype)  # type: ignore[union-attr]
        for shape, value in zip(shapes, graph.inputs, strict=True)
    ]
    try:
        run.compute_output_spec(*tensors)
        if _needs_data(tensors):
            with keras.StatelessScope():  # no state moves
                run.call(*(keras.ops.zeros(t.shape, t.dtype) for t in tensors))
    except Exception as error:
        if run.failure is None:  # no call of the graph: the inputs themselves are impossible
            kinds = ", ".join(
                f"{name!r} {t.shape} {t.dtype}"
                for name, t in zip(graph.input_names, tensors, strict=True)
            )
            reason = str(error).rpartition("Error encountered:")[2].strip().replace("\\n", "")
            raise EditError(
                f"reinput: nothing can be computed from inputs like these: {kinds}: {reason}. Give "
                "a dtype and a shape that the layers behind take."
            ) from error
        return run.failure
    return None


def _needs_data(tensors: Sequence[Any]) -> bool:
    """Whether tracing takes what cannot run, so that only data tell.

    That of TensorFlow takes a slice beyond the end of a table, that of PyTorch whole numbers where
    the weights are none.
    """
    backend = keras.backend.backend()
    whole = any(not keras.backend.is_float_dtype(t.dtype) for t in tensors)
    return backend == "tensorflow" or (backend == "torch" and whole)


def rows(node: Node, inputs: Sequence[Value]) -> int | None:
    """Return how many rows a call gives for two samples, where its specs tell.

    An op such as `ops.reshape(x, (-1, 50))` makes several rows of one sample, or one of several,
    when the size of a sample is another; its spec says that the batch may vary, as before.
    """
    shapes = [None if v.spec is None else v.spec.shape for v in inputs]
    if any(shape is None or not shape or shape[0] is not None for shape in shapes):
        return None
    tensors = [keras.KerasTensor((2, *v.spec.shape[1:]), v.spec.dtype) for v in inputs]  # type: ignore
    args, kwargs = filled(node.template, tensors)
    try:
        given = keras.tree.flatten(node.operation.compute_output_spec(*args, **kwargs))
    except Exception:  # that it does not fit at all is found, and told better, elsewhere
        return None
    return given[0].shape[0] if given and given[0].shape else None


class _Run(keras.Operation):
    """All calls of a graph as one operation, which the backend can trace."""

    def __init__(self, graph: Graph, given: tuple[Shape, ...]) -> None:
        super().__init__(name="trial")
        self.graph = graph
        self.given = given
        self.failure: Failure | None = None

    def call(self, *tensors: Any) -> Any:
        self.failure = None  # PyTorch tries twice
        values = dict(zip((v.within(None) for v in self.graph.inputs), tensors, strict=True))
        for node in self.graph.steps:
            if any(value not in values for value in node.inputs):
                continue  # it computes a mask of one that a closed model hands on unseen
            inputs = [values[value] for value in node.inputs]
            args, kwargs = filled(node.template, inputs)
            try:
                outputs = keras.tree.flatten(node.operation(*args, **kwargs))
                _compare(node, outputs)
            except Exception as error:
                shapes = tuple(tuple(t.shape) for t in inputs)
                reason = words_of(_NOISE.sub("", str(error)).strip()) or type(error).__name__
                self.failure = Failure(node, shapes, self.given, reason)
                raise
            values.update(zip(node.outputs, outputs, strict=True))
        return [values[v.within(None)] for v in self.graph.outputs if v.within(None) in values]


def _compare(node: Node, outputs: Sequence[Any]) -> None:
    for value, tensor in zip(node.outputs, outputs, strict=True):
        said, given = value.spec, tuple(tensor.shape)
        if said is None:
            continue
        pairs = zip(said.shape, given, strict=False)
        if len(said.shape) != len(given) or any(None not in (a, b) and a != b for a, b in pairs):
            said_shape = ", ".join("?" if d is None else str(d) for d in said.shape)
            given_shape = ", ".join("?" if d is None else str(d) for d in given)
            raise ValueError(
                f"it would say that it gives ({said_shape}), and give ({given_shape}): its weights "
                "or constants are for another shape"
            )
