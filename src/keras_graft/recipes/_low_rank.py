"""Write a matrix product as two smaller ones: the singular values that matter stay."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import keras_graft as kg
from keras_graft.printable import shown
from keras_graft.recipes import _arguments
from keras_graft.recipes._factored import Factored, wanted, why_not
from keras_graft.tables import Table, Tabular


@dataclass(frozen=True)
class Product:
    """What became of one layer.

    Attributes:
        layer: Its path.
        kind: Its class.
        rank: The width between the two layers.
        full: The largest rank that its kernel can have.
        error: The Frobenius norm of what the kernel lost.
        relative: The same, divided by the norm of the kernel.
        share: The multiply-adds of the two layers, divided by those of the one.
    """

    layer: str
    kind: str
    rank: int
    full: int
    error: float
    relative: float
    share: float


@dataclass(frozen=True, repr=False)
class LowRank(Tabular):
    """What `low_rank` gives; prints as a table.

    Attributes:
        model: The model, or the `Graph`.
        layers: The layers that became two.
        kept: Pairs: a layer that stays, and why.
        before: `kg.costs` of the donor, in total.
        after: `kg.costs` of the result, in total.
    """

    model: Any = field(repr=False)
    layers: tuple[Product, ...]
    kept: tuple[tuple[str, str], ...]
    before: Any
    after: Any

    def tables(self) -> list[Table]:
        """Return the costs, one line for each layer, and what stays."""
        title = [
            f"{name}: {_number(a)} -> {_number(b)}"
            for name, a, b in (
                ("multiply-adds", self.before.multiply_adds, self.after.multiply_adds),
                ("parameters", self.before.parameters, self.after.parameters),
            )
        ]
        title += [f"{path!r} stays: {why}" for path, why in self.kept]
        rows = [
            (f.layer, f.kind, f"{f.rank} of {f.full}", f"{f.relative:.2%}", f"{f.share:.1%}")
            for f in self.layers
        ]
        return [(tuple(title), ("layer", "class", "rank", "error", "multiply-adds"), rows)]


def low_rank(model: Any, ranks: Any, by: str = "cost", only_smaller: bool = True) -> LowRank:
    """Make two layers of a matrix product, by its singular values.

    A kernel of shape `(inputs, outputs)` becomes `(inputs, rank)` and `(rank, outputs)`: the best
    ones of that rank in the Frobenius norm (Eckart and Young, 1936). So a `Dense` becomes two; an
    `EinsumDense` too, where it is one matrix product; a convolution becomes one of the same kernel
    size with `rank` filters, and one of kernel size 1 (Zhang et al., "Accelerating Very Deep
    Convolutional Networks for Classification and Detection", 2016, arXiv:1505.06798). The first
    new layer is `<name>_low`; the second has the name, bias, activation, dtype policy and
    `trainable` of the old one. Kernel regularizers are put on both kernels. At full rank outputs are
    equal within float tolerance.

    Args:
        model: A Keras model or a `Graph`.
        ranks: A dict from selectors of layers to a rank, or to a number between 0 and 1 (see `by`).
        by: What a number between 0 and 1 is. `"cost"`: the rank is the largest one at which the two
            layers take at most that fraction of the multiply-adds of the one. `"energy"`: the
            smallest one that keeps that share of the sum of the squared singular values.
        only_smaller: A layer stays if the two would take as many multiply-adds, or more.

    Returns:
        The result as `.model`, and the report: ranks, errors, costs before and after, and the
        layers that stay, with the reason.

    Raises:
        EditError: If `ranks` or `by` is not one of these; if two entries select one layer; if all
            layers of an entry would stay (the message says why).
        NothingSelectedError: If an entry selects nothing.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((64,), name="x")
    >>> h = keras.layers.Dense(64, activation="relu", name="wide")(x)
    >>> model = keras.Model(x, keras.layers.Dense(2, name="out")(h))
    >>> report = kg.recipes.low_rank(model, {"wide": 0.5})
    >>> [(layer.name, layer.units) for layer in report.model.layers[1:]]
    [('wide_low', 16), ('wide', 64), ('out', 2)]
    >>> report.before.multiply_adds, report.after.multiply_adds
    (4224, 2176)
    """
    if not isinstance(by, str) or by not in ("cost", "energy"):
        raise kg.EditError(f'low_rank: by= is "cost" or "energy", got {shown(by)}.')
    graph = kg.read(model)
    graph, asked = wanted(graph, ranks)
    shared = _arguments.shared_layers(graph)
    made: dict[int, Factored] = {}
    kept: dict[str, str] = {}
    for selector, much, nodes in asked:
        stays: dict[str, str] = {}
        for node in nodes:
            why = why_not(node, shared)
            if why:
                stays[node.path] = why
                continue
            if id(node.operation) in made:
                raise kg.EditError(
                    f"low_rank: {node.path!r} is selected twice, also by {shown(selector)}. Select "
                    "each layer once."
                )
            one = Factored(node)
            rank, why = one.rank_for(much, by, only_smaller)
            if why:
                stays[node.path] = why
            else:
                one.choose(rank)
                made[id(node.operation)] = one
        if len(stays) == len(nodes):
            path, why = next(iter(stays.items()))
            raise kg.EditError(f"low_rank: {shown(selector)}: {path!r} stays: {why}.")
        kept |= stays
    new = kg.replace(
        graph, lambda node: id(node.operation) in made, lambda node: made[id(node.operation)].call
    )
    for one in made.values():
        one.fill()
    return LowRank(
        new if isinstance(model, kg.Graph) else kg.build(new),
        tuple(_report(one) for one in made.values()),
        tuple(kept.items()),
        kg.costs(graph).total,
        kg.costs(new).total,
    )


def _number(count: Any) -> str:
    return "?" if count is None else f"{count:,}" if isinstance(count, int) else str(count)


def _report(one: Factored) -> Product:
    lost, norm = one.lost()
    return Product(
        one.node.path, one.node.kind, one.rank, len(one.values), lost, lost / norm if norm else 0.0,
        one.share(one.rank),
    )  # fmt: skip
