"""A store in an object store that speaks S3: whole objects, refused writes, and a line that breaks."""

import inspect
import logging
import threading
import traceback

import crash_writer
import numpy as np
import pytest
from s3_server import Server

import keras_graft as kg
from keras_graft.features import FeatureStore
from keras_graft.features.store import remote, retries

s3fs = pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings(r"ignore:::(moto|boto|aio|werkzeug|flask|s3fs|responses|fsspec)"),
]
KEY, SECRET = "AKIAPUBLICPART", "kept/secret+part"


@pytest.fixture(scope="module")
def server():
    made = Server()
    yield made
    made.stop()


@pytest.fixture
def url(server, monkeypatch, tmp_path):
    """A bucket of its own. What s3fs and its library try again themselves is off: it takes long."""
    import fsspec

    for name in ("check_fixed", "fingerprint"):
        monkeypatch.setattr(crash_writer._compute, name, getattr(crash_writer._compute, name))
    monkeypatch.setitem(fsspec.config.conf, "s3", {
        "key": KEY, "secret": SECRET, "endpoint_url": server.url,
        "config_kwargs": {"retries": {"max_attempts": 0}},
    })  # fmt: skip
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"bucket{abs(hash(tmp_path)) % 10**8}"
    s3fs.S3FileSystem().mkdir(bucket)
    server.clear()
    yield f"s3://{bucket}/some/features"
    server.clear()


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    saved = {n: getattr(crash_writer._compute, n) for n in ("check_fixed", "fingerprint")}
    store = crash_writer.run(tmp_path_factory.mktemp("local"))
    for name, value in saved.items():
        setattr(crash_writer._compute, name, value)
    return store


def objects(url):
    return {path.rsplit("/", 1)[-1] for path in s3fs.S3FileSystem().ls(url, refresh=True)}


def assert_same(url, local):
    store = FeatureStore(url)
    assert store.complete and store.manifest == local.manifest and store.verify() == local.bytes
    ours, theirs = store.to_numpy(), local.to_numpy()
    np.testing.assert_array_equal(ours["features"]["twice"], theirs["features"]["twice"])
    assert objects(url) == {"manifest.json", *(s.file for s in local.manifest.shards)}


def test_the_store_is_the_local_one_for_few_requests(url, server, local):
    crash_writer.run(url)
    puts = [path.rsplit("/", 1)[-1] for method, path, _ in server.requests if method == "PUT"]
    assert len(puts) == 2 * 14 + 2 and len(set(puts)) == 2 * 14 + 1  # shards, segments, manifests
    # For a shard: itself, the head of the manifest, its segment, and once this is deleted.
    assert len(server.requests) <= 4 * 14 + 30
    assert_same(url, local)


@pytest.mark.parametrize("how", ["slow", "cut", "lost"])
def test_a_line_that_breaks_now_and_then_is_not_noticed(url, server, local, monkeypatch, how):
    monkeypatch.setattr(retries, "WAITS", (0, 0, 0))
    server.breaks = lambda number, method, path, _: how if number % 5 == 1 else None
    crash_writer.run(url)
    server.clear()
    assert_same(url, local)


@pytest.mark.parametrize("how", ["slow", "cut", "half"])
def test_reading_over_a_line_that_breaks_now_and_then(url, server, local, monkeypatch, how):
    monkeypatch.setattr(retries, "WAITS", (0, 0, 0))
    crash_writer.run(url)
    server.clear()
    server.breaks = lambda number, method, path, _: how if number % 3 == 1 else None
    assert FeatureStore(url).verify() == local.bytes
    order = np.random.default_rng(0).permutation(400)
    np.testing.assert_array_equal(FeatureStore(url).take(order)["targets"], order)
    assert len(server.requests) > 14 * 4  # each shard was fetched and checked, some of them twice


