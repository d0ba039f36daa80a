import gc
import re

import keras
import numpy as np
import pytest
from donor import donor_nodes
from keras import layers
from models import (
    ALL,
    hidden_mask,
    masked,
    masked_nested,
    multi_output,
    nested_uint8,
    residual,
    shared,
    siamese,
)

import keras_graft as kg
from keras_graft import _keras
from keras_graft.testing import assert_same_outputs, random_inputs


def loads(model):
    """Whether Keras loads a model: before 3.14 only if each input is read by a layer."""
    graph = kg.read(model)
    read = {value for node in graph.steps for value in node.reads}
    return _keras.private.VERSION >= (3, 14) or set(graph.inputs) <= read


each = pytest.mark.parametrize("make", ALL, ids=lambda f: f.__name__)


def chain(stages):
    def run(x):
        for stage in stages:
            x = stage(x)
        return x

    return run


@each
def test_build_of_read_is_the_model(make):
    model = make()
    again = kg.build(kg.read(model))
    assert_same_outputs(model, again)
    assert [id(w) for w in again.weights] == [id(w) for w in model.weights]
    if not isinstance(model, keras.Sequential):
        assert [x.name for x in again.operations] == [x.name for x in model.operations]


@each
def test_every_cut_runs_in_turn_and_joins(make):
    model = make()
    for cut in kg.cuts(model):
        stages = kg.split(model, at=cut)
        for batch in (1, 3):
            x = random_inputs(model, batch)
            assert_same_outputs(model, chain(stages), x)
            assert_same_outputs(model, kg.join(*stages), x)


@each
def test_every_value_completes_to_a_cut(make, tmp_path):
    model = make()
    graph = kg.read(model)
    x = random_inputs(model, 3)
    for number, node in enumerate(graph.nodes):
        for value in node.values:
            if not value.consumers or value in graph.outputs:
                continue
            trunk, head = kg.split(model, at=value, complete=True)
            assert_same_outputs(model, chain([trunk, head]), x)
            assert_same_outputs(model, kg.join(trunk, head), x)
            if number % 2 == 0 and loads(head):
                head.save(tmp_path / "head.keras")
                loaded = keras.models.load_model(tmp_path / "head.keras")
                middle = trunk(x)
                assert_same_outputs(head, loaded, middle)


@each
def test_the_donor_keeps_nothing(make):
    model = make()
    config = model.get_config()
    functional = _keras.functional(model)
    gc.collect()
    before = donor_nodes(functional)
    results = [kg.build(kg.read(model)) for _ in range(3)]
    results += [s for c in kg.cuts(model) for s in kg.split(model, at=c)]
    del results[::2]
    gc.collect()
    results.append(kg.build(kg.read(model)))
    assert_same_outputs(model, results[-1])
    del results
    gc.collect()
    assert donor_nodes(functional) == before
    assert model.get_config() == config


def test_a_result_is_kept_by_its_tensors_alone():
    model = residual()
    trunk = kg.split(model, at="add0")[0]
    inputs, tensor = trunk.input, trunk.output
    x = random_inputs(trunk)
    expected = keras.ops.convert_to_numpy(trunk(x))
    del trunk
    gc.collect()
    kept = keras.Model(inputs, layers.Activation("linear")(tensor))
    assert np.array_equal(keras.ops.convert_to_numpy(kept(x)), expected)


def test_no_cut_names_what_crosses():
    with pytest.raises(kg.CutError) as caught:
        kg.split(residual(), at="conv0")
    assert caught.value.suggestion == ("conv0", "stem")
    text = str(caught.value)
    assert "'conv0' is not a cut of 'residual': 1 other value crosses there" in text
    assert "'stem', needed by 'bn0', 'add0'" in text
    assert 'kg.split(model, at=("conv0", "stem"))' in text


def test_the_suggested_boundary_works():
    model = residual()
    trunk, head = kg.split(model, at=("conv0", "stem"))
    assert_same_outputs(model, chain([trunk, head]), random_inputs(model))


