"""What opening the layers of a network costs, as ratios to what cannot be avoided.

A transformer of composite layers, each with attention and an MLP inside. Its calls are made
symbolically by hand, as Keras makes them for a model of the same layers without composites: that is
the floor for reading. Then a step of an opened and edited model against that of the donor. Each round
runs every candidate once; medians are reported.

    KERAS_BACKEND=jax python benchmarks/opening.py             # to the screen
    KERAS_BACKEND=jax python benchmarks/opening.py --write     # and the backend's rows of the page
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from page import write

import keras_graft as kg
from keras_graft.model.read import read_with_reasons
from keras_graft.tables import table

HEADS = 4


class Attention(layers.Layer):
    """Causal self-attention with its own projections."""

    def build(self, shape: Any) -> None:
        """Make the projections."""
        for name in ("query", "key", "value", "out"):
            layer = layers.Dense(shape[-1], name=name)
            layer.build(shape)
            setattr(self, name, layer)

    def call(self, x: Any) -> Any:
        """Attend to what came before."""
        length, width = ops.shape(x)[1], x.shape[-1]
        heads = lambda y: ops.reshape(y, (-1, length, HEADS, width // HEADS))  # noqa: E731
        q, k, v = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        scores = ops.einsum("bqhd,bkhd->bhqk", q, k) * 0.25
        steps = ops.arange(length)
        scores = ops.where(steps[None, :] <= steps[:, None], scores, -1e9)
        mixed = ops.einsum("bhqk,bkhd->bqhd", ops.softmax(scores), v)
        return self.out(ops.reshape(mixed, (-1, length, width)))


class Mlp(layers.Layer):
    """Two layers with an activation between them."""

    def build(self, shape: Any) -> None:
        """Make the layers."""
        self.up = layers.Dense(4 * shape[-1], name="up")
        self.act = layers.ReLU(name="act")
        self.down = layers.Dense(shape[-1], name="down")
        self.up.build(shape)
        self.down.build((*shape[:-1], 4 * shape[-1]))

    def call(self, x: Any) -> Any:
        """Run them."""
        return self.down(self.act(self.up(x)))


class Block(layers.Layer):
    """Both parts, each behind a norm and added to what comes in."""

    def build(self, shape: Any) -> None:
        """Make the parts."""
        self.norm_1 = layers.LayerNormalization(name="norm_1")
        self.attention = Attention(name="attention")
        self.norm_2 = layers.LayerNormalization(name="norm_2")
        self.mlp = Mlp(name="mlp")
        for layer in (self.norm_1, self.attention, self.norm_2, self.mlp):
            layer.build(shape)

    def call(self, x: Any) -> Any:
        """Add both."""
        x = x + self.attention(self.norm_1(x))
        return x + self.mlp(self.norm_2(x))


def transformer(depth: int, width: int) -> keras.Model:
    """Return a Functional of blocks, for sequences of any length."""
    inputs = x = keras.Input((None, width), name="x")
    for i in range(depth):
        x = Block(name=f"layer_{i}")(x)
    return keras.Model(inputs, x, name="transformer")


def by_hand(model: keras.Model, length: int) -> Any:
    """Make the same calls symbolically; ops take no size that is not known."""
    x = keras.Input((length, model.inputs[0].shape[-1]), name="x")
    for block in model.layers[1:]:
        y = block.norm_1(x)
        x = x + block.attention.call(y)
        y = block.norm_2(x)
        x = x + block.mlp.call(y)
    return x


def released(model: keras.Model) -> None:
    """Forget the calls that `by_hand` left on the layers: the next round must not see them."""
    for block in model.layers[1:]:
        for layer in block._flatten_layers(include_self=False):
            layer._inbound_nodes.clear()
            layer._outbound_nodes.clear()


def timed(candidates: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each, run in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            gc.collect()
            gc.disable()
            start = time.perf_counter()
            result = run()
            seconds[name].append(time.perf_counter() - start)
            gc.enable()
            del result
    return {name: statistics.median(values) for name, values in seconds.items()}


def reading(depth: int, rounds: int) -> list[Any]:
    """Return a row: what reading costs, as multiples of the same calls made by hand."""
    model = transformer(depth, 32)

    def hand() -> None:
        by_hand(model, 16)
        released(model)

    read = lambda **how: read_with_reasons(model, open="**", **how)[0]  # noqa: E731
    graph = read()
    found = timed(
        {
            "by hand": hand,
            "closed": lambda: kg.read(model),
            "read": lambda: read(prove=False),
            "proven": read,
            "built": lambda: kg.build(kg.inline(graph)),
        },
        rounds,
    )
    floor = found["by hand"]
    steps = len(kg.inline(graph).steps)
    ratios = [
        found["read"] / floor, (found["proven"] - found["read"]) / floor,
        found["built"] / floor, found["closed"] / floor,
    ]  # fmt: skip
    return [depth, steps, f"{floor:.2f}", *(f"{r:.2f}" for r in ratios)]


def steps_of(model: keras.Model, x: Any, y: Any) -> Callable[[], Any]:
    """Return a function that trains on one batch, compiled; it has run once."""
    model.compile("sgd", "mse", jit_compile=keras.backend.backend() == "jax")
    step = lambda: [model.train_on_batch(x, y) for _ in range(4)]  # noqa: E731
    step()
    return step


def running(depth: int, rounds: int) -> list[Any]:
    """Return a row: a step and a forward pass of an opened model, as multiples of the donor's."""
    donor = transformer(depth, 128)
    x = np.random.default_rng(1).standard_normal((8, 64, 128)).astype("float32")
    flat = kg.build(kg.inline(kg.read(kg.clone(donor), open="**")))
    edited = kg.replace(kg.clone(donor), "layer_*/mlp/act", lambda node: layers.ReLU(name="relu"))
    models = {"donor": donor, "inline": flat, "edited": edited}
    trains = timed({name: steps_of(m, x, x) for name, m in models.items()}, rounds)
    for model in models.values():
        model.predict_on_batch(x)
    passes = timed(
        {n: lambda m=m: [m.predict_on_batch(x) for _ in range(4)] for n, m in models.items()},
        rounds,
    )
    ratios = [f"{found[name] / found['donor']:.2f}" for found in (trains, passes) for name in ("inline", "edited")]  # fmt: skip
    return [depth, *ratios]


