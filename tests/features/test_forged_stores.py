"""A store that others wrote: what is wrong with it is an error of the package, or nothing is."""

import contextlib
import io
import shutil
import sys
import tracemalloc

import crash_writer
import forged_stores
import keras
import numpy as np
import pytest
import typer

import keras_graft as kg
from keras_graft.features import FeatureDataset, FeatureStore
from keras_graft_cli.app import app

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="nothing of a backend")
module = sys.modules["keras_graft.features._compute"]  # the function hides the module


class Trunk(crash_writer.Trunk):
    """One of which a sample fails, so that the manifest says so."""

    def predict_on_batch(self, x):
        if (x > 1e6).any():
            raise ValueError("too bright")
        return super().predict_on_batch(x)


def batches():
    rng = np.random.default_rng(0)
    for start in range(0, 120, 10):
        x = rng.random((10, 8), "float32")
        if start == 40:
            x[7] = 1e9
        yield x, np.arange(start, start + 10)


def computed(path):
    crash_writer.without_keras_models()
    return module.compute(
        Trunk(), batches(), path, progress=False, shard_bytes=1500, on_error="skip",
        keys=[f"photograph {i}" for i in range(120)],
    )  # fmt: skip


COMMAND = typer.main.get_command(app)
"""Made once: that takes longest."""


def command(*args):
    """Run a command."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            COMMAND.main(args, standalone_mode=True)
    except SystemExit as ended:
        if not ended.code:
            assert out.getvalue() and not err.getvalue()
            return
        assert ended.code == 1 and err.getvalue().startswith("error: ") and not out.getvalue()
        raise kg.GraftError(err.getvalue()) from None


def uses(path):
    return {
        "open": lambda: FeatureStore(path),
        "rows": lambda: (FeatureStore(path).to_numpy(), FeatureStore(path).take([3, 1])),
        "report": lambda: FeatureStore(path)._repr_html_(),
        "batches": lambda: [*FeatureDataset([path, path], 50)],
        "info": lambda: command("features", "info", str(path)),
        "verify": lambda: command("features", "verify", str(path)),
        "compute": lambda: computed(path),
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("check_fixed", "fingerprint"):
            patch.setattr(module, name, getattr(module, name))
        path = tmp_path_factory.mktemp("forged") / "store"
        made = computed(path)
        assert len(made.manifest.shards) == 4 and len(made.manifest.skipped) == 1
        for use in uses(path).values():
            use()
        yield path


def contents(path):
    return {p.name: p.read_bytes() for p in path.iterdir()}


def restored(path, files):
    shutil.rmtree(path)
    path.mkdir()
    for name, data in files.items():
        (path / name).write_bytes(data)


def refused(path, label):
    """Use a store in every way; return the ways that refuse it, with what they say."""
    files, said = contents(path), {}
    allowed = sum(map(len, files.values())) + (256 << 20)
    for way, use in uses(path).items():
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            use()
        except kg.GraftError as error:
            said[way] = str(error)
            assert len(said[way]) < 3000, (label, way, said[way][:500])
        except Exception as error:
            raise AssertionError(f"{label}: {way} ends in a raw error") from error
        taken = tracemalloc.get_traced_memory()[1] - before
        assert taken < allowed, (label, way, taken)
        if way in said or way != "compute":
            assert contents(path) == files, (label, way)
    return said


@pytest.fixture
def measured():
    tracemalloc.start()
    yield
    tracemalloc.stop()


def test_forged_and_damaged_manifests(store, measured):
    good, count, valid = contents(store), 0, []
    for label, data in forged_stores.manifests(good["manifest.json"]):
        restored(store, {**good, "manifest.json": data})
        said = refused(store, label)
        count += 1
        if "open" not in said:
            valid.append(label)
    restored(store, good)
    assert count >= 200 and len(valid) < count // 5, (count, valid)


def test_forged_and_damaged_shards(store, measured):
    good, count, valid, name = contents(store), 0, [], "shard-00001.safetensors"
    for label, manifest, data in forged_stores.shards(good["manifest.json"], good[name], 1):
        restored(store, {**good, "manifest.json": manifest, name: data})
        said = refused(store, label)
        count += 1
        if "verify" in said:
            assert name in said["verify"], (label, said)
        else:
            valid.append(label)
            assert set(said) <= {"compute"}, (label, said)
    restored(store, good)
    assert count >= 200 and len(valid) < count // 10, (count, valid)


def test_what_would_fill_the_memory_is_not_even_parsed(store):
    good = contents(store)
    bombs = {"values": b"[" + b"[]," * 1_000_000 + b"[]]", "bytes": b" " * (128 << 20) + b"{}"}
    try:
        for kind, bomb in bombs.items():
            (store / "manifest.json").write_bytes(bomb)
            with pytest.raises(
                kg.FeatureError, match=f"manifest.json cannot be read.*{kind}.* read"
            ):
                FeatureStore(store)
    finally:
        restored(store, good)
