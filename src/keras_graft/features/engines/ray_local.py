"""Run the trunk over data of this process: actors write numbered shards, and name them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

import keras

from keras_graft.features.data import Batch, count
from keras_graft.features.engines.pipeline import read_ahead
from keras_graft.features.engines.ray_actors import (
    actors,
    check_skipped,
    ended,
    entry_of,
    environment,
    made_by,
    shipped,
    tried,
)
from keras_graft.features.engines.ray_options import RayOptions
from keras_graft.features.engines.ray_pool import in_order
from keras_graft.features.engines.ray_worker import Work, Worker
from keras_graft.features.engines.run import Run
from keras_graft.features.store.entries import Shards


def compute(run: Run, data: Any, how: RayOptions, progress: bool) -> None:
    """Give batches to actors as they are read. Shards have numbers, so actors name them too."""
    total = count(data)
    run.check_keys(total)
    bar = keras.utils.Progbar(total, unit_name="sample") if progress else None
    ahead = read_ahead(run.stream(data))
    pool: list[Any] = []
    try:
        rest = run.rest(ahead, data)
        if rest is None:
            return
        stream = iter(rest)
        batch = next(stream, None)
        if batch is None:
            run.check_ended(rest, None)
            return run.end()
        manifest = made_by(run.described(run.runner()(batch)[0], batch), how)
        done = manifest.samples
        gathered = _gathered(chain([batch], stream), manifest.rows_per_shard, done)
        calls = chain([next(gathered)], gathered)  # data may break off at its begin
        trunk, digests = shipped(run.trunk)
        journal = run.location.begin(manifest, uuid.uuid4().hex)
        work = Work(
            run.folder.address, replace(run.columns, keys=None), manifest.replace(shards=Shards()),
            run.skip, tried(batch), manifest.shards.next_number, journal.numbered,
        )  # fmt: skip
        pool, kept = _pool(work, trunk, digests, how)  # noqa: RUF059 - what Ray needs to restart them

        def arrived(text: str) -> None:
            nonlocal done
            told = json.loads(text)
            done += told.get("rows", 0) + len(told.get("skipped", ()))
            if bar is not None:
                bar.update(done, finalize=False)

        for text in in_order(pool, calls, arrived):
            entry = entry_of(text)
            check_skipped(run, entry)
            journal.take(entry)
        _stopped(pool)
        run.check_ended(rest, journal.manifest)
        run.check_keys(journal.manifest.samples)
        ended(run, journal)
        if bar is not None:
            bar.update(done, finalize=True)
    finally:
        ahead.close()
        _stopped(pool)


def _gathered(
    batches: Iterable[Batch], rows: int, start: int
) -> Iterator[tuple[int, int, list[Batch]]]:
    """Yield, for each shard, its number, the number of its first sample, and its batches."""
    number, own = 0, []
    for batch in batches:
        own.append(batch)
        samples = sum(map(len, own))
        if samples >= rows:
            yield number, start, own
            number, start, own = number + 1, start + samples, []
    if own:
        yield number, start, own


def _pool(
    work: Work, trunk: Any, digests: dict[str, str], how: RayOptions
) -> tuple[list[Any], Any]:
    """Return actors, and a reference that must be kept as long as they are."""
    import ray

    placed = ray.put(trunk)
    actor = ray.remote(Worker).options(
        num_cpus=how.cpus, num_gpus=how.gpus, max_restarts=-1, max_task_retries=-1,
        runtime_env=environment(how),
    )  # fmt: skip
    # In a list, Ray leaves it to the actor to load the trunk, which can say what is wrong with it.
    return [actor.remote(work, [placed], digests) for _ in range(actors(how, work))], placed


def _stopped(pool: list[Any]) -> None:
    """Kill actors, at once: what they write after an error would be left over."""
    import ray

    while pool:
        ray.kill(pool.pop())
