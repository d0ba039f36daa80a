"""Models whose own call is no graph: refused as a whole, with the line."""

from __future__ import annotations

import keras
from around import COMPILES, Fine, rows
from case import case, ids, register
from keras import layers, ops


@register
class Ragged(keras.Model):
    """Looks at its values in its own call: no graph at all."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embed = layers.Embedding(9, 3)

    def call(self, tokens):
        if ops.any(tokens == 1):
            tokens = tokens + 1
        return self.embed(ops.minimum(tokens, 8))


@case(
    lambda n, t: ids(9, n, t), (2, 3), (3, 4),
    refused=("ragged", "if ops.any(tokens == 1)"), compiled=not COMPILES,
)  # fmt: skip
def model_that_branches_on_values():
    return Ragged(name="ragged")


@register
class Counting(keras.Model):
    """Counts in a metric of its own while it runs."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(2)
        self.seen = keras.metrics.Mean(name="seen")

    def call(self, x):
        y = self.dense(x)
        self.seen.update_state(ops.mean(y))
        return y


@case(rows, (2,), (3,), refused=("counting", "self.seen.update_state(ops.mean(y))"))
def metric_updated_in_call():
    return Counting(name="counting")


@register
class Adaptive(keras.Model):
    """Stops early: how often its block runs depends on the values."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block = Fine(name="block")

    def call(self, x):
        while float(ops.mean(ops.abs(x))) < 2.0:
            x = self.block(x) + 0.5
        return x


@case(
    rows, (2,), (3,), refused=("adaptive", "while float("), compiled=not COMPILES,
)  # fmt: skip
def number_of_steps_from_values():
    return Adaptive(name="adaptive")


@register
class Wrapped(keras.Model):
    """Gives a Python number beside its tensor."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x), "logits"


@case(rows, (2,), (3,), refused=("wrapped", "str"), compiled=False)
def output_that_is_no_tensor():
    return Wrapped(name="wrapped")
