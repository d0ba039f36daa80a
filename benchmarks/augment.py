"""What augmented views give a head, beside no augmentation and live augmentation.

KERAS_BACKEND=jax python benchmarks/augment.py            # a section of docs/benchmarks-augment.md
KERAS_BACKEND=jax python benchmarks/augment.py --quick    # one seed, few epochs, to the screen
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import keras
import numpy as np
import page
from skimage import data
from sklearn.datasets import load_sample_images

import keras_graft as kg
from keras_graft.tables import table

SIZE, TRAIN, TEST, EPOCHS, SEEDS = 32, 240, 2000, 40, 3
HEAD = f"""# What augmented views give

Written by `benchmarks/augment.py` on two shared cores, beside other work: read seconds as ratios. Six photographs that scikit-image and
scikit-learn ship are cut into tiles of {SIZE}x{SIZE}; a head learns from {TRAIN} tiles which photograph
a tile is of, {EPOCHS} epochs, and is tested on {TEST:,} tiles of other places. The trunk has learned on
tiles without labels how their colours were exchanged. Augmentation is a flip, a shift, brightness and
contrast. Accuracies are means over {SEEDS} seeds, which draw tiles, weights and augmentation; seconds
are all that a run takes, with computing and compiling. "Live" augments in every epoch, through the
frozen trunk, or trains the whole network.
"""


def tiles(rng: np.random.Generator, count: int, left: bool) -> tuple[np.ndarray, np.ndarray]:
    """Cut squares at random places of the left three quarters or of the rest; none is in both."""
    x, which = [], rng.integers(0, len(PHOTOGRAPHS), count)
    for number in which:
        height, width, _ = PHOTOGRAPHS[number].shape
        edge = width * 3 // 4
        low, high = (0, edge - SIZE) if left else (edge, width - SIZE)
        row, column = rng.integers(0, height - SIZE), rng.integers(low, high)
        x.append(PHOTOGRAPHS[number][row : row + SIZE, column : column + SIZE])
    return np.stack(x).astype("float32"), which


PHOTOGRAPHS = [
    *load_sample_images().images, data.astronaut(), data.chelsea(), data.coffee(), data.rocket(),
]  # fmt: skip


def trained_trunk(rng: np.random.Generator, epochs: int) -> Any:
    """Return a network that tells how the colours of a tile were exchanged, up to its features."""
    x = inputs = keras.Input((SIZE, SIZE, 3), name="tile")
    x = keras.layers.Rescaling(1 / 255, name="scale")(x)
    for i, filters in enumerate((16, 32, 64)):
        x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{i}")(x)
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"bn{i}")(x)
        x = keras.layers.ReLU(name=f"relu{i}")(x)
        x = keras.layers.MaxPooling2D(name=f"stage{i}")(x)
    features = keras.layers.Flatten(name="features")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="steps")(x), name="colours")
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    plain, _ = tiles(rng, 3000, True)
    steps = rng.integers(0, 3, len(plain))
    turned = np.stack([np.roll(a, k, axis=-1) for a, k in zip(plain, steps, strict=True)])
    model.fit(turned, steps, epochs=epochs, batch_size=64, verbose=0)
    return keras.Model(inputs, features, name="trunk")


def augmented(trunk: Any) -> Any:
    """Return the trunk with augmentation in front."""
    front = [
        keras.layers.RandomFlip("horizontal", name="flip"),
        keras.layers.RandomTranslation(0.15, 0.15, fill_mode="reflect", name="shift"),
        keras.layers.RandomBrightness(0.15, name="brightness"),
        keras.layers.RandomContrast(0.3, name="contrast"),
    ]
    x = inputs = keras.Input((SIZE, SIZE, 3), name="photograph")
    for layer in front:
        x = layer(x)
    return keras.Model(inputs, trunk(x), name="augmented")


HOW = {
    "optimizer": "adam", "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"],
}  # fmt: skip


def from_store(model: Any, x: Any, y: Any, epochs: int, seed: int, **how: Any) -> Any:
    """Train a head from a store, and return the joined model."""
    fitted = kg.features.fit_head(
        model, "trunk", (x, y), head=len(PHOTOGRAPHS), epochs=epochs, dtype="float32", seed=seed,
        progress=False, **how,
    )  # fmt: skip
    return fitted.model


def live(model: Any, x: Any, y: Any, epochs: int, frozen: bool) -> Any:
    """Train with `fit` on the pictures themselves."""
    trunk = kg.freeze(model, "trunk") if frozen else kg.clone(model)
    head = keras.layers.Dense(len(PHOTOGRAPHS), "softmax", name="predictions")
    whole = keras.Model(trunk.input, head(trunk.output))
    whole.compile(**HOW)
    whole.fit(x, y, epochs=epochs, batch_size=32, verbose=0)
    return whole


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    epochs, seeds = (2, 1) if quick else (EPOCHS, SEEDS)
    runs: dict[str, Any] = {
        "augmentation off": lambda *a: from_store(*a, augment="off"),
        **{f"views={k}": lambda *a, k=k: from_store(*a, views=k) for k in (1, 4, 16)},
        "live, frozen trunk": lambda model, x, y, epochs, _: live(model, x, y, epochs, True),
        "live, whole network": lambda model, x, y, epochs, _: live(model, x, y, epochs, False),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        rng = np.random.default_rng(seed)
        model = augmented(trained_trunk(rng, 1 if quick else 8))
        x, y = tiles(rng, TRAIN, True)
        new = tiles(rng, 200 if quick else TEST, False)
        for name, run in runs.items():
            keras.utils.set_random_seed(seed)
            start = time.perf_counter()
            made = run(model, x, y, epochs, seed)
            took = time.perf_counter() - start
            made.compile(**HOW)
            found[name].append((made.evaluate(*new, verbose=0, return_dict=True)["accuracy"], took))
    rows = [
        (name, f"{statistics.mean(a for a, _ in each):.1%}", f"{statistics.median(s for _, s in each):.1f}")
        for name, each in found.items()
    ]  # fmt: skip
    body = f"```\n{table(('training', 'accuracy', 'seconds'), rows)}\n```"
    if quick:
        print(body)
    else:
        page.write("benchmarks-augment.md", HEAD, body)


if __name__ == "__main__":
    main()
