"""The commands for pictures, stages and steps."""

from pathlib import Path

import keras
import pytest
from blocks import transformer
from commands import data, run
from keras import layers
from models import residual

import keras_graft as kg
from keras_graft.testing import assert_same_outputs, random_inputs

pytestmark = pytest.mark.once


def needs(name):
    return pytest.mark.skipif(not hasattr(kg, name), reason=f"kg.{name} is not merged yet")


@keras.saving.register_keras_serializable("cli_tests")
class Twice(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, name="dense")

    def call(self, input):
        return self.dense(self.dense(input))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    path = tmp_path_factory.mktemp("new") / "resnet.keras"
    keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3), classes=10).save(path)
    return path


@needs("show")
def test_the_outline(resnet):
    said = run("show", resnet).stdout
    assert said.startswith("resnet50: 176 nodes, 23,608,202 parameters, 53,120 of them not trained")
    assert "conv4_block x 5 (50 nodes)" in said and len(said.splitlines()) < 45
    found = data("show", resnet, "--depth", 1)
    groups = {item["label"]: item for item in found["outline"] if item["type"] == "group"}
    assert groups["conv3"]["children"] == [] and found["totals"]["nodes"] == 176
    deep = data("show", resnet, "--depth", 2)
    (conv3,) = [item for item in deep["outline"] if item["label"] == "conv3"]
    assert [child["times"] for child in conv3["children"]] == [None, 3]
    assert "more equal blocks" in run("show", resnet, "--depth", 3).stdout


@needs("show")
def test_what_is_selected_and_where_it_lies(resnet):
    said = run("show", resnet, "--select", "conv3_block2_*_relu").stdout
    shown = [line.split()[0] for line in said.splitlines()[2:]]
    assert shown == [
        "conv3",
        "conv3_block",
        "conv3_block2",
        "conv3_block2_1_relu",
        "conv3_block2_2_relu",
    ]
    assert "keras-graft nodes" in run("show", resnet, "--select", "nothing*", code=1).stderr


@needs("show")
def test_view(resnet, tmp_path, monkeypatch):
    found = data("view", resnet, "-o", tmp_path / "m.html")
    assert found["kind"] == "html" and "<html" in (tmp_path / "m.html").read_text()
    assert "already exists" in run("view", resnet, "-o", tmp_path / "m.html", code=2).stderr
    assert data("view", resnet, "-o", tmp_path / "m.svg")["kind"] == "svg"
    assert "<svg" in (tmp_path / "m.svg").read_text()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = data("view", resnet, "--as", "text")["path"]
    assert path.startswith(str(tmp_path)) and "resnet50" in Path(path).read_text()
    assert "no folder" in run("view", resnet, "-o", tmp_path / "a" / "m.html", code=2).stderr


@needs("stages")
def test_stages_and_their_taps(resnet, tmp_path):
    found = data("stages", resnet)
    assert [row["stride"] for row in found] == [2, 4, 8, 16, 32]
    run("extract", resnet, "--stages", "2,-1", "-o", tmp_path / "taps.keras")
    taps = keras.models.load_model(tmp_path / "taps.keras")
    assert sorted(taps.output) == [found[2]["name"], found[4]["name"]]
    run("extract", resnet, "--stages", "3", "-o", tmp_path / "one.keras")
    assert keras.models.load_model(tmp_path / "one.keras").output.shape[1:] == (4, 4, 1024)


def test_layers_that_hold_layers_are_opened(tmp_path):
    transformer().save(tmp_path / "m.keras")
    paths = lambda *args: [x["path"] for x in data(*args)["nodes"]]  # noqa: E731
    assert not any("/" in path for path in paths("nodes", tmp_path / "m.keras"))
    opened = paths("nodes", tmp_path / "m.keras", "--open", "layer_1/attention")
    assert "layer_1/attention/query" in opened and "layer_2/attention" not in opened
    said = run("nodes", tmp_path / "m.keras", "--open", "**", "--select", "**/query").stdout
    assert all(f"layer_{i}/attention/query" in said for i in range(4))
    outline = run("show", tmp_path / "m.keras", "--open", "**").stdout
    assert "query" in outline and "query" not in run("show", tmp_path / "m.keras").stdout
    closed = {x["reason"] for x in data("explain", tmp_path / "m.keras")}
    assert closed == {""}
    # Code is read as a graph by itself.
    twice = Twice()
    twice(keras.ops.ones((2, 4)))
    twice.save(tmp_path / "code.keras")
    assert paths("nodes", tmp_path / "code.keras") == ["dense#0", "dense#1"]


@needs("steps")
def test_steps_are_written_and_replayed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    residual().save("a.keras")
    residual().save("b.keras")
    run("insert", "a.keras", "LeakyReLU:0.1", "--after", "add0", "-o", "a1.keras")
    run("remove", "a1.keras", "pool", "-o", "never.keras", code=1)
    run("insert", "a1.keras", "Dense:4", "--after", "conv1", "-o", "a2.keras")
    assert "insert" in run("steps", "a2.keras").stdout
    taken = data("steps", "a2.keras")
    assert len(taken["steps"]) == 2
    for name in ("steps.yaml", "steps.json"):
        run("steps", "a2.keras", "-o", name)
        run("replay", name, "a.keras", "-o", f"again-{name}.keras")
        run("replay", name, "b.keras", "-o", f"other-{name}.keras")
        again = keras.models.load_model(f"again-{name}.keras")
        assert [x.name for x in again.layers] == [
            x.name for x in keras.models.load_model("a2.keras").layers
        ]
    assert "already exists" in run("steps", "a2.keras", "-o", "steps.yaml", code=2).stderr
    other = keras.models.load_model("other-steps.yaml.keras")
    donor = keras.models.load_model("b.keras")
    x = random_inputs(donor)
    # What comes before the first new layer is the donor's, with its weights.
    assert_same_outputs(kg.extract(donor, "conv0"), kg.extract(other, "conv0"), x)


@needs("stages")
def test_a_diff_of_files_is_by_value(tmp_path):
    x = keras.Input((4,), name="x")
    model = keras.Model(x, layers.Dense(2, name="out")(layers.Dense(4, name="d")(x)), name="m")
    model.save(tmp_path / "a.keras")
    kg.insert(model, layers.ReLU(name="new"), after="d").save(tmp_path / "b.keras")
    found = data("diff", tmp_path / "a.keras", tmp_path / "b.keras")
    assert [layer["name"] for layer in found["new"]] == ["new"] and not found["dropped"]
    other = data("diff", tmp_path / "a.keras", tmp_path / "b.keras", "--by", "identity")
    assert len(other["dropped"]) == 2


def test_all_cuts(resnet):
    found = data("cuts", resnet)
    assert len(found) > 30
    if hasattr(kg, "stages"):
        assert len(run("cuts", resnet, "--all").stdout.splitlines()) == len(found) + 1
        assert len(run("cuts", resnet, "--most", 3).stdout.splitlines()) == 5
