"""`Remat`: a part of a network whose inner values the backward pass computes again."""

from __future__ import annotations

from typing import Any

import keras

from keras_graft import _keras
from keras_graft.ties.model import TiedModel


@keras.saving.register_keras_serializable("keras_graft")
class Remat(TiedModel):
    """A nested model of which training keeps the inputs and outputs, and nothing in between.

    The backward pass computes the inner values again. The idea is that of Chen et al., Training Deep
    Nets with Sublinear Memory Cost (2016). It runs in `keras.remat`, but so that state does not
    notice: dropout draws the same mask again, moving statistics change once, losses count once.
    See `kg.remat`.

    Run `import keras_graft` before you load a file that has one.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,))
    >>> part = kg.layers.Remat(x, keras.layers.Dense(3)(keras.layers.Dense(9)(x)))
    >>> tuple(part(keras.ops.ones((2, 4))).shape)
    (2, 3)
    """

    keras_graft_runs_its_graph = True

    def __init__(self, inputs: Any, outputs: Any, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(inputs, outputs, name=name, **kwargs)

    def call(self, inputs: Any, training: Any = None, mask: Any = None, **kwargs: Any) -> Any:
        """Run the layers inside, and again in the backward pass."""
        plain = super().call

        def run(inputs: Any, mask: Any) -> Any:
            return plain(inputs, training=training, mask=mask, **kwargs)

        return _keras.rematerialized(self, run, inputs, mask)
