"""Exchange batch normalization for group normalization, for training with small batches."""

import keras

import keras_graft as kg

model = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), classes=4)
new = kg.recipes.norm_swap(model, groups=8)

print(len(kg.select(new, keras.layers.GroupNormalization)), "layers exchanged")
for name in ("bn_Conv1", "block_3_depthwise_BN"):
    layer = new.get_layer(name)
    print(f"{name}: {layer.groups} groups of {layer.gamma.shape[0]} channels")
print("carried over:", kg.diff(model, new).kept[0][1].weights)
