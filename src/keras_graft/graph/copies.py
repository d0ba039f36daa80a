"""Copies of calls, which read other values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from keras_graft.graph.node import Node, Value


def copied(
    nodes: Iterable[Node],
    mapping: Mapping[Value, Value],
    change: Callable[[Node], Node] = lambda node: node,
) -> tuple[list[Node], dict[Value, Value]]:
    """Return copies of calls, with new keys, whose inputs are replaced through `mapping`.

    Args:
        nodes: The nodes, each after what it reads.
        mapping: For values from outside, what the copies read instead.
        change: Applied to each copy.

    Returns:
        The copies, and `mapping` with the copy of every value added.
    """
    mapping = dict(mapping)
    result = []
    for node in nodes:
        reading = node.reading(mapping)
        for old, _ in node.unseen:
            mapping[old] = Value(old.spec, old.name)
        for old in node.outputs:
            mask = None if old.mask is None else mapping.get(old.mask, old.mask)
            mapping[old] = Value(old.spec, old.name, old.optional, mask, old.origin)
        outputs = tuple(mapping[old] for old in node.outputs)
        unseen = tuple((mapping[old], inside) for old, inside in node.unseen)
        copy = Node(
            node.operation, reading.template, reading.inputs, outputs, reading.hidden, node.nested,
            node.entries, node.trains, node.stays, node.unmasks, reading.maskless, unseen,
            node.untried, node.known_as, node.closed,
        )  # fmt: skip
        result.append(change(copy))
    return result, mapping
