"""Read the models that a command names, and write those that it makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_graft_cli.errors import UsageError
from keras_graft_cli.rows import Rows
from keras_graft_cli.running import Run, Told


def load(run: Run, model: str) -> Any:
    """Return a model with its weights."""
    return _loaded(run, model, weights=True)


def structure(run: Run, model: str) -> Any:
    """Return a model whose weights have shapes but no values: of a file, they are not read."""
    return _loaded(run, model, weights=False)


def graph(run: Run, model: str, opened: list[str] | None) -> Any:
    """Return the graph of a model, with layers opened. Their proof needs weights, which are read."""
    import keras_graft as kg
    from keras_graft.model.read import has_code

    found = load(run, model) if opened else structure(run, model)
    if not opened and has_code(found):
        found = load(run, model)
    return kg.read(found, open=opened or None)


def _loaded(run: Run, model: str, weights: bool) -> Any:
    from keras_graft.model import files

    run.progress.say(f"Reading {model}")
    if run.unsafe and not model.startswith("app:"):
        run.warn(f"--unsafe: Python code in {model} may run, and do all that you may do.")
    return files.load(model, sizes(run.input_shape), weights=weights, unsafe=run.unsafe)


def sizes(text: str | None, option: str = "--input-shape") -> tuple[int, ...] | None:
    """Return the numbers of `64,64,3`."""
    if text is None:
        return None
    try:
        return tuple(int(size) for size in text.strip("()").rstrip(",").split(","))
    except ValueError:
        raise UsageError(f"{option} takes whole numbers, such as 64,64,3: {text}") from None


def check_free(run: Run, *paths: Path) -> None:
    """Check that models can be written, before anything is computed."""
    from keras_graft.model import files

    files.check_free({str(i): path for i, path in enumerate(paths)}, run.force)


def make(run: Run, out: Path, model: Callable[[], Any]) -> Told:
    """Write the model that a function makes, and say what was written."""
    check_free(run, out)
    return written(run, {"model": model()}, {"model": out})


def written(run: Run, models: dict[str, Any], paths: dict[str, Path], **more: Any) -> Told:
    """Save models, all or none, and say what was written."""
    from keras_graft.model.files import save

    run.progress.say("Writing")
    save(models, paths)
    rows = [
        {
            "path": str(paths[key]),
            "inputs": [[list(t.shape), t.dtype] for t in model.inputs],
            "outputs": [[list(t.shape), t.dtype] for t in model.outputs],
            "parameters": model.count_params(),
        }
        for key, model in models.items()
    ]
    return Told({**more, "written": rows}, _table(rows))


def _table(rows: list[dict[str, Any]]) -> Rows:
    head = ("written", "inputs", "outputs", "params")
    return Rows(
        head,
        [(r["path"], _specs(r["inputs"]), _specs(r["outputs"]), r["parameters"]) for r in rows],
    )


def _specs(tensors: list[Any]) -> str:
    return "; ".join(
        f"({', '.join('?' if d is None else str(d) for d in shape)}) {dtype}"
        for shape, dtype in tensors
    )
