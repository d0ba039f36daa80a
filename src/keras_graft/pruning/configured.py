"""Configurations with other sizes, and ops made again from them."""

from __future__ import annotations

import copy
import re
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.graph.node import Slot
from keras_graft.layers.dynamic_op import DynamicOp
from keras_graft.pruning.call import Path


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


def has_slots(structure: Any) -> bool:
    """Whether there are tensors among recorded arguments."""
    return any(isinstance(leaf, Slot) for leaf in keras.tree.flatten(structure))
