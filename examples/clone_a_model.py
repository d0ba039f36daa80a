"""Clone a model: with its weights, with fresh ones, or sharing a part with the donor.

In 2019, and in Keras still, `clone_model` gives new weights and forgets what was frozen.
"""

import keras
import numpy as np

import keras_graft as kg

donor = keras.applications.MobileNetV3Small(weights=None, input_shape=(64, 64, 3), classes=5)
donor.get_layer("conv").trainable = False
x = np.random.default_rng(0).random((4, 64, 64, 3), "float32") * 255


def gives(model):
    return keras.ops.convert_to_numpy(model(x))


before = gives(donor)
copy = kg.clone(donor)
print("the copy gives the same:", np.array_equal(gives(copy), before))
copy.get_layer("logits").bias.assign([1, 2, 3, 4, 5])
print("changed, it gives something else:", not np.array_equal(gives(copy), before))
print("the donor is what it was:", np.array_equal(gives(donor), before))
print("still frozen in the copy:", not copy.get_layer("conv").trainable)

again = kg.clone(donor, weights="fresh", seed=1), kg.clone(donor, weights="fresh", seed=1)
print("fresh weights of one seed are equal:", np.array_equal(*map(gives, again)))

# A new head on a trunk that is shared: any selector says what stays the donor's.
twin = kg.clone(donor, share=lambda node: node.name not in ("logits", "predictions"))
print(kg.diff(donor, twin))
