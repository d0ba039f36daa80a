"""Stores larger than memory are read in blocks; several readers share a store."""

import contextlib

import keras
import numpy as np
import pytest
from feature_helpers import images, run

import keras_graft as kg
from keras_graft.features import FeatureDataset, FeatureStore
from keras_graft.features.head import reading
from keras_graft.features.head.memory import memory
from keras_graft.features.head.order import BlockOrder, Share, edges, mixing
from keras_graft.features.store import folder as folders
from keras_graft.features.store.column import Column
from keras_graft.features.store.entries import ShardEntry, Shards
from keras_graft.features.store.manifest import Manifest
from keras_graft.features.store.rows import Rows
from keras_graft.features.store.shards import encode, shard_name

pytestmark = pytest.mark.once


@pytest.fixture
def small(monkeypatch):
    """Windows of 16 samples in blocks of 4."""

    def set_to(row_bytes, window=16, block=4):
        monkeypatch.setattr(reading, "_WINDOW", window * row_bytes)
        monkeypatch.setattr(reading, "_BLOCK", (block * row_bytes, block * row_bytes))

    return set_to


def row_bytes(store):
    return sum(column.bytes for column in store.manifest.columns.values())


def epoch(dataset):
    return [np.asarray(dataset[i][1]) for i in range(len(dataset))]


def order_of(dataset):
    return np.concatenate(epoch(dataset)).tolist()


def test_blocks_give_every_sample_once_with_its_features(trunk, tmp_path, small):
    x, _ = images()
    store = run(trunk, (x, np.arange(50)), tmp_path)
    small(row_bytes(store))
    exact = store.to_numpy()["features"]
    dataset = FeatureDataset(store, 8, shuffle="blocks", seed=3)
    assert dataset.reading.shuffle == "blocks" and len(dataset) == 7
    orders = []
    for _ in range(3):
        found = [dataset[i] for i in range(7)]
        order = np.concatenate([y for _, y in found])
        assert sorted(order) == list(range(50)) and [len(y) for _, y in found] == [8] * 6 + [2]
        np.testing.assert_array_equal(np.concatenate([f for f, _ in found]), exact[order])
        orders.append(order.tolist())
        dataset.on_epoch_end()
    assert orders[0] != orders[1] != orders[2]
    again = FeatureDataset(store, 8, shuffle="blocks", seed=3)
    assert (
        order_of(again) == orders[0] != order_of(FeatureDataset(store, 8, shuffle="blocks", seed=4))
    )
    # Batches out of turn, and given again: each is the same, and may be written into.
    for i in (6, 0, 3, 3, 1, 5):
        features, targets = again[i]
        assert targets.tolist() == orders[0][8 * i : 8 * i + 8]
        np.testing.assert_array_equal(features, exact[targets])
        features -= 100
    made = FeatureDataset(store, 8, shuffle="blocks", seed=3)
    assert np.concatenate([np.asarray(y) for _, y in made.as_torch()]).tolist() == orders[0]
    several = [y for part in again._epoch.several(5) for y in part[1].tolist()]
    assert several == orders[0]
    assert made.plain()[0][1].tolist() == list(range(8))


def test_a_window_holds_its_blocks_and_no_more(trunk, tmp_path, small):
    store = run(trunk, (images()[0], np.arange(50)), tmp_path)
    small(row_bytes(store))
    order = order_of(FeatureDataset(store, 8, shuffle="blocks"))
    for start in range(0, 48, 16):
        window = np.sort(order[start : start + 16])
        runs = 1 + (np.diff(window) != 1).sum()
        assert runs <= 7  # blocks of 4, of which shards cut some


def test_only_some_samples_in_blocks(trunk, tmp_path, small):
    store = run(trunk, (images()[0], np.arange(50)), tmp_path)
    small(row_bytes(store))
    some = np.random.default_rng(0).permutation(50)[:37]
    dataset = FeatureDataset(store, 4, shuffle="blocks", indices=some)
    order = order_of(dataset)
    assert sorted(order) == sorted(some.tolist()) and order != some.tolist()
    parts = [
        FeatureDataset(store, 4, shuffle="blocks", validation_split=0.2, subset=s)
        for s in ("training", "validation")
    ]
    assert sorted(order_of(parts[0]) + order_of(parts[1])) == list(range(50))


