"""The verb `save_weights`: write a model's weights as named tensors, for PyTorch or by address."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_graft.errors import WeightsError
from keras_graft.graph.names import is_one_of, listed, nearest
from keras_graft.printable import shown
from keras_graft.weights import adapters as adapted
from keras_graft.weights.address import Group
from keras_graft.weights.report import ModulePair
from keras_graft.weights.torch_format.modules import BARE, Module
from keras_graft.weights.torch_format.names import Names, called, names_from
from keras_graft.weights.torch_format.report import TorchNames
from keras_graft.weights.torch_format.slot import Part, Slot
from keras_graft.weights.torch_format.slots import slots_of
from keras_graft.weights.torch_format.source import torch_source
from keras_graft.weights.torch_format.walks import flat_of, graph_of
from keras_graft.weights.torch_format.writer import check_path, write
from keras_graft.weights.transplant import target_groups

_RECURRENT = re.compile(r"(.*)\.(l[0-9]+(?:_reverse)?)")
_THIRD = re.compile(r"(.*\.)?(in_proj|qkv)\.(query|key|value)")
_THIRDS = ("query", "key", "value")


def save_weights(
    model: Any,
    path: str | os.PathLike[str],
    names: str = "keras",
    match: Names | None = None,
    like: Any = None,
) -> TorchNames:
    """Write a model's weights to a file of named tensors.

    With `names="torch"` each layer is written as the module of PyTorch that computes the same, with
    PyTorch's names and layouts: `load_state_dict` takes the file. LoRA adapters are merged. A tied
    weight is written once.

    Args:
        model: A built model or layer; it is not changed.
        path: A `.safetensors` file, or `.pth`, `.pt`, `.bin` where PyTorch is installed. A file that
            is there is replaced.
        names: `"keras"`: the addresses of the weights; `"torch"`: PyTorch's names.
        match: Which module is which layer: `{"layer1.0.conv1": "block1_conv1"}`, a JSON file of it,
            or `report.mapping` of `transplant` or `torch_names`. Other layers are named by their
            addresses, with dots. With `like`, as for `transplant(names="torch")`.
        like: A file, state dict or PyTorch module whose names and shapes the result must have. Its
            modules are matched with the layers as by `transplant`. What has no layer (counters, and
            modules that `match` names as None) is copied from it.

    Returns:
        Which module is which layer: prints as a table, has `mapping` and `save(path)`.

    Raises:
        WeightsError: If a layer has no module in PyTorch that computes the same, if two tensors would
            have one name, or if the file cannot be written. Nothing is written then.

    >>> import keras, tempfile, keras_graft as kg
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="out")], name="m")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(kg.save_weights(model, f"{folder}/m.safetensors", names="torch").mapping)
    {'out': 'out'}
    """
    if not is_one_of(names, "keras", "torch"):
        raise WeightsError(f"save_weights: names={shown(names)} is neither 'keras' nor 'torch'.")
    if names == "keras" and not (match is None and like is None):
        raise WeightsError("save_weights: match= and like= need names='torch'.")
    if not isinstance(path, str | os.PathLike):
        raise WeightsError(f"save_weights: path={shown(path)} is not the path of a file.")
    path = Path(path)
    check_path(path)
    group = target_groups(model, "save_weights", "model")
    if names == "keras":
        weights = {weight.address: weight.read() for weight in group.weights()}
        write(path, weights, "keras")
        rows = [ModulePair(address, address, "name") for address in weights]
    else:
        _check_plain(group)
        adapted.merge(group, Group(""))
        made, rows = _new(group, match) if like is None else _like(group, match, like)
        write(path, made, "pt")
    return TorchNames(repr(path.name), model.name, tuple(rows))


def _check_plain(group: Group) -> None:
    for weight in group.weights():
        if weight.mode:
            raise WeightsError(
                f"save_weights: {weight.address!r} is quantized ({weight.mode}), for which PyTorch has "
                "no names. Save the model from before quantize()."
            )


def _new(group: Group, match: Any) -> tuple[dict[str, np.ndarray], list[ModulePair]]:
    """Return the tensors under names from `match` and from addresses."""
    slots = slots_of(group, flat_of(graph_of(group.layer)))
    given = {} if match is None else _by_slot(match, slots)
    result: dict[str, np.ndarray] = {}
    fused: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for slot in slots:
        if slot.why:
            raise WeightsError(
                f"save_weights: {slot.address!r} ({slot.kind}) has no module in PyTorch that computes "
                f"the same: {slot.why}."
            )
        name = given.get(slot, slot.module)
        arrays = {}
        for part in slot.parts:
            values = part.to_torch(part.weight.read())
            arrays.update(zip(part.tensors, values, strict=True))
        third = _THIRD.fullmatch(name)
        if third and slot in given:
            fused.setdefault(f"{third[1] or ''}{third[2]}", {})[third[3]] = arrays
        else:
            _put(result, {_full(name, key, slot): value for key, value in arrays.items()})
    for name, parts in fused.items():
        _put(result, _joined(name, parts))
    return result, [
        ModulePair(given.get(s, s.module), s.address, "given" if s in given else "name")
        for s in slots
    ]


def _full(name: str, tensor: str, slot: Slot) -> str:
    """Return the full name of a tensor of a module."""
    if slot.parameter:
        return name
    recurrent = _RECURRENT.fullmatch(f".{name}") if tensor.endswith(("_ih", "_hh")) else None
    if recurrent:
        name, tensor = recurrent[1].lstrip("."), f"{tensor}_{recurrent[2]}"
    return f"{name}.{tensor}" if name else tensor


def _joined(name: str, parts: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return a fused projection, from its three parts."""
    if set(parts) != set(_THIRDS):
        raise WeightsError(
            f"save_weights: match= names only {listed(f'{name}.{p}' for p in parts)} of the three parts "
            f"of {name!r}: query, key and value belong to one tensor."
        )
    between = "_" if name.endswith("in_proj") else "."
    return {
        f"{name}{between}{key}": np.concatenate([parts[p][key] for p in _THIRDS])
        for key in parts["query"]
    }


