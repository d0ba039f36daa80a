"""Find the places of one graph where a pattern fits, by following values from its first output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Value
from keras_graft.rewrite.arguments import MismatchError, Signatures, pairs_in_order, pairs_of
from keras_graft.rewrite.meaning import Meanings
from keras_graft.rewrite.pattern import Call, Pattern, Tensor, Wildcard

Goals = tuple[Any, ...] | None
"""What must still be shown: a pair, and the goals after it."""


@dataclass(frozen=True)
class Bound:
    """What the names of a pattern stand for at one place; grows while it is compared.

    Attributes:
        nodes: The node of each call.
        operations: The operation of each wildcard that is called.
        values: The value of each parameter that is a tensor.
        constants: The constant of each wildcard that is given away.
        missing: The call that does not fit, where one may be forgiven.
        why: Why it does not fit.
    """

    nodes: dict[Call, Node] = field(default_factory=dict)
    operations: dict[str, Any] = field(default_factory=dict)
    values: dict[Tensor, Value] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    missing: Call | None = None
    why: str = ""


class Search:
    """Compares one pattern with places of one graph.

    Args:
        pattern: The pattern.
        graph: The graph, of the outermost model or of a nested one.
        scope: The calls of nested models around it.
        meanings: What the wildcards may be.
        signatures: The parameters of operations.
        forgiving: Whether one call may be something else: for near misses.
    """

    def __init__(
        self,
        pattern: Pattern,
        graph: Graph,
        scope: tuple[Node, ...],
        meanings: Meanings,
        signatures: Signatures,
        forgiving: bool = False,
    ) -> None:
        self._pattern = pattern
        self._graph = graph
        self._scope = scope
        self._meanings = meanings
        self._signatures = signatures
        self._forgiving = forgiving
        self.asked = 0

    def may_start(self, node: Node) -> bool:
        """Whether the first call of the pattern may be this node, by its operation alone."""
        here = node.within(self._graph, self._scope)
        return self._forgiving or not self._meanings.why_not(self._pattern.calls[0].target, here)

    def at(self, node: Node) -> Iterator[Bound]:
        """Yield every way in which the pattern fits with its first output given by `node`."""
        first = self._pattern.outputs[0]
        assert first.call is not None
        if first.index < len(node.outputs):
            yield from self._output(first, node.outputs[first.index], None, Bound())

    def _solve(self, goals: Goals, bound: Bound) -> Iterator[Bound]:
        if goals is None:
            yield from self._rest(bound)
            return
        (wanted, given), after = goals
        if isinstance(wanted, list):
            yield from self._any_order(wanted, given, after, bound)
        elif isinstance(wanted, Tensor):
            if isinstance(given, Value):
                yield from self._tensor(wanted, given, after, bound)
        elif isinstance(wanted, Wildcard):
            yield from self._constant(wanted, given, after, bound)
        elif wanted is ... or self._meanings.same(wanted, given):
            yield from self._solve(after, bound)

    def _any_order(
        self, wanted: list[Any], given: list[Any], after: Goals, bound: Bound
    ) -> Iterator[Bound]:
        if not wanted:
            yield from self._solve(after, bound)
            return
        rest = wanted[1:]
        for i, one in enumerate(given):
            others = given[:i] + given[i + 1 :]
            yield from self._solve(((wanted[0], one), ((rest, others), after)), bound)

    def _constant(
        self, wanted: Wildcard, given: Any, after: Goals, bound: Bound
    ) -> Iterator[Bound]:
        if isinstance(given, Value):
            return
        if wanted.name in bound.constants:
            if self._meanings.same(bound.constants[wanted.name], given):
                yield from self._solve(after, bound)
        elif not self._meanings.constant(wanted, given):
            constants = {**bound.constants, wanted.name: given}
            yield from self._solve(after, replace(bound, constants=constants))

    def _tensor(self, wanted: Tensor, value: Value, after: Goals, bound: Bound) -> Iterator[Bound]:
        if wanted.call is not None:
            yield from self._output(wanted, value, after, bound)
        elif wanted in bound.values:
            if bound.values[wanted].key is value.key:
                yield from self._solve(after, bound)
        else:
            values = {**bound.values, wanted: value}
            yield from self._solve(after, replace(bound, values=values))

    def _output(self, wanted: Tensor, value: Value, after: Goals, bound: Bound) -> Iterator[Bound]:
        """Compare an output of a call with a value."""
        call = wanted.call
        assert call is not None
        node = self._graph.producer(value)
        if node is None or [v.key for v in node.outputs].index(value.key) != wanted.index:
            return
        known = bound.nodes.get(call)
        if known is not None:
            if known.key is node.key:
                yield from self._solve(after, bound)
            return
        yield from self._call(call, node, after, bound)

    def _call(self, call: Call, node: Node, after: Goals, bound: Bound) -> Iterator[Bound]:
        self.asked += 1
        if any(other.key is node.key for other in bound.nodes.values()):
            return  # two calls of a pattern are two calls in the graph
        here = node.within(self._graph, self._scope)
        why = self._why_not(call, here, bound)
        pairs = None
        if not why:
            try:
                pairs = pairs_of(call, here, self._meanings, self._signatures)
            except MismatchError as error:
                why = str(error)
        if why:
            if not self._forgiving or bound.missing is not None:
                return
            bound = replace(bound, missing=call, why=why)
            try:
                pairs = pairs_in_order(call, here)
            except MismatchError:
                return
        operations = bound.operations
        if isinstance(call.target, Wildcard):
            operations = {**operations, call.target.name: node.operation}
        bound = replace(bound, nodes={**bound.nodes, call: node}, operations=operations)
        for pair in reversed(pairs or []):
            after = (pair, after)
        yield from self._solve(after, bound)

    def _why_not(self, call: Call, node: Node, bound: Bound) -> str:
        why = self._meanings.why_not(call.target, node)
        if why:
            return why
        if isinstance(call.target, Wildcard):
            known = bound.operations.get(call.target.name)
            if known is not None and known is not node.operation:
                return f"{node.path} is another {call.target.name} than {known.name!r}"
        if len(node.outputs) != len(call.outputs):
            names = ", ".join(["y", *(f"y{i}" for i in range(1, len(node.outputs)))])
            return (
                f"{node.path} gives {len(node.outputs)} outputs, and the pattern uses "
                f"{len(call.outputs)}: write {names} = {call.name}(...)"
            )
        return ""

    def _rest(self, bound: Bound) -> Iterator[Bound]:
        """Go on with a call that no output so far needs: it reads a value that is known."""
        open_ = [call for call in self._pattern.calls if call not in bound.nodes]
        if not open_:
            yield bound
            return
        for call in open_:
            for tensor in call.reads:
                value = self._value_of(tensor, bound)
                if value is not None:
                    for node in self._graph.consumers(value):
                        yield from self._call(call, node, None, bound)
                    return

    def _value_of(self, tensor: Tensor, bound: Bound) -> Value | None:
        if tensor.call is None:
            return bound.values.get(tensor)
        node = bound.nodes.get(tensor.call)
        return None if node is None else node.outputs[tensor.index]


def value_of(tensor: Tensor, bound: Bound) -> Value:
    """Return the value of an output of a pattern."""
    assert tensor.call is not None
    return bound.nodes[tensor.call].outputs[tensor.index]
