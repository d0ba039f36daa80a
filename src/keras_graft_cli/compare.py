"""The commands that compare two models: `diff`, `verify`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from keras_graft_cli.arrays import arrays
from keras_graft_cli.completion import choices
from keras_graft_cli.errors import UsageError
from keras_graft_cli.files import load
from keras_graft_cli.group import LOOK
from keras_graft_cli.options import Inputs, Model
from keras_graft_cli.rows import Rows
from keras_graft_cli.running import Run, Told, command


@command(panel=LOOK, loads=True)
def diff(
    run: Run,
    old: Model,
    new: Model,
    by: Annotated[
        str,
        typer.Option(
            help="value: layers of equal name and weights are the same; identity: objects.",
            autocompletion=choices("value", "identity"),
        ),
    ] = "value",
) -> Told:
    """Say what two models share, what is new or dropped, and which outputs may differ."""
    import keras_graft as kg

    # Files never hold the same objects: there the values tell what is the same.
    found = kg.diff(load(run, old), load(run, new), by=by)
    return Told(found.to_dict(), found)


@command(panel=LOOK, loads=True)
def verify(
    run: Run,
    old: Model,
    new: Model,
    inputs: Inputs = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Up to which difference outputs count as the same; 0: to the bit.")
    ] = 1e-5,
    samples: Annotated[int, typer.Option(min=1, help="How many random samples.")] = 2,
    seed: Annotated[int, typer.Option(help="The seed of the random inputs.")] = 0,
) -> Told:  # fmt: skip
    """Run two models on the same inputs, and say how far their outputs lie apart.

    The difference is relative to the largest value of an output where that is more than one. The
    exit code is 1 if some output differs by more than the tolerance.
    """
    from keras_graft.testing import random_inputs

    a, b = load(run, old), load(run, new)
    run.progress.say("Running both models")
    given = random_inputs(a, samples, seed) if inputs is None else _of_file(a, inputs)
    rows = _compared(_outputs(a, given, old), _outputs(b, _fitting(a, b, given, new), new))
    same = all(row["difference"] is not None and row["difference"] <= tolerance for row in rows)
    data = {"same": same, "tolerance": tolerance, "outputs": rows}
    return Told(data, _table(data), 0 if same else 1)


def _table(data: dict[str, Any]) -> Rows:
    """Return how far outputs lie apart, under the answer."""
    limit, rows = data["tolerance"], data["outputs"]
    worst = max((r["difference"] for r in rows if r["difference"] is not None), default=0.0)
    said = f"The same outputs: the largest difference is {worst:g} (tolerance {limit:g})."
    if any(r["difference"] is None for r in rows):
        said = "The outputs differ in number, shape or dtype."
    elif not data["same"]:
        said = f"The outputs differ: by up to {worst:g} (tolerance {limit:g})."
    head = ("output", "first", "second", "difference")
    return Rows(head, [
        (r["name"], r["first"], r["second"],
         "" if r["difference"] is None else f"{r['difference']:g}")
        for r in rows
    ], said)  # fmt: skip


def _of_file(model: Any, path: str) -> Any:
    """Return the inputs of a file, in the structure that a model takes."""
    import keras

    found = arrays(path, names=None)
    names = [t.name for t in model.inputs]
    if not isinstance(found, dict):
        found = {names[0]: found} if len(names) == 1 else {}
    if len(names) == 1 and list(found) == ["x"]:
        found = {names[0]: found["x"]}
    missing = [name for name in names if name not in found]
    if missing:
        raise UsageError(
            f"{path!r} lacks the input {missing[0]!r}: name the arrays of a .npz as the inputs are, "
            f"{', '.join(names)}."
        )
    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    return keras.tree.map_structure(
        lambda t: keras.ops.convert_to_tensor(found[t.name], t.dtype), structure
    )


def _fitting(a: Any, b: Any, given: Any, name: str) -> Any:
    """Return the inputs of one model in the structure of another."""
    import keras

    flat = keras.tree.flatten(given)
    if len(b.inputs) != len(flat):
        raise UsageError(f"{name!r} has {len(b.inputs)} inputs, the first model {len(flat)}.")
    by_name = {t.name: x for t, x in zip(a.inputs, flat, strict=True)}
    structure = b.inputs[0] if isinstance(b, keras.Sequential) else b.input
    if all(t.name in by_name for t in b.inputs):
        return keras.tree.map_structure(lambda t: by_name[t.name], structure)
    return keras.tree.pack_sequence_as(structure, flat)


def _outputs(model: Any, given: Any, name: str) -> dict[str, Any]:
    import keras
    import numpy as np

    from keras_graft import read

    try:
        found = keras.tree.flatten_with_path(model(given, training=False))
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        raise UsageError(f"{name!r} does not run on these inputs: {lines[0]}") from error
    named = [value.label for value in read(model).outputs]
    keys = [".".join(map(str, path)) for path, _ in found]
    labels = named if len(named) == len(keys) and not any(map(_is_key, keys)) else keys
    return {
        label: np.asarray(keras.ops.convert_to_numpy(value))
        for label, (_, value) in zip(labels, found, strict=True)
    }


def _is_key(path: str) -> bool:
    """Whether the path of an output has a name of its own, and not only a number."""
    return bool(path) and not path.replace(".", "").isdecimal()


def _compared(a: dict[str, Any], b: dict[str, Any]) -> list[dict[str, Any]]:
    import numpy as np

    pairs = (
        [(name, a.get(name), b.get(name)) for name in dict.fromkeys([*a, *b])]
        if a.keys() & b.keys() or len(a) != len(b)
        else [(name, x, y) for (name, x), y in zip(a.items(), b.values(), strict=True)]
    )
    rows = []
    for name, x, y in pairs:
        difference = None
        if x is not None and y is not None and x.shape == y.shape and x.dtype == y.dtype:
            left, right = (np.asarray(v, "float64") for v in (x, y))
            apart = np.where(left == right, 0.0, np.abs(left - right))
            apart = np.where(np.isnan(left) & np.isnan(right), 0.0, apart)
            scale = max(1.0, float(np.nanmax(np.abs(left), initial=0.0)))
            found = float(np.max(apart, initial=0.0)) / (scale if np.isfinite(scale) else 1.0)
            difference = found if np.isfinite(found) else float("inf")
        rows.append({"name": name, "first": _spec(x), "second": _spec(y), "difference": difference})
    return rows


def _spec(array: Any) -> str:
    return "" if array is None else f"({', '.join(map(str, array.shape))}) {array.dtype}"