def test_a_mask_is_an_edge():
    with pytest.raises(kg.CutError, match="'not_equal") as caught:
        kg.split(masked(), at="embed")
    assert len(caught.value.missing) == 1


def test_a_hidden_mask_is_an_edge_too():
    with pytest.raises(kg.CutError, match="needed by 'attention'"):
        kg.split(hidden_mask(), at="embed")
    trunk, head = kg.split(hidden_mask(), at="embed", complete=True)
    assert any(isinstance(layer, keras.Model) for layer in head.layers)  # puts the mask back
    assert len(kg.read(head).nodes) < len(head.operations)  # and reads as what it stands for


def test_the_first_call_of_a_shared_layer_is_a_cut():
    model = shared()
    assert [c.name for c in kg.cuts(model)] == ["shared#0", "shared#1"]
    trunk, head = kg.split(model, at="shared#0")
    assert trunk.count_params() == head.count_params() == model.count_params() == 20
    assert_same_outputs(model, chain([trunk, head]), random_inputs(model))


def test_inside_a_nested_model():
    model = nested_uint8()
    x = random_inputs(model)
    trunk, head = kg.split(model, at="base/r0")
    assert trunk.output.shape == (None, 7, 7, 4)  # known more closely than inside `base`
    assert_same_outputs(model, chain([trunk, head]), x)
    tap = kg.extract(model, "base/r0")
    assert_same_outputs(trunk, tap, x)


def test_inside_one_call_of_a_model_called_twice(tmp_path):
    model = siamese()
    x = random_inputs(model)
    taps = kg.extract(model, ["encoder#1/d0", "out"])
    result = taps(x)
    assert list(result) == ["encoder#1/d0", "out"]
    encoder = model.get_layer("encoder")
    expected = encoder.get_layer("d0")(x[1])
    assert np.array_equal(*map(keras.ops.convert_to_numpy, (result["encoder#1/d0"], expected)))
    taps.save(tmp_path / "taps.keras")
    assert_same_outputs(taps, keras.models.load_model(tmp_path / "taps.keras"), x)


@pytest.mark.parametrize("at", ["encoder/d0", "encoder/attention", "encoder/lstm"])
def test_masks_are_edges_inside_a_model_that_gets_one(at, tmp_path):
    model = masked_nested()
    donor = model.get_layer("encoder")
    nodes = donor_nodes(donor)
    x = np.array([[1, 1, 0, 0, 0, 0, 0], [1, 0, 1, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1, 1]], "int32")
    with pytest.raises(kg.CutError, match="'not_equal.*', needed by"):
        kg.split(model, at=at)
    assert donor_nodes(donor) == nodes  # reading it meant running it under the mask
    trunk, head = kg.split(model, at=at, complete=True)
    assert len(trunk.outputs) == 2
    assert_same_outputs(model, chain([trunk, head]), x)
    joined = kg.join(trunk, head)
    assert_same_outputs(model, joined, x)
    joined.save(tmp_path / "joined.keras")
    assert_same_outputs(model, keras.models.load_model(tmp_path / "joined.keras"), x)
    assert len(kg.select(model, at)) == 1


def test_the_flag_of_a_call_reaches_what_is_opened():
    inner = keras.Input((4,), name="inner")
    y = layers.BatchNormalization(name="norm")(layers.ReLU(name="relu")(inner))
    base = keras.Model(inner, layers.Dropout(0.5, name="drop")(y), name="base")
    x = keras.Input((4,), name="x")
    model = keras.Model(x, layers.Dense(2, name="out")(base(x, training=False)))
    trunk, head = kg.split(kg.read(model), at="base/norm")
    opened = {n.name: n.template.kwargs for n in [*trunk.nodes, *head.nodes]}
    assert opened["norm"]["training"] is False and opened["drop"]["training"] is False
    assert "training" not in opened["relu"] and opened["out"].get("training") is None
    data = random_inputs(model)
    assert_same_outputs(model, chain([kg.build(trunk), kg.build(head)]), data)


