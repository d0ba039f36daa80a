"""Take intermediate outputs as a new model: one forward pass, only the layers that it needs."""

import keras
import numpy as np

import keras_graft as kg

model = keras.applications.MobileNetV3Small(weights=None, input_shape=(64, 64, 3))
x = np.zeros((1, 64, 64, 3), "float32")

one = kg.extract(model, "expanded_conv_4_add")  # one exact name gives one tensor
print("one:", one(x).shape)

every = kg.extract(model, "expanded_conv_*_add")  # a glob gives a dict by name
for name, value in every(x).items():
    print(f"  {name}: {tuple(value.shape)}")

pyramid = kg.extract(model, {"fine": "expanded_conv_project_bn", "coarse": "expanded_conv_9_add"})
print("named:", {name: tuple(value.shape) for name, value in pyramid(x).items()})
assert pyramid.count_params() < model.count_params()

try:
    kg.extract(model, "expanded_conv_4_ad")
except kg.NothingSelectedError as error:
    print(error)
