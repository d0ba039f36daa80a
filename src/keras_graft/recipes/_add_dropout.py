"""Dropout where a network has none, to fine-tune it on little data."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

import keras_graft as kg


def add_dropout(
    model: Any, rate: float, after: Any, kind: type = keras.layers.Dropout, seed: int | None = None
) -> Any:
    """Put a dropout layer behind each selected value.

    In inference mode the outputs are what they were, to the bit. Each place gets a layer of its
    own, `dropout_<name>`; the donor's layers are shared.

    Args:
        model: A Keras model or a `Graph`.
        rate: What part is dropped, from 0 to 1.
        after: A selector of values: `"conv*_out"`, `keras.layers.ReLU`, a list.
        kind: The class: `SpatialDropout2D`, `GaussianDropout`, `AlphaDropout`, one of yours that
            takes `(rate, seed=, name=, dtype=)`.
        seed: The seed of the first, one more for each that follows. None: random.

    Returns:
        What `model` is.

    Raises:
        EditError: If the rate is not from 0 to 1.
        NothingSelectedError: If `after` fits nothing; the nearest names are given.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> y = keras.layers.Dense(2, name="out")(keras.layers.Dense(3, name="h")(x))
    >>> new = kg.recipes.add_dropout(keras.Model(x, y), 0.2, after="h")
    >>> [layer.name for layer in new.layers]
    ['x', 'h', 'dropout_h', 'out']
    """
    if not isinstance(rate, (int, float, np.number)) or not 0 <= rate <= 1:
        raise kg.EditError(f"add_dropout: the rate must be from 0 to 1, got {rate!r}.")
    rate = float(rate)
    count = 0

    def dropout(node: Any) -> Any:
        nonlocal count
        count += 1
        # Behind an input of the model there is no node: the value itself comes.
        label = node.label if isinstance(node, kg.Node) else node.name
        policy = getattr(getattr(node, "operation", None), "dtype_policy", None)
        spec: Any = (node.outputs[0] if isinstance(node, kg.Node) else node).spec
        return kind(
            rate,
            seed=None if seed is None else seed + count - 1,
            name=f"dropout_{label.replace('#', '_')}",
            dtype=policy or spec.dtype,
        )

    return kg.insert(model, dropout, after=after)
