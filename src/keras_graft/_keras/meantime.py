"""Find layers, ops and tensors made since a moment, by the counters in Keras's automatic names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from keras_graft._keras import private


def names_given() -> dict[str, int]:
    """Return how many names Keras has made up so far, for each class: for `named_since`.

    Uses the global attribute `"object_name_uids"` (3.12 - 3.15).
    """
    return dict(_counts())


def take_names_back(given: Mapping[str, int]) -> None:
    """Let Keras make up the same names again that it made up since `names_given`.

    Uses the global attribute `"object_name_uids"` (3.12 - 3.15).
    """
    counts: Any = _counts()
    for name in list(counts):
        if name in given:
            counts[name] = given[name]
        else:
            del counts[name]


def _counts() -> Mapping[str, int]:
    return private.global_state.get_global_attribute("object_name_uids") or {}


def named_since(item: Any, given: Mapping[str, int]) -> str:
    """Return the kind of a layer, an op or a tensor that Keras named after `names_given`.

    That is `"dense"` for `dense_3`, and empty for all others. Keras counts only the names that it
    makes up: `dense_3` is one of them only if the count passed it in the meantime. If somebody gave
    that name to another layer, as a file does, the outputs of that layer's calls are older.
    Uses `Operation._inbound_nodes` (3.12 - 3.15).
    """
    name = str(item.name)
    numbered = re.fullmatch(r"(.+)_([1-9][0-9]{0,8})", name)
    for kind, number in [(name, 0)] + ([(numbered[1], int(numbered[2]))] if numbered else []):
        if given.get(kind, 0) <= number < _counts().get(kind, 0):
            calls = getattr(item, "_inbound_nodes", ())
            is_new = all(named_since(made, given) for call in calls for made in call.outputs)
            return kind if is_new else ""
    return ""


def forget_readers(tensors: Iterable[Any], given: Mapping[str, int]) -> None:
    """Remove the nodes that read these tensors since `names_given` from their producers.

    Uses `KerasTensor._keras_history`, `Operation._outbound_nodes` (3.12 - 3.15). Keras itself only
    checks whether that list is empty.
    """
    for tensor in tensors:
        history = getattr(tensor, "_keras_history", None)
        readers = getattr(history and history.operation, "_outbound_nodes", None)
        while readers and any(
            named_since(made, given) for made in getattr(readers[-1], "outputs", ())
        ):
            readers.pop()
