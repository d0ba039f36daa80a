"""Make layers of a trained model one (as ALBERT does with its blocks), and take one apart again."""

import keras
import numpy as np

import keras_graft as kg


def block(x, name):
    y = keras.layers.LayerNormalization(name=f"{name}_norm")(x)
    y = keras.layers.MultiHeadAttention(4, 16, name=f"{name}_attention")(y, y)
    return keras.layers.Add(name=f"{name}_add")([x, y])


x = inputs = keras.Input((20, 64), name="x")
for number in range(4):
    x = block(x, f"block{number}")
model = keras.Model(inputs, keras.layers.Dense(10, name="out")(x), name="deep")

shared = kg.share(model, [f"block{i}_attention" for i in range(4)], weights="mean")
print(f"{model.count_params():,} parameters, with one attention layer {shared.count_params():,}")
print(kg.sharing(shared), "\n")

# The call in the third block gets a layer of its own again, with the same values.
apart = kg.unshare(shared, "block0_attention#2")
data = np.random.default_rng(0).standard_normal((2, 20, 64)).astype("float32")
same = np.array_equal(*(keras.ops.convert_to_numpy(m(data)) for m in (shared, apart)))
print(f"one call apart: {apart.count_params():,} parameters, outputs equal to the bit: {same}")
