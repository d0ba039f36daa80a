"""What an edit puts in at a place: the layer, model or function given, or a factory's result."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.edit.incoming import At, traced
from keras_graft.errors import EditError, GraftError, ReadError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import safe
from keras_graft.graph.node import Node, Spec, Value
from keras_graft.graph.recording import Put, put, recording
from keras_graft.model.described import layer_data
from keras_graft.model.from_keras import Traced
from keras_graft.printable import shown, words_of


@dataclass(frozen=True)
class _Answer:
    """What a function returned, or raised, when it was called with a node."""

    asked: Node | Value
    given: Any = None
    error: Exception | None = None


def put_in(new: Any, place: At, names: set[str]) -> tuple[list[Node], list[Value], Any]:
    """Trace `new` at a place.

    A function is first called with the node, as a factory. If that raises, or returns nothing that
    can be put in, it is treated as a function of tensors.

    Args:
        new: A layer, a model, a function of tensors or a factory.
        place: Where it is put in.
        names: The names given at other places of the same graph; names given here are added.

    Returns:
        The nodes that it makes, in terms of the graph's values; the values that it gives; and
        the layer or model, if it is one.

    Raises:
        EditError: If it cannot be called, or does not take what is read there.
    """
    if isinstance(new, type):
        raise EditError(
            f"{place.edit}: {new.__name__} is a class; give a layer, {new.__name__}(...), or a "
            f"factory, lambda node: {new.__name__}(...)."
        )
    if not _can_go_in(new):
        raise EditError(
            f"{place.edit}: expected a layer, a model or a function of tensors, got "
            f"{type(new).__name__}."
        )
    before = _keras.names_given()
    if isinstance(new, keras.Layer):
        data = _data(new, place)
        found = traced(new, place, before)
    else:
        new, found, data = _decided(new, place, before)
    named: set[int] = set()
    for operation in {id(node.operation): node.operation for node in found.steps}.values():
        kind = found.kinds.get(id(operation)) or _keras.named_since(operation, before)
        if kind and not place.graph.calls(operation):
            operation.name = name_there(kind, place, names)
            named.add(id(operation))
    layer = new if isinstance(new, keras.Layer) else None
    put(Put(new, data, id(new) in named))
    return list(found.steps), list(found.outputs), layer


def _can_go_in(new: Any) -> bool:
    return callable(new) and not isinstance(new, type | Graph)


def name_there(kind: str, place: At, names: set[str]) -> str:
    """Return a free name made of the place and the kind of the new layer: `"b0_add_dropout"`."""
    graph = place.graph
    inputs = {value.name for value in graph.inputs}
    name = free = f"{safe(graph.label(place.item))}_{kind}"
    numbers = itertools.count(1)
    while free in names or free in inputs or graph.named(free):
        free = f"{name}_{next(numbers)}"
    names.add(free)
    return free


def _data(layer: Any, place: At) -> dict[str, Any] | None:
    """Return a layer that has no weights yet as plain data, for the step that is recorded."""
    if recording() is None or layer.weights or place.graph.calls(layer):
        return None
    return layer_data(layer)


def _decided(new: Any, place: At, before: Mapping[str, int]) -> tuple[Any, Traced, Any]:
    """Return what a function puts in (its result, or the function itself), its trace and data."""
    answer = _called(new, place)
    given = answer.given
    if _can_go_in(given):
        data = _data(given, place) if isinstance(given, keras.Layer) else None
        return given, traced(given, place, before), data
    try:
        return new, traced(new, place, before), None
    except EditError as error:
        raise _neither(new, place, answer, error) from error.__cause__


def _called(new: Any, place: At) -> _Answer:
    """Call a function with the node. A function of tensors then raises, or returns no layer."""
    asked = place.asked
    try:
        return _Answer(asked, new(asked))
    except Exception as error:
        return _Answer(asked, error=error)


def _neither(new: Any, place: At, answer: _Answer, error: EditError) -> GraftError:
    """Return the error for a function that works neither as a factory nor on tensors.

    The message begins with what the function was more likely meant to be.

    Args:
        new: The function.
        place: Where it should be put in.
        answer: What it returned or raised when it was called with the node.
        error: What is wrong with it as a function of tensors; its cause is what it raised then.
    """
    raised, cause = answer.error, error.__cause__
    if isinstance(raised, GraftError):
        return raised
    if isinstance(cause, GraftError) and not isinstance(cause, ReadError):
        return error  # the function's own words
    name = repr(getattr(new, "__name__", None) or shown(new))
    asked = answer.asked
    about = f"the {'node' if isinstance(asked, Node) else 'input'} {place.graph.label(asked)!r}"
    if raised is None:
        gave = _gave(answer.given)
        if isinstance(answer.given, type):
            return EditError(f"{place.edit}: for {about}, the factory {name} gives {gave}.")
        return EditError(f"{error}\nCalled with {about} first, as a factory, it gives {gave}.")
    told = _told(raised)
    if told == _told(cause):
        return EditError(
            f"{place.edit}: {name} raised {told}, both with {about} and with the tensors."
        )
    if not _is_meant_as_factory(asked, raised, cause):
        return EditError(f"{error}\nCalled with {about} first, as a factory, it raised {told}.")
    other = words_of(cause) if isinstance(cause, ReadError) else f"it raised {_told(cause)}."
    return EditError(
        f"{place.edit}: for {about}, the factory {name} raised {told}.{_way_out(asked, raised)}\n"
        f"Called with the tensors next, as a function of tensors: {other}"
    )


def _gave(given: Any) -> str:
    if isinstance(given, type):
        return f"the class {given.__name__}; give a layer, {given.__name__}(...)"
    what = "None" if given is None else type(given).__name__
    return f"{what}; a factory gives a layer, a model or a function of tensors"


def _told(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {words_of(error)}".rstrip(".")


def _is_meant_as_factory(asked: Node | Value, raised: Exception, cause: Any) -> bool:
    """Whether a function that raised for a node is more likely a factory than one of tensors.

    If a node is passed instead of a tensor, Keras and Python complain about the type, the value or
    an attribute. A function was written for a node if it makes no tensors of tensors, or if it asks
    a tensor for an attribute that a tensor does not have and a node may have.
    """
    kinds = TypeError, ValueError, AttributeError
    if isinstance(cause, ReadError) or not isinstance(raised, kinds):
        return True
    if not isinstance(cause, AttributeError) or not isinstance(cause.obj, keras.KerasTensor):
        return False
    return hasattr(type(asked), str(cause.name)) or getattr(raised, "name", None) == cause.name


def _way_out(asked: Node | Value, raised: Exception) -> str:
    """Say where a node has the attribute that a tensor has."""
    if not isinstance(raised, AttributeError) or raised.obj is not asked:
        return ""
    if raised.name not in Spec.__dataclass_fields__:
        return ""
    where = "node.values[0].spec" if isinstance(asked, Node) else "node.spec"
    return f" A {type(asked).__name__} has it in {where}.{raised.name}."
