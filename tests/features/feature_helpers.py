"""A small model, its data and a store of it, for the tests of features."""

import keras
import numpy as np
from keras import layers

from keras_graft.features import compute


def donor():
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(6, 3, activation="relu", name="stem")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Dropout(0.5, name="drop")(x)
    y = layers.Conv2D(6, 3, padding="same", activation="relu", name="block")(x)
    x = layers.Add(name="add")([x, y])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(4, name="out")(x), name="donor")


def images(n=50, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((n, 8, 8, 3), "float32"), rng.integers(0, 4, n)


def run(trunk, data, folder, **kwargs):
    kwargs = {"batch_size": 8, "progress": False, "shard_bytes": 500, **kwargs}
    return compute(trunk, data, folder / "store", **kwargs)


class Py(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return -(-len(self.x) // 8)

    def __getitem__(self, i):
        return self.x[i * 8 : i * 8 + 8], self.y[i * 8 : i * 8 + 8]
