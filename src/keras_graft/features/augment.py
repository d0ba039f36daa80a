"""Augmented views: the layers of a trunk that augment draw random numbers, the rest stays frozen."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_graft import _keras, advice
from keras_graft.edit.freeze import freeze
from keras_graft.errors import FeatureError, ReadError
from keras_graft.features.fixed_trunk import draws
from keras_graft.features.store.checksum import checksum
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed
from keras_graft.graph.node import Node
from keras_graft.graph.record import unwrapped
from keras_graft.graph.select import leaves
from keras_graft.layers.frozen import Frozen
from keras_graft.model.build import build
from keras_graft.model.read import read
from keras_graft.model.swap import exchanged

tree = keras.tree

_REGULARIZES = (
    "rate", "dropout", "recurrent_dropout", "dropout_rate", "_dropout", "attention_dropout",
)  # fmt: skip
"""Attributes of layers whose random numbers are dropout, and not augmentation or noise."""


class Augmenting(keras.Layer):
    """Calls a layer in training mode, whatever the mode of the model around it is.

    Args:
        layer: A layer that draws random numbers, such as `keras.layers.RandomFlip`.
    """

    def __init__(self, layer: keras.Layer) -> None:
        super().__init__(name=layer.name, autocast=False)
        self.layer = layer
        self.supports_masking = layer.supports_masking
        self._convert_input_args = False  # only the layer inside may cast its inputs
        self._allow_non_tensor_positional_args = True
        _keras.call_as(self, layer)
        self.built = True

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer inside with `training=True`."""
        return self.layer(*args, **{**kwargs, "training": True})

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """Return the spec that the layer inside computes."""
        return self.layer.compute_output_spec(*args, **{**kwargs, "training": True})


def augmentation(model: Any) -> list[Node]:
    """Return the nodes of a model whose layers augment: they draw random numbers in training.

    Dropout does too, in layers and in cells of recurrent layers, but it regularizes, and is not
    counted. A frozen layer counts as the layer inside.

    Args:
        model: A Keras model or a `Graph`.
    """
    graph = model if isinstance(model, Graph) else read(model)
    return [node for node in leaves(graph.nodes) if any(map(_augments, _parts(node)))]


def names_of(nodes: list[Node]) -> list[str]:
    """Return the paths of nodes, each layer once."""
    return list(dict.fromkeys("/".join(n.name for n in (*node.scope, node)) for node in nodes))


class AugmentedTrunk:
    """Runs a trunk once as it is in inference, and `views` times with its augmentation on.

    What is drawn depends on the seed, the number of the view and the inputs of the batch, and on
    nothing else: a run that was interrupted gives the same views when it is resumed.

    Args:
        trunk: A Keras model. All layers that do not augment must be frozen.
        views: How many times each sample passes with augmentation on.
        seed: The seed.

    Raises:
        FeatureError: If the trunk has no layers that augment, if they cannot be found, or if one
            of them also holds layers that must stay frozen.
    """

    def __init__(self, trunk: Any, views: int, seed: int) -> None:
        try:
            graph = read(trunk)
        except ReadError as error:
            raise FeatureError(
                f"views={views} needs to know which layers of {trunk.name!r} augment, and its own call "
                "hides them: use a functional model, or augment the data instead."
            ) from error
        nodes = augmentation(graph)
        if not nodes:
            raise FeatureError(
                f"{trunk.name!r} has no layer that augments, so all {views} views would be equal: "
                "leave out views=. Or put augmentation in front: kg.join(keras.Sequential([keras.Input("
                "(224, 224, 3)), keras.layers.RandomFlip()]), trunk)."
            )
        for node in nodes:
            _check_unmixed(node)
        plain = [node for node in nodes if not isinstance(node.operation, Frozen)]
        self.plain = build(freeze(graph, plain)) if plain else trunk
        made: dict[int, Augmenting] = {}

        def augmenting(node: Node) -> Augmenting:
            layer = unwrapped(node.operation)
            return made.setdefault(id(layer), Augmenting(layer))

        self._augmented = build(exchanged(graph, nodes, augmenting))
        self._seeds = [
            seed
            for layer in made.values()
            for inside in _keras.layers_inside(layer.layer)
            for seed in _keras.own_seeds(inside)
        ]
        self.name, self.views, self._seed = trunk.name, views, seed
        self.input_shape = getattr(trunk, "input_shape", None)

    @property
    def digest(self) -> str:
        """What tells these views from different ones of the same trunk."""
        return f"{self.views} with seed {self._seed}"

    def predict_on_batch(self, x: Any) -> list[Any]:
        """Return the outputs of the trunk: first plain, then one item for each view."""
        found = [self.plain.predict_on_batch(x)]
        inputs = checksum(np.ascontiguousarray(leaf).tobytes() for leaf in tree.flatten(x))
        states = [np.array(keras.ops.convert_to_numpy(seed.state)) for seed in self._seeds]
        try:
            for view in range(1, self.views + 1):
                draw = np.random.default_rng([self._seed, view, int(inputs, 16)])
                for seed, state in zip(self._seeds, states, strict=True):
                    new = draw.integers(0, 2**31, state.shape).astype(state.dtype)
                    seed.state.assign(new)
                found.append(self._augmented.predict_on_batch(x))
        finally:  # the layers are the donor's
            for seed, state in zip(self._seeds, states, strict=True):
                seed.state.assign(state)
        return found


def _parts(node: Node) -> list[Any]:
    layer = unwrapped(node.operation)
    return list(_keras.layers_inside(layer)) if isinstance(layer, keras.Layer) else []


def _augments(layer: Any) -> bool:
    owner = getattr(layer, "cell", layer)
    return draws(layer) and not any(hasattr(owner, name) for name in _REGULARIZES)


def _check_unmixed(node: Node) -> None:
    parts = _parts(node)
    if any(isinstance(part, (keras.layers.MixUp, keras.layers.CutMix)) for part in parts):
        raise FeatureError(
            f"{names_of([node])[0]!r} mixes samples, and their targets would have to be mixed alike: mix "
            f"in the data, or leave it out of the views, {advice.option('augment', 'off')}."
        )
    wrong = [
        part.name
        for part in parts
        if (draws(part) and not _augments(part)) or part.trainable_variables
        or isinstance(part, keras.layers.BatchNormalization)
    ]  # fmt: skip
    if wrong:
        raise FeatureError(
            f"{names_of([node])[0]!r} augments, but it also holds {listed(wrong)}, which must stay "
            f"frozen while it does. Call them as separate layers, or use {advice.option('augment', 'off')}."
        )