def test_reading_over_a_line_that_stays_broken_is_said(url, server, local):
    crash_writer.run(url)
    for how in ("slow", "cut", "half"):
        store = FeatureStore(url)
        server.breaks = lambda number, method, path, _, how=how: how
        with pytest.raises(
            kg.FeatureError, match="cannot be fetched: .*can be reached, call again"
        ):
            store.to_numpy()
        server.clear()
        np.testing.assert_array_equal(store.take([399, 0])["targets"], [399, 0])


def test_tries_come_later_and_later(url, server, monkeypatch):
    slept = []
    monkeypatch.setattr(retries, "WAITS", (0.2, 1.0, 4.0))
    monkeypatch.setattr(retries.time, "sleep", slept.append)
    server.breaks = lambda number, method, path, _: "slow"
    with pytest.raises(kg.FeatureError, match="call again"):
        remote.folder_at(url).read("manifest.json")
    assert len(slept) == 3 and all(
        wait <= own <= wait * 1.5 for wait, own in zip((0.2, 1, 4), slept, strict=True)
    )


@pytest.fixture
def parts(monkeypatch):
    """What s3fs uploads in parts of 50 MiB, from 100 MiB on, is uploaded in parts of 300 bytes."""
    from moto.s3 import models

    monkeypatch.setattr(models, "S3_UPLOAD_PART_MIN_SIZE", 1)
    known = inspect.signature(s3fs.S3FileSystem._pipe_file).parameters
    defaults = [p.default for p in known.values() if p.default is not p.empty]
    assert [*known][3] == "chunksize"
    monkeypatch.setattr(s3fs.S3FileSystem._pipe_file, "__defaults__", (300, *defaults[1:]))


def uploads(url):
    """Return how many uploads in parts were begun in a bucket and are neither done nor stopped."""
    found = s3fs.S3FileSystem().call_s3("list_multipart_uploads", Bucket=url.split("/")[2])
    return len(found.get("Uploads", ()))


@pytest.mark.parametrize("how", [None, "slow", "cut", "lost"])
def test_shards_of_several_parts(url, server, local, monkeypatch, parts, how):
    monkeypatch.setattr(retries, "WAITS", (0, 0, 0, 0, 0, 0))
    # A try is several requests here, and not every try of one file must break.
    server.breaks = lambda number, method, path, _: how if number % 29 == 1 else None
    crash_writer.run(url)
    of_parts = [query for method, _, query in server.requests if "partNumber" in query]
    whole = [path for method, path, query in server.requests if method == "PUT" and not query]
    server.clear()
    assert len(of_parts) >= 3 * 14 and not any("shard-" in path for path in whole)
    assert_same(url, local)
    assert how is not None or uploads(url) == 0


@pytest.mark.parametrize("broken", ["partNumber=2", "uploads"])
def test_parts_that_stay_broken_leave_no_half_a_shard(url, server, local, parts, broken):
    begun = []

    def breaks(number, method, path, given):
        begun.extend([number] * (method == "POST" and "uploads" in given["QUERY_STRING"]))
        # The manifest, and two shards; the third breaks.
        return "slow" if len(begun) > 3 and broken in given["QUERY_STRING"] else None

    server.breaks = breaks
    with pytest.raises(
        kg.FeatureError, match="'shard-00002.safetensors' cannot be written: .* call"
    ):
        crash_writer.run(url)
    server.clear()
    assert len(FeatureStore(url).manifest.shards) == 2
    assert sum(name.startswith("shard") for name in objects(url)) == 2
    assert uploads(url) == 0
    crash_writer.run(url)
    assert_same(url, local)


def test_of_two_writers_of_parts_the_second_is_refused(url, server, parts):
    ours, theirs = remote.folder_at(url), remote.folder_at(url)
    ours.create("shard-00000.safetensors", b"ours" * 200)
    with pytest.raises(kg.FeatureError, match="Another process is writing to s3://bucket"):
        theirs.create("shard-00000.safetensors", b"them" * 200)
    assert ours.read("shard-00000.safetensors") == b"ours" * 200 and uploads(url) == 0


