"""The commands for models: show, cuts, extract, split, join."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from keras_graft.cli.command import (
    Force,
    Json,
    Model,
    ShapeOption,
    boundary,
    command,
    loaded,
    written,
)


@command
def show(
    model: Model,
    select: Annotated[str | None, typer.Option(help="Only what this selector names.")] = None,
    input_shape: ShapeOption = None,
    as_json: Json = False,
) -> Any:
    """List the calls of a model: keras-graft show model.keras --select 'conv4_*'."""
    import keras_graft as kg
    from keras_graft.graph.parameters import count_parameters

    graph = kg.read(loaded(model, input_shape))
    selection = kg.select(graph, select or "**")
    if not as_json:
        return str(graph if select is None else selection)
    return {
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


@command
def cuts(model: Model, input_shape: ShapeOption = None, as_json: Json = False) -> Any:
    """List where a model can be cut at a single value: keras-graft cuts app:ResNet50."""
    import keras_graft as kg

    found = kg.cuts(loaded(model, input_shape))
    return found.to_dict() if as_json else str(found)


@command
def extract(
    model: Model,
    taps: Annotated[list[str], typer.Argument(help="Selectors of the outputs.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .keras file to write.")],
    input_shape: ShapeOption = None,
    force: Force = False,
    as_json: Json = False,
) -> Any:
    """Write a model of intermediate outputs: keras-graft extract m.keras 'block*_out' -o taps.keras."""
    import keras_graft as kg
    from keras_graft.model.files import check_free

    paths = {"model": out}
    check_free(paths, force)
    source = loaded(model, input_shape)
    return written(
        {"model": kg.extract(source, taps[0] if len(taps) == 1 else taps)}, paths, as_json
    )


@command
def split(
    model: Model,
    at: Annotated[
        list[str], typer.Option(help="A boundary; several values of one are joined by commas.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the stages.")],
    complete: Annotated[bool, typer.Option(help="Add the values that also cross.")] = False,
    input_shape: ShapeOption = None,
    force: Force = False,
    as_json: Json = False,
) -> Any:
    """Write the stages of a model: keras-graft split m.keras --at add_3 -o parts.

    One boundary gives trunk.keras and head.keras, more give stage0.keras, stage1.keras, ...
    """
    import keras_graft as kg
    from keras_graft.model.files import check_free

    count = len(at) + 1
    names = ["trunk", "head"] if count == 2 else [f"stage{i}" for i in range(count)]
    paths = {name: out / f"{name}.keras" for name in names}
    check_free(paths, force)
    stages = kg.split(loaded(model, input_shape), [boundary(part) for part in at], complete)
    return written(dict(zip(names, stages, strict=True)), paths, as_json)


@command
def join(
    stages: Annotated[
        list[str], typer.Argument(help="Models, in the order that data passes through them.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .keras file to write.")],
    force: Force = False,
    as_json: Json = False,
) -> Any:
    """Write one model that runs stages in turn: keras-graft join trunk.keras head.keras -o m.keras."""
    import keras_graft as kg
    from keras_graft.model.files import check_free

    paths = {"model": out}
    check_free(paths, force)
    return written({"model": kg.join(*(loaded(stage) for stage in stages))}, paths, as_json)
