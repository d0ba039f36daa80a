"""The edit verbs for users: from selectors and layers to the places that `edit.py` works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_graft import edit as _edit
from keras_graft.build import like
from keras_graft.errors import EditError, NotYetError
from keras_graft.graph import Graph
from keras_graft.infer import infer
from keras_graft.nest import inline as _inline
from keras_graft.new import Place, is_factory, put_in
from keras_graft.node import Node, Value
from keras_graft.read import read
from keras_graft.select import is_exact, listed, select, select_value


def replace(model: Any, target: Any, new: Any) -> Any:
    """Put something else in the places of nodes.

    The recorded arguments of a call go along where the new layer takes them.

    Args:
        model: A Keras model or a `Graph`.
        target: A selector of nodes: all calls of a layer, or one (`"shared#1"`).
        new: A layer, a model or a function of tensors for one place. For several, a factory: a
            function that gets the node and returns one of these.

    Returns:
        What `model` is, with all other layers shared.

    Raises:
        EditError: If what comes in does not take what is read there, gives another number of
            values, or is one layer for several places.
        BuildError: If what stands behind does not take what it gives.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> y = keras.layers.ReLU(name="act")(keras.layers.Dense(3, name="d")(x))
    >>> model = keras.Model(x, y, name="tiny")
    >>> new = kg.replace(model, "act", keras.layers.Activation("gelu", name="gelu"))
    >>> [layer.name for layer in new.layers], new.get_layer("d") is model.get_layer("d")
    (['x', 'd', 'gelu'], True)
    """
    graph = read(model)
    nodes = _top(graph, select(graph, target).nodes, "replace")
    factory = is_factory(new, is_exact(target))
    _one_place_only(new, factory, len(nodes), "replace")

    def put(graph: Graph, inputs: Sequence[Value], node: Node | None) -> _edit.Made:
        assert node is not None
        verb = f"replace {node.label!r}"
        return put_in(new, factory, Place(graph, tuple(inputs), node, verb, True))[:2]

    return like(model, _edit.replace(graph, nodes, put, infer))


def insert(
    model: Any,
    new: Any,
    after: Any = None,
    before: Any = None,
    between: tuple[Any, Any] | None = None,
) -> Any:
    """Put something between a value and what reads it.

    Args:
        model: A Keras model or a `Graph`.
        new: A layer, a model or a function of one tensor; for several places a factory that gets
            the node behind which, or before which, it goes.
        after: A selector of values: all that read one of them read what comes out.
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
    """
    if sum(place is not None for place in (after, before, between)) != 1:
        raise EditError("insert: give one of after=..., before=... and between=(value, node).")
    graph = read(model)
    exact = is_exact(before if after is None else after) or between is not None
    factory = is_factory(new, exact)

    def put(graph: Graph, inputs: Sequence[Value], node: Node | None) -> _edit.Made:
        side = "after" if after is not None else "before"
        where = graph.label(inputs[0]) if node is None or side == "after" else node.label
        place = Place(graph, tuple(inputs), node, f"insert {side} {where!r}")
        return put_in(new, factory, place)[:2]

    if after is not None:
        values = _values_after(graph, after)
        _one_place_only(new, factory, len(values), "insert")
        result = _edit.insert_after(graph, values, put, infer)
    else:
        edges = _edges_before(graph, before) if between is None else [_edge(graph, *between)]
        _one_place_only(new, factory, len(edges), "insert")
        result = _edit.insert_before(graph, edges, put, infer)
    return like(model, result)


def remove(model: Any, target: Any, keep: Any = None) -> Any:
    """Let what reads a node read what the node read.

    Args:
        model: A Keras model or a `Graph`.
        target: A selector of nodes.
        keep: A selector of the input that passes through, for nodes with several, or where the
            shape changes and that is meant.

    Raises:
        EditError: If it is not clear which input passes through, or if the shape changes.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> y = keras.layers.Dense(3, name="d")(keras.layers.Dropout(0.5, name="drop")(x))
    >>> [layer.name for layer in kg.remove(keras.Model(x, y), "drop").layers]
    ['x', 'd']
    """
    graph = read(model)
    nodes = _top(graph, select(graph, target).nodes, "remove")
    places: list[int | None] = [None] * len(nodes)
    if keep is not None:
        kept = set(select(graph, keep).values)
        for i, node in enumerate(nodes):
            found = [place for place, value in enumerate(node.inputs) if value in kept]
            if not found:
                raise EditError(
                    f"remove {node.label!r}: keep={keep!r} is none of its inputs "
                    f"{listed(map(graph.label, node.inputs))}."
                )
            places[i] = found[0]
    return like(model, _edit.remove(graph, nodes, places, infer))


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
    graph = read(model)
    pairs = {select_value(graph, old): select_value(graph, new) for old, new in reads.items()}
    for value in [*pairs, *pairs.values()]:
        _top(graph, [value], "rewire")
    return like(model, _edit.rewire(graph, pairs, infer))


def inline(model: Any, target: Any = "*") -> Any:
    """Put the layers of nested models in the places of their calls, at every depth.

    Args:
        model: A Keras model or a `Graph`.
        target: A selector of nested models; all by default. All calls of one are opened.

    >>> import keras, keras_graft as kg
    >>> inner = keras.Input((4,), name="inner")
    >>> encoder = keras.Model(inner, keras.layers.Dense(3, name="d")(inner), name="encoder")
    >>> x = keras.Input((4,), name="x")
    >>> [layer.name for layer in kg.inline(keras.Model(x, encoder(x))).layers]
    ['x', 'd']
    """
    graph = read(model)
    chosen = {id(n.operation) for n in _top(graph, select(graph, target).nodes, "inline")}
    inside: set[int] = set()
    while True:
        calls = [
            n for n in graph.nodes if n.nested is not None and id(n.operation) in chosen | inside
        ]
        if not calls:
            return like(model, graph)
        for call in calls:
            assert call.nested is not None
            inside |= {id(n.operation) for n in call.nested.steps}
        graph = _inline(graph, calls)[0]


def _top(graph: Graph, items: Sequence[Any], verb: str) -> Sequence[Any]:
    for item in items:
        if item.scope:
            outer = item.scope[0].label
            raise NotYetError(
                f"{verb}: {item.path!r} lies inside the nested model {outer!r}, and edits inside "
                f'nested models are not there yet. Open it first: kg.inline(model, "{outer}").'
            )
    return items


def _one_place_only(new: Any, factory: bool, count: int, verb: str) -> None:
    if count > 1 and not factory and isinstance(new, keras.Layer):
        raise EditError(
            f"{verb}: {count} places and one {type(new).__name__} {new.name!r}. Give a factory, "
            "lambda node: ..., that makes one for each; or lambda node: layer, if all are to share "
            "this one."
        )


def _values_after(graph: Graph, selector: Any) -> list[Value]:
    values: list[Value] = []
    for item in _top(graph, select(graph, selector).items, "insert"):
        found = item.values if isinstance(item, Node) else (item,)
        if len(found) > 1:
            raise EditError(
                f"insert after {item.label!r}: it gives {listed(v.label for v in found)}. Name one."
            )
        values += found
    return values


def _edges_before(graph: Graph, selector: Any) -> list[tuple[Node, list[int]]]:
    if isinstance(selector, str) and selector.rpartition(":")[2].isdigit() and ":" in selector:
        name, _, number = selector.rpartition(":")
        edges = []
        for node in _top(graph, select(graph, name).nodes, "insert"):
            if int(number) >= len(node.inputs):
                raise EditError(
                    f"insert before {selector!r}: {node.label!r} has {len(node.inputs)} inputs: "
                    f"{listed(map(graph.label, node.inputs))}."
                )
            edges.append((node, [int(number)]))
        return edges
    edges = []
    for node in _top(graph, select(graph, selector).nodes, "insert"):
        if len(set(node.inputs)) > 1:
            raise EditError(
                f"insert before {node.label!r}: it has {len(node.inputs)} inputs, "
                f"{listed(map(graph.label, node.inputs))}. Name one by its number, such as "
                f'before="{node.label}:0".'
            )
        edges.append((node, list(range(len(node.inputs)))))
    return edges


def _edge(graph: Graph, start: Any, stop: Any) -> tuple[Node, list[int]]:
    value = select_value(graph, start)
    nodes = select(graph, stop).expect(1).nodes
    _top(graph, [value, *nodes], "insert")
    places = [place for place, read in enumerate(nodes[0].inputs) if read == value]
    if not places:
        raise EditError(
            f"insert between {value.label!r} and {nodes[0].label!r}: the second does not read the "
            f"first; it reads {listed(map(graph.label, nodes[0].inputs))}."
        )
    return nodes[0], places
