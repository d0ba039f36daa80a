"""Print what a command says: tables that fit the terminal, plain text in a pipe, or JSON."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from typing import Any

import typer

_GAP, _LEAST = 2, 10
"""Spaces behind a column, and how narrow text becomes."""
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

    Where they are too wide, a dtype that a whole column has in common moves into its head, and
    heads take several lines; then text folds, that of the first column last. Numbers never do.
    """
    from rich.table import Table
    from rich.text import Text

    from keras_graft.printable import printable
    from keras_graft.tables import cells_of

    cells, numbers = cells_of(head, rows)
    found = zip(map(printable, head), zip(*cells, strict=True), numbers, strict=True)
    columns = [(name, list(column), number) for name, column, number in found if any(column)]
    if sum(_widths(columns)) > width:
        columns = [(*_narrower(name, column), number) for name, column, number in columns]
    widths = _fitting(_widths(columns), [number for _, _, number in columns], width)
    made = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for i, (name, _, number) in enumerate(columns):
        made.add_column(
            Text(name), justify="right" if number else "left", overflow="fold",
            style="" if i else "cyan", width=widths[i] - _GAP,
        )  # fmt: skip
    for row in zip(*(column for _, column, _ in columns), strict=True):
        made.add_row(*map(Text, row))
    return made


def _widths(columns: list[tuple[str, list[str], bool]]) -> list[int]:
    """Return how wide columns are, with the gap behind each."""
    return [
        _GAP + max(map(len, [*name.split("\n"), *column])) for name, column, _ in columns
    ]  # fmt: skip


def _fitting(widths: list[int], numbers: list[bool], width: int) -> list[int]:
    """Return the widths of columns of which those with text are narrower, to fit together."""
    result = list(widths)
    texts = [i for i, number in enumerate(numbers) if not number]
    for among in (texts[1:], texts[:1]):
        while sum(result) - _GAP > width and among:
            widest = max(among, key=lambda i: result[i])
            if result[widest] <= _LEAST:
                break
            result[widest] -= 1
    return result


def _narrower(name: str, column: list[str]) -> tuple[str, list[str]]:
    """Return a head and its column with less width: what all specs end with, and long heads."""
    filled = [cell for cell in column if cell]
    ends = {cell.rpartition(") ")[2] for cell in filled}
    if len(ends) == 1 and all(") " in cell and "; " not in cell for cell in filled):
        (dtype,) = ends
        name, column = f"{name} {dtype}", [cell.removesuffix(f" {dtype}") for cell in column]
    lines = [""]
    room = max(map(len, column))
    for word in re.findall(r"[^\s/]+/?", name):
        joined = f"{lines[-1]} {word}".strip() if not lines[-1].endswith("/") else lines[-1] + word
        lines[-1:] = [joined] if len(joined) <= room or not lines[-1] else [lines[-1], word]
    return "\n".join(lines), column


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
