"""Restore ties between joined stages, or warn that weights and layers are separate now."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_graft import _keras
from keras_graft import ties as _ties
from keras_graft.errors import WeightsError
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node
from keras_graft.graph.record import is_wrapper, unwrapped
from keras_graft.graph.select import everything, leaves, tied
from keras_graft.model.swap import calls_of, exchanged
from keras_graft.printable import quoted
from keras_graft.shared.kept import tell_sources
from keras_graft.shared.tie import check_fit
from keras_graft.weights.find import NodeWeight

_STAGE = re.compile(r"(.+)_(trunk|head|stage\d+)")
"""The names that `split` gives."""


def rejoined(graph: Graph, stages: Sequence[Graph]) -> Graph:
    """Return the graph that joins stages, with the ties between stages restored.

    A stage with one end of a tie has its own array for it in its file. If that still equals what
    the tie would compute from the other end, the two are tied again. Otherwise a warning says so.

    Args:
        graph: The joined graph.
        stages: The stages.
    """
    made: dict[int, Any] = {}
    done: set[tuple[int, str]] = set()
    for node in tied(graph):
        for tie in list(_ties.all_ties(node.operation)):
            key = (id(node.operation), tie.weight)
            if key in done or _here(graph, tie):
                continue
            done.add(key)
            source = _source(graph, tie, node)
            if source is not None and _fits(node, tie, source):
                layer = made.setdefault(key[0], _ties.shared_copy(node.operation))
                _tie(layer, tie, source)
    if made:
        tell_sources(graph, made.values())
        places = [node for node in everything(graph) if id(node.operation) in made]
        graph = exchanged(graph, places, lambda node: made[id(node.operation)])
    _say_shared(graph, stages)
    return graph


def _here(graph: Graph, tie: Any) -> bool:
    """Whether the variable of a tie belongs to a layer of the graph."""
    return tie.source is not None and not tie.tentative and any(
        _ties.owns(_inside(node), tie.source)
        for node in leaves(graph.nodes)
        if any(v is tie.source for v in getattr(_inside(node), "weights", ()))
    )  # fmt: skip


def _source(graph: Graph, tie: Any, target: Node) -> NodeWeight | None:
    """Return the weight that a tie names; None if there is none, or several may be meant."""
    last = tie.source_layer.rpartition("/")[2]
    found: dict[int, NodeWeight] = {}
    for node in leaves(graph.nodes):
        layer = _inside(node)
        if node.name != last or layer is _inside(target):
            continue
        variable = _ties.named_weights(layer, tied=False).get(tie.source_weight)
        if variable is not None:
            found.setdefault(id(layer), NodeWeight(node, tie.source_weight, variable))
    exact = [weight for weight in found.values() if weight.path == tie.source_layer]
    rest = exact or list(found.values())
    return rest[0] if len(rest) == 1 else None


def _fits(node: Node, tie: Any, source: NodeWeight) -> bool:
    """Whether two weights can be tied again; if not, a warning says why."""
    held = any(known is tie for known in _ties.ties_of(node.operation))
    own = tie.seen if held else _ties.named_weights(_inside(node))[tie.weight]
    target = NodeWeight(node, tie.weight, own)
    names = f"join: {str(target)!r} was tied to {str(source)!r}"
    try:
        check_fit(target, source, tie.transform, f"{names}, and is not now")
    except WeightsError as error:
        return _say(str(error))
    if _is_frozen(node) != _is_frozen(source.node):
        return _say(f"{names}, and one of the two is permanently frozen now: they are two weights.")
    value = _keras.with_adapters(source.owner, source.variable)
    if tie.transform is not None:
        value = _keras.TRANSFORMS[tie.transform].forward(value)
    held_value, source_value = (np.asarray(ops.convert_to_numpy(v)) for v in (own, value))
    if np.array_equal(held_value, source_value):
        return True
    model = f"kg.untie(joined, {quoted(target)})" if held else "joined"
    how = "" if tie.transform is None else f", transform={quoted(tie.transform)}"
    return _say(
        f"{names} when the stages were made, and their values differ now: they are two weights. "
        f"This makes them one weight, that of {source.path!r}: "
        f"kg.tie({model}, {quoted(target)}, {quoted(source)}{how})"
    )


def _say(text: str) -> bool:
    warnings.warn(text, stacklevel=6)
    return False


def _tie(layer: Any, tie: Any, source: NodeWeight) -> None:
    inner = unwrapped(layer)
    # A new record: the one of the stage's layer must not change.
    record = _ties.Tie(tie.weight, tie.transform, tie.target, source.path, source.name)
    record.own = dict(tie.own)
    _ties.carry_out(inner, record, source.variable, source.owner)
    if inner is not layer:
        _ties.look_again(layer)


def _inside(node: Node) -> Any:
    return unwrapped(node.operation)


def _is_frozen(node: Node) -> bool:
    return is_wrapper(node.operation)


def _say_shared(graph: Graph, stages: Sequence[Graph]) -> None:
    """Warn of layers that were one before a split, and are several after loading its stages."""
    seen: dict[tuple[str, str], dict[int, tuple[str, Any]]] = {}
    for stage in stages:
        name = _STAGE.fullmatch(stage.name)
        for node in leaves(stage.nodes) if name else ():
            if getattr(node.operation, "weights", ()):
                known = seen.setdefault((name.group(1), node.name), {})  # type: ignore[union-attr]
                known.setdefault(id(node.operation), (stage.name, node.operation))
    rows, calls = [], []
    for (_, name), found in seen.items():
        layers = [layer for _, layer in found.values()]
        # Two layers from the same stage, joined twice, were never one layer.
        if len({stage for stage, _ in found.values()}) < len(layers) or len(layers) < 2:
            continue
        if not _alike(layers):
            continue
        paths = dict.fromkeys(node.path.partition("#")[0] for node in calls_of(graph, layers))
        rows.append(f"{name!r} (with {'equal' if _equal(layers) else 'different'} weights)")
        calls.append(f"kg.share(joined, {list(paths)})")
    if rows:
        warnings.warn(
            f"join: {', '.join(rows)}: a layer of that name is in several of the stages, and each has "
            "one of its own. If it was one layer before the split, this makes it one again: "
            f"{'; '.join(calls)}",
            stacklevel=4,
        )


def _alike(layers: Sequence[Any]) -> bool:
    shapes = [[tuple(v.shape) for v in layer.weights] for layer in layers]
    return all(type(x) is type(layers[0]) for x in layers) and all(s == shapes[0] for s in shapes)


def _equal(layers: Sequence[Any]) -> bool:
    first, *others = ([np.asarray(ops.convert_to_numpy(v)) for v in x.weights] for x in layers)
    return all(np.array_equal(a, b) for x in others for a, b in zip(first, x, strict=True))
