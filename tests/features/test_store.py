"""The store: what is kept, in which files, what is refused, and what comes back."""

import errno
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from feature_helpers import donor, images, run
from keras import layers

import keras_graft as kg
from keras_graft.features import FeatureDataset, FeatureStore, compute
from keras_graft.features.store.folder import Folder


def test_rows_are_what_the_trunk_gives(trunk, tmp_path):
    x, y = images()
    store = run(trunk, (x, y, np.arange(50) / 2), tmp_path, keys=[f"naïve {i}" for i in range(50)])
    found = store.take([49, 0, 17])
    expected = np.concatenate([trunk.predict_on_batch(x[i : i + 8]) for i in range(0, 50, 8)])
    np.testing.assert_array_equal(found["features"], expected[[49, 0, 17]])
    np.testing.assert_array_equal(found["targets"], y[[49, 0, 17]])
    assert found["weights"].tolist() == [24.5, 0, 8.5]
    assert found["keys"].tolist() == ["naïve 49", "naïve 0", "naïve 17"]
    assert len(store) == 50 and store.complete and len(store.manifest.shards) == 4
    assert store.verify() == store.bytes
    np.testing.assert_array_equal(store.to_numpy("features")["features"], expected)
    assert store.take([])["features"].shape == (0, 6)
    assert "50 samples in 4 shards" in str(store) and "(?, 6) float32" in str(store)
    with pytest.raises(kg.FeatureError, match="has the samples 0 to 49"):
        store.take([50])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes(trunk, tmp_path, dtype):
    x, _ = images()
    store = run(trunk, x, tmp_path, dtype=dtype)
    exact = trunk.predict(x, batch_size=8, verbose=0)
    kept = store.take(np.arange(50))["features"]
    assert kept.dtype.name == dtype == store.manifest.columns["features/"].dtype
    close = {"float16": 1e-3, "bfloat16": 1e-2, "float32": 1e-6}[dtype]
    np.testing.assert_allclose(kept.astype("float32"), exact, rtol=close, atol=close / 10)
    assert np.array_equal(kept.astype("float32"), exact) == (dtype == "float32")


def test_all_taps_in_one_pass(tmp_path):
    model = kg.freeze(donor())
    x, y = images()
    store = run(kg.extract(model, {"a": "stem", "b": "pool"}), (x, {"y": y}), tmp_path)
    found = store.take([3, 1])
    assert found["features"]["a"].shape == (2, 6, 6, 6) and found["features"]["b"].shape == (2, 6)
    np.testing.assert_array_equal(found["targets"]["y"], y[[3, 1]])
    listed = keras.Model(model.input, [model.get_layer("stem").output, model.output])
    other = compute(listed, x, tmp_path / "list", batch_size=8, progress=False)
    assert [f.shape for f in other.take([0])["features"]] == [(1, 6, 6, 6), (1, 4)]
    assert "targets" not in run(listed, (x, y), tmp_path, targets=False, resume=False).take([0])


def test_overflow_is_an_error_and_not_an_infinity(tmp_path):
    x = keras.Input((2,))
    trunk = keras.Model(x, x * 1000.0, name="loud")
    data = np.ones((20, 2), "float32")
    for size in (70, -70):
        data[13] = size
        with pytest.raises(
            kg.FeatureError, match="Sample 13 fails: features is up to 70000.*bfloat16"
        ):
            run(trunk, data, tmp_path, dtype="float16")
    assert len(run(trunk, data, tmp_path, dtype="bfloat16", resume=False)) == 20


def every_kind_of_number():
    """Each sign and exponent of float32, at the edges of rounding to 16 bits."""
    low = [0, 1, 0xFFE, 0xFFF, 0x1000, 0x1001, 0x1FFF, 0x2FFF, 0x3000, 0x3001, 0x7FFF, 0x8000,
           0x8001, 0xFFFF]  # fmt: skip
    found = np.add.outer(np.arange(1 << 16, dtype="uint32") << 16, np.array(low, "uint32"))
    return found.astype("uint32").view("float32")


