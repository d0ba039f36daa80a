"""A store in an object store that speaks S3: whole objects, refused writes, and a line that breaks."""

import io
import threading
import traceback

import crash_writer
import numpy as np
import pytest

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
SLOW = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
UNKNOWN = (
    b"<Error><Code>NotImplemented</Code><Message>A header is not implemented.</Message></Error>"
)
XML = [("Content-Type", "application/xml")]


class Server:
    """The S3 of moto behind a line that can be broken; it notes every request.

    Attributes:
        breaks: Says for each request, given its number, method, path and headers, what becomes of it: None,
            "slow" (refused for now), "cut" (the line breaks before it is done), "lost" (after),
            "unknown" (refused for ever).
    """

    def __init__(self):
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.port}"
        self.clear()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def clear(self):
        self.requests, self.breaks = [], lambda number, method, path, _: None

    def __call__(self, environ, start):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, path, environ["QUERY_STRING"]))
        how = self.breaks(len(self.requests) - 1, method, path, environ)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if how in ("slow", "unknown"):
            start("503 Slow Down" if how == "slow" else "501 Not Implemented", XML)
            answer = SLOW if how == "slow" else UNKNOWN
            return [b"" if method == "HEAD" else answer]
        if how != "cut":
            found = self._app({**environ, "wsgi.input": io.BytesIO(body)}, start)
            if how is None:
                return found
            list(found)
        environ["werkzeug.socket"].shutdown(2)
        start("500 Broken", [])
        return [b""]

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


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


def test_no_error_shows_the_secret(url, server):
    crash_writer.run(url)
    shown = [repr(FeatureStore(url)), str(FeatureStore(url))]
    server.breaks = lambda *request: "slow"
    for use in (FeatureStore, crash_writer.run, lambda u: kg.features.keep(u, 1)):
        with pytest.raises(kg.FeatureError) as caught:
            use(url)
        shown += traceback.format_exception(caught.value)
    server.clear()
    with pytest.raises(kg.FeatureError) as caught:
        FeatureStore("s3://no-such-bucket/features")
    shown += traceback.format_exception(caught.value)
    said = "".join(shown)
    assert said.count("call again: what was written before is kept") >= 3
    assert SECRET not in said and KEY not in said
