"""Copy the class and the attributes of a model to the model made from its edited graph.

An attribute may hold layers, symbolic tensors and the model itself, alone or in containers. Those
that the edited graph still has stay. A layer that one other layer replaced becomes that layer, and
a removed layer is dropped from its container. A list of layers that run one after the other names
the layers that now do (`layer_lists.py`). An attribute that cannot be copied this way says why
when it is accessed.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.errors import warn
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed
from keras_graft.graph.node import Value
from keras_graft.graph.record import forget, remember, unwrapped
from keras_graft.graph.select import everything, leaves
from keras_graft.model import kept_class
from keras_graft.model.history import Gone, History, Removed
from keras_graft.model.layer_lists import following_calls
from keras_graft.printable import words_of


@dataclass(frozen=True)
class Body:
    """The class and the attributes of the donor, for a graph whose layers were copied.

    Attributes:
        cls: The class of the model.
        attributes: Its attributes, with a `Value` for each symbolic tensor, and `ITSELF`.
        gone: For each attribute that could not be copied, the reason.
    """

    cls: type
    attributes: Mapping[str, Any]
    gone: Mapping[str, str] = field(default_factory=dict)


class _Itself:
    """Placeholder for the model in its own attributes."""


ITSELF = _Itself()


@dataclass(frozen=True)
class _Method:
    """Placeholder for a method whose owner is a different object in the new model."""

    function: Any
    owner: Any


def dressed(graph: Graph, model: Any, tensors: Mapping[Value, Any]) -> tuple[Any, str | None]:
    """Give a model that was made from a graph the class and the attributes of the donor.

    Returns:
        The model, which may be a new object, and the reason if the class could not be kept, else
        None.
    """
    if graph.past is None:
        return model, None
    cls, attributes, gone = _parts(graph.past.body)
    if not issubclass(cls, _keras.Functional | keras.Sequential):
        return model, "what that does is the code of its `call`, which does not follow an edit"
    own = _keras.attributes(model)
    extra = {name: value for name, value in attributes.items() if name not in own}
    plain = kept_class.is_plain(cls)
    if issubclass(cls, keras.Sequential):
        lost = (
            None if cls is keras.Sequential else "the layers of a Sequential class are not a graph"
        )
        return model, lost
    if plain and not extra:
        return model, None
    carried, gone = _carried(graph, extra, gone, tensors.get)
    carried = following_calls(graph, extra, carried)
    if not plain:
        tied = isinstance(model, _keras.LaterOutputs)  # a TiedModel is one too
        try:
            model = kept_class.of_class(model, cls, tied or bool(gone))
        except Exception as error:
            return model, f"an object of it cannot be made: {words_of(error)}"
    for name, value in carried.items():
        try:
            setattr(model, name, _with_itself(value, model))
        except Exception as error:
            gone[name] = f"its class does not let it be set: {words_of(error)}"
    if not plain:
        remember(model, attributes=tuple(carried), gone=gone)
        _tell_what_is_in_no_list(graph, carried, model, cls)
    return model, None


def _tell_what_is_in_no_list(
    graph: Graph, carried: Mapping[str, Any], model: Any, cls: type
) -> None:
    """Warn of inserted layers: methods of the class that call layers one by one skip them."""
    past = graph.past
    assert past is not None
    lists = {name: value for name, value in carried.items() if _layers_in(value)}
    if past.base is None or not lists:
        return
    before = list(everything(past.base))
    known = {id(node.operation) for node in before} | {node.key for node in before}
    known |= {id(layer) for value in carried.values() for layer in _layers_in(value, one=True)}
    known |= {id(op) for moves in past.moves() for _, _, put in moves for op in put or ()}
    new = [
        node.path
        for node in leaves(graph.nodes)
        if node.key not in known
        and id(unwrapped(node.operation)) not in known
        and id(node.operation) not in known
        and not any(id(around.operation) in known for around in node.scope)
    ]
    if new:
        warn(
            f"{cls.__name__} {model.name!r}: {listed(new, 3)} lies between layers that the attribute "
            f"{next(iter(lists))!r} holds, and in no attribute. The model runs it, but a method "
            f"of {cls.__name__}, or of a model made from it, that calls these layers one by one does "
            "not (`generate` of a language model). Put kg.layers.Then(layer, inserted) in the "
            "place of a layer instead; kg.replace_backbone checks what `generate` runs."
        )


def _layers_in(value: Any, one: bool = False) -> list[Any]:
    """Return the layers in a list or dict; with `one`, also for a single layer."""
    if isinstance(value, keras.layers.Layer):
        return [value] if one else []
    kind = _keras.plain_container(value)
    if kind is None:
        return []
    items = list(value.values() if kind is dict else value)
    return [layer for item in items for layer in _layers_in(item, one=True)]


def copied(graph: Graph, copier: Callable[[Any], Any]) -> Body | None:
    """Return the body for a copy of a graph whose layers `copier` makes."""
    if graph.past is None:
        return None
    cls, attributes, gone = _parts(graph.past.body)
    if issubclass(cls, keras.Sequential):
        return Body(cls, {})
    attributes = {k: v for k, v in attributes.items() if k not in kept_class.plain_attributes()}
    carried, gone = _carried(graph, attributes, gone, lambda value: value)
    return Body(cls, {name: copier(value) for name, value in carried.items()}, gone)


def class_of(graph: Graph) -> str:
    """Return the name of the class of the model that a graph was read from, or will become."""
    cls = _keras.Functional if graph.past is None else _class(graph.past.body)
    if issubclass(cls, keras.Sequential) and graph.origin is None:
        cls = _keras.Functional
    return "Functional" if kept_class.is_plain(cls) else cls.__name__


def lost_class(graph: Graph) -> str:
    """Return the name of the class of the donor."""
    return "" if graph.past is None else _class(graph.past.body).__name__


def _class(body: Any) -> Any:
    return body.cls if isinstance(body, Body) else kept_class.class_kept(type(body))


def _parts(body: Any) -> tuple[type, Mapping[str, Any], dict[str, str]]:
    if isinstance(body, Body):
        return body.cls, body.attributes, dict(body.gone)
    attributes = dict(_keras.attributes(body))
    gone = forget(attributes).gone
    attributes.pop("_manual_input_spec", None)  # of old inputs
    return _class(body), attributes, dict(gone)


def _carried(
    graph: Graph, attributes: Mapping[str, Any], gone: dict[str, str],
    tensor: Callable[[Value], Any],
) -> tuple[dict[str, Any], dict[str, str]]:  # fmt: skip
    """Return the attributes that can be copied, and the reason for each that cannot."""
    carry, carried = _Carry(graph, tensor), {}
    for name, value in attributes.items():
        try:
            carried[name] = carry(value)
        except Gone as error:
            gone[name] = str(error)
    return carried, gone


def _with_itself(value: Any, model: Any) -> Any:
    if value is ITSELF:
        return model
    if isinstance(value, _Method):
        return types.MethodType(value.function, _with_itself(value.owner, model))
    if isinstance(value, dict):
        return {key: _with_itself(item, model) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_itself(item, model) for item in value]
    if type(value) is tuple:
        return tuple(_with_itself(item, model) for item in value)
    return value


class _Carry:
    """Returns the value of an attribute of the edited model for that of the donor."""

    def __init__(self, graph: Graph, tensor: Callable[[Value], Any]) -> None:
        self._graph = graph
        self._tensor = tensor
        assert graph.past is not None
        self._base = graph if graph.past.base is None else graph.past.base
        self._model = None if isinstance(graph.past.body, Body) else graph.past.body
        self._inputs = {
            id(_keras.input_layer(value.origin)): value
            for value in self._base.inputs
            if value.origin is not None
        }
        self._history: History | None = None

    def __call__(self, value: Any) -> Any:
        if value is self._model and value is not None:
            return ITSELF
        if isinstance(value, types.MethodType):
            return _Method(value.__func__, self(value.__self__))
        if isinstance(value, _Method):
            return _Method(value.function, self(value.owner))
        if value is ITSELF:
            return value
        if isinstance(value, Value):
            return self._read(value)
        if isinstance(value, keras.KerasTensor):
            return self._symbolic(value)
        if isinstance(value, keras.layers.Layer):
            return self._layer(value)
        if isinstance(value, keras.metrics.Metric):
            return _keras.Copier(_keras.variable_like).object(value)
        if isinstance(value, keras.optimizers.Optimizer) and value.built:
            raise Gone(f"the optimizer {value.name!r} was built for the variables of the donor")
        return self._container(value)

    @property
    def _known(self) -> History:
        if self._history is None:
            self._history = History(self._graph, self._base)
        return self._history

    def _read(self, value: Value) -> Any:
        now = self._known.now(value)
        tensor = self._tensor(now) if now in self._graph else None
        if tensor is None:
            raise Gone(f"the tensor {value.name!r}, which it holds, is no longer in the graph")
        return tensor

    def _symbolic(self, tensor: Any) -> Any:
        value = self._base.read_from(tensor)
        if value is not None:
            return self._read(value.within(None))
        if self._model is not None and self._known.reads_inside(tensor):
            raise Gone(f"the tensor {tensor.name!r}, which it holds, lies in a nested model")
        return tensor

    def _layer(self, layer: Any) -> Any:
        if id(layer) in self._inputs:
            return _keras.input_layer(self._tensor_of_input(self._inputs[id(layer)])) or layer
        return self._known.layer(layer)

    def _tensor_of_input(self, value: Value) -> Any:
        tensor = self._read(value.within(None))
        return tensor.origin if isinstance(tensor, Value) else tensor

    def _container(self, value: Any) -> Any:
        kind = _keras.plain_container(value)
        if kind is dict:
            pairs = ((key, self._or_removed(item)) for key, item in value.items())
            return {key: item for key, (item, there) in pairs if there}
        if kind is not None:
            return kind(self._present(value))
        if isinstance(value, tuple):  # a named tuple needs every field
            return type(value)(*map(self, value))
        held = _keras.first_held(value, self._is_lost)
        if held is not None:
            name = getattr(held, "name", type(held).__name__)
            raise Gone(f"it uses {name!r} of the donor, which cannot be separated from it")
        return value

    def _present(self, values: Any) -> Iterator[Any]:
        for item, there in map(self._or_removed, values):
            if there:
                yield item

    def _or_removed(self, value: Any) -> tuple[Any, bool]:
        try:
            return self(value), True
        except Removed:
            return None, False

    def _is_lost(self, item: Any) -> bool:
        """Whether an item is the donor, or a layer that is not the same in the new model."""
        if item is self._model:
            return True
        if not isinstance(item, keras.layers.Layer):
            return False
        try:
            return self._layer(item) is not item
        except Gone:
            return True
