"""`Node`, one call of a layer or op, `Value`, one symbolic tensor, and the data in them.

Nodes and values have a key that stays the same through edits: a node that was selected in one
graph is found in every graph made from it, and compares equal. A handle is a node or value bound
to one graph, so that `value.consumers` is always an answer about one graph. The graph is not part
of the identity. A graph stores its nodes unbound (`steps`), and returns handles (`nodes`).

Objects of Keras (the layers, the recorded arguments, the origin of a value) are stored and never
inspected: this module runs on plain objects.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
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
    """Shape and dtype of a value: what is known before any data flows.

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
        """Whether two specs are interchangeable; sparse counts as dense, as layers take both."""
        return dataclasses.replace(self, sparse=False) == dataclasses.replace(other, sparse=False)


@dataclass(frozen=True, slots=True)
class Slot:
    """A placeholder in a template: the input (or graph input, or output) of that index."""

    index: int


def flat_slots(count: int) -> list[Slot]:
    """Return a list structure of `count` leaves."""
    return [Slot(i) for i in range(count)]


@dataclass(frozen=True, slots=True)
class Template:
    """The recorded arguments of a call, with a `Slot` in place of each tensor."""

    args: tuple[Any, ...] = (Slot(0),)
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class _Handle(Copyable):
    """What a node and a value have in common: an identity, and the graph it is bound to."""

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
        """The graph that this handle is bound to.

        Raises:
            GraphError: If it is bound to no graph.
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
        """The label, after those of the nested models around it: `"encoder/attn_0"`."""
        return "/".join([*(node.label for node in self.scope), self.label])


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Value(_Handle):
    """One symbolic tensor: an output of a node, or an input of the graph.

    Args:
        spec: Shape and dtype, or None while unknown.
        name: The name of an input, or the name that Keras gave the tensor.
        optional: Whether an input may be None.
        mask: The mask that Keras attaches to this tensor, which no recorded argument shows.
        origin: The KerasTensor that this value was read from.
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
        """Return this value bound to `graph`; with None, bound to no graph, for storing it."""
        if self.graph is graph and self.scope == scope:
            return self
        return Value(
            self.spec, self.name, self.optional, self.mask, self.origin, self.key, graph, scope
        )

    def replace(self, **changes: Any) -> Value:
        """Return this value with some fields changed, bound to no graph; its key stays."""
        return dataclasses.replace(self, graph=None, scope=(), **changes)

    def with_spec(self, spec: Spec | None) -> Value:
        """Return this value with another spec, bound to no graph."""
        if self.graph is None and (self.spec is spec or self.spec == spec):
            return self
        return Value(spec, self.name, self.optional, self.mask, self.origin, self.key)

    def exchanged(self, mapping: Mapping[Value, Value]) -> Value:
        """Return the value `mapping` has for this one, with this one's spec; its mask likewise."""
        mask = None if self.mask is None else mapping.get(self.mask, self.mask)
        new = mapping.get(self)
        if new is None:
            return self if mask is self.mask else self.replace(mask=mask)
        return Value(self.spec, new.name, new.optional, mask, new.origin, new.key)

    def masked(self, mapping: Mapping[Value, Value]) -> Value:
        """Return this value with its mask replaced."""
        if self.mask is None or self.mask not in mapping:
            return self
        return self.replace(mask=mapping[self.mask])

    @property
    def producer(self) -> Node | None:
        """The node that gives this value; None for an input of the graph."""
        found = self.home.producer(self)
        return None if found is None else found.within(self.home, self.scope)

    @property
    def consumers(self) -> tuple[Node, ...]:
        """The nodes that read this value, also as a mask, in graph order."""
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
        source: Index in the node's `reads`, or None where an optional input was left out.
        adapt: Nodes that convert rank and dtype for the nested model, which gets the last one's
            first output. Empty in nearly all models.
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
            those from which the outputs' specs were inferred.
        outputs: The values this call gives.
        hidden: Pairs (input, mask) of masks that Keras attaches to an input. This operation may
            read them or pass them on; the recorded arguments do not show it.
        nested: The graph inside, if the operation is a model that can be opened.
        entries: For a nested model, one `Entry` for each input of `nested`.
        trains: Whether the operation takes a training flag.
        stays: Whether a training flag recorded at this call overrides that of a model around it,
            as it does from Keras 3.16 on.
        unmasks: Whether the operation removes the masks of its inputs, for all that run later.
        maskless: The inputs that have a mask which this call does not find: an earlier one removed it.
        unseen: Pairs (value, mask inside) of masks that a nested model makes and attaches to its
            outputs. Outside, the value represents the mask: other nodes depend on it, but no
            tensor holds it while the nested model is closed.
        untried: None if it is known to run on its inputs; else the specs that it last ran on,
            empty if there are none.
        closed: Why the operation, a layer that holds layers, could not be opened; empty if that was
            not tried, or there is nothing to open.
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
    maskless: tuple[Value, ...] = ()
    unseen: tuple[tuple[Value, Value], ...] = ()
    untried: tuple[Spec | None, ...] | None = None
    known_as: tuple[Any, str] | None = None
    closed: str = ""
    key: Any = dataclasses.field(default_factory=Key)
    graph: Graph | None = None
    scope: tuple[Node, ...] = ()

    def within(self, graph: Graph | None, scope: tuple[Node, ...] = ()) -> Node:
        """Return this node bound to `graph`; with None, bound to no graph, for storing it."""
        if self.graph is graph and self.scope == scope:
            return self
        return Node(
            self.operation, self.template, self.inputs, self.outputs, self.hidden, self.nested,
            self.entries, self.trains, self.stays, self.unmasks, self.maskless, self.unseen,
            self.untried, self.known_as, self.closed, self.key, graph, scope,
        )  # fmt: skip

    def replace(self, **changes: Any) -> Node:
        """Return this node with some fields changed, bound to no graph; its key stays."""
        return dataclasses.replace(self, graph=None, scope=(), **changes)

    def reading(self, mapping: Mapping[Value, Value]) -> Node:
        """Return this node with its inputs and masks replaced, also the masks of its outputs.

        Inputs keep the specs and masks they were recorded with: these show whether what was
        inferred from them still holds.
        """
        if not any(v in mapping or v.mask in mapping for v in (*self.reads, *self.outputs)):
            return self
        return self.replace(
            inputs=tuple(v.exchanged(mapping) for v in self.inputs),
            outputs=tuple(v.masked(mapping) for v in self.outputs),
            hidden=tuple((v.exchanged(mapping), m.exchanged(mapping)) for v, m in self.hidden),
            maskless=tuple(v.exchanged(mapping) for v in self.maskless),
        )

    def reading_at(self, place: int, value: Value) -> Node:
        """Return this node with one of its inputs replaced."""
        inputs = list(self.inputs)
        inputs[place] = inputs[place].exchanged({inputs[place]: value})
        return self.replace(inputs=tuple(inputs))

    @property
    def reads(self) -> tuple[Value, ...]:
        """All values this node depends on: its inputs, then the masks in `hidden`."""
        if not self.hidden:
            return self.inputs
        return self.inputs + tuple(mask for _, mask in self.hidden)

    @property
    def gives(self) -> tuple[Value, ...]:
        """All values this node gives: its outputs, then the masks in `unseen`."""
        if not self.unseen:
            return self.outputs
        return self.outputs + tuple(value for value, _ in self.unseen)

    @property
    def training(self) -> bool | None:
        """The training flag recorded at this call."""
        return self.template.kwargs.get("training")

    def flag(self, around: bool | None) -> bool | None:
        """The training flag of this call in a model that is called with `training=around`."""
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
        """The outputs, as handles bound to the same graph."""
        return tuple(v.within(self.home, self.scope) for v in self.outputs)

    def __repr__(self) -> str:
        where = "" if self.graph is None else f" {printable(self.path)}"
        return f"<Node{where}: {printable(self.kind)}>"
