"""The command `fit`: from a folder of images to a model with a trained head."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from keras_graft_cli.arrays import arrays
from keras_graft_cli.completion import boundaries, choices, models
from keras_graft_cli.errors import UsageError
from keras_graft_cli.files import check_free, load, written
from keras_graft_cli.group import TRAIN
from keras_graft_cli.options import Images, Out
from keras_graft_cli.running import Run, Told, command


@command(panel=TRAIN, loads=True, writes=True)
def fit(
    run: Run,
    data: Images,
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="A .keras or .h5 file, or app:ResNet50.", autocompletion=models
        ),
    ],
    at: Annotated[
        str,
        typer.Option(
            help="Where to cut; values of one boundary joined by commas.", autocompletion=boundaries
        ),
    ],
    out: Out,
    head: Annotated[
        int | None, typer.Option(help="The number of classes; by default those of the data.")
    ] = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="Add the values that also cross.")
    ] = False,
    epochs: Annotated[int, typer.Option(min=1, help="How many epochs to train.")] = 10,
    learning_rate: Annotated[float, typer.Option(help="That of Adam.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples in a batch.")] = 32,
    validation_split: Annotated[float, typer.Option(help="The share to validate on.")] = 0.2,
    views: Annotated[
        int | None, typer.Option(help="Store so many augmented views of each sample.")
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(help="off: leave augmentation out.", autocompletion=choices("off")),
    ] = None,
    class_weight: Annotated[
        str | None,
        typer.Option(
            help="balanced: each class counts the same.", autocompletion=choices("balanced")
        ),
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Keep the features here, for the next time.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write the report as a page with curves, .html.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed.")] = 0,
) -> Told:
    """Train a new head on features that the trunk computes once.

    Example: keras-graft fit photos/ -m app:ResNet50 --at avg_pool -o new.keras
    """
    import keras

    import keras_graft as kg
    from keras_graft.features.head.heads import loss_for
    from keras_graft.model.files import check_page
    from keras_graft_cli.selectors import boundary

    check_free(run, out)
    if report is not None:
        check_page(report, run.force)
    keras.utils.set_random_seed(seed)
    given, y, classes = _data(data, batch_size)
    source = load(run, model)
    run.progress.stop()
    how: Any = {
        "compile": {
            "optimizer": keras.optimizers.Adam(learning_rate),
            "loss": loss_for(head or classes, y),
            "metrics": ["accuracy"],
        },
        "views": views,
        "augment": augment,
        "class_weight": class_weight,
    }
    fitted = kg.features.fit_head(
        source, boundary(at), given, head=head or classes, complete=complete, epochs=epochs,
        batch_size=batch_size, validation_split=validation_split, store=store, seed=seed,
        progress=not run.as_json, **how,
    )  # fmt: skip
    said = str(fitted)
    told = written(run, {"model": fitted.model}, {"model": out}, **fitted.to_dict())
    if report is not None:
        report.write_text(fitted.to_html())
    return Told(told.data, [said, told.shown])


def _data(data: str, batch_size: int) -> tuple[Any, Any, int]:
    """Return the data, its targets, and the number of classes."""
    import numpy as np

    import keras_graft as kg

    if Path(data).is_dir():
        images = kg.features.ImageFolder(data, batch_size=batch_size)
        if images.targets is None:
            raise UsageError(f"{data!r} has images but no folders in it: make one for each class.")
        return images, images.targets, len(images.class_names)
    given = arrays(data)
    if not isinstance(given, tuple) or given[1] is None:
        raise UsageError(f"{data!r} has no y, the class of each sample: write a .npz of x and y.")
    y = given[1]
    several = y.ndim == 2 and y.shape[1] > 1
    return given, y, y.shape[1] if several else 1 + int(np.max(y, initial=0))
