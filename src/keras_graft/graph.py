"""A network as a value: `Graph`, `Node` and `Value`, all frozen.

A node is one call of an operation (a Keras layer or op, opaque here); a value is one symbolic
tensor. Nodes and values are known by a key that outlives edits: the node that was selected in
one graph is found again in every graph made from it, and compares equal. The graph in which one
looks at them is a part of the handle, not of the identity, so that `value.consumers` is always
an answer about one graph.

Data that needs Keras (the layers, the recorded arguments, the origin of a value) is carried
along and never looked into: this module runs on plain objects.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keras_graft.errors import GraphError
from keras_graft.naming import Names

_BITS = {
    "bool": 8, "int8": 8, "uint8": 8, "int16": 16, "uint16": 16, "int32": 32, "uint32": 32,
    "int64": 64, "uint64": 64, "float16": 16, "bfloat16": 16, "float32": 32, "float64": 64,
    "float8_e4m3fn": 8, "float8_e5m2": 8, "int4": 4, "uint4": 4, "complex64": 64,
    "complex128": 128,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spec:
    """What is known of a value before any data flows.

    Args:
        shape: The shape, batch first; None for a dimension that may vary.
        dtype: The dtype, as a standard string.
        sparse: Whether the tensor is sparse.
        ragged: Whether the tensor is ragged.
        ragged_rank: The ragged rank, for ragged tensors.
        row_splits_dtype: The dtype of row splits, for ragged tensors.
    """

    shape: tuple[int | None, ...]
    dtype: str = "float32"
    sparse: bool = False
    ragged: bool = False
    ragged_rank: int | None = None
    row_splits_dtype: str | None = None

    @property
    def bytes_per_sample(self) -> int | None:
        """Bytes of one sample, or None where a dimension varies or the dtype has no size."""
        bits = _BITS.get(self.dtype)
        if bits is None or not self.shape or None in self.shape[1:]:
            return None
        return math.ceil(math.prod(d for d in self.shape[1:] if d is not None) * bits / 8)

    def __str__(self) -> str:
        shape = ", ".join("?" if d is None else str(d) for d in self.shape)
        return f"({shape}) {self.dtype}"


@dataclass(frozen=True, slots=True)
class Slot:
    """Stands in a template for the input (or graph input, or output) of that index."""

    index: int


@dataclass(frozen=True, slots=True)
class Template:
    """The recorded call: its arguments with a `Slot` wherever a tensor stood."""

    args: tuple[Any, ...] = (Slot(0),)
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class _Key:
    """An identity. Nothing but itself is equal to it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Value:
    """One symbolic tensor: an output of a node, or an input of the graph.

    Args:
        spec: Shape and dtype, or None while unknown.
        name: The name of an input, or the one Keras gave the tensor.
        optional: Whether an input may be None.
        mask: The mask that Keras hands on beside this tensor, unseen.
        origin: The KerasTensor this was read from.
    """

    spec: Spec | None = None
    name: str = ""
    optional: bool = False
    mask: Value | None = None
    origin: Any = None
    key: Any = dataclasses.field(default_factory=_Key)
    graph: Graph | None = None
    scope: tuple[Node, ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Value) and self.key is other.key and self.scope == other.scope

    def __hash__(self) -> int:
        return hash(self.key)

    def _in(self, graph: Graph, scope: tuple[Node, ...] = ()) -> Value:
        return Value(
            self.spec, self.name, self.optional, self.mask, self.origin, self.key, graph, scope
        )

    def bare(self, spec: Spec | None) -> Value:
        """Return this value in no graph, with another spec."""
        return Value(spec, self.name, self.optional, self.mask, self.origin, self.key)

    @property
    def producer(self) -> Node | None:
        """The node that this value comes from; None for an input of the graph."""
        return self._home().producer(self)

    @property
    def consumers(self) -> tuple[Node, ...]:
        """The nodes that use this value, a mask's users included, in graph order."""
        return self._home().consumers(self)

    @property
    def index(self) -> int:
        """Which output of its producer (or which input of the graph) this is."""
        producer = self.producer
        pool = self._home().inputs if producer is None else producer.outputs
        return [v.key for v in pool].index(self.key)

    @property
    def label(self) -> str:
        """The name that selects this value within its graph, such as `"lstm:2"`."""
        return self._home().label(self)

    @property
    def path(self) -> str:
        """The label, after the nested models it lies in: `"encoder/attn_0"`."""
        return "/".join([node.label for node in self.scope] + [self.label])

    def _home(self) -> Graph:
        if self.graph is None:
            raise GraphError(
                "This value was taken out of its graph: find it again with graph.value(value)."
            )
        return self.graph

    def __repr__(self) -> str:
        where = "" if self.graph is None else f" {self.path}"
        return f"<Value{where}: {self.spec or '?'}>"


