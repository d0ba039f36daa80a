"""Take the features of three stages for a detector, without knowing the names of the layers."""

import keras
import numpy as np

import keras_graft as kg

for name in ("ResNet50", "EfficientNetB0"):
    backbone = getattr(keras.applications, name)(
        weights=None, include_top=False, input_shape=(64, 64, 3)
    )
    stages = kg.stages(backbone)
    print(f"{name}: strides {[stage.stride for stage in stages]}")
    print(stages)

    pyramid = kg.extract(backbone, stages=(2, 3, 4))
    features = pyramid(np.zeros((1, 64, 64, 3), "float32"))

    # One 1 x 1 convolution each brings them to the same channels.
    inputs = pyramid.inputs
    sides = [
        keras.layers.Conv2D(32, 1, name=f"side{stage.index}")(pyramid.output[stage.name])
        for stage in stages[2:]
    ]
    neck = keras.Model(inputs, sides, name="neck")
    for stage, side in zip(stages[2:], neck(np.zeros((1, 64, 64, 3), "float32")), strict=True):
        same = tuple(features[stage.name].shape[1:3]) == tuple(side.shape[1:3])
        print(
            f"  stage {stage.index}: {stage.channels} channels to {side.shape[-1]}, same size: {same}"
        )
