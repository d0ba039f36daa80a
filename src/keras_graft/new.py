"""What an edit puts in: a layer, a model or a function, traced at its place."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.call import filled
from keras_graft.errors import EditError, GraftError, ReadError
from keras_graft.flow import read_places
from keras_graft.graph import Graph
from keras_graft.infer import with_masks_of
from keras_graft.level import Traced
from keras_graft.naming import safe
from keras_graft.node import Node, Slot, Template, Value
from keras_graft.printable import shown, words_of
from keras_graft.reader import trace
from keras_graft.select import find_tensor
from keras_graft.trial import needs_trial


@dataclass(frozen=True)
class At:
    """Where something is put in.

    Attributes:
        graph: The graph, as it is when it comes to this place.
        inputs: What is read there, with specs and masks.
        node: The node that is replaced, or that stands before or behind. None at an input of the
            graph.
        verb: What is done: `"insert after"`.
        item: What it is done to.
    """

    graph: Graph
    inputs: tuple[Value, ...]
    node: Node | None
    verb: str
    item: Node | Value

    @property
    def edit(self) -> str:
        """The edit, for messages: `"replace 'relu'"`."""
        return f"{self.verb} {self.graph.label(self.item)!r}"

    @property
    def asked(self) -> Node | Value:
        """What a factory gets: the node, or the input where there is none."""
        return self.graph.value(self.inputs[0]) if self.node is None else self.node


@dataclass(frozen=True)
class _Answer:
    """What a function gave, or raised, when it was called with a node."""

    given: Any = None
    error: Exception | None = None


def put_in(new: Any, place: At, names: set[str]) -> tuple[list[Node], list[Value], Any]:
    """Trace `new` at a place.

    What a function is, is decided by what it gives: it is called with the node first, as a
    factory. If that raises, or gives nothing that can be put in, it is a function of tensors.

    Args:
        new: A layer, a model, a function of tensors or a factory.
        place: Where it goes.
        names: The names that were given at other places of the same graph; those given here are
            added.

    Returns:
        The nodes that it makes, in terms of the graph's values; the values that it gives; and
        the layer or model, if it is one.

    Raises:
        EditError: If it is nothing that can be called, or does not take what is read there.
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
        traced = _traced(new, place, before)
    else:
        new, traced = _decided(new, place, before)
    for operation in (node.operation for node in traced.steps):
        if _keras.named_since(operation, before) or any(operation is op for op in traced.named):
            operation.name = _name_there(operation, place, names)
    layer = new if isinstance(new, keras.Layer) else None
    return list(traced.steps), list(traced.outputs), layer


def _can_go_in(new: Any) -> bool:
    return callable(new) and not isinstance(new, type | Graph)


def _name_there(operation: Any, place: At, names: set[str]) -> str:
    """Return a free name that tells the place of what was made for it: `"b0_add_dropout"`."""
    graph = place.graph
    inputs = {value.name for value in graph.inputs}
    name = free = f"{safe(graph.label(place.item))}_{_keras.automatic_name(operation)}"
    numbers = itertools.count(1)
    while free in names or free in inputs or graph.named(free):
        free = f"{name}_{next(numbers)}"
    names.add(free)
    return free


def _decided(new: Any, place: At, before: Mapping[str, int]) -> tuple[Any, Traced]:
    """Return what a function puts in, and what that did: what it gives, or the function itself."""
    answer = _called(new, place)
    if _can_go_in(answer.given):
        return answer.given, _traced(answer.given, place, before)
    try:
        return new, _traced(new, place, before)
    except EditError as error:
        raise _neither(new, place, answer, error) from error.__cause__


def _called(new: Any, place: At) -> _Answer:
    """Call a function with the node. As a function of tensors it would raise, or give no layer."""
    try:
        return _Answer(new(place.asked))
    except Exception as error:
        return _Answer(error=error)


def _traced(new: Any, place: At, before: Mapping[str, int]) -> Traced:
    """Return what `new` does at a place, in terms of the graph's values."""
    graph = place.graph
    place, template = _call_of(new, place)
    masks = {
        i: v.mask for i, v in enumerate(place.inputs) if v.mask is not None and v.mask in graph
    }
    taken: list[Any] = []

    def here(tensor: Any) -> Value | None:
        """Return the value that a function took from the model around it."""
        taken.append(tensor)
        found = find_tensor(graph, tensor)
        return None if found is None or found.scope else found.within(None)

    def is_new(tensor: Any) -> bool:
        return _keras.named_since(tensor, before)

    try:
        traced = trace(_caller(new, template), place.inputs, masks, here, True)
    except Exception as error:
        # What it took from the model around it, before it raised, is not known.
        _keras.forget_readers([value.origin for value in graph.all_values()], is_new)
        if isinstance(error, GraftError):
            raise EditError(f"{place.edit}: {_hint(new, error)}") from error
        raise EditError(_does_not_take(new, place, error)) from error
    _keras.forget_readers(taken, is_new)
    mapping = dict(zip(traced.inputs, [*place.inputs, *masks.values()], strict=True))
    nodes = tuple(
        step.replace(untried=()) if needs_trial(step) and not _runs(graph, step) else step
        for step in (step.reading(mapping) for step in traced.steps)
    )
    outputs = tuple(
        mapping[v] if v in mapping else v.masked(mapping).replace(origin=None)
        for v in traced.outputs
    )
    return dataclasses.replace(traced, steps=nodes, outputs=outputs)


