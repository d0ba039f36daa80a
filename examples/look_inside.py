"""Look inside a network that was trained on digit scans: Grad-CAM, attention maps, and what they are worth.

Writes demo/look_inside.svg: each row is a scan, where Grad-CAM says its class is, and where each head looks.
"""

from pathlib import Path

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_digits

import keras_graft as kg

keras.utils.set_random_seed(0)
images, labels = load_digits(return_X_y=True)
images = (images.reshape(-1, 8, 8, 1) / 16).astype("float32")
order = np.random.default_rng(0).permutation(len(labels))
fit, held = order[:1400], order[1400:]

scan = keras.Input((8, 8, 1), name="scan")
x = layers.Conv2D(16, 3, padding="same", activation="relu", name="conv1")(scan)
x = layers.Conv2D(24, 3, padding="same", activation="relu", name="conv2")(x)
pixels = layers.Reshape((64, 24), name="pixels")(x)
mean = layers.GlobalAveragePooling1D(keepdims=True, name="mean")(pixels)
looked, _ = layers.MultiHeadAttention(2, 12, name="attention")(
    mean, pixels, return_attention_scores=True
)
y = layers.Dense(32, activation="relu", name="hidden")(layers.Flatten(name="flat")(looked))
model = keras.Model(scan, layers.Dense(10, name="digit")(y), name="digits")

loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(5e-3), loss)
model.fit(images[fit], labels[fit], batch_size=64, epochs=25, verbose=0)

x, classes = images[held], labels[held]
# The attention scores are an output of the layer that the network does not use.
seen = kg.record(model, x, ["digit", "attention:1"])
right = ops.convert_to_numpy(seen["digit"]).argmax(-1) == classes
print(f"{right.mean():.0%} of {len(x)} scans are right that it was not trained on")

# Grad-CAM, of the class of each scan.
found = kg.gradients(model, x, at="conv2", of=classes)
weights = ops.mean(found.values, axis=(1, 2), keepdims=True)
cam = ops.convert_to_numpy(ops.relu(ops.sum(weights * found.activations, axis=-1)))
heads = ops.convert_to_numpy(seen["attention:1"]).reshape(-1, 2, 8, 8)

# What are the maps worth? Without the pixels that a map says matter, the class must lose more than
# without as many others. One model serves all masks.
masked = kg.patch(model, {"conv2": kg.Given("mask", ops.multiply, shape=(8, 8, 1))})


def class_without(pixels):
    """Return by how much the logit of the class falls without some pixels."""
    mask = 1.0 - pixels[..., None].astype("float32")
    logits = masked.predict([x, mask], batch_size=len(x), verbose=0)
    plain = ops.convert_to_numpy(found.outputs)
    rows = np.arange(len(x))
    return (plain[rows, classes] - logits[rows, classes]).mean()


def hottest(maps, count=16):
    """Return which pixels have the largest numbers."""
    flat = maps.reshape(len(maps), -1)
    chosen = np.zeros_like(flat, bool)
    np.put_along_axis(chosen, np.argsort(-flat, axis=1)[:, :count], True, axis=1)
    return chosen.reshape(maps.shape)


falls = {
    "Grad-CAM's pixels": class_without(hottest(cam)),
    "the pixels the heads look at": class_without(hottest(heads.mean(1))),
    "any pixels": class_without(hottest(np.random.default_rng(1).random(cam.shape))),
}
for name, fall in falls.items():
    print(f"without 16 of {name}, the class loses {fall:5.2f}")
assert falls["Grad-CAM's pixels"] > 1.5 * falls["any pixels"]


def tiles(maps, colour, left, top):
    """Yield the pixels of one map as SVG."""
    top_value = maps.max() or 1.0
    for (row, column), value in np.ndenumerate(maps / top_value):
        shade = [round(255 + (c - 255) * float(value)) for c in colour]
        yield (
            f'<rect x="{left + 8 * column}" y="{top + 8 * row}" width="8" height="8" '
            f'fill="rgb({",".join(map(str, shade))})"/>'
        )


columns = ["scan", "Grad-CAM", "head 0", "head 1"]
rows = [int(np.flatnonzero(right & (classes == digit))[0]) for digit in range(10)]
parts = [f'<text x="{60 + 76 * i}" y="14">{name}</text>' for i, name in enumerate(columns)]
for i, row in enumerate(rows):
    top = 22 + 76 * i
    parts.append(f'<text x="20" y="{top + 38}">{classes[row]}</text>')
    for j, (pixels, colour) in enumerate(
        [(x[row, :, :, 0], (0, 0, 0)), (cam[row], (200, 30, 0)),
         (heads[row, 0], (0, 60, 200)), (heads[row, 1], (0, 60, 200))]
    ):  # fmt: skip
        parts += tiles(pixels, colour, 60 + 76 * j, top)
size = f'width="{60 + 76 * len(columns)}" height="{22 + 76 * len(rows)}"'
path = Path("demo") / "look_inside.svg"
path.parent.mkdir(exist_ok=True)
path.write_text(
    f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    f'<rect {size} fill="white"/>{"".join(parts)}</svg>\n'
)
print(f"pictures of {len(rows)} scans: {path}")
