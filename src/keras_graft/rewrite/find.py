"""Find the matches of patterns in a graph and its nested models, and say why others are none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed
from keras_graft.graph.node import Node, Value
from keras_graft.rewrite.arguments import Signatures
from keras_graft.rewrite.match import Match, asked, holds, match_of
from keras_graft.rewrite.meaning import Meanings
from keras_graft.rewrite.pattern import Pattern, patterns_of
from keras_graft.rewrite.search import Search

Level = tuple[Graph, tuple[Node, ...]]


@dataclass
class Found:
    """The matches of patterns, and what is none.

    Attributes:
        matches: Those that share no nodes, in graph order: outer models before inner ones.
        overlapping: Pairs: a match that is left out, and the one that has its nodes.
        refused: Pairs: a path, and why what fits there is no match.
        asked: How often a call of a pattern was compared with a node.
    """

    matches: list[Match]
    overlapping: list[tuple[Match, Match]]
    refused: list[tuple[str, str]]
    asked: int = 0


class Finder:
    """Looks for patterns in one graph.

    Args:
        graph: The graph.
        pattern: What the user gave: a function, or a list of functions.
        where: The condition on a match.
        wildcards: What the parameters that are layers or constants may be.
        verb: For messages.
    """

    def __init__(
        self,
        graph: Graph,
        pattern: Any,
        where: Callable[..., Any] | None,
        wildcards: Mapping[str, Any],
        verb: str,
    ) -> None:
        self._graph = graph
        self.patterns: list[Pattern] = patterns_of(pattern, wildcards, verb)
        self._where = where
        self._verb = verb
        self._meanings = Meanings(graph, dict(wildcards), verb)
        self._signatures = Signatures()
        self.names = tuple(dict.fromkeys(name for p in self.patterns for name in p.names))
        if where is not None:
            for each in self.patterns:
                asked(where, each.names, f"{verb}: where=")

    def found(self) -> Found:
        """Return the matches: at each node the first pattern that fits, in graph order."""
        result = Found([], [], [])
        for graph, scope in _levels(self._graph):
            taken: dict[Any, Match] = {}
            searches = [
                Search(p, graph, scope, self._meanings, self._signatures) for p in self.patterns
            ]
            for node in graph.steps:
                self._at(node, searches, graph, scope, taken, result)
            result.asked += sum(search.asked for search in searches)
        return result

    def _at(
        self,
        node: Node,
        searches: list[Search],
        graph: Graph,
        scope: tuple[Node, ...],
        taken: dict[Any, Match],
        result: Found,
    ) -> None:
        refused: tuple[str, str] | None = None
        overlaps: tuple[Match, Match] | None = None
        for number, (search, pattern) in enumerate(zip(searches, self.patterns, strict=True)):
            if not search.may_start(node):
                continue
            for bound in search.at(node):
                match = match_of(pattern, number, bound, graph, scope)
                why = _used_outside(match, graph) or self._condition(match)
                if why:
                    refused = refused or (match.path, why)
                    continue
                other = next((taken[n.key] for n in match.nodes if n.key in taken), None)
                if other is not None:
                    overlaps = overlaps or (match, other)
                    continue
                taken.update((n.key, match) for n in match.nodes)
                result.matches.append(match)
                return
        if overlaps is not None:
            result.overlapping.append(overlaps)
        elif refused is not None:
            result.refused.append(refused)

    def _condition(self, match: Match) -> str:
        return "" if self._where is None else holds(self._where, match, self._verb)

    def near(self, found: Found) -> tuple[tuple[str, str], ...]:
        """Return where a pattern nearly fits, with the reason: what fits, and what does not."""
        result = list(found.refused)
        seen = {path for path, _ in result}
        taken = {n for match in found.matches for n in match.nodes}
        taken |= {n for match, _ in found.overlapping for n in match.nodes}
        for graph, scope in _levels(self._graph):
            searches = [
                (Search(p, graph, scope, self._meanings, self._signatures, forgiving=True), p)
                for p in self.patterns
            ]
            for node in graph.steps:
                here = node.within(graph, scope)
                why = here not in taken and self._nearly(here, searches, taken)
                if why and here.path not in seen:
                    seen.add(here.path)
                    result.append((here.path, why))
        return tuple(result)

    def _nearly(self, node: Node, searches: list[tuple[Search, Pattern]], taken: set[Node]) -> str:
        for search, pattern in searches:
            for bound in search.at(node):
                missing = bound.missing
                if missing is None:
                    continue
                here = bound.nodes[missing].within(node.home, node.scope)
                alike = type(missing.target) is type(here.operation)  # only its settings differ
                alike = alike or not self._meanings.why_not(missing.target, here)
                fits = [n for call, n in bound.nodes.items() if call is not missing]
                fits = [n.within(node.home, node.scope) for n in fits]
                if not (fits or alike) or any(n in taken for n in fits):
                    continue
                chain = sorted(bound.nodes.values(), key=node.home.position)
                labels = " -> ".join(n.within(node.home, node.scope).path for n in chain)
                if len(pattern.calls) == 1:
                    return bound.why
                return f"{labels} matches all but {missing.name}: {bound.why}"
        return ""


def _levels(graph: Graph, scope: tuple[Node, ...] = ()) -> Iterator[Level]:
    """Yield a graph and the graphs of its nested models, outer before inner."""
    yield graph, scope
    for node in graph.steps:
        if node.nested is not None:
            yield from _levels(node.nested, (*scope, node.within(graph, scope)))


def _used_outside(match: Match, graph: Graph) -> str:
    """Return why the nodes of a match cannot go; nothing if only its outputs are used."""
    inner = {n.key for n in match.nodes}
    given = {v.key for v in match.outputs}
    last = {v.key for v in graph.outputs}
    for name, value in match.inputs.items():
        maker = graph.producer(value)
        if maker is not None and maker.key in inner:
            return f"{name} would be {value.path!r}, which is made inside the match"
    for node in match.nodes:
        for value in node.gives:
            if value.key in given:
                continue
            path = value.within(graph, node.scope).path
            if value.key in last:
                return f"{path!r} is an output of {graph.name!r} too"
            users = (*graph.consumers(value), *graph.consumers(value, as_mask=True))
            others = [n.within(graph, node.scope).path for n in users if n.key not in inner]
            if others:
                return f"{path!r} is also read by {listed(dict.fromkeys(others), 3)}"
    if len(match.outputs) > 1:
        return _goes_round(match, graph)
    return ""


def _goes_round(match: Match, graph: Graph) -> str:
    """Return which input of a match depends on one of its outputs, through nodes outside it."""
    inner = {n.key for n in match.nodes}
    start = graph.position(match.nodes[0])
    for name, value in match.inputs.items():
        seen: set[Any] = set()
        stack: list[Value] = [value]
        while stack:
            node = graph.producer(stack.pop())
            if node is None or node.key in seen or graph.position(node) < start:
                continue
            if node.key in inner:
                return f"{name}, {value.path!r}, depends on its output {node.within(graph).label!r}"
            seen.add(node.key)
            stack += node.reads
    return ""
