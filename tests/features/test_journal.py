"""A store grows by small segments: in constant time, through kills, beside readers and writers."""

import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import crash_writer
import numpy as np
import pytest

import keras_graft as kg
from keras_graft.features import FeatureStore
from keras_graft.features.store import folder as folders
from keras_graft.features.store import loading, segments
from keras_graft.features.store.checksum import checksum
from keras_graft.features.store.column import Column
from keras_graft.features.store.entries import ShardEntry, Shards, Skipped
from keras_graft.features.store.folder import Folder
from keras_graft.features.store.journal import Journal
from keras_graft.features.store.lines import line
from keras_graft.features.store.loading import load
from keras_graft.features.store.manifest import Manifest
from keras_graft.features.store.remote import folder_at
from keras_graft.features.store.shards import shard_name

pytestmark = pytest.mark.once
KILLS = 50 if os.environ.get("KERAS_GRAFT_ALL") else 10
module = sys.modules["keras_graft.features._compute"]  # the function hides the module


def manifest(**changes):
    digest = Column((), "uint64")
    columns = {"features/": Column((2,), "float32"), "targets/": Column((), "int64"),
               "digests/inputs": digest, "digests/labels": digest}  # fmt: skip
    layout = {"features": "one", "targets": "one", "digests": "dict"}
    return Manifest(columns, layout, {"structure": "x"}, 4, 1, {}, **changes)


def entry(i, skipped=(), name=None):
    top = f"{2**64 - 1 - i:016x}"
    return ShardEntry(
        shard_name(i if name is None else name), 2, 500 + i, top, (f"{i:016x}",), (top,), skipped
    )


def many(count, step=3):
    """Shards of which some left out samples, and one has a name as actors give it."""
    found, start = [], 0
    for i in range(count):
        out = ()
        if i % step == 1:
            out = tuple(Skipped(start + n, f'why "{i}",\n {{}} é', f"{i:016x}") for n in (0, 2))
        found.append(entry(i, out, "0af" * 10 + "12" if i == 2 else None))
        start += found[-1].samples
    return found


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    for name in ("check_fixed", "fingerprint"):
        monkeypatch.setattr(module, name, getattr(module, name))


def test_shards_are_a_sequence_that_shares_its_memory():
    expected = many(40)
    shards = Shards(expected)
    assert list(shards) == expected and shards == tuple(expected) and len(shards) == 40
    assert shards[-1] == expected[-1] and shards[3:9:2] == expected[3:9:2]
    assert shards[:7] == expected[:7] and shards[:7] != expected[:8]
    assert list(shards.files()) == [e.file for e in expected]
    assert shards.samples == sum(e.samples for e in expected) and shards.rows == 80
    assert shards.bytes == sum(e.bytes for e in expected) and shards.next_number == 40
    one = shards[:10].added(expected[10])
    other = shards[:10].added(expected[20], expected[21])
    assert one == expected[:11] and other == [*expected[:10], *expected[20:22]]
    assert list(shards) == expected  # neither changed it
    grown = Shards()
    views = []
    for e in expected:
        grown = grown.added(e)
        views.append(grown)
    assert all(view == expected[: i + 1] for i, view in enumerate(views))
    assert pickle.loads(pickle.dumps(views[5])) == expected[:6]
    assert Shards() == () and pickle.loads(pickle.dumps(Shards())) == () and not Shards()
    with pytest.raises(IndexError):
        shards[40]
    with pytest.raises(ValueError, match=r"shards\[1\] has another number of inputs or labels"):
        Shards([expected[0], replace(expected[1], inputs=())])
    assert (
        Shards([entry(7)]).next_number == 8 and Shards([entry(0, name="a" * 32)]).next_number == 1
    )


