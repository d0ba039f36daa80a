"""One call and what it reads and gives: `Node`, `Value`, and the small data around them.

Nodes and values are known by a key that outlives edits: the node that was selected in one graph
is found again in every graph made from it, and compares equal. The graph in which one looks at
them is a part of the handle, not of the identity, so that `value.consumers` is always an answer
about one graph. A graph stores them without itself (its `steps`), and gives handles that know it
(its `nodes`).

Data that needs Keras (the layers, the recorded arguments, the origin of a value) is carried
along and never looked into: this module runs on plain objects.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keras_graft.errors import GraphError
from keras_graft.graph.copyable import Copyable, Key
from keras_graft.printable import printable

if TYPE_CHECKING:
    from keras_graft.graph.graph import Graph

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
        kind = " sparse" if self.sparse else " ragged" if self.ragged else ""
        return f"({shape}) {self.dtype}{kind}"

    def holds_as(self, other: Spec) -> bool:
        """Whether one can be read for the other; sparse counts as dense, as layers take both."""
        return dataclasses.replace(self, sparse=False) == dataclasses.replace(other, sparse=False)


@dataclass(frozen=True, slots=True)
class Slot:
    """Stands in a template for the input (or graph input, or output) of that index."""

    index: int


def flat_slots(count: int) -> list[Slot]:
    """Return a list structure of `count` leaves."""
    return [Slot(i) for i in range(count)]


@dataclass(frozen=True, slots=True)
class Template:
    """The recorded call: its arguments with a `Slot` wherever a tensor stood."""

    args: tuple[Any, ...] = (Slot(0),)
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class _Handle(Copyable):
    """What a node and a value have in common: an identity, looked at in one graph."""

    __slots__ = ()
    key: Any
    graph: Graph | None
    scope: tuple[Node, ...]

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return type(other) is type(self) and (self.key is other.key and self.scope == other.scope)  # type: ignore

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def home(self) -> Graph:
        """The graph in which this handle looks.

        Raises:
            GraphError: If it was taken out of its graph.
        """
        if self.graph is None:
            raise GraphError(
                f"This {type(self).__name__.lower()} was taken out of its graph: find it again "
                "with graph.nodes, graph.node(node) or graph.value(value)."
            )
        return self.graph

    @property
    def label(self) -> str:
        """The name that selects this within its graph, such as `"shared#1"` or `"lstm:2"`."""
        return self.home.label(self)  # type: ignore[arg-type]

    @property
    def path(self) -> str:
        """The label, after the nested models it lies in: `"encoder/attn_0"`."""
        return "/".join([*(node.label for node in self.scope), self.label])


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Value(_Handle):
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
    key: Any = dataclasses.field(default_factory=Key)
    graph: Graph | None = None
    scope: tuple[Node, ...] = ()

    def within(self, graph: Graph | None, scope: tuple[Node, ...] = ()) -> Value:
        """Return the handle of this value that looks into `graph`; in none, for storing it."""
        if self.graph is graph and self.scope == scope:
            return self
        return Value(
            self.spec, self.name, self.optional, self.mask, self.origin, self.key, graph, scope
        )

    def replace(self, **changes: Any) -> Value:
        """Return this value with some fields changed, in no graph; its identity stays."""
        return dataclasses.replace(self, graph=None, scope=(), **changes)

    def with_spec(self, spec: Spec | None) -> Value:
        """Return this value in no graph, with another spec."""
        if self.graph is None and (self.spec is spec or self.spec == spec):
            return self
        return Value(spec, self.name, self.optional, self.mask, self.origin, self.key)

    def exchanged(self, mapping: Mapping[Value, Value]) -> Value:
        """Return what `mapping` says instead of this value, with this one's spec and mask."""
        mask = None if self.mask is None else mapping.get(self.mask, self.mask)
        new = mapping.get(self)
        if new is None:
            return self if mask is self.mask else self.replace(mask=mask)
        return Value(self.spec, new.name, new.optional, mask, new.origin, new.key)

    def masked(self, mapping: Mapping[Value, Value]) -> Value:
        """Return this value with its mask exchanged."""
        if self.mask is None or self.mask not in mapping:
            return self
        return self.replace(mask=mapping[self.mask])

    @property
    def producer(self) -> Node | None:
        """The node that this value comes from; None for an input of the graph."""
        found = self.home.producer(self)
        return None if found is None else found.within(self.home, self.scope)

    @property
    def consumers(self) -> tuple[Node, ...]:
        """The nodes that use this value, a mask's users included, in graph order."""
        return tuple(n.within(self.home, self.scope) for n in self.home.consumers(self))

    @property
    def index(self) -> int:
        """Which output of its producer (or which input of the graph) this is."""
        producer = self.home.producer(self)
        pool = self.home.inputs if producer is None else producer.outputs
        return [v.key for v in pool].index(self.key)

    def __repr__(self) -> str:
        where = "" if self.graph is None else f" {printable(self.path)}"
        return f"<Value{where}: {self.spec or '?'}>"


