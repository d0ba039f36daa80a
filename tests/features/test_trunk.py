"""The trunk: it must be fixed; its fingerprint; and the samples on which it fails."""

import json
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from feature_helpers import donor, images, run
from keras import layers

import keras_graft as kg
from keras_graft.features import FeatureDataset, FeatureStore
from keras_graft.features.data import Batch


def failing(trunk, bad, monkeypatch):
    real = trunk.predict_on_batch

    def predict_on_batch(x):
        if np.isin(x[:, 0, 0, 0], bad).any():
            raise ValueError("no such word\nand more")
        return real(x)

    monkeypatch.setattr(trunk, "predict_on_batch", predict_on_batch)


def test_samples_that_fail_are_named_or_left_out_and_listed(trunk, tmp_path, monkeypatch):
    x, y = images()
    x[[8, *range(16, 24), 49], 0, 0, 0] = 7  # one of a batch, a whole batch, the last of all
    keys = np.arange(50) * 10
    failing(trunk, 7, monkeypatch)
    with pytest.raises(kg.FeatureError, match=r"Sample 8 fails: ValueError: no such word\. .*skip"):
        run(trunk, (x, y), tmp_path)
    store = run(trunk, (x, y), tmp_path, keys=keys, on_error="skip", resume=False)
    bad = [8, *range(16, 24), 49]
    assert [s.index for s in store.manifest.skipped] == bad
    good = np.delete(np.arange(50), bad)
    found = store.to_numpy()
    np.testing.assert_array_equal(found["targets"], y[good])
    np.testing.assert_array_equal(found["keys"], keys[good])
    np.testing.assert_allclose(
        found["features"], trunk.predict(x[good], verbose=0), rtol=1e-5, atol=1e-6
    )
    assert len(store) == 40 and store.verify() and "left out because" in str(store)
    # It is taken or resumed only with on_error="skip".
    again = {"keys": keys, "on_error": "skip"}
    assert len(run(trunk, (x, y), tmp_path, **again)) == 40
    kg.features.keep(store.path, 2)
    assert len(FeatureStore(store.path)) == 23 and not FeatureStore(store.path).complete
    resumed = run(trunk, (x, y), tmp_path, **again)
    assert resumed.manifest == store.manifest
    with pytest.raises(kg.FeatureError, match="Sample 8 fails"):
        run(trunk, (x, y), tmp_path, keys=keys)
    whole = run(donor_twin(trunk), (np.where(x == 7, 0, x), y), tmp_path / "whole", keys=keys)
    with pytest.raises(kg.FeatureError, match="do not leave out the same samples: '?8'?, '?16"):
        FeatureDataset([store, whole], 8)


def donor_twin(trunk):
    return kg.freeze(keras.Model(trunk.input, trunk.output))


def test_a_block_of_which_all_samples_fail_is_left_out_by_an_actor(tmp_path, monkeypatch):
    from keras_graft.features.engines import ray_worker
    from keras_graft.features.engines.ray_rows import Rows
    from keras_graft.features.store.columns import Columns
    from keras_graft.model.fingerprint import fingerprint

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda given: given))
    x = keras.Input((4,))
    trunk = keras.Model(x, layers.Reshape((2, 2))(x))
    manifest = run(trunk, np.ones((8, 4), "float32"), tmp_path).manifest
    rows = Rows("x", ((4,),), None, None, 8)
    one = Batch(np.ones((1, 4), "float32"))
    work = ray_worker.Work(
        str(tmp_path / "actor"), Columns(None, True, None), manifest, True, one, rows=rows
    )
    trunk.save(tmp_path / "t.keras")
    file = (tmp_path / "t.keras").read_bytes(), {}
    worker = ray_worker.Worker(work, file, fingerprint(trunk))
    told = json.loads(worker({"x": np.ones((8, 3), "float32")})["told"][0])
    assert told["rows"] == 0 and [s["index"] for s in told["skipped"]] == list(range(8))


def test_why_a_sample_fails_is_what_its_layer_says():
    from keras_graft.features.engines.building import reason

    class Picky(layers.Layer):
        def call(self, x):
            raise ValueError("this sample is\nodd")

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

    x = keras.Input((4,))
    with pytest.raises(ValueError) as caught:
        keras.Model(x, Picky()(x)).predict_on_batch(np.ones((2, 4), "float32"))
    assert "Picky.call" in str(caught.value)
    assert reason(caught.value) == "ValueError: this sample is"
    assert reason(MemoryError()) == "MemoryError()"


