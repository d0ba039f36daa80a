"""Remove half of the channels of a network: see what depends on them, then prune and go on training."""

import keras
import numpy as np
from keras import layers

import keras_graft as kg

keras.utils.set_random_seed(0)

x = inputs = keras.Input((16, 16, 3), name="image")
x = layers.Conv2D(16, 3, padding="same", activation="relu", name="stem")(x)
y = layers.Conv2D(32, 3, padding="same", name="wide")(x)
y = layers.BatchNormalization(name="norm")(y)
y = layers.Conv2D(16, 3, padding="same", name="back")(layers.ReLU(name="act")(y))
x = layers.Add(name="add")([x, y])
x = layers.GlobalAveragePooling2D(name="pool")(x)
model = keras.Model(inputs, layers.Dense(4, name="classes")(x), name="net")

print(kg.group(model, "wide"))
small = kg.prune(model, {layers.Conv2D: 0.5})
print(f"{model.count_params():,} -> {small.count_params():,} parameters")

small.compile("adam", "mse")
small.fit(np.ones((8, 16, 16, 3)), np.zeros((8, 4)), verbose=0)
