"""`Match`, a place where a pattern fits, and `Matches`, the report of all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_graft.errors import EditError, GraftError, SelectionError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed
from keras_graft.graph.node import Node, Value
from keras_graft.printable import shown, words_of
from keras_graft.rewrite.pattern import Pattern, Wildcard
from keras_graft.rewrite.search import Bound, value_of
from keras_graft.tables import Table, Tabular, counted

_SHOWN = 20
"""The most near misses in a table."""


@dataclass(frozen=True, eq=False, repr=False)
class Match:
    """A place where a pattern fits.

    `match["conv"]` is the layer of a wildcard, the `Value` of a tensor, or a constant.

    Attributes:
        nodes: The nodes, in graph order.
        inputs: What enters: for each tensor of the pattern, by its name.
        outputs: What leaves, in the order of the pattern's outputs.
        number: Which of several patterns it is, from 0.
    """

    nodes: tuple[Node, ...]
    inputs: dict[str, Value]
    outputs: tuple[Value, ...]
    number: int
    named: dict[str, Any] = field(repr=False)
    called: dict[str, tuple[Node, ...]] = field(repr=False)

    def __getitem__(self, name: str) -> Any:
        try:
            return self.named[name]
        except (KeyError, TypeError):
            raise SelectionError(
                f"The pattern has no {shown(name)}; it has {listed(self.named)}."
            ) from None

    def calls(self, name: str) -> tuple[Node, ...]:
        """Return the nodes at which a wildcard is called."""
        self[name]
        return self.called.get(name, ())

    @property
    def path(self) -> str:
        """The path of the node that gives the first output."""
        producer = self.outputs[0].producer
        assert producer is not None
        return producer.path

    def __repr__(self) -> str:
        return f"<Match {', '.join(f'{name}={text}' for name, text in self.told().items())}>"

    def told(self) -> dict[str, str]:
        """Return what each name of the pattern is, as text."""
        found = {}
        for name, what in self.named.items():
            if self.called.get(name):
                found[name] = ", ".join(dict.fromkeys(node.path for node in self.called[name]))
            else:
                found[name] = what.path if isinstance(what, Value) else shown(what)
        return found


def match_of(
    pattern: Pattern, number: int, bound: Bound, graph: Graph, scope: tuple[Node, ...]
) -> Match:
    """Return the match that a search found."""
    here = lambda item: item.within(graph, scope)  # noqa: E731
    nodes = sorted(bound.nodes.values(), key=graph.position)
    inputs = {t.name: here(graph.known(bound.values[t])) for t in pattern.tensors}
    called: dict[str, list[Node]] = {}
    for call in pattern.calls:
        if isinstance(call.target, Wildcard):
            called.setdefault(call.target.name, []).append(here(bound.nodes[call]))
    named = {
        **inputs,
        **{
            n: bound.operations.get(n, bound.constants.get(n))
            for n in pattern.wildcards
        },
    }  # fmt: skip
    order = inspect.signature(pattern.function).parameters
    return Match(
        tuple(map(here, nodes)),
        inputs,
        tuple(here(graph.known(value_of(t, bound))) for t in pattern.outputs),
        number,
        {name: named[name] for name in order if name in named},
        {n: tuple(sorted(c, key=graph.position)) for n, c in called.items()},
    )


@dataclass(frozen=True, repr=False)
class Matches(Tabular):
    """What `matches` gives; prints as a table.

    Attributes:
        found: The matches that `rewrite` replaces.
        overlapping: Pairs: a match that is left out, and the one before it with which it shares
            nodes.
        near: Pairs: the path at which a pattern nearly fits, and why it does not.
        names: The names of the patterns.
    """

    found: tuple[Match, ...]
    overlapping: tuple[tuple[Match, Match], ...]
    near: tuple[tuple[str, str], ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Any:
        return iter(self.found)

    def __getitem__(self, index: int) -> Match:
        return self.found[index]

    def tables(self) -> list[Table]:
        """Return the matches, those that overlap, and the near misses."""
        rows = [[match.told().get(name, "") for name in self.names] for match in self.found]
        found: list[Table] = [(counted(len(rows), "match", "matches"), self.names, rows)]
        if self.overlapping:
            title = f"{len(self.overlapping)} left out: shares nodes with a match before it"
            lines = [(match.path, f"overlaps {other.path}") for match, other in self.overlapping]
            found.append((title, ("match", ""), lines))
        if self.near:
            title = counted(len(self.near), "near miss", "near misses")
            near = list(self.near[:_SHOWN])
            if len(self.near) > _SHOWN:
                near.append((f"{len(self.near) - _SHOWN} more", "see .near"))
            found.append((title, ("at", "why not"), near))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "matches": [match.told() for match in self.found],
            "overlapping": [[a.path, b.path] for a, b in self.overlapping],
            "near": [list(pair) for pair in self.near],
        }


def by_name(function: Callable[..., Any], match: Match, names: Sequence[str], what: str) -> Any:
    """Return a function without arguments that calls a user's one with what it asks for by name.

    Its parameters are names of the pattern; `match` is the match. A function of one parameter of
    any other name gets the match too.

    Raises:
        EditError: If a parameter is no name of the pattern.
    """
    wanted = asked(function, names, what)
    return {name: match if of is None else match[of] for name, of in wanted.items()}


def asked(function: Any, names: Sequence[str], what: str) -> dict[str, str | None]:
    """Return for each parameter of a user's function which name of a pattern it is; None: the match.

    Raises:
        EditError: If it is no function, or a parameter is no name of the pattern.
    """
    if not callable(function) or isinstance(function, type | keras.KerasTensor):
        raise EditError(f"{what} is a function, got {shown(function)}.")
    if isinstance(function, keras.Operation):
        raise EditError(
            f"{what} is a function of the names of the pattern: lambda {', '.join(names)}: ...; "
            f"got the layer {getattr(function, 'name', '')!r}."
        )
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise EditError(f"{what} has no parameters: {words_of(error)}") from None
    needed = [p for p in parameters if p.default is p.empty or p.name in names]
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    wrong = [p.name for p in needed if p.name not in (*names, "match") or p.kind in kinds]
    if len(needed) == 1 and wrong and needed[0].kind not in kinds:
        return {wrong[0]: None}
    if wrong:
        raise EditError(
            f"{what} has {listed(wrong)}, which {'is no name' if len(wrong) == 1 else 'are no names'} "
            f"of the pattern: it has {listed(names)}. The whole match is `match`."
        )
    return {p.name: p.name if p.name in names else None for p in needed}


def holds(where: Callable[..., Any], match: Match, verb: str) -> str:
    """Return why a match does not satisfy a condition; nothing if it does.

    Raises:
        SelectionError: If the condition raises.
    """
    given = by_name(where, match, tuple(match.named), f"{verb}: where=")
    try:
        answer = _called(where, given)
        if isinstance(answer, str):
            return answer
        return "" if answer else "where= does not hold"
    except GraftError:
        raise
    except Exception as error:  # a user's function
        raise SelectionError(
            f"{verb}: where=, asked about {match!r}, raised {type(error).__name__}: "
            f"{words_of(error)}"
        ) from error


def _called(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    positional = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.POSITIONAL_ONLY and parameter.name in given:
            positional.append(given[parameter.name])
    names = {p.name for p in inspect.signature(function).parameters.values()
             if p.kind is p.POSITIONAL_ONLY}  # fmt: skip
    return function(*positional, **{k: v for k, v in given.items() if k not in names})


call_with_names = _called
