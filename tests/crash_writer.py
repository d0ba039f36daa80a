"""Computes a store, for test_crash.py to kill: a trunk that costs nothing, on NumPy alone."""

import itertools
import os
import sys
import time
from pathlib import Path

import numpy as np

import keras_graft  # noqa: F401
from keras_graft.features.engines import pipeline as _pipeline
from keras_graft.features.store import folder as _folder
from keras_graft.features.store import segments as _segments

_compute = sys.modules["keras_graft.features._compute"]  # the function hides the module


class Trunk:
    """What `compute` uses of a model."""

    name = "trunk"
    weights = ()

    def predict_on_batch(self, x):
        return {"twice": x * 2, "first": x[:, :1]}


def data():
    rng = np.random.default_rng(0)
    for start in range(0, 400, 10):
        x = rng.random((10, 8), "float32")
        yield x, np.arange(start, start + 10)


def without_keras_models():
    """The fake trunk has no graph: what is tested here is what is on the disk."""
    _compute.check_fixed = lambda trunk, frozen: None
    _compute.fingerprint = lambda trunk: {"structure": "fake", "weights": "fake"}


def run(path, shard_bytes=1000):
    without_keras_models()
    return _compute.compute(Trunk(), data(), path, progress=False, shard_bytes=shard_bytes)


def dying_at(point, *more):
    """Die, as killed, at the n-th of the steps that writing consists of.

    Args:
        point: The number of the step.
        *more: Other functions of `os` that are steps too.
    """
    steps = iter(range(10**9))

    def step(function):
        def run(*args, **kwargs):
            if next(steps) == point:
                os.kill(os.getpid(), 9)
            return function(*args, **kwargs)

        return run

    class File:
        def __init__(self, file):
            self._file = file

        def __enter__(self):
            return self

        def __exit__(self, *args):
            self._file.close()

        def write(self, data):
            half = len(data) // 2
            self._file.write(data[:half])
            self._file.flush()
            step(lambda: None)()
            self._file.write(data[half:])

        def __getattr__(self, name):
            return step(getattr(self._file, name)) if name == "flush" else getattr(self._file, name)

    def opened(path, mode="r"):
        file = open(path, mode)  # noqa: SIM115 - the one in its place is closed
        return File(file) if mode == "xb" else file

    _folder.open = opened
    for name in ("fsync", "replace", *more):
        setattr(_folder.os, name, step(getattr(os, name)))
    return steps


if __name__ == "__main__":
    folder, how, point = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    if how == "at":
        # One import for many deaths: each is a child of its own.
        for path in sorted(folder.iterdir()):
            child = os.fork()
            if child == 0:
                dying_at(int(path.name))
                run(path)
                os._exit(0)
            print(path.name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    elif how == "merging":
        # The same where segments of the journal are merged, and deletions count. The last tells how
        # many steps there are.
        _segments.MERGED = (2, 8)
        for path in sorted(folder.iterdir()):
            child = os.fork()
            if child == 0:
                steps = dying_at(int(path.name), "unlink")
                run(path)
                print("steps", next(steps), flush=True)
                os._exit(0)
            print(path.name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    elif how in ("timed", "slow", "stuck"):
        # A shard is full only at the end: it is written by time, or when it is interrupted.
        _pipeline.EVERY = point if how == "timed" else 1e9
        _wait = Trunk.predict_on_batch

        def predict(self, x):
            time.sleep(0.005)
            found = _wait(self, x)
            with (folder / "computed").open("a") as file:
                file.write(".")
            return found

        Trunk.predict_on_batch = predict
        if how == "stuck":
            _write = _folder.Folder.write

            def write(self, name, *pieces):
                if name.startswith("shard"):
                    (folder / "writing").touch()
                    time.sleep(600)
                _write(self, name, *pieces)

            _folder.Folder.write = write
        run(folder / "store", 1 << 30)
    else:
        # It waits before the last shards, so that it is never too late to kill it.
        _calls, _wait = itertools.count(1), Trunk.predict_on_batch

        def waiting(self, x):
            time.sleep(600 if next(_calls) == 36 else 0.002)
            return _wait(self, x)

        Trunk.predict_on_batch = waiting
        run(folder / "store")
