"""A task made again by its class, around another backbone, without a trace on shared layers."""

from __future__ import annotations

from typing import Any

import keras

from keras_graft import _keras
from keras_graft.errors import EditError, NotYetError, ReadError
from keras_graft.graph.graph import Graph
from keras_graft.model.read import read
from keras_graft.printable import quoted, words_of
from keras_graft.tasks.without_cache import of_keras_hub


def graph_of(task: Any) -> Graph:
    """Return the graph of a task.

    Raises:
        NotYetError: If it has none.
    """
    try:
        return read(task)
    except ReadError as error:
        raise NotYetError(
            f"replace_backbone: {type(task).__name__} {quoted(task.name)} has no graph, so its head "
            f"cannot be separated from its backbone. Make it with its constructor: "
            f"{type(task).__name__}(backbone=new, ...). ({words_of(error)})"
        ) from error


def made_around(task: Any, backbone: Any) -> tuple[Any, Graph]:
    """Make a task of the same class and configuration around a backbone.

    Returns:
        The task, and its graph. Its calls are taken away from its layers again: Keras keeps every
        call of a layer on the layer, and the layers of the backbone are the donor's.

    Raises:
        EditError: If the class does not take the backbone.
        NotYetError: If the task has no configuration.
    """
    cls = of_keras_hub(type(task))
    try:
        config = _settings(task)
    except Exception as error:
        raise NotYetError(
            f"replace_backbone: {cls.__name__} {quoted(task.name)} cannot be made again: it has no "
            f"configuration ({words_of(error)}). Make it with its constructor: "
            f"{cls.__name__}(backbone=new, ...)."
        ) from error
    config |= {"backbone": backbone, "preprocessor": task.preprocessor}
    with _keras.undone_on_error([backbone, *backbone.operations]):
        try:
            scaffold = _make(cls, config)
        except Exception as error:
            raise EditError(
                f"replace_backbone: {cls.__name__} takes no backbone like {quoted(backbone.name)}, "
                f"which gives {shapes_of(backbone)} where that of {quoted(task.name)} gives "
                f"{shapes_of(task.backbone)}: {words_of(error)}"
            ) from error
        graph = graph_of(scaffold)
    _keras.release(_keras.nodes(_keras.functional(scaffold)))
    return scaffold, graph


def _settings(task: Any) -> dict[str, Any]:
    """Return the configuration of a task without that of its backbone, which may have none.

    A layer of keras_hub may fail to say how it was made (0.32: those of Llama), and an edited
    backbone must say that of each layer.
    """
    bare = _keras.with_body_of(task, of_keras_hub(type(task)))
    bare.__dict__["_modules"] = dict(vars(task).get("_modules", {}))  # where PyTorch keeps layers
    for name, value in (("_backbone", keras.layers.Identity()), ("_preprocessor", None)):
        bare.__dict__["_modules"].pop(name, None)
        bare.__dict__[name] = value
    try:
        return _keras.get_config(bare)
    except AttributeError:  # it asks its backbone
        return _keras.get_config(_keras.with_body_of(task, of_keras_hub(type(task))))


def _make(cls: Any, config: dict[str, Any]) -> Any:
    try:
        return cls.from_config({**config, "compile": False})
    except TypeError:  # it takes no `compile`
        return cls.from_config(dict(config))


def shapes_of(backbone: Any) -> str:
    """Return the shapes that a backbone gives, as text."""
    values = read(backbone).outputs
    return ", ".join(str(value.spec) for value in values)
