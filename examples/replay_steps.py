"""Edit one checkpoint, keep the steps in a file, and replay them on another checkpoint."""

import tempfile
from pathlib import Path

import keras
import numpy as np

import keras_graft as kg


def checkpoint(seed):
    """Stand for a trained network: one architecture, other weights."""
    keras.utils.set_random_seed(seed)
    return keras.applications.MobileNetV2(weights=None, input_shape=(64, 64, 3))


def edited(model):
    """Return the network that we want to train."""
    model = kg.replace(model, "*_relu", lambda node: keras.layers.Activation("swish"))
    model = kg.insert(model, keras.layers.SpatialDropout2D(0.1, name="drop"), after="block_5_add")
    model = kg.recipes.new_head(model, keras.layers.Dense(3, name="head"))
    return kg.freeze(model, "block_[12]_*")


first, second = checkpoint(1), checkpoint(2)
model = edited(first)

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "edited.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    steps = kg.steps(loaded)
    print(steps)
    steps.save(Path(folder) / "steps.yaml")
    again = kg.replay(second, Path(folder) / "steps.yaml")

# The same verbs in Python give the same numbers; only the new head was drawn again.
python = edited(second)
python.get_layer("head").set_weights(again.get_layer("head").get_weights())
x = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
one, other = (keras.ops.convert_to_numpy(m(x)) for m in (again, python))
print("replayed on the second checkpoint, equal to the bit:", np.array_equal(one, other))
head = [m.get_layer("head").get_weights()[0] for m in (model, again)]
print("the new head draws the same weights:", np.array_equal(*head))
