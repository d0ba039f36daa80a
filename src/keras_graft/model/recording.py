"""Record a verb as a step: its name and its arguments, as plain data that a file can hold.

Nothing of the model is held: nodes become the paths that they have in it, layers that are put in
become their configurations. These are read when the step is made: the layer may be gone later.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import PurePath
from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft import ties as _ties
from keras_graft.errors import GraftError
from keras_graft.graph.copyable import Key
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Value
from keras_graft.graph.record import record_of
from keras_graft.graph.recording import Put, Recording, Step, recorded, recording
from keras_graft.graph.select import Selection, everything, leaves, select
from keras_graft.model.described import class_name, function_name, layer_data, unwritten

FORMS = (
    "class", "function", "layer", "each", "for_each", "operation_of", "same_as", "given",
    "pairs", "tuple", "array", "as_input", "unwritten",
)  # fmt: skip
"""The keys of the objects that say what plain data cannot: `{"class": "keras.layers.ReLU"}`."""


@contextlib.contextmanager
def step(
    name: str, graph: Any, given: Mapping[str, Any], edits: tuple[Any, ...] | None = None
) -> Iterator[Callable[[Any], Any]]:
    """Record a verb that runs inside; a verb that another one calls is part of that one.

    Args:
        name: The name of the verb.
        graph: What it works on; None if no argument selects anything in it.
        given: Its other arguments.
        edits: The steps before; None: those that made the graph.

    Yields:
        A function that returns the result of the verb, which remembers the step.
    """
    if recording() is not None:
        yield lambda result: result
        return
    before = graph.edits if edits is None else edits
    with recorded(graph) as now:

        def remembering(result: Any) -> Any:
            plain = _Plain(now, name)
            values = {**given, **now.chosen}
            data = {key: plain.argument(key, value) for key, value in values.items()}
            if not isinstance(result, tuple):
                return _remembering(result, (*before, Step(name, data)))
            call = Key()
            return tuple(
                _remembering(each, (*before, Step(name, data, part, call)))
                for part, each in enumerate(result)
            )

        yield remembering


@contextlib.contextmanager
def unrecorded(edits: tuple[Any, ...]) -> Iterator[Callable[[Any], Any]]:
    """Record no step, and let the result remember those before: as `step` does otherwise."""
    yield lambda result: _remembering(result, edits)


def _remembering(result: Any, edits: tuple[Any, ...]) -> Any:
    if isinstance(result, Graph):
        return result.remembering(edits)
    if dataclasses.is_dataclass(result):  # a report, with the graph
        return dataclasses.replace(result, model=_remembering(result.model, edits))  # type: ignore
    _keras.remembering(result, edits)
    return result


def given_to(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a verb by their names, without the model and without defaults."""
    names, defaults = _parameters(function)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return {k: v for k, v in given.items() if not (k in defaults and v is defaults[k])}


@cache
def _parameters(function: Callable[..., Any]) -> tuple[list[str], dict[str, Any]]:
    _, *others = inspect.signature(function).parameters.values()
    defaults = {p.name: p.default for p in others if p.default is not p.empty}
    return [p.name for p in others], defaults


@dataclasses.dataclass(frozen=True)
class Ready:
    """An argument that is plain data already."""

    data: Any


