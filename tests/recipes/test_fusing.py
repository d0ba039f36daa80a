"""fuse_activation and merge_branches: outputs, what stays and why, files, networks of keras."""

import keras
import numpy as np
import pytest
from donor import equal, unchanged
from keras import layers, ops

import keras_graft as kg
from keras_graft.testing import random_inputs


def numpy(x):
    return ops.convert_to_numpy(x)


def trained(model, seed=0):
    """Return the model with random values everywhere, also in the statistics of its norms."""
    rng = np.random.default_rng(seed)
    for v in model.weights:
        v.assign(rng.uniform(0.5, 1.5, v.shape) if "var" in v.name else rng.normal(0, 0.3, v.shape))
    return model


def alike(model, new, x=None):
    x = random_inputs(model) if x is None else x
    np.testing.assert_allclose(numpy(new(x)), numpy(model(x)), rtol=2e-4, atol=2e-4)


# -- fuse_activation ---------------------------------------------------------------------------------


def mixed_activations():
    x = y = keras.Input((8, 8, 3), name="x")
    y = layers.ReLU(name="r")(layers.Conv2D(4, 3, name="c")(y))
    y = layers.Activation("gelu", name="g")(layers.DepthwiseConv2D(3, name="dw")(y))
    y = ops.tanh(layers.Conv2DTranspose(2, 3, name="t")(y))
    y = layers.ReLU(max_value=6, name="six")(layers.Conv2D(4, 1, name="kept")(y))
    y = layers.LeakyReLU(0.3, name="leaky")(layers.Conv2D(4, 1, name="kept2")(y))
    y = layers.Softmax(name="s")(layers.Dense(5, name="d")(layers.Flatten(name="flat")(y)))
    return trained(keras.Model(x, y, name="mixed"))


def test_each_activation_goes_into_the_layer_before_it(tmp_path):
    model = mixed_activations()
    with unchanged(model, tmp_path) as x:
        new = kg.recipes.fuse_activation(model)
        equal(model(x), new(x))
        assert [n.name for n in kg.read(new).nodes] == [
            "c", "dw", "t", "kept", "six", "kept2", "leaky", "flat", "d",
        ]  # fmt: skip
        names = [new.get_layer(n).activation.__name__ for n in ("c", "dw", "t", "kept", "d")]
        assert names == ["relu", "gelu", "tanh", "linear", "softmax"]
        new.save(tmp_path / "new.keras")
        equal(new(x), keras.saving.load_model(tmp_path / "new.keras")(x))
        assert kg.steps(new).to_dict()["steps"][0]["verb"] == "recipes.fuse_activation"
        del new


def test_what_cannot_be_fused_stays():
    x = keras.Input((4,), name="x")
    shared, act = layers.Dense(4, name="shared"), layers.ReLU(name="act")
    h = act(shared(act(shared(x))))
    two = layers.Dense(4, name="two")(h)
    y = layers.Add(name="add")([layers.ReLU(name="r2")(two), two])
    y = layers.ReLU(name="r3")(layers.Dense(4, "tanh", name="has")(y))
    y = layers.ReLU(dtype="float16", name="half")(layers.Dense(4, name="full")(y))
    model = keras.Model(x, y, name="stays")
    with pytest.raises(kg.NothingSelectedError) as caught:
        kg.recipes.fuse_activation(model)
    for words in (
        "act#0: 'shared#0' is called 2 times", "r2: 'two' is also read by 'add'",
        "r3: 'has' has an activation", "half: 'full' gives (?, 4) float32, and 'half' (?, 4) float16",
    ):  # fmt: skip
        assert words in str(caught.value)


def test_a_network_of_keras():
    model = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), classes=3)
    plain = kg.recipes.swap_activation(
        kg.recipes.fold_batchnorm(trained(model)).model, "relu(max_value=6.0)", "relu"
    )
    new = kg.recipes.fuse_activation(plain)
    kinds = [n.kind for n in kg.read(new).nodes]
    assert "Activation" not in kinds and "ReLU" not in kinds
    equal(plain(x := random_inputs(model)), new(x))


# -- merge_branches ------------------------------------------------------------------------------


