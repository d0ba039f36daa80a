"""Specs after an edit: inferred again where they changed, and nowhere else."""

from __future__ import annotations

from typing import Any

import keras

from keras_graft import _keras
from keras_graft.call import filled
from keras_graft.errors import BuildError
from keras_graft.graph import Graph
from keras_graft.node import Node, Spec, Value
from keras_graft.read import spec_of, tensor_of


def infer(graph: Graph) -> Graph:
    """Return the graph with the specs of all its values known.

    A node whose inputs have the specs that it was recorded with gives what it gave; the others
    are called on symbolic tensors, as Keras would.

    Raises:
        BuildError: If an operation does not take its inputs: the message names it, what gives
            them, and the specs.
    """
    graph = _graphs_inside(graph)
    specs: dict[Value, Spec | None] = {}
    for node in graph.steps:
        for value in node.outputs:
            specs[value] = value.spec
    specs.update((value, value.spec) for value in graph.inputs)
    given = set(graph.inputs)
    nodes: dict[Any, Node] = {}
    for node in graph.steps:
        if all(_same(specs[v], v.spec) for v in node.inputs) and all(
            v.spec is not None for v in node.outputs
        ):
            continue
        inputs = tuple(v.with_spec(specs[v]) for v in node.inputs)
        found = _outputs(graph, node, inputs)
        outputs = tuple(v.with_spec(s) for v, s in zip(node.outputs, found, strict=True))
        nodes[node.key] = node.replace(inputs=inputs, outputs=outputs)
        specs.update((v, v.spec) for v in outputs if v not in given)
    if not nodes:
        return graph
    return graph.replace(
        nodes=[nodes.get(node.key, node) for node in graph.steps], origin=graph.origin
    )


def _same(a: Spec | None, b: Spec | None) -> bool:
    return a is not None and (a is b or a == b)


def _graphs_inside(graph: Graph) -> Graph:
    """Infer the models that were edited and are not built yet; each once, for all its calls."""
    inside = {id(op): op for op in graph.operations if isinstance(op, Graph)}
    known = {key: infer(op) for key, op in inside.items()}
    if all(known[key] is op for key, op in inside.items()):
        return graph
    return graph.replace(nodes=[
        node.replace(operation=known[id(node.operation)], nested=known[id(node.operation)])
        if id(node.operation) in known else node
        for node in graph.steps
    ])  # fmt: skip


def _outputs(graph: Graph, node: Node, inputs: tuple[Value, ...]) -> list[Spec]:
    if isinstance(node.operation, Graph):
        return _outputs_of_graph(node, inputs)
    assert all(v.spec is not None for v in inputs)
    tensors = [tensor_of(v.spec, v.name) for v in inputs]  # type: ignore[arg-type]
    args, kwargs = filled(node.template, tensors)
    builder = _keras.Builder()
    try:
        outputs = keras.tree.flatten(builder.call(node.operation, args, kwargs))
    except Exception as error:
        raise BuildError(_does_not_take(graph, node, inputs, error)) from error
    finally:
        builder.undo()
    return [spec_of(tensor) for tensor in outputs]


def _outputs_of_graph(node: Node, inputs: tuple[Value, ...]) -> list[Spec]:
    nested: Graph = node.operation
    entering = []
    for value, entry in zip(nested.inputs, node.entries, strict=True):
        known = entry.source is not None and not entry.adapt
        entering.append(value.with_spec(inputs[entry.source].spec) if known else value)  # type: ignore[index]
    if all(_same(a.spec, b.spec) for a, b in zip(entering, nested.inputs, strict=True)):
        result = nested
    else:
        result = infer(nested.replace(inputs=entering))
    return [value.spec for value in result.outputs]  # type: ignore[misc]


def _does_not_take(graph: Graph, node: Node, inputs: tuple[Value, ...], error: Exception) -> str:
    lines = []
    for old, new in zip(node.inputs, inputs, strict=True):
        producer = graph.producer(old)
        source = "an input" if producer is None else f"node {graph.label(producer)!r}"
        expected = "" if old.spec is None or old.spec == new.spec else f"expected {old.spec}, "
        lines.append(f"  {graph.label(old)!r} from {source}: {expected}found {new.spec}")
    return (
        f"{node.kind} {graph.label(node)!r} in graph {graph.name!r} does not take its inputs:\n"
        + "\n".join(lines)
        + f"\nKeras says: {error}"
    )
