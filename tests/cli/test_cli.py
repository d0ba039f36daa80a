"""The command: what it prints, what it writes, how it fails, and that it leaves nothing behind."""

import json
import sys

import keras
import numpy as np
import pytest
from commands import data, run
from keras import layers
from models import masked, residual, sequential
from typer.testing import CliRunner

import keras_graft as kg
from keras_graft.testing import assert_same_outputs, random_inputs
from keras_graft_cli.app import app


@pytest.fixture
def saved(tmp_path):
    model = residual()
    model.save(tmp_path / "m.keras")
    return model, tmp_path / "m.keras"


def files(folder):
    return sorted(p.name for p in folder.iterdir())


def test_nodes_and_select(saved):
    assert run("nodes", saved[1]).stdout.strip() == str(kg.read(saved[0]))
    text = run("nodes", saved[1], "--select", "add*").stdout
    assert "add1" in text and "conv0" not in text
    data = json.loads(run("nodes", saved[1], "--json").stdout)
    assert data["inputs"] == ["image"] and data["outputs"] == ["out"]
    (node,) = [n for n in data["nodes"] if n["path"] == "add1"]
    assert node["from"] == ["add0", "conv1"]
    assert node["outputs"] == [[[None, 8, 8, 4], "float32"]]
    assert sum(n["parameters"] for n in data["nodes"]) == saved[0].count_params()


def test_cuts(saved):
    model, path = saved
    assert run("cuts", path).stdout.strip() == str(kg.cuts(model))
    assert json.loads(run("cuts", path, "--json").stdout) == kg.cuts(model).to_dict()


def test_split_and_join(saved, tmp_path):
    model, path = saved
    text = run("split", path, "--at", "add0", "-o", tmp_path / "parts").stdout
    assert "trunk.keras" in text and files(tmp_path / "parts") == ["head.keras", "trunk.keras"]
    parts = [tmp_path / "parts" / f"{name}.keras" for name in ("trunk", "head")]
    data = json.loads(run("join", *parts, "-o", tmp_path / "whole.keras", "--json").stdout)
    assert data["written"][0]["parameters"] == model.count_params()
    x = random_inputs(model)
    assert_same_outputs(model, keras.models.load_model(tmp_path / "whole.keras"), x)
    trunk, head = map(keras.models.load_model, parts)
    assert_same_outputs(model, lambda x: head(trunk(x)), x)


def test_boundaries_of_several_values_and_several_boundaries(saved, tmp_path):
    model, path = saved
    run("split", path, "--at", "conv0,stem", "--at", "add1", "-o", tmp_path / "p")
    stages = [keras.models.load_model(tmp_path / "p" / f"stage{i}.keras") for i in range(3)]
    x = random_inputs(model)
    assert_same_outputs(model, lambda x: stages[2](stages[1](stages[0](x))), x)


def test_extract(saved, tmp_path):
    model, path = saved
    run("extract", path, "add*", "pool", "-o", tmp_path / "taps.keras")
    x = random_inputs(model)
    expected = kg.extract(model, ["add*", "pool"])
    assert_same_outputs(expected, keras.models.load_model(tmp_path / "taps.keras"), x)


def test_a_file_that_is_there_is_kept(saved, tmp_path):
    model, path = saved
    before = path.read_bytes()
    result = run("extract", path, "add0", "-o", path, code=2)
    assert "already exists; --force overwrites it" in result.stderr
    assert path.read_bytes() == before
    run("extract", path, "add0", "-o", path, "--force")
    assert keras.models.load_model(path).output.shape == (None, 8, 8, 4)
    assert files(tmp_path) == ["m.keras"]
    for force in ([], ["--force"]):
        result = run("split", path, "--at", "add0", "-o", path, *force, code=2)
        assert "m.keras' is a file, not a folder to write into" in result.stderr
        (tmp_path / "folder.keras").mkdir(exist_ok=True)
        result = run("extract", path, "add0", "-o", tmp_path / "folder.keras", *force, code=2)
        assert "is a folder; a model is written as one file" in result.stderr
    assert files(tmp_path) == ["folder.keras", "m.keras"]
    result = run("cuts", path, "--input-shape", "64,64,3", code=2)
    assert "--input-shape is for app:NAME; a file has its own shapes" in result.stderr


