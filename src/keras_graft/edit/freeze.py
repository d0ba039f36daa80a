"""The verb `freeze`: layers permanently in inference mode."""

from __future__ import annotations

from typing import Any

import keras

from keras_graft import _keras, advice
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Template
from keras_graft.graph.select import leaves
from keras_graft.graph.select_nodes import select_nodes
from keras_graft.layers.frozen import Frozen
from keras_graft.model.nested import Place, at_depth
from keras_graft.model.verb import verb


@verb
def freeze(graph: Graph, selector: Any = "**") -> Graph:
    """Return the model with layers permanently in inference mode, under `fit` too.

    Dropout, noise and augmentation do nothing, BatchNormalization keeps its averages, no weight is
    trained; gradients pass. Keras has no such mode: `trainable=False` acts only on
    BatchNormalization. A recorded `training=False` is overridden under `fit` up to Keras 3.15; from
    3.16 on it stays, but weights are trained, and later layers run without training too. Each layer
    with weights or a training mode is wrapped in a `kg.layers.Frozen` of its name, which shares its
    weights. The donor's layers keep their flags: another model may train them. To load a file of
    the result, import `keras_graft` first. Outputs are bit-identical to the donor's at inference;
    on PyTorch's CPU, recurrent layers differ in the last bits, as with `trainable=False`.

    `kg.unfreeze` undoes it.

    Args:
        model: A Keras model or a `Graph`.
        selector: Which layers; all by default. All calls of a layer are frozen, and all layers
            inside a nested model that is selected.

    Raises:
        EditError: If a variable of a layer is also used by a layer that is not frozen, or if a
            layer keeps a state from batch to batch, which inference changes too.

    >>> import keras, keras_graft as kg
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="d")])
    >>> frozen = kg.freeze(model)
    >>> len(frozen.trainable_variables), len(model.trainable_variables)
    (0, 2)
    """
    chosen = select_nodes(graph, selector) if len(graph) else ()
    wanted = {id(n.operation): n for n in leaves(chosen) if _has_modes(n.operation)}
    everywhere = list(leaves(graph.nodes))
    for node in wanted.values():
        _check_stateless(node)
    _check_variables(wanted, everywhere)
    frozen: dict[int, Frozen] = {}  # one for each layer, also if it is called on several levels

    def edit(level: Graph, places: list[Place]) -> Graph:
        instead = {}
        for (node,) in places:
            assert isinstance(node, Node)
            operation = node.operation
            if id(operation) not in frozen:
                frozen[id(operation)] = Frozen(operation)
            kwargs = {k: v for k, v in node.template.kwargs.items() if k != "training"}
            new = node.replace(
                operation=frozen[id(operation)],
                template=Template(node.template.args, kwargs),
                trains=False,
            )
            instead[level.node(node)] = [new]
        result = level.spliced(instead, {})
        return result.settled() if level.stale == () else result  # no spec has changed

    places: list[Place] = [(node,) for node in everywhere if id(node.operation) in wanted]
    return at_depth(graph, places, edit)


def _has_modes(operation: Any) -> bool:
    return (
        isinstance(operation, keras.Layer)
        and not isinstance(operation, Frozen)
        and bool(operation.variables or _keras.takes_training(operation))
    )


def _check_stateless(node: Node) -> None:
    if any(getattr(layer, "stateful", False) for layer in _keras.layers_inside(node.operation)):
        raise EditError(
            f"freeze: {node.path!r} ({node.kind}) is stateful: it keeps a state from batch to "
            "batch, which inference changes too. Make it with stateful=False, and replace it: "
            + advice.call(
                "replace", ("target", node.path), ("new", advice.As("new")), weights="keep"
            )
            + "."
        )


def _check_variables(wanted: dict[int, Node], everywhere: list[Node]) -> None:
    users = {id(w): n for n in wanted.values() for w in n.operation.weights}
    for node in everywhere:
        if id(node.operation) in wanted or isinstance(node.operation, Frozen):
            continue
        for weight in getattr(node.operation, "weights", ()):
            if id(weight) in users:
                one = users[id(weight)].path
                raise EditError(
                    f"freeze: {one!r} and {node.path!r} use one variable, {weight.path!r}, and "
                    f"only the first would be frozen: training would change it through the other. "
                    f"Freeze both: {advice.call('freeze', ('selector', [one, node.path]))}."
                )
