"""`fit_head` from a folder of photographs, beside `fit` and a bottleneck loop in plain Keras.

KERAS_BACKEND=jax python benchmarks/fit_head.py            # a section of docs/benchmarks-fit-head.md
KERAS_BACKEND=jax python benchmarks/fit_head.py --quick    # few images, to the screen
KERAS_BACKEND=jax python benchmarks/fit_head.py --many     # four times as many, without fit, to the screen
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import page
from skimage import data
from sklearn.datasets import load_sample_images

import keras_graft as kg
from keras_graft.features import ImageFolder
from keras_graft.tables import table

SIZE, EACH, EPOCHS, TURNS = 160, 200, 6, 2
AT = "global_average_pooling2d"
HEAD = f"""# `fit_head` from a folder of photographs

Written by `benchmarks/fit_head.py` on two shared cores, beside other work: read seconds as ratios. Six photographs are cut into {6 * EACH:,} images of
{SIZE}x{SIZE}, in a folder for each. A new head on MobileNetV3Small ({AT}) learns from them for {EPOCHS} epochs:
the same head, the same number of steps. The network has random weights, and the averages of its
BatchNormalization are those of 64 images, so its features tell these photographs apart. "seconds" are
those from the folder to the trained model, with decoding and compiling, and "CPU" those of both
cores; medians of {TURNS} turns. "fit" trains the whole model with its trunk frozen. "loop" is what one writes by
hand in plain Keras: `trunk.predict`, then `head.fit` on the arrays. "store" is `fit_head` with an
empty folder, "again" with the store it left: that is what every further head takes.

What `fit_head` takes longer than the loop is the same for any number of images: it compiles the joined
model too, to compare it with the head on the store, and Keras uses that when the model predicts. With
{6 * 4 * EACH:,} images (`--many`, one turn) the loop took 72.0 seconds of CPU, "store" 71.4 and "again" 13.9.
"""


def photographs(folder: Path, each: int) -> None:
    """Write pieces of six photographs as images, in a folder for each."""
    rng = np.random.default_rng(0)
    whole = [*load_sample_images().images, data.astronaut(), data.chelsea(), data.coffee()]
    for number, photograph in enumerate([*whole, data.rocket()]):
        (folder / str(number)).mkdir(parents=True)
        for i in range(each):
            row, column = (rng.integers(0, edge - SIZE) for edge in photograph.shape[:2])
            piece = photograph[row : row + SIZE, column : column + SIZE]
            keras.utils.save_img(folder / str(number) / f"{i}.jpg", piece, scale=False)


def calibrated(folder: Path) -> Any:
    """Return a network with random weights whose features tell photographs apart."""
    model = keras.applications.MobileNetV3Small(weights=None, input_shape=(SIZE, SIZE, 3))
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    files = sorted(folder.glob("*/*.jpg"))
    some = np.random.default_rng(0).permutation(files)[:64]
    model(
        np.stack([keras.utils.img_to_array(keras.utils.load_img(f)) for f in some]), training=True
    )
    for norm, before in zip(norms, momentum, strict=True):
        norm.momentum = before
    return model


def new_head(features: Any) -> Any:
    """Return a head with the same first weights each time."""
    inputs = keras.Input(features.shape[1:])
    start = keras.initializers.GlorotUniform(seed=1)
    dense = keras.layers.Dense(6, "softmax", kernel_initializer=start)
    head = keras.Sequential([inputs, keras.layers.Flatten(), dense])
    head.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return head


def whole(model: Any, folder: Path, epochs: int) -> float:
    trunk = kg.freeze(kg.extract(model, AT))
    joined = keras.Model(trunk.input, new_head(trunk.output)(trunk.output))
    joined.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    images = ImageFolder(folder, size=(SIZE, SIZE))
    return joined.fit(images, epochs=epochs, verbose=0).history["accuracy"][-1]


def loop(model: Any, folder: Path, epochs: int) -> float:
    trunk = keras.Model(model.input, model.get_layer(AT).output)
    trunk.trainable = False
    head = new_head(trunk.output)
    images = ImageFolder(folder, size=(SIZE, SIZE))
    features = trunk.predict(images, verbose=0)
    return head.fit(features, images.targets, epochs=epochs, verbose=0).history["accuracy"][-1]


def store(model: Any, folder: Path, epochs: int, path: Path) -> float:
    features = kg.extract(model, AT).output
    fitted = kg.features.fit_head(
        model, AT, folder, head=new_head(features), epochs=epochs, store=path, progress=False
    )
    return fitted.history.history["accuracy"][-1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--many", action="store_true")
    quick, many = parser.parse_args().quick, parser.parse_args().many
    each, epochs, turns = (4, 2, 1) if quick else (EACH, EPOCHS, TURNS)
    if many:
        each, turns = 4 * EACH, 1
    took: dict[str, list[tuple[float, float]]] = {n: [] for n in ("fit", "loop", "store", "again")}
    accuracy: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "photographs"
        photographs(folder, each)
        for turn in range(turns):
            path = Path(temporary) / f"store{turn}"
            runs: dict[str, Any] = {
                "loop": loop,
                "store": lambda m, f, e, p=path: store(m, f, e, p),
                "again": lambda m, f, e, p=path: store(m, f, e, p),
                "fit": whole,
            }
            if many:
                del runs["fit"], took["fit"]
            for name, run in runs.items():
                keras.utils.clear_session()  # names of layers begin again
                keras.utils.set_random_seed(0)
                model = calibrated(folder)
                start, cpu = time.perf_counter(), time.process_time()
                accuracy[name] = run(model, folder, epochs)
                took[name].append((time.perf_counter() - start, time.process_time() - cpu))
    middle = {
        name: [statistics.median(one) for one in zip(*each, strict=True)]
        for name, each in took.items()
    }
    rows = [
        (
            name,
            *(
                text
                for i in (0, 1)
                for text in (f"{at[i]:.1f}", f"{at[i] / middle['loop'][i]:.2f}")
            ),
            f"{accuracy[name]:.3f}",
        )
        for name, at in middle.items()
    ]
    columns = ("", "seconds", "of the loop", "CPU", "of the loop", "accuracy")
    body = f"```\n{table(columns, rows)}\n```"
    if quick or many:
        print(body)
    else:
        page.write("benchmarks-fit-head.md", HEAD, body)


if __name__ == "__main__":
    main()
