"""Two trained networks at half of their multiply-adds: digit scans, and tiles of photographs."""

import tempfile
import time
from pathlib import Path

import keras
import numpy as np
from skimage import data
from sklearn.datasets import load_digits

import keras_graft as kg

rng = np.random.default_rng(1)


def scans():
    """Scans of digits, and which digit it is."""
    images, labels = load_digits(return_X_y=True)
    order = rng.permutation(len(labels))
    images, labels = (images.reshape(-1, 8, 8, 1)[order] / 16).astype("float32"), labels[order]
    return (images[:1347], labels[:1347]), (images[1347:], labels[1347:])


def tiles():
    """Squares of photographs, and of which; those for the test are from other strips of them."""
    photographs = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]

    def cut(count, first):
        x, which = [], rng.integers(0, len(photographs), count)
        for number in which:
            height, width, _ = photographs[number].shape
            strip = rng.choice(range(first, width // 40, 2))
            row, column = rng.integers(0, height - 16), strip * 40 + rng.integers(0, 24)
            x.append(photographs[number][row : row + 16, column : column + 16])
        return np.stack(x).astype("float32") / 255, which

    return cut(1000, 0), cut(2000, 1)


def network(shape, classes):
    """A small residual network."""
    x = inputs = keras.Input(shape)
    for i, filters in enumerate((12, 24)):
        x = keras.layers.Conv2D(filters, 3, padding="same", name=f"stem{i}")(x)
        y = keras.layers.BatchNormalization(momentum=0.8, name=f"bn{i}")(x)
        y = keras.layers.Conv2D(filters, 3, padding="same", name=f"conv{i}")(keras.ops.relu(y))
        x = keras.layers.MaxPooling2D(name=f"pool{i}")(keras.ops.relu(x + y))
    x = keras.layers.Dense(32, activation="relu", name="hidden")(keras.layers.Flatten()(x))
    x = keras.layers.Dense(classes, activation="softmax", name="classes")(x)
    return keras.Model(inputs, x)


def row(name, model, test):
    """Accuracy on the test, costs, size of the weights without an optimizer, time for the test."""
    cost = kg.costs(model).total
    times = []
    for _ in range(5):
        start = time.perf_counter()
        model.predict_on_batch(test[0])
        times.append(time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as folder:
        kg.clone(model).save_weights(path := Path(folder) / "model.weights.h5")
        size = path.stat().st_size
    accuracy = model.evaluate(*test, verbose=0)[1]
    print(
        f"{name:26}{accuracy:>9.1%}{cost.multiply_adds:>15,}{cost.parameters:>12,}"
        f"{size / 1000:>9.0f} kB{min(times) * 1000:>9.1f} ms"
    )
    return accuracy, cost.multiply_adds


def halved(name, task, seed):
    """Train a network, prune it to half; return how the accuracy changed, and the steps."""
    keras.utils.set_random_seed(seed)
    train, test = task
    model = network(train[0].shape[1:], int(train[1].max()) + 1)
    model.compile(
        keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    model.fit(*train, epochs=10, verbose=0)
    before = row(f"{name}, seed {seed}", model, test)
    longer = kg.clone(model, compile=True)
    kg.carry_optimizer(model, longer, match="name")
    longer.fit(*train, epochs=6, verbose=0)
    row("  trained on for 6 epochs", longer, test)
    report = kg.recipes.prune_and_tune(model, train, target=0.5, steps=2, epochs=3)
    after = row("  half, tuned 2 x 3 epochs", report.model, test)
    assert after[1] <= before[1] / 2
    return after[0] - before[0], report


print(f"{'':26}{'accuracy':>9}{'multiply-adds':>15}{'parameters':>12}{'weights':>12}{'time':>12}")
# The photographs are noisy: one run says little.
for name, task, seeds in (("digit scans", scans(), (11,)), ("photographs", tiles(), (11, 12, 13))):
    changes, reports = zip(*(halved(name, task, seed) for seed in seeds), strict=True)
    print(f"  the half network, on average: {np.mean(changes) * 100:+.1f} points")
    assert np.mean(changes) > -0.05
    if name == "digit scans":
        steps = reports[0]

print("the steps of the digit scans:")
print(steps)
