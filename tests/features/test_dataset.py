"""Batches from stores, for `fit` on every backend."""

import keras
import numpy as np
import pytest
from feature_helpers import donor, images, run
from keras import layers

import keras_graft as kg
from keras_graft.features import FeatureDataset, compute


def test_a_dataset_gives_every_sample_once_an_epoch_in_a_new_order(trunk, tmp_path):
    x, _ = images()
    store = run(trunk, (x, np.arange(50)), tmp_path)
    dataset = FeatureDataset(store, 8, seed=1)
    assert len(dataset) == 7
    exact = store.to_numpy()["features"]
    orders = []
    for _ in range(2):
        found = [dataset[i] for i in range(7)]
        order = np.concatenate([y for _, y in found])
        assert sorted(order) == list(range(50))
        np.testing.assert_array_equal(np.concatenate([f for f, _ in found]), exact[order])
        orders.append(order.tolist())
        dataset.on_epoch_end()
    assert orders[0] != orders[1]
    assert np.concatenate([y for _, y in map(FeatureDataset(store, 8, seed=1).__getitem__, range(7))]
                          ).tolist() == orders[0]  # fmt: skip
    f, y = FeatureDataset(store, 8, shuffle=False)[6]
    assert y.tolist() == [48, 49] and f.shape == (2, 6)


@pytest.mark.parametrize("block", [1, 3, 100])
@pytest.mark.parametrize("slow", [False, True])
def test_batches_are_the_same_however_they_are_read(trunk, tmp_path, monkeypatch, block, slow):
    from keras_graft.features.head import epoch as reading

    store = run(trunk, (images()[0], np.arange(50)), tmp_path)
    row = sum(column.bytes for column in store.manifest.columns.values())
    monkeypatch.setattr(reading, "_BLOCK", 8 * row * block)
    monkeypatch.setattr(reading, "_SURE", -1.0 if slow else 1e9)
    monkeypatch.setattr(reading, "_FAST", 1 << 60)
    exact = store.to_numpy()["features"]
    reader = FeatureDataset(store, 8, seed=3)
    for epoch in range(2):
        order = np.random.default_rng([3, epoch]).permutation(50)
        for i in (0, 1, *range(7)):  # TensorFlow looks at some before it starts
            features, targets = reader[i]
            assert targets.tolist() == order[8 * i : 8 * i + 8].tolist()
            np.testing.assert_array_equal(features, exact[targets])
        for i in (5, 2, 6, 0, 3):  # as fit(shuffle=True) asks
            assert reader[i][1].tolist() == order[8 * i : 8 * i + 8].tolist()
        assert [t for i in range(7) for t in reader[i][1].tolist()] == order.tolist()
        assert (reader._epoch._pool is not None) == slow
        assert len(reader._epoch._ahead) <= 2
        reader.on_epoch_end()
    reader[0]  # what is read ahead now is not of the epoch after it
    reader.on_epoch_end()
    order = np.random.default_rng([3, 3]).permutation(50)
    assert [t for i in range(7) for t in reader[i][1].tolist()] == order.tolist()


def test_who_gets_a_batch_may_write_into_it(trunk, tmp_path):
    store = run(trunk, (images()[0], np.arange(50)), tmp_path)
    exact, reader = store.to_numpy()["features"], FeatureDataset(store, 8, shuffle=False)
    for i in (0, 0, 1, 0, 1, 1, 2, 3, 2, 3):
        features, _ = reader[i]
        np.testing.assert_array_equal(features, exact[8 * i : 8 * i + 8])
        features -= 100
    loader = FeatureDataset(store, 8, shuffle=False).as_torch()
    for _ in range(3):
        for features, _ in loader:
            np.testing.assert_array_equal(features, exact[:8])
            features.sub_(100)
            break


