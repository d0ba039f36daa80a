"""The main job on real scans: train on digits 0-4, cut, train a new head for 5-9 from a store, join, save, load.

Run: make demo
"""

import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_graft as kg

# Where TensorFlow is installed, Keras imports it on every backend, to set its seed and to write
# files. That takes seconds and prints log lines that no setting turns off.
if keras.config.backend() != "tensorflow":
    sys.modules["tensorflow"] = None  # type: ignore[assignment]

keras.utils.set_random_seed(7)
images, labels = load_digits(return_X_y=True)
images = (images.reshape(-1, 8, 8, 1) / 16).astype("float32")


def block(x, filters, name):
    y = keras.layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"{name}_conv1")(x)
    y = keras.layers.Conv2D(filters, 3, padding="same", name=f"{name}_conv2")(y)
    return keras.layers.ReLU(name=f"{name}_out")(keras.layers.Add(name=f"{name}_add")([x, y]))


def train(model, *data, **kwargs):
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*data, epochs=1, verbose=0, **kwargs)  # what is compiled does not count
    start = time.perf_counter()
    model.fit(*data, epochs=19, verbose=0, **kwargs)
    return (time.perf_counter() - start) / 19


def accuracy(model, x, y):
    predicted = keras.ops.convert_to_numpy(model(x, training=False)).argmax(-1)
    return float((predicted == y).mean())


inputs = keras.Input((8, 8, 1), name="scan")
x = keras.layers.Conv2D(32, 3, padding="same", activation="relu", name="stem")(inputs)
for i in range(3):
    x = block(x, 32, f"block{i}")
x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
donor = keras.Model(inputs, keras.layers.Dense(5, activation="softmax", name="low")(x), name="low")

low, order = labels < 5, np.random.default_rng(0).permutation(len(labels))
fit, held = order[: len(order) * 3 // 4], order[len(order) * 3 // 4 :]
low_fit, low_held = fit[low[fit]], held[low[held]]
high_fit, high_held = fit[~low[fit]], held[~low[held]]
train(donor, images[low_fit], labels[low_fit], batch_size=32)
before = accuracy(donor, images[low_held], labels[low_held])

print("Where the trained network can be cut:")
print(kg.cuts(donor))

trunk, old_head = kg.split(donor, at="block1_out")
whole = keras.ops.convert_to_numpy(donor(images[:256]))
parts = keras.ops.convert_to_numpy(old_head(trunk(images[:256])))
difference = float(np.abs(whole - parts).max())

# The trunk runs once over each scan; its features are kept on the disk, and the head trains on them.
trunk = kg.freeze(trunk)
y = feature_in = keras.Input(trunk.output.shape[1:], name="features")
y = keras.layers.Dense(64, activation="relu", name="hidden")(keras.layers.Flatten(name="flat")(y))
new_head = keras.Model(feature_in, keras.layers.Dense(5, activation="softmax", name="high")(y))
joined = kg.join(trunk, new_head)
first = [w.copy() for w in new_head.get_weights()]  # training may write into what it gives
high = images[high_fit], labels[high_fit] - 5
whole_epoch = train(joined, *high, batch_size=32)  # as one would without a store
new_head.set_weights(first)
with tempfile.TemporaryDirectory() as folder:
    start = time.perf_counter()
    store = kg.features.compute(trunk, high, folder, batch_size=32, progress=False)
    computing = time.perf_counter() - start
    dataset = kg.features.FeatureDataset(store, batch_size=32)
    store_epoch = train(new_head, dataset, shuffle=False)
    kept = store.take(np.arange(256))["features"]
head_gives = keras.ops.convert_to_numpy(new_head(kept))
joined_gives = keras.ops.convert_to_numpy(joined(high[0][:256]))
join_difference = float(np.abs(head_gives - joined_gives).max())
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
change = kg.diff(donor, joined)

# Two blocks with one kernel between them: counted, trained and saved once.
tied = kg.tie(kg.clone(donor), "block2_conv1/kernel", "block1_conv1/kernel")
tied.compile("adam", "sparse_categorical_crossentropy")
tied.fit(images[low_fit], labels[low_fit], epochs=1, verbose=0)
with tempfile.TemporaryDirectory() as folder:
    tied.save(Path(folder) / "tied.keras")
    tied_again = keras.models.load_model(Path(folder) / "tied.keras")
(tie,) = kg.sharing(tied_again).ties
assert (tie.target, tie.source) == ("block2_conv1/kernel", "block1_conv1/kernel")
one, other = (tied_again.get_layer(f"block{i}_conv1").kernel for i in (1, 2))
assert np.array_equal(*map(keras.ops.convert_to_numpy, (one, other)))
tied_difference = float(
    np.abs(
        keras.ops.convert_to_numpy(tied(images[:256]))
        - keras.ops.convert_to_numpy(tied_again(images[:256]))
    ).max()
)

print("\nProof")
print(f"accuracy of the donor on held-out digits 0-4       {before:.3f}")
print(f"accuracy of the joined model on held-out 5-9       {after:.3f}")
print(f"parameters shared with the donor                   {change.shared_parameters:,}")
print(f"parameters new                                     {change.new_parameters:,}")
print(f"parameters dropped                                 {change.dropped_parameters:,}")
print(f"largest difference between split and whole         {difference:g}")
print(f"largest difference after save and load             {reload_difference:g}")
print(f"samples in the store, bytes                        {len(store):,}, {store.bytes:,}")
print(f"seconds to compute the store                       {computing:.2f}")
print(f"seconds an epoch: whole model, from the store      {whole_epoch:.3f}, {store_epoch:.3f}")
print(f"times faster from the store                        {whole_epoch / store_epoch:.1f}")
print(f"largest difference between joined model and head   {join_difference:g}")
print(f"parameters with two kernels tied                   {tied_again.count_params():,}, ", end="")
print(f"of {donor.count_params():,}")
print(f"largest difference of it after save and load       {tied_difference:g}")
print("donor's accuracy afterwards, unchanged             ", end="")
print(f"{accuracy(donor, images[low_held], labels[low_held]):.3f}")
assert (
    difference == 0
    and reload_difference == 0
    and join_difference < 1e-5
    and tied_difference == 0
    and tied_again.count_params() == donor.count_params() - 9 * 32 * 32
    and before > 0.9
    and after > 0.9
)

pages = Path("demo")
pages.mkdir(exist_ok=True)
kg.show(joined).save(pages / "network.html")
kg.show(change).save(pages / "edit.html")
print("\nOpen in a browser")
print(f"  {pages / 'network.html'}    the joined model")
print(f"  {pages / 'edit.html'}       what it shares with the donor, and what is new")

print("""
Try next
  .venv/bin/python examples/cut_in_the_middle.py    one script for each technique in examples/
  .venv/bin/keras-graft cuts app:ResNet50           the command, on any model file
  docs/tasks/                                       what else it can do, by task""")
