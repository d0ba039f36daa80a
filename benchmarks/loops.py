"""What `compute` takes over the bare prediction loop; `features.py` runs this as a process.

    KERAS_BACKEND=jax python benchmarks/loops.py            # a line for each model and cut
    KERAS_BACKEND=jax python benchmarks/loops.py --quick    # one small model

A line is JSON: [model, cut, seconds a sample of the loop, and of `compute`, the ratios of the turns].
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEPT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}
"""What lets glibc keep freed memory, for a process that starts with it.

Left to itself it gives a trunk's large buffers back at some steps and not at others, by luck, and
to take them anew was up to a fifth of what a trunk took.
"""
TURNS, SECONDS = 5, 10


def seconds(run: Callable[[], Any]) -> float:
    """Return how long a call took."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Measure, and print."""
    import features
    import numpy as np

    import keras_graft as kg
    from keras_graft.features import compute

    quick, batch = "--quick" in sys.argv, features.BATCH
    few = np.random.default_rng(0).integers(0, 256, (128, features.SIZE, features.SIZE, 3))
    for name, model, places in features.models(quick):
        for at in places:
            trunk = kg.freeze(kg.split(model, at=at)[0])
            first = few[:batch].astype("float32")
            trunk.predict_on_batch(first)  # compiles
            step = min(seconds(lambda t=trunk, x=first: t.predict_on_batch(x)) for _ in range(3))
            # Ten seconds: what is done once, such as the fingerprint, would count too much.
            many = batch * max(4, round((1 if quick else SECONDS) / step))
            x = np.resize(few, (many, *few.shape[1:])).astype("float32")
            y = np.arange(many) % 10

            def bare(t: Any = trunk, x: np.ndarray = x) -> None:
                for i in range(0, len(x), batch):
                    t.predict_on_batch(x[i : i + batch])

            def stored(t: Any = trunk, x: np.ndarray = x, y: np.ndarray = y) -> None:
                with tempfile.TemporaryDirectory() as folder:
                    compute(t, (x, y), Path(folder) / "store", batch_size=batch, progress=False)

            stored()  # imports
            turns = []
            for i in range(TURNS):  # in changing order: machines grow slower or faster meanwhile
                runs = (bare, stored) if i % 2 else (stored, bare)
                took = {run: seconds(run) / many for run in runs}
                turns.append((took[bare], took[stored]))
            loop, full = (statistics.median(column) for column in zip(*turns, strict=True))
            ratios = sorted(stored / bare for bare, stored in turns)
            print(json.dumps([name, at, loop, full, ratios]), flush=True)


if __name__ == "__main__":
    if KEPT.items() <= os.environ.items():
        main()
    else:  # glibc reads them when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEPT})
