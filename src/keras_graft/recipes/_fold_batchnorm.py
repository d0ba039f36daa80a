"""Fold batch normalization into the layer before it: fewer layers, the same predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

import keras_graft as kg
from keras_graft.recipes import _arguments
from keras_graft.tables import Table, Tabular

# The kernel that makes the output channels, and where they stand in its shape.
_LAST = ("kernel", lambda scale, shape: scale)
_TRANSPOSED = ("kernel", lambda scale, shape: scale[:, None])
_DEPTHWISE = ("kernel", lambda scale, shape: scale.reshape(shape[-2:]))
_POINTWISE = ("pointwise_kernel", lambda scale, shape: scale)
_L = keras.layers
KERNELS: dict[type, tuple[str, Callable[[Any, Any], Any]]] = {
    **dict.fromkeys([_L.Dense, _L.Conv1D, _L.Conv2D, _L.Conv3D], _LAST),
    **dict.fromkeys([_L.Conv1DTranspose, _L.Conv2DTranspose, _L.Conv3DTranspose], _TRANSPOSED),
    **dict.fromkeys([_L.DepthwiseConv1D, _L.DepthwiseConv2D], _DEPTHWISE),
    **dict.fromkeys([_L.SeparableConv1D, _L.SeparableConv2D], _POINTWISE),
}


@dataclass(frozen=True, repr=False)
class Folded(Tabular):
    """What `fold_batchnorm` gives; prints as a table.

    Attributes:
        model: The model, or the `Graph`.
        folded: Pairs: a layer that is gone, the layer that it went into.
        kept: Pairs: a layer that stays, and why.
    """

    model: Any = field(repr=False)
    folded: tuple[tuple[str, str], ...]
    kept: tuple[tuple[str, str], ...]

    def tables(self) -> list[Table]:
        """Return one line for each batch normalization."""
        title = f"{len(self.folded)} folded, {len(self.kept)} kept"
        rows = [(name, f"folded into {into!r}") for name, into in self.folded]
        rows += [(name, f"kept: {why}") for name, why in self.kept]
        return [(title, ("batch normalization", ""), rows)]


def fold_batchnorm(model: Any) -> Folded:
    """Fold each `BatchNormalization` into the convolution or `Dense` that it reads, at every depth.

    In inference mode a batch normalization multiplies each channel and adds to it; so the layer
    before can do it with other weights (and a bias). Outputs are equal within float tolerance.
    In training the batch statistics are gone. The new layers keep name, dtype policy and
    `trainable`, and hold weights of their own; the donor's stay as they were.

    Args:
        model: A Keras model or a `Graph`.

    Returns:
        The result as `.model`, and the report: not every batch normalization follows a layer
        that can take it, and those that stay are listed with the reason.

    Raises:
        NothingSelectedError: If there is none; those inside other layers do not count.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> h = keras.layers.BatchNormalization(name="bn")(keras.layers.Dense(3, name="d")(x))
    >>> model = keras.Model(x, keras.layers.BatchNormalization(name="bn2")(keras.ops.relu(h)))
    >>> print(kg.recipes.fold_batchnorm(model))
    1 folded, 1 kept
    batch normalization
    bn                   folded into 'd'
    bn2                  kept: it reads 'relu' (Relu)
    """
    graph = kg.read(model)
    calls: dict[int, set[Any]] = {}
    norms: dict[int, list[kg.Node]] = {}  # one entry for each, with all its calls
    users: dict[int, dict[int, str]] = {}  # of each variable: layers, by identity, with their paths
    for node in kg.select(graph, "**").nodes:
        for weight in [] if node.nested is not None else getattr(node.operation, "weights", []):
            users.setdefault(id(weight), {})[id(node.operation)] = node.path
        # Calls of one nested model are the same calls of what is inside.
        around = id(node.scope[-1].operation) if node.scope else None
        calls.setdefault(id(node.operation), set()).add((around, node.call))
        if isinstance(node.operation, keras.layers.BatchNormalization):
            norms.setdefault(id(node.operation), []).append(node)
    folds: dict[int, tuple[Any, Any]] = {}  # by the old layer: the normalization, the new layer
    folded: dict[str, str] = {}
    kept: dict[str, str] = {}
    if not norms:
        what = f"no BatchNormalization in {graph.name!r}, outside of other layers and kg.freeze"
        raise kg.NothingSelectedError(f"fold_batchnorm: there is {what}.")
    for node, *again in norms.values():
        why = _why_not(node, again, calls, users)
        if why:
            kept[node.path] = why
            continue
        before = node.producers[0]
        folded[node.path] = before.path
        config = {**before.operation.get_config(), "use_bias": True}
        folds[id(before.operation)] = node.operation, type(before.operation).from_config(config)
    if folds:
        gone = {id(norm) for norm, _ in folds.values()}
        old = {id(n.operation): n.operation for n in kg.select(graph, "**").nodes}
        new = lambda node: folds[id(node.operation)][1]  # noqa: E731
        graph = kg.replace(graph, lambda node: id(node.operation) in folds, new, weights="keep")
        graph = kg.remove(graph, lambda node: id(node.operation) in gone)
        for key, (norm, new) in folds.items():
            _take_in(norm, old[key], new)
            _arguments.copy_flags(old[key], new)
    result = graph if isinstance(model, kg.Graph) else kg.build(graph)
    return Folded(result, tuple(folded.items()), tuple(kept.items()))


def _why_not(node: kg.Node, again: Sequence[kg.Node], calls: Any, users: Any) -> str:
    """Return why a batch normalization stays; nothing if it can be folded."""
    norm = node.operation
    if type(norm) is not keras.layers.BatchNormalization:
        return f"it is a {node.kind}"
    if len(calls[id(norm)]) > 1:
        return f"it is called {len(calls[id(norm)])} times"
    if any(_arguments.in_training(place) for place in (node, *again)):
        return "it is called with training=True"
    # Behind the first input there may be a mask, which means nothing to inference.
    before = node.inputs[0].within(node.home, node.scope).producer
    if before is None:
        return "it reads an input"
    layer, name = before.operation, before.path
    if type(layer) not in KERNELS:
        return f"it reads {name!r} ({before.kind})"
    if len(calls[id(layer)]) > 1:
        return f"{before.name!r} is called {len(calls[id(layer)])} times"
    for weight in layer.weights:
        others = [path for key, path in users[id(weight)].items() if key != id(layer)]
        if others:
            return f"{name!r} shares a weight with {', '.join(map(repr, others))}"
    given = before.values[0]
    if any(out.key is given.key for out in node.home.outputs):
        return f"{name!r} is an output too"
    others = [user.path for user in given.consumers if user != node]
    if others:
        return f"{name!r} is also read by {', '.join(map(repr, others))}"
    if layer.activation is not keras.activations.linear:
        return f"{name!r} has an activation, {layer.activation.__name__}"
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
        return f"{name!r} is quantized or has LoRA weights"
    why = _arguments.regularized([layer, norm])
    if why:
        return why
    gives, wants = given.spec, node.outputs[0].spec
    assert gives is not None and wants is not None
    axes = range(len(gives.shape))
    first = getattr(layer, "data_format", None) == "channels_first"
    if axes[norm.axis] != axes[1 if first else -1]:
        return f"it normalizes axis {norm.axis}, not the channels of {name!r}"
    if gives.dtype != wants.dtype:
        return f"{name!r} gives {gives.dtype}, it gives {wants.dtype}"
    return ""


def _take_in(norm: Any, old: Any, new: Any) -> None:
    """Give `new`, which has the weights of `old`, what `old` and then `norm` compute."""

    def array(variable: Any, default: float) -> Any:
        value = default if variable is None else keras.ops.convert_to_numpy(variable)
        return np.asarray(value, "float64")

    scale = array(norm.gamma, 1) / np.sqrt(array(norm.moving_variance, 1) + norm.epsilon)
    shift = array(norm.beta, 0) - array(norm.moving_mean, 0) * scale
    name, placed = KERNELS[type(old)]
    kernel = getattr(new, name)
    kernel.assign(array(getattr(old, name), 0) * placed(scale, kernel.shape))
    new.bias.assign(array(old.bias, 0) * scale + shift)
