"""Code as larger networks have it: what their layers announce, take, give and compute, opened."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_graft as kg

register = keras.saving.register_keras_serializable("test_opening_odd_code")


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
    data = [
        np.random.default_rng(i).normal(size=s)
        for i, s in enumerate([(2, 3, 4), (2, 5, 4), (2, 4)])
    ]
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


class Schedule(layers.Layer):
    """Keeps what its first call was given."""

    def call(self, x, count):
        if not hasattr(self, "steps"):
            self.steps = ops.cast(count, "float32") + 1.0
        return x / self.steps

    def compute_output_spec(self, x, count):
        return keras.KerasTensor(x.shape, x.dtype)


def test_a_check_of_shapes_leaves_nothing_in_a_layer():
    x, count = keras.Input((4,), name="x"), keras.Input((1,), dtype="int32", name="count")
    model = keras.Model([x, count], Schedule(name="s")(x, count))
    new = kg.insert(model, layers.Dense(5, name="more"), before="s:0")
    assert not hasattr(model.get_layer("s"), "steps")
    assert not hasattr(new.get_layer("s"), "steps")


class Clipped(layers.Layer):
    """Keras's op holds the limits as it holds numbers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)

    def build(self, shape):
        self.dense.build(shape)
        self.low = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(-0.1), name="low"
        )

    def call(self, x):
        x = self.dense(x)
        return ops.clip(ops.clip(x, ops.cast(self.low, x.dtype), 1e9), -1e9, ops.mean(x))


@pytest.mark.filterwarnings("ignore::keras_graft.GraftWarning")
def test_tensors_that_an_op_holds(tmp_path):
    x = keras.Input((4,))
    model = keras.Model(x, Clipped(name="clipped")(x))
    built = inlined(model)
    data = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    same(model, built, data)
    low = next(v for v in built.weights if v.shape == ())
    low.assign(0.05)
    assert model.get_layer("clipped").low is low
    same(model, built, data)
    built.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    same(model, again, data)
    assert len(again.weights) == 3


@register
class Cached(layers.Layer):
    """Gives an empty cache, and a table, beside its result."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, name="dense")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        table = np.arange(6, dtype="float32").reshape(2, 3) / 7
        return (
            ops.zeros((0, 5)),
            self.dense(x),
            ops.convert_to_tensor(table),
            ops.ones((3,), "int32"),
        )


@pytest.mark.filterwarnings("ignore::keras_graft.GraftWarning")
def test_a_constant_that_a_layer_gives(tmp_path):
    x = keras.Input((4,), name="x")
    one = Cached(name="one")(x)
    two = Cached(name="two")(one[1])
    model = keras.Model(x, [*two, ops.mean(one[2])])
    built = inlined(model)
    data = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    same(model, built, data)
    built.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    same(model, again, data)
    assert [tuple(t.shape) for t in again(data)] == [(0, 5), (3, 4), (2, 3), (3,), ()]
    new = kg.replace(model, "one/dense", layers.Dense(4, name="other"))
    assert array(new(data)[2]).tobytes() == array(model(data)[2]).tobytes()


def test_a_forged_constant_is_refused():
    config = kg.layers.Constant(np.ones((2, 3), "float32")).get_config()
    for part in (
        {"shape": [2, 4]},
        {"kind": "O"},
        {"kind": None},
        {"value": "no"},
        {"shape": None},
    ):
        with pytest.raises((TypeError, kg.BuildError), match="bytes of a Constant"):
            kg.layers.Constant.from_config({**config, **part})


class Frames(layers.Layer):
    """The frames of a video lie in the batch."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        size = ops.shape(x)[1]
        x = ops.reshape(self.dense(x), (-1, 3, size, 4))
        return ops.reshape(x + ops.mean(x, axis=1, keepdims=True), (-1, size, 4))

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


@pytest.mark.parametrize("size", [5, None])
def test_a_batch_that_must_be_a_multiple(size):
    x = keras.Input((size, 4))
    model = keras.Model(x, Frames(name="frames")(x))
    built = inlined(model)
    for batch in (3, 6, 21):
        same(model, built, np.random.default_rng(0).normal(size=(batch, 5, 4)).astype("float32"))


class Excites(layers.Layer):
    """Uses layers without weights as functions."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        pooled = layers.GlobalAveragePooling1D(keepdims=True)(x)
        return layers.multiply([x, layers.Activation("sigmoid")(self.dense(pooled))], name="excite")


class Makes(Excites):
    def call(self, x):
        return layers.Dense(4)(self.dense(x))


@pytest.mark.filterwarnings("ignore::keras_graft.GraftWarning")
def test_layers_without_weights_that_are_made_in_the_call(tmp_path):
    x = keras.Input((None, 4))
    model = keras.Model(x, Excites(name="two")(Excites(name="one")(x)))
    built = inlined(model)
    data = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    same(model, built, data)
    built.save(tmp_path / "m.keras")
    same(model, keras.models.load_model(tmp_path / "m.keras"), data)
    closed = kg.explain(keras.Model(x, Makes(name="makes")(x))).closed
    assert "made in the call" in closed[0].reason


class NeverRan(Excites):
    """Announces its shape, so what it holds was not called when the model was made."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.pad, self.join = layers.ZeroPadding1D((0, 1)), layers.Concatenate(axis=1)

    def call(self, x):
        return self.join([self.pad(self.dense(x)), x])

    def compute_output_spec(self, x):
        return keras.KerasTensor((x.shape[0], None, 4), x.dtype)