@pytest.mark.parametrize("kept", ["float16", "bfloat16"])
def test_casts_are_numpys_to_the_bit(kept):
    """Also ties, numbers that are subnormal or too small, negative zeros and what overflows."""
    from keras_graft.features.store.columns import Columns
    from keras_graft.features.store.shards import dtype_of

    every, columns = every_kind_of_number(), Columns(kept, False, None)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = every.astype(dtype_of(kept))
    none = np.isnan(every)
    found, lost = columns.cast("features/", every)
    assert found.dtype.name == kept and np.array_equal(np.isnan(found), none)
    np.testing.assert_array_equal(found.view("uint16")[~none], expected.view("uint16")[~none])
    over = np.isinf(expected) & np.isfinite(every)
    assert [*lost] == np.flatnonzero(over.any(1)).tolist() and lost
    fits = every[np.abs(every) <= 65504]
    for shaped in (fits, fits[:1], fits[:0], fits[:65536].reshape(2, -1, 4)):
        found, lost = columns.cast("features/", shaped)
        assert found.shape == shaped.shape and found.dtype.name == kept and not lost
        exact = shaped.astype(dtype_of(kept)).view("uint16")
        np.testing.assert_array_equal(found.view("uint16"), exact)


def test_numbers_of_64_bits_are_rounded_once():
    from keras_graft.features.store.columns import Columns

    # By way of float32 this would become a tie, and be rounded to 1.
    given = np.array([[1 + 2.0**-11 + 2.0**-40]])
    found, _ = Columns("float16", False, None).cast("features/", given)
    assert found[0, 0] == 1 + 2.0**-10


@pytest.mark.parametrize("given, kept, says", [
    (np.float32(65520), "float16", 'up to 65520, but float16 ends at 65504: use dtype="bf.*32"'),
    (np.float32(3.4e38), "bfloat16", r'up to 3.4e\+38, but bfloat16 ends at 3.38.*: .*="float32"'),
    (np.float64(-1e40), "float32", r"up to 1e\+40, but float32 ends at 3.40.*: use dtype=None"),
])  # fmt: skip
def test_what_is_too_large_for_a_dtype_is_said_with_one_that_holds_it(given, kept, says):
    from keras_graft.features.store.columns import Columns

    rows = np.array([[1, np.inf, 2], [np.nan, given, 3], [0, 0, 0]], given.dtype)
    cast, lost = Columns(kept, False, None).cast("features/", rows)
    assert [*lost] == [1] and re.search(says, lost[1])
    np.testing.assert_array_equal(np.delete(cast, 1, 0).astype("float64"), np.delete(rows, 1, 0))


def test_casts_where_jax_has_no_processor_but_the_gpu(monkeypatch):
    from keras_graft.features.store.columns import Columns

    def device(name):
        raise RuntimeError("Unknown backend cpu")

    monkeypatch.setattr(keras, "device", device)
    found, _ = Columns("float16", False, None).cast("features/", np.ones((2, 3), "float32"))
    assert found.dtype == "float16" and found.all()


def test_what_is_a_file_is_no_folder_for_a_store(trunk, tmp_path):
    (tmp_path / "store").write_text("mine")
    with pytest.raises(kg.FeatureError, match="store is a file, or is inside one"):
        run(trunk, images()[0], tmp_path)
    assert (tmp_path / "store").read_text() == "mine"


def test_a_store_that_only_lacks_its_end_is_compared_too(trunk, tmp_path):
    x, y = images()
    store = run(trunk, x, tmp_path, dtype="float16")
    kg.features.keep(store.path, len(store.manifest.shards))
    with pytest.raises(kg.FeatureError, match="float16, now .* float32"):
        run(trunk, x, tmp_path)
    with pytest.raises(kg.FeatureError, match="targets: absent, now"):
        run(trunk, (x, y), tmp_path, dtype="float16")
    with pytest.raises(kg.FeatureError, match="keys: absent, now"):
        run(trunk, x, tmp_path, dtype="float16", keys=range(50))
    assert run(trunk, x, tmp_path, dtype="float16").manifest == store.manifest


def test_columns_are_compared_where_the_first_shards_have_no_rows(tmp_path):
    inputs = keras.Input((4,))
    trunk = keras.Model(inputs, inputs * 1.0)
    x = np.ones((32, 4), "float32")
    x[:16] = 1e9
    how = {"on_error": "skip", "shard_bytes": 1}
    assert len(run(trunk, x, tmp_path, dtype="float16", **how)) == 16
    with pytest.raises(kg.FeatureError, match="float16, now .* float32"):
        run(trunk, x, tmp_path, dtype="float32", **how)


