"""From a `Graph` to a Keras model."""

from __future__ import annotations

from typing import Any, Literal

import keras

from keras_graft import _keras, naming
from keras_graft.errors import BuildError, NotYetError
from keras_graft.graph import Graph, Node, Slot, Spec, Template, Value
from keras_graft.read import spec_of

tree = keras.tree


def build(
    graph: Graph,
    weights: Literal["share", "copy", "fresh"] = "share",
    name: str | None = None,
) -> keras.Model:
    """Make a Keras model of a graph.

    The model uses the very layers that the graph refers to, so its weights are theirs. Keras's
    shape inference runs only where the spec of an input differs from the recorded one. What the
    model adds to the layers it shares goes away with it.

    Args:
        graph: The graph.
        weights: `"share"`: use the donor's layers. `"copy"` and `"fresh"` come in a later
            version.
        name: The name of the model; the graph's if None.

    Returns:
        A Functional model with the structure of inputs and outputs that the graph says.

    Raises:
        GraphError: If the graph is not well formed.
        BuildError: If an operation does not take its inputs: the message names it, what gives
            them, and the specs.
        NotYetError: For `"copy"` and `"fresh"`.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> model = keras.Model(x, keras.layers.Dense(2, name="out")(x), name="tiny")
    >>> again = kg.build(kg.read(model))
    >>> again.get_layer("out") is model.get_layer("out")
    True
    """
    if not isinstance(graph, Graph):
        raise BuildError(
            f"build takes a keras_graft.Graph, got {type(graph).__name__}; kg.read(model) gives one."
        )
    if weights in ("copy", "fresh"):
        raise NotYetError(
            f'build(weights="{weights}") is not there yet. Until then, save the model and load it '
            "again for a copy: keras.saving.load_model(path)."
        )
    if weights != "share":
        raise BuildError(f'weights must be "share", "copy" or "fresh", got {weights!r}.')
    graph.validate()
    return _Build(graph, name or graph.name).model


