"""Cut a model open in the middle, where residual connections run, and rebuild it from there.

What the 2019 article did with `get_outputs_of`, by overwriting Keras's private attributes.
"""

import keras
import numpy as np

import keras_graft as kg

model = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), classes=10)
x = np.random.default_rng(0).random((2, 32, 32, 3), "float32")
whole = keras.ops.convert_to_numpy(model(x))

# From any value to the end: only what lies behind it, and a parameter count that is right.
middle = kg.extract(model, "conv4_block3_out")
rest = kg.submodel(model, inputs="conv4_block3_out")
assert np.array_equal(whole, keras.ops.convert_to_numpy(rest(middle(x))))
assert middle.count_params() + rest.count_params() == model.count_params()
print(f"{middle.count_params():,} + {rest.count_params():,} = {model.count_params():,} parameters")

# Inside a residual block one value is no cut: the skip connection crosses too.
try:
    kg.split(model, at="conv4_block3_1_relu")
except kg.CutError as error:
    print(error)

trunk, head = kg.split(model, at="conv4_block3_1_relu", complete=True)
assert np.array_equal(whole, keras.ops.convert_to_numpy(head(trunk(x))))
print("completed:", [tuple(t.shape) for t in trunk.outputs])
