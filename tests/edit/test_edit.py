"""Edits: exact where no arithmetic changed, on the donor's own layers, refused by name."""

import gc

import keras
import numpy as np
import pytest
from donor import donor_nodes
from keras import layers, ops
from models import ALL, masked, multi_output, residual, sequential, shared, siamese

import keras_graft as kg
from keras_graft import _keras
from keras_graft.testing import assert_same_graph, assert_same_outputs, random_inputs

each = pytest.mark.parametrize("make", ALL, ids=lambda f: f.__name__)


def linear(node):
    return layers.Activation("linear", dtype=getattr(node.operation, "dtype_policy", None))


def places(graph):
    return [v for n in graph.nodes for v in n.values if v.spec.dtype != "bool"]


@each
def test_linear_activations_everywhere_change_nothing(make, tmp_path):
    model = make()
    functional = _keras.functional(model)
    gc.collect()
    nodes, config = donor_nodes(functional), model.get_config()
    x = random_inputs(model, 3)
    graph = kg.read(model)
    for value in places(graph):
        edited = kg.insert(model, layers.Activation("linear"), after=value)
        assert len(kg.read(edited)) == len(graph) + 1
        assert_same_outputs(model, edited, x)
    edited = kg.insert(model, linear, after=places(graph))
    assert len(kg.read(edited)) == len(graph) + len(places(graph))
    assert_same_outputs(model, edited, x)
    assert [id(w) for w in edited.weights] == [id(w) for w in model.weights]
    edited.save(tmp_path / "edited.keras")
    assert_same_outputs(edited, keras.models.load_model(tmp_path / "edited.keras"), x)
    back = kg.remove(edited, lambda n: n.kind == "Activation" and n.name.endswith("_activation"))
    assert_same_graph(model, back, same_layers=True)
    del edited, back
    gc.collect()
    assert donor_nodes(functional) == nodes and model.get_config() == config


@each
def test_replacing_a_layer_by_itself_changes_nothing(make):
    model = make()
    graph = kg.read(model)
    x = random_inputs(model, 3)
    for node in graph.nodes:
        if isinstance(node.operation, keras.Layer):
            edited = kg.replace(model, node, node.operation)
            assert_same_outputs(model, edited, x)
            assert [id(w) for w in edited.weights] == [id(w) for w in model.weights]


def test_many_edits_one_build():
    model = residual()
    graph = kg.read(model)
    graph = kg.insert(
        graph, lambda node: layers.Dropout(0.5, name=f"drop_{node.name}"), after="add*"
    )
    graph = kg.replace(graph, "pool", layers.GlobalMaxPooling2D(name="top"))
    edited = kg.build(graph)
    names = [layer.name for layer in edited.layers]
    assert "drop_add0" in names and "drop_add1" in names and "top" in names and "pool" not in names
    report = kg.diff(model, edited)
    assert report.shared_parameters == model.count_params() and report.other_outputs == ("out",)
    edited.compile("sgd", "mse")
    edited.fit(random_inputs(edited, 4), np.ones((4, 3)), verbose=0)


def test_one_call_of_a_shared_layer():
    model = shared()
    edited = kg.replace(model, "shared#1", layers.Dense(4, name="own"))
    assert [n.label for n in kg.read(edited).nodes] == ["shared#0", "own", "shared#1"]
    assert edited.count_params() == 40


def test_a_change_of_shape_is_carried_on():
    edited = kg.replace(
        residual(), "stem", layers.Conv2D(4, 3, strides=2, padding="same", name="s")
    )
    assert kg.select(edited, "add1").values[0].spec.shape == (None, 4, 4, 4)
    assert edited.output.shape == (None, 3)


def test_batch_normalization_before_the_first_activation():
    edited = kg.insert(sequential(), layers.BatchNormalization(name="norm"), before="s1")
    assert [layer.name for layer in edited.layers] == ["x", "s0", "drop", "norm", "s1"]


def test_a_mask_that_is_made_anew_is_handed_on():
    model = masked()
    graph = kg.insert(kg.read(model), lambda t: ops.concatenate([t, t], axis=1), after="ids")
    (mask,) = [v for v in kg.select(graph, "lstm").nodes[0].reads if v.spec.dtype == "bool"]
    assert mask.spec.shape == (None, 14) and mask.within(graph).producer is not None
    x = np.array([[1, 1, 0, 0, 1, 0, 0]], "int32")
    y = ops.convert_to_tensor(np.concatenate([x, x], axis=1))
    for name in ("embed", "lstm", "mean", "out"):
        y = model.get_layer(name)(y)
    assert np.array_equal(*map(keras.ops.convert_to_numpy, (kg.build(graph)(x), y)))


