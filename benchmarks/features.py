"""What a store of features saves, beside whole models and arrays in RAM.

    KERAS_BACKEND=jax python benchmarks/features.py            # a section of docs/benchmarks-features.md
    KERAS_BACKEND=jax python benchmarks/features.py --quick    # one small model, to the screen

The page has a section for each backend that this was run on; a run writes that of its own.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import page
from loops import seconds

import keras_graft as kg
from keras_graft.features import FeatureDataset, FeatureStore, compute
from keras_graft.tables import table

BATCH, SIZE = 32, 160
HEAD = f"""# What a store of features costs and saves

Written by `benchmarks/features.py` on two shared cores, page cache warm. Seconds are this
machine's; machines are noisy, so read ratios, and those to about 20%.

Images are {SIZE}x{SIZE}, batches {BATCH}, features float16 in the store, and float32 in RAM, to
which Keras would convert them at each `fit`. "Whole" is an epoch of the frozen model with its new
head. "RAM" and "store" are epochs of that head: medians over three `fit`s in turns, without the
first epoch of each, which compiles or starts threads; "list" is the same from a list of batches
that are there, through a `PyDataset`: what Keras takes for whatever is no array. "store" is the
`FeatureDataset`; on TensorFlow, "as_tf" is its `as_tf()`, which `fit_head` takes there, and which
counts in what follows. "Compute" makes the store; over the bare loop it takes what
`benchmarks-compute.md` says. What runs the trunk is measured on fewer images than there are rows and
scaled to the rows. The last columns are total seconds for so many epochs: the whole model, against
the store with its computing counted.
"""


class Epochs(keras.callbacks.Callback):
    """How long epochs take, but for the first of each `fit`."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch:
            self.seconds.append(time.perf_counter() - self._start)


def models(quick: bool) -> Iterator[tuple[str, keras.Model, tuple[str, str]]]:
    """Yield models, each with its pooled features and its last feature maps."""
    names = ("ResNet50", "MobileNetV3Large", "EfficientNetB0")
    for name in ("MobileNetV3Small",) if quick else names:
        keras.utils.clear_session()
        model = getattr(keras.applications, name)(weights=None, input_shape=(SIZE, SIZE, 3))
        found = kg.cuts(model)
        kinds = [cut.value.producer.kind if cut.value.producer else "" for cut in found]
        pooled = len(kinds) - 1 - kinds[::-1].index("GlobalAveragePooling2D")
        yield name, model, (found[pooled].name, found[pooled - 1].name)


def head_for(trunk: keras.Model) -> keras.Model:
    """Return a new head for a trunk's features, pooled if they are maps."""
    x = y = keras.Input(trunk.output.shape[1:], name="features")
    if len(y.shape) == 4 and y.shape[1] != 1:
        y = keras.layers.GlobalAveragePooling2D()(y)
    y = keras.layers.Dense(10)(keras.layers.Flatten()(y))
    return keras.Model(x, y, name="new_head")


def compiled(model: keras.Model) -> keras.Model:
    """Return the model, compiled."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss)
    return model


class Listed(keras.utils.PyDataset):
    """Batches that are there already: what Keras itself takes for whatever is no array."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        super().__init__(workers=1)
        starts = range(0, len(x), BATCH)
        self._batches = [(x[i : i + BATCH].copy(), y[i : i + BATCH]) for i in starts]

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self._batches[index]


def in_ram_and_stored(
    trunk: keras.Model, store: FeatureStore, rows: int, folder: Path, rounds: int
) -> dict[str, float]:
    """Return the median epochs of the same head from arrays, a list of batches, and a store."""
    some = store.to_numpy()["features"].astype("float32")
    features = np.resize(some, (rows, *some.shape[1:]))  # the same features over and over
    y = np.arange(rows) % 10
    x = keras.Input(features.shape[1:])
    same = keras.Model(x, keras.layers.Activation("linear")(x))
    made = compute(
        same, (features, y), folder, batch_size=256, dtype="float16", progress=False
    )  # fmt: skip
    data, listed = FeatureDataset(made, BATCH), Listed(features.astype("float16"), y)
    fits: dict[str, Callable[[], dict[str, Any]]] = {
        "RAM": lambda: {"x": features, "y": y, "batch_size": BATCH},
        "list": lambda: {"x": listed, "shuffle": False},
        "store": lambda: {"x": data, "shuffle": False},
    }
    if keras.backend.backend() == "tensorflow":
        fits["as_tf"] = lambda: {"x": data.as_tf(), "shuffle": False}
    heads = {name: compiled(head_for(trunk)) for name in fits}
    clocks = {name: Epochs() for name in fits}
    for _ in range(3):
        for name, given in fits.items():
            heads[name].fit(**given(), callbacks=[clocks[name]], epochs=rounds + 1, verbose=0)
    return {name: statistics.median(clock.seconds) for name, clock in clocks.items()}


