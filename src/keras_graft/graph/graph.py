"""`Graph`: a Keras model as an immutable graph of nodes and values.

It is kept small: questions about a network. The verbs, in other folders, make changes."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from keras_graft.errors import GraphError
from keras_graft.graph.copyable import Copyable
from keras_graft.graph.index import Change, Index, Position
from keras_graft.graph.node import Node, Slot, Value
from keras_graft.graph.order import sort
from keras_graft.graph.origin import Past, moved
from keras_graft.graph.recording import Step
from keras_graft.graph.table import graph_footer, graph_tables
from keras_graft.tables import Table, Tabular, counted

_FIELDS = (
    "inputs", "outputs", "input_template", "output_template", "name", "trainable",
    "dtype_policy", "origin", "past", "edits",
)  # fmt: skip


class Graph(Copyable, Tabular):
    """A network: its inputs, its outputs, and its nodes in an order in which they can run.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> model = keras.Model(x, keras.layers.Dense(3, name="d")(x), name="tiny")
    >>> graph = kg.read(model)
    >>> [node.label for node in graph], graph.input_names
    (['d'], ('x',))
    >>> edited = kg.insert(graph, keras.layers.Dropout(0.1, name="drop"), after="d")
    >>> [layer.name for layer in kg.build(edited).layers]
    ['x', 'd', 'drop']

    Args:
        nodes: The nodes, each after the nodes whose values it reads.
        inputs: The input values, as a flat sequence.
        outputs: The output values, as a flat sequence.
        input_template: The structure of the inputs, with slots.
        output_template: The structure of the outputs, with slots.
        name: The name of the model.
        trainable: The model's own flag; its layers have their own.
        dtype_policy: The model's own dtype policy. Opaque.
        origin: The model that this graph was read from. Opaque; None after an edit.
        past: The model it was read from and the edits since; None for a part of a model.
        edits: The verbs that made it, in order, as `kg.steps` shows them.
    """

    steps: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    input_template: Any
    output_template: Any
    name: str
    trainable: bool
    dtype_policy: Any
    origin: Any
    past: Past | None
    edits: tuple[Step, ...]
    stale: tuple[Any, ...] | None
    """The keys of the nodes whose specs must be inferred again; None: all nodes."""
    notebook: ClassVar[Callable[[Graph], str] | None] = None
    """How a notebook shows a graph. Set by `display/show.py`, which knows what this folder cannot."""

    def __init__(
        self,
        nodes: Iterable[Node],
        inputs: Iterable[Value],
        outputs: Iterable[Value],
        input_template: Any = Slot(0),  # noqa: B008 - frozen
        output_template: Any = Slot(0),  # noqa: B008 - frozen
        name: str = "graph",
        trainable: bool = True,
        dtype_policy: Any = None,
        origin: Any = None,
        past: Past | None = None,
        edits: tuple[Step, ...] = (),
    ) -> None:
        put = self.__dict__
        put["steps"] = tuple(node.within(None) for node in nodes)
        put["inputs"] = tuple(value.within(self) for value in inputs)
        put.update(
            input_template=input_template, output_template=output_template, name=name,
            trainable=trainable, dtype_policy=dtype_policy, origin=origin, past=past,
            edits=edits, stale=None,
        )  # fmt: skip
        put["outputs"] = tuple(value.within(None) for value in outputs)  # unbound for `value`
        put["outputs"] = tuple(self.value(value) for value in put["outputs"])

    def __setattr__(self, name: str, _: Any) -> None:
        raise AttributeError(f"A Graph is frozen: use graph.replace({name}=...) for a new one.")

    def replace(self, **changes: Any) -> Graph:
        """Return this graph with some fields changed."""
        nodes = changes.pop("nodes", self.steps)
        if nodes is not self.steps or changes.keys() & {"inputs", "outputs"}:
            changes.setdefault("origin", None)
            changes.setdefault("past", self.past and self.past.edited(self))
        return Graph(nodes, **{name: getattr(self, name) for name in _FIELDS} | changes)

    # -- lookups ------------------------------------------------------------------------

    @functools.cached_property
    def _index(self) -> Index:
        return Index([v.within(None) for v in self.inputs], self.steps)

    @functools.cached_property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes, as handles bound to this graph."""
        return tuple(node.within(self) for node in self.steps)

    def position(self, node: Node) -> Position:
        """Return the position of `node` in graph order: only for comparison, not an index."""
        return self._index.places[node.key][0]

    def step(self, key: Any) -> tuple[Position, Node]:
        """Return the position in graph order, and the node, of this key."""
        return self._index.places[key]

    def _ordered(self, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        return nodes if len(nodes) < 2 else tuple(sorted(nodes, key=self.position))

    def __contains__(self, item: object) -> bool:
        if isinstance(item, Node):
            return item.key in self._index.places
        return isinstance(item, Value) and item.key in self._index.made

    def known(self, value: Value) -> Value:
        """Return `value` with the spec and mask it has here, bound to no graph."""
        found = self._index.made.get(value.key)
        return value.within(None) if found is None else found[1]

    def value(self, value: Value) -> Value:
        """Return the handle of `value` in this graph, with the spec it has here."""
        return self.known(value).within(self)

    def node(self, node: Node) -> Node:
        """Return the handle of `node` in this graph."""
        try:
            return self._index.places[node.key][1].within(self)
        except KeyError:
            raise GraphError(f"{node!r} is not in graph {self.name!r}.") from None

    def all_values(self) -> tuple[Value, ...]:
        """Return the inputs and every node's outputs, in graph order."""
        made = [v for node in self.steps for v in node.outputs]
        return tuple(dict.fromkeys([*(v.within(None) for v in self.inputs), *made]))

    def producer(self, value: Value) -> Node | None:
        """Return the node that gives `value`; None for an input of the graph.

        Raises:
            GraphError: If the value is not in this graph.
        """
        try:
            return self._index.made[value.key][0]
        except KeyError:
            raise GraphError(
                f"A value created as {value.name or 'unnamed'!r} is not in graph {self.name!r}."
            ) from None

    def consumers(self, value: Value, as_mask: bool = False) -> tuple[Node, ...]:
        """Return the nodes that read `value`, in graph order; `as_mask`: that give it as a mask."""
        found = self._index.carried if as_mask else self._index.used
        return self._ordered(found.get(value.key, ()))

    def read_from(self, tensor: Any) -> Value | None:
        """Return the value that was read from a KerasTensor; the first one if there are copies."""
        found = self._index.read_from.get(id(tensor), ())
        return min(found, key=self._made_at) if found else None

    def _made_at(self, value: Value) -> Position:
        node = self.producer(value)
        return () if node is None else self.position(node)

    def named(self, name: str) -> tuple[Node, ...]:
        """Return all calls of the operation with this name, in order."""
        operation = self._index.named.get(name)
        return () if operation is None else self.calls(operation)

    def calls(self, operation: Any) -> tuple[Node, ...]:
        """Return all calls of one operation in this graph, in order."""
        return self._ordered(self._index.calls.get(id(operation), ()))

    @functools.cached_property
    def operations(self) -> tuple[Any, ...]:
        """The operations, each once, in the order of their first calls."""
        return tuple({id(node.operation): node.operation for node in self.steps}.values())

    @property
    def tied(self) -> tuple[Node, ...]:
        """The nodes that use a weight of another layer, or contain such a node, in graph order."""
        return self._ordered(tuple(self._index.tied.values()))

    def name_of(self, node: Node) -> str:
        """Return the name of the node's operation, made unique within this graph."""
        return self._index.names[id(node.operation)]

    def call_of(self, node: Node) -> int:
        """Return which call of its operation `node` is, from 0."""
        return [n.key for n in self.calls(node.operation)].index(node.key)

    def label(self, item: Node | Value) -> str:
        """Return the selector of a node or value within this graph.

        `"dense"`; `"dense#1"` where the layer is called more than once; `"lstm:2"` for one of
        several outputs.
        """
        if isinstance(item, Node):
            name = self.name_of(item)
            many = len(self._index.calls[id(item.operation)]) > 1
            return f"{name}#{self.call_of(item)}" if many else name
        node = self.producer(item)
        if node is None:
            return self.input_names[[v.key for v in self.inputs].index(item.key)]
        label = self.label(node)
        for value, inside in node.unseen:
            if value.key is item.key and node.nested is not None:
                return f"{label}/{node.nested.label(inside)}"
        if len(node.outputs) == 1:
            return label
        return f"{label}:{[v.key for v in node.outputs].index(item.key)}"

    @functools.cached_property
    def input_names(self) -> tuple[str, ...]:
        """The names of the inputs, unique among inputs and operations."""
        names = self._index.taken.copy()
        return tuple(names.take(value.name or "input") for value in self.inputs)

    @property
    def weights(self) -> list[Any]:
        """The variables of all operations, each once."""
        found = {id(w): w for op in self.operations for w in getattr(op, "weights", ())}
        return list(found.values())

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.steps)

    def __repr__(self) -> str:
        return (
            f"<Graph {self.name!r}: {counted(len(self.steps), 'node')}, "
            f"{counted(len(self.operations), 'operation')}, "
            f"{counted(len(self.inputs), 'input')}, {counted(len(self.outputs), 'output')}>"
        )

    def tables(self) -> list[Table]:
        """Return the graph as a table, one node per line."""
        return graph_tables(self)

    def __str__(self) -> str:
        return f"{super().__str__()}\n{graph_footer(self)}"

    def _repr_html_(self) -> str:
        drawn = type(self).notebook
        return super()._repr_html_() if drawn is None else drawn(self)

    # -- the one change that every edit uses ------------------------------------------------

    def spliced(
        self,
        instead: Mapping[Node, Sequence[Node]],
        reads: Mapping[Value, Value],
        first: Sequence[Node] = (),
        keep: Collection[Node] = (),
    ) -> Graph:
        """Return the graph with some nodes replaced, and some values replaced where they are read.

        Cheap for a small change in a large graph: the lookup tables are updated incrementally.

        Args:
            instead: For each node that changes, the nodes that take its place; the node itself
                may be among them.
            reads: For each value to replace, the value to read instead. New nodes keep what they
                read: an insertion does not feed itself.
            first: New nodes to put before all existing ones.
            keep: Nodes that keep reading the old values.
        """
        replaced = {node.key: tuple(n.within(None) for n in new) for node, new in instead.items()}
        reads = {old.within(None): new.within(None) for old, new in reads.items()}
        new_keys = {n.key for n in first} | {n.key for new in replaced.values() for n in new}
        kept = {node.key for node in keep}
        for value in reads:
            users = self._index.used.get(value.key, ()), self._index.carried.get(value.key, ())
            for node in (*users[0], *users[1]):
                if node.key in kept:
                    continue
                if node.key in replaced:
                    # A node that stays in its place beside new ones reads the new values too.
                    replaced[node.key] = tuple(
                        n.reading(reads) if n.key is node.key else n for n in replaced[node.key]
                    )
                elif node.key not in new_keys:
                    replaced[node.key] = (node.reading(reads),)
        places = self._index.places
        changes: list[Change] = [
            (*places[key], new) for key, new in replaced.items() if key in places
        ]
        changes.sort(key=lambda change: change[0])
        steps = list(self.steps)
        for position, _, new in reversed(changes):
            at = bisect.bisect_left(self.steps, position, key=self.position)
            steps[at : at + 1] = new
        if first:
            start = self.position(self.steps[0])[0] if self.steps else 0
            changes.insert(0, ((start - 1,), None, [n.within(None) for n in first]))
            steps[:0] = changes[0][2]
        outputs = [reads.get(v.within(None), v) for v in self.outputs]
        result = object.__new__(Graph)
        put = result.__dict__
        put.update({name: getattr(self, name) for name in _FIELDS}, origin=None, stale=None)
        if self.past is not None:
            put["past"] = self.past.edited(self, moved(self._index.made, reads, replaced))
        put["steps"] = tuple(steps)
        put["_index"] = self._index.after(changes, steps)
        if self.stale is not None:
            added = (n.key for _, _, new in changes for n in new)
            put["stale"] = (*(k for k in self.stale if k not in replaced), *added)
        put["inputs"] = tuple(v.within(result) for v in self.inputs)
        put["outputs"] = tuple(result.value(v.within(None)) for v in outputs)
        return result

    def settled(self, stale: Iterable[Any] = ()) -> Graph:
        """Mark the specs as known, except for the nodes with these keys, and return this graph."""
        self.__dict__["stale"] = tuple(stale)
        return self

    def remembering(self, edits: tuple[Step, ...]) -> Graph:
        """Return the same graph, made by these steps."""
        result = object.__new__(Graph)
        put = result.__dict__
        put.update(
            {name: getattr(self, name) for name in _FIELDS},
            edits=edits, steps=self.steps, stale=self.stale, _index=self._index,
        )  # fmt: skip
        put["inputs"] = tuple(v.within(result) for v in self.inputs)
        put["outputs"] = tuple(v.within(result) for v in self.outputs)
        return result

    def holding(self, instead: Mapping[Any, Node]) -> Graph:
        """Return the same graph with the insides of some nodes known, by their keys: no edit."""
        result = object.__new__(Graph)
        put = result.__dict__
        put.update({name: getattr(self, name) for name in _FIELDS}, stale=self.stale)
        put["steps"] = tuple(instead.get(n.key, n).within(None) for n in self.steps)
        put["inputs"] = tuple(v.within(result) for v in self.inputs)
        put["outputs"] = tuple(result.value(v.within(None)) for v in self.outputs)
        return result

    # -- checks ---------------------------------------------------------------------------

    def validate(self) -> Graph:
        """Check that the graph can run, and return it.

        Raises:
            GraphError: If a node reads a value that no node gives, or only a later one; if two
                nodes give the same value; if there is a cycle (the message shows its path).
        """
        giver: dict[Value, Node] = {}
        for node in self.steps:
            for value in node.gives:
                if value in giver:
                    raise GraphError(
                        f"Two nodes give the same value: {self.label(giver[value])!r} and "
                        f"{self.label(node)!r}, in graph {self.name!r}."
                    )
                giver[value] = node
        known = {v.within(None) for v in self.inputs}
        late: list[Node] = []
        for node in self.steps:
            for value in node.reads:
                if value in known:
                    continue
                if value not in giver:
                    raise GraphError(
                        f"Node {self.label(node)!r} reads a value that nothing gives: it is "
                        f"neither an input of graph {self.name!r} nor an output of one of its "
                        "nodes."
                    )
                late.append(node)
            known.update(node.gives)
        for value in self.outputs:
            if value.within(None) not in known:
                raise GraphError(f"An output of graph {self.name!r} is given by none of its nodes.")
        if late:
            ordered = sort(self.steps, self.inputs)  # raises if there is a cycle
            raise GraphError(
                f"Node {self.label(late[0])!r} comes before what it reads; a correct order begins "
                f"{', '.join(repr(n.operation.name) for n in ordered[:3])}."
            )
        return self
