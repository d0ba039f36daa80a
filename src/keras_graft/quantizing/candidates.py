"""Which layers a selector means, and which of them Keras can quantize."""

from __future__ import annotations

import fnmatch
import math
import re
from collections import Counter
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Any

import keras

from keras_graft import _keras, advice
from keras_graft import ties as _ties
from keras_graft.adapters.state import is_frozen, path_of, state_of, weighted
from keras_graft.errors import EditError, NothingSelectedError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed, nearest
from keras_graft.graph.node import Node
from keras_graft.graph.record import record_of, unwrapped
from keras_graft.graph.select import everything, leaves
from keras_graft.graph.select_nodes import select_nodes
from keras_graft.model.calls import mapped
from keras_graft.printable import shown
from keras_graft.weights.address import Group, groups

CALIBRATED = ("gptq", "awq")
"""The modes that need data."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A layer with a matrix, which a model calls or which is inside a layer that it calls.

    Attributes:
        node: The first call of the layer that the model calls.
        layer: The layer.
        address: Its address in the model: `"block_0/attention/query"`.
        why_not: Why it cannot be quantized; None if it can.
    """

    node: Node
    layer: Any
    address: str
    why_not: str | None = None


def candidates(graph: Graph, mode: str, refused: dict[str, str] | None = None) -> list[Candidate]:
    """Return the layers of a graph that have a weight of two axes or more, each once.

    Args:
        graph: The graph.
        mode: How they would be quantized.
        refused: More reasons, by addresses.
    """
    found: dict[int, tuple[Node, Any, str]] = {}
    for node in weighted(graph):
        for path, layer in _walk(groups(node.operation), path_of(node)):
            if any(len(v.shape) > 1 for v in _keras.own_weights(layer)) or _modes(layer):
                found.setdefault(id(layer), (node, layer, path))
    readers = _Readers(graph)
    result = []
    for node, layer, path in found.values():
        why = (refused or {}).get(path) or _why_not(node, layer, path, mode, readers)
        result.append(Candidate(node, layer, path, why))
    return result


def _walk(group: Group, path: str) -> Iterator[tuple[str, Any]]:
    layer = unwrapped(group.layer)
    if not (isinstance(layer, keras.Model) and not _keras.own_weights(layer)):
        yield path, layer
    for inside in group.inside:
        yield from _walk(inside, f"{path}/{inside.name}")


def _modes(layer: Any) -> bool:
    return _keras.quantized_weights(layer, "int8") is not None


class _Readers:
    """What else reads the weights of a layer: ties, other layers, and ops."""

    def __init__(self, graph: Graph) -> None:
        layers: dict[int, keras.Layer] = {}
        self._ops: dict[int, str] = {}
        self._ties: dict[int, str] = {}
        for node in everything(graph):
            if node.nested is None or not isinstance(node.operation, keras.Model):
                inside = _keras.layers_inside(unwrapped(node.operation))
                layers.update((id(x), x) for x in inside if isinstance(x, keras.Layer))
                for tie in _ties.ties_of(node.operation):
                    self._ties[id(tie.source)] = f"{path_of(node)}/{tie.weight}"

            def note(leaf: Any, node: Node = node) -> Any:
                if isinstance(leaf, keras.Variable):
                    self._ops.setdefault(id(leaf), node.path)
                return leaf

            mapped(node.template.args, note)
            mapped(dict(node.template.kwargs), note)
        owned = Counter(k for x in layers.values() for k in {id(v) for v in _keras.own_weights(x)})
        self._shared = {key for key, count in owned.items() if count > 1}

    def why_not(self, layer: Any) -> str | None:
        """Return why integers in place of a weight would break what reads it."""
        for variable in _keras.own_weights(layer):
            key = id(variable)
            if key in self._ties:
                target = self._ties[key]
                return (
                    f"{target!r} is tied to it, and a quantized weight has no ties. Untie it "
                    f"first: {advice.call('untie', ('target', target))}"
                )
            if key in self._ops:
                return f"{self._ops[key]!r} reads its weight {variable.name!r} by itself"
            if key in self._shared and len(variable.shape) > 1:
                return (
                    f"another layer has its weight {variable.name!r} too, and each would get "
                    "numbers of its own"
                )
        return None


def _why_not(node: Node, layer: Any, path: str, mode: str, readers: _Readers) -> str | None:
    kind = type(layer).__name__
    if is_frozen(node):
        return (
            "kg.freeze put it in inference mode. Thaw it first: "
            f"{advice.call('unfreeze', ('target', path_of(node)))}"
        )
    tied = _ties.ties_of(layer)
    if tied:
        return (
            f"its {tied[0].weight!r} is tied to {tied[0].source_name!r}, and a quantized weight has no "
            f"ties. Untie it first: {advice.call('untie', ('target', f'{path}/{tied[0].weight}'))}"
        )
    state = state_of(node.operation)
    if record_of(layer).sums or (
        state is not None and state.adapters and layer is not node.operation
    ):
        return (
            f"it has adapters. Merge them first: {advice.call('merge_adapters')}; or add them to the "
            "quantized model"
        )
    if getattr(layer, "lora_enabled", False):
        return (
            "it has the adapters of Keras's enable_lora. Save and load the model first, which "
            "merges them"
        )
    if getattr(layer, "quantization_mode", None) is not None:
        return f"it is quantized already ({layer.quantization_mode})"
    own = "quantize" in type(layer).__dict__
    if not own and _modes(layer):
        return f"{kind} is a class of its own, and Keras quantizes only the classes that it knows"
    if not own:
        return f"Keras has no quantized {kind}"
    saved = _keras.quantized_weights(layer, mode)
    if saved is None:
        return f"Keras has no {kind} in {mode}"
    if mode == "int8" and layer.compute_dtype == "float16":
        return "Keras refuses int8 where a layer computes in float16. Take int4, or mixed_bfloat16"
    if mode in CALIBRATED:
        why = _why_no_matrix(layer)
        if why is not None:
            return why
    return readers.why_not(layer)


