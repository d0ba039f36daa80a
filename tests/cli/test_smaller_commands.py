"""The commands prune, quantize, plain, remat, recipe, merge, balance and split --parts."""

import keras
import numpy as np
import pytest
from commands import data, run
from keras import layers

import keras_graft as kg
from keras_graft.testing import assert_same_outputs, random_inputs

pytestmark = pytest.mark.once


def network():
    x = keras.Input((8, 8, 3), name="x")
    h = x
    for i in range(3):
        h = layers.Conv2D(8, 3, padding="same", name=f"block_{i}_conv")(h)
        h = layers.BatchNormalization(name=f"block_{i}_bn")(h)
        h = layers.ReLU(name=f"block_{i}_relu")(h)
    h = layers.GlobalAveragePooling2D(name="pool")(h)
    return keras.Model(x, layers.Dense(4, name="out")(h), name="net")


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = network()
    model.save("m.keras")
    return model


def loaded(path="out.keras"):
    return keras.saving.load_model(path)


def test_prune(saved):
    run(
        "prune",
        "m.keras",
        "block_0_conv=50%",
        "block_1_conv=0,3",
        "block_2_conv=2",
        "-o",
        "out.keras",
    )
    assert [loaded().get_layer(f"block_{i}_conv").filters for i in range(3)] == [
        kg.prune(saved, {"block_0_conv": 0.5, "block_1_conv": [0, 3], "block_2_conv": 2})
        .get_layer(f"block_{i}_conv").filters
        for i in range(3)
    ]  # fmt: skip
    options = ["--scope", "global", "--by", "l2", "--keep", "block_0_conv", "--round-to", 2]
    written = data("prune", "m.keras", "class:Conv2D=0.5", *options, "-o", "b.keras")
    assert (
        written["written"][0]["parameters"]
        == loaded("b.keras").count_params()
        < saved.count_params()
    )
    for wrong in ("block_0_conv=half", "block_0_conv=1,x"):
        assert "is no share" in run("prune", "m.keras", wrong, "-o", "c.keras", code=2).stderr
    twice = run("prune", "m.keras", "block_0_conv=1", "block_0_conv=50%", "-o", "c.keras", code=2)
    assert "Say once what to remove from 'block_0_conv'" in twice.stderr
    assert "NODES=HOW" in run("prune", "m.keras", "block_0_conv", "-o", "c.keras", code=2).stderr
    run("prune", "m.keras", "block_0_conv=0.5", "--by", "size", "-o", "c.keras", code=1)


def test_quantize(saved):
    run("quantize", "m.keras", "class:Dense", "-o", "out.keras")
    run("quantize", "m.keras", "out", "--mode", "int4", "-o", "four.keras")
    x = random_inputs(saved, 2)
    for path, mode in (("out.keras", "int8"), ("four.keras", "int4")):
        assert loaded(path).get_layer("out").quantization_mode == mode
        assert_same_outputs(kg.quantize(saved, "out", mode), loaded(path), x)
    told = run("quantize", "m.keras", "block_0_conv", "-o", "b.keras", code=1).stderr
    assert "Keras has no quantized Conv2D" in " ".join(told.split())
    assert (
        "In Python"
        in run("quantize", "m.keras", "out", "--mode", "awq", "-o", "b.keras", code=2).stderr
    )


def test_remat_and_plain(saved):
    run("remat", "m.keras", "block_*", "-o", "out.keras")
    assert [type(x).__name__ for x in loaded().layers].count("Remat") == 3
    x = random_inputs(saved, 2)
    assert_same_outputs(saved, loaded(), x)
    run("plain", "out.keras", "-o", "plain.keras")
    assert [x.name for x in loaded("plain.keras").layers] == [x.name for x in saved.layers]
    assert_same_outputs(saved, loaded("plain.keras"), x)
    assert "ties" in run("plain", "m.keras", "--ties", "keep", "-o", "p.keras", code=1).stderr


def test_recipe(saved):
    run("recipe", "fold-batchnorm", "m.keras", "-o", "out.keras")
    assert not any(isinstance(x, layers.BatchNormalization) for x in loaded().layers)
    run("recipe", "swap_activation", "m.keras", "--new", "silu", "-o", "s.keras")
    kinds = [x for x in loaded("s.keras").layers if "relu" in x.name and isinstance(x, layers.ReLU)]
    assert not kinds
    assert "no recipe 'fold'" in run("recipe", "fold", "m.keras", "-o", "x.keras", code=2).stderr
    said = run(
        "recipe", "fuse_activation", "m.keras", "--new", "silu", "-o", "x.keras", code=2
    ).stderr
    assert "--new is for swap_activation" in said


def test_merge(saved):
    other = kg.clone(saved, weights="fresh")
    other.save("b.keras")
    found = data("merge", "m.keras", "b.keras", "--share", 3, "--share", 1, "-o", "out.keras")
    assert found["method"] == "mean" and "out/0" in found["merged"]
    for a, b, c in zip(saved.weights, other.weights, loaded().weights, strict=True):
        wanted = (3 * np.asarray(a) + np.asarray(b)) / 4
        np.testing.assert_allclose(np.asarray(c), wanted, rtol=1e-6, atol=1e-7)
    run("merge", "m.keras", "b.keras", "-o", "out.keras", code=2)  # it exists
    run("merge", "m.keras", "b.keras", "--method", "sum", "-o", "c.keras", code=1)


def test_balance_and_split(saved):
    found = data("balance", "m.keras", 3, "--by", "parameters")
    assert found == kg.balance(saved, 3, "parameters").to_dict()
    run("split", "m.keras", "--parts", 3, "--balance", "parameters", "-o", "parts")
    y = x = random_inputs(saved, 2)
    for i, row in enumerate(found["stages"]):
        stage = loaded(f"parts/stage{i}.keras")
        assert stage.count_params() == row["parameters"]
        y = stage(y)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(saved(x)), keras.ops.convert_to_numpy(y)
    )
    assert "--at" in run("split", "m.keras", "-o", "p", code=2).stderr
    run("split", "m.keras", "--at", "pool", "--parts", 2, "-o", "p", code=2)
    said = run("split", "m.keras", "--at", "pool", "--balance", "bytes", "-o", "p", code=2).stderr
    assert "--balance says what --parts balances" in said
    said = run("split", "m.keras", "--parts", 99, "-o", "p", code=1).stderr
    assert "--parts 11" in said
