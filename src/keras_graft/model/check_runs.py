"""Check calls on abstract tensors: do they run, and give the shapes and dtypes in their specs?

Keras's shape inference trusts the layers, and many compute their output shape without looking at
their weights. A `LayerNormalization` or an LSTM then accepts any number of features and fails when
it runs, or, where a size of one is broadcast, gives a shape that it did not announce. Here the
backend traces every call as it would run, without data. Where tracing is not enough, the call runs
on zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import keras

from keras_graft import _keras
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Value
from keras_graft.graph.walk import needed
from keras_graft.model.abstract import (
    SIZES,
    Failure,
    Impossible,
    Shape,
    Walk,
    alike,
    is_odd,
    rows_of,
)
from keras_graft.model.opening.written import attributes_kept

_FACTORS = (2, 0.5)
"""Factors to try on the known size of a dimension that may vary from now on."""


def needs_trial(node: Node) -> bool:
    """Whether the outputs of a call that was just traced may differ from its specs.

    Some of Keras's own layers and ops can be trusted: a layer that was built for what it reads, an
    elementwise layer, an op whose outputs have the spec of its inputs. So can a layer of this
    package whose specs the edit that puts it in has compared (`keras_graft_checked`).
    """
    operation, kind = node.operation, type(node.operation).__module__
    if getattr(operation, "keras_graft_checked", False):
        return False
    specs = [value.spec for value in node.inputs]
    if node.nested is not None:
        return specs != [value.spec for value in node.nested.inputs]
    if not kind.startswith("keras.") or any(s is None or "float" not in s.dtype for s in specs):
        return True  # with integers and booleans, even Keras's own layers can be wrong
    if not isinstance(operation, keras.Layer):
        return any(out.spec not in specs for out in node.outputs) or len(set(specs)) != 1
    if len(specs) != 1 or specs[0] is None or _keras.sublayers(operation):
        return True
    if not operation.weights:
        return not _keras.is_elementwise(operation)
    built = (operation.get_build_config() or {}).get("input_shape")
    return built is None or not alike(tuple(built), specs[0].shape)


def trial(
    graph: Graph,
    nodes: Sequence[Node] | None = None,
    before: Mapping[Value, Sequence[int | None] | None] | None = None,
) -> Failure | None:
    """Run calls of a graph on abstract tensors with complete shapes.

    A dimension that may vary must work at some size; if it was fixed before, at a different size.
    Only `untried` calls can fail; a call that could not run before either is trusted.

    Args:
        graph: The graph, its specs inferred.
        nodes: The calls to run; all if None. Where sizes are unknown, earlier calls run too.
        before: The old shapes of the inputs, where they changed.

    Returns:
        The first call that fails, if some call fails at every size that was tried.

    Raises:
        Impossible: If the backend has no tensors like these inputs.
    """
    if nodes is None:
        return _first(graph, graph.steps, before or {}, text=False)
    steps = _with_sizes(graph, nodes)
    try:
        failure = _first(graph, steps, {})
        if failure is not None:
            # The sizes it started from may not fit together, not even those of the batch: only those
            # of the inputs surely do.
            ran = {node.key for node in (*needed(graph, _outside(graph, steps)), *steps)}
            failure = _first(graph, [node for node in graph.steps if node.key in ran], {})
    except Impossible:
        return None
    return failure


def _first(
    graph: Graph,
    steps: Sequence[Node],
    before: Mapping[Value, Sequence[int | None] | None],
    text: bool = True,
) -> Failure | None:
    """Return the first call that fails, if some call fails at every size that is tried."""
    sparse = any(v.spec is None or v.spec.sparse for v in graph.inputs)
    starts = [v for v in _outside(graph, steps) if not is_odd(v.spec, sparse, text)]
    failure = None
    unsure = False
    sizes = SIZES if before else (*_known_before(steps), *SIZES)
    for shapes in _shapes(starts, before, sizes):
        run = Walk(graph, dict(zip(starts, shapes, strict=True)), tuple(shapes))
        with attributes_kept(node.operation for node in steps):
            failure = run.through(steps)
        if failure is None and not run.unsure:
            return None
        unsure = unsure or failure is None
    return None if unsure else failure


def told(graph: Graph, failure: Failure) -> str:
    """Return what is wrong: the call, what it reads and from where, and what it expected."""
    node = graph.node(failure.node)
    lines = []
    expected = node.untried or [None] * len(node.inputs)
    for value, old in zip(node.inputs, expected, strict=True):
        producer = graph.producer(value)
        source = "an input" if producer is None else f"node {graph.label(producer)!r}"
        wanted = "" if old is None or old == value.spec else f"expected {old}, "
        lines.append(f"  {graph.label(value)!r} from {source}: {wanted}found {value.spec}")
    inside = f" ({'/'.join([node.label, *failure.inside])!r} inside it)" if failure.inside else ""
    free = any(v.spec is None or None in v.spec.shape[1:] for v in node.inputs)
    tried = (
        f"\nUnknown dimensions were tried with inputs of {', '.join(map(str, failure.given))}."
        if free
        else ""
    )
    return (
        f"{node.kind} {node.label!r} in graph {graph.name!r}{inside} cannot run on its inputs:\n"
        + "\n".join(lines)
        + f"\n{failure.reason}{tried}"
    )


def rows(node: Node, inputs: Sequence[Value]) -> int | None:
    """Return how many rows a call gives for two samples, where its specs tell.

    When the size of a sample changes, an op such as `ops.reshape(x, (-1, 50))` makes several rows
    from one sample, or one row from several; its spec still says only that the batch may vary.
    """
    return rows_of(node, [value.spec for value in inputs], 2)


def _with_sizes(graph: Graph, nodes: Sequence[Node]) -> Sequence[Node]:
    """Return calls in order; where sizes are unknown, with the calls before them.

    Only sizes that come from the inputs surely fit together.
    """
    free = [
        v
        for v in _outside(graph, nodes)
        if graph.producer(v) is not None and (v.spec is None or None in v.spec.shape[1:])
    ]
    if not free:
        return nodes
    ran = {node.key for node in (*needed(graph, free), *nodes)}
    return [node for node in graph.steps if node.key in ran]


def _outside(graph: Graph, steps: Sequence[Node]) -> list[Value]:
    inputs = {v.key for v in graph.inputs}
    made = {v.key for node in steps for v in node.outputs} - inputs
    found = dict.fromkeys(v for node in steps for v in node.inputs if v.key not in made)
    return [graph.known(v) for v in found]


def _known_before(steps: Sequence[Node]) -> list[int]:
    """Return sizes that calls read before, in dimensions that may vary now."""
    found = {
        was
        for node in steps
        for old, value in zip(node.untried or (), node.inputs, strict=False)
        if old is not None and value.spec is not None
        for was, now in zip(old.shape[1:], value.spec.shape[1:], strict=False)
        if now is None and was is not None
    }
    return sorted(found)[:2]


def _shapes(
    starts: Sequence[Value],
    before: Mapping[Value, Sequence[int | None] | None],
    sizes: Sequence[int],
) -> Iterator[list[Shape]]:
    """Yield the shapes to try."""
    shapes = [tuple(v.spec.shape) for v in starts]  # type: ignore[union-attr]
    old = [before.get(v.within(None)) or () for v in starts]
    batches = [s[0] for s in shapes if s and s[0]] or [s[0] + 1 for s in old if s and s[0]] or [2]
    free = any(None in shape[1:] for shape in shapes)
    for size in sizes if free else sizes[:1]:
        for factor in _FACTORS if free and before else _FACTORS[:1]:
            yield [
                tuple(_size(d, i, was, batches[0], size, factor) for i, d in enumerate(shape))
                for shape, was in zip(shapes, old, strict=True)
            ]


def _size(
    size: int | None, place: int, before: Sequence[int | None], batch: int, free: int, factor: float
) -> int:
    if size is not None:
        return size
    if place == 0:
        return batch
    was = before[place] if place < len(before) else None
    return free if was is None else max(1, int(was * factor))