@pytest.mark.parametrize("window", [16, 64])
def test_a_window_is_read_with_few_large_requests(trunk, tmp_path, monkeypatch, small, window):
    x = np.concatenate([images(seed=i)[0] for i in range(8)])
    store = run(trunk, (x, np.arange(400)), tmp_path, shard_bytes=3200)
    small(row_bytes(store), window=window, block=16)
    from keras_graft.features.store.rows import Rows

    store._rows = Rows(store._folder, store.manifest, None, kept=0, short=0)
    real, requests = folders.Parts.read_into, []

    def read_into(self, start, buffer):
        requests.append(len(buffer))
        real(self, start, buffer)

    monkeypatch.setattr(folders.Parts, "read_into", read_into)
    counted = {}
    for kind in ("rows", "blocks"):
        dataset = FeatureDataset(store, 8, shuffle=kind)
        requests.clear()
        assert sorted(order_of(dataset)) == list(range(400))
        counted[kind] = len(requests), sum(requests)
    shards = len(store.manifest.shards)
    headers = 2 * shards * 8 + 100_000
    assert counted["blocks"][0] * 5 < counted["rows"][0], counted
    assert counted["blocks"][1] <= counted["rows"][1] + headers


@pytest.mark.parametrize("most_open, order", [(8, "aaararrr"), (1, "rrrr")])
def test_blocks_are_asked_for_before_they_are_read(tmp_path, monkeypatch, most_open, order):
    """So a disk has several to do at once; the begin of a file is read once, however often it is opened."""
    columns = {"features/": Column((2,), "float32"), "targets/": Column((), "int64")}
    x, place, entries = np.arange(80, dtype="float32").reshape(40, 2), folders.Folder(tmp_path), []
    for i in range(4):
        own = slice(10 * i, 10 * i + 10)
        pieces = encode({"features/": [x[own]], "targets/": [np.arange(40)[own]]})
        place.write(shard_name(i), *pieces)
        sums = "0" * 16, ("0" * 16,), ("0" * 16,)
        entries.append(ShardEntry(shard_name(i), 10, sum(map(len, pieces)), *sums))
    manifest = Manifest(
        columns, {"features": "one", "targets": "one"}, {}, 1, 10, {}, Shards(entries)
    )
    found, calls, sizes = Rows(place, manifest, None, kept=0, short=0, most_open=most_open), [], []
    real = folders.Parts.read_into

    def read_into(self, start, buffer):
        sizes.append(len(buffer))
        calls.extend("r" * (len(buffer) == 40))  # five rows
        real(self, start, buffer)

    monkeypatch.setattr(folders.Parts, "read_into", read_into)
    monkeypatch.setattr(folders.Parts, "ahead", lambda self, start, length: calls.append("a"))
    blocks = np.r_[0:5, 12:17, 23:28, 31:36]
    for _ in range(2):
        calls.clear()
        taken = found.take(blocks, ["features/"])
        np.testing.assert_array_equal(taken["features/"], x[blocks])
        assert "".join(calls) == order
    calls.clear()
    rows = np.array([33, 3, 17, 29, 8])
    np.testing.assert_array_equal(found.take(rows, ["features/"])["features/"], x[rows])
    assert not calls and sizes.count(8) == 4 + 5  # lengths of headers, and single rows


def test_how_a_store_is_read_is_chosen_and_said(trunk, tmp_path, monkeypatch, small):
    store = run(trunk, (images()[0], np.arange(50)), tmp_path)
    dataset = FeatureDataset(store, 8)
    assert dataset.reading.shuffle == "rows" and "of memory)" in str(dataset.reading)
    monkeypatch.setattr(reading, "memory", lambda: store.bytes)
    dataset = FeatureDataset(store, 8)
    assert dataset.reading.shuffle == "blocks" and sorted(order_of(dataset)) == list(range(50))
    text = str(dataset.reading)
    assert "blocks (" in text and "are more than half of the" in text and "mixed at a time" in text
    assert dataset.reading.window % 8 == 0 and dataset.reading.to_dict()["shuffle"] == "blocks"
    assert FeatureDataset(store, 8, shuffle="rows").reading.shuffle == "rows"
    assert FeatureDataset(store, 8, shuffle=False).reading.shuffle == "none"
    for wrong in ("row", 1, None, "none"):
        with pytest.raises(
            kg.FeatureError, match='shuffle must be True, False, "rows" or "blocks"'
        ):
            FeatureDataset(store, 8, shuffle=wrong)


