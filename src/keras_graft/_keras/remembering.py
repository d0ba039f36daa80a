"""Models that remember the steps that made them, also in their files.

The steps lie in the configuration of a model's first layer, under a key that Keras does not read.
"""

from __future__ import annotations

import sys
from typing import Any

import keras

from keras_graft._keras import private
from keras_graft._keras.private import base
from keras_graft.graph.record import record_of, remember

_KEY = "keras_graft_steps"
FORMAT = 1


def with_steps_in_file(model: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of a model with the steps that it remembers."""
    edits = record_of(model).edits
    if edits and config.get("layers"):
        first, *others = config["layers"]
        return {**config, "layers": [{**first, _KEY: in_file(edits)}, *others]}
    return config


def in_file(edits: tuple[Any, ...]) -> dict[str, Any]:
    """Return steps as a file holds them."""
    version = sys.modules["keras_graft"].__version__
    steps = [step for edit in edits for step in edit.to_dicts()]
    return {"format": FORMAT, "keras_graft": version, "steps": steps}


def _taken_out(config: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return a configuration without the steps, and the steps as they are in the file."""
    found = config.get("layers")
    if not isinstance(found, list) or not found or not isinstance(found[0], dict):
        return config, None
    if _KEY not in found[0]:
        return config, None
    first = {key: value for key, value in found[0].items() if key != _KEY}
    return {**config, "layers": [first, *found[1:]]}, found[0][_KEY]


class Remembers:
    """What a class of Functional models needs to keep steps in files."""

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, with the steps."""
        return with_steps_in_file(self, super().get_config())  # type: ignore[misc]

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Make the model, which remembers the steps as they are in the file."""
        config, steps = _taken_out(config)
        model: Any = super().from_config(config, custom_objects)  # type: ignore[misc]
        if steps is not None:
            remember(model, edits=(InFile(steps),))
        return model


class InFile:
    """Steps as a file holds them: they are checked when somebody asks for them."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def to_dicts(self) -> list[Any]:
        """Return the steps for another file; none of what is no list."""
        found = self.content.get("steps") if isinstance(self.content, dict) else None
        return list(found) if isinstance(found, list) else []


def _class() -> type:
    """Return the class of a plain Functional model that remembers steps.

    It has the module and the name of Keras's own class. So Keras finds that class where the package
    is not imported, and loads the file without the steps. Uses `Functional` (3.12 - 3.16).
    """
    functional = base("Functional")

    def reduce(self: Any) -> Any:
        # Keras's own reference to this class would find the class of the same name in Keras.
        return functional._unpickle_model, functional.__reduce__(self)[1]

    names = {
        "__module__": functional.__module__,
        "__qualname__": functional.__qualname__,
        "__doc__": functional.__doc__,
        "__reduce__": reduce,
    }
    made = type(functional.__name__, (Remembers, functional), names)
    return keras.saving.register_keras_serializable("keras_graft", "Functional")(made)


Remembering: Any = _class()


def remembering(model: Any, edits: tuple[Any, ...]) -> None:
    """Let a model remember these steps."""
    if not edits:
        return
    remember(model, edits=edits)
    if type(model) is private.Functional:
        model.__class__ = Remembering
