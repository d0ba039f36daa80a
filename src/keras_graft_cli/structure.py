"""The commands that change what a model is made of: `inline`, `nest`, `reinput`, `freeze`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from keras_graft_cli.completion import choices, names
from keras_graft_cli.errors import UsageError
from keras_graft_cli.files import load, make, sizes
from keras_graft_cli.group import EDIT
from keras_graft_cli.options import Model, Out
from keras_graft_cli.running import Run, Told, command

Which = Annotated[
    str, typer.Argument(help="A selector; by default all.", autocompletion=names)
]  # fmt: skip


@command(panel=EDIT, loads=True, writes=True)
def inline(run: Run, model: Model, out: Out, target: Which = "**") -> Told:
    """Put the layers of nested models in their place.

    Example: keras-graft inline m.keras encoder -o flat.keras
    """
    import keras_graft as kg
    from keras_graft_cli.selectors import selector

    return make(run, out, lambda: kg.inline(load(run, model), selector(target)))


@command(panel=EDIT, loads=True, writes=True)
def nest(
    run: Run,
    model: Model,
    inputs: Annotated[
        list[str], typer.Option(help="Where the block begins.", autocompletion=names)
    ],
    outputs: Annotated[list[str], typer.Option(help="Where it ends.", autocompletion=names)],
    name: Annotated[str, typer.Option(help="The name of the new nested model.")],
    out: Out,
) -> Told:
    """Fold a block into a nested model.

    Example: keras-graft nest m.keras --inputs a --outputs b --name block -o n.keras
    """
    import keras_graft as kg
    from keras_graft_cli.selectors import several

    return make(
        run, out, lambda: kg.nest(load(run, model), several(inputs), several(outputs), name)
    )


@command(panel=EDIT, loads=True, writes=True)
def reinput(
    run: Run,
    model: Model,
    out: Out,
    shape: Annotated[
        list[str] | None,
        typer.Option(help="Without the batch, 64,64,3; '?' may vary. Or image=64,64,3."),
    ] = None,
    batch_shape: Annotated[
        list[str] | None, typer.Option(help="The same with the batch: 8,64,64,3.")
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help="The dtype of the inputs, or name=dtype.")
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(
            help="Where the number of channels changes: mean, repeat or pad.",
            autocompletion=choices("mean", "repeat", "pad"),
        ),
    ] = None,
) -> Told:
    """Give a model another input.

    Example: keras-graft reinput m.keras --shape 128,128,1 --channels mean -o grey.keras
    """
    import keras_graft as kg

    given: Any = {
        "shape": _by_input(shape, "--shape", _shape),
        "batch_shape": _by_input(batch_shape, "--batch-shape", _shape),
        "dtype": _by_input(dtype, "--dtype", lambda text, _: text),
        "channels": channels,
    }
    if given["shape"] is None and given["batch_shape"] is None and given["dtype"] is None:
        raise UsageError("Say what becomes of the input: --shape, --batch-shape or --dtype.")
    return make(run, out, lambda: kg.reinput(load(run, model), **given))


@command(panel=EDIT, loads=True, writes=True)
def freeze(run: Run, model: Model, out: Out, selector: Which = "**") -> Told:
    """Freeze layers, in inference mode.

    Example: keras-graft freeze m.keras 'block*' -o frozen.keras
    """
    import keras_graft as kg
    from keras_graft_cli.selectors import selector as selected

    return make(run, out, lambda: kg.freeze(load(run, model), selected(selector)))


def _by_input(texts: list[str] | None, option: str, of: Any) -> Any:
    """Return one value for all inputs, or a dict by the names of inputs."""
    if not texts:
        return None
    if len(texts) == 1 and "=" not in texts[0]:
        return of(texts[0], option)
    pairs = [text.partition("=") for text in texts]
    if not all(equals for _, equals, _ in pairs):
        raise UsageError(f"{option}: for several inputs, write name={'64,64,3'} for each.")
    return {name: of(value, option) for name, _, value in pairs}


def _shape(text: str, option: str) -> tuple[int | None, ...]:
    parts = [part.strip() for part in text.strip("()").rstrip(",").split(",")]
    return tuple(
        None if part in ("?", "none", "None") else (sizes(part, option) or (0,))[0]
        for part in parts
    )
