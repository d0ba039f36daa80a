"""The steps of a model: taken, kept in files, and replayed to the bit on other checkpoints."""

import copy
import gc
import io
import json
import pickle
import re
import subprocess
import sys
import weakref
import zipfile

import keras
import numpy as np
import pytest
from donor import arrays, equal, unchanged
from keras import layers
from models import ALL

import keras_graft as kg
from keras_graft.graph.record import record_of
from keras_graft.testing import random_inputs


@keras.saving.register_keras_serializable("steps_test")
def doubled(x):
    return keras.ops.multiply(x, 2.0)


@keras.saving.register_keras_serializable("steps_test")
class Shift(layers.Layer):
    def call(self, x):
        return x + 1.0


def resnet(seed):
    """Return a ResNet50 as Keras makes it, with narrow input."""
    keras.utils.set_random_seed(seed)
    return keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), classes=7)


def transformer(seed):
    keras.utils.set_random_seed(seed)
    ids = keras.Input((6,), dtype="int32", name="ids")
    x = layers.Embedding(11, 8, mask_zero=True, name="embedding")(ids)
    for i in range(3):
        y = layers.LayerNormalization(name=f"b{i}_norm")(x)
        y = layers.MultiHeadAttention(2, 4, name=f"b{i}_attention")(y, y)
        x = layers.Add(name=f"b{i}_add")([x, y])
        y = layers.Dense(16, activation="relu", name=f"b{i}_up")(x)
        x = layers.Add(name=f"b{i}_out")([x, layers.Dense(8, name=f"b{i}_down")(y)])
    return keras.Model(ids, layers.Dense(11, name="lm_head")(x), name="transformer")


def edits_of_resnet(model):
    """Ten verbs, with all that the selectors know."""
    g = kg.read(model)
    g = kg.replace(g, re.compile("conv[34].*_relu$"), lambda node: layers.Activation("gelu"))
    g = kg.insert(g, lambda node: layers.SpatialDropout2D(0.1), after="conv*_block1_out")
    g = kg.insert(g, layers.Conv2D(64, 1, name="mix"), before=g.named("conv2_block1_1_conv")[0])
    g = kg.remove(g, lambda node: node.label == "conv5_block3_1_relu")
    g = kg.recipes.new_head(g, layers.Dense(5, name="classes"))
    g = kg.reinput(g, (48, 48, 1), channels="mean")
    g = kg.freeze(g, [kg.select(g, "conv1_*"), "conv2_*"])
    g = kg.nest(g, "conv4_block1_out", "conv4_block4_out", name="middle")
    g = kg.lora(g, "conv5_block3_3_conv", rank=2)
    return kg.build(kg.extract(g, {"out": "classes", "middle": "middle"}))


def edits_of_transformer(model):
    head = model.get_layer("lm_head")
    m = kg.tie(model, head.kernel, model.get_layer("embedding").embeddings, transform="transpose")
    m = kg.repeat(m, "b0_out", "b1_out", 2, weights="copy")
    m = kg.insert(m, doubled, between=("b2_attention", "b2_add"))
    m = kg.replace(m, "b0_up", layers.Dense(16, "gelu", name="up"), weights="keep")
    m = kg.rewire(m, {kg.select(m, "b2_down").values[0]: "b2_add"})
    m = kg.insert(m, Shift(name="shift"), after=kg.select(m, "b2_out"))
    trunk, tail = kg.split(m, at=("b1_out", "ids"))
    m = kg.join(kg.unfreeze(kg.freeze(trunk, "b0_*"), "b0_down"), tail)
    m = kg.recipes.add_dropout(m, np.float32(0.5), after=layers.LayerNormalization)
    m = kg.untie(m, "lm_head/kernel")
    return kg.unshare(kg.share(m, ["b1_norm", "b2_norm"]), "b1_norm#1")


CASES = {"resnet": (resnet, edits_of_resnet), "transformer": (transformer, edits_of_transformer)}


def same(one, other):
    x = random_inputs(one, 2)
    equal(one(x), other(x))
    equal(one.weights, other.weights)
    assert [v.trainable for v in one.weights] == [v.trainable for v in other.weights]
    assert [layer.name for layer in one.layers] == [layer.name for layer in other.layers]


