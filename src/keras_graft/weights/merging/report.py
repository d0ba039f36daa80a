"""`Merged`: what `merge_checkpoints` gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from keras_graft.tables import Table, Tabular


@dataclass(frozen=True, repr=False)
class Merged(Tabular):
    """What `merge_checkpoints` gives; prints as a table.

    Attributes:
        model: The merged model; None if only files were given.
        out: The file that was written, or None.
        method: How.
        merged: The addresses of the weights that were merged.
        copied: The addresses of those copied from the first source: not selected, or no floats.
    """

    model: Any = field(repr=False)
    out: str | None
    method: str
    merged: tuple[str, ...]
    copied: tuple[str, ...]

    def tables(self) -> list[Table]:
        """Return how many weights were merged and copied."""
        title = f"{self.method}" + (f", written to {self.out!r}" if self.out else "")
        rows = [("merged", len(self.merged)), ("copied from the first", len(self.copied))]
        return [(title, ("", "weights"), rows)]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "out": self.out,
            "method": self.method,
            "merged": list(self.merged),
            "copied": list(self.copied),
        }
