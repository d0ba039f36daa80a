"""`gradients`: the gradient of an output at any value inside a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_graft.errors import RunError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed
from keras_graft.graph.node import Value
from keras_graft.graph.select import is_exact, select
from keras_graft.inside.behind import put_behind
from keras_graft.inside.inputs import as_tensors, checked
from keras_graft.inside.running import derivatives
from keras_graft.inside.watched import Watching
from keras_graft.model.build import build
from keras_graft.model.verb import answered
from keras_graft.printable import quoted, shown
from keras_graft.tables import Table, Tabular

ops = keras.ops


@dataclass(frozen=True, repr=False)
class Gradients(Tabular):
    """The gradients at values of a model, from `kg.gradients`.

    For one value that is named exactly, `values` and `activations` are tensors; otherwise dicts of
    tensors by path.

    Attributes:
        values: The gradients, each of the shape of its value.
        activations: The values themselves.
        outputs: The outputs of the model, in its own structure.
    """

    values: Any
    activations: Any
    outputs: Any

    def tables(self) -> list[Table]:
        """Return the shapes as a table."""
        found = self.values if isinstance(self.values, dict) else {"": self.values}
        rows = [(name, tuple(each.shape)) for name, each in found.items()]
        return [("Gradients", ["value", "shape"], rows)]


def gradients(model: Any, x: Any, at: Any, of: Any = None) -> Gradients:
    """Return the gradient of an output at values inside a model, in inference mode.

    The same code on JAX, TensorFlow and PyTorch. Samples do not mix: each row is the gradient of
    the row's own number. The gradient at a value includes all ways from there to the output, also
    those through other values in `at`.

    Args:
        model: A Keras model or a `Graph`.
        x: Arrays or tensors, as the model takes them: one batch.
        at: A selector of values, or a list of selectors, at any depth: also an input, or the output
            of an `Embedding`. They must be floats.
        of: The number of each sample whose gradient is taken. A class: an index into the last axis
            of an output `(batch, classes)`. An array of one class for each sample. A function of
            the outputs that returns one number for each sample, or one for all. None: the largest
            output of each sample.

    Returns:
        The gradients, the values and the outputs.

    Raises:
        RunError: If the model does not take `x`; if a value is not a float; if `of` does not fit
            the outputs.

    Grad-CAM ("Grad-CAM: Visual Explanations from Deep Networks", Selvaraju et al., 2017) is three
    lines:

    >>> import keras, numpy as np, keras_graft as kg
    >>> x = keras.Input((8, 8, 1), name="x")
    >>> h = keras.layers.Conv2D(4, 3, name="conv")(x)
    >>> y = keras.layers.Dense(3, name="out")(keras.layers.GlobalAveragePooling2D()(h))
    >>> model = keras.Model(x, y, name="tiny")
    >>> found = kg.gradients(model, np.ones((2, 8, 8, 1)), at="conv", of=1)
    >>> weights = keras.ops.mean(found.values, axis=(1, 2), keepdims=True)
    >>> cam = keras.ops.relu(keras.ops.sum(weights * found.activations, axis=-1))
    >>> tuple(cam.shape)
    (2, 6, 6)
    """
    graph, values = answered(
        model, ((at,), {}), lambda graph: (graph, list(select(graph, at).values))
    )
    one = len(values) == 1 and is_exact(graph, at)
    paths = [value.path for value in values]
    _check_floats(values)
    watching = [Watching() for _ in values]
    watched = put_behind(graph, list(zip(values, watching, strict=True)))
    whole = build(watched.replace(past=None, edits=()))
    x = as_tensors(checked(whole, watched, x, "gradients"))
    target = _Target(of, graph)

    def run() -> tuple[Any, Any]:
        with keras.StatelessScope():  # of each run, as JAX runs it twice
            outputs = whole(x, training=False)
        unused = [p for p, w in zip(paths, watching, strict=True) if w.watch.tensor is None]
        if unused:
            raise RunError(
                f"gradients: no output of {graph.name!r} needs {listed(unused)}, so there is no "
                "gradient."
            )
        return target.total(outputs), outputs

    found, seen, outputs = derivatives(run, [each.watch for each in watching])
    if one:
        return Gradients(found[0], seen[0], outputs)
    return Gradients(
        dict(zip(paths, found, strict=True)), dict(zip(paths, seen, strict=True)), outputs
    )


def _check_floats(values: Sequence[Value]) -> None:
    for value in values:
        if value.spec is None or "float" in value.spec.dtype:
            continue
        behind = [
            v for node in value.consumers for v in node.values if v.spec and "float" in v.spec.dtype
        ]
        way = f" Behind it there is at={quoted(behind[0].path)}." if behind else ""
        raise RunError(
            f"gradients at {value.path!r}: it is {value.spec}, and only a float has a gradient.{way}"
        )


class _Target:
    """The number whose gradient is taken: the sum over the samples, as samples do not mix.

    Args:
        of: What the user gave.
        graph: The model, for messages.

    Raises:
        RunError: If it is none of the forms.
    """

    def __init__(self, of: Any, graph: Graph) -> None:
        self._of = of
        self._classes: np.ndarray | None = None
        if of is None or callable(of):
            return
        try:
            classes = np.asarray(ops.convert_to_numpy(of))
        except Exception:  # an object of the user's own
            classes = np.asarray(None)
        if classes.dtype.kind not in "iu" or classes.ndim > 1:
            raise RunError(
                f"gradients: of={shown(of)} is no class, no array of classes and no function of the "
                "outputs."
            )
        self._classes = classes

    def total(self, outputs: Any) -> Any:
        """Return the sum over the samples."""
        if callable(self._of):
            found: Any = self._of(outputs)
            if not keras.ops.is_tensor(found) or len(found.shape) > 1:
                kind = f"shape {tuple(found.shape)}" if hasattr(found, "shape") else shown(found)
                raise RunError(
                    f"gradients: of={shown(self._of)} returns {kind}; it returns one number for "
                    "each sample, (batch,), or one for all."
                )
            return ops.sum(found)
        if not ops.is_tensor(outputs) or len(outputs.shape) != 2:
            shapes = keras.tree.map_structure(lambda t: tuple(t.shape), outputs)
            raise RunError(
                f"gradients: a class is an index into one output (batch, classes), and the outputs "
                f"are {shapes}. Give a function of the outputs: of=lambda outputs: ..."
            )
        if self._classes is None:
            return ops.sum(ops.max(outputs, axis=-1))
        count, size = tuple(outputs.shape)
        classes = self._classes
        if classes.ndim and len(classes) != count:
            raise RunError(
                f"gradients: of= has {len(classes)} classes, and there are {count} samples."
            )
        if np.any(classes >= size) or np.any(classes < -size):
            raise RunError(f"gradients: of={shown(self._of)}, and there are {size} classes.")
        rows = np.broadcast_to(classes % size, (count,)).astype("int32")
        return ops.sum(ops.take_along_axis(outputs, ops.convert_to_tensor(rows[:, None]), axis=-1))
