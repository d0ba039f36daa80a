"""The fingerprint of a model: digests of its structure and of its weights."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Collection
from typing import Any

import keras

from keras_graft.errors import ReadError
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Template
from keras_graft.graph.parameters import variable_behind
from keras_graft.graph.same import numbered
from keras_graft.layers.frozen import Frozen
from keras_graft.model.calls import filled
from keras_graft.model.configuration import configuration, text, to_hash
from keras_graft.model.configuration import without as left_out
from keras_graft.model.read import read

_NAMING = ("name", "trainable", "build_config", "shared_object_id", "registered_name", "seed")


def fingerprint(trunk: Any, without: Collection[int] = ()) -> dict[str, str]:
    """Return digests of the structure and of the weights of a model.

    Names and flags do not count. A trunk has the same fingerprint frozen or not, and when the same
    code builds it in another session. A function that a Lambda closes over counts by its name.

    Args:
        trunk: A Keras model or a `Graph`.
        without: Variables that do not count, by their identities.

    >>> import keras, keras_graft as kg
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> fingerprint(model) == fingerprint(kg.freeze(model))
    True
    """
    structure = hashlib.sha256()
    try:
        graph = trunk if isinstance(trunk, Graph) else read(trunk)
    except ReadError:  # a model with its own `call`
        structure.update(configuration(trunk, _NAMING).encode())
        weights = trunk.weights
    else:
        structure.update(_structure(graph).encode())
        weights = graph.weights
    values = hashlib.sha256()
    for weight in weights:
        if id(variable_behind(weight)) in without:
            continue
        for part in to_hash(weight.value):
            values.update(part)
    return {"structure": structure.hexdigest()[:16], "weights": values.hexdigest()[:16]}


def versions() -> dict[str, str]:
    """Return the versions that features may depend on."""
    return {
        "keras-graft": importlib.metadata.version("keras-graft"),
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
    }


def _structure(graph: Graph) -> str:
    """Return how the outputs are computed, as a text that does not depend on the order of steps.

    The digest of a value is made from the digests of what it is computed from. So an unused step
    does not count, and equal steps count once, as those of masks in a loaded model.
    """
    first: dict[int, int] = {}

    def call(node: Node, reads: list[str]) -> list[str]:
        layer = node.operation.layer if isinstance(node.operation, Frozen) else node.operation
        holds = bool(getattr(layer, "variables", ()))
        same = first.setdefault(id(layer), len(first)) if holds else ""
        kwargs = {k: v for k, v in node.template.kwargs.items() if k != "training"}
        said = filled(Template(node.template.args, kwargs), reads, text)
        inside = "" if node.nested is None else _structure(node.nested)
        config = configuration(layer, _NAMING) if node.nested is None else ""
        line = f"as {same} {type(layer).__name__} {config} {left_out(said, _NAMING)} {inside}"
        digest = hashlib.sha256(line.encode()).hexdigest()
        return [*(f"{digest}:{i}" for i in range(len(node.outputs))), *("?" for _ in node.unseen)]

    place = numbered(graph, [f"in{i}" for i in range(len(graph.inputs))], call)
    inputs = [str(value.spec) for value in graph.inputs]
    return f"{inputs} {[place[value] for value in graph.outputs]}"