@dataclass(frozen=True, slots=True)
class Entry:
    """How one input of a nested model gets its tensor at a call.

    Args:
        source: Index among what the node reads, or None where an optional input was left out.
        adapt: Nodes that bring rank and dtype to what the nested model wants; the last one's
            first output enters. Empty in nearly all models.
    """

    source: int | None
    adapt: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Node(_Handle):
    """One call of an operation.

    Args:
        operation: The Keras layer or op, opaque.
        template: The recorded arguments, with slots for the tensors.
        inputs: The tensors among the arguments, in the order of the slots. Their specs are
            those under which the outputs' specs were inferred.
        outputs: The values this call gives.
        hidden: Pairs (input, mask) of masks that Keras hands along with an input and that this
            operation may read or pass on, without a trace in the recorded arguments.
        nested: The graph inside, if the operation is a model that can be opened.
        entries: For a nested model, one `Entry` for each input of `nested`.
        trains: Whether the operation takes a training flag.
        stays: Whether a training flag recorded at this call wins over that of a model around it,
            which it does from Keras 3.16 on.
        unmasks: Whether the operation takes the masks off what it reads, for all that run later.
        unseen: Pairs (value, mask inside) of masks that a nested model makes and hands on with
            its outputs. The first stands for the second outside: something that other nodes
            depend on, and that no tensor gives as long as the nested model is closed.
        untried: None if it is known to run on what it reads; else the specs that it ran on before,
            empty if there are none.
        known_as: Its operation and the name that stands for that in the model it was read from,
            where it is another than the operation's own.
    """

    operation: Any
    template: Template
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    hidden: tuple[tuple[Value, Value], ...] = ()
    nested: Graph | None = None
    entries: tuple[Entry, ...] = ()
    trains: bool = False
    stays: bool = False
    unmasks: bool = False
    unseen: tuple[tuple[Value, Value], ...] = ()
    untried: tuple[Spec | None, ...] | None = None
    known_as: tuple[Any, str] | None = None
    key: Any = dataclasses.field(default_factory=Key)
    graph: Graph | None = None
    scope: tuple[Node, ...] = ()

    def within(self, graph: Graph | None, scope: tuple[Node, ...] = ()) -> Node:
        """Return the handle of this node that looks into `graph`; in none, for storing it."""
        if self.graph is graph and self.scope == scope:
            return self
        return Node(
            self.operation, self.template, self.inputs, self.outputs, self.hidden, self.nested,
            self.entries, self.trains, self.stays, self.unmasks, self.unseen, self.untried,
            self.known_as, self.key, graph, scope,
        )  # fmt: skip

    def replace(self, **changes: Any) -> Node:
        """Return this node with some fields changed, in no graph; its identity stays."""
        return dataclasses.replace(self, graph=None, scope=(), **changes)

    def reading(self, mapping: Mapping[Value, Value]) -> Node:
        """Return this node with inputs and masks exchanged, also those that it hands on.

        The specs and masks that the inputs were recorded with stay, so that one can see whether
        what was inferred from them still holds.
        """
        if not any(v in mapping or v.mask in mapping for v in (*self.reads, *self.outputs)):
            return self
        return self.replace(
            inputs=tuple(v.exchanged(mapping) for v in self.inputs),
            outputs=tuple(v.masked(mapping) for v in self.outputs),
            hidden=tuple((v.exchanged(mapping), m.exchanged(mapping)) for v, m in self.hidden),
        )

    def reading_at(self, place: int, value: Value) -> Node:
        """Return this node with one of its inputs exchanged."""
        inputs = list(self.inputs)
        inputs[place] = inputs[place].exchanged({inputs[place]: value})
        return self.replace(inputs=tuple(inputs))

    @property
    def reads(self) -> tuple[Value, ...]:
        """All values this node depends on: its inputs, then the masks it may read unseen."""
        if not self.hidden:
            return self.inputs
        return self.inputs + tuple(mask for _, mask in self.hidden)

    @property
    def gives(self) -> tuple[Value, ...]:
        """All values that depend on this node: its outputs, then the masks it makes unseen."""
        if not self.unseen:
            return self.outputs
        return self.outputs + tuple(value for value, _ in self.unseen)

    @property
    def training(self) -> bool | None:
        """The training flag recorded at this call."""
        return self.template.kwargs.get("training")

    def flag(self, around: bool | None) -> bool | None:
        """The training flag of this call within a model that is called with `around`."""
        recorded = self.training
        return recorded if around is None or (self.stays and recorded is not None) else around

    @property
    def kind(self) -> str:
        """The class of the operation, such as `"Conv2D"`."""
        return type(self.operation).__name__

    @property
    def name(self) -> str:
        """The name of the operation within this graph."""
        return self.home.name_of(self)

    @property
    def call(self) -> int:
        """Which call of its operation this is, from 0."""
        return self.home.call_of(self)

    @property
    def producers(self) -> tuple[Node, ...]:
        """The nodes whose values this one reads, each once, in the order of the inputs."""
        found = (self.home.producer(v) for v in self.reads)
        unique = dict.fromkeys(n for n in found if n is not None)
        return tuple(n.within(self.home, self.scope) for n in unique)

    @property
    def consumers(self) -> tuple[Node, ...]:
        """The nodes that read an output of this one, each once."""
        unique = dict.fromkeys(n for v in self.outputs for n in self.home.consumers(v))
        return tuple(n.within(self.home, self.scope) for n in unique)

    @property
    def values(self) -> tuple[Value, ...]:
        """The outputs, as handles that know their graph."""
        return tuple(v.within(self.home, self.scope) for v in self.outputs)

    def __repr__(self) -> str:
        where = "" if self.graph is None else f" {printable(self.path)}"
        return f"<Node{where}: {printable(self.kind)}>"


def copied(
    nodes: Iterable[Node],
    mapping: Mapping[Value, Value],
    change: Callable[[Node], Node] = lambda node: node,
) -> tuple[list[Node], dict[Value, Value]]:
    """Return the same calls with identities of their own, reading through `mapping`.

    Args:
        nodes: The nodes, each after what it reads.
        mapping: What the copies read instead of values from outside.
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
            node.entries, node.trains, node.stays, node.unmasks, unseen, node.untried,
            node.known_as,
        )  # fmt: skip
        result.append(change(copy))
    return result, mapping
