"""How a store grows, opens, and is read beyond memory.

    KERAS_BACKEND=torch python benchmarks/store.py            # docs/benchmarks-store.md and its picture
    KERAS_BACKEND=torch python benchmarks/store.py --quick    # up to 2,000 shards, to the screen

"Before" is the manifest that was written whole after each shard, measured in the same run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np

from keras_graft.features import FeatureDataset, FeatureStore
from keras_graft.features.head import reading
from keras_graft.features.head.order import mixing
from keras_graft.features.store.checksum import checksum
from keras_graft.features.store.column import Column
from keras_graft.features.store.entries import ShardEntry, Shards
from keras_graft.features.store.folder import Folder, Parts
from keras_graft.features.store.journal import Journal
from keras_graft.features.store.manifest import Manifest
from keras_graft.features.store.rows import Rows
from keras_graft.features.store.shards import encode, shard_name
from keras_graft.tables import in_bytes, table

ROOT = Path(__file__).parents[1]
SIZES = (1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
AROUND = 4096
"""Shards that are added up to each size: as many as the longest segment has."""
DIGEST = Column((), "uint64")
HEAD = """# How a store grows

Written by `benchmarks/store.py` on two shared cores. Shards are tiny (one row), so that what is
measured is the manifest and the journal. Milliseconds and seconds are those of the processor: the
folder is in memory where there is such a place, as other programs use the disk of this machine.
"Before" is the manifest written whole after each shard, measured on a few shards at each size.
"After" is the mean over the last 4,096 shards, with all merging. Bytes are those written for a
shard beside the shard itself. "Memory" is what an opened store keeps, and "peak" what opening takes.
"""


def manifest(width: int = 1) -> Manifest:
    """Return the manifest of a store of float32 features, targets and digests."""
    columns = {"features/": Column((width,), "float32"), "targets/": Column((), "int64"),
               "digests/inputs": DIGEST, "digests/labels": DIGEST}  # fmt: skip
    layout = {"features": "one", "targets": "one", "digests": "dict"}
    return Manifest(columns, layout, {"structure": "x", "weights": "y"}, 1, 1, {"keras": "3"})


def shard(rows: int, width: int, start: int = 0) -> bytes:
    """Return the bytes of a shard."""
    rng = np.random.default_rng(start)
    return b"".join(encode({
        "features/": [rng.random((rows, width), "float32")],
        "targets/": [np.arange(start, start + rows)],
        "digests/inputs": [np.zeros(rows, np.uint64)], "digests/labels": [np.zeros(rows, np.uint64)],
    }))  # fmt: skip


def whole(folder: Folder, entries: list[dict[str, Any]], base: Manifest) -> int:
    """Write the manifest as it was written before; return its bytes."""
    raw = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
    raw["columns"] = {name: dataclasses.asdict(c) for name, c in base.columns.items()}
    said = json.dumps({**raw, "shards": entries}, indent=1).encode()
    data = f'{{\n "checksum": "{checksum([said])}",'.encode() + said[1:]
    folder.write("manifest.json", data)
    return len(data)


def grown(place: Path, count: int) -> dict[str, float]:
    """Let a store grow to a size; return what the last shards took, and what opening it takes."""
    place.mkdir()
    folder, data = Folder(place), shard(1, 1)
    total = checksum([data])
    entries = [
        ShardEntry(shard_name(i), 1, len(data), total, (total,), (total,)) for i in range(count)
    ]
    for entry in entries:
        (place / entry.file).write_bytes(data)
    found: dict[str, float] = {"shards": count}
    raw = [{**dataclasses.asdict(entry), "skipped": []} for entry in entries]
    start = time.process_time()
    for _ in range(3):
        found["before bytes"] = whole(folder, raw, manifest())
    found["before ms"] = (time.process_time() - start) / 3 * 1000
    del raw
    added = min(AROUND, count)
    base = manifest().replace(shards=Shards(entries[: count - added]))
    written, real = [0], Folder.write

    def write(self: Folder, name: str, *pieces: Any) -> None:
        written[0] += sum(map(len, pieces))
        real(self, name, *pieces)

    made = Journal(folder, base)
    Folder.write = write  # type: ignore[method-assign]
    try:
        start = time.process_time()
        for entry in entries[count - added :]:
            made.add(entry)
        found["after ms"] = (time.process_time() - start) / added * 1000
        found["after bytes"] = written[0] / added
    finally:
        Folder.write = real  # type: ignore[method-assign]
    made.finish()
    del made, base, entries
    start = time.process_time()
    store = FeatureStore(place)
    found["open s"] = time.process_time() - start
    assert len(store) == count
    del store
    tracemalloc.start()
    store = FeatureStore(place)
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert store.complete
    found["memory"], found["peak"] = now / count, peak / count
    return found


def growth(sizes: tuple[int, ...]) -> list[dict[str, float]]:
    """Return the rows of the table."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as place:
        return [grown(Path(place) / str(size), size) for size in sizes]


