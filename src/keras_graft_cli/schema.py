"""The JSON schemas of what commands print with `--json`."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Annotated, Any

import typer

from keras_graft_cli.completion import commands
from keras_graft_cli.errors import UsageError
from keras_graft_cli.group import MORE
from keras_graft_cli.running import COMMANDS, Run, Told, command

_WRITES = (
    "extract", "submodel", "split", "join", "replace", "insert", "remove", "rewire", "repeat",
    "inline", "nest", "reinput", "freeze", "clone", "tie", "untie", "replay",
    "prune", "quantize", "plain", "remat", "recipe",
)  # fmt: skip
"""The commands that write models and say nothing else."""


def with_schema() -> list[str]:
    """Return the commands that have `--json`."""
    return [name for name, json in COMMANDS.items() if json]


def schema_of(command: str) -> dict[str, Any]:
    """Return the schema of what a command prints."""
    name = "written" if command in _WRITES else command.replace(" ", "_")
    return json.loads((files("keras_graft_cli") / "schemas" / f"{name}.json").read_text())


@command(panel=MORE, keras=False, json=False)
def schema(
    run: Run,
    name: Annotated[
        list[str],
        typer.Argument(help="A command, such as cuts or features info.", autocompletion=commands),
    ],
) -> Told:
    """Print the JSON schema of what a command prints with --json.

    Example: keras-graft schema cuts
    """
    import difflib

    wanted = " ".join(name)
    known = with_schema()
    if wanted not in known:
        near = difflib.get_close_matches(wanted, known)
        hint = f"Nearest: {', '.join(near)}." if near else f"They are {', '.join(known)}."
        raise UsageError(f"No command {wanted!r} prints JSON. {hint}")
    return Told(None, json.dumps(schema_of(wanted), indent=2))
