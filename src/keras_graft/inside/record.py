"""`record` and `recorder`: the values inside a model in one run."""

from __future__ import annotations

import sys
from typing import Any

from keras_graft.errors import RunError
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Value
from keras_graft.graph.select import select, select_value
from keras_graft.inside.inputs import as_tensors, checked
from keras_graft.inside.running import compiled, run_once
from keras_graft.model.build import build
from keras_graft.model.verb import answered
from keras_graft.parts.extract import extract
from keras_graft.printable import shown
from keras_graft.tables import Table, Tabular


class Recorder(Tabular):
    """Runs the part of a model that some values need, and returns these values.

    `kg.recorder` makes it. It has the layers of the model: it records what they compute now, also
    after more training.

    Attributes:
        model: A Keras model from the inputs to the values: their dict by name.
        names: The names of the values: their paths, or the names that were given.
    """

    def __init__(self, graph: Graph, values: dict[str, Value], compile: bool) -> None:
        self.model: Any = build(graph)
        self._graph = graph
        self.names = tuple(values)
        self._specs = [value.spec for value in values.values()]
        self._compile = compile
        self._run: Any = None

    def __call__(self, x: Any, batch_size: int | None = None) -> dict[str, Any]:
        """Return the values for some inputs, in inference mode.

        Args:
            x: Arrays or tensors, as the model takes them.
            batch_size: None: everything in one run, which gives tensors of the backend. A number:
                in batches, as `model.predict` does it, which gives NumPy arrays.

        Returns:
            The values by name.

        Raises:
            RunError: If the model does not take `x`.
        """
        x = checked(self.model, self._graph, x, "record")
        if batch_size is not None:
            if type(batch_size) is not int or not 1 <= batch_size <= sys.maxsize:
                raise RunError(f"record: batch_size is a number or None, got {shown(batch_size)}.")
            found = self.model.predict(x, batch_size=batch_size, verbose=0)
        else:
            if self._run is None:
                run = compiled(self.model) if self._compile else None
                self._run = run or (lambda x: run_once(self.model, x))
            found = self._run(as_tensors(x))
        return {name: found[name] for name in self.names}

    def tables(self) -> list[Table]:
        """Return the values as a table."""
        rows = list(zip(self.names, map(str, self._specs), strict=True))
        return [(f"Recorder of {self.model.name!r}", ["value", "spec"], rows)]


def recorder(model: Any, selector: Any, *, compile: bool = True) -> Recorder:
    """Return an object that records values of a model in every call, and is built once.

    Args:
        model: A Keras model or a `Graph`.
        selector: A selector of values, or a list of selectors, at any depth; or a dict
            `{"name": selector}`, each of one value. Of a node with several outputs, all.
        compile: Whether the run is compiled, as `predict` compiles it on JAX and TensorFlow: it
            rounds differently then than `model(x)` does. On PyTorch nothing is compiled.

    Returns:
        A `Recorder`: call it with data, as often as you like.

    >>> import keras, numpy as np, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> h = keras.layers.Dense(3, name="h")(x)
    >>> model = keras.Model(x, keras.layers.Dense(2, name="out")(h), name="tiny")
    >>> record = kg.recorder(model, ["h", "out"])
    >>> print(record)
    Recorder of 'tiny_extract'
    value  spec
    h      (?, 3) float32
    out    (?, 2) float32
    >>> {name: tuple(value.shape) for name, value in record(np.ones((5, 4))).items()}
    {'h': (5, 3), 'out': (5, 2)}
    """
    if not isinstance(compile, bool):
        raise RunError(f"recorder: compile is True or False, got {shown(compile)}.")
    graph, chosen = answered(
        model, ((selector,), {}), lambda graph: (graph, _chosen(graph, selector))
    )
    return Recorder(extract(graph, chosen), chosen, compile)


def _chosen(graph: Graph, selector: Any) -> dict[str, Value]:
    """Return the values that a selector names, by the names that their records have."""
    if not isinstance(selector, dict):
        return {value.path: value for value in select(graph, selector).values}
    wrong = [name for name in selector if not isinstance(name, str)]
    if wrong:
        raise RunError(f"recorder: a name is text, got {shown(wrong[0])}.")
    return {name: select_value(graph, each) for name, each in selector.items()}


def record(model: Any, x: Any, selector: Any, batch_size: int | None = None) -> dict[str, Any]:
    """Return the values inside a model for some inputs, by their paths, in one run.

    Only the layers that these values need run, in inference mode (`training=False`). The values are
    those of `model(x)`, to the bit. For many runs use `kg.recorder`, which is built once.

    TransformerLens's `run_with_cache` and nnsight's `save` give the same for their models.

    Args:
        model: A Keras model or a `Graph`.
        x: Arrays or tensors, as the model takes them.
        selector: A selector of values, or a list of selectors, at any depth; or a dict
            `{"name": selector}`, each of one value. Of a node with several outputs, all:
            `"lstm:0"`, `"lstm:1"`.
        batch_size: None: everything in one run, which gives tensors of the backend. A number: in
            batches, as `model.predict` does it, which gives NumPy arrays.

    Returns:
        A dict of tensors or arrays, in the order of the selectors.

    Raises:
        NothingSelectedError: If a selector selects nothing.
        RunError: If the model does not take `x`.

    >>> import keras, numpy as np, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> h = keras.layers.Dense(3, name="layer_0")(x)
    >>> h = keras.layers.Dense(3, name="layer_1")(h)
    >>> model = keras.Model(x, keras.layers.Dense(2, name="out")(h), name="tiny")
    >>> found = kg.record(model, np.ones((5, 4)), "layer_*")
    >>> {name: tuple(value.shape) for name, value in found.items()}
    {'layer_0': (5, 3), 'layer_1': (5, 3)}
    >>> type(kg.record(model, np.ones((5, 4)), "out", batch_size=2)["out"])
    <class 'numpy.ndarray'>
    """
    return recorder(model, selector, compile=False)(x, batch_size)
