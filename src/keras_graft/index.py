"""Who gives, reads and is called what in a graph: kept at hand, and carried over a small edit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from keras_graft.naming import Names
from keras_graft.node import Node, Value


class Index:
    """Look-up tables of one graph. Built in one pass, or derived from those before an edit.

    Attributes:
        made: Each value with the node that gives it (None for an input) and its spec here.
        used: Each value with the nodes that read it; in no particular order after an edit.
        carried: Each mask with the nodes that give it along with what they give, and do not read
            it: an `Embedding` does not read the mask that comes with its output.
        calls: The calls of each operation, by its identity; in no particular order after an edit.
        names: The name of each operation, by its identity.
    """

    __slots__ = ("_taken", "calls", "carried", "made", "names", "used")

    def __init__(self, inputs: Iterable[Value], steps: Iterable[Node]) -> None:
        self.made: dict[Value, tuple[Node | None, Value]] = {v: (None, v) for v in inputs}
        self.used: dict[Value, tuple[Node, ...]] = {}
        self.carried: dict[Value, tuple[Node, ...]] = {}
        self.calls: dict[int, tuple[Node, ...]] = {}
        self.names: dict[int, str] = {}
        self._taken = Names()
        self._add(steps)

    def after(self, dropped: Sequence[Node], added: Sequence[Node]) -> Index:
        """Return the tables once `dropped` is gone and `added` is there.

        Operations that stay keep their names, so that an edit here renames nothing there.
        """
        new = object.__new__(Index)
        new.made, new.used = self.made.copy(), self.used.copy()
        new.carried = self.carried.copy()
        new.calls, new.names = self.calls.copy(), self.names.copy()
        new._taken = self._taken.copy()
        new._drop(dropped, {id(node.operation) for node in added})
        new._add(added)
        return new

    def _add(self, steps: Iterable[Node]) -> None:
        made, used, calls = self.made, self.used, self.calls
        for node in steps:
            for value in node.gives:
                # An input that a node also produces stays an input: that is what cutting means.
                made.setdefault(value, (node, value))
            reads = node.reads
            for value in reads if len(reads) == 1 else dict.fromkeys(reads):
                used[value] = (*used.get(value, ()), node)
            for mask in carries(node):
                self.carried[mask] = (*self.carried.get(mask, ()), node)
            operation: Any = node.operation
            key = id(operation)
            if key in calls:
                calls[key] = (*calls[key], node)
            else:
                calls[key] = (node,)
                if key not in self.names:
                    self.names[key] = self._taken.take(str(operation.name))

    def _drop(self, nodes: Iterable[Node], staying: set[int]) -> None:
        for node in nodes:
            for value in node.gives:
                if self.made[value][0] == node:
                    del self.made[value]
            for value in dict.fromkeys(node.reads):
                self.used[value] = tuple(n for n in self.used[value] if n.key is not node.key)
            for mask in carries(node):
                self.carried[mask] = tuple(n for n in self.carried[mask] if n.key is not node.key)
            key = id(node.operation)
            left = tuple(n for n in self.calls[key] if n.key is not node.key)
            if left:
                self.calls[key] = left
                continue
            del self.calls[key]
            if key not in staying:
                self._taken.free(self.names.pop(key))


def carries(node: Node) -> list[Value]:
    """Return the masks that a node hands along with its outputs and does not read."""
    masks = [v.mask for v in node.outputs if v.mask is not None]
    return [mask for mask in dict.fromkeys(masks) if mask not in node.reads] if masks else masks
