"""The commands that edit: what they write equals what the verb gives, and keeps the weights."""

import keras
import numpy as np
import pytest
from commands import data, run
from keras import layers
from models import residual

import keras_graft as kg
from keras_graft.testing import assert_same_graph, assert_same_outputs, random_inputs

pytestmark = pytest.mark.once


def nested():
    x = keras.Input((4,), name="x")
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="deep")], name="inner")
    y = layers.ReLU(name="act")(layers.Dense(4, name="first")(x))
    y = layers.Dense(4, name="second")(inner(y))
    return keras.Model(x, layers.Dense(2, name="out")(y), name="tiny")


def language():
    ids = keras.Input((5,), dtype="int32", name="ids")
    h = layers.Embedding(9, 4, name="embed")(ids)
    return keras.Model(ids, layers.Dense(9, use_bias=False, name="lm_head")(h), name="lm")


def written(tmp_path, model, command, *args):
    """Return the model that a command writes, of a saved model."""
    model.save(tmp_path / "m.keras")
    out = tmp_path / "out.keras"
    data(command, tmp_path / "m.keras", *args, "-o", out)
    return keras.models.load_model(out)


CASES = {
    "replace": (nested, ["act", "GELU"], lambda m: kg.replace(m, "act", lambda n: layers.Activation("gelu"))),
    "replace a class": (nested, ["class:ReLU", "LeakyReLU:0.1"], lambda m: kg.replace(m, layers.ReLU, lambda n: layers.LeakyReLU(0.1))),
    "insert": (residual, ["Dropout:0.2", "--after", "add*"], lambda m: kg.insert(m, lambda n: layers.Dropout(0.2), after="add*")),
    "insert before": (nested, ["ReLU", "--before", "out"], lambda m: kg.insert(m, lambda n: layers.ReLU(), before="out")),
    "insert between": (nested, ["ReLU", "--between", "second,out"], lambda m: kg.insert(m, lambda n: layers.ReLU(), between=("second", "out"))),
    "remove": (nested, ["act"], lambda m: kg.remove(m, "act")),
    "rewire": (nested, ["act=first"], lambda m: kg.rewire(m, {"act": "first"})),
    "repeat": (nested, ["first", "act", "2"], lambda m: kg.repeat(m, "act", "act", 2)),
    "inline": (nested, ["inner"], lambda m: kg.inline(m, "inner")),
    "inline all": (nested, [], lambda m: kg.inline(m)),
    "nest": (nested, ["--inputs", "first", "--outputs", "act", "--name", "block"], lambda m: kg.nest(m, ["first"], ["act"], "block")),
    "reinput": (residual, ["--shape", "16,16,3"], lambda m: kg.reinput(m, (16, 16, 3))),
    "reinput channels": (residual, ["--shape", "image=?,?,1", "--channels", "mean"], lambda m: kg.reinput(m, {"image": (None, None, 1)}, channels="mean")),
    "freeze": (nested, ["first"], lambda m: kg.freeze(m, "first")),
    "submodel": (nested, ["--inputs", "act", "--outputs", "second"], lambda m: kg.submodel(m, "act", "second")),
    "clone": (nested, [], lambda m: m),
    "tie": (language, ["lm_head/kernel", "embed/embeddings", "--transform", "transpose"], lambda m: kg.tie(m, "lm_head/kernel", "embed/embeddings", "transpose")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_command_writes_what_the_verb_gives(name, tmp_path):
    make, args, verb = CASES[name]
    model = make()
    if name == "repeat":
        args = ["first", "act", "2"]
        expected = kg.repeat(model, "first", "act", 2)
    else:
        expected = verb(model)
    new = written(tmp_path, model, name.split()[0], *args)
    assert new.count_params() == expected.count_params()
    if name != "nest":  # a nested model that is saved has another class of inputs
        expected.save(tmp_path / "expected.keras")
        assert_same_graph(keras.models.load_model(tmp_path / "expected.keras"), new)
    assert_same_outputs(expected, new, random_inputs(expected))


def test_fresh_weights_and_untie(tmp_path):
    model = language()
    fresh = written(tmp_path, model, "clone", "--weights", "fresh", "--seed", "0")
    assert not np.array_equal(fresh.get_weights()[0], model.get_weights()[0])
    tied = kg.tie(model, "lm_head/kernel", "embed/embeddings", "transpose")
    own = written(tmp_path / ".", tied, "untie", "lm_head/kernel", "--force")
    assert own.count_params() == model.count_params()


def test_transplant(tmp_path):
    old, new = nested(), nested()
    old.save(tmp_path / "old.keras")
    new.save(tmp_path / "new.keras")
    args = ["transplant", tmp_path / "old.keras", tmp_path / "new.keras"]
    found = data(*args, "-o", tmp_path / "out.keras")
    assert found["written"][0]["parameters"] == old.count_params()
    x = random_inputs(old)
    assert_same_outputs(old, keras.models.load_model(tmp_path / "out.keras"), x)
    kg.submodel(old, outputs="second").save(tmp_path / "other.keras")
    args[1] = tmp_path / "other.keras"
    said = run(*args, "-o", tmp_path / "more.keras", code=1).stderr
    assert "--no-strict" in said and "strict=False" not in said
    assert not (tmp_path / "more.keras").exists()


def test_verify(tmp_path):
    model = nested()
    model.save(tmp_path / "a.keras")
    kg.inline(model).save(tmp_path / "b.keras")
    kg.replace(model, "act", layers.Activation("gelu")).save(tmp_path / "c.keras")
    kg.submodel(model, outputs="second").save(tmp_path / "d.keras")
    a, b, c, d = (tmp_path / f"{name}.keras" for name in "abcd")
    same = data("verify", a, b, "--tolerance", 0)
    assert same["same"] and same["outputs"][0]["difference"] == 0
    assert "The same outputs: the largest difference is 0" in run("verify", a, b).stdout
    other = data("verify", a, c, code=1)
    assert not other["same"] and other["outputs"][0]["difference"] > 1e-3
    assert "The outputs differ: by up to" in run("verify", a, c, code=1).stdout
    run("verify", a, c, "--tolerance", 10)
    assert "differ in number, shape or dtype" in run("verify", a, d, code=1).stdout
    x = np.ones((3, 4), "float32")
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    for name in ("x.npy", "x.npz"):
        found = data("verify", a, c, "--inputs", tmp_path / name, code=1)
        expected = [np.asarray(keras.ops.convert_to_numpy(m(x))) for m in
                    (model, kg.replace(model, "act", layers.Activation("gelu")))]  # fmt: skip
        apart = np.abs(expected[0] - expected[1]).max() / max(1, np.abs(expected[0]).max())
        assert found["outputs"][0]["difference"] == pytest.approx(apart, rel=1e-4)
    np.savez(tmp_path / "y.npz", images=x)
    assert (
        "lacks the input 'x'" in run("verify", a, b, "--inputs", tmp_path / "y.npz", code=2).stderr
    )
    np.save(tmp_path / "wide.npy", np.ones((3, 9), "float32"))
    said = run("verify", a, b, "--inputs", tmp_path / "wide.npy", code=2).stderr
    assert "does not run on these inputs" in said and said.count("\n") == 1


def test_what_options_must_say(tmp_path):
    nested().save(tmp_path / "m.keras")
    m, out = tmp_path / "m.keras", ["-o", tmp_path / "o.keras"]
    for args, words in [
        (["insert", m, "ReLU", *out], "--after, --before or --between"),
        (["insert", m, "ReLU", "--after", "act", "--before", "out", *out], "Say where, once"),
        (["insert", m, "ReLU", "--between", "act", *out], "two names joined by a comma"),
        (["rewire", m, "act", *out], "write OLD=NEW"),
        (["submodel", m, *out], "--inputs or --outputs"),
        (["reinput", m, *out], "--shape, --batch-shape or --dtype"),
        (["reinput", m, "--shape", "a,b", *out], "whole numbers"),
        (["extract", m, *out], "or --stages"),
        (["replace", m, "act", "Dense:", *out], "a value is missing"),
    ]:
        assert words in run(*args, code=2).stderr, args
    assert "no such option" in run("cuts", m, "--nope", code=2).stderr.lower()
    assert "weights must be" in run("clone", m, "--weights", "no", *out, code=1).stderr
    assert not (tmp_path / "o.keras").exists()


def test_what_can_be_put_in_is_a_model_file_too(tmp_path):
    model = nested()
    keras.Sequential([keras.Input((4,)), layers.Dense(7, name="head")]).save(
        tmp_path / "head.keras"
    )
    new = written(tmp_path, model, "replace", "out", tmp_path / "head.keras")
    assert new.output_shape == (None, 7)


def test_models_elsewhere_are_recognized():
    said = run("cuts", "hf://keras/resnet50", code=2).stderr
    assert "hf download keras/resnet50 --local-dir resnet50" in said
    said = run("cuts", "https://example.org/a/m.keras?download=1", code=2).stderr
    assert "curl -L -o m.keras https://example.org/a/m.keras" in said and said.count("\n") == 1


def test_own_layers_are_imported(tmp_path, monkeypatch):
    (tmp_path / "own_layers_of_a_test.py").write_text(
        "import keras\n\n"
        "@keras.saving.register_keras_serializable('own_test')\n"
        "class OwnOfATest(keras.layers.Layer):\n"
        "    def call(self, x):\n        return x * 2\n"
    )
    monkeypatch.chdir(tmp_path)
    nested().save("m.keras")
    args = ["replace", "m.keras", "act", "OwnOfATest", "-o", "own.keras"]
    said = run(*args, code=2).stderr
    assert "no layer and no activation 'OwnOfATest'" in said and "--import MODULE" in said
    run(*args, "--import", "own_layers_of_a_test")
    assert "OwnOfATest" in run("nodes", "own.keras", "--import", "own_layers_of_a_test").stdout
    monkeypatch.delitem(keras.saving.get_custom_objects(), "own_test>OwnOfATest")
    monkeypatch.delitem(__import__("sys").modules, "own_layers_of_a_test")
    said = run("nodes", "own.keras", code=2).stderr
    assert "If a module of yours registers it, --import MODULE" in said
    assert "ModuleNotFoundError" in run("nodes", "own.keras", "--import", "no_such", code=2).stderr


def test_two_registered_layers_of_one_name_are_told_apart(tmp_path):
    made = [
        keras.saving.register_keras_serializable(package)(
            type("SameName", (keras.layers.ReLU,), {"__module__": "keras.layers"})
        )
        for package in ("one_test", "two_test")
    ]
    nested().save(tmp_path / "m.keras")
    args = ["replace", tmp_path / "m.keras", "act"]
    said = run(*args, "SameName", "-o", tmp_path / "a.keras", code=2).stderr
    assert "Several layers are named 'SameName': one_test>SameName, two_test>SameName." in said
    run(*args, "two_test>SameName", "-o", tmp_path / "a.keras")
    said = run("nodes", tmp_path / "a.keras", "--select", "class:SameName", code=2).stderr
    assert "several classes have this name: one_test>SameName, two_test>SameName." in said
    assert "act" in run("nodes", tmp_path / "a.keras", "--select", "class:two_test>SameName").stdout
    loaded = keras.models.load_model(tmp_path / "a.keras")
    assert any(type(layer) is made[1] for layer in loaded.layers)
