"""Stores that are used together: of the same samples, side by side."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from keras_graft import advice
from keras_graft.errors import FeatureError
from keras_graft.features.store.column import is_label
from keras_graft.features.store.store import FeatureStore
from keras_graft.graph.names import listed
from keras_graft.tables import counted


def open_store(store: Any) -> FeatureStore:
    found = store if isinstance(store, FeatureStore) else FeatureStore(store)
    if not found.complete:
        raise FeatureError(
            f"{found.path} is not complete: {counted(len(found), 'sample')} so far. Finish it with "
            "kg.features.compute and the same data."
        )
    return found


def check_together(stores: list[FeatureStore], names: list[str] | None) -> None:
    if not stores:
        raise FeatureError("No store was given.")
    if names is not None and (len(names) != len(stores) or len(set(names)) != len(names)):
        raise FeatureError(f"{len(stores)} stores have the names {names}: give each its own name.")
    first = stores[0]
    for other in stores[1:]:
        ours, theirs = ({s.index for s in store.manifest.skipped} for store in (first, other))
        if ours != theirs:
            raise FeatureError(
                f"{first.path} and {other.path} do not leave out the same samples: "
                f"{listed(map(str, sorted(ours ^ theirs)))} are in only one of them."
            )
        if len(other) != len(first):
            raise FeatureError(
                f"{first.path} holds {counted(len(first), 'sample')}, {other.path} {len(other):,}: stores that "
                "are used together must hold the same samples."
            )
    for one, other in itertools.combinations(stores, 2):
        if not one.same_inputs(other):
            raise FeatureError(
                f"{one.path} and {other.path} were made of different inputs, or in a different order."
            )
        sums = _checksums(one), _checksums(other)
        wrong = {part for at, part in sums[0].keys() & sums[1].keys()
                 if sums[0][at, part] != sums[1][at, part]}  # fmt: skip
        if "inputs" in wrong:
            raise FeatureError(
                f"{one.path} and {other.path} were made of different inputs, or in a different order."
            )
        if wrong:
            raise FeatureError(
                f"{one.path} and {other.path} hold different {listed(sorted(wrong))}, and only "
                f"one can be given: compute the other store with {advice.option('targets', False)}."
            )
    layouts = [store.manifest.layout for store in stores]
    if any("weights" in layout for layout in layouts) and not any(
        "targets" in layout for layout in layouts
    ):
        raise FeatureError(
            f"{first.path} holds sample weights but no targets, and fit takes weights only with "
            f"targets: compute it with targets, or with {advice.option('targets', False)}."
        )


def _checksums(store: FeatureStore) -> dict[tuple[Any, str], Any]:
    """Return the checksums of inputs, targets and weights, by the samples they belong to.

    Shards of different stores may begin at different samples. Those are not compared.
    """
    found: dict[tuple[Any, str], Any] = {}
    columns = store.manifest.columns
    names = sorted(name for name in columns if is_label(name))
    start = 0
    for shard in store.manifest.shards:
        at = start, start + shard.samples
        found[at, "inputs"] = shard.inputs
        for kind in ("targets", "weights"):
            own = [
                (name, columns[name], value)
                for name, value in zip(names, shard.labels, strict=True)
                if name.startswith(f"{kind}/")
            ]
            if own:
                found[at, kind] = own
        start += shard.samples
    return found


def side_by_side(names: Sequence[str], features: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, own in zip(names, features, strict=True):
        if isinstance(own, dict):
            found.update((f"{name}/{key}", value) for key, value in own.items())
        elif isinstance(own, list):
            found.update((f"{name}/{i}", value) for i, value in enumerate(own))
        else:
            found[name] = own
    return found
