"""A layer that is a matrix product, its kernel as a matrix, and the two layers that it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import keras
import numpy as np

import keras_graft as kg
from keras_graft.printable import shown
from keras_graft.recipes import _arguments

_L = keras.layers
_KINDS = (_L.Dense, _L.EinsumDense, _L.Conv1D, _L.Conv2D, _L.Conv3D)


def wanted(graph: Any, ranks: Any) -> tuple[kg.Graph, list[tuple[Any, Any, list[kg.Node]]]]:
    """Return the graph, opened where paths lead, and selector, rank, one node for each layer."""
    if not isinstance(ranks, Mapping) or not ranks:
        raise kg.EditError(
            "low_rank: the second argument is a dict from selectors to ranks or fractions, such as "
            f'{{"dense": 0.5}}, got {shown(ranks)}.'
        )
    texts = [t for key in ranks for t in (key if isinstance(key, tuple) else [key])]
    inside = [t.rpartition("/")[0] for t in texts if isinstance(t, str) and "/" in t]
    graph, found = kg.read(graph, open=inside) if inside else graph, []
    for selector, much in ranks.items():
        whole = isinstance(much, Integral) and not isinstance(much, bool) and int(much) > 0
        if not whole and not (isinstance(much, float | np.floating) and 0 < float(much) < 1):
            raise kg.EditError(
                f"low_rank: {shown(selector)}: expected a rank (16) or a number between 0 and 1 "
                f"(0.5), got {shown(much)}."
            )
        nodes = {id(n.operation): n for n in kg.select(graph, selector).nodes}
        found.append((selector, int(much) if whole else float(much), list(nodes.values())))
    return graph, found


def why_not(node: kg.Node, shared: dict[int, str]) -> str:
    """Return why a layer stays; nothing if it is a matrix product that can be written as two."""
    layer = node.operation
    if id(layer) in shared:
        return f"it {shared[id(layer)]}"
    if type(layer) not in _KINDS:
        names = ", ".join(kind.__name__ for kind in _KINDS)
        return f"it is a {node.kind}, and not one of {names}"
    if "call" in vars(layer):
        return "its call was set on this one layer, and may compute anything"
    if getattr(layer, "groups", 1) > 1:
        return f"it has {layer.groups} groups"
    if layer.kernel_constraint is not None:
        return "it has a kernel_constraint, which means something else for two kernels"
    if _arguments.has_weights(layer.activation):
        return "its activation is a layer with weights"
    if isinstance(layer, _L.EinsumDense) and _letters(layer) is None:
        return f"its equation {layer.equation!r} is not one matrix product"
    if not np.isfinite(_arguments.array(layer.kernel, 0)).all():
        return "its kernel has numbers that are not finite"
    return ""


def _letters(layer: Any) -> tuple[str, str, str, str, str] | None:
    """Return input, kernel, output, what is summed, and what is new, of an equation of one product."""
    given, result = layer.equation.replace(" ", "").split("->")
    one, kernel = given.split(",")
    summed = "".join(a for a in kernel if a in one and a not in result)
    new = "".join(a for a in kernel if a in result and a not in one)
    whole = summed and new and len(summed) + len(new) == len(set(kernel)) == len(kernel)
    # A letter that only the input has is summed over in the input itself.
    alone = set(one) - set(kernel) - set(result)
    return (one, kernel, result, summed, new) if whole and not alone else None


class Factored:
    """One layer, its kernel as a matrix, and the two layers that it becomes."""

    def __init__(self, node: kg.Node) -> None:
        self.node = node
        self.old: Any = node.operation
        kernel = _arguments.array(self.old.kernel, 0)
        if isinstance(self.old, _L.EinsumDense):
            letters = _letters(self.old)
            assert letters is not None
            _, names, _, summed, new = self.letters = letters
            kernel = kernel.transpose([names.index(a) for a in summed + new])
            self.rows = kernel.shape[: len(summed)]
            self.columns = kernel.shape[len(summed) :]
        else:
            self.rows, self.columns = kernel.shape[:-1], kernel.shape[-1:]
        matrix = kernel.reshape(int(np.prod(self.rows)), int(np.prod(self.columns)))
        self.left, self.values, self.right = np.linalg.svd(matrix, full_matrices=False)
        self.size, self.whole = sum(matrix.shape), matrix.size

    def rank_for(self, much: Any, by: str, only_smaller: bool) -> tuple[int, str]:
        """Return the rank, or why the layer stays."""
        full, most = len(self.values), (self.whole - 1) // self.size
        if isinstance(much, int):
            if much > full:
                return 0, f"its kernel can have a rank of {full} at most"
            rank = much
        elif by == "cost":
            rank = int(much * self.whole / self.size + 1e-9)
            if rank < 1:
                return (
                    0,
                    f"rank 1 takes {self.share(1):.1%} of its multiply-adds, more than {much:.1%}",
                )
        else:
            energy = np.cumsum(self.values**2)
            rank = int(np.searchsorted(energy, much * energy[-1] * (1 - 1e-12))) + 1
        if only_smaller and rank > most:
            way = f"up to {most}" if most else "none"
            return 0, (
                f"rank {rank} would take {self.share(rank):.1%} of its multiply-adds; ranks that take "
                f"less: {way}"
            )
        return rank, ""

    def share(self, rank: int) -> float:
        return rank * self.size / self.whole

    def choose(self, rank: int) -> None:
        """Make the two layers, not built yet."""
        self.rank, old, config = rank, self.old, self.old.get_config()
        # An initializer may hold an array of the old shape.
        config["kernel_initializer"] = "glorot_uniform"
        none = {"bias_regularizer": None, "bias_constraint": None, "activity_regularizer": None}
        first = {**config, **none, "name": f"{old.name}_low", "activation": None, "use_bias": False}
        second = dict(config)
        if isinstance(old, _L.EinsumDense):
            first.pop("use_bias")
            one, _, result, summed, new = self.letters
            middle = next(a for a in "rabcdefghijklmnopqstuvwxyz" if a not in one + result)
            between = one.replace(summed[0], middle)
            for letter in summed[1:]:
                between = between.replace(letter, "")
            sizes = self.node.inputs[0].spec.shape  # type: ignore[union-attr]
            if one.startswith("."):
                sizes = sizes[3 - len(one) :]
            known = dict(zip(one.strip("."), sizes, strict=False)) | {middle: rank}
            if not one.startswith("."):  # as the layer knows it: open where it is open there
                own = dict(zip(result[1:], config["output_shape"], strict=False))
                known |= {a: own[a] for a in known if a in own and a != middle}
            shape = [known[a] for a in between if a != "."]
            first |= {
                "equation": f"{one},{summed}{middle}->{between}",
                "output_shape": shape if one.startswith(".") else shape[1:],
                "bias_axes": None,
            }
            second["equation"] = f"{between},{middle}{new}->{result}"
        elif isinstance(old, _L.Dense):
            first["units"] = rank
        else:
            first["filters"], ones = rank, [1] * len(old.kernel_size)
            second |= {
                "kernel_size": ones,
                "strides": ones,
                "dilation_rate": ones,
                "padding": "valid",
            }
        self.first, self.second = type(old).from_config(first), type(old).from_config(second)

    def call(self, x: Any) -> Any:
        """Call both."""
        return self.second(self.first(x))

    def fill(self) -> None:
        """Give the two layers, which are built, their values."""
        root = np.sqrt(self.values[: self.rank])
        left = (self.left[:, : self.rank] * root).reshape(*self.rows, self.rank)
        right = (root[:, None] * self.right[: self.rank]).reshape(self.rank, *self.columns)
        self.first.kernel.assign(left)
        self.second.kernel.assign(right.reshape(self.second.kernel.shape))
        if self.old.bias is not None:
            self.second.bias.assign(self.old.bias)
        has = ("kernel", "bias") if self.old.bias is not None else ("kernel",)
        flags = [_arguments.trains(self.old, name) for name in has]
        if self.old.trainable:
            _arguments.set_flags(self.first, flags[:1])
            _arguments.set_flags(self.second, flags)

    def lost(self) -> tuple[float, ...]:
        """Return the Frobenius norm of what the kernel lost, and that of the kernel."""
        return tuple(
            float(np.linalg.norm(part)) for part in (self.values[self.rank :], self.values)
        )
