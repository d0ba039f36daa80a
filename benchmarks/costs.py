"""Compare `kg.costs` with XLA's own cost analysis on ten applications; write docs/benchmarks-costs.md.

    KERAS_BACKEND=jax python benchmarks/costs.py [NAME ...]

One model at a time, in a process of its own. With names, only these are compared and printed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

NAMES = [
    "ResNet50", "VGG16", "MobileNet", "MobileNetV2", "MobileNetV3Small", "EfficientNetB0",
    "DenseNet121", "InceptionV3", "Xception", "ConvNeXtTiny",
]  # fmt: skip
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks-costs.md"
TEXT = """# Costs compared with XLA

`kg.costs` and XLA's cost analysis of the compiled program (JAX on CPU, `jit(f).lower(x).compile()
.cost_analysis()`), for one image, `weights=None`. Written by `benchmarks/costs.py`.

XLA counts two flops for a multiply-add, and one for each other operation; functions such as `exp` it
lists apart, and they are added here. It counts no product with a zero that padding adds, which every
published number counts. So "ours" is `2 * (multiply_adds - padding) + operations`.

| Model | Input | Multiply-adds | of which padding | Other operations | Ours | XLA | Difference |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""

KINDS = """
## ConvNeXtTiny by kind of layer

Each call is compiled alone here, so that XLA's count belongs to one layer. The difference is the exact GELU: XLA
writes the error function as a polynomial and counts its terms, about 65 operations for a number; `kg.costs` counts 9
for the whole function.

| Kind | Calls | Ours | XLA | Difference | |
| --- | --- | --- | --- | --- | --- |
"""


def measured(name: str) -> dict[str, object]:
    """Return the numbers of one model."""
    import jax
    import keras

    import keras_graft as kg

    size = 75 if name == "InceptionV3" else 96
    size = 71 if name == "Xception" else size
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3))
    trained = [v.value for v in model.trainable_variables]
    rest = [v.value for v in model.non_trainable_variables]
    x = keras.ops.ones((1, size, size, 3))
    call = lambda a, b, x: model.stateless_call(a, b, x)[0]  # noqa: E731
    lowered = jax.jit(call).lower(trained, rest, x)  # as constants, weights would be folded
    said = lowered.compile().cost_analysis()
    said = said[0] if isinstance(said, list) else said
    total = kg.costs(model).total
    return {
        "name": name, "size": size, "multiply_adds": total.multiply_adds,
        "padding": total.padding, "operations": total.operations,
        "xla": said["flops"] + said.get("transcendentals", 0), "at_least": list(total.at_least),
    }  # fmt: skip


def by_kind(name: str, size: int = 96) -> list[dict[str, object]]:
    """Return the same for each kind of layer: each call is compiled alone, and the counts are summed."""
    import jax
    import keras

    import keras_graft as kg
    from keras_graft.model.calls import filled

    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3))
    counted = {row.name: row for row in kg.costs(model).rows}
    sums: dict[str, list[int]] = {}
    for node in kg.read(model).nodes:
        specs = [(1, *value.spec.shape[1:]) for value in node.inputs]

        def call(weights, *tensors, node=node):
            args, kwargs = filled(node.template, list(tensors))
            layer = node.operation
            if not getattr(layer, "variables", ()):
                return layer(*args, **kwargs)
            held = len(layer.trainable_variables)
            kwargs.pop("training", None)
            return layer.stateless_call(weights[:held], weights[held:], *args, **kwargs)[0]

        layer = node.operation
        weights = [
            v.value
            for v in (
                *getattr(layer, "trainable_variables", ()),
                *getattr(layer, "non_trainable_variables", ()),
            )
        ]
        said = jax.jit(call).lower(weights, *map(keras.ops.ones, specs)).compile().cost_analysis()
        said = said[0] if isinstance(said, list) else said
        found = counted[node.label]
        ours = 2 * (found.multiply_adds - found.padding) + found.operations
        kept = sums.setdefault(_kind(node), [0, 0, 0])
        for place, number in enumerate(
            (1, ours, said.get("flops", 0) + said.get("transcendentals", 0))
        ):
            kept[place] += int(number)
    return [
        {"kind": kind, "calls": calls, "ours": ours, "xla": xla}
        for kind, (calls, ours, xla) in sorted(sums.items(), key=lambda item: -item[1][2])
    ]


def _kind(node) -> str:
    function = getattr(node.operation, "activation", None)
    name = getattr(function, "__name__", "linear")
    return f"{node.kind} ({name})" if node.kind == "Activation" else node.kind


def row(found: dict[str, object]) -> str:
    """Return the row of one model."""
    numbers = {key: int(found[key]) for key in ("multiply_adds", "padding", "operations", "xla")}  # type: ignore[call-overload]
    ours = 2 * (numbers["multiply_adds"] - numbers["padding"]) + numbers["operations"]
    cells = [
        found["name"], f"{found['size']} x {found['size']}", f"{numbers['multiply_adds']:,}",
        f"{numbers['padding']:,}", f"{numbers['operations']:,}", f"{ours:,}",
        f"{numbers['xla']:,}", f"{ours / numbers['xla'] - 1:+.1%}",
    ]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def kind_row(found: dict[str, object]) -> str:
    """Return the row of one kind of layer."""
    ours, xla = int(found["ours"]), int(found["xla"])  # type: ignore[call-overload]
    share = f"{ours / xla - 1:+.1%}" if xla else "-"
    cells = found["kind"], found["calls"], f"{ours:,}", f"{xla:,}", f"{ours - xla:+,}", share
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Compare all, each in a process of its own."""
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measured(sys.argv[2])))
        return
    if sys.argv[1:2] == ["--kinds"]:
        print(json.dumps(by_kind(sys.argv[2])))
        return
    names = sys.argv[1:] or NAMES
    rows = []
    for name in names:
        run = subprocess.run(
            [sys.executable, __file__, "--one", name], capture_output=True, text=True, check=True,
            env={**os.environ, "KERAS_BACKEND": "jax"},
        )  # fmt: skip
        rows.append(row(json.loads(run.stdout.splitlines()[-1])))
        print(rows[-1], flush=True)
    if not sys.argv[1:]:
        run = subprocess.run(
            [sys.executable, __file__, "--kinds", "ConvNeXtTiny"], capture_output=True, text=True,
            check=True, env={**os.environ, "KERAS_BACKEND": "jax"},
        )  # fmt: skip
        kinds = [kind_row(found) for found in json.loads(run.stdout.splitlines()[-1])]
        PAGE.write_text(TEXT + "\n".join(rows) + "\n" + KINDS + "\n".join(kinds) + "\n")


if __name__ == "__main__":
    main()
