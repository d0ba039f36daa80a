"""`Changes`: for each call of two graphs, whether it was kept, and the call it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node
from keras_graft.graph.same import comparable
from keras_graft.graph.walk import is_op
from keras_graft.look.numbers import Numbered, Place
from keras_graft.look.pairing import Pairing
from keras_graft.look.wiring import Source, Wiring
from keras_graft.printable import shown


@dataclass(frozen=True)
class Changes:
    """What happened to each call, for pictures and reports.

    Calls are named by their paths (`node.path` of `everything(graph)`), also nested models and the
    calls inside them.

    Attributes:
        old: The graph before.
        new: The graph now.
        of_old: For each call of `old`: "kept", "changed" or "dropped".
        of_new: For each call of `new`: "kept", "changed" or "new". A nested model is changed if
            something inside it is not kept.
        pairs: For each kept or changed call of `new`, the call of `old`.
        why: For each changed call of `new`, what changed, as text.
        may_differ: The calls of `new` whose outputs may differ from all those that `old` computes.
    """

    old: Graph
    new: Graph
    of_old: Mapping[str, str]
    of_new: Mapping[str, str]
    pairs: Mapping[str, str]
    why: Mapping[str, str]
    may_differ: frozenset[str]


def changes(
    old: Wiring,
    new: Wiring,
    paired: Pairing,
    before: Numbered,
    now: Numbered,
) -> Changes:
    """Pair the calls of two graphs whose operations are paired, and say what changed."""
    pairs = _pairs(old, new, paired, before, now)
    back = {mine: its for its, mine in pairs.items()}
    of_new = {place: "kept" if place in pairs else "new" for place in new.nodes}
    of_old = {place: "kept" if place in back else "dropped" for place in old.nodes}
    why: dict[str, str] = {}
    for its, mine in pairs.items():
        node, was = new.nodes[its], old.nodes[mine]
        said = _arguments(was, node, paired.leaf)
        if node.nested is None:
            said += [paired.changed(node.operation), *_specs(was, node)]
            said += _reads(old, new, was, node, pairs, back, paired.inputs)
        text = "; ".join(filter(None, said))
        if text:
            why[node.path] = text
            of_new[its] = of_old[mine] = "changed"
    for state, other in ((of_new, of_old), (of_old, of_new)):
        for (scope, _), said in list(state.items()):
            if said == "kept":
                continue
            for depth in range(len(scope)):  # the nested models around it
                outer = scope[:depth], scope[depth]
                if state[outer] == "kept":
                    state[outer] = "changed"
                    partner = pairs.get(outer) if state is of_new else back.get(outer)
                    if partner is not None:
                        other[partner] = "changed"
    known = set().union(*before.calls.values()) if before.calls else set()
    return Changes(
        old.graph,
        new.graph,
        {old.nodes[place].path: said for place, said in of_old.items()},
        {new.nodes[place].path: said for place, said in of_new.items()},
        {new.nodes[its].path: old.nodes[mine].path for its, mine in pairs.items()},
        why,
        frozenset(
            new.nodes[p].path for p, found in now.calls.items() if not known.issuperset(found)
        ),
    )


def _pairs(
    old: Wiring, new: Wiring, paired: Pairing, before: Numbered, now: Numbered
) -> dict[Place, Place]:
    """Return for calls of the new graph those of the old one: equal calls first, then in order."""
    calls: dict[Any, dict[Place, None]] = {}
    equal: dict[Any, list[Place]] = {}
    models: dict[Any, list[Place]] = {}
    for place, node in old.nodes.items():
        if node.nested is None:
            calls.setdefault(id(node.operation), {})[place] = None
            equal.setdefault((id(node.operation), before.calls[place]), []).append(place)
        else:
            models.setdefault(_names(node), []).append(place)
    pairs: dict[Place, Place] = {}
    left: dict[int, list[Place]] = {}
    for place, node in new.nodes.items():
        if node.nested is not None:
            if its := models.get(_names(node)):
                pairs[place] = its.pop(0)
        elif (was := paired.before(node.operation)) is not None:
            if its := equal.get((id(was), now.calls[place])):
                # A loaded model may compute a mask twice.
                pairs[place] = its[0] if len(its) == 1 and is_op(node) else its.pop(0)
                calls[id(was)].pop(pairs[place], None)
            else:
                left.setdefault(id(was), []).append(place)
    for key, places in left.items():
        pairs.update(zip(places, calls.get(key, ()), strict=False))
    return pairs


def _names(node: Node) -> tuple[str, ...]:
    return tuple(n.name for n in (*node.scope, node))


def _specs(was: Node, node: Node) -> list[str]:
    before, now = ([str(v.spec or "?") for v in n.outputs] for n in (was, node))
    return [] if before == now else [f"output {'; '.join(now)}, before {'; '.join(before)}"]


def _arguments(was: Node, node: Node, leaf: Callable[[Any], Any]) -> list[str]:
    """Say which recorded arguments differ; tensors do not count."""
    if comparable(was.template.args, leaf) != comparable(node.template.args, leaf):
        return ["called with other arguments"]
    before, now = was.template.kwargs, node.template.kwargs
    names = [
        name
        for name in dict.fromkeys([*now, *before])
        if comparable(before.get(name), leaf) != comparable(now.get(name), leaf)
    ]
    return [f"{n}={shown(now.get(n))}, before {shown(before.get(n))}" for n in names]


def _reads(
    old: Wiring,
    new: Wiring,
    was: Node,
    node: Node,
    pairs: Mapping[Place, Place],
    back: Mapping[Place, Place],
    inputs: Mapping[str, str],
) -> list[str]:
    """Say which inputs a call reads from elsewhere, unless a new or dropped call explains it."""
    counts = len(was.inputs), len(node.inputs)
    if counts[0] != counts[1]:
        return [f"reads {counts[1]} tensors, before {counts[0]}"]
    before, now = old.reads(was), new.reads(node)
    found = []
    for mine, its in zip(before[: counts[0]], now[: counts[0]], strict=True):
        if not _same(mine, its, pairs, back, inputs) and not (
            mine is not None and its is not None and _explained(old, mine, its, pairs, back, inputs)
        ):
            names = (("nothing" if s is None else s.path) for s in (its, mine))
            found.append("reads {}, before {}".format(*names))
    masks = [{s for s in side[counts[0] :] if s is not None} for side in (before, now)]
    for mine in list(masks[0]):  # one that is passed as an argument too, or is known by both
        if mine in before[: counts[0]] or any(
            _same(mine, its, pairs, back, inputs) for its in masks[1]
        ):
            masks[0].discard(mine)
    for its in list(masks[1]):
        if any(_same(mine, its, pairs, back, inputs) for mine in before):
            masks[1].discard(its)
    return found + (["reads another mask"] if masks[0] or masks[1] else [])


def _same(
    mine: Source | None,
    its: Source | None,
    pairs: Mapping[Place, Place],
    back: Mapping[Place, Place],
    inputs: Mapping[str, str],
) -> bool:
    if mine is None or its is None:
        return mine is its
    if its.place is not None and its.place not in pairs:
        return True  # a new call
    if its.place is None:
        return mine.place is None and inputs.get(its.path) == mine.path
    return pairs[its.place] == mine.place and mine.index == its.index


def _explained(
    old: Wiring,
    mine: Source,
    its: Source,
    pairs: Mapping[Place, Place],
    back: Mapping[Place, Place],
    inputs: Mapping[str, str],
) -> bool:
    """Whether only dropped calls were between what a call reads and what it read."""
    stack, seen = [mine], {mine}
    while stack:
        source = stack.pop()
        if source.place is not None and source.place not in back:
            for above in old.reads(old.nodes[source.place]):
                if above is not None and above not in seen:
                    seen.add(above)
                    stack.append(above)
        elif _same(source, its, pairs, back, inputs):
            return True
    return False
