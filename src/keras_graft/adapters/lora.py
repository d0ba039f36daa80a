"""`lora`: add low-rank adapters to weights, and freeze all others."""

from __future__ import annotations

import math
import random
from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft.adapters.factors import input_axes, new_factors
from keras_graft.adapters.file_format import check_name
from keras_graft.adapters.rebuilt import held_by, rebuilt
from keras_graft.adapters.state import Adapter, State, state_of, states_of, weighted
from keras_graft.adapters.targets import Target, targets, trained_layers
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node
from keras_graft.graph.parameters import variable_behind
from keras_graft.graph.recording import chose
from keras_graft.model.verb import verb
from keras_graft.printable import quoted, shown
from keras_graft.weights.address import groups

_HIGHEST = 10_000
"""The highest rank."""


@verb
def lora(
    graph: Graph,
    target: Any,
    rank: int = 8,
    alpha: float | None = None,
    name: str = "default",
    train: Any = None,
    seed: int | None = None,
) -> Graph:
    """Add low-rank adapters to weights; only these train, and all other weights are frozen.

    A weight `W` is used as `W + alpha / rank * (a @ b)`. The factor `b` starts at zero, so outputs
    are at first those of the donor. From "LoRA: Low-Rank Adaptation of Large Language Models" (Hu
    et al., 2021); the names of arguments are those of Keras's `enable_lora` and of PEFT.

    `W` may be the kernel or the embeddings of any layer, also of one inside a composite layer: the
    `query` of a `MultiHeadAttention`. `a` has the axes that meet the layer's input, `b` the others:
    for a `Dense` of 4 inputs and 3 outputs, shapes `(4, rank)` and `(rank, 3)`. A quantized layer
    (int8, int4) adds `x @ a @ b` to what its integers give. If another layer is tied to `W`, it
    follows.

    The result has layers of its own, which share the memory of the donor's weights. Dropout is as
    before; a frozen BatchNormalization uses its averages, as with `trainable=False`. To save it
    whole, `model.save`; the adapters alone, `kg.save_adapters`.

    A second call adds more weights to the adapter of that name, or an adapter of another name. The
    adapters of other names stay active and are frozen: `kg.set_adapters` chooses.

    Args:
        model: A Keras model or a `Graph`.
        target: Which weights: the address of a layer or weight, or a pattern, where `**` stands
            for any number of names: `"**/query"`, `"block_*/ffn/kernel"`. Or any selector of
            layers, or a class: all kernels and embeddings inside.
        rank: The length of the axis that both factors have.
        alpha: Scales what is added, by `alpha / rank`. None: the rank, so that the scale is 1.
        name: The name of the adapter: letters, digits, `_` and `-`.
        train: A selector of layers that are trained too, as a whole: `"head*"`. They get copies of
            the donor's weights.
        seed: For the first factors. None: drawn as Keras's initializers draw.

    Raises:
        NothingSelectedError: If `target` names no weight that can take an adapter; the nearest
            addresses are given.
        EditError: If a weight has an adapter of this name, or cannot take one; if an argument is
            wrong.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((5, 8), name="x")
    >>> y = keras.layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    >>> model = keras.Model(x, y)
    >>> tuned = kg.lora(model, "**/query", rank=2)
    >>> [v.shape for v in tuned.trainable_variables]
    [(8, 2), (2, 2, 4)]
    >>> len(model.trainable_variables)
    8
    """
    rank, alpha = _numbers(rank, alpha)
    check_name(name, "lora")
    _check_seed(seed)
    if seed is None:
        seed = random.randint(1, 10**9)  # as Keras draws the seed of an initializer
        chose("seed", seed)  # a replay of this step draws the same
    found = targets(graph, target, "lora")
    states = {id(node.operation): state for node, state in states_of(graph)}
    for one in found:
        state = states.get(id(one.node.operation), State())
        if any(a.name == name and a.weight == one.weight.address for a in state.adapters):
            raise EditError(
                f"lora: {one.address!r} has an adapter named {name!r}. Give another name=, or remove "
                f"it first: kg.remove_adapters(model, {quoted(name)})."
            )
    for key, state in states.items():
        others = (a if a.name == name else a.replace(trains=False) for a in state.adapters)
        states[key] = state.replace(adapters=tuple(others))
    for number, one in enumerate(found):
        key = id(one.node.operation)
        state = states.get(key, State())
        made = _new(one, name, rank, alpha, int(seed) + number)
        states[key] = state.replace(adapters=(*state.adapters, made))
    instead = with_trained(graph, states, train, "lora")
    return rebuilt(graph, states, "lora", instead)


def _new(target: Target, name: str, rank: int, alpha: float, seed: int) -> Adapter:
    weight = target.weight
    adapter = Adapter(name, weight.address, rank, alpha, input_axes(weight.layer, weight.variable))
    start = keras.initializers.HeUniform(seed)
    a, b = new_factors(adapter, weight.layer, variable_behind(weight.variable), start)
    return adapter.replace(a=a, b=b)


def with_trained(graph: Graph, states: dict[int, State], train: Any, verb: str) -> dict[int, Any]:
    """Let the states train the layers of a selector; return the copies of their weights.

    Args:
        graph: The graph.
        states: The states, by the identities of layers; those of trained layers are replaced.
        train: The selector; None: no layer.
        verb: For messages.
    """
    if train is None:
        return {}
    instead: dict[int, Any] = {}
    adapted = {key for key, state in states.items() if state.adapters}
    wanted = trained_layers(graph, train, verb, adapted)
    for node in weighted(graph):
        key = id(node.operation)
        before = state_of(node.operation)
        if key not in wanted:
            continue
        states[key] = states.get(key, State()).replace(trains=True)
        if before is not None and before.trains:
            continue  # it has copies
        held = held_by(node.operation)
        for variable in unadapted(node, states[key]).values():
            if id(variable) not in instead:  # averages too: training moves them
                new = instead[id(variable)] = _keras.variable_like(variable)
                new.trainable = id(variable) in held
    return instead


def unadapted(node: Node, state: State) -> dict[str, Any]:
    """Return the weights of a layer that have no adapter, by their addresses below it."""
    adapted = {adapter.weight for adapter in state.adapters}
    factors = {id(f) for adapter in state.adapters for f in (adapter.a, adapter.b)}
    return {
        weight.address: variable
        for weight in groups(node.operation).weights()
        if weight.address not in adapted
        and id(variable := variable_behind(weight.variable)) not in factors
    }


def _numbers(rank: Any, alpha: Any) -> tuple[int, float]:
    if not _is_whole(rank) or not 0 < rank <= _HIGHEST:
        raise EditError(
            f"lora: rank must be a whole number from 1 to {_HIGHEST:,}, got {shown(rank)}."
        )
    if alpha is None:
        return int(rank), float(rank)
    try:
        number = math.nan if isinstance(alpha, bool | str | bytes) else float(alpha)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise EditError(f"lora: alpha must be a number, got {shown(alpha)}.")
    return int(rank), number


def _check_seed(seed: Any) -> None:
    if seed is not None and (not _is_whole(seed) or not 0 <= seed < 2**31):
        raise EditError(
            f"lora: seed must be a whole number from 0 to 2**31 - 1, got {shown(seed)}."
        )


def _is_whole(given: Any) -> bool:
    return isinstance(given, int | np.integer) and not isinstance(given, bool)
