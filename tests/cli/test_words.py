"""What messages recommend: Python in the library, commands in the command, and both work."""

import shlex

import keras
import pytest
from commands import run
from keras import layers
from models import residual

import keras_graft as kg
from keras_graft import advice

pytestmark = pytest.mark.once


def advised(text, after="keras-graft "):
    """Return the words of the first command in a text, without what follows it."""
    line = text[text.index(after) + len(after) :].splitlines()[0]
    for end in (", or ", "; or ", ". ", "."):
        line = line.split(end)[0] if end != "." else line.rstrip(".")
    return shlex.split(line)


def test_calls_are_written_as_python_by_the_library():
    assert advice.call("untie", ("target", 'a"b\n')) == r'kg.untie(model, "a\"b\n")'
    assert advice.call("cuts") == "kg.cuts(model)"
    assert advice.call("join", model="") == "kg.join()"
    made = advice.call("submodel", inputs=["a"], outputs=advice.As("..."))
    assert made == 'kg.submodel(model, inputs=["a"], ...)'
    assert advice.option("resume", False) == "resume=False"
    assert advice.way("x", "do this") == "do this"


def test_another_writer_is_taken_away_again():
    class Writer:
        call = option = way = staticmethod(lambda *_: "written")

    with pytest.raises(ZeroDivisionError), advice.written_by(Writer()):
        assert advice.call("cuts") == advice.option("a", 1) == advice.way("a", "b") == "written"
        1 / 0  # noqa: B018
    assert advice.call("cuts") == "kg.cuts(model)"


def test_a_boundary_that_is_no_cut(tmp_path, monkeypatch):
    """The command that is recommended repeats what was given, and works."""
    monkeypatch.chdir(tmp_path)
    model = residual()
    with pytest.raises(kg.CutError) as caught:
        kg.split(model, "conv0")
    assert 'kg.split(model, at=("conv0", "stem")), or at=... with complete=True.' in str(
        caught.value
    )
    model.save("my model.keras")
    said = run("split", "my model.keras", "--at", "conv0", "-o", "my parts", code=1).stderr
    command = "keras-graft split 'my model.keras' --at conv0,stem -o 'my parts'"
    assert f"This works: {command}, or the same with --complete." in said and "kg." not in said
    run(*advised(said))
    run("split", "my model.keras", "--at", "conv0", "--complete", "-o", "other")
    assert sorted(p.name for p in (tmp_path / "my parts").iterdir()) == [
        "head.keras",
        "trunk.keras",
    ]
    said = run("submodel", "my model.keras", "--inputs", "conv0", "-o", "x.keras", code=1).stderr
    words = advised(said)
    assert words[:2] == ["submodel", "my model.keras"] and words.count("--inputs") == 2
    run(*words)


def test_other_commands_are_recommended_with_the_model_of_this_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ids = keras.Input((5,), dtype="int32", name="ids")
    h = layers.Embedding(9, 4, name="embed")(ids) + layers.Embedding(9, 4, name="other")(ids)
    model = keras.Model(ids, layers.Dense(9, use_bias=False, name="lm_head")(h), name="lm")
    kg.tie(model, "lm_head/kernel", "embed/embeddings", "transpose").save("tied.keras")
    args = ["tied.keras", "embed/embeddings", "other/embeddings", "-o", "x.keras"]
    said = run("tie", *args, code=1).stderr
    assert "Untie it first: keras-graft untie tied.keras lm_head/kernel -o OUT.keras." in said
    run(*advised(said))
    assert kg.sharing(keras.models.load_model("OUT.keras")).ties == ()
    said = run("nodes", "tied.keras", "--select", "embde", code=1).stderr
    assert "Nearest: 'embed'. keras-graft nodes tied.keras lists its 4 nodes." in said
    run(*advised(said, "embed'. keras-graft ")[:2])
    said = run("nodes", "app:VGG16", "--input-shape", "32,32,3", "--select", "x", code=1).stderr
    assert "keras-graft nodes app:VGG16" in said


def test_a_new_layer_that_does_not_fit(tmp_path):
    residual().save(tmp_path / "m.keras")
    args = [
        "insert",
        tmp_path / "m.keras",
        "Conv2D:7,1",
        "--after",
        "add0",
        "-o",
        tmp_path / "x.keras",
    ]
    said = run(*args, code=1).stderr
    assert f"keras-graft replace {tmp_path / 'm.keras'}" in said and "NEW" in said
    assert "lambda" not in said
    with pytest.raises(kg.GraftError, match=r"kg.replace\(model, .*lambda"):
        kg.insert(residual(), layers.Conv2D(7, 1), after="add0")


def test_what_no_command_can_say_stays_python(tmp_path):
    x = keras.Input((4,), name="x")
    layer = layers.Dense(4, name="dense")
    keras.Model(x, layer(layer(x))).save(tmp_path / "m.keras")

    class Context:
        params = {"model": "m.keras"}

        @staticmethod
        def find_root():
            return Context

        class command:
            params: tuple = ()
            commands: dict = {}

    from keras_graft_cli.words import Commands

    with advice.written_by(Commands(Context)):
        said = advice.call("train_only", ("selector", "a"))
        assert advice.option("batch_norm", True) == "batch_norm=True"
    assert said == 'in Python, kg.train_only(model, "a")'
