"""The commands for weights: copies, ties, and those of another model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from keras_graft_cli.completion import choices, names, weights_files
from keras_graft_cli.files import check_free, load, make, written
from keras_graft_cli.group import WEIGHTS
from keras_graft_cli.options import Model, Out
from keras_graft_cli.running import Run, Told, command

Address = Annotated[
    str,
    typer.Argument(
        help="A weight, lm_head/kernel, or the one weight of a layer.", autocompletion=names
    ),
]


@command(panel=WEIGHTS, loads=True, writes=True)
def clone(
    run: Run,
    model: Model,
    out: Out,
    weights: Annotated[
        str,
        typer.Option(help="copy, or fresh: drawn again.", autocompletion=choices("copy", "fresh")),
    ] = "copy",
    seed: Annotated[int | None, typer.Option(help="The seed of fresh weights.")] = None,
) -> Told:
    """Write a copy of a model.

    Example: keras-graft clone m.keras --weights fresh --seed 0 -o new.keras
    """
    import keras_graft as kg

    how: Any = {"weights": weights, "seed": seed}
    return make(run, out, lambda: kg.clone(load(run, model), **how))


@command(panel=WEIGHTS, loads=True, writes=True)
def merge(
    run: Run,
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Files of one architecture: .keras, .weights.h5 or .safetensors.",
            autocompletion=weights_files,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write, of the same kind.")],
    method: Annotated[
        str,
        typer.Option(
            help="mean, slerp, task_arithmetic, ties or dare.",
            autocompletion=choices("mean", "slerp", "task_arithmetic", "ties", "dare"),
        ),
    ] = "mean",
    share: Annotated[
        list[float] | None, typer.Option(help="The weight of a source, once for each.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="What they were trained from, for the last three methods.",
            autocompletion=weights_files,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only these weights; the others are those of the first file."),
    ] = None,
    density: Annotated[
        float | None, typer.Option(help="The share that ties and dare keep.")
    ] = None,
    scale: Annotated[float, typer.Option(help="What the change is multiplied by.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The seed of dare.")] = 0,
) -> Told:
    """Merge checkpoints of one architecture, weight by weight.

    Example: keras-graft merge a.keras b.keras --method slerp -o merged.keras
    """
    import keras_graft as kg

    check_free(run, out)
    run.progress.say("Merging")
    how: Any = {"density": density, "scale": scale, "seed": seed, "only": only, "base": base}
    found = kg.merge_checkpoints(sources, method, share, out=out, **how)
    return Told(found.to_dict(), found)


@command(panel=WEIGHTS, loads=True, writes=True)
def tie(
    run: Run,
    model: Model,
    target: Address,
    source: Address,
    out: Out,
    transform: Annotated[
        str | None, typer.Option(help="transpose, for an output layer on an embedding.")
    ] = None,
) -> Told:
    """Let a layer use the weight of another.

    Example: keras-graft tie m.keras lm_head/kernel embed --transform transpose -o t.keras
    """
    import keras_graft as kg

    return make(run, out, lambda: kg.tie(load(run, model), target, source, transform))


@command(panel=WEIGHTS, loads=True, writes=True)
def untie(run: Run, model: Model, target: Address, out: Out) -> Told:
    """Give a tied layer a weight of its own.

    Example: keras-graft untie m.keras lm_head -o own.keras
    """
    import keras_graft as kg

    return make(run, out, lambda: kg.untie(load(run, model), target))


@command(panel=WEIGHTS, loads=True, writes=True)
def transplant(
    run: Run,
    source: Annotated[
        str,
        typer.Argument(
            help="A .keras, .weights.h5 or .safetensors file; with --names torch also .pth.",
            autocompletion=weights_files,
        ),
    ],
    model: Model,
    out: Out,
    match: Annotated[
        str,
        typer.Option(
            help="Which weight is which: name, shape or order.",
            autocompletion=choices("name", "shape", "order"),
        ),
    ] = "name",
    keep: Annotated[
        list[str] | None, typer.Option(help="These weights keep their values.")
    ] = None,
    strict: Annotated[bool, typer.Option(help="Refuse if a weight is left over.")] = True,
    weight_names: Annotated[
        str,
        typer.Option(
            "--names", help="Whose names the source has: keras or torch.",
            autocompletion=choices("keras", "torch"),
        ),
    ] = "keras",
) -> Told:  # fmt: skip
    """Copy the weights of a file into a model.

    Example: keras-graft transplant old.keras new.keras -o filled.keras
    """
    import keras_graft as kg

    check_free(run, out)
    target = load(run, model)
    run.progress.say("Copying weights")
    found = kg.transplant(
        source, target, match, keep=keep or None, strict=strict, names=weight_names
    )
    told = written(run, {"model": target}, {"model": out}, report=found.to_dict())
    return Told(told.data, [found, told.shown])
