"""A store behind a URL: the same rows, in whole objects, fetched once."""

import errno
import functools
import sys
from collections import Counter
from pathlib import Path

import crash_writer
import fsspec
import keras
import numpy as np
import pytest

import keras_graft as kg
from keras_graft.features import FeatureDataset, FeatureStore
from keras_graft.features.store import remote, retries

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="nothing of a backend")
compute = sys.modules["keras_graft.features._compute"]  # the function hides the module


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    for name in ("check_fixed", "fingerprint"):
        monkeypatch.setattr(compute, name, getattr(compute, name))


@pytest.fixture(params=["memory", "file"])
def url(request, monkeypatch, tmp_path):
    """A folder in fsspec's memory, and one on its local file system."""
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()
        # Another one for each test: folders stay when their files are gone.
        return f"memory://{tmp_path.name}/some/features"
    monkeypatch.setattr(remote, "_LOCAL", ())  # else it is opened without fsspec
    return f"file://{tmp_path}/some/features"


@pytest.fixture
def local(tmp_path):
    return crash_writer.run(tmp_path / "local")


def assert_same(store, local):
    assert store.complete and store.verify() == store.bytes == local.bytes
    assert store.manifest == local.manifest
    ours, theirs = store.to_numpy(), local.to_numpy()
    np.testing.assert_array_equal(ours["features"]["twice"], theirs["features"]["twice"])
    np.testing.assert_array_equal(ours["targets"], theirs["targets"])
    system, root = fsspec.core.url_to_fs(store.path)
    found = {p.rsplit("/", 1)[-1] for p in system.ls(root, detail=False)}
    assert found == {"manifest.json", *(s.file for s in store.manifest.shards)}


def test_the_store_is_the_local_one(url, local):
    system, root = fsspec.core.url_to_fs(url)
    system.makedirs(root)
    system.pipe_file(f"{root}/model.safetensors", b"of somebody else")
    store = crash_writer.run(url)
    assert store.path == url and url in str(store)
    system.rm_file(f"{root}/model.safetensors")
    assert_same(store, local)
    batches = FeatureDataset(url, 16, seed=1), FeatureDataset(local, 16, seed=1)
    for i in range(len(batches[0])):
        (x, y), (x_local, y_local) = (data[i] for data in batches)
        np.testing.assert_array_equal(x["first"], x_local["first"])
        np.testing.assert_array_equal(y, y_local)


def test_a_file_url_is_a_local_folder(tmp_path, local):
    store = crash_writer.run(f"file://{tmp_path}/there")
    assert store.path == str(tmp_path / "there") and (tmp_path / "there" / "lock").exists()
    assert store.manifest == local.manifest


@pytest.mark.parametrize("put", range(0, 30, 4))
@pytest.mark.parametrize("after", [False, True])
def test_broken_off_at_any_put_it_is_finished_to_the_byte(url, local, monkeypatch, put, after):
    system = type(fsspec.core.url_to_fs(url)[0])
    real, count = system.pipe_file, iter(range(1000))

    def breaks(self, *args, **kwargs):
        now = next(count) == put
        if not now or after:
            real(self, *args, **kwargs)
        if now:
            raise ConnectionError("the line is dead")

    monkeypatch.setattr(system, "pipe_file", breaks)
    with pytest.raises(
        kg.FeatureError, match="cannot be written: ConnectionError: the line is dea"
    ):
        crash_writer.run(url)
    monkeypatch.setattr(system, "pipe_file", real)
    if put + after:
        done = FeatureStore(url)
        assert len(done.manifest.shards) == (put + after - 1) // 2
        done.verify()
    assert_same(crash_writer.run(url), local)


@pytest.mark.parametrize("after", [False, True])
def test_what_may_pass_is_tried_again(url, local, monkeypatch, after):
    """Also where a write has succeeded and its answer is lost."""
    system = type(fsspec.core.url_to_fs(url)[0])
    monkeypatch.setattr(retries, "WAITS", (0, 0))
    failed = Counter()

    def breaking(name):
        real = getattr(system, name)

        @functools.wraps(real)
        def breaks(self, *args, **kwargs):
            failed[name] += 1
            now = failed[name] % 3  # twice each
            if not now:
                return real(self, *args, **kwargs)
            if after and now == 1:
                real(self, *args, **kwargs)
            raise (ConnectionResetError("broken"), OSError(errno.EBUSY, "slow down"))[now - 1]

        return breaks

    for name in ("pipe_file", "cat_file", "get_file", "ls"):
        monkeypatch.setattr(system, name, breaking(name))
    store = crash_writer.run(url)
    assert store.complete and store.manifest == local.manifest
    np.testing.assert_array_equal(store.to_numpy()["targets"], local.to_numpy()["targets"])
    assert min(failed.values()) >= 3 and len(failed) == 4


def test_what_cannot_pass_is_tried_once(url, monkeypatch):
    system = type(fsspec.core.url_to_fs(url)[0])
    calls = []

    def refuses(self, *args, **kwargs):
        calls.append(1)
        raise PermissionError("not yours")

    monkeypatch.setattr(retries, "WAITS", (0, 0))
    monkeypatch.setattr(system, "ls", refuses)
    with pytest.raises(kg.FeatureError, match="not yours. .* get permission to use this one"):
        crash_writer.run(url)
    assert len(calls) == 1


