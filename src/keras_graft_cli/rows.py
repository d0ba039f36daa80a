"""A table of a command's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Rows:
    """Rows under a head, with a line above them if there is one.

    Args:
        head: The names of the columns.
        rows: The rows.
        title: A line above.
    """

    def __init__(
        self, head: Sequence[str], rows: Sequence[Sequence[object]], title: str = ""
    ) -> None:
        self._table = (title, head, rows)

    def tables(self) -> list[Any]:
        """Return the one table, as reports do."""
        return [self._table]

    def __str__(self) -> str:
        from keras_graft.tables import table

        title, head, rows = self._table
        return f"{title}\n{table(head, rows)}" if title else table(head, rows)