@pytest.mark.parametrize("slow", [False, True])
def test_a_read_that_fails_is_tried_again(trunk, tmp_path, monkeypatch, slow):
    from keras_graft.features.head import epoch as reading

    monkeypatch.setattr(reading, "_BLOCK", 1)
    monkeypatch.setattr(reading, "_SURE", -1.0 if slow else 1e9)
    monkeypatch.setattr(reading, "_FAST", 1 << 60)
    store = run(trunk, (images()[0], np.arange(50)), tmp_path)
    reader, take, broken = FeatureDataset(store, 8, shuffle=False), store.take, []

    def fails(indices, *kinds):
        if 8 in indices and not broken:
            broken.append(indices)
            raise OSError("the disk")
        return take(indices, *kinds)

    monkeypatch.setattr(store, "take", fails)
    reader[0]
    with pytest.raises(OSError, match="the disk"):
        reader[1]
    assert [reader[i][1].tolist() for i in (1, 2)] == [[*range(8, 16)], [*range(16, 24)]]


def test_passes_may_be_under_way_at_once(trunk, tmp_path):
    store = run(trunk, (images()[0], np.arange(50)), tmp_path)
    passes = FeatureDataset(store, 8).as_torch()
    one = iter(passes)
    found = [next(one)[1] for _ in range(4)]
    other = np.concatenate([y for _, y in passes])
    found = np.concatenate([*found, *(y for _, y in one)])
    assert sorted(other) == sorted(found) == list(range(50)) and other.tolist() != found.tolist()


def test_threads_do_not_live_on_in_a_fork(trunk, tmp_path, monkeypatch):
    from keras_graft.features.head import epoch as reading

    monkeypatch.setattr(reading, "_BLOCK", 1)
    monkeypatch.setattr(reading, "_SURE", -1.0)
    monkeypatch.setattr(reading, "_FAST", 1 << 60)
    store = run(trunk, (images()[0], np.arange(50)), tmp_path)
    reader = FeatureDataset(store, 8, shuffle=False)
    reader[0]
    before = reader._epoch._pool
    monkeypatch.setattr(reading.os, "getpid", lambda: -1)
    assert reader[1][1].tolist() == [*range(8, 16)]
    assert before is not None and reader._epoch._pool not in (None, before)


def test_nothing_and_nonsense_are_taken_for_what_they_are(trunk, tmp_path):
    store = run(trunk, images()[0], tmp_path, keys=[f"k{i}" for i in range(50)])
    assert store.take([], "keys")["keys"].dtype.kind == "U"
    with pytest.raises(kg.FeatureError, match="a list of whole numbers, or as a mask"):
        store.take([[1], [1, 2]])
    with pytest.raises(
        kg.FeatureError, match="batch_size must be a whole number, 1 or more, got 2.5"
    ):
        FeatureDataset(store, 2.5)


def test_parts_of_a_store(trunk, tmp_path):
    x, _ = images()
    store = run(trunk, (x, np.arange(50)), tmp_path)
    parts = [
        FeatureDataset(store, 8, validation_split=0.2, subset=s).to_numpy()[1].tolist()
        for s in ("training", "validation")
    ]
    assert sorted(parts[0] + parts[1]) == list(range(50)) and len(parts[1]) == 10
    assert parts[1] != list(range(40, 50)) and parts[1] == sorted(parts[1])
    some = FeatureDataset(store, 8, indices=np.arange(50) % 2 == 1)
    assert some.to_numpy()[1].tolist() == list(range(1, 50, 2))
    with pytest.raises(kg.FeatureError, match="belong together"):
        FeatureDataset(store, 8, validation_split=0.2)


def test_stores_side_by_side(tmp_path):
    model = kg.freeze(donor())
    x, y = images()
    paths = [tmp_path / "a", tmp_path / "b"]
    for path, at in zip(paths, ("stem", "pool"), strict=True):
        compute(kg.extract(model, at), (x, y), path, dtype="bfloat16", progress=False)
    features, targets = FeatureDataset(paths, 8, names=["fine", "pooled"])[0]
    assert features["fine"].shape == (8, 6, 6, 6) and features["pooled"].shape == (8, 6)
    assert features["fine"].dtype == "float32" and targets.shape == (8,)
    compute(kg.extract(model, "pool"), (x[::-1], y), tmp_path / "c", progress=False)
    with pytest.raises(kg.FeatureError, match="made of different inputs, or in a different order"):
        FeatureDataset([tmp_path / "b", tmp_path / "c"], 8)
    compute(kg.extract(model, "pool"), (x[:9], y[:9]), tmp_path / "d", progress=False)
    with pytest.raises(kg.FeatureError, match="holds 50 samples, .* 9"):
        FeatureDataset([tmp_path / "b", tmp_path / "d"], 8)


