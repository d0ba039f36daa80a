"""Features: what is kept, what is refused, what comes back, and that the head learns the same."""

import errno
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

import keras_graft as kg
from keras_graft.features import FeatureDataset, FeatureStore, compute
from keras_graft.features.data import Batch, batches, count
from keras_graft.features.folder import Folder


def donor():
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(6, 3, activation="relu", name="stem")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Dropout(0.5, name="drop")(x)
    y = layers.Conv2D(6, 3, padding="same", activation="relu", name="block")(x)
    x = layers.Add(name="add")([x, y])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(4, name="out")(x), name="donor")


def images(n=50, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((n, 8, 8, 3), "float32"), rng.integers(0, 4, n)


@pytest.fixture
def trunk():
    return kg.freeze(kg.split(donor(), at="pool")[0])


def run(trunk, data, folder, **kwargs):
    kwargs = {"batch_size": 8, "progress": False, "shard_bytes": 500, **kwargs}
    return compute(trunk, data, folder / "store", **kwargs)


# -- what is kept ----------------------------------------------------------------------------


def test_rows_are_what_the_trunk_gives(trunk, tmp_path):
    x, y = images()
    store = run(trunk, (x, y, np.arange(50) / 2), tmp_path, keys=[f"naïve {i}" for i in range(50)])
    found = store.take([49, 0, 17])
    expected = np.concatenate([trunk.predict_on_batch(x[i : i + 8]) for i in range(0, 50, 8)])
    np.testing.assert_array_equal(found["features"], expected[[49, 0, 17]])
    np.testing.assert_array_equal(found["targets"], y[[49, 0, 17]])
    assert found["weights"].tolist() == [24.5, 0, 8.5]
    assert found["keys"].tolist() == ["naïve 49", "naïve 0", "naïve 17"]
    assert len(store) == 50 and store.complete and len(store.manifest.shards) == 4
    assert store.verify() == store.bytes
    np.testing.assert_array_equal(store.to_numpy("features")["features"], expected)
    assert store.take([])["features"].shape == (0, 6)
    assert "50 samples in 4 shards" in str(store) and "(?, 6) float32" in str(store)
    with pytest.raises(kg.FeatureError, match="has the samples 0 to 49"):
        store.take([50])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes(trunk, tmp_path, dtype):
    x, _ = images()
    store = run(trunk, x, tmp_path, dtype=dtype)
    exact = trunk.predict(x, batch_size=8, verbose=0)
    kept = store.take(np.arange(50))["features"]
    assert kept.dtype.name == dtype == store.manifest.columns["features/"].dtype
    close = {"float16": 1e-3, "bfloat16": 1e-2, "float32": 1e-6}[dtype]
    np.testing.assert_allclose(kept.astype("float32"), exact, rtol=close, atol=close / 10)
    assert np.array_equal(kept.astype("float32"), exact) == (dtype == "float32")


def test_all_taps_in_one_pass(tmp_path):
    model = kg.freeze(donor())
    x, y = images()
    store = run(kg.extract(model, {"a": "stem", "b": "pool"}), (x, {"y": y}), tmp_path)
    found = store.take([3, 1])
    assert found["features"]["a"].shape == (2, 6, 6, 6) and found["features"]["b"].shape == (2, 6)
    np.testing.assert_array_equal(found["targets"]["y"], y[[3, 1]])
    listed = keras.Model(model.input, [model.get_layer("stem").output, model.output])
    other = compute(listed, x, tmp_path / "list", batch_size=8, progress=False)
    assert [f.shape for f in other.take([0])["features"]] == [(1, 6, 6, 6), (1, 4)]
    assert "targets" not in run(listed, (x, y), tmp_path, targets=False, resume=False).take([0])


def test_overflow_is_an_error_and_not_an_infinity(tmp_path):
    x = keras.Input((2,))
    trunk = keras.Model(x, x * 1000.0, name="loud")
    data = np.ones((20, 2), "float32")
    for size in (70, -70):
        data[13] = size
        with pytest.raises(
            kg.FeatureError, match="Sample 13 fails: features is up to 70000.*bfloat16"
        ):
            run(trunk, data, tmp_path, dtype="float16")
    assert len(run(trunk, data, tmp_path, dtype="bfloat16", resume=False)) == 20


def test_float16_is_numpys_to_the_bit():
    from keras_graft.features.half import _CHUNK, half

    low = [0, 1, 0xFFE, 0xFFF, 0x1000, 0x1001, 0x1FFF, 0x2FFF, 0x3000, 0x3001, 0x7FFF, 0x8000,
           0xFFFF]  # fmt: skip
    # Each exponent and sign, at the edges of rounding.
    every = np.add.outer(np.arange(1 << 16, dtype="uint32") << 16, np.array(low, "uint32"))
    every = every.astype("uint32").view("float32")
    fits = np.abs(every) <= 65504
    given = every[fits]
    assert given.size > 9 * _CHUNK
    for shaped in (given, given[:1], given[:0], given[: 2 * _CHUNK].reshape(2, -1, 4)):
        found = half(shaped)
        assert found.shape == shaped.shape and found.dtype == "float16"
        np.testing.assert_array_equal(found.view("uint16"), shaped.astype("float16").view("uint16"))
    for beyond in (np.nan, np.inf, -np.inf, 65505, -1e9):
        assert half(np.append(given, np.float32(beyond))) is None


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
    assert len(store) == 40 and store.verify() and "left out, since" in str(store)
    # Taken as it is, and gone on with, only by who knows that samples are left out.
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
    from keras_graft.features import ray_worker
    from keras_graft.features.columns import Columns
    from keras_graft.features.fingerprint import fingerprint
    from keras_graft.features.ray_rows import Rows

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
    from keras_graft.features.building import reason

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
    says = r"fails on all of the first 8 samples, of \(8, 8, 8, 3\) float32, where it takes \(None, .*: ValueError: no such word"
    with pytest.raises(kg.FeatureError, match=says) as caught:
        run(trunk, (x, y), tmp_path, on_error="skip")
    assert type(caught.value.__cause__) is ValueError


# -- data ------------------------------------------------------------------------------------


class Py(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return -(-len(self.x) // 8)

    def __getitem__(self, i):
        return self.x[i * 8 : i * 8 + 8], self.y[i * 8 : i * 8 + 8]


def kinds(x, y):
    import tensorflow as tf
    import torch

    yield (x, y)
    yield Py(x, y)
    yield [(x[i : i + 8], y[i : i + 8]) for i in range(0, len(x), 8)]
    yield ((x[i : i + 8], y[i : i + 8]) for i in range(0, len(x), 8))
    yield tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    tensors = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    yield torch.utils.data.DataLoader(tensors, batch_size=8)


def test_every_kind_of_data_gives_the_same_batches():
    x, y = images()
    for data in kinds(x, y):
        found = list(batches(data, 8))
        assert [len(b) for b in found] == [8] * 6 + [2], type(data)
        np.testing.assert_array_equal(np.concatenate([b.x for b in found]), x)
        np.testing.assert_array_equal(np.concatenate([b.y for b in found]), y)
        assert all(isinstance(b.x, np.ndarray) and b.w is None for b in found)


def test_how_many_samples_is_known_where_it_can_be():
    x, y = images()
    assert [count(d) for d in kinds(x, y)] == [50, None, None, None, None, 50]


def test_of_a_loader_the_samples_of_its_sampler_count(trunk, tmp_path):
    import torch

    x, y = images()
    tensors = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))

    def loader(**how):
        return torch.utils.data.DataLoader(tensors, **how)

    some = loader(batch_size=8, sampler=range(20))
    assert count(some) == 20
    for _ in range(2):  # the second time it is there
        assert len(run(trunk, some, tmp_path, keys=range(20))) == 20
    assert count(loader(batch_sampler=[[0, 1], [2]])) is None
    assert count(loader(batch_size=8, drop_last=True)) is None
    assert count(loader(batch_size=None)) is None


def test_several_inputs():
    x = {"a": np.zeros((5, 2)), "b": np.ones((5, 3))}
    (batch,) = batches((x, None, np.arange(5)), 8)
    assert batch.x["b"].shape == (5, 3) and batch.y is None and batch.w.tolist() == [0, 1, 2, 3, 4]
    (batch,) = batches([x["a"], x["b"]], 8)
    assert [leaf.shape for leaf in batch.x] == [(5, 2), (5, 3)]


def test_tables_are_taken_by_position_and_not_by_their_labels():
    import pandas

    table = pandas.DataFrame({"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]}, index=[2, 0, 1])
    y = pandas.Series([7, 8, 9], index=[1, 2, 0])
    assert count((table, y)) == count(table) == 3
    assert next(batches({"t": table}, 8)).x["t"].tolist() == [[1, 4], [2, 5], [3, 6]]
    for data in ((table, y), ({"t": table}, y)):
        (batch,) = batches(data, 8)
        leaf = batch.x["t"] if isinstance(batch.x, dict) else batch.x
        assert leaf.tolist() == [[1, 4], [2, 5], [3, 6]]
        assert batch[[2, 0]].y.tolist() == [9, 7]
    assert next(iter(batches(table, 2))).x.tolist() == [[1, 4], [2, 5]]


def test_tensors_of_torch_are_taken_whatever_they_are():
    import torch

    x = torch.arange(6.0).reshape(3, 2).requires_grad_()
    y = torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16)
    (batch,) = batches([(x, y)], 8)
    assert batch.x.tolist() == [[0, 1], [2, 3], [4, 5]] and batch.y.dtype == "float32"
    assert batch.y.tolist() == [1, 2, 3]


@pytest.mark.parametrize("data, says", [
    ((np.zeros((3, 2)), np.zeros(4)), r"different numbers of samples: \[3, 4\]"),
    (7, "int is no data: give arrays"),
    ([(np.zeros(()),)], "one sample, not a batch of samples: add .batch"),
    ([(np.zeros((2, 1)), "text")], "targets are texts .a list of str"),
    ([(1, 2, 3, 4)], "got 4 things"),
    ([(np.zeros((8, 2)), np.zeros(7))], r"arrays of a batch have different numbers.*\[7, 8\]"),
    ([(np.zeros((8, 2)), np.zeros(8), np.zeros(9))], r"different numbers of samples: \[8, 9\]"),
    ((np.zeros((2, 2)), [0, 1]), r"targets are a list of int: give np.asarray\(targets\)"),
    ((np.zeros((2, 2)), [[0], [1]]), "targets are a list of list"),
    (np.array([[1], [1, 2]], object), "Python objects, or rows of different lengths"),
    ((np.zeros((2, 2)), [np.int64(0), np.int64(1)]), "targets are a list of int64"),
    ((np.zeros((2, 2)), np.array(3)), "one sample, not a batch of samples"),
    ((None, np.zeros(2)), "has no inputs: the first of"),
    (({"a": {"b": np.zeros((2, 2))}}, np.zeros(2)), "inputs are nested more than once"),
    ((np.zeros((2, 2)), {"a": [np.zeros(2)]}), "targets are nested more than once"),
])  # fmt: skip
def test_what_is_no_data_is_refused(data, says):
    with pytest.raises(kg.FeatureError, match=says):
        list(batches(data, 8))


def test_what_is_sparse_or_ragged_is_refused():
    import scipy.sparse
    import tensorflow as tf
    import torch

    sparse = torch.eye(3).to_sparse()
    for leaf in (
        scipy.sparse.eye(3).tocsr(), tf.ragged.constant([[1.0], [1.0, 2.0], [3.0]]),
        tf.sparse.eye(3), sparse, torch.empty(3, 2, device="meta"),
    ):  # fmt: skip
        for data in ((leaf, np.zeros(3)), (np.zeros((3, 2)), leaf), [(np.zeros((3, 2)), leaf)]):
            with pytest.raises(kg.FeatureError, match="sparse, ragged or of no values: make it"):
                list(batches(data, 8))
    (batch,) = batches((tf.Variable([[1.0], [2.0]]), torch.tensor([3, 4])), 8)
    assert batch.x.tolist() == [[1], [2]] and batch.y.tolist() == [3, 4]
    (batch,) = batches(np.array([1, 2], ">f4"), 8)
    assert batch.x.dtype.isnative and batch.x.tolist() == [1, 2]
    assert [b.x.tolist() for b in batches([[np.array([1, 2]), np.array([3, 4])]], 8)] == [[1, 2]]


@pytest.mark.parametrize("fold", [
    lambda x: keras.ops.reshape(x, (-1, 2)), keras.ops.mean,
    lambda x: keras.ops.mean(x, axis=0, keepdims=True),
])  # fmt: skip
def test_a_trunk_that_does_not_keep_the_samples_apart_is_refused(tmp_path, fold):
    x = keras.Input((4,))
    trunk = keras.Model(x, {"same": x * 1.0, "folded": fold(x)})
    with pytest.raises(kg.FeatureError, match="shape .* for 8 samples.*one row for each sample"):
        run(trunk, np.ones((16, 4), "float32"), tmp_path)


def test_what_is_nested_twice_is_refused(trunk, tmp_path):
    x = keras.Input((4,))
    nested = keras.Model(x, {"a": [x * 1.0, x * 2.0], "b": x * 3.0})
    with pytest.raises(kg.FeatureError, match="The features are nested more than once.*one dict"):
        run(nested, np.ones((16, 4), "float32"), tmp_path)
    images_, y = images(16)
    twice = [(images_[i : i + 8], {"a": [y[i : i + 8]] * 8}) for i in (0, 8)]
    with pytest.raises(kg.FeatureError, match="The targets are nested more than once"):
        run(trunk, twice, tmp_path)


def test_sources_may_fill_the_same_arrays_for_each_batch(trunk, tmp_path):
    import torch

    x, y = images(48)
    shared = np.empty((8, 8, 8, 3), "float32"), np.empty(8, "int64")

    class Filled(Py):
        def __getitem__(self, i):
            shared[0][:], shared[1][:] = super().__getitem__(i)
            return shared

    def tensors():
        for batch in map(Filled(x, y).__getitem__, range(6)):
            yield tuple(map(torch.from_numpy, batch))

    expected = trunk.predict(x, batch_size=8, verbose=0)
    for number, data in enumerate((Filled(x, y), tensors())):
        found = run(trunk, data, tmp_path / str(number)).to_numpy()
        assert found["targets"].tolist() == y.tolist()
        np.testing.assert_allclose(found["features"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("first", [0, 1])
def test_every_batch_has_the_same_columns(trunk, tmp_path, first):
    x, y = images(16)
    data = [(x[:8],), (x[8:], y[8:])]
    with pytest.raises(kg.FeatureError, match="from 8 on have other columns.*: targets. Every"):
        run(trunk, [data[first], data[1 - first]], tmp_path)
    with pytest.raises(
        kg.FeatureError, match="batch_size must be a whole number, 1 or more, got 0"
    ):
        run(trunk, (x, y), tmp_path, batch_size=0)


def test_data_without_an_end_is_refused():
    import tensorflow as tf

    with pytest.raises(kg.FeatureError, match="has no end: take .repeat"):
        list(batches(tf.data.Dataset.range(3).repeat(), 8))


# -- what is refused -------------------------------------------------------------------------


def test_a_trunk_that_training_changes_is_refused_with_the_way_out(tmp_path):
    trunk = kg.split(donor(), at="pool")[0]
    with pytest.raises(kg.FeatureError) as caught:
        run(trunk, images()[0], tmp_path)
    text = str(caught.value)
    assert "'drop' draw random numbers in training" in text
    assert "'bn' move their statistics in training" in text
    assert "'stem', 'bn', 'block' have weights that training would change" in text
    assert "trunk = kg.freeze(trunk)" in text and "frozen=True" not in text
    with pytest.raises(kg.FeatureError, match="'drop' draw random numbers in training; 'bn' move"):
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
        kg.FeatureError, match="'vae' gives a sample other features.*'outer/noisy' draw.*Cut before"
    ):
        run(noisy, data, tmp_path)
    assert not (tmp_path / "store" / "manifest.json").exists()
    for odd in ({"batch_size": 1}, {}):
        with pytest.raises(kg.FeatureError, match="a sample other features in another place"):
            run(noisy, data, tmp_path / "odd", **odd)
    data[:, 0] = [np.inf, np.nan, 1e6, *range(17)]
    wide = kg.freeze(keras.Model(x, [Noisy()(x), x[:, :0]]))
    with pytest.raises(kg.FeatureError, match="a sample other features in another place"):
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
    with pytest.raises(kg.FeatureError, match="a sample other features in another place"):
        run(noisy, data, tmp_path, on_error="skip")


def test_a_model_that_is_no_graph_is_frozen_as_a_layer_of_one(tmp_path):
    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.drop = layers.Dropout(0.5, name="drop")

        def call(self, x):
            return self.drop(x)

    own = Own()
    own(np.ones((1, 4)))
    data = np.ones((20, 4), "float32")
    with pytest.raises(kg.FeatureError, match=r"kg.freeze\(keras.Model\(x, trunk\(x\)\)\)"):
        run(own, data, tmp_path)
    x = keras.Input((4,))
    store = run(kg.freeze(keras.Model(x, own(x))), data, tmp_path)
    np.testing.assert_array_equal(store.to_numpy()["features"], data)


def test_spectral_normalization_moves_in_training(tmp_path):
    x = keras.Input((4,))
    trunk = keras.Model(x, layers.SpectralNormalization(layers.Dense(3), name="sn")(x))
    trunk.trainable = False
    with pytest.raises(kg.FeatureError, match="function.*: 'sn' move their statistics in training"):
        run(trunk, np.ones((8, 4), "float32"), tmp_path)
    run(kg.freeze(trunk), np.ones((8, 4), "float32"), tmp_path)


def test_what_is_a_file_is_no_folder_for_a_store(trunk, tmp_path):
    (tmp_path / "store").write_text("mine")
    with pytest.raises(kg.FeatureError, match="store is a file, or lies in one"):
        run(trunk, images()[0], tmp_path)
    assert (tmp_path / "store").read_text() == "mine"


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
    with pytest.raises(kg.FeatureError, match="holds other features: the weights of the trunk"):
        run(other, (x, y), tmp_path, dtype="float16")
    with pytest.raises(kg.FeatureError, match="the structure of the trunk"):
        run(kg.extract(trunk, "stem"), (x, y), tmp_path, dtype="float16")
    with pytest.raises(
        kg.FeatureError, match=r"features: \(\?, 6\) float16, now \(\?, 6\) float32"
    ):
        run(trunk, (x, y), tmp_path)
    with pytest.raises(kg.FeatureError, match="other inputs, or in another order.*resume=False"):
        run(trunk, (x[::-1], y), tmp_path, dtype="float16")
    with pytest.raises(
        kg.FeatureError,
        match="samples 0 to .* had other targets, sample weights or keys.*resume=False",
    ):
        run(trunk, (x, y[::-1]), tmp_path, dtype="float16")
    with pytest.raises(kg.FeatureError, match="50 samples, now 40"):
        run(trunk, (x[:40], y[:40]), tmp_path, dtype="float16")
    with pytest.raises(kg.FeatureError, match="targets: .* int64, now absent"):
        run(trunk, x, tmp_path, dtype="float16")
    assert len(run(trunk, (x[::-1], y), tmp_path, resume=False)) == 50


def test_a_store_that_only_lacks_its_end_is_compared_too(trunk, tmp_path):
    x, y = images()
    store = run(trunk, x, tmp_path, dtype="float16")
    kg.features.keep(store.path, len(store.manifest.shards))
    with pytest.raises(kg.FeatureError, match="float16, now .* float32"):
        run(trunk, x, tmp_path)
    with pytest.raises(kg.FeatureError, match="targets: absent, now"):
        run(trunk, (x, y), tmp_path, dtype="float16")
    with pytest.raises(kg.FeatureError, match="keys: absent, now"):
        run(trunk, x, tmp_path, dtype="float16", keys=range(50))
    assert run(trunk, x, tmp_path, dtype="float16").manifest == store.manifest


def test_columns_are_compared_where_the_first_shards_have_no_rows(tmp_path):
    inputs = keras.Input((4,))
    trunk = keras.Model(inputs, inputs * 1.0)
    x = np.ones((32, 4), "float32")
    x[:16] = 1e9
    how = {"on_error": "skip", "shard_bytes": 1}
    assert len(run(trunk, x, tmp_path, dtype="float16", **how)) == 16
    with pytest.raises(kg.FeatureError, match="float16, now .* float32"):
        run(trunk, x, tmp_path, dtype="float32", **how)


def test_all_targets_and_keys_of_arrays_are_compared(trunk, tmp_path):
    x, y = images()
    keys = np.arange(50)
    run(trunk, (x, y), tmp_path, keys=keys)
    other = y.copy()
    other[45] += 1
    says = "samples 32 to .* had other targets, sample weights or keys"
    with pytest.raises(kg.FeatureError, match=says):
        run(trunk, (x, other), tmp_path, keys=keys)
    with pytest.raises(kg.FeatureError, match=says):
        run(trunk, (x, y), tmp_path, keys=np.where(keys == 45, 99, keys))
    assert len(run(trunk, (x, y), tmp_path, keys=keys)) == 50


def test_keys_that_do_not_fit_are_refused(trunk, tmp_path):
    with pytest.raises(kg.FeatureError, match="50 samples and 3 keys"):
        run(trunk, images()[0], tmp_path, keys=[1, 2, 3])
    with pytest.raises(kg.FeatureError, match="more samples than the 9 keys"):
        run(trunk, (b for b in [images(20)[0]]), tmp_path, keys=range(9))
    for _ in range(2):
        with pytest.raises(kg.FeatureError, match="20 samples and 30 keys"):
            run(trunk, (b for b in [images(20)[0]]), tmp_path, keys=range(30), resume=False)
        run(trunk, (b for b in [images(20)[0]]), tmp_path, keys=range(20), resume=False)
    with pytest.raises(kg.FeatureError, match="20 samples and 30 keys"):
        run(trunk, (b for b in [images(20)[0]]), tmp_path, keys=range(30))


@pytest.mark.parametrize("keys, back", [
    (np.array([b"k%d" % i for i in range(20)]), [f"k{i}" for i in range(20)]),
    ((f"é{i}" for i in range(20)), [f"é{i}" for i in range(20)]),
    (np.arange(20).astype(object), list(range(20))),
    (range(20), list(range(20))),
])  # fmt: skip
def test_keys_come_back_as_what_they_were(trunk, tmp_path, keys, back):
    assert run(trunk, images(20)[0], tmp_path, keys=keys).take(range(20))["keys"].tolist() == back


def test_a_key_that_would_come_back_shorter_is_refused(trunk, tmp_path):
    keys = [f"k{i}" for i in range(18)] + ["a\0b", "a\0"]
    with pytest.raises(kg.FeatureError, match=r"Key 19, 'a\\x00', ends with a NUL"):
        run(trunk, images(20)[0], tmp_path, keys=keys)
    assert not (tmp_path / "store").exists()
    store = run(trunk, images(20)[0], tmp_path, keys=[*keys[:19], "a"])
    assert store.take([18, 19])["keys"].tolist() == ["a\0b", "a"]


@pytest.mark.parametrize("keys", [
    [], [1.5] * 20, [*range(19), "a"], [2**70] * 20, [None] * 20, [[1]] * 20, [b"\xff"] * 20,
])  # fmt: skip
def test_keys_that_are_neither_integers_nor_texts_are_refused(trunk, tmp_path, keys):
    with pytest.raises(kg.FeatureError, match="keys is a list of integers .*or of texts"):
        run(trunk, images(20)[0], tmp_path, keys=keys)


def test_a_fingerprint_is_of_what_a_trunk_does(trunk):
    from keras_graft.features.fingerprint import fingerprint

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
    from keras_graft.features.fingerprint import fingerprint

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
    from keras_graft.features import fingerprint as fingerprint_module
    from keras_graft.features.fingerprint import fingerprint

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
    assert "[\"'float16'\", \"'float32'\"]" in fingerprint_module._config(chosen).replace("\\", "")
    a, b = layers.Dense(4), layers.Dense(4)
    crossed = [of(lambda x, pair=pair: pair[1](pair[0](x))) for pair in ((a, b), (b, a), (a, a))]
    assert len({str(fingerprint(model)) for model in crossed}) == 3


def test_shards_are_what_the_library_of_their_format_reads(tmp_path):
    from safetensors import deserialize, safe_open

    from keras_graft.features.shards import DTYPES, dtype_of, encode

    rng = np.random.default_rng(0)
    for rows in ([3, 1, 5], [0], [0, 2]):
        columns = {
            f"{kind}/naïve": [rng.integers(0, 2, (n, 5, 3)).astype(dtype_of(kind)) for n in rows]
            for kind in DTYPES
        }
        columns["aside"] = [part[:, ::2].swapaxes(1, 2) for part in columns["float32/naïve"]]
        data = b"".join(encode(columns))
        found = dict(deserialize(data))
        assert found.keys() == columns.keys()
        for name, parts in columns.items():
            whole = np.concatenate(parts)
            assert bytes(found[name]["data"]) == whole.tobytes()
            assert found[name]["shape"] == [*whole.shape]
        (tmp_path / "shard").write_bytes(data)
        with safe_open(tmp_path / "shard", "numpy") as file:
            for name in columns.keys() - {"bfloat16/naïve"}:
                expected = np.concatenate(columns[name])
                np.testing.assert_array_equal(file.get_tensor(name), expected, strict=True)
        # Who maps the file needs numbers at multiples of their length.
        where = [data.find(np.concatenate(p).tobytes()) for p in columns.values()]
        assert sum(rows) != 9 or all(
            at > 0 and at % p[0].itemsize == 0
            for at, p in zip(where, columns.values(), strict=True)
        )


WORDS = ["cat", "dog", "a bird"] * 4


def texts():
    """Labels as texts, in every form in which data gives them."""
    yield np.array(WORDS), "str192"
    yield np.array(WORDS, object), "object"
    yield np.array([w.encode() for w in WORDS]), "bytes48"
    yield np.array([w.encode() for w in WORDS], object), "object"
    yield np.array(WORDS)[:, None], "str192"
    yield {"a": np.zeros(12), "b": np.array(WORDS, object)}, "object"
    yield WORDS, "a list of str"
    if hasattr(np.dtypes, "StringDType"):
        yield np.array(WORDS, np.dtypes.StringDType()), "StringDType"


@pytest.mark.parametrize("y, kind", list(texts()))
@pytest.mark.parametrize("whole", [True, False])
def test_targets_that_are_texts_are_refused_before_the_trunk_runs(
    trunk, tmp_path, monkeypatch, y, kind, whole
):
    def runs(x):
        raise AssertionError("the trunk runs")

    monkeypatch.setattr(keras.Model, "predict_on_batch", lambda *_: runs(0))
    x = images(12)[0]
    data = (x, y) if whole else [(x, y)]
    says = (
        rf"targets.* are texts \(.*{kind}.*\), which a store cannot hold: give each class a number"
    )
    with pytest.raises(kg.FeatureError, match=says):
        run(trunk, data, tmp_path)
    with pytest.raises(kg.FeatureError, match=says):
        kg.features.fit_head(donor(), "pool", data, store=tmp_path / "store", progress=False)
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_the_ways_out_for_targets_that_are_texts(trunk, tmp_path):
    x, y = images(12)[0], np.array(WORDS, object)
    assert run(trunk, x, tmp_path, keys=y).take([2, 0])["keys"].tolist() == ["a bird", "cat"]
    names, numbers = np.unique(y, return_inverse=True)
    fitted = kg.features.fit_head(
        donor(), "pool", (x, numbers), store=tmp_path / "fitted", progress=False,
        compile={"optimizer": "sgd", "loss": "sparse_categorical_crossentropy"},
    )  # fmt: skip
    kept = fitted.store.take([0, 1, 2], "targets")["targets"]
    assert names[kept].tolist() == ["cat", "dog", "a bird"]


def test_text_in_the_batches_of_other_libraries(trunk, tmp_path):
    import torch

    x = images(12)[0]
    loader = torch.utils.data.DataLoader([*zip(x, WORDS, strict=True)], batch_size=4)
    with pytest.raises(kg.FeatureError, match="targets are texts .a list of str.*np.unique"):
        run(trunk, loader, tmp_path)
    pandas = pytest.importorskip("pandas")
    for series in (pandas.Series(WORDS), pandas.Series(WORDS, dtype="category")):
        with pytest.raises(kg.FeatureError, match="targets are texts .object.*np.unique"):
            run(trunk, (x, series), tmp_path)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices((x, WORDS)).batch(4)
        with pytest.raises(kg.FeatureError, match="targets are texts .object.*np.unique"):
            run(trunk, data, tmp_path)


def test_objects_that_are_no_texts(trunk, tmp_path):
    x = images(12)[0]
    with pytest.raises(
        kg.FeatureError, match=r"targets are no numbers \(object\).*y.astype\('float"
    ):
        run(trunk, (x, np.array([1, 2.5, True] * 4, object)), tmp_path)
    with pytest.raises(kg.FeatureError, match="sample weights are no numbers .object"):
        run(trunk, (x, np.zeros(12), np.ones(12, object)), tmp_path)
    with pytest.raises(kg.FeatureError, match="targets are no numbers .datetime64"):
        run(trunk, (x, np.zeros(12, "datetime64[s]")), tmp_path)
    with pytest.raises(kg.FeatureError, match="inputs are texts .object.*x.astype.str"):
        run(trunk, np.array(WORDS, object), tmp_path)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="texts are TensorFlow's")
def test_inputs_that_are_texts_of_one_length(tmp_path):
    trunk = keras.Sequential([
        keras.Input((), dtype="string"),
        layers.TextVectorization(output_mode="multi_hot", vocabulary=["cat", "dog", "bird"]),
    ])  # fmt: skip
    x = np.array(WORDS, object)
    store = run(trunk, x.astype(str), tmp_path)
    np.testing.assert_array_equal(
        store.to_numpy()["features"], trunk.predict_on_batch(keras.ops.convert_to_tensor(WORDS))
    )


# -- the store -------------------------------------------------------------------------------


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(kg.FeatureError, match="no store of features: it has no manifest.json"):
        FeatureStore(tmp_path)
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "store"):
        with pytest.raises(kg.FeatureError, match="is a file, or lies in one, and a store is a fo"):
            FeatureStore(path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(kg.FeatureError, match="cannot be read"):
        FeatureStore(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(kg.FeatureError, match="format 99.*pip install -U"):
        FeatureStore(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(
        kg.FeatureError, match="format 1, .* reads 2: compute it again, resume=False"
    ):
        FeatureStore(tmp_path)


def test_a_flipped_bit_in_the_first_shard_leaves_nothing_to_keep(trunk, tmp_path):
    x, y = images()
    store = run(trunk, (x, y), tmp_path)
    path = tmp_path / "store" / "shard-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    with pytest.raises(kg.FeatureError, match="Nothing before it is left: .*resume=False"):
        store.verify()
    run(trunk, (x, y), tmp_path, resume=False).verify()


def test_a_flipped_bit_is_found_and_named_and_computed_again(trunk, tmp_path):
    x, y = images()
    store = run(trunk, (x, y), tmp_path)
    whole = store.to_numpy()
    path = tmp_path / "store" / "shard-00002.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    with pytest.raises(kg.FeatureError) as caught:
        FeatureStore(store.path).verify()
    assert "the checksum of 'shard-00002.safetensors'" in str(caught.value)
    assert f"kg.features.keep({store.path!r}, 2)" in str(caught.value)
    kg.features.keep(store.path, 2)
    assert not FeatureStore(store.path).complete
    again = run(trunk, (x, y), tmp_path)
    again.verify()
    np.testing.assert_array_equal(again.to_numpy()["features"], whole["features"])
    opened = FeatureStore(store.path)
    path.unlink()
    with pytest.raises(kg.FeatureError, match="'shard-00002.safetensors' is not there any more. K"):
        opened.verify()
    path.write_bytes(data[:-1])
    with pytest.raises(kg.FeatureError, match="'shard-00002.safetensors' has .* bytes, .* written"):
        FeatureStore(store.path)


def _rows(manifest):
    first, *rest = manifest.shards
    return {"shards": (replace(first, rows=first.rows + 2), *rest)}


def _dtype(manifest):
    found = {name: replace(c, dtype="float16") for name, c in manifest.columns.items()}
    return {"columns": {**manifest.columns, "features/": found["features/"]}}


def _name(manifest):
    names = {"targets/": "targets/x"}
    columns = {names.get(k, k): v for k, v in manifest.columns.items()}
    return {"columns": columns, "layout": {**manifest.layout, "targets": "dict"}}


@pytest.mark.parametrize("change", [_rows, _dtype, _name])
def test_verify_compares_the_shards_with_the_manifest(trunk, tmp_path, change):
    store = run(trunk, (images()[0], np.arange(50)), tmp_path)
    store.manifest.replace(**change(store.manifest)).save(Folder(store.path))  # checksum and all
    with pytest.raises(kg.FeatureError, match="'shard-00000.*' does not hold the rows and columns"):
        FeatureStore(store.path).verify()


@pytest.mark.parametrize("old, new", [
    ('"rows": 16', '"rows": 18'), ('float32', 'float16'), ('"targets/"', '"targets/x"'),
])  # fmt: skip
def test_a_manifest_that_was_edited_is_refused(trunk, tmp_path, old, new):
    store = run(trunk, (images()[0], np.arange(50)), tmp_path)
    path = tmp_path / "store" / "manifest.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(kg.FeatureError, match="cannot be read .its checksum is not that of what"):
        FeatureStore(store.path)


def test_samples_are_given_as_numbers_or_as_a_mask(trunk, tmp_path):
    store = run(trunk, (images()[0], np.arange(50)), tmp_path)
    mask = np.arange(50) == 7
    assert store.take(mask)["targets"].tolist() == [7]
    assert store.take(np.array([7], "uint64"))["targets"].tolist() == [7]
    for wrong in (3, [3.0], ["a"], [[1, 2]], mask[:49]):
        with pytest.raises(kg.FeatureError, match="list of whole numbers, or as a mask of 50"):
            store.take(wrong)
        with pytest.raises(kg.FeatureError, match="list of whole numbers, or as a mask of 50"):
            FeatureDataset(store, 8, indices=wrong)
    with pytest.raises(kg.FeatureError, match="has the samples 0 to 49"):
        FeatureDataset(store, 8, indices=[-1])
    with pytest.raises(kg.FeatureError, match="no 'feature': the kinds are features, targets"):
        store.take([3], "feature")


def test_many_shards_are_not_all_open_at_once(trunk, tmp_path, monkeypatch):
    from keras_graft.features import shards

    monkeypatch.setattr(shards, "_OPEN", 2)
    x, _ = images()
    store = run(trunk, (x, np.arange(50)), tmp_path, shard_bytes=1)
    assert len(store.manifest.shards) == 7
    order = np.random.default_rng(0).integers(0, 50, 200)  # some twice
    exact = store.to_numpy()["features"]
    # What is kept in memory: all of it, what is short, nothing.
    for kept, short, names in (
        (shards._KEPT, 0, {"features/", "targets/"}), (0, 8, {"targets/"}), (0, 0, set()),
    ):  # fmt: skip
        monkeypatch.setattr(shards, "_KEPT", kept)
        monkeypatch.setattr(shards, "_SHORT", short)
        store = FeatureStore(store.path)
        found = store.take(order)
        assert store._rows._kept == names
        assert found["targets"].tolist() == order.tolist()
        np.testing.assert_array_equal(found["features"], exact[order])
        assert len(store._rows._open) == 2


def test_what_the_system_reads_in_pieces_is_read_to_its_end(tmp_path, monkeypatch):
    from keras_graft.features import folder

    (tmp_path / "file").write_bytes(bytes(range(100)))
    for read in (lambda number, buffers, at: os.preadv(number, [buffers[0][:7]], at), None):
        monkeypatch.setattr(folder, "_PREADV", read)
        buffer = bytearray(90)
        folder.Parts(tmp_path / "file").read_into(5, memoryview(buffer))
        assert list(buffer) == list(range(5, 95))
        with pytest.raises(kg.FeatureError, match="ends before byte 105"):
            folder.Parts(tmp_path / "file").read_into(15, memoryview(buffer))


def test_memory_is_used_again_once_nobody_refers_to_it(monkeypatch):
    from keras_graft.features import buffers

    pool, size = buffers.Buffers(), buffers._SMALLEST
    first, second, third = (pool.get(size) for _ in range(3))
    assert len({array.ctypes.data for array in (first, second, third)}) == 3
    held = first.view("float32").reshape(-1, 4)[3:5]  # a view of a view
    place = second.ctypes.data
    del first, second
    again = pool.get(size)
    assert again.ctypes.data == place and again.size == size
    assert not np.shares_memory(pool.get(size), held)
    del third
    big = pool.get(4 * size)
    place = big.ctypes.data
    del big
    assert pool.get(size).ctypes.data != place  # who keeps a little would keep all of it
    assert pool.get(3 * size).ctypes.data == place
    kept = [pool.get(size + i) for i in range(200)]
    assert len({array.ctypes.data for array in kept}) == len(kept)
    monkeypatch.setattr(buffers, "_ALL", 4 * size)
    kept += [pool.get(2 * size), pool.get(2 * size)]
    assert sum(map(len, pool._kept)) <= 4 * size
    for odd in (8, buffers._LARGEST + 1):
        array = pool.get(odd)
        assert len(array) == odd and not any(np.shares_memory(array, k) for k in pool._kept)
    kept = [pool.get(odd) for odd in (8, size + 1, size + 40, 2 * size + 8, buffers._LARGEST + 1)]
    assert {array.ctypes.data % 64 for array in kept} == {0}  # or TensorFlow and JAX copy it
    monkeypatch.setattr(buffers, "_TOLD", False)  # as without a GIL
    kept += (alone := [pool.get(size), pool.get(size)])
    assert not any(np.shares_memory(array, k) for array in alone for k in pool._kept)
    assert {array.ctypes.data % 64 for array in kept} == {0}


def test_batches_that_a_backend_holds_are_not_written_over(tmp_path):
    wide = kg.freeze(keras.Sequential([keras.Input((2,)), layers.Dense(8192)]))
    x = np.random.default_rng(0).random((160, 2), "float32")
    store = compute(wide, x, tmp_path, progress=False)
    exact = store.to_numpy()["features"].copy()
    dataset = FeatureDataset(store, 16, shuffle=False)
    held = [keras.ops.convert_to_tensor(dataset[i][0]) for i in range(len(dataset))]
    for i, batch in enumerate(held):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(batch), exact[i * 16 : i * 16 + 16]
        )  # fmt: skip


def test_a_file_system_without_locks_is_no_other_process(trunk, tmp_path, monkeypatch):
    import fcntl

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert len(run(trunk, images()[0], tmp_path)) == 50


def test_a_url_that_became_a_path_is_refused():
    with pytest.raises(kg.FeatureError, match="s3:/bucket/x was a URL.*give it as a str"):
        FeatureStore(Path("s3://bucket/x"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows")
def test_a_lock_ends_with_compute_though_a_child_of_the_data_lives_on(trunk, tmp_path):
    x, _ = images()
    read, write = os.pipe()
    children = []

    def forking():
        for start in range(0, 50, 8):
            if not start:
                children.append(os.fork())
                if not children[0]:
                    os.read(read, 1)  # as the idle worker of a DataLoader waits
                    os._exit(0)
            yield x[start : start + 8]

    try:
        run(trunk, forking(), tmp_path)
        assert len(run(trunk, x, tmp_path)) == 50
    finally:
        os.write(write, b"!")
        os.waitpid(children[0], 0)


def test_keep_waits_for_no_writer_and_counts_from_zero(trunk, tmp_path):
    x, _ = images()
    refused = []

    def meddling():
        for start in range(0, 50, 8):
            if start == 40:
                with pytest.raises(kg.FeatureError, match="Another process is writing") as caught:
                    kg.features.keep(tmp_path / "store", 1)
                refused.append(caught.value)
            yield x[start : start + 8]

    run(trunk, x[:48], tmp_path)
    kg.features.keep(tmp_path / "store", 1)
    store = run(trunk, meddling(), tmp_path)
    assert refused and len(store) == 50 and store.verify()
    with pytest.raises(kg.FeatureError, match="-1 shards: give how many to keep"):
        kg.features.keep(store.path, -1)
    assert FeatureStore(store.path).complete


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_complete_store_in_a_folder_of_others_is_taken(trunk, tmp_path, monkeypatch, number):
    from keras_graft.features import folder

    x, _ = images()
    store = run(trunk, x, tmp_path)

    def opened(path, mode="r", **kwargs):
        if "w" in mode:
            raise OSError(number, "not ours", str(path))
        return open(path, mode, **kwargs)

    monkeypatch.setattr(folder, "open", opened, raising=False)
    # Where the lock alone is another user's, the folder is written to, and the lock counts.
    at = folder.Folder(store.path)
    with at.lock():
        assert at.lock() is None
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # tests may be root's
    assert len(run(trunk, x, tmp_path)) == 50


def test_a_damaged_header_of_a_shard_is_said_to_be_one(trunk, tmp_path):
    path = Path(run(trunk, images()[0], tmp_path).path)
    shard = path / "shard-00001.safetensors"
    good = shard.read_bytes()
    for old, new in (
        (good[:8], good[:7] + b"\x10"), (good[:8], good[:5] + b"\1\0\0"), (b"data_o", b"xata_o"),
        (b'"features/', b'"neatures/'), (b'":{', b'":['),
    ):  # fmt: skip
        shard.write_bytes(good.replace(old, new, 1))
        with pytest.raises(kg.FeatureError, match="shard-00001.* cannot be read: .*verify"):
            FeatureStore(path).to_numpy()
        with pytest.raises(kg.FeatureError, match="the checksum of 'shard-00001"):
            FeatureStore(path).verify()


def test_a_batch_that_fails_as_a_whole_is_said_to(tmp_path, monkeypatch):
    x = keras.Input((4,))
    trunk = kg.freeze(keras.Model(x, layers.Dense(2)(x)))
    predict = trunk.predict_on_batch

    def limited(x):
        if len(x) > 4:
            raise MemoryError("out of memory")
        return predict(x)

    monkeypatch.setattr(trunk, "predict_on_batch", limited)
    says = "fails on 8 samples at once, and on none of them alone .smaller batches.*: MemoryError"
    for on_error in ("raise", "skip"):
        with pytest.raises(kg.FeatureError, match=says):
            run(trunk, np.ones((20, 4), "float32"), tmp_path, on_error=on_error)


def test_numbers_may_be_numpys(tmp_path):
    x = keras.Input((4,))
    trunk = kg.freeze(keras.Model(x, layers.Dense(2)(x)))
    store = run(trunk, np.ones((20, 4), "float32"), tmp_path, batch_size=np.int64(8),
                shard_bytes=np.int64(64))  # fmt: skip
    kg.features.keep(store.path, np.int64(1))
    assert len(FeatureStore(store.path)) == 8
    with pytest.raises(kg.FeatureError, match="'1' shards: give how many to keep"):
        kg.features.keep(store.path, "1")
    with pytest.raises(kg.FeatureError, match="shard_bytes must be a whole number, 1 or more, got"):
        run(trunk, np.ones((20, 4), "float32"), tmp_path, shard_bytes=1e6)


def test_a_tilde_is_the_users_home(trunk, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    store = compute(trunk, images()[0], "~/kept", batch_size=8, progress=False)
    assert store.path == str(tmp_path / "kept") and len(FeatureStore("~/kept")) == len(store)
    monkeypatch.chdir(tmp_path)
    assert FeatureStore(compute(trunk, images()[0], "~no user/kept", progress=False).path).complete


def test_a_damaged_manifest_is_said_to_be_one(trunk, tmp_path):
    x, y = images()
    path = Path(run(trunk, (x, y), tmp_path).path) / "manifest.json"
    good = path.read_bytes()
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= (0x80, 1, 4)[place % 3]
        path.write_bytes(bad)
        with pytest.raises(kg.FeatureError, match="manifest.json cannot be read|of format [0-9], "):
            FeatureStore(path.parent)
    for bad in (b'{"format":2,"columns":[],"shards":[]}', b"[]", b'{"format":"x"}'):
        path.write_bytes(bad)
        with pytest.raises(kg.FeatureError, match="manifest.json cannot be read"):
            FeatureStore(path.parent)


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_files_of_the_user_stay_in_the_folder(trunk, tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    theirs = ["model.safetensors", "shard-of-mine.safetensors", "shard-00003.safetensors.part"]
    left = ["shard-00003.safetensors.keras-graft.part", "manifest.json.keras-graft.part"]
    for name in theirs + left:
        (folder / name).write_text("precious")
    for resume in (True, False):
        run(trunk, images()[0], tmp_path, resume=resume)
    kg.features.keep(folder, 1)
    assert all((folder / name).read_text() == "precious" for name in theirs)
    assert not any((folder / name).exists() for name in left)


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("name, says", [
    ("shard-00007.safetensors", "shard-00007.safetensors"), ("lock", "a 'lock' that"),
    (f"shard-{'0af' * 10}12.safetensors", "shard-0af0af"), ("manifest.json", "manifest.json"),
])  # fmt: skip
def test_what_was_there_before_a_store_is_not_touched(trunk, tmp_path, resume, name, says):
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / name).write_text('{"name": "a web application"}')
    before = contents(folder)
    with pytest.raises(kg.FeatureError, match=says) as caught:
        run(trunk, images()[0], tmp_path, resume=resume)
    assert contents(folder) == before
    if not (name == "manifest.json" and resume):
        assert re.search("Give another folder, or move (it|them) away", str(caught.value))
    (folder / name).rename(tmp_path / "moved")
    assert run(trunk, images()[0], tmp_path, resume=resume).verify()


def test_a_shard_of_another_is_not_touched_in_the_folder_of_a_store(trunk, tmp_path):
    x, _ = images()
    folder = Path(run(trunk, x, tmp_path).path)
    theirs = folder / "shard-00005.safetensors"
    theirs.write_text("precious")
    assert len(run(trunk, x, tmp_path)) == 50  # nothing is written
    kg.features.keep(folder, 2)
    before = contents(folder)
    assert theirs.name in before
    for resume in (True, False):
        with pytest.raises(
            kg.FeatureError, match="holds 'shard-00005.safetensors', which no store"
        ):
            run(trunk, x, tmp_path, resume=resume)
        assert contents(folder) == before
    theirs.unlink()
    assert run(trunk, x, tmp_path).verify()


def test_what_is_refused_leaves_the_old_store(trunk, tmp_path):
    """To write it anew is no reason to delete it before there is anything to write."""
    x, _ = images()
    folder = Path(run(trunk, x, tmp_path).path)
    before = contents(folder)
    for data in (x[:0], np.ones((5, 3), "float32"), (x, np.array(["a"] * 50)), iter(())):
        with pytest.raises(kg.FeatureError):
            run(trunk, data, tmp_path, resume=False)
        assert contents(folder) == before
    assert len(run(trunk, x[:20], tmp_path, resume=False)) == 20
    assert len(contents(folder)) == 2 + len(FeatureStore(folder).manifest.shards)


def test_a_link_where_a_file_is_written_leads_nowhere(trunk, tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    mine = tmp_path / "mine"
    mine.write_text("precious")
    (folder / "manifest.json.keras-graft.part").symlink_to(mine)
    run(trunk, images()[0], tmp_path)
    (folder / "lock").unlink()
    (folder / "lock").symlink_to(tmp_path / "new")
    with pytest.raises(kg.FeatureError, match="a 'lock' that keras-graft did not write"):
        run(trunk, images()[0], tmp_path)
    assert mine.read_text() == "precious" and not (tmp_path / "new").exists()


def test_two_writers_at_once_are_refused(trunk, tmp_path):
    from keras_graft.features.folder import Folder

    with Folder(tmp_path / "store").lock(), pytest.raises(kg.FeatureError, match="Another process"):
        run(trunk, images()[0], tmp_path)


# -- batches ---------------------------------------------------------------------------------


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


def test_a_store_that_was_written_anew_is_opened_again(trunk, tmp_path):
    x, _ = images()
    store, other = (run(trunk, (x, np.arange(50)), tmp_path) for _ in range(2))
    other.to_numpy()
    store.take([3])  # of the first shard
    run(trunk, (x, np.arange(50) + 1), tmp_path, resume=False)
    with pytest.raises(
        kg.FeatureError, match="was written anew since it was opened.*open it again"
    ):
        store.take([3, 40])
    assert FeatureStore(store.path).take([3])["targets"] == 4
    assert other.take([3])["targets"] == 3  # its files are still open
    kg.features.keep(store.path, 2)
    part = FeatureStore(store.path)
    run(trunk, (x, np.arange(50) + 1), tmp_path)
    assert part.take([3])["targets"] == 4  # it has only grown
    kg.features.keep(store.path, 2)
    part = FeatureStore(store.path)
    run(trunk, (x, np.arange(50)), tmp_path, resume=False)
    with pytest.raises(kg.FeatureError, match="was written anew since it was opened"):
        part.take([3])


@pytest.mark.parametrize("block", [1, 3, 100])
@pytest.mark.parametrize("slow", [False, True])
def test_batches_are_the_same_however_they_are_read(trunk, tmp_path, monkeypatch, block, slow):
    from keras_graft.features import epoch as reading

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
    from keras_graft.features import epoch as reading

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
    from keras_graft.features import epoch as reading

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


def test_a_shard_that_is_gone_or_not_of_this_store_is_named(trunk, tmp_path):
    x, _ = images()
    store = run(trunk, (x, np.arange(50)), tmp_path)
    (tmp_path / "store" / "shard-00002.safetensors").unlink()
    with pytest.raises(kg.FeatureError, match="'shard-00002.safetensors' cannot be read: .* says"):
        store.to_numpy()
    with pytest.raises(kg.FeatureError, match=r"kg.features.keep\(.*, 2\)"):
        FeatureStore(store.path)  # the way out, which that error names
    store = run(trunk, (x, np.arange(50)), tmp_path, resume=False)
    run(trunk, (x[:8], np.arange(8)), tmp_path, resume=False)
    with pytest.raises(kg.FeatureError, match="was written anew since it was opened"):
        store.take([49])


def test_nothing_and_nonsense_are_taken_for_what_they_are(trunk, tmp_path):
    store = run(trunk, images()[0], tmp_path, keys=[f"k{i}" for i in range(50)])
    assert store.take([], "keys")["keys"].dtype.kind == "U"
    with pytest.raises(kg.FeatureError, match="a list of whole numbers, or as a mask"):
        store.take([[1], [1, 2]])
    with pytest.raises(kg.FeatureError, match="batch_size is a whole number, 1 or more, got 2.5"):
        FeatureDataset(store, 2.5)


def test_features_of_no_width_are_nothing_to_keep(tmp_path):
    x = keras.Input((4,))
    trunk = keras.Model(x, x[:, :0], name="none")
    with pytest.raises(
        kg.FeatureError, match=r"'none' gives features of no width.*\(\?, 0\) float32"
    ):
        run(trunk, np.ones((10, 4), "float32"), tmp_path)


def test_columns_of_no_width(tmp_path):
    x = keras.Input((4,))
    trunk = keras.Model(x, {"none": x[:, :0], "all": x * 1.0})
    store = run(trunk, (np.ones((10, 4), "float32"), np.zeros((10, 0))), tmp_path)
    taken = store.take([1, 7])
    assert taken["features"]["none"].shape == taken["targets"].shape == (2, 0)
    assert taken["features"]["all"].shape == (2, 4)


def test_parts_of_a_store(trunk, tmp_path):
    x, _ = images()
    store = run(trunk, (x, np.arange(50)), tmp_path)
    parts = [
        FeatureDataset(store, 8, validation_split=0.2, subset=s).to_numpy()[1].tolist()
        for s in ("training", "validation")
    ]
    assert parts == [list(range(40)), list(range(40, 50))]
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
    with pytest.raises(kg.FeatureError, match="made of other inputs, or in another order"):
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
    with pytest.raises(kg.FeatureError, match="made of other inputs"):
        FeatureDataset([paths[1], other], 8)


def test_targets_are_those_of_the_first_store_that_has_them(trunk, tmp_path):
    x, y = images()[0], np.arange(50)
    bare, with_y, with_w, others = (
        run(trunk, data, tmp_path / name)
        for name, data in {"a": x, "b": (x, y), "c": (x, y, y / 2), "d": (x, -y)}.items()
    )
    found = FeatureDataset([bare, with_y, with_w], 50, shuffle=False)[0]
    assert found[1].tolist() == y.tolist() and found[2].tolist() == (y / 2).tolist()
    with pytest.raises(kg.FeatureError, match="hold other 'targets'.*targets=False"):
        FeatureDataset([bare, with_y, others], 8)
    weights = run(trunk, (x, None, y / 2), tmp_path / "e")
    with pytest.raises(kg.FeatureError, match="weights and no targets"):
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


# -- the head learns the same ----------------------------------------------------------------


class Losses(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.losses = []

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(float(logs["loss"]))


class Ordered(keras.utils.PyDataset):
    """The images in the order in which a FeatureDataset gives their features."""

    def __init__(self, x, y, like):
        super().__init__()
        self.x, self.y, self.like = x, y, like

    def __len__(self):
        return len(self.like)

    def __getitem__(self, i):
        rows = self.like[i][1]
        return self.x[rows], self.y[rows]

    def on_epoch_end(self):
        self.like.on_epoch_end()


def losses(model, data):
    steps = Losses()
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(True))
    model.fit(data, epochs=3, shuffle=False, verbose=0, callbacks=[steps])
    return steps.losses


def test_every_step_has_the_loss_of_the_whole_model(tmp_path):
    trunk, head = kg.split(donor(), at="pool")
    trunk = kg.freeze(trunk)
    x, y = images()
    order = compute(trunk, (x, np.arange(50)), tmp_path / "order", progress=False)
    start = [w.copy() for w in head.get_weights()]
    found = {}
    for dtype in ("float32", "float16"):
        head.set_weights([w.copy() for w in start])  # on JAX training may write into what it got
        store = compute(trunk, (x, y), tmp_path / dtype, dtype=dtype, progress=False)
        found[dtype] = losses(head, FeatureDataset(store, 16, seed=5))
    head.set_weights([w.copy() for w in start])
    like = FeatureDataset(order, 16, seed=5)
    whole = losses(kg.join(trunk, head), Ordered(x, y, like))
    assert len(whole) == 12 and whole[0] != whole[-1]
    np.testing.assert_allclose(found["float32"], whole, rtol=1e-5)
    np.testing.assert_allclose(found["float16"], whole, rtol=2e-3)


def test_fit_head_in_one_line(tmp_path):
    model = donor()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True), metrics=["accuracy"])
    before = [w.copy() for w in model.get_weights()]
    x, y = images()
    y = (x.mean((1, 2)).argmax(-1)).astype("int64")
    done = kg.features.fit_head(
        model, "pool", (x, y), store=tmp_path / "s", epochs=3, validation_split=0.2, progress=False
    )
    assert len(done.history.history["val_loss"]) == 3 and "accuracy" in done.history.history
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert done.checked == 32 and done.difference < 1e-2 and done.speed_up > 0
    assert done.model.layers[1].layer is model.layers[1]
    assert [w.path for w in done.model.trainable_variables] == ["out/kernel", "out/bias"]
    assert "times faster, more than" in str(done)
    done.model.save(tmp_path / "joined.keras")
    loaded = keras.models.load_model(tmp_path / "joined.keras")
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), done.model.predict(x, verbose=0), rtol=1e-5, atol=1e-6
    )
    new = keras.Sequential([keras.Input((6,)), layers.Dense(3, name="three")])
    with pytest.raises(kg.FeatureError, match="Nothing says how to train"):
        kg.features.fit_head(donor(), "pool", (x, y), store=tmp_path / "t")
    again = kg.features.fit_head(
        model, "pool", (x, y), store=tmp_path / "s", head=new, progress=False,
        compile={"optimizer": "sgd", "loss": keras.losses.SparseCategoricalCrossentropy(True)},
    )  # fmt: skip
    assert again.model.output.shape == (None, 3) and again.head is new


@pytest.mark.parametrize("make, more, says", [
    (lambda x, y: x, {}, "fit_head needs targets"),
    (lambda x, y: iter([(x, y)]), {}, "iterator gives its samples once only"),
    (lambda x, y: [], {}, "The data is empty"),
    (lambda x, y: (x, y), {"validation_split": 1.0}, "validation_split lies between 0 and 1"),
    (lambda x, y: (x, y), {"validation_data": 1}, "validation_data would have to be features"),
    (lambda x, y: (x, y), {"batch_size": 0}, "batch_size must be a whole number, 1 or more, got 0"),
])  # fmt: skip
def test_fit_head_refuses_before_it_computes(tmp_path, make, more, says):
    model = donor()
    model.compile("adam", "mse")
    with pytest.raises(kg.FeatureError, match=says):
        kg.features.fit_head(
            model, "pool", make(*images()), store=tmp_path / "s", progress=False, **more
        )
    assert not (tmp_path / "s").exists()


def test_fit_head_finds_data_in_another_order_before_it_trains(tmp_path):
    x, y = images()

    class Shuffled(Py):
        passes = 0

        def __getitem__(self, i):
            Shuffled.passes += i == 0
            return tuple(np.roll(a, Shuffled.passes, 0) for a in super().__getitem__(i))

    model = donor()
    model.compile("adam", "mse")
    head = keras.Sequential([keras.Input((6,)), layers.Dense(1)])
    head.compile("adam", "mse")
    before = [w.copy() for w in head.get_weights()]
    with pytest.raises(kg.FeatureError, match="another order each time"):
        kg.features.fit_head(
            model, "pool", Shuffled(x, y), store=tmp_path / "s", head=head, dtype="float32",
            progress=False,
        )  # fmt: skip
    for a, b in zip(before, head.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_head_that_would_train_the_trunk_is_refused(tmp_path):
    inputs = keras.Input((4,))
    layer = layers.Dense(4, name="both")
    model = keras.Model(inputs, layer(layers.Activation("relu", name="at")(layer(inputs))))
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).random((20, 4), "float32")
    with pytest.raises(kg.FeatureError, match="train weights of the trunk .'both/kernel', 'both/b"):
        kg.features.fit_head(
            model, "at", (x, x), store=tmp_path / "s", head=kg.split(model, at="at")[1],
            progress=False,
        )  # fmt: skip
    with pytest.raises(
        kg.FeatureError, match=r"trunk too \('both/kernel', 'both/bias'\), tied or "
    ):
        kg.features.fit_head(model, "at", (x, x), store=tmp_path / "s", progress=False)
    assert not (tmp_path / "s").exists()
    apart = kg.unshare(model, "both#1")
    apart.compile("sgd", "mse")
    kg.features.fit_head(apart, "at", (x, x), store=tmp_path / "s", progress=False)


def test_a_dropout_that_both_sides_call_is_no_weight(tmp_path):
    x = keras.Input((4,))
    drop = layers.Dropout(0.5, name="drop")
    y = layers.Dense(4, name="at")(drop(x))
    model = keras.Model(x, layers.Dense(2, name="out")(drop(y)))
    model.compile("sgd", "mse")
    data = np.ones((8, 4), "float32"), np.ones((8, 2), "float32")
    done = kg.features.fit_head(model, "at", data, store=tmp_path, progress=False, verbose=0)
    assert [layer.name for layer in done.head.layers][1:] == ["drop", "out"]


def test_a_tie_across_the_cut_is_not_lost_in_silence(tmp_path):
    ids = keras.Input((5,), dtype="int32")
    h = layers.Embedding(9, 4, name="embedding")(ids)
    h = layers.Dense(4, name="block")(h)
    model = kg.tie(
        keras.Model(ids, layers.Dense(9, name="lm_head")(h)), "lm_head.kernel",
        "embedding.embeddings", transform="transpose",
    )  # fmt: skip
    loss = keras.losses.SparseCategoricalCrossentropy(True)
    x = np.random.default_rng(0).integers(0, 9, (20, 5))
    model.compile("sgd", loss)
    with pytest.raises(kg.FeatureError, match=r"'embedding/embeddings'.*lose the tie: kg.untie"):
        kg.features.fit_head(model, "block", (x, x), store=tmp_path / "s", progress=False)
    assert not (tmp_path / "s").exists()
    apart = kg.untie(model, "lm_head.kernel")
    apart.compile("sgd", loss)
    done = kg.features.fit_head(apart, "block", (x, x), store=tmp_path / "s", progress=False)
    assert done.head.count_params() == 4 * 9 + 9


def test_fit_head_leaves_out_and_stops_as_it_is_told(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    x, y = images()
    x[3] = 1e9  # its features overflow float16
    model = donor()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    with pytest.raises(kg.FeatureError, match="Sample 3 fails.*on_error"):
        kg.features.fit_head(model, "pool", (x, y), store=tmp_path / "s", progress=False)
    done = kg.features.fit_head(
        model, "pool", (x, y), store=tmp_path / "s", progress=False, on_error="skip",
        resume=False, epochs=10**6, callbacks=[Stop()], verbose=0,
    )  # fmt: skip
    assert len(done.store) == 49 and done.checked == 31
    assert done.epoch_seconds > 1e-4
    x[:32] = 1e9  # the whole first batch, and one more
    x[33] = 1e9
    done = kg.features.fit_head(
        model, "pool", (x, y), store=tmp_path / "t", progress=False, on_error="skip", verbose=0
    )
    assert len(done.store) == 17 and done.checked == 17 and done.difference < 1e-2
    x[:] = 1e9
    with pytest.raises(kg.FeatureError, match="The trunk fails on each of the 50 samples"):
        kg.features.fit_head(
            model, "pool", (x, y), store=tmp_path / "u", progress=False, on_error="skip"
        )


def test_fit_head_takes_samples_in_the_order_of_the_seed(tmp_path):
    """Also where `fit` begins a pass only to look at it, as it does to build metrics."""
    model = donor()
    head = kg.split(model, at="pool")[1]
    twin = kg.clone(head)
    how = {"optimizer": "sgd", "loss": keras.losses.SparseCategoricalCrossentropy(True)}
    ours, theirs = Losses(), Losses()
    done = kg.features.fit_head(
        model, "pool", images(), store=tmp_path / "s", progress=False, head=head, batch_size=8,
        epochs=3, seed=5, compile={**how, "metrics": ["accuracy"]}, callbacks=ours, verbose=0,
        validation_split=0.2,
    )  # fmt: skip
    twin.compile(**how, metrics=["accuracy"])
    parts = [
        FeatureDataset(done.store, 8, subset != "validation", 5, 0.2, subset)
        for subset in ("training", "validation")
    ]
    history = twin.fit(
        parts[0], validation_data=parts[1], shuffle=False, epochs=3, verbose=0, callbacks=[theirs]
    )
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-6)
    assert len(ours.losses) == 15 and len(set(ours.losses)) == 15
    for key in ("val_loss", "val_accuracy"):
        np.testing.assert_allclose(done.history.history[key], history.history[key], rtol=1e-6)
    several = keras.callbacks.CallbackList([Losses()], model=head)
    kg.features.fit_head(
        model, "pool", images(), store=tmp_path / "s", progress=False, head=head, batch_size=8,
        callbacks=several, verbose=0,
    )  # fmt: skip
    assert len(several.callbacks[0].losses) == 7


@pytest.mark.parametrize("split, says", [(0.99, "training"), (0.01, "validation")])
def test_no_part_is_empty(tmp_path, split, says):
    model = donor()
    model.compile("adam", "mse")
    with pytest.raises(kg.FeatureError, match=f"={split} of 10 samples leaves none for {says}"):
        kg.features.fit_head(
            model, "pool", images(10), store=tmp_path, validation_split=split, progress=False
        )


def test_what_is_no_number_is_the_same_if_it_is_none_in_both(tmp_path):
    x, y = np.array([[np.nan, 1], [np.inf, 2], [3, 4]], "float32"), np.zeros((3, 2))
    inputs = keras.Input((2,))
    at = layers.Activation("linear", name="at")(inputs)
    model = keras.Model(inputs, layers.Activation("tanh")(at))
    model.compile("sgd", "mse")
    head = keras.Sequential([keras.Input((2,)), layers.Activation("tanh")])
    done = kg.features.fit_head(
        model, "at", (x, y), store=tmp_path, head=head, compile={"loss": "mse"}, progress=False,
        verbose=0,
    )  # fmt: skip
    assert done.difference == 0 and done.checked == 3


def test_a_store_that_is_not_of_this_trunk_is_found_out(tmp_path):
    model = donor()
    model.compile("adam", "mse")
    x, _ = images()
    data = (x, np.zeros((50, 4)))
    run(kg.freeze(kg.split(model, at="pool")[0]), data, tmp_path, dtype="float32")
    path = tmp_path / "store" / "shard-00000.safetensors"
    from safetensors.numpy import load_file, save_file

    columns = load_file(path)
    columns["features/"] = columns["features/"] + 1
    save_file(columns, path)
    with pytest.raises(kg.FeatureError, match=r"does not hold what the trunk gives[\s\S]*verify"):
        kg.features.fit_head(
            model, "pool", data, store=tmp_path / "store", dtype="float32", progress=False,
            batch_size=8,
        )  # fmt: skip


def test_advice_says_what_each_cut_takes_and_saves():
    advice = kg.features.advise(donor(), images()[0])
    rows = {cut.name: (each, total, share) for cut, each, total, share in advice.rows}
    stem, block = 36 * 27 * 6, 36 * 54 * 6
    assert rows["stem"] == (432, 21600, pytest.approx(stem / (stem + block + 24)))
    assert rows["pool"] == (12, 600, pytest.approx((stem + block) / (stem + block + 24)))
    assert "bytes in all" in str(advice) and list(rows)[0] == "stem"
    with pytest.raises(kg.FeatureError, match="how many samples it has"):
        kg.features.advise(donor(), iter([]))
    for none in (0, -5):
        with pytest.raises(kg.FeatureError, match=f"There are {none} samples: give a number of 1"):
            kg.features.advise(donor(), none)


def test_advice_counts_what_a_layer_does_at_each_place():
    x = keras.Input((10, 3), dtype="float64", name="x")
    h = layers.LSTM(4, name="all", return_sequences=True)(x)
    h = layers.LSTM(4, name="last", dtype="float64")(h)
    model = keras.Model(x, layers.Dense(5, name="out")(h))
    work = np.array([10 * 16 * 7, 10 * 16 * 8, 20])
    for given in (model, kg.freeze(model)):
        rows = kg.features.advise(given, np.int64(7)).rows
        assert [cut.name for cut, *_ in rows] == ["all", "last"]
        assert [each for _, each, *_ in rows] == [80, 8]
        shares = [share for *_, share in rows]
        np.testing.assert_allclose(shares, np.cumsum(work)[:2] / work.sum())
        assert rows[0][2] == 560
    image = keras.Input((None, 4, 2))
    up = layers.Conv2DTranspose(3, 2, strides=2, name="up")(image)
    down = layers.Conv2D(1, 1, name="down")(up)
    (cut, each, total, share) = kg.features.advise(keras.Model(image, down), 9).rows[0]
    assert cut.name == "up" and each is None and total is None
    np.testing.assert_allclose(share, 4 * 24 / (4 * 24 + 8 * 3))  # what is open counts as one


def test_advice_looks_into_layers():
    def work(model):
        """The multiplications below the last cut, where those above are 7."""
        share = kg.features.advise(model, 1).rows[-1][-1]
        return 7 * share / (1 - share)

    def behind(x, y):
        if len(y.shape) > 2:
            y = layers.Reshape((-1,))(y)
        y = layers.Dense(1, use_bias=False, name="narrow")(y)
        return keras.Model(x, layers.Dense(7, use_bias=False, name="last")(y))

    frames = keras.Input((5, 8, 8, 3))
    each = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(2, 3), layers.GlobalAveragePooling2D()]
    )
    np.testing.assert_allclose(
        work(behind(frames, layers.TimeDistributed(each)(frames))), 5 * 36 * 54 + 10
    )
    x = keras.Input((5, 4))
    heads = layers.EinsumDense("abc,cde->abde", (5, 3, 2))(x)
    np.testing.assert_allclose(work(behind(x, heads)), 5 * 24 + 30)
    wide = layers.EinsumDense("...c,cd->...d", 6)(x)
    np.testing.assert_allclose(work(behind(x, wide)), 5 * 24 + 30)
    opened = layers.EinsumDense("abc,cd->abd", (None, 6))(x)
    pooled = layers.GlobalAveragePooling1D()(opened)
    np.testing.assert_allclose(work(behind(x, pooled)), 5 * 24 + 6)
    attention = layers.MultiHeadAttention(2, 3)(x, x)
    np.testing.assert_allclose(work(behind(x, attention)), 5 * 4 * 24 + 20)


def test_advice_knows_that_embeddings_of_keras_hub_are_looked_up():
    hub = pytest.importorskip("keras_hub").layers
    ids = keras.Input((6,), dtype="int32")
    both = hub.TokenAndPositionEmbedding(vocabulary_size=50, sequence_length=6, embedding_dim=4)
    h = layers.Dense(4, name="h")(both(ids))
    logits = both.token_embedding(h, reverse=True)
    (before, after) = [share for *_, share in kg.features.advise(keras.Model(ids, logits), 1).rows]
    assert before == 0
    np.testing.assert_allclose(after, 16 / (16 + 200))


def test_advice_knows_that_a_frozen_embedding_multiplies_nothing():
    ids = keras.Input((6,), dtype="int32")
    h = layers.Embedding(50, 4, name="embedding")(ids)
    model = kg.freeze(keras.Model(ids, layers.Dense(2)(layers.Dense(4, name="h")(h))))
    assert [share for *_, share in kg.features.advise(model, 1).rows] == [0, pytest.approx(2 / 3)]
