"""Which operations and variables of two graphs count as the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node
from keras_graft.graph.parameters import weights_of
from keras_graft.graph.select import leaves


class Pairing(Protocol):
    """Which operations and variables of two graphs count as the same.

    Attributes:
        by: "identity" or "value".
        renamed: Pairs (name before, name now) of operations with another name.
        unclear: Operations that could belong to several of the old graph.
        inputs: For the name of each input of the new graph, that of the old one.
    """

    by: str
    renamed: tuple[tuple[str, str], ...]
    unclear: tuple[str, ...]
    inputs: Mapping[str, str]

    def before(self, operation: Any) -> Any:
        """Return the operation of the old graph that one of the new graph belongs to, or None."""
        ...

    def gone(self, operation: Any) -> bool:
        """Whether an operation of the old graph belongs to none of the new graph."""
        ...

    def changed(self, operation: Any) -> str:
        """Return what differs between the two, as text; empty if nothing does."""
        ...

    def identity(self, operation: Any) -> Any:
        """Return what stands for an operation: equal for two that compute the same."""
        ...

    def leaf(self, argument: Any) -> Any:
        """Return what stands for an argument of a call, such as an array."""
        ...

    def variable(self, key: int) -> int:
        """Return the `id` of the old variable that a new one belongs to; else its own."""
        ...

    def parameters(self, state: str) -> int:
        """Return how many parameters are "shared", "changed", "new" or "dropped"."""
        ...


class ByIdentity:
    """Operations and variables are the same if they are the same objects."""

    by = "identity"
    renamed: tuple[tuple[str, str], ...] = ()
    unclear: tuple[str, ...] = ()

    def __init__(self, old: Graph, new: Graph) -> None:
        self._old = {key: node.operation for key, node in first_calls(old).items()}
        self._now = set(first_calls(new))
        self.inputs: Mapping[str, str] = {name: name for name in new.input_names}
        before, now = weights_in(old), weights_in(new)
        self._parameters = {
            "shared": sum(size for key, size in now.items() if key in before),
            "changed": 0,
            "new": sum(size for key, size in now.items() if key not in before),
            "dropped": sum(size for key, size in before.items() if key not in now),
        }

    def before(self, operation: Any) -> Any:
        """Return the operation itself if the old graph has it."""
        return self._old.get(id(operation))

    def gone(self, operation: Any) -> bool:
        """Whether the new graph lacks an operation."""
        return id(operation) not in self._now

    def changed(self, operation: Any) -> str:
        """An operation is never another one than itself."""
        return ""

    def identity(self, operation: Any) -> Any:
        """Return the `id` of an operation."""
        return id(operation)

    def leaf(self, argument: Any) -> Any:
        """Return the `id` of an argument."""
        return id(argument)

    def variable(self, key: int) -> int:
        """Return the same `id`."""
        return key

    def parameters(self, state: str) -> int:
        """Return how many parameters are "shared", "new" or "dropped"."""
        return self._parameters[state]


def first_calls(graph: Graph) -> dict[int, Node]:
    """Return the first call of each operation, by its `id`; for nested models, the calls inside."""
    found: dict[int, Node] = {}
    for node in leaves(graph.nodes):
        found.setdefault(id(node.operation), node)
    return found


def weights_in(graph: Graph) -> dict[int, int]:
    """Return the sizes of the variables of a graph, by their `id`."""
    calls = first_calls(graph).values()
    return {key: size for n in calls for key, size in weights_of(n.operation).items()}
