"""The verb `nest`: turn a block into a nested model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.edit import block as _block
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed
from keras_graft.graph.node import Entry, Node, Slot, Template, Value
from keras_graft.model.build import build
from keras_graft.model.calls import fill
from keras_graft.model.infer import infer
from keras_graft.model.nested import Place, at_depth
from keras_graft.model.verb import verb
from keras_graft.parts.ends import ends, part, renewed
from keras_graft.printable import quoted, shown


@verb
def nest(graph: Graph, inputs: Any, outputs: Any, name: str) -> Graph:
    """Fold the block between values into a nested model; the inverse of `inline`.

    The layers are the same; the block becomes one node, called once, with its own name. A mask
    that accompanies a value and crosses an end of the block is an input or output of the new
    model too.

    Args:
        model: A Keras model or a `Graph`.
        inputs: What enters the block: a selector of one value, or a list or dict of selectors;
            None for the inputs of the model.
        outputs: What leaves it; None for the outputs of the model.
        name: The name of the new model; no other operation may have it.

    Raises:
        CutError: If the block reads other values too; the message names each and its readers.
        EditError: If something outside reads a value from within, if the ends lie in different
            models or are exchanged, or if the name is taken.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> y = keras.layers.Dense(4, name="b")(keras.layers.Dense(4, name="a")(x))
    >>> model = keras.Model(x, keras.layers.Dense(2, name="out")(y), name="tiny")
    >>> nested = kg.nest(model, "x", "b", name="encoder")
    >>> [layer.name for layer in nested.layers]
    ['x', 'encoder', 'out']
    >>> nested.get_layer("encoder").get_layer("a") is model.get_layer("a")
    True
    """
    ins, in_template = ends(graph, inputs, graph.inputs, graph.input_template)
    outs, out_template = ends(graph, outputs, graph.outputs, graph.output_template)
    place: Place = (*ins, *outs)
    twice = [value for value in place if place.count(value) > 1]
    if twice:
        raise EditError(f"nest {shown(name)}: {twice[0].path!r} is named twice among the ends.")
    scopes = {value.scope for value in place}
    if len(scopes) > 1:
        (models, *others) = {tuple(call.operation for call in scope) for scope in scopes}
        if not others:  # one model, called several times
            inner = models[-1].name
            raise EditError(
                f"nest {shown(name)}: {inner!r} is called {len(scopes)} times, and so is a block in "
                f"it: {listed(value.path for value in place)}. Nest in that model, and replace it by "
                f"the result: new = kg.nest(inner, ...), kg.replace(model, {quoted(inner)}, "
                "lambda node: new)."
            )
        raise EditError(
            f"nest {shown(name)}: the ends of a block must lie in one model, and these do not: "
            f"{listed(value.path for value in place)}."
        )

    def edit(level: Graph, places: list[Place]) -> Graph:
        (values,) = places
        return _folded(
            infer(level), values[: len(ins)], in_template, values[len(ins) :], out_template, name
        )

    return at_depth(graph, [place], edit)


def _folded(
    graph: Graph, ins: Any, in_template: Any, outs: Any, out_template: Any, name: str
) -> Graph:
    verb = f"nest {shown(name)}"
    if not isinstance(name, str) or not name or "/" in name:
        raise EditError(f"{verb}: give the new model a name, without a slash.")
    taken = [n for n in graph.nodes if n.name == name] or [
        n for n in graph.input_names if n == name
    ]
    if taken:
        raise EditError(f"{verb}: {taken[0]!r} has this name already. Choose another.")
    return fold(graph, (ins, in_template), (outs, out_template), name, verb)


def fold(
    graph: Graph,
    starts: tuple[Sequence[Value], Any],
    stops: tuple[Sequence[Value], Any],
    name: str,
    verb: str,
    cls: type | None = None,
) -> Graph:
    """Return the graph with the block between values as one nested model.

    Args:
        graph: The graph.
        starts: The values that enter, and the structure of the model's inputs.
        stops: The values that leave, and the structure of its outputs.
        name: The name of the model.
        verb: For messages.
        cls: The class of the model, a subclass of Functional; None for that itself.

    Raises:
        CutError: If the block reads other values too.
        EditError: If something outside reads a value from within, or a layer is called outside too.
    """
    (ins, in_template), (outs, out_template) = starts, stops
    found = _block.block(graph, ins, outs, verb)
    taking, given = _flat(in_template, found.inputs, len(ins))
    giving, gives = _flat(out_template, found.outputs, len(outs))
    inside = renewed(part(graph, taking, given, giving, gives, found.nodes, name))
    folded = build(inside)
    if cls is not None:
        folded = _keras.with_body_of(folded, cls)
    if any(value.mask is not None for value in taking):
        folded.supports_masking = True  # else Keras warns about masks, though it hands them on
    node = Node(
        folded,
        Template((given,)),
        taking,
        giving,
        nested=inside,
        entries=tuple(Entry(i) for i in range(len(taking))),
        trains=_keras.takes_training(folded),
        stays=_keras.recorded_flag_stays(),
    )
    return _block.folded(graph, found, node)


def _flat(template: Any, values: Sequence[Value], plain: int) -> tuple[tuple[Value, ...], Any]:
    """Return the values of a block's end as Keras orders them, and their structure.

    Args:
        template: The requested structure.
        values: Its values, followed by the masks that cross with them.
        plain: How many of `values` are not masks.
    """
    masks = [Slot(i) for i in range(plain, len(values))]
    if masks and isinstance(template, dict):
        template = {**template, **{f"mask_{i}": mask for i, mask in enumerate(masks)}}
    elif masks:
        template = [Slot(i) for i in range(plain)] + masks
    order = [slot.index for slot in keras.tree.flatten(template)]  # a dict is ordered by its keys
    place = {index: i for i, index in enumerate(order)}
    return tuple(values[i] for i in order), fill(template, lambda index: Slot(place[index]))
