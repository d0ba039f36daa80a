"""`merge_adapters` and `unmerge_adapters`: adapters as part of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.adapters.choose import chosen_names
from keras_graft.adapters.quantized import is_quantized
from keras_graft.adapters.rebuilt import rebuilt
from keras_graft.adapters.state import Adapter, State, path_of, states_of
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node
from keras_graft.graph.parameters import variable_behind
from keras_graft.model.verb import verb
from keras_graft.weights.address import Weight, groups


@verb
def merge_adapters(graph: Graph, names: str | Sequence[str] | None = None) -> Graph:
    """Add what adapters add to the weights themselves, and remove the adapters.

    Without any adapter left, the layers have the classes and flags of the donor, and `model.save`
    writes an ordinary file. The merged weights are new variables; the donor's stay. Outputs differ
    by rounding at most.

    Args:
        model: A Keras model or a `Graph`.
        names: Which adapters. None: all that are active; those that are not stay in the model.

    Raises:
        EditError: If the model has no such adapters, or one is on a quantized weight.

    >>> import keras, keras_graft as kg
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="d")])
    >>> merged = kg.merge_adapters(kg.lora(model, "d", rank=2))
    >>> merged.count_params() == model.count_params(), type(merged.get_layer("d")).__name__
    (True, 'Dense')
    """
    chosen = chosen_names(graph, names, "merge_adapters")
    work = _Merge(graph, "merge_adapters")
    for node, state in states_of(graph):
        into = [a for a in state.adapters if a.name in chosen and (names is not None or a.active)]
        if into:
            left = tuple(a for a in state.adapters if a not in into)
            work.change(node, state.replace(adapters=left), (*state.merged, *into))
    return work.done()


@verb
def unmerge_adapters(graph: Graph, names: str | Sequence[str] | None = None) -> Graph:
    """Take merged adapters out of the weights again; they are adapters as before.

    A weight without any merged adapter is the variable that it was before, to the bit: what was
    trained since the merge is not in it. A model that was loaded from a file knows of no merge.

    Args:
        model: A Keras model or a `Graph`.
        names: Which adapters. None: all that are merged.

    Raises:
        EditError: If the model has no such merged adapters.

    >>> import keras, keras_graft as kg
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="d")])
    >>> merged = kg.merge_adapters(kg.lora(model, "d", rank=2))
    >>> len(kg.unmerge_adapters(merged).trainable_variables)
    2
    """
    chosen = chosen_names(graph, names, "unmerge_adapters", merged=True)
    work = _Merge(graph, "unmerge_adapters")
    for node, state in states_of(graph):
        out = [a for a in state.merged if a.name in chosen]
        if out:
            stay = tuple(a for a in state.merged if a not in out)
            work.change(node, state.replace(adapters=(*state.adapters, *out)), stay)
    return work.done()


class _Merge:
    """One change of what is merged into the weights of a graph."""

    def __init__(self, graph: Graph, verb: str) -> None:
        self._graph, self._verb = graph, verb
        self._states = {id(node.operation): state for node, state in states_of(graph)}
        self._instead: dict[int, Any] = {}

    def change(self, node: Node, state: State, merged: tuple[Adapter, ...]) -> None:
        """Give a layer a new state, in which these adapters are merged into its weights."""
        known = {weight.address: weight for weight in groups(node.operation).weights()}
        before = {id(new): old for new, old in state.kept}
        kept = []
        for address in dict.fromkeys(a.weight for a in (*merged, *state.merged)):
            weight = known[address]
            self._check(node, weight)
            real = variable_behind(weight.variable)
            base = before.get(id(real), real)
            into = [adapter for adapter in merged if adapter.weight == address]
            new = _with(base, into) if into else base
            self._instead[id(real)] = new
            if into:
                kept.append((new, base))
        self._states[id(node.operation)] = state.replace(merged=merged, kept=tuple(kept))

    def _check(self, node: Node, weight: Weight) -> None:
        if is_quantized(weight.layer):
            raise EditError(
                f"{self._verb}: {path_of(node) + '/' + weight.address!r} is quantized "
                f"({weight.layer.quantization_mode}): merging would round what the adapter "
                "learned. Keep the adapters: model.save and kg.save_adapters write them."
            )

    def done(self) -> Graph:
        """Return the graph with the changes."""
        return rebuilt(self._graph, self._states, self._verb, self._instead)


def _with(base: Any, adapters: Sequence[Adapter]) -> Any:
    """Return a new variable: a weight with what adapters add to it."""
    parts = tuple(_keras.Part(a.a, a.b, a.scale, a.inputs) for a in adapters)
    total = _keras.Adapted(base, parts).total(lambda variable: variable.value)
    return _keras.variable_like(base, keras.ops.stop_gradient(total))
