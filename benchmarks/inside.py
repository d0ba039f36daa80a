"""What a look inside costs, side by side in one process, as multiples of the same without it.

    KERAS_BACKEND=jax python benchmarks/inside.py            # a section of docs/benchmarks-inside.md
    KERAS_BACKEND=jax python benchmarks/inside.py --quick    # one small model, to the screen

The page has a section for each backend that this was run on; a run writes that of its own.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import page
from keras import layers, ops

import keras_graft as kg
from keras_graft.tables import table

TAPS = 12
HEAD = f"""# What a look inside a run costs

Written by `benchmarks/inside.py` on two shared cores. Each figure is the median, over rounds, of the
ratio of two runs, one right after the other; machines are noisy, so read it to about 5%.

"Record" is `kg.recorder` of {TAPS} values and the output, over a plain forward pass that gives the output:
compiled by hand as Keras compiles it (on PyTorch nothing is compiled), and eager, `kg.record` without
building over `model(x, training=False)`. "Patch" is a model with three values scaled by a function, over the
same model with hooks by hand that do the same: each layer's `call` wrapped. "Gradients" is
`kg.gradients`, which builds a model in each call, over the backend's own gradient at the output of the first
of two parts, eager. "Build" is what `kg.recorder` and `kg.patch` take once, in plain eager passes.
"""


def transformer(blocks: int, width: int, heads: int, length: int) -> keras.Model:
    """Return a transformer of Keras's own layers."""
    ids = keras.Input((length,), dtype="int32", name="ids")
    x = layers.Embedding(1000, width, name="embed")(ids)
    for i in range(blocks):
        y = layers.LayerNormalization(name=f"norm_{i}")(x)
        y = layers.MultiHeadAttention(heads, width // heads, name=f"attention_{i}")(y, y)
        x = layers.Add(name=f"middle_{i}")([x, y])
        y = layers.Dense(4 * width, activation="gelu", name=f"up_{i}")(x)
        x = layers.Add(name=f"block_{i}")([x, layers.Dense(width, name=f"mlp_{i}")(y)])
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(ids, layers.Dense(10, name="out")(x), name="transformer")


def networks(quick: bool) -> dict[str, tuple[Callable[[], Any], Any, list[str], str, str]]:
    """Return for each network: how it is made, its input, the taps, a cut, and its output."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 1000, (8, 64))
    blocks = 12
    found = {
        "transformer of 12 blocks": (
            lambda: transformer(blocks, 128, 4, 64), ids,
            [f"block_{i}" for i in range(TAPS)], "block_5", "out",
        ),
    }  # fmt: skip
    if not quick:
        image = rng.standard_normal((2, 96, 96, 3)).astype("float32")
        adds = [
            f"conv{s}_block{b}_add" for s, n in ((2, 3), (3, 4), (4, 5)) for b in range(1, n + 1)
        ]
        found["ResNet50, 96x96"] = (
            lambda: keras.applications.ResNet50(
                weights=None, input_shape=(96, 96, 3), classes=10, classifier_activation=None
            ),
            image, adds[:TAPS], "conv4_block2_out", "predictions",
        )  # fmt: skip
    return found


def waited(result: Any) -> Any:
    """Wait until the backend has computed a result."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.block_until_ready(result)
    if backend == "torch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
    elif backend == "tensorflow":
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            tf.test.experimental.sync_devices()
    return result


def ratio(run: Callable[[], Any], other: Callable[[], Any], rounds: int) -> float:
    """Return the median ratio of two runs, in turns, which of them is first taking turns too."""
    for _ in range(2):
        waited(run())
        waited(other())
    found = []
    for number in range(rounds):
        pair = (run, other) if number % 2 else (other, run)
        seconds = {}
        for each in pair:
            start = time.perf_counter()
            waited(each())
            seconds[each] = time.perf_counter() - start
        found.append(seconds[run] / seconds[other])
    return statistics.median(found)


def quiet() -> Any:
    """Return the context in which nothing is kept for gradients."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()
    import contextlib

    return contextlib.nullcontext()


def forward(model: Any) -> Callable[[Any], Any]:
    """Return a plain forward pass, compiled by hand."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        run = jax.jit(lambda t, n, x: model.stateless_call(t, n, x, training=False)[0])
        return lambda x: run(
            [v.value for v in model.trainable_variables],
            [v.value for v in model.non_trainable_variables],
            x,
        )
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda x: model(x, training=False))
    return lambda x: eager(model, x)


def eager(model: Any, x: Any) -> Any:
    """Run a model as it is."""
    with quiet():
        return model(x, training=False)


def gradient(run: Callable[[Any], Any], tensor: Any) -> Any:
    """Return the backend's own gradient."""
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        tensor = tensor.detach().requires_grad_()
        return torch.autograd.grad(run(tensor), tensor)
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensor)
            total = run(tensor)
        return tape.gradient(total, tensor)
    import jax

    return jax.grad(run)(tensor)


def hook(model: Any, names: list[str]) -> None:
    """Let layers scale what they give, by hand and for good."""
    for name in names:
        layer = model.get_layer(name)
        layer.__dict__["call"] = lambda *a, _call=layer.call, **k: _call(*a, **k) * 0.9


def measure(make: Any, data: Any, taps: list[str], cut: str, out: str, rounds: int) -> list[float]:
    """Return the ratios of one network."""
    model = make()
    x = ops.convert_to_tensor(data)
    names = [*taps, out]
    compiled, plain = kg.recorder(model, names), forward(model)
    once = kg.recorder(model, names, compile=False)
    few = taps[2:8:2]
    patched = kg.patch(model, dict.fromkeys(few, lambda t: t * 0.9))
    head, trunk = kg.submodel(model, inputs=cut), kg.submodel(model, outputs=cut)

    def by_hand() -> Any:
        value = eager(trunk, x)
        return gradient(lambda t: ops.sum(head(t, training=False)[:, 1]), value)

    found = [
        ratio(lambda: compiled(x), lambda: plain(x), rounds),
        ratio(lambda: once(x), lambda: eager(model, x), max(3, rounds // 3)),
        ratio(lambda: kg.recorder(model, names), lambda: eager(model, x), max(3, rounds // 3)),
        ratio(
            lambda: kg.patch(model, dict.fromkeys(few, lambda t: t * 0.9)),
            lambda: eager(model, x), max(3, rounds // 3),
        ),
        ratio(lambda: kg.gradients(model, x, cut, of=1), by_hand, max(3, rounds // 3)),
    ]  # fmt: skip
    hooked = kg.clone(model)
    hook(hooked, few)
    one, other = forward(patched), forward(hooked)
    found[2:2] = [
        ratio(lambda: one(x), lambda: other(x), rounds),
        ratio(lambda: eager(patched, x), lambda: eager(hooked, x), max(3, rounds // 3)),
    ]
    return found


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="One small model, to the screen.")
    parser.add_argument("--rounds", type=int, default=30)
    given = parser.parse_args()
    if keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(1)  # on shared cores its threads wait for each other
    rows = []
    for name, parts in networks(given.quick).items():
        keras.utils.clear_session()
        rows.append([name, *(f"{r:.2f}" for r in measure(*parts, given.rounds))])
        print(rows[-1], flush=True)
    head = [
        "network", "record", "record, eager", "patch", "patch, eager", "build a recorder",
        "build a patch", "gradients",
    ]  # fmt: skip
    text = f"```\n{table(head, rows)}\n```"
    print(text) if given.quick else page.write("benchmarks-inside.md", HEAD, text)


if __name__ == "__main__":
    main()
