"""`record` and `recorder`: what is recorded, by which names, and what is refused."""

import re

import keras
import numpy as np
import pytest
from architectures import application, cheap_weights
from donor import arrays, equal, unchanged
from keras import layers, ops
from models import ALL, multi_output, residual, several, shared, siamese

import keras_graft as kg
from keras_graft.graph.select import everything
from keras_graft.testing import random_inputs

each = pytest.mark.parametrize("make", ALL, ids=lambda f: f.__name__)


@each
def test_every_value_is_what_extract_gives(make, tmp_path):
    model = make()
    with unchanged(model, tmp_path) as x:
        graph = kg.read(model)
        values = [*graph.inputs, *(v for n in everything(graph) for v in n.values)]
        found = kg.record(graph, x, values)
        assert list(found) == [v.path for v in values]
        for value in values:
            equal(found[value.path], kg.build(kg.extract(graph, value))(x, training=False))
        del found, graph, values, value


def test_the_names_are_paths():
    model = siamese()
    x = random_inputs(model, 2)
    assert list(kg.record(model, x, "encoder/d*")) == [
        "encoder#0/d0", "encoder#0/d1", "encoder#1/d0", "encoder#1/d1",
    ]  # fmt: skip
    assert list(kg.record(model, x, ["out", "a", "encoder#1/d0"])) == ["out", "a", "encoder#1/d0"]
    assert list(kg.record(model, x, {"first": "encoder#0/d0", "last": "out"})) == ["first", "last"]
    assert list(kg.record(model, x, layers.Concatenate)) == ["both"]
    assert list(kg.record(model, x, lambda node: node.name == "d1")) == [
        "encoder#0/d1", "encoder#1/d1",
    ]  # fmt: skip
    model = multi_output()
    x = random_inputs(model, 2)
    assert list(kg.record(model, x, "lstm")) == ["lstm:0", "lstm:1", "lstm:2"]
    assert list(kg.record(model, x, "lstm:1")) == ["lstm:1"]
    assert list(kg.record(shared(), random_inputs(shared(), 2), "shared")) == [
        "shared#0", "shared#1", "shared#2",
    ]  # fmt: skip


def test_only_what_is_needed_runs():
    ran = []

    @keras.saving.register_keras_serializable("inside")
    class Counted(layers.Layer):
        def call(self, x):
            ran.append(self.name)
            return x

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

    x = keras.Input((4,), name="x")
    y = x
    for i in range(4):
        y = Counted(name=f"c{i}")(y)
    model = keras.Model(x, y)
    ran.clear()
    kg.record(model, ops.ones((2, 4)), ["c1", "c0"])
    assert ran == ["c0", "c1"]


def test_a_recorder_is_built_once_and_sees_new_weights():
    model = residual()
    record = kg.recorder(model, ["add*", "out"])
    built = record.model
    for seed in range(3):
        for batch in (2, 3):
            x = random_inputs(model, batch, seed)
            for name, value in record(x).items():
                wanted = arrays(kg.record(model, x, name)[name])[0]
                np.testing.assert_allclose(arrays(value)[0], wanted, rtol=1e-4, atol=1e-5)
        for weight in model.weights:
            weight.assign(weight + 0.01)
    assert record.model is built
    plain = kg.recorder(model, "out", compile=False)
    equal(plain(x)["out"], model(x, training=False))
    assert "add0   (?, 8, 8, 4) float32" in str(record)


def test_batches_run_as_predict_does():
    model = several()
    x = {name: np.asarray(arrays(t)[0]) for name, t in random_inputs(model, 7).items()}
    found = kg.record(model, x, ["l", "top"], batch_size=3)
    whole = kg.record(model, x, ["l", "top"])
    for name, value in found.items():
        assert isinstance(value, np.ndarray) and value.shape[0] == 7
        np.testing.assert_allclose(value, arrays(whole[name])[0], rtol=1e-5, atol=1e-6)
    assert all(ops.is_tensor(value) for value in whole.values())


def test_no_layer_trains_and_no_state_is_written():
    x = keras.Input((4,), name="x")
    y = layers.Dropout(0.5, name="drop")(layers.BatchNormalization(name="bn")(x), training=True)

    @keras.saving.register_keras_serializable("inside")
    class Counts(layers.Layer):
        def build(self, shape):
            self.count = self.add_weight(shape=(), name="count", trainable=False)

        def call(self, x):
            self.count.assign(self.count + 1)
            return x

    counts = Counts(name="counts")
    model = keras.Model(x, counts(y))
    before = arrays(model.variables)
    data = random_inputs(model, 3)
    for record in (kg.recorder(model, "counts"), kg.recorder(model, "counts", compile=False)):
        record(data)
    found = kg.gradients(model, data, "bn", of=1)
    equal(before, model.variables)
    assert found.values.shape == (3, 4)


def test_gradients_of_tensors_are_not_kept():
    model = residual()
    (value,) = kg.record(model, random_inputs(model, 2), "add0").values()
    assert not getattr(value, "requires_grad", False)


def test_a_real_network():
    with cheap_weights():
        model = application("MobileNetV2")
    x = random_inputs(model, 2)
    names = [n.name for n in kg.select(model, "*_add").nodes]
    found = kg.record(model, x, ["*_add", model.layers[-1].name])
    assert list(found) == [*names, model.layers[-1].name]
    equal(found[model.layers[-1].name], model(x, training=False))
    taps = keras.Model(model.input, [model.get_layer(name).output for name in names])
    equal([found[name] for name in names], taps(x, training=False))


REFUSED = {
    "shape": ("image", np.ones((2, 8, 9, 3)), "the input \"image\" of 'residual_extract' takes "
              "(?, 8, 8, 3), and x has the shape (2, 8, 9, 3)."),
    "one sample": ("image", np.ones((8, 8, 3)), "This is one sample: give x[None]."),
    "two": ("image", [np.ones((1, 8, 8, 3))] * 2, "takes 1 input, 'image', and x has 2. Give one array."),
    "name": ("image", {"other": np.ones((1, 8, 8, 3))}, "'image' is missing"),
    "nothing": ("image", None, "the input \"image\" of 'residual_extract' is None in x"),
    "symbolic": ("image", keras.Input((8, 8, 3)), "is no array of samples"),
    "none": ("image", object(), "is no array of samples"),
    "number": ("image", 3, "is no array of samples"),
}  # fmt: skip


@pytest.mark.once
@pytest.mark.parametrize("case", REFUSED)
def test_data_that_the_model_does_not_take(case):
    selector, x, words = REFUSED[case]
    for call in (kg.record, kg.gradients):
        with pytest.raises(kg.RunError, match=re.escape(words.partition(" of '")[0])):
            call(residual(), x, selector)
    with pytest.raises(kg.RunError, match=re.escape(words)):
        kg.record(residual(), x, selector)
    kg.record(residual(), np.ones((8, 8, 3))[None], "out")


@pytest.mark.once
def test_other_refusals():
    model, x = residual(), np.ones((2, 8, 8, 3))
    with pytest.raises(kg.NothingSelectedError, match="Nearest: 'add1'"):
        kg.record(model, x, "ad1")
    for size in (0, -1, 2.5, True, "a"):
        with pytest.raises(kg.RunError, match="batch_size is a number or None"):
            kg.record(model, x, "out", batch_size=size)
    with pytest.raises(kg.RunError, match="compile is True or False"):
        kg.recorder(model, "out", compile="jit")
    with pytest.raises(kg.RunError, match="a name is text"):
        kg.record(model, x, {3: "out"})
    with pytest.raises(kg.AmbiguousError):
        kg.record(model, x, {"a": "add*"})
