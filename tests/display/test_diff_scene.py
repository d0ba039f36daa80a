"""Two networks in one scene: what stayed, came, went and changed, each in its place."""

import keras
import models
import pytest
from architectures import application
from checks import outline
from hypothesis import given
from keras import layers
from strategies import examples, interpret, plans

import keras_graft as kg
from keras_graft.display.scene import scene
from keras_graft.display.svg import svg
from keras_graft.display.text import text
from keras_graft.graph.select import everything

pytestmark = pytest.mark.once


def check(old, new):
    """Check the scene of a diff; return it."""
    old, new = kg.read(old), kg.read(new)
    report = kg.diff(old, new)
    drawn = scene(report)
    items, told = drawn["items"], report.changes()
    assert drawn["kind"] == "diff"
    shown = {
        (i["change"] == "dropped", i["path"]): i for i in items.values() if i["type"] == "node"
    }
    nodes = [i for i in items.values() if i["type"] == "node"]
    assert len(nodes) == len(shown)
    for node in everything(new):
        if node.nested is None:
            item = shown.pop((False, node.path))
            assert item["change"] == told.of_new[node.path]
            assert item["may_differ"] == (node.path in told.may_differ)
    dropped = {
        n.path for n in everything(old) if n.nested is None and told.of_old[n.path] == "dropped"
    }
    assert {path for _, path in shown} == dropped
    outputs = [i for i in items.values() if i["type"] == "output" and i["change"] != "dropped"]
    differ = {i["label"] for i in outputs if i["may_differ"]}
    assert differ == set(report.other_outputs) - set(report.same_outputs)
    for source, target, _, _ in drawn["edges"]:
        assert source in items and target in items
    assert drawn["totals"]["nodes"] == sum(1 for n in everything(new) if n.nested is None)
    svg(drawn), text(drawn)
    return drawn


def test_how_costs_changed_is_in_the_totals():
    x = keras.Input((4,), name="x")
    model = keras.Model(x, layers.Dense(2, name="out")(layers.Dense(8, name="h")(x)), name="net")
    drawn = check(model, kg.prune(model, {"h": 0.5}))
    assert drawn["totals"]["change"]["multiply_adds"] == -0.5
    assert "-50.0% multiply-adds" in text(drawn) and "bytes of values" in text(drawn)
    assert "multiply-adds" not in text(check(model, model))
    assert "change" not in scene(model)["totals"]


def labels(drawn, change):
    return [
        i["label"] for i in drawn["items"].values() if i["change"] == change and i["type"] == "node"
    ]


def neighbours(drawn, label):
    items = drawn["items"]
    key = next(k for k, i in items.items() if i["label"] == label and i["type"] == "node")
    before = [items[a]["label"] for a, b, _, _ in drawn["edges"] if b == key]
    after = [items[b]["label"] for a, b, _, _ in drawn["edges"] if a == key]
    return before, after


def test_an_edit_of_a_resnet():
    model = application("ResNet50")
    new = kg.replace(model, "conv3_block2_1_relu", layers.Activation("gelu", name="gelu"))
    new = kg.insert(new, layers.Dropout(0.1, name="drop"), after="conv2_block1_out")
    drawn = check(model, kg.remove(new, "conv5_block3_2_relu"))
    assert labels(drawn, "new") == ["drop", "gelu"]
    assert labels(drawn, "dropped") == ["conv3_block2_1_relu", "conv5_block3_2_relu"]
    around = (["conv3_block2_1_bn"], ["conv3_block2_2_conv"])
    assert neighbours(drawn, "gelu") == neighbours(drawn, "conv3_block2_1_relu") == around
    # What stayed is folded as before; a block with a change is no repetition of the others.
    lines = outline(drawn)
    assert "  conv4_block x5" in lines and "  conv3_block x2" in lines and "  conv3_block2" in lines
    items = drawn["items"].values()
    change = {i["label"]: i["change"] for i in items if i["type"] == "group"}
    assert change["conv4"] == "kept" and change["conv3"] == "changed" and change["conv1"] == "kept"


def test_what_is_dropped_is_selected_in_the_old_model():
    old = models.residual()
    new = kg.replace(old, "bn1", layers.LayerNormalization(name="ln"))
    item = next(i for i in check(old, new)["items"].values() if i["label"] == "bn1")
    assert item["select"] == 'kg.select(old, "bn1")'
    assert eval(item["select"], {"kg": kg, "old": old}).labels == ["bn1"]


def test_an_edit_in_a_nested_model():
    old = models.siamese()
    drawn = check(old, kg.replace(old, "encoder/d0", layers.Dense(5, name="d9")))
    items = drawn["items"]
    encoders = [k for k, i in items.items() if i["label"].startswith("encoder")]
    assert [items[k]["change"] for k in encoders] == ["changed", "changed"]
    for key in encoders:
        inside = [(i["label"], i["change"]) for i in items.values() if i["parent"] == key]
        assert inside == [("d0", "dropped"), ("d9", "new"), ("d1", "kept")]


def test_a_model_that_was_opened_or_closed():
    old = models.siamese()
    drawn = check(old, kg.inline(old, "encoder"))
    assert not labels(drawn, "dropped") and not labels(drawn, "new")
    assert not [i for i in drawn["items"].values() if i["type"] == "group"]
    flat = models.residual()
    drawn = check(flat, kg.nest(flat, "stem", "add0", "inner"))
    assert not labels(drawn, "dropped") and not labels(drawn, "new")


def test_another_input_and_other_outputs():
    old = models.several()
    drawn = check(old, kg.submodel(old, outputs="l", inputs="left"))
    ends = {i["label"]: i["change"] for i in drawn["items"].values() if i["type"] == "input"}
    assert ends == {"left": "kept", "right": "dropped"}
    assert [i[:3] for i in labels(drawn, "dropped")] == ["add", "mul", "top"]
    outputs = [i["change"] for i in drawn["items"].values() if i["type"] == "output"]
    assert sorted(outputs) == ["dropped", "dropped", "kept"]


def test_nothing_changed():
    model = models.hidden_mask()
    items = check(model, model)["items"].values()
    assert {i["change"] for i in items} == {"kept"} and not any(i["may_differ"] for i in items)


def test_two_models_that_share_nothing():
    drawn = check(models.residual(), models.masked())
    assert len(labels(drawn, "new")) == 5 and len(labels(drawn, "dropped")) == 9


@given(plans(), plans())
@examples(20, 0)
def test_any_two_models(one, other):
    old = kg.read(interpret(one))
    check(old, interpret(other))
    check(old, old)


def test_of_two_copies_by_value():
    model = models.residual()
    drawn = scene(kg.diff(model, kg.clone(model), by="value"))
    assert {i["change"] for i in drawn["items"].values()} == {"kept"}
    assert not keras.tree.flatten(
        [i["may_differ"] for i in drawn["items"].values() if i["may_differ"]]
    )
