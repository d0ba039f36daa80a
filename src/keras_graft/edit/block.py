"""A block of a graph, between input and output values: fold it into one node, or repeat it.

The new nodes need Keras (a model of the block, copies of its layers) and are made elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from keras_graft import advice
from keras_graft.errors import CutError, EditError
from keras_graft.graph.copies import copied
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed
from keras_graft.graph.node import Node, Value
from keras_graft.graph.parameters import weights_of
from keras_graft.graph.walk import after, crossing, in_order, needed
from keras_graft.printable import quoted


@dataclass(frozen=True)
class Block:
    """The nodes between some input values and some output values.

    Attributes:
        nodes: In graph order.
        inputs: The values that enter, then the masks that accompany them.
        outputs: The values that leave, then the masks that accompany them.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def block(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Value], verb: str) -> Block:
    """Find the block between two ends, and check that it can stand as one node.

    Raises:
        CutError: If it reads other values from outside; the message names each and its readers.
        EditError: If an output does not depend on the inputs, if something outside reads a value
            from within, if a layer is called outside too, or if an input depends on the block.
    """
    ends = _plain(inputs), _plain(outputs)
    nodes = _between(graph, *ends, verb)
    given = list(ends[0])
    missing = crossing(graph, nodes, ends[1], given)
    masks = [v for v in missing if any(v == i.mask for i in given)]
    others = [v for v in missing if v not in masks]
    if others:
        raise CutError(
            f"{verb}: the block from {listed(map(graph.label, ends[0]))} reads other values too:\n"
            + "\n".join(
                f"  {graph.label(v)!r}, needed by {_users(graph, v, nodes)}" for v in others
            )
            + "\nAdd them: inputs=["
            + ", ".join(quoted(graph.label(v)) for v in (*ends[0], *others))
            + "].",
            others,
        )
    inner = set(nodes)
    used = _read_outside(graph, nodes, ends[1])
    handed = [v for v in used if any(v == o.mask for o in map(graph.known, ends[1]))]
    others = [v for v in used if v not in handed]
    if others:
        raise EditError(
            f"{verb}: nodes outside the block read values from inside it:\n"
            + "\n".join(f"  {graph.label(v)!r}, {_outside(graph, v, inner)}" for v in others)
            + "\nAdd them: outputs=["
            + ", ".join(quoted(graph.label(v)) for v in (*ends[1], *others))
            + "]."
        )
    shared = [n for n in nodes if any(c not in inner for c in graph.calls(n.operation))]
    shared = [n for n in shared if weights_of(n.operation)]
    if shared:
        where = listed(graph.label(c) for c in graph.calls(shared[0].operation) if c not in inner)
        raise EditError(
            f"{verb}: {graph.label(shared[0])!r} lies in the block, and its layer is called outside "
            f"it too: {where}. Keras cannot load a file in which a layer is both inside and outside a "
            "nested model. Take a block that holds all of its calls or none."
        )
    back = [n for n in needed(graph, [*given, *masks]) if n in inner]
    if back:
        raise EditError(
            f"{verb}: {graph.label(back[0])!r} would lie in the block and also before it: "
            f"{listed(map(graph.label, ends[0]))} depends on it. Take inputs that do not depend on "
            "one another through the block."
        )
    for mask in (*masks, *handed):
        node = graph.producer(mask)
        if node is not None and mask not in node.outputs:
            name = graph.name_of(node)
            raise EditError(
                f"{verb}: a mask that the nested model {name!r} makes inside crosses the end of "
                f"the block, and no tensor carries it. Open it first: {advice.call('inline', ('target', str(name)))}."
            )
    return Block(tuple(nodes), (*given, *masks), (*map(graph.known, ends[1]), *handed))


def folded(graph: Graph, found: Block, node: Node) -> Graph:
    """Return the graph with the block replaced by one node that gives the block's outputs."""
    instead: dict[Node, list[Node]] = {n: [] for n in found.nodes}
    instead[found.nodes[-1]] = [node]
    # Nodes that stood among the block's nodes may read values that now come only at its end.
    users = {n: [n] for value in found.outputs for n in graph.consumers(value) if n not in instead}
    result = graph.spliced(instead, {})
    return in_order(result, {**users, node: [node]})


