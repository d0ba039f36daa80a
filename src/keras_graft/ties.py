"""Ties: one variable that two layers use, perhaps through a transform."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.build import like
from keras_graft.errors import EditError, WeightsError
from keras_graft.exchange import calls_of, exchanged
from keras_graft.graph import Graph
from keras_graft.naming import is_one_of, listed
from keras_graft.node import Node
from keras_graft.printable import quoted, shown, words_of
from keras_graft.reader import read
from keras_graft.select import everything, tied
from keras_graft.weights import Weight, find_weight


def tie(model: Any, target: Any, source: Any, transform: str | None = None) -> Any:
    """Let a layer work with the variable of another: the target's own variable is gone.

    The result has one variable fewer. It is counted, saved and trained once, by gradients from
    both places. The tie lives on in clones, through edits, in files. A file of the result loads
    with Keras's own `load_model` once `import keras_graft` was run.

    LoRA adapters of the source's layer, whenever it gets them, count for the target too.

    A layer of the target's class takes its place, which shares all its other variables with the
    donor. The donor is left as it was.

    Args:
        model: A Keras model or a `Graph`.
        target: The weight that goes: `"lm_head.kernel"`, or a variable.
        source: The weight that is used instead: `"embedding.embeddings"`, or a variable.
        transform: How the target is computed from the source: None, `"transpose"` (of the last
            two dimensions), or a name given to `kg.register_transform`.

    Raises:
        WeightsError: If shapes, dtypes, trainable flags, regularizers or constraints do not fit; if
            one end is quantized, or the target has LoRA adapters; if it would tie a weight to
            itself, or to one that is tied itself.

    >>> import keras, keras_graft as kg
    >>> ids = keras.Input((5,), dtype="int32", name="ids")
    >>> h = keras.layers.Embedding(9, 4, name="embedding")(ids)
    >>> model = keras.Model(ids, keras.layers.Dense(9, name="lm_head")(h))
    >>> tied = kg.tie(model, "lm_head.kernel", "embedding.embeddings", transform="transpose")
    >>> model.count_params(), tied.count_params()
    (81, 45)
    """
    graph = read(model)
    to = find_weight(graph, target, "tie")
    of = find_weight(graph, source, "tie")
    verb = f"tie {str(to)!r} to {str(of)!r}"
    _check_not_frozen(to, verb)
    _check_not_frozen(of, verb)
    _check_chain(graph, to, of, verb)
    check_fit(to, of, transform, verb)
    _check_users(graph, to, verb)
    layer = _keras.shared_copy(to.layer)
    record = _keras.Tie(to.name, transform, to.path, of.path, of.name)
    _keras.carry_out(layer, record, of.variable, of.owner)
    return like(model, _with(graph, to.layer, layer))


def untie(model: Any, target: Any) -> Any:
    """Give a tied weight a variable of its own, with the value that it has.

    Args:
        model: A Keras model or a `Graph`.
        target: The weight that is tied: `"lm_head.kernel"`.

    Raises:
        WeightsError: If it is not tied.

    >>> import keras, keras_graft as kg
    >>> ids = keras.Input((5,), dtype="int32", name="ids")
    >>> h = keras.layers.Embedding(9, 4, name="embedding")(ids)
    >>> model = keras.Model(ids, keras.layers.Dense(9, name="lm_head")(h))
    >>> tied = kg.tie(model, "lm_head.kernel", "embedding.embeddings", transform="transpose")
    >>> kg.untie(tied, "lm_head.kernel").count_params()
    81
    """
    graph = read(model)
    to = find_weight(graph, target, "untie")
    _check_not_frozen(to, f"untie {str(to)!r}")
    known = _keras.ties_of(to.layer)
    ties = [t for t in known if t.weight == to.name]
    if not ties:
        others = [
            f"{_path(n)}.{t.weight}" for n in _tied(graph) for t in _keras.ties_of(n.operation)
        ]
        raise WeightsError(
            f"untie: {str(to)!r} is not tied. "
            + (f"Tied here: {listed(others)}." if others else f"{graph.name!r} has no ties.")
        )
    layer = _keras.shared_copy(to.layer, plain=True)
    (record,) = (t for t in _keras.ties_of(layer) if t.weight == to.name)
    _keras.take_back(layer, record, _keras.own_variable(record))
    return like(model, _with(graph, to.layer, layer))


def register_transform(
    name: str,
    forward: Callable[[Any], Any],
    inverse: Callable[[Any], Any],
    shape: Callable[[tuple[int, ...]], tuple[int, ...]],
) -> None:
    """Make a way to compute a weight from another known under a name, for ties and their files.

    Args:
        name: The name; a program that loads a file with such a tie registers it too.
        forward: From the value of the source to that of the target, of `keras.ops` alone.
        inverse: From a value of the target to that of the source.
        shape: From the shape of the source to that of the target; raises ValueError for a shape
            that it cannot take.

    Raises:
        WeightsError: If the name is taken by another, or something else was given.

    >>> import keras, keras_graft as kg
    >>> kg.register_transform("negative", lambda x: -x, lambda x: -x, lambda shape: shape)
    """
    if not isinstance(name, str) or not all(map(callable, (forward, inverse, shape))):
        raise WeightsError(
            "register_transform: it takes a name and three functions, got "
            f"{shown(name)}, {shown(forward)}, {shown(inverse)}, {shown(shape)}."
        )
    old = _keras.TRANSFORMS.get(name)
    pairs = (
        ()
        if old is None
        else zip((old.forward, old.inverse, old.shape), (forward, inverse, shape), strict=True)
    )
    # A notebook runs its cell again: the same code is the same transform.
    if any(getattr(a, "__code__", a) != getattr(b, "__code__", b) for a, b in pairs):
        raise WeightsError(
            f"register_transform: {name!r} is taken by another transform, and ties may rely on it. "
            "Take another name."
        )
    _keras.TRANSFORMS[name] = _keras.Transform(name, forward, inverse, shape)


def edited(model: Any, old: Graph, graph: Graph, verb: str) -> Any:
    """Return what an edit gives back for `model`, as `like`, unless it would silently untie.

    Args:
        model: What the edit was asked for.
        old: Its graph.
        graph: The graph after the edit.
        verb: For messages.

    Raises:
        EditError: If the source of a tie is gone, or its value is used no more where it was, and
            the tied layer is still there.
    """
    tied_before = _tied(old)
    if tied_before:
        stay = _operations(graph)
        gone = [op for key, op in _operations(old).items() if key not in stay]
        lost = {id(w) for op in gone for w in _owned(op)}
        if any(id(tie.source) in lost for n in tied_before for tie in _keras.ties_of(n.operation)):
            lost -= {id(w) for op in stay.values() for w in _owned(op)}
        for node in tied_before:
            for tie_ in _keras.ties_of(node.operation):
                if id(tie_.source) in lost and id(node.operation) in stay:
                    target = f"{_path(node)}.{tie_.weight}"
                    raise EditError(
                        f"{verb}: {target!r} is tied to {tie_.source_name!r}, which would be gone. "
                        f"Untie it first: kg.untie(model, {quoted(target)})."
                    )
    return like(model, graph)


def retied(graph: Graph, pairs: Sequence[tuple[Any, Any]]) -> Graph:
    """Return the graph with its ties to some variables going to others.

    Args:
        graph: The graph.
        pairs: The variables: (new, old).
    """
    instead = {id(old): new for new, old in pairs}
    made = {
        id(node.operation): _keras.shared_copy(node.operation, instead=instead)
        for node in _tied(graph)
        if any(id(tie.source) in instead for tie in _keras.ties_of(node.operation))
    }
    if not made:
        return graph
    tell_sources(graph, made.values())
    places = [node for node in everything(graph) if id(node.operation) in made]
    return exchanged(graph, places, lambda node: made[id(node.operation)])


def tied_again(graph: Graph, old: Any, new: Any, verb: str) -> None:
    """Let a new layer, which is in the graph, have the ties of the one that it replaces."""
    for tie_ in _keras.ties_of(old):
        seen = {tie.weight: tie.seen for tie in _keras.ties_of(new)}
        want = seen.get(tie_.weight, _keras.named_weights(new).get(tie_.weight))
        have = _keras.TRANSFORMS[tie_.transform].shape if tie_.transform else tuple
        if want is None or tuple(want.shape) != tuple(have(tuple(tie_.source.shape))):
            raise EditError(
                f"{verb}: {tie_.target_name!r} is tied to {tie_.source_name!r}, and "
                f"{new.name!r} has no such weight of that shape. Untie it first: "
                f"kg.untie(model, {quoted(tie_.target_name)})."
            )
        _keras.carry_out(new, _keras.same_tie(tie_, new), tie_.source, tie_.seen.owner)
    tell_sources(graph, [new])


def _operations(graph: Graph) -> dict[int, Any]:
    """Return the operations of a graph and of the models inside it, but for these themselves."""
    found: dict[int, Any] = {}
    for node in graph.steps:
        if node.nested is None:
            found[id(node.operation)] = node.operation
        else:
            found.update(_operations(node.nested))
    return found


def _owned(operation: Any) -> list[Any]:
    """Return the weights of an operation that it does not have by a tie alone."""
    others = {id(tie.source) for tie in _keras.ties_of(operation) if not tie.inside}
    return [w for w in getattr(operation, "weights", ()) if id(w) not in others]


def tell_sources(graph: Graph, layers: Iterable[Any]) -> None:
    """Tell new tied layers which layers of the graph their sources belong to."""
    ties = [(layer, tie) for layer in layers for tie in _keras.ties_of(layer)]
    sources = {id(tie.source) for _, tie in ties}
    owners = {
        id(weight): _keras.owner_of(node.operation, weight)
        for node in everything(graph)
        if node.nested is None
        for weight in getattr(node.operation, "weights", ())
        if id(weight) in sources and _keras.owns(node.operation, weight)
    }
    for layer, tie in ties:
        if id(tie.source) in owners:
            tie.seen.owner = owners[id(tie.source)]
            layer.source_found(tie.seen.owner)


def _tied(graph: Graph) -> list[Node]:
    found = {id(n.operation): n for n in tied(graph) if _keras.ties_of(n.operation)}
    return list(found.values())


def _path(node: Node) -> str:
    return "/".join([*(n.name for n in node.scope), node.name])


def _with(graph: Graph, old: Any, new: Any) -> Graph:
    return exchanged(graph, calls_of(graph, [old]), lambda node: new)


# -- what can be tied ---------------------------------------------------------------------------


def _check_not_frozen(end: Weight, verb: str) -> None:
    if hasattr(type(end.layer), "keras_graft_inside"):
        raise WeightsError(
            f"{verb}: {end.path!r} is in inference mode for good. Do this before kg.freeze, with the "
            "model that was frozen."
        )


def _check_chain(graph: Graph, to: Weight, of: Weight, verb: str) -> None:
    if to.variable is of.variable:
        raise WeightsError(
            f"{verb}: they are one variable already."
            if to.layer is not of.layer
            else f"{verb}: a weight cannot be tied to itself."
        )
    for tie_ in _keras.ties_of(of.layer):
        if tie_.weight == of.name:
            raise WeightsError(
                f"{verb}: {str(of)!r} is itself tied to {tie_.source_name!r}. Tie to that one: a "
                "tie never goes through another, so none can close a cycle."
            )
    for tie_ in _keras.ties_of(to.layer):
        if tie_.weight == to.name:
            raise WeightsError(
                f"{verb}: {str(to)!r} is tied to {tie_.source_name!r}. Untie it first: "
                f"kg.untie(model, {quoted(to)})."
            )
    for node in _tied(graph):
        for tie_ in _keras.ties_of(node.operation):
            if tie_.source is to.variable:
                target = f"{_path(node)}.{tie_.weight}"
                raise WeightsError(
                    f"{verb}: {target!r} is tied to {str(to)!r}, so this would close a cycle or a "
                    f"chain. Untie it first: kg.untie(model, {quoted(target)})."
                )


def check_fit(to: Weight, of: Weight, transform: str | None, verb: str) -> None:
    """Refuse to tie two weights that cannot be one.

    Raises:
        WeightsError: As for `tie`.
    """
    for end in (to, of):
        if getattr(end.owner, "quantization_mode", None) is not None:
            raise WeightsError(
                f"{verb}: {end.path!r} is quantized ({end.owner.quantization_mode}): its numbers "
                "mean nothing without its scales. Tie first, and leave the two ends unquantized."
            )
    if _keras.adapters_of(to.owner, to.variable):
        raise WeightsError(
            f"{verb}: {to.path!r} has LoRA adapters for this weight, which would be gone. Tie the "
            f"other way round: kg.tie(model, {quoted(of)}, {quoted(to)}"
            + ("" if transform is None else f", transform={quoted(transform)}")
            + "), and the other layer follows them."
        )
    if to.layer is of.layer and to.owner is of.owner:
        raise WeightsError(f"{verb}: both are weights of one layer, {to.path!r}.")
    if transform is not None and not is_one_of(transform, *_keras.TRANSFORMS):
        raise WeightsError(
            f"{verb}: no transform {shown(transform)}; there are {listed(_keras.TRANSFORMS)}. "
            "kg.register_transform adds one."
        )
    have, want = tuple(of.variable.shape), tuple(to.variable.shape)
    try:
        made = have if transform is None else _keras.TRANSFORMS[transform].shape(have)
    except ValueError as error:
        raise WeightsError(
            f"{verb}: {transform!r} cannot take shape {have}: {words_of(error)}."
        ) from None
    if tuple(made) != want:
        hint = ""
        if transform is None and have == want[:-2] + want[:-3:-1]:
            hint = ' With transform="transpose" it fits.'
        raise WeightsError(
            f"{verb}: the target has shape {want}, and the source gives {tuple(made)}.{hint}"
        )
    if to.variable.dtype != of.variable.dtype:
        raise WeightsError(
            f"{verb}: the target is {to.variable.dtype}, the source {of.variable.dtype}. One "
            "variable has one dtype."
        )
    adapted = _keras.adapters_of(of.owner, of.variable)  # they are trained in the source's place
    if to.variable.trainable != of.variable.trainable and not adapted:
        flags = {True: "trainable", False: "frozen"}
        frozen = of if to.variable.trainable else to
        raise WeightsError(
            f"{verb}: the target is {flags[to.variable.trainable]}, the source "
            f"{flags[of.variable.trainable]}. One variable has one flag: set "
            f"model.get_layer({quoted(frozen.path)}).trainable = True, or freeze both."
        )
    for what in ("regularizer", "constraint"):
        have, want = getattr(of.variable, what), getattr(to.variable, what)
        if want is not None and _said(want) != _said(have):
            raise WeightsError(
                f"{verb}: the target has a {what}, {_said(want)}, and the source "
                f"{_said(have) if have is not None else 'none'}. One variable has one: give both "
                "the same, or take it off the target."
            )


def _said(thing: Any) -> Any:
    if thing is None or not hasattr(thing, "get_config"):
        return thing
    return f"{type(thing).__name__}({keras.tree.map_structure(str, thing.get_config())})"


def _check_users(graph: Graph, to: Weight, verb: str) -> None:
    users = {
        id(n.operation): _path(n)
        for n in everything(graph)
        if n.nested is None
        and n.operation is not to.layer
        and any(w is to.variable for w in getattr(n.operation, "weights", ()))
    }
    if users:
        raise WeightsError(
            f"{verb}: {to.path!r} shares this weight with {listed(users.values())}, through a layer "
            "inside both, and a tie would part them. Tie the other way round."
        )
