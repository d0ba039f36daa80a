"""Share a layer: one layer called several times has one set of weights, also after a cut."""

import keras
import numpy as np

import keras_graft as kg

inputs = keras.Input((8,), name="x")
step = keras.layers.Dense(8, activation="tanh", name="step")
model = keras.Model(inputs, step(step(step(inputs))), name="thrice")

print(kg.sharing(model))

# Each call is a node of its own, "step#0" is the first. Keras itself cannot cut here: it takes
# the new input for the output of every call.
trunk, head = kg.split(model, at="step#0")
x = np.ones((2, 8), "float32")
assert np.array_equal(*map(keras.ops.convert_to_numpy, (model(x), head(trunk(x)))))
assert trunk.get_layer("step") is head.get_layer("step") is step
print(f"\nwhole {model.count_params()} parameters, trunk {trunk.count_params()}, "
      f"head {head.count_params()}: the same ones")  # fmt: skip
