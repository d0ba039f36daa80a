"""Put dropout where a trained network has none, to fine-tune it on little data."""

import keras
import numpy as np

import keras_graft as kg

model = keras.applications.MobileNetV3Small(weights=None, input_shape=(32, 32, 3), classes=4)
new = kg.recipes.add_dropout(
    model, 0.1, after="expanded_conv*_add", kind=keras.layers.SpatialDropout2D, seed=7
)
print([layer.name for layer in new.layers if layer.name.startswith("dropout_expanded")])

x = np.random.default_rng(0).random((2, 32, 32, 3), "float32")
same = [keras.ops.convert_to_numpy(m(x)) for m in (model, new)]
assert np.array_equal(*same) and new.count_params() == model.count_params()
print("the same predictions, to the bit")
