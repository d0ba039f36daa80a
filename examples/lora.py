"""Fine-tune a network with low-rank adapters, and keep them in a small file of their own."""

import os
import tempfile

import keras
import numpy as np

import keras_graft as kg

# A small transformer, as it might come from a file.
ids = keras.Input((16,), dtype="int32", name="ids")
x = keras.layers.Embedding(1000, 64, name="embed")(ids)
for i in range(2):
    y = keras.layers.MultiHeadAttention(4, 16, name=f"attention_{i}")(x, x)
    x = keras.layers.LayerNormalization(name=f"norm_{i}")(keras.layers.Add()([x, y]))
x = keras.layers.GlobalAveragePooling1D(name="mean")(x)
model = keras.Model(ids, keras.layers.Dense(2, name="head")(x), name="transformer")

rng = np.random.default_rng(0)
data = rng.integers(0, 1000, (64, 16)).astype("int32")
labels = (data[:, 0] > 500).astype("int32")
before = model.predict(data, verbose=0)

# Only the adapters train, and the head. The layers inside attention are found by their addresses.
tuned = kg.lora(model, ["**/query", "**/value"], rank=4, train="head", seed=0)
assert np.array_equal(before, tuned.predict(data, verbose=0))
print(kg.list_adapters(tuned))

loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
tuned.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
history = tuned.fit(data, labels, epochs=8, verbose=0).history
assert history["loss"][-1] < history["loss"][0]
assert np.array_equal(before, model.predict(data, verbose=0))
print("the model that it was made from: as it was, to the bit")

# A file of the adapters, for another copy of the same network.
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "task.safetensors")
    kg.save_adapters(tuned, path)
    again = kg.load_adapters(kg.clone(model), path)
    size = os.path.getsize(path) / (4 * model.count_params())
after = tuned.predict(data, verbose=0)
assert np.array_equal(after, again.predict(data, verbose=0))
print(f"loaded from a file of {size:.0%} of the network's size: equal to the bit")

# Merged: an ordinary model, without adapters.
merged = kg.merge_adapters(tuned)
assert np.allclose(after, merged.predict(data, verbose=0), atol=1e-5)
assert merged.count_params() == model.count_params()
print("merged: the parameters of the network, and no others")