def test_two_writers_at_once(url, server, local, monkeypatch):
    """Of the same data: nothing is lost and nothing is twice, whichever of them is the first."""
    monkeypatch.setattr(retries, "WAITS", (0.01, 0.1, 1))  # moto may fail where two ask at once
    ready, said = threading.Barrier(2), []

    def write():
        ready.wait()
        try:
            crash_writer.run(url)
        except kg.FeatureError as error:
            said.append(str(error))

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("Another process is writing to s3://bucket" in text for text in said), said
    crash_writer.run(url)
    assert_same(url, local)


@pytest.mark.parametrize("how, put", [("slow", 2), ("cut", 7), ("lost", 2)])
def test_a_line_that_stays_broken_is_said_and_nothing_is_lost(url, server, local, how, put):
    done = []

    def breaks(number, method, path, _):
        done.extend([path] * (method == "PUT"))
        return how if len(done) > put else None

    server.breaks = breaks
    with pytest.raises(
        kg.FeatureError, match="cannot be written: .* call again: what was written before is kept"
    ):
        crash_writer.run(url)
    server.clear()
    assert len(FeatureStore(url).manifest.shards) in ((put - 1) // 2, put // 2)
    crash_writer.run(url)
    assert_same(url, local)


def test_a_second_writer_is_refused_by_the_store_itself(url, server):
    ours, theirs = remote.folder_at(url), remote.folder_at(url)
    ours.create("shard-00000.safetensors", b"ours")
    ours.create("shard-00000.safetensors", b"ours")  # made again: its answer was lost
    with pytest.raises(kg.FeatureError, match="Another process is writing to s3://bucket"):
        theirs.create("shard-00000.safetensors", b"theirs")
    assert ours.read("shard-00000.safetensors") == b"ours"
    assert [m for m, _, _ in server.requests].count("PUT") == 3  # no question before it


def test_a_store_that_knows_no_conditions_is_asked_first(url, server, local):
    server.breaks = lambda number, method, path, given: (
        "unknown" if "HTTP_IF_NONE_MATCH" in given else None
    )
    crash_writer.run(url)
    assert_same(url, local)
    place = remote.folder_at(url)
    with pytest.raises(kg.FeatureError, match="Another process is writing to s3://bucket"):
        place.create("shard-00000.safetensors", b"theirs")


def test_more_objects_than_one_listing_has_are_all_seen(url):
    from moto.s3.models import s3_backends

    bucket = url.split("/")[2]
    (account,) = s3_backends
    for i in range(1003):
        s3_backends[account]["aws"].put_object(bucket, f"some/features/o{i:04}", b"1")
    assert len(remote.folder_at(url).sizes()) == 1003


def test_nothing_shows_the_secret(url, server, caplog, capfd):
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.ERROR, "werkzeug")
    crash_writer.run(url)
    shown = [repr(FeatureStore(url)), str(FeatureStore(url))]
    shown.append(repr(FeatureStore(url)._folder))
    for how in ("slow", "told"):
        # The answer to a HEAD has no words.
        server.breaks = lambda _, method, *more, how=how: (
            how if (how, method) != ("told", "HEAD") else None
        )
        for use in (FeatureStore, crash_writer.run, lambda u: kg.features.keep(u, 1)):
            with pytest.raises(kg.FeatureError) as caught:
                use(url)
            shown += traceback.format_exception(caught.value)
    server.clear()
    with pytest.raises(kg.FeatureError) as caught:
        FeatureStore("s3://no-such-bucket/features")
    shown += traceback.format_exception(caught.value)
    said = "".join([*shown, caplog.text, *capfd.readouterr()])
    assert "Credential=***" in said
    assert said.count("call again: what was written before is kept") >= 3
    assert SECRET not in said and KEY not in said