def _runs(graph: Graph, step: Node) -> bool:
    """Whether an operation is called elsewhere on what it would read here."""
    specs = [value.spec for value in step.inputs]
    return any(
        call.untried is None and [value.spec for value in call.inputs] == specs
        for call in graph.calls(step.operation)
    )


def _call_of(new: Any, place: At) -> tuple[At, Template]:
    """Return what is read at a place by what comes in, and how that is called."""
    graph, node, inputs = place.graph, place.node, place.inputs
    if node is not None and place.verb == "replace":
        if isinstance(new, keras.Layer) and isinstance(node.operation, keras.Layer):
            recorded, inputs = with_masks_of(
                node, inputs, lambda mask: graph.known(mask) if mask in graph else None
            )
            return dataclasses.replace(place, inputs=inputs), _taken(new, recorded, node.operation)
        # A mask comes along with what it is of; it is no input that a function would expect.
        inputs = tuple(inputs[i] for i in read_places(node))
    count = len(inputs)
    template = Template((Slot(0) if count == 1 else [Slot(i) for i in range(count)],))
    return dataclasses.replace(place, inputs=inputs), template


def _caller(new: Any, template: Template) -> Callable[..., Any]:
    if not isinstance(new, keras.Layer):

        def run(*tensors: Any) -> Any:
            return new(*tensors)

        run.__name__ = str(getattr(new, "__name__", "function"))
        return run

    def call(*tensors: Any) -> Any:
        args, kwargs = filled(template, tensors)
        return new(*args, **kwargs)

    call.__name__ = new.name
    return call


def _taken(new: Any, recorded: Template, old: Any) -> Template:
    """Return a recorded call with the arguments that `new` takes.

    A `training=True` that is the old layer's default was recorded by Keras, not given by anybody.
    """
    parameters = inspect.signature(new.call).parameters
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    # `mask` and `training` are Keras's own to fill in where they were not given.
    kwargs = {
        name: value
        for name, value in recorded.kwargs.items()
        if (name in parameters or (any_name and name not in ("mask", "training")))
        and not (name == "training" and value and value == _keras.default_flag(old))
    }
    args = recorded.args
    if isinstance(old, keras.Model) and not isinstance(new, keras.Model):
        # A model takes a list of one as the one tensor that it is; a layer does not.
        args = tuple(map(_without_list, args))
        kwargs = {name: _without_list(value) for name, value in kwargs.items()}
    return Template(args, kwargs)


def _without_list(argument: Any) -> Any:
    is_one = isinstance(argument, (list, tuple)) and len(argument) == 1
    return argument[0] if is_one and isinstance(argument[0], (Slot, type(None))) else argument


def _hint(new: Any, error: GraftError) -> str:
    if isinstance(error, ReadError) and not isinstance(new, keras.Layer):
        return f"{words_of(error)} A function gets one tensor for each input and returns tensors."
    return words_of(error)


def _does_not_take(new: Any, place: At, error: Exception) -> str:
    name = f"{type(new).__name__} {new.name!r}" if isinstance(new, keras.Layer) else shown(new)
    lines = []
    for value in place.inputs:
        producer = place.graph.producer(value) if value in place.graph else None
        source = "an input" if producer is None else f"node {place.graph.label(producer)!r}"
        lines.append(f"  {value.spec} from {source}")
    return (
        f"{place.edit}: {name} does not take what it would read there:\n"
        + "\n".join(lines)
        + f"\nKeras says: {words_of(error)}"
    )


def _neither(new: Any, place: At, answer: _Answer, error: EditError) -> GraftError:
    """Return the error of a function that is neither a factory nor one of tensors there.

    Args:
        new: The function.
        place: Where it was to go.
        answer: What it said when it was called with the node.
        error: What is wrong with it as a function of tensors; its cause is what it raised then.
    """
    raised, cause = answer.error, error.__cause__
    if isinstance(raised, GraftError):
        return raised
    if isinstance(cause, GraftError) and not isinstance(cause, ReadError):
        return error  # the function's own words
    asked = f"the {'input' if place.node is None else 'node'} {place.graph.label(place.asked)!r}"
    name = repr(getattr(new, "__name__", None) or shown(new))
    if raised is not None and _told(raised) == _told(cause):
        return EditError(f"{place.edit}: {name} raised {_told(raised)}, for {asked} and for tensors.")
    if not _is_likely_factory(place.asked, answer, cause):
        said = _gave(answer.given) if raised is None else f"it raised {_told(raised)}."
        return EditError(f"{error}\nCalled with {asked} first, as a factory, {said}")
    what = "gave" if raised is None else "raised"
    return EditError(
        f"{place.edit}: called with {asked}, the factory {name} {what} ..."
    )
