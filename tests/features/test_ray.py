"""The Ray engine: the local engine's store, whoever is killed."""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import keras_graft as kg
from keras_graft.features import FeatureStore, RayOptions, compute

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="actors take a while")
# An actor imports Keras and its backend: half the time of a run here.
ONE, TWO = RayOptions(actors=1, cpus=0.5), RayOptions(actors=2, cpus=0.5)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray = pytest.importorskip("ray")
    ray.init(
        num_cpus=2,
        num_gpus=1,
        object_store_memory=80 << 20,
        include_dashboard=False,
        log_to_driver=False,
    )
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def trunk():
    return made()


def made():
    keras.utils.set_random_seed(3)
    x = inputs = keras.Input((6, 6, 3), name="image")
    x = layers.Conv2D(4, 3, name="conv")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Dropout(0.5, name="drop")(x)
    pooled = layers.GlobalAveragePooling2D(name="pool")(x)
    return kg.freeze(keras.Model(inputs, {"map": x, "pool": pooled}, name="trunk"))


class Mine(layers.Layer):
    """Of the user's own, and registered nowhere."""

    def call(self, x):
        return x * 2


def flat():
    rng = np.random.default_rng(0)
    return rng.random((200, 4), "float32"), np.arange(200)


def rows_of(ray, x, y):
    return ray.data.from_items([{"x": a, "y": int(b)} for a, b in zip(x, y, strict=True)])


def test_layers_of_the_users_own_run_on_actors(cluster, tmp_path):
    cluster.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # as what a script defines
    x = keras.Input((4,))
    trunk = kg.freeze(keras.Model(x, layers.Lambda(lambda t: t[:, ::2] + 1)(Mine()(x))))
    given, y = flat()
    store = run(trunk, (given, y), tmp_path / "s", engine="ray", ray=ONE)
    np.testing.assert_array_equal(store.to_numpy()["features"], (given * 2)[:, ::2] + 1)


