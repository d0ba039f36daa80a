"""A segmentation network on an encoder: the taps are found, the sizes need not halve evenly."""

import keras

import keras_graft as kg

encoder = keras.applications.MobileNetV2(weights=None, input_shape=(75, 75, 3), include_top=False)
model = kg.recipes.unet(encoder, classes=2, filters=(64, 32, 16))
print("mask:", model.output_shape)
for layer in model.layers:
    if isinstance(layer, keras.layers.Concatenate):
        below, tap = layer.input
        print(f"{layer.name}: {tuple(below.shape[1:])} and {tuple(tap.shape[1:])}")

# The taps can be named instead, the finest first.
small = kg.recipes.unet(encoder, taps=["block_3_expand_relu", "block_13_expand_relu"])
assert small.count_params() < model.count_params()
print("mask:", small.output_shape)
