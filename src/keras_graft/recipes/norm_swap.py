"""Exchange batch normalization for group normalization (Wu and He, 2018)."""

from __future__ import annotations

import math
from typing import Any

import keras

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
            channels normalizes each alone; take less if the network has narrow layers.

    Returns:
        What `model` is.

    Raises:
        NothingSelectedError: If there is no `BatchNormalization`.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((8, 8, 24), name="x")
    >>> model = keras.Model(x, keras.layers.BatchNormalization(name="bn")(x))
    >>> kg.recipes.norm_swap(model, groups=32).get_layer("bn").groups
    8
    """
    if not isinstance(groups, int) or groups < 1:
        raise kg.EditError(f"norm_swap: groups must be a whole number above 0, got {groups!r}.")
    graph = kg.read(model)
    kg.select(graph, keras.layers.BatchNormalization)  # refuses if there is none
    made: dict[int, Any] = {}

    def group_norm(node: kg.Node) -> Any:
        """Return the new layer: the same one for all calls of an old one."""
        old = node.operation
        if id(old) not in made:
            config = old.get_config()
            channels = node.inputs[0].spec.shape[old.axis]
            if channels is None:
                raise kg.EditError(
                    f"norm_swap: axis {old.axis} of what {node.path!r} reads, "
                    f"{node.inputs[0].spec}, has no fixed size to make groups of."
                )
            taken = keras.layers.GroupNormalization().get_config().keys() & config.keys()
            made[id(old)] = keras.layers.GroupNormalization(
                groups=math.gcd(groups, channels), **{key: config[key] for key in taken}
            )
        return made[id(old)]

    for weights in (None, "keep"):

        def concerned(node: kg.Node, weights: str | None = weights) -> bool:
            if not isinstance(node.operation, keras.layers.BatchNormalization):
                return False
            return (node.operation.center or node.operation.scale) == (weights == "keep")

        if any(concerned(node) for node in kg.select(graph, "**").nodes):
            graph = kg.replace(graph, concerned, group_norm, weights=weights)
    return graph if isinstance(model, kg.Graph) else kg.build(graph)
