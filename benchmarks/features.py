"""What a store of features costs and saves, beside whole models, RAM arrays and the bare loop.

Run: KERAS_BACKEND=jax python benchmarks/features.py [name ...]
Names: epochs, taps, memory. Prints tables; the numbers are this machine's.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

import keras_graft as kg
from keras_graft.features import FeatureDataset, compute
from keras_graft.tabular import table

IMAGES = int(os.environ.get("IMAGES", "256"))
SIZE = 160
BATCH = 32


def timed(run):
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def models():
    for name in os.environ.get("MODELS", "ResNet50 MobileNetV3Large EfficientNetB0").split():
        model = getattr(keras.applications, name)(weights=None, input_shape=(SIZE, SIZE, 3))
        found = kg.cuts(model)
        pooled = max(
            i for i, cut in enumerate(found)
            if cut.value.producer.kind == "GlobalAveragePooling2D"
        )  # fmt: skip
        yield name, model, (found[pooled].name, found[pooled - 1].name)


def head_for(trunk):
    x = y = keras.Input(trunk.output.shape[1:], name="features")
    if len(y.shape) == 4 and y.shape[1] != 1:
        y = keras.layers.GlobalAveragePooling2D()(y)
    y = keras.layers.Dense(10)(keras.layers.Flatten()(y))
    return keras.Model(x, y, name="new_head")


def compiled(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss)
    return model


def epoch(model, *data, **kwargs):
    """Return the better of two epochs, after one that compiles."""
    kwargs = {"verbose": 0, "epochs": 1, **kwargs}
    model.fit(*data, **kwargs)
    return min(timed(lambda: model.fit(*data, **kwargs))[0] for _ in range(2))


def epochs():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (IMAGES, SIZE, SIZE, 3)).astype("float32")
    y = rng.integers(0, 10, IMAGES)
    rows, totals = [], []
    for name, model, places in models():
        for at in places:
            trunk = kg.freeze(kg.split(model, at=at)[0])
            bare = []
            trunk.predict_on_batch(x[:BATCH])
            trunk.predict_on_batch(x[: IMAGES % BATCH or BATCH])
            for _ in range(2):
                bare.append(timed(lambda t=trunk: [
                    t.predict_on_batch(x[i : i + BATCH]) for i in range(0, IMAGES, BATCH)
                ])[0])  # fmt: skip
            with tempfile.TemporaryDirectory() as folder:
                took = []
                for i in range(2):
                    seconds, store = timed(lambda i=i, t=trunk, f=folder: compute(
                        t, (x, y), Path(f) / str(i), batch_size=BATCH, progress=False
                    ))  # fmt: skip
                    took.append(seconds)
                loop, took = min(bare), min(took)
                features = store.to_numpy()["features"]
                ram = epoch(compiled(head_for(trunk)), features, y, batch_size=BATCH)
                data = FeatureDataset(store, BATCH)
                stored = epoch(compiled(head_for(trunk)), data, shuffle=False)
                whole = epoch(
                    compiled(kg.join(trunk, head_for(trunk))), x, y, batch_size=BATCH
                )  # fmt: skip
                rows.append([
                    name, at, f"{whole:.2f}", f"{ram:.3f}", f"{stored:.3f}", f"{stored / ram:.2f}",
                    f"{loop:.2f}", f"{took:.2f}", f"{took / loop - 1:+.1%}",
                ])  # fmt: skip
                totals.append(
                    [name, at]
                    + [f"{n * whole:.1f} / {took + n * stored:.1f}" for n in (1, 3, 10, 30)]
                )
    print(f"{IMAGES} images of {SIZE}x{SIZE}, batches of {BATCH}, {keras.backend.backend()}; s")
    head = ("model", "cut", "whole", "RAM", "store", "store/RAM", "bare loop", "compute", "over")
    print(table(head, rows))
    print("\nTotal seconds, the whole model / the store, its computing counted")
    print(table(("model", "cut", "1 epoch", "3", "10", "30"), totals))


def taps():
    model = kg.freeze(
        keras.applications.MobileNetV3Large(weights=None, input_shape=(SIZE, SIZE, 3))
    )
    names = [c.name for c in kg.cuts(model)][-10:]
    x = np.random.default_rng(0).random((IMAGES, SIZE, SIZE, 3), "float32")
    with tempfile.TemporaryDirectory() as folder:
        together, _ = timed(lambda: compute(
            kg.extract(model, names), x, Path(folder) / "all", progress=False
        ))  # fmt: skip
        apart, _ = timed(lambda: [
            compute(kg.extract(model, n), x, Path(folder) / f"{i}", progress=False)
            for i, n in enumerate(names)
        ])  # fmt: skip
    rows = [("one pass", f"{together:.1f}"), ("ten passes", f"{apart:.1f}")]
    print(table((f"ten taps, {IMAGES} images", "s"), rows))


def resident():
    """Return resident bytes now, in all and without what lies in the page cache."""
    found = dict(
        line.split(":") for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(("VmRSS", "RssAnon", "VmHWM"))
    )  # fmt: skip
    return {key: int(value.split()[0]) << 10 for key, value in found.items()}


def memory():
    rows, width = int(os.environ.get("ROWS", "200000")), 2048
    x = keras.Input((8,))
    trunk = kg.freeze(keras.Model(x, keras.layers.Dense(width)(x)))
    head = compiled(keras.Sequential([keras.Input((width,)), keras.layers.Dense(10)]))

    def batches():
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
        seconds, store = timed(
            lambda: compute(trunk, batches(), folder, dtype="float16", progress=False)
        )
        written = resident()["VmHWM"] - before
        Path("/proc/self/clear_refs").write_text("5")
        data = FeatureDataset(store, 256)
        first, _ = timed(lambda: head.fit(data, shuffle=False, verbose=0))
        second, _ = timed(lambda: head.fit(data, shuffle=False, verbose=0))
        trained = resident()["VmHWM"] - before
        reading, _ = timed(lambda: [data[i] for i in range(len(data))])
        size = store.bytes
    print(table((f"{rows:,} rows of {width} float16", ""), [
        ("bytes", f"{size:,}"), ("written in, s", f"{seconds:.1f}"),
        ("resident memory grew while writing, MB at most", f"{written / 1e6:.0f}"),
        ("an epoch of shuffled batches, s", f"{first:.1f}, then {second:.1f}"),
        ("shuffled batches alone, MB/s", f"{size / 1e6 / reading:.0f}"),
        ("resident memory grew while training, MB at most", f"{trained / 1e6:.0f}"),
    ]))  # fmt: skip


if __name__ == "__main__":
    for name in sys.argv[1:] or ["epochs", "taps", "memory"]:
        {"epochs": epochs, "taps": taps, "memory": memory}[name]()
        print(flush=True)
