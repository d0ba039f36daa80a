"""Tables: the same rows as aligned text, as HTML in a notebook, and as data.

Names come from files: invisible characters are escaped in every title, head and cell.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

from keras_graft.printable import printable

_NUMBER = re.compile(r"\?|(at least )?[0-9,.]*[0-9](%| [kMGT]?B)?( x .*)?( \+ .*)?")

Table = tuple[str | tuple[str, ...], Sequence[str], Sequence[Sequence[object]]]
"""The title (one line or a tuple of lines), the head, the rows."""


class Tabular:
    """Base class of reports that print as tables. A subclass returns them from `tables`."""

    def tables(self) -> list[Table]:
        """Return the tables, each as (title, head, rows)."""
        raise NotImplementedError

    def __str__(self) -> str:
        parts = []
        for title, head, rows in self.tables():
            lines = [*_lines(title), table(head, rows) if rows else ""]
            parts.append("\n".join(filter(None, lines)))
        return "\n\n".join(parts)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return "".join(
            (f"<p>{'<br>'.join(map(html.escape, _lines(title)))}</p>" if title else "")
            + (html_table(head, rows) if rows else "")
            for title, head, rows in self.tables()
        )


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return rows as text in aligned columns; numbers are right-aligned.

    >>> print(table(["layer", "params"], [["dense", 10], ["out", 3]]))
    layer  params
    dense      10
    out         3
    """
    cells, right = cells_of(head, rows)
    head = [printable(h) for h in head]
    widths = [max([len(h), *(len(row[i]) for row in cells)]) for i, h in enumerate(head)]
    lines = []
    for row in [head, *cells]:
        parts = [
            c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def html_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return rows as an HTML table."""
    top = "".join(f"<th>{html.escape(printable(h))}</th>" for h in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_cell(c))}</td>" for c in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def shortened(names: Iterable[str], most: int = 3) -> str:
    """Return names as text; of more than `most`, the first ones and how many more there are.

    >>> shortened(["a", "b"]), shortened(["a", "b", "c", "d"])
    ('a and b', 'a, b and 2 more')
    """
    names = list(names)
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun, in the singular for 1.

    >>> counted(1, "sample"), counted(2_000, "sample"), counted(0, "branch", "branches")
    ('1 sample', '2,000 samples', '0 branches')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def in_bytes(size: float) -> str:
    """Return a number of bytes as text, in powers of 1,000.

    >>> in_bytes(64), in_bytes(802_816), in_bytes(1_605_632_000), in_bytes(0.5)
    ('64 B', '803 kB', '1.6 GB', '0.5 B')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            break
        size /= 1000
    plain = size >= 99.5 or size == int(size)
    return f"{size:,.0f} {unit}" if plain else f"{size:{'.1f' if size >= 1 else '.2g'}} {unit}"


def _lines(title: str | tuple[str, ...]) -> list[str]:
    return [printable(line) for line in ((title,) if isinstance(title, str) else title)]


def _cell(value: Any) -> str:
    if value is None:
        return "?"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return printable(value)


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def cells_of(
    head: Sequence[str], rows: Iterable[Sequence[object]]
) -> tuple[list[list[str]], list[bool]]:
    """Return the cells of a table as text, and for each column whether it holds numbers.

    Some cells of such a column may be empty.

    >>> cells_of(["layer", "params"], [["dense", 1000]])
    ([['dense', '1,000']], [False, True])
    """
    cells = [[_cell(c) for c in row] for row in rows]
    filled = [[row[i] for row in cells if row[i]] for i in range(len(head))]
    return cells, [bool(column) and all(map(_is_number, column)) for column in filled]