def test_stores_side_by_side_may_be_cut_at_different_places(trunk, tmp_path):
    data = images()[0], np.arange(50)
    paths = [run(trunk, data, tmp_path / str(n), shard_bytes=n).path for n in (100, 500)]
    features, targets = FeatureDataset(paths, 50, shuffle=False)[0]
    np.testing.assert_array_equal(features["0"], features["1"])
    assert targets.tolist() == list(range(50))
    other = run(trunk, (data[0][::-1], data[1]), tmp_path / "other")
    with pytest.raises(kg.FeatureError, match="made of different inputs"):
        FeatureDataset([paths[1], other], 8)


def test_targets_are_those_of_the_first_store_that_has_them(trunk, tmp_path):
    x, y = images()[0], np.arange(50)
    bare, with_y, with_w, others = (
        run(trunk, data, tmp_path / name)
        for name, data in {"a": x, "b": (x, y), "c": (x, y, y / 2), "d": (x, -y)}.items()
    )
    found = FeatureDataset([bare, with_y, with_w], 50, shuffle=False)[0]
    assert found[1].tolist() == y.tolist() and found[2].tolist() == (y / 2).tolist()
    with pytest.raises(kg.FeatureError, match="hold different 'targets'.*targets=False"):
        FeatureDataset([bare, with_y, others], 8)
    weights = run(trunk, (x, None, y / 2), tmp_path / "e")
    with pytest.raises(kg.FeatureError, match="weights but no targets"):
        FeatureDataset(weights, 8)


def test_as_tf_and_as_torch(trunk, tmp_path):
    x, _ = images()
    store = run(trunk, (x, np.arange(50)), tmp_path, dtype="float16")
    for made in (FeatureDataset(store, 8).as_tf(), FeatureDataset(store, 8).as_torch()):
        first, second = ([np.asarray(y) for _, y in made] for _ in range(2))
        assert len(first) == 7 == len(made)
        assert sorted(np.concatenate(first)) == list(range(50))
        assert np.concatenate(first).tolist() != np.concatenate(second).tolist()
    exact, sizes = store.to_numpy()["features"], []
    made = FeatureDataset(store, 4, seed=7).as_tf()  # several batches are handed over at once
    orders = []
    for epoch in range(2):
        order = [y for features, targets in made for y in np.asarray(targets).tolist()]
        assert order == np.random.default_rng([7, epoch]).permutation(50).tolist()
        orders.append(order)
    for features, targets in made:
        np.testing.assert_array_equal(np.asarray(features), exact[np.asarray(targets)])
        sizes.append(len(targets))
    assert sizes == [4] * 12 + [2] and orders[0] != orders[1]
    x = keras.Input((2,))
    several = run(keras.Model(x, [x * 1.0, x * 2.0]), np.ones((9, 2), "float32"), tmp_path / "l")
    for made in (FeatureDataset(several, 4).as_tf(), FeatureDataset(several, 4).as_torch()):
        for ((one, two),) in made:
            np.testing.assert_array_equal(2 * np.asarray(one), np.asarray(two))


def test_several_features_and_targets_in_lists(tmp_path):
    x, y = images()
    model = donor()
    taps = [model.get_layer(name).output for name in ("pool", "stem")]
    trunk = kg.freeze(keras.Model(model.input, taps))
    store = run(trunk, (x, [y, y / 2]), tmp_path)
    inputs = [keras.Input(part.shape[1:]) for part in trunk.outputs]
    both = layers.Concatenate()([inputs[0], layers.GlobalMaxPooling2D()(inputs[1])])
    head = keras.Model(inputs, [layers.Dense(1)(both), layers.Dense(1)(both)])
    head.compile(keras.optimizers.SGD(0.0), ["mse", "mse"])
    features, targets = FeatureDataset(store, 8).to_numpy()
    expected = head.predict(features, verbose=0)
    reader = FeatureDataset(store, 8, shuffle=False)
    for a, b in zip(head.predict(reader, verbose=0), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    losses = [
        head.evaluate(features, targets, verbose=0)[0], head.evaluate(reader, verbose=0)[0],
        head.fit(reader, verbose=0).history["loss"][0],
    ]  # fmt: skip
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)
