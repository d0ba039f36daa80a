"""`explain`: which layers of a model can be opened, and why the others stay closed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from keras_graft import _keras
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node
from keras_graft.graph.record import is_wrapper
from keras_graft.graph.select import everything
from keras_graft.model.opening.policy import holds_layers
from keras_graft.model.read import read_with_reasons
from keras_graft.tables import Table, Tabular, counted


@dataclass(frozen=True)
class LayerInside:
    """A call of a layer that holds layers.

    Attributes:
        path: The path that selects it.
        kind: The class of the layer.
        open: Whether its code is known as a graph.
        calls: How many calls its code makes; 0 if it is closed.
        reason: Why it stays closed; empty if it is open.
    """

    path: str
    kind: str
    open: bool
    calls: int
    reason: str


class Explanation(Tabular, list[LayerInside]):
    """The calls of layers that hold layers, in order; prints as a table.

    Attributes:
        name: The name of the model.
    """

    def __init__(self, name: str, found: Iterator[LayerInside] | list[LayerInside]) -> None:
        super().__init__(found)
        self.name = name

    def __reduce__(self) -> Any:
        return Explanation, (self.name, list(self))

    @property
    def opened(self) -> list[LayerInside]:
        """Those whose inside is known."""
        return [one for one in self if one.open]

    @property
    def closed(self) -> list[LayerInside]:
        """Those that stay closed."""
        return [one for one in self if not one.open]

    def to_dict(self) -> list[dict[str, Any]]:
        """Return the calls as plain data, ready for JSON."""
        return [asdict(one) for one in self]

    def tables(self) -> list[Table]:
        """Return the calls as a table."""
        title = (
            f"{self.name}: {counted(len(self), 'layer')} that {'hold' if len(self) != 1 else 'holds'} "
            f"layers, {len(self.opened)} open"
        )
        head = ["path", "kind", "calls inside", "why it stays closed"]
        rows = [[one.path, one.kind, one.calls if one.open else "", one.reason] for one in self]
        return [(title, head, rows)]


def explain(model: Any, inputs: Any = None, open: Any = "**", leaves: Any = None) -> Explanation:
    """Say which layers that hold layers can be opened, and why the others stay closed.

    Args:
        model: A Keras model or a `Graph`.
        inputs: As for `kg.read`.
        open: As for `kg.read`.
        leaves: As for `kg.read`.

    Returns:
        One entry for each call of such a layer; it prints as a table. A reason names the line of the
        code.

    Raises:
        ReadError: If the model itself cannot be read; the message says why.

    >>> import keras, keras_graft as kg
    >>> class Block(keras.layers.Layer):
    ...     def __init__(self, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.dense = keras.layers.Dense(4, name="dense")
    ...
    ...     def call(self, x):
    ...         return x + self.dense(x)
    >>> x = keras.Input((4,), name="x")
    >>> kg.explain(keras.Model(x, Block(name="block")(x), name="net"))
    net: 1 layer that holds layers, 1 open
    path   kind   calls inside  why it stays closed
    block  Block             2
    """
    graph, _ = read_with_reasons(model, inputs, open, leaves)
    return explained(graph)


def explained(graph: Graph) -> Explanation:
    """Return what `explain` returns, for a graph as it is."""
    return Explanation(graph.name, map(_entry, filter(_holds, everything(graph))))


def _holds(node: Node) -> bool:
    operation = node.operation
    return holds_layers(operation) and not is_wrapper(operation)


def _entry(node: Node) -> LayerInside:
    reason = node.closed
    if node.nested is None and not reason:
        reason = (
            "a layer of Keras: name it to open it"
            if _keras.is_kerass(node.operation)
            else "it was not asked to be opened"
        )
    calls = 0 if node.nested is None else len(node.nested)
    return LayerInside(node.path, node.kind, node.nested is not None, calls, reason)
