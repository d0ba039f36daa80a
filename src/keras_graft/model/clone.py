"""Clone a model or a graph: the same network with its own layers and weights."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import keras

from keras_graft import _keras
from keras_graft import ties as _ties
from keras_graft.errors import GraftError, WeightsError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import is_one_of, listed
from keras_graft.graph.node import Node, Template
from keras_graft.graph.origin import Past
from keras_graft.graph.record import record_of, unwrapped
from keras_graft.graph.select_nodes import select_nodes
from keras_graft.model import kept_class
from keras_graft.model.attributes import copied
from keras_graft.model.calls import mapped
from keras_graft.model.read import read
from keras_graft.model.recording import step, unrecorded
from keras_graft.model.recreate import again, pair_weights
from keras_graft.model.to_keras import assemble
from keras_graft.printable import quoted, shown, words_of

Weights = Literal["copy", "fresh"]


def clone(
    model: Any,
    weights: Weights = "copy",
    share: Any = None,
    name: str | None = None,
    seed: int | None = None,
    compile: bool = False,
) -> Any:
    """Return the same network with its own layers and weights.

    Each layer is copied as it is now, not made from its configuration: with its adapters, quantized
    weights, statistics, states, seeds and flags. No initializer runs, and each array is made once.
    Weights that are shared or tied inside the model are shared or tied inside the clone, also
    between nested models. The clone has the class and the attributes of the model.

    Args:
        model: A Keras model or a `Graph`. A model with its own `call` is copied too, if it is
            built.
        weights: `"copy"`: the values of the donor. `"fresh"`: new values, drawn by each layer's
            own initializers.
        share: A selector of the layers that the clone shares with the donor: `share="trunk"`.
        name: The name of the clone; that of the donor if None.
        seed: For `weights="fresh"`: the same seed gives the same values.
        compile: Whether the clone is compiled as the donor is, with a new optimizer.

    Raises:
        WeightsError: If a layer cannot be copied, or its fresh values cannot be drawn; the message
            names the layer. If `compile=True` and the clone cannot be compiled.

    >>> import keras, keras_graft as kg
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="d")])
    >>> other = kg.clone(model)
    >>> bool(keras.ops.all(other.weights[0] == model.weights[0]))
    True
    >>> other.weights[0] is model.weights[0]
    False
    """
    check_weights(weights, seed)
    work = Clone(weights, seed)
    graph = model if isinstance(model, Graph) else None
    if graph is not None and compile:
        raise WeightsError("clone: a Graph is not compiled; compile the model that kg.build makes.")
    if not isinstance(model, Graph | keras.Model):
        raise WeightsError(
            f"clone takes a Keras model or a keras_graft.Graph, got {type(model).__name__}. "
            'A layer is cloned with its model, or by kg.unshare(model, "layer#1").'
        )
    known = graph if share is None else read(model)
    given = {"weights": weights, "share": share, "name": name, "seed": seed}
    given = {key: value for key, value in given.items() if value is not None}
    edits = record_of(model).edits if graph is None else graph.edits
    # A copy is the same network: it has the steps of the donor, and no step of its own.
    recorded = step("clone", known, given, edits) if weights == "fresh" else unrecorded(edits)
    with recorded as remembering, work.drawing():
        if share is not None:
            assert known is not None
            for node in select_nodes(known, share):
                work.copier.keep(node.operation)
        if graph is not None:
            new = work.graph(graph, copied)
            return remembering(new if name is None else new.replace(name=name))
        new = work.model(model)
        if _keras.functional(model) is not None:
            new = remembering(new)
    if name is not None:
        new.name = name
    if compile and model.compiled:  # type: ignore[union-attr]
        way_out = " Compile the clone as you compiled the model."
        with _naming(model, way_out, "compiled again"):
            _keras.compile_like(new, model)
    return new


def check_weights(weights: Any, seed: Any = None) -> None:
    """Refuse a wrong `weights=` or `seed=`."""
    if not is_one_of(weights, "copy", "fresh"):
        raise WeightsError(f'weights must be "copy" or "fresh", got {shown(weights)}.')
    if seed is not None and weights != "fresh":
        raise WeightsError('seed= is for weights="fresh": a copy draws nothing.')


@contextlib.contextmanager
def _naming(thing: Any, way_out: str = "", done: str = "cloned") -> Iterator[None]:
    """Raise a WeightsError that names the thing: code in users' layers can raise any error."""
    try:
        yield
    except GraftError:
        raise
    except Exception as error:
        raise WeightsError(
            f"{type(thing).__name__} {thing.name!r} cannot be {done}: {words_of(error)}.{way_out}"
        ) from error