def test_code_that_actors_do_not_have(cluster, tmp_path, monkeypatch):
    """They have what is installed, what lies beside the script, and what goes with the trunk."""
    (tmp_path / "of_the_caller.py").write_text(
        "import keras\n"
        "@keras.saving.register_keras_serializable('of_the_caller')\n"
        "class Theirs(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        return x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    theirs = importlib.import_module("of_the_caller").Theirs
    x, given = keras.Input((4,)), flat()
    try:
        without = kg.freeze(keras.Model(x, layers.Dense(3)(x)))
        store = run(without, given, tmp_path / "s", engine="ray", ray=ONE)
        np.testing.assert_array_equal(store.to_numpy()["targets"], given[1])
        trunk = kg.freeze(keras.Model(x, theirs()(x)))
        says = "cannot be loaded on the actors: .*No module named 'of_the_caller'.*working_dir"
        with pytest.raises(kg.FeatureError, match=says):
            run(trunk, given, tmp_path / "t", engine="ray", ray=ONE)
    finally:
        del keras.saving.get_custom_objects()["of_the_caller>Theirs"]


def test_a_refused_resume_keeps_the_shards_that_are_there(cluster, tmp_path):
    x = keras.Input((4,), name="x")
    trunk = kg.freeze(keras.Model(x, layers.Dense(3)(x)))
    given, y = flat()
    how = RayOptions(actors=1, cpus=0.5, targets="y")
    whole = run(trunk, (given, y), tmp_path / "s", shard_bytes=300)
    kg.features.keep(whole.path, 9)
    before = FeatureStore(whole.path).manifest
    other = given.copy()
    other[60] += 1
    for data, says in (
        ((other, y), "samples 48 to 63 were made of different"),
        ((given[:80], y[:80]), "144 samples, now 80"),
    ):
        with pytest.raises(kg.FeatureError, match=says):
            run(trunk, rows_of(cluster, *data), whole.path, engine="ray", ray=how, shard_bytes=300)
        assert FeatureStore(whole.path).manifest == before
        FeatureStore(whole.path).verify()
    done = run(
        trunk, rows_of(cluster, given, y), whole.path, engine="ray", ray=how, shard_bytes=300
    )
    assert done.complete and done.manifest.shards[:9] == before.shards
    np.testing.assert_array_equal(done.to_numpy()["targets"], y)
    batches = [(given[i:j], y[i:j]) for i, j in ((0, 40), (40, 70), (70, 99), (99, 200))]
    uneven = run(trunk, batches, tmp_path / "uneven", shard_bytes=300)
    kg.features.keep(uneven.path, 3)
    with pytest.raises(
        kg.FeatureError, match="its shards differ in length.*compute it again: resume=False"
    ):
        run(trunk, rows_of(cluster, given, y), uneven.path, engine="ray", ray=how, shard_bytes=300)
    # The folder of a memory file system is no actor's: noticed behind shards that are there too.
    url = "memory://held"
    run(trunk, (given, y), url, shard_bytes=300)
    kg.features.keep(url, 3)
    with pytest.raises(kg.FeatureError, match="An actor wrote .* and it is not in memory://held"):
        run(trunk, rows_of(cluster, given, y), url, engine="ray", ray=how, shard_bytes=300)
    assert len(FeatureStore(url).manifest.shards) == 3


def test_what_is_wrong_on_actors_is_said_as_by_the_local_engine(cluster, tmp_path):
    x = keras.Input((4,), name="x")
    trunk = kg.freeze(keras.Model(x, layers.Dense(3)(x)))
    given, y = flat()
    batches = [(given[:8], y[:8]), (given[8:16], None)]
    with pytest.raises(kg.FeatureError, match="samples from 8 on have different columns"):
        run(trunk, batches, tmp_path / "a", engine="ray", ray=ONE)
    empty = cluster.data.from_items([])
    with pytest.raises(kg.FeatureError, match="The data is empty"):
        run(trunk, empty, tmp_path / "b", engine="ray", ray=ONE)
    with pytest.raises(kg.FeatureError, match='Ray dataset.*engine="ray"'):
        run(trunk, rows_of(cluster, given, y), tmp_path / "c")
    of_ray = cluster.data.from_items([{"x": row} for row in given]).iter_batches(batch_size=8)
    there = run(trunk, of_ray, tmp_path / "c").to_numpy()["features"]
    np.testing.assert_array_equal(there, run(trunk, given, tmp_path / "e").to_numpy()["features"])
    for wrong, says in (
        ({"actors": 0}, "actors must be a whole number"), ({"actors": "two"}, "actors must be a whole"),
        ({"cpus": "x"}, "cpus and gpus must be numbers"), ({"backend": "theano"}, '"torch", got'),
    ):  # fmt: skip
        with pytest.raises(kg.FeatureError, match=says):
            run(trunk, (given, y), tmp_path / "d", engine="ray", ray=wrong)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(UserWarning, match="2 actors with 1 processors each leave none of the"):
            run(trunk, rows_of(cluster, given, y), tmp_path / "d", engine="ray", ray={"actors": 2,
                "targets": "y"})  # fmt: skip


def test_inputs_of_any_order_and_nesting(cluster, tmp_path):
    b, a = keras.Input((3,), name="b"), keras.Input((5,), name="a")
    listed = kg.freeze(keras.Model([b, a], layers.Concatenate()([b, a])))
    named = kg.freeze(keras.Model({"b": b, "a": a}, layers.Concatenate()([b, a])))
    table = [
        {"b": np.full(2 if i == 40 else 3, i, "float32"), "a": np.ones(5, "float32")}
        for i in range(64)
    ]
    for number, (trunk, inputs) in enumerate(
        ((listed, {"b": "b", "a": "a"}), (listed, None), (named, None))
    ):
        store = run(
            trunk, cluster.data.from_items(table), tmp_path / str(number), engine="ray",
            on_error="skip", ray=RayOptions(actors=1, cpus=0.5, inputs=inputs),
        )  # fmt: skip
        assert [s.index for s in store.manifest.skipped] == [40]
        kept = np.delete(np.arange(64), 40)
        assert store.to_numpy()["features"][:, :3].tolist() == [[i] * 3 for i in kept]


def images(n=200):
    rng = np.random.default_rng(0)
    return rng.random((n, 6, 6, 3), "float32"), rng.integers(0, 4, n)


def run(trunk, data, path, **kwargs):
    kwargs = {"batch_size": 8, "progress": False, "shard_bytes": 2500, **kwargs}
    return compute(trunk, data, path, **kwargs)


def assert_same(store, local, names=False):
    """The same manifest, the same bytes in the shards, and no file besides."""
    assert store.complete and store.verify() == local.bytes
    ours, theirs = (
        {**vars(s.manifest), "shards": [vars(e) for e in s.manifest.shards]} for s in (store, local)
    )
    if not names:
        for manifest in (ours, theirs):
            manifest["shards"] = [{**e, "file": ""} for e in manifest["shards"]]
    assert ours == theirs
    files = [[Path(s.path, e.file).read_bytes() for e in s.manifest.shards] for s in (store, local)]
    assert files[0] == files[1]
    shards = {p.name for p in Path(store.path).iterdir()} - {"lock", "manifest.json"}
    assert shards == {e.file for e in store.manifest.shards}


def dataset(ray, x, y, blocks=7):
    """Blocks that end elsewhere than shards and batches do."""
    rows = [{"data": one, "label": label} for one, label in zip(x, y, strict=True)]
    return ray.data.from_items(rows, override_num_blocks=blocks)


def test_local_data_gives_the_local_store(trunk, tmp_path):
    x, y = images()
    data, keys = (x, {"y": y}, np.arange(200) / 2), [f"naïve {i}" for i in range(200)]
    local = run(trunk, data, tmp_path / "local", keys=keys, dtype="float16")
    assert len(local.manifest.shards) == 13
    store = run(
        trunk, data, tmp_path / "ray", keys=keys, dtype="float16", engine="ray", ray=TWO
    )  # fmt: skip
    assert_same(store, local, names=True)
    kg.features.keep(store.path, 5)
    before = {p.name: p.stat().st_ino for p in Path(store.path).iterdir()}
    gpu = replace(ONE, gpus=1)  # one that is only counted, and of which JAX knows nothing
    again = run(trunk, data, store.path, keys=keys, dtype="float16", engine="ray", ray=gpu)
    assert_same(again, local, names=True)
    assert [before.get(e.file) == Path(again.path, e.file).stat().st_ino
            for e in again.manifest.shards] == [True] * 5 + [False] * 8  # fmt: skip
    # Complete, it is taken as it is, by either engine.
    assert run(trunk, data, store.path, keys=keys, dtype="float16").verify()
    with pytest.raises(kg.FeatureError, match="sample 0 had different targets, .* or keys"):
        run(trunk, (x[::-1], *data[1:]), store.path, keys=keys, dtype="float16", engine="ray")


@contextlib.contextmanager
def one_is_killed(cluster, store, kind):
    """Kill an actor of some kind, in the middle of its work."""
    killed = []

    def kill():
        while len(list(store.glob("*.safetensors"))) < 3:
            time.sleep(0.002)
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and parent(process) == parent_of_workers(cluster):
                name = (process / "cmdline").read_text()
                if kind in name and not killed:
                    os.kill(int(process.name), signal.SIGKILL)
                    killed.append(name)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    yield killed
    thread.join(5)


def test_local_data_gives_the_local_store_though_an_actor_is_killed(cluster, trunk, tmp_path):
    x, y = images(400)
    local, store = run(trunk, (x, y), tmp_path / "local"), tmp_path / "ray"
    with one_is_killed(cluster, store, "ray::Worker") as killed:
        made = run(trunk, (x, y), store, engine="ray", ray=TWO)
    assert len(killed) == 1
    assert_same(made, local, names=True)


CALLER = """
import sys
sys.path[:0] = sys.argv[2:]
import ray, test_ray
ray.init("local", num_cpus=2, object_store_memory=80 << 20, include_dashboard=False)
x, y = test_ray.images(400)
test_ray.run(test_ray.made(), (x, y), sys.argv[1], engine="ray", ray=test_ray.TWO)
"""


def test_a_killed_caller_is_resumed_with_another_number_of_actors(trunk, tmp_path):
    x, y = images(400)
    local, store = run(trunk, (x, y), tmp_path / "local"), tmp_path / "ray"
    here = Path(__file__).parent
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, store, here, here.parent], stderr=subprocess.DEVNULL,
        env={**os.environ, "KERAS_BACKEND": "jax"}, start_new_session=True,
    )  # fmt: skip
    try:
        while len(list(store.glob("journal-*"))) < 3:
            assert caller.poll() is None
            time.sleep(0.002)
    finally:
        os.killpg(caller.pid, signal.SIGKILL)
        caller.wait()
    there = FeatureStore(store)
    assert 0 < len(there) < 400 and not there.complete
    before = {e.file: (store / e.file).stat().st_mtime_ns for e in there.manifest.shards}
    again = run(trunk, (x, y), store, engine="ray", ray=ONE)
    assert_same(again, local, names=True)
    assert before == {name: (store / name).stat().st_mtime_ns for name in before}


