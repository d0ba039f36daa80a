"""What is computed is kept: written every minute, and on Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import crash_writer
import numpy as np
import pytest
from feature_helpers import images, run

import keras_graft as kg
from keras_graft.features import FeatureDataset, FeatureStore
from keras_graft.features.data import Batch
from keras_graft.features.engines import pipeline
from keras_graft.features.store.columns import Columns
from keras_graft.features.store.folder import Folder
from keras_graft.features.store.location import location
from keras_graft.features.store.manifest import Column, Manifest

pytestmark = pytest.mark.once
module = sys.modules["keras_graft.features._compute"]  # the function hides the module


def batch(start):
    return Batch(np.arange(start, start + 4, dtype="float32")[:, None])


def waited(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def writer(folder):
    manifest = Manifest(
        {"features/": Column((1,), "float32")}, {"features": "one"}, {}, 4, 10**6, {}, format=2
    )
    columns = Columns(None, True, None, by_content=False)
    return pipeline.Writer(location(Folder(folder), True), manifest, columns, skip=False)


def test_a_shard_is_written_when_a_minute_has_passed(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(pipeline, "clock", lambda: now[0])
    made = writer(tmp_path)
    assert pipeline.EVERY == 60
    found = []
    for i, seconds in enumerate([10, 30, 20, 1, 58, 2, 0, 70]):
        now[0] += seconds
        made.put(batch(4 * i).x, batch(4 * i), 4 * i, {})
        made.wait()
        found.append(len(made.manifest.shards))
    assert found == [0, 0, 1, 1, 1, 2, 2, 3]  # a minute after the last shard, with whole batches
    made.finish()
    made.stop()
    store = FeatureStore(tmp_path)
    assert [s.rows for s in store.manifest.shards] == [12, 12, 8] and store.verify()
    assert store.take(range(32))["features"][:, 0].tolist() == list(range(32))


def test_a_shard_is_written_while_the_data_lets_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "EVERY", 0.05)
    made = writer(tmp_path)
    made.put(batch(0).x, batch(0), 0, {})
    waited(lambda: made.manifest.shards)
    assert len(FeatureStore(tmp_path)) == 4
    made.stop()


def environment():
    return {**os.environ, "PYTHONPATH": str(Path(kg.__file__).parent.parent)}


@pytest.fixture
def started():
    """Return what starts a writer, which ends with the test."""
    children = []

    def start(*args):
        children.append(_started(*args))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.wait()


def _started(folder, how, seconds=0.0):
    # Shells start what runs in the background without SIGINT.
    return subprocess.Popen(
        [sys.executable, Path(crash_writer.__file__), folder, how, str(seconds)], env=environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def computed(folder):
    path = folder / "computed"
    return path.stat().st_size if path.exists() else 0


def shards(folder):
    try:
        return len(FeatureStore(folder / "store").manifest.shards)
    except kg.FeatureError:
        return 0


@pytest.fixture
def finished(monkeypatch):
    """Return what finishes a store in this process and compares it with one made in one go."""
    for name in ("check_fixed", "fingerprint"):
        monkeypatch.setattr(module, name, getattr(module, name))

    def check(folder):
        x = np.concatenate([x for x, _ in crash_writer.data()])
        store = crash_writer.run(folder / "store")
        found = store.to_numpy()
        assert store.complete and store.verify() == store.bytes
        np.testing.assert_array_equal(found["features"]["twice"], x * 2)
        np.testing.assert_array_equal(found["targets"], np.arange(400))

    return check


def test_killed_with_timed_writing_a_moment_is_lost(tmp_path, started, finished):
    child = started(tmp_path, "timed", 0.05)
    waited(lambda: shards(tmp_path) > 2 or child.poll() is not None)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    store = FeatureStore(tmp_path / "store")
    assert not store.complete and store.verify() and len(store) % 10 == 0
    assert 20 <= len(store) <= 10 * computed(tmp_path)
    finished(tmp_path)
    after = FeatureStore(tmp_path / "store").manifest.shards
    assert after[: len(store.manifest.shards)] == store.manifest.shards  # nothing is done again


def test_ctrl_c_keeps_all_that_was_computed(tmp_path, started, finished):
    child = started(tmp_path, "slow")
    waited(lambda: computed(tmp_path) > 12 or child.poll() is not None)
    child.send_signal(signal.SIGINT)
    said = child.communicate()[1]
    assert child.returncode == -signal.SIGINT and "KeyboardInterrupt" in said
    store = FeatureStore(tmp_path / "store")
    assert store.verify() and not store.complete and len(store.manifest.shards) == 1
    # The signal may come after a batch was computed, and before it was handed on.
    assert 10 * computed(tmp_path) - 10 <= len(store) <= 10 * computed(tmp_path)
    assert f"{len(store)} samples are stored in {tmp_path / 'store'}. Call kg.features" in said
    finished(tmp_path)
    assert FeatureStore(tmp_path / "store").manifest.shards[0] == store.manifest.shards[0]


def test_a_second_ctrl_c_waits_for_nothing(tmp_path, started, finished):
    child = started(tmp_path, "stuck")
    waited(lambda: computed(tmp_path) > 5 or child.poll() is not None)
    child.send_signal(signal.SIGINT)
    waited((tmp_path / "writing").exists)
    assert child.poll() is None
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=100)  # to write would take ten minutes
    assert child.returncode == -signal.SIGINT
    with pytest.raises(kg.FeatureError, match="not complete: 0 samples so far"):
        FeatureDataset(tmp_path / "store", 8)
    finished(tmp_path)


class Interrupted:
    """Images, until somebody presses Ctrl-C."""

    def __init__(self, x, y, after, error=KeyboardInterrupt):
        self.x, self.y, self.after, self.error = x, y, after, error

    def __iter__(self):
        for i in range(0, len(self.x), 8):
            if i == 8 * self.after:
                raise self.error("stopped")
            yield self.x[i : i + 8], self.y[i : i + 8]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_data_that_is_interrupted_is_kept_and_the_way_on_is_said(trunk, tmp_path, error):
    x, y = images()
    with pytest.raises(error) as caught:
        run(trunk, Interrupted(x, y, 3, error), tmp_path, shard_bytes=1 << 20)
    (note,) = caught.value.__notes__
    assert note == (
        f"24 samples are stored in {tmp_path / 'store'}. Call kg.features.compute again with the same "
        "data: it computes only those that are missing."
    )
    store = FeatureStore(tmp_path / "store")
    assert len(store) == 24 and not store.complete and len(store.manifest.shards) == 1
    # Again, from there on.
    with pytest.raises(error):
        run(trunk, Interrupted(x, y, 5, error), tmp_path, shard_bytes=1 << 20)
    assert [s.rows for s in FeatureStore(tmp_path / "store").manifest.shards] == [24, 16]
    # A generator too is resumed, by content and in any order.
    order = np.random.default_rng(0).permutation(50)
    rest = iter(Interrupted(x[order], y[order], 99))
    store = run(trunk, rest, tmp_path)
    rows = store.find(x)
    assert sorted(rows) == list(range(50)) and store.verify() and store.complete
    np.testing.assert_array_equal(store.take(rows)["targets"], y)


@pytest.mark.parametrize("error, replaced", [(KeyboardInterrupt, True), (OSError, False)])
def test_an_old_store_is_replaced_on_purpose_only(trunk, tmp_path, error, replaced):
    x, y = images()
    old = run(trunk, (x, y), tmp_path)
    with pytest.raises(error):
        run(trunk, Interrupted(x + 1, y, 2, error), tmp_path, resume=False, shard_bytes=1 << 20)
    store = FeatureStore(old.path)
    assert (store.manifest != old.manifest) == replaced and store.verify()
    assert len(store) == (16 if replaced else 50)
    assert len(list(Path(old.path).iterdir())) == 2 + len(store.manifest.shards)


def test_a_store_without_samples_says_so(trunk, tmp_path, monkeypatch):
    x, y = images()
    path = tmp_path / "store"
    # Killed before the first batch was computed.
    with pytest.raises(KeyboardInterrupt):
        run(trunk, Interrupted(x, y, 0), tmp_path)
    with pytest.raises(kg.FeatureError, match="holds no features yet: .*begun here.*compute again"):
        FeatureStore(path)
    # Killed before the first shard was written.
    monkeypatch.setattr(pipeline.Writer, "keep", lambda self: 1 / 0)
    with pytest.raises(KeyboardInterrupt):
        run(trunk, Interrupted(x, y, 2), tmp_path, shard_bytes=1 << 20)
    monkeypatch.undo()
    store = FeatureStore(path)
    assert len(store) == 0 and store.verify() == 0
    assert (
        "nothing is stored yet: it was stopped before its first samples were written. Call "
        in str(store)
    )
    assert "features  (?, 6) float32" in str(store)
    assert store.take([])["features"].shape == (0, 6) and store.find(x[:2]).tolist() == [-1, -1]
    with pytest.raises(kg.FeatureError, match="not complete: 0 samples so far. Finish it"):
        FeatureDataset(store, 8)
    assert len(run(trunk, (x, y), tmp_path)) == 50
    other = kg.extract(trunk, "stem")  # nothing was stored, so nothing is in the way
    monkeypatch.setattr(pipeline.Writer, "keep", lambda self: 1 / 0)
    with pytest.raises(KeyboardInterrupt):
        run(trunk, Interrupted(x, y, 2), tmp_path / "o", shard_bytes=1 << 20)
    monkeypatch.undo()
    assert run(other, (x, y), tmp_path / "o").complete


def test_stores_of_uneven_shards_are_read_everywhere(trunk, tmp_path):
    pytest.importorskip("fsspec")
    x, y = images()
    even = run(trunk, (x, y), tmp_path / "even")
    for url in (tmp_path / "uneven", "memory://test_stores_of_uneven_shards"):
        for after in (1, 4, 5):
            with pytest.raises(KeyboardInterrupt):
                kg.features.compute(
                    trunk, Interrupted(x, y, after), url, progress=False, shard_bytes=1 << 20
                )
        store = kg.features.compute(trunk, Interrupted(x, y, 99), url, progress=False)
        assert [s.rows for s in store.manifest.shards] == [8, 24, 8, 10] and store.verify()
        order = np.random.default_rng(0).permutation(50)
        np.testing.assert_array_equal(store.take(order)["features"], even.take(order)["features"])
        both = FeatureDataset([even, store], 8, shuffle=False)
        np.testing.assert_array_equal(both[0][0]["0"], both[0][0]["1"])
        assert store.find(x).tolist() == list(range(50))
    other = run(trunk, (x[::-1], y[::-1]), tmp_path / "other")
    with pytest.raises(kg.FeatureError, match="made of different inputs, or in a different order"):
        FeatureDataset([other, store], 8)