def test_the_memory_of_a_container_counts(tmp_path):
    machine = memory(tmp_path / "none", tmp_path / "none")
    groups, own = tmp_path / "groups", tmp_path / "own"
    deep = groups / "memory" / "a" / "b"
    deep.mkdir(parents=True)
    own.write_text("9:name=systemd:/\n4:cpu,memory:/a/b\n0::/x\n")
    assert memory(groups, own) == machine
    (groups / "memory" / "a" / "memory.limit_in_bytes").write_text("5000000\n")
    assert memory(groups, own) == 5_000_000
    (deep / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert memory(groups, own) == 5_000_000
    (groups / "x").mkdir()
    (groups / "x" / "memory.max").write_text("max\n")
    assert memory(groups, own) == 5_000_000
    (groups / "x" / "memory.max").write_text("4000\n")
    assert memory(groups, own) == 4000
    (groups / "memory.max").write_text("300\n")  # a container sees its own group as the root
    assert memory(groups, own) == 300


def test_how_well_blocks_mix():
    """Sorted by class, the worst case: 100,000 rows, blocks of 100, windows of 64 blocks."""
    labels = np.repeat(np.arange(10), 10_000)
    order = BlockOrder(edges(np.array([0, 100_000]), 100), Share(100_000), 6400, [0, 0])
    rows = np.concatenate([order.rows(i)[order.mixed(i)] for i in range(16)])
    assert sorted(rows.tolist()) == list(range(100_000))
    run, distance = mixing(labels, rows)
    full_run, full_distance = mixing(labels, np.random.default_rng(0).permutation(100_000))
    assert abs(run / full_run - 1) < 0.02 and abs(distance / full_distance - 1) < 0.05
    assert mixing(labels, np.arange(100_000))[0] == 10_000
    # Its memory is that of its blocks.
    assert order._starts.nbytes + order._ends.nbytes == 16 * 1000


@pytest.mark.parametrize("kind", ["rows", "blocks", False])
@pytest.mark.parametrize("remainder", ["drop", "repeat"])
@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_parts_are_disjoint_and_of_equal_length(trunk, tmp_path, small, kind, remainder, world):
    store = run(trunk, (images()[0], np.arange(50)), tmp_path)
    small(row_bytes(store))
    parts = [
        FeatureDataset(store, 4, shuffle=kind, seed=1, part=(rank, world), remainder=remainder)
        for rank in range(world)
    ]
    length = 50 // world if remainder == "drop" else -(-50 // world)
    left = set()
    for _ in range(3):
        found = [order_of(part) for part in parts]
        assert [len(own) for own in found] == [length] * world
        together = [i for own in found for i in own]
        twice = len(together) - len(set(together))
        assert twice == max(0, length * world - 50) == parts[0].reading.repeated
        assert 50 - len(set(together)) == max(0, 50 - length * world) == parts[0].reading.dropped
        left.add(frozenset(range(50)) - frozenset(together))
        for part in parts:
            assert len(part) == -(-length // 4)
            part.on_epoch_end()
    if remainder == "drop" and 50 % world and kind:
        assert len(left) == 3  # other ones in each epoch


@pytest.mark.parametrize("batch", [3, 8])
def test_batches_of_all_parts_are_a_batch_of_one_reader(trunk, tmp_path, batch):
    store = run(trunk, (images()[0], np.arange(50)), tmp_path)
    whole = FeatureDataset(store, 2 * batch, seed=5)
    parts = [FeatureDataset(store, batch, seed=5, part=(rank, 2)) for rank in range(2)]
    for _ in range(2):
        for i in range(len(whole)):
            ours = np.concatenate([part[i][1] for part in parts])
            assert ours.tolist() == whole[i][1].tolist()
        for dataset in (whole, *parts):
            dataset.on_epoch_end()


def test_parts_that_cannot_be_are_refused(trunk, tmp_path):
    store = run(trunk, (images()[0][:3], np.arange(3)), tmp_path)
    for wrong in ((2, 2), (-1, 2), (0, 0), 1, (0,), (0, 2, 3), ("0", 2), (0.0, 2), (False, 2)):
        with pytest.raises(kg.FeatureError, match=r"part must be \(rank, world\).*get_rank"):
            FeatureDataset(store, 1, part=wrong)
    with pytest.raises(kg.FeatureError, match='remainder must be "drop" or "repeat"'):
        FeatureDataset(store, 1, remainder="pad")
    with pytest.raises(
        kg.FeatureError, match='3 samples cannot be divided among 4 .*remainder="rep'
    ):
        FeatureDataset(store, 1, part=(0, 4))
    assert order_of(FeatureDataset(store, 1, part=(3, 4), remainder="repeat", shuffle=False)) == [0]


def bytes_in(folder):
    total = 0
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that reads ahead may evict it now
            total += path.stat().st_size
    return total


def test_the_cache_of_a_url_evicts(trunk, tmp_path, small):
    pytest.importorskip("fsspec")
    x = np.concatenate([images(seed=i)[0] for i in range(4)])
    url = "memory://test_reading/cache"
    store = kg.features.compute(
        trunk, (x, np.arange(200)), url, batch_size=8, progress=False, shard_bytes=1600
    )
    sizes = [shard.bytes for shard in store.manifest.shards]
    assert len(sizes) >= 4
    bound = 2 * max(sizes)
    store = FeatureStore(url, cache=tmp_path / "cache", cache_bytes=bound)
    from keras_graft.features.store.rows import Rows

    assert store._rows._most_open == 2
    store._rows = Rows(store._folder, store.manifest, None, kept=0, short=0, most_open=2)
    small(row_bytes(store), window=64)
    dataset = FeatureDataset(store, 8)
    assert dataset.reading.shuffle == "blocks" and "more than the cache of" in dataset.reading.why
    assert "a shard" in str(dataset.reading)
    exact = FeatureStore(url).to_numpy()["features"]
    for _ in range(2):
        seen = []
        for i in range(len(dataset)):
            features, targets = dataset[i]
            np.testing.assert_array_equal(features, exact[targets])
            seen += targets.tolist()
            assert bytes_in(tmp_path / "cache") <= bound
        assert sorted(seen) == list(range(200))
        dataset.on_epoch_end()
    cache = store._folder.cache
    assert cache.evicted > 0 and cache.fetched <= 5 * sum(sizes)
    with pytest.raises(kg.FeatureError, match="cache_bytes must be a whole number"):
        FeatureStore(url, cache_bytes=0)


def test_training_from_blocks_learns_as_from_rows(trunk, tmp_path, small):
    """The loss curves of a head on a store that is sorted by class."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 100)
    x = rng.normal(size=(400, 6)).astype("float32") + 2 * np.eye(4, 6, dtype="float32")[y]
    inputs = keras.Input((6,))
    store = run(keras.Model(inputs, inputs * 1.0), (x, y), tmp_path, shard_bytes=2000)
    small(row_bytes(store), window=96, block=8)
    losses = {}
    for kind in ("rows", "blocks", False):
        keras.utils.set_random_seed(0)
        head = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
        head.compile(
            keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        )
        dataset = FeatureDataset(store, 16, shuffle=kind)
        head.fit(dataset, epochs=4, shuffle=False, verbose=0)
        losses[kind] = head.evaluate(x, y, verbose=0)
    assert abs(losses["blocks"] / losses["rows"] - 1) < 0.01 < losses[False] / losses["rows"] - 1


def test_blocks_give_the_views_that_rows_give(tmp_path, small):
    x = keras.Input((6,))
    noise = keras.Model(x, keras.layers.GaussianNoise(1.0)(x))
    store = run(noise, (np.ones((50, 6), "float32"), np.arange(50)), tmp_path, views=3)
    small(row_bytes(store))
    for kind in ("rows", "blocks"):
        dataset = FeatureDataset(store, 8, shuffle=kind)
        epochs = []
        for _ in range(3):
            found = [dataset[i] for i in range(len(dataset))]
            order = np.argsort(np.concatenate([y for _, y in found]))
            epochs.append(np.concatenate([f for f, _ in found])[order])
            dataset.on_epoch_end()
        if kind == "rows":
            expected = epochs
    np.testing.assert_array_equal(epochs, expected)
    assert not np.array_equal(epochs[0], epochs[1])
