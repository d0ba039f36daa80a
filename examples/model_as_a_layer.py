"""Use a model as a layer, and still reach what is inside."""

import keras
import numpy as np

import keras_graft as kg

inner = keras.Input((16,), name="features")
hidden = keras.layers.Dense(8, activation="relu", name="hidden")(inner)
encoder = keras.Model(inner, keras.layers.Dense(4, name="code")(hidden), name="encoder")

left, right = keras.Input((16,), name="left"), keras.Input((16,), name="right")
both = keras.layers.Concatenate(name="both")([encoder(left), encoder(right)])
model = keras.Model([left, right], keras.layers.Dense(1, name="match")(both), name="siamese")

print(kg.select(model, "**"))  # "encoder#1/hidden" is inside the second call of the encoder

taps = kg.extract(model, {"left": "encoder#0/hidden", "right": "encoder#1/hidden"})
x = np.ones((2, 16), "float32")
result = taps([x, 2 * x])
expected = encoder.get_layer("hidden")(2 * x)
assert np.array_equal(*map(keras.ops.convert_to_numpy, (result["right"], expected)))
print(f"\ntaps: {[layer.name for layer in taps.layers]}, {taps.count_params()} parameters")
