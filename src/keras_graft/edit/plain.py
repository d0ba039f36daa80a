"""The verb `plain`: the same network with Keras's own layers only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import keras

from keras_graft import _keras, advice
from keras_graft import ties as _ties
from keras_graft.edit.inline import inline
from keras_graft.edit.plain_layers import Expressed, NotPlainError
from keras_graft.edit.replace import replace
from keras_graft.errors import EditError, GraftError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import is_one_of, listed
from keras_graft.graph.node import Node
from keras_graft.graph.record import record_of, unwrapped
from keras_graft.graph.select import everything
from keras_graft.layers.remat import Remat
from keras_graft.model.clone import clone
from keras_graft.model.nested import Place, at_depth
from keras_graft.model.read import opened_for, opened_fully
from keras_graft.model.recreate import as_in_a_file
from keras_graft.model.verb import verb
from keras_graft.printable import shown, words_of
from keras_graft.shared.kept import path_of, tied_nodes
from keras_graft.shared.untie import untie


@verb
def plain(graph: Graph, ties: Literal["refuse", "untie"] = "refuse") -> Graph:
    """Return the same network with Keras's own layers only: its file loads without keras_graft.

    The result has weights of its own, with the values that they have now. The layers of this
    package become calls of Keras's layers and ops: a `Frozen` becomes its layer, not trained; a
    `Weight` an `Embedding` of one row; a `Remat` the layers in it, which training keeps; an
    `Operator` an op, which may round the last bit in another way. A `MultiHeadAttention` that does
    not train becomes what is inside it, as a file would let it train. Layers whose code can be read as a graph are replaced by what is inside, and models of a
    class of their own become plain ones. Weights that nothing reads are left out. What cannot be
    expressed is refused by name.

    Args:
        model: A Keras model or a `Graph`.
        ties: `"refuse"`: a model with ties is refused, as Keras has none. `"untie"`: each tied
            weight gets a variable of its own, which is trained by itself from then on.

    Returns:
        A Keras model or a `Graph`, as `model` is.

    Raises:
        EditError: If something cannot be expressed; each is named, with the reason.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> model = kg.freeze(keras.Model(x, keras.layers.Dense(3, name="d")(x)), "d")
    >>> type(model.get_layer("d")).__name__, type(kg.plain(model).get_layer("d")).__name__
    ('Frozen', 'Dense')
    """
    if not is_one_of(ties, "refuse", "untie"):
        raise EditError(f'plain: ties must be "refuse" or "untie", got {shown(ties)}.')
    tied = [
        f"{path_of(n)}/{t.weight}" for n in tied_nodes(graph) for t in _ties.ties_of(n.operation)
    ]
    if tied and ties == "refuse":
        raise EditError(
            f"plain: {listed(tied, 3)} {'is' if len(tied) == 1 else 'are'} tied, and Keras has no ties. "
            'To give each a variable of its own: kg.plain(model, ties="untie").'
        )
    graph = clone(_inlined(graph))
    for target in tied:
        graph = untie(graph, target)
    while True:
        _check(graph)
        graph = _expressed(graph)
        forgetting = _forgetting(graph)
        if not forgetting:
            break
        graph = _opened(graph, forgetting)
    _check_config(graph)
    return _named(graph).replace(past=None, origin=None)


def _is_kerass(operation: Any) -> bool:
    return type(operation).__module__.partition(".")[0] == "keras"


def _inlined(graph: Graph) -> Graph:
    """Return the graph with what is inside layers and models of classes that are not Keras's."""
    foreign = _foreign(graph)
    if any(node.nested is None for node in foreign):
        graph = opened_fully(graph)
        foreign = _foreign(graph)
    while inside := [node for node in foreign if node.nested is not None]:
        graph = inline(graph, inside)
        foreign = _foreign(graph)
    return graph


def _foreign(graph: Graph) -> list[Node]:
    """Return the calls of operations that are neither Keras's nor this package's, and of `Remat`."""
    return [
        node
        for node in everything(graph)
        if not _is_kerass(node.operation)
        and (
            type(node.operation).__module__.partition(".")[0] != "keras_graft"
            or isinstance(node.operation, Remat)
        )
        and not _ties.ties_of(node.operation)
    ]


def _own(graph: Graph) -> list[Node]:
    """Return the calls of layers and ops of this package."""
    return [
        node
        for node in everything(graph)
        if not _is_kerass(node.operation) and node not in _foreign(graph)
    ]


def _check(graph: Graph) -> None:
    """Refuse what cannot be expressed; all of it is named at once."""
    why: dict[str, str] = {}
    for node in _foreign(graph):
        reason = f": {node.closed}" if node.closed else ""
        why.setdefault(path_of(node), f"{node.kind}, which is not Keras's{reason}")
    for node in everything(graph):
        reason = _adapted(node.operation)
        if reason is not None:
            why.setdefault(path_of(node), reason)
    work = Expressed()
    for node in everything(graph):
        if type(node.operation).__module__.startswith("keras_graft"):
            try:
                work.of(node)
            except NotPlainError as error:
                text = f"{node.kind} has no layer in Keras that does the same"
                why.setdefault(path_of(node), str(error) or text)
    _refuse(why)