@pytest.mark.parametrize("case", CASES)
def test_steps_on_two_checkpoints_equal_the_verbs_to_the_bit(case, tmp_path):
    make, edit = CASES[case]
    donor, other = make(1), make(2)
    edited = edit(donor)
    steps = kg.steps(edited)
    assert len(steps) >= 10 and not steps.unwritten and not steps.needs
    assert not steps.without_weights
    # The new layers draw what they drew: the steps have their seeds.
    same(kg.replay(donor, steps), edited)
    with unchanged(other, tmp_path):
        kg.replay(other, steps)
    again = kg.replay(other, steps)
    new = {id(v) for v in again.weights} - {id(v) for v in other.weights}
    assert len(new) < len(again.weights)
    # The same verbs in Python; the layers that they make draw other numbers, so these are copied.
    python = edit(other)
    for mine, its in zip(python.weights, again.weights, strict=True):
        if id(its) in new:
            mine.assign(its)
    same(again, python)
    assert kg.steps(again) == steps
    # In files, alone and with the model.
    edited.save(tmp_path / "edited.keras")
    loaded = keras.saving.load_model(tmp_path / "edited.keras")
    assert kg.steps(loaded) == steps
    for name in ("steps.yaml", "steps.yml", "steps.json"):
        kg.steps(loaded).save(tmp_path / name)
        assert kg.Steps.load(tmp_path / name) == steps
        same(kg.replay(other, tmp_path / name), again)
    same(kg.replay(other, json.loads((tmp_path / "steps.json").read_text())), again)
    same(kg.replay(other, list(steps)), again)
    graph = kg.replay(kg.read(other), str(tmp_path / "steps.yaml"))
    assert isinstance(graph, kg.Graph)
    same(kg.build(graph), again)


@pytest.mark.parametrize("make", ALL)
def test_steps_stay_with_a_model_however_it_is_copied(make, tmp_path):
    model = make()
    assert not kg.steps(model) and str(kg.steps(model)) == "0 steps"
    edited = kg.freeze(kg.insert(model, lambda node: layers.Identity(), after="out")
                       if kg.read(model).named("out") else model)  # fmt: skip
    steps = kg.steps(edited)
    assert [s["verb"] for s in steps][-1] == "freeze"
    graph = kg.read(edited)
    graph_again = copy.deepcopy(graph)
    for same_steps in (
        graph, graph_again, pickle.loads(pickle.dumps(graph)), kg.build(graph),
        pickle.loads(pickle.dumps(edited)), copy.deepcopy(edited), kg.build(graph_again),
    ):  # fmt: skip
        assert kg.steps(same_steps) == steps
    edited.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert kg.steps(loaded) == steps
    more = kg.unfreeze(loaded)
    assert [*kg.steps(more)][:-1] == [*steps]
    assert kg.steps(kg.clone(more)) == kg.steps(more)
    fresh = kg.clone(more, weights="fresh", seed=4)
    assert kg.steps(fresh)[-1]["arguments"] == {"weights": "fresh", "seed": 4}
    same(kg.replay(model, kg.steps(more)), more)


def test_a_model_without_steps_saves_what_it_saved(tmp_path):
    model = ALL[0]()
    built = kg.build(kg.read(model))
    assert type(built) is type(model) and not record_of(built).edits
    assert json.dumps(built.get_config()) == json.dumps(model.get_config())
    assert "keras_graft" not in json.dumps(built.get_config())
    edited = kg.insert(model, layers.ReLU(name="act"), after="add0")
    plain = keras.Model.from_config(edited.get_config())
    assert type(plain) is type(model) and not kg.steps(plain)
    # Without the steps, the file is the one that Keras alone would write.
    config, keyed = plain.get_config(), edited.get_config()
    keyed["layers"][0].pop("keras_graft_steps")
    assert json.dumps(config) == json.dumps(keyed)