def repvgg(blocks=((8, 1), (8, 1), (12, 2)), how="add", size=(16, 16), groups=1):
    """A network as the paper trains it: 3x3 + 1x1 + identity, each with a norm, then ReLU."""
    x = y = keras.Input((*size, 4), name="image")
    for i, (width, stride) in enumerate(blocks):
        given = dict(strides=stride, padding="same", use_bias=False, groups=groups)
        parts = [
            layers.BatchNormalization(name=f"b{i}_bn3")(
                layers.Conv2D(width, 3, **given, name=f"b{i}_c3")(y)
            ),
            layers.BatchNormalization(name=f"b{i}_bn1")(
                layers.Conv2D(width, 1, **given, name=f"b{i}_c1")(y)
            ),
        ]
        if stride == 1 and y.shape[-1] == width:
            parts.append(layers.BatchNormalization(name=f"b{i}_bn0")(y))
        if how == "add":
            y = layers.Add(name=f"b{i}_add")(parts)
        else:
            parts = parts if how == "+" else parts[::-1]
            y = sum(parts[1:], start=parts[0])
        y = layers.ReLU(name=f"b{i}_relu")(y)
    y = layers.Dense(3, name="out")(layers.GlobalAveragePooling2D(name="pool")(y))
    return trained(keras.Model(x, y, name="repvgg"))


@pytest.mark.parametrize("how", ["add", "+", "other way"])
def test_repvgg_becomes_a_chain_of_convolutions(how, tmp_path):
    model = repvgg(how=how)
    with unchanged(model, tmp_path) as x:
        new = kg.recipes.merge_branches(model)
        assert [n.name for n in kg.read(new).nodes] == [
            "b0_c3", "b0_relu", "b1_c3", "b1_relu", "b2_c3", "b2_relu", "pool", "out",
        ]  # fmt: skip
        alike(model, new, x)
        fused = kg.recipes.fuse_activation(new)
        equal(fused(x), new(x))
        fused.save(tmp_path / "new.keras")
        equal(fused(x), keras.saving.load_model(tmp_path / "new.keras")(x))
        del new, fused


@pytest.mark.parametrize("size", [(16, 16), (15, 16), (7, 5)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_kernels_lie_where_the_padding_puts_them(size, stride):
    x = keras.Input((*size, 3), name="x")
    y = [
        layers.Conv2D(5, k, strides=stride, padding="same", name=f"c{k[0]}{k[1]}")(x)
        for k in [(3, 3), (1, 1), (5, 3), (2, 2)]
    ]
    model = trained(keras.Model(x, layers.Add(name="add")(y)))
    new = kg.recipes.merge_branches(model)
    assert [n.name for n in kg.read(new).nodes] == ["c53"]
    assert new.get_layer("c53").kernel_size == (5, 3)
    alike(model, new)


def test_groups_and_one_dimension():
    model = repvgg(blocks=((4, 1), (8, 1)), groups=2)
    alike(model, kg.recipes.merge_branches(model))
    x = keras.Input((None, 4), name="x")
    conv = layers.Conv1D(4, 5, padding="same", name="c")
    model = trained(keras.Model(x, layers.Add(name="add")([x, conv(x)])))
    new = kg.recipes.merge_branches(model)
    assert [n.kind for n in kg.read(new).nodes] == ["Conv1D"]
    alike(model, new, np.random.default_rng(0).normal(size=(2, 9, 4)).astype("float32"))


def test_branches_that_cannot_be_merged_say_why():
    x = keras.Input((8, 8, 4), name="x")
    conv = lambda *a, **k: layers.Conv2D(4, *a, **{"padding": "same", **k})  # noqa: E731

    def why(*parts):
        with pytest.raises(kg.NothingSelectedError) as caught:
            kg.recipes.merge_branches(keras.Model(x, layers.Add(name="add")([p(x) for p in parts])))
        return str(caught.value)

    assert "'b' has an activation" in why(conv(3, name="a"), conv(1, activation="relu", name="b"))
    assert "'b' is dilated" in why(conv(3, name="a"), conv(3, dilation_rate=2, name="b"))
    assert "'b' has other groups than 'a'" in why(conv(3, name="a"), conv(1, groups=2, name="b"))
    one = conv(3, name="one")
    assert "'one' is called 2 times" in why(one, one)
    valid = lambda name: layers.Conv2D(4, 3, name=name)  # noqa: E731
    assert "'a' has padding='valid'" in why(valid("a"), valid("b"))
    free = keras.Input((None, 8, 4), name="x")
    model = keras.Model(
        free, conv(3, strides=2, name="a")(free) + conv(1, strides=2, name="b")(free)
    )
    with pytest.raises(kg.NothingSelectedError, match="depends on a size that varies"):
        kg.recipes.merge_branches(model)