@dataclass(frozen=True, slots=True)
class Entry:
    """How one input of a nested model gets its tensor at a call.

    Args:
        source: Index among the node's inputs, or None where an optional input was left out.
        adapt: Nodes that bring rank and dtype to what the nested model wants; the last one's
            first output enters. Empty in nearly all models.
    """

    source: int | None
    adapt: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Node:
    """One call of an operation.

    Args:
        operation: The Keras layer or op. Opaque.
        template: The recorded arguments, with slots for the tensors.
        inputs: The tensors among the arguments, in the order of the slots. Their specs are
            those under which the outputs' specs were inferred.
        outputs: The values this call gives.
        hidden: Pairs (input, mask) of masks that Keras hands along with an input and that this
            operation may read or pass on, without a trace in the recorded arguments.
        nested: The graph inside, if the operation is a model that can be opened.
        entries: For a nested model, one `Entry` for each input of `nested`.
        training: The training flag recorded at this call.
        trains: Whether the operation takes a training flag.
    """

    operation: Any
    template: Template
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    hidden: tuple[tuple[Value, Value], ...] = ()
    nested: Graph | None = None
    entries: tuple[Entry, ...] = ()
    training: bool | None = None
    trains: bool = False
    key: Any = dataclasses.field(default_factory=_Key)
    graph: Graph | None = None
    scope: tuple[Node, ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and self.key is other.key and self.scope == other.scope

    def __hash__(self) -> int:
        return hash(self.key)

    def _in(self, graph: Graph, scope: tuple[Node, ...] = ()) -> Node:
        return Node(
            self.operation, self.template, self.inputs, self.outputs, self.hidden, self.nested,
            self.entries, self.training, self.trains, self.key, graph, scope,
        )  # fmt: skip

    def replace(self, **changes: Any) -> Node:
        """Return this node with some fields changed, in no graph; its identity stays."""
        return dataclasses.replace(self, graph=None, scope=(), **changes)

    def reading(self, mapping: Mapping[Value, Value]) -> Node:
        """Return this node with inputs and masks exchanged.

        The specs that the inputs were recorded with stay, so that a build can see whether the
        outputs' specs still hold.
        """
        if not any(v in mapping for v in self.reads):
            return self

        def swap(old: Value) -> Value:
            new = mapping.get(old)
            return old if new is None else new.bare(old.spec)

        return self.replace(
            inputs=tuple(swap(v) for v in self.inputs),
            hidden=tuple((swap(v), swap(m)) for v, m in self.hidden),
        )

    @property
    def reads(self) -> tuple[Value, ...]:
        """All values this node depends on: its inputs, then the masks it may read unseen."""
        if not self.hidden:
            return self.inputs
        return self.inputs + tuple(mask for _, mask in self.hidden)

    @property
    def kind(self) -> str:
        """The class of the operation, such as `"Conv2D"`."""
        return type(self.operation).__name__

    @property
    def name(self) -> str:
        """The name of the operation within this graph."""
        return self._home().name_of(self)

    @property
    def call(self) -> int:
        """Which call of its operation this is, from 0."""
        return self._home().call_of(self)

    @property
    def label(self) -> str:
        """The name that selects this node within its graph, such as `"shared#1"`."""
        return self._home().label(self)

    @property
    def path(self) -> str:
        """The label, after the nested models it lies in: `"encoder/attn_0"`."""
        return "/".join([node.label for node in self.scope] + [self.label])

    @property
    def producers(self) -> tuple[Node, ...]:
        """The nodes whose values this one reads, each once, in the order of the inputs."""
        graph = self._home()
        found = (graph.producer(v) for v in self.reads)
        return tuple(dict.fromkeys(n for n in found if n is not None))

    @property
    def consumers(self) -> tuple[Node, ...]:
        """The nodes that read an output of this one, each once."""
        graph = self._home()
        return tuple(dict.fromkeys(n for v in self.outputs for n in graph.consumers(v)))

    @property
    def values(self) -> tuple[Value, ...]:
        """The outputs, as handles that know their graph."""
        graph = self._home()
        return tuple(v._in(graph, self.scope) for v in self.outputs)

    def _home(self) -> Graph:
        if self.graph is None:
            raise GraphError("This node was taken out of its graph: find it with graph.nodes.")
        return self.graph

    def __repr__(self) -> str:
        where = "" if self.graph is None else f" {self.path}"
        return f"<Node{where}: {self.kind}>"


@dataclass(frozen=True, eq=False, repr=False)
class Graph:
    """A network: nodes in an order in which they can run, with its inputs and outputs.

    Args:
        nodes: The nodes, each after all that it reads.
        inputs: The values that come from outside, flat.
        outputs: The values given out, flat.
        input_template: The structure of the inputs, with slots.
        output_template: The structure of the outputs, with slots.
        name: The name of the model.
        trainable: The model's own flag, beside those of its layers.
        dtype_policy: The model's own policy. Opaque.
        origin: The model this was read from, if it was. Opaque.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    input_template: Any = Slot(0)
    output_template: Any = Slot(0)
    name: str = "graph"
    trainable: bool = True
    dtype_policy: Any = None
    origin: Any = None

    def __post_init__(self) -> None:
        put = functools.partial(object.__setattr__, self)
        put("nodes", tuple(node._in(self) for node in self.nodes))
        put("inputs", tuple(value._in(self) for value in self.inputs))
        put("outputs", tuple(self.value(v) for v in self.outputs))

    def replace(self, **changes: Any) -> Graph:
        """Return this graph with some fields changed."""
        return dataclasses.replace(self, **changes)

    # -- where things are ---------------------------------------------------------------

    @functools.cached_property
    def _made(self) -> dict[Value, tuple[Node | None, Value]]:
        made: dict[Value, tuple[Node | None, Value]] = {v: (None, v) for v in self.inputs}
        for node in self.nodes:
            for value in node.outputs:
                # An input that a node also produces stays an input: that is what cutting means.
                made.setdefault(value, (node, value))
        return made

    @functools.cached_property
    def _used(self) -> dict[Value, tuple[Node, ...]]:
        used: dict[Value, dict[Node, None]] = {}
        for node in self.nodes:
            for value in node.reads:
                used.setdefault(value, {})[node] = None
        return {value: tuple(nodes) for value, nodes in used.items()}

    @functools.cached_property
    def _order(self) -> dict[Node, int]:
        return {node: position for position, node in enumerate(self.nodes)}

    @functools.cached_property
    def _names(self) -> tuple[dict[int, str], dict[int, tuple[Node, ...]]]:
        calls: dict[int, list[Node]] = {}
        for node in self.nodes:
            calls.setdefault(id(node.operation), []).append(node)
        names = Names()
        taken = {key: names.take(str(nodes[0].operation.name)) for key, nodes in calls.items()}
        return taken, {key: tuple(nodes) for key, nodes in calls.items()}

    @functools.cached_property
    def _calls(self) -> dict[Node, int]:
        return {node: i for nodes in self._names[1].values() for i, node in enumerate(nodes)}

    def __contains__(self, item: object) -> bool:
        return item in self._order if isinstance(item, Node) else item in self._made

    def value(self, value: Value) -> Value:
        """Return the handle of `value` in this graph, with the spec known here."""
        found = self._made.get(value.bare(None) if value.scope else value)
        return (value if found is None else found[1])._in(self)

    def all_values(self) -> tuple[Value, ...]:
        """Return the inputs and every node's outputs, in graph order."""
        return tuple(self._made)

    def producer(self, value: Value) -> Node | None:
        """Return the node that gives `value`, None for an input of the graph.

        Raises:
            GraphError: If the value is not in this graph.
        """
        try:
            return self._made[value.bare(None) if value.scope else value][0]
        except KeyError:
            raise GraphError(
                f"A value that was made as {value.name or 'unnamed'!r} is not in graph "
                f"{self.name!r}."
            ) from None

    def consumers(self, value: Value) -> tuple[Node, ...]:
        """Return the nodes that read `value`, in graph order."""
        return self._used.get(value.bare(None) if value.scope else value, ())

    def calls(self, operation: Any) -> tuple[Node, ...]:
        """Return all calls of one operation in this graph, in order."""
        return self._names[1].get(id(operation), ())

    @property
    def operations(self) -> tuple[Any, ...]:
        """The operations, each once, in the order of their first calls."""
        return tuple(nodes[0].operation for nodes in self._names[1].values())

    def name_of(self, node: Node) -> str:
        """Return the name of the node's operation, made unique within this graph."""
        return self._names[0][id(node.operation)]

    def call_of(self, node: Node) -> int:
        """Return which call of its operation `node` is, from 0."""
        return self._calls[node.replace() if node.scope else node]

    def label(self, item: Node | Value) -> str:
        """Return the selector of a node or value within this graph.

        `"dense"`; `"dense#1"` where the layer is called more than once; `"lstm:2"` for one of
        several outputs.
        """
        if isinstance(item, Node):
            name = self.name_of(item)
            return name if len(self.calls(item.operation)) == 1 else f"{name}#{item.call}"
        node = self.producer(item)
        if node is None:
            return self.input_names[item.index if item.graph else self.inputs.index(item)]
        label = self.label(node)
        if len(node.outputs) == 1:
            return label
        return f"{label}:{[v.key for v in node.outputs].index(item.key)}"

    @functools.cached_property
    def input_names(self) -> tuple[str, ...]:
        """The names of the inputs, unique among themselves and beside the operations."""
        names = Names(self._names[0].values())
        return tuple(names.take(value.name or "input") for value in self.inputs)

    def position(self, node: Node) -> int:
        """Return the place of `node` in the order of the graph."""
        return self._order[node]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def __repr__(self) -> str:
        return (
            f"<Graph {self.name!r}: {len(self.nodes)} nodes, {len(self.operations)} operations, "
            f"{len(self.inputs)} inputs, {len(self.outputs)} outputs>"
        )

    def __str__(self) -> str:
        from keras_graft.display.text import graph_table  # displays read graphs, not the reverse

        return graph_table(self)

    def _repr_html_(self) -> str:
        from keras_graft.display.text import graph_html

        return graph_html(self)

    # -- what holds -----------------------------------------------------------------------

    def validate(self) -> Graph:
        """Check that the graph can run, and return it.

        Raises:
            GraphError: If a node reads a value that nothing gives, or one that only a later
                node gives; if two nodes give the same value; if a cycle closes (its path is
                named); if two different operations would have to share a name.
        """
        giver: dict[Value, Node] = {}
        for node in self.nodes:
            for value in node.outputs:
                if value in giver:
                    raise GraphError(
                        f"Two nodes give the same value: {giver[value].label!r} and "
                        f"{node.label!r}, in graph {self.name!r}."
                    )
                giver[value] = node
        known = set(self.inputs)
        late: list[Node] = []
        for node in self.nodes:
            for value in node.reads:
                if value in known:
                    continue
                if value not in giver:
                    raise GraphError(
                        f"Node {node.label!r} reads a value that nothing gives: it is neither an "
                        f"input of graph {self.name!r} nor an output of one of its nodes."
                    )
                late.append(node)
            known.update(node.outputs)
        for value in self.outputs:
            if value not in known:
                raise GraphError(f"An output of graph {self.name!r} is given by none of its nodes.")
        if late:
            ordered = sort(self.nodes, self.inputs)  # raises if a cycle closes
            raise GraphError(
                f"Node {late[0].label!r} stands before what it reads; a right order begins "
                f"{', '.join(n.operation.name for n in ordered[:3])}."
            )
        return self


def sort(nodes: Iterable[Node], inputs: Sequence[Value] = ()) -> tuple[Node, ...]:
    """Return `nodes` in an order in which they can run, keeping the given one where possible.

    Raises:
        GraphError: If they close a cycle; the message shows its path.
    """
    nodes = tuple(nodes)
    cut = set(inputs)
    giver = {v: node for node in nodes for v in node.outputs if v not in cut}
    done: set[Node] = set()
    open_: dict[Node, None] = {}
    result: list[Node] = []
    for root in nodes:
        stack = [] if root in done else [(root, iter(root.reads))]
        if stack:
            open_[root] = None
        while stack:
            node, reads = stack[-1]
            for value in reads:
                before = giver.get(value)
                if before is None or before in done:
                    continue
                if before in open_:
                    names = [n.operation.name for n in open_]
                    cycle = names[list(open_).index(before) :] + [before.operation.name]
                    raise GraphError("The graph has a cycle: " + " <- ".join(cycle) + ".")
                open_[before] = None
                stack.append((before, iter(before.reads)))
                break
            else:
                stack.pop()
                del open_[node]
                done.add(node)
                result.append(node)
    return tuple(result)


def weights_of(operation: Any) -> dict[int, int]:
    """Return the weights of an operation as {identity: number of parameters}."""
    return {
        id(w): math.prod(d for d in w.shape if d is not None)
        for w in getattr(operation, "weights", ())
    }


def count_parameters(operations: Iterable[Any]) -> int:
    """Return how many parameters `operations` hold together, each variable counted once."""
    found: dict[int, int] = {}
    for operation in operations:
        found.update(weights_of(operation))
    return sum(found.values())
