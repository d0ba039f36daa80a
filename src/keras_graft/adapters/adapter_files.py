"""`save_adapters` and `load_adapters`: adapters alone, in a file that fits one network only."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_graft import _keras
from keras_graft.adapters.choose import chosen_names, names_of
from keras_graft.adapters.factors import logical_shape, new_factors
from keras_graft.adapters.file_format import (
    adapter_in,
    array_of,
    check_name,
    checked_path,
    damaged,
    opened,
    said,
    tensor_in,
    write,
)
from keras_graft.adapters.lora import unadapted
from keras_graft.adapters.rebuilt import held_by, rebuilt
from keras_graft.adapters.state import Adapter, State, path_of, states_of, weighted
from keras_graft.adapters.targets import Target, all_weights
from keras_graft.errors import EditError, WeightsError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed
from keras_graft.graph.node import Node
from keras_graft.graph.parameters import variable_behind
from keras_graft.model.fingerprint import fingerprint
from keras_graft.model.read import read
from keras_graft.model.verb import verb
from keras_graft.printable import quoted, shown


def save_adapters(
    model: Any, path: str | os.PathLike[str], name: str | Sequence[str] | None = None
) -> None:
    """Save the adapters of a model to a file, without the network that they belong to.

    The file also holds the weights of layers that `train=` of `kg.lora` named, and a fingerprint of
    all others: of the structure and the weights of the donor. An existing file is replaced.

    Args:
        model: A Keras model or a `Graph`.
        path: Ends in `.safetensors`.
        name: The name of one adapter, or several. None: all that are not merged.

    Raises:
        EditError: If the model has no such adapters, or one is merged.
        FileError: If the file cannot be written.

    >>> import os, tempfile, keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> tuned = kg.lora(keras.Model(x, keras.layers.Dense(3, name="d")(x)), "d", rank=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     kg.save_adapters(tuned, f"{folder}/task.safetensors")
    ...     os.listdir(folder)
    ['task.safetensors']
    """
    graph = model if isinstance(model, Graph) else read(model)
    chosen = chosen_names(graph, name, "save_adapters")
    file = checked_path(path, "save_adapters")
    merged = names_of(graph)[1]
    if merged:
        raise EditError(
            f"save_adapters: {listed(merged)} is merged into {graph.name!r}, and the file would fit "
            "no copy of the donor. Unmerge first: kg.unmerge_adapters(model)."
        )
    tensors: dict[str, np.ndarray] = {}
    written, trained = [], []
    places = {t.address: place for place, t in enumerate(all_weights(graph))}
    order = [id(node.operation) for node in weighted(graph)]
    for node, state in states_of(graph):
        for adapter in state.adapters:
            if adapter.name in chosen:
                address = f"{path_of(node)}/{adapter.weight}"
                written.append({**_said(adapter), "weight": address, "place": places[address]})
                for letter in "ab":
                    key = f"{adapter.name}/{address}/{letter}"
                    tensors[key] = array_of(getattr(adapter, letter))
        if state.trains:
            trained.append(order.index(id(node.operation)))
            for number, variable in enumerate(unadapted(node, state).values()):
                tensors[f"trained/{trained[-1]}/{number}"] = array_of(variable)
    digests = _fingerprint(graph, trained)
    write(file, tensors, {"adapters": written, "trained": trained, "fingerprint": digests})


@verb
def load_adapters(
    graph: Graph, path: str | os.PathLike[str], name: str | None = None, train: bool = True
) -> Graph:
    """Add the adapters of a file to a copy of the network that they were saved from.

    The result is as after `kg.lora`: all other weights are frozen, and shared with the model. Layers
    that were trained beside the adapters get the file's weights. Where the model has adapters of
    other names already, those stay active and are frozen. Names of layers do not count.

    Args:
        model: A Keras model or a `Graph`.
        path: A file of `kg.save_adapters`.
        name: Another name for the adapter, if the file has one only.
        train: Whether the adapters are trained.

    Raises:
        WeightsError: If the file is of another network: its structure or its weights differ.
        EditError: If the model has an adapter of the name.
        FileError: If the file cannot be read.

    >>> import tempfile, keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> model = keras.Model(x, keras.layers.Dense(3, name="d")(x))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     kg.save_adapters(kg.lora(model, "d", rank=2), f"{folder}/task.safetensors")
    ...     again = kg.load_adapters(kg.clone(model), f"{folder}/task.safetensors")
    >>> again.count_params() - model.count_params()
    14
    """
    if not isinstance(train, bool):
        raise EditError(f"load_adapters: train must be True or False, got {shown(train)}.")
    file = checked_path(path, "load_adapters")
    with opened(file) as (tensors, about):
        adapters = [adapter_in(one, file) for one in said(about, "adapters", list, file)]
        trained = said(about, "trained", list, file)
        names = _renamed(dict.fromkeys(a.name for a, _ in adapters), name, file)
        taken = [n for n in (*names_of(graph)[0], *names_of(graph)[1]) if n in names.values()]
        if taken:
            raise EditError(
                f"load_adapters: {graph.name!r} has an adapter {taken[0]!r} already. Give it another "
                f'name: kg.load_adapters(model, {quoted(path)}, name="other"). Or remove it first: '
                f"kg.remove_adapters(model, {quoted(taken[0])})."
            )
        _check_fits(graph, trained, about, file)
        known = all_weights(graph)
        states = {id(node.operation): state for node, state in states_of(graph)}
        for key, state in states.items():
            frozen = tuple(a.replace(trains=False) for a in state.adapters)
            states[key] = state.replace(adapters=frozen)
        for adapter, place in adapters:
            target = _at(known, place, file)
            made = _with_values(adapter, names[adapter.name], target, tensors, file, train)
            key = id(target.node.operation)
            state = states.get(key, State())
            states[key] = state.replace(adapters=(*state.adapters, made))
        instead: dict[int, Any] = {}
        for place, node in _trained(graph, trained):
            key = id(node.operation)
            states[key] = states.get(key, State()).replace(trains=True)
            held = held_by(node.operation)
            for number, real in enumerate(unadapted(node, states[key]).values()):
                where = f"trained/{place}/{number}"
                value = tensor_in(tensors, where, tuple(real.shape), file)
                new = instead[id(real)] = _keras.variable_like(real, value)
                new.trainable = id(real) in held
    return rebuilt(graph, states, "load_adapters", instead)


def _said(adapter: Adapter) -> dict[str, Any]:
    return {"name": adapter.name, "rank": adapter.rank, "alpha": adapter.alpha,
            "inputs": list(adapter.inputs)}  # fmt: skip


def _trained(graph: Graph, places: Sequence[Any]) -> list[tuple[int, Node]]:
    return [(place, node) for place, node in enumerate(weighted(graph)) if place in places]


def _fingerprint(graph: Graph, trained: Sequence[Any]) -> dict[str, str]:
    """Return the fingerprint of a network without adapters, and without the trained layers."""
    instead = {
        id(variable_behind(new)): old for _, state in states_of(graph) for new, old in state.kept
    }
    left = {
        id(variable_behind(weight))
        for _, node in _trained(graph, trained)
        for weight in node.operation.weights
    }
    plain = rebuilt(graph, {}, "fingerprint", instead, only=False) if states_of(graph) else graph
    return fingerprint(plain, left)


def _check_fits(graph: Graph, trained: Sequence[Any], about: dict[str, str], file: Path) -> None:
    wanted = said(about, "fingerprint", dict, file)
    have = _fingerprint(graph, trained)
    if have["structure"] != wanted.get("structure"):
        what = "another network: layers, or how they are called, differ"
    elif have["weights"] != wanted.get("weights"):
        what = "the same network with other weights. Load the weights that they were trained with first"
    else:
        return
    raise WeightsError(f"load_adapters: the adapters of {file.name!r} fit {what}. They do not fit "
                       f"{graph.name!r}.")  # fmt: skip


def _at(known: list[Target], place: int, file: Path) -> Target:
    """Return the weight at a place: networks of one fingerprint have them in one order."""
    if not 0 <= place < len(known):
        raise damaged(file, "the place of a weight")
    target = known[place]
    if target.why_not is not None:
        raise WeightsError(f"load_adapters: {target.address!r} {target.why_not}.")
    return target


def _with_values(
    adapter: Adapter, name: str, target: Target, tensors: Any, file: Path, train: bool
) -> Adapter:
    weight = target.weight
    shape = logical_shape(weight.layer, weight.variable)
    if not set(adapter.inputs) < set(range(len(shape))):
        raise damaged(file, f"the axes of {adapter.weight!r}")
    shapes = {
        "a": (*(shape[axis] for axis in adapter.inputs), adapter.rank),
        "b": (adapter.rank, *(n for axis, n in enumerate(shape) if axis not in adapter.inputs)),
    }
    values = {
        letter: tensor_in(tensors, f"{adapter.name}/{adapter.weight}/{letter}", wanted, file)
        for letter, wanted in shapes.items()
    }
    adapter = adapter.replace(name=name, weight=weight.address, trains=train)
    a, b = new_factors(adapter, weight.layer, variable_behind(weight.variable))
    a.assign(values["a"])
    b.assign(values["b"])
    return adapter.replace(a=a, b=b)


def _renamed(names: Iterable[str], name: Any, file: Path) -> dict[str, str]:
    names = list(names)
    if name is None:
        return {each: each for each in names}
    check_name(name, "load_adapters")
    if len(names) != 1:
        raise EditError(
            f"load_adapters: name= is for a file with one adapter, and {file.name!r} has "
            f"{listed(names)}."
        )
    return {names[0]: name}
