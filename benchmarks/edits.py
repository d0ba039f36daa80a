"""What edits cost, side by side in one process, as multiples of `keras.Model(inputs, outputs)`.

KERAS_BACKEND=jax python benchmarks/edits.py            # writes docs/benchmarks-edits.md
KERAS_BACKEND=jax python benchmarks/edits.py --quick    # one small model, to the screen
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import keras
import page
from structure import donors, timed, zeros

import keras_graft as kg
from keras_graft.tables import table

HEAD = """# What edits cost

Written by `benchmarks/edits.py` on two shared cores. Every figure is a median over runs in turns;
machines are noisy, so read ratios, and those to about 20%.

The floor is `keras.Model(model.inputs, model.outputs)`: Keras's own constructor on a graph that is
there; all but the last two columns are multiples of it, reading and building included. "Many, one
call" is one `insert` at that many places; "many, one build" is one `insert` a place on a graph, and
one build at the end; "by hand" is one insertion through `clone_model` with `clone_function` and
`call_function`, which calls every layer again. "Many / one" compares "many, one build" with "insert
one"; "layers / one" is the part of it that making and calling so many Keras layers takes alone.

The BERT-shaped model is a subclass of `keras.Model` from keras_hub: about half of each edit is to keep
its class and its attributes.
"""


def linear(node: Any) -> keras.Layer:
    """Return what an edit puts in: it changes no number and costs next to nothing."""
    return keras.layers.Activation("linear")


def measure(model: keras.Model, rounds: int, many: int) -> list[float]:
    """Return what edits cost in multiples of the floor, and what `many` cost in edits of one."""
    sys.setrecursionlimit(100_000)  # for what Keras itself does in this comparison
    graph = kg.read(model)
    places = [v for n in graph.nodes for v in n.values if "float" in v.spec.dtype]
    step = max(1, len(places) // many)
    chosen = places[::step][:many]
    middle = chosen[len(chosen) // 2]
    node = middle.producer
    assert node is not None

    def one_by_one() -> keras.Model:
        edited = kg.read(model)
        for place in chosen:
            edited = kg.insert(edited, keras.layers.Activation("linear"), after=place)
        return kg.build(edited)

    def by_hand() -> keras.Model:
        # What a user would write: Keras calls every layer again.
        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            result = layer(*args, **kwargs)
            return keras.layers.Activation("linear")(result) if layer is node.operation else result

        return keras.models.clone_model(
            model, clone_function=lambda layer: layer, call_function=call
        )

    candidates: dict[str, Callable[[], Any]] = {
        "floor": lambda: keras.Model(model.inputs, model.outputs),
        "insert one": lambda: kg.insert(model, keras.layers.Activation("linear"), after=middle),
        "replace one": lambda: kg.replace(model, node, lambda node: node.operation),
        "rewire one": lambda: kg.rewire(model, {middle: middle}),
        "insert many, one call": lambda: kg.insert(model, linear, after=chosen),
        "insert many, one build": one_by_one,
    }
    result = timed(candidates, rounds)

    def layers_alone() -> Any:
        return [linear(None)(keras.KerasTensor(v.spec.shape, v.spec.dtype)) for v in chosen]

    alone = timed({"layers": layers_alone}, max(1, rounds // 3))["layers"]
    slow = timed({"by hand": by_hand}, max(1, rounds // 3))["by hand"]
    floor = result.pop("floor")
    together = result["insert many, one build"] / result["insert one"]
    return [
        len(chosen),
        *(t / floor for t in result.values()),
        slow / floor,
        together,
        alone / result["insert one"],
    ]


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="One small model, to the screen.")
    quick = parser.parse_args().quick
    for name in ("RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling"):
        getattr(keras.initializers, name).__call__ = zeros
    rows = []
    for name, make in donors(quick).items():
        keras.utils.clear_session()
        model = make()
        many, *ratios = measure(model, 3 if quick else 9, 20 if quick else 200)
        rows.append([name, len(kg.read(model)), many, *(f"{r:.2f}" for r in ratios)])
        print(rows[-1], flush=True)
        del model
    head = [
        "model", "nodes", "many", "insert one", "replace one", "rewire one", "many, one call",
        "many, one build", "by hand", "many / one", "layers / one",
    ]  # fmt: skip
    text = f"```\n{table(head, rows)}\n```"
    print(text) if quick else page.write("benchmarks-edits.md", HEAD, text)


if __name__ == "__main__":
    main()
