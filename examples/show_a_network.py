"""Show a network: an outline, an image for a README, and what an edit did."""

import tempfile
from pathlib import Path

import keras

import keras_graft as kg

# Six residual blocks, with the names that Keras gives them.
image = x = keras.Input((32, 32, 3), name="image")
x = keras.layers.Conv2D(16, 3, padding="same", name="stem")(x)
for _ in range(6):
    y = keras.layers.BatchNormalization()(x)
    y = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(y)
    x = keras.layers.Add()([x, y])
x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
model = keras.Model(image, keras.layers.Dense(10, name="classes")(x), name="small")

# The blocks are found in the graph: one line stands for six.
print(kg.show(model, as_="text", depth=0))

folder = Path(tempfile.mkdtemp())
picture = kg.show(model, as_="svg", path=folder / "small.svg")
print(f"\nan image of {len(str(picture)) / 1000:.0f} kB: {(folder / 'small.svg').exists()}\n")

# Both networks in one picture: what is new or was dropped stands in its place.
new = kg.replace(model, "classes", keras.layers.Dense(3, name="other_classes"))
print(kg.show(kg.diff(model, new), as_="text", depth=0))
