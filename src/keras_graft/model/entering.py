"""How the tensors of a call enter the graph inside it."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from keras_graft import _keras
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Entry, Node, Slot, Spec, Template, Value
from keras_graft.model.symbolic import spec_of

tree = keras.tree


def with_inside(node: Node, nested: Graph, reads: Sequence[int]) -> Node:
    """Return the call of a layer with the graph inside, whose inputs are these reads of the call."""
    entries = tuple(
        Entry(place, _adapt(node.reads[place], inner))
        for place, inner in zip(reads, nested.inputs, strict=True)
    )
    return node.replace(nested=nested, entries=entries)


def mask_places(template: Template, nested: Graph) -> dict[int, int]:
    """Return which inputs of a nested model get a mask, and which input of the call it is."""
    mask = template.kwargs.get("mask")
    flat = [] if mask is None else tree.flatten(mask)
    return {
        place: leaf.index
        for place, leaf in enumerate(flat[: len(nested.inputs)])
        if isinstance(leaf, Slot)
    }


def entering_spec(node: Node, entry: Entry) -> Spec | None:
    """Return the spec of a tensor that enters a nested model, after casts and changes of rank."""
    if entry.source is None:
        return None
    return entry.adapt[-1].outputs[0].spec if entry.adapt else node.reads[entry.source].spec


def entries(template: Template, inputs: Sequence[Value], nested: Graph) -> tuple[Entry, ...]:
    """Match the tensors of a call to the inputs of a nested model, as Functional does."""
    given = template.args[0] if template.args else template.kwargs["inputs"]
    structure = nested.input_template
    if isinstance(given, dict) and not isinstance(structure, dict):
        # Functional matches a dict to a list of inputs by the inputs' names.
        given = [given.get(value.name) for value in nested.inputs]
    flat = tree.flatten(given)
    entries = []
    for leaf, inner in zip(flat, nested.inputs, strict=False):
        if not isinstance(leaf, Slot):
            entries.append(Entry(None))
            continue
        entries.append(Entry(leaf.index, _adapt(inputs[leaf.index], inner)))
    return tuple(entries)


def _adapt(outer: Value, inner: Value) -> tuple[Node, ...]:
    """Return the cast, squeeze or expansion that Functional applies to an input by itself."""
    assert outer.spec is not None and inner.spec is not None
    tensor = keras.KerasTensor(outer.spec.shape, outer.spec.dtype)
    steps = []
    if outer.spec.dtype != inner.spec.dtype:
        tensor = keras.ops.cast(tensor, inner.spec.dtype)
        steps.append(tensor)
    rank, wanted = len(outer.spec.shape), len(inner.spec.shape)
    if rank == wanted + 1:
        tensor = keras.ops.squeeze(tensor, axis=-1)
        steps.append(tensor)
    elif rank == wanted - 1:
        tensor = keras.ops.expand_dims(tensor, axis=-1)
        steps.append(tensor)
    result: list[Node] = []
    value = outer
    for step in steps:
        operation = _keras.node_of(step).operation
        output = Value(spec_of(step), step.name, origin=step)
        result.append(Node(operation, Template(), (value.with_spec(value.spec),), (output,)))
        value = output
    return tuple(result)
