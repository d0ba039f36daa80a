"""What `compute` takes over the bare prediction loop.

    KERAS_BACKEND=jax python benchmarks/loops.py            # a section of docs/benchmarks-compute.md
    KERAS_BACKEND=jax python benchmarks/loops.py --quick    # one small model, to the screen

The page has a section for each backend that this was run on; a run writes that of its own.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

KEPT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}
BLOCKS, SECONDS = 10, 2
HEAD = f"""# What `compute` takes over the bare loop

Written by `benchmarks/loops.py` on two shared cores. "Loop" is `predict_on_batch` over batches of 32
images of 160x160, "compute" the same into a store, as float32, which is the default: seconds for
1,000 images, of some {BLOCKS * SECONDS} seconds each. Shared machines grow slower and faster by a tenth within
seconds, so a pass of `compute` stops every {SECONDS} seconds, or four batches, for as many bare batches,
which are of the same arrays.
"Over the loop" counts what is done once, too; "blocks" are the quartiles of those {SECONDS} seconds against
the bare ones before and after. "Threads" is what the threads of `compute`, which read ahead and write, took of
the processors for a batch, and that beside what all threads of a bare batch took: with no core to
spare, `compute` costs that much at least, however noisy the machine. What the system takes to write
to the disk is not in it.

glibc keeps the memory that it has, for both: `{" ".join(f"{k}={v}" for k, v in KEPT.items())}`.
Left to itself it gives a trunk's large buffers back to the system at some steps and not at others,
by luck, and to take them again was up to a fifth of what the trunk took.
"""


def seconds(run: Callable[[], Any]) -> float:
    """Return how long a call took."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def processor(thread: threading.Thread) -> float:
    """Return the processor seconds that a thread of `compute` took; 0 for others."""
    if thread.ident is None or "(_work)" not in thread.name:
        return 0.0
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


class InTurns:
    """A trunk's `predict_on_batch` under `compute`, with blocks of bare calls in between.

    Args:
        trunk: The trunk.
        batches: All that `compute` is given. The bare calls take the same, from the same memory, but
            half of it further on: what `compute` has just read is in the caches.
        block: So many of them are a block.
    """

    def __init__(self, trunk: Any, batches: list[Any], block: int) -> None:
        self._run, self._batches, self._block = trunk.predict_on_batch, batches, block
        self._calls, self._start, self.paused = 0, 0.0, 0.0
        self.threads = self.processors = 0.0
        self.bare: list[float] = []
        self.computed: list[float] = []

    def __call__(self, x: Any) -> Any:
        now = time.perf_counter()
        if self._calls % self._block == 0:
            if self._calls:
                self.computed.append(now - self._start)
            time.sleep(0.1)  # what the threads of `compute` still do is none of the bare loop's
            # All of it but for the end, of threads that end with `compute`.
            self.threads = sum(processor(thread) for thread in threading.enumerate())
            before = time.process_time()
            self.bare.append(seconds(self._loop))
            self.processors += time.process_time() - before
            time.sleep(0.1)  # and both begin with cores that rest
            self._start = time.perf_counter()
            self.paused += self._start - now
        self._calls += 1
        return self._run(x)

    def _loop(self) -> None:
        first = self._calls + len(self._batches) // 2
        for i in range(first, first + self._block):
            self._run(self._batches[i % len(self._batches)])


def main() -> None:
    """Measure, and print."""
    import features
    import numpy as np
    import page

    import keras_graft as kg
    from keras_graft.features import compute
    from keras_graft.tables import table

    quick, size = "--quick" in sys.argv, features.BATCH
    rng = np.random.default_rng(0)
    several = rng.integers(0, 256, (8, size, features.SIZE, features.SIZE, 3)).astype("float32")
    lines = []
    for name, model, places in features.models(quick):
        for at in places:
            trunk = kg.freeze(kg.split(model, at=at)[0])
            trunk.predict_on_batch(several[0])  # compiles
            step = min(seconds(lambda t=trunk: t.predict_on_batch(several[0])) for _ in range(3))
            block = max(4, round(SECONDS / step))
            blocks = 3 if quick else max(8, round(BLOCKS * SECONDS / step / block))
            calls = block * blocks
            x = np.resize(several, (calls * size, *several.shape[2:]))  # 2 GB for quick trunks
            data = (x, np.zeros(len(x), int))
            turns = InTurns(trunk, np.split(x, calls), block)
            trunk.predict_on_batch = turns
            with tempfile.TemporaryDirectory() as folder:
                took = seconds(
                    lambda t=trunk, d=data, f=folder: compute(
                        t, d, f, batch_size=size, progress=False
                    )
                )
            took = (took - turns.paused) / len(x)  # with what is done once
            loop = sum(turns.bare) / (calls * size)
            # A block of `compute` stands between two of the bare loop.
            around = [statistics.mean(two) for two in itertools.pairwise(turns.bare)]
            ratios = [a / b for a, b in zip(turns.computed, around, strict=True)]
            first, _, third = (quartile - 1 for quartile in statistics.quantiles(ratios))
            threads = turns.threads / (calls - block)  # up to when they were asked last
            share = threads / (turns.processors / calls)
            lines.append([
                f"{name}, {at}", f"{loop * 1000:.1f}", f"{took * 1000:.1f}",
                f"{took / loop - 1:+.1%}", f"{first:+.1%} to {third:+.1%}",
                f"{threads * 1000:.1f} ms, {share:.1%}",
            ])  # fmt: skip
            print(lines[-1], flush=True)
    body = table(["model, cut", "loop", "compute", "over the loop", "blocks", "threads"], lines)
    print(body) if quick else page.write("benchmarks-compute.md", HEAD, f"```\n{body}\n```")


if __name__ == "__main__":
    if KEPT.items() <= os.environ.items():
        main()
    else:  # glibc reads them when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEPT})
