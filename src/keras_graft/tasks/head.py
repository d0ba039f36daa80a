"""The head of a task: all its layers that are not in its backbone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_graft import _keras
from keras_graft import ties as _ties
from keras_graft.errors import EditError, NotYetError
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node
from keras_graft.model.recreate import assign
from keras_graft.model.swap import exchanged
from keras_graft.printable import quoted
from keras_graft.tasks.made_again import shapes_of


@dataclass(frozen=True)
class Head:
    """The head of a task.

    Attributes:
        task: The task.
        graph: Its graph.
    """

    task: Any
    graph: Graph

    def nodes(self) -> list[Node]:
        """Return the first call of each layer with weights that does not belong to the backbone."""
        inside = {id(layer) for layer in _keras.layers_inside(self.task.backbone)}
        theirs = {id(variable) for variable in self.task.backbone.variables}
        first = {id(node.operation): node for node in reversed(self.graph.nodes)}
        return [
            node
            for node in self.graph.nodes
            if first[id(node.operation)] is node
            and id(node.operation) not in inside
            and any(id(v) not in theirs for v in getattr(node.operation, "variables", ()))
        ]


def with_head_of(donor: Head, made: Head, new: bool) -> Graph:
    """Return the graph of a task that was just made, with the layers of the donor's head.

    A layer that holds a layer of the donor's backbone, which the new one does not have, stays, and
    takes only the values of its own weights.

    Args:
        donor: The head whose layers are kept.
        made: The head of the task around the new backbone.
        new: Whether layers that do not fit stay as they were made.

    Raises:
        EditError: If a layer does not fit, and none must be new.
    """
    olds, news = donor.nodes(), made.nodes()
    if [type(n.operation) for n in olds] != [type(n.operation) for n in news]:
        raise NotYetError(
            f"replace_backbone: around {quoted(made.task.backbone.name)}, "
            f"{type(donor.task).__name__} has other layers in its head than {quoted(donor.task.name)}: "
            f"{[n.kind for n in news]} and {[n.kind for n in olds]}. Make it with its constructor, and "
            "copy the weights that you need with kg.transplant."
        )
    instead: dict[int, Any] = {}
    values: list[Callable[[], None]] = []
    for old, fresh in zip(olds, news, strict=True):
        if not _fits(old, fresh):
            if not new:
                raise EditError(_does_not_fit(donor, made, old, fresh))
            continue
        if _foreign(donor, made, old.operation):
            values += _copies(donor, old, fresh)
        else:
            instead[id(fresh.operation)] = old.operation
    for copy in values:
        copy()
    calls = [node for node in made.graph.nodes if id(node.operation) in instead]
    if not calls:
        return made.graph
    return exchanged(made.graph, calls, lambda node: instead[id(node.operation)])


def _shapes(operation: Any) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in operation.weights]


def _fits(old: Node, fresh: Node) -> bool:
    """Whether the weights of a layer are for the input that it would read.

    Those of a quantized layer, or one with LoRA, have other shapes than a layer just made.
    """
    reads = [[value.spec and value.spec.shape for value in node.inputs] for node in (old, fresh)]
    return reads[0] == reads[1] or _shapes(old.operation) == _shapes(fresh.operation)


def _does_not_fit(donor: Head, made: Head, old: Node, fresh: Node) -> str:
    has = {name: shape for name, shape in _named(old.operation)}
    needs = {name: shape for name, shape in _named(fresh.operation)}
    differ = [
        f"{quoted(f'{old.name}/{name}')} is {shape} and must be {needs[name]}"
        for name, shape in has.items()
        if name in needs and needs[name] != shape
    ]
    return (
        f"replace_backbone: {quoted(made.task.backbone.name)} gives {shapes_of(made.task.backbone)}, "
        f"and the head of {quoted(donor.task.name)} was trained on {shapes_of(donor.task.backbone)}: "
        f"{'; '.join(differ) or f'{quoted(old.name)} has other weights'}. To draw new weights for "
        'the layers that do not fit: kg.replace_backbone(task, backbone, head="new"). To keep the '
        "head, let the backbone end with the shape that it had: kg.insert(backbone, layer, after=...)."
    )


def _named(layer: Any) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(w.shape)) for name, w in _ties.named_weights(layer).items()]


def _foreign(donor: Head, made: Head, layer: Any) -> bool:
    """Whether a layer of the donor's head holds a layer of its backbone that the new one lacks."""
    held = {id(inside) for inside in _keras.layers_inside(layer)}
    theirs = held & {id(x) for x in _keras.layers_inside(donor.task.backbone)}
    return bool(theirs - {id(x) for x in _keras.layers_inside(made.task.backbone)})


def _copies(donor: Head, old: Node, fresh: Node) -> list[Callable[[], None]]:
    """Return what copies the values of the weights that are the head's own."""
    backbone = {id(v) for v in donor.task.backbone.variables}
    pairs = zip(old.operation.variables, fresh.operation.variables, strict=True)

    def copy(target: Any, source: Any) -> Callable[[], None]:
        return lambda: assign(target, source)

    return [copy(target, source) for source, target in pairs if id(source) not in backbone]