def test_no_cut_is_refused_with_the_way_out_and_leaves_nothing(saved, tmp_path):
    result = run("split", saved[1], "--at", "conv0", "-o", tmp_path / "parts", code=1)
    assert "'conv0' is not a cut" in result.stderr and "'stem', needed by" in result.stderr
    assert result.stdout == ""
    assert files(tmp_path) == ["m.keras"]
    run("split", saved[1], "--at", "conv0", "--complete", "-o", tmp_path / "parts")


def test_a_write_that_fails_leaves_nothing(saved, tmp_path, monkeypatch):
    (tmp_path / "parts").mkdir()
    calls = []
    save = keras.Model.save

    def fail_at_the_second(self, *args, **kwargs):
        calls.append(self)
        if len(calls) == 2:
            raise OSError("No space left on device")
        return save(self, *args, **kwargs)

    monkeypatch.setattr(keras.Model, "save", fail_at_the_second)
    args = ["split", str(saved[1]), "--at", "add0", "-o", str(tmp_path / "parts")]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 2 and "No space left on device" in result.stderr
    assert files(tmp_path / "parts") == []


def test_legacy_h5(tmp_path):
    model = sequential()
    model.save(tmp_path / "old.h5")
    assert "s1" in run("nodes", tmp_path / "old.h5").stdout


def test_an_architecture():
    text = run("cuts", "app:MobileNetV3Small", "--input-shape", "32,32,3").stdout
    assert "expanded_conv" in text
    result = run("cuts", "app:ResNet5O", code=2)
    assert "Nearest: ResNet50" in result.stderr
    assert "whole numbers" in run("cuts", "app:VGG16", "--input-shape", "a", code=2).stderr


@keras.saving.register_keras_serializable("command")
class Known(layers.Layer):
    def call(self, x):
        return x


def bad_files(folder):
    lambdas = keras.Sequential([keras.Input((2,)), layers.Lambda(lambda x: x)])
    lambdas.save(folder / "lambda.keras")
    keras.Sequential([keras.Input((2,)), Known()]).save(folder / "known.keras")
    masked().save(folder / "whole.keras")
    whole = (folder / "whole.keras").read_bytes()
    (folder / "cut.keras").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.keras").write_bytes(b"")
    (folder / "text.h5").write_text("no model")
    (folder / "model.txt").write_text("no model")
    flipped = bytearray(whole)
    at = whole.index(b"model.weights.h5") + 2000
    flipped[at] ^= 255
    (folder / "flipped.keras").write_bytes(bytes(flipped))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.keras", "There is no file"),
        ("cut.keras", "truncated, empty, or not a zip"),
        ("empty.keras", "truncated, empty, or not a zip"),
        ("text.h5", "is damaged"),
        ("flipped.keras", "is damaged"),
        ("model.txt", "is neither a .keras nor an .h5 file"),
        ("lambda.keras", "which safe mode does not run"),
        ("known.keras", "it needs code of its own"),
    ],
)
def test_files_that_cannot_be_loaded(name, words, tmp_path, monkeypatch):
    bad_files(tmp_path)
    monkeypatch.delitem(keras.saving.get_custom_objects(), "command>Known", raising=False)
    monkeypatch.setattr(sys.modules[__name__], "Known", None)
    result = run("extract", tmp_path / name, "x", "-o", tmp_path / "out.keras", code=2)
    assert words in result.stderr and result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1 and result.stdout == ""


def test_features_on_a_ray_cluster(saved, tmp_path, monkeypatch):
    given = {}

    def compute(trunk, data, store, **options):
        given.update(options)
        raise kg.FeatureError("as far as Ray")

    monkeypatch.setattr(kg.features, "compute", compute)
    np.save(tmp_path / "x.npy", np.ones((3, 8, 8, 3), "float32"))
    args = ("features", "compute", saved[1], tmp_path / "x.npy", "-o", tmp_path / "store")
    how = ("--engine", "ray", "--actors", "3", "--gpus", "0.5")
    assert "as far as Ray" in run(*args, *how, code=1).stderr
    assert (given["engine"], given["ray"]) == ("ray", {"actors": 3, "gpus": 0.5})
    run(*args, code=1)
    assert (given["engine"], given["ray"]) == ("local", {})
    assert "add --engine ray" in run(*args, "--actors", "3", code=2).stderr


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
def test_a_store_for_other_libraries(saved, tmp_path, form):
    pytest.importorskip("pyarrow")
    model, path = saved
    np.save(tmp_path / "x.npy", keras.ops.convert_to_numpy(random_inputs(model, 20)))
    store, out = tmp_path / "store", tmp_path / "out"
    run("features", "compute", path, tmp_path / "x.npy", "--at", "pool", "-o", store)
    args = ("features", "export", store, "-o", out, "--format", form)
    made = data(*args)
    suffix = "tar" if form == "webdataset" else form
    assert made["samples"] == 20 and made["files"] == [f"features-00000.{suffix}"]
    assert made["fields"]["x"] == {"column": "features/", "shape": [4], "dtype": "float32"}
    assert "give another path" in run(*args, code=1).stderr
    shown = run(*args[:3], "-o", tmp_path / "again", "--format", form).stdout
    assert "20 samples in 1 file, " in shown and shown.splitlines()[0].endswith(form)
    assert "must be" in run(*args[:5], "--format", "tar", code=1).stderr