def test_layers_without_weights_that_were_never_called():
    x = keras.Input((None, 4))
    model = keras.Model(x, NeverRan(name="one")(x))
    graph = kg.read(model, open="**")
    assert not kg.explain(graph).closed
    assert not model.get_layer("one").pad.built
    assert not model.get_layer("one").join.built
    data = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    same(model, kg.build(kg.inline(graph)), data)


@register
class Experts(layers.Layer):
    """Adds a loss in training only."""

    def __init__(self, flag=None, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.flag, self.scale = flag, scale
        self.gate = layers.Dense(4, name="gate")
        self.drop = layers.Dropout(0.5, seed=3, name="drop")

    def build(self, x_shape, mask_shape=None):
        self.gate.build(x_shape)

    def call(self, x, mask, training=None):
        logits = self.gate(x)
        y = x * ops.softmax(logits)
        y = self.drop(y, training=training if self.flag is None else self.flag)
        if training:
            y = y * self.scale if self.scale != 1.0 else y
            used = ops.sum(ops.square(logits) * ops.expand_dims(mask, -1))
            self.add_loss(used / ops.cast(ops.shape(x)[1], "float32"))
        return y

    def compute_output_spec(self, x, mask, training=None):
        return keras.KerasTensor(x.shape, x.dtype)


def _losses(model, data, training):
    for variable in model.variables:
        if "seed" in variable.path:
            variable.assign([0, 3])
    return [array(model(data, training=training)), *(array(loss) for loss in model.losses)]


@pytest.mark.filterwarnings("ignore::keras_graft.GraftWarning")
def test_a_loss_that_is_added_in_training_only(tmp_path):
    x, mask = keras.Input((None, 4)), keras.Input((None,))
    model = keras.Model([x, mask], Experts(name="two")(Experts(name="one")(x, mask), mask))
    built = inlined(model)
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(3, 5, 4)).astype("float32"), np.ones((3, 5), "float32")]
    built.save(tmp_path / "m.keras")
    for other in (built, keras.models.load_model(tmp_path / "m.keras")):
        for training, count in ((False, 1), (True, 3)):
            ours, theirs = _losses(model, data, training), _losses(other, data, training)
            assert len(ours) == len(theirs) == count
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("given", [{"scale": 2.0}, {"flag": True}])
def test_other_code_for_training_besides_a_loss(given):
    x, mask = keras.Input((None, 4)), keras.Input((None,))
    model = keras.Model([x, mask], Experts(name="one", **given)(x, mask))
    assert "its code does something else in training (line " in kg.explain(model)[0].reason


class Augments(Excites):
    """Its second layer is in training unless it is told not to, and Keras hands that on."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.resize, self.drop = layers.Resizing(4, 4), layers.Dropout(0.5)

    def call(self, x):
        return self.drop(self.resize(self.dense(x)))


def test_a_layer_that_trains_unless_it_is_told_not_to():
    x = keras.Input((6, 6, 4))
    model = keras.Model(x, Augments(name="one")(x))
    data = np.ones((2, 6, 6, 4), "float32")
    assert "pass training=" in kg.explain(model)[0].reason
    same(model, kg.build(kg.read(model, open="**").replace(origin=None)), data)


class Positions(keras.Model):
    """Adds a table that is a tensor, and no weight, as tutorials write it."""

    def __init__(self, size=64):
        super().__init__(name="positions")
        self.words = layers.Embedding(20, 4, name="words")
        angle = np.arange(size)[:, None] / 10_000 ** (np.arange(4) / 4)
        self.table = ops.convert_to_tensor(np.sin(angle)[None].astype("float32"))
        self.flat = self.table[0]

    def call(self, ids):
        length = ops.shape(ids)[1]
        x = self.words(ids) + self.table[:, :length, :]
        return x * self.flat[:length] + self.table[:, 3 : 3 + length // 2][:, :1]


def test_a_table_is_cut_at_the_length_of_each_call(tmp_path):
    model = Positions()
    model(np.ones((2, 8), "int32"))
    graph = kg.read(model, keras.Input((None,), dtype="int32"))
    flat = kg.build(graph.replace(origin=None, past=None))
    for shape in ((2, 5), (3, 16), (1, 40)):
        ids = np.random.default_rng(0).integers(0, 20, shape)
        np.testing.assert_array_equal(array(flat(ids)), array(model(ids)))
    flat.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(array(again(ids)), array(model(ids)))
    assert type(model.table[:, :3]) is type(model.table)
    large = Positions(20_000)
    large(np.ones((2, 8), "int32"))
    with pytest.raises(kg.ReadError, match=r"cuts a constant of 80,000 numbers; a weight \(add_w"):
        kg.read(large, keras.Input((None,), dtype="int32"))