def test_a_ray_dataset_gives_the_local_store_though_an_actor_is_killed(cluster, trunk, tmp_path):
    x, y = images(400)
    local = run(trunk, (x, y), tmp_path / "local")
    data, store = dataset(cluster, x, y), tmp_path / "ray"
    how = {"actors": 2, "cpus": 0.5, "inputs": "data", "targets": "label"}
    with one_is_killed(cluster, store, "MapBatches(Worker)") as killed:
        made = run(trunk, data, store, engine="ray", ray=how)
    assert len(killed) == 1
    assert_same(made, local)
    # The caller is killed: what is there is not computed again.
    kg.features.keep(store, 9)
    before = {p.name for p in store.glob("*.safetensors")}
    again = run(trunk, data, store, engine="ray", ray={**how, "actors": 1})
    assert_same(again, local)
    assert before < {e.file for e in again.manifest.shards}
    assert run(trunk, data, store, engine="ray", ray=how).verify()  # complete: taken as it is
    with pytest.raises(kg.FeatureError, match="had different targets"):
        run(trunk, dataset(cluster, x, y + 1), store, engine="ray", ray=how)


def parent(process):
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def parent_of_workers(ray):
    """The raylet of this test's own cluster."""
    return ray._private.worker._global_node.all_processes["raylet"][0].process.pid


