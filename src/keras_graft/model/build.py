"""Build a Keras model from a `Graph`, with the donor's layers or with its own."""

from __future__ import annotations

from typing import Any, Literal

import keras

from keras_graft import _keras
from keras_graft.errors import BuildError, warn
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import is_one_of
from keras_graft.model.attributes import dressed, lost_class
from keras_graft.model.clone import clone
from keras_graft.model.read import has_code
from keras_graft.model.to_keras import assemble
from keras_graft.printable import shown


def build(
    graph: Graph,
    weights: Literal["share", "copy", "fresh"] = "share",
    name: str | None = None,
) -> keras.Model:
    """Make a Keras model from a graph.

    The model uses the layer objects that the graph refers to, so it shares their weights. Keras's
    shape inference runs only where the spec of an input differs from the recorded one. What the
    model adds to shared layers is removed when the model is deleted.

    Args:
        graph: The graph.
        weights: `"share"`: use the donor's layers. `"copy"`: use new layers with the same values;
            `"fresh"`: with newly drawn values, as `kg.clone` does.
        name: The name of the model; the graph's if None.

    Returns:
        A Functional model with the graph's structure of inputs and outputs. If the graph was read
        from a model with its own class, such as a keras_hub backbone, and is not only a part of it,
        a model of that class. Attributes that hold layers then hold those of the new model, and an
        attribute whose layer is gone says so when it is accessed. The model's file stores its
        network, and loads after `import keras_graft`. Methods that call layers one by one, such as
        those that generate text in keras_hub, use only the layers that attributes hold, and skip
        layers that an edit put between them.

    Warns:
        GraftWarning: If the class cannot be kept.

    Raises:
        GraphError: If the graph is not well formed.
        BuildError: If an operation does not take its inputs. The message names it, the producers
            of its inputs, and the specs.
        WeightsError: If a layer cannot be cloned.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> model = keras.Model(x, keras.layers.Dense(2, name="out")(x), name="tiny")
    >>> again = kg.build(kg.read(model))
    >>> again.get_layer("out") is model.get_layer("out")
    True
    """
    if not isinstance(graph, Graph):
        raise BuildError(
            f"build takes a keras_graft.Graph, got {type(graph).__name__}; kg.read(model) gives one."
        )
    if not is_one_of(weights, "share", "copy", "fresh"):
        raise BuildError(f'weights must be "share", "copy" or "fresh", got {shown(weights)}.')
    whole = graph.origin
    if whole is not None and has_code(whole):
        return _again(whole, weights, name)
    if weights != "share":
        graph = clone(graph, weights=weights)
    built = assemble(graph, name)
    model, lost = dressed(graph, built.model, built.tensors)
    if lost is not None:
        warn(
            f"{model.name!r} is a plain Functional: its donor is a {lost_class(graph)}, and "
            f"{lost}. The methods and attributes of that class stay with the donor."
        )
    _keras.remembering(model, graph.edits)
    return model


def _again(model: Any, weights: Any, name: str | None) -> Any:
    """Return a model of the same class as one with code of its own, that was not edited."""
    again = _keras.twin(model) if weights == "share" else clone(model, weights=weights)
    if name is not None:
        again.name = name
    return again


def like(model: Any, graph: Graph) -> Any:
    """Return what a verb returns for `model`: the graph for a graph, else a model built from it."""
    return graph if isinstance(model, Graph) else build(graph)