class Clone:
    """One run of cloning: each object is copied once, and later requests get the same copy.

    Args:
        weights: As for `clone`.
        seed: As for `clone`.
    """

    def __init__(self, weights: Weights = "copy", seed: int | None = None) -> None:
        self.copier = _keras.Copier(self._variable, self.model)
        self._path: Callable[[str], str] = lambda path: path
        self._fresh = weights == "fresh"
        self._seed = seed
        self._values: dict[int, tuple[Any, Any]] = {}
        self._graphs: dict[int, tuple[Graph, Graph]] = {}

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """Draw fresh values from the seed, if there is one; Python's random state is restored."""
        if self._seed is None:
            yield
            return
        before = random.getstate()
        random.seed(self._seed)  # Keras draws the seeds of its initializers from it
        try:
            yield
        finally:
            random.setstate(before)

    def graph(self, graph: Graph, body_of: Callable[..., Any] | None = None) -> Graph:
        """Return a graph of the same calls with copied operations. Values keep their identities.

        Args:
            graph: The graph.
            body_of: Returns the body of the new graph, from the old graph and the copier.
        """
        if id(graph) not in self._graphs:
            steps = [self._step(node) for node in graph.steps]
            body = None if body_of is None else body_of(graph, self.copier)
            new = graph.replace(nodes=steps, past=None if body is None else Past(body))
            self._graphs[id(graph)] = (
                graph,
                new if graph.stale is None else new.settled(graph.stale),
            )
        return self._graphs[id(graph)][1]

    def _step(self, node: Node) -> Node:
        operation, nested = self.operation(node), node.nested
        known = node.known_as
        return node.replace(
            operation=operation,
            known_as=(operation, known[1]) if known and known[0] is node.operation else None,
            template=self._template(node.template),
            nested=None if nested is None else self.graph(nested, lambda *_: operation),
        )

    def operation(self, node: Node) -> Any:
        """Return the copy of a call's operation."""
        operation = node.operation
        if self._fresh and node.nested is None and self.copier.new(operation):
            self._draw(operation)
        way_out = f" Share it with the donor: clone(..., share={quoted(operation.name)})."
        with _naming(operation, way_out):
            return self.copier(operation)

    def _template(self, template: Template) -> Template:
        """Return recorded arguments with the clone's variables in place of the donor's."""

        def own(leaf: Any) -> Any:
            return self.copier(leaf) if isinstance(leaf, keras.Variable) else leaf

        return Template(mapped(template.args, own), mapped(template.kwargs, own))

    def renamed(self, node: Node, name: str) -> Any:
        """Return a copy of a call's operation under another name."""
        old = f"{node.operation.name}/"
        self._path = lambda of: f"{name}/{of[len(old) :] if of.startswith(old) else of}"
        new = self.operation(node)
        _keras.rename_policies(new, node.operation.name, name)
        new.name = name
        return new

    def model(self, model: Any) -> Any:
        """Return the copy of a model, of the same class."""
        with _naming(model):
            return self._model(model) if self.copier.new(model) else self.copier(model)

    def _model(self, model: Any) -> Any:
        if isinstance(model, keras.Sequential):
            inner = _keras.functional(model)
            if inner is not None:
                self.model(inner)
            return self.copier.object(model)
        if _keras.functional(model) is None:
            if self._fresh:
                self._draw(model)
            return self.copier.object(model)
        built = assemble(self.graph(read(model)))
        new = built.model
        for value, tensor in built.tensors.items():
            if value.origin is not None:
                self.copier.put(value.origin, tensor)
        for old, tensor in zip(model.inputs, new.inputs, strict=True):
            self.copier.put(_keras.input_layer(old), _keras.input_layer(tensor))
        if not kept_class.is_plain(type(model)):
            new = _keras.with_body_of(new, type(model))
        self.copier.put(model, new)
        own = _keras.attributes(new)
        if self._fresh:
            self._draw(model)  # layers in its attributes that its graph does not call
        for name, value in _keras.attributes(model).items():
            if name not in own:
                setattr(new, name, self.copier(value))
        _keras.order_layers(new, model, self.copier)
        return new

    def _variable(self, old: Any) -> Any:
        if isinstance(old, _keras.View):
            return _keras.view(self.copier(old.source))
        if isinstance(old, _keras.Tied | _keras.Adapted | _keras.Joined):
            return old.copied(self.copier)
        value = self._values.get(id(old))
        return _keras.variable_like(old, None if value is None else value[1], self._path(old.path))

    def _draw(self, operation: Any) -> None:
        """Draw values for a layer and all layers inside it, with their own initializers."""
        operation = unwrapped(operation)
        if not isinstance(operation, keras.Layer):
            return
        failed: Any = "its configuration makes other weights"
        for layer in _keras.layers_inside(operation):
            left = self._undrawn(layer)
            if not left or _keras.functional(layer) is not None:
                continue
            if getattr(layer, "quantization_mode", None) is not None:
                raise WeightsError(
                    f"{type(layer).__name__} {layer.name!r} is quantized: no initializer draws "
                    f'quantized values. Use weights="copy", or share it: clone(..., share={quoted(operation.name)}), '
                    'repeat(..., weights="share").'
                )
            try:
                twin = again(layer, layer.name)
                if not twin.built:
                    twin.build_from_config(layer.get_build_config() or {})
            except Exception as error:
                failed = error
                continue
            for old, new in pair_weights(layer, twin):
                if id(old) in left:
                    self._values[id(old)] = old, new.value
        left = self._undrawn(operation)
        if left:
            raise WeightsError(
                f"{type(operation).__name__} {operation.name!r}: no initial values can be drawn for "
                f'{listed(v.path for v in left.values())}: {failed}. Use weights="copy", or '
                f'share it: clone(..., share={quoted(operation.name)}), repeat(..., weights="share").'
            )

    def _undrawn(self, layer: Any) -> dict[int, Any]:
        """Return the weights of a layer that still need fresh values."""
        tied = {id(t.source) for x in _keras.layers_inside(layer) for t in _ties.ties_of(x)}
        tied |= {id(v) for v in _ties.followed(layer) if not _ties.owns(layer, v)}
        return {
            id(v): v
            for v in layer.weights
            if id(v) not in self._values and id(v) not in tied and self.copier.new(v)
            and not isinstance(v, _keras.View)
        }  # fmt: skip