def epochs(quick: bool) -> str:
    """Return a table of epochs and of the pass over the trunk."""
    images, rows = (64, 256) if quick else (128, 2048)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (images, SIZE, SIZE, 3)).astype("float32")
    y, scale = rng.integers(0, 10, images), rows / images
    lines = []
    for name, model, places in models(quick):
        for at in places:
            trunk = kg.freeze(kg.split(model, at=at)[0])
            whole = compiled(kg.join(trunk, head_for(trunk)))
            whole.fit(x[:BATCH], y[:BATCH], batch_size=BATCH, verbose=0)  # compiles
            full = seconds(lambda m=whole: m.fit(x, y, batch_size=BATCH, verbose=0)) * scale

            trunk.predict_on_batch(x[:BATCH])
            batch = min(seconds(lambda t=trunk: t.predict_on_batch(x[:BATCH])) for _ in range(2))
            # Ten seconds: what is done once, such as the fingerprint, would count too much.
            many = BATCH * round(min(max(images, 10 / batch * BATCH), rows) / BATCH)
            several = np.resize(x, (many, *x.shape[1:])), np.resize(y, many)

            with tempfile.TemporaryDirectory() as made:
                folder = Path(made)
                start = time.perf_counter()
                store = compute(
                    trunk, several, folder / "a", batch_size=BATCH, dtype="float16", progress=False
                )  # fmt: skip
                took = (time.perf_counter() - start) * rows / many
                found = in_ram_and_stored(trunk, store, rows, folder / "all", 3)
            ram, disk = found["RAM"], [*found.values()][-1]  # as fit_head feeds it
            ratios = {f"{n} / RAM": found[n] / ram for n in found if n in ("store", "as_tf")}
            total = [f"{n * full:,.0f} / {took + n * disk:,.0f}" for n in (1, 3, 10, 30)]
            lines.append([
                f"{name}, {at}", f"{full:.1f}", *(f"{s:.3f}" for s in found.values()),
                *(f"{ratio:.2f}" for ratio in ratios.values()),
                f"{full / disk:,.0f}", f"{took:.1f}", *total,
            ])  # fmt: skip
            print(lines[-1], flush=True)
    head = [
        "model, cut", "whole", *found, *ratios, "whole / store", "compute", "1 epoch", "3",
        "10", "30",
    ]  # fmt: skip
    return f"{rows:,} rows, the whole model on {images}:\n\n```\n{table(head, lines)}\n```"


def taps(quick: bool) -> str:
    """Return what ten outputs cost in one pass and in ten."""
    images = 32 if quick else 128
    shape = (SIZE, SIZE, 3)
    model = kg.freeze(keras.applications.MobileNetV3Large(weights=None, input_shape=shape))
    names = [c.name for c in kg.cuts(model)][-10:]
    x = np.random.default_rng(0).random((images, *shape), "float32")
    trunks = {"all": kg.extract(model, names), **{n: kg.extract(model, n) for n in names}}
    for trunk in trunks.values():
        trunk.predict_on_batch(x[:BATCH])  # compiles

    def run(*chosen: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for i, name in enumerate(chosen):
                place = Path(folder) / str(i)
                compute(trunks[name], x, place, batch_size=BATCH, progress=False)

    turns = [(seconds(lambda: run("all")), seconds(lambda: run(*names))) for _ in range(3)]
    once, ten = (statistics.median(column) for column in zip(*turns, strict=True))
    return (
        f"Ten taps of MobileNetV3Large: one pass over {images} images took {once:.1f} s, ten passes "
        f"{ten:.1f} s, {ten / once:.1f} times as long."
    )


def resident() -> dict[str, int]:
    """Return the bytes of this process that are in memory, now and at the most (Linux)."""
    text = Path("/proc/self/status").read_text()
    found = re.findall(r"(VmRSS|VmHWM):\s+(\d+)", text)
    return {name: int(size) * 1024 for name, size in found}


def memory(quick: bool) -> str:
    """Return what writing and training from a store of many rows takes."""
    rows, width = 20_000 if quick else 200_000, 2048
    x = keras.Input((8,))
    trunk = kg.freeze(keras.Model(x, keras.layers.Dense(width)(x)))
    head = compiled(keras.Sequential([keras.Input((width,)), keras.layers.Dense(10)]))

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng(0)
        for start in range(0, rows, 500):
            n = min(500, rows - start)
            yield rng.random((n, 8), "float32"), rng.integers(0, 10, n)

    # What is compiled and imported once does not count: Keras imports TensorFlow in `fit`.
    with tempfile.TemporaryDirectory() as folder:
        small = (np.zeros((512, 8), "float32"), np.zeros(512, int))
        warm = compute(trunk, small, folder, batch_size=500, dtype="float16", progress=False)
        head.fit(FeatureDataset(warm, 256), shuffle=False, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        before = resident()["VmRSS"]
        start = time.perf_counter()
        store = compute(trunk, batches(), folder, dtype="float16", progress=False)
        took, written = time.perf_counter() - start, resident()["VmHWM"] - before
        Path("/proc/self/clear_refs").write_text("5")
        data = FeatureDataset(store, 256)
        epoch = min(seconds(lambda: head.fit(data, shuffle=False, verbose=0)) for _ in range(2))
        trained = resident()["VmHWM"] - before
        reading = seconds(lambda: [data[i] for i in range(len(data))])
    return (
        f"{rows:,} rows of {width:,} float16 ({store.bytes / 1e6:,.0f} MB): written in {took:.1f} s, "
        f"resident memory growing by at most {written / 1e6:.0f} MB; an epoch of shuffled batches of "
        f"256 took {epoch:.1f} s, memory growing by at most {trained / 1e6:.0f} MB; those batches "
        f"alone are read at {store.bytes / 1e6 / reading:,.0f} MB/s."
    )


def main() -> None:
    """Measure, and write the section of this backend."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="One small model, to the screen.")
    quick = parser.parse_args().quick
    body = "\n\n".join(part(quick) for part in (epochs, taps, memory))
    print(body) if quick else page.write("benchmarks-features.md", HEAD, body)


if __name__ == "__main__":
    main()
