"""Which weights a selector means, and which of them can take an adapter."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.adapters.factors import logical_shape
from keras_graft.adapters.quantized import MODES
from keras_graft.adapters.state import is_frozen, path_of, weighted
from keras_graft.errors import EditError, NothingSelectedError, SelectionError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed, nearest
from keras_graft.graph.node import Node
from keras_graft.graph.parameters import variable_behind
from keras_graft.graph.record import record_of, ties_of, unwrapped
from keras_graft.graph.select import leaves
from keras_graft.graph.select_nodes import select_nodes
from keras_graft.printable import printable, quoted, shown
from keras_graft.weights.address import Weight, groups


@dataclass(frozen=True, eq=False)
class Target:
    """A weight of a layer in a graph.

    Attributes:
        node: The first call of the layer that the model calls.
        weight: The weight, with its address below that layer.
        why_not: Why it cannot take an adapter; None if it can.
    """

    node: Node
    weight: Weight
    why_not: str | None = None

    @property
    def address(self) -> str:
        """The address of the weight in the model."""
        return f"{path_of(self.node)}/{self.weight.address}"

    @property
    def layer(self) -> str:
        """The address of the layer that the weight belongs to."""
        return self.address.rpartition("/")[0]

    @property
    def is_matrix(self) -> bool:
        """Whether a selector of layers means this weight: kernels and embeddings."""
        return self.weight.name.endswith("kernel") or "embeddings" in self.weight.name.split("_")


def all_weights(graph: Graph) -> list[Target]:
    """Return the weights of a graph, each once, without the factors of adapters."""
    found: dict[int, Target] = {}
    for node in weighted(graph):
        factors = _keras.factors_in(unwrapped(node.operation))
        for weight in groups(node.operation).weights():
            if id(weight.variable) not in factors:
                found.setdefault(
                    id(variable_behind(weight.variable)),
                    Target(node, weight, _why_not(node, weight)),
                )
    return list(found.values())


def _why_not(node: Node, weight: Weight) -> str | None:
    layer, variable = weight.layer, weight.variable
    if is_frozen(node):
        return (
            "is in a layer that kg.freeze put in inference mode. Thaw it first: "
            f"kg.unfreeze(model, {quoted(path_of(node))})"
        )
    if _keras.is_adapter(variable):
        return "is itself part of an adapter"
    if getattr(layer, "lora_enabled", False) and not record_of(layer).sums:
        return (
            "is in a layer with the adapters of Keras's enable_lora; save and load the model "
            "first, which merges them"
        )
    mode = getattr(layer, "quantization_mode", None)
    if mode is not None:
        kinds = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Embedding)
        if mode not in MODES or not isinstance(layer, kinds):
            return f"is quantized ({mode}); int8 and int4 of Dense, EinsumDense and Embedding can"
        if weight.name not in ("kernel", "embeddings"):
            return "is the scale of a quantized weight"
        if isinstance(layer, keras.layers.EinsumDense):
            kernel, _, output = layer.equation.partition(",")[2].partition("->")
            if kernel[-1] != output[-1]:
                return f"is quantized, in an equation that Keras adapts wrongly: {layer.equation}"
    elif not weight.dtype.startswith(("float", "bfloat")):
        return f"holds numbers of dtype {weight.dtype}"
    if len(logical_shape(layer, variable)) < 2:
        return "has one dimension"
    if getattr(variable_behind(variable), "constraint", None) is not None:
        return "has a constraint, which an adapter would break"
    return None


def targets(graph: Graph, selector: Any, verb: str) -> list[Target]:
    """Return the weights that a selector means and that can take an adapter.

    Args:
        graph: The graph.
        selector: An address or a pattern of addresses (of layers or of weights, also inside
            composite layers), or any selector of layers.
        verb: For messages.

    Raises:
        NothingSelectedError: If nothing matches, or nothing that matches can take an adapter.
    """
    known = all_weights(graph)
    found: list[Target] = []
    parts = selector if isinstance(selector, list | tuple) and selector else [selector]
    for part in parts:
        some = list(_means(graph, known, part))
        if not some:
            raise NothingSelectedError(f"{verb}: {_nothing(graph, known, part)}")
        found += some
    return list({id(target): target for target in found}.values())


def _means(graph: Graph, known: list[Target], selector: Any) -> Iterator[Target]:
    test = _test(selector)
    able = [t for t in known if t.why_not is None]
    if test is not None:
        exact = [t for t in known if test(t.address, t)]
        if exact and not (isinstance(selector, str) and selector.endswith("*")):
            for target in exact:  # weights that are named are never left out in silence
                if target.why_not is not None:
                    raise EditError(f"lora: {target.address!r} {target.why_not}.")
            yield from exact
            return
        found = [t for t in able if t.is_matrix and test(t.layer, t)]
        if found:
            yield from found
            return
        if not isinstance(selector, str):
            return
    try:
        nodes = select_nodes(graph, selector)
    except NothingSelectedError:
        return
    inside = {id(node.operation) for node in leaves(nodes)}
    yield from (t for t in able if t.is_matrix and id(t.node.operation) in inside)


def _test(selector: Any) -> Callable[[str, Target], bool] | None:
    if isinstance(selector, str):
        while "**/**/" in selector:
            selector = selector.replace("**/**/", "**/")
        pattern = selector.split("/")
        dotted = selector.rpartition(".")
        other = "/".join(dotted[::2]).split("/") if dotted[0] and dotted[2] else pattern
        return lambda address, _: any(_matches(p, address.split("/")) for p in (pattern, other))
    if isinstance(selector, re.Pattern):
        if isinstance(selector.pattern, bytes):
            raise SelectionError(f"{shown(selector)} is a pattern of bytes, and names are text.")
        return lambda address, _: selector.search(address) is not None
    if isinstance(selector, keras.Variable):
        behind = variable_behind(selector)
        return lambda address, target: (
            variable_behind(target.weight.variable) is behind and (address == target.address)
        )
    if isinstance(selector, type):
        return lambda address, target: (
            address == target.layer
            and (
                isinstance(target.weight.layer, selector)
                or isinstance(target.node.operation, selector)
            )
        )
    return None


def _matches(pattern: list[str], parts: list[str]) -> bool:
    """Whether a path matches a pattern whose `**` stands for any number of names."""
    if not pattern:
        return not parts
    head, *rest = pattern
    if head == "**":
        if not rest:
            return True
        return any(_matches(rest, parts[start:]) for start in range(len(parts)))
    if not parts:
        return False
    same = head == parts[0] or fnmatch.fnmatchcase(parts[0], head)
    return same and _matches(rest, parts[1:])


def _nothing(graph: Graph, known: list[Target], selector: Any) -> str:
    able = {t.layer: t for t in known if t.why_not is None and t.is_matrix}
    refused: dict[str, Target] = {}
    for target in known:
        if target.why_not is not None:
            refused.setdefault(target.layer, target)
    matrices = [t for t in known if t.is_matrix and t.why_not is not None]
    text = f"{shown(selector)} names no weight in {graph.name!r} that can take an adapter."
    test = _test(selector)
    if test is not None:
        blocked = [t for t in matrices if test(t.layer, t)]
        for node in weighted(graph):
            for tie in ties_of(node.operation):
                if test(path_of(node), Target(node, groups(node.operation).weights()[0])):
                    return f"{text} {tie.target_name!r} is tied to {tie.source_name!r}: adapt that."
        blocked = blocked or [t for t in refused.values() if test(t.layer, t)]
        if blocked:
            return f"{text} {blocked[0].address!r} {blocked[0].why_not}."
    if isinstance(selector, str):
        last = selector.rpartition("/")[2]
        near = nearest(selector, able) or [
            layer for layer in able if layer.rpartition("/")[2] in nearest(last, _ends(able))
        ]
        if near:
            return f"{text} Did you mean {listed(near, 3)}? These can: {listed(able, 8)}."
    return f"{text} These layers can: {listed(able, 8)}."


def _ends(able: dict[str, Target]) -> list[str]:
    return [layer.rpartition("/")[2] for layer in able]


def trained_layers(graph: Graph, selector: Any, verb: str, adapted: Set[int]) -> set[int]:
    """Return the identities of the layers that a selector of `train=` means.

    Args:
        graph: The graph.
        selector: The selector.
        verb: For messages.
        adapted: The identities of layers with adapters: what is tied to them follows the adapters.
    """
    try:
        nodes = list(leaves(select_nodes(graph, selector)))
    except SelectionError as error:
        raise type(error)(f"{verb}: train={shown(selector)}: {printable(error)}") from None
    for node in nodes:
        if is_frozen(node):
            raise EditError(
                f"{verb}: train={shown(selector)} names {node.path!r}, which kg.freeze put in "
                f"inference mode. Thaw it first: kg.unfreeze(model, {quoted(node.path)}, batch_norm=True)."
            )
    found = {id(node.operation) for node in nodes if getattr(node.operation, "weights", None)}
    if not found:
        raise NothingSelectedError(f"{verb}: train={shown(selector)} names no layer with weights.")
    owners = {id(unwrapped(n.operation)): n for n in leaves(graph.nodes)}
    for node in nodes:
        for tie in ties_of(node.operation):
            owner = owners.get(id(tie.seen.owner))
            if owner is not None and id(owner.operation) not in found | adapted:
                raise EditError(
                    f"{verb}: a weight of {node.path!r} is tied to {owner.path!r}, which would stay frozen. "
                    f"Name both, [{listed([node.path, owner.path])}], or untie them first: kg.untie."
                )
    return found