def attentive():
    """Attention takes the mask off its inputs: what comes behind reads it by its recorded call."""
    x = keras.Input((5,), dtype="int32", name="ids")
    h = layers.Embedding(9, 4, mask_zero=True, name="embed")(x)
    h = layers.Add(name="add")([h, layers.MultiHeadAttention(2, 2, name="attend")(h, h)])
    y = layers.LSTM(3, name="lstm")(layers.LayerNormalization(name="norm")(h))
    mean = layers.GlobalAveragePooling1D(name="mean")(h)
    model = keras.Model(x, layers.Concatenate(name="both")([y, mean]), name="attentive")
    for weight in model.weights:
        weight.assign(np.random.default_rng(1).normal(size=weight.shape))
    return model


def embedding(**kwargs):
    return layers.Embedding(9, 4, name="embed", **kwargs)


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: kg.recipes.add_adapters(m, 2),
        lambda m: kg.replace(m, "add", layers.Add(name="sum")),
        lambda m: kg.replace(m, "embed", embedding(mask_zero=True), weights="keep"),
        lambda m: kg.reinput(kg.reinput(m, (8,)), (5,)),
        lambda m: kg.remove(kg.insert(m, layers.LayerNormalization(name="n"), before="lstm"), "n"),
    ],
    ids=["adapters", "same", "embedding", "there and back", "in and out"],
)
def test_masks_stay_where_the_layer_that_makes_them_changes(edit):
    model = attentive()
    ids = np.array([[1, 2, 3, 0, 0], [3, 0, 0, 0, 0]])
    assert np.array_equal(*(keras.ops.convert_to_numpy(m(ids)) for m in (edit(model), model)))


def test_places_of_one_call_see_the_masks_of_the_places_before():
    model = attentive()
    new = {"embed": embedding, "lstm": lambda: layers.LSTM(3, name="lstm")}
    one = kg.replace(model, list(new), lambda node: new[node.name](), weights="keep")
    two = model
    for name, make in new.items():
        two = kg.replace(two, name, make(), weights="keep")
    ids = np.array([[1, 2, 3, 0, 0], [3, 0, 0, 0, 0]])
    a, b, c = (keras.ops.convert_to_numpy(m(ids)) for m in (one, two, model))
    assert np.array_equal(a, b) and not np.allclose(a, c)


def test_a_mask_is_no_input_of_its_own():
    model = attentive()
    last = kg.replace(model, "lstm", lambda t: t[:, -1, :3])
    pooled = kg.replace(model, "mean", lambda t: ops.mean(t, axis=1))
    assert last.output_shape == pooled.output_shape == model.output_shape
    new = kg.insert(model, layers.Dropout(0.5, name="drop"), before="lstm")
    assert [n.label for n in kg.select(kg.read(new), "drop").nodes[0].consumers] == ["lstm"]
    assert "norm" not in [layer.name for layer in kg.remove(model, "norm").layers]


def test_on_one_edge_only():
    model = residual()
    for how in ({"between": ("stem", "add0")}, {"before": "add0:0"}):
        edited = kg.read(kg.insert(model, layers.ReLU(name="edge"), **how))
        assert {n.label for n in kg.select(edited, "stem").values[0].consumers} == {"edge", "bn0"}
        assert [n.label for n in kg.select(edited, "edge").nodes[0].consumers] == ["add0"]
    for how in ({"between": ("conv0", "add0")}, {"before": "add0:1"}):
        edited = kg.read(kg.insert(model, layers.ReLU(name="edge"), **how))
        assert [n.label for n in kg.select(edited, "add0").nodes[0].producers] == ["stem", "edge"]


def test_a_function_is_traced_in_place():
    model = residual()
    edited = kg.insert(model, lambda t: t * 2.0, after="pool")
    x = random_inputs(model)
    expected = model.get_layer("out")(kg.extract(model, "pool")(x) * 2.0)
    assert np.array_equal(*map(keras.ops.convert_to_numpy, (edited(x), expected)))


def test_rewire_drops_what_is_used_no_more():
    model = residual()
    edited = kg.rewire(model, {"add1": "add0"})
    assert [layer.name for layer in edited.layers][-3:] == ["add0", "pool", "out"]
    graph = kg.rewire(kg.read(model), {"add1": "add0"})
    assert [n.label for n in graph.nodes] == ["stem", "bn0", "conv0", "add0", "pool", "out"]


@pytest.mark.parametrize("make", [siamese])
def test_inline(make):
    model = make()
    edited = kg.inline(model)
    assert all(n.nested is None for n in kg.read(edited).nodes)
    assert_same_outputs(model, edited, random_inputs(model, 3))
    assert edited.count_params() == model.count_params()


def one_for_all():
    layer = layers.Conv2D(4, 3, padding="same", name="all")
    return lambda node: layer


