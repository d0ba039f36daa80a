"""The commands that take models apart and join them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from keras_graft_cli.completion import boundaries, choices, models, names
from keras_graft_cli.errors import UsageError
from keras_graft_cli.files import check_free, load, make, written
from keras_graft_cli.group import PARTS
from keras_graft_cli.options import Complete, Model, Out
from keras_graft_cli.running import Run, Told, command

Taps = Annotated[
    list[str] | None,
    typer.Argument(help="Selectors of the outputs.", autocompletion=names, show_default=False),
]


@command(panel=PARTS, loads=True, writes=True)
def extract(
    run: Run,
    model: Model,
    out: Out,
    taps: Taps = None,
    stages: Annotated[
        str | None, typer.Option(help="Stages by number in place of names: 2,3,4 or -1.")
    ] = None,
) -> Told:
    """Write a model of intermediate outputs.

    Example: keras-graft extract m.keras 'block*_out' -o taps.keras
    """
    import keras_graft as kg
    from keras_graft_cli.files import sizes
    from keras_graft_cli.selectors import several

    if bool(taps) == (stages is not None):
        raise UsageError("Name what the model gives: selectors, or --stages 2,3,4.")
    if stages is None:
        return make(run, out, lambda: kg.extract(load(run, model), several(taps or [])))
    numbers = sizes(stages, "--stages") or ()
    how: dict[str, Any] = {"stages": numbers[0] if len(numbers) == 1 else numbers}
    return make(run, out, lambda: kg.extract(load(run, model), **how))


@command(panel=PARTS, loads=True, writes=True)
def submodel(
    run: Run,
    model: Model,
    out: Out,
    inputs: Annotated[
        list[str] | None, typer.Option(help="Where it begins.", autocompletion=names)
    ] = None,
    outputs: Annotated[
        list[str] | None, typer.Option(help="Where it ends.", autocompletion=names)
    ] = None,
) -> Told:
    """Write the model between any values.

    Example: keras-graft submodel m.keras --inputs add_3 -o rest.keras
    """
    import keras_graft as kg
    from keras_graft_cli.selectors import several

    ends = {"inputs": inputs, "outputs": outputs}
    given = {name: several(texts) for name, texts in ends.items() if texts}
    if not given:
        raise UsageError("Say where the part begins or ends: --inputs or --outputs.")
    return make(run, out, lambda: kg.submodel(load(run, model), **given))


@command(panel=PARTS, loads=True, writes=True)
def split(
    run: Run,
    model: Model,
    at: Annotated[
        list[str] | None,
        typer.Option(
            help="A boundary; several values of one are joined by commas.",
            autocompletion=boundaries,
        ),
    ] = None,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the stages.")],
    complete: Complete = False,
    parts: Annotated[
        int | None, typer.Option(help="In place of --at: so many stages that cost about the same.")
    ] = None,
    balance: Annotated[
        str,
        typer.Option(
            help="What --parts balances: flops, bytes or parameters.",
            autocompletion=choices("flops", "bytes", "parameters"),
        ),
    ] = "flops",
) -> Told:
    """Write the stages of a model.

    Example: keras-graft split m.keras --at add_3 -o parts

    One boundary gives trunk.keras and head.keras, more give stage0.keras, stage1.keras, ...
    With --parts 4 the dearest of four stages is as cheap as possible.
    """
    import keras_graft as kg
    from keras_graft_cli.selectors import boundary

    if (parts is None) == (not at):
        raise UsageError("Say where, once: --at a boundary, or --parts and a number.")
    if parts is None and balance != "flops":
        raise UsageError("--balance says what --parts balances: give --parts and a number.")
    count = max(len(at or ()) + 1 if parts is None else parts, 1)
    called = ["trunk", "head"] if count == 2 else [f"stage{i}" for i in range(min(count, 10**5))]
    paths = {name: out / f"{name}.keras" for name in called}
    check_free(run, *paths.values())
    found = load(run, model)
    if parts is None:
        stages = kg.split(found, [boundary(part) for part in at or ()], complete)
    else:
        stages = kg.split(found, complete=complete, parts=parts, balance=balance)
    return written(run, dict(zip(called, stages, strict=True)), paths)


@command(panel=PARTS, loads=True, writes=True)
def join(
    run: Run,
    stages: Annotated[
        list[str],
        typer.Argument(
            help="Models, in the order that data passes through them.", autocompletion=models
        ),
    ],
    out: Out,
) -> Told:
    """Write one model that runs stages in turn.

    Example: keras-graft join trunk.keras head.keras -o m.keras
    """
    import keras_graft as kg

    return make(run, out, lambda: kg.join(*(load(run, stage) for stage in stages)))
