"""Real photographs, tiled: a network learns which colour is which, and its features tell them apart.

A longer run of the store: where to cut, two taps in one pass, a crash in the middle, stores in
float16, a validation split, a head on several taps, the joined model. Run: python examples/photographs.py
"""

import tempfile
import time
from pathlib import Path

import keras
import numpy as np
from skimage import data
from sklearn.datasets import load_sample_images

import keras_graft as kg
from keras_graft.features import FeatureDataset, FeatureStore, advise, compute

keras.utils.set_random_seed(1)
rng = np.random.default_rng(1)
SIZE = 32
# A temple, a flower, an astronaut, a cat, a cup of coffee and a rocket: 300x451 to 512x512.
photographs = [*load_sample_images().images]
photographs += [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]


def tiles(count, left):
    """Cut squares at random places of the left three quarters or of the rest; none is in both."""
    x, which = [], rng.integers(0, len(photographs), count)
    for number in which:
        height, width, _ = photographs[number].shape
        edge = width * 3 // 4
        low, high = (0, edge - SIZE) if left else (edge, width - SIZE)
        row, column = rng.integers(0, height - SIZE), rng.integers(low, high)
        x.append(photographs[number][row : row + SIZE, column : column + SIZE])
    return np.stack(x), which


def recoloured(x):
    """Exchange red, green and blue in turn: by how much needs no labels to be known."""
    steps = rng.integers(0, 3, len(x))
    return np.stack([np.roll(a, k, axis=-1) for a, k in zip(x, steps, strict=True)]), steps


def network():
    x = inputs = keras.Input((SIZE, SIZE, 3), name="tile")
    x = keras.layers.Rescaling(1 / 255, name="scale")(x)
    for i, filters in enumerate((16, 32, 64)):
        x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{i}")(x)
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"bn{i}")(x)
        x = keras.layers.ReLU(name=f"relu{i}")(x)
        x = keras.layers.MaxPooling2D(name=f"stage{i}")(x)
    x = keras.layers.Dropout(0.2, name="dropout")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="steps")(x), name="colours")


def compiled(model, rate=3e-3):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    return model


donor = compiled(network())
donor.fit(*recoloured(tiles(3000, True)[0]), epochs=8, batch_size=64, verbose=0)
told = donor.evaluate(*recoloured(tiles(500, False)[0]), verbose=0)[1]
print(f"the donor tells how colours were exchanged in {told:.0%} of new tiles (chance: 33%)")

# Before anything is computed: what would a million tiles take, and what would they save?
print(advise(donor, 1_000_000))

x, y = tiles(4000, True)
new_x, new_y = tiles(1000, False)
taps = ["stage2", "pool"]
trunk = kg.freeze(kg.extract(donor, taps))  # dropout off and averages still, for good

# A head that looks at both at once: where something is, and how much there is.
inputs = {t: keras.Input(trunk.output[t].shape[1:], name=t) for t in taps}
flat = [keras.layers.Flatten()(inputs["stage2"]), inputs["pool"]]
head = keras.Model(
    inputs, keras.layers.Dense(len(photographs))(keras.layers.Concatenate()(flat)), name="head"
)
first = [w.copy() for w in head.get_weights()]
joined = keras.Model(trunk.inputs, head(trunk.output), name="joined")

# An epoch through the whole model, for comparison.
compiled(joined).fit(x, y, epochs=1, batch_size=32, verbose=0)
start = time.perf_counter()
joined.fit(x, y, epochs=1, batch_size=32, verbose=0)
whole_epoch = time.perf_counter() - start
head.set_weights(first)

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "features"

    def broken():
        for i in range(0, 1000, 32):
            yield x[i : i + 32], y[i : i + 32]
        raise KeyboardInterrupt  # the machine goes down half way

    arguments = {"batch_size": 32, "dtype": "float16", "progress": False, "shard_bytes": 1 << 20}
    start = time.perf_counter()
    try:
        compute(trunk, broken(), path, **arguments)
    except KeyboardInterrupt:
        print(f"broken off: {len(FeatureStore(path))} samples are there already")
    store = compute(trunk, (x, y), path, **arguments)
    computing = time.perf_counter() - start
    print(store)
    print(f"verified: {store.verify():,} bytes")
    training, validation = (
        FeatureDataset(store, 32, validation_split=0.2, subset=subset)
        for subset in ("training", "validation")
    )
    compiled(head).fit(training, epochs=1, shuffle=False, verbose=0)
    start = time.perf_counter()
    history = head.fit(
        training, validation_data=validation, epochs=15, shuffle=False, verbose=0
    ).history
    store_epoch = (time.perf_counter() - start) / 15
    print(
        f"validation accuracy {history['val_accuracy'][0]:.3f}, then {history['val_accuracy'][-1]:.3f}"
    )

accuracy = joined.evaluate(new_x, new_y, verbose=0)[1]
parts = head.predict(trunk.predict(new_x, verbose=0), verbose=0)
difference = float(np.abs(joined.predict(new_x, verbose=0) - parts).max())
print(f"the joined model names the photograph of {accuracy:.0%} of new tiles (chance: 17%)")
print(f"an epoch: {whole_epoch:.2f} s through the whole model, {store_epoch:.3f} s from the store")
print(f"{whole_epoch / store_epoch:.0f} times faster; the store took {computing:.1f} s, once")
assert accuracy > 0.8 and difference < 1e-4
print("joined, it gives what the head gave on the store")
