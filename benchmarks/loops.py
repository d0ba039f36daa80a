"""What `compute` takes over the bare prediction loop; `features.py` runs this as a process.

    KERAS_BACKEND=jax python benchmarks/loops.py            # a line for each model and cut
    KERAS_BACKEND=jax python benchmarks/loops.py --quick    # one small model

A line is JSON: [model, cut, seconds a sample of the loop, of `compute`, and the quartiles of the blocks' ratios].

Shared machines grow slower and faster by a tenth within seconds. So the two do not run one after
the other: one `compute` over many batches stops every two seconds, between two batches, and as many batches
run bare meanwhile.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

KEPT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}
"""What lets glibc keep freed memory, for a process that starts with it.

Left to itself it gives a trunk's large buffers back at some steps and not at others, by luck, and
to take them anew was up to a fifth of what a trunk took.
"""
BLOCKS, SECONDS = 20, 2


def seconds(run: Callable[[], Any]) -> float:
    """Return how long a call took."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class InTurns:
    """A trunk's `predict_on_batch` under `compute`, with blocks of bare calls in between.

    Args:
        trunk: The trunk.
        batches: What the bare calls are given.
    """

    def __init__(self, trunk: Any, batches: list[Any]) -> None:
        self._run, self._batches = trunk.predict_on_batch, batches
        self._calls, self._start, self.paused = 0, 0.0, 0.0
        self.bare: list[float] = []
        self.computed: list[float] = []

    def __call__(self, x: Any) -> Any:
        now = time.perf_counter()
        if self._calls % len(self._batches) == 0:
            if self._calls:
                self.computed.append(now - self._start)
            time.sleep(0.1)  # what the threads of `compute` still do is none of the bare loop's
            self.bare.append(seconds(lambda: [self._run(batch) for batch in self._batches]))
            self._start = time.perf_counter()
            self.paused += self._start - now
        self._calls += 1
        return self._run(x)


def main() -> None:
    """Measure, and print."""
    import features
    import numpy as np

    import keras_graft as kg
    from keras_graft.features import compute

    quick, size = "--quick" in sys.argv, features.BATCH
    rng = np.random.default_rng(0)
    several = rng.integers(0, 256, (8, size, features.SIZE, features.SIZE, 3)).astype("float32")
    for name, model, places in features.models(quick):
        for at in places:
            trunk = kg.freeze(kg.split(model, at=at)[0])
            trunk.predict_on_batch(several[0])  # compiles
            step = min(seconds(lambda t=trunk: t.predict_on_batch(several[0])) for _ in range(3))
            block = [several[i % 8] for i in range(max(4, round(SECONDS / step)))]
            blocks = 3 if quick else max(8, round(BLOCKS * SECONDS / step / len(block)))
            data = [(batch, np.zeros(size, int)) for batch in block] * blocks
            turns = InTurns(trunk, block)
            trunk.predict_on_batch = turns
            with tempfile.TemporaryDirectory() as folder:
                took = seconds(lambda t=trunk, d=data, f=folder: compute(t, d, f, progress=False))
            took = (took - turns.paused) / (len(data) * size)  # with what is done once
            loop = statistics.mean(turns.bare) / (len(block) * size)
            # A block of `compute` stands between two of the bare loop.
            around = [statistics.mean(two) for two in itertools.pairwise(turns.bare)]
            ratios = [a / b for a, b in zip(turns.computed, around, strict=True)]
            print(json.dumps([name, at, loop, took, statistics.quantiles(ratios)]), flush=True)


if __name__ == "__main__":
    if KEPT.items() <= os.environ.items():
        main()
    else:  # glibc reads them when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEPT})
