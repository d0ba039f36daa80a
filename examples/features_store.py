"""Run the trunk once, keep its features on the disk, train a head from them, join."""

import tempfile
from pathlib import Path

import keras
import numpy as np

import keras_graft as kg

keras.utils.set_random_seed(0)
model = keras.applications.MobileNetV3Small(weights=None, input_shape=(64, 64, 3), classes=4)
images = np.random.default_rng(0).integers(0, 256, (96, 64, 64, 3)).astype("float32")
labels = np.arange(96) % 4
images[..., 0] += 40 * labels[:, None, None]  # something to learn

# Before spending hours: what would a store take at each cut, and what would it save?
advice = kg.features.advise(model, 1_000_000)
print(advice.rows[-1][0].name, f"{advice.rows[-1][2]:,} bytes")

trunk, head = kg.split(model, at=kg.cuts(model)[3])
try:
    kg.features.compute(trunk, (images, labels), "features")
except kg.FeatureError as error:
    print(str(error)[:70], "...")

trunk = kg.freeze(trunk)  # inference mode for good; the weights stay the donor's
features = keras.Input(trunk.output.shape[1:])
y = keras.layers.Dense(4, name="four")(keras.layers.GlobalAveragePooling2D()(features))
new_head = keras.Model(features, y, name="new_head")
new_head.compile(
    keras.optimizers.Adam(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
)

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "features"
    store = kg.features.compute(trunk, (images, labels), path, dtype="float16", progress=False)
    print(f"{len(store)} samples, {store.bytes:,} bytes, verified {store.verify():,}")
    dataset = kg.features.FeatureDataset(store, batch_size=16, seed=1)
    losses = new_head.fit(dataset, epochs=20, shuffle=False, verbose=0).history["loss"]
    print(f"loss {losses[0]:.2f} at first, {losses[-1]:.2f} at last")
    kept = store.take(np.arange(8))["features"].astype("float32")

joined = kg.join(trunk, new_head)
difference = float(
    np.abs(joined.predict(images[:8], verbose=0) - new_head.predict(kept, verbose=0)).max()
)
assert losses[-1] < losses[0] and difference < 1e-2
print("joined, it gives what the head gave on the store")
