"""Find every convolution with its norm and activation by a pattern, and put something else there."""

import keras
import numpy as np

import keras_graft as kg

x = image = keras.Input((32, 32, 3), name="image")
for i in range(3):
    x = keras.layers.Conv2D(8, 3, padding="same", name=f"conv{i}")(x)
    x = keras.layers.BatchNormalization(name=f"bn{i}")(x)
    x = (
        keras.layers.ReLU(name=f"relu{i}")(x)
        if i < 2
        else keras.layers.Activation("elu", name="elu")(x)
    )
model = keras.Model(image, keras.layers.GlobalAveragePooling2D(name="pool")(x), name="network")

kinds = {
    "conv": keras.layers.Conv2D,
    "bn": keras.layers.BatchNormalization,
    "relu": keras.layers.ReLU,
}
print(kg.matches(model, lambda x, conv, bn, relu: relu(bn(conv(x))), **kinds))


def normed_by_group(x, conv):
    """The same convolution, with its weights, then another norm and another activation."""
    return keras.ops.silu(keras.layers.GroupNormalization(4)(conv(x)))


edited = kg.rewrite(model, lambda x, conv, bn, relu: relu(bn(conv(x))), normed_by_group, **kinds)
print([layer.name for layer in edited.layers])
assert edited.get_layer("conv0") is model.get_layer("conv0")
assert edited(np.ones((1, 32, 32, 3))).shape == (1, 8)

# Three branches that are added become one convolution (RepVGG).
conv3 = keras.layers.Conv2D(3, 3, padding="same", name="conv3")(image)
conv1 = keras.layers.Conv2D(3, 1, name="conv1")(image)
branches = keras.Model(image, keras.layers.Add(name="add")([conv3, conv1, image]))
merged = kg.recipes.merge_branches(branches)
print([layer.name for layer in merged.layers])
