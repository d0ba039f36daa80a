"""Which weight of one checkpoint is which of another."""

from __future__ import annotations

from typing import Any

from keras_graft.errors import WeightsError
from keras_graft.graph.names import listed
from keras_graft.weights.address import paired
from keras_graft.weights.merging.shares import VERB as _VERB
from keras_graft.weights.merging.sources import Entry, Source


def matched(first: Source, other: Source) -> dict[str, Entry]:
    """Return the entries of another source under the keys of the first.

    Raises:
        WeightsError: If a weight of one has no partner in the other, or one of another shape.
    """
    if first.kind == other.kind and first.kind != "model":
        pairs = {key: other.entries[key] for key in first.entries if key in other.entries}
    else:
        by_address = {entry.address: entry for entry in other.entries.values()}
        own = {entry.address: key for key, entry in first.entries.items()}
        source, target = (other, first) if first.model is not None else (first, other)
        found = list(paired(source.group, target.group)) if target.model is not None else []
        pairs = {}
        for mine, its in found:
            mine, its = (mine, its) if target is first else (its, mine)
            pairs[_key(first, mine, own)] = _entry(other, its, by_address)
        if not found:
            pairs = {key: by_address[a] for a, key in own.items() if a in by_address}
    lost = [entry.address for key, entry in first.entries.items() if key not in pairs]
    extra = {id(e) for e in other.entries.values()} - {id(e) for e in pairs.values()}
    more = [entry.address for entry in other.entries.values() if id(entry) in extra]
    if lost or more:
        what = [f"{other.label} has no {listed(lost, 3)}"] if lost else []
        what += [f"{first.label} has no {listed(more, 3)}"] if more else []
        raise WeightsError(
            f"{_VERB}: checkpoints of one architecture are merged, and {'; '.join(what)}. kg.diff shows "
            "how two differ; kg.transplant copies weights between networks that are not alike."
        )
    for key, entry in first.entries.items():
        if entry.shape != pairs[key].shape:
            raise WeightsError(
                f"{_VERB}: {entry.address!r} has the shape {entry.shape} in {first.label}, and "
                f"{pairs[key].shape} in {other.label}."
            )
    return pairs


def _key(source: Source, weight: Any, own: dict[str, str]) -> str:
    address = str(weight.address)
    return str(weight.path) if source.kind == "h5" else own.get(address, address)


def _entry(source: Source, weight: Any, by_address: dict[str, Entry]) -> Entry:
    return source.entries[weight.path] if source.kind == "h5" else by_address[weight.address]
