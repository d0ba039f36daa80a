"""Two layers for one, more channels with the same outputs, and a student that learns from its donor."""

import keras
import numpy as np

import keras_graft as kg

keras.utils.set_random_seed(0)
image = keras.Input((16, 16, 3), name="image")
x = keras.layers.Conv2D(16, 3, activation="relu", padding="same", name="conv0")(image)
x = keras.layers.Conv2D(32, 3, activation="relu", padding="same", name="conv1")(x)
x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
x = keras.layers.Dense(128, activation="relu", name="hidden")(x)
model = keras.Model(image, keras.layers.Dense(4, name="classes")(x), name="network")
images = np.random.default_rng(0).normal(size=(32, 16, 16, 3)).astype("float32")

# Kernels as products of two smaller ones: at most half of the multiply-adds of each.
print(kg.recipes.low_rank(model, {"conv1": 0.5, "hidden": 0.5}))

# More channels, and the same outputs.
wide = kg.widen(model, {"conv*": 1.5, "hidden": 192})
difference = np.abs(model.predict(images, verbose=0) - wide.predict(images, verbose=0)).max()
print(f"{model.count_params():,} -> {wide.count_params():,} parameters")
print(f"outputs differ by less than 0.0001: {difference < 1e-4}")

# A quarter of the channels, trained with the outputs and an inner value of the donor.
student = kg.clone(kg.prune(model, {"conv*": 0.75, "hidden": 0.75}))
training = kg.recipes.distill(model, student, {"conv1": "conv1"}, alpha=1.0)
training.compile(keras.optimizers.Adam(0.01), loss=None)
losses = training.fit(images, epochs=10, verbose=0).history["loss"]
print(f"without labels, the loss falls: {losses[-1] < losses[0]}")
print(f"the student alone: {training.student.count_params():,} parameters")
