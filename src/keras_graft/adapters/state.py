"""`Adapter` and `State`: what the package remembers about the adapters of a layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from keras_graft import _keras
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node
from keras_graft.graph.record import is_wrapper, record_of, unwrapped
from keras_graft.graph.select import leaves

_WRITTEN = ("name", "weight", "rank", "alpha", "inputs", "active", "trains")


@dataclass(frozen=True, eq=False)
class Adapter:
    """One adapter on one weight.

    Attributes:
        name: The name of the adapter: one name may be on many weights.
        weight: The address of the weight below the layer that the model calls: `"query/kernel"`.
        rank: The length of the axis that both factors have.
        alpha: The product of the factors is scaled by `alpha / rank`.
        inputs: Which axes of the weight the factor `a` has.
        a: The factor of shape `(*inputs, rank)`.
        b: The factor of shape `(rank, *outputs)`.
        active: Whether it adds to the weight.
        trains: Whether it is trained.
    """

    name: str
    weight: str
    rank: int
    alpha: float
    inputs: tuple[int, ...]
    a: Any = None
    b: Any = None
    active: bool = True
    trains: bool = True

    @property
    def scale(self) -> float:
        """The number that scales the product of the factors."""
        return self.alpha / self.rank

    @property
    def size(self) -> int:
        """The number of its parameters."""
        return sum(int(_size(factor.shape)) for factor in (self.a, self.b))

    def replace(self, **changes: Any) -> Adapter:
        """Return the same adapter with other attributes."""
        return dataclasses.replace(self, **changes)

    def to_config(self) -> dict[str, Any]:
        """Return what is saved in a file."""
        return {key: getattr(self, key) for key in _WRITTEN}


def _size(shape: Iterable[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


@dataclass(frozen=True, eq=False)
class State:
    """The adapters of a layer and of those inside it; for a layer without any, how it was frozen.

    Attributes:
        flags: The flag `trainable` that each layer had before, in the order of `layers_inside`.
        adapters: The adapters on its weights.
        trains: Whether all its other weights are trained too.
        only: Whether the model stays frozen without any adapter: see `kg.train_only`.
        merged: The adapters that were merged into its weights.
        kept: Pairs of variables: (with merged adapters, as it was before).
    """

    flags: tuple[bool, ...] = ()
    adapters: tuple[Adapter, ...] = ()
    trains: bool = False
    only: bool = False
    merged: tuple[Adapter, ...] = ()
    kept: tuple[tuple[Any, Any], ...] = ()

    def replace(self, **changes: Any) -> State:
        """Return the same state with other attributes."""
        return dataclasses.replace(self, **changes)

    def without(self, weight: str) -> State:
        """Return the same state without the adapters of a weight."""
        return self.replace(adapters=tuple(a for a in self.adapters if a.weight != weight))

    def to_config(self) -> dict[str, Any]:
        """Return what is saved in a file."""
        return {
            "flags": list(self.flags),
            "adapters": [adapter.to_config() for adapter in self.adapters],
            "trains": self.trains,
            "only": self.only,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> State:
        """Return the state that a file describes; its adapters have no variables yet."""
        adapters = tuple(
            Adapter(**{**one, "inputs": tuple(one["inputs"])}) for one in config["adapters"]
        )
        trains, only = bool(config["trains"]), bool(config["only"])
        return cls(tuple(config["flags"]), adapters, trains, only)


def flags_of(layer: Any) -> tuple[bool, ...]:
    """Return the flag `trainable` of a layer and of each layer inside it."""
    return tuple(map(_keras.flag_of, _keras.layers_inside(layer)))


def weighted(graph: Graph) -> list[Node]:
    """Return the first call of each layer that holds weights, also inside nested models."""
    found: dict[int, Node] = {}
    for node in leaves(graph.nodes):
        if getattr(node.operation, "weights", None):
            found.setdefault(id(node.operation), node)
    return list(found.values())


def state_of(operation: Any) -> State | None:
    """Return what is remembered about the adapters of a layer that a model calls."""
    return record_of(unwrapped(operation)).adapted


def states_of(graph: Graph) -> list[tuple[Node, State]]:
    """Return the layers of a graph that have a state, with their states."""
    found = [(node, state_of(node.operation)) for node in weighted(graph)]
    return [(node, state) for node, state in found if state is not None]


def is_frozen(node: Node) -> bool:
    """Whether a layer is permanently in inference mode: see `kg.freeze`."""
    return is_wrapper(node.operation)


def path_of(node: Node) -> str:
    """Return the path of a layer in the model, without the number of a call."""
    return "/".join([*(one.name for one in node.scope), node.name])
