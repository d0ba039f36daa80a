"""A store survives its writer: killed at every step of a write, by kill -9, on a full disk."""

import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import crash_writer
import keras
import numpy as np
import pytest

import keras_graft as kg
from keras_graft.features import FeatureStore, compute
from keras_graft.features.store import segments
from keras_graft.features.store.folder import Folder
from keras_graft.features.store.loading import load

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="nothing of a backend")
module = sys.modules["keras_graft.features._compute"]  # the function hides the module
WRITER = Path(crash_writer.__file__)


@pytest.fixture
def tmp_path():
    """In memory where there is such a place: what is synced is not tested, but in which order."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    for name in ("check_fixed", "fingerprint"):
        monkeypatch.setattr(module, name, getattr(module, name))


def rows(store):
    found = store.to_numpy()
    return found["features"]["twice"], found["features"]["first"], found["targets"]


def assert_whole(store, expected):
    assert store.complete and store.verify() == store.bytes
    for a, b in zip(rows(store), expected, strict=True):
        assert a.tobytes() == b.tobytes()
    parts = [p.name for p in Path(store.path).iterdir()]
    assert sorted(parts) == sorted(
        ["lock", "manifest.json", *(s.file for s in store.manifest.shards)]
    )


@pytest.fixture(scope="module")
def expected():
    saved = module.check_fixed, module.fingerprint
    with tempfile.TemporaryDirectory() as folder:
        store = crash_writer.run(folder)
        module.check_fixed, module.fingerprint = saved
        assert len(store) == 400 and len(store.manifest.shards) == 14
        return rows(store)


def environment():
    source = str(Path(kg.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": source, "KERAS_BACKEND": "jax"}


def test_killed_at_fifty_points_each_store_is_finished_to_the_byte(tmp_path, expected):
    # A file: half of each piece, flush, sync, rename, sync of the folder; for 14 shards, which have
    # a header and, of 5 columns, none and the rows of 3 batches, the last of 1; and 15 manifests.
    steps = 13 * (1 + 5 * 4 + 4) + (1 + 5 * 2 + 4) + 15 * 5
    points = [*sorted(random.Random(5).sample(range(steps - 1), 49)), steps - 1]
    for point in points:
        (tmp_path / f"{point:03}").mkdir()
    found = subprocess.run(
        [sys.executable, WRITER, tmp_path, "at", "0"],
        env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    died = dict(line.split() for line in found.stdout.splitlines())
    assert len(died) == 50 and set(died.values()) == {str(-signal.SIGKILL)}
    lengths = set()
    for point in points:
        path = tmp_path / f"{point:03}"
        if (path / "manifest.json").exists():
            store = FeatureStore(path)  # what is there can be read at once
            assert not store.complete or point > steps - 5
            store.verify()
            for a, b in zip(rows(store), expected, strict=True):
                assert a.tobytes() == b[: len(store)].tobytes()
            lengths.add(len(store))
        assert_whole(crash_writer.run(path), expected)
    assert len(lengths) > 10


@pytest.mark.parametrize("shards", [1, 4, 9])
def test_kill_9(tmp_path, expected, shards):
    """At whatever step it is when so many shards are there: its speed does not matter."""
    path = tmp_path / "store"
    child = subprocess.Popen([sys.executable, WRITER, tmp_path, "run", "0"], env=environment())
    try:
        while len(list(path.glob("journal-*.jsonl"))) < shards:
            assert child.poll() is None
            time.sleep(0.001)
    finally:
        child.kill()
        assert child.wait() == -signal.SIGKILL
    assert len(FeatureStore(path)) >= 30 * shards
    assert_whole(crash_writer.run(path), expected)


@pytest.mark.parametrize(
    ("limit", "stored"),
    [(2200, 360), (3000, 400)],
    ids=["the segment of 12 shards", "the last manifest"],
)
def test_a_full_disk_is_said_and_loses_nothing_that_was_written(
    tmp_path, expected, limit, stored, monkeypatch
):
    """No file may grow beyond a limit: what the system says then is what a full disk says."""
    monkeypatch.setattr(segments, "MERGED", (2, 12))
    path = tmp_path / "store"
    crash_writer.without_keras_models()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        with pytest.raises(
            kg.FeatureError, match="cannot be written: OSError: File too large. Make room"
        ):
            crash_writer.run(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    store = FeatureStore(path)
    store.verify()
    assert len(store) == stored and not store.complete
    assert not [p for p in path.iterdir() if ".part" in p.name]
    assert_whole(crash_writer.run(path), expected)


def test_a_full_tmpfs(tmp_path, expected):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", disk], capture_output=True
    )
    if mounted.returncode:
        return  # only root may; the test above has said the like
    try:
        with pytest.raises(kg.FeatureError, match="cannot be written: OSError: No space left"):
            crash_writer.run(disk / "store")
        store = FeatureStore(disk / "store")
        store.verify()
        assert 0 < len(store) < 400
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        assert_whole(crash_writer.run(disk / "store"), expected)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_what_a_killed_writer_left_is_swept_away(tmp_path, expected):
    store = crash_writer.run(tmp_path)
    shard = (tmp_path / "shard-00003.safetensors").read_bytes()
    kg.features.keep(tmp_path, 2)
    for name in ("shard-00077.safetensors", f"shard-{'0af' * 10}12.safetensors"):
        (tmp_path / name).write_bytes(shard)
    (tmp_path / "shard-00002.safetensors.keras-graft.part").write_bytes(b"left")
    assert_whole(crash_writer.run(tmp_path), expected)
    assert len(list(tmp_path.iterdir())) == len(store.manifest.shards) + 2


def test_killed_between_the_manifest_and_the_old_shards(tmp_path, expected):
    """What the store before it leaves then is known for what it is."""
    folder = Folder(tmp_path)
    crash_writer.run(tmp_path)
    load(folder).replace(shards=(), complete=False).save(folder)
    assert_whole(crash_writer.run(tmp_path), expected)


def test_data_that_breaks_off_is_said_and_goes_on(tmp_path, expected):
    crash_writer.without_keras_models()

    def broken():
        for i, batch in enumerate(crash_writer.data()):
            if i == 23:
                raise RuntimeError("a file is missing")
            yield batch

    with pytest.raises(RuntimeError, match="a file is missing"):
        compute(crash_writer.Trunk(), broken(), tmp_path, progress=False, shard_bytes=1000)
    assert 0 < len(FeatureStore(tmp_path)) <= 230
    with pytest.raises(kg.FeatureError, match="is not complete: .* samples so far"):
        kg.features.FeatureDataset(tmp_path, 8)
    assert_whole(crash_writer.run(tmp_path), expected)


def test_resumed_in_other_batches_there_is_no_duplicate_and_no_hole(tmp_path, expected):
    crash_writer.without_keras_models()
    x = np.concatenate([x for x, _ in crash_writer.data()])

    class Stops(crash_writer.Trunk):
        calls = 0

        def predict_on_batch(self, x):
            self.calls += 1
            if self.calls == 30:
                raise KeyboardInterrupt
            return super().predict_on_batch(x)

    with pytest.raises(KeyboardInterrupt):
        compute(Stops(), (x, np.arange(400)), tmp_path, batch_size=7, progress=False,
                shard_bytes=1000)  # fmt: skip
    assert len(FeatureStore(tmp_path)) % 10
    assert_whole(crash_writer.run(tmp_path), expected)
