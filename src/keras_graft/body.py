"""What a model is besides its graph: its class and its attributes, carried over to an edited one.

An attribute may hold layers, symbolic tensors and the model itself, alone or in containers. Those
that the edited graph still has stay; for one in whose place a single other layer stands now, that
one does; a layer that was removed leaves a list that it was in. An attribute that cannot be made
so any more says, when it is accessed, what became of it.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.graph import Graph
from keras_graft.moves import Move
from keras_graft.naming import listed
from keras_graft.node import Node, Value
from keras_graft.printable import words_of
from keras_graft.select import everything


@dataclass(frozen=True)
class Body:
    """What stands for the model that a graph was read from, once its layers were copied.

    Attributes:
        cls: The class of the model.
        attributes: Its attributes, with a `Value` for each symbolic tensor, and `ITSELF`.
        gone: What an attribute says that could not be carried over.
    """

    cls: type
    attributes: Mapping[str, Any]
    gone: Mapping[str, str] = field(default_factory=dict)


class _Itself:
    """Stands for the model in its own attributes."""


ITSELF = _Itself()


@dataclass(frozen=True)
class _Method:
    """Stands for a method of something that is another object in the new model."""

    function: Any
    owner: Any


class _Gone(Exception):
    """An attribute cannot be carried over; the words go on behind its name."""


class _Removed(_Gone):
    """It held a layer in whose place nothing stands."""


def dressed(graph: Graph, model: Any, tensors: Mapping[Value, Any]) -> tuple[Any, str | None]:
    """Give a model that was made of a graph the class and the attributes of the donor.

    Returns:
        The model, which may be another object than the one given; and why the class could not be
        kept, if so.
    """
    if graph.past is None:
        return model, None
    cls, attributes, gone = _parts(graph.past.body)
    own = _keras.attributes(model)
    extra = {name: value for name, value in attributes.items() if name not in own}
    plain = _keras.is_plain(cls)
    if issubclass(cls, keras.Sequential):
        lost = None if cls is keras.Sequential else "the layers of a Sequential class are no graph"
        return model, lost
    if plain and not extra:
        return model, None
    carried, gone = _carried(graph, extra, gone, tensors.get)
    if not plain:
        tied = isinstance(model, _keras.LaterOutputs)  # a TiedModel is one too
        try:
            model = _keras.of_class(model, cls, tied or bool(gone))
        except Exception as error:
            return model, f"an object of it cannot be made: {words_of(error)}"
    for name, value in carried.items():
        try:
            setattr(model, name, _with_itself(value, model))
        except Exception as error:
            gone[name] = f"its class does not let it be set: {words_of(error)}"
    if not plain:
        model.__dict__["_keras_graft_carried"] = tuple(carried)
        model.__dict__["_keras_graft_gone"] = gone
    return model, None


def copied(graph: Graph, copier: Callable[[Any], Any]) -> Body | None:
    """Return the body for a graph of the same values whose layers are those that `copier` makes."""
    if graph.past is None:
        return None
    cls, attributes, gone = _parts(graph.past.body)
    if issubclass(cls, keras.Sequential):
        return Body(cls, {})
    attributes = {k: v for k, v in attributes.items() if k not in _keras.plain_attributes()}
    carried, gone = _carried(graph, attributes, gone, lambda value: value)
    return Body(cls, {name: copier(value) for name, value in carried.items()}, gone)


def class_of(graph: Graph) -> str:
    """Return the name of the class of the model that a graph was read from, or is to become."""
    cls = _keras.Functional if graph.past is None else _class(graph.past.body)
    if issubclass(cls, keras.Sequential) and graph.origin is None:
        cls = _keras.Functional
    return "Functional" if _keras.is_plain(cls) else cls.__name__


def lost_class(graph: Graph) -> str:
    """Return the name of the class of the donor."""
    return "" if graph.past is None else _class(graph.past.body).__name__


def _class(body: Any) -> Any:
    return body.cls if isinstance(body, Body) else _keras.class_kept(type(body))


def _parts(body: Any) -> tuple[type, Mapping[str, Any], dict[str, str]]:
    if isinstance(body, Body):
        return body.cls, body.attributes, dict(body.gone)
    attributes = dict(_keras.attributes(body))
    gone = attributes.pop("_keras_graft_gone", {})
    for name in ("_keras_graft_carried", "_manual_input_spec"):  # the second is of the old inputs
        attributes.pop(name, None)
    return _class(body), attributes, dict(gone)


def _carried(
    graph: Graph, attributes: Mapping[str, Any], gone: dict[str, str],
    tensor: Callable[[Value], Any],
) -> tuple[dict[str, Any], dict[str, str]]:  # fmt: skip
    """Return the attributes that go over, and the words of those that do not."""
    carry, carried = _Carry(graph, tensor), {}
    for name, value in attributes.items():
        try:
            carried[name] = carry(value)
        except _Gone as error:
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
    """Returns what stands for a value among the attributes of an edited model."""

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
        self._history: _History | None = None

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
            raise _Gone(f"the optimizer {value.name!r} was built for the variables of the donor")
        return self._container(value)

    @property
    def _known(self) -> _History:
        if self._history is None:
            self._history = _History(self._graph, self._base)
        return self._history

    def _read(self, value: Value) -> Any:
        now = self._known.now(value)
        tensor = self._tensor(now) if now in self._graph else None
        if tensor is None:
            raise _Gone(f"the tensor {value.name!r}, which it holds, is no longer in the graph")
        return tensor

    def _symbolic(self, tensor: Any) -> Any:
        value = self._base.read_from(tensor)
        if value is not None:
            return self._read(value.within(None))
        if self._model is not None and self._known.reads_inside(tensor):
            raise _Gone(f"the tensor {tensor.name!r}, which it holds, lies in a nested model")
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
        if isinstance(value, tuple):  # a named one has a place for each
            return type(value)(*map(self, value))
        held = _keras.first_held(value, self._is_lost)
        if held is not None:
            name = getattr(held, "name", type(held).__name__)
            raise _Gone(f"it works with {name!r} of the donor, which cannot be taken out of it")
        return value

    def _present(self, values: Any) -> Iterator[Any]:
        for item, there in map(self._or_removed, values):
            if there:
                yield item

    def _or_removed(self, value: Any) -> tuple[Any, bool]:
        try:
            return self(value), True
        except _Removed:
            return None, False

    def _is_lost(self, item: Any) -> bool:
        """Whether something that cannot be taken apart holds what the new model does not have."""
        if item is self._model:
            return True
        if not isinstance(item, keras.layers.Layer):
            return False
        try:
            return self._layer(item) is not item
        except _Gone:
            return True


class _History:
    """What became of the operations and values that a graph had when it was read."""

    def __init__(self, graph: Graph, base: Graph) -> None:
        self._here: set[int] = set()
        self._makers: dict[Any, Any] = {}
        levels = {id(graph): graph}
        for node in everything(graph):
            self._here |= {id(layer) for layer in _keras.layers_inside(node.operation)}
            for value in node.outputs:
                for key in _keys(value):
                    self._makers.setdefault(key, node.operation)
            if node.nested is not None:
                levels[id(node.nested)] = node.nested
        self._edits: list[dict[Any, Move]] = []
        for level in levels.values():
            for moves in [] if level.past is None else level.past.moves():
                edit: dict[Any, Move] = {}
                for move in moves:
                    for key in _keys(move[0]):
                        edit.setdefault(key, move)
                self._edits.append(edit)
        self._calls: dict[int, list[Node]] = {}
        self._around: dict[int, Any] = {}
        self._inside: set[int] = set()
        for node in everything(base):
            self._calls.setdefault(id(node.operation), []).append(node)
            if node.scope:
                self._inside |= {id(v.origin) for v in node.outputs}
            for layer in _keras.layers_inside(node.operation)[1:]:
                self._around.setdefault(id(layer), node.operation)

    def now(self, value: Value) -> Value:
        """Return what is read today where `value` was read."""
        for _, new, _ in self._moves(value):
            value = new
        return value.within(None)

    def _moves(self, value: Value, taken: bool = False) -> Iterator[Move]:
        """Yield what edits made of a value, one after another.

        Args:
            value: The value.
            taken: Whether only edits count that took away what gave it.
        """
        for edit in self._edits:
            move = next((edit[key] for key in _keys(value) if key in edit), None)
            if move is not None and (not taken or move[2] is not None):
                yield move
                value = move[1]

    def reads_inside(self, tensor: Any) -> bool:
        """Whether a tensor is one of a nested model of the donor."""
        return id(tensor) in self._inside

    def layer(self, layer: Any) -> Any:
        """Return the layer that stands in the place of one of the donor.

        Raises:
            _Gone: If none does, or several.
        """
        if id(layer) in self._here or not (id(layer) in self._calls or id(layer) in self._around):
            return layer
        if id(layer) not in self._calls:
            around = self._around[id(layer)]
            raise _Gone(
                f"the layer {layer.name!r}, which it holds, was inside {around.name!r}, which is "
                "no longer in the model"
            )
        found: dict[int, Any] = {}
        for node in self._calls[id(layer)]:
            for value in node.outputs:
                found.update((id(op), op) for op in self._instead(value))
        if not found:
            raise _Removed(f"the layer {layer.name!r}, which it holds, was removed by an edit")
        inside = {id(item) for item in _keras.layers_inside(layer)}
        if found.keys() & inside:
            raise _Gone(
                f"the model {layer.name!r}, which it holds, was opened by an edit: its layers are "
                "in the model itself"
            )
        (one, *others) = found.values()
        if others or not isinstance(one, keras.layers.Layer):
            names = listed(operation.name for operation in found.values())
            raise _Gone(
                f"the layer {layer.name!r}, which it holds, is no longer in the model: in its "
                f"place {'are' if others else 'is'} {names}"
            )
        return one

    def _instead(self, value: Value) -> list[Any]:
        """Return the operations in the place of the one that gave a value; none if it was removed."""
        for _, new, put in self._moves(value, taken=True):
            if not put or len({id(operation) for operation in put}) > 1:
                return list(put or ())
            value = new
        return [self._makers[key] for key in _keys(value) if key in self._makers][:1]


def _keys(value: Value) -> list[Any]:
    """Return what finds a value again: itself, and in another reading what it was read from."""
    value = value.within(None)
    return [value] if value.origin is None else [value, id(value.origin)]