REFUSALS = [
    (residual, lambda m: kg.replace(m, "add*", layers.Add()), "2 places, 'add0', 'add1', and one Add"),
    (residual, lambda m: kg.replace(m, "pool", layers.Dense), "Dense is a class; give a layer"),
    (residual, lambda m: kg.replace(m, "pool", 3), "expected a layer, a model or a function"),
    (residual, lambda m: kg.replace(m, "add0", layers.Dense(4)), "replace 'add0': Dense .*Keras says"),
    (residual, lambda m: kg.replace(m, "conv0", layers.Conv2D(5, 3, padding="same")),
     "Add 'add0' in graph 'residual' does not take its inputs:.*expected .* 4.*found .* 5"),
    (multi_output, lambda m: kg.replace(m, "lstm", layers.LSTM(4)), "gives 1 value, the old node gave 3"),
    (residual, lambda m: kg.insert(m, layers.ReLU()), "give one of after"),
    (residual, lambda m: kg.insert(m, layers.ReLU(), before="add0"), 'before="add0:0"'),
    (residual, lambda m: kg.insert(m, layers.ReLU(), before="add0:2"), "has 2 inputs"),
    (multi_output, lambda m: kg.insert(m, layers.ReLU(), after="lstm"), "'lstm:0', 'lstm:1'"),
    (residual, lambda m: kg.insert(m, layers.ReLU(), between=("stem", "pool")), "does not read the first"),
    (residual, lambda m: kg.remove(m, "add0"), 'keep="stem" or keep="conv0"'),
    (residual, lambda m: kg.remove(m, "out"), 'kg.submodel\\(model, outputs="pool"\\)'),
    (residual, lambda m: kg.remove(m, "add0", keep="bn0"), "is none of its inputs 'stem', 'conv0'"),
    (residual, lambda m: kg.rewire(m, {"stem": "add1"}), "rewire .* has a cycle"),
    (residual, lambda m: kg.replace(m, "image", layers.ReLU()), "replace 'image': it is an input.*after=\"im"),
    (residual, lambda m: kg.remove(m, ["image", "bn0"]), "remove 'image': it is an input"),
    (residual, lambda m: kg.insert(m, layers.ReLU(), before=m.input), "insert before 'image': it is an i"),
    (siamese, lambda m: kg.replace(m, "encoder/inner", layers.ReLU()), "'encoder#0/inner': it is an inp"),
    (residual, lambda m: kg.replace(m, layers.Add, ops.relu), "takes 1 positional argument but 2 were given\\nCalled with the node 'add0' first, as a factory"),
    (residual, lambda m: kg.replace(m, layers.Add, lambda t: t * 2), "Keras says: .*takes 1 .*\\nCalled .* as a factory, it raised TypeError: .*'Node' and 'int'"),
    (residual, lambda m: kg.insert(m, layers.ReLU(), between="ab"), "between= is a value and a node"),
    (residual, lambda m: kg.rewire(m, [("stem", "x")]), "give {old value: new value}, got list"),
    (residual, lambda m: kg.nest(m, "stem", "add0", "a/b"), "give the new model a name, without a sla"),
    (residual, lambda m: kg.replace(m, "conv0", m.get_layer("conv1"), weights="keep"),
     "would give 'conv1' the weights of 'conv0', and it is already in the model"),
    (residual, lambda m: kg.replace(m, ["conv0", "conv1"], one_for_all(), weights="keep"),
     "would give 'all' the weights of 'conv1'"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "attempt", "words"), REFUSALS, ids=range(len(REFUSALS)))
def test_what_cannot_be_edited_is_refused_and_changes_nothing(make, attempt, words):
    model = make()
    graph, config = kg.read(model), model.get_config()
    functional = _keras.functional(model)
    gc.collect()
    nodes = donor_nodes(functional)
    with pytest.raises(kg.GraftError, match="(?s)" + words) as caught:
        attempt(model)
    del caught
    gc.collect()
    assert donor_nodes(functional) == nodes
    assert model.get_config() == config
    assert_same_graph(model, graph, same_layers=True)


def test_a_layer_outlives_the_model_it_was_put_into():
    # Keras counts a layer's outputs by its first call, also when that is of a model long gone.
    model = residual()
    layer = layers.Activation("linear", name="linear")
    first = kg.insert(model, layer, after="stem")
    second = kg.build(kg.read(first))
    expected = numpy_of(first)
    del first
    gc.collect()
    assert layer.output is second.get_layer("linear").output
    third = kg.build(kg.read(second))
    assert np.array_equal(numpy_of(third), expected)
    del second
    gc.collect()
    assert np.array_equal(numpy_of(kg.build(kg.read(third))), expected)


def numpy_of(model):
    return keras.ops.convert_to_numpy(model(np.ones((2, 8, 8, 3), "float32")))


def test_what_takes_the_place_of_a_model_gets_the_tensor_of_a_list_of_one():
    i, x = keras.Input((5, 3), name="i"), keras.Input((5, 3), name="x")
    inner = keras.Model(i, layers.Dense(3, name="d")(i), name="inner")
    masked = layers.Masking()(x)
    donor = keras.Model(x, layers.Dense(2, name="out")(inner([masked], mask=[None])), name="m")
    for new in (layers.Dense(3), layers.LSTM(3, return_sequences=True), lambda y: y * 2):
        assert kg.replace(donor, "inner", new).output_shape == (None, 5, 2)
