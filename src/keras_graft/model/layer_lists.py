"""Lists of layers that run one after the other, and the numbers that count them, after an edit.

A keras_hub backbone keeps its blocks in `transformer_layers` and their number in `num_layers`;
`generate` of a task runs the blocks by that list. After an edit the list must name the blocks that
the graph calls: those that were copied or called again too, in the order of the calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node
from keras_graft.graph.record import unwrapped

_COUNT = re.compile(r"(^|_)num(_[a-z]+)*_(layers|blocks)$")
_SIDES = ("encoder", "decoder")


def following_calls(
    graph: Graph, before: Mapping[str, Any], carried: Mapping[str, Any]
) -> dict[str, Any]:
    """Return attributes whose lists of layers, and numbers of layers, follow the calls of a graph.

    Args:
        graph: The edited graph.
        before: The attributes of the donor.
        carried: Those of the edited model; layers that an edit replaced or removed are already so.
    """
    base = None if graph.past is None else graph.past.base
    if base is None:
        return dict(carried)
    found = dict(carried)
    old_lists = {name: layers for name, value in before.items() if (layers := _layers(value))}
    for name, layers in old_lists.items():
        kept = _layers(carried.get(name))
        if kept and _run_in_turn(base, layers):
            calls = _chain(graph, base, kept)
            if calls is not None and list(map(id, calls)) != list(map(id, kept)):
                found[name] = calls
    for name, value in carried.items():
        if type(value) is int and _COUNT.search(name):
            found[name] = _counted(name, value, old_lists, found)
    return found


def _layers(value: Any) -> list[Any]:
    """Return the items of a list that holds nothing but layers; empty for anything else."""
    if _keras.plain_container(value) not in (list, tuple):
        return []
    items = list(value)
    return items if all(isinstance(item, keras.layers.Layer) for item in items) else []


def _run_in_turn(base: Graph, layers: list[Any]) -> bool:
    """Whether each layer is called once, on what the layer before it gave."""
    calls = [base.calls(layer) for layer in layers]
    if not all(len(found) == 1 for found in calls):
        return False
    nodes = [found[0] for found in calls]
    return all(_reads(after, node) for node, after in zip(nodes, nodes[1:], strict=False))


def _reads(node: Node, other: Node) -> bool:
    given = {value.key for value in other.outputs}
    return any(value.key in given for value in node.inputs)


def _chain(graph: Graph, base: Graph, kept: list[Any]) -> list[Any] | None:
    """Return the layers of the calls that now run in turn; None if they form no chain.

    These are the layers of the list, new layers of their classes, and new layers that hold one.
    """
    mine, kinds = set(map(id, kept)), {type(layer) for layer in kept}
    known = {id(unwrapped(node.operation)) for node in base.steps}
    calls = []
    for node in graph.steps:
        operation = unwrapped(node.operation)
        if id(operation) in known:
            covers = {id(operation)} & mine
        else:
            covers = {id(layer) for layer in _keras.layers_inside(operation)} & mine
        if covers or (id(operation) not in known and type(operation) in kinds):
            calls.append(_Call(node, operation, covers))
    part: list[_Call] = []
    for stretch in _stretches(calls):
        if any(call.covers for call in stretch):
            if part:
                return None  # something else runs in between
            part = stretch
    return [call.operation for call in part] if mine <= _covered(part) else None


@dataclass(frozen=True)
class _Call:
    """A call of a layer that is or may be in a list, with the layers of the list that it runs."""

    node: Node
    operation: Any
    covers: set[int]


def _covered(calls: list[_Call]) -> set[int]:
    return {key for call in calls for key in call.covers}


def _stretches(calls: list[_Call]) -> Iterator[list[_Call]]:
    """Yield the runs of calls in which each reads the one before it."""
    stretch: list[_Call] = []
    for call in calls:
        if stretch and not _reads(call.node, stretch[-1].node):
            yield stretch
            stretch = []
        stretch.append(call)
    if stretch:
        yield stretch


def _counted(name: str, value: int, before: Mapping[str, list[Any]], now: Mapping[str, Any]) -> int:
    """Return a number of layers: if it was the length of a list, the length of the list now."""
    counted = [key for key, layers in before.items() if len(layers) == value and key in now]
    for side in _SIDES:
        if side in name:
            counted = [key for key in counted if side in key] or counted
    lengths = {len(_layers(now[key])) for key in counted if _layers(now[key])}
    return lengths.pop() if len(lengths) == 1 else value
