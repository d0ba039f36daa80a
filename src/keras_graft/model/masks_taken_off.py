"""`MultiHeadAttention` takes masks off the tensors that it reads: calls that run later find none.

Keras attaches masks to tensors. A graph says for each call which masks it finds: `Node.hidden` has
those that it finds, `Node.maskless` the inputs whose mask was taken off before. The second depends on
the order in which Keras runs the calls, which an edit may change. So a model is built with copies of
tensors where its order would let a call find another mask than the graph says.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Slot, Template, Value
from keras_graft.layers.add_loss import WithMask
from keras_graft.model.calls import caller

Trace = Callable[[Any, Sequence[Value]], Any]
"""Runs a function on symbolic tensors and returns its calls."""

_SAME = ("Dropout", "Noise", "Identity", "Regularization")
"""Class names of layers (their ends) that may return the same tensor that they read."""


def find_maskless(nodes: list[Node], order: Iterable[int], trace: Trace) -> None:
    """Find which calls do not find the masks of what they read.

    Args:
        nodes: The calls of a model; those that are concerned are replaced.
        order: Their places, in the order in which Keras runs them.
        trace: Runs a function on symbolic tensors.
    """
    if all(value.mask is None for node in nodes for value in node.inputs):
        return
    off = MasksTakenOff()
    for place in order:
        node = nodes[place]
        # With a mask as argument, Keras does not look for one on the tensor.
        if node.template.kwargs.get("mask") is None:
            node = nodes[place] = finding_no_mask(node, off, node.template, trace)
        off.by(node)
        off.without(given_without_mask(node, trace))


def finding_no_mask(node: Node, values: Container[Value], template: Template, trace: Trace) -> Node:
    """Return a call that does not find the masks of some values, if it reads them.

    Args:
        node: The call, as it is recorded where it finds them.
        values: The values.
        template: Its arguments, without masks that Keras filled in.
        trace: Runs a function on symbolic tensors.
    """
    found = tuple(v for v in dict.fromkeys(node.inputs) if v.mask is not None and v in values)
    if not found or not _keras.reads_masks(node.operation):
        return node
    if node.nested is None and template is node.template:
        hidden = tuple(pair for pair in node.hidden if pair[0] not in found)
        return node.replace(maskless=found, hidden=hidden)
    now = _traced_without(node, found, template, trace)
    known = {v: v for v in node.inputs}
    # Its outputs keep the masks that Keras recorded: arguments of other calls refer to them.
    return node.replace(
        maskless=found, template=now.template, inputs=tuple(known[v] for v in now.inputs),
        hidden=now.hidden, nested=now.nested, entries=now.entries,
    )  # fmt: skip


def without_filled_masks(node: Node) -> Template:
    """Return the arguments of a call without the masks of its inputs, which Keras filled in."""
    own = {v.mask for v in node.inputs}
    given = [
        leaf for leaf in keras.tree.flatten(node.template.kwargs.get("mask")) if leaf is not None
    ]
    if not given or not all(isinstance(x, Slot) and node.inputs[x.index] in own for x in given):
        return node.template
    kwargs = {name: value for name, value in node.template.kwargs.items() if name != "mask"}
    return Template(node.template.args, kwargs)


def _traced_without(node: Node, values: Container[Value], template: Template, trace: Trace) -> Node:
    """Return a call as it is recorded where some of its inputs have no mask."""
    inputs = [v.replace(mask=None) if v in values else v for v in node.inputs]
    steps = trace(caller(node.operation, template), inputs).steps
    return next(step for step in steps if step.operation is node.operation)


class MasksTakenOff:
    """The tensors that have lost their masks, while calls are read in the order in which they run."""

    def __init__(self) -> None:
        self._lost: set[Value] = set()
        self._same: dict[Value, Value] = {}

    def __contains__(self, value: Value) -> bool:
        return self._same.get(value, value) in self._lost

    def without(self, values: Iterable[Value]) -> None:
        """Note values that have no mask when the model runs."""
        self._lost.update(values)

    def by(self, node: Node) -> None:
        """Note what a call does to the masks of the tensors that it reads."""
        self._lost.difference_update(self._same.get(v, v) for v in _put_on_again(node))
        self._lost.update(self._same.get(v, v) for v in taken_off(node))
        if returns_its_input(node):
            self._same[node.outputs[0]] = self._same.get(node.inputs[0], node.inputs[0])


def returns_its_input(node: Node) -> bool:
    """Whether a call may give the very tensor that it reads, and not a new one."""
    layer = isinstance(node.operation, keras.Layer)
    return layer and node.kind.endswith(_SAME) and bool(node.inputs)


def taken_off(node: Node) -> list[Value]:
    """Return the values that a call reads, and that have lost their masks behind it."""
    if node.nested is None:
        if not node.unmasks:
            return []
        return [v for v in node.inputs if v.spec and not _keras.is_cast(node.operation, v.spec)]
    inside = MasksTakenOff()
    for step in node.nested.steps:
        inside.by(step)
    entering = zip(node.nested.inputs, node.entries, strict=True)
    return [
        node.reads[entry.source]
        for value, entry in entering
        if entry.source is not None and not entry.adapt and value.within(None) in inside
    ]


def _put_on_again(node: Node) -> list[Value]:
    """Return the values to which a nested model attaches the masks that it is called with."""
    by_code = node.nested is None or not isinstance(node.operation, keras.Model)
    if by_code or node.template.kwargs.get("mask") is None:
        return []
    return [node.reads[entry.source] for entry in node.entries if entry.source is not None]


def given_without_mask(node: Node, trace: Trace) -> list[Value]:
    """Return what a call gives without the mask that Keras recorded: it does not find that itself."""
    masked = [value for value in node.outputs if value.mask is not None]
    if not node.maskless or not masked:
        return []
    if node.nested is not None:
        return masked
    now = _traced_without(node, node.maskless, node.template, trace)
    pairs = zip(node.outputs, now.outputs, strict=True)
    return [old for old, new in pairs if old.mask is not None and new.mask is None]


def with_masks_as_found(graph: Graph, trace: Trace) -> Graph:
    """Return the graph with copies of tensors, so that each call finds the masks that it should.

    Only where the order in which Keras runs the calls does not see to it.
    """
    takers = {node.key: taken_off(node) for node in graph.steps if node.unmasks or node.nested}
    takers = {key: values for key, values in takers.items() if values}
    if not takers and not any(node.maskless for node in graph.steps):
        return graph
    return _Order(graph, takers, trace).graph()


class _Order:
    def __init__(self, graph: Graph, takers: dict[Any, list[Value]], trace: Trace) -> None:
        self._graph = graph
        self._trace = trace
        self._depths = _depths(graph)
        self._same: dict[Value, Value] = {}
        for node in graph.steps:
            if returns_its_input(node):
                self._same[node.outputs[0]] = self._root(node.inputs[0])
        self._takers: dict[Value, list[Node]] = {}
        self._again = {self._root(v) for node in graph.steps for v in _put_on_again(node)}
        for node in graph.steps:
            for value in dict.fromkeys(map(self._root, takers.get(node.key, ()))):
                self._takers.setdefault(value, []).append(node)

    def _root(self, value: Value) -> Value:
        return self._same.get(value, value)

    def graph(self) -> Graph:
        copies: dict[Any, dict[Value, list[Node]]] = {}  # by call, and the value that it reads
        for node in self._graph.steps:
            for value in node.maskless:
                if not self._surely_taken(value, node):
                    copies.setdefault(node.key, {})[value] = self._own(value, node)
            for value, _ in node.hidden:
                for taker in self._too_early(value, node):
                    for read in taken_off(taker):
                        if self._root(read) == self._root(value):
                            copies.setdefault(taker.key, {})[read] = self._own(read, taker)
        instead = {}
        for node in self._graph.steps:
            made = copies.get(node.key)
            if made:
                reads = {value: nodes[-1].outputs[0] for value, nodes in made.items()}
                first = [new for nodes in made.values() for new in nodes]
                instead[node] = [*first, node.reading(reads).replace(maskless=())]
        return self._graph.spliced(instead, {}).settled() if instead else self._graph

    def _own(self, value: Value, node: Node) -> list[Node]:
        """Return a copy for one call, with the mask that it should find."""
        mask = None if value in node.maskless else self._graph.known(value).mask
        copy = _copy(value)
        return [copy] if mask is None else [copy, _masked(copy.outputs[0], mask)]

    def _surely_taken(self, value: Value, node: Node) -> bool:
        """Whether a call that takes the mask off always runs before this one."""
        if self._graph.known(value).mask is None:
            return True
        producer = self._graph.producer(value)
        if producer is not None and value in given_without_mask(producer, self._trace):
            return True
        root = self._root(value)
        takers = self._takers.get(root, ())
        return root not in self._again and any(self._before(t, node) for t in takers)

    def _too_early(self, value: Value, node: Node) -> Iterator[Node]:
        """Yield the calls that might take a mask off before this one finds it."""
        for taker in self._takers.get(self._root(value), ()):
            if taker.key is not node.key and not self._before(node, taker):
                yield taker

    def _before(self, one: Node, other: Node) -> bool:
        """Whether Keras surely runs one call before the other: those far from the outputs first."""
        shared = any(len(self._graph.calls(n.operation)) > 1 for n in (one, other))
        return not shared and self._depths[one.key] > self._depths[other.key]


def _copy(value: Value) -> Node:
    return Node(_keras.copying_op(), Template(), (value,), (Value(value.spec, value.name),))


def _masked(value: Value, mask: Value) -> Node:
    made = Value(value.spec, value.name, mask=mask)
    template = Template((Slot(0),), {"mask": Slot(1)})
    return Node(WithMask(name="with_mask"), template, (value, mask), (made,))


def _depths(graph: Graph) -> dict[Any, int]:
    """Return the distance of each node from the outputs: Keras runs the furthest first."""
    depths: dict[Any, int] = {}
    for node in reversed(graph.steps):
        users = [user for value in node.outputs for user in graph.consumers(value)]
        depths[node.key] = 1 + max((depths[user.key] for user in users), default=0)
    return depths