def _put(result: dict[str, np.ndarray], more: Mapping[str, np.ndarray]) -> None:
    for name, array in more.items():
        if name in result:
            raise WeightsError(
                f"save_weights: two layers would be written as {name!r}. Give one another name: "
                'match={"name": "address of the layer"}.'
            )
        result[name] = np.ascontiguousarray(array)


def _by_slot(match: Any, slots: list[Slot]) -> dict[Slot, str]:
    """Return the module's name of each slot that a user named."""
    if callable(match) and not isinstance(match, Mapping):
        names = {s: called(match, s.address, "save_weights") for s in slots}
        wrong = [name for name in names.values() if not isinstance(name, str | None)]
        if wrong:
            raise WeightsError(
                f"save_weights: match= returned {shown(wrong[0])}, not a name or None."
            )
        return {slot: str(name) for slot, name in names.items() if name is not None}
    found: dict[Slot, str] = {}
    given = names_from(match, [])
    for name, address in sorted(given.items(), key=lambda item: "*" in item[0]):
        if address is None:
            continue
        pattern = re.compile("([^/]*)".join(map(re.escape, address.split("*"))))
        hits = [(s, m) for s in slots if (m := pattern.fullmatch(s.address))]
        hits = hits or [(s, m) for s in slots if s.owns(address) and (m := re.match("", ""))]
        if not hits or name.count("*") != address.count("*"):
            near = nearest(address, [s.address for s in slots])
            raise WeightsError(
                f"save_weights: match= gives {name!r} the layer {address!r}, which is no layer with "
                f"weights of its own. Nearest: {listed(near or [s.address for s in slots])}."
            )
        for slot, hit in hits:
            parts = name.split("*")
            filled = "".join(a + b for a, b in zip(parts, [*hit.groups(), ""], strict=True))
            found.setdefault(slot, filled)
    return found


def _like(group: Group, match: Any, like: Any) -> tuple[dict[str, np.ndarray], list[ModulePair]]:
    """Return the tensors under the names and in the shapes of another source."""
    with torch_source(like, group, "name" if match is None else match, None) as found:
        found.check()
        twins = found.twins()
        paired = {m for m, _ in found.found.pairs.values()}
        left = [
            t.name for m in found.modules if m not in paired for t in m.tensors.values()
            if t.name not in twins
        ]  # fmt: skip
        without = [s.address for s in found.slots if s not in found.found.pairs]
        if left or without:
            what = [f"tensors of like= without a layer: {listed(left)}"] if left else []
            what += [f"layers without a module: {listed(without)}"] if without else []
            raise WeightsError(
                f"save_weights: {'; '.join(what)}. Say which is which with match=, or None for a module "
                "whose values stay: kg.torch_names(like, model) shows what was found."
            )
        values: dict[str, np.ndarray] = {}
        for slot, (module, _) in found.found.pairs.items():
            for part, names in slot.names(module):
                _fill(values, part, module, names)
        values.update((name, values[other]) for name, other in twins.items())
        result = {t.name: _whole(values, t.name, t.read) for t in found.tensors}
        return result, list(found.rows())


def _fill(values: dict[str, np.ndarray], part: Part, module: Module, names: list[str]) -> None:
    for name, array in zip(names, part.to_torch(part.weight.read()), strict=True):
        tensor = module.tensors[BARE if name == BARE else name]
        same = array.size == int(np.prod(tensor.shape))
        values[tensor.name] = array.reshape(tensor.shape) if same else array


def _whole(
    values: Mapping[str, np.ndarray], name: str, read: Callable[[], np.ndarray]
) -> np.ndarray:
    """Return the values of a tensor, of a fused one from its parts, or those that it had."""
    parts = [values.get(f"{name}[{part}]") for part in _THIRDS]
    known = [part for part in parts if part is not None]
    if name in values:
        return values[name]
    return np.concatenate(known) if len(known) == len(parts) else read()