def repeated(
    graph: Graph,
    start: Value,
    stop: Value,
    times: int,
    change: Callable[[Sequence[Node], int], Callable[[Node], Node]],
) -> Graph:
    """Return the graph in which the block between two values runs `times` times in a row.

    Args:
        graph: The graph.
        start: The value that enters the block. Every repetition reads the same other inputs.
        stop: The value that leaves it, of the same spec.
        times: How often the block runs in total.
        change: Called for each repetition with the nodes of the block and the number, from 1;
            returns the function that is applied to each new node.

    Raises:
        EditError: If the specs of the block's input and output differ, or if something outside
            reads a value from within.
    """
    label, end = graph.label(start), graph.label(stop)
    verb = f"repeat {label!r} to {end!r}"
    start, stop = graph.known(start), graph.known(stop)
    nodes = _between(graph, (start,), (stop,), verb)
    if start.spec is None or stop.spec is None or not start.spec.holds_as(stop.spec):
        raise EditError(
            f"{verb}: the block takes {start.spec} from {label!r} and gives {stop.spec} at {end!r}. "
            "Only a block whose output has the shape and dtype of its input can be repeated."
        )
    inner = set(nodes)
    used = _read_outside(graph, nodes, (stop, stop.mask))
    if used:
        raise EditError(
            f"{verb}: nodes outside the block read values from inside it, and it is not clear from "
            "which repetition:\n"
            + "\n".join(f"  {graph.label(v)!r}, {_outside(graph, v, inner)}" for v in used)
            + "\nTake a block that ends after them, or rewire their readers first."
        )
    value, made = stop, []
    for number in range(1, times):
        # The mask differs now: specs are inferred again for the nodes that read it.
        new, mapping = copied(nodes, {start: value}, change(nodes, number))
        made += new
        value = mapping[stop]
    if not made:
        return graph
    reads = {stop: value}
    if stop.mask is not None and value.mask is not None:
        reads[stop.mask] = value.mask
    last = nodes[-1]
    result = graph.spliced({last: [last, *made]}, reads, keep=nodes)
    return in_order(result, {n: [n] for old in reads for n in graph.consumers(old)})


def _plain(values: Sequence[Value]) -> tuple[Value, ...]:
    return tuple(dict.fromkeys(value.within(None) for value in values))


def _between(
    graph: Graph,
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    verb: str,
) -> list[Node]:
    given = set(inputs)
    behind = after(graph, given | {v.mask for v in inputs if v.mask is not None})
    # The nodes that compute an output's mask belong to the block too.
    masks = [v.mask for v in map(graph.known, outputs) if v.mask is not None and v.mask in graph]
    nodes = [n for n in needed(graph, [*outputs, *masks], given) if n in behind]
    made = {v for node in nodes for v in node.gives}
    lost = [v for v in outputs if v not in made]
    if lost:
        raise EditError(
            f"{verb}: {listed(map(graph.label, lost))} does not depend on "
            f"{listed(map(graph.label, inputs))} in {graph.name!r}: are inputs and outputs exchanged?"
        )
    return nodes


def _read_outside(graph: Graph, nodes: Sequence[Node], ends: Sequence[Value | None]) -> list[Value]:
    """Return the values of `nodes`, except the ends, that other nodes or the graph outputs use."""
    inner, outputs = set(nodes), set(graph.outputs)
    return [
        v
        for node in nodes
        for v in node.gives
        if v not in ends and (v in outputs or any(n not in inner for n in graph.consumers(v)))
    ]


def _users(graph: Graph, value: Value, nodes: Sequence[Node]) -> str:
    return listed((graph.label(n) for n in graph.consumers(value) if n in nodes), 3)


def _outside(graph: Graph, value: Value, inner: set[Node]) -> str:
    users = [graph.label(n) for n in graph.consumers(value) if n not in inner]
    return f"read by {listed(users, 3)}" if users else "returned as an output"