def test_a_shard_of_a_second_writer_is_not_replaced(url):
    """Both begin at the same time, and their features differ in the last bit."""
    system, root = fsspec.core.url_to_fs(url)
    path = f"{root}/shard-00002.safetensors"

    def data():
        for i, batch in enumerate(crash_writer.data()):
            if i == 5:
                system.makedirs(root, exist_ok=True)  # batches are read before the first shard
                system.pipe_file(path, b"of the other")
            yield batch

    crash_writer.without_keras_models()
    with pytest.raises(kg.FeatureError, match="Another process is writing to .*some/features"):
        compute.compute(crash_writer.Trunk(), data(), url, progress=False, shard_bytes=1000)
    assert system.cat_file(path) == b"of the other"


def test_a_second_writer_is_noticed(url):
    ours, theirs = remote.folder_at(url), remote.folder_at(url)
    for folder in (ours, theirs):
        assert folder.read("manifest.json") is None
    ours.write("manifest.json", b"1")
    with pytest.raises(kg.FeatureError, match="Another process is writing to .*some/features"):
        theirs.write("manifest.json", b"2")
    ours.write("manifest.json", b"3")
    assert ours.read("manifest.json") == b"3"


def test_a_second_writer_is_noticed_where_a_store_is_written_again(url):
    ours, theirs = remote.folder_at(url), remote.folder_at(url)
    ours.write("manifest.json", b"1")
    assert ours.read("manifest.json") == b"1"
    ours.delete("manifest.json")
    theirs.write("manifest.json", b"2")
    with pytest.raises(kg.FeatureError, match="Another process is writing to"):
        ours.write("manifest.json", b"3")


def test_a_flipped_bit_is_found_when_it_is_fetched_and_by_verify(url):
    store = crash_writer.run(url)
    system, root = fsspec.core.url_to_fs(url)
    path = f"{root}/shard-00002.safetensors"
    data = bytearray(system.cat_file(path))
    data[-5] ^= 4
    system.pipe_file(path, bytes(data))
    with pytest.raises(kg.FeatureError, match="checksum of 'shard-00002.safetensors'"):
        store.verify()
    store.take([0])
    with pytest.raises(kg.FeatureError, match=r"checksum of 'shard-00002.safetensors'.*verify\("):
        store.to_numpy()
    kg.features.keep(url, 2)
    assert crash_writer.run(url).verify() == store.bytes
    system.rm_file(path)
    with pytest.raises(kg.FeatureError, match="shard 'shard-00002.safetensors' does not exist"):
        FeatureStore(url)


def test_shards_are_fetched_once_and_never_stale(url, tmp_path, monkeypatch):
    crash_writer.run(url)
    system = type(fsspec.core.url_to_fs(url)[0])
    real, fetched = system.get_file, []

    def counted(self, path, *args, **kwargs):
        fetched.append(path.rsplit("/", 1)[-1])
        return real(self, path, *args, **kwargs)

    monkeypatch.setattr(system, "get_file", counted)
    cache = tmp_path / "cache"
    first = FeatureStore(url, cache=cache).take([0, 1])
    assert fetched == ["shard-00000.safetensors"]  # what is needed, and no more
    for _ in range(2):
        again = FeatureStore(url, cache=cache).to_numpy()
    assert len(fetched) == len(set(fetched)) == 14 == len(list(cache.iterdir()))
    np.testing.assert_array_equal(first["targets"], again["targets"][:2])
    # The same names, other rows.
    monkeypatch.setattr(crash_writer, "data", lambda: iter([(np.zeros((400, 8)), np.ones(400))]))
    compute.compute(crash_writer.Trunk(), crash_writer.data(), url, resume=False, progress=False)
    assert FeatureStore(url, cache=cache).take([0])["targets"].tolist() == [1]


def test_what_was_fetched_is_gone_with_the_store(url):
    store = crash_writer.run(url)
    store.take([0])
    kept = Path(store._folder.cache._kept.name)
    assert len(list(kept.iterdir())) == 1
    del store
    assert not kept.exists()


def test_urls_that_cannot_be_opened(monkeypatch):
    with pytest.raises(kg.FeatureError, match="nowhere://x: .*nowhere.*fsspec, which is an extra"):
        FeatureStore("nowhere://x")
    with pytest.raises(kg.FeatureError, match="memory://empty is not a store of features"):
        FeatureStore("memory://empty")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(kg.FeatureError, match=r"pip install 'keras-graft\[features\]'"):
        FeatureStore("s3://bucket/features")


def test_a_tilde_in_the_place_of_the_cache(url, tmp_path, monkeypatch):
    crash_writer.run(url)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    FeatureStore(url, cache="~/cache").take([0])
    assert len(list((tmp_path / "home" / "cache").iterdir())) == 1 and not Path("~").exists()


def test_two_may_fetch_into_one_folder_at_once(url, tmp_path, monkeypatch):
    crash_writer.run(url)
    one, other = (FeatureStore(url, cache=tmp_path / "cache") for _ in range(2))
    system = one._folder._system
    fetch, both = system.get_file, []

    def meanwhile(source, place):
        both.append(place)
        fetch(source, place)
        if len(both) == 1:  # the other is as far before this one is done
            other.take([0])

    monkeypatch.setattr(system, "get_file", meanwhile)
    one.take([0])
    assert len(both) == 2 and both[0] != both[1]
