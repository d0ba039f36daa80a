"""Tables of pandas as arrays."""

from __future__ import annotations

from typing import Any

import keras

from keras_graft.errors import FeatureError
from keras_graft.graph.names import listed


def plain(part: Any, what: str) -> Any:
    """Return arrays in place of tables and their columns, which are indexed by label.

    Args:
        part: Arrays or tables, nested in any way.
        what: Whether they are inputs, targets or sample weights.

    Raises:
        FeatureError: If a table has columns that are not numbers.
    """
    return keras.tree.map_structure(lambda item: _array(item, what), part)


def _array(item: Any, what: str) -> Any:
    if not hasattr(item, "iloc"):
        return item
    bad = [c for c in getattr(item, "columns", ()) if item[c].dtype.kind not in "biufc"]
    if bad:
        names = listed(map(str, bad))
        raise FeatureError(
            f"The {what} have columns that are not numbers: {names}. Give each text a number, "
            f"table[{bad[0]!r}].astype('category').cat.codes, make a column of each, "
            f"pandas.get_dummies(table).astype('float32'), or leave them out, "
            f"table.drop(columns={bad!r})."
        )
    return item.to_numpy()
