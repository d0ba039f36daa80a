"""Kinds of layers and weights inside subclassed models: policies, cells, adapters, own weights."""

from __future__ import annotations

import keras
from case import case, floats, register
from keras import layers, ops


@register
class Block(layers.Layer):
    """An MLP with a residual, which hands its dtype policy on as users do, or does not."""

    def __init__(self, units, inner=None, **kwargs):
        super().__init__(**kwargs)
        self.units, self.inner = units, inner
        self.norm = layers.LayerNormalization(dtype="float32", name="norm")
        self.up = layers.Dense(2 * units, "gelu", dtype=inner or self.dtype_policy, name="up")
        self.down = layers.Dense(units, dtype=inner or self.dtype_policy, name="down")

    def call(self, x):
        return x + ops.cast(self.down(self.up(self.norm(x))), x.dtype)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "inner": self.inner}


@register
class Stack(keras.Model):
    def __init__(self, inner=None, units=4, **kwargs):
        super().__init__(**kwargs)
        self.inner, self.units = inner, units
        self.stem = layers.Dense(units, dtype=self.dtype_policy, name="stem")
        self.blocks = [
            Block(units, inner, name=f"block_{i}", dtype=self.dtype_policy) for i in range(2)
        ]
        self.head = layers.Dense(2, dtype="float32", name="head")

    def build(self, shape):
        self.scale = self.add_weight(shape=(self.units,), initializer="ones", name="scale")
        super().build(shape)

    def call(self, x):
        x = self.stem(x) * self.scale
        for block in self.blocks:
            x = block(x)
        return self.head(x)

    def get_config(self):
        return {**super().get_config(), "inner": self.inner, "units": self.units}


@case(lambda n: floats(n, 3), (2,), (3,))
def mixed_bfloat16():
    return Stack(name="mixed_bfloat16", dtype="mixed_bfloat16")


@case(lambda n: floats(n, 3), (2,), (3,))
def own_policy_for_inner_layers():
    return Stack(inner="mixed_float16", name="own_policy")


@case(lambda n: floats(n, 3), (2,), (3,))
def pure_float16():
    return Stack(name="half", dtype="float16")


@case(lambda n: floats(n, 3).astype("float64"), (2,), (3,))
def inputs_of_another_dtype():
    return Stack(name="other_dtype")


def _lora(model):
    for block in model.blocks:
        block.up.enable_lora(2)
        block.up.lora_kernel_b.assign(0.1 * floats(*block.up.lora_kernel_b.shape))


@case(lambda n: floats(n, 3), (2,), (3,), after=_lora)
def dense_with_lora():
    return Stack(name="lora")


def _int8(model):
    for block in model.blocks:
        block.up.quantize("int8")
        block.down.quantize("int8")


# The step trains what is not quantized.
@case(lambda n: floats(n, 3), (2,), (3,), after=_int8)
def dense_in_int8():
    return Stack(name="int8")


def _frozen(model):
    model.blocks[0].trainable = False
    model.blocks[1].norm.trainable = False


@case(lambda n: floats(n, 3), (2,), (3,), after=_frozen)
def frozen_parts():
    return Stack(name="frozen")