def _why_no_matrix(layer: Any) -> str | None:
    """Return why Keras's GPTQ and AWQ take a kernel for another matrix than it is.

    They guess from the sizes which axes meet the input. The equation says it.
    """
    if not isinstance(layer, keras.layers.EinsumDense):
        return None
    kept: Any = layer.kernel
    shape: tuple[int, ...] = tuple(kept.shape)
    if len(shape) not in (2, 3):
        return f"its kernel has {len(shape)} axes, and Keras takes 2 or 3"
    inputs, _, rest = layer.equation.replace("...", "").partition(",")
    kernel, _, output = rest.partition("->")
    reduced = "".join(letter for letter in kernel if letter not in output)
    rows = math.prod(shape[: len(reduced)])
    first = len(shape) == 2 or shape.index(max(shape)) == 0
    guessed = shape[0] if first else shape[0] * shape[1]
    if not (kernel.startswith(reduced) and inputs.endswith(reduced) and guessed == rows):
        return (
            f"Keras would take its kernel {shape} for a matrix of {guessed} rows; for "
            f"{layer.equation!r} it has {rows}"
        )
    return None


def chosen(
    graph: Graph, known: list[Candidate], selector: Any, verb: str, tried: Container[str] = ()
) -> list[Candidate]:
    """Return the layers that a selector means and that can be quantized, in the order of calls.

    Args:
        graph: The graph.
        known: Its candidates.
        selector: The selector, or a list of selectors.
        verb: For messages.
        tried: The addresses of layers that were refused after a trial. In an opened graph the
            reason may be a better one.

    Raises:
        EditError: If the address of a layer that cannot be quantized is given.
        NothingSelectedError: If nothing matches, or nothing that matches can be quantized.
    """
    wanted: set[int] = set()
    parts = selector if isinstance(selector, list | tuple | set) and selector else [selector]
    for part in parts:
        meant = _meant(graph, known, part)
        able = [one for one in meant if one.why_not is None]
        for one in meant:
            if one.why_not is not None and one.address == part and one.address not in tried:
                raise EditError(f"{verb}: {one.address!r}: {one.why_not}.")
        if not able:
            raise NothingSelectedError(f"{verb}: {_nothing(graph, known, meant, part)}")
        wanted |= {id(one) for one in able}
    return [one for one in known if id(one) in wanted]


def _meant(graph: Graph, known: list[Candidate], selector: Any) -> list[Candidate]:
    test = _test(selector)
    found = [one for one in known if test is not None and test(one)]
    if found:
        return found
    try:
        nodes = select_nodes(graph, selector)
    except NothingSelectedError:
        return []
    operations = {id(node.operation) for node in leaves(nodes)}
    inside = {path_of(node) for node in nodes}
    return [
        one for one in known
        if id(one.node.operation) in operations or any(_below(one.address, p) for p in inside)
    ]  # fmt: skip


def _below(address: str, path: str) -> bool:
    return address == path or address.startswith(f"{path}/")


def _test(selector: Any) -> Callable[[Candidate], bool] | None:
    if isinstance(selector, str):
        while "**/**/" in selector:
            selector = selector.replace("**/**/", "**/")
        pattern = selector.split("/")
        return lambda one: _matches(pattern, one.address.split("/"))
    if isinstance(selector, re.Pattern) and isinstance(selector.pattern, str):
        return lambda one: selector.search(one.address) is not None
    if isinstance(selector, type):
        return lambda one: isinstance(one.layer, selector)
    if isinstance(selector, keras.Layer):
        return lambda one: one.layer is selector
    return None


def _matches(pattern: list[str], parts: list[str]) -> bool:
    """Whether a pattern matches an address or the beginning of one: all that is inside."""
    if not pattern:
        return True
    head, *rest = pattern
    if head == "**":
        return not rest or any(_matches(rest, parts[start:]) for start in range(len(parts)))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], head) and _matches(rest, parts[1:])


def _nothing(graph: Graph, known: list[Candidate], meant: list[Candidate], selector: Any) -> str:
    text = f"{shown(selector)} names nothing in {graph.name!r} that Keras can quantize."
    able = [one.address for one in known if one.why_not is None]
    if meant:
        reasons = "; ".join(f"{one.address!r}: {one.why_not}" for one in meant[:3])
        more = f"; and {len(meant) - 3} more" if len(meant) > 3 else ""
        return f"{text} {reasons}{more}." + (f" These can: {listed(able, 5)}." if able else "")
    if not able:
        reasons = "; ".join(f"{one.address!r}: {one.why_not}" for one in known[:3])
        return f"{text} {reasons or 'It has no layer with a matrix'}."
    near = nearest(selector, able) if isinstance(selector, str) else []
    guess = f" Did you mean {listed(near, 3)}?" if near else ""
    return f"{text}{guess} These can: {listed(able, 8)}."
