"""Augmented views: what augments draws random numbers, and everything else stays frozen."""

import collections

import keras
import numpy as np
import pytest
from feature_helpers import images, run
from keras import layers

import keras_graft as kg
from keras_graft.features import FeatureDataset, FeatureStore, compute
from keras_graft.features.augment import AugmentedTrunk, augmentation, names_of
from keras_graft.features.store.checksum import checksum

K = keras.ops.convert_to_numpy


def augmented(noise=0.1):
    """A network as the guides of Keras write it: augmentation as a model in front."""
    front = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.RandomFlip(seed=1, name="flip"),
            layers.RandomRotation(0.3, seed=2, name="turn"),
        ],
        name="augment",
    )
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = front(x)
    x = layers.GaussianNoise(noise, name="noise", seed=3)(x)
    x = layers.Conv2D(6, 3, activation="relu", name="stem")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Dropout(0.5, name="drop")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(4, name="out")(x), name="augmented")


def states(model):
    return [K(v).tolist() for v in model.variables if "seed" in v.path]


def by_hand(trunk, x, view, seed):
    """The trunk with its augmentation on, and what draws set to the seeds of a view."""
    front = trunk.get_layer("augment")
    drawing = [*front.layers, trunk.get_layer("noise")]
    start = int(checksum([np.ascontiguousarray(x).tobytes()]), 16)
    draw = np.random.default_rng([seed, view, start])
    for layer in drawing:
        state = (getattr(layer, "seed_generator", None) or layer.generator).state
        state.assign(draw.integers(0, 2**31, 2).astype("uint32"))
    for layer in drawing:
        x = layer(x, training=True)
    for layer in trunk.layers[trunk.layers.index(trunk.get_layer("noise")) + 1 :]:
        x = layer(x, training=False)
    return K(x)


def test_views_are_the_outputs_with_augmentation_on_and_the_same_seeds(tmp_path):
    model = augmented()
    trunk = kg.split(model, at="pool")[0]
    before = states(trunk)
    x, y = images(24)
    store = run(kg.freeze(trunk), (x, y), tmp_path, views=3, seed=5)
    assert store.views == 3 and states(trunk) == before
    plain = store.to_numpy("features")["features"]
    np.testing.assert_allclose(plain, trunk.predict(x, verbose=0), rtol=1e-5, atol=1e-6)
    for view in (1, 2, 3):
        rows = store.take(np.arange(24), "features", views=view)["features"]
        found = np.concatenate([by_hand(trunk, x[i : i + 8], view, 5) for i in (0, 8, 16)])
        np.testing.assert_allclose(rows, found, rtol=1e-4, atol=1e-5)
        assert np.abs(rows - plain).max() > 1e-3
    np.testing.assert_array_equal(store.to_numpy("targets")["targets"], y)
    mixed = store.take([3, 3, 3, 3], "features", views=[0, 1, 2, 3])["features"]
    for view in (1, 2, 3):
        np.testing.assert_array_equal(
            mixed[view], store.take([3], "features", views=view)["features"][0]
        )
    np.testing.assert_array_equal(mixed[0], plain[3])
    for wrong in (4, -1, [0.5], ["a"]):
        with pytest.raises(kg.FeatureError, match="has 3 views of each sample, numbered from 1"):
            store.take([0], "features", views=wrong)


def test_views_of_a_run_that_was_interrupted_are_the_same(tmp_path):
    trunk = kg.freeze(kg.split(augmented(), at="pool")[0])
    x, y = images(40)
    whole = run(trunk, (x, y), tmp_path / "a", views=2)
    part = run(trunk, (x, y), tmp_path / "b", views=2)
    assert len(part.manifest.shards) > 2
    kg.features.keep(part.path, 2)
    part = run(trunk, (x, y), tmp_path / "b", views=2)
    for view in range(3):
        np.testing.assert_array_equal(
            part.take(np.arange(40), views=view)["features"],
            whole.take(np.arange(40), views=view)["features"],
        )
    for change, says in (({"views": 3}, "views"), ({"seed": 1}, "views"), ({"views": 0}, "views")):
        with pytest.raises(kg.FeatureError, match=f"holds different features: .*{says}"):
            run(trunk, (x, y), tmp_path / "b", **{"views": 2, **change})


def test_an_epoch_gives_each_view_equally_often(tmp_path):
    trunk = kg.freeze(kg.split(augmented(), at="pool")[0])
    x, _ = images(48)
    store = run(trunk, (x, np.arange(48)), tmp_path, views=4)
    views = [store.take(np.arange(48), "features", views=v)["features"] for v in range(5)]
    dataset = FeatureDataset(store, 7, seed=2)
    seen = collections.defaultdict(list)
    for _ in range(4):
        given = []
        for features, numbers in (dataset[i] for i in range(len(dataset))):
            for row, number in zip(features, numbers, strict=True):
                view = next(v for v in range(5) if (views[v][number] == row).all())
                given.append(view)
                seen[int(number)].append(view)
        assert collections.Counter(given) == {1: 12, 2: 12, 3: 12, 4: 12}
        dataset.on_epoch_end()
    assert all(sorted(found) == [1, 2, 3, 4] for found in seen.values())
    np.testing.assert_array_equal(dataset.to_numpy()[0], views[0])
    part = FeatureDataset(store, 7, False, 2, 0.25, "validation")
    np.testing.assert_array_equal(part[0][0], views[0][part.indices[:7]])
    plain = FeatureDataset(store, 7, views=False, shuffle=False)
    np.testing.assert_array_equal(plain[0][0], views[0][:7])


