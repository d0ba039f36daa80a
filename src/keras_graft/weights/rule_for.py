"""Which resize rule applies to which weight: the `resize=` argument and its globs."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_graft.errors import WeightsError
from keras_graft.graph.names import items_of, listed, nearest
from keras_graft.printable import shown, words_of
from keras_graft.weights import resize as resize_rules
from keras_graft.weights.address import Group, Weight

ResizeRule = Callable[[Any, tuple[int, ...], Weight], Any]
Resize = ResizeRule | Sequence[ResizeRule] | Mapping[str, ResizeRule | Sequence[ResizeRule]]


def _flat(rules: Any) -> list[Any]:
    if rules is None:
        return []
    return [rules] if callable(rules) else items_of(rules)


_SMALL_FLOATS = ("bfloat16", "float8_e4m3fn", "float8_e5m2")


class Rules:
    """The rules of `resize=`, and which of them apply to which weight."""

    def __init__(self, resize: Resize | None, into: Group) -> None:
        self._globs = isinstance(resize, Mapping)
        given = resize.items() if isinstance(resize, Mapping) else [("*", resize)]
        self._rules = [(glob, rule) for glob, rules in given for rule in _flat(rules)]
        for glob, rule in self._rules:
            if not callable(rule):
                raise WeightsError(f"transplant: resize= holds {shown(rule)}, which is not a rule.")
            if any(rule is known for known in vars(resize_rules).values()):
                raise WeightsError(
                    f"transplant: resize= holds resize.{rule.__name__} itself. Call it for a rule: "
                    f"kg.resize.{rule.__name__}(...)."
                )
            if not isinstance(glob, str):
                raise WeightsError(
                    f"transplant: resize= names {shown(glob)}, but a glob of addresses must be a "
                    "text: resize={'head': rule}."
                )
            check_glob(glob, [w.address for w in into.weights()], "resize")
        self._used: set[int] = set()

    def apply(
        self,
        weight: Weight,
        value: Callable[[], Any],
        fits: bool,
        beside: bool,
        wrong: str | None = None,
    ) -> tuple[Any, Any]:
        """Return the values that the first rule makes, and the rule; (None, None) if none does.

        Args:
            weight: The weight of the target.
            value: Returns the values of the source.
            fits: Whether they fit as they are.
            beside: Whether another weight of the same layer has a source.
            wrong: Which meaning differs between source and target: "ids" or "axes"; None if they
                mean the same.
        """
        for i, (glob, rule) in enumerate(self._rules):
            if not names(glob, weight.address) or (getattr(rule, "beside", False) and not beside):
                continue
            if not self._globs and (fits or not getattr(rule, "seeks", lambda w: True)(weight)):
                continue
            if not self._globs and wrong and getattr(rule, "knows", None) != wrong:
                continue  # a rule for shapes does not correct the meaning
            made = rule(value(), weight.shape, weight)
            if made is None:
                continue
            if weight.mode and not getattr(rule, "exact", lambda mode: True)(weight.mode):
                raise WeightsError(
                    f"transplant: the rule {text_of(rule)} cannot compute with the values of "
                    f"{weight.address!r}, whose layer is quantized ({weight.mode}). Use it before "
                    "quantize(), on both sides."
                )
            self._used.add(i)
            made = _numbers(made, rule, weight)
            if made.shape != weight.shape:
                raise WeightsError(
                    f"transplant: the rule {text_of(rule)} returned {made.shape} for "
                    f"{weight.address!r}, which is {weight.shape}."
                )
            return made, rule
        return None, None

    def drops(self, weight: Weight) -> bool:
        """Return whether a rule drops a weight of the source."""
        for i, (glob, rule) in enumerate(self._rules):
            if names(glob, weight.address) and getattr(rule, "drops", lambda n: False)(weight.name):
                self._used.add(i)
                return True
        return False

    def check_used(self) -> None:
        """Refuse a rule that was not used.

        Raises:
            WeightsError: If there is one.
        """
        for i, (glob, rule) in enumerate(self._rules):
            if i not in self._used:
                place = f"resize={{{glob!r}: {text_of(rule)}}}" if self._globs else text_of(rule)
                raise WeightsError(
                    f"transplant: {place} was not used: it applies to none of the weights that "
                    "needed resizing. Name the weights, resize={'layer/weight': rule}, check that "
                    "ids and sizes fit, or leave it out."
                )


def _numbers(made: Any, rule: Any, weight: Weight) -> np.ndarray:
    """Return a rule's result as an array that every backend takes."""
    try:
        made = np.asarray(made)
    except ValueError as error:  # rows of different lengths
        raise WeightsError(
            f"transplant: the rule {text_of(rule)} did not return an array for {weight.address!r}: {words_of(error)}"
        ) from error
    if made.dtype.kind not in "biuf" and made.dtype.name not in _SMALL_FLOATS:
        raise WeightsError(
            f"transplant: the rule {text_of(rule)} returned {made.dtype} for "
            f"{weight.address!r}, which cannot hold this."
        )
    if made.dtype == np.longdouble:
        made = made.astype("float64")
    return made if made.dtype.isnative else made.astype(made.dtype.newbyteorder("="))


def check_glob(glob: str, addresses: Sequence[str], what: str) -> None:
    """Refuse a glob that matches no address.

    Raises:
        WeightsError: If it matches none.
    """
    if not any(names(glob, address) for address in addresses):
        near = nearest(glob, [*dict.fromkeys(a.rpartition("/")[0] for a in addresses), *addresses])
        hint = f" Nearest: {listed(near)}." if near else f" There are {listed(addresses)}."
        raise WeightsError(
            f"transplant: {what}= names {shown(glob)}, which matches no weight.{hint}"
        )


def names(glob: str, address: str) -> bool:
    """Return whether a glob matches an address, or the address of a layer or model around it."""
    parted = "/" if "/" in address else "."  # a .safetensors file may use dots
    parts = address.split(parted)
    paths = [parted.join(parts[:n]) for n in range(1, len(parts) + 1)]
    layer, dot, name = glob.rpartition(".")
    # "lm_head.kernel" is another way to write "lm_head/kernel".
    globs = [glob, f"{layer}/{name}"] if dot and parted == "/" else [glob]
    globs += [g[3:] for g in globs if g.startswith("**/")]  # at any depth, also at the top
    return any(g in paths or any(fnmatch.fnmatchcase(path, g) for path in paths) for g in globs)


def text_of(rule: Any) -> str:
    """Return a rule as reports name it."""
    return getattr(rule, "__name__", None) or repr(rule)
