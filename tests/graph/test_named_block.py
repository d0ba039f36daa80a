"""A block is selected by the beginning of its names."""

import keras
import pytest
from keras import layers

import keras_graft as kg

pytestmark = pytest.mark.once


def resnet():
    x = y = keras.Input((4,), name="x")
    for i in (1, 2, 10):
        z = layers.Dense(4, name=f"block{i}_dense")(y)
        z = layers.Activation("tanh", name=f"block{i}_tanh")(z)
        y = layers.Add(name=f"block{i}_add")([y, z])
    return keras.Model(x, layers.Dense(2, name="out")(y), name="net")


def test_it_is_the_last_node_that_is_used_outside():
    model = resnet()
    for name, end in (
        ("block1", "block1_add"),
        ("block2", "block2_add"),
        ("block10", "block10_add"),
    ):
        assert kg.select(model, name).labels == [end]
        assert kg.select(model, f"**/{name}").labels == [end]
    assert kg.extract(model, "block2").output_shape == (None, 4)  # one exact name: one tensor
    trunk, head = kg.split(model, at="block2")
    assert trunk.output_names == ["block2_add"] and head.count_params() == 20 + 10
    edited = kg.insert(model, layers.Dropout(0.1, name="drop"), after="block1")
    assert kg.diff(model, edited).new[0].where.startswith("after block1_add")


def test_a_node_of_that_name_comes_first():
    x = keras.Input((4,), name="x")
    y = layers.Dense(4, name="block_b")(layers.Dense(4, name="block_a")(x))
    model = keras.Model(x, layers.ReLU(name="block")(y))
    assert kg.select(model, "block").labels == ["block"]


def test_inside_nested_models():
    inner = resnet()
    x = keras.Input((4,), name="image")
    model = keras.Model(x, layers.Dense(3, name="head")(inner(x)))
    assert kg.select(model, "net/block2").labels == ["net/block2_add"]
    assert kg.select(model, "**/block2").labels == ["net/block2_add"]
    edited = kg.replace(model, kg.select(model, "net/block2"), layers.Average(name="mean"))
    assert kg.select(edited, "net/mean")
    with pytest.raises(kg.NothingSelectedError):
        kg.select(model, "block2")


def test_several_ends_are_refused_and_listed():
    x = keras.Input((4,), name="x")
    a = layers.Dense(4, name="enc_dense")(x)
    b = layers.ReLU(name="enc_relu")(a)
    model = keras.Model(x, layers.Add(name="sum")([a, b]), name="net")
    with pytest.raises(kg.AmbiguousError, match="2 nodes that are used outside") as caught:
        kg.extract(model, "enc")
    assert "'enc_dense', 'enc_relu'" in str(caught.value) and "net" in str(caught.value)
    outputs = keras.Model(x, [a, b])
    with pytest.raises(kg.AmbiguousError):
        kg.select(outputs, "enc")


def test_what_is_no_block_selects_nothing_and_names_the_nearest():
    x = y = keras.Input((4,), name="x")
    for i in range(3):
        y = layers.Dense(4, name=f"dense_{i}")(y)
    model = keras.Model(x, layers.Dense(2, name="single_out")(y), name="net")
    for name in ("dense", "single", "den", "", "dense_", "dense_1#0x"):
        with pytest.raises(kg.NothingSelectedError):
            kg.select(model, name)
    with pytest.raises(kg.NothingSelectedError, match="Nearest: 'dense_"):
        kg.select(model, "dense")


@pytest.mark.parametrize("act", [
    lambda m: kg.freeze(m, "b1"), lambda m: kg.freeze(m, ["b0_add", "b1"]),
    lambda m: kg.unfreeze(m, "b1"), lambda m: kg.remove(m, "b1"), lambda m: kg.lora(m, "b1"),
    lambda m: kg.replace(m, "b1", keras.layers.Dense(4)), lambda m: kg.train_only(m, "b1"),
    lambda m: kg.learning_rates(m, "adam", {"b1": 0.1, "**": 0.2}), lambda m: kg.clone(m, share="b1"),
])  # fmt: skip
def test_a_verb_that_acts_on_nodes_does_not_take_the_last_node_of_a_block_for_the_block(act):
    x = h = keras.Input((4,), name="x")
    for i in range(2):
        h = keras.layers.Add(name=f"b{i}_add")([h, keras.layers.Dense(4, name=f"b{i}_d")(h)])
    model = keras.Model(x, h, name="net")
    with pytest.raises(kg.GraftError) as told:
        act(model)
    words = "No node of 'net' is named 'b1', but the names of a block begin so. For the whole block"
    assert f"{words} give 'b1_*', for its last node 'b1_add'." in str(told.value)
    frozen = kg.freeze(model, "b1_*")
    assert [w.path for w in frozen.trainable_variables] == ["b0_d/kernel", "b0_d/bias"]