def test_what_fails_on_every_sample_is_no_matter_of_samples(trunk, tmp_path, monkeypatch):
    x, y = images()
    x[:, 0, 0, 0] = 7
    failing(trunk, 7, monkeypatch)
    says = r"fails on all of the first 8 samples, of \(8, 8, 8, 3\) float32 \(it takes \(None, .*: ValueError: no such word"
    with pytest.raises(kg.FeatureError, match=says) as caught:
        run(trunk, (x, y), tmp_path, on_error="skip")
    assert type(caught.value.__cause__) is ValueError


def test_a_trunk_that_training_changes_is_refused_with_the_way_out(tmp_path):
    trunk = kg.split(donor(), at="pool")[0]
    with pytest.raises(kg.FeatureError) as caught:
        run(trunk, images()[0], tmp_path)
    text = str(caught.value)
    assert "'drop' draw random numbers in training" in text
    assert "'bn' update their statistics in training" in text
    assert "'stem', 'bn', 'block' have weights that training would change" in text
    assert "trunk = kg.freeze(trunk)" in text and "frozen=True" not in text
    with pytest.raises(
        kg.FeatureError, match="'drop' draw random numbers in training; 'bn' update"
    ):
        run(trunk, images()[0], tmp_path, frozen=True)
    assert not (tmp_path / "store").exists()
    trunk.trainable = False  # reaches BatchNormalization, not Dropout
    with pytest.raises(
        kg.FeatureError, match="function.*: 'drop' draw random numbers in training."
    ):
        run(trunk, images()[0], tmp_path)


class Noisy(layers.Layer):
    """Draws random numbers, in inference too."""

    def __init__(self, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.scale, self.seeds = scale, keras.random.SeedGenerator(1)

    def call(self, x):
        return x + self.scale * keras.random.normal(keras.ops.shape(x), seed=self.seeds)


class Outer(layers.Layer):
    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer

    def call(self, x):
        return self.layer(x)


def test_what_draws_random_numbers_in_inference_too_is_refused(tmp_path):
    x = keras.Input((4,))
    y = layers.Dropout(0.5)(layers.Dense(3)(x))
    data = np.ones((20, 4), "float32")
    noisy = kg.freeze(keras.Model(x, Outer(Noisy(name="noisy"), name="outer")(y), name="vae"))
    with pytest.raises(
        kg.FeatureError,
        match="'vae' gives a sample different features.*'outer/noisy' draw.*Cut before",
    ):
        run(noisy, data, tmp_path)
    assert not (tmp_path / "store" / "manifest.json").exists()
    for odd in ({"batch_size": 1}, {}):
        with pytest.raises(
            kg.FeatureError, match="a sample different features at a different position"
        ):
            run(noisy, data, tmp_path / "odd", **odd)
    data[:, 0] = [np.inf, np.nan, 1e6, *range(17)]
    wide = kg.freeze(keras.Model(x, [Noisy()(x), x[:, :0]]))
    with pytest.raises(
        kg.FeatureError, match="a sample different features at a different position"
    ):
        run(wide, data, tmp_path / "wide")
    silent = kg.freeze(keras.Model(x, [Noisy(0.0)(x), x[:, :0]]))
    assert len(run(silent, data, tmp_path)) == 20


def test_random_numbers_are_noticed_behind_samples_that_fail(tmp_path, monkeypatch):
    x = keras.Input((4,))
    noisy = kg.freeze(keras.Model(x, Noisy()(x)))
    predict = noisy.predict_on_batch

    def fails(batch):
        if batch[0, 0] == 1:
            raise ValueError("one")
        return predict(batch)

    monkeypatch.setattr(noisy, "predict_on_batch", fails)
    data = np.zeros((16, 4), "float32")
    data[0] = 1
    with pytest.raises(
        kg.FeatureError, match="a sample different features at a different position"
    ):
        run(noisy, data, tmp_path, on_error="skip")


def test_a_model_with_code_of_its_own_is_frozen(tmp_path):
    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.drop = layers.Dropout(0.5, name="drop")

        def call(self, x):
            return self.drop(x)

    own = Own()
    own(np.ones((1, 4)))
    data = np.ones((20, 4), "float32")
    with pytest.raises(kg.FeatureError, match=r"trunk = kg.freeze\(trunk\)"):
        run(own, data, tmp_path)
    with pytest.warns(kg.GraftWarning, match="is a plain Functional"):
        frozen = kg.freeze(own)
    store = run(frozen, data, tmp_path)
    np.testing.assert_array_equal(store.to_numpy()["features"], data)


def test_spectral_normalization_moves_in_training(tmp_path):
    x = keras.Input((4,))
    trunk = keras.Model(x, layers.SpectralNormalization(layers.Dense(3), name="sn")(x))
    trunk.trainable = False
    with pytest.raises(
        kg.FeatureError, match="function.*: 'sn' update their statistics in training"
    ):
        run(trunk, np.ones((8, 4), "float32"), tmp_path)
    run(kg.freeze(trunk), np.ones((8, 4), "float32"), tmp_path)


def test_a_trunk_that_is_not_built_is_refused(tmp_path):
    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.inner = layers.Dense(3)

        def call(self, x):
            return self.inner(x)

    x = np.ones((16, 4), "float32")
    own = Own()
    for trunk in (own, keras.Sequential([layers.Dropout(0.5), layers.Dense(3)])):
        with pytest.raises(kg.FeatureError, match="is not built.*call it on a batch first"):
            run(trunk, x, tmp_path, frozen=True)
    own(x)
    with pytest.raises(kg.FeatureError, match="'own.*' have weights"):
        run(own, x, tmp_path)
    assert len(run(own, x, tmp_path, frozen=True)) == 16


def test_plain_weights_pass_if_they_are_said_to_stay(tmp_path):
    trunk = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(2, name="d")])
    with pytest.raises(kg.FeatureError, match="'d' have weights.*or say .* frozen=True"):
        run(trunk, images()[0], tmp_path)
    assert len(run(trunk, images()[0], tmp_path, frozen=True)) == 50