def duplicates(
    nodes: Sequence[Node], name: Callable[[Node], str], weights: Weights = "copy"
) -> dict[int, Any]:
    """Return copies of the operations of some calls, by the identities of the originals.

    What the originals share or tie among themselves is shared or tied among the copies. If a layer
    is tied to a layer that is not copied, its copy is tied to the same layer.

    PyTorch tells parameters apart by their paths, so the paths begin with the new names.

    Args:
        nodes: The calls. An operation may be a model.
        name: Returns the name of the copy of a call's operation; called once for each operation.
        weights: As for `clone`.

    Raises:
        WeightsError: If an operation cannot be copied.
    """
    inside = [layer for node in nodes for layer in _keras.layers_inside(node.operation)]
    ties = [(layer, tie) for layer in inside for tie in _ties.ties_of(layer)]
    work = Clone(weights)
    for layer, tie in ties:
        if not any(_ties.owns(node.operation, tie.source) for node in nodes):
            own = (vars(layer).get(name) for name in layer.graft_own)
            for around in (tie.source, tie.seen.owner, *tie.seen.adapters, *own):
                work.copier.put(around, around)
    tied = {id(layer) for layer, _ in ties}
    result: dict[int, Any] = {}
    # Owners of tied weights are copied first: a variable's path starts with its owner's.
    for node in sorted(nodes, key=lambda node: id(node.operation) in tied):
        if id(node.operation) not in result:
            new = work.renamed(node, name(node))
            result[id(node.operation)] = new
    return result


def duplicate(node: Node, name: str, weights: Weights = "copy") -> Any:
    """Return a copy of one call's operation under another name: see `duplicates`."""
    return duplicates([node], lambda node: name, weights)[id(node.operation)]
