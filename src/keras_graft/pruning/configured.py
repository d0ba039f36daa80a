"""Configurations with other sizes, and ops made again from them."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.errors import EditError
from keras_graft.graph.node import Slot, Template, Value
from keras_graft.layers.dynamic_op import DynamicOp
from keras_graft.model.calls import caller, fill
from keras_graft.model.read import trace
from keras_graft.printable import words_of
from keras_graft.pruning.call import Call, Path


def unbuilt(config: Any) -> Any:
    """Return a configuration without the shapes for which the layers inside were built."""
    if isinstance(config, dict):
        return {k: unbuilt(v) for k, v in config.items() if k != "build_config"}
    return [unbuilt(v) for v in config] if isinstance(config, list) else config


def put(config: Any, path: Path, value: Any) -> None:
    """Set what a path leads to in a configuration; tuples become lists, as in a file."""
    *way, last = path
    for place, step in enumerate(way):
        if isinstance(config[step], tuple):
            config[step] = list(config[step])
        elif isinstance(config[step], int) and place == len(way) - 1:
            config[step] = value  # one number for a list of one
            return
        config = config[step]
    config[last] = value


def op_again(op: Any, changes: dict[Path, Any]) -> Any:
    """Return an op made again with some arguments changed; the same one if none changes."""
    if not changes:
        return op
    if isinstance(op, DynamicOp):
        sized = copy.copy(op.sized)
        sized.attributes = copy.deepcopy(sized.attributes)
        for path, value in changes.items():
            put(sized.attributes, path[1:], value)
        return DynamicOp(sized, op.name)
    config = copy.deepcopy(_keras.get_config(op))
    for path, value in changes.items():
        put(config, path, value)
    return type(op).from_config(config)


def plainly(variables: list[Any]) -> list[str]:
    """Return names without the numbers that Keras adds to those that nobody gave."""
    return [re.sub(r"_[0-9]+$", "", v.name) for v in variables]


def built_for(layer: Any, template: Template, values: Sequence[Value]) -> dict[str, Any] | None:
    """Return the shapes with which a layer would be built; None if it does not take one argument."""
    known = _keras.built_for(layer)
    if not known:
        return {}
    if len(known) > 1 or not _is_simple(template):
        return None
    return dict.fromkeys(known, fill(template.args[0], lambda i: _shape(values[i])))


def build_for(layer: Any, call: Call, values: Sequence[Value], verb: str) -> None:
    """Build a layer for the values that it reads in a call."""
    template = call.node.template
    try:
        if _is_simple(template):
            layer.build(fill(template.args[0], lambda i: _shape(values[i])))
            layer.built = True
        else:
            trace(caller(layer, template), values)
    except Exception as error:
        raise EditError(
            f"{verb}: {call.node.path!r} cannot be built for "
            f"{' and '.join(str(v.spec) for v in values)}: {words_of(error)}"
        ) from error


def _shape(value: Value) -> Any:
    return None if value.spec is None else value.spec.shape


def _is_simple(template: Template) -> bool:
    return len(template.args) == 1 and not (
        template.kwargs and has_slots(list(template.kwargs.values()))
    )


def has_slots(structure: Any) -> bool:
    """Whether there are tensors among recorded arguments."""
    return any(isinstance(leaf, Slot) for leaf in keras.tree.flatten(structure))
