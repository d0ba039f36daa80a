"""Trace what an edit puts in at its place: a layer, a model or a function."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.errors import EditError, GraftError, ReadError
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Slot, Template, Value
from keras_graft.graph.select import find_tensor
from keras_graft.graph.walk import read_places
from keras_graft.model.calls import caller
from keras_graft.model.check_runs import needs_trial
from keras_graft.model.from_keras import Traced
from keras_graft.model.infer import with_masks_of
from keras_graft.model.masks_taken_off import finding_no_mask, without_filled_masks
from keras_graft.model.read import trace
from keras_graft.printable import shown, words_of


@dataclass(frozen=True)
class At:
    """Where something is put in.

    Attributes:
        graph: The graph, as it is when the edit reaches this place.
        inputs: The values read there, with specs and masks.
        node: The node that is replaced, or before or behind which something is inserted. None at
            an input of the graph.
        verb: What is done: `"insert after"`.
        item: The node or value it is done to.
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
        """What a factory is called with: the node, or the input if there is no node."""
        return self.graph.value(self.inputs[0]) if self.node is None else self.node


def traced(new: Any, place: At, before: Mapping[str, int]) -> Traced:
    """Return the trace of a layer, a model or a function of tensors at a place.

    Args:
        new: What is put in.
        place: Where it is put in.
        before: The names that Keras had given before the user's code ran: calls made since then
            are removed from the layers of the model again.

    Returns:
        The calls and what they give, in terms of the graph's values.

    Raises:
        EditError: If it does not take what is read there; its cause is the original exception.
    """
    graph = place.graph
    place, template = _call_of(new, place)
    taken: list[Any] = []

    def here(tensor: Any) -> Value | None:
        """Return the value of a tensor that a function took from the model around it."""
        taken.append(tensor)
        found = find_tensor(graph, tensor)
        return None if found is None or found.scope else found.within(None)

    try:
        did = trace(_caller(new, template), place.inputs, partial(_known, graph), here, True)
    except Exception as error:
        # It is not known which tensors of the model it read before it raised: all are checked.
        _keras.forget_readers([value.origin for value in graph.all_values()], before)
        if isinstance(error, GraftError):
            raise EditError(f"{place.edit}: {_hint(new, error)}") from error
        raise EditError(_does_not_take(new, place, error)) from error
    _keras.forget_readers(taken, before)
    # What comes in place of a call, or before it, finds the masks that this one finds.
    lost = () if place.node is None or place.verb == "insert after" else place.node.maskless
    nodes = tuple(
        step.replace(untried=()) if needs_trial(step) and not _runs(graph, step) else step
        for step in (_as_there(step, lost) for step in did.steps)
    )
    outputs = tuple(v if v in place.inputs else v.replace(origin=None) for v in did.outputs)
    return dataclasses.replace(did, steps=nodes, outputs=outputs)


def _as_there(step: Node, lost: Collection[Value]) -> Node:
    return finding_no_mask(step, lost, without_filled_masks(step), trace) if lost else step


def _known(graph: Graph, mask: Value) -> Value | None:
    return graph.known(mask) if mask in graph else None


def _runs(graph: Graph, step: Node) -> bool:
    """Whether the operation already runs elsewhere on the specs that it would read here."""
    specs = [value.spec for value in step.inputs]
    return any(
        call.untried is None and [value.spec for value in call.inputs] == specs
        for call in graph.calls(step.operation)
    )


def _call_of(new: Any, place: At) -> tuple[At, Template]:
    """Return the place with the values that `new` reads there, and the arguments of its call."""
    graph, node, inputs = place.graph, place.node, place.inputs
    if node is not None and place.verb == "replace":
        if isinstance(new, keras.Layer) and isinstance(node.operation, keras.Layer):
            recorded, inputs = with_masks_of(node, inputs, partial(_known, graph))
            return dataclasses.replace(place, inputs=inputs), _taken(new, recorded, node.operation)
        # A mask accompanies its value; a function does not expect it as an input.
        inputs = tuple(inputs[i] for i in read_places(node))
    count = len(inputs)
    template = Template((Slot(0) if count == 1 else [Slot(i) for i in range(count)],))
    return dataclasses.replace(place, inputs=inputs), template


def _caller(new: Any, template: Template) -> Callable[..., Any]:
    if isinstance(new, keras.Layer):
        call = caller(new, template)
        call.__name__ = new.name
        return call

    def run(*tensors: Any) -> Any:
        return new(*tensors)

    run.__name__ = str(getattr(new, "__name__", "function"))
    return run


def _taken(new: Any, recorded: Template, old: Any) -> Template:
    """Return a recorded call with only the arguments that `new` takes.

    A `training=True` that is the old layer's default was recorded by Keras, not given by the user.
    """
    parameters = inspect.signature(new.call).parameters
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    # Keras itself fills in `mask` and `training` where they were not given.
    kwargs = {
        name: value
        for name, value in recorded.kwargs.items()
        if (name in parameters or (any_name and name not in ("mask", "training")))
        and not (name == "training" and value and value == _keras.default_flag(old))
    }
    args = recorded.args
    if isinstance(old, keras.Model) and not isinstance(new, keras.Model):
        # A model takes a list of one tensor for that tensor; a layer does not.
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
