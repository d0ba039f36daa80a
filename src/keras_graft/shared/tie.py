"""`tie`: one variable for two weights, directly or through a transform (a transpose)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_graft import _keras, advice
from keras_graft import ties as _ties
from keras_graft.errors import WeightsError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import is_one_of, listed
from keras_graft.graph.record import is_wrapper
from keras_graft.graph.select import leaves
from keras_graft.model.swap import calls_of, exchanged
from keras_graft.model.verb import verb
from keras_graft.printable import quoted, shown, words_of
from keras_graft.shared.kept import path_of, tied_nodes
from keras_graft.weights.find import NodeWeight, find_weight


@verb
def tie(graph: Graph, target: Any, source: Any, transform: str | None = None) -> Graph:
    """Make a layer use the variable of another layer; the target's own variable is removed.

    The result has one variable fewer. The common one is counted, saved and trained once, by
    gradients from both layers. Clones, edits and files keep the tie. Keras's own `load_model` loads
    a file of the result after `import keras_graft`.

    LoRA adapters of the source's layer, also those added later, apply to the target too.

    A new layer of the target's class replaces the target's layer. It shares all its other variables
    with the donor. The donor does not change.

    Args:
        model: A Keras model or a `Graph`.
        target: The weight to replace: `"lm_head/kernel"`, or a variable.
        source: The weight to use instead: `"embedding/embeddings"`, or a variable.
        transform: How the target is computed from the source: None, `"transpose"` (of the last
            two dimensions), or a name registered with `kg.register_transform`.

    Raises:
        WeightsError: If shapes, dtypes, trainable flags, regularizers or constraints do not fit; if
            one end is quantized, or the target has LoRA adapters; if it would tie a weight to
            itself, or to a weight that is already tied.

    >>> import keras, keras_graft as kg
    >>> ids = keras.Input((5,), dtype="int32", name="ids")
    >>> h = keras.layers.Embedding(9, 4, name="embedding")(ids)
    >>> model = keras.Model(ids, keras.layers.Dense(9, name="lm_head")(h))
    >>> tied = kg.tie(model, "lm_head/kernel", "embedding/embeddings", transform="transpose")
    >>> model.count_params(), tied.count_params()
    (81, 45)
    """
    to = find_weight(graph, target, "tie")
    of = find_weight(graph, source, "tie")
    verb = f"tie {str(to)!r} to {str(of)!r}"
    check_not_frozen(to, verb)
    check_not_frozen(of, verb)
    _check_chain(graph, to, of, verb)
    check_fit(to, of, transform, verb)
    _check_users(graph, to, verb)
    layer = _ties.shared_copy(to.layer)
    record = _ties.Tie(to.name, transform, to.path, of.path, of.name)
    _ties.carry_out(layer, record, of.variable, of.owner)
    return with_layer(graph, to.layer, layer)


def register_transform(
    name: str,
    forward: Callable[[Any], Any],
    inverse: Callable[[Any], Any],
    shape: Callable[[tuple[int, ...]], tuple[int, ...]],
) -> None:
    """Register, under a name, how a tie computes its target from its source.

    Args:
        name: The name. A program that loads a file with such a tie must register it too.
        forward: Computes the target's value from the source's value, with `keras.ops` only.
        inverse: Computes the source's value from a value of the target.
        shape: Computes the target's shape from the source's shape; raises ValueError for a shape
            that it does not accept.

    Raises:
        WeightsError: If another transform has this name, or an argument has the wrong type.

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
    # A notebook cell may run again: the same code is the same transform.
    if any(getattr(a, "__code__", a) != getattr(b, "__code__", b) for a, b in pairs):
        raise WeightsError(
            f"register_transform: {name!r} is taken by another transform, and ties may rely on it. "
            "Take another name."
        )
    _keras.TRANSFORMS[name] = _keras.Transform(name, forward, inverse, shape)


def with_layer(graph: Graph, old: Any, new: Any) -> Graph:
    return exchanged(graph, calls_of(graph, [old]), lambda node: new)