def test_a_manifest_is_read_the_same_fast_and_as_json(tmp_path, monkeypatch):
    made = manifest(shards=many(30), complete=True)
    made.save(Folder(tmp_path))
    json.loads((tmp_path / "manifest.json").read_text())  # one document
    assert load(Folder(tmp_path)) == made
    fast = loading._apart
    assert fast((tmp_path / "manifest.json").read_bytes())[1] == made.shards
    monkeypatch.setattr(loading, "_PART", 100)
    assert load(Folder(tmp_path)) == made
    monkeypatch.setattr(loading, "_apart", lambda data: (data, None))
    assert load(Folder(tmp_path)) == made
    # As earlier versions wrote it.
    raw = json.loads((tmp_path / "manifest.json").read_text())
    del raw["checksum"]
    text = json.dumps(raw, indent=1)
    total = checksum([text.encode()])
    (tmp_path / "manifest.json").write_text(f'{{\n "checksum": "{total}",{text[1:]}')
    monkeypatch.setattr(loading, "_apart", fast)
    assert load(Folder(tmp_path)) == made


@pytest.mark.parametrize("change, says", [
    (lambda e: {"rows": 10**6}, "has 501 bytes, which does not fit 1,000,000 rows of 32"),
    (lambda e: {"file": shard_name(0)}, "has the file of another shard, shard-00000"),
    (lambda e: {"skipped": tuple(replace(s, index=s.index + 90) for s in e.skipped)},
     "leaves out samples that are not among its own, 2 to 5"),
    (lambda e: {"skipped": (replace(e.skipped[0], inputs=""), e.skipped[1])},
     "has samples that were left out with digests, and some without"),
])  # fmt: skip
def test_shards_that_do_not_fit_together_are_refused(tmp_path, change, says):
    entries = many(6)
    entries[1] = replace(entries[1], **change(entries[1]))
    manifest(shards=entries).save(Folder(tmp_path))
    with pytest.raises(kg.FeatureError, match=re.escape(f"shards[1] {says}")):
        load(Folder(tmp_path))


def test_a_shard_takes_the_same_bytes_however_many_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "MERGED", (8, 64))
    written, real = [], Folder.write

    def write(self, name, *pieces):
        written.append((name, sum(map(len, pieces))))
        real(self, name, *pieces)

    monkeypatch.setattr(Folder, "write", write)
    made = Journal(Folder(tmp_path), manifest())
    entries = many(300, step=1000)
    width = len(line(entries[299])) + 18
    for e in entries:
        made.add(e)
    assert [name for name, _ in written].count("manifest.json") == 1
    first, second = (sum(n for _, n in written[k + 1 : k + 168]) for k in (0, 167))
    assert second < 1.1 * first and first + second < 3.1 * 300 * width
    assert max(n for _, n in written) <= 64 * width + 1000
    assert len(list(tmp_path.iterdir())) <= 1 + 300 // 64 + 64 // 8 + 8
    assert load(Folder(tmp_path)).shards == entries
    made.finish()
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]
    found = load(Folder(tmp_path))
    assert found.complete and found.shards == entries


def rows(store):
    found = store.to_numpy()
    return found["features"]["twice"], found["features"]["first"], found["targets"]


def test_killed_while_segments_are_merged_each_store_is_finished_to_the_byte(tmp_path):
    shm = Path("/dev/shm")
    expected = rows(crash_writer.run(tmp_path / "whole"))
    place = shm / f"keras-graft-{os.getpid()}" if shm.is_dir() else tmp_path
    last = 10**9

    def killed(points):
        for point in points:
            (place / f"{point:010}").mkdir(parents=True)
        source = str(Path(kg.__file__).parent.parent)
        found = subprocess.run(
            [sys.executable, crash_writer.__file__, place, "merging", "0"], capture_output=True,
            env={**os.environ, "PYTHONPATH": source}, text=True, check=True,
        )  # fmt: skip
        return dict(line.split() for line in found.stdout.splitlines())

    try:
        said = killed([last])
        assert said[f"{last:010}"] == "0"
        assert_whole(place / f"{last:010}", expected)
        subprocess.run(["rm", "-r", place / f"{last:010}"], check=True)
        total = int(said["steps"])
        points = random.Random(3).sample(range(total), KILLS)
        assert set(killed(points).values()) == {str(-signal.SIGKILL)}
        lengths = set()
        for point in points:
            path = place / f"{point:010}"
            if (path / "manifest.json").exists():
                store = FeatureStore(path)
                store.verify()
                for a, b in zip(rows(store), expected, strict=True):
                    assert a.tobytes() == b[: len(store)].tobytes()
                lengths.add(len(store))
            crash_writer.run(path)
            assert_whole(path, expected)
        assert len(lengths) > KILLS // 4
    finally:
        subprocess.run(["rm", "-rf", place], check=True)


