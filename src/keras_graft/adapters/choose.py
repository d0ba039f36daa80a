"""`set_adapters` and `remove_adapters`: which adapters of a model are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_graft.adapters.rebuilt import rebuilt
from keras_graft.adapters.state import State, states_of
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import items_of, listed
from keras_graft.model.verb import verb
from keras_graft.printable import quoted, shown


@verb
def set_adapters(graph: Graph, names: str | Sequence[str], train: bool = True) -> Graph:
    """Use these adapters, and no others; the others stay in the model and add nothing.

    The result shares the adapters with the model that it is made from, as all verbs share weights.

    Args:
        model: A Keras model or a `Graph`.
        names: The name of one adapter, or several: what they add is summed. An empty list: the
            model computes what it did before `kg.lora`.
        train: Whether they are trained. If not, `fit` changes none of them.

    Raises:
        EditError: If the model has no adapter of a name.

    >>> import keras, keras_graft as kg
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="d")])
    >>> both = kg.lora(kg.lora(model, "d", 2, name="one"), "d", 2, name="two")
    >>> one = kg.set_adapters(both, "one")
    >>> [v.name for v in one.trainable_variables]
    ['lora_one_kernel_a', 'lora_one_kernel_b']
    """
    if not isinstance(train, bool):
        raise EditError(f"set_adapters: train must be True or False, got {shown(train)}.")
    chosen = chosen_names(graph, names, "set_adapters")
    states = {}
    for node, state in states_of(graph):
        adapters = (
            a.replace(active=a.name in chosen, trains=a.name in chosen and train)
            for a in state.adapters
        )
        states[id(node.operation)] = state.replace(adapters=tuple(adapters))
    return rebuilt(graph, states, "set_adapters")


@verb
def remove_adapters(graph: Graph, names: str | Sequence[str] | None = None) -> Graph:
    """Remove adapters, and what they add. Without any left, the layers are as before `kg.lora`.

    Their classes and their flags `trainable` are then those of the donor, with which they share
    their weights. Layers that `train=` named keep what they learned. In a model that was loaded
    from a file, layers that have no adapters keep `trainable=False`.

    Args:
        model: A Keras model or a `Graph`.
        names: Which adapters. None: all.

    Raises:
        EditError: If the model has no such adapters, or one of them is merged.

    >>> import keras, keras_graft as kg
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="d")])
    >>> again = kg.remove_adapters(kg.lora(model, "d", rank=2))
    >>> again.get_layer("d").kernel is model.get_layer("d").kernel
    True
    """
    chosen = chosen_names(graph, names, "remove_adapters")
    states = {}
    for node, state in states_of(graph):
        adapters = tuple(a for a in state.adapters if a.name not in chosen)
        states[id(node.operation)] = state.replace(adapters=adapters)
    return rebuilt(graph, states, "remove_adapters")


def names_of(graph: Graph) -> tuple[list[str], list[str]]:
    """Return the names of the adapters of a graph, and of those that are merged."""
    states: list[State] = [state for _, state in states_of(graph)]
    names = dict.fromkeys(a.name for state in states for a in state.adapters)
    merged = dict.fromkeys(a.name for state in states for a in state.merged)
    return list(names), list(merged)


def chosen_names(graph: Graph, names: Any, verb: str, merged: bool = False) -> list[str]:
    """Return the names that a user means, or refuse them.

    Args:
        graph: The graph.
        names: One name, several, or None for all.
        verb: For messages.
        merged: Whether they must be merged, or must not be.
    """
    found = names_of(graph)
    known, others = found[::-1] if merged else found
    if not known:
        if others and merged:
            why = f"{listed(others)} is not merged: kg.merge_adapters(model) does that."
        elif others:
            why = f"{listed(others)} is merged. Unmerge first: kg.unmerge_adapters(model)."
        elif merged:
            why = "nothing was merged in it. A file holds only what a merge gave."
        else:
            why = 'it has no adapters. Add one: kg.lora(model, "**/query").'
        raise EditError(f"{verb}: {graph.name!r}: {why}")
    if names is None:
        return known
    wanted = items_of(names)
    for name in wanted:
        if isinstance(name, str) and name in known:
            continue
        if isinstance(name, str) and name in others:
            way = (
                "is not merged"
                if merged
                else (f"is merged. Unmerge it first: kg.unmerge_adapters(model, {quoted(name)})")
            )
            raise EditError(f"{verb}: {name!r} {way}.")
        raise EditError(
            f"{verb}: {graph.name!r} has no adapter {shown(name)}, only {listed(known)}."
        )
    return wanted
