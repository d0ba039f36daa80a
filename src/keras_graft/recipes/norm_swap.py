"""Exchange batch normalization for group normalization (Wu and He, 2018)."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

import keras_graft as kg


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
        EditError: If one is a part of another layer, such as a `TimeDistributed` or a `Frozen`;
            or has one channel and no positions.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((8, 8, 24), name="x")
    >>> model = keras.Model(x, keras.layers.BatchNormalization(name="bn")(x))
    >>> kg.recipes.norm_swap(model, groups=32).get_layer("bn").groups
    8
    """
    if isinstance(groups, bool) or not isinstance(groups, (int, np.integer)) or groups < 1:
        raise kg.EditError(f"norm_swap: groups must be a whole number above 0, got {groups!r}.")
    groups = int(groups)
    graph = kg.read(model)
    wrapped = [node for node in kg.select(graph, "**").nodes if _wrapped(node) is not None]
    if wrapped:
        outer = wrapped[0]
        raise kg.EditError(
            f"norm_swap: the BatchNormalization {_wrapped(outer).name!r} is a part of "
            f"{outer.path!r} ({outer.kind}), where no edit reaches it. Put another layer in the place of the "
            f'whole first, kg.replace(model, "{outer.path}", ...), or thaw what is frozen: '
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
                    "to average over: it would give the same for every input. Take it out first, "
                    f'kg.remove(model, "{node.path}"), or put another layer in its place.'
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


def _wrapped(node: kg.Node) -> Any:
    """Return the normalization that a wrapper or `kg.freeze` keeps from the verbs, if there is one."""
    part = getattr(node.operation, "keras_graft_inside", node.operation)
    part = getattr(part, "layer", part)
    hidden = part is not node.operation and isinstance(part, keras.layers.BatchNormalization)
    return part if hidden else None