def test_fit_head_asks_what_to_do_with_augmentation(tmp_path):
    model = augmented()
    x, y = images(40)
    how = {"head": 4, "progress": False, "store": tmp_path / "s"}
    with pytest.raises(kg.FeatureError) as refused:
        kg.features.fit_head(model, "pool", (x, y), **how)
    said = str(refused.value)
    assert "'augment/flip', 'augment/turn', 'noise'. A trunk that" in said
    assert 'augment="off" trains without' in said and "views=4 stores" in said
    assert not (tmp_path / "s").exists()
    off = kg.features.fit_head(model, "pool", (x, y), augment="off", **how)
    assert off.views == 0 and "augmentation is off: augment/flip" in str(off)
    assert off.frozen == ("bn", "drop")
    how["store"] = tmp_path / "t"
    on = kg.features.fit_head(
        model, "pool", (x, y), views=2, epochs=3, validation_split=0.25, **how
    )
    assert on.views == 2 and on.augmented == off.augmented
    assert "augmented by augment/flip, augment/turn, noise" in str(on)
    assert on.difference < 1e-2 and FeatureStore(tmp_path / "t").views == 2
    # A frozen model has said what to do.
    kg.features.fit_head(kg.freeze(model), "pool", (x, y), **{**how, "store": tmp_path / "u"})


def test_dropout_and_statistics_stay_frozen_in_views(tmp_path):
    trunk = kg.split(augmented(noise=0.0), at="pool")[0]
    x = np.ones((8, 8, 8, 3), "float32") * 0.5  # flipped and rotated, it stays what it is
    before = [K(v).copy() for v in trunk.non_trainable_variables]
    store = run(kg.freeze(trunk), x, tmp_path, views=2)
    for view in (1, 2):
        np.testing.assert_allclose(
            store.take(np.arange(8), views=view)["features"], store.to_numpy()["features"],
            rtol=1e-4, atol=1e-5,
        )  # fmt: skip
    for a, b in zip(before, trunk.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(a, K(b))


def test_taps_have_views_too(tmp_path):
    trunk = kg.freeze(kg.extract(augmented(), {"low": "stem", "high": "pool"}))
    store = run(trunk, images(16)[0], tmp_path, views=2)
    found = store.take([1, 2], views=[1, 2])["features"]
    assert found["low"].shape == (2, 6, 6, 6) and found["high"].shape == (2, 6)
    again = store.take([2], views=2)["features"]
    np.testing.assert_array_equal(found["low"][1], again["low"][0])


@keras.saving.register_keras_serializable("tests")
class Both(layers.Layer):
    """Augments and drops out in one call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.flip, self.drop = layers.RandomFlip(), layers.Dropout(0.5, name="inner_drop")

    def call(self, x, training=False):
        return self.drop(self.flip(x, training=training), training=training)


def test_refusals(tmp_path, trunk):
    x, _ = images(8)
    with pytest.raises(kg.FeatureError, match="no layer that augments, so all 2 views would be eq"):
        compute(trunk, x, tmp_path, views=2)
    inputs = keras.Input((8, 8, 3))
    mixed = keras.Model(inputs, Both(name="both")(inputs))
    with pytest.raises(kg.FeatureError, match="'both' augments, but it also holds 'inner_drop'"):
        compute(kg.freeze(mixed), x, tmp_path, views=2)

    mixing = keras.Model(inputs, layers.MixUp(name="mix")(inputs))
    with pytest.raises(kg.FeatureError, match="'mix' mixes samples, and their targets would"):
        compute(kg.freeze(mixing), x, tmp_path, views=2)

    class Own(keras.Model):
        def call(self, x):
            return x

    own = Own(name="own")
    own(x)
    with pytest.raises(
        kg.FeatureError, match="'own' has no layer that augments, so all 2 views would be equal"
    ):
        compute(own, x, tmp_path, views=2)
    for wrong in (-1, 1.5, 1000):
        with pytest.raises(kg.FeatureError, match=f"views must be a whole number .* {wrong}"):
            compute(trunk, x, tmp_path, views=wrong)
    with pytest.raises(kg.FeatureError, match="seed must be a whole number, 0 or more, got -1"):
        compute(trunk, x, tmp_path, views=2, seed=-1)
    with pytest.raises(kg.FeatureError, match='engine="ray" takes none'):
        compute(trunk, x, tmp_path, views=2, engine="ray")
    assert not any(tmp_path.iterdir())


@pytest.mark.once
def test_which_layers_augment():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.RandAugment(name="rand")(x)
    x = layers.Pipeline([layers.RandomCrop(8, 8), layers.Rescaling(2.0)], name="pipe")(x)
    x = layers.SpatialDropout2D(0.1)(x)
    x = layers.GaussianDropout(0.1)(x)
    x = layers.GaussianNoise(0.0, name="still")(x)
    x = layers.Reshape((64, 3))(x)
    x = layers.LSTM(3, dropout=0.1)(x)
    found = names_of(augmentation(keras.Model(inputs, x)))
    assert found == ["rand", "pipe"]
    assert AugmentedTrunk(keras.Model(inputs, x), 1, 0).views == 1


def test_layers_that_were_frozen_before_are_named_when_they_draw():
    x, y = images(16)
    how = {"at": "pool", "data": (x, y), "head": 4, "progress": False}
    first = kg.features.fit_head(augmented(), augment="off", **how)
    again = kg.features.fit_head(first.model, views=1, **how)
    assert again.augmented == ("augment/flip", "augment/turn", "noise")
    features = again.store.take(np.arange(16), "features", views=np.ones(16, int))["features"]
    assert not np.array_equal(features, again.store.take(np.arange(16), "features")["features"])
