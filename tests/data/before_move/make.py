"""Files as the last commit before the move into folders (5963af1) wrote them.

Run once, with that commit's code, by `KERAS_BACKEND=torch python make.py`. They must load forever:
`tests/test_old_files.py`. Kept to show what lies in them; newer code need not write the same.
"""

from pathlib import Path

import keras
import numpy as np
from keras import layers

import keras_graft as kg

HERE = Path(__file__).parent
keras.utils.set_random_seed(7)


@keras.saving.register_keras_serializable("before_move")
class Scored(keras.Model):
    """A model with a class and an attribute of its own."""

    def score(self, x):
        return float(keras.ops.max(self(x)))


def language_model():
    ids = keras.Input((5,), dtype="int32", name="ids")
    y = layers.Embedding(11, 4, name="embedding")(ids)
    y = layers.LayerNormalization(name="norm")(y)
    return keras.Model(ids, layers.Dense(11, name="head")(y), name="language_model")


def image_model(cls=keras.Model):
    x = keras.Input((8, 8, 3), name="image")
    y = layers.Conv2D(4, 3, padding="same", name="conv")(x)
    y = layers.BatchNormalization(name="bn")(y)
    y = layers.Dropout(0.5, name="drop")(layers.ReLU(name="relu")(y))
    y = layers.GlobalAveragePooling2D(name="pool")(y)
    return cls(x, layers.Dense(3, name="logits")(y), name="image_model")


def main():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 11, (3, 5)).astype("int32")
    images = rng.normal(size=(3, 8, 8, 3)).astype("float32")
    found = {"ids": ids, "images": images}

    def keep(name, model, data):
        model.save(HERE / f"{name}.keras")
        model.save_weights(HERE / f"{name}.weights.h5")
        found[name] = keras.ops.convert_to_numpy(model(data))

    donor = language_model()
    keep("tied", kg.tie(donor, "head.kernel", "embedding.embeddings", transform="transpose"), ids)
    tied_dense = kg.replace(
        donor, "head", lambda node: kg.layers.TiedDense(donor.get_layer("embedding"), name="head")
    )
    keep("tied_dense", tied_dense, ids)
    keep("frozen", kg.freeze(image_model(), "*"), images)
    keep("kept_class", kg.replace(image_model(Scored), "relu", layers.ReLU(max_value=6.0)), images)
    # Two layers of one name: one of them stands under another.
    i, j, x = (keras.Input((3,), name=name) for name in "ijx")
    one = keras.Model(i, layers.Dense(3, name="d")(i), name="one")
    two = keras.Model(j, layers.Dense(3, name="d")(j), name="two")
    flat = kg.inline(kg.inline(keras.Model(x, two(one(x)), name="both"), "one"), "two")
    found["rows"] = rng.normal(size=(3, 3)).astype("float32")
    keep("renamed", flat, found["rows"])

    trunk = kg.extract(kg.freeze(image_model(), "*"), {"pool": "pool", "relu": "relu"})
    data = rng.normal(size=(20, 8, 8, 3)).astype("float32")
    targets = rng.integers(0, 3, 20)
    store = kg.features.compute(
        trunk, (data, targets), HERE / "store", batch_size=4, dtype="float16", shard_bytes=4096
    )
    trunk.save(HERE / "trunk.keras")
    found["data"], found["targets"] = data, targets
    rows = store.to_numpy()
    found |= {f"store/{name}": rows["features"][name] for name in ("pool", "relu")}
    np.savez_compressed(HERE / "expected.npz", **found)


if __name__ == "__main__":
    main()
