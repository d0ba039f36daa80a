"""Exchange batch normalization for group normalization (Wu and He, 2018)."""

from __future__ import annotations

from typing import Any

import keras

import keras_graft as kg
from keras_graft.printable import quoted
from keras_graft.recipes import _arguments


def norm_swap(model: Any, groups: int = 32) -> Any:
    """Put a `GroupNormalization` in the place of every `BatchNormalization`, at every depth.

    For training with batches too small for batch statistics. Gamma and beta are copied; the
    moving statistics are gone, so the outputs change and the network wants some training. Axis,
    epsilon, initializers, regularizers, constraints, name, dtype policy and `trainable` stay. A
    layer that is called several times becomes one that is called as often.

    Args:
        model: A Keras model or a `Graph`.
        groups: The number of groups. Where the channels are no multiple of it, the greatest
            common divisor is taken: 8 of 32 for 24 channels. A layer with as many groups as
            channels normalizes each alone; take less if the network has narrow layers. Where
            there are no positions to average over, as behind a `Dense` on plain features, a
            group has two channels at least: one alone would always be 0.

    Returns:
        What `model` is.

    Raises:
        NothingSelectedError: If there is no `BatchNormalization`.
        EditError: If one is a part of another layer, such as a `TimeDistributed`, a `Frozen` or one of your own;
            or has one channel and no positions.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((8, 8, 24), name="x")
    >>> model = keras.Model(x, keras.layers.BatchNormalization(name="bn")(x))
    >>> kg.recipes.norm_swap(model, groups=32).get_layer("bn").groups
    8
    """
    groups = _arguments.whole("norm_swap", "groups", groups)
    graph = kg.read(model)
    hidden = [(node, bn) for node in kg.select(graph, "**").nodes if (bn := _hidden(node))]
    if hidden:
        outer, bn = hidden[0]
        raise kg.EditError(
            f"norm_swap: the BatchNormalization {bn.name!r} is inside "
            f"{outer.path!r} ({outer.kind}), where no edit reaches it. First replace the "
            f"whole layer, kg.replace(model, {quoted(outer.path)}, ...), or unfreeze what is frozen: "
            "kg.replace(model, kg.layers.Frozen, lambda node: node.operation.layer)."
        )
    found = kg.select(graph, keras.layers.BatchNormalization).nodes
    alone = {id(n.operation) for n in found if _has_one_position(n)}
    made: dict[int, Any] = {}

    def group_norm(node: kg.Node) -> Any:
        """Return the new layer: the same one for all calls of an old one."""
        old = node.operation
        if id(old) not in made:
            config = old.get_config()
            # Its weights are as long as its axis, so that this has a fixed size.
            channels = old.moving_mean.shape[0]
            fitting = [
                n
                for n in range(1, groups + 1)
                if groups % n == channels % n == 0 and not (n == channels and id(old) in alone)
            ]
            if not fitting:
                raise kg.EditError(
                    f"norm_swap: {node.path!r} normalizes one channel, and there are no positions "
                    "to average over: it would give the same for every input. Remove it first, "
                    f"kg.remove(model, {quoted(node.path)}), or replace it by another layer."
                )
            taken = keras.layers.GroupNormalization().get_config().keys() & config.keys()
            made[id(old)] = keras.layers.GroupNormalization(
                groups=max(fitting), **{key: config[key] for key in taken}
            )
        return made[id(old)]

    trained = {id(n.operation) for n in found if n.operation.center or n.operation.scale}
    bare = {id(n.operation) for n in found} - trained
    if bare:
        graph = kg.replace(graph, lambda node: id(node.operation) in bare, group_norm)
    if trained:
        graph = kg.replace(graph, lambda node: id(node.operation) in trained, group_norm, "keep")
    return graph if isinstance(model, kg.Graph) else kg.build(graph)


def _has_one_position(node: kg.Node) -> bool:
    """Whether all that a call averages over are channels: no other axis has a length."""
    spec: Any = node.inputs[0].spec
    axis = node.operation.axis % len(spec.shape)
    return all(length == 1 for i, length in enumerate(spec.shape) if i not in (0, axis))


def _hidden(node: kg.Node) -> Any:
    """Return a normalization that is kept from the verbs: by `kg.freeze` or in another layer."""
    if node.nested is not None:
        return None
    outer = node.operation
    seen = {id(outer)}
    rest = [getattr(outer, "keras_graft_inside", None), *vars(outer).values()]
    while rest:
        part = rest.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, keras.layers.BatchNormalization):
            return part
        if isinstance(part, keras.Layer):
            rest.extend(vars(part).values())
        elif isinstance(part, dict | list | tuple):
            rest.extend(part.values() if isinstance(part, dict) else part)
    return None