@pytest.mark.parametrize("layer, noisy", [
    (layers.Dropout(0.0), False), (layers.GaussianNoise(0.1), True), (layers.LSTM(2), False),
    (layers.LSTM(2, dropout=0.1), True), (layers.MultiHeadAttention(1, 2), False),
    (layers.MultiHeadAttention(1, 2, dropout=0.1), True), (layers.SpatialDropout1D(0.1), True),
    (layers.Bidirectional(layers.GRU(2, recurrent_dropout=0.1)), True), (layers.Dense(2), False),
    (layers.RNN(layers.LSTMCell(2, dropout=0.2)), True),
])  # fmt: skip
def test_what_draws_random_numbers(layer, noisy, tmp_path):
    x = keras.Input((4, 3))
    many = isinstance(layer, layers.MultiHeadAttention)
    trunk = keras.Model(x, layer(x, x) if many else layer(x))
    data = np.zeros((3, 4, 3), "float32")
    if noisy:
        with pytest.raises(kg.FeatureError, match="draw random numbers in training"):
            run(trunk, data, tmp_path, frozen=True)
    else:
        assert len(run(trunk, data, tmp_path, frozen=True)) == 3


def test_augmentation_is_refused(tmp_path):
    x = keras.Input((8, 8, 3))
    trunk = keras.Model(x, layers.RandomRotation(0.1, name="turn")(x))
    with pytest.raises(kg.FeatureError, match="'turn' draw random numbers"):
        run(trunk, images()[0], tmp_path)


def test_another_trunk_dtype_or_order_is_refused_with_what_differs(trunk, tmp_path):
    x, y = images()
    run(trunk, (x, y), tmp_path, dtype="float16")
    other = kg.freeze(kg.split(donor(), at="pool")[0])
    with pytest.raises(kg.FeatureError, match="holds different features: the weights of the trunk"):
        run(other, (x, y), tmp_path, dtype="float16")
    with pytest.raises(kg.FeatureError, match="the structure of the trunk"):
        run(kg.extract(trunk, "stem"), (x, y), tmp_path, dtype="float16")
    with pytest.raises(
        kg.FeatureError, match=r"features: \(\?, 6\) float16, now \(\?, 6\) float32"
    ):
        run(trunk, (x, y), tmp_path)
    with pytest.raises(
        kg.FeatureError,
        match="none of the first 8 samples is in it.*different inputs, or the data changes .* again: resume=False",
    ):
        run(trunk, (x + 1, y), tmp_path, dtype="float16")
    with pytest.raises(
        kg.FeatureError,
        match="sample [0-7] had different targets, sample weights or keys.*resume=False",
    ):
        run(trunk, (x[::-1], y), tmp_path, dtype="float16")
    assert run(trunk, (x[::-1], y[::-1]), tmp_path, dtype="float16").complete
    with pytest.raises(
        kg.FeatureError,
        match="sample [0-7] had different targets, sample weights or keys.*resume=False",
    ):
        run(trunk, (x, y[::-1]), tmp_path, dtype="float16")
    with pytest.raises(kg.FeatureError, match="50 samples, now 40"):
        run(trunk, (x[:40], y[:40]), tmp_path, dtype="float16")
    with pytest.raises(kg.FeatureError, match="targets: .* int64, now absent"):
        run(trunk, x, tmp_path, dtype="float16")
    assert len(run(trunk, (x[::-1], y), tmp_path, resume=False)) == 50