def test_submodel_is_get_outputs_of():
    model = residual()
    rest = kg.submodel(model, inputs="add0")
    middle = kg.extract(model, "add0")
    x = random_inputs(model)
    assert_same_outputs(model, chain([middle, rest]), x)
    assert [x.name for x in rest.layers][1:] == ["bn1", "conv1", "add1", "pool", "out"]


def test_only_what_the_taps_need_is_there():
    graph = kg.read(residual())
    assert [n.label for n in kg.extract(graph, ["bn0", "conv0"]).nodes] == ["stem", "bn0", "conv0"]
    assert [n.label for n in kg.submodel(graph, "add0", "conv1").nodes] == ["bn1", "conv1"]
    assert [n.label for n in kg.join(kg.extract(graph, "stem")).nodes] == ["stem"]


def test_submodel_refuses_exchanged_ends():
    with pytest.raises(kg.CutError, match="are inputs and outputs exchanged"):
        kg.submodel(residual(), inputs="add1", outputs="add0")


def test_two_models_of_the_same_names_join(tmp_path):
    keras.utils.set_random_seed(1)
    first = keras.Sequential([keras.Input((3,)), layers.Dense(3, name="d")])
    second = keras.Sequential([keras.Input((3,)), layers.Dense(3, name="d")])
    both = kg.join(first, second)
    x = random_inputs(both)
    assert_same_outputs(both, chain([first, second]), x)
    assert [layer.name for layer in both.layers][1:] == ["d", "d_1"]
    assert first.layers[0].name == second.layers[0].name == "d"
    assert kg.select(both, "d_1").nodes[0].operation is second.layers[0]
    both.save(tmp_path / "both.keras")
    assert_same_outputs(both, keras.models.load_model(tmp_path / "both.keras"), x)


def test_a_model_joins_itself():
    model = shared()
    twice = kg.join(model, model)
    assert twice.count_params() == 20
    assert_same_outputs(twice, chain([model, model]), random_inputs(model))


def test_many_verbs_on_a_graph_build_once():
    model = residual()
    graph = kg.read(model)
    trunk, head = kg.split(graph, at="add0")
    assert isinstance(trunk, kg.Graph)
    assert_same_outputs(model, kg.build(kg.join(trunk, head)))


def test_a_joined_model_trains():
    model = residual()
    joined = kg.join(*kg.split(model, at="add0"))
    joined.compile("sgd", "mse")
    before = keras.ops.convert_to_numpy(model.get_layer("out").kernel).copy()
    joined.fit(random_inputs(joined, 4), np.ones((4, 3)), verbose=0)
    assert not np.array_equal(before, keras.ops.convert_to_numpy(model.get_layer("out").kernel))


@pytest.mark.parametrize(
    ("selector", "labels"),
    [
        ("add*", ["add0", "add1"]),
        (layers.Conv2D, ["stem", "conv0", "conv1"]),
        (lambda node: node.name.startswith("bn"), ["bn0", "bn1"]),
        (["out", "stem"], ["out", "stem"]),
        ("image", ["image"]),
    ],
)
def test_selectors(selector, labels):
    assert kg.select(residual(), selector).labels == labels


def test_selecting_nothing_says_the_nearest():
    with pytest.raises(kg.NothingSelectedError, match="matches 'con0'. Nearest: 'conv0'"):
        kg.select(residual(), "con0")
    with pytest.raises(kg.NothingSelectedError, match="Nearest: 'base/r0'"):
        kg.select(nested_uint8(), "r0")


def test_one_value_is_needed():
    with pytest.raises(kg.AmbiguousError, match="'lstm:0', 'lstm:1', 'lstm:2'"):
        kg.split(multi_output(), at="lstm")