def check_not_frozen(end: NodeWeight, verb: str) -> None:
    if is_wrapper(end.layer):
        raise WeightsError(
            f"{verb}: {end.path!r} is permanently in inference mode. Do this before kg.freeze, on the "
            "model that was frozen."
        )


def _check_chain(graph: Graph, to: NodeWeight, of: NodeWeight, verb: str) -> None:
    if to.variable is of.variable:
        raise WeightsError(
            f"{verb}: they are one variable already."
            if to.layer is not of.layer
            else f"{verb}: a weight cannot be tied to itself."
        )
    for tie_ in _ties.ties_of(of.layer):
        if tie_.weight == of.name:
            raise WeightsError(
                f"{verb}: {str(of)!r} is itself tied to {tie_.source_name!r}. Tie to that one: a "
                "tie never goes through another, so none can close a cycle."
            )
    for tie_ in _ties.ties_of(to.layer):
        if tie_.weight == to.name:
            raise WeightsError(
                f"{verb}: {str(to)!r} is tied to {tie_.source_name!r}. Untie it first: "
                f"{advice.call('untie', ('target', str(to)))}."
            )
    for node in tied_nodes(graph):
        for tie_ in _ties.ties_of(node.operation):
            if tie_.source is to.variable:
                target = f"{path_of(node)}/{tie_.weight}"
                raise WeightsError(
                    f"{verb}: {target!r} is tied to {str(to)!r}, so this would close a cycle or a "
                    f"chain. Untie it first: {advice.call('untie', ('target', str(target)))}."
                )


def check_fit(to: NodeWeight, of: NodeWeight, transform: str | None, verb: str) -> None:
    """Check that one variable can be used for both weights.

    Raises:
        WeightsError: As for `tie`.
    """
    for end in (to, of):
        if getattr(end.owner, "quantization_mode", None) is not None:
            raise WeightsError(
                f"{verb}: {end.path!r} is quantized ({end.owner.quantization_mode}): its numbers "
                "mean nothing without its scales. Tie first, and leave the two ends unquantized."
            )
    if _keras.sum_of(to.owner, to.variable) is not None:
        raise WeightsError(
            f"{verb}: {to.path!r} has adapters of kg.lora for this weight. Tie first, and then call "
            "kg.lora: adapters of the source apply to the target too."
        )
    how = {} if transform is None else {"transform": transform}
    if _keras.adapters_of(to.owner, to.variable):
        raise WeightsError(
            f"{verb}: {to.path!r} has LoRA adapters for this weight, which would be gone. Tie the "
            "other way round: "
            + advice.call("tie", ("target", str(of)), ("source", str(to)), **how)
            + ", and the other layer follows them."
        )
    if to.layer is of.layer and to.owner is of.owner:
        raise WeightsError(f"{verb}: both are weights of one layer, {to.path!r}.")
    if transform is not None and not is_one_of(transform, *_keras.TRANSFORMS):
        raise WeightsError(
            f"{verb}: there is no transform {shown(transform)}, only {listed(_keras.TRANSFORMS)}. "
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
    adapted = _keras.adapters_of(of.owner, of.variable)  # these are trained in the source's place
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
                "the same, or remove it from the target."
            )


def _said(thing: Any) -> Any:
    if thing is None or not hasattr(thing, "get_config"):
        return thing
    return f"{type(thing).__name__}({keras.tree.map_structure(str, thing.get_config())})"


def _check_users(graph: Graph, to: NodeWeight, verb: str) -> None:
    users = {
        id(n.operation): path_of(n)
        for n in leaves(graph.nodes)
        if n.operation is not to.layer
        and any(w is to.variable for w in getattr(n.operation, "weights", ()))
    }
    if users:
        raise WeightsError(
            f"{verb}: {to.path!r} shares this weight with {listed(users.values())}, through a layer "
            "inside both, and a tie would separate them. Tie the other way round."
        )
