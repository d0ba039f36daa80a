"""Change a graph: replace, insert, remove, rewire.

Every edit is a list of places. At each place new nodes replace old ones, and some values are read
instead of others. The new nodes are traced elsewhere (that needs Keras). So are the specs, which
are inferred again where they changed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

from keras_graft import advice
from keras_graft.edit.part import Part
from keras_graft.errors import EditError, GraphError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed
from keras_graft.graph.node import Node, Value
from keras_graft.graph.parameters import weights_of
from keras_graft.graph.walk import in_order, read_places, swept
from keras_graft.printable import quoted, words_of
from keras_graft.tables import counted

Made = tuple[list[Node], list[Value]]
Put = Callable[[Graph, Sequence[Value], Node | None], Made]
"""Makes the new nodes at a place, from the graph, the values read there, and the node concerned."""


WayOut = Callable[[Graph, Node, str], str]
"""Returns advice on a call that cannot run, from the graph, the node and the specs it takes."""

Infer = Callable[..., Graph]
"""Infers the specs of a graph again where they changed, up to a position if one is given."""


class _Patch:
    """Collects changes and applies them at once, as long as no spec changes in between.

    If a spec changes, specs are inferred only up to the next place: the node there may be replaced
    next, and may not take what it reads now.
    """

    def __init__(self, graph: Graph, infer: Infer, way_out: WayOut) -> None:
        self.graph = graph
        self._infer = functools.partial(infer, way_out=way_out)
        self._instead: dict[Node, list[Node]] = {}
        self._reads: dict[Value, Value] = {}
        self._read_as: dict[Value, list[Value]] = {}  # the inverse of _reads
        self._first: list[Node] = []
        self._dropped: list[Value] = []
        self._late: list[Value] = []

    def node(self, node: Node) -> Node:
        """Return the handle of a node in the current graph, with the specs of its inputs known."""
        self.graph = self._infer(self.graph, until=self.graph.position(node))
        return self.graph.node(node)

    def value(self, value: Value) -> Value:
        """Return the handle of a value in the current graph, with its spec known."""
        producer = self.graph.producer(value)
        if producer is not None:
            # (position, 0) lies right behind the producer, so its outputs are inferred too.
            self.graph = self._infer(self.graph, until=(*self.graph.position(producer), 0))
        return self.graph.value(value)

    def now(self, value: Value) -> Value:
        """Return the value that is now read where `value` was read."""
        return self._reads.get(value.within(None)) or self.graph.known(value)

    def put(self, node: Node, instead: Sequence[Node], reads: Mapping[Value, Value]) -> None:
        """Replace one node by others."""
        gone = [] if any(n.key is node.key for n in instead) else list(node.reads)
        self._dropped += gone
        self._instead[node] = list(instead)
        self._read(reads)

    def behind(self, value: Value, nodes: Sequence[Node], reads: Mapping[Value, Value]) -> None:
        """Put nodes behind a value."""
        producer = self.graph.producer(value)
        if producer is None:
            self._first += nodes
        else:
            self._instead.setdefault(producer, [producer]).extend(nodes)
        self._read(reads)

    def before(
        self, node: Node, nodes: Sequence[Node], places: Sequence[int], value: Value
    ) -> None:
        """Put nodes before another, and let that read `value` at these places."""
        *others, current = self._instead.get(node, [node.within(None)])
        old = current.inputs[places[0]]
        if any(v.mask == old for v in current.outputs):
            raise EditError(
                f"{self.graph.label(old)!r} is a mask that {node.kind} {node.label!r} reads and "
                "passes on with its output: the layers behind it would not see another one. The "
                "way out: a layer in front of it whose compute_mask returns the mask that you "
                f"want, {advice.call('insert', ('new', advice.As('layer')), before=node.label)}."
            )
        for place in places:
            current = current.reading_at(place, value)
        self._instead[node] = [*others, *nodes, current]
        if old.spec != value.spec or old.mask != value.mask:
            self._flush()

    def _read(self, reads: Mapping[Value, Value]) -> None:
        reads = {old.within(None): new.within(None) for old, new in reads.items() if old != new}
        moved = []
        for old, new in reads.items():
            others = [v for v in self._read_as.pop(old, ()) if self._reads[v] == old]
            moved.append((new, [*others, old]))
        for new, olds in moved:
            self._reads.update(dict.fromkeys(olds, new))
            self._read_as.setdefault(new, []).extend(olds)
        for old, new in reads.items():
            _check_mask(self.graph, old, new)
            was = self.graph.known(old)
            if was.spec != new.spec or was.mask != new.mask:
                return self._flush()  # the next trace needs the new specs

    def may_come_late(self, values: Sequence[Value]) -> None:
        """Say that some nodes that read these new values may stand before what gives them."""
        self._late += values

    def _flush(self) -> None:
        graph = self.graph.spliced(self._instead, self._reads, self._first)
        early = {n: [n] for v in self._late if v in graph for n in graph.consumers(v)}
        self.graph = in_order(graph, {**early, **self._instead})
        self._instead, self._reads, self._read_as, self._first = {}, {}, {}, []
        self._late = []

    def done(self) -> Graph:
        """Apply the collected changes, and return the graph."""
        if self._instead or self._reads or self._first:
            self._flush()
        return self._infer(swept(self.graph, self._dropped))


def replace(graph: Graph, nodes: Sequence[Node], put: Put, infer: Infer) -> Graph:
    """Replace each node by what `put` makes for it."""
    old_labels = [graph.label(node) for node in nodes]
    patch = _Patch(graph, infer, _with_it(old_labels, "replace it too by a new {}, in one step"))
    for old in sorted(nodes, key=graph.position):
        node = patch.node(old)
        steps, outputs = put(patch.graph, [patch.now(v) for v in node.inputs], node)
        if len(outputs) != len(node.outputs):
            used = [patch.graph.label(v) for v in node.outputs if _is_used(patch.graph, v)]
            raise EditError(
                f"replace {node.label!r}: the new part gives {counted(len(outputs), 'value')}, the old node "
                f"gave {len(node.outputs)}, and {listed(used)} "
                f"{'is' if len(used) == 1 else 'are'} used. Give one value for each old one."
            )
        patch.put(node, steps, dict(zip(node.outputs, outputs, strict=True)))
    return patch.done()


def substitute(
    graph: Graph, parts: Sequence[Part], put: Callable[..., Made], infer: Infer
) -> Graph:
    """Replace parts of several nodes, which give values of the same specs as before.

    Args:
        graph: The graph.
        parts: Each after those whose outputs it reads; none has a node of another.
        put: Makes the new nodes, from the graph, the values read there, and `Part.what`.
        infer: Infers the specs.
    """
    patch = _Patch(graph, infer, _with_it([], "replace it too by a new {}"))
    for part in parts:
        ordered = sorted((patch.node(n) for n in part.nodes), key=patch.graph.position)
        inputs = [patch.now(patch.graph.node(node).inputs[i]) for node, i in part.reads]
        steps, outputs = put(patch.graph, inputs, part.what)
        *others, last = ordered
        if len(part.outputs) > 1:
            patch.may_come_late(outputs)
        for node in others:
            patch.put(node, [], {})
        patch.put(last, steps, dict(zip(part.outputs, outputs, strict=True)))
    return patch.done()


def insert_after(graph: Graph, values: Sequence[Value], put: Put, infer: Infer) -> Graph:
    """Put something behind values: the consumers of each value read its output instead."""
    patch = _Patch(graph, infer, _in_its_place)
    for old in values:
        value = patch.value(old)
        # The new nodes read the value itself, so that an insertion never feeds itself.
        steps, outputs = put(patch.graph, [patch.graph.known(value)], value.producer)
        (output,) = _one(outputs, "insert after", value)
        patch.behind(value, steps, {value: output})
    return patch.done()


def insert_before(
    graph: Graph, edges: Sequence[tuple[Node, Sequence[int]]], put: Put, infer: Infer
) -> Graph:
    """Put something before one input of each node (at several places if they read one value)."""
    patch = _Patch(graph, infer, _in_its_place)
    for old, places in edges:
        node = patch.node(old)
        value = patch.now(node.inputs[places[0]])
        steps, outputs = put(patch.graph, [value], node)
        (output,) = _one(outputs, "insert before", node)
        patch.before(node, steps, places, output)
    return patch.done()


def remove(graph: Graph, nodes: Sequence[Node], keep: Sequence[int | None], infer: Infer) -> Graph:
    """Remove nodes: their consumers read the node's input instead, the one that `keep` names.

    Raises:
        EditError: If several outputs are used; or if `keep` names no input, and not exactly one
            input has the spec of the output.
    """
    way_out = _with_it(
        [graph.label(node) for node in nodes],
        "in one step, replace it by a new {}, and what you remove by keras.layers.Identity()",
    )
    patch = _Patch(graph, infer, way_out)
    for old, place in sorted(
        zip(nodes, keep, strict=True), key=lambda pair: graph.position(pair[0])
    ):
        node = patch.node(old)
        used = [v for v in node.outputs if _is_used(patch.graph, v)] or [node.outputs[0]]
        inputs = list(dict.fromkeys(node.inputs[i] for i in read_places(node)))
        if len(used) > 1:
            raise EditError(
                f"remove {node.label!r}: {listed(map(patch.graph.label, used))} are used, and one "
                "input cannot replace all of them. Use rewire, or replace it by a function."
            )
        value = patch.graph.known(used[0])
        if place is None:
            through = patch.now(passing(node, value, inputs, patch.now))
        else:
            through = patch.now(node.inputs[place])
        if place is None and not _alike(through, value):
            raise EditError(_changes_spec(patch.graph, node, value, through))
        patch.put(node, [], {value: through})
    return patch.done()


def rewire(graph: Graph, reads: Mapping[Value, Value], infer: Infer) -> Graph:
    """Let the consumers of some values read other values.

    Raises:
        EditError: If this closes a cycle; the message shows its path.
    """
    reads = {old: new for old, new in reads.items() if old != new}
    for old, new in reads.items():
        _check_mask(graph, old, new)
    result = graph.spliced({}, reads)
    touched = {user: [result.node(user)] for old in reads for user in graph.consumers(old)}
    try:
        result = in_order(result, touched)
    except GraphError as error:
        pairs = ", ".join(f"{graph.label(a)!r}: {graph.label(b)!r}" for a, b in reads.items())
        raise EditError(f"rewire {{{pairs}}}: {words_of(error)}") from error
    dropped = [old for old in reads if old not in graph.inputs]
    names = [graph.label(value) for value in reads.values()]
    return swept(infer(result, way_out=_reading(names)), dropped)


def _check_mask(graph: Graph, old: Value, new: Value) -> None:
    """Refuse to replace a mask that a layer makes in every run, or by a value of another spec."""
    label = graph.label(graph.known(old))
    makers = graph.consumers(old, as_mask=True)
    attached = [graph.label(n) for n in makers] + [
        graph.label(v) for v in graph.inputs if v.mask == old
    ]
    if attached:
        made = (
            f"{makers[0].kind} {attached[0]!r} makes" if makers else f"comes with {attached[0]!r}"
        )
        raise EditError(
            f"{label!r} is the mask that {made}. It is attached to that tensor in every run, so not "
            "all layers behind it would see another one. The way out: a layer behind it whose "
            "compute_mask returns the mask that you want, "
            f"{advice.call('insert', ('new', advice.As('layer')), after=attached[0])}. To have none, replace a Masking "
            "by keras.layers.Identity()."
        )
    was, now = graph.known(old).spec, new.spec
    passing = [n for n in graph.consumers(old) if any(v.mask == old for v in n.outputs)]
    if passing and was is not None and now is not None and not was.holds_as(now):
        raise EditError(
            f"{label!r} is the mask that Keras passes on with the output of "
            f"{listed((graph.label(node) for node in passing), 3)}: it is {was}, and its "
            f"replacement is {now}. The way out: name a value of the same shape and dtype."
        )


def _with_it(labels: Sequence[str], what: str) -> WayOut:
    def way_out(_: Graph, node: Node, wanted: str) -> str:
        new = "new", advice.As("lambda node: ...")
        text = advice.call("replace", ("target", [*labels[:3], node.label]), new)
        return _either(node, wanted, f"{what}: {text}, called for each")

    return way_out


def _in_its_place(_: Graph, node: Node, wanted: str) -> str:
    what = "insert the new part and a new {} behind it in one step"
    new = "new", advice.As("lambda x: ...")
    text = advice.call("replace", ("target", node.label), new)
    return _either(node, wanted, f"{what}: {text}")


def _reading(labels: Sequence[str]) -> WayOut:
    def way_out(_: Graph, node: Node, wanted: str) -> str:
        return (
            f"The way out: let it read {wanted}, as before: insert a layer that makes that from the "
            f"other value, {advice.call('insert', ('new', advice.As('new')), after=labels[0])}, and let {node.label!r} "
            "read its output."
        )

    return way_out


def _either(node: Node, wanted: str, new: str) -> str:
    """Return the ways out: a new operation there, or the same specs as before for the old one."""
    if not wanted:
        return (
            f"The way out: use a {node.kind} that was not called before: it is built for what it "
            "reads there."
        )
    as_before = f"let it read {wanted}, as before"
    if not weights_of(node.operation):
        return f"The way out: {as_before}: put a layer that makes that in front of it."
    return f"The way out: {new.replace('{}', node.kind, 1)}; or {as_before}."


def passing(
    node: Node, output: Value, inputs: Sequence[Value], now: Callable[[Value], Value]
) -> Value:
    """Return the input that replaces an output of a node when the node is removed.

    It is the only input, or the only one of the output's shape and dtype: not a padding mask.

    Raises:
        EditError: If it is not clear which one; the message says how to name it.
    """
    alike = [v for v in inputs if _alike(now(v), output)]
    if len(inputs) > 1 and len(alike) != 1:
        kind = (
            "of the output's shape and dtype" if alike else "none of the output's shape and dtype"
        )
        number = f"{len(alike)} " if alike else ""
        raise EditError(
            f"remove {node.label!r}: it has {len(inputs)} inputs, {number}{kind}. Say which one "
            f"passes through: keep={_names(node.home, inputs)}; for several nodes at once give "
            "its number, such as keep=0, or a list with one input of each."
        )
    return alike[0] if len(inputs) > 1 else inputs[0]


def _alike(one: Value, other: Value) -> bool:
    if one.spec is None or other.spec is None:
        return one.spec is other.spec
    return one.spec.holds_as(other.spec)


def _is_used(graph: Graph, value: Value) -> bool:
    return bool(graph.consumers(value)) or value in graph.outputs


def _one(outputs: Sequence[Value], verb: str, item: Node | Value) -> Sequence[Value]:
    if len(outputs) != 1:
        raise EditError(
            f"{verb} {item.label!r}: the new part gives {counted(len(outputs), 'value')}, and one is needed."
        )
    return outputs


def _names(graph: Graph, values: Sequence[Value]) -> str:
    return " or keep=".join(quoted(graph.label(v)) for v in values)


def _changes_spec(graph: Graph, node: Node, value: Value, through: Value) -> str:
    users = [graph.label(n) for n in graph.consumers(value)]
    source = graph.label(node.inputs[0])
    text = f"remove {node.label!r}: it turns {through.spec} into {value.spec}"
    if users:
        return (
            f"{text}; {listed(users, 5)} would read {source!r} as it is. If you want that: "
            f"{advice.call('remove', ('target', node.label), keep=source)}."
        )
    return (
        f"{text}, and nothing comes after it. To drop the end of a model, take the part before: "
        f"{advice.call('submodel', outputs=source)}."
    )
