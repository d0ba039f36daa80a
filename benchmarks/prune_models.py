"""Half of everything, from real networks: does the rest run, train, save, load and export?

    KERAS_BACKEND=jax python benchmarks/prune_models.py [NAME ...]

Writes this backend's section of docs/benchmarks-prune-models.md; with names, it only prints. Files are
loaded in one new process, and the exported programs in this one.
"""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import page

sys.path[:0] = [
    str(Path(__file__).parents[1] / "tests"),
    str(Path(__file__).parents[1] / "tests/pruning"),
]

from test_prune import bilstm, gpt, trunk, vit  # noqa: E402

import keras_graft as kg  # noqa: E402
from keras_graft.tables import table  # noqa: E402
from keras_graft.testing import random_inputs  # noqa: E402

HEAD = """# Half of everything, removed from real networks

Written by `benchmarks/prune_models.py`: `kg.prune(model, {"**": 0.5})` of networks without trained weights,
at 64 pixels where they take images; backbones of keras_hub after `kg.read(model, open="**")`. Each result runs, trains for one step, is saved, is loaded in a new process
and gives the same there within 1e-5, and is exported as the backend can: as a SavedModel on JAX and
TensorFlow, with `torch.export` on PyTorch. "Multiply-adds" and "parameters" are what `kg.costs` says,
before and after. "Kernels" is the multiply-adds that the kernels of the smaller layers have by their own
shapes, where all of them are Keras's `Dense` and convolutions. "Time" is that of a forward pass of 4 samples after, as
a part of that before; small networks take their time for other things than multiplication.
"""
A = keras.applications
IMAGE: dict[str, Any] = {"weights": None, "input_shape": (64, 64, 3), "classes": 10}


def hub(name: str) -> Callable[[], Any]:
    """Return what makes a small backbone of keras_hub."""

    def make() -> Any:
        import keras_hub

        return getattr(keras_hub.models, name)(
            vocabulary_size=500, num_layers=4, num_heads=4, hidden_dim=64, intermediate_dim=256,
            max_sequence_length=32,
        )  # fmt: skip

    return make


MODELS: dict[str, Callable[[], Any]] = {
    "ResNet50": lambda: A.ResNet50(**IMAGE),
    "MobileNetV3Small": lambda: A.MobileNetV3Small(**IMAGE),
    "EfficientNetB0": lambda: A.EfficientNetB0(**IMAGE),
    "DenseNet121": lambda: A.DenseNet121(**IMAGE),
    "NASNetMobile": lambda: A.NASNetMobile(**IMAGE),
    "ConvNeXtTiny": lambda: A.ConvNeXtTiny(**IMAGE),
    "U-Net": lambda: kg.recipes.unet(trunk(), classes=2, filters=(6, 5, 4)),
    "ViT": vit,
    "GPT of ops": gpt,
    "GPT2Backbone": hub("GPT2Backbone"),
    "BertBackbone": hub("BertBackbone"),
    "BiLSTM": bilstm,
}
LOAD = """
import json, sys, keras, numpy as np
import keras_graft  # the layers that it adds
for name, given in json.load(open(sys.argv[1])).items():
    if "hub" in given:
        import keras_hub
    model = keras.saving.load_model(given["file"])
    x = dict(np.load(given["x"]))
    x = x["0"] if list(x) == ["0"] else x
    want = np.load(given["y"])
    found = [keras.ops.convert_to_numpy(t) for t in keras.tree.flatten(model(x, training=False))]
    for place, array in enumerate(found):
        np.testing.assert_allclose(array, want[str(place)], rtol=1e-4, atol=1e-5)
    print(name)
"""


def flat(structure: Any) -> list[Any]:
    """Return the tensors of a structure as arrays."""
    return [keras.ops.convert_to_numpy(t) for t in keras.tree.flatten(structure)]


def seconds(model: Any, x: Any) -> float:
    """Return the time of a forward pass."""
    times = []
    for _ in range(6):
        gc.collect()
        start = time.perf_counter()
        model.predict_on_batch(x)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def by_shapes(model: Any) -> int | None:
    """Return the multiply-adds of one sample, from the shapes of kernels and outputs alone."""
    total = 0
    for node in kg.read(model).nodes:
        layer = node.operation
        if not getattr(layer, "weights", ()) or isinstance(layer, keras.layers.BatchNormalization):
            continue
        if type(layer).__name__ not in ("Dense", "Conv2D", "DepthwiseConv2D", "SeparableConv2D"):
            return None
        shape = node.outputs[0].spec.shape
        places = int(np.prod(shape[1:-1])) if len(shape) > 1 else 1
        for weight in layer.weights:
            if len(weight.shape) > 1:
                total += places * int(np.prod(weight.shape))
    return total


