"""The verbs that a step can name, and their arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_graft import recipes
from keras_graft.adapters.adapter_files import load_adapters
from keras_graft.adapters.choose import remove_adapters, set_adapters
from keras_graft.adapters.lora import lora
from keras_graft.adapters.merge import merge_adapters, unmerge_adapters
from keras_graft.adapters.train_only import train_only
from keras_graft.edit.freeze import freeze
from keras_graft.edit.inline import inline
from keras_graft.edit.insert import insert
from keras_graft.edit.nest import nest
from keras_graft.edit.plain import plain
from keras_graft.edit.reinput import reinput
from keras_graft.edit.remat import remat
from keras_graft.edit.remove import remove
from keras_graft.edit.repeat import repeat
from keras_graft.edit.replace import replace
from keras_graft.edit.rewire import rewire
from keras_graft.edit.unfreeze import unfreeze
from keras_graft.inside.patch import patch
from keras_graft.model.clone import clone
from keras_graft.parts.extract import extract, submodel
from keras_graft.parts.join import join
from keras_graft.parts.split import split
from keras_graft.pruning.prune import prune
from keras_graft.pruning.widen import widen
from keras_graft.quantizing.quantize import quantize
from keras_graft.rewrite.rewrite import rewrite
from keras_graft.shared.share import share
from keras_graft.shared.tie import tie
from keras_graft.shared.unshare import unshare
from keras_graft.shared.untie import untie

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "extract": extract, "submodel": submodel, "split": split, "join": join,
    "replace": replace, "insert": insert, "remove": remove, "rewire": rewire, "repeat": repeat,
    "rewrite": rewrite, "plain": plain, "remat": remat,
    "inline": inline, "nest": nest, "reinput": reinput, "patch": patch,
    "clone": clone, "share": share, "unshare": unshare, "tie": tie, "untie": untie,
    "prune": prune, "widen": widen, "quantize": quantize,
    "freeze": freeze, "unfreeze": unfreeze, "train_only": train_only,
    "lora": lora, "set_adapters": set_adapters, "merge_adapters": merge_adapters,
    "unmerge_adapters": unmerge_adapters, "remove_adapters": remove_adapters,
    "load_adapters": load_adapters,
    **{
        f"recipes.{name}": getattr(recipes, name)
        for name in recipes.__all__
        if inspect.isfunction(getattr(recipes, name)) and name not in ("distill", "prune_and_tune")
    },
}  # fmt: skip

_LEFT_OUT = {"clone": ("compile",), "unfreeze": ("in_place",)}
"""Arguments that are about Keras models, not about what they compute."""


@dataclass(frozen=True)
class Verb:
    """A verb that a step can name.

    Attributes:
        name: Its name.
        function: The verb.
        arguments: The names of its arguments without the model; whether each is required.
        more: Whether it takes arguments of any other name.
    """

    name: str
    function: Callable[..., Any]
    arguments: dict[str, bool]
    more: bool = False


@functools.cache
def verbs() -> dict[str, Verb]:
    """Return all verbs by their names."""
    found = {}
    for name, function in _FUNCTIONS.items():
        others = list(inspect.signature(function).parameters.values())[1:]
        left = _LEFT_OUT.get(name, ())
        more = any(p.kind is p.VAR_KEYWORD for p in others)
        others = [p for p in others if p.kind is not p.VAR_KEYWORD and p.name not in left]
        names = {p.name: p.default is p.empty for p in others}
        found[name] = Verb(name, function, {"stages": True} if name == "join" else names, more)
    return found
