"""The command `demo`, and the options of the program itself."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from keras_graft.cli.command import app, command


@command
def demo() -> Any:
    """Cut a real architecture in the middle, join it again, and show that nothing changed."""
    import keras
    import numpy as np

    import keras_graft as kg
    from keras_graft.model.files import load
    from keras_graft.tables import table

    model = load("app:MobileNetV3Small", (64, 64, 3))
    found = kg.cuts(model)
    cut = found[len(found) // 2]
    trunk, head = kg.split(model, at=cut)
    joined = kg.join(trunk, head)
    x = np.random.default_rng(0).random((2, 64, 64, 3), "float32") * 255
    whole, parts, again = (
        np.asarray(keras.ops.convert_to_numpy(y)) for y in (model(x), head(trunk(x)), joined(x))
    )
    rows = [
        ("places to cut at a single value", len(found)),
        ("cut in the middle, at", cut.name),
        ("parameters of the whole", model.count_params()),
        ("parameters of the trunk", trunk.count_params()),
        ("parameters of the head", head.count_params()),
        ("largest difference of head(trunk(x)) from the whole", float(np.abs(whole - parts).max())),
        ("largest difference of the joined model", float(np.abs(whole - again).max())),
        ("layers of the joined model that are the donor's own",
         sum(a is b for a, b in zip(joined.layers[1:], model.layers[1:], strict=True))),
    ]  # fmt: skip
    return table(("MobileNetV3Small, fresh weights", ""), [(a, f"{b}") for a, b in rows])


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"keras-graft {version('keras-graft')}, Keras {version('keras')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print versions.")
    ] = False,
) -> None:
    pass
