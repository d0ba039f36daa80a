"""The edit verbs for users: from selectors and layers to the places that `edit.py` works on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, Literal

import keras

from keras_graft import edit as _edit
from keras_graft.build import like
from keras_graft.copies import carry, match_weights
from keras_graft.depth import Place, at_depth, pairs
from keras_graft.errors import EditError
from keras_graft.factory import put_in
from keras_graft.flow import read_places
from keras_graft.graph import Graph
from keras_graft.infer import infer
from keras_graft.naming import is_one_of, listed
from keras_graft.new import At
from keras_graft.node import Node, Value
from keras_graft.printable import quoted, shown
from keras_graft.reader import read
from keras_graft.select import is_exact, select
from keras_graft.ties import edited, retied, tied_again


class _New:
    """What goes in, at one place or at several."""

    def __init__(self, new: Any, verb: str) -> None:
        self._new = new
        self._verb = verb
        self._places: list[Node | Value] = []
        self._names: set[str] = set()

    def begin(self, places: Iterable[Node | Value]) -> None:
        """Start with the places of one level; refuse one layer for several."""
        self._names = set()
        self._places += places
        if len(self._places) > 1 and isinstance(self._new, keras.Layer):
            labels = listed(place.label for place in self._places)
            raise EditError(
                f"{self._verb}: {len(self._places)} places, {labels}, and one "
                f"{type(self._new).__name__} {self._new.name!r}. Give a factory, lambda node: ..., "
                "that makes one for each; or lambda node: layer, if all are to share this one."
            )

    def put(self, at: At) -> tuple[list[Node], list[Value], Any]:
        return put_in(self._new, at, self._names)


def replace(model: Any, target: Any, new: Any, weights: Literal["keep"] | None = None) -> Any:
    """Put something else in the places of nodes.

    The recorded arguments of a call go along where the new layer takes them. What a function makes
    and gives no name gets one that tells the place: `"act_dropout"` for a `Dropout` in the place of
    `"act"`. A layer that is given as it is keeps its name.

    Args:
        model: A Keras model or a `Graph`.
        target: A selector of nodes: all calls of a layer, or one (`"shared#1"`).
        new: A layer, a model or a function of tensors; or a factory, a function that gets the node
            and returns one of these. What a function is, is decided by what it returns: it is
            called with the node first, and as a function of tensors if that raises or gives nothing
            to put in. One layer for several places is refused, unless a factory returns it.
        weights: `"keep"`: trained values go over from the weights of the old layer to those of the
            same names in the new one. None: the new layer's values are its own. `kg.diff` says
            what was kept.

    Returns:
        What `model` is, with all other layers shared.

    Raises:
        EditError: If what comes in does not take what is read there, gives another number of
            values, or is one layer for several places; if `weights="keep"` finds no weight of the
            same name, or one of another shape.
        BuildError: If what stands behind does not take what it gives.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> y = keras.layers.ReLU(name="act")(keras.layers.Dense(3, name="d")(x))
    >>> model = keras.Model(x, y, name="tiny")
    >>> new = kg.replace(model, "act", keras.layers.Activation("gelu", name="gelu"))
    >>> [layer.name for layer in new.layers], new.get_layer("d") is model.get_layer("d")
    (['x', 'd', 'gelu'], True)
    """
    if weights is not None and not is_one_of(weights, "keep"):
        raise EditError(f'replace: weights must be "keep" or None, got {shown(weights)}.')
    old = read(model)
    what = _New(new, "replace")
    keep: dict[int, Any] = {}

    def edit(level: Graph, places: list[Place]) -> Graph:
        nodes = [level.node(node) for (node,) in places]  # type: ignore[arg-type]
        what.begin(nodes)

        def put(graph: Graph, inputs: Sequence[Value], node: Node | None) -> _edit.Made:
            assert node is not None
            place = At(graph, tuple(inputs), node, "replace", node)
            steps, outputs, layer = what.put(place)
            if weights and layer is not node.operation:
                if layer is None:
                    raise EditError(f'{place.edit}: weights="keep" needs a layer, not a function.')
                taken = keep.get(id(layer))
                if level.calls(layer) or (taken and taken[0] is not node.operation):
                    raise EditError(
                        f'{place.edit}: weights="keep" would give {layer.name!r} the weights of '
                        f"{node.operation.name!r}, and it has a place in the model already. Give "
                        "a new layer for each."
                    )
                matched = match_weights(node.operation, layer, place.edit)
                keep[id(layer)] = node.operation, layer, place.edit, *matched
            return steps, outputs

        return _edit.replace(level, nodes, put, infer)

    graph = at_depth(old, [(node,) for node in _nodes(old, target, "replace")], edit)
    for layer, new, verb, _, _ in keep.values():
        tied_again(graph, layer, new, verb)
    for _, new, _, report, pairs_ in keep.values():
        carry(new, report, pairs_)
    if keep:
        graph = retied(graph, [pair for *_, pairs_ in keep.values() for pair in pairs_])
    return edited(model, old, graph, f"replace {shown(target)}")


def insert(
    model: Any,
    new: Any,
    after: Any = None,
    before: Any = None,
    between: tuple[Any, Any] | None = None,
) -> Any:
    """Put something between a value and what reads it.

    What a function makes and gives no name gets one that tells the place, as for `replace`.

    Args:
        model: A Keras model or a `Graph`.
        new: A layer, a model, a function of one tensor or a factory, as for `replace`. A factory
            gets the node behind which, or before which, it goes; behind an input of the model,
            where there is none, the `Value`.
        after: A selector of values: all that read one of them read what comes out. Of a node
            with several outputs, those that are used; by its name, the only one that is used.
        before: A selector of nodes with one input; `"add:1"` names one of several.
        between: A value and a node: only this reading of it.

    Raises:
        EditError: If not exactly one of `after`, `before` and `between` is given; if it is not
            clear which value is meant.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> model = keras.Model(x, keras.layers.Dense(3, name="d")(x), name="tiny")
    >>> new = kg.insert(model, keras.layers.Dropout(0.5, name="drop"), before="d")
    >>> [layer.name for layer in new.layers]
    ['x', 'drop', 'd']
    >>> new = kg.insert(model, lambda node: keras.layers.Dropout(0.5), after=["x", "d"])
    >>> [layer.name for layer in new.layers]
    ['x', 'x_dropout', 'd', 'd_dropout']
    """
    if sum(place is not None for place in (after, before, between)) != 1:
        raise EditError("insert: give one of after=..., before=... and between=(value, node).")
    if between is not None and not (isinstance(between, tuple | list) and len(between) == 2):
        raise EditError(
            f"insert: between= is a value and a node that reads it, got {shown(between)}."
        )
    graph = read(model)
    what = _New(new, "insert")
    side = "before" if after is None else "after"

    def put(graph: Graph, inputs: Sequence[Value], node: Node | None) -> _edit.Made:
        item = inputs[0] if node is None or side == "after" else node
        return what.put(At(graph, tuple(inputs), node, f"insert {side}", item))[:2]

    def behind(level: Graph, places: list[Place]) -> Graph:
        values = [level.value(value) for (value,) in places]  # type: ignore[arg-type]
        what.begin(values)
        return _edit.insert_after(level, values, put, infer)

    def in_front(level: Graph, places: list[Place]) -> Graph:
        edges = [_edge(level, place, number) for place in places]
        what.begin(node for node, _ in edges)
        return _edit.insert_before(level, edges, put, infer)

    number = None
    if after is not None:
        return like(model, at_depth(graph, _behind(graph, after), behind))
    if between is not None:
        places = pairs(graph, *between, "insert between", select(graph, between[1]).nodes)
    else:
        named = (
            re.fullmatch(r"(.*):([0-9]{1,9})", before, re.DOTALL)
            if isinstance(before, str)
            else None
        )
        if named:
            before, number = named[1], int(named[2])
        places = [(node,) for node in _nodes(graph, before, "insert before")]
    return like(model, at_depth(graph, places, in_front))


def remove(model: Any, target: Any, keep: Any = None) -> Any:
    """Let what reads a node read what the node read.

    Args:
        model: A Keras model or a `Graph`.
        target: A selector of nodes.
        keep: Which input passes through, for nodes with several, or where the shape changes and
            that is meant: a selector, for several nodes a list with one input of each, or the
            number of the input, from 0. By default the only input, or the only one of the
            output's shape and dtype: of a transformer block, not its padding mask.

    Raises:
        EditError: If it is not clear which input passes through, or if the shape changes.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> y = keras.layers.Dense(3, name="d")(keras.layers.Dropout(0.5, name="drop")(x))
    >>> [layer.name for layer in kg.remove(keras.Model(x, y), "drop").layers]
    ['x', 'd']
    """
    graph = read(model)
    nodes = _nodes(graph, target, "remove")
    places: list[Place] = [(node,) for node in nodes]
    if isinstance(keep, Integral) and not isinstance(keep, bool):
        places = [(node, _numbered(node, int(keep))) for node in nodes]
    elif keep is not None:
        kept = select(graph, keep).values
        places = [(node, _kept(node, kept, keep)) for node in nodes]

    def edit(level: Graph, places: list[Place]) -> Graph:
        nodes = [level.node(node) for node, *_ in places]  # type: ignore[arg-type]
        numbers = [
            node.inputs.index(kept[0].within(None)) if kept else None  # type: ignore[arg-type]
            for node, (_, *kept) in zip(nodes, places, strict=True)
        ]
        return _edit.remove(level, nodes, numbers, infer)

    return edited(model, graph, at_depth(graph, places, edit), f"remove {shown(target)}")


def rewire(model: Any, reads: Mapping[Any, Any]) -> Any:
    """Let the consumers of values read others: `{old value: new value}`.

    Raises:
        EditError: If that would close a cycle; its path is named.
        BuildError: If a consumer does not take what it would read.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> y = keras.layers.Dense(4, name="b")(keras.layers.Dense(4, name="a")(x))
    >>> [layer.name for layer in kg.rewire(keras.Model(x, y), {"a": "x"}).layers]
    ['x', 'b']
    """
    if not isinstance(reads, Mapping):
        raise EditError(f"rewire: give {{old value: new value}}, got {type(reads).__name__}.")
    graph = read(model)
    places = [
        place
        for old, new in reads.items()
        for place in pairs(graph, old, new, "rewire", select(graph, new).values)
    ]

    def edit(level: Graph, places: list[Place]) -> Graph:
        pairs = {level.value(old): level.value(new) for old, new in places}  # type: ignore
        return _edit.rewire(level, pairs, infer)

    return edited(model, graph, at_depth(graph, places, edit), "rewire")


def _nodes(graph: Graph, selector: Any, verb: str) -> tuple[Node, ...]:
    """Return the nodes that a selector names; refuse one that names an input."""
    several = isinstance(selector, list | tuple) and selector
    nodes: dict[Node, None] = {}
    for part in selector if several else [selector]:
        found = select(graph, part)
        inputs = [v for v in found.items if isinstance(v, Value) and v.producer is None]
        # What a pattern fits besides does not matter.
        if inputs and (is_exact(graph, part) or len(inputs) == len(found)):
            label = inputs[0].path
            raise EditError(
                f"{verb} {label!r}: it is an input, which nothing makes. To put something behind "
                f"it: kg.insert(model, new, after={quoted(label)}); for another shape, kg.reinput."
            )
        nodes.update(dict.fromkeys(found.nodes))
    return tuple(nodes)


def _numbered(node: Node, number: int) -> Value:
    """Return an input of a node by its number, as `before="add:1"` counts them."""
    own = read_places(node)
    if not 0 <= number < len(own):
        raise EditError(
            f"remove {node.label!r}: keep={shown(number)}, and it has {len(own)} inputs: "
            f"{listed(node.home.label(node.inputs[i]) for i in own)}, from 0."
        )
    return node.inputs[own[number]].within(node.home, node.scope)


def _kept(node: Node, kept: Sequence[Value], keep: Any) -> Value:
    """Return the one input of a node that is among `kept`."""
    inputs = [v for v in kept if v.scope == node.scope and v.within(None) in node.inputs]
    if len(inputs) != 1:
        found = f"names {listed(v.label for v in inputs)} of" if inputs else "is none of"
        raise EditError(
            f"remove {node.label!r}: keep={shown(keep)} {found} its inputs "
            f"{listed(map(node.home.label, node.inputs))}. For several nodes at once give a list "
            "with one input of each, or the number of the input, such as keep=0."
        )
    return inputs[0]


def _behind(graph: Graph, selector: Any) -> list[Place]:
    """Return the values that are meant: of a node with several outputs, those that are used."""
    exact = is_exact(graph, selector)
    values: list[Place] = []
    for item in select(graph, selector).items:
        found = item.values if isinstance(item, Node) else (item,)
        if len(found) > 1:
            used = [v for v in found if v.consumers or v.within(None) in v.home.outputs]
            if exact and len(used) != 1:
                names = listed(v.path for v in used or found)
                raise EditError(
                    f"insert after {item.path!r}: it gives {names}. Name one, such as "
                    f"after={quoted(found[0].path)}."
                )
            found = used
        values += [(value,) for value in found]
    if not values:
        raise EditError(f"insert after {shown(selector)}: nothing that it names is used.")
    return values


def _edge(graph: Graph, place: Place, number: int | None) -> tuple[Node, list[int]]:
    """Return a node and the numbers of its inputs that are to read something else."""
    *values, end = place
    node = graph.node(end)  # type: ignore[arg-type]
    own = read_places(node)
    inputs = [graph.label(node.inputs[i]) for i in own]
    if values:
        places = [i for i, read in enumerate(node.inputs) if read == values[0].within(None)]
        if not places:
            raise EditError(
                f"insert between {graph.label(values[0])!r} and {node.label!r}: the second does "
                f"not read the first; it reads {listed(inputs)}."
            )
        return node, places
    if number is not None:
        if number >= len(inputs):
            raise EditError(
                f"insert before {quoted(f'{node.label}:{number}')}: {node.label!r} has {len(inputs)} inputs: "
                f"{listed(inputs)}."
            )
        return node, [own[number]]
    if len(set(inputs)) > 1:
        raise EditError(
            f"insert before {node.label!r}: it has {len(inputs)} inputs, {listed(inputs)}. Name "
            f"one by its number, such as before={quoted(node.label + ':0')}."
        )
    return node, own
