"""What exporting a store takes, and reading the export, beside reading the store itself.

    KERAS_BACKEND=torch python benchmarks/export.py            # the table of docs/scale.md, to the screen
    KERAS_BACKEND=torch python benchmarks/export.py --quick    # of 2,000 samples

Reading WebDataset is left out where the package `webdataset` is not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from store import manifest, shard

from keras_graft.features import FeatureStore, export
from keras_graft.features.store.checksum import checksum
from keras_graft.features.store.entries import ShardEntry
from keras_graft.features.store.folder import Folder
from keras_graft.features.store.journal import Journal
from keras_graft.features.store.shards import shard_name

WIDTH, ROWS, BATCH = 1024, 2000, 250


def made(place: Path, count: int) -> FeatureStore:
    """Return a store of `count` samples: 1,024 float32 and a target each, 8 MB in a shard."""
    place.mkdir()
    journal = Journal(Folder(place), manifest(WIDTH))
    for number in range(count // ROWS):
        data = shard(ROWS, WIDTH, number * ROWS)
        name, total = shard_name(number), checksum([data])
        (place / name).write_bytes(data)
        journal.add(ShardEntry(name, ROWS, len(data), total, (total,), (total,)))
    journal.finish()
    return FeatureStore(place)


def in_order(store: FeatureStore) -> Iterator[Any]:
    for start in range(0, len(store), BATCH):
        yield store.take(np.arange(start, start + BATCH))["targets"]


def shuffled(store: FeatureStore) -> Iterator[Any]:
    order = np.random.default_rng(0).permutation(len(store))
    for start in range(0, len(store), BATCH):
        yield store.take(order[start : start + BATCH])["targets"]


def of_tars(place: Path) -> Iterator[Any]:
    """Read with the package webdataset, in order."""
    import webdataset

    files = [str(path) for path in sorted(place.glob("*.tar"))]
    data = webdataset.WebDataset(files, shardshuffle=False, empty_check=False).decode()
    for x, y in data.to_tuple("x.npy", "y.npy").batched(BATCH):
        assert x.shape == (BATCH, WIDTH)
        yield y


def of_parquet(place: Path) -> Iterator[Any]:
    """Read with pyarrow, in order."""
    import pyarrow.dataset as ds

    for batch in ds.dataset(place).to_batches(batch_size=BATCH):
        x = batch.column("x").flatten().to_numpy().reshape(-1, WIDTH)
        assert x.dtype == np.float32
        yield batch.column("y").to_numpy()


def took(work: Callable[[], Any]) -> float:
    """Return the seconds of the processor that work takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def read(batches: Callable[[], Iterator[Any]], count: int) -> float:
    """Return what reading takes, after it has been seen to give every sample once."""
    found = np.concatenate([np.asarray(y) for y in batches()])
    assert np.array_equal(np.sort(found), np.arange(count))
    return took(lambda: [None for _ in batches()])


def measured(place: Path, count: int) -> list[tuple[str, float, int]]:
    """Return for each thing that is done: what, seconds, and bytes on the disk."""
    store = made(place / "store", count)
    rows = [
        ("the store, in order", read(lambda: in_order(store), count), store.bytes),
        ("the store, shuffled", read(lambda: shuffled(store), count), store.bytes),
    ]
    readers = {"webdataset": of_tars, "parquet": of_parquet}
    for name, reader in readers.items():
        out = place / name
        seconds = took(lambda name=name, out=out: export(store, out, name))
        size = sum(path.stat().st_size for path in out.iterdir())
        rows.append((f"export to {name}", seconds, size))
        if importlib.util.find_spec("webdataset" if name == "webdataset" else "pyarrow"):
            again = read(lambda reader=reader, out=out: reader(out), count)
            rows.append((f"{name}, in order", again, size))
    return rows


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--quick", action="store_true")
    count = 2 * ROWS if options.parse_args().quick else 10 * ROWS
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as place:
        rows = measured(Path(place), count)
    first = rows[0][1]
    print(
        "| What | samples a second of one core | time, of reading the store | bytes on the disk |"
    )
    print("| --- | --- | --- | --- |")
    for name, seconds, size in rows:
        print(f"| {name} | {count / seconds:,.0f} | {seconds / first:.1f} | {size / 1e6:.0f} MB |")


if __name__ == "__main__":
    main()