def test_the_format_of_shards_is_named_in_one_file():
    files = Path(kg.features.__file__).parent.rglob("*.py")
    assert [p.stem for p in files if "safetensors" in p.read_text()] == ["shards"]


def test_shards_are_what_the_library_of_their_format_reads(tmp_path):
    from safetensors import deserialize, safe_open

    from keras_graft.features.store.column import DTYPES
    from keras_graft.features.store.shards import dtype_of, encode

    rng = np.random.default_rng(0)
    for rows in ([3, 1, 5], [0], [0, 2]):
        columns = {
            f"{kind}/naïve": [rng.integers(0, 2, (n, 5, 3)).astype(dtype_of(kind)) for n in rows]
            for kind in DTYPES
        }
        columns["aside"] = [part[:, ::2].swapaxes(1, 2) for part in columns["float32/naïve"]]
        data = b"".join(encode(columns))
        found = dict(deserialize(data))
        assert found.keys() == columns.keys()
        for name, parts in columns.items():
            whole = np.concatenate(parts)
            assert bytes(found[name]["data"]) == whole.tobytes()
            assert found[name]["shape"] == [*whole.shape]
        (tmp_path / "shard").write_bytes(data)
        with safe_open(tmp_path / "shard", "numpy") as file:
            for name in columns.keys() - {"bfloat16/naïve"}:
                expected = np.concatenate(columns[name])
                np.testing.assert_array_equal(file.get_tensor(name), expected, strict=True)
        # Who maps the file needs numbers at multiples of their length.
        where = [data.find(np.concatenate(p).tobytes()) for p in columns.values()]
        assert sum(rows) != 9 or all(
            at > 0 and at % p[0].itemsize == 0
            for at, p in zip(where, columns.values(), strict=True)
        )


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(kg.FeatureError, match="not a store of features: it has no manifest.json"):
        FeatureStore(tmp_path)
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "store"):
        with pytest.raises(
            kg.FeatureError, match="is a file, or is inside one, but a store is a fo"
        ):
            FeatureStore(path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(kg.FeatureError, match="cannot be read"):
        FeatureStore(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(kg.FeatureError, match="format 99.*pip install -U"):
        FeatureStore(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(
        kg.FeatureError, match="format 1, .* reads 2 and 3: compute it again, resume=False"
    ):
        FeatureStore(tmp_path)


def test_a_flipped_bit_in_the_first_shard_leaves_nothing_to_keep(trunk, tmp_path):
    x, y = images()
    store = run(trunk, (x, y), tmp_path)
    path = tmp_path / "store" / "shard-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    with pytest.raises(kg.FeatureError, match="No shard before it is left: .*resume=False"):
        store.verify()
    run(trunk, (x, y), tmp_path, resume=False).verify()


def test_a_flipped_bit_is_found_and_named_and_computed_again(trunk, tmp_path):
    x, y = images()
    store = run(trunk, (x, y), tmp_path)
    whole = store.to_numpy()
    path = tmp_path / "store" / "shard-00002.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    with pytest.raises(kg.FeatureError) as caught:
        FeatureStore(store.path).verify()
    assert "the checksum of 'shard-00002.safetensors'" in str(caught.value)
    assert f"kg.features.keep({store.path!r}, 2)" in str(caught.value)
    kg.features.keep(store.path, 2)
    assert not FeatureStore(store.path).complete
    again = run(trunk, (x, y), tmp_path)
    again.verify()
    np.testing.assert_array_equal(again.to_numpy()["features"], whole["features"])
    opened = FeatureStore(store.path)
    path.unlink()
    with pytest.raises(kg.FeatureError, match="'shard-00002.safetensors' no longer exists. K"):
        opened.verify()
    path.write_bytes(data[:-1])
    with pytest.raises(kg.FeatureError, match="'shard-00002.safetensors' has .* bytes, .* written"):
        FeatureStore(store.path)


def _rows(manifest):
    first, *rest = manifest.shards
    return {"shards": (replace(first, rows=first.rows + 2), *rest)}


def _dtype(manifest):
    found = {name: replace(c, dtype="float16") for name, c in manifest.columns.items()}
    return {"columns": {**manifest.columns, "features/": found["features/"]}}


def _name(manifest):
    names = {"targets/": "targets/x"}
    columns = {names.get(k, k): v for k, v in manifest.columns.items()}
    return {"columns": columns, "layout": {**manifest.layout, "targets": "dict"}}


@pytest.mark.parametrize("change", [_rows, _dtype, _name])
def test_verify_compares_the_shards_with_the_manifest(trunk, tmp_path, change):
    store = run(trunk, (images()[0], np.arange(50)), tmp_path)
    store.manifest.replace(**change(store.manifest)).save(Folder(store.path))  # checksum and all
    with pytest.raises(kg.FeatureError, match="'shard-00000.*' does not hold the rows and columns"):
        FeatureStore(store.path).verify()


@pytest.mark.parametrize("old, new", [
    ('"rows": 16', '"rows": 18'), ('float32', 'float16'), ('"targets/"', '"targets/x"'),
])  # fmt: skip
def test_a_manifest_that_was_edited_is_refused(trunk, tmp_path, old, new):
    store = run(trunk, (images()[0], np.arange(50)), tmp_path)
    path = tmp_path / "store" / "manifest.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(kg.FeatureError, match="cannot be read .its checksum does not match what"):
        FeatureStore(store.path)


def test_samples_are_given_as_numbers_or_as_a_mask(trunk, tmp_path):
    store = run(trunk, (images()[0], np.arange(50)), tmp_path)
    mask = np.arange(50) == 7
    assert store.take(mask)["targets"].tolist() == [7]
    assert store.take(np.array([7], "uint64"))["targets"].tolist() == [7]
    for wrong in (3, [3.0], ["a"], [[1, 2]], mask[:49]):
        with pytest.raises(kg.FeatureError, match="list of whole numbers, or as a mask of 50"):
            store.take(wrong)
        with pytest.raises(kg.FeatureError, match="list of whole numbers, or as a mask of 50"):
            FeatureDataset(store, 8, indices=wrong)
    with pytest.raises(kg.FeatureError, match="has the samples 0 to 49"):
        FeatureDataset(store, 8, indices=[-1])
    with pytest.raises(kg.FeatureError, match="no 'feature': the kinds are features, targets"):
        store.take([3], "feature")


def test_many_shards_are_not_all_open_at_once(trunk, tmp_path):
    from keras_graft.features.store.rows import Rows

    x, _ = images()
    store = run(trunk, (x, np.arange(50)), tmp_path, shard_bytes=1)
    assert len(store.manifest.shards) == 7
    order = np.random.default_rng(0).integers(0, 50, 200)  # some twice
    exact = store.to_numpy()["features"]
    # What is kept in memory: all of it, what is short, nothing.
    for kept, short, names in (
        (1 << 20, 0, {"features/", "targets/"}), (0, 8, {"targets/"}), (0, 0, set()),
    ):  # fmt: skip
        rows = Rows(Folder(store.path), store.manifest, None, kept=kept, short=short, most_open=2)
        found = rows.take(order, ["features/", "targets/"])
        assert rows._kept == names
        assert found["targets/"].tolist() == order.tolist()
        np.testing.assert_array_equal(found["features/"], exact[order])
        assert len(rows._open) == 2


def test_what_the_system_reads_in_pieces_is_read_to_its_end(tmp_path):
    from keras_graft.features.store.folder import Parts

    (tmp_path / "file").write_bytes(bytes(range(100)))
    for read in (lambda number, buffers, at: os.preadv(number, [buffers[0][:7]], at), None):
        buffer = bytearray(90)
        Parts(tmp_path / "file", read).read_into(5, memoryview(buffer))
        assert list(buffer) == list(range(5, 95))
        with pytest.raises(kg.FeatureError, match="ends before byte 105"):
            Parts(tmp_path / "file", read).read_into(15, memoryview(buffer))


def test_rows_lie_where_backends_take_them_without_a_copy(trunk, tmp_path):
    store = run(trunk, (images()[0], np.arange(50)), tmp_path)
    assert store._rows._kept == {"features/", "targets/"}
    for _ in range(2):
        for order in ([0], [1, 2, 3], range(50)):
            found = store.take(order)
            assert {found[kind].ctypes.data % 64 for kind in found} == {0}
        store._rows._kept = set()  # and the same where they are read from the file


def test_batches_that_a_backend_holds_are_not_written_over(tmp_path):
    wide = kg.freeze(keras.Sequential([keras.Input((2,)), layers.Dense(8192)]))
    x = np.random.default_rng(0).random((160, 2), "float32")
    store = compute(wide, x, tmp_path, progress=False)
    exact = store.to_numpy()["features"].copy()
    dataset = FeatureDataset(store, 16, shuffle=False)
    held = [keras.ops.convert_to_tensor(dataset[i][0]) for i in range(len(dataset))]
    for i, batch in enumerate(held):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(batch), exact[i * 16 : i * 16 + 16]
        )  # fmt: skip


def test_a_file_system_without_locks_is_no_other_process(trunk, tmp_path, monkeypatch):
    import fcntl

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert len(run(trunk, images()[0], tmp_path)) == 50


def test_a_url_that_became_a_path_is_refused():
    with pytest.raises(kg.FeatureError, match="s3:/bucket/x was a URL.*give it as a str"):
        FeatureStore(Path("s3://bucket/x"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows")
def test_a_lock_ends_with_compute_though_a_child_of_the_data_lives_on(trunk, tmp_path):
    x, _ = images()
    read, write = os.pipe()
    children = []

    def forking():
        for start in range(0, 50, 8):
            if not start:
                children.append(os.fork())
                if not children[0]:
                    os.read(read, 1)  # as the idle worker of a DataLoader waits
                    os._exit(0)
            yield x[start : start + 8]

    try:
        run(trunk, forking(), tmp_path)
        assert len(run(trunk, x, tmp_path)) == 50
    finally:
        os.write(write, b"!")
        os.waitpid(children[0], 0)


def test_keep_waits_for_no_writer_and_counts_from_zero(trunk, tmp_path):
    x, _ = images()
    refused = []

    def meddling():
        for start in range(0, 50, 8):
            if start == 40:
                with pytest.raises(kg.FeatureError, match="Another process is writing") as caught:
                    kg.features.keep(tmp_path / "store", 1)
                refused.append(caught.value)
            yield x[start : start + 8]

    run(trunk, x[:48], tmp_path)
    kg.features.keep(tmp_path / "store", 1)
    store = run(trunk, meddling(), tmp_path)
    assert refused and len(store) == 50 and store.verify()
    with pytest.raises(kg.FeatureError, match="-1 shards: give how many to keep"):
        kg.features.keep(store.path, -1)
    assert FeatureStore(store.path).complete


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_complete_store_in_a_folder_of_others_is_taken(trunk, tmp_path, monkeypatch, number):
    from keras_graft.features.store import folder

    x, _ = images()
    store = run(trunk, x, tmp_path)

    def opened(path, mode="r", **kwargs):
        if "w" in mode:
            raise OSError(number, "not ours", str(path))
        return open(path, mode, **kwargs)

    monkeypatch.setattr(folder, "open", opened, raising=False)
    # Where the lock alone is another user's, the folder is written to, and the lock counts.
    at = folder.Folder(store.path)
    with at.lock():
        assert at.lock() is None
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # tests may be root's
    assert len(run(trunk, x, tmp_path)) == 50


def test_a_damaged_header_of_a_shard_is_said_to_be_one(trunk, tmp_path):
    path = Path(run(trunk, images()[0], tmp_path).path)
    shard = path / "shard-00001.safetensors"
    good = shard.read_bytes()
    for old, new in (
        (good[:8], good[:7] + b"\x10"), (good[:8], good[:5] + b"\1\0\0"), (b"data_o", b"xata_o"),
        (b'"features/', b'"neatures/'), (b'":{', b'":['),
    ):  # fmt: skip
        shard.write_bytes(good.replace(old, new, 1))
        with pytest.raises(kg.FeatureError, match="shard-00001.* cannot be read: .*verify"):
            FeatureStore(path).to_numpy()
        with pytest.raises(kg.FeatureError, match="the checksum of 'shard-00001"):
            FeatureStore(path).verify()


def test_numbers_may_be_numpys(tmp_path):
    x = keras.Input((4,))
    trunk = kg.freeze(keras.Model(x, layers.Dense(2)(x)))
    store = run(trunk, np.ones((20, 4), "float32"), tmp_path, batch_size=np.int64(8),
                shard_bytes=np.int64(64))  # fmt: skip
    kg.features.keep(store.path, np.int64(1))
    assert len(FeatureStore(store.path)) == 8
    with pytest.raises(kg.FeatureError, match="'1' shards: give how many to keep"):
        kg.features.keep(store.path, "1")
    with pytest.raises(kg.FeatureError, match="shard_bytes must be a whole number, 1 or more, got"):
        run(trunk, np.ones((20, 4), "float32"), tmp_path, shard_bytes=1e6)


def test_a_tilde_is_the_users_home(trunk, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    store = compute(trunk, images()[0], "~/kept", batch_size=8, progress=False)
    assert store.path == str(tmp_path / "kept") and len(FeatureStore("~/kept")) == len(store)
    monkeypatch.chdir(tmp_path)
    assert FeatureStore(compute(trunk, images()[0], "~no user/kept", progress=False).path).complete


def test_a_damaged_manifest_is_said_to_be_one(trunk, tmp_path):
    x, y = images()
    path = Path(run(trunk, (x, y), tmp_path).path) / "manifest.json"
    good = path.read_bytes()
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= (0x80, 1, 4)[place % 3]
        path.write_bytes(bad)
        with pytest.raises(kg.FeatureError, match="manifest.json cannot be read|of format [0-9], "):
            FeatureStore(path.parent)
    for bad in (b'{"format":2,"columns":[],"shards":[]}', b"[]", b'{"format":"x"}'):
        path.write_bytes(bad)
        with pytest.raises(kg.FeatureError, match="manifest.json cannot be read"):
            FeatureStore(path.parent)


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_files_of_the_user_stay_in_the_folder(trunk, tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    theirs = ["model.safetensors", "shard-of-mine.safetensors", "shard-00003.safetensors.part"]
    left = ["shard-00003.safetensors.keras-graft.part", "manifest.json.keras-graft.part"]
    for name in theirs + left:
        (folder / name).write_text("precious")
    for resume in (True, False):
        run(trunk, images()[0], tmp_path, resume=resume)
    kg.features.keep(folder, 1)
    assert all((folder / name).read_text() == "precious" for name in theirs)
    assert not any((folder / name).exists() for name in left)


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("name, says", [
    ("shard-00007.safetensors", "shard-00007.safetensors"), ("lock", "a 'lock' that"),
    (f"shard-{'0af' * 10}12.safetensors", "shard-0af0af"), ("manifest.json", "manifest.json"),
])  # fmt: skip
def test_what_was_there_before_a_store_is_not_touched(trunk, tmp_path, resume, name, says):
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / name).write_text('{"name": "a web application"}')
    before = contents(folder)
    with pytest.raises(kg.FeatureError, match=says) as caught:
        run(trunk, images()[0], tmp_path, resume=resume)
    assert contents(folder) == before
    if not (name == "manifest.json" and resume):
        assert re.search("Give another folder, or move (it|them) away", str(caught.value))
    (folder / name).rename(tmp_path / "moved")
    assert run(trunk, images()[0], tmp_path, resume=resume).verify()


def test_a_shard_of_another_is_not_touched_in_the_folder_of_a_store(trunk, tmp_path):
    x, _ = images()
    folder = Path(run(trunk, x, tmp_path).path)
    theirs = folder / "shard-00005.safetensors"
    theirs.write_text("precious")
    assert len(run(trunk, x, tmp_path)) == 50  # nothing is written
    kg.features.keep(folder, 2)
    before = contents(folder)
    assert theirs.name in before
    for resume in (True, False):
        with pytest.raises(
            kg.FeatureError, match="holds 'shard-00005.safetensors', which no store"
        ):
            run(trunk, x, tmp_path, resume=resume)
        assert contents(folder) == before
    theirs.unlink()
    assert run(trunk, x, tmp_path).verify()


def test_what_is_refused_leaves_the_old_store(trunk, tmp_path):
    """A store is deleted only once there is something to write in its place."""
    x, _ = images()
    folder = Path(run(trunk, x, tmp_path).path)
    before = contents(folder)
    for data in (x[:0], np.ones((5, 3), "float32"), (x, np.array(["a"] * 50)), iter(())):
        with pytest.raises(kg.FeatureError):
            run(trunk, data, tmp_path, resume=False)
        assert contents(folder) == before
    assert len(run(trunk, x[:20], tmp_path, resume=False)) == 20
    assert len(contents(folder)) == 2 + len(FeatureStore(folder).manifest.shards)


def test_a_link_where_a_file_is_written_leads_nowhere(trunk, tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    mine = tmp_path / "mine"
    mine.write_text("precious")
    (folder / "manifest.json.keras-graft.part").symlink_to(mine)
    run(trunk, images()[0], tmp_path)
    (folder / "lock").unlink()
    (folder / "lock").symlink_to(tmp_path / "new")
    with pytest.raises(kg.FeatureError, match="a 'lock' that keras-graft did not write"):
        run(trunk, images()[0], tmp_path)
    assert mine.read_text() == "precious" and not (tmp_path / "new").exists()


def test_two_writers_at_once_are_refused(trunk, tmp_path):
    from keras_graft.features.store.folder import Folder

    with Folder(tmp_path / "store").lock(), pytest.raises(kg.FeatureError, match="Another process"):
        run(trunk, images()[0], tmp_path)


def test_a_store_that_was_written_again_is_opened_again(trunk, tmp_path):
    x, _ = images()
    store, other = (run(trunk, (x, np.arange(50)), tmp_path) for _ in range(2))
    other.to_numpy()
    store.take([3])  # of the first shard
    run(trunk, (x, np.arange(50) + 1), tmp_path, resume=False)
    with pytest.raises(
        kg.FeatureError, match="was computed again since it was opened.*open it again"
    ):
        store.take([3, 40])
    assert FeatureStore(store.path).take([3])["targets"] == 4
    assert other.take([3])["targets"] == 3  # its files are still open
    kg.features.keep(store.path, 2)
    part = FeatureStore(store.path)
    run(trunk, (x, np.arange(50) + 1), tmp_path)
    assert part.take([3])["targets"] == 4  # it has only grown
    kg.features.keep(store.path, 2)
    part = FeatureStore(store.path)
    run(trunk, (x, np.arange(50)), tmp_path, resume=False)
    with pytest.raises(kg.FeatureError, match="was computed again since it was opened"):
        part.take([3])


def test_a_shard_that_is_gone_or_not_of_this_store_is_named(trunk, tmp_path):
    x, _ = images()
    store = run(trunk, (x, np.arange(50)), tmp_path)
    (tmp_path / "store" / "shard-00002.safetensors").unlink()
    with pytest.raises(kg.FeatureError, match="'shard-00002.safetensors' cannot be read: .* says"):
        store.to_numpy()
    with pytest.raises(kg.FeatureError, match=r"kg.features.keep\(.*, 2\)"):
        FeatureStore(store.path)  # the way out, which that error names
    store = run(trunk, (x, np.arange(50)), tmp_path, resume=False)
    run(trunk, (x[:8], np.arange(8)), tmp_path, resume=False)
    with pytest.raises(kg.FeatureError, match="was computed again since it was opened"):
        store.take([49])


def test_features_of_no_width_are_nothing_to_keep(tmp_path):
    x = keras.Input((4,))
    trunk = keras.Model(x, x[:, :0], name="none")
    with pytest.raises(
        kg.FeatureError, match=r"'none' gives features of width 0.*\(\?, 0\) float32"
    ):
        run(trunk, np.ones((10, 4), "float32"), tmp_path)


def test_columns_of_no_width(tmp_path):
    x = keras.Input((4,))
    trunk = keras.Model(x, {"none": x[:, :0], "all": x * 1.0})
    store = run(trunk, (np.ones((10, 4), "float32"), np.zeros((10, 0))), tmp_path)
    taken = store.take([1, 7])
    assert taken["features"]["none"].shape == taken["targets"].shape == (2, 0)
    assert taken["features"]["all"].shape == (2, 4)
