"""The program itself: its groups of commands, its help, and its own options."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

app = typer.Typer(
    help="Take trained Keras 3 networks apart and put them together again.\n\n"
    "MODEL is a .keras file, a legacy .h5 file, or app:NAME for an architecture of "
    "keras.applications with fresh weights (nothing is downloaded).",
    epilog="Exit codes: 0 success; 1 a refusal, or models that differ; 2 a file or a wrong option.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

features = typer.Typer(
    help="Run a trunk once over data, and store its outputs.", no_args_is_help=True
)
LOOK, PARTS, EDIT, WEIGHTS, TRAIN, MORE = (
    "Look", "Take apart, join", "Edit", "Weights", "Train", "More",
)  # fmt: skip
"""Under which heads the help lists the commands."""

app.add_typer(features, name="features", rich_help_panel=TRAIN)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"keras-graft {_installed('keras-graft')}, Keras {_installed('keras')}")
        raise typer.Exit


def _installed(name: str) -> str:
    """Return the version of a package, without importing it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print versions.")
    ] = False,
) -> None:
    pass
