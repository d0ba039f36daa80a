"""Fold batch normalization into the convolutions before it; the report says where it cannot go."""

import keras
import numpy as np

import keras_graft as kg

model = keras.applications.MobileNetV3Small(weights=None, input_shape=(32, 32, 3), classes=4)
for layer in model.layers:  # as if it had been trained
    if isinstance(layer, keras.layers.BatchNormalization):
        layer.moving_mean.assign(np.full(layer.moving_mean.shape, 0.1))
        layer.moving_variance.assign(np.full(layer.moving_variance.shape, 0.7))

result = kg.recipes.fold_batchnorm(model)
x = np.random.default_rng(0).random((2, 32, 32, 3), "float32")
before, after = (keras.ops.convert_to_numpy(m(x)) for m in (model, result.model))
assert np.allclose(before, after, atol=1e-5)
print(f"{len(model.layers)} layers before, {len(result.model.layers)} after, same predictions")
print(result.folded[0])

# Where a network normalizes first and convolves then, there is nothing to fold into.
image = keras.Input((32, 32, 3), name="image")
y = keras.layers.Conv2D(4, 3, name="conv")(image)
y = keras.layers.BatchNormalization(name="bn")(y)
y = keras.layers.MaxPooling2D(name="pool")(y)
y = keras.layers.BatchNormalization(name="pre_bn")(y)
print(kg.recipes.fold_batchnorm(keras.Model(image, y)))
