"""The commands that answer questions about one model, from its structure alone."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from keras_graft_cli.completion import choices, names
from keras_graft_cli.files import graph as read
from keras_graft_cli.files import load, sizes, structure
from keras_graft_cli.group import LOOK
from keras_graft_cli.options import Model
from keras_graft_cli.running import Run, Told, command

Select = Annotated[
    str | None, typer.Option(help="Only what this selector names.", autocompletion=names)
]

Opened = Annotated[
    list[str] | None,
    typer.Option("--open", help="Layers to open, such as 'layer_*/attention', or '**' for all."),
]

Every = Annotated[bool, typer.Option("--all", help="Print all, not only the smallest.")]
Most = Annotated[int | None, typer.Option(min=1, help="How many to print.")]
Sort = Annotated[
    str | None,
    typer.Option(help="graph, or bytes: the smallest first.", autocompletion=choices("graph", "bytes")),
]  # fmt: skip
Kept = Annotated[
    str | None, typer.Option(help="What values are kept as, such as float16.")
]  # fmt: skip


@command(panel=LOOK, loads=True)
def show(
    run: Run,
    model: Model,
    depth: Annotated[
        int | None, typer.Option(min=1, help="How many levels of nested models and blocks.")
    ] = None,
    select: Select = None,
    opened: Opened = None,
) -> Told:
    """Print the outline of a model: blocks, and how often they repeat."""
    import keras_graft as kg
    from keras_graft_cli.outline import outline
    from keras_graft_cli.selectors import selector

    graph = read(run, model, opened)
    chosen = None if select is None else kg.select(graph, selector(select))
    return outline(graph, chosen, depth)


@command(panel=LOOK, loads=True)
def nodes(run: Run, model: Model, select: Select = None, opened: Opened = None) -> Told:
    """List the calls of a model, with shapes, parameters and what they read."""
    import keras_graft as kg
    from keras_graft.graph.parameters import count_parameters
    from keras_graft_cli.selectors import selector

    graph = read(run, model, opened)
    selection = kg.select(graph, "**" if select is None else selector(select))
    data = {
        "name": graph.name,
        "inputs": list(graph.input_names),
        "outputs": [graph.label(v) for v in graph.outputs],
        "nodes": [
            {
                "path": node.path,
                "kind": node.kind,
                "outputs": [[list(v.spec.shape), v.spec.dtype] for v in node.outputs if v.spec],
                "from": [node.home.label(v) for v in node.inputs],
                "parameters": count_parameters([node.operation]),
            }
            for node in selection.nodes
        ],
    }
    return Told(data, graph if select is None and not opened else selection)


@command(panel=LOOK, loads=True)
def cuts(
    run: Run,
    model: Model,
    every: Every = False,
    most: Most = None,
    sort: Sort = None,
    dtype: Kept = None,
    opened: Opened = None,
) -> Told:
    """List where a model can be cut at a single value."""
    import keras_graft as kg

    found = kg.cuts(read(run, model, opened), **_listed(every, most, sort, dtype))
    return Told(found.to_dict(), found)


@command(panel=LOOK, loads=True)
def costs(
    run: Run,
    model: Model,
    every: Annotated[bool, typer.Option("--all", help="Print all, not only the largest.")] = False,
    most: Most = None,
    by: Annotated[
        str,
        typer.Option(
            help="What a line is: node, block, stage or cut.",
            autocompletion=choices("node", "block", "stage", "cut"),
        ),
    ] = "node",
    depth: Annotated[int, typer.Option(min=1, help="How many levels of nested models.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="For how many samples.")] = 1,
    shape: Annotated[
        str | None, typer.Option(help="One sample of the input, where it is open: 224,224,3.")
    ] = None,
) -> Told:
    """Count multiply-adds, operations, parameters, and bytes of weights and values."""
    import keras_graft as kg

    how = _listed(every, most, None, None)
    if shape is not None:
        how["input_shape"] = sizes(shape, "--shape")
    found = kg.costs(structure(run, model), by=by, depth=depth, batch=batch, **how)
    return Told(found.to_dict(), found)


@command(panel=LOOK, loads=True)
def balance(
    run: Run,
    model: Model,
    parts: Annotated[int, typer.Argument(help="How many stages.")],
    by: Annotated[
        str,
        typer.Option(
            help="What is balanced: flops, bytes or parameters.",
            autocompletion=choices("flops", "bytes", "parameters"),
        ),
    ] = "flops",
    complete: Annotated[
        bool, typer.Option("--complete", help="Cut also where several values cross.")
    ] = False,
    shape: Annotated[
        str | None, typer.Option(help="One sample of the input, where it is open: 224,224,3.")
    ] = None,
) -> Told:
    """Say where to cut a model into stages that cost about the same.

    Example: keras-graft balance m.keras 4 --by parameters
    """
    import keras_graft as kg

    given = sizes(shape, "--shape")
    found = kg.balance(structure(run, model), parts, by, complete=complete, input_shape=given)
    return Told(found.to_dict(), found)


@command(panel=LOOK, loads=True)
def advise(
    run: Run,
    model: Model,
    samples: Annotated[int, typer.Option(min=1, help="How many samples the store holds.")],
    every: Every = False,
    most: Most = None,
    sort: Sort = None,
    dtype: Kept = None,
) -> Told:
    """Say for each cut how large a store of features is, and how much compute it saves."""
    import keras_graft as kg

    how = _listed(every, most, sort, dtype)
    found = kg.features.advise(structure(run, model), samples, **how)
    return Told(found.to_dict(), found)


@command(panel=LOOK, loads=True)
def explain(run: Run, model: Model) -> Told:
    """Say which layers that hold layers can be opened, and why the others stay closed."""
    import keras_graft as kg

    found = kg.explain(load(run, model))
    return Told(found.to_dict(), found)


def _listed(every: bool, most: int | None, sort: str | None, dtype: str | None) -> Any:
    """Return the arguments that say how cuts are listed."""
    given: dict[str, Any] = {"sort": sort, "dtype": dtype, "most": most}
    given = {name: value for name, value in given.items() if value is not None}
    if every:
        given["most"] = None
    return given


@command(panel=LOOK, loads=True)
def stages(run: Run, model: Model) -> Told:
    """List the last node at each resolution or block, with channels and stride."""
    import keras_graft as kg

    found = kg.stages(structure(run, model))
    return Told(found.to_dict(), found)


@command(panel=LOOK, loads=True)
def sharing(run: Run, model: Model) -> Told:
    """List the layers that are called several times, and the variables that several layers use."""
    import keras_graft as kg

    found = kg.sharing(structure(run, model))
    return Told(found.to_dict(), found)
