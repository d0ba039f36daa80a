"""Another classifier on the same features; the trunk is shared with the donor."""

import keras

import keras_graft as kg

model = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), classes=10)
new = kg.recipes.new_head(model, 3, activation="softmax")
print([layer.name for layer in new.layers[-2:]], new.output_shape)
print(f"{kg.diff(model, new).new_parameters:,} new parameters")

# This one ends in a convolution: it is asked, and says how.
other = keras.applications.MobileNetV3Small(weights=None, input_shape=(32, 32, 3), classes=10)
try:
    kg.recipes.new_head(other, 3)
except kg.EditError as error:
    print(error)
pools = kg.select(other, keras.layers.GlobalAveragePooling2D)
print(kg.recipes.new_head(other, 3, at=pools[-1]).output_shape)