READING = ["blocks", "calls", "by hand, seconds", "read", "its proof", "inline and build", "read closed"]  # fmt: skip
RUNNING = ["blocks", "step, inline", "step, edited", "forward, inline", "forward, edited"]


HEAD = """# What opening layers costs

Written by `benchmarks/opening.py --write`, on two shared cores. Every figure is a median over rounds in
turns; machines are noisy, so read ratios, and those to about 20%.

**Reading.** A transformer of composite layers: in each block a norm, an attention with four `Dense` layers
and a causal mask, a second norm and an MLP. "by hand" makes the same calls on symbolic tensors of a
known length. The other figures are multiples of it: `kg.read(model, open="**")` for an unknown length
without the proof; what the proof adds, which runs code and graph on small data;
`kg.build(kg.inline(graph))`; and `kg.read(model)`, which leaves all blocks closed.

**Running.** Eight sequences of 64 steps and 128 features, compiled as `fit` compiles (JAX: with XLA,
TensorFlow: as a graph, PyTorch: eager). Figures are multiples of the donor's time in the same process: a
training step and a forward pass with all blocks inline, and with an MLP edited in every block.
"""


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="Write this backend's section.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--depth", type=int, default=24)
    told = parser.parse_args()
    body = f"""```
{table(READING, [reading(told.depth, told.rounds)])}
```

```
{table(RUNNING, [running(4, 3 * told.rounds)])}
```"""
    print(body)
    if told.write:
        write("benchmarks-opening.md", HEAD, body)


if __name__ == "__main__":
    main()
