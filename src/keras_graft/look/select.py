"""`select`: find nodes and values of a model by a selector."""

from __future__ import annotations

from typing import Any

from keras_graft.graph.graph import Graph
from keras_graft.graph.select import Selection
from keras_graft.graph.select import select as _select
from keras_graft.model.verb import question


@question
def select(graph: Graph, selector: Any) -> Selection:
    """Find nodes and values of a model by name, path, glob, class, pattern, predicate or object.

    Raises:
        NothingSelectedError: If nothing matches; the nearest names are given.

    >>> import keras, keras_graft as kg
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="out")])
    >>> kg.select(model, "o*").labels
    ['out']
    """
    return _select(graph, selector)
