"""Another input: a trained network at another size, for grey images, and one that cannot be."""

import keras
import numpy as np

import keras_graft as kg


def network(head):
    image = keras.Input((64, 64, 3), name="image")
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="stem")(image)
    x = keras.layers.MaxPooling2D(name="last_pool")(x)
    return keras.Model(image, keras.layers.Dense(5, name="out")(head(x)), name="network")


model = network(keras.layers.GlobalAveragePooling2D(name="average"))

# Another size: the same layers, any size with None.
small = kg.reinput(model, (48, 48, 3))
print(f"{model.input.shape} -> {small.input.shape}, the same layers:",
      small.get_layer("stem") is model.get_layer("stem"))  # fmt: skip

# Other channels: a rule says what becomes of the first kernel; the donor keeps its own.
grey = kg.reinput(model, (64, 64, 1), channels="mean")
x = np.random.default_rng(0).random((2, 64, 64, 1), "float32")
one, three = (keras.ops.convert_to_numpy(y) for y in (grey(x), model(np.repeat(x, 3, axis=-1))))
print(f"one channel gives what grey gave in three: {np.allclose(one, three, atol=1e-5)}\n")

# What cannot fit says which layer, what it expected, what it would find, and the way out.
try:
    kg.reinput(network(keras.layers.Flatten(name="flatten")), (48, 48, 3))
except kg.EditError as error:
    print(error)
