"""The verb `transplant`: copy weights from a model or a file into another model."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft.errors import WeightsError
from keras_graft.graph.names import is_one_of, items_of
from keras_graft.model.recreate import assign
from keras_graft.printable import shown
from keras_graft.weights import adapters as adapted
from keras_graft.weights.address import Group, Weight, groups
from keras_graft.weights.from_files import stored
from keras_graft.weights.match import Match, Pairs, matched
from keras_graft.weights.meaning import Meaning
from keras_graft.weights.report import Mismatch, Moved, Transplanted, refusal
from keras_graft.weights.rule_for import Resize, Rules, check_glob, names, text_of
from keras_graft.weights.suggest import suggestions
from keras_graft.weights.torch_format.names import Names
from keras_graft.weights.torch_format.source import torch_source


def transplant(
    source: Any,
    target: Any,
    match: Match | Names = "name",
    resize: Resize | None = None,
    keep: str | Sequence[str] | None = None,
    strict: bool = True,
    names: str = "keras",
) -> Transplanted:
    """Copy the weights of a model or a file into another model.

    The target's variables are assigned; the source is not changed. Everything is checked and
    resized before the first assignment. Statistics (BatchNormalization) are copied too;
    random-generator states are not. A variable that several layers use is filled once.

    LoRA adapters are copied to adapters of the same rank and scale. If the target layer has none
    like that, they are merged into the weight, as in Keras files. Adapters of the target that add
    nothing need no source.

    A weight has an address: the path of its layer through the model's own layers, and its name,
    `"encoder/attention/query/kernel"`. `match="name"` matches weights of the same address. Names
    that Keras gave (`conv2d_7`) depend on what was made before: if both models have the same number
    of such layers and no number in common, they are matched in order; otherwise by name. A wrapper
    around the whole source is ignored.

    A `.keras` file is loaded as a model; if its code is missing, it is read like a `.weights.h5`
    file. There a layer is found by its name, and its weights by their positions in it. A layer
    without a name (in files from before Keras 3.12) or with a shared name is matched by class and
    position, as Keras itself does. The names in a `.safetensors` file may use `/` or `.`; they are
    addresses, or paths of variables.

    With `names="torch"` the source has PyTorch's names and layouts: kernels are transposed, gates put
    in Keras's order, the parts of an attention taken apart. A module is matched with the layer of its
    name, then by its shape, and among several of one shape by the order; the report lists what was
    matched by order. An order that may mean several things is refused. A file holds no epsilon, momentum
    or padding: these must be equal in the model.

    Args:
        source: A model or layer, or the path of a `.keras`, `.weights.h5` or `.safetensors` file. With
            `names="torch"` a `.safetensors` file or its index, a `.pth`, `.pt` or `.bin` file (where
            PyTorch is installed), a state dict, or a module of PyTorch.
        target: A built model or layer.
        match: `"name"`; `"shape"`: each weight takes the first unused one of its shape; `"order"`:
            the i-th weight takes the i-th; or a function of the target's address and variable that
            returns an address of the source, or None. With `names="torch"`: `"name"`; `"order"`, which
            ignores names; `{"layer1.*.conv1": "block*_conv"}`, where `*` stands for one part of a name
            and None leaves a module out; the path of a `.json` file of it, as `kg.torch_names` writes; or
            a function of a module's name that returns a layer's address, or None.
        resize: What becomes of weights of another shape: a rule of `kg.resize`, several of them, or
            `{glob of addresses or of layers: rules}`. Without globs, rules apply to the weights
            that do not fit; with a glob, to all weights that it names.
        keep: Globs of addresses or layers, on both sides: the target's weights keep their values,
            the source's are left out.
        strict: Whether to refuse if anything on either side is left over or does not fit. If False,
            it stays as it is and is listed in the report; to copy nothing at all is still refused.
        names: `"keras"`, or `"torch"`: whose names and layouts the source has.

    Returns:
        The report: prints as tables, has `to_dict()`.

    Raises:
        WeightsError: If something is left over, with `strict`; if a rule, a glob or `match` fits
            nothing; if a file cannot be read; if a number is too large for the target's dtype.
            Nothing is assigned then.
        EditError: If a function given to `resize.channels` returns another shape.

    >>> import keras, keras_graft as kg
    >>> def model(classes):
    ...     layers = [keras.layers.Dense(8, name="trunk"), keras.layers.Dense(classes, name="head")]
    ...     return keras.Sequential([keras.Input((4,)), *layers], name="model")
    >>> print(kg.transplant(model(3), model(2), resize=kg.resize.classes(keep=[2, 0])))
    'model' from 'model': 58 parameters
            weights
    copied        4
    <BLANKLINE>
    changed      from         shape   now     rule                    cast
    head/kernel  head/kernel  (8, 3)  (8, 2)  classes(2 kept, 0 new)
    head/bias    head/bias    (3,)    (2,)    classes(2 kept, 0 new)
    """
    into = target_groups(target)
    with _source(source, into, match, keep, names, strict) as (origin, label, pairs, more):
        plan = _Plan(origin, into, pairs, Rules(resize, into), keep)
        report = plan.report(label, getattr(target, "name", ""), **more)
        left = report.missing or report.unused or report.mismatched
        if left and (strict or not (report.moved or report.shared)):
            raise WeightsError(refusal(report, plan.fits, origin.ties(), into.ties()))
        if origin.layer is None:
            plan.read()
        plan.check_range()
        plan.assign()
    return report


_ENDS = {
    **{name: (-float(np.finfo(name).max), float(np.finfo(name).max))
       for name in ("float16", "float32")},
    "bfloat16": (-3.3895313892515355e38, 3.3895313892515355e38),
    **{name: (np.iinfo(name).min, np.iinfo(name).max)
       for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32")},
}  # fmt: skip
"""The lowest and highest number of each dtype that cannot hold all numbers of other dtypes."""

_HELD = {
    *_ENDS,
    "float64",
    "int64",
    "uint64",
    "bool",
    "int4",
    "uint4",
    "float8_e4m3fn",
    "float8_e5m2",
}
"""The dtypes of variables."""


class _Plan:
    """What will be assigned, and what is left over."""

    def __init__(
        self,
        origin: Group,
        into: Group,
        pairs: Callable[[], Pairs],
        rules: Rules,
        keep: str | Sequence[str] | None,
    ) -> None:
        self._steps: list[tuple[Weight, Callable[[], Any]]] = []
        self._parts: dict[str, list[Any]] = {name: [] for name in (
            "moved", "shared", "missing", "unused", "mismatched", "kept", "dropped", "idle")}  # fmt: skip
        self.fits: dict[str, list[str]] = {}
        adapted.merge(origin, into)
        paired = adapted.settled(origin, into, pairs())
        idle = adapted.idle(into)
        self._meaning = Meaning(origin, into, paired)
        keep = _globs(keep, origin, into)  # only now do the numbered weights of a file have names
        self._its = {id(w.variable): w for w in origin.weights() if w.variable is not None}
        self._sourced = {id(weight.layer) for weight in paired}
        used = set()
        for weight in into.weights():
            if _kept(keep, weight.address):
                self._parts["kept"].append(weight.address)
                if weight in paired:
                    used.add(paired[weight])
                continue
            its = paired.get(weight) or self._its.get(id(weight.variable))
            if its is not None:
                used.add(its)
            if its is not None and its.variable is weight.variable:
                self._parts["shared"].append(weight.address)
            elif its is None and id(weight) in idle:
                self._parts["idle"].append(weight.address)
            else:
                self._add(weight, its, rules)
        owned = adapted.owners(origin)
        for weight in origin.weights():
            if weight in used or weight.again:
                continue
            if not _kept(keep, weight.address):
                adapted.check_not_lost(weight, owned, used)
                part = "dropped" if rules.drops(weight) else "unused"
                self._parts[part].append(weight.address)
        rules.check_used()

    def _add(self, weight: Weight, its: Weight | None, rules: Rules) -> None:
        fits = its is not None and its.shape == weight.shape
        reason = None if its is None else _unlike(its, weight)
        wrong, why = (None, None) if its is None or reason else self._meaning.wrong(its, weight)
        made, rule = None, None
        if reason is None:
            beside = id(weight.layer) in self._sourced
            read = its.read if its else lambda: None
            made, rule = rules.apply(weight, read, fits and not wrong, beside, wrong)
        if made is None and its is None:
            self._parts["missing"].append(weight.address)
            beside = id(weight.layer) in self._sourced
            self.fits[weight.address] = suggestions(None, weight) if beside else []
            return
        if made is None and its is not None and (not fits or reason or wrong):
            self._parts["mismatched"].append(
                Mismatch(weight.address, its.address, weight.shape, its.shape,
                         reason or why or "other shape",
                         () if reason else tuple(self._meaning.suggested(its, weight, wrong)))
            )  # fmt: skip
            return
        if id(weight.variable) in self._its:
            raise WeightsError(
                f"transplant: {weight.address!r} of the target is also a variable of the source, and "
                f"would get the values of {its.address if its else None!r}: the source would "
                "change. First copy the source: save it and load it."
            )
        values = (lambda: made) if its is None or made is not None else its.read
        self._steps.append((weight, values))
        self._parts["moved"].append(
            Moved(
                weight.address,
                its.address if its else None,
                weight.shape,
                its.shape if its else None,
                _rule(rule, its),
                f"{its.dtype} -> {weight.dtype}" if its and its.dtype != weight.dtype else None,
                weight.size,
            )
        )

    def report(self, source: str, target: str, **more: Any) -> Transplanted:
        """Return the report of what the plan does."""
        parts: dict[str, Any] = {name: tuple(part) for name, part in self._parts.items()}
        return Transplanted(source, target, **parts, **more)

    def read(self) -> None:
        """Read all values from the file, so that a damaged one is found before anything changes.

        Raises:
            WeightsError: If one cannot be read.
        """
        steps = []
        for weight, values in self._steps:
            array = values()
            steps.append((weight, lambda array=array: array))
        self._steps = steps

    def check_range(self) -> None:
        """Refuse numbers beyond the range of the target's dtype.

        Raises:
            WeightsError: If there are any.
        """
        for (weight, values), moved in zip(self._steps, self._parts["moved"], strict=True):
            ends = _ENDS.get(weight.dtype)
            if ends is None or not (moved.cast or moved.rule):
                continue
            found = np.asarray(values(), "float64")
            beyond = found[np.isfinite(found) & ((found > ends[1]) | (found < ends[0]))]
            if beyond.size:
                raise WeightsError(
                    f"transplant: {weight.address!r} of the target is {weight.dtype}, which ends at "
                    f"{ends[1]:g}, and {beyond.size} of its {found.size} values would be up to "
                    f"{beyond[np.abs(beyond).argmax()]:g}. Keep what it has, with keep=, or give "
                    "the target another dtype."
                )

    def assign(self) -> None:
        """Assign all."""
        layers = {}
        for weight, values in self._steps:
            assign(weight.variable, values())
            layers[id(weight.layer)] = weight.layer
        for layer in layers.values():
            if isinstance(layer, keras.layers.Normalization):
                layer.finalize_state()  # it computes with values derived from its weights


def _rule(rule: Any, its: Weight | None) -> str | None:
    merged = ["merged with its LoRA adapters"] if its is not None and its.merged else []
    return ", then ".join([*merged, *([text_of(rule)] if rule else [])]) or None


def _unlike(its: Weight, mine: Weight) -> str | None:
    """Return why the values of one weight make no sense in the other; None if they do."""
    floats = mine.mode is not None and _kind(its.dtype) == "float" != _kind(mine.dtype)
    if its.mode != mine.mode and (its.variable is not None or floats):
        modes = [f"quantized ({w.mode})" if w.mode else "not quantized" for w in (its, mine)]
        return f"{modes[0]} in the source, {modes[1]} in the target"
    kinds = [_kind(w.dtype) for w in (its, mine)]
    if None in kinds or kinds[0] != kinds[1] or (mine.mode and its.dtype != mine.dtype):
        return f"{its.dtype} in the source, {mine.dtype} in the target"
    return None


def _kind(dtype: str) -> str | None:
    """Return "float" or "whole" for a dtype; None for a dtype that no variable has."""
    if dtype not in _HELD:
        return None
    return "float" if dtype.startswith(("float", "bfloat")) else "whole"


@contextlib.contextmanager
def _source(
    source: Any, into: Group, match: Any, keep: Any, names: str, strict: bool
) -> Iterator[tuple[Group, str, Callable[[], Pairs], dict[str, Any]]]:
    """Yield the weights of a source, its name, a function that pairs them, and more to report."""
    if not is_one_of(names, "keras", "torch"):
        raise WeightsError(f"transplant: names={shown(names)} is neither 'keras' nor 'torch'.")
    if names == "torch":
        with torch_source(source, into, match, keep) as found:
            if strict:
                found.check()
            more = {"modules": found.rows(), "ignored": found.ignored}
            yield found.group, found.label, found.pairs, more
    elif isinstance(source, str | os.PathLike):
        with stored(Path(source)) as (origin, label):
            yield origin, label, lambda: matched(origin, into, match), {}
    else:
        origin = target_groups(source, what="source")
        yield origin, repr(source.name), lambda: matched(origin, into, match), {}


def target_groups(layer: Any, verb: str = "transplant", what: str = "target") -> Group:
    """Return the groups of a model whose weights all have values.

    Raises:
        WeightsError: If it is no model or layer, not built, or has lost values.
    """
    if not isinstance(layer, keras.Layer):
        raise WeightsError(
            f"{verb}: the {what} must be a Keras model or layer"
            + (", or the path of a file" if what == "source" else "")
            + f", got {type(layer).__name__}."
            + (
                " For a module or a state dict of PyTorch give names='torch'."
                if what == "source" and (isinstance(layer, Mapping) or hasattr(layer, "state_dict"))
                else ""
            )
        )
    found = groups(layer)
    if not layer.built:
        raise WeightsError(
            f"{verb}: the {what} {layer.name!r} is not built: it has no weights yet. Call it on "
            "data, or build it, first."
        )
    for weight in found.weights():
        if not _keras.has_value(weight.variable):
            raise WeightsError(
                f"{verb}: {weight.address!r} of the {what} has no value: it was lost in training "
                "with an optimizer made for other weights. Load the model again."
            )
    return found


def _globs(keep: str | Sequence[str] | None, origin: Group, into: Group) -> list[str]:
    globs = [] if keep is None else items_of(keep)
    for glob in globs:
        if not isinstance(glob, str):
            raise WeightsError(
                f"transplant: keep= holds {shown(glob)}, but must name weights or layers of the target "
                'by their addresses: keep="head", or a list of them.'
            )
        known = [w.address for w in (*into.weights(), *origin.weights())]
        check_glob(glob, [*known, *into.ties(), *origin.ties()], "keep")
    for address, its in into.ties().items():
        if _kept(globs, address) and not _kept(globs, its):
            raise WeightsError(
                f"transplant: keep= names {address!r}, which is tied to {its!r} and would change "
                f"with it. Keep both, or give it a weight of its own with kg.untie first."
            )
    return globs


def _kept(globs: Sequence[str], address: str) -> bool:
    return any(names(glob, address) for glob in globs)