def cold(place: Path) -> None:
    """Take the files of a folder out of the page cache, where the system can."""
    for path in place.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def epochs(megabytes: int) -> list[tuple[object, ...]]:
    """Read a store that is four times larger than the memory, by rows and in blocks, cold."""
    width, rows = 1024, 2048
    count = max(2, megabytes * (1 << 20) // (rows * width * 4))
    with tempfile.TemporaryDirectory(dir=ROOT) as name:
        place = Path(name)
        entries = []
        for i in range(count):
            data = shard(rows, width, i * rows)
            (place / shard_name(i)).write_bytes(data)
            entries.append(
                ShardEntry(
                    shard_name(i), rows, len(data), checksum([data]), ("0" * 16,), ("0" * 16,)
                )
            )
        manifest(width).replace(shards=Shards(entries), complete=True).save(Folder(place))
        store = FeatureStore(place)
        memory = store.bytes // 4
        reading.memory = lambda: memory  # type: ignore[assignment]
        real, requests = Parts.read_into, [0, 0]

        def read_into(self: Parts, start: int, buffer: memoryview) -> None:
            requests[0] += 1
            requests[1] += len(buffer)
            real(self, start, buffer)

        found = []

        def sequential() -> float:
            cold(place)
            start = time.perf_counter()
            for entry in entries:
                (place / entry.file).read_bytes()
            return time.perf_counter() - start

        Parts.read_into = read_into  # type: ignore[method-assign]
        labels = np.arange(len(store)) * 10 // len(store)
        for kind in ("rows", "blocks"):
            store._rows = Rows(store._folder, store.manifest, None, kept=0, short=0)
            dataset = FeatureDataset(store, 64, shuffle=kind)  # type: ignore[arg-type]
            before = sequential()
            cold(place)
            requests[:] = [0, 0]
            start = time.perf_counter()
            order = np.concatenate([dataset[i][1] for i in range(len(dataset))])
            seconds = time.perf_counter() - start
            count, size = requests
            ratio = seconds / ((before + sequential()) / 2)  # disks grow slower and faster
            dataset.on_epoch_end()
            tracemalloc.start()  # it takes longer
            for i in range(len(dataset)):
                dataset[i]
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            run, distance = mixing(labels, order)
            found.append((
                kind, f"{count:,}", in_bytes(size // count), f"{ratio:.2f}",
                in_bytes(peak), f"{run:.3f}", f"{distance:.3f}",
            ))  # fmt: skip
        Parts.read_into = real  # type: ignore[method-assign]
        return [(f"{in_bytes(store.bytes)}, {in_bytes(memory)} of memory",), *found]


def picture(rows: list[dict[str, float]]) -> str:
    """Return the lines as SVG: bytes and milliseconds for a shard, on logarithmic axes."""
    kinds = [("before bytes", "bytes, before", "#c33"), ("after bytes", "bytes, after", "#36c"),
             ("before ms", "milliseconds, before", "#e99"), ("after ms", "milliseconds, after", "#8ad")]  # fmt: skip
    x = np.log10([row["shards"] for row in rows])
    x = 60 + 420 * (x - x[0]) / max(1e-9, x[-1] - x[0])
    parts = []
    for kind, label, color in kinds:
        y = 300 - 28 * (np.log10([max(1e-3, row[kind]) for row in rows]) + 2)
        points = " ".join(f"{a:.0f},{b:.0f}" for a, b in zip(x, y, strict=True))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>'
            f'<text x="488" y="{y[-1] + 4:.0f}" fill="{color}">{label}</text>'
        )
    for row, at in zip(rows, x, strict=True):
        parts.append(
            f'<text x="{at:.0f}" y="318" text-anchor="middle">{int(row["shards"]) // 1000}k</text>'
        )
    for power in range(-2, 9, 2):
        y = 300 - 28 * (power + 2)
        parts.append(
            f'<text x="50" y="{y + 4}" text-anchor="end">1e{power}</text>'
            f'<line x1="56" x2="480" y1="{y}" y2="{y}" stroke="#ddd"/>'
        )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 330" font-family="sans-serif" font-size="11">'
        f"<title>What a shard takes, by the number of shards</title>{''.join(parts)}</svg>\n"
    )


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--quick", action="store_true")
    quick = options.parse_args().quick
    rows = growth(SIZES[:2] if quick else SIZES)
    head = (
        "shards",
        "before ms/shard",
        "after",
        "before bytes/shard",
        "after",
        "open s",
        "memory/shard",
        "peak",
    )
    cells = [
        (f"{int(r['shards']):,}", f"{r['before ms']:.1f}", f"{r['after ms']:.2f}", f"{r['before bytes']:,.0f}",
         f"{r['after bytes']:,.0f}", f"{r['open s']:.2f}", f"{r['memory']:.0f} B", f"{r['peak']:.0f} B")
        for r in rows
    ]  # fmt: skip
    title, *read = epochs(16 if quick else 1024)
    text = f"""{HEAD}
```
{table(head, cells)}
```

![What a shard takes, by the number of shards](pictures/store-growth.svg)

## Reading beyond memory

An epoch over a store four times larger than the memory it is told to use ({title[0]}), taken out of the page
cache before. "Time" is as a multiple of reading the files one after the other. "Peak" is the memory of
arrays. "Label run" is how many samples of the same label follow each other where the store is sorted by
ten labels (1.111 if it is mixed fully), and "distance" that of neighbours as a share of the store (1/3).

```
{table(("shuffle", "requests", "bytes each", "time", "peak", "label run", "distance"), read)}
```
"""
    if quick:
        print(text)
        return
    (ROOT / "docs" / "benchmarks-store.md").write_text(text)
    (ROOT / "docs" / "pictures" / "store-growth.svg").write_text(picture(rows))


if __name__ == "__main__":
    main()
