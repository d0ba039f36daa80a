"""Fine-tuning in two steps: the trunk is unfrozen, and the head trains on as if nothing had been."""

import keras
import numpy as np

import keras_graft as kg

rng = np.random.default_rng(0)
x, y = rng.normal(size=(64, 8)).astype("float32"), rng.integers(0, 3, 64)


def begun():
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(16, activation="relu", name="trunk", trainable=False),
        keras.layers.Dense(3, name="head"),
    ]
    model = keras.Sequential([keras.Input((8,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    model.fit(x, y, epochs=3, shuffle=False, verbose=0)
    return model


# Two lines: the flag, and the optimizer. The model is compiled again as it was.
model = begun()
model.get_layer("trunk").trainable = True
print(kg.carry_optimizer(model, model), "\n")
model.fit(x, y, epochs=3, shuffle=False, verbose=0)
print("steps:", int(model.optimizer.iterations))

# With a compilation of your own, such as a smaller learning rate: keep the optimizer that was trained.
model = begun()
old = model.optimizer
model.get_layer("trunk").trainable = True
model.compile(keras.optimizers.Adam(0.001), model.loss)
kg.carry_optimizer(old, model)
model.fit(x, y, epochs=3, shuffle=False, verbose=0)
print(
    "steps:", int(model.optimizer.iterations), "at", round(float(model.optimizer.learning_rate), 6)
)
