"""Edit inside nested models: change the level where something lies, rebuild the models around it.

A nested model is one operation of the model around it. To change it, a new model is built from its
edited graph and replaces the old one in every call; layers that did not change are shared. If only
some calls of a nested model must change, all its calls are opened: two models that share layers can
be built, but Keras cannot load them from the file that it saved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from keras_graft import advice
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed
from keras_graft.graph.node import Node, Value
from keras_graft.graph.opened import Opened
from keras_graft.graph.select import select
from keras_graft.model.build import build
from keras_graft.model.infer import infer
from keras_graft.model.opening.inside import as_model_call, is_layer_inside
from keras_graft.model.read import own_graph
from keras_graft.printable import quoted, shown

Item = Node | Value


@dataclass(frozen=True, eq=False)
class Tag:
    """What else an edit must know about a place: any object, and the place hands it on.

    Calls of a nested model are changed alike only if their places have the same tags.
    """

    what: Any


Place = tuple[Item, ...]
"""The nodes and values that one change is about, all of one level. `Tag`s may follow them."""

Edit = Callable[[Graph, list[Any]], Graph]
"""Makes the changes at places that are all on this graph's own level.

If nested models changed, specs are not inferred yet: this edit may remove the nodes behind them.
"""


class _Of:
    """An operation that compares by its identity, whatever its own class says."""

    def __init__(self, operation: Any) -> None:
        self.operation = operation

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Of) and other.operation is self.operation

    def __hash__(self) -> int:
        return id(self.operation)


_Step = tuple[_Of, int]  # an operation, and which of its calls
_Mark = tuple[tuple[_Step, ...], _Step | None, int | None] | Tag
"""The calls that lead to it, the node (None: an input), and for a value which output or input. A
tag marks itself."""


def at_depth(graph: Graph, places: Sequence[Place], edit: Edit) -> Graph:
    """Return the graph with `edit` applied at every level that has places.

    Args:
        graph: The outermost graph.
        places: The items of one place are all on one level.
        edit: Gets the graph of a level and the places on it.

    Raises:
        EditError: If a change is asked for at one call of a nested model, but can only be made
            for all its calls.
    """
    return _Descent(edit).run(graph, places)


def _by_level(*groups: Sequence[Item]) -> list[tuple[list[Any], ...]]:
    """Sort items by level: for each level that has any, a tuple with one list for each group."""
    levels: dict[tuple[Node, ...], tuple[list[Any], ...]] = {}
    for number, items in enumerate(groups):
        for item in items:
            levels.setdefault(item.scope, tuple([] for _ in groups))[number].append(item)
    return list(levels.values())


def pairs(graph: Graph, start: Any, stop: Any, verb: str, stops: Sequence[Any]) -> list[Place]:
    """Pair two selectors at every level; on a level, each must select exactly one thing."""
    places = []
    for values, others in _by_level(select(graph, start).values, stops):
        if len(values) != 1 or len(others) != 1:
            raise EditError(
                f"{verb}: {shown(start)} and {shown(stop)} must each name one thing in the same model; "
                f"they name {listed(v.path for v in values)} and {listed(n.path for n in others)}."
            )
        places.append((values[0], others[0]))
    return places


class _Descent:
    def __init__(self, edit: Edit) -> None:
        self._edit = edit
        # A model inside several other models is edited once and stays shared.
        self._made: dict[tuple[int, frozenset[Any]], tuple[Any, Graph, bool]] = {}

    def run(self, graph: Graph, places: Sequence[Place]) -> Graph:
        graph, places = _apart(graph, places)
        instead: dict[Node, list[Node]] = {}
        for call, inside in _by_call(graph, places).items():
            model, nested, keeps_specs = self._rebuilt(call, inside)
            # Its output specs may have changed: they must be inferred again.
            outputs = tuple(value.with_spec(None) for value in call.outputs)
            again = as_model_call(call) if is_layer_inside(call) else call
            again = again.replace(operation=model, nested=nested, outputs=outputs)
            if not keeps_specs:
                again = again.replace(untried=())
            instead[call] = [again]
        if instead:
            graph = graph.spliced(instead, {})
        here = [place for place in places if not place[0].scope]
        return infer(self._edit(graph, here) if here else graph)

    def _rebuilt(self, call: Node, places: list[Place]) -> tuple[Any, Graph, bool]:
        """Return the edited model, its graph, and whether all values keep their specs."""
        model = call.operation
        marks = [tuple(_mark(item, 1) for item in place) for place in places]
        key = id(model), frozenset(marks)
        if key not in self._made:
            nested = own_graph(call)
            found: list[Any] = [tuple(_find(nested, mark) for mark in place) for place in marks]
            edited = self.run(nested, found)
            if _hands_on(edited) and not _hands_on(nested):
                # Keras would take such a model's output for its input, and make a cycle.
                raise EditError(
                    f"The nested model {model.name!r} would return its own input, with nothing left to "
                    f"compute. Remove the whole model: {advice.call('remove', ('target', str(call.name)))}."
                )
            kept = _keeps_specs(nested, edited)
            self._made[key] = (build(edited, name=model.name), edited, kept)
        return self._made[key]


def _hands_on(graph: Graph) -> bool:
    """Whether an output of a graph is one of its inputs."""
    return any(value in graph.inputs for value in graph.outputs)


def _keeps_specs(old: Graph, new: Graph) -> bool:
    """Whether values in both graphs have the same specs, and new nodes keep the specs they read."""
    for node in new.steps:
        read = [value.spec for value in node.inputs]
        for value in node.outputs:
            kept = value in old
            if value.spec not in ([old.known(value).spec] if kept else read):
                return False
    return True


def _apart(graph: Graph, places: Sequence[Place]) -> tuple[Graph, Sequence[Place]]:
    """Open the nested models of which only some calls must change."""
    while True:
        partly = _partly(graph, places)
        if partly is None:
            return graph, places
        for item in (i for place in places for i in place):
            if isinstance(item, Value) and item.producer is None and item.scope == (partly,):
                raise EditError(
                    f"{item.path!r} is an input of one call of {partly.name!r}, which is called "
                    f"several times. Change what it reads there: before={quoted(partly.label)}."
                )
        opened = Opened(graph)
        flat = [
            item.outputs[0].within(item.graph, item.scope) if isinstance(item, Node) else item
            for place in places
            for item in place
            if not isinstance(item, Tag)
        ]
        moved = iter(opened.open(graph.calls(partly.operation), flat))
        graph = opened.graph
        places = [
            tuple(i if isinstance(i, Tag) else _moved(graph, i, next(moved)) for i in place)  # type: ignore[misc]
            for place in places
        ]


def _moved(graph: Graph, item: Item, value: Value) -> Item:
    value = value if value.scope else graph.value(value)
    if isinstance(item, Value):
        return value
    producer = value.producer
    assert producer is not None
    return producer


def _partly(graph: Graph, places: Sequence[Place]) -> Node | None:
    """Return a call of a nested model whose other calls must change in a different way."""
    inside = _by_call(graph, places)
    for call, own in inside.items():
        wanted = {tuple(_mark(item, 1) for item in place) for place in own}
        for other in graph.calls(call.operation):
            if is_layer_inside(call) and other.nested is not call.nested:
                return call  # its code does something else in this call
            found = {tuple(_mark(i, 1) for i in place) for place in inside.get(other, ())}
            if found != wanted:
                return call
    return None


def _by_call(graph: Graph, places: Sequence[Place]) -> dict[Node, list[Place]]:
    found: dict[Node, list[Place]] = {}
    for place in places:
        if place[0].scope:
            found.setdefault(graph.node(place[0].scope[0]), []).append(place)
    return found


def _mark(item: Item | Tag, depth: int) -> _Mark:
    """Return a mark that finds an item in every reading of the model that it lies in."""
    if isinstance(item, Tag):
        return item
    scope = tuple(_step(node) for node in item.scope[depth:])
    if isinstance(item, Node):
        return scope, _step(item), None
    return scope, None if item.producer is None else _step(item.producer), item.index


def _step(node: Node) -> _Step:
    return _Of(node.operation), node.call


def _find(graph: Graph, mark: _Mark) -> Item | Tag:
    if isinstance(mark, Tag):
        return mark
    steps, last, output = mark
    scope: tuple[Node, ...] = ()
    level = graph
    for step in steps:
        node = _call(level, step).within(level, scope)
        scope = (*scope, node)
        assert node.nested is not None
        level = node.nested
    if last is None:
        assert output is not None
        return level.inputs[output].within(level, scope)
    node = _call(level, last).within(level, scope)
    return node if output is None else node.values[output]


def _call(graph: Graph, step: _Step) -> Node:
    calls = graph.calls(step[0].operation)  # not a search: there may be thousands of places
    if step[1] >= len(calls):
        raise EditError(
            f"What was selected in the nested model {graph.name!r} only computes the mask of one "
            "call of it, and is not part of the model. Open it first, to edit there: "
            f"{advice.call('inline', ('target', str(graph.name)))}."
        )
    return calls[step[1]]