def test_a_fingerprint_is_of_what_a_trunk_does(trunk):
    from keras_graft.model.fingerprint import fingerprint

    one, two = donor(), donor()
    two.set_weights(one.get_weights())
    assert fingerprint(one) == fingerprint(two)  # other names of ops and layers
    two.layers[1].set_weights([w + 1 for w in two.layers[1].get_weights()])
    assert fingerprint(one)["structure"] == fingerprint(two)["structure"]
    assert fingerprint(one)["weights"] != fingerprint(two)["weights"]
    x = keras.Input((3, 4))
    sums = [keras.Model(x, keras.ops.sum(x, axis=axis)) for axis in (1, 2)]
    assert fingerprint(sums[0])["structure"] != fingerprint(sums[1])["structure"]


@pytest.mark.parametrize("tensor", [np.asarray, keras.ops.convert_to_tensor])
def test_a_fingerprint_is_of_every_element_of_a_constant(tensor):
    from keras_graft.model.fingerprint import fingerprint

    def of(constant):
        x = keras.Input((2000,))
        return fingerprint(keras.Model(x, keras.ops.divide(x, tensor(constant))))

    large = np.ones((1, 2000), "float32")
    other = large.copy()
    other[0, 1000] = 500
    assert of(large) == of(large.copy()) != of(other)
    close = (np.full(2000, c, "float32") for c in (0.00392001, 0.00392002))
    assert of(next(close)) != of(next(close))
    assert of(large) != of(large.astype("float64").astype("float16")) != of(large[0])


def test_a_model_out_of_a_file_is_the_same_trunk(tmp_path):
    from keras_graft.model.configuration import configuration
    from keras_graft.model.fingerprint import fingerprint

    def of(body, shape=(5, 4)):
        x = keras.Input(shape)
        return keras.Model(x, body(x))

    ops, scale, several = keras.ops, 3, (2.0, 3.0)
    bodies = {
        "tuple in a lambda": layers.Lambda(lambda x: x * several[1]),
        "item": lambda x: x[:, 0],
        "slices": lambda x: x[..., 1:3],
        "transpose": lambda x: ops.transpose(x, (0, 2, 1)),
        "mean": lambda x: ops.mean(x, axis=(1, 2)),
        "mean of one": lambda x: ops.mean(x, axis=(1,)),
        "pad": lambda x: ops.pad(x, ((0, 0), (1, 1), (0, 0))),
        "lambda": layers.Lambda(lambda x: x * 2 + 1),
        "another lambda": layers.Lambda(lambda x: x * 2 - 1),
        "lambda in a wrapper": layers.TimeDistributed(layers.Lambda(lambda x: x * scale)),
        "masks": lambda x: layers.LSTM(3)(layers.Masking()(x)),
    }
    found = set()
    for name, body in bodies.items():
        model = of(body)
        model.save(tmp_path / "m.keras")
        loaded = keras.saving.load_model(tmp_path / "m.keras", compile=False, safe_mode=False)
        assert fingerprint(loaded) == fingerprint(model), name
        found.add(fingerprint(model)["structure"])
    assert len(found) == len(bodies)
    # Keras does not get these out of a file.
    others = [
        of(lambda x, top=top: ops.clip(x, np.float32(0), top))
        for top in (np.float32(6), np.array(5, "float32"), np.arange(4.0))
    ] + [
        of(layers.Conv1D(2, 2, dilation_rate=n, kernel_initializer="ones",
                         kernel_constraint=lambda w: w * 1))
        for n in (1, 2)
    ] + [
        of(layers.Dense(2, act, kernel_initializer="ones"))
        for act in (lambda x: x * 1.5, lambda x: x * 2.5, lambda t: t * 2.5)
    ]  # fmt: skip
    assert len({str(fingerprint(model)) for model in others}) == 7  # a name is none of the code
    # Sets have an order of their own in each session.
    chosen = layers.Lambda(lambda x: x if x.dtype in {"float16", "float32"} else -x)
    assert "[\"'float16'\", \"'float32'\"]" in configuration(chosen).replace("\\", "")
    a, b = layers.Dense(4), layers.Dense(4)
    crossed = [of(lambda x, pair=pair: pair[1](pair[0](x))) for pair in ((a, b), (b, a), (a, a))]
    assert len({str(fingerprint(model)) for model in crossed}) == 3


def test_a_batch_that_fails_as_a_whole_is_said_to(tmp_path, monkeypatch):
    x = keras.Input((4,))
    trunk = kg.freeze(keras.Model(x, layers.Dense(2)(x)))
    predict = trunk.predict_on_batch

    def limited(x):
        if len(x) > 4:
            raise MemoryError("out of memory")
        return predict(x)

    monkeypatch.setattr(trunk, "predict_on_batch", limited)
    says = "fails on 8 samples at once, but on none of them alone .smaller batches.*: MemoryError"
    for on_error in ("raise", "skip"):
        with pytest.raises(kg.FeatureError, match=says):
            run(trunk, np.ones((20, 4), "float32"), tmp_path, on_error=on_error)
