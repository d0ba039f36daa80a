"""What the structure verbs cost, side by side in one process, as ratios to what is unavoidable.

The floor is `keras.Model(model.inputs, model.outputs)` on tensors that are there: Keras's own
constructor, which every result has to go through. Each round runs every candidate once, so that a
slow moment of the machine hits all; medians are reported.

    KERAS_BACKEND=jax python benchmarks/structure.py            # writes docs/benchmarks.md
    KERAS_BACKEND=jax python benchmarks/structure.py --quick    # one small model, to the screen
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras

import keras_graft as kg
from keras_graft import _keras
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Spec, Template, Value
from keras_graft.tables import table

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def zeros(self: Any, shape: Any, dtype: Any = None, **kwargs: Any) -> Any:
    """Stand in for random initializers: the numbers do not matter here, and take most of the time."""
    return keras.ops.zeros(shape, dtype or keras.config.floatx())


def donors(quick: bool) -> dict[str, Callable[[], keras.Model]]:
    """Return constructors of the models that are measured."""
    apps = keras.applications
    if quick:
        return {"MobileNetV3Small": lambda: apps.MobileNetV3Small(weights=None)}

    def bert() -> keras.Model:
        import keras_hub

        return keras_hub.models.BertBackbone(
            vocabulary_size=1000, num_layers=24, num_heads=4, hidden_dim=64, intermediate_dim=128
        )

    def chain(length: int) -> Callable[[], keras.Model]:
        def make() -> keras.Model:
            x = y = keras.Input((2,), name="x")
            for i in range(length):
                y = keras.layers.Activation("linear", name=f"a{i}")(y)
            return _keras.make_functional(x, y, "chain", length)

        return make

    return {
        "ResNet50": lambda: apps.ResNet50(weights=None),
        "NASNetLarge": lambda: apps.NASNetLarge(weights=None),
        "BERT-shaped, 24 blocks": bert,
        "chain of 1,000": chain(1_000),
        "chain of 3,000": chain(3_000),
    }


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


def donor_nodes(model: Any) -> int:
    """Return how many Keras nodes the operations of a model have."""
    return sum(len(x._inbound_nodes) + len(x._outbound_nodes) for x in model._operations)


def measure(model: keras.Model, rounds: int) -> tuple[list[float | None], list[Any]]:
    """Return the ratios to the floor, and what stays behind."""
    sys.setrecursionlimit(100_000)  # for what Keras itself does in this comparison
    found = kg.cuts(model)
    at: Any = found[len(found) // 2].name if found else kg.read(model).nodes[-3].label
    taps = [cut.name for cut in found[:: max(1, len(found) // 10)]][:10] or [at]
    own = {"share": 0.0}
    construct = _keras.make_functional

    def constructor(*args: Any) -> Any:
        start = time.perf_counter()
        result = construct(*args)
        own["share"] += time.perf_counter() - start
        return result

    def copied() -> keras.Model:
        clone = keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
        return clone

    candidates: dict[str, Callable[[], Any]] = {
        "floor": lambda: keras.Model(model.inputs, model.outputs),
        "read": lambda: kg.read(model),
        "read + build": lambda: kg.build(kg.read(model)),
        "split": lambda: kg.split(model, at=at, complete=True),
        "extract, 10 taps": lambda: kg.extract(model, taps),
    }
    result = timed(candidates, rounds)
    _keras.make_functional = constructor
    split_of = statistics.median(
        timed({"split": candidates["split"]}, 1)["split"] for _ in range(3)
    )
    _keras.make_functional = construct
    slow = timed(
        {"clone": lambda: keras.models.clone_model(model, clone_function=lambda layer: layer)}, 3
    )
    slow |= timed({"copy": copied}, 1)
    floor = result["floor"]
    ratios: list[float | None] = [result[name] / floor for name in candidates if name != "floor"]
    ratios += [own["share"] / 3 / split_of, slow["clone"] / floor, slow["copy"] / floor]

    # What stays. The clones above left nodes of Keras's own: count from here.
    functional = _keras.functional(model)
    gc.collect()
    before = donor_nodes(functional)
    kg.split(model, at=at, complete=True)
    gc.collect()
    ours = donor_nodes(functional) - before
    with contextlib.suppress(ValueError):  # what fails leaves as much
        keras.Model(functional.get_layer(at).output, functional.outputs)
    gc.collect()
    theirs = donor_nodes(functional) - before - ours
    tracemalloc.start()
    stages = kg.split(model, at=at, complete=True)
    added = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    same = {id(w) for s in stages for w in s.weights} == {id(w) for w in functional.weights}
    weights = 4 * model.count_params()
    return ratios, [f"{added / 2**20:.1f} MiB", f"{weights / 2**20:.0f} MiB",
                    "none" if same else "some", ours, theirs]  # fmt: skip


def chain_graph(length: int) -> Graph:
    """Return a graph of plain objects: our own cost, without Keras."""
    spec = Spec((None, 4))
    value = first = Value(spec, "x")
    nodes = []
    for i in range(length):
        out = Value(spec)
        nodes.append(Node(SimpleNamespace(name=f"n{i}"), Template(), (value,), (out,)))
        value = out
    return Graph(nodes, (first,), (value,))


def growth(rounds: int, lengths: tuple[int, ...]) -> list[list[Any]]:
    """Return microseconds a node for our own part, over the length of a chain."""
    rows = []
    for length in lengths:
        base = chain_graph(length)
        cut = base.nodes[length // 2].outputs[0]
        result = timed(
            {
                "validate": lambda b=base: b.replace(name="again").validate(),
                "cuts": lambda b=base: kg.cuts(b.replace(name="again")),
                "split": lambda b=base, c=cut: kg.split(b.replace(name="again"), at=c),
                "join": lambda b=base, c=cut: kg.join(*kg.split(b, at=c)),
            },
            rounds,
        )
        rows.append([length, *(f"{t / length * 1e6:.1f}" for t in result.values())])
    return rows


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="One small model, to the screen.")
    quick = parser.parse_args().quick
    for name in ("RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling"):
        getattr(keras.initializers, name).__call__ = zeros
    costs, stays = [], []
    for name, make in donors(quick).items():
        keras.utils.clear_session()
        model = make()
        ratios, left = measure(model, 3 if quick else 9)
        nodes = len(kg.read(model))
        costs.append([name, nodes, *(f"{r:.2f}" for r in ratios)])
        stays.append([name, *left])
        print(costs[-1], stays[-1], flush=True)
        del model
    lengths = (100, 1_000) if quick else (1_000, 2_000, 5_000, 10_000, 20_000)
    rows = growth(3 if quick else 7, lengths)
    page = f"""# What the structure verbs cost

