"""Train adapters in the place of a network: a few parameters, and at first the same outputs."""

import keras
import numpy as np

import keras_graft as kg

model = keras.applications.MobileNetV3Small(weights=None, input_shape=(32, 32, 3), classes=4)
x = np.random.default_rng(0).random((2, 32, 32, 3), "float32")
before = keras.ops.convert_to_numpy(model(x))

adapted = kg.recipes.add_adapters(model, size=8)
assert np.array_equal(before, keras.ops.convert_to_numpy(adapted(x)))
print("equal to the bit before training")

# The donor's layers are shared: freezing them here freezes them there.
for node in kg.select(adapted, "**").nodes:
    inside = node.nested is not None  # a frozen model freezes all that is in it
    node.operation.trainable = inside or node.name.startswith("adapter_")
trains = sum(int(np.prod(w.shape)) for w in adapted.trainable_weights)
print(f"{len(adapted.trainable_weights) // 4} adapters: {trains:,} parameters train, "
      f"of {adapted.count_params():,}")  # fmt: skip
