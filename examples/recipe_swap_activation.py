"""Exchange an activation function everywhere, also where it is an argument of a layer."""

import keras

import keras_graft as kg

model = keras.applications.EfficientNetB0(weights=None, input_shape=(32, 32, 3), classes=4)
new = kg.recipes.swap_activation(model, old="swish", new="relu")

# The layers that hold the function themselves are made again, and their trained values copied.
report = kg.diff(model, new)
print(f"{len(report.new)} layers exchanged, {len(report.kept)} with trained values kept")
print("squeeze:", new.get_layer("block2a_se_reduce").activation.__name__)
print("gate:", new.get_layer("block2a_se_expand").activation.__name__)

try:
    kg.recipes.swap_activation(new, old="swish")
except kg.NothingSelectedError as error:
    print(error)