class _Plain:
    """Returns arguments of a verb as plain data."""

    def __init__(self, now: Recording, verb: str) -> None:
        self._now = now
        self._graph: Graph = now.graph
        self._verb = verb

    def argument(self, name: str, value: Any) -> Any:
        """Return an argument as plain data. The verb is done: nothing here may refuse it."""
        try:
            return self._argument(name, value)
        except Exception:  # code of the user's own may run: `__eq__`, `get_config`
            return unwritten(f"a {type(value).__name__}")

    def _argument(self, name: str, value: Any) -> Any:
        places = ("replace", "new"), ("insert", "new"), ("recipes.new_head", "head")
        if (self._verb, name) in places and self._now.puts and callable(value):
            return self._put(value)
        if name == "path":
            return {"given": PurePath(value).name}
        if self._verb == "split" and name == "at":
            items = list(value) if isinstance(value, list | Selection) else [value]
            return [self(item, tuples=True) for item in items]
        if name == "before" and isinstance(value, Value):
            return [self(value)]  # as a text, `lstm:1` is an input of `lstm`
        return self(value)

    def __call__(self, value: Any, tuples: bool = False) -> Any:
        if isinstance(value, Ready):
            return value.data
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, str):
            return str(value)
        if isinstance(value, float):
            return value if math.isfinite(value) else unwritten(f"the number {value}")
        if isinstance(value, Selection):
            return self._paths(value)
        if isinstance(value, list | tuple):
            items = [self(item) for item in value]
            return {"tuple": items} if tuples and isinstance(value, tuple) else items
        if isinstance(value, Mapping):
            return self._mapping(value)
        if isinstance(value, Node | Value):
            return self._paths(value)[0]
        if isinstance(value, keras.Variable):
            return self._address(value)
        if isinstance(value, type):
            name = class_name(value)
            return {"class": name} if name else self._found(value, f"the class {value.__name__!r}")
        if isinstance(value, os.PathLike):
            return {"given": PurePath(value).name}
        return self._object(value)

    def _object(self, value: Any) -> Any:
        paths = self._now.paths(value)
        if paths is not None:
            return paths
        for put in self._now.puts:
            if put.new is value:
                return self._one(put)
        if isinstance(value, keras.Layer):
            return layer_data(value, fresh=False)
        if callable(value):
            name = function_name(value)
            return {"function": name} if name else unwritten(value)
        return self._found(value, f"a {type(value).__name__}")

    def _paths(self, item: Any) -> list[str]:
        paths = self._now.paths(item)
        return paths if paths is not None else [i.path for i in select(self._graph, item).items]

    def _found(self, value: Any, what: str) -> Any:
        try:
            return self._paths(value)
        except GraftError:
            return unwritten(what)

    def _mapping(self, value: Mapping[Any, Any]) -> Any:
        pairs = [[self(key), self(item)] for key, item in value.items()]
        names = [key for key, _ in pairs if isinstance(key, str)]
        if len(set(names)) < len(pairs) or not set(FORMS).isdisjoint(names):
            return {"pairs": pairs}
        return dict(pairs)

    def _address(self, variable: Any) -> Any:
        """Return the address of a variable: as `find_weight` finds it, the owner first."""
        for by_tie in (False, True):
            for node in leaves(self._graph.nodes):
                layer = node.operation
                if not isinstance(layer, keras.Layer):
                    continue
                for name, own in _ties.named_weights(layer, tied=by_tie).items():
                    if own is variable or any(
                        t.seen is variable and t.weight == name for t in _ties.ties_of(layer)
                    ):
                        return "/".join([*(n.name for n in node.scope), node.name, name])
        return unwritten("a variable of another model")

    def _put(self, given: Any) -> Any:
        """Return what was put in: one layer, or one for each place."""
        puts = self._now.puts
        if len({id(put.new) for put in puts}) == 1 and puts[0].new is given:
            return self._one(puts[0])
        made: dict[int, int] = {}
        entries = []
        for place, put in enumerate(puts):
            first = made.setdefault(id(put.new), place)
            entries.append(self._one(put) if first == place else {"same_as": first})
        plain = [_without_name(entry) for entry in entries]
        alike = all(put.named and put.data and "seeds" not in put.data for put in puts)
        if alike and all(entry == plain[0] for entry in plain):
            return {"for_each": plain[0]}  # none draws weights, and each is named by its place
        return {"each": entries}

    def _one(self, put: Put) -> Any:
        new = put.new
        if put.data is not None:
            if "config" not in put.data:
                return put.data
            return {**put.data, "config": {**put.data["config"], "name": new.name}}
        if isinstance(new, keras.Operation):
            for node in everything(self._graph):
                if node.operation is new:
                    return {"operation_of": "/".join([*(n.name for n in node.scope), node.name])}
        if isinstance(new, keras.Layer):
            kept = record_of(new).kept
            return layer_data(new, fresh=kept is not None and not kept.fresh)
        name = function_name(new)
        return {"function": name} if name else unwritten(new)


def _without_name(entry: Any) -> Any:
    if not isinstance(entry, dict) or "config" not in entry:
        return entry
    return {**entry, "config": {k: v for k, v in entry["config"].items() if k != "name"}}
