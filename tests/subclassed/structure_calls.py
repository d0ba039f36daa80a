"""How subclassed models are called: arguments, outputs, masks, flags."""

from __future__ import annotations

import dataclasses
from collections import namedtuple

import keras
from case import case, floats, ids, register
from keras import layers, ops


@register
class CrossAttention(layers.Layer):
    """Its tensors go in by keyword only."""

    def __init__(self, dim, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        self.query, self.key = layers.Dense(dim, name="query"), layers.Dense(dim, name="key")

    def call(self, x, *, memory, mask=None, scale=1.0):
        scores = ops.matmul(self.query(x), ops.transpose(self.key(memory), (0, 2, 1))) * scale
        if mask is not None:
            scores = scores + (1.0 - ops.cast(mask, scores.dtype))[:, None, :] * -1e9
        return ops.matmul(ops.softmax(scores), memory)

    def get_config(self):
        return {**super().get_config(), "dim": self.dim}


@register
class ReaderModel(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attend = CrossAttention(3, name="attend")
        self.again = CrossAttention(3, name="again")
        self.out = layers.Dense(2)

    def call(self, inputs):
        question, text = inputs["question"], inputs["text"]
        x = self.attend(question, memory=text, mask=inputs["mask"], scale=0.5)
        return self.out(self.again(x, memory=question))


def question(n, q, t):
    mask = (ids(3, n, t) > 0).astype("int32")
    return {"question": floats(n, q, 4), "text": floats(n, t, 4), "mask": mask}


@case(question, (2, 3, 5), (3, 4, 6))
def keyword_only_tensors():
    return ReaderModel(name="reader")


@dataclasses.dataclass
class Output:
    logits: object
    hidden: object
    attentions: object = None


@register
class WithOutput(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body, self.head = layers.Dense(4, "relu"), layers.Dense(2)

    def call(self, x):
        hidden = self.body(x)
        return Output(logits=self.head(hidden), hidden=[x, hidden])


@case(lambda n: floats(n, 3), (2,), (3,))
def dataclass_output():
    return WithOutput(name="with_output")


State = namedtuple("State", ["place", "speed"])


@register
class Step(layers.Layer):
    """Takes a namedtuple and gives one."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.force = layers.Dense(2, activation="tanh", name="force")

    def call(self, state):
        speed = state.speed + self.force(state.place)
        return State(state.place + 0.1 * speed, speed)


@register
class Simulator(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.step = Step(name="step")

    def call(self, x):
        state = State(x[:, :2], x[:, 2:])
        for _ in range(3):
            state = self.step(state)
        return state


@case(lambda n: floats(n, 4), (2,), (3,))
def namedtuples_between_blocks():
    return Simulator(name="simulator")


@register
class Nested(keras.Model):
    """Inputs nested in a dict, a list and a tuple; outputs nested too."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.left, self.right = layers.Dense(3), layers.Dense(3)

    def call(self, inputs):
        a, (b, c) = inputs["a"], inputs["rest"]["list"]
        x = self.left(a) + self.right(b)
        return {"x": x, "more": [x * c, {"deep": ops.sum(x, axis=-1)}]}


@case(lambda n: {"rest": {"list": [floats(n, 4), floats(n, 1)]}, "a": floats(n, 2)}, (2,), (3,))
def nested_dict_inputs():
    return Nested(name="nested")


@register
class Conditioned(keras.Model):
    """The second argument may be missing."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body, self.condition = layers.Dense(4, name="body"), layers.Dense(4, name="condition")
        self.gate = Gate(name="gate")

    def call(self, x, condition=None, training=False):
        x = self.body(x)
        if condition is not None:
            x = x + self.condition(condition)
        return self.gate(x, condition)


@register
class Gate(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, "sigmoid", name="dense")

    def call(self, x, by=None):
        return x * self.dense(x if by is None else by)


@case(lambda n: (floats(n, 3), floats(n, 2)), (2,), (3,))
def optional_input_given():
    return Conditioned(name="conditioned")


@register
class Plain(keras.Model):
    """Never gives its condition: the layer of it is never built."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = Conditioned(name="inner")
        self.out = layers.Dense(2)

    def call(self, x):
        return self.out(self.inner(x))


@case(lambda n: floats(n, 3), (2,), (3,))
def optional_input_missing():
    return Plain(name="plain")


@register
class Frozen(keras.Model):
    """A norm that always runs in inference mode, one that follows the flag, a frozen layer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.fixed, self.moving = layers.BatchNormalization(), layers.BatchNormalization()
        self.drop = layers.Dropout(0.5, seed=6)
        self.d1, self.d2 = layers.Dense(4, trainable=False), layers.Dense(4)

    def call(self, x, training=None):
        x = self.fixed(self.d1(x), training=False)
        x = self.moving(x, training=training)
        return self.d2(self.drop(x, training=training))


@case(lambda n: floats(n, 3), (4,), (3,))
def training_flag_passed_on():
    return Frozen(name="frozen")


@register
class MonteCarlo(keras.Model):
    """Dropout that is on in inference too."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.drop = layers.Dense(6, "relu"), layers.Dropout(0.5, seed=8)
        self.out = layers.Dense(2)

    def call(self, x):
        return self.out(self.drop(self.dense(x), training=True))


@case(lambda n: floats(n, 3), (4,), (3,))
def dropout_always_on():
    return MonteCarlo(name="monte_carlo")


@register
class Stop(keras.Model):
    """Self-distillation: the target branch gets no gradient."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.encoder = layers.Dense(4, "tanh", name="encoder")
        self.predictor = layers.Dense(4, name="predictor")

    def call(self, views):
        a, b = (self.encoder(v) for v in views)
        return self.predictor(a) - ops.stop_gradient(b)


@case(lambda n: [floats(n, 3), floats(n, 3) * 2], (2,), (3,))
def stop_gradient():
    return Stop(name="stop")


@register
class MaskMaker(layers.Layer):
    """Makes a mask of its own, which Keras hands on, and uses the one that it gets."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.dense = layers.Dense(4, name="dense")

    def compute_mask(self, inputs, previous_mask=None):
        return ops.any(ops.not_equal(inputs, 0.0), axis=-1)

    def call(self, x, mask=None):
        x = self.dense(x)
        if mask is not None:
            x = x * ops.cast(mask[..., None], x.dtype)
        return x


@register
class MaskChain(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = MaskMaker(name="first"), MaskMaker(name="second")
        self.pool = layers.GlobalAveragePooling1D()

    def call(self, x):
        return self.pool(self.second(self.first(x)))


def with_padding(n, t):
    x = floats(n, t, 3)
    x[:, -1] = 0.0
    return x


@case(with_padding, (2, 4), (3, 6))
def masks_made_by_blocks():
    return MaskChain(name="mask_chain")
