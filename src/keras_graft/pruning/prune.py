"""The verb `prune`: remove channels, units and heads, with all that depends on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, Literal

import numpy as np

from keras_graft import advice
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import is_one_of
from keras_graft.graph.node import Node, Spec
from keras_graft.model.infer import infer
from keras_graft.model.opening.policy import holds_layers
from keras_graft.model.verb import verb
from keras_graft.printable import shown
from keras_graft.pruning.choose import Part, much, parts, removed_by_number, wishes
from keras_graft.pruning.closure import Axis
from keras_graft.pruning.group import Group
from keras_graft.pruning.network import Network
from keras_graft.pruning.scores import check_by, scores
from keras_graft.pruning.smaller import Kept, Smaller
from keras_graft.pruning.unlike import unlike
from keras_graft.shared.kept import edited, retied, tell_sources
from keras_graft.weights.taken import note_taken


@verb
def prune(
    graph: Graph,
    channels: Any,
    by: Any = "magnitude",
    scope: Literal["layer", "global"] = "layer",
    keep: Any = None,
    round_to: int | None = None,
    seed: int | None = None,
) -> Graph:
    """Remove channels of layers, and everything that depends on them.

    `kg.group(model, layer)` shows what that is. Each layer that changes is made again from its
    configuration with smaller sizes, and gets the values that stay; other layers are shared with
    the donor. If all weights of a removed channel were zero, the outputs are equal within float
    tolerance, except where the group says `not exact`.

    Units of one group are chosen once, even if several selectors or a pattern match its layers: the
    scores of all layers that compute a unit are added.

    Args:
        model: A Keras model or a `Graph`.
        channels: A dict from selectors of layers to what is removed: a list of channels, how many,
            or a fraction between 0 and 1. A unit of a recurrent layer, a head of an attention and a
            feature of a `Dense` are channels too. A pattern skips what cannot be pruned.
        by: Which go: those of the lowest `"magnitude"` (sum of absolute weights), `"l2"`,
            `"bn_scale"` (scale of the batch normalizations), `"random"`, or a function of a
            `Group` that returns one number for each unit.
        scope: `"layer"`: the fraction of each group; `"global"`: of all groups of a selector
            together. Their scores are divided by the mean of their sizes first.
        keep: A selector of layers whose channels all stay.
        round_to: The number of units that stay in a group is a multiple of this.
        seed: For `by="random"`.

    Raises:
        EditError: If a layer that is named cannot be pruned (the message says why), if all its
            channels would go, or if selectors contradict each other.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> y = keras.layers.Dense(8, name="a", activation="relu")(x)
    >>> model = keras.Model(x, keras.layers.Dense(2, name="b")(y))
    >>> small = kg.prune(model, {"a": 0.5})
    >>> small.get_layer("a").units, model.get_layer("a").units, small.count_params()
    (4, 8, 30)
    """
    check_by(by)
    if not is_one_of(scope, "layer", "global"):
        raise EditError(f'prune: scope must be "layer" or "global", got {shown(scope)}.')
    for name, value in (("round_to", round_to), ("seed", seed)):
        if value is not None and (
            not isinstance(value, Integral)
            or isinstance(value, bool)
            or value < 1 - (name == "seed")
        ):
            least = "a positive integer" if name == "round_to" else "an integer from 0 on"
            raise EditError(f"prune: {name}= must be {least}, got {shown(value)}.")
    asked = wishes(graph, channels, "prune", much)
    network, found = parts(graph, asked, keep, "prune")
    generator = np.random.default_rng(seed)
    draw = lambda count: generator.random(count)  # noqa: E731
    gone = _chosen(network, found, by, scope, round_to or 1, draw)
    return without(network, graph, gone, "prune")


def without(network: Network, old: Graph, gone: np.ndarray, verb: str) -> Graph:
    """Return the graph without the positions of some classes."""
    known: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    marked = np.zeros(int(gone.max(initial=-1)) + 2, bool)
    marked[gone] = True

    def kept(axis: Axis) -> np.ndarray:
        of = network.closure.classes(axis)
        if id(of) not in known:  # most axes have the same classes as others
            removed = marked[np.clip(of, -1, len(marked) - 1)] & (of >= 0) & (of < len(marked))
            known[id(of)] = of, np.flatnonzero(~removed)
        return known[id(of)][1]

    return made_of(network, old, kept, verb)


def made_of(
    network: Network, old: Graph, kept: Kept, verb: str, scaled: Callable[[Any, Any], Any] | None = None
) -> Graph:  # fmt: skip
    """Return the graph with some positions of its axes, in order; they may be repeated.

    Args:
        network: The network.
        old: The graph that the user gave.
        kept: Returns the positions of an axis.
        verb: For messages.
        scaled: Returns the value of a weight, after its positions are taken.
    """
    smaller = Smaller(network, kept, verb, scaled)
    graph = _run(network.graph, smaller.graph(network.graph), smaller.configs, verb)
    for new, source in smaller.variables:
        note_taken(new, source, smaller.parts(source))
    tied = smaller.tie()
    if tied:
        tell_sources(graph, tied)
    return edited(old, retied(graph, smaller.variables), verb)


def _run(old: Graph, new: Graph, configs: Mapping[int, Any], verb: str) -> Graph:
    """Run what changed on abstract tensors: a rule that is wrong for a call must not pass."""
    before = {node.key: node for node in old.steps}
    changed: dict[Node, Node | None] = {}
    for node in new.steps:
        known = before.get(node.key)
        if known is None or node.operation is not known.operation or _specs(node) != _specs(known):
            changed[node] = known
    instead = {}
    for node in unlike(changed, configs):
        known = changed[node]
        # A new layer never ran: that it fails on what the old one read says nothing.
        if known is None or node.operation is not known.operation:
            instead[node] = [node.replace(untried=())]
        else:
            instead[node] = [node.replace(untried=_specs(known))]
    way_out = lambda graph, node, wanted: (  # noqa: E731
        f"{verb} has changed nothing. Leave this part out with keep={graph.label(node)!r}, or choose "
        "different layers. Please report it, with the layer's class."
    )
    return infer(new.spliced(instead, {}).settled(), way_out=way_out)


def _specs(node: Node) -> tuple[Spec | None, ...]:
    return tuple(v.spec for v in node.inputs)


def _chosen(
    network: Network, found: list[Part], by: Any, scope: str, multiple: int,
    draw: Callable[[int], np.ndarray],
) -> np.ndarray:  # fmt: skip
    """Return the classes of positions that are removed."""
    gone: list[np.ndarray] = []
    open_: list[Part] = []
    for part in found:
        units = removed_by_number(network, part)
        if units is not None:
            gone.append(part.classes[units])
        elif _same_wish(part) and _is_free(part):
            open_.append(part)
    if not gone and not open_:
        group = found[0].group
        raise EditError(
            f"prune: nothing that is selected can be pruned. The first is {group.layer!r}: "
            f"{next(iter(group.protected.values()), 'it has one unit')}.{_closed(found[0])}"
        )
    rated = [(part, scores(part.group, by, draw)) for part in open_]
    together: dict[Any, list[tuple[Part, np.ndarray]]] = {}
    for number, (part, score) in enumerate(rated):
        wish = part.wishes[0][0]
        key = id(wish) if scope == "global" else number
        together.setdefault(key, []).append((part, score))
    for rows in together.values():
        for part, units in _lowest(rows, multiple):
            gone.append(part.classes[units])
    return np.concatenate(gone) if gone else np.zeros(0, "int64")


def _closed(part: Part) -> str:
    """Say how layers inside closed ones are selected too."""
    graph = part.wishes[0][0].nodes[0].home
    held = [n for n in graph.nodes if n.nested is None and holds_layers(n.operation)]
    if not held:
        return ""
    return (
        f" Of {held[0].label!r} nothing inside is selected, as it is closed: prune "
        f"{advice.call('read', open='**')}, and build."
    )


def _same_wish(part: Part) -> bool:
    wishes = {id(w): w for w, _ in part.wishes}
    given = {w.much for w in wishes.values()}
    if len(given) > 1:
        one, other = list(wishes.values())[:2]
        raise EditError(
            f"prune: {shown(one.selector)} ({one.much}) and {shown(other.selector)} ({other.much}) are "
            f"in one group: {part.group.layer!r} and what is coupled with it. Give the same for both, "
            "or only one."
        )
    return True


def _is_free(part: Part) -> bool:
    """Whether anything of a group can be removed; refuse a layer that is named and cannot."""
    group, wish = part.group, part.wishes[0][0]
    free = len(group.free)
    if free and group.count > 1:
        free = len(_removable(group, np.zeros(group.count)))
        if not part.exact or _number(wish.much, group) <= free:
            return True
        if not isinstance(wish.much, int):
            return True
        raise EditError(
            f"prune: {shown(wish.selector)}: {wish.much} units should go, and {group.layer!r} has "
            f"{group.count}, of which {free} can be removed. Leave one at least."
        )
    if part.exact:
        why = next(iter(group.protected.values()), "it has one unit, and a layer keeps one")
        raise EditError(f"prune: {shown(wish.selector)} cannot be pruned: {why}.")
    return False


def _number(wanted: Any, group: Group) -> int:
    return wanted if isinstance(wanted, int) else round(wanted * group.count)


def _lowest(rows: list[tuple[Part, np.ndarray]], multiple: int) -> list[tuple[Part, np.ndarray]]:
    """Return the units with the lowest scores, of one group or of several together."""
    wanted = rows[0][0].wishes[0][0].much
    order = [_removable(part.group, score) for part, score in rows]
    if len(rows) == 1 or isinstance(wanted, int):
        counts = [
            min(_number(wanted, p.group), len(o)) for (p, _), o in zip(rows, order, strict=True)
        ]
    else:
        total = round(wanted * sum(p.group.count for p, _ in rows))
        ranked = np.concatenate(
            [s[o] / (np.abs(s).mean() or 1) for (_, s), o in zip(rows, order, strict=True)]
        )
        owner = np.concatenate([np.full(len(o), i) for i, o in enumerate(order)])
        taken = owner[np.argsort(ranked, kind="stable")[:total]]
        counts = np.bincount(taken, minlength=len(rows)).tolist()
    found = []
    for (part, _), chosen, count in zip(rows, order, counts, strict=True):
        stay = part.group.count - count
        count = part.group.count - min(-(-stay // multiple) * multiple, part.group.count)
        if count:
            found.append((part, chosen[:count]))
    return found


def _removable(group: Group, score: np.ndarray) -> np.ndarray:
    """Return the units that can be removed, the least important first: no axis loses all."""
    free = np.array(group.free, "int64")
    order = free[np.argsort(score[free], kind="stable")]
    goes = np.zeros(group.count, bool)
    goes[order] = True
    for own in group.alone:
        if goes[own].all():  # all could go: the most important one stays
            among = np.zeros(group.count, bool)
            among[own] = True
            goes[order[among[order]][-1]] = False
            order = order[goes[order]]
    return order
