"""The search of the page finds what kg.select finds, and the call that it shows gives that."""

import re

import keras
import models
import page_scenes as scenes
import pytest
from keras import layers

import keras_graft as kg
from keras_graft.display.scene import scene as scene_of

pytestmark = pytest.mark.once


def twice_nested():
    """A model called twice, with a model inside; names that look like patterns and repeat."""
    x = keras.Input((4,), name="x")
    core = keras.Sequential(
        [x, layers.Dense(4, name="attn_0"), layers.ReLU(name="relu")], name="core"
    )
    y = inner = keras.Input((4,), name="y")
    y = layers.Dense(4, name="attn_1")(core(y))
    y = layers.Add(name="mix_add")([layers.Dense(4, name="mix_dense")(y), inner])
    encoder = keras.Model(inner, layers.ReLU(name="last")(y), name="encoder")
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="attn_b")
    head = layers.Dense(4, name="head")
    return keras.Model([a, b], [head(encoder(a)), head(encoder(b))], name="twice_nested")


def two_ends():
    x = keras.Input((4,), name="x")
    a = layers.Dense(4, name="stem_a")(x)
    b = layers.Dense(4, name="stem_b")(a)
    c = layers.Add(name="tail_add")([a, b])
    d = layers.ReLU(name="tail_relu")(c)
    for name in ("w[1]", "w1", "w*", "a:1", "b#1"):
        d = layers.ReLU(name=name)(d)
    return keras.Model(x, [layers.Dense(2, name="head_a")(d), layers.Dense(2, name="head_b")(d)])


def lstm():
    x = keras.Input((5, 3), name="x")
    y, h, c = layers.LSTM(4, return_sequences=True, return_state=True, name="lstm")(x)
    return keras.Model(x, [layers.GRU(2, name="gru")(y), h, c], name="states")


def count(page, text):
    page.fill("#search", "")
    page.fill("#search", text)
    return page.locator("#matches .count").text_content(), page.locator("#matches .call code")


PATTERNS = {
    "ResNet50": [
        "conv2_block1_out", "conv*_out", "conv4_block[1-3]_add", "conv4_block[!1-3]_add", "conv?_bn",
        "*", "**", "**/*relu*", "Conv2D", "BatchNormalization", "Activation", "relu", "0_conv", "pool",
        "input_layer*", "conv1_relu#0", "*_relu#0", "*_relu#1", "conv1_relu:0", "conv1_relu:1",
        "[", "conv1_[", "conv[z-a]", "block1/x", "**/**/conv1_bn", "[!]a]*", ".*", "CONV1_BN",
        "conv3_block2", "conv3_block2_1", "conv3", "conv", "pool1", "conv2_block1_0", "predictions",
    ],
    "twice nested": [
        "encoder", "encoder#1", "encoder/attn_1", "encoder#0/attn_1", "encoder/core/attn_0",
        "**/attn_*", "**/attn_0", "*/attn_1", "enc*#1/core/*u", "**", "*", "**/**", "head", "head#1",
        "head#2", "Dense", "ReLU", "Functional", "Sequential", "attn", "encoder/*", "**/*", "**/core",
        "encoder/**", "encoder/core/**", "attn_*", "core", "head/x", "*:0",
        "mix", "encoder/mix", "encoder#1/mix", "**/mix", "encoder/core/attn", "**/core/mix",
    ],
    "states": ["lstm", "lstm:0", "lstm:2", "lstm:3", "*:1", "gru:0", "*:0", "x", "x:0", "LSTM"],
    "two ends": ["stem", "head", "tail", "head_b", "mean", "w[1]", "w*", "w?", "w[[]1]", "a:1", "b#1", "b#0", "a*:0"],
    "residual": ["conv0", "bn*", "add[01]", "Add", "image", "im*"],
    "shared": ["shared", "shared#0", "shared#1", "sh*", "shared#3", "Dense"],
}  # fmt: skip
MODELS = {
    "ResNet50": lambda: keras.applications.ResNet50(weights=None),
    "twice nested": twice_nested,
    "states": lstm,
    "two ends": two_ends,
    "residual": models.residual,
    "shared": models.shared,
}


@pytest.mark.parametrize("name", PATTERNS)
def test_counts_are_those_of_select(opened, name):
    model = MODELS[name]()
    page = opened(scene_of(model))
    for text in PATTERNS[name]:
        words, call = count(page, text)
        if call.count():
            shown = call.text_content()
            found = eval(shown, {"kg": kg, "model": model})
            numbers = re.findall(r"[0-9]+", words.replace(",", ""))
            assert numbers == [str(len(found))], (text, words, shown)
        try:
            wanted = len(kg.select(model, text))
        except kg.NothingSelectedError:
            assert "of this class" in words or "No " in words, (text, words)
        except kg.AmbiguousError as error:
            ends = re.search("has ([0-9]+) nodes that are used outside", str(error))[1]
            assert words == f"No node of this name; its block has {ends} ends: name one of them"
        else:
            assert words.startswith(f"{wanted} match"), (text, words)


def test_closed_groups_light_up_and_open(opened):
    page = opened(scenes.blocks())
    page.fill("#search", "*_relu")
    assert page.locator(".box.lit").count() == 1
    assert page.locator(".found").text_content() == "4"
    page.get_by_role("button", name="Open the groups that hide matches").click()
    page.wait_for_selector("html[data-busy=no]")
    lit = [e.get_attribute("data-id") for e in page.locator(".box.lit").all()]
    assert lit == ["n1", "n4", "n7", "n10"]
    for wanted in ["n1", "n4", "n7", "n10", "n1"]:
        page.press("#search", "Enter")
        assert page.locator(".box.chosen").get_attribute("data-id") == wanted
    page.press("#search", "Shift+Enter")
    assert page.locator(".box.chosen").get_attribute("data-id") == "n10"
    page.press("#search", "Escape")
    assert page.locator("#search").input_value() == ""
    assert page.locator(".box.lit").count() == 0
    assert not page.locator("#matches").is_visible()


def test_a_kind_of_layer_is_found_from_the_panel(opened):
    page = opened(scenes.blocks())
    page.get_by_role("button", name="Find ReLU").click()
    assert page.locator("#matches .count").text_content() == "4 matches of this class"


def test_nothing_is_found(opened):
    page = opened(scenes.blocks())
    words, call = count(page, "zzz*")
    assert words == "No match" and call.count() == 0
    assert "Try a name" in page.locator("#matches").text_content()


@pytest.mark.parametrize(
    "text", ['a"b\\c', "*[", "(?:", "**/", "/", "//", "a/", "#", ":", "x" * 3000]
)
def test_any_text_may_be_typed(opened, text):
    page = opened(scenes.blocks())
    words, _ = count(page, text)
    assert words == "No match"


def test_a_text_in_quotes_stays_one_text(opened):
    name = 'a"b\\c'
    page = opened(scenes.scene({"n0": scenes.item(name)}, []))
    words, call = count(page, name)
    assert words == "1 match"
    assert call.text_content() == r'kg.select(model, "a\"b\\c")'