def test_a_file_with_steps_loads_without_the_package(tmp_path):
    model = ALL[0]()
    edited = kg.insert(model, layers.ReLU(name="act"), after="add0")
    edited.save(tmp_path / "m.keras")
    x = random_inputs(model, 2)
    np.save(tmp_path / "x.npy", arrays(x)[0])
    code = (
        "import sys, keras, numpy as np\n"
        f"m = keras.saving.load_model({str(tmp_path / 'm.keras')!r})\n"
        "assert 'keras_graft' not in sys.modules\n"
        f"y = m(np.load({str(tmp_path / 'x.npy')!r}))\n"
        f"np.save({str(tmp_path / 'y.npy')!r}, keras.ops.convert_to_numpy(y))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), arrays(edited(x))[0], rtol=1e-6)


class Free(keras.Model):
    """Takes what a Functional takes: Keras makes it again, and its file needs no other class."""


class Fixed(keras.Model):
    """Makes its own network."""

    def __init__(self, width=3):
        x = keras.Input((4,), name="x")
        super().__init__(x, layers.Dense(width, name="d")(x), name="fixed")


def test_steps_of_a_model_of_its_own_class(tmp_path):
    keras.saving.register_keras_serializable("steps_test")(Fixed)
    model = Fixed()
    edited = kg.insert(model, layers.ReLU(name="act"), after="d")
    edited.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert isinstance(loaded, Fixed) and kg.steps(loaded) == kg.steps(edited)
    same(kg.replay(model, kg.steps(loaded)), loaded)
    keras.saving.register_keras_serializable("steps_test")(Free)
    x = keras.Input((4,), name="x")
    edited = kg.insert(Free(x, layers.Dense(3, name="d")(x)), layers.ReLU(name="act"), after="d")
    assert type(edited) is Free and len(kg.steps(edited)) == 1
    edited.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert type(loaded) is Free and not kg.steps(loaded)


@pytest.mark.once
def test_what_selected_is_noted_by_names_and_selects_the_same():
    model = ALL[0]()
    graph = kg.read(model)
    add, conv = kg.select(graph, "add0").nodes[0], model.get_layer("conv1")
    for selector, noted in {
        "add*": "add*", ("add0", "add1"): ["add0", "add1"], layers.Add: {"class": "keras.layers.Add"},
        re.compile("add[01]"): ["add0", "add1"], (lambda node: node.kind == "Add"): ["add0", "add1"],
        add: "add0", add.values[0]: "add0", conv: ["conv1"], conv.output: ["conv1"],
        kg.select(model, "add*"): ["add0", "add1"],
    }.items():  # fmt: skip
        new = kg.insert(model, lambda node: layers.Identity(), after=selector)
        (step,) = kg.steps(new)
        assert step["arguments"]["after"] == noted
        same(kg.replay(model, [step]), new)
    new = kg.rewire(model, {add: "stem"})
    assert kg.steps(new)[0]["arguments"] == {"reads": {"add0": "stem"}}
    same(kg.replay(model, kg.steps(new)), new)
    shared = ALL[1]()
    new = kg.insert(shared, layers.Identity(name="i"), after=kg.read(shared).nodes[1])
    assert kg.steps(new)[0]["arguments"]["after"] == "shared#1"
    same(kg.replay(shared, kg.steps(new)), new)
    # A node of an earlier graph is noted by the name that it has in the model that is edited.
    graph = kg.read(shared)
    call = graph.nodes[1]
    graph = kg.insert(graph, shared.get_layer("shared"), before=graph.nodes[0])
    assert kg.steps(kg.extract(graph, call))[1]["arguments"]["taps"] == "shared#2"


@pytest.mark.once
def test_what_was_put_in_is_noted_for_each_place():
    model = ALL[0]()
    dense = lambda node: layers.Conv2D(4, 1)  # noqa: E731
    new = kg.insert(model, dense, after=["add0", "add1"])
    (step,) = kg.steps(new)
    each = step["arguments"]["new"]["each"]
    assert [entry["config"]["name"] for entry in each] == ["add0_conv2d", "add1_conv2d"]
    assert all(entry["seeds"] for entry in each)
    same(kg.replay(model, [step]), new)
    # What draws nothing is noted once, and is made for as many places as there are.
    new = kg.insert(model, lambda node: layers.Dropout(0.2), after=["add0", "add1"])
    entry = kg.steps(new)[0]["arguments"]["new"]["for_each"]
    assert entry["layer"] == "keras.layers.Dropout" and entry["config"]["rate"] == 0.2
    # One layer for several places, and a layer that the model has.
    one = layers.Conv2D(4, 1, name="one")
    new = kg.insert(model, lambda node: one, after=["add0", "add1"])
    assert kg.steps(new)[0]["arguments"]["new"]["each"][1] == {"same_as": 0}
    same(kg.replay(model, kg.steps(new)), new)
    new = kg.replace(model, "conv1", model.get_layer("conv0"))
    assert kg.steps(new)[0]["arguments"]["new"] == {"operation_of": "conv0"}
    again = kg.replay(model, kg.steps(new))
    assert again.get_layer("conv0") is model.get_layer("conv0")
    same(again, new)
    for function, name in ((keras.ops.tanh, "keras.ops.tanh"), (doubled, "steps_test>doubled")):
        new = kg.insert(model, function, after="add0")
        assert kg.steps(new)[0]["arguments"]["new"] == {"function": name}
        same(kg.replay(model, kg.steps(new)), new)
    # An untied model as a layer of its own, not built before.
    block = keras.Sequential([layers.Conv2D(4, 1, name="p"), layers.ReLU(name="q")], name="block")
    new = kg.insert(model, block, after="add0")
    same(kg.replay(model, kg.steps(new)), new)


@pytest.mark.once
def test_what_makes_layers_when_it_is_built_needs_the_seed():
    model = transformer(1)
    keras.utils.set_random_seed(7)
    new = kg.replace(model, "b1_attention", layers.MultiHeadAttention(2, 4, name="fresh"))
    keras.utils.set_random_seed(7)
    same(kg.replay(model, kg.steps(new)), new)
    keras.utils.set_random_seed(8)
    other = kg.replay(model, kg.steps(new))
    assert not np.array_equal(
        *(arrays(m.get_layer("fresh").query_dense.kernel)[0] for m in (new, other))
    )


@pytest.mark.once
def test_a_python_function_is_reported_and_refused():
    model = ALL[0]()
    new = kg.insert(model, lambda x: keras.ops.tanh(x) * 2.0, after="add0")
    steps = kg.steps(new)
    assert len(steps.unwritten) == 1
    words = r"step 1, insert: new= is the Python function '<lambda>' \(test_steps.py, line \d+\)"
    assert re.fullmatch(words, steps.unwritten[0])
    assert "cannot be replayed" in str(steps) and "<lambda>" in str(steps)
    assert "/" not in json.dumps(steps.to_dict()).replace("keras-graft", "")
    with pytest.raises(kg.EditError, match=words) as caught:
        kg.replay(model, steps)
    assert "register_keras_serializable" in str(caught.value)
    lambdas = kg.insert(model, layers.Lambda(lambda x: x, name="l"), after="add0")
    assert "holds Python code" in kg.steps(lambdas).unwritten[0]

    class Own(layers.Layer):
        def call(self, x):
            return x

    assert "not registered" in kg.steps(kg.insert(model, Own(name="o"), after="add0")).unwritten[0]


@pytest.mark.once
def test_weights_that_are_not_in_the_steps_are_named():
    model = ALL[0]()
    layer = layers.Dense(3, name="trained")
    layer.build((None, 4))
    new = kg.replace(model, "out", layer)
    steps = kg.steps(new)
    assert steps.without_weights == ["step 1, replace: new= is Dense 'trained'"]
    assert "draws new ones" in str(steps)
    with pytest.warns(kg.GraftWarning, match="new weights are drawn for .*'trained'.*transplant"):
        again = kg.replay(model, steps)
    kg.transplant(new, again)
    same(new, again)


@pytest.mark.once
def test_what_is_outside_of_the_steps_is_given(tmp_path):
    model, head = ALL[3](), keras.Sequential([keras.Input((2,)), layers.Dense(2)], name="head")
    joined = kg.join(model, head)
    steps = kg.steps(joined)
    assert steps.needs == ["head"] and "given={name: ...}" in str(steps)
    with pytest.raises(kg.EditError, match=r"need 'head'.*given=\{\"head\": ...\}"):
        kg.replay(model, steps)
    same(kg.replay(model, steps, given={"head": head}), joined)
    tuned = kg.lora(model, "s0", rank=2)
    kg.save_adapters(tuned, tmp_path / "a.safetensors")
    new = kg.load_adapters(model, tmp_path / "a.safetensors")
    steps = kg.steps(new)
    assert steps.needs == ["a.safetensors"] and str(tmp_path) not in json.dumps(steps.to_dict())
    same(kg.replay(model, steps, given={"a.safetensors": tmp_path / "a.safetensors"}), new)


@pytest.mark.once
def test_steps_hold_neither_the_donor_nor_what_was_removed():
    model = ALL[0]()
    layer = layers.Conv2D(4, 1, name="new")
    graph = kg.read(model)
    new = kg.insert(model, layer, after=graph.named("add0")[0])
    new = kg.replace(new, lambda node: node.label == "out", lambda node: layers.Dense(2))
    new = kg.remove(new, kg.select(new, "new"))
    new = kg.clone(new, name="own")
    held = [weakref.ref(item) for item in (model, layer, model.get_layer("conv0"), graph)]
    del model, layer, graph
    gc.collect()
    assert [ref() for ref in held] == [None] * 4
    assert [step["verb"] for step in kg.steps(new)] == ["insert", "replace", "remove"]


@pytest.mark.once
def test_a_verb_that_calls_verbs_is_one_step():
    model = ALL[0]()
    new = kg.recipes.add_adapters(model, size=2)
    assert [*kg.steps(new)] == [{"verb": "recipes.add_adapters", "arguments": {"size": 2}}]
    keras.utils.set_random_seed(1)
    new = kg.recipes.add_adapters(model, size=2)
    keras.utils.set_random_seed(1)
    same(kg.replay(model, kg.steps(new)), new)
    report = kg.recipes.fold_batchnorm(sequenced := keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="d"), layers.BatchNormalization(name="bn")]
    ))  # fmt: skip
    assert [*kg.steps(report.model)] == [{"verb": "recipes.fold_batchnorm", "arguments": {}}]
    same(kg.replay(sequenced, kg.steps(report.model)), report.model)


