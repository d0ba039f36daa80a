"""Verbs for whole blocks: open nested models, fold a block into one, repeat a block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, Literal

import keras

from keras_graft import _keras
from keras_graft import block as _block
from keras_graft.build import build, like
from keras_graft.call import fill
from keras_graft.clone import duplicates
from keras_graft.depth import Place, at_depth, pairs
from keras_graft.errors import EditError
from keras_graft.exchange import called_anew
from keras_graft.flow import read_places
from keras_graft.graph import Graph
from keras_graft.infer import infer
from keras_graft.naming import Names, is_one_of, listed
from keras_graft.nest import Opened
from keras_graft.nest import inline as in_place
from keras_graft.node import Entry, Node, Slot, Template, Value
from keras_graft.printable import quoted, shown
from keras_graft.reader import read
from keras_graft.select import select
from keras_graft.subgraph import ends, part, renewed

_MOST = 10_000
"""Repetitions, so that a slip of the pen does not fill the memory."""


def inline(model: Any, target: Any = "**") -> Any:
    """Put the layers of nested models in the places of their calls.

    Args:
        model: A Keras model or a `Graph`.
        target: A selector of nested models. By default all, at every depth; a model inside one
            that is selected stays a model unless it is selected too. All calls of one are opened.

    Raises:
        EditError: If the selector names no nested model.

    >>> import keras, keras_graft as kg
    >>> inner = keras.Input((4,), name="inner")
    >>> encoder = keras.Model(inner, keras.layers.Dense(3, name="d")(inner), name="encoder")
    >>> x = keras.Input((4,), name="x")
    >>> [layer.name for layer in kg.inline(keras.Model(x, encoder(x))).layers]
    ['x', 'd']
    """
    graph = read(model)
    found = select(graph, target).nodes if len(graph) else ()
    left = [node.values[0] for node in found if node.nested is not None]
    if not left and target != "**":
        raise EditError(
            f"inline: {shown(target)} names no nested model that can be opened: it names "
            f"{listed(f'{n.path} ({n.kind})' for n in found)}."
        )
    opened = Opened(graph)
    while here := [value for value in left if not value.scope]:
        calls = [
            c
            for v in here
            if (n := opened.graph.producer(v))
            for c in opened.graph.calls(n.operation)
        ]
        left = opened.open(list(dict.fromkeys(calls)), [value for value in left if value.scope])

    def edit(level: Graph, places: list[Place]) -> Graph:
        nodes = [level.node(node) for (node,) in places if isinstance(node, Node)]
        calls = [call for node in nodes for call in level.calls(node.operation)]
        return in_place(level, list(dict.fromkeys(calls)))[0]

    places: list[Place] = [(node,) for value in left if (node := value.producer) is not None]
    return like(model, at_depth(opened.graph, places, edit))


def nest(model: Any, inputs: Any, outputs: Any, name: str) -> Any:
    """Fold the block between values into a model of its own; the inverse of `inline`.

    The layers are the same; the block becomes one node, called once, with a name of its own. A
    mask that comes along with a value and crosses an end of the block is an input or output of
    the new model too.

    Args:
        model: A Keras model or a `Graph`.
        inputs: What enters the block: a selector of one value, or a list or dict of selectors;
            None for the inputs of the model.
        outputs: What leaves it; None for the outputs of the model.
        name: The name of the new model, which no other operation may have.

    Raises:
        CutError: If the block reads other values too; each is named with what needs it.
        EditError: If something outside reads a value from within, if the ends lie in different
            models or lie the wrong way round, or if the name is taken.

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
    graph = read(model)
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
                f"nest {shown(name)}: {inner!r} is called {len(scopes)} times, and a block in it is there "
                f"as often: {listed(value.path for value in place)}. Nest in that model, and put what "
                f"comes in its place: new = kg.nest(inner, ...), kg.replace(model, {quoted(inner)}, "
                "lambda node: new)."
            )
        raise EditError(
            f"nest {shown(name)}: the ends of a block lie in one model, and these do not: "
            f"{listed(value.path for value in place)}."
        )

    def edit(level: Graph, places: list[Place]) -> Graph:
        (values,) = places
        return _folded(
            infer(level), values[: len(ins)], in_template, values[len(ins) :], out_template, name
        )

    return like(model, at_depth(graph, [place], edit))


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
    found = _block.block(graph, ins, outs, verb)
    taking, given = _flat(in_template, found.inputs, len(ins))
    giving, gives = _flat(out_template, found.outputs, len(outs))
    inside = renewed(part(graph, taking, given, giving, gives, found.nodes, name))
    folded = build(inside)
    if any(value.mask is not None for value in taking):
        folded.supports_masking = True  # else Keras warns of masks that it does hand on
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
        template: The structure that was asked for.
        values: Its values, and behind them the masks that cross with them.
        plain: How many of `values` are no masks.
    """
    masks = [Slot(i) for i in range(plain, len(values))]
    if masks and isinstance(template, dict):
        template = {**template, **{f"mask_{i}": mask for i, mask in enumerate(masks)}}
    elif masks:
        template = [Slot(i) for i in range(plain)] + masks
    order = [slot.index for slot in keras.tree.flatten(template)]  # of a dict: by its keys
    place = {index: i for i, index in enumerate(order)}
    return tuple(values[i] for i in order), fill(template, lambda index: Slot(place[index]))


def repeat(
    model: Any,
    start: Any,
    stop: Any,
    times: int,
    weights: Literal["share", "copy", "fresh"] = "share",
) -> Any:
    """Run a block several times in a row.

    With shared weights this is recurrence in depth. With copies it is how a deeper transformer is
    made of a trained one: `repeat(model, "layer_1", "layer_3", 2, weights="copy")` runs layers 2
    and 3 twice, as `layer_replication=[[0, 4], [2, 5]]` does in PEFT.

    Args:
        model: A Keras model or a `Graph`.
        start: A selector of the value that enters the block; the same as `stop` for one node
            alone. Other values that the block reads,
            such as a padding mask, are read by each repetition.
        stop: A selector of the value that leaves it, of the same shape and dtype.
        times: How often the block runs in all; 1 changes nothing.
        weights: `"share"`: each repetition calls the same layers. `"copy"`: it has layers of its
            own with the same values. `"fresh"`: of its own, newly initialized. New layers are
            called `name_repeat`, `name_repeat_1` and so on. What is tied within the block is tied
            within each repetition; a tie to something outside stays a tie to that.

    Raises:
        EditError: If the block does not give what it takes, if something outside reads a value
            from within, or if `times` is no positive number.
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
            f"repeat: times says how often the block runs in all, from 1 on; got {shown(times)}."
        )
    graph = read(model)
    if times > _MOST:
        raise EditError(f"repeat: times={shown(times)} is more than {_MOST:,}: no model runs that.")

    def edit(level: Graph, places: list[Place]) -> Graph:
        level = infer(level)
        for start, stop in places:
            if start == stop:  # this node
                start = _entering(level, level.value(stop))  # type: ignore[arg-type]
            level = _repeated(level, level.value(start), level.value(stop), times, weights)  # type: ignore[arg-type]
        return level

    places = pairs(graph, start, stop, "repeat", select(graph, stop).values)
    return like(model, at_depth(graph, places, edit))


def _entering(graph: Graph, value: Value) -> Value:
    """Return what enters the one node that gives a value: where its repetition reads."""
    node = graph.producer(value)
    label = graph.label(value)
    if node is None:
        raise EditError(f"repeat {label!r}: it is an input, which nothing computes.")
    inputs = list(dict.fromkeys(node.inputs[i] for i in read_places(node)))
    found = [v for v in inputs if graph.known(v).spec == value.spec]
    if len(inputs) > 1 and len(found) != 1:
        names = " or ".join(quoted(graph.label(v)) for v in inputs)
        raise EditError(
            f"repeat {label!r}: it has {len(inputs)} inputs. Say which one reads what the time "
            f"before gave: kg.repeat(model, {names}, {quoted(label)}, ...)."
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
            if id(node.operation) not in made:  # an op holds nothing
                return node
            if node.nested is not None:  # to be read again: the new model has values of its own
                return called_anew(node, made[id(node.operation)])
            return node.replace(operation=made[id(node.operation)])

        return change

    return infer(_block.repeated(graph, start, stop, times, own))
