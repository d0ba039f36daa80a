"""A match as the place of an edit, found again in every graph made from the one it was found in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keras_graft.edit.part import Part
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed
from keras_graft.graph.node import Node
from keras_graft.model.nested import Place, Tag
from keras_graft.rewrite.constants import key_of
from keras_graft.rewrite.match import Match


@dataclass(frozen=True)
class Layout:
    """How the nodes of a match are what the names of a pattern stand for.

    Equal for the same match in two calls of a nested model: these are changed alike.

    Attributes:
        number: Which pattern it is.
        inputs: For each tensor, the node that reads it, and at which input.
        outputs: For each output, the node that gives it, and which of its outputs it is.
        called: For each wildcard, the nodes that call it.
        constants: What tells the constants apart.
    """

    number: int
    inputs: tuple[tuple[str, int, int], ...]
    outputs: tuple[tuple[int, int], ...]
    called: tuple[tuple[str, tuple[int, ...]], ...]
    constants: tuple[tuple[str, Any], ...]


class Places:
    """Makes places of matches, and matches of places."""

    def __init__(self) -> None:
        self._tags: dict[Layout, Tag] = {}

    def of(self, match: Match) -> Place:
        """Return the place of a match: its nodes, and how they are what the pattern names."""
        at = {node.key: i for i, node in enumerate(match.nodes)}
        giving = [(i, [v.key for v in node.outputs]) for i, node in enumerate(match.nodes)]
        reading = [(i, [v.key for v in node.inputs]) for i, node in enumerate(match.nodes)]
        inputs = tuple(
            (name, *next((i, keys.index(v.key)) for i, keys in reading if v.key in keys))
            for name, v in match.inputs.items()
        )
        outputs = tuple(
            next((i, keys.index(v.key)) for i, keys in giving if v.key in keys)
            for v in match.outputs
        )
        called = tuple(
            (name, tuple(at[n.key] for n in nodes)) for name, nodes in match.called.items()
        )
        given = {*match.inputs, *match.called}
        constants = {n: c for n, c in match.named.items() if n not in given}
        keys = tuple((name, key_of(constant)) for name, constant in constants.items())
        layout = Layout(match.number, inputs, outputs, called, keys)  # type: ignore[arg-type]
        tag = self._tags.setdefault(layout, Tag((layout, constants, tuple(match.named))))
        return (*match.nodes, tag)  # type: ignore[return-value]

    @staticmethod
    def part(level: Graph, place: Place) -> Part:
        """Return what an edit of one level must know about a match."""
        *found, tag = place
        layout, constants, order = tag.what  # type: ignore[union-attr]
        nodes = tuple(level.node(node).within(level, found[0].scope) for node in found)  # type: ignore
        here = lambda value: level.value(value)  # noqa: E731
        inputs = {name: here(nodes[i].inputs[j]) for name, i, j in layout.inputs}
        outputs = tuple(here(nodes[i].outputs[j]) for i, j in layout.outputs)
        called = {name: tuple(nodes[i] for i in at) for name, at in layout.called}
        layers = {name: calls[0].operation for name, calls in called.items()}
        named = {**inputs, **layers, **constants}
        match = Match(
            nodes, inputs, outputs, layout.number, {name: named[name] for name in order}, called
        )
        reads = tuple((nodes[i], j) for _, i, j in layout.inputs)
        return Part(nodes, reads, outputs, match)


def in_order(parts: Sequence[Part]) -> list[Part]:
    """Return parts in an order in which each comes after those whose outputs it reads.

    Raises:
        EditError: If two parts of several outputs read outputs of each other.
    """
    giver = {value.key: part for part in parts for value in part.outputs}
    result: list[Part] = []
    state: dict[int, int] = {}
    for part in parts:
        stack = [(part, iter(_before(part, giver)))]
        if state.setdefault(id(part), 1) == 2 or state[id(part)] == 1 and len(stack) != 1:
            continue
        while stack:
            top, left = stack[-1]
            state[id(top)] = max(state.get(id(top), 0), 1)
            other = next(left, None)
            if other is None:
                stack.pop()
                if state[id(top)] != 2:
                    state[id(top)] = 2
                    result.append(top)
            elif state.get(id(other), 0) == 0:
                stack.append((other, iter(_before(other, giver))))
            elif state[id(other)] == 1:
                ends = [_path(top), _path(other)]
                raise EditError(_ring(ends))
    return result


def check_no_ring(graph: Graph, parts: Sequence[Part], error: Exception) -> None:
    """Refuse parts whose new nodes need outputs of each other, through nodes between them.

    Raises:
        EditError: If there are such parts.
    """
    part_of = {node.key: part for part in parts for node in part.nodes}
    unit_of = lambda node: part_of.get(node.key, node)  # noqa: E731
    state: dict[int, int] = {}
    for part in parts:
        if id(part) in state:
            continue
        path: list[tuple[Any, Any]] = []
        new: Any = part
        while new is not None or path:
            if new is not None:
                state[id(new)] = 1
                held = new.nodes if isinstance(new, Part) else [new]
                read = [graph.producer(v) for node in held for v in graph.node(node).inputs]
                units = {id(u): u for u in (unit_of(n) for n in read if n is not None)}
                units.pop(id(new), None)
                path.append((new, iter(units.values())))
            new = next(path[-1][1], None)
            if new is None:
                state[id(path.pop()[0])] = 2
            elif id(new) in state:
                ring = [unit for unit, _ in path]
                if state[id(new)] == 1:
                    ring = ring[next(i for i, unit in enumerate(ring) if unit is new) :]
                    ends = [_path(unit) for unit in ring if isinstance(unit, Part)]
                    raise EditError(_ring(ends)) from error
                new = None


def _ring(ends: Sequence[str]) -> str:
    return (
        f"rewrite: the matches at {listed(ends)} read outputs of each other, and cannot all be "
        "replaced. Leave one of them out, by where=."
    )


def _before(part: Part, giver: dict[Any, Part]) -> list[Part]:
    found = [giver.get(node.inputs[i].key) for node, i in part.reads]
    return [other for other in found if other is not None and other is not part]


def _path(part: Part) -> str:
    node: Node = part.nodes[-1]
    return node.path
