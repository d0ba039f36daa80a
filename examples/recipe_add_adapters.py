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

# All else is frozen here, and not in the model that it was made from.
assert len(model.trainable_weights) > 4 * 6
trains = sum(int(np.prod(w.shape)) for w in adapted.trainable_weights)
print(f"{len(adapted.trainable_weights) // 4} adapters: {trains:,} parameters train, "
      f"of {adapted.count_params():,}")  # fmt: skip
