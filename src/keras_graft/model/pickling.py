"""`copy.deepcopy` and `pickle` of a graph, and of the nodes and values in it.

A copy has its own layers, made as `kg.clone` makes them. What is shared or tied stays so within one
call of `deepcopy`, also between graphs. A pickle holds the model that `kg.build` makes, as Keras
pickles it: a model that cannot be saved cannot be pickled, and two graphs that are pickled together
share nothing afterwards. A node or value is copied with its graph, and found again in the copy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from keras_graft.errors import GraphError
from keras_graft.graph.copyable import copied_by
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Value
from keras_graft.graph.select import everything
from keras_graft.model.build import build
from keras_graft.model.clone import Clone
from keras_graft.model.read import read
from keras_graft.printable import words_of

_Step = tuple[str, int]  # the name of an operation, and which of its calls


def deep_copied(thing: Any, memo: dict[Any, Any]) -> Any:
    """Return a copy of a graph, node or value; identities stay, as in every edit."""
    if isinstance(thing, Graph):
        return _copied_graph(thing, memo)
    if thing.graph is None:
        return thing  # it is in no graph: there is nothing to copy
    return _copied_item(thing, memo)


def reduced(thing: Any) -> tuple[Any, ...]:
    """Return what `pickle` needs to make a graph, node or value again.

    Raises:
        GraphError: If a model cannot be saved, or a node or value was taken out of its graph.
    """
    return _reduced_graph(thing) if isinstance(thing, Graph) else _reduced_item(thing)


def _copied_graph(graph: Graph, memo: dict[Any, Any]) -> Graph:
    work = memo.setdefault(Clone, Clone())
    new = work.graph(graph)
    for node in everything(graph):
        memo.setdefault(id(node.operation), work.operation(node))
    return new


def _copied_item(item: Node | Value, memo: dict[Any, Any]) -> Node | Value:
    level = copy.deepcopy(_root(item), memo)
    scope: tuple[Node, ...] = ()
    for call in item.scope:
        level, scope = _inside(level.node(call).within(level, scope))
    found = level.node(item) if isinstance(item, Node) else level.value(item)
    return found.within(level, scope)


def _reduced_graph(graph: Graph) -> tuple[Any, ...]:
    try:
        load, arguments, *_ = build(graph).__reduce__()  # type: ignore[misc]
    except Exception as error:
        raise GraphError(
            f"Graph {graph.name!r} cannot be pickled, because its model cannot be saved: "
            f"{words_of(error)}"
        ) from error
    return _read_again, (graph.name, load, arguments)


def _reduced_item(item: Node | Value) -> tuple[Any, ...]:
    node = item if isinstance(item, Node) else item.home.producer(item)
    if isinstance(item, Node):
        output = None
    else:
        output = (item.home.inputs if node is None else node.gives).index(item.within(None))
    steps = [(call.home.name_of(call), call.home.call_of(call)) for call in item.scope]
    last = None if node is None else (item.home.name_of(node), item.home.call_of(node))
    return _found_again, (_root(item), steps, last, output)


def _read_again(name: str, load: Callable[..., Any], arguments: tuple[Any, ...]) -> Graph:
    try:
        model = load(*arguments)
    except Exception as error:
        raise GraphError(
            f"Graph {name!r} cannot be made again from its pickle: {words_of(error)}"
        ) from error
    return read(model).replace(name=name)


def _found_again(
    graph: Graph, steps: list[_Step], last: _Step | None, output: int | None
) -> Node | Value:
    scope: tuple[Node, ...] = ()
    for step in steps:
        graph, scope = _inside(_call(graph, step).within(graph, scope))
    if last is None:
        assert output is not None
        return graph.inputs[output].within(graph, scope)
    node = _call(graph, last)
    return (node if output is None else node.gives[output]).within(graph, scope)


def _call(graph: Graph, step: _Step) -> Node:
    name, number = step
    calls = graph.named(name)
    if number >= len(calls):
        raise GraphError(
            f"{name!r} is not found again in graph {graph.name!r} once it is read from a pickle. "
            "Pickle the graph alone, and select in the graph that you load."
        )
    return calls[number]


def _inside(call: Node) -> tuple[Graph, tuple[Node, ...]]:
    assert call.nested is not None
    return call.nested, (*call.scope, call)


def _root(item: Node | Value) -> Graph:
    return item.scope[0].home if item.scope else item.home


copied_by(deep_copied, reduced)
