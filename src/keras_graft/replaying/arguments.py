"""Arguments of a step as Python objects: what a file says is made only of what is safe.

Classes and functions are Keras's own, or registered with Keras by code that was imported before.
Layers are made from their configurations in Keras's safe mode.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft.errors import EditError, GraftError
from keras_graft.graph.graph import Graph
from keras_graft.graph.select import select
from keras_graft.inside.given import Given
from keras_graft.model.described import named
from keras_graft.printable import shown, words_of

_KERAS = re.compile(
    r"keras|keras_hub(\..+)?|keras\.(src\.)?(layers|activations|ops|initializers|regularizers|"
    r"constraints|losses|metrics|dtype_policies|quantizers|random|models)(\..+)?"
)
"""The modules whose classes and functions may be in a configuration: none that read files."""
_VALUES = ("__numpy__", "__tensor__", "__bytes__", "__ellipsis__", "__slice__", "__tuple__",
           "__keras_tensor__")  # fmt: skip


class Arguments:
    """Makes the arguments of one step.

    Args:
        graph: The graph that the step changes.
        given: Models and files by their names.
    """

    def __init__(self, graph: Graph, given: Mapping[str, Any]) -> None:
        self._graph = graph
        self._given = given
        self._factories: list[_Each] = []

    def __call__(self, value: Any) -> Any:
        """Return the Python object for plain data."""
        if isinstance(value, list):
            return [self(item) for item in value]
        if not isinstance(value, dict):
            return value
        match value:
            case {"class": str(name), **rest} if not rest:
                return self._class(name)
            case {"function": str(name), **rest} if not rest:
                return self._function(name)
            case {"layer": str(name), **rest}:
                return self._layer(name, rest)
            case {"each": list(entries), **rest} if not rest:
                return self._factory(_Each(self, entries))
            case {"for_each": dict(entry), **rest} if not rest:
                return lambda node: self(entry)
            case {"operation_of": str(path), **rest} if not rest:
                return select(self._graph, path).nodes[0].operation
            case {"given": str(name), **rest} if not rest:
                return self._given[name]
            case {"tuple": list(items), **rest} if not rest:
                return tuple(self(item) for item in items)
            case {"pairs": list(pairs), **rest} if not rest:
                return self._pairs(pairs)
            case {"array": list(items), **rest} if not rest:
                return _array(items)
            case {"as_input": str() | None as name, **rest}:
                return self._as_input(name, rest)
        return {name: self(item) for name, item in value.items()}

    def check_used(self) -> None:
        """Check that each layer of a list was put in."""
        for factory in self._factories:
            factory.check_used()

    def _factory(self, factory: _Each) -> _Each:
        self._factories.append(factory)
        return factory

    def _pairs(self, pairs: list[Any]) -> dict[Any, Any]:
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise EditError("pairs are lists of two: a key and a value.")
        try:
            return {_key(self(key)): self(item) for key, item in pairs}
        except TypeError as error:
            raise EditError(f"a key of pairs: {words_of(error)}") from error

    def _class(self, name: str) -> type:
        found = named(name) if ">" not in name else keras.saving.get_registered_object(name)
        if not isinstance(found, type):
            raise EditError(_unknown("class", name))
        return found

    def _function(self, name: str) -> Any:
        if name.startswith(("keras.activations.", "keras.ops.")):
            found = named(name)
        else:
            found = keras.saving.get_registered_object(name)
        if not callable(found) or isinstance(found, type):
            raise EditError(_unknown("function", name))
        return found

    def _as_input(self, name: str | None, rest: dict[str, Any]) -> Given:
        for key in rest:
            if key not in ("function", "shape", "dtype"):
                raise EditError(
                    f"an input has 'function', 'shape' and 'dtype'; {shown(key)} is not known."
                )
        function, shape = rest.get("function"), rest.get("shape")
        if function is not None and not isinstance(function, str):
            raise EditError(f"a function is the name of one; got {shown(function)}.")
        return Given(
            name,
            None if function is None else self._function(function),
            tuple(shape) if isinstance(shape, list) else shape,
            rest.get("dtype"),
        )

    def _layer(self, name: str, rest: dict[str, Any]) -> Any:
        for key in rest:
            if key not in ("config", "seeds", "had_weights"):
                raise EditError(
                    f"a layer has 'layer', 'config' and 'seeds'; {shown(key)} is not known."
                )
        # Keras takes entries out of the configuration that it makes a layer from.
        config, seeds = copy.deepcopy(rest.get("config", {})), rest.get("seeds", [])
        if not isinstance(config, dict):
            raise EditError(f"the config of {name!r} is names with values; got {shown(config)}.")
        module, _, cls = name.rpartition(".")
        data: dict[str, Any] = {
            "module": module or None, "class_name": cls, "config": config, "registered_name": None,
        }  # fmt: skip
        if ">" in name:
            data.update(module=None, class_name=name.rpartition(">")[2], registered_name=name)
        elif not module:
            raise EditError(f"{name!r} is no layer: write keras.layers.{name}, or package>Name.")
        check_config(data)
        try:
            layer: Any = keras.saving.deserialize_keras_object(data, safe_mode=True)
        except GraftError:
            raise
        except Exception as error:  # Keras raises many kinds
            raise EditError(f"{name!r} cannot be made from its config: {_first(error)}") from error
        if not isinstance(layer, keras.Layer):
            raise EditError(f"{name!r} is no layer, but {type(layer).__name__}.")
        self._seed(layer, name, seeds)
        return layer

    def _seed(self, layer: Any, name: str, seeds: Any) -> None:
        if not seeds:
            return
        numbers = isinstance(seeds, list) and all(
            type(seed) is int and 0 <= seed < 2**63 for seed in seeds
        )
        if not numbers or layer.weights or not _keras.set_seeds(layer, seeds):
            raise EditError(
                f"the seeds of {name!r} are {shown(seeds)}, and it has "
                f"{len(_keras.seeds(layer))} initializers with one. Leave seeds out to draw new ones."
            )


def _array(items: list[Any]) -> np.ndarray:
    try:
        return np.array(items)
    except ValueError as error:
        raise EditError(f"array= is nested lists of one shape; got {shown(items)}.") from error


def _key(key: Any) -> Any:
    """Return a selector as a key of a dict: a tensor was written down as the list of its path."""
    return key if not isinstance(key, list) else key[0] if len(key) == 1 else tuple(key)


class _Each:
    """A factory that returns one thing after another, as an edit did at its places."""

    def __init__(self, arguments: Arguments, entries: list[Any]) -> None:
        self._arguments = arguments
        self._entries = entries
        self._made: list[Any] = []

    def __call__(self, node: Any) -> Any:
        number = len(self._made)
        if number >= len(self._entries):
            raise EditError(
                f"each= has {len(self._entries)} entries, and there are more places here. To make "
                'one for each place, however many: {"for_each": {"layer": ..., "config": ...}}.'
            )
        entry = self._entries[number]
        same = entry.get("same_as") if isinstance(entry, dict) else None
        if same is None:
            new = self._arguments(entry)
        elif isinstance(same, int) and 0 <= same < number:
            new = self._made[same]
        else:
            raise EditError(f"same_as is the number of an entry before, from 0; got {shown(same)}.")
        if not callable(new):
            raise EditError(f"each= holds {shown(entry)}, which is no layer or function.")
        self._made.append(new)
        return new

    def check_used(self) -> None:
        if len(self._made) < len(self._entries):
            raise EditError(
                f"each= has {len(self._entries)} entries, and there are {len(self._made)} places "
                'here. To make one for each place: {"for_each": {"layer": ..., "config": ...}}.'
            )


def check_config(data: Any) -> None:
    """Refuse a configuration that names other classes than Keras's and registered ones, or code."""
    if isinstance(data, list):
        for item in data:
            check_config(item)
    if not isinstance(data, dict):
        return
    for item in data.values():
        check_config(item)
    if "class_name" not in data or "config" not in data:
        return
    cls, module, name = data["class_name"], data.get("module"), data.get("registered_name")
    if cls == "__lambda__" or (isinstance(cls, str) and cls.split(".")[-1] == "Lambda"):
        raise EditError("a config holds Python code (a Lambda), which is never run from a file.")
    if cls in _VALUES:
        return
    if isinstance(name, str) and keras.saving.get_registered_object(name) is not None:
        return
    if cls == "function":
        if module == "builtins" or _is_keras(module):
            return
        raise EditError(_unknown("function", data["config"]))
    if not _is_keras(module):
        raise EditError(_unknown("class", name or f"{module}.{cls}"))


def _is_keras(module: Any) -> bool:
    return isinstance(module, str) and _KERAS.fullmatch(module) is not None


def _unknown(kind: str, name: Any) -> str:
    return (
        f"there is no {kind} {shown(name)}: Keras has none of that name, and none is registered. For "
        f"your own, import the code that registers it first (keras.saving."
        "register_keras_serializable)."
    )


def _first(error: Exception) -> str:
    lines = [line for line in words_of(error).strip().splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