def test_rows_that_fail_are_named_or_left_out_and_listed(cluster, trunk, tmp_path):
    x, y = images(60)
    x[41] = 1e6  # its features overflow float16
    rows = [{"image": image, "label": int(label)} for image, label in zip(x, y, strict=True)]
    rows[13]["image"] = np.zeros((5, 6, 3), "float32")
    data, how = cluster.data.from_items(rows), replace(ONE, targets="label")
    with pytest.raises(kg.FeatureError, match=r"Sample 13 fails: image is \(5, 6, 3\), and the tr"):
        run(trunk, data, tmp_path / "ray", dtype="float16", engine="ray", ray=how)
    store = run(
        trunk, data, tmp_path / "ray", dtype="float16", engine="ray", ray=how, on_error="skip"
    )  # fmt: skip
    found = [(s.index, s.reason) for s in store.manifest.skipped]
    assert [index for index, _ in found] == [13, 41] and "float16 ends at 65504" in found[1][1]
    good = np.delete(np.arange(60), [13, 41])
    with pytest.raises(kg.FeatureError, match="Sample 41 fails: .* is up to"):
        run(trunk, (x, y), tmp_path / "local", dtype="float16")
    local = run(trunk, (x, y), tmp_path / "local", dtype="float16", on_error="skip").to_numpy()
    store = store.to_numpy()
    np.testing.assert_array_equal(store["targets"], y[good])
    np.testing.assert_array_equal(local["targets"], np.delete(y, 41))
    at = np.delete(np.arange(59), 13)
    np.testing.assert_allclose(store["features"]["map"], local["features"]["map"][at], rtol=1e-3)


