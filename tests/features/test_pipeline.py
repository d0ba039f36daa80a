"""What runs beside the trunk: in order, bounded, and gone when `compute` is."""

import gc
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest

import keras_graft as kg
from keras_graft.features.data import Batch
from keras_graft.features.engines.pipeline import Writer, read_ahead
from keras_graft.features.store.columns import Columns
from keras_graft.features.store.folder import Folder
from keras_graft.features.store.loading import load
from keras_graft.features.store.location import location
from keras_graft.features.store.manifest import Column, Manifest

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def batch(start=0, rows=4):
    return Batch(np.arange(start, start + rows, dtype="float32")[:, None])


def waited(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_batches_come_in_order():
    ahead = read_ahead(batch(i) for i in range(20))
    assert [int(b.x[0, 0]) for b in ahead] == list(range(20))
    assert next(ahead, None) is None is next(ahead, None)
    ahead.close()


def test_an_error_comes_after_the_batches_before_it():
    def source():
        yield batch(0)
        yield batch(1)
        raise OSError("the disk")

    ahead = read_ahead(source())
    assert [int(next(ahead).x[0, 0]) for _ in range(2)] == [0, 1]
    with pytest.raises(OSError, match="the disk"):
        next(ahead)


def test_few_batches_are_read_ahead_and_none_is_held_longer_than_needed():
    made = []

    def source():
        for i in range(20):
            found = batch(i)
            made.append(weakref.ref(found))
            yield found

    ahead = read_ahead(source())
    for taken in range(1, 10):
        next(ahead)
        waited(lambda taken=taken: len(made) == taken + 3)
        gc.collect()
        # Those ahead, and the one that the thread and the source had last.
        assert sum(ref() is not None for ref in made) <= 5
    ahead.close()
    assert len(made) == 12


def test_what_is_closed_reads_no_further():
    opened, seen = threading.Event(), []

    def source():
        for i in range(20):
            seen.append(i)
            opened.wait(10)
            yield batch(i)

    ahead = read_ahead(source())
    opened.set()
    next(ahead)
    waited(lambda: len(seen) == 4)
    opened.clear()
    next(ahead)
    waited(lambda: len(seen) == 5)
    timer = threading.Timer(0.05, opened.set)
    timer.start()
    ahead.close()  # waits for the batch that is being read
    timer.join()
    assert len(seen) == 5


def writer(folder, rows_per_shard=4):
    manifest = Manifest(
        {"features/": Column((1,), "float32")},
        {"features": "one"},
        {},
        4,
        rows_per_shard,
        {},
        format=2,
    )
    columns = Columns(None, True, None, by_content=False)
    return Writer(location(Folder(folder), True), manifest, columns, skip=False)


def test_shards_are_written_in_order_and_the_manifest_last(tmp_path):
    made = writer(tmp_path, rows_per_shard=8)
    for i in range(5):
        made.put(batch(4 * i).x, batch(4 * i), 4 * i, {})
    made.finish()
    made.stop()
    store = kg.features.FeatureStore(tmp_path)
    assert store.complete and [s.rows for s in store.manifest.shards] == [8, 8, 4]
    assert store.to_numpy()["features"][:, 0].tolist() == list(range(20))


def test_nothing_is_written_after_a_batch_that_failed(tmp_path):
    made = writer(tmp_path)
    made.put(batch(0).x, batch(0), 0, {})
    made.put(None, batch(4), 4, dict.fromkeys(range(4), "broken"))
    with pytest.raises(kg.FeatureError, match="Sample 4 fails: broken"):
        for i in range(2, 20):
            made.put(batch(4 * i).x, batch(4 * i), 4 * i, {})
        made.finish()
    with pytest.raises(kg.FeatureError, match="Sample 4 fails: broken"):
        made.finish()
    made.stop()
    found = load(Folder(tmp_path))
    assert [s.rows for s in found.shards] == [4] and not found.complete


def test_a_writer_that_is_slow_is_waited_for(tmp_path, monkeypatch):
    made, go = writer(tmp_path), threading.Event()
    monkeypatch.setattr(made._building, "add", lambda *_: go.wait(10))
    put = []

    def puts():
        for i in range(6):
            made.put(batch(4 * i).x, batch(4 * i), 4 * i, {})
            put.append(i)

    other = threading.Thread(target=puts)
    other.start()
    waited(lambda: len(put) == 3)
    time.sleep(0.05)
    assert len(put) == 3
    go.set()
    other.join()
    made.stop()


@pytest.mark.parametrize("ends", ["raise ValueError('the trunk')", "os.kill(os.getpid(), 2)"])
def test_python_exits_though_a_source_waits_for_ever(ends):
    """A second Ctrl-C leaves `close`; then nothing may keep the process."""
    code = f"""
import os, signal, threading, time
from keras_graft.features.engines.pipeline import read_ahead

def source():
    yield 1
    threading.Event().wait()

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where it is ignored
signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
ahead = read_ahead(source())
next(ahead)
try:
    try:
        {ends}
        time.sleep(10)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        ahead.close()
except BaseException as error:
    print(type(error).__name__, flush=True)
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    assert found.stdout.split() == ["KeyboardInterrupt"]
