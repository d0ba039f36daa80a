"""The verb `rewrite`: replace every part of a network that a pattern fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keras_graft import _keras
from keras_graft.edit import changes as _edit
from keras_graft.edit.factory import name_there
from keras_graft.edit.incoming import At, traced
from keras_graft.errors import EditError, GraftError, GraphError, NothingSelectedError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed
from keras_graft.graph.node import Value
from keras_graft.model.infer import infer
from keras_graft.model.nested import at_depth
from keras_graft.model.verb import verb
from keras_graft.printable import words_of
from keras_graft.rewrite.find import Finder
from keras_graft.rewrite.match import Match, asked, call_with_names
from keras_graft.rewrite.places import Places, check_no_ring, in_order
from keras_graft.shared.kept import edited
from keras_graft.tables import counted


@verb
def rewrite(
    old: Graph,
    pattern: Any,
    replacement: Callable[..., Any],
    where: Callable[..., Any] | None = None,
    **wildcards: Any,
) -> Graph:
    """Replace every part of a network that a pattern fits, at every depth.

    Pattern and replacement are functions of tensors. In the pattern, a parameter that is given by
    name is a wildcard for a layer, and all others are tensors:

        kg.rewrite(model, lambda x, conv, bn: bn(conv(x)), lambda x, conv, bn: folded(conv, bn)(x),
                   conv=keras.layers.Conv2D, bn=keras.layers.BatchNormalization)

    A pattern may have several tensors, branches, several outputs, ops (`keras.ops.relu(x)`,
    `x + y`) and layers of its own (`keras.layers.ReLU()(x)`, which fits layers of the same class and
    configuration). A name that stands twice is the same layer, or the same tensor. The inputs of
    `Add`, `Multiply`, `x + y` and other operations that may exchange them fit in any order. Several
    outputs of a call are unpacked: `y, state = lstm(x)`. An argument of a call that is not its
    default must be in the pattern too: `bn(x, training=True)`; `training=...` (Python's dots) fits
    any. A wildcard that is given away instead of called stands for a constant: `x * c`, with
    `c=float`.

    Values inside a match must not be used elsewhere, or be outputs of the model. If two matches
    share nodes, the first one in the order of the graph is replaced. What a replacement makes is
    not looked through again. `kg.matches` shows the matches without replacing them.

    The idea is that of `torch.fx.subgraph_rewriter` and of onnxscript's rewriter.

    Args:
        model: A Keras model or a `Graph`.
        pattern: The function; or a list of functions, of which the first that fits is used.
        replacement: A function of the pattern's names, in any order, and of those it needs only. It
            gives what the pattern gives, in the same shapes. A tensor is a symbolic tensor there, a
            wildcard the donor's layer, which may be called again. `match` is the whole match.
        where: A function of the pattern's names, or of `match`, that says whether a match counts. A
            tensor is a `Value` there. It may give a text instead: why not.
        wildcards: For each parameter of the pattern that is a layer, what it may be: a class, a
            layer, a name or a pattern of names, a function of the layer that says whether it fits,
            or a list of these.

    Returns:
        A Keras model or a `Graph`, as `model` is, with all other layers shared.

    Raises:
        NothingSelectedError: If the pattern fits nowhere; it says where it nearly does.
        EditError: If the pattern or a wildcard is none; if a replacement raises, or gives other
            shapes or another number of values.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> h = keras.layers.Dense(3, name="d")(x)
    >>> model = keras.Model(x, keras.layers.Dropout(0.1, name="drop")(keras.layers.ReLU(name="r")(h)))
    >>> new = kg.rewrite(model, lambda x, act, drop: drop(act(x)), lambda x, act: act(x),
    ...                  act=keras.layers.ReLU, drop=keras.layers.Dropout)
    >>> [layer.name for layer in new.layers], new.get_layer("r") is model.get_layer("r")
    (['x', 'd', 'r'], True)
    """
    finder = Finder(old, pattern, where, wildcards, "rewrite")
    wanted = [
        asked(replacement, each.names, "rewrite: the replacement") for each in finder.patterns
    ]
    found = finder.found()
    if not found.matches:
        raise NothingSelectedError(_nothing(old, finder, found))
    places = Places()

    def edit(level: Graph, found: list[Any]) -> Graph:
        names: set[str] = set()
        parts = in_order([places.part(level, place) for place in found])

        def put(graph: Graph, inputs: Sequence[Value], match: Match) -> _edit.Made:
            node = match.outputs[0].producer
            assert node is not None
            place = At(graph, tuple(inputs), None, "rewrite", graph.node(node))
            return _made(place, replacement, wanted[match.number], match, names)

        try:
            return _edit.substitute(level, parts, put, infer)
        except GraphError as error:
            check_no_ring(level, parts, error)
            raise

    new = at_depth(old, [places.of(match) for match in found.matches], edit)
    return edited(old, new, "rewrite")


def _made(
    place: At,
    replacement: Callable[..., Any],
    wanted: dict[str, str | None],
    match: Match,
    names: set[str],
) -> _edit.Made:
    """Trace the replacement of one match."""
    before = _keras.names_given()
    tensors = list(match.inputs)

    def run(*given: Any) -> Any:
        known = {**match.named, **dict(zip(tensors, given, strict=True))}
        arguments = {name: match if of is None else known[of] for name, of in wanted.items()}
        try:
            return call_with_names(replacement, arguments)
        except GraftError:
            raise
        except Exception as error:  # a user's function
            what = f"the replacement raised {type(error).__name__}: {words_of(error)}"
            raise EditError(what) from error

    run.__name__ = "the replacement"
    did = traced(run, place, before)
    if len(did.outputs) != len(match.outputs):
        raise EditError(
            f"{place.edit}: the replacement gives {counted(len(did.outputs), 'value')}, and the "
            f"pattern gives {len(match.outputs)}. Return one for each, in the same order."
        )
    graph = place.graph
    instead: dict[Any, Value] = {}
    for i, (old, new) in enumerate(zip(match.outputs, did.outputs, strict=True)):
        if instead.setdefault(old.key, new) != new:
            first = [v.key for v in match.outputs].index(old.key)
            raise EditError(
                f"{place.edit}: the pattern gives {graph.label(old)!r} as its outputs {first} and "
                f"{i}, and the replacement gives two values for it. Return it once in the pattern, or "
                "the same value twice in the replacement."
            )
    for old, new in zip(match.outputs, did.outputs, strict=True):
        was, now = graph.known(old).spec, new.spec
        if was is not None and now is not None and not was.holds_as(now):
            users = [graph.label(n) for n in graph.consumers(old)] or ["the model's output"]
            raise EditError(
                f"{place.edit}: the replacement gives {now} for {graph.label(old)!r}, which gave "
                f"{was}, and {listed(users, 3)} reads that. Let it give the same shape and dtype."
            )
    for operation in {id(node.operation): node.operation for node in did.steps}.values():
        kind = did.kinds.get(id(operation)) or _keras.named_since(operation, before)
        if kind and not graph.calls(operation):
            operation.name = name_there(kind, place, names)
    return list(did.steps), list(did.outputs)


def _nothing(graph: Graph, finder: Finder, found: Any) -> str:
    near = finder.near(found)
    text = f"rewrite: the pattern fits nowhere in {graph.name!r}."
    if near:
        text += "\nNear misses:\n" + "\n".join(f"  {path}: {why}" for path, why in near[:5])
        if len(near) > 5:
            text += f"\n  {len(near) - 5} more"
    return f"{text}\nkg.matches(model, pattern, ...) lists what fits and what nearly does."
