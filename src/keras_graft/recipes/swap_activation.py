"""Exchange an activation function everywhere in a network."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import keras

import keras_graft as kg


def swap_activation(
    model: Any, old: str | Callable[..., Any] = "relu", new: str | Callable[..., Any] = "gelu"
) -> Any:
    """Put one activation function in the place of another, at every depth.

    Three forms are found: layers and ops that are nothing but the function (`ReLU`,
    `keras.ops.relu`), `Activation` layers, and layers with the function as their `activation=`,
    also inside a wrapper such as `TimeDistributed`. Gates (`recurrent_activation=`) stay, and so
    does what a layer's code applies without a word of it in its configuration.

    Names stay, so that selectors fit as before. A layer with weights is made again from its
    configuration, and trained values are copied to it; one that is called several times becomes
    one new layer that is called as often. All other layers are shared with the donor.

    Args:
        model: A Keras model or a `Graph`.
        old: The function, or its name. Only its plain form is meant: a `ReLU` with a ceiling or
            a slope, which often is part of a gate, has another name, `"relu(max_value=6.0)"`.
            The names that a model has are listed when nothing is found.
        new: The function that takes its place, or its name. To be saved it must be one of
            Keras's, or registered with `keras.saving.register_keras_serializable`.

    Returns:
        What `model` is.

    Raises:
        NothingSelectedError: If the function stands nowhere; those that do are listed.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> model = keras.Model(x, keras.layers.Dense(3, activation="relu", name="d")(x))
    >>> kg.recipes.swap_activation(model, "relu", "gelu").get_layer("d").activation.__name__
    'gelu'
    """
    graph = kg.read(model)
    name = _name(old)
    keras.activations.get(new)  # refuses what is no activation, before anything else
    operations = {id(n.operation): n.operation for n in kg.select(graph, "**").nodes}
    names = {key: list(_activations(operation)) for key, operation in operations.items()}
    concerned = [key for key, found in names.items() if name in found]
    if not concerned:
        there = Counter(text for found in names.values() for text in found if text != "linear")
        raise kg.NothingSelectedError(
            f"swap_activation: nothing in {graph.name!r} is {name!r}. It has "
            + (", ".join(f"{text!r} ({n})" for text, n in there.items()) or "no activation")
            + "."
        )
    made: dict[int, Any] = {}

    def renewed(node: kg.Node) -> Any:
        """Return the new layer: the same one for all calls of an old one."""
        if id(node.operation) not in made:
            made[id(node.operation)] = _with_new(node, name, new)
        return made[id(node.operation)]

    trained = {key for key in concerned if getattr(operations[key], "weights", ())}
    bare = set(concerned) - trained
    if bare:
        graph = kg.replace(graph, lambda node: id(node.operation) in bare, renewed)
    if trained:
        graph = kg.replace(graph, lambda node: id(node.operation) in trained, renewed, "keep")
    return graph if isinstance(model, kg.Graph) else kg.build(graph)


def _name(function: Any) -> str:
    try:
        function = keras.activations.get(function)
    except (ValueError, TypeError):  # what only settings give, such as "relu(max_value=6.0)"
        return str(function)
    return str(getattr(function, "__name__", function))


def _activations(operation: Any) -> Iterator[str]:
    """Yield the names of the functions that an operation applies."""
    if isinstance(operation, keras.Model):
        return  # what is inside one that can be opened are nodes of their own
    kind = type(operation).__name__.lower()
    if type(operation).__module__.partition(".")[0] == "keras":
        for name, function in vars(keras.activations).items():
            if name.replace("_", "") == kind and callable(function):
                own = {
                    p.name: getattr(operation, p.name)
                    for p in inspect.signature(function).parameters.values()
                    if getattr(operation, p.name, p.default) != p.default
                }
                text = ", ".join(f"{key}={value}" for key, value in own.items())
                yield f"{function.__name__}({text})" if own else function.__name__
                return
    if isinstance(operation, keras.Layer):
        yield from (_name(config["activation"]) for config in _configs(_config(operation)))


def _config(layer: Any) -> dict[str, Any]:
    try:
        return layer.get_config()
    except Exception:  # a layer that cannot be made again: an error if it is concerned
        return {"activation": layer.activation} if hasattr(layer, "activation") else {}


def _configs(config: Any) -> Iterator[dict[str, Any]]:
    """Yield the configurations with an `activation` in a layer's, wrapped layers' included."""
    if isinstance(config, dict):
        if "activation" in config:
            yield config
        for entry in config.values():
            yield from _configs(entry)


def _with_new(node: kg.Node, name: str, new: Any) -> Any:
    operation: Any = node.operation
    config = _config(operation) if isinstance(operation, keras.Layer) else {}
    found = [inner for inner in _configs(config) if _name(inner["activation"]) == name]
    if not found:  # it is the function and nothing else
        spec = node.outputs[0].spec
        policy = getattr(operation, "dtype_policy", spec and spec.dtype)
        return keras.layers.Activation(new, name=operation.name, dtype=policy)
    try:
        config = operation.get_config()
        for inner in _configs(config):
            if _name(inner["activation"]) == name:
                inner["activation"] = new
        return type(operation).from_config(config)
    except Exception as error:
        raise kg.EditError(
            f"swap_activation: {node.kind} {node.path!r} cannot be made again from its "
            f"configuration: {error}"
        ) from error
