"""From a folder of images to a fine-tuned model: first a new head, then a part of the trunk.

Run: python examples/fine_tune.py
"""

import tempfile
from pathlib import Path

import keras
import numpy as np
from skimage import data

import keras_graft as kg

keras.utils.set_random_seed(1)
rng = np.random.default_rng(1)
photographs = {"cat": data.chelsea(), "coffee": data.coffee(), "rocket": data.rocket()}
SIZE = 48


def piece(photograph):
    """Cut a square at a random place: scikit-image ships only a few photographs."""
    row, column = (rng.integers(0, edge - SIZE) for edge in photograph.shape[:2])
    return photograph[row : row + SIZE, column : column + SIZE]


# The donor: a network that has learned something else, here by how much colours were exchanged.
# With a trained network of keras.applications, this is where you begin.
x = inputs = keras.Input((SIZE, SIZE, 3), name="image")
x = keras.layers.Rescaling(1 / 255, name="scale")(x)
for i, filters in enumerate((16, 32, 64)):
    x = keras.layers.Conv2D(filters, 3, strides=2, use_bias=False, name=f"conv{i}")(x)
    x = keras.layers.BatchNormalization(momentum=0.9, name=f"bn{i}")(x)
    x = keras.layers.ReLU(name=f"relu{i}")(x)
x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
donor = keras.Model(inputs, keras.layers.Dense(3, name="steps")(x), name="colours")
steps = rng.integers(0, 3, 900)
pieces = [piece(list(photographs.values())[i % 3]) for i in range(900)]
exchanged = np.stack([np.roll(a, k, axis=-1) for a, k in zip(pieces, steps, strict=True)])
donor.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
donor.fit(exchanged, steps, epochs=3, verbose=0)

with tempfile.TemporaryDirectory() as temporary:
    # A folder of images, with a folder for each class.
    photos = Path(temporary) / "photos"
    for name, count in (("cat", 60), ("coffee", 60), ("rocket", 24)):
        (photos / name).mkdir(parents=True)
        for number in range(count):
            keras.utils.save_img(photos / name / f"{number}.png", piece(photographs[name]))

    # First the head. The trunk runs once over each image, and the head trains on what it gave.
    fitted = kg.features.fit_head(
        donor, at="relu2", data=photos, head=3, epochs=40, validation_split=0.25,
        class_weight="balanced", store=Path(temporary) / "features", progress=False,
    )  # fmt: skip
    print(fitted)

    # Then a part of the trunk, at a lower rate. BatchNormalization keeps its averages.
    model = kg.unfreeze(fitted.model, ["conv1", "conv2"])
    rates = {"conv1": 1e-4, "conv2": 3e-4, "**": 1e-3}
    model.compile(
        kg.learning_rates(model, "adam", rates),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    images = kg.features.ImageFolder(photos, size=(SIZE, SIZE))
    before = model.evaluate(images, verbose=0, return_dict=True)["accuracy"]
    model.fit(images, epochs=3, verbose=0)
    after = model.evaluate(images, verbose=0, return_dict=True)["accuracy"]
    print(
        f"accuracy on all images: {before:.2f} with the new head, {after:.2f} with the trunk tuned"
    )

    model.save(Path(temporary) / "tuned.keras")
    loaded = keras.models.load_model(Path(temporary) / "tuned.keras")
    again = loaded.evaluate(images, verbose=0, return_dict=True)["accuracy"]
    print(f"saved and loaded: {again:.2f}")
    assert again == after > 0.7 and fitted.validation.final["accuracy"] > 0.5
