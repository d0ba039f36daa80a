"""Store a model's attributes in its configuration: layers and tensors by their places."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft.ties.model import layers_of

_KEY = "keras_graft"


class Unwritable(Exception):
    """A value that a configuration cannot hold; the message says which."""


def _inside(layer: Any) -> list[Any]:
    """Return the layers inside a layer, always in the same order; none for a model."""
    return [] if isinstance(layer, keras.Model) else _keras.layers_inside(layer)[1:]


def _tensors(model: Any) -> list[tuple[list[Any], Any]]:
    """Return a model's tensors with their places: operation, which call, which output."""
    found: list[tuple[list[Any], Any]] = [([i], t) for i, t in enumerate(model.inputs)]
    calls: dict[str, list[Any]] = {}
    for node in _keras.nodes(model):
        calls.setdefault(node.operation.name, []).append(node)
    for name, same in calls.items():
        for number, node in enumerate(sorted(same, key=_keras.call_index)):
            found += [([name, number, i], tensor) for i, tensor in enumerate(node.outputs)]
    return found


class Writer:
    """Returns the form in which a configuration stores a value."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._places: dict[int, list[Any]] = {}
        for path, layer in layers_of(model, models=True):
            for number, one in enumerate((layer, *_inside(layer))):
                self._places.setdefault(id(one), [path, number])
        self._tensors = {id(tensor): place for place, tensor in _tensors(model)}

    def __call__(self, value: Any) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        if value is self._model:
            return {_KEY: "model"}
        if id(value) in self._places:
            return {_KEY: "layer", "at": self._places[id(value)]}
        if isinstance(value, keras.KerasTensor):
            if id(value) not in self._tensors:
                raise Unwritable(f"symbolic tensor of another model ({value.name!r})")
            return {_KEY: "tensor", "at": self._tensors[id(value)]}
        if isinstance(value, dict):
            return {_KEY: "dict", "items": [[self(k), self(v)] for k, v in value.items()]}
        for kind in (list, tuple, set, frozenset):
            if isinstance(value, kind):
                return {_KEY: kind.__name__, "items": [self(item) for item in value]}
        if isinstance(value, keras.Variable):
            return {
                _KEY: "variable", "shape": list(value.shape), "dtype": str(value.dtype),
                "trainable": value.trainable, "name": value.name,
            }  # fmt: skip
        return {_KEY: "object", "config": self._object(value)}

    def _object(self, value: Any) -> Any:
        try:
            if isinstance(value, type):
                raise TypeError("Keras does not find it again")
            return keras.saving.serialize_keras_object(value)
        except Exception as error:
            raise Unwritable(f"{type(value).__name__}") from error


class Reader:
    """Returns the value for its form in a configuration."""

    def __init__(self, model: Any, custom_objects: Any = None) -> None:
        self._model = model
        self._custom = custom_objects
        self._layers: dict[str, Any] = dict(layers_of(model, models=True))
        self._tensors = {tuple(place): tensor for place, tensor in _tensors(model)}

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        kind = value[_KEY]
        if kind == "dict":
            return {self(k): self(v) for k, v in value["items"]}
        if kind in ("list", "tuple", "set", "frozenset"):
            make = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind]
            return make(map(self, value["items"]))
        if kind == "model":
            return self._model
        if kind == "layer":
            path, number = value["at"]
            layer = self._layers[path]
            return layer if number == 0 else _keras.layers_inside(layer)[number]
        if kind == "tensor":
            return self._tensors[tuple(value["at"])]
        if kind == "variable":
            return keras.Variable(
                np.zeros(value["shape"]), dtype=value["dtype"], trainable=value["trainable"],
                name=value["name"],
            )  # fmt: skip
        return keras.saving.deserialize_keras_object(value["config"], self._custom)
