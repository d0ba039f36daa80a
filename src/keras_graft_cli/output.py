"""Print what a command says: tables that fit the terminal, plain text in a pipe, or JSON."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from typing import Any

import typer

_process = False


def own_process() -> None:
    """Say that this process runs one command and nothing else, as `main` does."""
    global _process
    _process = True


def is_a_process() -> bool:
    """Whether this process runs one command and nothing else; tests run several in theirs."""
    return _process


def on_a_terminal() -> bool:
    """Whether the output is read by a person now."""
    return sys.stdout.isatty()


def write_json(data: Any) -> None:
    """Print data as JSON."""
    typer.echo(json.dumps(data, indent=2, allow_nan=True))


def write(shown: Any) -> None:
    """Print text, a report with tables, or a list of these."""
    if not on_a_terminal():
        typer.echo("\n\n".join(map(str, _parts(shown))))
        return
    text = drawn(shown)
    if text.count("\n") < shutil.get_terminal_size().lines or not _paged(text):
        sys.stdout.write(text)
        sys.stdout.flush()


def drawn(shown: Any) -> str:
    """Return what is shown as text for this terminal: as wide as it is, in its colours."""
    from rich.console import Console

    console = Console(force_terminal=True)
    with console.capture() as captured:
        for number, part in enumerate(_parts(shown)):
            if number:
                console.print()
            _draw(console, part)
    return captured.get()


def _parts(shown: Any) -> list[Any]:
    """Return what is printed in turn. A report may be a list itself."""
    return shown if isinstance(shown, list) and not hasattr(shown, "tables") else [shown]


def _draw(console: Any, shown: Any) -> None:
    from rich.text import Text

    from keras_graft.printable import printable

    if not hasattr(shown, "tables"):
        console.print(Text(str(shown)), soft_wrap=True)
        return
    for number, (title, head, rows) in enumerate(shown.tables()):
        if number:
            console.print()
        for line in filter(None, (title,) if isinstance(title, str) else title):
            console.print(Text(printable(line), style="bold"))
        if rows:
            console.print(table(head, rows, console.width))
    footer = getattr(shown, "footer", None)
    if callable(footer):
        console.print(Text(str(footer())))


def table(head: Any, rows: Any, width: int) -> Any:
    """Return rows as a table of Rich within a width.

    Numbers and the names in the first column are not broken. Where the table is too wide, a dtype
    that a whole column has in common moves into its head; then the other columns fold.
    """
    from rich.table import Table
    from rich.text import Text

    from keras_graft.printable import printable
    from keras_graft.tables import cells_of

    cells, numbers = cells_of(head, rows)
    columns = [list(column) for column in zip(*cells, strict=True)]
    names = [printable(name) for name in head]
    if sum(max(map(len, [n, *c])) + 2 for n, c in zip(names, columns, strict=True)) - 2 > width:
        for i, column in enumerate(columns):
            names[i], columns[i] = _narrower(names[i], column)
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for i, (name, number) in enumerate(zip(names, numbers, strict=True)):
        longest = max(map(len, columns[i]), default=0)
        made.add_column(
            Text(name), justify="right" if number else "left", no_wrap=number, overflow="fold",
            style="" if i else "cyan", min_width=None if i else min(longest, width // 2),
        )  # fmt: skip
    for row in zip(*columns, strict=True):
        made.add_row(*map(Text, row))
    return made


def _narrower(name: str, column: list[str]) -> tuple[str, list[str]]:
    """Return a head and its column with less width: what all specs end with, and long words."""
    ends = {cell.rpartition(") ")[2] for cell in column if cell}
    if len(ends) == 1 and all(") " in cell and "; " not in cell for cell in column if cell):
        (dtype,) = ends
        name, column = f"{name} {dtype}", [cell.removesuffix(f" {dtype}") for cell in column]
    longest = max(map(len, column), default=0)
    if len(name) > longest:
        name = name.replace("/", "/\n").replace(" ", "\n")
    return name, column


def _paged(text: str) -> bool:
    """Show text in the user's pager; return whether that was possible."""
    if not sys.stdin.isatty() or os.environ.get("TERM") in (None, "dumb"):
        return False
    pager = os.environ.get("PAGER", "less")
    if not pager or shutil.which(pager.split()[0]) is None:
        return False
    environ = {"LESS": "-FRX", "LESSCHARSET": "utf-8", **os.environ}
    with (
        subprocess.Popen(pager, shell=True, stdin=subprocess.PIPE, env=environ) as process,
        contextlib.suppress(BrokenPipeError, KeyboardInterrupt),  # it was left early
    ):
        process.communicate(text.encode(errors="replace"))
    return True
