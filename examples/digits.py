"""The main job on real scans: train on digits 0-4, cut, train a new head for 5-9, join, save, load.

Run: make demo
"""

import tempfile
from pathlib import Path

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_graft as kg

keras.utils.set_random_seed(7)
images, labels = load_digits(return_X_y=True)
images = (images.reshape(-1, 8, 8, 1) / 16).astype("float32")


def block(x, filters, name):
    y = keras.layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"{name}_conv1")(x)
    y = keras.layers.Conv2D(filters, 3, padding="same", name=f"{name}_conv2")(y)
    return keras.layers.ReLU(name=f"{name}_out")(keras.layers.Add(name=f"{name}_add")([x, y]))


def train(model, x, y):
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=20, batch_size=32, verbose=0)


def accuracy(model, x, y):
    predicted = keras.ops.convert_to_numpy(model(x, training=False)).argmax(-1)
    return float((predicted == y).mean())


inputs = keras.Input((8, 8, 1), name="scan")
x = keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="stem")(inputs)
for i in range(3):
    x = block(x, 16, f"block{i}")
x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
donor = keras.Model(inputs, keras.layers.Dense(5, activation="softmax", name="low")(x), name="low")

low, order = labels < 5, np.random.default_rng(0).permutation(len(labels))
fit, held = order[: len(order) * 3 // 4], order[len(order) * 3 // 4 :]
low_fit, low_held = fit[low[fit]], held[low[held]]
high_fit, high_held = fit[~low[fit]], held[~low[held]]
train(donor, images[low_fit], labels[low_fit])
before = accuracy(donor, images[low_held], labels[low_held])

print("Where the trained network can be cut:")
print(kg.cuts(donor))

trunk, old_head = kg.split(donor, at="block1_out")
whole = keras.ops.convert_to_numpy(donor(images[:256]))
parts = keras.ops.convert_to_numpy(old_head(trunk(images[:256])))
difference = float(np.abs(whole - parts).max())

features = np.concatenate([keras.ops.convert_to_numpy(trunk(b)) for b in np.split(images, 3)])
y = feature_in = keras.Input(features.shape[1:], name="features")
y = block(y, 16, "new")
y = keras.layers.GlobalAveragePooling2D(name="new_pool")(y)
new_head = keras.Model(feature_in, keras.layers.Dense(5, activation="softmax", name="high")(y))
train(new_head, features[high_fit], labels[high_fit] - 5)

joined = kg.join(trunk, new_head)
after = accuracy(joined, images[high_held], labels[high_held] - 5)
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "joined.keras"
    joined.save(path)
    loaded = keras.models.load_model(path)
reload_difference = float(
    np.abs(
        keras.ops.convert_to_numpy(joined(images[:256]))
        - keras.ops.convert_to_numpy(loaded(images[:256]))
    ).max()
)
mine, theirs = ({id(w): w.shape for w in m.weights} for m in (joined, donor))


def total(ids, shapes):
    return sum(int(np.prod(shapes[i])) for i in ids)


print("\nProof")
print(f"accuracy of the donor on held-out digits 0-4       {before:.3f}")
print(f"accuracy of the joined model on held-out 5-9       {after:.3f}")
print(f"parameters shared with the donor                   {total(mine & theirs.keys(), mine):,}")
print(f"parameters new                                     {total(mine.keys() - theirs, mine):,}")
print(f"parameters dropped                                 {total(theirs.keys() - mine, theirs):,}")
print(f"largest difference between split and whole         {difference:g}")
print(f"largest difference after save and load             {reload_difference:g}")
print("donor's accuracy afterwards, unchanged             ", end="")
print(f"{accuracy(donor, images[low_held], labels[low_held]):.3f}")
assert difference == 0 and reload_difference == 0 and before > 0.9 and after > 0.9