def test_features(saved, tmp_path):
    model, path = saved
    x = random_inputs(model, 20)
    x = np.asarray(keras.ops.convert_to_numpy(x))
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(len(x)))
    store = tmp_path / "store"
    args = ("features", "compute", path, tmp_path / "d.npz", "--at", "pool", "-o", store)
    data = json.loads(run(*args, "--dtype", "float16", "--json").stdout)
    assert data["samples"] == len(x) and data["columns"]["features"] == [[4], "float16"]
    assert "(?, 4) float16" in run("features", "info", store).stdout
    assert "all as written" in run("features", "verify", store).stdout
    kept = kg.features.FeatureStore(store).to_numpy()
    expected = kg.extract(model, "pool").predict(x, verbose=0)
    np.testing.assert_allclose(kept["features"], expected, rtol=1e-2, atol=1e-3)
    refused = run(*args, code=1).stderr
    assert "float16, now (?, 4) float32" in refused and "or compute it again: --force." in refused
    shard = store / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\7")
    result = run("features", "verify", store, code=1)
    assert "the checksum of 'shard-00000.safetensors'" in result.stderr and not result.stdout
    assert "compute the store again, with --force." in result.stderr
    run(*args, "--force")
    run("features", "verify", store)
    assert "not a store of features" in run("features", "info", tmp_path, code=1).stderr
    np.savez(tmp_path / "other.npz", images=x)
    result = run("features", "compute", path, tmp_path / "other.npz", "-o", store, code=2)
    assert "holds images: name the inputs x, and targets and sample" in result.stderr
    np.savez(tmp_path / "other.npz", x=x, labels=np.arange(len(x)))
    result = run("features", "compute", path, tmp_path / "other.npz", "-o", store, code=2)
    assert "holds x, labels: name the inputs x" in result.stderr
    np.savez(tmp_path / "other.npz", x=np.array([[1], [1, 2]], object))
    result = run("features", "compute", path, tmp_path / "other.npz", "-o", store, code=2)
    assert "holds Python objects, not numbers" in result.stderr
    np.save(tmp_path / "narrow.npy", np.ones((3, 5), "float32"))
    new = tmp_path / "new"
    result = run("features", "compute", path, tmp_path / "narrow.npy", "-o", new, code=1)
    assert (
        "has samples of shape (8, 8, 3), but those of the data have the shape (5)" in result.stderr
    )
    (tmp_path / "empty.npy").touch()
    zipped = bytearray((tmp_path / "d.npz").read_bytes())
    zipped[len(zipped) // 2] ^= 255
    (tmp_path / "damaged.npz").write_bytes(zipped)
    (tmp_path / "half.npz").write_bytes(zipped[:50])
    np.savez_compressed(tmp_path / "small.npz", x=x)
    packed = bytearray((tmp_path / "small.npz").read_bytes())
    packed[100:104] = b"\xff\xff\xff\xff"
    (tmp_path / "small.npz").write_bytes(packed)
    for name in ("empty.npy", "damaged.npz", "half.npz", "small.npz"):
        result = run("features", "compute", path, tmp_path / name, "-o", store, code=2)
        assert f"{name}' " in result.stderr and result.stderr.count("\n") < 9
    np.save(tmp_path / "one.npy", np.float32(3))
    result = run("features", "compute", path, tmp_path / "one.npy", "-o", store, code=1)
    assert "one sample, not a batch" in result.stderr
    (tmp_path / "text.npy").write_text("no array")
    result = run("features", "compute", path, tmp_path / "text.npy", "-o", store, code=2)
    assert "is not a readable .npy or .npz file" in result.stderr
