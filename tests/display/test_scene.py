"""The scene of a network: every node once, every edge, and the groups that a reader expects."""

import keras
import models
import pytest
from architectures import application, applications, backbones
from checks import check, outline
from hypothesis import given
from keras import layers
from strategies import examples, interpret, plans

import keras_graft as kg
from keras_graft.display.scene import scene

pytestmark = pytest.mark.once


@pytest.mark.parametrize("make", models.ALL, ids=lambda make: make.__name__)
def test_a_small_model(make):
    model = make()
    check(scene(model), kg.read(model))


@pytest.mark.parametrize("name", applications())
def test_an_application(name):
    model = application(name)
    check(scene(model), kg.read(model))


@pytest.mark.parametrize("name", sorted(backbones()))
def test_a_backbone(name):
    model = backbones()[name]()
    check(scene(model), kg.read(model))


@given(plans())
@examples(40, 0)
def test_any_model(plan):
    model = interpret(plan)
    check(scene(model), kg.read(model))


def test_the_blocks_of_a_resnet():
    assert outline(scene(application("ResNet50"))) == [
        "conv1",
        "conv2", "  conv2_block1", "  conv2_block x2",
        "conv3", "  conv3_block1", "  conv3_block x3",
        "conv4", "  conv4_block1", "  conv4_block x5",
        "conv5", "  conv5_block1", "  conv5_block x2",
    ]  # fmt: skip


def test_the_cells_of_a_nasnet():
    """No single value separates its cells: each reads the two before it."""
    drawn = scene(application("NASNetLarge"))
    repeats = [i for i in drawn["items"].values() if i["kind"] == "repeat"]
    cells = [i for i in repeats if i["label"] == "up to normal_concat"]
    assert [i["times"] for i in cells] == [4, 4, 4]
    assert sum(1 for i in drawn["items"].values() if i["parent"] is None) < 40


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("MobileNet", [5]), ("VGG19", [3, 3, 4]), ("Xception", [8]), ("ConvNeXtTiny", [3, 3, 9, 3]),
        ("EfficientNetV2S", [3, 3, 5, 8, 14]), ("InceptionResNetV2", [10, 20, 9]), ("DenseNet121", []),
    ],
)  # fmt: skip
def test_repeated_blocks(name, times):
    items = scene(application(name))["items"]
    found = []
    for item in items.values():
        around, parent = [], item["parent"]
        while parent is not None:
            around.append(items[parent])
            parent = items[parent]["parent"]
        if item["times"] and not any(i["times"] for i in around):
            found.append(item["times"])
    assert found == times


def decoder(blocks, shared_mask=True):
    """A language model written as layers, its output layer tied to its embedding."""
    ids, mask = keras.Input((None,), dtype="int32", name="ids"), keras.Input((None,), name="mask")
    x = layers.Embedding(50, 8, name="tokens")(ids)
    for _ in range(blocks):
        y = layers.LayerNormalization()(x)
        y = layers.MultiHeadAttention(2, 4)(
            y, y, attention_mask=mask[:, None] if not shared_mask else mask
        )
        x = layers.Add()([x, layers.Dropout(0.1)(y)])
        y = layers.Dense(16, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(8)(y)])
    x = layers.LayerNormalization(name="last")(x)
    return keras.Model([ids, mask], layers.Dense(50, use_bias=False, name="head")(x), name="lm")


def test_a_language_model_of_32_blocks():
    """Names are Keras's own here: the blocks are found by what they compute, and all read one mask."""
    model = kg.tie(decoder(32), "head/kernel", "tokens/embeddings", transform="transpose")
    items = check(scene(model), kg.read(model))
    repeats = [i for i in items.values() if i["kind"] == "repeat"]
    assert [(i["times"], i["parent"]) for i in repeats] == [(32, None)]
    tied = {i["path"]: i["ties"] for i in items.values() if i["ties"]}
    assert tied.keys() == {"tokens", "head"} and tied["tokens"] == tied["head"]
    block = next(k for k, i in items.items() if i["copy"] == 1)
    assert sum(i["parent"] == block for i in items.values()) == 8


