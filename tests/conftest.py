import gc
import os
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# xdist runs as many workers as there are cores: threads inside each would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Most of the time on JAX goes to compiling, and the workers and the scripts they run compile much
# that is the same: each program is compiled once for all of them.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache/jax"))
# What is compiled runs once or twice: compiling it well takes far longer than running it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

import keras  # noqa: E402
import pytest  # noqa: E402

collect_ignore = ["distributed.py", "data"]  # a script for four devices, and files that are read


_collection = {"start": 0.0, "took": 1.0}
"""The last collection of all that is not frozen, in seconds: before the first, all is there."""


def _timed(phase, info):
    if info["generation"] == 2:
        now = time.perf_counter()
        if phase == "start":
            _collection["start"] = now
        else:
            _collection["took"] = now - _collection["start"]


gc.callbacks.append(_timed)


def pytest_collection_modifyitems(items):
    if keras.backend.backend() != "torch":
        skip = pytest.mark.skip(reason="the same on every backend: runs on PyTorch")
        for item in items:
            if item.get_closest_marker("once"):
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def _quick_collections(_seed):
    # What was imported, and what backends keep of all they compiled, is taken out of the garbage
    # collector's sight: a collection costs half a second with it, and tests of what stays behind
    # make hundreds.
    if _collection["took"] > 0.03:
        gc.collect()
        gc.freeze()
        _collection["took"] = 0.0


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(3)
    yield
