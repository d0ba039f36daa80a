"""Make the layers of a graph again with other adapters, around the same variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_graft import _keras
from keras_graft.adapters.layer import adapt, plain_class, take_off
from keras_graft.adapters.state import (
    State,
    flags_of,
    is_frozen,
    path_of,
    state_of,
    states_of,
    weighted,
)
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node
from keras_graft.graph.record import is_wrapper, remember, unwrapped
from keras_graft.graph.select import everything, leaves
from keras_graft.model.attributes import copied
from keras_graft.model.clone import Clone
from keras_graft.weights.address import groups


class _Around(Clone):
    """Copies layers around the same variables, without their adapters.

    Args:
        instead: For the identity of a variable, the variable to use instead.
        freeze: Whether the copies hold views of the variables that layers train.
        lists: The variables that layers were made to train, by their identities.
        trained: Those of them that are not frozen.
        seeds: The states of random generators, by their identities.
    """

    def __init__(
        self, instead: Mapping[int, Any], freeze: bool, lists: set[int], trained: set[int],
        seeds: set[int],
    ) -> None:  # fmt: skip
        super().__init__()
        self.copier = _keras.Copier(self._around, self.model, plain_class)
        self._instead, self._freeze, self._lists, self._trained = instead, freeze, lists, trained
        self._seeds = seeds

    def _around(self, old: Any) -> Any:
        if isinstance(old, _keras.Adapted):
            return self.copier(old.source)
        if isinstance(old, _keras.Joined):
            return self.copier(old.adapted.source)
        if isinstance(old, _keras.Tied):
            return old.copied(self.copier)
        real = _real(old)
        if id(real) in self._seeds:  # training draws from it
            return _keras.variable_like(real)
        new = self._instead.get(id(real), real)
        listed = id(real) in self._lists or real.trainable
        return (
            _keras.view(new) if self._freeze and listed and id(real) not in self._trained else new
        )


def rebuilt(
    graph: Graph,
    states: Mapping[int, State],
    verb: str,
    instead: Mapping[int, Any] | None = None,
    only: bool | None = None,
) -> Graph:
    """Return the graph with layers that have the given adapters.

    If any layer has one, all other weights are frozen: the result holds them as views, and its
    layers have flags of their own. Otherwise its layers have the flags from before.

    Args:
        graph: The graph.
        states: The new state of each layer, by the identity of the layer that the graph calls.
        verb: For messages.
        instead: For the identity of a variable, the variable to use instead.
        only: Whether all is frozen also without any adapter; None: as it was.
    """
    _check_wrappers(graph, verb)
    nodes = [node for node in weighted(graph) if not is_frozen(node)]
    if only is None:
        only = any(state.only for _, state in states_of(graph))
    freeze = only or any(state.adapters for state in states.values())
    states = {id(n.operation): states.get(id(n.operation), State()) for n in nodes}
    held = {id(n.operation): held_by(n.operation) for n in nodes}
    trains = [held[key] for key, state in states.items() if state.trains]
    adapted = {key for node in nodes for key in _adapted(node, states[id(node.operation)])}
    trained = {key for variables in trains for key in variables} - adapted
    lists = {key for variables in held.values() for key in variables}
    seeds = {
        id(generator.state)
        for node in leaves(graph.nodes)
        for layer in _keras.layers_inside(node.operation)
        for generator in _keras.own_seeds(layer)
    }
    work = _Around(instead or {}, freeze, lists, trained, seeds)
    for node in everything(graph):
        if node.nested is None and id(node.operation) not in states and _keeps(node.operation):
            work.copier.keep(node.operation)
    new = work.graph(graph, copied)
    made = [(node, work.copier(node.operation)) for node in nodes]
    for node, layer in made:
        take_off(layer, node.operation, work.copier)
    done: set[int] = set()
    owners: set[int] = set()
    for node, layer in made:
        before = state_of(node.operation)
        state = states[id(node.operation)]
        flags = before.flags if before else flags_of(node.operation)
        state = state.replace(flags=flags, only=only)
        if freeze:
            adapt(layer, state, owners, done)
        else:
            _set_free(layer, state)
    return _open(new) if freeze else _retracked(new)


def held_by(operation: Any) -> dict[int, Any]:
    """Return the variables that a layer was made to train, by their identities."""
    return {
        id(_real(variable)): _real(variable)
        for layer in _keras.layers_inside(operation)
        for variable in _keras.trained_weights(layer)
    }


def _real(variable: Any) -> Any:
    return variable.source if isinstance(variable, _keras.View) else variable


def _adapted(node: Node, state: State) -> set[int]:
    """Return the identities of the weights that have adapters."""
    known = {w.address: _real(w.variable) for w in groups(node.operation).weights()}
    return {id(known[adapter.weight]) for adapter in state.adapters}


def _check_wrappers(graph: Graph, verb: str) -> None:
    for node in weighted(graph):
        if is_frozen(node) and state_of(unwrapped(node.operation)) is not None:
            raise EditError(
                f"{verb}: {path_of(node)!r} has adapters and was frozen after it got them. Thaw it "
                "first: kg.replace(model, kg.layers.Frozen, lambda node: node.operation.layer)."
            )


def _keeps(operation: Any) -> bool:
    """Whether a layer or an op is shared as it is: it holds nothing that training changes."""
    inside = _keras.sublayers(operation) or _keras.own_seeds(operation)
    return is_wrapper(operation) or not inside


def _set_free(layer: Any, state: State) -> None:
    """Give a layer without adapters the flags from before, and what an unmerge needs."""
    for one, flag in zip(_keras.layers_inside(layer), state.flags, strict=True):
        _keras.set_flag(one, flag)
        if one.built:
            _keras.track_on_torch(one)
    if state.merged or state.trains:
        remember(layer, adapted=state)


def _retracked(graph: Graph) -> Graph:
    """Return the graph; on PyTorch, its nested models look again what their layers hold."""
    for node in reversed(list(everything(graph))):
        if node.nested is not None:
            _keras.track_on_torch(node.operation)
    return graph


def _open(graph: Graph) -> Graph:
    """Return the graph, and let nothing above the adapters be frozen as a whole."""
    for node in everything(graph):
        if node.nested is not None:
            _keras.set_flag(node.operation, True)
    return _retracked(_all_open(graph))


def _all_open(graph: Graph) -> Graph:
    steps = [n if n.nested is None else n.replace(nested=_all_open(n.nested)) for n in graph.steps]
    new = graph.replace(nodes=steps, trainable=True)
    return new if graph.stale is None else new.settled(graph.stale)
