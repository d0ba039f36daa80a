"""The verb `repeat`: run a block several times in a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, Literal

import keras

from keras_graft import advice
from keras_graft.edit import block as _block
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import Names, is_one_of
from keras_graft.graph.node import Node, Value
from keras_graft.graph.select import select
from keras_graft.graph.walk import read_places
from keras_graft.model.clone import duplicates
from keras_graft.model.infer import infer
from keras_graft.model.nested import Place, at_depth, pairs
from keras_graft.model.swap import called_anew
from keras_graft.model.verb import verb
from keras_graft.printable import shown

_MOST = 10_000
"""The most repetitions allowed, so that a typo does not fill the memory."""


@verb
def repeat(
    graph: Graph,
    start: Any,
    stop: Any,
    times: int,
    weights: Literal["share", "copy", "fresh"] = "share",
) -> Graph:
    """Run a block several times in a row.

    With shared weights this is recurrence in depth. With copies it makes a trained transformer
    deeper: `repeat(model, "layer_1", "layer_3", 2, weights="copy")` runs layers 2 and 3 twice, as
    `layer_replication=[[0, 4], [2, 5]]` does in PEFT.

    Args:
        model: A Keras model or a `Graph`.
        start: A selector of the value that enters the block; the same as `stop` for a single
            node. Every repetition reads the same other inputs, such as a padding mask.
        stop: A selector of the value that leaves it, of the same shape and dtype.
        times: How often the block runs in total; 1 changes nothing.
        weights: `"share"`: each repetition calls the same layers. `"copy"`: it has its own layers
            with the same values. `"fresh"`: it has its own layers, newly initialized. New layers
            are called `name_repeat`, `name_repeat_1` and so on. Weights that are tied within the
            block are tied within each repetition; a tie to a weight outside is kept.

    Raises:
        EditError: If input and output of the block differ in shape or dtype, if something outside
            reads a value from within, or if `times` is not a positive integer.
        WeightsError: If a layer cannot be made again.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> model = keras.Model(x, keras.layers.Dense(4, name="d")(x), name="tiny")
    >>> kg.repeat(model, "x", "d", 3).count_params()
    20
    >>> [n.label for n in kg.read(kg.repeat(model, "x", "d", 3, weights="copy"))]
    ['d', 'd_repeat', 'd_repeat_1']
    """
    if not is_one_of(weights, "share", "copy", "fresh"):
        raise EditError(
            f'repeat: weights must be "share", "copy" or "fresh", got {shown(weights)}.'
        )
    if not isinstance(times, Integral) or isinstance(times, bool) or times < 1:
        raise EditError(
            f"repeat: times is how often the block runs in total, 1 or more; got {shown(times)}."
        )
    if times > _MOST:
        raise EditError(f"repeat: times={shown(times)} is more than {_MOST:,}: no model runs that.")

    def edit(level: Graph, places: list[Place]) -> Graph:
        level = infer(level)
        for start, stop in places:
            if start == stop:  # a single node
                start = _entering(level, level.value(stop))  # type: ignore[arg-type]
            level = _repeated(level, level.value(start), level.value(stop), times, weights)  # type: ignore[arg-type]
        return level

    places = pairs(graph, start, stop, "repeat", select(graph, stop).values)
    return at_depth(graph, places, edit)


def _entering(graph: Graph, value: Value) -> Value:
    """Return the input at which a single node, which gives `value`, is repeated."""
    node = graph.producer(value)
    label = graph.label(value)
    if node is None:
        raise EditError(f"repeat {label!r}: it is an input, which nothing computes.")
    inputs = list(dict.fromkeys(node.inputs[i] for i in read_places(node)))
    found = [v for v in inputs if graph.known(v).spec == value.spec]
    if len(inputs) > 1 and len(found) != 1:
        rest = ("stop", label), ("times", advice.As("..."))
        calls = [advice.call("repeat", ("start", graph.label(v)), *rest) for v in inputs]
        raise EditError(
            f"repeat {label!r}: it has {len(inputs)} inputs. Say which one reads the output of the "
            f"run before: {' or '.join(calls)}."
        )
    return found[0] if len(inputs) > 1 else inputs[0]


def _repeated(graph: Graph, start: Value, stop: Value, times: int, weights: str) -> Graph:
    names = Names([*graph.input_names, *map(graph.name_of, graph.steps)])

    def own(nodes: Sequence[Node], number: int) -> Callable[[Node], Node]:
        if weights == "share":
            return lambda node: node
        layers = [node for node in nodes if isinstance(node.operation, keras.Layer)]
        made = duplicates(
            layers,
            lambda node: names.take(f"{graph.name_of(node)}_repeat"),
            weights,  # type: ignore[arg-type]
        )

        def change(node: Node) -> Node:
            if id(node.operation) not in made:  # an op has no weights
                return node
            if node.nested is not None:  # it must be read again: the new model has its own values
                return called_anew(node, made[id(node.operation)])
            return node.replace(operation=made[id(node.operation)])

        return change

    return infer(_block.repeated(graph, start, stop, times, own))