@pytest.mark.once
def test_a_refusal_has_the_number_of_the_step_and_changes_nothing(tmp_path):
    model = ALL[0]()
    steps = [
        {"verb": "remove", "arguments": {"target": "bn0"}},
        {"verb": "insert", "arguments": {"new": {"layer": "keras.layers.ReLU"}, "after": "addd0"}},
    ]
    with unchanged(model, tmp_path), pytest.raises(kg.NothingSelectedError) as caught:
        kg.replay(model, steps)
    assert str(caught.value).startswith("step 2, insert: Nothing in 'residual' matches 'addd0'")
    with pytest.raises(kg.CutError, match="^step 1, split: 'bn0' is not a cut") as caught:
        kg.replay(model, [{"verb": "split", "arguments": {"at": ["bn0"]}, "part": 0}])
    assert caught.value.suggestion == ("bn0", "stem")
    each = {"each": [{"layer": "keras.layers.ReLU"}]}
    for at, why in ((["add0", "add1"], "more places"), (["add0"], None)):
        step = {"verb": "insert", "arguments": {"new": each, "after": at}}
        if why is None:
            assert kg.replay(model, [step]).count_params() == model.count_params()
            continue
        with pytest.raises(kg.EditError, match=f"^step 1, insert: each= .*{why}.*for_each"):
            kg.replay(model, [step])
    each = {"each": [{"layer": "keras.layers.ReLU"}] * 2}
    with pytest.raises(kg.EditError, match="has 2 entries, and there are 1 places"):
        kg.replay(model, [{"verb": "insert", "arguments": {"new": each, "after": "add0"}}])