def _refuse(why: dict[str, str]) -> None:
    if why:
        lines = [f"  {path}: {reason}" for path, reason in list(why.items())[:10]]
        more = [f"  {len(why) - 10} more"] if len(why) > 10 else []
        raise EditError(
            "plain: Keras's own layers cannot express\n" + "\n".join([*lines, *more]) + "\n"
            "Replace these first, such as kg.replace(model, selector, layer), or save the model as it is "
            "and import keras_graft, and your own classes, before it is loaded."
        )


def _adapted(operation: Any) -> str | None:
    """Return why a layer cannot be expressed that has adapters, or layers inside that do not train."""
    if not isinstance(operation, keras.Layer):
        return None
    layer = unwrapped(operation)
    state = record_of(layer).adapted
    if any(record_of(one).sums for one in _keras.layers_inside(layer)) or (
        state is not None and state.adapters
    ):
        return f"it has adapters. Merge them first: {advice.call('merge_adapters')}"
    if state is not None and not _is_kerass(layer):
        return (
            "kg.train_only says which layers inside it train, and no file of Keras does. Let all "
            f"train: {advice.call('train_only', ('selector', '**'))}; then use kg.freeze"
        )
    return None


def _forgetting(graph: Graph) -> list[Node]:
    """Return calls of layers that a file makes again with layers inside that train, and do not here.

    Keras writes one flag for a layer, and a `MultiHeadAttention` does not hand it on.
    """
    why: dict[str, str] = {}
    found = []
    for node in everything(graph):
        layer = node.operation
        if node.nested is not None or not isinstance(layer, keras.Layer) or not layer.variables:
            continue
        if not (graph.trainable and all(n.nested.trainable for n in node.scope if n.nested)):
            continue  # a model hands its flag on
        twin = as_in_a_file(layer)
        if twin is None or len(twin.variables) != len(layer.variables):
            continue
        pairs = zip(layer.variables, twin.variables, strict=True)
        lost = [a for a, b in pairs if a.trainable != b.trainable]
        own = [v for v in _keras.own_weights(layer) if any(v is one for one in lost)]
        if own:
            word = "is" if own[0].trainable else "is not"
            why[path_of(node)] = (
                f"its {own[0].name!r} {word} trained, and a file keeps one flag for a layer. Set "
                "layer.trainable of this layer, or the flag of the weight once the file is loaded"
            )
        elif lost:
            found.append(node)
    _refuse(why)
    return found


def _opened(graph: Graph, nodes: list[Node]) -> Graph:
    """Return the graph with what is inside layers, each of which then has a flag of its own."""
    operations = {id(node.operation) for node in nodes}
    opened = opened_for(graph, [f"{path_of(node)}/*" for node in nodes])
    inside = [node for node in everything(opened) if id(node.operation) in operations]
    _refuse({
        path_of(node): "layers inside it are not trained, and once its file is loaded they are: "
        f"{node.closed or 'it cannot be opened'}"
        for node in inside if node.nested is None
    })  # fmt: skip
    return inline(opened, inside)


def _expressed(graph: Graph) -> Graph:
    """Return the graph with the layers of this package as Keras's."""
    work = Expressed()
    nodes = [n for n in everything(graph) if type(n.operation).__module__.startswith("keras_graft")]
    if not nodes:
        return graph
    try:
        return replace(graph, nodes, work.of)
    except GraftError as error:
        raise EditError(f"plain: {words_of(error)}") from error


def _check_config(graph: Graph) -> None:
    """Refuse layers whose configurations name functions or classes that are not Keras's."""
    why: dict[str, str] = {}
    for node in everything(graph):
        if node.nested is None and isinstance(node.operation, keras.Layer):
            names = list(dict.fromkeys(_registered(_keras.get_config(node.operation))))
            if names:
                why.setdefault(path_of(node), f"its configuration names {listed(names, 3)}")
    _refuse(why)


def _registered(config: Any) -> Iterator[str]:
    """Yield the classes and functions in a configuration that are not Keras's."""
    if isinstance(config, dict):
        kind, name = config.get("class_name"), str(config.get("registered_name") or "")
        if kind == "function":  # those of Keras are mere names
            yield str(config.get("config"))
        elif kind == "__lambda__":
            yield "a lambda"
        elif kind and ">" in name:
            yield name
        elif kind and str(config.get("module") or "keras").partition(".")[0] != "keras":
            yield str(kind)
        for value in config.values():
            yield from _registered(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _registered(value)


def _named(graph: Graph) -> Graph:
    """Return the graph with one name for each layer of a level, as Keras wants it."""

    def rename(level: Graph) -> None:
        for node in level.steps:
            name = level.name_of(node)
            if isinstance(node.operation, keras.Layer) and node.operation.name != name:
                node.operation.name = name  # the layer is a copy

    def edit(level: Graph, _: list[Place]) -> Graph:
        rename(level)
        return level

    clashing = [n for n in everything(graph) if n.operation.name != n.name]
    if not clashing:
        return graph
    return at_depth(graph, [(node,) for node in clashing], edit)
