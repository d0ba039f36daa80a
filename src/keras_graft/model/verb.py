"""`@verb`: let a function of a graph take a Keras model too; it then returns Keras models."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from keras_graft.errors import NothingSelectedError, SelectionError, WeightsError
from keras_graft.graph.graph import Graph
from keras_graft.model.build import build
from keras_graft.model.read import opened_for, opened_fully, read
from keras_graft.model.recording import given_to, step

_P = ParamSpec("_P")
_R = TypeVar("_R")
_M = TypeVar("_M")
"""A graph or a model. It has no bound: mypy does not know Keras, and would see only `Any`."""


OF_WEIGHTS = (
    "tie",
    "untie",
    "lora",
    "set_adapters",
    "merge_adapters",
    "unmerge_adapters",
    "remove_adapters",
    "train_only",
    "quantize",
)
"""Verbs that find weights by their addresses, inside closed layers too."""


class Verb(Protocol[_P]):
    """A function made by `verb`: it returns a model for a model, and a graph for a graph."""

    def __call__(self, model: _M, *args: _P.args, **kwargs: _P.kwargs) -> _M: ...


class Splitting(Protocol[_P]):
    """What `verb` makes from a function that returns several graphs."""

    def __call__(self, model: _M, *args: _P.args, **kwargs: _P.kwargs) -> tuple[_M, ...]: ...


@overload
def verb(function: Callable[Concatenate[Graph, _P], Graph]) -> Verb[_P]: ...
@overload
def verb(function: Callable[Concatenate[Graph, _P], tuple[Graph, ...]]) -> Splitting[_P]: ...
def verb(function: Callable[..., Any]) -> Any:
    """Let a function of a `Graph` take a Keras model too: it is read, and the result is built.

    The result remembers the call as a step, after those that made `model`.

    Args:
        function: Its first parameter is a `Graph`; users see it as `model`. It returns a graph, or
            a tuple of graphs.
    """

    @functools.wraps(function)
    def run(model: Any, *args: Any, **kwargs: Any) -> Any:
        def call(graph: Graph) -> Any:
            with step(name, graph, given_to(function, args, kwargs)) as remembering:
                return remembering(function(graph, *args, **kwargs))

        result = answered(model, (args, kwargs), call, name in OF_WEIGHTS)
        if isinstance(model, Graph):
            return result
        return tuple(map(build, result)) if isinstance(result, tuple) else build(result)

    name = function.__name__

    return _shown(run)


def recipe(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let what a recipe makes remember it as one step, and not as the verbs that it calls."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        model = args[0] if args else kwargs.pop(first)
        args = args[1:]
        graph = read(model)
        with step(name, graph, given_to(function, args, kwargs)) as remembering:
            result = remembering(function(graph, *args, **kwargs))  # type: ignore[call-arg]
        if isinstance(model, Graph):
            return result
        if isinstance(result, Graph):
            return build(result)
        return dataclasses.replace(result, model=build(result.model))

    name = f"recipes.{function.__name__}"
    first = next(iter(inspect.signature(function).parameters))
    return run  # type: ignore[return-value]


def question(function: Callable[Concatenate[Graph, _P], _R]) -> Callable[Concatenate[Any, _P], _R]:
    """Let a function that answers a question about a `Graph` take a Keras model too."""

    @functools.wraps(function)
    def run(model: Any, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return answered(model, (args, kwargs), lambda graph: function(graph, *args, **kwargs))

    return _shown(run)


def answered(
    model: Any, arguments: Any, call: Callable[[Graph], _R], closed_first: bool = False
) -> _R:
    """Return what a function gives for the graph of a model, with the layers open that it names.

    A path such as `"layer_1/attention/query"` opens the layers that it leads into. If a class, a
    predicate or a pattern with `**` matches nothing, all layers are opened, and it is asked once
    more.

    Args:
        model: A Keras model or a `Graph`.
        arguments: The arguments of the function, with its selectors.
        call: The function.
        closed_first: Whether it is asked for the graph as it is first: a weight has an address
            inside a closed layer too.
    """
    graph = read(model)
    if closed_first:
        with contextlib.suppress(NothingSelectedError, SelectionError, WeightsError):
            return call(graph)
    graph = opened_for(graph, texts_in(arguments))
    try:
        return call(graph)
    except NothingSelectedError as error:
        if not _may_be_inside(arguments):
            raise
        # First what people wrote, then also the inside of Keras's own layers.
        for of_keras in (False, True):
            inside = opened_fully(graph, of_keras)
            if inside is not graph:
                with contextlib.suppress(NothingSelectedError):
                    return call(inside)
        raise error


def _may_be_inside(arguments: Any) -> bool:
    """Whether selectors may match something inside a layer, without a path that leads there."""
    texts = list(texts_in(arguments))
    if any("**" in text for text in texts):
        return True
    given = [
        item for part in arguments for item in (part.values() if part is arguments[1] else part)
    ]
    return any(
        isinstance(item, type | re.Pattern) or callable(item) and not texts for item in given
    )


def texts_in(structure: Any, depth: int = 0) -> Iterator[str]:
    """Yield the texts in arguments; selectors are not nested deeper than is looked here."""
    if isinstance(structure, str):
        yield structure
    elif depth < 10 and isinstance(structure, Mapping | list | tuple):
        keys = structure if isinstance(structure, Mapping) else ()
        values = structure.values() if isinstance(structure, Mapping) else structure
        for item in (*keys, *values):
            yield from texts_in(item, depth + 1)


def _shown(run: Callable[..., Any]) -> Any:
    """Return a function whose first parameter is shown as `model`."""
    signature = inspect.signature(run)
    _, *others = signature.parameters.values()
    first = inspect.Parameter("model", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = signature.replace(parameters=[first, *others])  # type: ignore[attr-defined]
    return run
