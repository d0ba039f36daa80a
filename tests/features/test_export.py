"""Stores as files of other libraries: what they hold, and what is refused."""

import io
import json
import tarfile
import tracemalloc
from urllib.parse import unquote

import crash_writer
import keras
import numpy as np
import pytest
from feature_helpers import donor, images

import keras_graft as kg
from keras_graft.features import FeatureStore, compute, export
from keras_graft.features.exporting import fields
from keras_graft.features.store.shards import bfloat16

pytestmark = pytest.mark.once


def taps():
    """Return a trunk with two outputs, of a vector and of a map."""
    model = donor()
    outputs = {"a/map.1": model.get_layer("add").output, "pool": model.get_layer("pool").output}
    return kg.freeze(keras.Model(model.input, outputs, name="taps"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    x, y = images(23)
    data = x, {"class": y, "box": np.arange(92.0).reshape(23, 2, 2)}, np.linspace(0, 1, 23)
    keys = [f"photo {i}/é" for i in range(23)]
    place = tmp_path_factory.mktemp("export") / "store"
    return compute(taps(), data, place, batch_size=8, keys=keys, shard_bytes=5000, progress=False)


def expected(store):
    """Return the arrays of a store by their names in an export."""
    found = store.to_numpy()
    return {
        "x_a%2fmap%2e1": found["features"]["a/map.1"], "x_pool": found["features"]["pool"],
        "y_class": found["targets"]["class"], "y_box": found["targets"]["box"],
        "w": found["weights"], "key": found["keys"],
    }  # fmt: skip


def samples(folder):
    """Return the samples of all tar files, with their numbers."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                number, _, name = member.name.partition(".")
                data = tar.extractfile(member).read()
                known = found.setdefault(number, {})
                name, _, kind = name.rpartition(".")
                assert name not in known
                known[name] = data.decode() if kind == "txt" else np.load(io.BytesIO(data))
    return found


def test_tar_files_hold_every_sample(store, tmp_path):
    made = export(store, tmp_path / "tars", shard_bytes=40_000)
    found = samples(tmp_path / "tars")
    assert [*found] == [f"{i:09}" for i in range(23)] and len(made.files) > 2
    for name, rows in expected(store).items():
        for ours, row in zip(found.values(), rows, strict=True):
            if name == "key":
                assert ours[name] == row
            else:
                assert ours[name].dtype == rows.dtype and ours[name].shape == row.shape
                np.testing.assert_array_equal(ours[name], row)
    assert all(sample.keys() == expected(store).keys() for sample in found.values())
    assert made.samples == 23 and made.format == "webdataset"
    assert made.bytes == sum(p.stat().st_size for p in (tmp_path / "tars").glob("*.tar"))
    about = json.loads((tmp_path / "tars" / "_columns.json").read_text())
    assert about["files"] == sorted(p.name for p in (tmp_path / "tars").glob("*.tar"))
    assert about["fields"]["x_a%2fmap%2e1"]["column"] == "features/a/map.1"
    assert unquote("x_a%2fmap%2e1") == "x_a/map.1"
    assert "23 samples in" in str(made) and "x_pool" in str(made)
    assert not (tmp_path / "tars.part").exists()


def test_the_same_export_has_the_same_bytes(store, tmp_path):
    for name in "ab":
        export(str(store.path), tmp_path / name)
    one, two = ((tmp_path / n / "features-00000.tar").read_bytes() for n in "ab")
    assert one == two


def test_parquet_holds_every_sample(store, tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow.dataset as ds

    made = export(store, tmp_path / "rows", "parquet", shard_bytes=5_000)
    assert len(made.files) > 2
    table = ds.dataset(tmp_path / "rows").to_table()
    known = expected(store)
    assert table.column_names == [field.name for field in made.fields]
    assert {*table.column_names} == known.keys() and table.num_rows == 23
    for name, rows in known.items():
        column = table[name].combine_chunks()
        if name == "key":
            assert column.to_pylist() == rows.tolist()
            continue
        if rows.ndim > 2:
            found = column.to_numpy_ndarray()
        else:
            flat = column.flatten() if rows.ndim == 2 else column
            found = flat.to_numpy(zero_copy_only=False).reshape(rows.shape)
        assert found.dtype == rows.dtype
        np.testing.assert_array_equal(found, rows)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_half_precision(tmp_path, trunk, dtype, format):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    x, y = images(9)
    store = compute(trunk, (x, y), tmp_path / "store", dtype=dtype, progress=False)
    rows = store.to_numpy()["features"]
    assert rows.dtype == (bfloat16() if dtype == "bfloat16" else np.float16)
    made = export(store, tmp_path / "out", format)
    if format == "parquet":
        column = pq.read_table(tmp_path / "out" / made.files[0])["x"].combine_chunks()
        found = column.flatten().to_numpy(zero_copy_only=False).reshape(rows.shape)
    else:
        found = np.stack([sample["x"] for sample in samples(tmp_path / "out").values()])
    assert found.dtype == (np.float32 if dtype == "bfloat16" else np.float16)
    np.testing.assert_array_equal(found, rows.astype(found.dtype))


def test_views_and_skipped_samples(tmp_path):
    x, y = images(10)
    model = donor()
    inputs = keras.Input((8, 8, 3), name="image")
    noisy = keras.layers.GaussianNoise(0.5, seed=1, name="noise")(inputs)
    trunk = kg.freeze(keras.Model(inputs, kg.split(model, at="pool")[0](noisy), name="augmented"))
    store = compute(trunk, (x, y), tmp_path / "store", views=2, progress=False)
    export(store, tmp_path / "views")
    found = samples(tmp_path / "views")
    for view, name in enumerate(("x", "view1", "view2")):
        rows = store.take(np.arange(10), "features", views=view)["features"]
        np.testing.assert_array_equal(np.stack([s[name] for s in found.values()]), rows)
    x[3] = 1e20  # more than float16 holds
    plain = kg.freeze(kg.split(model, at="pool")[0])
    how = {"dtype": "float16", "on_error": "skip", "progress": False}
    store = compute(plain, (x, y), tmp_path / "fewer", **how)
    assert [s.index for s in store.manifest.skipped] == [3]
    export(store, tmp_path / "without")
    found = samples(tmp_path / "without")
    assert [int(s["y"]) for s in found.values()] == [*y[:3], *y[4:]]


def test_what_is_refused_leaves_nothing(store, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("there", "link"):
        with pytest.raises(kg.FeatureError, match=f"{name} exists: give another path, or delete"):
            export(store, tmp_path / name)
    with pytest.raises(kg.FeatureError, match='format must be "webdataset" or "parquet", got .tar'):
        export(store, tmp_path / "new", "tar")
    for size in (0, 1.5, "big"):
        with pytest.raises(kg.FeatureError, match="shard_bytes must be a whole number, 1 or more"):
            export(store, tmp_path / "new", shard_bytes=size)
    for path in ("s3://bucket/x", "", 3, "a\0b"):
        with pytest.raises(kg.FeatureError, match="An export is a new local folder"):
            export(store, path)
    with pytest.raises(kg.FeatureError, match="is not a store of features"):
        export(tmp_path / "there", tmp_path / "new")
    (tmp_path / "new.part").mkdir()
    with pytest.raises(kg.FeatureError, match="new.part exists: another export .* then delete it"):
        export(store, tmp_path / "new")
    (tmp_path / "new.part").rmdir()
    assert {p.name for p in tmp_path.iterdir()} == {"there", "link"}
    export(store, tmp_path / "new")  # the way out


def test_a_failure_leaves_nothing(store, tmp_path, monkeypatch):
    real, calls = fields._columns, []

    def breaks(*args):
        calls.append(1)
        if len(calls) == 3:
            raise error
        return real(*args)

    monkeypatch.setattr(fields, "_AT_ONCE", 1)
    monkeypatch.setattr(fields, "_columns", breaks)
    for error in (KeyboardInterrupt(), OSError(28, "No space left on device")):
        calls.clear()
        known = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else kg.FeatureError
        with pytest.raises(known) as caught:
            export(store, tmp_path / "new", shard_bytes=1)
        assert not any(tmp_path.iterdir())
    assert "No space left on device. Nothing is left of it: make room" in str(caught.value)


def test_a_store_that_is_not_complete(tmp_path, trunk):
    x, y = images(20)

    def stopping():
        yield x[:8], y[:8]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute(trunk, stopping(), tmp_path / "store", progress=False)
    with pytest.raises(kg.FeatureError, match="is not complete: 8 samples so far. Finish it with"):
        export(tmp_path / "store", tmp_path / "out")
    compute(trunk, (x, y), tmp_path / "store", progress=False)
    assert export(tmp_path / "store", tmp_path / "out").samples == 20


def test_names_that_webdataset_does_not_tell_apart(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    x, y = images(8)
    trunk = kg.freeze(kg.split(donor(), at="pool")[0])
    data = x, {"a": y, "A": y}
    store = compute(trunk, data, tmp_path / "store", progress=False)
    with pytest.raises(kg.FeatureError, match='only in upper and lower case.*format="parquet"'):
        export(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert export(store, tmp_path / "out", "parquet").samples == 8


def test_parquet_without_pyarrow(store, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(kg.FeatureError, match='pip install pyarrow, or use format="webdataset"'):
        export(store, tmp_path / "out", "parquet")


def test_memory_does_not_grow_with_the_store(tmp_path, monkeypatch):
    """Python's tarfile keeps a record of each member, which is more than a small sample."""
    monkeypatch.setattr(fields, "_AT_ONCE", 1 << 12)
    names = ("check_fixed", "fingerprint")
    for name in names:
        monkeypatch.setattr(crash_writer._compute, name, getattr(crash_writer._compute, name))
    store = crash_writer.run(tmp_path / "store", shard_bytes=1 << 20)
    export(store, tmp_path / "first")  # what is imported and cached
    peaks = []
    for rows in (40, 400):
        monkeypatch.setattr(FeatureStore, "__len__", lambda self, rows=rows: rows)
        tracemalloc.start()
        export(store, tmp_path / str(rows))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000  # 1,200 members would take half a megabyte
