"""The command `fit`: from a folder of images to a model with a trained head."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from keras_graft.cli.command import Force, Json, ShapeOption, boundary, command, loaded, written
from keras_graft.cli.features import arrays


@command
def fit(
    data: Annotated[
        str,
        typer.Argument(help="A folder with one folder of images per class, or a .npz of x, y, w."),
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", help="A .keras or .h5 file, or app:ResNet50.")
    ],
    at: Annotated[str, typer.Option(help="Where to cut; values of one boundary joined by commas.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .keras file to write.")],
    head: Annotated[
        int | None, typer.Option(help="The number of classes; by default those of the data.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="How many epochs to train.")] = 10,
    learning_rate: Annotated[float, typer.Option(help="That of Adam.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(help="Samples in a batch.")] = 32,
    validation_split: Annotated[float, typer.Option(help="The share to validate on.")] = 0.2,
    views: Annotated[
        int | None, typer.Option(help="Store so many augmented views of each sample.")
    ] = None,
    augment: Annotated[str | None, typer.Option(help="off: leave augmentation out.")] = None,
    class_weight: Annotated[
        str | None, typer.Option(help="balanced: each class counts the same.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Keep the features here, for the next time.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write the report as a page with curves, .html.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed.")] = 0,
    input_shape: ShapeOption = None,
    force: Force = False,
    as_json: Json = False,
) -> Any:
    """Train a new head on features that the trunk computes once: keras-graft fit photos/ -m app:ResNet50 --at avg_pool -o new.keras."""
    import keras
    import numpy as np

    import keras_graft as kg
    from keras_graft.features.head.heads import loss_for
    from keras_graft.model.files import FileError, check_free, check_page

    check_free({"model": out}, force)
    if report is not None:
        check_page(report, force)
    keras.utils.set_random_seed(seed)
    given: Any
    if Path(data).is_dir():
        given = kg.features.ImageFolder(data, batch_size=batch_size)
        classes, y = len(given.class_names), given.targets
        if y is None:
            raise FileError(f"{data!r} has images but no folders in it: make one for each class.")
    else:
        given = arrays(data)
        if not isinstance(given, tuple) or given[1] is None:
            raise FileError(
                f"{data!r} has no y, the class of each sample: write a .npz of x and y."
            )
        y = given[1]
        classes = y.shape[1] if y.ndim == 2 and y.shape[1] > 1 else 1 + int(np.max(y, initial=0))
    source = loaded(model, input_shape)
    how = {
        "optimizer": keras.optimizers.Adam(learning_rate), "loss": loss_for(head or classes, y),
        "metrics": ["accuracy"],
    }  # fmt: skip
    fitted = kg.features.fit_head(
        source, boundary(at), given, head=head or classes, compile=how, epochs=epochs, batch_size=batch_size,
        validation_split=validation_split, views=views, augment=augment,  # type: ignore[arg-type]
        class_weight=class_weight, store=store, seed=seed, progress=not as_json,  # type: ignore[arg-type]
    )  # fmt: skip
    table = written({"model": fitted.model}, {"model": out}, as_json)
    if report is not None:
        report.write_text(fitted.to_html())
    return {**fitted.to_dict(), **table} if as_json else f"{_options(fitted)}\n\n{table}"


def _options(report: Any) -> str:
    """Return a report with the options of the command in place of arguments of Python."""
    return str(report).replace('class_weight="balanced"', "--class-weight balanced")
