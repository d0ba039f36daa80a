"""The verb `patch`: a model in which some values are replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_graft.edit.places import values_named
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Slot, Value
from keras_graft.graph.opened import Opened
from keras_graft.graph.recording import chose
from keras_graft.inside.behind import put_behind
from keras_graft.inside.replacement import Replacement
from keras_graft.model.recording import Ready
from keras_graft.model.verb import verb
from keras_graft.printable import quoted, shown
from keras_graft.shared.kept import edited


@verb
def patch(old: Graph, values: Mapping[Any, Any]) -> Graph:
    """Return a model in which some values are replaced.

    For ablation (a part gives 0, or its mean), steering (a vector is added) and path patching (a
    value of another run). The result is an ordinary model that shares all layers with `model`. All
    consumers of a value read the new one. The new value is a node behind the old one, named
    `"<name>_patched"`: `"layer_3"` still selects the old value.

    The idea of patching values of another run is that of "Locating and Editing Factual Associations
    in GPT" (Meng et al., 2022); TransformerLens and nnsight do it with hooks.

    Args:
        model: A Keras model or a `Graph`.
        values: For each selector of values, what replaces them:

            - a number: `0` for ablation;
            - an array, which is broadcast to the value as NumPy does it: an array of shape `(8,)`
              or `(1, 5, 8)` for a value `(batch, 5, 8)`. It has the value's dtype then;
            - a function of the tensor, written with `keras.ops`, or a layer. What it returns is
              broadcast too: `lambda x: keras.ops.mean(x, axis=0, keepdims=True)`;
            - `kg.Given("name")`: an input of the result, so that one model serves many values.

            Of a node with several outputs, those that are used. An array or function that is given
            once for several values is used at each; a layer is not.

    Returns:
        A Keras model or a `Graph`, as `model` is. The inputs of each `Given` follow those of
        `model`: a model of one input takes a list then, a model of a dict takes them by their
        names. A nested model with a `Given` inside is opened.

    Raises:
        EditError: If a replacement does not fit the value there; if a value is named twice; if the
            name of a `Given` is taken.

    >>> import keras, numpy as np, keras_graft as kg
    >>> x = keras.Input((2,), name="x")
    >>> h = keras.layers.Activation("relu", name="h")(x)
    >>> model = keras.Model(x, keras.layers.Activation("linear", name="y")(h), name="tiny")
    >>> data = np.array([[1.0, -2.0]])
    >>> kg.patch(model, {"h": 0}).predict(data, verbose=0).tolist()
    [[0.0, 0.0]]
    >>> kg.patch(model, {"h": lambda x: x + 5}).predict(data, verbose=0).tolist()
    [[6.0, 5.0]]
    >>> patched = kg.patch(model, {"h": kg.Given("other")})
    >>> patched.predict([data, np.array([[7.0, 8.0]])], verbose=0).tolist()
    [[7.0, 8.0]]
    """
    if not isinstance(values, Mapping) or not values:
        what = "an empty dict" if isinstance(values, Mapping) else shown(values)
        raise EditError(f'patch: give {{selector: value}}, such as {{"name": 0}}, got {what}.')
    new: dict[Any, Replacement] = {}
    places: list[tuple[Value, Replacement]] = []
    for selector, value in values.items():
        new[selector] = Replacement(value)
        places += [(v, new[selector]) for v in values_named(old, selector, "patch")]
    _check_once(places)
    graph, places = _with_inputs(old, places)
    chose("values", {selector: Ready(each.written()) for selector, each in new.items()})
    graph = put_behind(graph, places)
    return edited(old, graph, "patch")


def _check_once(places: Sequence[tuple[Value, Replacement]]) -> None:
    seen: dict[Value, Replacement] = {}
    for value, new in places:
        other = seen.setdefault(value, new)
        if other is not new:
            raise EditError(
                f"patch {value.path!r}: two selectors name it, for {shown(other.new)} and "
                f"{shown(new.new)}. Give one."
            )


def _with_inputs(
    graph: Graph, places: Sequence[tuple[Value, Replacement]]
) -> tuple[Graph, list[tuple[Value, Replacement]]]:
    """Add the inputs that are given, and open the nested models that have a place for one inside."""
    paths = [value.path for value, _ in places]
    values, news = [value for value, _ in places], [new for _, new in places]
    opened = Opened(graph)
    while True:
        inside = next((v for v, n in zip(values, news, strict=True) if n.given and v.scope), None)
        if inside is None:
            break
        values = opened.open(opened.graph.calls(inside.scope[0].operation), values)
    graph = opened.graph
    values = [v if v.scope else graph.value(v) for v in values]
    inputs: dict[Any, Value] = {}
    for value, path, new in zip(values, paths, news, strict=True):
        if new.given is not None:
            if new.given not in inputs:
                inputs[new.given] = new.input_at(value, path)
            new.input = inputs[new.given]
    names = [*graph.input_names, *(node.name for node in graph.nodes)]
    for added in inputs.values():
        if added.name in names:
            raise EditError(
                f"patch: {graph.name!r} has {added.name!r} already. Give the input another name, "
                f"kg.Given({quoted(added.name + '_given')})."
            )
        names.append(added.name)
    if inputs:
        first = len(graph.inputs)
        slots = {added.name: Slot(first + i) for i, added in enumerate(inputs.values())}
        graph = graph.replace(
            inputs=(*graph.inputs, *inputs.values()),
            input_template=_extended(graph.input_template, slots),
        )
    return graph, list(zip(values, news, strict=True))


def _extended(template: Any, slots: Mapping[str, Slot]) -> Any:
    """Return the structure of the inputs with more of them at the end."""
    if isinstance(template, Mapping):
        taken = template.keys() & slots.keys()
        if taken:
            name = sorted(taken)[0]
            raise EditError(
                f"patch: the inputs have {name!r} already. Give another name, "
                f"kg.Given({quoted(name + '_given')})."
            )
        return {**template, **slots}
    if isinstance(template, list | tuple):
        return [*template, *slots.values()]
    return [template, *slots.values()]