@register
class MinimalCell(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units, self.state_size = units, units
        self.inner = layers.Dense(units, name="inner")

    def build(self, shape):
        self.recurrent = self.add_weight(
            shape=(self.units, self.units), initializer="orthogonal", name="recurrent"
        )
        self.inner.build(shape)
        super().build(shape)

    def call(self, x, states):
        out = ops.tanh(self.inner(x) + ops.matmul(states[0], self.recurrent))
        return out, [out]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@register
class Recurrent(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.rnn = layers.RNN(MinimalCell(4), return_sequences=True, name="rnn")
        self.stacked = layers.RNN([layers.GRUCell(3), MinimalCell(3)], name="stacked")
        self.out = layers.Dense(2)

    def call(self, x):
        return self.out(self.stacked(self.rnn(x)))


@case(lambda n, t: floats(n, t, 3), (2, 4), (3, 6))
def rnn_with_custom_cell():
    return Recurrent(name="recurrent")


@register
class Pretraining(keras.Model):
    """Has a mask token and a head for pretraining, which this call does not use."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embed = layers.Dense(4, name="embed")
        self.block = Block(4, name="block")
        self.head = layers.Dense(3, name="pretraining_head")

    def build(self, shape):
        self.mask_token = self.add_weight(shape=(1, 1, 4), name="mask_token")
        self.head.build((None, None, 4))
        self.embed.build(shape)
        super().build(shape)

    def call(self, x, mask_places=None):
        x = self.embed(x)
        if mask_places is not None:
            x = ops.where(mask_places[..., None], self.mask_token, x)
        return self.block(x)


@case(lambda n, t: floats(n, t, 3), (2, 4), (3, 6))
def weights_no_output_needs():
    return Pretraining(name="pretraining")


@register
class FactorizedDense(layers.Layer):
    """Makes its layers and weights in `build`, from the shape."""

    def __init__(self, units, rank=2, **kwargs):
        super().__init__(**kwargs)
        self.units, self.rank = units, rank

    def build(self, shape):
        self.narrow = layers.Dense(self.rank, use_bias=False, name="narrow")
        self.narrow.build(shape)
        self.wide = [
            self.add_weight(shape=(self.rank, self.units), name=f"wide_{i}") for i in range(2)
        ]
        self.extra = {"bias": self.add_weight(shape=(self.units,), name="bias")}
        self.built = True

    def call(self, x):
        x = self.narrow(x)
        return ops.matmul(x, self.wide[0]) - x @ self.wide[1] + 2 * self.extra["bias"]

    def get_config(self):
        return {**super().get_config(), "units": self.units, "rank": self.rank}


@register
class OwnBuild(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = FactorizedDense(5, name="first")
        self.second = FactorizedDense(3, name="second")

    def call(self, x):
        return self.second(ops.relu(self.first(x)))


@case(lambda n: floats(n, 4), (2,), (3,))
def own_build_and_lists_of_weights():
    return OwnBuild(name="own_build")


@register
class SameNames(layers.Layer):
    """The layers inside have the same names in each block, and as the model's own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.add = layers.Dense(4, name="dense"), layers.Add(name="add")
        self.drop = layers.Dropout(0.2, seed=3, name="dropout")

    def call(self, x):
        return self.add([x, self.drop(ops.add(self.dense(x), 1.0))])


@register
class Names(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, name="dense")
        self.blocks = [SameNames(name=f"block_{i}") for i in range(3)]
        self.out = layers.Dense(4, name="add")

    def call(self, x):
        x = self.dense(x)
        for block in self.blocks:
            x = block(x)
        return self.out(x)


@case(lambda n: floats(n, 3), (2,), (3,))
def same_names_everywhere():
    return Names(name="names")


@register
class Zoo(keras.Model):
    """Layers with state, noise and regularizers of their own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.normalize = layers.Normalization()
        self.dense = layers.Dense(
            4, kernel_regularizer=keras.regularizers.L2(0.01), kernel_constraint="max_norm"
        )
        self.noise = layers.GaussianNoise(0.1, seed=2)
        self.prelu = layers.PReLU()
        self.spectral = layers.SpectralNormalization(layers.Dense(4), name="spectral")
        self.unit = layers.UnitNormalization()
        self.regular = layers.Dense(3, activity_regularizer=keras.regularizers.L1(0.01))

    def call(self, x, training=None):
        x = self.noise(self.dense(self.normalize(x)), training=training)
        return self.regular(self.unit(self.spectral(self.prelu(x), training=training)))


@case(lambda n: floats(n, 3), (2,), (3,))
def keras_layers_with_state_and_losses():
    model = Zoo(name="zoo")
    model.normalize.adapt(floats(20, 3) + 0.5)
    return model
