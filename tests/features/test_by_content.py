"""A store knows its samples by what they hold: shuffled data is resumed and used again."""

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from feature_helpers import Py, donor, images, run

import keras_graft as kg
from keras_graft.features import FeatureStore
from keras_graft.features.store.checksum import digests
from keras_graft.features.store.loading import load


class Shuffled(keras.utils.PyDataset):
    """Batches in another order of samples in each pass."""

    def __init__(self, x, y, seed=0):
        super().__init__()
        self.x, self.y, self.seed = x, y, seed
        self.order = np.arange(len(x))

    def __len__(self):
        return -(-len(self.x) // 8)

    def __getitem__(self, i):
        if i == 0:
            self.seed += 1
            self.order = np.random.default_rng(self.seed).permutation(len(self.x))
        rows = self.order[i * 8 : i * 8 + 8]
        return self.x[rows], self.y[rows]


def counted(monkeypatch):
    """Return a list that gets the number of samples of each run of the trunk."""
    seen, real = [], keras.Model.predict_on_batch

    def predict(self, x):
        seen.append(len(keras.tree.flatten(x)[0]))
        return real(self, x)

    monkeypatch.setattr(keras.Model, "predict_on_batch", predict)
    return seen


def assert_in_pairs(store, trunk, x, y):
    """Each sample once, beside its own target, as the trunk gives it."""
    assert store.complete and store.verify() == store.bytes and len(store) == len(x)
    found = store.to_numpy()
    expected = trunk.predict(x, batch_size=8, verbose=0)
    # Equal images may have different targets: rows are compared as pairs.
    given = sorted(zip(y.tolist(), digests(x).tolist(), range(len(x)), strict=True))
    kept = sorted(zip(found["targets"].tolist(), digests_of(store).tolist(), range(len(x)),
                      strict=True))  # fmt: skip
    assert [pair[:2] for pair in given] == [pair[:2] for pair in kept]
    for (*_, ours), (*_, theirs) in zip(given, kept, strict=True):
        np.testing.assert_allclose(found["features"][theirs], expected[ours], rtol=1e-5, atol=1e-6)


def digests_of(store):
    return store._rows.take(np.arange(len(store)), ["digests/inputs"])["digests/inputs"]


def test_digests_are_of_what_a_sample_holds_and_not_of_its_place():
    x, _ = images(20)
    whole = digests(x)
    assert whole.dtype == "uint64" and len(set(whole.tolist())) == 20
    np.testing.assert_array_equal(digests(x[::-1].copy())[::-1], whole)
    np.testing.assert_array_equal(digests(x[3:7]), whole[3:7])
    np.testing.assert_array_equal(digests(np.asfortranarray(x)), whole)
    two = digests({"a": x, "b": x[:, 0]})
    assert two.shape == (20,) and not set(two.tolist()) & set(whole.tolist())
    assert digests(x[:0]).shape == (0,)
    words = ["a", "bird", "é"]
    for other in (np.array(words, object), np.array(words, "U40"),
                  np.array([w.encode() for w in words], object)):  # fmt: skip
        np.testing.assert_array_equal(digests(other), digests(np.array(words)))
    joined = digests(np.array([["ab", "c"], ["a", "bc"]]))
    assert joined[0] != joined[1]


def test_samples_are_found_by_their_inputs(trunk, tmp_path):
    x, y = images()
    x[17] = x[3]
    store = run(trunk, (x, y), tmp_path)
    order = np.random.default_rng(1).permutation(50)
    expected = np.where(order == 17, 3, order)
    assert store.find(x[order]).tolist() == expected.tolist()
    assert store.find(np.concatenate([x[4:5], x[:1] + 1])).tolist() == [4, -1]
    assert store.find(x[:0]).tolist() == []
    assert "digests" not in str(store) and sorted(store.to_numpy()) == ["features", "targets"]
    with pytest.raises(kg.FeatureError, match="no 'digests': the kinds are features, targets"):
        store.take([0], "digests")


def test_what_was_left_out_is_not_found(tmp_path):
    inputs = keras.Input((4,))
    trunk = keras.Model(inputs, inputs * 1.0)
    x = np.random.default_rng(0).random((32, 4), "float32")
    x[[2, 9]] = 1e9
    store = run(trunk, x, tmp_path, dtype="float16", on_error="skip")
    found = store.find(x)
    assert np.flatnonzero(found < 0).tolist() == [2, 9]
    assert found[found >= 0].tolist() == list(range(30))
    # By content they are known too: the same store, shuffled, is complete.
    order = np.random.default_rng(0).permutation(32)
    again = run(trunk, x[order], tmp_path, dtype="float16", on_error="skip")
    assert again.manifest == store.manifest
    kg.features.keep(store.path, 1)
    resumed = run(trunk, x[order], tmp_path, dtype="float16", on_error="skip")
    assert len(resumed) == 30 and len(resumed.manifest.skipped) == 2
    assert sorted(resumed.find(np.delete(x, [2, 9], 0))) == list(range(30))


def test_a_store_of_an_earlier_version_goes_by_order(tmp_path):
    files = Path(__file__).parents[1] / "data" / "before_move"
    shutil.copytree(files / "store", tmp_path / "store")
    expected = np.load(files / "expected.npz")
    trunk = keras.saving.load_model(files / "trunk.keras")
    store = FeatureStore(tmp_path / "store")
    with pytest.raises(
        kg.FeatureError, match="does not know its samples by their inputs.*resume=F"
    ):
        store.find(expected["data"])
    x, y = expected["data"], expected["targets"]
    how = {"batch_size": 4, "dtype": "float16", "progress": False}
    with pytest.raises(kg.FeatureError, match=r"different order \(shuffled data\?\)"):
        kg.features.compute(trunk, (x[::-1], y[::-1]), store.path, **how)
    number = len(store.manifest.shards)
    assert number > 1
    kg.features.keep(store.path, number - 1)
    # Resumed it stays a store without digests, which earlier versions read.
    again = kg.features.compute(trunk, (x, y), store.path, **how)
    assert again.manifest.format == 2 and again.columns() == store.columns()
    np.testing.assert_array_equal(again.take(range(20))["targets"], y)


def test_a_complete_store_is_used_for_shuffled_data(trunk, tmp_path, monkeypatch):
    x, y = images()
    data = Shuffled(x, y)
    store = run(trunk, data, tmp_path)
    assert_in_pairs(store, trunk, x, y)
    seen = counted(monkeypatch)
    for again in (data, (x, y), (x[::-1], y[::-1]), iter(Py(x, y)), [(x[40:], y[40:])]):
        assert run(trunk, again, tmp_path).manifest == store.manifest
    assert set(seen) == {1}  # one sample each, to compare the columns


@pytest.mark.parametrize("change, says", [
    (lambda x, y: (x + 1, y), "none of the first 8 samples is in it.*changes them in each pass"),
    (lambda x, y: (np.where(np.arange(50)[:, None, None, None] == 3, 0, x), y),
     "1 of the samples 0 to 7 are not in it, the first is 3"),
    (lambda x, y: (x[:40], y[:40]), "50 samples, now 40"),
    (lambda x, y: (x[::-1], y), "had different targets, sample weights or keys"),
    (lambda x, y: (x[::-1], y[::-1].astype("int32")), "targets: .* int64, now .* int32"),
    (lambda x, y: x[::-1], "targets: .* int64, now absent"),
])  # fmt: skip
def test_a_complete_store_of_other_data_is_refused(trunk, tmp_path, change, says):
    x, y = images()
    store = run(trunk, (x, np.arange(50)), tmp_path)
    before = {p.name: p.read_bytes() for p in Path(store.path).iterdir()}
    with pytest.raises(kg.FeatureError, match=says):
        run(trunk, change(x, np.arange(50)), tmp_path)
    assert {p.name: p.read_bytes() for p in Path(store.path).iterdir()} == before


def sources(x, y):
    """The same samples in other orders, in every form."""
    order = np.random.default_rng(9).permutation(len(x))
    yield "arrays", (x[order], y[order])
    yield "in order", (x, y)
    yield "dataset", Shuffled(x, y, seed=7)
    yield "generator", ((x[order[i : i + 8]], y[order[i : i + 8]]) for i in range(0, len(x), 8))
    yield "single samples", [(x[i : i + 1], y[i : i + 1]) for i in order]


@pytest.mark.parametrize("number", range(5))
def test_a_store_is_resumed_from_data_in_another_order(trunk, tmp_path, monkeypatch, number):
    x, y = images()
    x[[7, 30, 31]] = x[2]  # the same image four times
    y[[2, 7]], y[[30, 31]] = 1, 3
    store = run(trunk, Shuffled(x, y), tmp_path)
    kg.features.keep(store.path, 2)
    kept = len(FeatureStore(store.path))
    _, data = list(sources(x, y))[number]
    seen = counted(monkeypatch)
    store = run(trunk, data, tmp_path)
    monkeypatch.undo()
    # None of those that were there was computed again; one is run to compare the columns.
    # On JAX the last batch is filled up.
    missing = 50 - kept
    filled = missing + (-missing % 8 if keras.backend.backend() == "jax" and max(seen) == 8 else 0)
    assert sum(seen) - 1 == filled and max(seen) <= 8
    assert_in_pairs(store, trunk, x, y)


def test_interrupted_again_and_again_each_sample_is_stored_once(trunk, tmp_path):
    x, y = images()

    def stopping(seed):
        order = np.random.default_rng(seed).permutation(50)
        for n, i in enumerate(range(0, 50, 8)):
            if n == 2:
                raise RuntimeError("stopped")
            yield x[order[i : i + 8]], y[order[i : i + 8]]

    lengths = []
    for seed in range(4):
        with pytest.raises(RuntimeError, match="stopped"):
            run(trunk, stopping(seed), tmp_path, shard_bytes=1)
        lengths.append(len(FeatureStore(tmp_path / "store")))
    assert lengths[0] < lengths[-1] < 50 and lengths == sorted(lengths)
    assert_in_pairs(run(trunk, Shuffled(x, y), tmp_path), trunk, x, y)


def test_keys_go_with_their_samples(trunk, tmp_path):
    x, y = images()
    keys = np.array([f"image {i}" for i in range(50)])
    kg.features.keep(run(trunk, (x, y), tmp_path, keys=keys).path, 2)
    order = np.random.default_rng(3).permutation(50)
    store = run(trunk, (x[order], y[order]), tmp_path, keys=keys[order])
    assert store.take(store.find(x), "keys")["keys"].tolist() == keys.tolist()
    # Keys in order beside shuffled samples are wrong, and known to be.
    kg.features.keep(store.path, 2)
    before = load(kg.features.store.folder.Folder(store.path))
    with pytest.raises(
        kg.FeatureError, match="keys are in the order of the data: does it come shuf"
    ):
        run(trunk, (x[order], y[order]), tmp_path, keys=keys)
    assert load(kg.features.store.folder.Folder(store.path)) == before


@pytest.mark.parametrize("make, says, runs", [
    # Data that can be read again is looked at first: nothing is computed.
    (lambda x, y: (x + 1, y), "none of the first 50 samples is in it", False),
    (lambda x, y: Py(x + 1, y), "none of the first 50 samples is in it", False),
    (lambda x, y: (x[10:], y[10:]), "10 of its 24 samples are not in the data, which has 40", False),
    (lambda x, y: Shuffled(x[10:], y[10:]), "10 of its 24 samples are not in the data", True),
    (lambda x, y: iter(Py(x + 1, y)), "none of the 50 samples is in it", True),
    (lambda x, y: (x, y + 1), "sample 0 had different targets", False),
])  # fmt: skip
def test_a_store_is_not_resumed_with_other_data(trunk, tmp_path, monkeypatch, make, says, runs):
    x, y = images()
    store = run(trunk, (x, y), tmp_path)
    kg.features.keep(store.path, 2)
    part = FeatureStore(store.path)
    assert len(part) == 24 or len(part) == 32
    before = {p.name: p.read_bytes() for p in Path(store.path).iterdir()}
    seen = counted(monkeypatch)
    says = says.replace("24", str(len(part)))
    with pytest.raises(kg.FeatureError, match=says):
        run(trunk, make(x, y), tmp_path)
    assert bool([n for n in seen if n > 1]) == runs
    # What was written since is taken back.
    assert {p.name: p.read_bytes() for p in Path(store.path).iterdir()} == before
    assert len(run(trunk, (x, y), tmp_path)) == 50


def test_samples_that_were_added_to_the_data_are_computed(trunk, tmp_path):
    x, y = images()
    kg.features.keep(run(trunk, (x[:40], y[:40]), tmp_path).path, 2)
    order = np.random.default_rng(3).permutation(50)
    assert_in_pairs(run(trunk, (x[order], y[order]), tmp_path), trunk, x, y)


def test_several_inputs_and_weights(tmp_path):
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    trunk = kg.freeze(keras.Model({"a": a, "b": b}, {"sum": keras.layers.Concatenate()([a, b])}))
    rng = np.random.default_rng(0)
    x = {"a": rng.random((50, 3), "float32"), "b": rng.integers(0, 3, (50, 2)).astype("float32")}
    y, w = {"t": np.arange(50)}, rng.random(50)
    kg.features.keep(run(trunk, (x, y, w), tmp_path, shard_bytes=300).path, 2)
    order = rng.permutation(50)
    moved = {k: v[order] for k, v in x.items()}, {"t": y["t"][order]}, w[order]
    store = run(trunk, moved, tmp_path, shard_bytes=300)
    rows = store.find(x)
    assert sorted(rows) == list(range(50))
    found = store.take(rows)
    np.testing.assert_array_equal(found["targets"]["t"], y["t"])
    np.testing.assert_array_equal(found["weights"], w)
    np.testing.assert_array_equal(found["features"]["sum"], np.concatenate([x["a"], x["b"]], 1))


def test_a_digest_column_that_is_damaged_is_named(trunk, tmp_path):
    store = run(trunk, images(), tmp_path)
    path = Path(store.path) / "shard-00000.safetensors"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"digests/inputs", b"digests/inputz", 1))
    with pytest.raises(kg.FeatureError, match="shard-00000.safetensors' cannot be read: .*verify"):
        FeatureStore(store.path).find(images()[0])


def test_donor(tmp_path):
    """A head is checked on its own rows, also where the store begins with other samples."""
    x, y = images()
    model = donor()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    how = {"store": tmp_path / "s", "progress": False, "verbose": 0}
    kg.features.fit_head(model, "pool", (x, y), **how)
    again = kg.features.fit_head(model, "pool", (x[::-1], y[::-1]), **how)
    assert again.checked == 32 and again.difference < 1e-2
