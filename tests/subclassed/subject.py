"""`Subject`: a case while it is tested: the donor, what `kg` makes of it, and what must stay."""

from __future__ import annotations

import dataclasses
import functools
import gc
import warnings
from typing import Any

import keras
import numpy as np
from case import Case

import keras_graft as kg

tree = keras.tree


class Subject:
    """A donor, its graph, and the flat model in which nothing is closed that can be open."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.donor = case.model()
        self.values = Values(self.donor)
        self.traces = traces(self.donor)
        self.expected = [self.values.run(self.donor, *args) for args in case.sets()]

    def read(self) -> kg.Graph:
        if self.case.open:
            return kg.read(self.donor, open=self.case.open)
        return kg.read(self.donor, self.case.symbols())

    @functools.cached_property
    def graph(self) -> kg.Graph:
        return self.read()

    @functools.cached_property
    def flat(self) -> keras.Model:
        graph = kg.inline(self.graph)
        if not any_nested(self.graph):  # nothing to inline: what is built must not be the donor
            graph = self.graph.replace(origin=None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", kg.GraftWarning)  # it says that it is no subclass
            return kg.build(graph)

    @functools.cached_property
    def twin(self) -> tuple[keras.Model, Values]:
        """Another donor with the same values: what compiles and trains, as that changes a model."""
        twin = self.case.model()
        values = Values(twin)
        values.arrays = list(self.values.arrays)
        values.restore()
        return twin, values

    def inputs_of_flat(self, args: tuple) -> Any:
        """Return a set of inputs as the flat model takes it: several arguments as a list."""
        return list(args) if len(args) > 1 else args[0]

    def forget(self) -> None:
        """Let go of everything that was made of the donor."""
        self.__dict__.pop("flat", None)
        self.__dict__.pop("graph", None)
        gc.collect()


class Values:
    """The values of a model's variables, which runs and steps change, and can be put back."""

    def __init__(self, model: keras.Model) -> None:
        self.variables = list(model.variables)
        self.arrays = [numpy(v) for v in self.variables]

    def restore(self) -> None:
        for variable, array in zip(self.variables, self.arrays, strict=True):
            variable.assign(array)

    def run(self, function: Any, *args: Any) -> Any:
        """Return what a function gives for the values as they were, seeds too; restore them."""
        self.restore()
        found = tree.map_structure(numpy, plain(function(*args)))
        self.restore()
        return found

    def changed(self) -> list[str]:
        pairs = zip(self.variables, self.arrays, strict=True)
        return [v.path for v, a in pairs if not np.array_equal(numpy(v), a)]


def numpy(tensor: Any) -> Any:
    """Return an array; bfloat16 as float32, which holds every value of it."""
    if not hasattr(tensor, "dtype"):
        return np.asarray(tensor)  # an output that is no tensor
    if keras.backend.standardize_dtype(tensor.dtype) == "bfloat16":
        tensor = keras.ops.cast(tensor, "float32")
    return np.array(keras.ops.convert_to_numpy(tensor))


def plain(structure: Any) -> Any:
    """Return outputs as lists and dicts: a dataclass is a dict of its tensors."""
    if dataclasses.is_dataclass(structure):
        fields = [f.name for f in dataclasses.fields(structure)]
        structure = {name: getattr(structure, name) for name in fields}
    if isinstance(structure, dict):
        return {k: plain(v) for k, v in structure.items() if v is not None}
    if isinstance(structure, list | tuple):
        return [plain(v) for v in structure if v is not None]
    return structure


def layers_of(model: keras.Model) -> list[keras.Layer]:
    return [model, *model._flatten_layers(include_self=False)]


def traces(model: keras.Model) -> dict[str, Any]:
    """Return what an edit could leave on a donor's layers."""
    found = {}
    for number, layer in enumerate(layers_of(model)):
        at = f"{number} {layer.name}"
        found[at + ".trainable"] = layer.trainable
        found[at + " calls"] = len(layer._inbound_nodes), len(layer._outbound_nodes)
        found[at + " weights"] = [w.path for w in layer.weights]
        found |= {f"{at}.{name}": True for name in vars(layer)}
    return found


def any_nested(graph: kg.Graph) -> bool:
    return any(node.nested is not None for node in graph.steps)


def opened(graph: kg.Graph, at: str = "") -> dict[str, Any]:
    """Return the operations that are open, by path."""
    found = {}
    for node in graph.steps:
        if node.nested is not None:
            found[at + graph.label(node)] = node.operation
            found |= opened(node.nested, at + graph.label(node) + "/")
    return found


def closed(graph: kg.Graph, at: str = "") -> dict[str, str]:
    """Return why operations stay closed, by path."""
    found = {}
    for node in graph.steps:
        if node.closed:
            found[at + graph.label(node)] = node.closed
        if node.nested is not None:
            found |= closed(node.nested, at + graph.label(node) + "/")
    return found


def composites(model: keras.Model) -> list[keras.Layer]:
    """Return the user's layers that hold layers, and the models inside: what there is to open."""

    def holds(layer: keras.Layer) -> bool:
        inner = list(layer._flatten_layers(include_self=False, recursive=False))
        own = not type(layer).__module__.startswith("keras.src.layers")
        return isinstance(layer, keras.Model) or (bool(inner) and own)

    def walk(layer: keras.Layer) -> list[keras.Layer]:
        found = []
        for inner in layer._flatten_layers(include_self=False, recursive=False):
            if holds(inner):
                found += [inner, *walk(inner)]
        return found

    return list({id(layer): layer for layer in walk(model)}.values())


def floats_of(structure: Any) -> list[Any]:
    """Return the outputs that a loss can take."""
    return [t for t in tree.flatten(plain(structure)) if "float" in str(t.dtype)]


class Plainly(keras.Model):
    """Calls a model with several arguments, or odd outputs, as Keras's loops need it: a list."""

    def __init__(self, model: keras.Model, spread: bool) -> None:
        super().__init__()
        self.model, self.spread = model, spread

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        # To a model that does not take the flag too: Keras hands it to the layers inside. Its `fit`
        # would not, and on JAX not even that of a model around it.
        args = inputs if self.spread else (inputs,)
        return floats_of(self.model(*args, training=training))