def test_what_ray_cannot_do_is_said(cluster, trunk, tmp_path, monkeypatch):
    x, y = images(20)
    data = dataset(cluster, x, y)
    with pytest.raises(
        kg.FeatureError, match="columns data, label, and the trunk takes image: say"
    ):
        run(trunk, data, tmp_path / "s", engine="ray")
    with pytest.raises(kg.FeatureError, match="no column 'lable': it has data, label"):
        run(trunk, data, tmp_path / "s", engine="ray", ray={"inputs": "data", "targets": "lable"})
    with pytest.raises(kg.FeatureError, match="Keep a column of numbers with the targets"):
        run(trunk, data, tmp_path / "s", engine="ray", keys=range(20))
    with pytest.raises(kg.FeatureError, match="ray={'workers': 3}.*The options are actors, cpus"):
        run(trunk, data, tmp_path / "s", engine="ray", ray={"workers": 3})
    with pytest.raises(kg.FeatureError, match='engine must be "local" or "ray", got \'dask\''):
        run(trunk, data, tmp_path / "s", engine="dask")
    with pytest.raises(kg.FeatureError, match="not in memory://s: give a folder that all"):
        run(trunk, (x, y), "memory://s", engine="ray", ray=ONE)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(kg.FeatureError, match=r"pip install 'keras-graft\[ray\]'"):
        run(trunk, data, tmp_path / "s", engine="ray")
    assert not (tmp_path / "s" / "manifest.json").exists()
    with pytest.raises(kg.FeatureError, match="holds no features yet"):
        FeatureStore(tmp_path / "s")


def test_parquet_files_are_data(cluster, tmp_path):
    import pyarrow
    from pyarrow import parquet

    x, y = flat()
    (tmp_path / "rows").mkdir()
    for i in range(4):
        own = slice(i * 50, i * 50 + 50)
        table = pyarrow.table(
            {"x": x[own].tolist(), "y": y[own], "name": [f"n{j}" for j in y[own]]}
        )
        parquet.write_table(table, tmp_path / "rows" / f"{i}.parquet")
    trunk = kg.freeze(keras.Sequential([keras.Input((4,)), layers.Dense(3)]))
    how = {"engine": "ray", "ray": replace(ONE, inputs="x", targets="y")}
    data = cluster.data.read_parquet(str(tmp_path / "rows"))
    store = run(trunk, data, tmp_path / "s", **how)
    rows = store.find(x.astype("float64"))  # as lists of Parquet are read
    assert sorted(rows) == list(range(200))
    found = store.take(rows)
    np.testing.assert_array_equal(found["targets"], y)
    np.testing.assert_allclose(found["features"], trunk.predict(x, verbose=0), rtol=1e-5, atol=1e-6)
    assert run(trunk, data, tmp_path / "s", **how).manifest == store.manifest


def test_a_store_of_uneven_shards_is_finished_from_shuffled_data(cluster, tmp_path):
    """What an interrupted local run left, which wrote shards of any length."""
    x, y = flat()
    trunk = kg.freeze(keras.Sequential([keras.Input((4,)), layers.Dense(3)]))

    def broken(stop):
        for start in range(0, stop, 8):
            yield x[start : start + 8], y[start : start + 8]
        raise OSError("stopped")

    for stop in (24, 88):
        with pytest.raises(OSError, match="stopped"):
            run(trunk, broken(stop), tmp_path, shard_bytes=1 << 20)
    order = np.random.default_rng(0).permutation(200)
    store = run(trunk, (x[order], y[order]), tmp_path, engine="ray", ray=ONE)
    assert [s.rows for s in store.manifest.shards][:2] == [24, 64] and len(store) == 200
    rows = store.find(x)
    assert sorted(rows) == list(range(200)) and store.verify()
    np.testing.assert_array_equal(store.take(rows)["targets"], y)
