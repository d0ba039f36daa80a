"""How subclassed models are put together: sharing, nesting, containers."""

from __future__ import annotations

import keras
from case import case, floats, register
from keras import layers, ops


@register
class Tower(keras.Model):
    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.d1 = layers.Dense(units, activation="relu")
        self.d2 = layers.Dense(units)

    def call(self, x):
        return self.d2(self.d1(x))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@register
class Siamese(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.tower = Tower(name="tower")

    def build(self, shapes):
        self.weight = self.add_weight(shape=(4,), initializer="ones", name="weight")
        super().build(shapes)

    def call(self, inputs):
        left, right = inputs
        gap = ops.abs(self.tower(left) - self.tower(right))
        return ops.sigmoid(ops.sum(gap * self.weight, axis=-1, keepdims=True))


@case(lambda n: [floats(n, 5), floats(n, 5) + 1], (2,), (3,))
def siamese_called_twice():
    return Siamese(name="siamese")


@register
class Level1(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, activation="tanh", name="dense")

    def call(self, x):
        return self.dense(x) + x


@register
class Level2(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = Level1(name="first"), Level1(name="second")

    def build(self, shape):
        self.mix = self.add_weight(shape=(4,), initializer="ones", name="mix")
        super().build(shape)

    def call(self, x):
        return self.second(self.first(x)) * self.mix


@register
class Level3(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = Level2(name="inner")
        self.norm = layers.LayerNormalization(name="norm")

    def call(self, x):
        return self.norm(self.inner(x))


@register
class Deep(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.left, self.right = Level3(name="left"), Level3(name="right")

    def call(self, x):
        return self.left(x) - self.right(x)


@case(lambda n, t: floats(n, t, 4), (2, 3), (3, 5))
def three_levels_of_subclassing():
    return Deep(name="deep")


@register
class Expert(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.up, self.down = layers.Dense(2 * units, "relu"), layers.Dense(units)

    def call(self, x):
        return self.down(self.up(x))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@register
class MoE(keras.Model):
    """Each token goes to the best two experts; the others count zero."""

    def __init__(self, experts=3, units=4, k=2, **kwargs):
        super().__init__(**kwargs)
        self.count, self.units, self.k = experts, units, k
        self.router = layers.Dense(experts, use_bias=False, name="router")
        self.experts = [Expert(units, name=f"expert_{i}") for i in range(experts)]

    def call(self, x):
        chances = ops.softmax(self.router(x))
        best, where = ops.top_k(chances, k=self.k)
        best = best / ops.sum(best, axis=-1, keepdims=True)
        gate = ops.sum(ops.one_hot(where, self.count) * best[..., None], axis=-2)
        load = ops.mean(ops.reshape(chances, (-1, self.count)), axis=0)
        self.add_loss(0.01 * self.count * ops.sum(load**2))
        outputs = ops.stack([expert(x) for expert in self.experts], axis=-2)
        return ops.sum(outputs * gate[..., None], axis=-2)

    def get_config(self):
        own = {"experts": self.count, "units": self.units, "k": self.k}
        return {**super().get_config(), **own}


@case(lambda n, t: floats(n, t, 4), (2, 3), (3, 5))
def mixture_of_experts_with_top_k():
    return MoE(name="moe")


@register
class MultiTask(keras.Model):
    def __init__(self, tasks=("age", "income", "click"), **kwargs):
        super().__init__(**kwargs)
        self.tasks = list(tasks)
        self.trunk = [layers.Dense(5, activation="relu"), layers.LayerNormalization()]
        self.heads = {
            task: {"hidden": layers.Dense(3, "relu", name=f"{task}_hidden"),
                   "out": layers.Dense(1, name=f"{task}_out")}
            for task in tasks
        }  # fmt: skip

    def call(self, x):
        for layer in self.trunk:
            x = layer(x)
        return {name: head["out"](head["hidden"](x)) for name, head in self.heads.items()}

    def get_config(self):
        return {**super().get_config(), "tasks": self.tasks}


@case(lambda n: floats(n, 4), (2,), (3,))
def dict_of_dicts_of_layers():
    return MultiTask(name="multitask")


@register
class Loop(keras.Model):
    """One block again and again, as ALBERT does it, and a list of pairs of layers."""

    def __init__(self, times=3, **kwargs):
        super().__init__(**kwargs)
        self.times = times
        self.start = layers.Dense(4)
        self.block = Level1(name="block")
        self.pairs = [(layers.Dense(4), layers.LayerNormalization()) for _ in range(2)]

    def call(self, x):
        x = self.start(x)
        for _ in range(self.times):
            x = self.block(x)
        for dense, norm in self.pairs:
            x = x + dense(norm(x))
        return x

    def get_config(self):
        return {**super().get_config(), "times": self.times}


@case(lambda n: floats(n, 3), (2,), (3,))
def shared_block_and_list_of_pairs():
    return Loop(name="loop")


@register
class Scales(keras.Model):
    """One network on one image in two sizes."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body = keras.Sequential(
            [layers.Conv2D(3, 3, activation="relu"), layers.GlobalAveragePooling2D()], name="body"
        )
        self.pool = layers.AveragePooling2D(2)

    def call(self, x):
        return self.body(x) + self.body(self.pool(x))


@case(lambda n, h: floats(n, h, 8, 1), (2, 8), (3, 10))
def one_block_at_two_sizes():
    return Scales(name="scales")


@register
class Holder(layers.Layer):
    def __init__(self, inner=None, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def call(self, x):
        return ops.tanh(self.inner(x))

    def get_config(self):
        return {**super().get_config(), "inner": keras.saving.serialize_keras_object(self.inner)}

    @classmethod
    def from_config(cls, config):
        inner = keras.saving.deserialize_keras_object(config.pop("inner"))
        return cls(inner=inner, **config)


@register
class SharedInside(keras.Model):
    """Two blocks hold one layer, which the model calls too."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, name="dense")
        self.one, self.two = Holder(self.dense, name="one"), Holder(self.dense, name="two")

    def call(self, x):
        return self.two(self.one(x)) + self.dense(x)


@case(lambda n: floats(n, 4), (2,), (3,))
def layer_shared_by_two_blocks():
    return SharedInside(name="shared_inside")


@register
class Mixed(keras.Model):
    """Holds a Sequential, a Functional and a Keras application-like feature extractor."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        image = keras.Input((None, None, 2))
        x = layers.Conv2D(3, 3, name="c1")(image)
        y = layers.Conv2D(3, 3, padding="same", name="c2")(x)
        self.features = keras.Model(image, [x, layers.Add()([x, y])], name="features")
        self.head = keras.Sequential(
            [layers.GlobalAveragePooling2D(), layers.Dropout(0.2, seed=1), layers.Dense(2)],
            name="head",
        )

    def call(self, image, training=None):
        low, high = self.features(image, training=training)
        return self.head(ops.concatenate([low, high], axis=-1), training=training)


@case(lambda n, h: floats(n, h, 6, 2), (2, 6), (3, 7))
def sequential_and_functional_inside():
    return Mixed(name="mixed")


def _functional_with_blocks():
    tokens = keras.Input((None, 4), name="x")
    x = Level2(name="block_0")(tokens)
    x = layers.Dropout(0.1, seed=1, name="drop")(x)
    x = Level3(name="block_1")(x)
    x = Level2(name="block_2")(x) + x
    return keras.Model(tokens, layers.Dense(2, name="out")(x), name="functional")


@case(lambda n, t: floats(n, t, 4), (2, 3), (3, 5), open="**")
def subclasses_inside_a_functional():
    return _functional_with_blocks()