def assert_whole(path, expected):
    store = FeatureStore(path)
    assert store.complete and store.verify() == store.bytes
    for a, b in zip(rows(store), expected, strict=True):
        assert a.tobytes() == b.tobytes()
    names = {p.name for p in path.iterdir()}
    assert names == {"lock", "manifest.json", *store.manifest.shards.files()}


def stopped(path, merged=None):
    """Compute half of a store and be killed: its journal is left."""
    real, count = Folder.write, iter(range(1000))

    class Killed(BaseException):
        pass

    def write(self, name, *pieces):
        if name.startswith("shard") and next(count) == 7:
            raise Killed
        real(self, name, *pieces)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders.Folder, "write", write)
        with pytest.raises(Killed):
            crash_writer.run(path)
    return sorted(p for p in path.iterdir() if p.name.startswith("journal-"))


def test_a_damaged_segment_is_named_and_the_way_out_works(tmp_path):
    expected = rows(crash_writer.run(tmp_path / "whole"))
    path = tmp_path / "store"
    parts = stopped(path)
    assert len(parts) == 7 and len(FeatureStore(path)) == 210
    good = parts[3].read_bytes()
    for bad in (
        good[:-1],
        good[:40],
        b"",
        good + good,
        good.replace(b'"rows": 30', b'"rows": 31'),
        b"\xff",
    ):
        parts[3].write_bytes(bad)
        with pytest.raises(
            kg.FeatureError, match=rf"{parts[3].name} cannot be read .*Delete it: the 3"
        ):
            FeatureStore(path)
        with pytest.raises(kg.FeatureError, match="Delete it"):
            crash_writer.run(path)
    parts[3].unlink()
    assert len(FeatureStore(path)) == 90  # what comes after a gap does not count
    crash_writer.run(path)
    assert_whole(path, expected)


def test_a_segment_that_is_written_again_counts_once(tmp_path):
    """A killed merge leaves both: the longest is read."""
    path = tmp_path / "store"
    parts = stopped(path)
    whole = parts[0].name[:24]
    (path / f"{whole}-00000000-00000004.jsonl").write_bytes(
        b"".join(p.read_bytes() for p in parts[:4])
    )
    (path / f"journal-{'0' * 16}-00000007-00000008.jsonl").write_bytes(b"of an older manifest")
    store = FeatureStore(path)
    assert [s.file for s in store.manifest.shards] == [shard_name(i) for i in range(7)]
    kg.features.keep(path, 2)
    assert len(FeatureStore(path)) == 60
    assert not [p for p in path.iterdir() if p.name.startswith("journal-")]


def test_a_journal_does_not_come_to_life_again(tmp_path):
    """The same manifest written again, byte for byte, begins without the shards that were added."""
    folder, order = Folder(tmp_path), []
    made = Journal(folder, manifest())
    for e in many(5):
        made.add(e)
    real = Folder.delete
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Folder, "delete", lambda self, name: (order.append(name), real(self, name)))
        manifest().save(folder)
    assert len(order) == 5 and order == sorted(order, reverse=True)  # a kill leaves the begin of it
    assert load(folder).shards == ()


def test_what_a_killed_writer_left_beside_a_complete_store_is_swept(tmp_path):
    expected = rows(crash_writer.run(tmp_path))
    (tmp_path / f"journal-{'0' * 16}-00000000-00000001.jsonl").write_bytes(b"left")
    assert FeatureStore(tmp_path).complete
    crash_writer.run(tmp_path)
    assert_whole(tmp_path, expected)


def test_files_named_like_segments_are_not_touched_where_no_store_is(tmp_path):
    theirs = tmp_path / f"journal-{'0' * 16}-00000000-00000001.jsonl"
    theirs.write_text("precious")
    with pytest.raises(kg.FeatureError, match="journal-0.*, which no store wrote"):
        crash_writer.run(tmp_path)
    assert theirs.read_text() == "precious"


