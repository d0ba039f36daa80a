"""No edit and no recipe puts in a layer that sets the training flag for those called later."""

import keras
import numpy as np
import pytest

import keras_graft as kg
from keras_graft import _keras

LOCAL = not _keras.defaults_leak()
"""From Keras 3.16 on a default stays with its layer; and the layer keeps to it without a flag."""

AUGMENTATION = [
    lambda: keras.layers.Resizing(8, 8),
    lambda: keras.layers.CenterCrop(8, 8),
    lambda: keras.layers.RandomFlip(seed=1),
    lambda: keras.layers.RandomTranslation(0.3, 0.3, seed=1),
    lambda: keras.layers.RandAugment(value_range=(0, 1), seed=1),
    lambda: keras.Sequential([keras.Input((8, 8, 3)), keras.layers.RandomFlip(seed=1)]),
    lambda: _functional_augmentation(),
    lambda: Around(keras.layers.RandomFlip(seed=1)),
]


class Around(keras.layers.Layer):
    """A layer that knows no flag and calls one that has `training=True` as its default."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def call(self, x):
        return self.inner(x)

    def get_config(self):
        return super().get_config() | {"inner": keras.saving.serialize_keras_object(self.inner)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("inner")), **config)


def _functional_augmentation():
    x = keras.Input((8, 8, 3))
    return keras.Model(x, keras.layers.RandomFlip(seed=1)(keras.layers.Rescaling(1.0)(x)))


def _net():
    x = keras.Input((8, 8, 3), name="x")
    y = keras.layers.Conv2D(4, 3, padding="same", name="conv")(x)
    y = keras.layers.BatchNormalization(name="bn")(y)
    y = keras.layers.Dropout(0.5, name="drop")(y)
    model = keras.Model(x, keras.layers.GlobalAveragePooling2D(name="pool")(y), name="net")
    model.get_layer("bn").moving_mean.assign([1.0, 2.0, 3.0, 4.0])
    return model


def _images(count=4, size=8, seed=0):
    return np.random.default_rng(seed).uniform(size=(count, size, size, 3)).astype("float32")


def _array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def _alike(model, data):
    """Check that the model gives without a flag what it gives at inference; return that."""
    with_flag = _array(model(data, training=False))
    np.testing.assert_array_equal(_array(model(data)), with_flag)
    return with_flag


@pytest.mark.parametrize("make", AUGMENTATION)
@pytest.mark.parametrize("where", ["insert", "function", "replace"])
def test_what_is_put_in_sets_no_flag(make, where, tmp_path):
    model, data = _net(), _images()
    layer = make()
    if LOCAL and not isinstance(layer, keras.layers.Resizing | keras.layers.CenterCrop):
        pytest.skip("this Keras augments without a flag")
    if where == "insert":
        new = kg.insert(model, layer, after="x")
    elif where == "function":
        new = kg.insert(model, lambda node: lambda x: layer(x) * 1.0, after="x")
    else:
        first = kg.insert(model, keras.layers.Identity(name="here"), after="x")
        new = kg.replace(first, "here", layer)
    expected = _alike(new, data)
    np.testing.assert_allclose(new.predict(data, verbose=0), expected, atol=1e-6)
    if not isinstance(layer, Around):
        assert kg.diff(model, new).training == ()
    new.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras", custom_objects={"Around": Around})
    np.testing.assert_allclose(_alike(loaded, data), expected, atol=1e-6)
    np.testing.assert_array_equal(_alike(kg.clone(new), data), expected)


@pytest.mark.parametrize(
    "make", [lambda: keras.layers.RandomFlip("horizontal", seed=1), AUGMENTATION[6]]
)
def test_augmentation_works_under_fit_and_not_in_predict(make):
    x = keras.Input((8, 8, 3), name="x")
    model = keras.Model(x, keras.layers.Identity(name="i")(x))
    new, data = kg.insert(model, make(), after="x"), _images(16)
    np.testing.assert_array_equal(new.predict(data, verbose=0), data)
    if not LOCAL:
        np.testing.assert_array_equal(_array(new(data)), data)
    assert not np.array_equal(_array(new(data, training=True)), data)
    seen = []

    class See(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=(1, 2, 3))

    new.compile("sgd", See())
    seen = new.fit(data, data, epochs=1, verbose=0).history["loss"]
    assert seen[0] > 0.01  # flipped images are not themselves
    assert new.evaluate(data, data, verbose=0) == 0


def test_a_flag_that_is_given_on_purpose_stays_and_is_named():
    model, data = _net(), _images()
    monte_carlo = kg.insert(
        model, lambda node: lambda x: keras.layers.Dropout(0.5, name="mc")(x, training=True),
        after="x",
    )  # fmt: skip
    first, second = _array(monte_carlo(data)), _array(monte_carlo(data))
    assert not np.array_equal(first, second)
    report = kg.diff(model, monte_carlo)
    assert report.training == ("mc",)
    assert "training=True" in str(report) and report.to_dict()["training"] == ["mc"]


def test_a_donor_keeps_its_flag_and_diff_names_it():
    x = keras.Input((8, 8, 3), name="x")
    y = keras.layers.Resizing(8, 8, name="resize")(x)
    y = keras.layers.BatchNormalization(name="bn")(y)
    model, data = keras.Model(x, keras.layers.ReLU(name="relu")(y)), _images()
    new = kg.insert(model, keras.layers.Identity(name="i"), after="relu")
    np.testing.assert_array_equal(_array(new(data)), _array(model(data)))
    np.testing.assert_array_equal(
        _array(new(data, training=False)), _array(model(data, training=False))
    )
    if not np.array_equal(_array(model(data)), _array(model(data, training=False))):
        assert kg.diff(model, new).training == ("resize",)  # up to Keras 3.15
    mended = kg.replace(new, "resize", lambda node: node.operation)
    _alike(mended, data)
    assert kg.diff(model, mended).training == ()


def test_a_default_flag_does_not_go_over_to_the_next_layer():
    x = keras.Input((8, 8, 3), name="x")
    y = keras.layers.Resizing(8, 8, name="resize")(x)
    model, data = keras.Model(x, keras.layers.ReLU(name="relu")(y)), _images()
    new = kg.replace(model, "resize", keras.layers.BatchNormalization(name="bn"))
    _alike(new, data)
    before = _array(new.get_layer("bn").moving_mean)
    new.compile("sgd", "mse")
    new.fit(data, data, verbose=0)
    assert not np.array_equal(before, _array(new.get_layer("bn").moving_mean))


def _unet():
    x = y = keras.Input((9, 9, 3), name="image")
    for i in range(2):
        y = keras.layers.Conv2D(4, 3, strides=2, padding="same", name=f"c{i}")(y)
        y = keras.layers.BatchNormalization(name=f"b{i}")(y)
    model = kg.recipes.unet(keras.Model(x, y), classes=2, filters=(8, 4))
    model.get_layer("decoder0_bn0").moving_mean.assign(np.arange(8.0))
    return model


def test_unet_runs_at_inference_without_a_flag(tmp_path):
    model, data = _unet(), _images(size=9)
    expected = _alike(model, data)
    names = [layer.name for layer in model.layers]
    assert "decoder0_resize" in names and "decoder1_resize" in names
    model.save(tmp_path / "u.keras")
    np.testing.assert_allclose(
        _alike(keras.models.load_model(tmp_path / "u.keras"), data), expected, atol=1e-6
    )
    model.compile("sgd", "mse")
    before = _array(model.get_layer("decoder0_bn0").moving_mean)
    model.fit(data, np.zeros((4, 9, 9, 2), "float32"), verbose=0)
    assert not np.array_equal(before, _array(model.get_layer("decoder0_bn0").moving_mean))


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="no SavedModel from PyTorch")
@pytest.mark.parametrize("make", ["unet", "insert"])
def test_an_exported_model_gives_what_inference_gives(make, tmp_path):
    if LOCAL and make == "insert":
        pytest.skip("this Keras augments without a flag")
    tensorflow = pytest.importorskip("tensorflow")
    model = _unet() if make == "unet" else kg.insert(_net(), AUGMENTATION[2](), after="x")
    data = _images(size=9 if make == "unet" else 8)
    expected = _array(model(data, training=False))
    model.export(str(tmp_path / "saved"), verbose=False)
    loaded = tensorflow.saved_model.load(str(tmp_path / "saved"))  # kept: it holds the variables
    given = loaded.serve(data)
    np.testing.assert_allclose(np.asarray(given), expected, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="ONNX is exported from PyTorch")
def test_an_onnx_file_gives_what_inference_gives(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, data = _unet(), _images(size=9)
    expected = _array(model(data, training=False))  # Keras exports what was called before
    model.export(str(tmp_path / "u.onnx"), format="onnx", verbose=False)
    session = runtime.InferenceSession(str(tmp_path / "u.onnx"))
    (given,) = session.run(None, {session.get_inputs()[0].name: data})
    np.testing.assert_allclose(given, expected, atol=1e-4)