def test_dropout_rates_do_not_make_blocks_different_but_other_arguments_do():
    def model(rates, units=(4, 4, 4)):
        x = y = keras.Input((4,), name="x")
        for rate, unit in zip(rates, units, strict=True):
            y = layers.Dropout(rate)(layers.ReLU()(layers.Dense(unit)(y)))
        return keras.Model(x, y)

    def times(m):
        return [i["times"] for i in scene(m)["items"].values() if i["times"]]

    assert times(model([0.1, 0.2, 0.3])) == [3]
    assert times(model([0.1, 0.1, 0.1], (4, 4, 5))) == [2]


def test_wiring_counts():
    """Equal layers in equal order, but each second block adds an input from further back."""

    def model(skip):
        x = y = keras.Input((4,), name="x")
        kept = [y, y]
        for i in range(4):
            y = layers.Dense(4)(y)
            y = layers.Add()([y, kept[-1 - (skip and i % 2)]])
            kept.append(y)
        return keras.Model(x, y)

    def times(m):
        return [i["times"] for i in scene(m)["items"].values() if i["times"]]

    assert times(model(False)) == [4]
    assert times(model(True)) == [2]


def test_shared_layers_and_flags():
    model = models.siamese()
    model.get_layer("encoder").get_layer("d0").trainable = False
    items = check(scene(model), kg.read(model))
    by_path = {i["path"]: i for i in items.values() if i["type"] in ("node", "group")}
    assert by_path["encoder#0"]["shared"] == by_path["encoder#1"]["shared"] == "encoder (2 calls)"
    assert by_path["encoder#1/d0"]["state"] == "frozen" and by_path["encoder#1"]["state"] == "mixed"
    assert by_path["out"]["state"] == "trainable" and by_path["both"]["state"] == "none"
    assert by_path["encoder#0"]["parameters"] == 43 and by_path["encoder#0"]["trainable"] == 18
    assert scene(models.residual())["totals"]["frozen"] == 16  # the statistics of two layers
    bn = next(i for i in scene(models.residual())["items"].values() if i["label"] == "bn0")
    assert bn["state"] == "trainable"


def test_what_is_to_be_pasted_selects_the_item():
    for model in (models.siamese(), models.shared(), application("MobileNetV2")):
        graph = kg.read(model)
        items = scene(graph)["items"]
        for key, item in items.items():
            if item["select"] is None or item["type"] in ("input", "output"):
                continue
            found = eval(item["select"], {"kg": kg, "model": model})
            if item["type"] == "node" or "*" not in item["path"]:
                assert found.labels == [item["path"]]
            else:
                below = {key}
                for other, i in items.items():
                    below |= {other} if i["parent"] in below else set()
                paths = {items[k]["path"] for k in below if items[k]["type"] == "node"}
                assert set(found.labels) == paths


def test_masks_are_edges_of_their_own():
    edges = scene(models.masked())["edges"]
    assert [e[3] for e in edges].count("mask") == 2


def test_arguments_that_differ_from_the_defaults():
    x = keras.Input((8, 8, 3), name="x")
    y = layers.Conv2D(4, 3, strides=2, activation="relu", name="conv")(x)
    y = layers.Dropout(0.5, name="drop")(y, training=True)
    items = scene(keras.Model(x, y))["items"].values()
    said = {i["label"]: i["arguments"] for i in items if i["type"] == "node"}
    assert said["conv"] == [
        ["filters", "4"], ["kernel_size", "(3, 3)"], ["strides", "(2, 2)"], ["activation", "relu"],
    ]  # fmt: skip
    assert said["drop"] == [["rate", "0.5"], ["training (call)", "True"]]


def test_a_layer_that_cannot_be_written_down():
    class Odd(layers.Layer):
        def __init__(self, thing):
            super().__init__()
            self.thing = thing

        def call(self, x):
            return x

    x = keras.Input((4,), name="x")
    model = keras.Model(x, Odd(object())(x))
    check(scene(model), kg.read(model))


def test_the_cost_is_that_of_advise():
    drawn = scene(models.residual())
    rows = kg.features.advise(models.residual(), 10).rows
    assert [c["share"] for c in drawn["cuts"]] == [row[3] for row in rows]
    nodes = [i for i in drawn["items"].values() if i["type"] == "node"]
    assert sum(i["share"] for i in nodes) == pytest.approx(1)


def test_the_donor_is_left_as_it_was(tmp_path):
    from donor import unchanged

    model = models.siamese()
    with unchanged(model, tmp_path):
        scene(model)
