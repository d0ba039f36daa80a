"""Check that a trunk is a fixed function: only then can its features be stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft.errors import FeatureError, ReadError
from keras_graft.features.data import Batch
from keras_graft.graph.names import listed
from keras_graft.graph.record import unwrapped
from keras_graft.graph.select import leaves
from keras_graft.layers.frozen import Frozen
from keras_graft.model.read import read

tree = keras.tree

_RATES = (
    "rate", "stddev", "dropout", "recurrent_dropout", "dropout_rate", "_dropout",
    "attention_dropout",
)  # fmt: skip


def check_fixed(trunk: Any, frozen: bool) -> None:
    """Refuse a trunk that training would change, or that behaves differently in training.

    Args:
        trunk: A Keras model.
        frozen: The caller asserts that its weights will not change.

    Raises:
        FeatureError: It names the layers and the way out.
    """
    if not trunk.built:
        raise FeatureError(
            f"{trunk.name!r} is not built, so it has no weights yet, and cannot be identified: "
            "call it on a batch first."
        )
    noisy, moving, stateful, trained = [], [], [], []
    for path, layer in _layers(trunk):
        if isinstance(layer, Frozen):
            continue
        if draws(layer):
            noisy.append(path)
        if _updates(layer):
            moving.append(path)
        if getattr(layer, "stateful", False):
            stateful.append(path)
        if _own(layer.trainable_variables, layer):
            trained.append(path)
    reasons = []
    if noisy:
        reasons.append(f"{listed(noisy)} draw random numbers in training")
    if moving:
        reasons.append(f"{listed(moving)} update their statistics in training")
    if trained and not frozen:
        reasons.append(f"{listed(trained)} have weights that training would change")
    if stateful:
        raise FeatureError(
            f"{trunk.name!r} is not a fixed function: {listed(stateful)} keep a state from batch to "
            "batch. Make them with stateful=False."
        )
    if reasons:
        says = ", or say that its weights will not change: frozen=True" if trained and not (
            noisy or moving
        ) else ""  # fmt: skip
        raise FeatureError(
            f"{trunk.name!r} is not a fixed function, so the head would be trained on features that "
            f"the joined model does not give: {'; '.join(reasons)}. Freeze it (the weights stay "
            f"shared): {_way_out(trunk)}{says}."
        )


def _updates(layer: Any) -> bool:
    """Whether a layer updates statistics in training."""
    if isinstance(layer, keras.layers.BatchNormalization):
        return bool(layer.trainable)
    return isinstance(layer, keras.layers.SpectralNormalization)


def changing(trunk: Any) -> list[str]:
    """Return the paths of layers that act differently in training: freezing changes that."""
    layers = [(path, layer) for path, layer in _layers(trunk) if not isinstance(layer, Frozen)]
    return [path for path, layer in layers if draws(layer) or _updates(layer)]


def _way_out(trunk: Any) -> str:
    try:
        read(trunk)
    except ReadError:  # `kg.freeze` takes such a model only as a layer of another
        return "x = keras.Input(...); trunk = kg.freeze(keras.Model(x, trunk(x)))"
    return "trunk = kg.freeze(trunk)"


def check_places(trunk: Any, batch: Batch, outputs: Any) -> None:
    """Refuse a trunk that draws random numbers in inference, if it has a layer that might.

    A frozen random layer repeats its noise in every batch, so a sample's features depend on its
    position.

    Args:
        trunk: The model.
        batch: Some samples.
        outputs: The trunk's outputs for them.
    """
    doubtful = _may_draw(trunk)
    if not doubtful:
        return

    def moved(array: Any) -> Any:
        return np.roll(array, 1, 0) if len(array) > 1 else np.concatenate([array, array])

    again = trunk.predict_on_batch(batch.map(moved).x)
    for leaf, now in zip(tree.flatten(outputs), tree.flatten(again), strict=True):
        before, now = moved(np.asarray(leaf, "float64")), np.asarray(now, "float64")
        # Some devices add in a different order each time, which changes few numbers by much.
        same = np.isclose(now, before, rtol=2e-2, atol=0, equal_nan=True)
        if same.size and same.mean() < 0.9:
            raise FeatureError(
                f"{trunk.name!r} gives a sample different features at a different position: "
                f"{listed(doubtful)} draw random numbers in inference too. Cut before them."
            )


def _may_draw(trunk: Any) -> list[str]:
    """Return the paths of layers that may draw random numbers in inference too.

    Keras's own layers draw only in training. Other layers with a seed generator may always draw.
    """
    return [
        path
        for path, layer in _layers(trunk, frozen=True)
        if _keras.own_seeds(layer) and not type(layer).__module__.startswith("keras.")
    ]


def draws(layer: Any) -> bool:
    """Whether a layer itself draws random numbers in training: dropout, noise, augmentation.

    One with a seed generator and a rate of zero does not; a cell of an RNN counts as its RNN.
    """
    if not _keras.own_seeds(layer):
        return False
    owner = getattr(layer, "cell", layer)
    rates = [getattr(owner, name) for name in _RATES if hasattr(owner, name)]
    return not rates or any(rate != 0 for rate in rates)


def inner_layers(model: Any) -> Iterator[Any]:
    """Return every layer once, those inside others and frozen ones too."""
    return (layer for _, layer in _layers(model, frozen=True))


def _own(variables: list[Any], layer: Any) -> bool:
    inner = {id(v) for sub in _keras.sublayers(layer) for v in sub.variables}
    return any(id(v) not in inner for v in variables)


def _layers(trunk: Any, frozen: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield every layer once, those inside others too, with the path that names it.

    With `frozen`, the layer inside a `layers.Frozen` takes its place, and has its path.
    """
    seen: set[int] = set()

    def inside(path: str, layer: Any) -> Iterator[tuple[str, Any]]:
        layer = unwrapped(layer) if frozen else layer
        if id(layer) in seen:
            return
        seen.add(id(layer))
        yield path, layer
        for sub in _keras.sublayers(layer):
            yield from inside(f"{path}/{sub.name}", sub)

    try:
        graph = read(trunk)
    except ReadError:  # a model with its own `call`
        yield from inside(trunk.name, trunk)
        return
    for node in leaves(graph.nodes):
        if isinstance(node.operation, keras.Layer):
            yield from inside("/".join(n.name for n in (*node.scope, node)), node.operation)
