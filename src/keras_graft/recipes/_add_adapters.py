"""Bottleneck adapters, which train instead of the whole network (Houlsby et al., 2019)."""

from __future__ import annotations

from typing import Any

import keras

import keras_graft as kg
from keras_graft.printable import quoted
from keras_graft.recipes import _arguments


def add_adapters(model: Any, size: int = 64, after: Any = None, activation: Any = "gelu") -> Any:
    """Put a bottleneck adapter, `x + up(act(down(x)))`, behind each residual addition.

    The projection up starts at zero, so that the outputs are at first what they were, to the bit.
    Only the adapters train. All other layers are frozen: they share the memory of the donor's
    weights, and the donor's flags stay as they are. To train a head too: `kg.train_only(new,
    ["**/adapter_*", "head"])`. Each adapter is three stock layers, `adapter_<name>_down`, `_up` and
    `_sum`, and works on the last axis. For adapters inside layers, see `kg.lora`.

    Args:
        model: A Keras model or a `Graph`.
        size: The width of the bottleneck.
        after: A selector of values. None: every residual addition at any depth, which is an
            `Add` layer or an addition of two tensors of the same shape.
        activation: The activation function in the bottleneck.

    Returns:
        What `model` is.

    Raises:
        NothingSelectedError: If there is nothing to put one behind.
        EditError: If `size` or `activation` is none.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> model = keras.Model(x, keras.layers.Add(name="add")([x, keras.layers.Dense(4)(x)]))
    >>> new = kg.recipes.add_adapters(model, size=2)
    >>> [layer.name for layer in new.layers if layer.name.startswith("adapter_")]
    ['adapter_add_down', 'adapter_add_up', 'adapter_add_sum']
    >>> len(new.trainable_weights), len(model.trainable_weights)
    (4, 2)
    """
    size = _arguments.whole("add_adapters", "size", size)
    activation = _arguments.activation("add_adapters", "activation", activation, several=True)
    graph = kg.read(model)
    if after is None:
        after = [node for node in kg.select(graph, "**").nodes if _is_residual(node)]
        if not after:
            label = graph.nodes[-1].label if len(graph) else "..."
            raise kg.NothingSelectedError(
                f"add_adapters: {graph.name!r} has no residual addition that can be reached. Say "
                f"where the adapters go, such as after={quoted(label)}."
            )

    def adapter(node: Any) -> Any:
        # Behind an input of the model there is no node: the value itself comes.
        label = node.label if isinstance(node, kg.Node) else node.name
        policy = getattr(getattr(node, "operation", None), "dtype_policy", None)

        def bottleneck(x: Any) -> Any:
            name, dtype = f"adapter_{label.replace('#', '_')}", policy or x.dtype
            down = keras.layers.Dense(size, activation, name=f"{name}_down", dtype=dtype)
            up = keras.layers.Dense(
                x.shape[-1], kernel_initializer="zeros", name=f"{name}_up", dtype=dtype
            )
            made.extend((down, up))
            return keras.layers.Add(name=f"{name}_sum", dtype=dtype)([x, up(down(x))])

        return bottleneck

    made: list[Any] = []
    graph = kg.insert(graph, adapter, after=after)
    own = set(map(id, made))
    added = [node for node in kg.select(graph, "**").nodes if id(node.operation) in own]
    graph = kg.train_only(graph, added)
    return graph if isinstance(model, kg.Graph) else kg.build(graph)


def _is_residual(node: kg.Node) -> bool:
    shapes = [value.spec.shape for value in node.inputs if value.spec]
    return node.kind == "Add" and len(shapes) > 1 and len(set(shapes)) == 1