def exported(model: Any, x: Any, folder: Path) -> str:
    """Export a model, run it, and compare; return how."""
    want = flat(model(x, training=False))
    if keras.backend.backend() == "torch":
        import torch

        given = keras.tree.map_structure(torch.as_tensor, x)
        program = torch.export.export(model.eval(), (given,), strict=False)
        found, how = program.module()(given), "torch.export"
    else:
        import tensorflow as tf

        model.export(str(folder), verbose=False)
        loaded = tf.saved_model.load(str(folder))
        found, how = loaded.serve(x), "SavedModel"
    for a, b in zip(want, flat(found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    return how


def row(name: str, folder: Path, files: dict[str, Any]) -> list[Any]:
    """Prune one model, use the result, and return its row."""
    model = MODELS[name]()
    x = random_inputs(model, 4)
    shape = {k: v.shape[1:] for k, v in x.items()} if isinstance(x, dict) else x.shape[1:]
    before = kg.costs(model, input_shape=shape).total
    if "Backbone" not in name:
        small = kg.prune(model, {"**": 0.5})
    else:  # its blocks have code of their own: they are opened first
        small = kg.build(kg.prune(kg.read(model, open="**"), {"**": 0.5}))
    after = kg.costs(small, input_shape=shape).total
    part = seconds(small, x) / seconds(model, x)
    y = small(x, training=False)
    small.compile(keras.optimizers.SGD(1e-4), "mse")
    small.fit(x, keras.tree.map_structure(lambda t: np.zeros(t.shape, "float32"), y), verbose=0)
    files[name] = {k: str(folder / f"{len(files)}.{k}") for k in ("keras", "x.npz", "y.npz")}
    files[name] = {
        "file": files[name]["keras"],
        "x": files[name]["x.npz"],
        "y": files[name]["y.npz"],
    }
    if "Backbone" in name:
        files[name]["hub"] = True
    small.save(files[name]["file"])
    np.savez(files[name]["x"], **(x if isinstance(x, dict) else {"0": x}))
    np.savez(files[name]["y"], **{str(i): a for i, a in enumerate(flat(small(x, training=False)))})
    try:
        how = exported(small, x, folder / f"{len(files)}")
    except Exception as error:
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
        try:
            exported(model, x, folder / f"{len(files)}d")
            how = f"FAILED ({words})"
        except Exception:
            how = f"not the donor either ({words})"
    shapes = by_shapes(small)
    return [
        name, f"{before.multiply_adds:,}", f"{after.multiply_adds:,}",
        "" if shapes is None else f"{shapes:,}", f"{before.parameters:,}", f"{after.parameters:,}",
        f"{model.count_params():,}", f"{small.count_params():,}", f"{part:.2f}", how,
    ]  # fmt: skip


def main() -> None:
    """Prune each model, load all files in a new process, and write the page."""
    names = sys.argv[1:] or list(MODELS)
    rows = []
    files: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in names:
            keras.utils.clear_session()
            try:
                rows.append(row(name, folder, files))
            except Exception as error:
                rows.append(
                    [name, *[""] * 8, f"{type(error).__name__}: {str(error).splitlines()[0][:150]}"]
                )
            print(rows[-1], flush=True)
        files = {name: given for name, given in files.items() if Path(given["y"]).exists()}
        (folder / "files.json").write_text(json.dumps(files))
        words = [sys.executable, "-c", LOAD, str(folder / "files.json")]
        said = subprocess.run(words, capture_output=True, text=True)
        loaded = said.stdout.splitlines()
        print(said.stderr[-1500:] if said.returncode else f"loaded: {loaded}")
    for line in rows:
        line.insert(-1, "yes" if line[0] in loaded else "no")
    head = [
        "model", "multiply-adds", "after", "kernels", "parameters", "after", "Keras counts", "after",
        "time", "loaded", "exported",
    ]  # fmt: skip
    text = f"```\n{table(head, rows)}\n```"
    print(text) if sys.argv[1:] else page.write("benchmarks-prune-models.md", HEAD, text)


if __name__ == "__main__":
    main()
