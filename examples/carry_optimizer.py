"""Training goes on after an edit: what was trained keeps its moments, and the steps are counted on."""

import keras
import numpy as np

import keras_graft as kg

rng = np.random.default_rng(0)
x, y = rng.normal(size=(64, 8)).astype("float32"), rng.integers(0, 3, 64)


def trained():
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(16, activation="relu", name="trunk"),
        keras.layers.Dropout(0.2, seed=1, name="drop"),
        keras.layers.Dense(3, name="head"),
    ]
    model = keras.Sequential([keras.Input((8,)), *layers])
    rate = keras.optimizers.schedules.CosineDecay(0.01, 100)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(rate), loss, metrics=["accuracy"])
    model.fit(x, y, epochs=3, shuffle=False, verbose=0)
    return model


# An edit in the middle of training: one layer more.
model = trained()
edited = kg.insert(model, keras.layers.Dense(16, activation="relu", name="more"), after="trunk")
print(kg.carry_optimizer(model, edited), "\n")
edited.fit(x, y, epochs=3, shuffle=False, verbose=0)
print(f"steps: {int(model.optimizer.iterations)}, and now {int(edited.optimizer.iterations)}")

# Without an edit, it is as if nothing had been: equal to the bit.
one, other = trained(), trained()
carried = kg.build(kg.read(other))
kg.carry_optimizer(other, carried)
for each in (one, carried):
    each.fit(x, y, epochs=3, shuffle=False, verbose=0)
same = all(
    np.array_equal(*pair) for pair in zip(one.get_weights(), carried.get_weights(), strict=True)
)
print("a model that was not edited trains on as it would have:", same)
