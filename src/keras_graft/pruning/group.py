"""`group`: every weight axis that must shrink together with the channels of a layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_graft.edit.places import nodes_named
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node
from keras_graft.model.read import opened_for
from keras_graft.model.verb import question
from keras_graft.printable import shown
from keras_graft.pruning.call import Call, variable_behind_views
from keras_graft.pruning.closure import Axis
from keras_graft.pruning.network import Network
from keras_graft.tables import Table, Tabular, counted


@dataclass(frozen=True)
class Member:
    """One axis of a weight in a group.

    Attributes:
        weight: The address of the weight.
        kind: The class of its layer.
        axis: Which axis.
        shape: The shape of the weight.
        units: For each position on the axis, which unit it belongs to; -1 for those of no unit.
        gives: Whether the weight computes the units, and does not only read them.
    """

    weight: str
    kind: str
    axis: int
    shape: tuple[int, ...]
    units: np.ndarray = field(repr=False)
    gives: bool
    variable: Any = field(repr=False, default=None)


@dataclass(frozen=True, repr=False)
class Group(Tabular):
    """Every weight axis that must shrink together; prints as a table.

    A unit is what can be removed alone: mostly one channel. It is more where channels go together,
    as in the groups of a convolution.

    Attributes:
        layer: The path of the layer that it was asked for.
        channels: For each channel of that layer (unit, head), the unit that it belongs to.
        count: How many units there are.
        members: The axes of weights.
        protected: For each unit that cannot be removed, why.
        alone: Sets of units that are all there is on an axis: one of each stays.
        changes: Where numbers change even if all weights of a removed unit were zero.
    """

    layer: str
    channels: np.ndarray
    count: int
    members: tuple[Member, ...]
    protected: dict[int, str]
    changes: tuple[str, ...]
    alone: tuple[np.ndarray, ...] = field(repr=False, default=())

    @property
    def free(self) -> tuple[int, ...]:
        """The units that can be removed."""
        return tuple(u for u in range(self.count) if u not in self.protected)

    def tables(self) -> list[Table]:
        """Return the axes of weights as a table, below what is protected and why."""
        title = [f"group of {self.layer!r}: {counted(self.count, 'unit')}"]
        if len(self.channels) > self.count:
            title[0] += f" of {len(self.channels)} channels"
        reasons: dict[str, int] = {}
        for why in self.protected.values():
            reasons[why] = reasons.get(why, 0) + 1
        title += [f"the group stops ({n} of {self.count} units): {w}" for w, n in reasons.items()]
        title += [f"not exact: {text}" for text in self.changes]
        rows = [
            (
                m.weight, m.kind, m.axis, str(m.shape).replace(",)", ")"), int((m.units >= 0).sum()),
                "gives" if m.gives else "reads",
            )
            for m in self.members
        ]  # fmt: skip
        return [(tuple(title), ("weight", "class", "axis", "shape", "positions", ""), rows)]

    def to_dict(self) -> dict[str, Any]:
        """Return the group as plain data, ready for JSON."""
        return {
            "layer": self.layer,
            "channels": self.channels.tolist(),
            "protected": {str(unit): why for unit, why in self.protected.items()},
            "changes": list(self.changes),
            "members": [
                {
                    "weight": m.weight, "class": m.kind, "axis": m.axis, "shape": list(m.shape),
                    "units": m.units.tolist(), "gives": m.gives,
                }
                for m in self.members
            ],
        }  # fmt: skip


@question
def group(graph: Graph, layer: Any) -> Group:
    """Return every weight axis that must shrink together with the channels of a layer.

    From the layer's output channels (the units of a recurrent layer, the heads of an attention, the
    width of an embedding) it follows what is coupled with them, in both directions, to the layers
    whose kernels sum over them. A class or op without a rule stops the group, and so do the inputs
    and outputs of the model: those units are protected, with the reason. Layers with code of their
    own are opened where the group reaches them.

    The idea is that of the dependency graph in "DepGraph: Towards Any Structural Pruning" (Fang et
    al., 2023, https://arxiv.org/abs/2301.12900).

    Args:
        model: A Keras model or a `Graph`.
        layer: A selector of one layer.

    Raises:
        EditError: If it selects several layers, or one that makes no channels.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> y = keras.layers.Dense(3, name="a", activation="relu")(x)
    >>> print(kg.group(keras.Model(x, keras.layers.Dense(2, name="b")(y)), "a"))
    group of 'a': 3 units
    weight    class  axis  shape   positions
    a/kernel  Dense     1  (4, 3)          3  gives
    a/bias    Dense     0  (3)             3  gives
    b/kernel  Dense     0  (3, 2)          3  reads
    """
    nodes = {id(n.operation): n for n in nodes_named(graph, layer, "group")}
    if len(nodes) > 1:
        raise EditError(
            f"group: {shown(layer)} names {len(nodes)} layers, and a group starts from one: "
            f"{', '.join(repr(n.path) for n in list(nodes.values())[:3])}."
        )
    network, (source,) = reached(graph, list(nodes.values()))
    node = next(iter(nodes.values()))
    if source is None:
        raise EditError(no_source(network, node, "group"))
    return group_of(network, node.path, [source])


def no_source(network: Network, node: Node, verb: str) -> str:
    """Say why a group cannot start from a node."""
    before = [n.path for n in node.producers]
    way = f" Name a layer with weights before it, such as {before[0]!r}." if before else ""
    what = "a nested model" if node.nested is not None else node.kind
    return f"{verb}: {node.path!r} ({what}) makes no channels of its own.{way}"


def reached(graph: Graph, nodes: list[Node]) -> tuple[Network, list[Axis | None]]:
    """Return the network with the groups of some nodes known, and the axes they start from.

    Layers with code of their own are opened as far as the groups reach.
    """
    tried: set[str] = set()
    while True:
        network = Network(graph)
        sources = [network.source(node) for node in nodes]
        for source in sources:
            if source is not None:
                network.closure.reach(source)
        paths = {node.path for node in network.unopened.values()} - tried
        if not paths:
            return network, sources
        tried |= paths
        graph = opened_for(graph, [f"{path}/*" for path in sorted(paths)])


def group_of(
    network: Network, name: str, sources: list[Axis], axes: Iterable[Axis] | None = None
) -> Group:
    """Return the report of the group of some axes.

    Args:
        network: The network, with the axes reached.
        name: The path of the layer that it is asked for.
        sources: The axes: the units are numbered in the order in which they come there.
        axes: The axes that the group may have; all that were reached if None.
    """
    closure = network.closure
    classes = np.concatenate([closure.classes(source) for source in sources])
    known, first = np.unique(classes, return_index=True)
    number = np.empty(len(known), "int64")
    number[np.argsort(first)] = np.arange(len(known))

    seen: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def units(axis: Axis) -> np.ndarray:
        of = closure.classes(axis)
        if id(of) not in seen:  # most axes have the same classes as others
            place = np.clip(np.searchsorted(known, of), 0, len(known) - 1)
            seen[id(of)] = of, np.where(known[place] == of, number[place], -1)
        return seen[id(of)][1]

    protected: dict[int, str] = {}
    changes: dict[str, None] = {}
    members: dict[Axis, Member] = {}
    found = {axis: units(axis) for axis in (closure.axes if axes is None else axes)}
    found = {axis: of for axis, of in found.items() if (of >= 0).any()}
    giving = _giving(network, found)
    alone: dict[bytes, np.ndarray] = {}
    for of in {id(of): of for of in found.values()}.values():
        if (of >= 0).all():
            own = np.unique(of)
            alone.setdefault(own.tobytes(), own)
    for axis, of in found.items():
        if axis in network.stops:
            for unit in np.unique(of[of >= 0]).tolist():
                protected.setdefault(unit, network.stops[axis])
        changes.update(dict.fromkeys(network.changes(axis)))
        if isinstance(axis.holder, tuple) and axis.holder[0] == "weight":
            members[axis] = _member(network, axis, of, axis in giving)
    rows = sorted(members.items(), key=lambda item: network.place(item[0]))
    return Group(
        name, units(sources[0]), len(known), tuple(m for _, m in rows),
        dict(sorted(protected.items())), tuple(changes), tuple(alone.values()),
    )  # fmt: skip


def _member(network: Network, axis: Axis, of: np.ndarray, gives: bool) -> Member:
    call = network.calls_of(axis)[0]
    variable, name = _variable(network, call, axis)
    return Member(
        name, type(call.layer).__name__, axis.at, tuple(variable.shape), of, gives, variable
    )


def _variable(network: Network, call: Call, axis: Axis) -> tuple[Any, str]:
    prefix = "/".join(n.name for n in (*call.node.scope, call.node))
    for name, weight in network.named_weights(call.layer).items():
        if id(variable_behind_views(weight)) == axis.holder[1]:  # type: ignore[index]
            return weight, f"{prefix}/{name}"
    raise AssertionError(axis)


def _giving(network: Network, axes: Iterable[Axis]) -> set[Axis]:
    """Return the axes of weights that compute units.

    They are coupled with the source of their own call, or with its outputs: the source of an
    attention are its heads, and it computes the channels of its output too.
    """
    found: set[Axis] = set()
    for axis in axes:
        for call in network.started_at(axis):
            found |= _given_by(call, axis)
        if isinstance(axis.holder, tuple) and axis.holder[0] == "weight":
            found |= {axis for call in network.calls_of(axis) if _is_in_outputs(call, axis)}
    return found


def _is_in_outputs(call: Call, axis: Axis) -> bool:
    """Whether positions of a weight are those of an output, and nothing sums over them."""
    outputs = {v.key for v in call.outputs}
    return axis not in call.summed and any(
        axis in (link.one, link.other)
        and not outputs.isdisjoint((link.one.holder, link.other.holder))
        for link in call.links
    )


def _given_by(call: Call, source: Axis) -> set[Axis]:
    around = {source}
    for _ in range(2):  # straight, or through a number in the configuration
        for link in call.links:
            for one, other in ((link.one, link.other), (link.other, link.one)):
                if one in around and isinstance(other.holder, tuple):
                    around.add(other)
    return {a for a in around if isinstance(a.holder, tuple) and a.holder[0] == "weight"}
