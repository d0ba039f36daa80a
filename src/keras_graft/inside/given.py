"""`Given`: a value that a patched model takes as an input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Given:
    """A value that a model made by `kg.patch` takes as an input, one for each sample.

    So one model, compiled once, serves many values. One `Given` at several places is one input.

    Args:
        name: The name of the input. None: made of the path of the value,
            `"layer_3_given"`.
        function: A function of the tensor and of what is given, which returns the new tensor:
            `lambda x, given: x + given`. None: what is given takes the place of the tensor.
        shape: The shape of one sample of the input. None: that of the tensor. A shape that
            broadcasts to it, such as `(1, 8)` for `(5, 8)`, will do too.
        dtype: The dtype of the input. None: that of the tensor.

    >>> import keras, numpy as np, keras_graft as kg
    >>> x = keras.Input((2,), name="x")
    >>> model = keras.Model(x, keras.layers.Activation("linear", name="a")(x), name="tiny")
    >>> push = kg.Given("push", lambda x, given: x + given)
    >>> patched = kg.patch(model, {"a": push})
    >>> [tensor.name for tensor in patched.inputs]
    ['x', 'push']
    >>> patched.predict([np.ones((1, 2)), np.array([[0.0, 5.0]])], verbose=0).tolist()
    [[1.0, 6.0]]
    """

    name: str | None = None
    function: Callable[[Any, Any], Any] | None = None
    shape: tuple[int | None, ...] | None = None
    dtype: str | None = None
