"""What a clone costs against what a user would write, side by side in one process.

    KERAS_BACKEND=jax python benchmarks/weights.py            # a table of docs/benchmarks-weights.md
    KERAS_BACKEND=jax python benchmarks/weights.py --quick    # one small model, to the screen

The page has a table for each backend that this was run on; a run writes that of its own.
"""

from __future__ import annotations

import argparse
import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import page
import structure

import keras_graft as kg
from keras_graft.tables import table

HEAD = """# What a clone costs

Written by `benchmarks/weights.py` on two shared cores. Every figure is a median over runs in turns;
machines are noisy, so read ratios, and those to about 20%.

"times faster" is `kg.clone(model)` against `clone_model(model)` with `set_weights(get_weights())`,
initializers included. "peak" is the most memory that was resident during the call beyond what was
before it, as a multiple of the weights: of ours, and of what a user would write. On PyTorch and
TensorFlow memory that was freed may be used again without becoming resident again.
"""


def donors(quick: bool) -> dict[str, Callable[[], keras.Model]]:
    """Return constructors of the models that are measured."""
    found = structure.donors(quick)
    if quick:
        return found

    def bert() -> keras.Model:
        import keras_hub

        return keras_hub.models.BertBackbone(
            vocabulary_size=30_522, num_layers=12, num_heads=12, hidden_dim=768,
            intermediate_dim=3072,
        )  # fmt: skip

    return {**{name: found[name] for name in ("ResNet50", "NASNetLarge")}, "BERT-base": bert}


def by_hand(model: keras.Model) -> keras.Model:
    """Return a clone as users write it."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def _resident(peak: bool = False) -> int:
    """Return the bytes of this process that are in memory (Linux)."""
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"Vm{'HWM' if peak else 'RSS'}:\s+(\d+)", text)
    assert found
    return int(found[1]) * 1024


def peak(run: Callable[[], Any]) -> int:
    """Return how many bytes more were resident during a call, at the most."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # begin to count anew
    before = _resident()
    result = run()
    most = _resident(peak=True)
    del result
    return most - before


def measure(model: keras.Model, rounds: int) -> list[str]:
    """Return the median seconds' ratio, and the peaks in multiples of the weights."""
    size = sum(keras.ops.convert_to_numpy(weight).nbytes for weight in model.weights)
    peaks = [peak(lambda: kg.clone(model)) / size, peak(lambda: by_hand(model)) / size]
    result = structure.timed(
        {"clone": lambda: kg.clone(model), "by hand": lambda: by_hand(model)}, rounds
    )
    ratio = result["by hand"] / result["clone"]
    return [f"{size / 1e6:,.0f}", f"{ratio:.1f}", *(f"{p:.2f}" for p in peaks)]


def main() -> None:
    """Measure, and write the table of this backend."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="One small model, to the screen.")
    quick = parser.parse_args().quick
    rows = []
    for name, make in donors(quick).items():
        keras.utils.clear_session()
        model = make()
        rows.append([name, len(model.weights), *measure(model, 3 if quick else 5)])
        print(rows[-1], flush=True)
        del model
    columns = ["model", "variables", "megabytes", "times faster", "peak", "by hand"]
    text = f"```\n{table(columns, rows)}\n```"
    print(text) if quick else page.write("benchmarks-weights.md", HEAD, text)


if __name__ == "__main__":
    main()
