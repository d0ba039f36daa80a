"""Make a Keras model from a `Graph`, with the same layer objects that the graph refers to."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import Any

import keras

from keras_graft import _keras
from keras_graft import ties as _ties
from keras_graft.errors import BuildError
from keras_graft.graph import names as naming
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Value
from keras_graft.graph.record import remember, unwrapped
from keras_graft.graph.same import form_of
from keras_graft.graph.select import leaves
from keras_graft.layers.renamed import Renamed
from keras_graft.model.calls import fill, filled
from keras_graft.model.infer import infer
from keras_graft.model.masks_taken_off import with_masks_as_found
from keras_graft.model.opening.inside import as_model_call, is_layer_inside
from keras_graft.model.read import trace
from keras_graft.model.symbolic import input_of, tensor_of


def assemble(
    graph: Graph, name: str | None = None, outside: Collection[int] = frozenset()
) -> Assembly:
    """Make a Keras model from a graph, and remember the tensor of each value.

    `outside` has the identities of layers and weights that the model around it uses elsewhere.
    """
    graph = _from_parts(infer(graph.validate()), outside)
    return Assembly(with_masks_as_found(graph, trace), name or graph.name)


def _from_parts(graph: Graph, outside: Collection[int]) -> Graph:
    """Return the graph with models in place of opened layers that share weights with others.

    A layer that was opened and not edited is built as it is. But Keras cannot load a file in which
    another layer has the weights of a layer inside it.
    """
    opened = [node for node in graph.steps if is_layer_inside(node)]
    if not opened:
        return graph
    owners: dict[int, set[int]] = {}
    tied: list[tuple[int, int]] = []
    for node in graph.steps:
        operation = id(node.operation)
        for layer in _keras.layers_inside(node.operation):
            owners.setdefault(id(layer), set()).add(operation)
        for inner in leaves([node]):
            owners.setdefault(id(unwrapped(inner.operation)), set()).add(operation)
            tied += [(id(tie.source), operation) for tie in _ties.ties_of(inner.operation)]
    instead: dict[Node, list[Node]] = {}
    made: dict[int, Any] = {}
    for node in opened:
        own = id(node.operation)
        inside = [x for x in _keras.layers_inside(node.operation) if x.weights]
        elsewhere = {id(x) for x in inside if owners[id(x)] != {own}}
        elsewhere |= {w for w, user in tied if user != own}
        elsewhere |= set(outside)
        used = {id(x) for x in (*inside, *node.operation.weights)}
        if used.isdisjoint(elsewhere):
            continue
        call = as_model_call(node)
        assert call.nested is not None
        key = id(node.nested)
        if key not in made:
            made[key] = assemble(call.nested, str(node.operation.name), elsewhere).model
        instead[node] = [call.replace(operation=made[key])]
    return graph.spliced(instead, {}).settled() if instead else graph


class Assembly:
    """A model that was made from a graph.

    Attributes:
        model: The model.
        tensors: The symbolic tensor of each value.
    """

    def __init__(self, graph: Graph, name: str) -> None:
        self._graph = graph
        self.tensors: dict[Value, Any] = {}
        self._stand_ins: dict[int, Any] = {}
        self._names = naming.Names([*graph.input_names, *map(graph.name_of, graph.steps)])
        self._masked: set[Value] = set()
        self._builder = _keras.Builder()
        try:
            inputs = self._inputs()
            for node in graph.steps:
                self._node(node)
            self._set_masks()
            given = [self.tensors[value] for value in graph.outputs]
            outputs = fill(graph.output_template, given.__getitem__)
            cls = _ties.model_class(node.operation for node in graph.steps) or keras.Model
            model = _keras.make_functional(
                inputs, outputs, name, len(graph.steps), cls, self._builder.nodes
            )
        except BaseException:
            self._builder.undo()
            raise
        _keras.set_model_state(model, graph.trainable, graph.dtype_policy)
        self.model = model

    def _inputs(self) -> Any:
        tensors = []
        for value, name in zip(self._graph.inputs, self._graph.input_names, strict=True):
            spec = value.spec
            if spec is None:
                raise BuildError(f"Input {name!r} of graph {self._graph.name!r} has no spec.")
            label = naming.safe(name) if "/" in name else name
            tensor = input_of(spec, label, value.optional)
            _keras.watch(tensor)
            self.tensors[value] = tensor
            tensors.append(tensor)
        return fill(self._graph.input_template, tensors.__getitem__)

    def _with_masks(self, node: Node) -> None:
        """Attach masks again that entered the graph together with its inputs.

        Plain Keras can do that: a model that passes its input on, called with `mask=`.
        """
        for value, mask in node.hidden:
            mask_tensor = self.tensors.get(mask)
            if value not in self._graph.inputs or value in self._masked or mask_tensor is None:
                continue
            self._masked.add(value)
            tensor = self.tensors[value]
            inner = input_of(value.spec, "tensor")
            attach = keras.Model(
                inner, keras.layers.Identity()(inner), name=self._names.take("with_mask")
            )
            attach.supports_masking = True  # else Keras warns, though the mask is passed on
            remember(attach, mask=True)
            output = tensor_of(value.spec, tensor.name)
            self._builder.node(attach, (tensor,), {"mask": mask_tensor}, [output])
            _keras.set_mask(output, mask_tensor)
            self.tensors[value] = output

    def _node(self, node: Node) -> None:
        lost = {v for v in node.inputs if v not in self.tensors}  # masks that a closed model makes
        if not lost <= {v.mask for v in node.inputs}:
            return  # it computes a mask from one of them: Keras does that by itself
        self._with_masks(node)
        operation, args, kwargs = self._call(node)
        outputs = [tensor_of(value.spec, value.name) for value in node.outputs]  # type: ignore
        self._builder.node(operation, args, kwargs, outputs)
        for value, tensor in zip(node.outputs, outputs, strict=True):
            self.tensors.setdefault(value, tensor)  # a value that was cut stays an input

    def _set_masks(self) -> None:
        """Attach masks after all nodes are made: a mask may be made later than its value."""
        for node in self._graph.steps:
            for value in node.outputs:
                mask = None if value.mask is None else self.tensors.get(value.mask)
                if mask is not None and value not in self._graph.inputs:
                    _keras.set_mask(self.tensors[value], mask)

    def _call(self, node: Node) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Return the operation, or what stands for it in this model, and its arguments."""
        operation, key = node.operation, id(node.operation)
        name = self._graph.name_of(node)
        # A mask without a tensor is that of another input: Keras finds it there.
        inputs = [self.tensors.get(value) for value in node.inputs]
        call = filled(node.template, inputs)
        if operation.name == name:
            return operation, *call
        # Another operation has this name, and a donor's layer must not be renamed.
        if key not in self._stand_ins:
            self._stand_ins[key] = self._stand_in(node, name)
        stand_in = self._stand_ins[key]
        if isinstance(stand_in, keras.Model):
            return stand_in, (_one_or_list(inputs),), {}
        return stand_in, *call

    @cached_property
    def _explicit(self) -> set[Value]:
        """The values that calls take as arguments."""
        return {value for node in self._graph.steps for value in node.inputs}

    def _stand_in(self, node: Node, name: str) -> Any:
        """Return a stand-in with a free name for a node's operation; it takes all its calls."""
        operation = node.operation
        if not isinstance(operation, keras.Layer):
            return _keras.renamed_op(operation, name)
        calls = self._graph.calls(operation)
        # A plain Keras model loads without this package, but takes only one kind of call. Keras hands
        # it the masks of its inputs, and a mask that something reads as a tensor too is then made
        # twice under one name, when the file is loaded.
        plain = len({form_of(call) for call in calls}) == 1 and bool(node.inputs)
        plain = plain and not any(v.mask in self._explicit for c in calls for v in c.inputs)
        return _wrapped(node, name) if plain else Renamed(operation, name=name)


def _one_or_list(tensors: list[Any]) -> Any:
    """Return one tensor without a list: a file keeps this form, and later edits call with it."""
    return tensors[0] if len(tensors) == 1 else tensors


def _wrapped(node: Node, name: str) -> keras.Model:
    """Return a model of one layer: the donor's own layer, under a name that is free."""
    inputs = [input_of(value.spec) for value in node.inputs]
    args, kwargs = filled(node.template, inputs)
    outputs = [tensor_of(v.spec, v.name) for v in node.outputs]
    builder = _keras.Builder()
    builder.node(node.operation, args, kwargs, outputs)
    given = outputs[0] if len(outputs) == 1 else outputs
    taken = _one_or_list(inputs)
    wrapper = _keras.make_functional(taken, given, name, 1, nodes=builder.nodes)
    remember(wrapper, alias=node.operation, call=node.template)
    return wrapper