@pytest.mark.parametrize("place", ["local", "memory://test_journal/readers"])
def test_a_reader_beside_a_writer_sees_whole_and_growing_stores(tmp_path, monkeypatch, place):
    pytest.importorskip("fsspec")
    monkeypatch.setattr(segments, "MERGED", (2, 8))
    where = str(tmp_path / "s") if place == "local" else place
    entries, made = many(300), Journal(folder_at(where), manifest())
    done, wrong, seen = threading.Event(), [], []

    def read():
        try:
            while not done.is_set():
                found = load(folder_at(where))
                assert found.shards == entries[: len(found.shards)]
                seen.append(len(found.shards))
        except BaseException as error:
            wrong.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for e in entries:
        made.add(e)
    made.finish()
    done.set()
    thread.join()
    assert not wrong and seen == sorted(seen) and len(seen) > 3
    assert load(folder_at(where)).shards == entries


@pytest.mark.parametrize("when", ["listed", "read"])
def test_segments_that_are_merged_under_a_readers_eyes_are_looked_for_again(
    tmp_path, monkeypatch, when
):
    monkeypatch.setattr(segments, "MERGED", (4, 8))
    entries, made = many(9), Journal(Folder(tmp_path), manifest())
    for e in entries[:3]:
        made.add(e)
    name, once = ("sizes", "read")[when == "read"], []
    real = getattr(Folder, name)

    def meanwhile(self, *args):
        found = real(self, *args)
        if not once and (when == "listed" or "journal" in args[0]):
            once.append(1)
            made.add(entries[3])  # merges the four
        return found

    monkeypatch.setattr(Folder, name, meanwhile)
    assert load(Folder(tmp_path)).shards == entries[:4] and once


def test_a_store_that_is_finished_meanwhile_is_read_again(tmp_path, monkeypatch):
    entries, made = many(5), Journal(Folder(tmp_path), manifest())
    for e in entries:
        made.add(e)
    real, once = Folder.sizes, []

    def sizes(self):
        if not once:
            once.append(1)
            made.finish()
        return real(self)

    monkeypatch.setattr(Folder, "sizes", sizes)
    found = load(Folder(tmp_path))
    assert found.complete and found.shards == entries and once


def test_a_second_writer_at_a_url_is_noticed():
    pytest.importorskip("fsspec")
    url = "memory://test_journal/writers"
    ours = Journal(folder_at(url), manifest())
    theirs = Journal(folder_at(url), manifest())
    ours.add(entry(0))
    with pytest.raises(
        kg.FeatureError, match="Another process is writing to memory://test_journal"
    ):
        theirs.add(entry(1))
    folder_at(url).write("manifest.json", manifest(complete=True).text()[1])
    with pytest.raises(
        kg.FeatureError, match="Another process is writing to memory://test_journal"
    ):
        ours.add(entry(1))


def test_two_writers_may_write_their_own_segments(tmp_path):
    """What the journal is made for: who writes a shard names it, in any order."""
    from keras_graft.features.store.segments import encode, name_of

    folder, entries = Folder(tmp_path), many(6)
    total = manifest().save(folder)
    lengths = []
    for i in (1, 0, 3, 5, 2, 4):
        folder.write(name_of(total, i, i + 1), encode([line(entries[i])]))
        lengths.append(len(load(folder).shards))
    assert lengths == [0, 2, 2, 2, 4, 6] and load(folder).shards == entries


def test_a_store_of_many_shards_takes_little_memory(tmp_path):
    """By the bytes that arrays say they take: opening is timed in benchmarks/store.py."""
    shards = Shards(entry(i) for i in range(2000))
    assert shards.array.nbytes / 2000 < 100
    manifest(shards=shards, complete=True).save(Folder(tmp_path))
    found = load(Folder(tmp_path))
    assert found.shards._table.rows.nbytes <= 1.5 * shards.array.nbytes + 10_000
    np.testing.assert_array_equal(found.shards.array, shards.array)
