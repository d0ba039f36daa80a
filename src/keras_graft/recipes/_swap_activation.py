"""Exchange an activation function everywhere in a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import keras

import keras_graft as kg
from keras_graft.printable import words_of
from keras_graft.recipes import _arguments


def swap_activation(
    model: Any, old: str | Callable[..., Any] = "relu", new: str | Callable[..., Any] = "gelu"
) -> Any:
    """Put one activation function in the place of another, at every depth.

    Three forms are found: layers and ops that are nothing but the function (`ReLU`,
    `keras.ops.relu`), `Activation` layers, and layers with the function as their `activation=`,
    also in a wrapper such as `TimeDistributed`, or an `RNN` of several cells. Gates
    (`recurrent_activation=`) stay, and what a layer's code applies without a word in its config.

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
        EditError: If `new` is no activation, or a layer cannot be made again.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> model = keras.Model(x, keras.layers.Dense(3, activation="relu", name="d")(x))
    >>> kg.recipes.swap_activation(model, "relu", "gelu").get_layer("d").activation.__name__
    'gelu'
    """
    graph = kg.read(model)
    name = _name(old)
    new = _arguments.activation("swap_activation", "new", new, several=True)
    operations = {id(n.operation): n.operation for n in kg.select(graph, "**").nodes}
    names = {key: list(_activations(operation)) for key, operation in operations.items()}
    concerned = [key for key, found in names.items() if name in found]
    if not concerned:
        there = Counter(text for found in names.values() for text in found if text != "linear")
        raise kg.NothingSelectedError(
            f"swap_activation: nothing in {graph.name!r} is {name!r}. It has "
            f"{', '.join(f'{text!r} ({n})' for text, n in there.items()) or 'no activation'}."
        )
    made: dict[Any, Any] = {}

    def renewed(node: kg.Node) -> Any:  # the same one for all calls of an old one
        key = id(node.operation), str(_policy(node))
        if key not in made:
            made[key] = _with_new(node, name, new)
        return made[key]

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
    # A layer may be the activation of another.
    return next(_activations(function), str(getattr(function, "__name__", function)))


def _activations(operation: Any) -> Iterator[str]:
    """Yield the names of the functions that an operation applies."""
    name = _arguments.function_of(operation)
    if name:
        yield name
    # What is inside a model that can be opened are nodes of their own.
    elif isinstance(operation, keras.Layer) and not isinstance(operation, keras.Model):
        yield from (name for _, _, name in _places(_config(operation)))


def _config(layer: Any) -> dict[str, Any]:
    try:
        return layer.get_config()
    except Exception:  # a layer that cannot be made again: an error if it is concerned
        return {"activation": layer.activation} if hasattr(layer, "activation") else {}


def _places(config: Any) -> Iterator[tuple[Any, Any, str]]:
    """Yield where a configuration has a function: what holds it, under which key, and its name.

    That is an `activation`, or a layer that is the function, of wrapped layers and models too.
    """
    entries = config.items() if isinstance(config, dict) else enumerate(config)
    for key, entry in entries:
        name = _name(entry) if key == "activation" else _arguments.function_of(_made(entry))
        if name:
            yield config, key, name
        elif isinstance(entry, dict | list):
            yield from _places(entry)


def _made(entry: Any) -> Any:
    """Return the layer or op that an entry of a configuration describes, if it is a function."""
    if (
        not isinstance(entry, dict)
        or str(entry.get("class_name")).lower() not in _arguments.FUNCTIONS
    ):
        return None
    return keras.saving.deserialize_keras_object(entry)


def _policy(node: kg.Node) -> Any:
    """Return in what an operation computes at a call; an op does so in what it reads."""
    spec = node.outputs[0].spec
    return getattr(node.operation, "dtype_policy", spec and spec.dtype)


def _with_new(node: kg.Node, name: str, new: Any) -> Any:
    operation: Any = node.operation
    if _arguments.function_of(operation):
        return keras.layers.Activation(new, name=operation.name, dtype=_policy(node))
    try:
        config = operation.get_config()
        for holder, key, found in list(_places(config)):
            if found != name:
                continue
            old, holder[key] = holder[key], new
            if key != "activation":
                taken = {k: old["config"][k] for k in ("name", "dtype") if k in old["config"]}
                holder[key] = {
                    **old, "module": "keras.layers", "class_name": "Activation",
                    "registered_name": None, "config": {**taken, "activation": new},
                }  # fmt: skip
        return type(operation).from_config(config)
    except Exception as error:
        what = f"{node.kind} {node.path!r} cannot be made again from its configuration"
        raise kg.EditError(f"swap_activation: {what}: {words_of(error)}") from error
