"""Keep the good shards of a store, and find out that some are missing or cut short."""

from __future__ import annotations

import itertools
import os
from numbers import Integral

from keras_graft import advice
from keras_graft.errors import FeatureError
from keras_graft.features.store.folder import Folder
from keras_graft.features.store.loading import load
from keras_graft.features.store.location import leftovers
from keras_graft.features.store.manifest import NAME, Manifest
from keras_graft.features.store.remote import folder_at
from keras_graft.printable import shown
from keras_graft.tables import counted


def check_sizes(folder: Folder, manifest: Manifest) -> None:
    """Refuse a store with a shard that is missing or cut short."""
    sizes = folder.sizes()
    pairs = zip(manifest.shards.files(), manifest.shards.array["bytes"].tolist(), strict=True)
    for number, (name, known) in enumerate(pairs):
        size = sizes.get(name)
        if size != known:
            raise FeatureError(
                f"{folder}: shard {name!r} "
                + ("does not exist" if size is None else f"has {counted(size, 'byte')}")
                + f", {known:,} were written. {way_out(folder, number)}"
            )


def way_out(folder: Folder, number: int) -> str:
    """Return what the user can do about a damaged shard."""
    if not number:
        return f"No shard before it is left: compute the store again, with {advice.option('resume', False)}."
    return (
        f"Keep the {counted(number, 'shard')} before it, and compute the rest again: "
        f"kg.features.keep({str(folder)!r}, {number}), then kg.features.compute with the same data."
    )


def keep(path: str | os.PathLike[str], shards: int) -> None:
    """Keep the first shards of a store and delete the rest, so that they are computed again.

    Args:
        path: The folder, or its URL.
        shards: How many to keep.

    Raises:
        FeatureError: If there is no store, another process writes to it, or `shards` is no number
            of shards.

    >>> import tempfile, keras, numpy as np, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> trunk = kg.freeze(keras.Model(x, keras.layers.Dense(3, name="d")(x), name="tiny"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = kg.features.compute(trunk, np.ones((8, 4)), folder, progress=False)
    ...     kg.features.keep(folder, 0)
    ...     len(store), len(kg.features.FeatureStore(folder))
    (8, 0)
    """
    if not isinstance(shards, Integral) or shards < 0:
        raise FeatureError(f"keep: {shown(shards)} shards: give how many to keep, 0 or more.")
    folder = folder_at(path)
    if load(folder) is None:
        raise FeatureError(f"{folder} is not a store of features: it has no {NAME}.")
    lock = folder.lock()
    if lock is None:
        raise FeatureError(f"Another process is writing to {folder}: wait for it, or stop it.")
    with lock:
        found = load(folder)  # another writer may have changed it before we got the lock
        assert found is not None
        new = found.replace(shards=found.shards[:shards], complete=False)
        new.save(folder)
        for name in itertools.islice(found.shards.files(), len(new.shards), None):
            folder.delete(name)
        for name in leftovers(folder, new):
            folder.delete(name)