@pytest.mark.once
def test_damaged_steps_in_a_model_do_not_keep_it_from_loading(tmp_path):
    edited = kg.insert(ALL[0](), layers.ReLU(name="act"), after="add0")
    edited.save(tmp_path / "m.keras")
    for content in (
        {"format": 9, "steps": []},
        [1],
        {"format": 1, "steps": [{"verb": "x\x1b[31m"}]},
    ):
        with zipfile.ZipFile(tmp_path / "m.keras") as old:
            parts = {name: old.read(name) for name in old.namelist()}
        config = json.loads(parts["config.json"])
        config["config"]["layers"][0]["keras_graft_steps"] = content
        parts["config.json"] = json.dumps(config).encode()
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as new:
            for name, data in parts.items():
                new.writestr(name, data)
        (tmp_path / "bad.keras").write_bytes(made.getvalue())
        loaded = keras.saving.load_model(tmp_path / "bad.keras")
        same(loaded, edited)
        with pytest.raises(kg.EditError) as caught:
            kg.steps(loaded)
        assert "\x1b" not in str(caught.value)


def test_a_replay_leaves_the_steps_as_they_were():
    def model():
        x = keras.Input((5, 4), name="x")
        return keras.Model(x, layers.Dense(4, name="d")(x), name="m")

    edited = kg.insert(model(), layers.TimeDistributed(layers.Dense(3), name="td"), after="d")
    steps = kg.steps(edited)
    before = json.dumps(steps.to_dict())
    for _ in range(2):
        again = kg.replay(model(), steps)
        assert json.dumps(steps.to_dict()) == before == json.dumps(kg.steps(edited).to_dict())
        assert json.dumps(kg.steps(again).to_dict()) == before


def test_a_replayed_join_and_a_replayed_rewire_by_tensors_can_be_replayed_again():
    def model():
        x = keras.Input((4,), name="x")
        y = layers.Dense(4, name="b")(layers.Dense(4, name="a")(x))
        return keras.Model(x, layers.Dense(4, name="c")(y), name="m")

    one = model()
    edited = kg.rewire(one, {one.get_layer("b").output: one.get_layer("a").output})
    joined = kg.join(*kg.split(kg.insert(edited, layers.ReLU(name="r"), after="a"), at="r"))
    first = kg.replay(model(), kg.steps(joined))
    second = kg.replay(kg.insert(model(), layers.ReLU(name="q"), after="c"), kg.steps(first))
    assert kg.steps(first).to_dict() == kg.steps(joined).to_dict()
    assert kg.steps(first).needs == kg.steps(second).needs == []
    assert [layer.name for layer in kg.replay(model(), kg.steps(second)).layers] == [
        "x",
        "a",
        "r",
        "c",
        "q",
    ]
