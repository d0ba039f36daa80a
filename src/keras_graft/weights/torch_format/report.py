"""The report of which module is which layer; it can be written to a file and given back."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keras_graft.errors import WeightsError
from keras_graft.printable import words_of
from keras_graft.tables import Table, Tabular
from keras_graft.weights.report import ModulePair, module_counts
from keras_graft.weights.torch_format.names import UNKNOWN


@dataclass(frozen=True, repr=False)
class TorchNames(Tabular):
    """Which module of PyTorch is which layer; prints as tables.

    Attributes:
        source: What the names came from.
        target: The name of the model.
        modules: The modules and their layers. `how` is `"guess"` where several fit.
        unmatched: Modules without a layer.
        missing: Addresses of layers without a module.
    """

    source: str
    target: str
    modules: tuple[ModulePair, ...]
    unmatched: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def mapping(self) -> dict[str, str]:
        """The layer of each module, as `match=` takes it; `"?"` where it is not known."""
        found = {pair.module: pair.layer for pair in self.modules}
        return {**found, **dict.fromkeys(self.unmatched, UNKNOWN)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `mapping` to a JSON file, to be corrected and given as `match=`.

        Raises:
            WeightsError: If the file cannot be written.
        """
        text = json.dumps(self.mapping, indent=1, ensure_ascii=True)
        try:
            Path(path).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise WeightsError(
                f"torch_names: {str(path)!r} cannot be written: {words_of(error)}"
            ) from error

    def tables(self) -> list[Table]:
        """Return the summary, the modules, and what is left over."""
        summary = module_counts(self.modules)
        left = {"modules without a layer": self.unmatched, "layers without a module": self.missing}
        summary += [(name, len(items)) for name, items in left.items() if items]
        rows = [(p.module, p.layer, p.how) for p in self.modules]
        rows += [(name, UNKNOWN, "") for name in self.unmatched]
        rows += [("", address, "") for address in self.missing]
        title = f"{self.source} and {self.target!r}"
        return [(title, ("", "count"), summary), ("", ("module", "layer", "how"), rows)]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON."""
        return {
            **{name: getattr(self, name) for name in ("source", "target")},
            "modules": [asdict(pair) for pair in self.modules],
            "unmatched": list(self.unmatched),
            "missing": list(self.missing),
        }
