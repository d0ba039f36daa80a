"""The commands that change some nodes of a model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from keras_graft_cli.completion import boundaries, choices, names
from keras_graft_cli.errors import UsageError
from keras_graft_cli.files import load, make
from keras_graft_cli.group import EDIT
from keras_graft_cli.incoming import incoming
from keras_graft_cli.options import Layer, Model, Nodes, Out, Value
from keras_graft_cli.running import Run, Told, command


@command(panel=EDIT, loads=True, writes=True)
def replace(
    run: Run,
    model: Model,
    target: Nodes,
    new: Layer,
    out: Out,
    weights: Annotated[
        str | None,
        typer.Option(
            help="keep: copy trained values to weights of the same names.",
            autocompletion=choices("keep"),
        ),
    ] = None,
) -> Told:
    """Replace nodes by new layers.

    Example: keras-graft replace m.keras class:ReLU GELU -o new.keras
    """
    import keras_graft as kg
    from keras_graft_cli.selectors import selector

    layer = incoming(run, new)
    how: Any = {"weights": weights}
    return make(
        run, out, lambda: kg.replace(load(run, model), selector(target), layer, **how)
    )  # fmt: skip


@command(panel=EDIT, loads=True, writes=True)
def insert(
    run: Run,
    model: Model,
    new: Layer,
    out: Out,
    after: Annotated[
        str | None, typer.Option(help="Behind these values.", autocompletion=names)
    ] = None,
    before: Annotated[
        str | None, typer.Option(help="In front of these nodes.", autocompletion=names)
    ] = None,
    between: Annotated[
        str | None, typer.Option(help="Between two nodes, a,b.", autocompletion=boundaries)
    ] = None,
) -> Told:
    """Insert new layers.

    Example: keras-graft insert m.keras Dropout:0.2 --after pool -o new.keras
    """
    import keras_graft as kg
    from keras_graft_cli.selectors import selector

    places = {"after": after, "before": before, "between": between}
    given: Any = {name: selector(text) for name, text in places.items() if text is not None}
    if len(given) != 1:
        raise UsageError("Say where, once: --after, --before or --between a,b.")
    if between is not None:
        ends = given["between"]
        if not isinstance(ends, list) or len(ends) != 2:
            raise UsageError(f"--between takes two names joined by a comma, a,b: {between}")
        given = {"between": tuple(ends)}
    layer = incoming(run, new)
    return make(run, out, lambda: kg.insert(load(run, model), layer, **given))


@command(panel=EDIT, loads=True, writes=True)
def remove(
    run: Run,
    model: Model,
    target: Nodes,
    out: Out,
    keep: Annotated[
        str | None,
        typer.Option(help="Of several values that are read, the one that stays.", autocompletion=names),
    ] = None,
) -> Told:  # fmt: skip
    """Remove nodes.

    Example: keras-graft remove m.keras 'dropout*' -o new.keras
    """
    import keras_graft as kg
    from keras_graft_cli.selectors import selector

    kept = None if keep is None else selector(keep)
    return make(run, out, lambda: kg.remove(load(run, model), selector(target), kept))


@command(panel=EDIT, loads=True, writes=True)
def rewire(
    run: Run,
    model: Model,
    reads: Annotated[
        list[str],
        typer.Argument(help="OLD=NEW: what reads OLD reads NEW.", autocompletion=names),
    ],
    out: Out,
) -> Told:
    """Let nodes read other values.

    Example: keras-graft rewire m.keras add_1=add_0 -o new.keras
    """
    import keras_graft as kg

    pairs = {}
    for text in reads:
        old, equals, new = text.partition("=")
        if not (old and equals and new):
            raise UsageError(f"{text!r}: write OLD=NEW, two names of values.")
        pairs[old] = new
    return make(run, out, lambda: kg.rewire(load(run, model), pairs))


@command(panel=EDIT, loads=True, writes=True)
def repeat(
    run: Run,
    model: Model,
    start: Value,
    stop: Value,
    times: Annotated[int, typer.Argument(min=1, help="How often the block runs in all.")],
    out: Out,
    weights: Annotated[
        str,
        typer.Option(
            help="Of the repetitions: share, copy or fresh.",
            autocompletion=choices("share", "copy", "fresh"),
        ),
    ] = "share",
) -> Told:
    """Run a block several times.

    Example: keras-graft repeat m.keras add_1 add_2 3 -o deep.keras
    """
    import keras_graft as kg

    how: Any = {"weights": weights}
    return make(run, out, lambda: kg.repeat(load(run, model), start, stop, times, **how))
