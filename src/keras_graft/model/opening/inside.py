"""Open calls of layers in a graph, where they lie, or make the call of a model of one."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, Protocol

import keras

from keras_graft import _keras
from keras_graft.errors import GraftError
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Entry, Node, Slot, Spec, Template, Value, flat_slots
from keras_graft.graph.record import is_wrapper
from keras_graft.graph.sizes import Doubt
from keras_graft.model.calls import filled
from keras_graft.model.entering import with_inside
from keras_graft.model.from_keras import Reader
from keras_graft.model.opening.open import Known, Opened, opened
from keras_graft.model.opening.policy import NOT_ASKED, holds_layers, path_of
from keras_graft.model.opening.reasons import reason_of
from keras_graft.model.symbolic import tensor_of

Reasons = MutableMapping[tuple[str, ...], str]


def is_layer_inside(node: Node) -> bool:
    """Whether a node is the call of an opened layer, and not that of a nested model."""
    if node.nested is None:
        return False
    # The graph of a Sequential is what Keras knows, unless it is called with other shapes.
    by_code = isinstance(node.operation, keras.Sequential) and node.nested.past is None
    return by_code or _keras.functional(node.operation) is None


class Asked(Protocol):
    """Says which layers are opened, as `Policy`."""

    def at(self, layer: Any, path: tuple[str, ...]) -> str | None:
        """Return why a layer at a path stays closed, or None."""
        ...


class Opener:
    """Opens the layers in graphs that a policy names.

    Args:
        reader: Reads nested models.
        policy: Which layers.
        reasons: Takes, by path, why layers stay closed that the policy names.
        prove: Whether graph and code are compared on data.
        holds: Says of an operation whether there is something to open.
        called: Returns the spec that a call is tried with, from that of the value it reads.
    """

    def __init__(
        self, reader: Reader, policy: Asked, reasons: Reasons, prove: bool = True,
        holds: Callable[[Any], bool] = holds_layers,
        called: Callable[[Spec | None], Spec | None] = lambda spec: spec,
    ) -> None:  # fmt: skip
        self._reader = reader
        self._called = called
        self._holds = holds
        self._policy = policy
        self._reasons = reasons
        self._known = Known(set() if prove else None)
        self._done: dict[Any, Graph] = {}

    def graph(self, graph: Graph, prefix: tuple[str, ...] = ()) -> Graph:
        """Return the same graph with the layers open that the policy names."""
        key = id(graph), prefix
        if key not in self._done:
            instead = {}
            for node in graph.steps:
                new = self._node(graph, node, (*prefix, graph.name_of(node)))
                if new is not node:
                    instead[node.key] = new
            self._done[key] = graph.holding(instead) if instead else graph
        return self._done[key]

    def call(self, graph: Graph, node: Node) -> Node:
        """Return one call of a graph, open if the policy names it."""
        return self._node(graph, node, (graph.name_of(node),))

    def _node(self, graph: Graph, node: Node, path: tuple[str, ...]) -> Node:
        if node.nested is None:
            if not self._holds(node.operation) or is_wrapper(node.operation):
                return node
            why = self._policy.at(node.operation, path)
            if why is None:
                try:
                    return self._open(graph, node, path)
                except Doubt as doubt:
                    why = str(doubt)
                except GraftError:
                    raise
                except Exception as error:
                    why = reason_of(error, node.operation)
            if why == NOT_ASKED:
                return node
            self._reasons[path] = why
            return node if node.closed == why else node.replace(closed=why)
        inner = self.graph(node.nested, path)
        if inner is node.nested:
            return node
        return node.replace(nested=inner)

    def _open(self, graph: Graph, node: Node, path: tuple[str, ...]) -> Node:
        tensors: dict[Value, Any] = {}
        for value in map(graph.known, node.reads):
            tensors.setdefault(value, tensor_of(self._called(value.spec)))
        for value in map(graph.known, node.inputs):
            mask = value.mask if value not in node.maskless else None
            if mask is not None and mask in tensors:
                _keras.set_mask(tensors[value], tensors[mask])
        args, kwargs = filled(node.template, [tensors[value.within(None)] for value in node.inputs])
        kwargs.pop("training", None)
        policy = self._policy
        found: Opened = opened(
            self._reader, node.operation, args, kwargs,
            lambda layer, place: policy.at(layer, path_of(place, path)),
            known=self._known,
        )  # fmt: skip
        for place, reason in found.reasons.items():
            self._reasons[path_of(place, path)] = reason
        reads = {id(tensor): node.reads.index(value) for value, tensor in tensors.items()}
        return with_inside(node, found.graph, [reads[id(source)] for source in found.sources])


def as_model_call(node: Node) -> Node:
    """Return the call of an opened layer as that of a model made of its graph.

    Masks that only enter with other inputs are no inputs of the model: Keras passes them on.
    """
    nested = node.nested
    assert nested is not None
    used = {v for step in nested.steps for v in step.inputs} | set(nested.outputs)
    masks = {v.mask for v in nested.inputs if v.mask is not None} - used
    kept = [i for i, v in enumerate(nested.inputs) if v.within(None) not in masks]
    read = [node.entries[i].source for i in kept]
    inputs = [node.reads[i] for i in read if i is not None]
    names = [nested.inputs[i] for i in kept]
    bare = {v.within(None): v.replace(mask=None) for v in nested.inputs if v.mask in masks}
    steps = [_without(step, masks) for step in nested.steps]
    plain = Graph(
        steps, [bare.get(v.within(None), v) for v in names],
        [v.replace(mask=None) if v.mask in masks else v for v in nested.outputs],
        Slot(0) if len(kept) == 1 else flat_slots(len(kept)), nested.output_template,
        nested.name, nested.trainable, nested.dtype_policy,
    ).settled()  # fmt: skip
    slots: Any = [Slot(i) for i in range(len(inputs))]
    kwargs = {
        key: node.template.kwargs[key] for key in ("training",) if key in node.template.kwargs
    }
    return node.replace(
        inputs=tuple(inputs),
        template=Template((slots[0] if len(slots) == 1 else slots,), kwargs),
        nested=plain,
        entries=tuple(Entry(i, node.entries[k].adapt) for i, k in enumerate(kept)),
        trains=True,
    )


def _without(step: Node, masks: set[Any]) -> Node:
    """Return a step that does not refer to masks that only enter with inputs."""
    if not any(m in masks for _, m in step.hidden) and not any(
        v.mask in masks for v in (*step.inputs, *step.outputs)
    ):
        return step
    bare = lambda v: v.replace(mask=None) if v.mask in masks else v  # noqa: E731
    return step.replace(
        inputs=tuple(map(bare, step.inputs)),
        outputs=tuple(map(bare, step.outputs)),
        hidden=tuple((bare(v), m) for v, m in step.hidden if m not in masks),
    )


def symbolic_like(tensor: Any) -> Any:
    """Return a symbolic tensor like an array or tensor, with a batch of any size."""
    if isinstance(tensor, keras.KerasTensor):
        return tensor
    shape = tuple(tensor.shape)
    return keras.KerasTensor((None, *shape[1:]), keras.backend.standardize_dtype(tensor.dtype))
