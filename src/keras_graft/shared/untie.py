"""`untie`: give a tied weight its own variable again."""

from __future__ import annotations

from typing import Any

from keras_graft import ties as _ties
from keras_graft.errors import WeightsError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed
from keras_graft.model.verb import verb
from keras_graft.shared.kept import path_of, tied_nodes
from keras_graft.shared.tie import check_not_frozen, with_layer
from keras_graft.weights.find import find_weight


@verb
def untie(graph: Graph, target: Any) -> Graph:
    """Give a tied weight its own variable, with the value that the weight has now.

    Args:
        model: A Keras model or a `Graph`.
        target: The weight that is tied: `"lm_head/kernel"`.

    Raises:
        WeightsError: If it is not tied.

    >>> import keras, keras_graft as kg
    >>> ids = keras.Input((5,), dtype="int32", name="ids")
    >>> h = keras.layers.Embedding(9, 4, name="embedding")(ids)
    >>> model = keras.Model(ids, keras.layers.Dense(9, name="lm_head")(h))
    >>> tied = kg.tie(model, "lm_head/kernel", "embedding/embeddings", transform="transpose")
    >>> kg.untie(tied, "lm_head/kernel").count_params()
    81
    """
    to = find_weight(graph, target, "untie")
    check_not_frozen(to, f"untie {str(to)!r}")
    known = _ties.ties_of(to.layer)
    ties = [t for t in known if t.weight == to.name]
    if not ties:
        others = [
            f"{path_of(n)}/{t.weight}"
            for n in tied_nodes(graph)
            for t in _ties.ties_of(n.operation)
        ]
        raise WeightsError(
            f"untie: {str(to)!r} is not tied. "
            + (f"Tied here: {listed(others)}." if others else f"{graph.name!r} has no ties.")
        )
    layer = _ties.shared_copy(to.layer, plain=True)
    (record,) = (t for t in _ties.ties_of(layer) if t.weight == to.name)
    _ties.take_back(layer, record, _ties.own_variable(record))
    return with_layer(graph, to.layer, layer)
