"""Fine-tuning in two steps: first the head, then the trunk at a smaller rate, as if nothing had been."""

import keras
import numpy as np

import keras_graft as kg

rng = np.random.default_rng(0)
x, y = rng.normal(size=(64, 8)).astype("float32"), rng.integers(0, 3, 64)


def begun():
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(16, activation="relu", name="trunk"),
        keras.layers.Dense(3, name="head"),
    ]
    model = kg.freeze(keras.Sequential([keras.Input((8,)), *layers]), "trunk")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    model.fit(x, y, epochs=3, shuffle=False, verbose=0)
    return model


# One line: the result is compiled as the model was, and the head keeps its momenta.
model = kg.unfreeze(begun(), "trunk")
model.fit(x, y, epochs=3, shuffle=False, verbose=0)
print("steps:", int(model.optimizer.iterations))

# With a smaller rate for the trunk: keep the optimizer that was trained, and carry its state over.
model = kg.unfreeze(begun(), "trunk")
old = model.optimizer
model.compile(kg.learning_rates(model, old, {"trunk": 0.001, "head": 0.01}), model.loss)
print("\n", kg.carry_optimizer(old, model), "\n", sep="")
print(model.optimizer.rates)
model.fit(x, y, epochs=3, shuffle=False, verbose=0)
rate = round(float(model.optimizer.learning_rate), 6)
print("steps:", int(model.optimizer.iterations), "at", rate, "and less")
