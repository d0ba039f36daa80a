"""`costs`: what each call, block, stage or cut of a model computes and holds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

from keras_graft import advice
from keras_graft.costs.formula import at_one
from keras_graft.errors import SelectionError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import is_one_of
from keras_graft.graph.node import Node
from keras_graft.graph.select import leaves
from keras_graft.graph.walk import needed
from keras_graft.look.blocks import blocks
from keras_graft.look.costing import Costing, Spent
from keras_graft.look.costs_report import MOST, Cost, Costs
from keras_graft.look.cuts import cuts, printed
from keras_graft.look.numbers import place_of
from keras_graft.look.sizes import sized
from keras_graft.look.stages import stages
from keras_graft.look.wiring import Wiring
from keras_graft.model.verb import question
from keras_graft.printable import shown

Group = tuple[str, str, str, Sequence[Node]]
"""The name of a row, what is in the column of kinds, the output, the calls."""

_REST = "(the rest)"


@question
def costs(
    graph: Graph,
    *,
    by: str = "node",
    depth: int | None = 1,
    batch: int = 1,
    input_shape: Any = None,
    most: int | None = MOST,
) -> Costs:
    """Count what a model computes and holds: for each call, block, stage or cut.

    A multiply-add is a multiplication of a matrix product or a convolution with its addition:
    convolutions, dense, recurrent and attention layers, `ops.matmul`, `ops.einsum`. Everything else
    that is computed for a value is an operation: biases, activations, norms, pooling. So the flops
    of other tools are `2 * multiply_adds + operations`; many call multiply-adds alone "flops".

    Numbers are those of inference. They come from rules for the layers and ops of Keras; layers with
    code of their own are opened and counted inside. Where no rule is, the number is not known, and
    never zero: sums then say "at least". docs/costs.md lists the rules, and compares with XLA.

    Args:
        model: A Keras model or a `Graph`.
        by: What a row is. "node": a call. "block": a block, by its name. "stage": what lies between
            two of `kg.stages`. "cut": everything up to one of `kg.cuts`.
        depth: For "node": how many levels of nested models and opened layers are shown, of which the
            outer ones contain the inner ones. None: only the calls inside.
        batch: For how many samples.
        input_shape: The shape of one sample of the inputs, without the batch, for a model that
            leaves lengths open, as for `kg.cuts`. Otherwise numbers are formulas of these lengths,
            in which borders are ignored.
        most: How many rows are printed: those with the most multiply-adds. None: all. The report
            has all of them in any case.

    Returns:
        The report: it prints as a table, `to_dict()` gives data, `costs(model).total.multiply_adds`
        a number.

    Raises:
        SelectionError: If an argument is none of these, or the shape fits no input.
        BuildError: If a layer does not take that shape.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((8, 8, 3), name="x")
    >>> h = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(x)
    >>> h = keras.layers.GlobalAveragePooling2D(name="pool")(h)
    >>> model = keras.Model(x, keras.layers.Dense(2, name="out")(h), name="tiny")
    >>> report = kg.costs(model)
    >>> report.total.multiply_adds == 6 * 6 * 4 * (3 * 3 * 3) + 4 * 2
    True
    >>> print(report)
    tiny: 3,896 multiply-adds, 434 other operations
    122 parameters in 488 B, values in 600 B
    node  kind                    output                multiply-adds  operations  params  weights  values  share
    conv  Conv2D                  (?, 6, 6, 4) float32          3,888         288     112    448 B   576 B  99.8%
    pool  GlobalAveragePooling2D  (?, 4) float32                    0         144       0      0 B    16 B   0.0%
    out   Dense                   (?, 2) float32                    8           2      10     40 B     8 B   0.2%
    """
    if not is_one_of(by, "node", "block", "stage", "cut"):
        raise SelectionError(f'costs: by= is "node", "block", "stage" or "cut", got {shown(by)}.')
    depth = _whole(depth, "depth", "how many levels are shown", none=True)
    most = printed(most, "costs", "rows")
    samples = _whole(batch, "batch", "for how many samples")
    assert samples is not None
    known = sized(graph, input_shape, "costs")
    costing = Costing(known, samples)
    whole = costing.of(known.nodes)
    total = at_one(whole.multiply_adds or 0)
    groups = {"block": _blocks, "stage": _stages, "cut": _cuts}
    found = _calls(known, depth) if by == "node" else groups[by](known)
    rows = [_row(group, costing.of(group[3]), total) for group in found]
    outputs = "; ".join(str(value.spec or "?") for value in known.outputs)
    every = known.name, counted_calls(known.nodes), outputs, known.nodes
    return Costs(_row(every, whole, total), tuple(rows), by, samples, whole.why, most)


def _whole(number: Any, name: str, what: str, none: bool = False) -> int | None:
    """Return a whole number of 1 or more, or None.

    Raises:
        SelectionError: If it is none.
    """
    whole = isinstance(number, Integral) and not isinstance(number, bool) and int(number) > 0
    if not whole and not (none and number is None):
        also = ", or None for all" if none else ""
        raise SelectionError(
            f"costs: {name}= says {what}, 1 or more{also}; got {shown(number)}. The way out: "
            f"{advice.option(name, 1)}."
        )
    return None if number is None else int(number)


def _row(group: Group, spent: Spent, total: int) -> Cost:
    name, kind, output, _ = group
    known = spent.multiply_adds is not None
    share = at_one(spent.multiply_adds or 0) / total if total else 0.0
    return Cost(
        name, kind, output, spent.multiply_adds, spent.operations, spent.padding, spent.parameters,
        spent.weight_bytes, spent.activation_bytes, share if known else None,
        tuple(sorted(spent.lower)),
    )  # fmt: skip


def _output(node: Node) -> str:
    return "; ".join(str(value.spec or "?") for value in node.outputs)


def counted_calls(nodes: Iterable[Node]) -> str:
    """Return how many calls there are, those inside nested models for these."""
    return f"{len(list(leaves(nodes))):,}"


def _calls(graph: Graph, depth: int | None = 1) -> list[Group]:
    found: list[Group] = []

    def add(nodes: Iterable[Node], level: int) -> None:
        for node in nodes:
            inside = node.nested is not None
            if depth is not None or not inside:
                found.append((node.path, node.kind, _output(node), [node]))
            if node.nested is not None and (depth is None or level < depth):
                scope = (*node.scope, node)
                add([n.within(node.nested, scope) for n in node.nested.steps], level + 1)

    add(graph.nodes, 1)
    return found


def _group(name: str, nodes: Sequence[Node]) -> Group:
    output = _output(nodes[-1]) if nodes else ""
    return name, counted_calls(nodes), output, nodes


def _blocks(graph: Graph) -> list[Group]:
    wiring = Wiring(graph)
    found: list[Group] = []
    taken = set()
    for places in blocks(wiring):
        nodes = [wiring.nodes[place] for place in places]
        outer = {place_of(n) for n in nodes}
        nodes = [n for n in nodes if not any(place_of(s) in outer for s in n.scope)]
        found.append(_group(_common([n.path for n in nodes]), nodes))
        taken |= {place_of(leaf) for leaf in leaves(nodes)}
    rest = [n for n in leaves(graph.nodes) if place_of(n) not in taken]
    return [*found, _group(_REST, rest)] if rest else found


def _common(paths: Sequence[str]) -> str:
    """Return what the paths of a block begin with.

    >>> _common(["conv2_block1_1_conv", "conv2_block1_add"]), _common(["layer_0"])
    ('conv2_block1', 'layer_0')
    """
    if len(paths) == 1:
        return paths[0]
    start = os.path.commonprefix(list(paths))
    whole = all(path[len(start) :][:1] in ("", "_", "/") for path in paths)
    if not whole and ("_" in start or "/" in start):
        start = start[: max(start.rfind("_"), start.rfind("/"))]
    return start.rstrip("_/") or paths[-1]


def _stages(graph: Graph) -> list[Group]:
    wiring = Wiring(graph)
    found: list[Group] = []
    taken: set[Any] = set()
    for stage in stages(graph):
        source = stage.value.producer
        behind = [] if source is None else wiring.behind(source)
        new = {place_of(n) for n in behind} - taken
        taken |= new
        nodes = [n for place, n in wiring.nodes.items() if place in new]
        name = f"{stage.index} {stage.name}"
        found.append((name, counted_calls(nodes), str(stage.value.spec or "?"), nodes))
    rest = [n for n in leaves(graph.nodes) if place_of(n) not in taken]
    return [*found, _group(_REST, rest)] if rest else found


def _cuts(graph: Graph) -> list[Group]:
    found: list[Group] = []
    below: list[Node] = []
    before: Any = graph.inputs
    for cut in cuts(graph):
        # Each cut separates the next one from the inputs.
        below = below + [graph.node(n) for n in needed(graph, (cut.value,), before)]
        before = (cut.value,)
        found.append((cut.name, counted_calls(below), str(cut.spec or "?"), below))
    return [*found, _group("(the whole)", list(graph.nodes))]
