"""What actors know of a store that is resumed, without a cluster."""

import pickle

import pytest

from keras_graft.features.engines.ray_worker import Known
from keras_graft.features.store.entries import ShardEntry, Shards, Skipped
from keras_graft.features.store.shards import shard_name

pytestmark = pytest.mark.once


def entry(number, inputs, labels, skipped=()):
    sums = tuple(f"{n:016x}" for n in inputs), tuple(f"{n:016x}" for n in labels)
    return ShardEntry(shard_name(number), 3 - len(skipped), 400, "0" * 16, *sums, tuple(skipped))


def test_a_shard_is_found_by_its_samples_and_counts_them_from_0():
    # Six samples are before the third shard, and of its own three the second was left out.
    out = Skipped(7, "it failed", "0" * 16)
    shards = Shards([
        entry(0, (1, 2), (3,)), entry(1, (1, 3), (3,)), entry(2, (1, 2), (4,), [out]), entry(3, (1, 2), (3,)),
    ])  # fmt: skip
    known = Known(shards)

    def find(inputs, labels):
        wanted = entry(0, inputs, labels)
        return known.find(wanted.inputs, wanted.labels)

    assert find((1, 2), (3,)) == shards[0]  # of two that are equal the first
    assert find((1, 3), (3,)).file == shard_name(1)
    assert [s.index for s in find((1, 2), (4,)).skipped] == [1]
    assert find((2, 1), (3,)) is None and find((1, 2, 3), ()) is None
    assert Known(Shards()).find((), ()) is None


def test_what_is_sent_to_actors_is_small():
    shards = Shards([entry(i, (i, i), (i,)) for i in range(5000)])
    assert len(pickle.dumps(shards)) < 100 * 5000
    again = Known(pickle.loads(pickle.dumps(shards)))
    assert again.find(shards[4321].inputs, shards[4321].labels) == shards[4321]
