"""What the recipes say of arguments that are wrong, and what they ask of layers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np

import keras_graft as kg
from keras_graft.printable import shown

# By the names that the classes of the layers and ops have, in small letters: "hardsigmoid".
FUNCTIONS = {
    name.replace("_", ""): function
    for name, function in vars(keras.activations).items()
    if callable(function)
}


def whole(recipe: str, name: str, number: Any) -> int:
    """Return a whole number above 0, or refuse it."""
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < 1:
        raise kg.EditError(f"{recipe}: {name} must be a whole number above 0, got {number!r}.")
    return int(number)


def activation(recipe: str, name: str, given: Any, several: bool = False) -> Any:
    """Return an activation, or refuse it.

    Args:
        recipe: Who asks.
        name: The argument.
        given: A name, a function, or None.
        several: It comes to stand at several places, so a layer's weights would be shared.
    """
    what = f"{recipe}: {name}={shown(given)} is"
    if isinstance(given, type):
        raise kg.EditError(f"{what} a class; give a function, or its name.")
    if several and has_weights(given):
        raise kg.EditError(
            f"{what} a layer with weights, and all places would share them: give a function, or "
            "its name."
        )
    try:
        keras.activations.get(given)
    except (ValueError, TypeError) as error:
        raise kg.EditError(
            f"{what} not an activation. Give the name of one of keras.activations, or a function."
        ) from error
    return given


def has_weights(function: Any) -> bool:
    """Whether an activation is a layer with variables, or will have some when it is called."""
    return isinstance(function, keras.Layer) and (
        type(function).build is not keras.Layer.build or bool(function.variables)
    )


def in_training(node: kg.Node) -> bool:
    """Whether a call is recorded as one in training, by itself or by a model around it."""
    flag = None
    for call in (*node.scope, node):
        flag = call.flag(flag)
    return bool(flag)


def function_of(operation: Any) -> str:
    """Return the name of the function that an operation is, or nothing if it is another thing."""
    kind = type(operation)
    function: Any = FUNCTIONS.get(kind.__name__.lower())
    if function is None or kind.__module__.partition(".")[0] != "keras":
        return ""
    own = {
        p.name: getattr(operation, p.name)
        for p in inspect.signature(function).parameters.values()
        if getattr(operation, p.name, p.default) != p.default
    }
    text = ", ".join(f"{key}={value}" for key, value in own.items())
    return f"{function.__name__}({text})" if own else function.__name__


def shared_layers(graph: kg.Graph) -> dict[int, str]:
    """Return why layers, by identity, cannot be put into others: others have them, or they are sums."""
    found: dict[int, str] = {}
    calls: dict[int, set[Any]] = {}
    users: dict[int, dict[int, str]] = {}  # of each variable: layers, by identity, with their paths
    for node in kg.select(graph, "**").nodes:
        if node.nested is not None:
            continue
        for weight in getattr(node.operation, "weights", []):
            users.setdefault(id(weight), {})[id(node.operation)] = node.path
        # Calls of one nested model are the same calls of what is inside.
        around = id(node.scope[-1].operation) if node.scope else None
        calls.setdefault(id(node.operation), set()).add((around, node.call))
        layer: Any = node.operation
        if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
            found[id(layer)] = "is quantized or has LoRA weights"
        elif any(weight.name.startswith("lora_") for weight in getattr(layer, "weights", [])):
            found[id(layer)] = "has adapters: kg.merge_adapters(model) first"
        elif isinstance(layer, keras.layers.BatchNormalization) and in_training(node):
            found[id(layer)] = "is called with training=True"
    for key, made in calls.items():
        if len(made) > 1:
            found[key] = f"is called {len(made)} times"
    for layers in users.values():
        for key in layers if len(layers) > 1 else ():
            others = ", ".join(repr(path) for other, path in layers.items() if other != key)
            found.setdefault(key, f"shares a weight with {others}")
    return found


def regularized(operations: Iterable[Any]) -> str:
    """Return which operation adds a loss of what it gives, as words; nothing if none does."""
    for operation in operations:
        if getattr(operation, "activity_regularizer", None) is not None:
            return f"{operation.name!r} has an activity_regularizer"
    return ""


def odd(layers: Iterable[Any], kinds: Sequence[type]) -> str:
    """Return which layer may do more than those of these classes; nothing if none does."""
    for layer in layers:
        if type(layer) not in kinds:
            return f"{layer.name!r} is a {type(layer).__name__}, which may have code of its own"
    return regularized(layers)


def trains(layer: Any, name: str) -> bool:
    """Whether a weight of a layer is trained."""
    return layer.trainable and getattr(layer, name).trainable


def set_flags(layer: Any, flags: Sequence[bool]) -> None:
    """Let weights of a new layer be trained, or not; if none is, the layer's own flag stays."""
    if any(flags):
        layer.trainable = True
        for weight, trained in zip(layer.weights, flags, strict=False):
            weight.trainable = trained


def copy_flags(old: Any, new: Any) -> None:
    """Let the weights of a layer be trained where those of the same names in another are."""
    flags = {weight.name: weight.trainable for weight in old.weights}
    for weight in new.weights:
        weight.trainable = flags.get(weight.name, weight.trainable)


def array(variable: Any, default: Any) -> Any:
    """Return the value of a variable in double precision; `default` where there is none."""
    value = default if variable is None else keras.ops.convert_to_numpy(variable)
    return np.asarray(value, "float64")


def added_branches(branches: Sequence[tuple[str, int]], layer: bool) -> Callable[..., Any]:
    """Return the pattern of branches, such as ("conv bn", 0), that an `Add` or `+` adds."""
    names = ["x", *(["add"] if layer else [])]
    names += [f"{part}{i}" for kind, i in branches for part in kind.split()]

    def pattern(*given: Any) -> Any:
        named = dict(zip(names, given, strict=True))
        values = []
        for kind, i in branches:
            values.append(named["x"])
            for part in kind.split():
                values[-1] = named[f"{part}{i}"](values[-1])
        return named["add"](values) if layer else values[0] + values[1]

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    pattern.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in names])  # type: ignore[attr-defined]
    return pattern