Written by `benchmarks/structure.py` on the {keras.backend.backend()} backend, Keras
{keras.__version__}, two shared cores. Every figure is a median over runs in turns; machines are
noisy, so read ratios, and those to about 20%.

## Time, as a multiple of the floor

The floor is `keras.Model(model.inputs, model.outputs)`: Keras's own constructor on a graph that is
there. `split` gives two models that together have as many nodes. "Keras in split" is the part of
`split` that is spent in that constructor. `clone_model` reuses the layers
(`clone_function=lambda layer: layer`); the copy is `clone_model` and `set_weights`.

```
{table(["model", "nodes", "read", "read + build", "split", "extract, 10 taps", "Keras in split", "clone_model", "copy"], costs)}
```

## What stays, what is added

Python memory that the two stages of a split add, beside the size of the weights; variables that are
not the donor's own; Keras nodes left on the donor's layers once the result is gone, by one `split`
and by one `keras.Model(layer.output, model.outputs)` of Keras (which may fail, and leaves them too).

```
{table(["model", "memory added", "weights", "new variables", "left by us", "left by Keras"], stays)}
```

## Growth

Our own part on graphs of plain objects, in microseconds a node (only to be compared along a column:
constant means linear).

```
{table(["nodes", "validate", "cuts", "split", "split + join"], rows)}
```
"""
    if quick:
        print(page)
    else:
        PAGE.write_text(page)


if __name__ == "__main__":
    main()