class _Build:
    def __init__(self, graph: Graph, name: str) -> None:
        self._graph = graph
        self._tensors: dict[Value, Any] = {}
        self._stand_ins: dict[int, Any] = {}
        self._builder = _keras.Builder()
        try:
            inputs = self._inputs()
            self._attach_masks()
            for node in graph.nodes:
                self._node(node)
            outputs = self._fill(graph.output_template, graph.outputs)
            model = _keras.make_functional(inputs, outputs, name, len(graph.nodes))
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
            # Keras calls `x * 2.0` sparse (3.15), also where there are no sparse tensors.
            sparse = spec.sparse and keras.backend.backend() != "torch"
            tensor = keras.Input(
                batch_shape=spec.shape, dtype=spec.dtype, sparse=sparse, ragged=spec.ragged,
                name=naming.safe(name) if "/" in name else name, optional=value.optional,
            )  # fmt: skip
            self._tensors[value] = tensor
            tensors.append(tensor)
        return tree.map_structure(
            lambda leaf: tensors[leaf.index] if isinstance(leaf, Slot) else leaf,
            self._graph.input_template,
        )

    def _attach_masks(self) -> None:
        """Put masks that cross into the graph unseen back on the inputs they belong to.

        A stock way to do that: a model that hands its input on, called with `mask=`.
        """
        graph = self._graph
        wanted = {
            value: mask
            for node in graph.nodes
            for value, mask in node.hidden
            if value in graph.inputs and mask in graph.inputs
        } if any(node.hidden for node in graph.nodes) else {}  # fmt: skip
        names = naming.Names([*graph.input_names, *(graph.name_of(n) for n in graph.nodes)])
        for value, mask in wanted.items():
            tensor, mask_tensor = self._tensors[value], self._tensors[mask]
            inner = keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name="tensor")
            attach = keras.Model(
                inner, keras.layers.Identity()(inner), name=names.take("with_mask")
            )
            attach.supports_masking = True  # else Keras warns of a mask it does hand on
            _keras.mark(attach, "mask", True)
            output = _tensor(spec_of(tensor), tensor.name)
            self._builder.node(attach, (tensor,), {"mask": mask_tensor}, [output])
            _keras.set_mask(output, mask_tensor)
            self._tensors[value] = output

    def _fill(self, structure: Any, values: tuple[Value, ...]) -> Any:
        tensors = self._tensors
        return tree.map_structure(
            lambda leaf: tensors[values[leaf.index]] if isinstance(leaf, Slot) else leaf, structure
        )

    def _node(self, node: Node) -> None:
        tensors = self._tensors
        operation = self._named(node)
        if operation is not node.operation and isinstance(operation, keras.Model):
            args, kwargs = ([tensors[v] for v in node.inputs],), {}
        elif len(node.inputs) == 1 and node.template.args == (Slot(0),):
            args = (tensors[node.inputs[0]],)
            kwargs = dict(node.template.kwargs)
        else:
            args = self._fill(node.template.args, node.inputs)
            kwargs = self._fill(dict(node.template.kwargs), node.inputs)
        known = all(v.spec is not None for v in node.outputs) and all(
            v.spec == spec_of(tensors[v]) for v in node.inputs
        )
        if known:
            outputs = [_tensor(value.spec, value.name) for value in node.outputs]  # type: ignore
            self._builder.node(operation, args, kwargs, outputs)
            for value, tensor in zip(node.outputs, outputs, strict=True):
                mask = None if value.mask is None else tensors.get(value.mask)
                if mask is not None:
                    _keras.set_mask(tensor, mask)
        else:
            outputs = tree.flatten(self._call(node, operation, args, kwargs))
        for value, tensor in zip(node.outputs, outputs, strict=True):
            tensors.setdefault(value, tensor)  # a cut value is an input, not what its node gives

    def _call(self, node: Node, operation: Any, args: Any, kwargs: Any) -> Any:
        try:
            return self._builder.call(operation, args, kwargs)
        except Exception as error:
            graph = self._graph
            lines = []
            for value in node.inputs:
                producer = graph.producer(value)
                source = "an input" if producer is None else f"node {producer.label!r}"
                found = spec_of(self._tensors[value])
                lines.append(
                    f"  {graph.label(value)!r} from {source}: expected {value.spec}, found {found}"
                )
            raise BuildError(
                f"{node.kind} {node.label!r} in graph {graph.name!r} does not take its inputs:\n"
                + "\n".join(lines)
                + f"\nKeras says: {error}"
            ) from error

    def _named(self, node: Node) -> Any:
        """Return the operation, or what stands for it where its name is already taken."""
        name = self._graph.name_of(node)
        operation = node.operation
        if operation.name == name:
            return operation
        if not isinstance(operation, keras.Layer):
            if id(operation) not in self._stand_ins:
                self._stand_ins[id(operation)] = _keras.renamed_op(operation, name)
            return self._stand_ins[id(operation)]
        if id(operation) not in self._stand_ins:
            self._stand_ins[id(operation)] = _wrap(node, name)
        return self._stand_ins[id(operation)]


def _tensor(spec: Spec, name: str) -> Any:
    if not (spec.sparse or spec.ragged):
        return keras.KerasTensor(spec.shape, spec.dtype, name=name)
    extra = {} if not spec.ragged else {
        "ragged_rank": spec.ragged_rank, "row_splits_dtype": spec.row_splits_dtype,
    }  # fmt: skip
    return keras.KerasTensor(
        spec.shape, spec.dtype, sparse=spec.sparse, ragged=spec.ragged, name=name, **extra
    )


def _wrap(node: Node, name: str) -> keras.Model:
    """Return a model of one layer: the donor's own layer, under a name that is free."""
    inputs = [
        keras.Input(batch_shape=v.spec.shape, dtype=v.spec.dtype)  # type: ignore[union-attr]
        for v in node.inputs
    ]
    builder = _keras.Builder()
    template: Template = node.template

    def fill(leaf: Any) -> Any:
        return inputs[leaf.index] if isinstance(leaf, Slot) else leaf

    args = tree.map_structure(fill, template.args)
    kwargs = tree.map_structure(fill, dict(template.kwargs))
    outputs = [_tensor(v.spec, v.name) for v in node.outputs]  # type: ignore[arg-type]
    builder.node(node.operation, args, kwargs, outputs)
    wrapper = keras.Model(inputs, outputs[0] if len(outputs) == 1 else outputs, name=name)
    _keras.mark(wrapper, "alias", node.operation)
    _keras.mark(wrapper, "call", template)
    return wrapper
