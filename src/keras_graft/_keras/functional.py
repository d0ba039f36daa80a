"""Make Functional models from nodes: also deep ones, and ones whose outputs Keras miscounts."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_graft._keras import private
from keras_graft._keras.private import base
from keras_graft._keras.remembering import Remembers

_READ = object()
"""Placeholder in the `_outbound_nodes` of an input for the nodes that read it."""


def make_functional(
    inputs: Any, outputs: Any, name: str, steps: int, cls: Any = keras.Model,
    nodes: Sequence[Any] = (),
) -> Any:  # fmt: skip
    """Call the constructor of Functional, or of a subclass; it recurses for each node in a chain.

    Python's recursion limit is raised only here; no frame of C lies between the recursions.

    Args:
        inputs: The symbolic inputs, nested.
        outputs: The symbolic outputs, nested.
        name: The name of the model.
        steps: The number of its nodes, or a larger number.
        cls: The class to call.
        nodes: Its Keras nodes, in call order; empty if no layer changes its number of outputs.
    """
    if private.VERSION < (3, 14):
        for tensor in keras.tree.flatten(inputs):
            # Keras refuses an input that nothing seems to read: see `Builder`.
            readers = tensor._keras_history.operation._outbound_nodes
            if not readers:
                readers.append(_READ)
    first, asked = _outputs_of_first_calls(nodes), _asked_outputs(nodes, outputs)
    if cls is keras.Model and any(count > first[key] for key, count in asked.items()):
        cls = LaterOutputs  # a file of Keras's own class would not load
    with _recursion_limit(4 * steps + 1000):
        if cls is not keras.Model or not asked:
            return cls(inputs=inputs, outputs=outputs, name=name)
        functional = private.Functional
        model: Any = functional.__new__(functional, inputs=inputs, outputs=outputs, name=name)
        with _counting_all_calls(model):
            model.__init__(inputs=inputs, outputs=outputs, name=name)
        return model


@keras.saving.register_keras_serializable("keras_graft")
class LaterOutputs(Remembers, base("Functional")):
    """A Functional model in which a layer has more outputs at a later call than at its first.

    Keras counts a layer's outputs by its first call, and then says that an additional output of a
    later call "is not connected", also when it loads a file.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # The only signature that Keras 3.12 to 3.16 accept as that of Functional: they then save
        # the network.
        with _counting_all_calls(self):
            super().__init__(*args, **kwargs)


@contextlib.contextmanager
def _counting_all_calls(model: Any) -> Iterator[None]:
    """Let Keras count each layer's outputs by its calls in `model`, while the model is made.

    The first call of a layer may also be in a donor. Uses `Function._run_through_graph` and its
    argument `call_fn`, `Function._nodes_by_depth` (3.14 - 3.15; before, Keras does not count).
    """
    run = type(model)._run_through_graph

    def counting(*args: Any, **kwargs: Any) -> Any:
        given: dict[int, int] = {}
        for nodes in model._nodes_by_depth.values():
            for node in nodes:
                key = id(node.operation)
                given[key] = max(given.get(key, 0), len(node.outputs))

        def all_outputs(operation: Any, *_: Any, **__: Any) -> list[None]:
            return [None] * given[id(operation)]

        return run(model, *args, **{**kwargs, "call_fn": all_outputs})

    model.__dict__["_run_through_graph"] = counting
    try:
        yield
    finally:
        del model.__dict__["_run_through_graph"]


def _outputs_of_first_calls(nodes: Sequence[Any]) -> dict[int, int]:
    first: dict[int, int] = {}
    for node in nodes:
        first.setdefault(id(node.operation), len(node.outputs))
    return first


def _asked_outputs(nodes: Sequence[Any], outputs: Any) -> dict[int, int]:
    """Return how many outputs of each operation are needed (up to the last used), by identity."""
    used = {id(tensor) for node in nodes for tensor in node.arguments.keras_tensors}
    used |= {id(tensor) for tensor in keras.tree.flatten(outputs)}
    asked: dict[int, int] = {}
    for node in nodes:
        if len(node.outputs) > 1:
            places = [i + 1 for i, tensor in enumerate(node.outputs) if id(tensor) in used]
            asked[id(node.operation)] = max([asked.get(id(node.operation), 0), *places])
    return asked


@contextlib.contextmanager
def _recursion_limit(extra: int) -> Iterator[None]:
    old = sys.getrecursionlimit()
    sys.setrecursionlimit(max(old, old + extra))
    try:
        yield
    finally:
        sys.setrecursionlimit(old)


def functional_config(model: Any) -> dict[str, Any]:
    """Return the configuration that Functional writes, not that of a class derived from it."""
    return private.Functional.get_config(model)


def uses_functional_config(cls: Any) -> bool:
    """Whether a class writes its configuration as Functional does."""
    return cls.get_config is private.Functional.get_config


def takes_functional_arguments(names: list[str]) -> bool:
    """Whether a constructor has the arguments of Functional's (3.15; before, it names none)."""
    own = inspect.getfullargspec(private.Functional.__init__).args[1:]
    return bool(own) and own == names
