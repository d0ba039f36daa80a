"""The verb `remat`: training keeps the ends of blocks only, and computes what is inside again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import keras

from keras_graft import _keras, advice
from keras_graft.edit.nest import fold
from keras_graft.edit.places import nodes_named
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import Names, listed, safe
from keras_graft.graph.node import Node, Slot, flat_slots
from keras_graft.graph.walk import after, needed
from keras_graft.layers.remat import Remat
from keras_graft.look.blocks import blocks
from keras_graft.look.numbers import place_of
from keras_graft.look.wiring import Wiring
from keras_graft.model.infer import infer
from keras_graft.model.nested import Place, at_depth
from keras_graft.model.verb import verb
from keras_graft.printable import shown
from keras_graft.shared.kept import edited


@verb
def remat(graph: Graph, target: Any) -> Graph:
    """Let training keep only the ends of blocks: the backward pass computes the rest again.

    This is rematerialization, or gradient checkpointing (Chen et al., Training Deep Nets with
    Sublinear Memory Cost, 2016): less memory for activations, one more run of each block. Each block
    becomes a nested model, a `kg.layers.Remat`. Outputs, gradients, losses and moving statistics are
    those of the donor, and dropout draws the same values in both runs. The weights are shared with
    the donor. `kg.inline` undoes it.

    What is selected is grouped into blocks. Calls whose names begin as those of a block, such as
    `block_3_expand` and `block_3_add`, are one: `kg.costs(model, by="block")` lists blocks. A nested
    model, or a layer that holds layers, is one by itself. Other calls that follow each other are one
    together. Calls that lie between calls of a block belong to it. A block saves what lies between
    its ends, so a single plain layer saves nearly nothing, and one block of everything neither.

    Args:
        model: A Keras model or a `Graph`.
        target: A selector of calls.

    Raises:
        EditError: If a block cannot be one nested model: a layer in it is called outside too, calls
            of another block lie in it, a mask enters it that attention inside takes off, or it reads
            no tensor.

    >>> import keras, keras_graft as kg
    >>> x = y = keras.Input((4,), name="x")
    >>> for i in range(2):
    ...     y = keras.layers.Dense(64, activation="gelu", name=f"block{i}_up")(y)
    ...     y = keras.layers.Dense(4, name=f"block{i}_down")(y)
    >>> model = kg.remat(keras.Model(x, y), "block*")
    >>> [(layer.name, type(layer).__name__) for layer in model.layers[1:]]
    [('block0', 'Remat'), ('block1', 'Remat')]
    """
    nodes = nodes_named(graph, target, "remat")
    chosen = {place_of(node) for node in nodes}
    outer = [n for n in nodes if not any(place_of(s) in chosen for s in n.scope)]
    places: list[Place] = [tuple(group) for group in _groups(graph, outer)]

    def edit(level: Graph, places: list[Place]) -> Graph:
        level = infer(level)
        regions = [_whole(level, [level.node(n) for n in place]) for place in places]  # type: ignore[arg-type]
        _apart(level, regions)
        names = Names([*level.input_names, *(n.name for n in level.nodes)])
        for region in regions:
            level = _folded(level, region, names)
        return level

    return edited(graph, at_depth(graph, places, edit), f"remat {shown(target)}")


def _groups(graph: Graph, nodes: Sequence[Node]) -> list[list[Node]]:
    """Return the nodes of each block, in graph order."""
    wiring = Wiring(graph)
    number = {place: i for i, places in enumerate(blocks(wiring)) for place in places}
    found: dict[Any, list[Node]] = {}
    loose: list[Node] = []
    for node in nodes:
        at = number.get(place_of(node))
        if at is not None:
            found.setdefault((at, node.scope), []).append(node)
        elif node.nested is not None or len(list(_keras.sublayers(node.operation))) > 1:
            found[place_of(node)] = [node]
        else:
            loose.append(node)
    return [*found.values(), *_runs(loose)]


def _runs(nodes: Sequence[Node]) -> list[list[Node]]:
    """Return nodes in groups, in each of which they are connected."""
    group: dict[Node, list[Node]] = {node: [node] for node in nodes}
    for node in nodes:
        for source in node.producers:
            if source in group and group[source] is not group[node]:
                joined, other = group[source], group[node]
                joined += other
                group.update(dict.fromkeys(other, joined))
    return list({id(g): g for g in group.values()}.values())


def _whole(graph: Graph, nodes: Sequence[Node]) -> list[Node]:
    """Return nodes with those that lie between them, in graph order."""
    given = [value.within(None) for node in nodes for value in node.gives]
    read = [value.within(None) for node in nodes for value in node.reads]
    behind = set(after(graph, given))
    between = [n for n in needed(graph, read) if n in behind]
    return sorted({*nodes, *map(graph.node, between)}, key=graph.position)


def _apart(graph: Graph, regions: Sequence[Sequence[Node]]) -> None:
    owner: dict[Node, Sequence[Node]] = {}
    for region in regions:
        for node in region:
            other = owner.setdefault(node, region)
            if other is not region:
                raise EditError(
                    f"remat: {graph.label(node)!r} lies between calls of two blocks, that of "
                    f"{graph.label(other[0])!r} and that of {graph.label(region[0])!r}, which "
                    "depend on each other both ways. Select them in several calls, or fewer of them."
                )


def _folded(graph: Graph, region: Sequence[Node], names: Names) -> Graph:
    name = names.take(_name(region))
    inner = set(region)
    read = dict.fromkeys(v.within(None) for n in region for v in n.inputs)
    made = {v.within(None) for n in region for v in n.gives}
    ins = [v for v in read if v not in made]
    ends = set(graph.outputs)
    outs = [
        v for n in region for v in n.outputs
        if v in ends or any(user not in inner for user in graph.consumers(v))
    ]  # fmt: skip
    masks = {graph.known(v).mask for v in outs}
    outs = [v for v in outs if v not in masks]
    label = listed((graph.label(n) for n in region), 3)
    if not ins or not outs:
        what = "reads no tensor" if not ins else "gives nothing that is used"
        raise EditError(
            f"remat: the block of {label} {what}, so there is nothing to compute again."
        )
    for value in (*ins, *outs):
        spec = graph.known(value).spec
        if spec is not None and (spec.sparse or spec.ragged):
            raise EditError(
                f"remat: {graph.label(value)!r}, at an end of the block of {label}, is {spec}. Only "
                "dense tensors can be handed to a block. Take a block that does not end there."
            )
    for node in region:
        for layer in _keras.layers_inside(node.operation):
            if isinstance(layer, keras.layers.SpectralNormalization):
                raise EditError(
                    f"remat: {graph.label(node)!r} ({node.kind}) assigns the weight that is trained "
                    "each time it runs, and a block runs twice. Select other blocks."
                )
            if isinstance(layer, keras.layers.RNN) and layer.stateful:
                raise EditError(
                    f"remat: {graph.label(node)!r} ({node.kind}) is stateful: its gradients were not "
                    "those of the donor when it ran twice. Select other blocks."
                )
    for node in region:
        if node.unmasks and any(mask not in made for _, mask in node.hidden):
            raise EditError(
                f"remat: {graph.label(node)!r} ({node.kind}) takes off a mask that enters the block of "
                f"{label}, and inside the block Keras would not hand that mask on. Select other "
                "blocks, or give the mask as an argument: attention_mask=."
            )
    for node in region:
        outside = [c for c in graph.calls(node.operation) if c not in inner]
        if node.nested is not None and outside:
            raise EditError(
                f"remat: {graph.label(node)!r} is one of several calls of a model: "
                f"{listed(map(graph.label, outside))} too. Let what is inside it be a block: "
                f"{advice.call('remat', ('target', f'**/{node.name}/*'))}."
            )
    slots = Slot(0) if len(ins) == 1 else flat_slots(len(ins))
    given = Slot(0) if len(outs) == 1 else flat_slots(len(outs))
    known = [graph.known(v) for v in outs]
    return fold(graph, (ins, slots), (known, given), name, f"remat {name!r}", Remat)


def _name(region: Sequence[Node]) -> str:
    """Return what the names of a block begin with; of one call its name, with an ending."""
    names = [node.name for node in region]
    start = os.path.commonprefix(names)
    whole = all(name[len(start) :][:1] in ("", "_", "/") for name in names)
    if not whole:
        start = start[: max(start.rfind("_"), start.rfind("/"), 0)]
    start = safe(start.rstrip("_/")) if start.rstrip("_/") else safe(names[-1])
    return f"{start}_remat" if start in names else start
