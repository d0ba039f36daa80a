"""Which operations of two graphs belong together, when none of them need be the same object.

First by name, as a saved and loaded model keeps its names. Where names say nothing, by value, and
then by place: what is read by, or reads, operations that belong together.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from keras_graft._keras import automatic_name
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node
from keras_graft.look.numbers import Place
from keras_graft.look.pairing import first_calls
from keras_graft.look.wiring import Source, Wiring
from keras_graft.model import same_values


class Partners:
    """Finds for operations of a graph those of another that they belong to.

    Attributes:
        inputs: For the name of each input of the new graph, that of the old one.
    """

    def __init__(self, old: Wiring, new: Wiring) -> None:
        self._old, self._new = old, new
        self._mine, self._its = first_calls(old.graph), first_calls(new.graph)
        self._settings: dict[int, dict[str, str]] = {}
        self._shapes: dict[int, Any] = {}
        self._pairs: dict[int, Any] = {}
        self._taken: set[int] = set()
        self.inputs: Mapping[str, str] = _inputs(old.graph, new.graph)
        self._unclear: dict[int, None] = {}
        self._same_objects()
        self._by_name()
        self._by_weights()
        self._by_place()
        self._rest()

    def _pair(self, now: Any, was: Any) -> None:
        self._pairs[id(now)] = was
        self._taken.add(id(was))

    def _left(self) -> tuple[list[Node], list[Node]]:
        """Return the first calls of the operations of both graphs that have no partner yet."""
        old = [n for key, n in self._mine.items() if key not in self._taken]
        return old, [n for key, n in self._its.items() if key not in self._pairs]

    def _same_objects(self) -> None:
        for key, node in self._its.items():
            if key in self._mine:
                self._pair(node.operation, node.operation)

    def _by_name(self) -> None:
        """Pair equal paths and classes. Keras's own names count if one side has all of the other.

        `dense_1` is another layer in another model, but not in an edited or loaded one.
        """
        old, new = self._left()
        known = {path_of(n): n for n in old}
        rows: list[dict[Any, set[str]]] = [{}, {}]
        for row, nodes in zip(rows, (old, new), strict=True):
            for node in nodes:
                base = _base(node)
                if base is not None:
                    row.setdefault(base, set()).add(node.name)
        for node in new:
            was = known.get(path_of(node))
            if was is None or type(was.operation) is not type(node.operation):
                continue
            base = _base(node)
            mine, its = (row.get(base, set()) for row in rows)
            if base is None or mine <= its or its <= mine or self._equal(was, node):
                self._pair(node.operation, was.operation)

    def _by_weights(self) -> None:
        """Pair what has equal weights, if only one operation on each side has them."""
        sides = [self._grouped(nodes, True) for nodes in self._left()]
        for key, its in sides[1].items():
            mine = sides[0].get(key, [])
            if len(mine) == len(its) == 1:
                self._pair(its[0].operation, mine[0].operation)

    def _by_place(self) -> None:
        """Pair what is next to operations that belong together, and looks the same."""
        queue: deque[tuple[Place | None, Place | None, int]] = deque()
        calls = [_calls(self._old), _calls(self._new)]

        def follow(now: Any, was: Any) -> None:
            mine, its = calls[0].get(id(was), ()), calls[1].get(id(now), ())
            queue.extend((a, b, -1) for a, b in zip(mine, its, strict=False))

        def pair(its: Node, mine: Node) -> None:
            self._pair(its.operation, mine.operation)
            follow(its.operation, mine.operation)

        for key, was in list(self._pairs.items()):
            follow(self._its[key].operation, was)
        names = [g.input_names for g in (self._old.graph, self._new.graph)]
        queue.extend((None, None, i) for i in range(len(names[1])))
        ends = zip(self._old.ends(), self._new.ends(), strict=False)
        for mine, its in ends:
            self._both(mine, its, pair)
        while queue:
            mine, its, number = queue.popleft()
            if mine is None or its is None:
                was = names[0].index(self.inputs[names[1][number]]) if self.inputs.get(
                    names[1][number]) in names[0] else None  # fmt: skip
                if was is not None:
                    self._readers(
                        self._old.readers(None, was), self._new.readers(None, number), pair
                    )
                continue
            nodes = self._old.nodes[mine], self._new.nodes[its]
            reads = zip(self._old.reads(nodes[0]), self._new.reads(nodes[1]), strict=False)
            for a, b in reads:
                self._both(a, b, pair)
            for i in range(min(len(n.gives) for n in nodes)):
                self._readers(self._old.readers(mine, i), self._new.readers(its, i), pair)

    def _both(self, mine: Source | None, its: Source | None, pair: Any) -> None:
        """Pair the two calls that give something, if they look the same."""
        if mine is None or its is None or mine.place is None or its.place is None:
            return
        was, now = self._old.nodes[mine.place], self._new.nodes[its.place]
        if self._free(was, now) and self._look(was) == self._look(now):
            pair(now, was)

    def _readers(self, mine: Iterable[Place], its: Iterable[Place], pair: Any) -> None:
        """Pair the calls that read something, if they look the same."""
        sides: list[dict[Any, dict[int, Node]]] = []
        for wiring, places, known in (
            (self._old, mine, self._taken), (self._new, its, self._pairs),
        ):  # fmt: skip
            found: dict[Any, dict[int, Node]] = {}
            for place in places:
                node = wiring.nodes[place]
                if id(node.operation) not in known:
                    found.setdefault(self._look(node), {}).setdefault(id(node.operation), node)
            sides.append(found)
        for key, now in sides[1].items():
            was = sides[0].get(key, {})
            self._in_order(list(was.values()), list(now.values()), pair)

    def _in_order(self, was: list[Node], now: list[Node], pair: Any) -> None:
        unclear = max(len(was), len(now)) > 1
        for a, b in zip(was, now, strict=False):
            if unclear and getattr(b.operation, "weights", ()):
                self._unclear[id(b.operation)] = None
            pair(b, a)

    def _rest(self) -> None:
        """Pair what is left and looks the same, in the order of the graphs."""
        sides = [self._grouped(nodes, False) for nodes in self._left()]
        for key, its in sides[1].items():
            mine = sides[0].get(key, [])
            if len(mine) == len(its):
                self._in_order(mine, its, lambda b, a: self._pair(b.operation, a.operation))

    def _free(self, was: Node, now: Node) -> bool:
        return id(was.operation) not in self._taken and id(now.operation) not in self._pairs

    def _look(self, node: Node) -> Any:
        """Return the class, the configuration, and the shapes of the weights of an operation."""
        key = id(node.operation)
        if key not in self._shapes:
            self._shapes[key] = same_values.shapes(node.operation)
        said = tuple(sorted(self._setting(node.operation).items()))
        return type(node.operation).__name__, said, self._shapes[key]

    def _setting(self, operation: Any) -> dict[str, str]:
        if id(operation) not in self._settings:
            self._settings[id(operation)] = same_values.settings(operation)
        return self._settings[id(operation)]

    def _grouped(self, nodes: list[Node], by_weights: bool) -> dict[Any, list[Node]]:
        found: dict[Any, list[Node]] = {}
        for node in nodes:
            key = self._look(node)
            if by_weights and not key[2]:
                continue
            key = (*key, same_values.sample(node.operation)) if by_weights else key
            found.setdefault(key, []).append(node)
        return found

    def _equal(self, was: Node, now: Node) -> bool:
        return self._look(was) == self._look(now) and same_values.sample(
            was.operation
        ) == same_values.sample(now.operation)


def path_of(node: Node) -> tuple[str, ...]:
    return tuple(n.name for n in (*node.scope, node))


def _base(node: Node) -> Any:
    """Return where a name that Keras gave belongs: the models around it, and its class."""
    base = automatic_name(node.operation)
    automatic = re.fullmatch(re.escape(base) + r"(_[0-9]+)?", node.name)
    return (*(n.name for n in node.scope), base) if automatic else None


def _inputs(old: Graph, new: Graph) -> dict[str, str]:
    """Return for each input of the new graph that of the old one: by name, else by place."""
    mine, its = old.input_names, new.input_names
    left = [name for name in mine if name not in its]
    rest = [name for name in its if name not in mine]
    found = {name: name for name in its if name in mine}
    return found | dict(zip(rest, left, strict=False))


def _calls(wiring: Wiring) -> dict[int, list[Place]]:
    found: dict[int, list[Place]] = {}
    for place, node in wiring.nodes.items():
        found.setdefault(id(node.operation), []).append(place)
    return found
