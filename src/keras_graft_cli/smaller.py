"""The commands that make a model smaller, plainer, or cheaper to train: whole jobs in one line."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from keras_graft_cli.completion import choices, names
from keras_graft_cli.errors import UsageError
from keras_graft_cli.files import load, make
from keras_graft_cli.group import EDIT
from keras_graft_cli.options import Model, Nodes, Out
from keras_graft_cli.running import Run, Told, command

RECIPES = ("fold_batchnorm", "fuse_activation", "merge_branches", "swap_activation")
"""The recipes that rewrite a model and need no layer from the user."""


@command(panel=EDIT, loads=True, writes=True)
def prune(
    run: Run,
    model: Model,
    channels: Annotated[
        list[str],
        typer.Argument(
            help="NODES=HOW: 0.5 or 50% is a share, 16 a number of channels, 0,3,7 these ones.",
            autocompletion=names,
        ),
    ],
    out: Out,
    by: Annotated[
        str,
        typer.Option(
            help="Which ones go: those with the smallest magnitude, l2 or bn_scale, or random.",
            autocompletion=choices("magnitude", "l2", "bn_scale", "random"),
        ),
    ] = "magnitude",
    scope: Annotated[
        str,
        typer.Option(
            help="layer: a share of each; global: of all together.",
            autocompletion=choices("layer", "global"),
        ),
    ] = "layer",
    keep: Annotated[
        str | None, typer.Option(help="Nodes whose channels stay.", autocompletion=names)
    ] = None,
    round_to: Annotated[
        int | None, typer.Option(help="What stays is a multiple of this number.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The seed, for --by random.")] = None,
) -> Told:
    """Remove channels, with everything that depends on them.

    Example: keras-graft prune m.keras 'conv*=50%' --round-to 8 -o small.keras
    """
    import keras_graft as kg
    from keras_graft_cli.selectors import selector

    given: dict[Any, Any] = {}
    for text in channels:
        target, equals, how = text.rpartition("=")
        if not equals or not target:
            raise UsageError(f"Say what to remove as NODES=HOW, 'conv*=50%': {text}")
        chosen = selector(target)
        key = tuple(chosen) if isinstance(chosen, list) else chosen
        if key in given:
            raise UsageError(f"Say once what to remove from {target!r}: {text}")
        given[key] = _channels(how, text)
    options: Any = {
        "by": by, "scope": scope, "round_to": round_to, "seed": seed,
        "keep": None if keep is None else selector(keep),
    }  # fmt: skip
    return make(run, out, lambda: kg.prune(load(run, model), given, **options))


def _channels(how: str, text: str) -> Any:
    """Return a share, a number or positions of channels."""
    try:
        if how.endswith("%"):
            return float(how[:-1]) / 100
        if "," in how:
            return [int(number) for number in how.split(",") if number.strip()]
        return float(how) if "." in how else int(how)
    except ValueError:
        raise UsageError(
            f"{text!r}: {how!r} is no share (0.5, 50%), no number (16) and no list (0,3,7)."
        ) from None


@command(panel=EDIT, loads=True, writes=True)
def quantize(
    run: Run,
    model: Model,
    target: Nodes,
    out: Out,
    mode: Annotated[
        str,
        typer.Option(
            help="int8 or int4, or float8 for training.",
            autocompletion=choices("int8", "int4", "float8"),
        ),
    ] = "int8",
) -> Told:
    """Keep the weights of some layers in fewer bits.

    Example: keras-graft quantize m.keras '**/query' --mode int4 -o small.keras
    """
    import keras_graft as kg
    from keras_graft_cli.selectors import selector

    if mode in ("gptq", "awq"):
        raise UsageError(
            f"{mode} looks at data. In Python: kg.quantize(model, {target!r}, {mode!r}, data=x)."
        )
    how: Any = {"mode": mode}
    return make(run, out, lambda: kg.quantize(load(run, model), selector(target), **how))


@command(panel=EDIT, loads=True, writes=True)
def plain(
    run: Run,
    model: Model,
    out: Out,
    ties: Annotated[
        str,
        typer.Option(
            help="refuse, or untie: each tied weight gets a variable of its own.",
            autocompletion=choices("refuse", "untie"),
        ),
    ] = "refuse",
) -> Told:
    """Write the same network with Keras's own layers only.

    Example: keras-graft plain m.keras -o plain.keras
    """
    import keras_graft as kg

    how: Any = {"ties": ties}
    return make(run, out, lambda: kg.plain(load(run, model), **how))


@command(panel=EDIT, loads=True, writes=True)
def remat(run: Run, model: Model, target: Nodes, out: Out) -> Told:
    """Let training keep the ends of blocks only, and compute the rest again.

    Example: keras-graft remat m.keras 'block_*' -o lean.keras
    """
    import keras_graft as kg
    from keras_graft_cli.selectors import selector

    return make(run, out, lambda: kg.remat(load(run, model), selector(target)))


@command(panel=EDIT, loads=True, writes=True)
def recipe(
    run: Run,
    name: Annotated[
        str,
        typer.Argument(
            help="fold_batchnorm, fuse_activation, merge_branches or swap_activation.",
            autocompletion=choices(*RECIPES),
        ),
    ],
    model: Model,
    out: Out,
    old: Annotated[str | None, typer.Option(help="For swap_activation: the old one.")] = None,
    new: Annotated[str | None, typer.Option(help="For swap_activation: the new one.")] = None,
) -> Told:
    """Rewrite a model by a recipe.

    Example: keras-graft recipe fold_batchnorm m.keras -o folded.keras
    """
    import keras_graft as kg

    wanted = name.replace("-", "_")
    if wanted not in RECIPES:
        raise UsageError(f"There is no recipe {name!r} here. They are {', '.join(RECIPES)}.")
    how = {key: value for key, value in (("old", old), ("new", new)) if value is not None}
    if how and wanted != "swap_activation":
        raise UsageError(f"--{next(iter(how))} is for swap_activation; {wanted} takes none.")

    def made() -> Any:
        found = getattr(kg.recipes, wanted)(load(run, model), **how)
        return getattr(found, "model", found)  # a recipe may return a report

    return make(run, out, made)
