"""Read a Keras model as a `Graph`, or trace a function on symbolic tensors."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.errors import GraftError, ReadError
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Spec, Value, flat_slots
from keras_graft.graph.origin import Past
from keras_graft.graph.record import record_of
from keras_graft.graph.sizes import Doubt
from keras_graft.model.from_keras import Level, Traced, entering
from keras_graft.model.opening.arguments import arguments_of
from keras_graft.model.opening.inside import Asked, Opener, as_model_call, is_layer_inside
from keras_graft.model.opening.open import Known, opened
from keras_graft.model.opening.policy import Policy, path_of
from keras_graft.model.opening.reasons import reason_of
from keras_graft.model.opening.tied_weights import with_ties
from keras_graft.model.symbolic import tensor_of
from keras_graft.model.unreadable import why_unreadable

tree = keras.tree


def read(model: Any, inputs: Any = None, open: Any = None, leaves: Any = None) -> Graph:
    """Read a Keras model as a graph of layer calls.

    The graph refers to the layers and does not copy them. Layers and model are not changed.

    A subclassed model is code. It is run on symbolic tensors, with layers and ops as calls. A layer
    that holds layers is opened in the same way: it is a node with a graph inside. It is opened only
    if the graph is proven to be exact: the same calls in training and for other sizes, no weight
    lost, and the same bits on data. Otherwise it stays one node; `kg.explain` says why. The
    shapes of the data for this are small, where the inputs leave them open.

    Args:
        model: A Keras model, or a `Graph`, in which only layers are opened.
        inputs: For a model with code of its own: what its `call` takes, as arrays, tensors or
            `keras.Input`s; a tuple for several arguments, a dict for arguments by name. The batch is
            of any size; with `keras.Input((None,))` the length too. None: the shapes that Keras
            recorded when the model was built, in the model's dtype: give token ids yourself.
        open: Paths of layers to open, such as `"layer_*/attention"`; `"**"` opens all except those of
            Keras itself, which are opened by name. None: `"**"` for a model with code of its own,
            nothing for others, where each verb opens what a path leads into.
        leaves: What stays closed: paths, classes, layers.

    Returns:
        The graph. A nested model, and a layer that was opened, is a single node; its `nested` is the
        graph inside.

    Raises:
        ReadError: If there is no graph to read: a model that was never built, code that does what no
            graph of calls says, or no model at all.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> model = keras.Model(x, keras.layers.Dense(2, name="out")(x), name="tiny")
    >>> kg.read(model)
    <Graph 'tiny': 1 node, 1 operation, 1 input, 1 output>
    """
    return read_with_reasons(model, inputs, open, leaves)[0]


def read_with_reasons(
    model: Any, inputs: Any = None, open: Any = None, leaves: Any = None, prove: bool = True
) -> tuple[Graph, dict[tuple[str, ...], str]]:
    """Return what `read` returns, and by path why layers stay closed that should be open."""
    reader, reasons = _Reader(), dict[tuple[str, ...], str]()
    if isinstance(model, Graph):
        graph = model
    elif has_code(model):
        return _by_code(reader, model, inputs, "**" if open is None else open, leaves, prove)
    else:
        edits = record_of(model).edits
        graph = reader.read(model)
        graph = graph.remembering(edits) if edits else graph
    if inputs is not None:
        raise ReadError(
            f"read: {graph.name!r} has inputs already: inputs= is for a model with code of its own."
        )
    if open is not None:
        graph = with_ties(Opener(reader, Policy(open, leaves), reasons, prove).graph(graph))
    return graph, reasons


def has_code(model: Any) -> bool:
    """Whether the code of a layer says what it does, and no graph that Keras knows."""
    if not isinstance(model, keras.Layer) or _keras.functional(model) is not None:
        return False
    return getattr(type(model), "call", None) is not keras.Sequential.call


def _by_code(
    reader: _Reader, model: Any, inputs: Any, open: Any, leaves: Any, prove: bool
) -> tuple[Graph, dict[tuple[str, ...], str]]:
    args, kwargs = arguments_of(model, inputs)
    policy = Policy(open, leaves)
    wanted = lambda layer, place: policy.at(layer, path_of(place))  # noqa: E731
    why = _keras.shuts(model)
    try:
        if why is not None:
            raise Doubt(why)
        known = Known(set() if prove else None)
        found = opened(reader, model, args, kwargs, wanted, whole=True, known=known)
    except GraftError:
        raise
    except Exception as error:
        doubt = error if isinstance(error, Doubt) else reason_of(error, model)
        raise ReadError(
            f"{type(model).__name__} {model.name!r} cannot be read as a graph: {doubt}. "
            f"{_way_out(model)}"
        ) from error
    reasons = {path_of(place): why for place, why in found.reasons.items()}
    graph = found.graph
    if any(node.nested is not None for node in graph.steps):
        graph = Opener(reader, policy, reasons, prove).graph(graph)
    return with_ties(graph), reasons


def opened_for(graph: Graph, texts: Iterable[str]) -> Graph:
    """Return the same graph with the layers open that paths lead into."""
    inside = [text.rpartition("/")[0] for text in texts if "/" in text]
    if not inside:
        return graph
    found = Opener(_Reader(), Policy(inside), {}).graph(graph)
    return graph if found is graph else with_ties(found)


def opened_fully(graph: Graph, of_keras: bool = False) -> Graph:
    """Return the same graph with all layers open that can be opened.

    Layers of Keras itself, such as `MultiHeadAttention`, stay closed unless `of_keras`.
    """
    found = Opener(_Reader(), Policy("**", of_keras=of_keras), {}).graph(graph)
    return graph if found is graph else with_ties(found)


def opener(
    policy: Asked, holds: Callable[[Any], bool], called: Callable[[Spec | None], Spec | None]
) -> Opener:
    """Return what opens the layers that a policy names, without a proof: see `Opener`."""
    return Opener(_Reader(), policy, {}, False, holds, called)


def _way_out(model: Any) -> str:
    held = [layer for layer in _keras.sublayers(model) if isinstance(layer, keras.Model)]
    if held:
        return (
            f"The models that it holds can be edited by themselves, such as {held[0].name!r}, and "
            "those read as graphs."
        )
    return "Move that part of its code into a layer of its own, which then stays closed."


def own_graph(node: Node) -> Graph:
    """Return the graph of a nested model, without the inputs for the masks of one call.

    With them, it is how the model runs under these masks. The model has no such inputs: Keras
    passes the masks in again.
    """
    nested = node.nested
    assert nested is not None
    if is_layer_inside(node):
        plain = as_model_call(node).nested
        assert plain is not None
        return plain
    if len(nested.inputs) == len(node.operation.inputs):
        return nested
    return _Reader().read(node.operation)


def trace(
    function: Callable[..., Any],
    inputs: Sequence[Value],
    known: Callable[[Value], Value | None] = lambda mask: mask,
    foreign: Callable[[Any], Value | None] = lambda tensor: None,
    apart: bool = False,
) -> Traced:
    """Run a function on symbolic tensors and return its calls as nodes and values.

    Keras keeps no trace of it: the calls are removed from the layers again.

    Args:
        function: Takes one KerasTensor for each input, and returns KerasTensors.
        inputs: The values that the tensors stand for, with the masks that they carry.
        known: Returns a mask as the graph knows it, None if it does not.
        foreign: Returns the value for a KerasTensor that the function took from elsewhere.
        apart: Whether a call records only the training flag it is given, and passes none on to
            later calls.

    Returns:
        The calls, which read `inputs` and their masks.

    Raises:
        ReadError: If an output does not come from the inputs, or is no tensor.
    """
    return _Reader().trace(function, inputs, known, foreign, apart)


class _Reader:
    """Reads a model and the models inside it, each once."""

    def __init__(self) -> None:
        self._nested: dict[int, Graph | None] = {}

    def read(self, model: Any) -> Graph:
        functional = _keras.functional(model)
        if functional is None:
            raise ReadError(why_unreadable(model))
        inputs, outputs = functional.input, functional.output
        tensors = tree.flatten(inputs)
        steps = _keras.nodes(functional)
        level = Level(self, tensors, entering(tensors), steps, in_run_order=True)
        return level.graph(
            inputs, outputs, model.name, model.trainable, model.dtype_policy, model
        )  # fmt: skip

    def trace(
        self,
        function: Callable[..., Any],
        inputs: Sequence[Value],
        known: Callable[[Value], Value | None] = lambda mask: mask,
        foreign: Callable[[Any], Value | None] = lambda tensor: None,
        apart: bool = False,
    ) -> Traced:
        masks = [v.mask and known(v.mask) for v in inputs]
        values = [v.replace(mask=mask) for v, mask in zip(inputs, masks, strict=True)]
        # Plain tensors: an InputLayer for each would cost more than the call itself.
        given = [tensor_of(value.spec) for value in values]
        tensors = dict(zip(values, given, strict=True))
        for tensor, mask in zip(tuple(given), masks, strict=True):
            if mask is None:
                continue
            if mask not in tensors:  # it may be an argument too
                tensors[mask] = tensor_of(mask.spec)
                given.append(tensors[mask])
                values.append(mask)
            _keras.set_mask(tensor, tensors[mask])
        names = _keras.names_given()
        with _keras.flags_apart() if apart else contextlib.nullcontext():
            outputs = function(*given[: len(inputs)])
        steps: list[Any] = []
        try:
            for tensor in tree.flatten(outputs):
                if not isinstance(tensor, keras.KerasTensor):
                    raise ReadError(
                        f"{_name(function)} gives {type(tensor).__name__}, not symbolic tensors."
                    )
            steps = _keras.steps_behind(tree.flatten(outputs), given)
            kinds = {id(s.operation): _keras.named_since(s.operation, names) for s in steps}
            _keras.name_plainly(steps)
            if apart:
                _keras.settle_flags(steps)
            traced = Level(self, given, values, steps, foreign).traced(outputs, _name(function))
            return dataclasses.replace(traced, kinds=kinds)
        finally:
            _keras.release(steps)

    def opened(self, step: Any) -> None:
        """Return None: Keras's nodes do not say what a layer does inside."""

    def closed(self, step: Any) -> str:
        """Return nothing: no layer was tried."""
        return ""

    def inside(self, operation: Any) -> Graph | None:
        """Return the graph of a nested model; None for an operation that cannot be opened."""
        if not isinstance(operation, keras.Model):
            return None
        if id(operation) not in self._nested:
            functional = _keras.functional(operation)
            self._nested[id(operation)] = None if functional is None else self.read(operation)
        return self._nested[id(operation)]

    def under_masks(
        self, operation: Any, plain: Graph, specs: Sequence[Spec | None],
        masks: Mapping[int, Value], training: bool | None,
    ) -> Graph:  # fmt: skip
        """Return the graph of a nested model as it runs when its inputs carry masks.

        Which layer then reads which mask is recorded nowhere: Keras decides it at every run.
        """
        functional = _keras.functional(operation)

        def run(*tensors: Any) -> Any:
            flat = [t if spec else None for t, spec in zip(tensors, specs, strict=True)]
            return _keras.run_under_masks(
                functional, flat, list(map(_keras.mask_of, flat)), training
            )

        names = [value.name for value in plain.inputs]
        entering = {i: Value(mask.spec, f"{names[i]}_mask") for i, mask in masks.items()}
        inputs = [
            Value(spec or v.spec, v.name, v.optional, entering.get(i), v.origin)
            for i, (v, spec) in enumerate(zip(plain.inputs, specs, strict=True))
        ]
        found = self.trace(run, inputs)
        inputs += entering.values()
        traced = Graph(found.steps, inputs, found.outputs, flat_slots(len(inputs))).settled()
        # Tensors of the model itself must select here too: calls are matched by their number.
        origins = {
            (id(node.operation), plain.call_of(node), i): value.origin
            for node in plain.steps
            for i, value in enumerate(node.outputs)
        }
        steps = [
            node.replace(outputs=tuple(
                v.replace(origin=origins.get((id(node.operation), traced.call_of(node), i)))
                for i, v in enumerate(node.outputs)
            ))
            for node in traced.steps
        ]  # fmt: skip
        return traced.replace(
            nodes=steps, output_template=plain.output_template, name=plain.name,
            trainable=plain.trainable, dtype_policy=plain.dtype_policy, origin=operation,
            past=Past(operation),
        )  # fmt: skip


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "name", None) or getattr(function, "__name__", "function"))
