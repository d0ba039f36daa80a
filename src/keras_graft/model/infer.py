"""Shape inference after an edit: specs and masks are computed again only where they change."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any

from keras_graft import _keras, advice
from keras_graft.errors import BuildError
from keras_graft.graph.graph import Graph
from keras_graft.graph.index import Position
from keras_graft.graph.node import Node, Slot, Spec, Template, Value
from keras_graft.model.abstract import Failure, alike, reason_of
from keras_graft.model.calls import caller, mapped
from keras_graft.model.check_runs import told, trial
from keras_graft.model.masks_taken_off import finding_no_mask
from keras_graft.model.read import trace

WayOut = Callable[[Graph, Node, str], str]
"""Returns advice for a call that cannot run, from the graph, the node and the specs it takes."""

Fit = Callable[[Graph, Node, Sequence[Value]], Node]
"""Returns a node, with another operation if its present inputs need one."""


def infer(
    graph: Graph,
    fit: Fit | None = None,
    until: Position | None = None,
    run: bool = True,
    way_out: WayOut | None = None,
) -> Graph:
    """Return the graph with correct specs and masks for all its values.

    A node whose inputs have the recorded specs and masks keeps its outputs; other nodes are called
    on symbolic tensors, as Keras does. An edit says which nodes it made, so in a large graph only
    these and the changed nodes behind them are checked. Keras accepts many calls that cannot run,
    so all of them are then run together on abstract tensors.

    Args:
        graph: The graph.
        fit: Called for every node before the node is called again.
        until: A position in the graph: nodes from there on are inferred later, and nothing runs
            yet. A node that will be replaced need not accept its present inputs.
        run: Whether calls whose input specs changed are run on abstract tensors.
        way_out: Returns the advice in an error message; general advice if None.

    Raises:
        BuildError: If an operation does not take its inputs, cannot run, or would not give what it
            says. The message names it, what gives its inputs, the specs, and a way out.
    """
    graph = _inferred(graph, fit, until, way_out or _way_out)
    untried = [n for n in graph.steps if n.untried is not None] if run and until is None else []
    if not untried:
        return graph
    _check_masks(graph, untried)
    failure = trial(graph, untried)
    if failure is not None:
        raise BuildError(_cannot_run(graph, failure, way_out or _way_out))
    return tried(graph, untried)


def _check_masks(graph: Graph, nodes: Sequence[Node]) -> None:
    """Refuse a mask that was computed again and no longer fits its tensor.

    Not every backend finds this when it runs without data.
    """
    for node in nodes:
        for mask in map(graph.known, node.outputs):
            users = (*graph.consumers(mask), *graph.consumers(mask, as_mask=True))
            for value in (graph.known(v) for user in users for v in (*user.inputs, *user.outputs)):
                if value.mask != mask or value.spec is None or mask.spec is None:
                    continue
                if not alike(mask.spec.shape, value.spec.shape[: len(mask.spec.shape)]):
                    raise BuildError(
                        f"{graph.label(mask)!r}, the mask of {graph.label(value)!r}, would be "
                        f"{mask.spec}, and does not fit {value.spec}. The way out: let the node "
                        "that computes the mask read what it read before."
                    )


def tried(graph: Graph, nodes: Sequence[Node]) -> Graph:
    """Return the graph with these calls known to run."""
    return graph.spliced({n: [n.replace(untried=None)] for n in nodes}, {}).settled()


def _inferred(graph: Graph, fit: Fit | None, until: Position | None, way_out: WayOut) -> Graph:
    if graph.stale == ():
        return graph
    stale = [node.key for node in graph.steps] if graph.stale is None else graph.stale
    waiting = [(graph.step(key)[0], key) for key in stale]
    heapq.heapify(waiting)
    now: dict[Value, Value] = {}
    instead: dict[Node, Sequence[Node]] = {}
    last = None

    def known(mask: Value) -> Value | None:
        # It may be a mask that was made in this loop: the graph does not know it yet.
        return now.get(mask) or (graph.known(mask) if mask in graph else None)

    while waiting and (until is None or waiting[0][0] < until):
        _, key = heapq.heappop(waiting)
        if key is last:
            continue
        last = key
        _, node = graph.step(key)
        inputs = tuple(now.get(v) or graph.known(v) for v in node.inputs)
        if _holds(node, inputs):
            continue
        node = _renewed(node, inputs, fit and fit(graph, node, inputs))
        new = _called(graph, node, inputs, known, way_out)
        instead[node] = new
        now.update((v, v) for step in new if step.key is not node.key for v in step.outputs)
        changed = next(n for n in new if n.key is node.key)
        for old, value in zip(node.outputs, changed.outputs, strict=True):
            if (old.spec == value.spec and old.mask == value.mask) or value in graph.inputs:
                continue
            now[value] = value
            for user in graph.consumers(value):
                heapq.heappush(waiting, (graph.position(user), user.key))
    if instead:
        graph = graph.spliced(instead, {})
    return graph.settled(dict.fromkeys(key for _, key in waiting))


def _renewed(node: Node, inputs: Sequence[Value], fitted: Node | None) -> Node:
    """Return a node that must be called again, with the specs it was last known to run on."""
    if fitted is not None and fitted.operation is not node.operation:
        return fitted.replace(untried=())
    node = fitted or node
    old = tuple(value.spec for value in node.inputs)
    if node.untried is None and old != tuple(value.spec for value in inputs):
        return node.replace(untried=old)
    return node


def _holds(node: Node, inputs: Sequence[Value]) -> bool:
    """Whether the recorded outputs of a node are still right."""
    if any(value.spec is None for value in node.outputs):
        return False
    for old, new in zip(node.inputs, inputs, strict=True):
        if old.spec is None or (old.spec is not new.spec and old.spec != new.spec):
            return False
        if old.mask != new.mask and _keras.reads_masks(node.operation):
            return False
    return True


def _called(
    graph: Graph, node: Node, inputs: Sequence[Value], known: Callable[[Value], Value | None],
    way_out: WayOut,
) -> list[Node]:  # fmt: skip
    """Call a node on its present inputs; return it with the nodes that compute its masks."""
    template, inputs = with_masks_of(node, inputs, known)
    call = _keras.inner_call()(caller(node.operation, template))
    try:
        traced = trace(call, inputs, known)
    except Exception as error:
        raise BuildError(_does_not_take(graph, graph.node(node), inputs, error, way_out)) from error
    mapping: dict[Value, Value] = {}
    result = []
    for step in traced.steps:
        if step.operation is not node.operation:
            result.append(step.reading(mapping))
            continue
        for old, new in zip(node.outputs, step.outputs, strict=True):
            mapping[new] = Value(new.spec, old.name, old.optional, new.mask, old.origin, old.key)
        outputs = tuple(mapping.values())
        untried = node.untried
        if untried and len(step.inputs) != len(untried):
            # It may now read a mask that it did not read before, or the reverse.
            before = dict(zip(inputs, untried, strict=True))
            untried = tuple(before.get(v, v.spec) for v in step.inputs)
        step = finding_no_mask(step, node.maskless, template, trace)
        result.append(
            step.replace(
                key=node.key, outputs=outputs, nested=_inside(node, step), untried=untried,
                maskless=node.maskless,
            )
        )  # fmt: skip
    return result


def _inside(node: Node, step: Node) -> Graph | None:
    """Return the graph inside a nested model: the known one, as others may refer to its nodes.

    If this call runs the model under masks, it is a different graph.
    """
    known, now = node.nested, step.nested
    if known is None or now is None or step.unseen or len(known.inputs) != len(now.inputs):
        return now
    return known if len(known.inputs) == len(step.operation.inputs) else now


def with_masks_of(
    node: Node, inputs: Sequence[Value], known: Callable[[Value], Value | None]
) -> tuple[Template, tuple[Value, ...]]:
    """Return the recorded call of a node, and its inputs, with the present masks.

    If a mask argument is the mask of an input, Keras filled it in; the present mask of that input
    replaces it. It is not left for Keras to fill in: Keras would record none and look for it at
    each run, where `MultiHeadAttention` may have removed it.

    Args:
        node: The node, with what it read when it was recorded.
        inputs: What it reads now.
        known: Returns a mask as the graph knows it, None if it does not.
    """
    masks = {
        was.mask: value.mask
        for was, value in zip(node.inputs, inputs, strict=True)
        if was.mask is not None and was.mask != value.mask
    }
    if not masks:
        return node.template, tuple(inputs)
    reads = list(inputs)

    def today(leaf: Any) -> Any:
        if not isinstance(leaf, Slot) or node.inputs[leaf.index] not in masks:
            return leaf
        mask = masks[node.inputs[leaf.index]]
        found = None if mask is None else known(mask)
        if found is None:
            return None
        reads[leaf.index] = found
        return leaf

    kwargs = {name: mapped(value, today) for name, value in node.template.kwargs.items()}
    return Template(node.template.args, kwargs), tuple(reads)


def _does_not_take(
    graph: Graph, node: Node, inputs: Sequence[Value], error: Exception, way_out: WayOut
) -> str:
    lines = []
    for old, new in zip(node.inputs, inputs, strict=True):
        producer = graph.producer(old)
        source = "an input" if producer is None else f"node {graph.label(producer)!r}"
        expected = "" if old.spec is None or old.spec == new.spec else f"expected {old.spec}, "
        lines.append(f"  {graph.label(old)!r} from {source}: {expected}found {new.spec}")
    return (
        f"{node.kind} {graph.label(node)!r} in graph {graph.name!r} does not take its inputs:\n"
        + "\n".join(lines)
        + f"\nKeras says: {reason_of(error)}\n"
        + way_out(graph, node, _wanted([value.spec for value in node.inputs]))
    ).rstrip()


def _cannot_run(graph: Graph, failure: Failure, way_out: WayOut) -> str:
    node = graph.node(failure.node)
    return f"{told(graph, failure)}\n{way_out(graph, node, _wanted(node.untried or ()))}"


def _wanted(specs: Sequence[Spec | None]) -> str:
    """Return the specs that a call takes, as text."""
    return " and ".join(str(spec) for spec in dict.fromkeys(specs) if spec is not None)


def _way_out(graph: Graph, node: Node, wanted: str) -> str:
    given = f"let it read {wanted}, as before; or " if wanted else ""
    return (
        f"The way out: {given}replace it by a new {node.kind}, together with what gives its input, "
        "in one step: "
        + advice.call("replace", ("target", node.label), ("new", advice.As("lambda x: ...")))
        + "."
    )