@pytest.mark.parametrize("at", ["image", "out", ["add0", "add0"]])
def test_a_stage_may_be_empty(at, tmp_path):
    model = residual()
    x = random_inputs(model)
    stages = kg.split(model, at=at)
    assert_same_outputs(model, chain(stages), x)
    assert_same_outputs(model, kg.join(*stages), x)
    for i, stage in enumerate(stages):
        stage.save(tmp_path / f"{i}.keras")
    if all(map(loads, stages)):
        loaded = [keras.models.load_model(tmp_path / f"{i}.keras") for i in range(len(stages))]
        assert_same_outputs(model, chain(loaded), x)


def test_several_boundaries():
    model = residual()
    stages = kg.split(model, at=["stem", "add0", "add1"])
    assert len(stages) == 4
    assert sum(s.count_params() for s in stages) == model.count_params()
    assert_same_outputs(model, chain(stages), random_inputs(model))


@pytest.mark.parametrize("name", ["MobileNetV3Small", "DenseNet121"])
def test_real_architectures(name):
    make = getattr(keras.applications, name)
    model = make(weights=None, input_shape=(32, 32, 3), classes=5)
    x = random_inputs(model)
    assert_same_outputs(model, kg.build(kg.read(model)), x)
    found = kg.cuts(model)
    for cut in found[:: max(1, len(found) // 5)]:
        stages = kg.split(model, at=cut)
        assert_same_outputs(model, chain(stages), x)
        assert_same_outputs(model, kg.join(*stages), x)


def test_an_optional_input_stays_optional():
    x = keras.Input((3,), name="x")
    extra = keras.Input((3,), name="extra", optional=True)

    class AddMaybe(layers.Layer):
        def call(self, x, extra=None):
            return x if extra is None else x + extra

    y = layers.Dense(3, name="d")(AddMaybe(name="maybe")(x, extra))
    model = keras.Model([x, extra], layers.ReLU(name="r")(y))
    data = np.ones((2, 3), "float32")
    again = kg.build(kg.read(model))
    trunk, head = kg.split(model, at="maybe")
    for given in ([data, None], [data, data]):
        assert_same_outputs(model, again, given)
        assert_same_outputs(model, chain([trunk, head]), given)


def test_flags_and_policies_of_model_and_layers_stay():
    model = residual()
    model.get_layer("stem").trainable = False
    trunk, head = kg.split(model, at="add0")
    assert len(trunk.trainable_weights) == len(trunk.weights) - 2 - 2
    model.trainable = False
    again = kg.build(kg.read(model))
    assert not again.trainable and again.trainable_weights == []
    assert again.dtype_policy == model.dtype_policy


def test_every_form_of_selector():
    model, nested, several = residual(), siamese(), multi_output()
    add0 = model.get_layer("add0")
    for selector in (re.compile("^add0$"), add0, add0.output, kg.select(model, "add0"), ("add0",)):
        assert kg.select(model, selector).labels == ["add0"], selector
    assert kg.select(nested, "**/d*").labels == [
        "encoder#0/d0", "encoder#0/d1", "encoder#1/d0", "encoder#1/d1",
    ]  # fmt: skip
    assert kg.select(nested, "encoder/d0").labels == ["encoder#0/d0", "encoder#1/d0"]
    assert kg.select(nested, "encoder#1/d0").labels == ["encoder#1/d0"]
    assert kg.select(several, "lstm:2").values[0].spec.shape == (None, 4)
    assert kg.select(shared(), "shared#1").labels == ["shared#1"]
    assert kg.select(model, "*").where(lambda n: n.name == "add0").labels == ["add0"]
    assert (
        "add0" in str(kg.select(model, "add*"))
        and "<table>" in kg.select(model, "add*")._repr_html_()
    )


def test_a_cut_of_a_cut():
    model = residual()
    x = random_inputs(model)
    trunk, head = kg.split(model, at="add1")
    first, second = kg.split(trunk, at="add0")
    again = kg.extract(kg.submodel(first, outputs="stem"), "stem")
    assert_same_outputs(model, chain([first, second, head]), x)
    assert_same_outputs(kg.extract(model, "stem"), again, x)


def test_two_cuts_at_one_value_stand_in_one_model(tmp_path):
    model = residual()
    one, two = kg.submodel(model, inputs="add0"), kg.submodel(model, inputs="add0", outputs="pool")
    middle = keras.Input(one.input.shape[1:], name="middle")
    both = kg.inline(keras.Model(middle, [one(middle), two(middle)], name="both"))
    x = random_inputs(both)
    assert_same_outputs(both, lambda x: [one(x), two(x)], x)
    assert both.count_params() == one.count_params()
    both.save(tmp_path / "both.keras")
    assert_same_outputs(both, keras.models.load_model(tmp_path / "both.keras"), x)


def both(**kinds):
    """Return a model of each name, of one input, that gives a dict or list of two."""
    x = keras.Input((3,), name="x")
    return {name: keras.Model(x, outputs(x)) for name, outputs in kinds.items()}


@pytest.mark.parametrize("make", [
    lambda q, p: [q, p], lambda q, p: {"q": q, "p": p}, lambda q, p: {"p": p, "q": q},
])  # fmt: skip
def test_a_dict_goes_to_the_inputs_of_its_names(make):
    p, q = (keras.Input((3,), name=name) for name in "pq")
    head = keras.Model(make(q, p), q - 2 * p, name="head")
    x = np.random.default_rng(0).random((2, 3), "float32")
    trunks = both(
        one=lambda x: {"q": x * 5.0, "p": x * 1.0}, other=lambda x: {"p": x * 1.0, "q": x * 5.0}
    )
    for trunk in trunks.values():
        expected = keras.ops.convert_to_numpy(head(trunk(x)))
        joined = keras.ops.convert_to_numpy(kg.join(trunk, head)(x))
        np.testing.assert_array_equal(joined, expected)
        np.testing.assert_array_equal(joined, (x * 5 - 2 * x))
    layered = keras.Sequential([keras.Input((3,)), layers.Dense(3, name="h1")])
    graph = kg.insert(kg.read(layered), layers.Dense(3, name="h2"), after="h1")
    taps = kg.extract(graph, {"q": "h2", "p": "h1"})  # a graph keeps the order that it was given
    expected = keras.ops.convert_to_numpy(head(kg.build(taps)(x)))
    for found in (kg.build(kg.join(taps, kg.read(head))), kg.join(kg.build(taps), head)):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(found(x)), expected)


def test_a_dict_of_other_names_is_refused():
    p, q = (keras.Input((3,), name=name) for name in "pq")
    trunk = both(t=lambda x: {"q": x * 5.0, "r": x * 1.0})["t"]
    for inputs in ([q, p], {"q": q, "p": p}):
        with pytest.raises(
            kg.JoinError, match="a dict of 'q', 'r', .* takes 'q', 'p'. Name the in"
        ):
            kg.join(trunk, keras.Model(inputs, q - p))
    single = both(t=lambda x: {"any": x * 5.0})["t"]
    found = kg.join(single, keras.Model(q, q * 2.0))(np.ones((1, 3), "float32"))
    assert keras.ops.convert_to_numpy(found).tolist() == [[10, 10, 10]]


@pytest.mark.parametrize("name", ["w[0]", "**", "a*", "?"])
def test_a_name_that_looks_like_a_glob_is_a_name(name):
    x = keras.Input((4,), name="x")
    y = layers.Dense(4, name=name)(x)
    model = keras.Model(x, layers.Dense(2, name="ab")(layers.Dense(3, name="a")(y)))
    assert [n.name for n in kg.select(model, name).nodes] == [name]
    tapped = kg.extract(model, name)
    assert tapped.output.shape == (None, 4) and not isinstance(tapped.output, dict)
    trunk, _ = kg.split(model, at=kg.cuts(model)[0].name)
    assert [layer.name for layer in trunk.layers] == ["x", name]
    new = layers.Dense(4, name="new")
    assert [layer.name for layer in kg.replace(model, name, new).layers] == ["x", "new", "a", "ab"]
