"""Compare the arguments of a call in a pattern with those of a call in a graph."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.graph.node import Node, Slot, Value
from keras_graft.printable import shown
from keras_graft.rewrite.meaning import Meanings, commutes, identity_kind
from keras_graft.rewrite.pattern import Call, Tensor, Wildcard

tree = keras.tree

Pairs = list[tuple[Any, Any]]
"""Pairs (of the pattern, of the graph) that must be the same: a `Tensor` and a `Value`, or a list of
the ones and a list of the others, in any order; a `Wildcard` and a constant."""


_NONE = object()


class MismatchError(Exception):
    """The arguments of two calls differ; the message says how."""


class Signatures:
    """The parameters of operations, looked up once for each class."""

    def __init__(self) -> None:
        self._known: dict[Any, inspect.Signature | None] = {}

    def of(self, operation: Any) -> inspect.Signature | None:
        kind = type(operation)
        if kind not in self._known:
            try:
                self._known[kind] = inspect.signature(operation.call)
            except (TypeError, ValueError, AttributeError):
                self._known[kind] = None
        return self._known[kind]


def pairs_of(call: Call, node: Node, meanings: Meanings, signatures: Signatures) -> Pairs:
    """Return what must be the same for a call of a graph to be one of a pattern.

    Raises:
        MismatchError: If that cannot be: another number of arguments, another constant.
    """
    signature = signatures.of(node.operation)
    wanted = _by_name(signature, call.args, call.kwargs)
    given = _by_name(signature, node.template.args, node.template.kwargs)
    return _Comparison(call, node, meanings).pairs(wanted, given, signature)


def pairs_in_order(call: Call, node: Node) -> Pairs:
    """Return what calls of operations of different kinds have in common: tensors in their order."""
    wanted = list(call.reads)
    given = [value for value in node.inputs if not _is_mask(node, value)]
    if len(wanted) != len(given):
        raise MismatchError("another number of tensors")
    return list(zip(wanted, given, strict=True))


def _by_name(
    signature: inspect.Signature | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return arguments by the names of the parameters; those without a name by their numbers."""
    if signature is not None:
        try:
            found = signature.bind_partial(*args, **kwargs).arguments
        except TypeError:
            pass
        else:
            result: dict[str, Any] = {}
            for name, value in found.items():
                kind = signature.parameters[name].kind
                if kind is inspect.Parameter.VAR_KEYWORD:
                    result.update(value)
                elif kind is inspect.Parameter.VAR_POSITIONAL:
                    result.update({f"{name} {i}": v for i, v in enumerate(value)})
                else:
                    result[name] = value
            return result
    return {**{f"argument {i}": value for i, value in enumerate(args)}, **kwargs}


def _is_mask(node: Node, value: Value) -> bool:
    return any(other.mask == value for other in node.inputs if other.mask is not None)


