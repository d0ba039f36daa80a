"""What a shard costs the caller of Ray, with 50 actors that compute nothing.

    KERAS_BACKEND=torch python benchmarks/actors.py                # docs/benchmarks-actors.md
    KERAS_BACKEND=torch python benchmarks/actors.py --quick        # to the screen

The actors import no Keras. Each writes its segment of the journal, and tells the entry of a shard; the
caller puts them in order, merges segments, and keeps the manifest, as it does in
`kg.features.compute(..., engine="ray")`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from store import manifest  # beside this file

from keras_graft.features.engines.ray_actors import entry_of
from keras_graft.features.engines.ray_pool import in_order
from keras_graft.features.store.entries import ShardEntry
from keras_graft.features.store.folder import Folder
from keras_graft.features.store.journal import Journal
from keras_graft.features.store.loading import load
from keras_graft.features.store.segments import name_of
from keras_graft.tables import table

ROOT = Path(__file__).parents[1]
SIZES = (1000, 5000, 20_000)
HEAD = """# What a shard costs the caller of Ray

Written by `benchmarks/actors.py` on two shared cores: {actors} actors that import no Keras and compute nothing. Each writes its
segment of the journal; the caller puts the shards in order, merges segments and keeps the manifest.
Milliseconds are those of the caller's processor, with all threads of Ray in it. "Names" is what is left
of it without Ray: the same shards, told by a loop in place of actors. A network or a real trunk
adds nothing to these numbers, as actors wait for them.
"""


class Stub:
    """An actor that knows the entry of each shard."""

    def __init__(self, folder: str, total: str, entry: str) -> None:
        self._folder, self._total, self._entry = folder, total, entry

    def ready(self) -> None:
        """Return once it has started."""

    def work(self, number: int) -> str:
        """Write the segment of a shard; return its entry."""
        name = f"journal-{self._total}-{number:08}-{number + 1:08}.jsonl"
        with open(f"{self._folder}/{name}", "x") as file:
            file.write(self._entry)
        told: dict[str, Any] = {**json.loads(self._entry), "file": f"shard-{number:05}.safetensors"}
        return json.dumps(told)


class Loop:
    """Does the work of all actors in the caller, not counted."""

    def __init__(self, stub: Stub) -> None:
        self.stub, self.seconds = stub, 0.0

    def told(self, count: int) -> Any:
        """Yield the entries of shards."""
        for number in range(count):
            start = time.process_time()
            text = self.stub.work(number)
            self.seconds += time.process_time() - start
            yield text


def measured(count: int, actors: int) -> tuple[float, float]:
    """Return the milliseconds for a shard: of the caller in all, and without Ray."""
    entry = ShardEntry("", 1, 100, "0" * 16, ("0" * 16,), ("0" * 16,))
    text = json.dumps(asdict(entry))
    found = []
    for kind in ("ray", "loop"):
        with tempfile.TemporaryDirectory(
            dir="/dev/shm" if Path("/dev/shm").is_dir() else None
        ) as place:
            folder = Folder(Path(place))
            journal = Journal(folder, manifest(), "a run")
            total = name_of(journal.numbered.total, 0, 1).split("-")[1]
            if kind == "ray":
                actor = ray.remote(Stub).options(num_cpus=0)
                pool = [actor.remote(place, total, text) for _ in range(actors)]
                ray.get([one.ready.remote() for one in pool])
                start = time.process_time()
                told = in_order(pool, ((i,) for i in range(count)), lambda text: None)
            else:
                loop, pool = Loop(Stub(place, total, text)), []
                start = time.process_time()
                told = loop.told(count)
            for own in told:
                journal.take(entry_of(own))
            seconds = time.process_time() - start
            if kind == "loop":
                seconds -= loop.seconds
            found.append(seconds / count * 1000)
            journal.finish()
            assert len(journal.manifest.shards) == count == len(load(folder).shards)
            for one in pool:
                ray.kill(one)
    return found[0], found[1]


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--quick", action="store_true")
    options.add_argument("--actors", type=int, default=50)
    given = options.parse_args()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    rows = []
    for count in SIZES[:1] if given.quick else SIZES:
        whole, names = measured(count, given.actors)
        rows.append((f"{count:,}", f"{whole:.2f}", f"{names:.2f}"))
        print(rows[-1], flush=True)
    text = f"{HEAD.format(actors=given.actors)}\n```\n{table(('shards', 'caller ms/shard', 'names'), rows)}\n```\n"
    if given.quick:
        print(text)
    else:
        (ROOT / "docs" / "benchmarks-actors.md").write_text(text)


if __name__ == "__main__":
    main()
