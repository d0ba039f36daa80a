"""Code as larger networks have it: what their layers announce, take, give and compute, opened."""

import keras
import numpy as np
from keras import layers, ops

import keras_graft as kg


def array(tensor):
    return ops.convert_to_numpy(tensor)


def inlined(model):
    """Build a model of all that is inside the layers of another, which all must be open."""
    graph = kg.read(model, open="**")
    assert not kg.explain(graph).closed
    return kg.build(kg.inline(graph))


def same(one, other, *data):
    data = data[0] if len(data) == 1 else list(data)
    flat = [keras.tree.flatten(x(data, training=False)) for x in (one, other)]
    assert len(flat[0]) == len(flat[1])
    for a, b in zip(*flat, strict=True):
        np.testing.assert_array_equal(array(a), array(b))


class OneStep(layers.Layer):
    """Announces a batch of one."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, step):
        return self.dense(step)

    def compute_output_spec(self, step):
        return keras.KerasTensor((1, 4), step.dtype)


class Guided(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner, self.outer, self.text = (layers.Dense(4) for _ in range(3))

    def build(self, x_shape, text_shape, step_shape):
        self.inner.build(x_shape)
        self.outer.build(x_shape)
        self.text.build(text_shape)

    def call(self, x, text, step):
        step = ops.expand_dims(step, 1)
        return self.inner(x) * step, self.outer(x) * step, self.text(text) * step


def test_a_batch_that_is_doubled_on_its_way():
    # Guidance runs a network on twice the batch: where shapes are checked again, the sizes of all
    # tensors in the middle must come from the inputs.
    parts = [keras.Input(s) for s in ((3, 4), (None, 4), (4,))]
    inner = keras.Model(parts, Guided()(*parts[:2], OneStep()(parts[2])), name="inner")
    outside = [keras.Input(s) for s in ((3, 4), (None, 4), (4,))]
    model = keras.Model(outside, inner([ops.concatenate([x, x], axis=0) for x in outside]))
    data = [np.random.default_rng(i).normal(size=s) for i, s in enumerate([(2, 3, 4), (2, 5, 4), (2, 4)])]
    same(model, inlined(model), *(x.astype("float32") for x in data))


class Rows(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3)

    def build(self, shape):
        self.dense.build((None, shape[-1]))

    def call(self, x):
        batch, count, size = ops.shape(x)
        x = self.dense(ops.reshape(x, (batch * count, size)))
        return ops.reshape(x, (batch, count, 3))

    def compute_output_spec(self, x):
        return keras.KerasTensor((*x.shape[:2], 3), x.dtype)


def test_a_size_that_only_a_model_inside_knows():
    patches = keras.Input((None, 6))
    inner = keras.Model(patches, Rows(name="rows")(patches), name="inner")
    x = keras.Input((None, None))
    model = keras.Model(x, inner(x))
    built = inlined(model)
    assert built.output.shape == (None, None, 3)
    for shape in ((2, 4, 6), (3, 5, 6)):
        same(model, built, np.ones(shape, "float32"))