class _Comparison:
    def __init__(self, call: Call, node: Node, meanings: Meanings) -> None:
        self._call = call
        self._node = node
        self._meanings = meanings
        self._pairs: Pairs = []
        self._given: dict[str, Any] = {}
        # Python's dots in an index are a part of it, as they are in a list.
        self._is_index = identity_kind(node.operation) == "numpy.GetItem"

    def pairs(
        self,
        wanted: dict[str, Any],
        given: dict[str, Any],
        signature: inspect.Signature | None,
    ) -> Pairs:
        parameters = {} if signature is None else signature.parameters
        self._given = given
        for name, value in given.items():
            if name not in wanted and not self._goes_without_saying(name, value, parameters):
                raise MismatchError(
                    f"{self._node.path} is called with {name}={self._told(value)}, and the pattern "
                    f"does not say that: write {self._call.name}(..., {name}=...), with that value or "
                    "with Python's ... for any"
                )
        how = commutes(self._node.operation)
        names = [name for name in wanted if name in given]
        if how == "two" and len(names) >= 2:
            self._any_order([wanted[n] for n in names[:2]], [given[n] for n in names[:2]])
            done = set(names[:2])
        elif how == "list" and names and isinstance(wanted[names[0]], list | tuple):
            self._list(wanted[names[0]], given[names[0]])
            done = {names[0]}
        else:
            done = set()
        for name, value in wanted.items():
            if name in done:
                continue
            if name in given:
                self._same(value, given[name], name)
            elif value is not ... and not self._meanings.same(value, _default(parameters, name)):
                raise MismatchError(f"{self._node.path} is not called with {name}={shown(value)}")
        return self._pairs

    def _list(self, wanted: Any, given: Any) -> None:
        if not isinstance(given, list | tuple) or len(given) != len(wanted):
            raise MismatchError(
                f"{self._node.path} reads {len(given) if isinstance(given, list | tuple) else 1} "
                f"tensors, expected {len(wanted)}"
            )
        self._any_order(list(wanted), list(given))

    def _any_order(self, wanted: list[Any], given: list[Any]) -> None:
        values = [self._read(leaf) for leaf in given]
        self._pairs.append((wanted, values))

    def _read(self, leaf: Any) -> Any:
        return self._node.inputs[leaf.index] if isinstance(leaf, Slot) else leaf

    def _same(self, wanted: Any, given: Any, name: str, inside: bool = False) -> None:
        if wanted is ... and not inside and not self._is_index and not _has_tensors(given):
            return
        if isinstance(wanted, Tensor):
            if (
                isinstance(given, list | tuple)
                and len(given) == 1
                and _keras.functional(self._node.operation) is not None
            ):
                given = given[0]  # the same for a functional model
            if not isinstance(given, Slot):
                raise MismatchError(
                    f"{self._node.path} has {name}={self._told(given)}, expected a tensor"
                )
            self._pairs.append((wanted, self._read(given)))
        elif isinstance(wanted, Wildcard):
            if _has_tensors(given):
                raise MismatchError(
                    f"{self._node.path} has a tensor as {name}, expected a constant"
                )
            self._pairs.append((wanted, given))
        elif isinstance(wanted, list | tuple) and isinstance(given, list | tuple):
            if len(wanted) != len(given):
                raise MismatchError(
                    f"{self._node.path} has {len(given)} values as {name}, expected {len(wanted)}"
                )
            for one, other in zip(wanted, given, strict=True):
                self._same(one, other, name, inside=True)
        elif isinstance(wanted, dict) and isinstance(given, dict) and wanted.keys() == given.keys():
            for key, value in wanted.items():
                self._same(value, given[key], f"{name}[{key!r}]", inside=True)
        elif _has_tensors(given) or not self._meanings.same(wanted, given):
            raise MismatchError(
                f"{self._node.path} has {name}={self._told(given)}, expected {shown(wanted)}"
            )

    def _goes_without_saying(self, name: str, value: Any, parameters: Any) -> bool:
        """Whether an argument says nothing: a default, or a mask that Keras passes by itself."""
        of = self._given_for_mask(name)
        if of is not None and _has_tensors(value):
            masks = {v.mask.key for v in of if v.mask is not None}
            return all(
                leaf is None or isinstance(leaf, Slot) and self._read(leaf).key in masks
                for leaf in tree.flatten(value)
            )
        if _has_tensors(value):
            return False
        if self._meanings.same(value, _default(parameters, name)):
            return True
        if of is not None and self._meanings.same(None, _default(parameters, name)):
            return all(leaf is None for leaf in tree.flatten(value))
        if name != "training":
            return False
        # Keras looks for a flag where it is given none.
        default = _keras.default_flag(self._node.operation)
        return value is None or bool(value) and value == default

    def _given_for_mask(self, name: str) -> list[Value] | None:
        """Return the tensors whose masks Keras passes as an argument; None if it passes none so."""
        if name == "mask":
            return list(self._node.inputs)
        if not name.endswith("_mask") or name.removesuffix("_mask") not in self._given:
            return None
        leaves = tree.flatten(self._given[name.removesuffix("_mask")])
        return [self._read(leaf) for leaf in leaves if isinstance(leaf, Slot)]

    def _told(self, given: Any) -> str:
        return "a tensor" if _has_tensors(given) else shown(given)


def _default(parameters: Any, name: str) -> Any:
    """Return the default of a parameter; nothing that a constant is like, where it has none."""
    parameter = parameters.get(name)
    return _NONE if parameter is None or parameter.default is parameter.empty else parameter.default


def _has_tensors(structure: Any) -> bool:
    if isinstance(structure, list | tuple):
        return any(map(_has_tensors, structure))
    if isinstance(structure, dict):
        return any(map(_has_tensors, structure.values()))
    return isinstance(structure, Slot)
