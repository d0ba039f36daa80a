"""low_rank: equal at full rank, the error that is announced, costs, what stays, files."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_graft as kg
from keras_graft.recipes import low_rank
from keras_graft.testing import assert_same_outputs, random_inputs


def numbers(model):
    return [np.array(ops.convert_to_numpy(w)) for w in model.weights]


def scrambled(model):
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "seed" not in weight.path:
            weight.assign(rng.normal(0.05, 0.2, weight.shape))
    return model


def network():
    """Every kind that can be factorized, with options that must be kept."""
    image = keras.Input((9, 9, 6), name="image")
    x = layers.Conv2D(12, 1, activation="relu", name="point")(image)
    x = layers.Conv2D(
        10, (3, 2), strides=(2, 1), padding="same", kernel_regularizer="l2", name="wide"
    )(x)
    x = layers.Conv2D(8, 3, dilation_rate=2, padding="same", use_bias=False, name="dilated")(x)
    x = layers.Reshape((45, 8), name="tokens")(x)
    x = layers.Conv1D(8, 3, padding="causal", activation="tanh", name="causal")(x)
    x = layers.EinsumDense("abc,cde->abde", (45, 4, 3), bias_axes="de", name="heads")(x)
    x = layers.EinsumDense("abde,def->abf", (45, 10), activation="gelu", name="merge")(x)
    x = layers.EinsumDense("...x,xy->...y", 12, name="dots")(x)
    x = layers.EinsumDense("ax...,xy->ay...", (7,), bias_axes="y", name="across")(x)
    x = layers.Dense(9, activation="relu", name="dense")(x)
    return scrambled(keras.Model(image, x, name="network"))


NAMES = ["point", "wide", "dilated", "causal", "heads", "merge", "dots", "across", "dense"]


def small(name, units=6):
    x = keras.Input((8,), name="x")
    y = layers.Dense(8, name="a")(x)
    return x, layers.Dense(units, name=name)(y)


@pytest.mark.parametrize("name", NAMES)
def test_full_rank_is_equal(name):
    donor = network()
    layer = donor.get_layer(name)
    before, config = numbers(donor), json.dumps(donor.get_config())
    kernel = ops.convert_to_numpy(layer.kernel)
    count = {"heads": 1, "merge": 2}.get(name, kernel.ndim - 1)
    full = min(np.prod(kernel.shape[:count]), np.prod(kernel.shape[count:]))
    report = low_rank(donor, {name: int(full)}, only_smaller=False)
    assert_same_outputs(donor, report.model, random_inputs(donor, 2), exact=False)
    assert report.layers[0].error == 0 and report.layers[0].rank == report.layers[0].full == full
    # The second layer has the name and all that is not the kernel.
    second, low = report.model.get_layer(name), report.model.get_layer(f"{name}_low")
    assert type(second) is type(low) is type(layer) and second is not layer
    assert second.activation is layer.activation and (second.bias is None) == (layer.bias is None)
    assert low.bias is None and low.activation is keras.activations.linear
    assert low.kernel_regularizer == layer.kernel_regularizer or low.kernel_regularizer.l2 == 0.01
    assert json.dumps(donor.get_config()) == config
    assert all(map(np.array_equal, before, numbers(donor)))


@pytest.mark.parametrize("name", NAMES)
def test_the_error_is_the_one_announced(name):
    donor = network()
    report = low_rank(donor, {name: 3}, only_smaller=False)
    one = report.layers[0]
    second, low = report.model.get_layer(name), report.model.get_layer(f"{name}_low")
    left, right = (np.array(ops.convert_to_numpy(each.kernel), "float64") for each in (low, second))
    right = right.reshape(3, -1)
    kernel = np.array(ops.convert_to_numpy(donor.get_layer(name).kernel), "float64")
    product = (left.reshape(-1, 3) @ right).reshape(kernel.shape)
    assert np.isclose(np.linalg.norm(product - kernel), one.error, rtol=1e-5)
    assert np.isclose(one.relative, one.error / np.linalg.norm(kernel)) and 0 < one.relative < 1
    # By hand, no matrix of that rank is nearer.
    matrix = kernel.reshape(-1, right.shape[1])
    values = np.linalg.svd(matrix, compute_uv=False)
    assert np.isclose(one.error, np.sqrt((values[3:] ** 2).sum()))


@pytest.mark.once
def test_by_cost_the_costs_fall_below_the_fraction():
    donor = network()
    for fraction in (0.5, 0.7):
        report = low_rank(donor, dict.fromkeys(["wide", "heads", "point"], fraction))
        for one in report.layers:
            old = kg.costs(donor)[one.layer].multiply_adds
            new = kg.costs(report.model)
            sums = new[one.layer].multiply_adds + new[f"{one.layer}_low"].multiply_adds
            assert sums <= fraction * old and np.isclose(sums / old, one.share)
            more = low_rank(donor, {one.layer: one.rank + 1}, only_smaller=False).layers[0]
            assert more.share > fraction
    assert report.before.multiply_adds == kg.costs(donor).total.multiply_adds
    assert report.after.multiply_adds == kg.costs(report.model).total.multiply_adds
    assert report.after.parameters == report.model.count_params()


@pytest.mark.once
def test_by_energy():
    donor = network()
    for share in (0.3, 0.8, 0.99):
        one = low_rank(donor, {"wide": share}, by="energy", only_smaller=False).layers[0]
        assert one.relative**2 <= 1 - share + 1e-9
        if one.rank > 1:
            less = low_rank(donor, {"wide": one.rank - 1}, only_smaller=False).layers[0]
            assert less.relative**2 > 1 - share


def test_it_is_an_ordinary_model(tmp_path):
    donor = network()
    new = low_rank(donor, {layers.Conv2D: 2, "heads": 2}).model
    new.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = random_inputs(donor, 2)
    assert_same_outputs(new, loaded, x)
    before = numbers(loaded)
    loaded.compile("sgd", "mse")
    loaded.fit(ops.convert_to_numpy(x), np.ones((2, *new.output_shape[1:])), verbose=0)
    assert all(not np.array_equal(a, b) for a, b in zip(before, numbers(loaded), strict=True))


def test_flags_and_dtypes_are_kept():
    x = keras.Input((16,), name="x")
    y = layers.Dense(16, dtype="mixed_bfloat16", name="mixed")(x)
    y = layers.Dense(16, name="frozen", trainable=False)(y)
    y = layers.Dense(16, dtype="float64", name="double")(y)
    donor = scrambled(keras.Model(x, y))
    donor.get_layer("double").bias.trainable = False
    new = low_rank(donor, {"*": 2}).model
    for name in ("mixed", "frozen", "double"):
        for layer in (new.get_layer(name), new.get_layer(f"{name}_low")):
            assert layer.dtype_policy == donor.get_layer(name).dtype_policy
            assert layer.trainable == (name != "frozen")
    assert len(new.trainable_weights) == 5 and new.get_layer("double").bias.trainable is False
    assert donor.get_layer("double").bias.trainable is False
    assert len(donor.trainable_weights) == 3
    full = low_rank(donor, {"double": 16}, only_smaller=False).model
    assert_same_outputs(donor, full, random_inputs(donor), exact=False)


def test_inside_nested_models_and_closed_layers():
    inner = keras.Input((16,), name="inner")
    block = keras.Model(inner, layers.Dense(16, name="d")(inner), name="block")
    x = keras.Input((5, 16), name="x")
    y = layers.MultiHeadAttention(2, 8, name="attention")(x, x)
    y = layers.GlobalAveragePooling1D(name="pool")(y)
    donor = scrambled(keras.Model(x, block(y)))
    report = low_rank(donor, {"block/d": 2, "attention/query": 4})
    assert [one.layer for one in report.layers] == ["block/d", "attention/query"]
    assert report.model.count_params() < donor.count_params()
    full = low_rank(donor, {"block/d": 16, "attention/query": 16}, only_smaller=False)
    assert_same_outputs(donor, full.model, random_inputs(donor), exact=False)


def test_a_graph_gives_a_graph_and_one_step():
    graph = kg.read(network())
    report = low_rank(graph, {"wide": 2})
    assert isinstance(report.model, kg.Graph)
    (step,) = kg.steps(report.model)
    assert step["verb"] == "recipes.low_rank"
    again = kg.replay(network(), [step])
    assert_same_outputs(again, kg.build(report.model))


@pytest.mark.once
def test_real_networks():
    donor = keras.applications.MobileNet(weights=None, input_shape=(32, 32, 3), classes=5)
    report = low_rank(donor, {"conv_pw_*": 0.5, "conv_preds": 3})
    assert len(report.layers) == 14
    assert report.after.multiply_adds < 0.6 * report.before.multiply_adds
    assert {"conv_pw_1_bn", "conv_pw_1_relu"} <= {path for path, _ in report.kept}
    assert "it is a BatchNormalization, and not one of Dense" in str(report)
    image = random_inputs(donor, 1)
    assert report.model(image).shape == donor(image).shape


# -- what stays, and what is refused -------------------------------------------------------------


def refused(model, ranks, words, **more):
    with pytest.raises(kg.GraftError) as caught:
        low_rank(model, ranks, **more)
    assert words in str(caught.value), str(caught.value)


@pytest.mark.once
def test_what_would_not_be_smaller_stays():
    x, y = small("b")
    model = keras.Model(x, y)
    refused(
        model, {"a": 4}, "rank 4 would take 100.0% of its multiply-adds; ranks that take less: up"
    )
    refused(model, {"a": 9}, "its kernel can have a rank of 8 at most")
    refused(model, {"a": 0.1}, "rank 1 takes 25.0% of its multiply-adds, more than 10.0%")
    assert low_rank(model, {"a": 3}).layers[0].share == 0.75  # the way out
    one = keras.Model(x, layers.Dense(1, name="one")(y))
    refused(one, {"one": 1}, "ranks that take less: none")
    both = low_rank(one, {"*": 2})  # a pattern skips it
    assert dict(both.kept)["one"].startswith("its kernel can have a rank of 1 at most")


@pytest.mark.once
def test_what_cannot_be_factorized_stays():
    x, y = small("b", 8)
    shared = layers.Dense(8, name="shared")
    y = layers.Dense(8, name="tied")(shared(shared(y)))
    y = layers.Dense(8, kernel_constraint="max_norm", name="constrained")(y)
    y = layers.Dense(8, activation=layers.PReLU(), name="prelu")(y)
    y = layers.Reshape((8, 1), name="r")(y)
    y = layers.EinsumDense("abc,bcd->abd", (8, 8), name="batched")(y)
    y = layers.Conv1D(8, 1, groups=2, name="grouped")(y)
    model = kg.tie(keras.Model(x, y), "tied/kernel", "b/kernel")
    for name, words in {
        "shared": "it is called 2 times",
        "tied": "it shares a weight with 'b'",
        "b": "it shares a weight with 'tied'",
        "constrained": "it has a kernel_constraint",
        "prelu": "its activation is a layer with weights",
        "batched": "'abc,bcd->abd' is not one matrix product",
        "grouped": "it has 2 groups",
        "r": "it is a Reshape",
    }.items():
        refused(model, {name: 2}, words)
    report = low_rank(model, {"*": 2})
    assert [one.layer for one in report.layers] == ["a"]
    assert len(report.kept) == 8 + 1 - ("x" not in dict(report.kept))
    assert [tie.target for tie in kg.sharing(report.model).ties] == ["tied/kernel"]
    nan = keras.Model(*small("nan"))
    nan.get_layer("a").kernel.assign(np.full((8, 8), np.nan))
    refused(nan, {"a": 2}, "numbers that are not finite")


@pytest.mark.once
def test_arguments():
    model = keras.Model(*small("b"))
    refused(model, {}, "the second argument is a dict")
    refused(model, ["a"], "the second argument is a dict")
    for wrong in (0, -1, 1.0, True, "2", None, [1]):
        refused(model, {"a": wrong}, "expected a rank (16) or a number between 0 and 1")
    refused(model, {"a": 2}, 'by= is "cost" or "energy"', by="rank")
    refused(model, {"a": 2, "[ab]": 2}, "'a' is selected twice, also by '[ab]'")
    refused(model, {"nothing": 2}, "nothing")


@pytest.mark.once
def test_a_projection_that_knows_a_length_of_its_own():
    """The result of an attention inside another layer has open lengths; its projection has not."""
    x = keras.Input((4, 8), name="x")
    y = keras.layers.MultiHeadAttention(2, 4, name="a")(x, x)
    model = keras.Model(x, keras.layers.Dense(2, name="end")(y))
    names = ("a/query", "a/attention_output")
    report = kg.recipes.low_rank(model, dict.fromkeys(names, 8), only_smaller=False)
    assert [layer.layer for layer in report.layers] == list(names)
    given = np.random.default_rng(0).normal(size=(3, 4, 8)).astype("float32")
    one, other = (keras.ops.convert_to_numpy(m(given)) for m in (model, report.model))
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.once
def test_a_layer_with_a_call_set_on_it_stays():
    x = keras.Input((4,), name="x")
    layer = keras.layers.Dense(4, name="a")
    model = keras.Model(x, layer(x))
    layer.call = lambda inputs, training=None: inputs
    with pytest.raises(kg.EditError, match="its call was set on this one layer"):
        kg.recipes.low_rank(model, {"a": 2}, only_smaller=False)
