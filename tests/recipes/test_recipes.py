"""Recipes: what they promise, on a network that has a bit of everything and on real ones."""

import json
import re

import architectures
import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_graft as kg
from keras_graft import recipes
from keras_graft.testing import assert_same_outputs, random_inputs


def network() -> keras.Model:
    """Residual adds, a block inside that is called twice, a layer that is, heads, an op."""
    with architectures.cheap_weights():
        return _network()


def _network() -> keras.Model:
    inner = keras.Input((None, None, 8), name="inner")
    y = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(inner)
    y = layers.BatchNormalization(name="bn")(y)
    y = layers.Add(name="add")([inner, layers.ReLU(name="act")(y)])
    block = keras.Model(inner, y, name="block")
    image = keras.Input((15, 15, 3), name="image")
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="stem")(image)
    x = stem = layers.BatchNormalization(name="stem_bn")(x)
    x = layers.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2, name="depth")(x)
    x = layers.ReLU(name="mid")(layers.BatchNormalization(scale=False, name="depth_bn")(x))
    x = layers.SeparableConv2D(8, 3, padding="same", activation="relu", name="sep")(x)
    shared = layers.Dense(8, activation="relu", name="shared")
    x = block(layers.BatchNormalization(name="loose_bn")(shared(shared(block(x)))))
    x = layers.Conv2DTranspose(8, 3, strides=2, padding="same", name="up")(x)
    x = layers.BatchNormalization(name="up_bn")(x)
    x = ops.relu(ops.add(x, stem))
    x = layers.ReLU(max_value=6.0, name="relu6")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.BatchNormalization(center=False, name="top_bn")(layers.Dense(6, name="top")(x))
    x = layers.Dense(5, name="logits")(layers.Dropout(0.2, name="drop")(x))
    return trained(keras.Model(image, layers.Softmax(name="classes")(x), name="network"))


def trained(model):
    """Give every batch normalization statistics of its own: with new ones it does next to nothing."""
    rng = np.random.default_rng(1)
    for node in kg.select(model, "**").nodes:
        norm = node.operation
        if isinstance(norm, layers.BatchNormalization):
            for variable in norm.weights:
                low, high = (0.6, 1.4) if "gamma" in variable.path else (-0.4, 0.4)
                if "variance" in variable.path:
                    low, high = 0.5, 2.0
                variable.assign(rng.uniform(low, high, variable.shape).astype("float32"))
    return model


def numbers(model):
    return [np.array(keras.ops.convert_to_numpy(w)) for w in model.weights]


def _donor():
    """A network, and the check that nothing in it has changed."""
    model = network()
    x = random_inputs(model, 2)
    before = numbers(model), json.dumps(model.get_config()), ops.convert_to_numpy(model(x))
    layers_before = [id(layer) for layer in model.layers]
    yield model
    weights, config, output = before
    assert json.dumps(model.get_config()) == config
    assert [id(layer) for layer in model.layers] == layers_before
    assert all(map(np.array_equal, weights, numbers(model)))
    assert np.array_equal(ops.convert_to_numpy(model(x)), output)


donor = pytest.fixture(_donor)
refusing = pytest.fixture(_donor, scope="module")


def lives(model, path):
    """Assert that a model is an ordinary one: it saves, plain Keras loads it, and it trains."""
    model.save(path / "model.keras")
    loaded = keras.models.load_model(path / "model.keras")
    assert_same_outputs(model, loaded, random_inputs(model, 2))
    assert len(loaded.weights) == len(model.weights)
    before = numbers(loaded)
    loaded.compile(keras.optimizers.SGD(0.5), "mse")
    x = ops.convert_to_numpy(random_inputs(loaded, 2))
    loaded.fit(x, np.ones((2, *loaded.output_shape[1:])), verbose=0)
    assert any(not np.array_equal(a, b) for a, b in zip(before, numbers(loaded), strict=True))


def activations(model):
    return [
        node.operation.activation.__name__ if hasattr(node.operation, "activation") else node.kind
        for node in kg.select(model, "**").nodes
    ]


def test_swap_activation(donor, tmp_path):
    new = recipes.swap_activation(donor, "relu", "gelu")
    assert activations(donor).count("relu") == 3 and activations(donor).count("ReLU") == 4
    # act twice, mid, sep, shared twice, the op; the one with a ceiling stays.
    assert activations(new).count("gelu") == 7 and activations(new).count("relu") == 0
    assert activations(new).count("ReLU") == 1 and "Relu" not in activations(new)
    assert kg.select(new, "**").labels == kg.select(donor, "**").labels
    # Called twice, one layer with values of its own; the others are the donor's.
    assert len(kg.select(new, "shared")) == 2 and new.get_layer("shared").units == 8
    assert new.get_layer("shared") is not donor.get_layer("shared")
    assert new.get_layer("stem") is donor.get_layer("stem")
    assert len(new.weights) == len(donor.weights)
    assert all(map(np.array_equal, numbers(donor), numbers(new)))
    assert float(ops.max(ops.abs(new(random_inputs(new)) - donor(random_inputs(new))))) > 1e-4
    # There and back it is what it was, to the bit.
    assert_same_outputs(donor, recipes.swap_activation(new, "gelu", keras.activations.relu))
    six = recipes.swap_activation(donor, "relu(max_value=6.0)", "tanh")
    assert six.get_layer("relu6").activation is keras.activations.tanh
    lives(new, tmp_path)


def test_swap_activation_in_wrappers_but_not_gates():
    x = keras.Input((5, 4), name="x")
    y = layers.TimeDistributed(layers.Dense(3, activation="tanh"), name="steps")(x)
    y = layers.Bidirectional(layers.LSTM(3, recurrent_activation="tanh"), name="both")(y)
    model = keras.Model(x, y)
    new = recipes.swap_activation(model, "tanh", "relu")
    assert new.get_layer("steps").layer.activation is keras.activations.relu
    cell = new.get_layer("both").backward_layer.cell
    assert cell.activation is keras.activations.relu
    assert cell.recurrent_activation is keras.activations.tanh
    assert all(map(np.array_equal, numbers(model), numbers(new)))


def test_swap_activation_in_lists_of_a_configuration():
    i = y = keras.Input((4,))
    for layer in (
        layers.Dense(4, activation="relu", name="first"),
        layers.ReLU(name="own", dtype="mixed_bfloat16"),
        layers.ReLU(max_value=6.0, name="ceiling"),
        ops.relu,
    ):
        y = layer(y)
    x = keras.Input((5, 4), name="x")
    y = layers.TimeDistributed(keras.Model(i, layers.Add()([i, y])), name="steps")(x)
    y = layers.Dense(2, activation=layers.ReLU(), name="dense")(y)
    model = keras.Model(x, layers.Dense(2, activation=layers.Activation("relu"), name="end")(y))
    new = recipes.swap_activation(model, layers.ReLU(), "gelu")
    gelu, inner = keras.activations.gelu, new.get_layer("steps").layer
    assert inner.get_layer("first").activation is inner.get_layer("own").activation is gelu
    assert inner.get_layer("own").dtype_policy.name == "mixed_bfloat16"
    kinds = [type(layer).__name__ for layer in inner.layers]
    assert kinds == ["InputLayer", "Dense", "Activation", "ReLU", "Activation", "Add"]
    assert new.get_layer("dense").activation is new.get_layer("end").activation is gelu
    assert all(map(np.array_equal, numbers(model), numbers(new)))
    with pytest.raises(
        kg.NothingSelectedError, match=r"is 'relu'. It has 'gelu' \(5\), 'relu\(max"
    ):
        recipes.swap_activation(new, "relu", "gelu")


@pytest.mark.parametrize("kind", ["cells", "stack"])
@pytest.mark.parametrize("loaded", [True, False])  # Keras names such weights anew when it loads
def test_swap_activation_in_a_list_of_layers(loaded, kind, tmp_path):
    if kind == "cells":
        layer = layers.RNN([layers.SimpleRNNCell(3, activation="relu") for _ in range(2)])
    else:
        stack = [layers.Dense(3, activation="relu"), layers.ReLU()]
        layer = layers.TimeDistributed(keras.Sequential(stack))
    x = keras.Input((5, 4), name="x")
    model = keras.Model(x, layer(x))
    if loaded:
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
    new = recipes.swap_activation(model, "relu", "gelu").layers[-1]
    inner = new.cell.cells if kind == "cells" else new.layer.layers
    assert [layer.activation.__name__ for layer in inner] == ["gelu"] * 2
    assert all(map(np.array_equal, numbers(model), numbers(new)))


class NoConfig(layers.Layer):
    def __init__(self, size, array):
        super().__init__(name="closed")
        self.array, self.activation = array, keras.activations.relu

    def call(self, x):
        return self.activation(x)


def test_norm_swap(donor, tmp_path):
    new = recipes.norm_swap(donor, groups=4)
    found = kg.select(new, layers.GroupNormalization)
    assert found.labels == [
        "stem_bn", "depth_bn", "block#0/bn", "loose_bn", "block#1/bn", "up_bn", "top_bn"
    ]  # fmt: skip
    with pytest.raises(kg.NothingSelectedError):
        kg.select(new, layers.BatchNormalization)
    groups = {node.operation.name: node.operation.groups for node in found}
    assert groups["stem_bn"] == 4 and groups["top_bn"] == 2  # of 6 channels
    for name, weight in ("stem_bn", "gamma"), ("depth_bn", "beta"), ("top_bn", "gamma"):
        old, now = (ops.convert_to_numpy(getattr(m.get_layer(name), weight)) for m in (donor, new))
        assert np.array_equal(old, now) and old.any()
    assert new.get_layer("depth_bn").gamma is None and new.get_layer("top_bn").beta is None
    assert new.get_layer("stem_bn").epsilon == donor.get_layer("stem_bn").epsilon
    lives(new, tmp_path)


@pytest.mark.parametrize("shape", [(16,), (1, 16)])
def test_norm_swap_makes_no_group_of_one_number(shape):
    x = keras.Input(shape, name="x")
    model = trained(keras.Model(x, layers.BatchNormalization(name="bn")(x)))
    new = recipes.norm_swap(model, groups=16)
    assert new.get_layer("bn").groups == 8
    values = ops.convert_to_numpy(new(random_inputs(new, 3)))
    assert values.std(0).max() > 0.1
    wide = keras.Input((7, 16), name="x")
    new = recipes.norm_swap(keras.Model(wide, layers.BatchNormalization(name="bn")(wide)), 16)
    assert new.get_layer("bn").groups == 16
    one = keras.Input((1,), name="x")
    with pytest.raises(kg.EditError, match="'bn' normalizes one channel"):
        recipes.norm_swap(keras.Model(one, layers.BatchNormalization(name="bn")(one)))


def test_norm_swap_without_weights_and_along_another_axis():
    x = keras.Input((6, 5, 4), name="x")
    bare = layers.BatchNormalization(axis=1, center=False, scale=False, trainable=False, name="n")
    norm = recipes.norm_swap(keras.Model(x, bare(bare(x))), groups=4).get_layer("n")
    assert (norm.axis, norm.groups, norm.trainable, norm.weights) == (1, 2, False, [])


def test_fold_batchnorm(donor, tmp_path):
    donor.get_layer("depth").trainable = False
    result = recipes.fold_batchnorm(donor)
    assert dict(result.folded) == {
        "stem_bn": "stem", "depth_bn": "depth", "block#0/bn": "block#0/conv", "up_bn": "up",
        "top_bn": "top",
    }  # fmt: skip
    assert result.kept == (("loose_bn", "'shared' is called 2 times"),)
    new = result.model
    assert kg.select(new, layers.BatchNormalization).labels == ["loose_bn"]
    assert_same_outputs(donor, new, exact=False)
    assert new.get_layer("depth").trainable is False and new.get_layer("stem").trainable is True
    donor.get_layer("depth").trainable = True
    own = {id(w) for w in donor.weights}
    for name in ("stem", "depth", "up", "top"):
        assert new.get_layer(name).bias is not None
        assert not own & {id(w) for w in new.get_layer(name).weights}
    text = str(result)
    assert text.startswith("5 folded, 1 kept") and "folded into 'stem'" in text
    assert "<table>" in result._repr_html_()
    graph = recipes.fold_batchnorm(kg.read(donor)).model
    assert isinstance(graph, kg.Graph)
    lives(new, tmp_path)


@pytest.mark.parametrize(
    "kind", ["Dense", "Conv1D", "Conv3D", "DepthwiseConv1D", "SeparableConv1D", "SeparableConv2D",
             "Conv1DTranspose", "Conv3DTranspose", "Conv2D groups"]
)  # fmt: skip
def test_fold_batchnorm_into_every_kind(kind):
    name, _, groups = kind.partition(" ")
    rank = int((re.findall(r"(\d)D", name) or "0")[0])
    x = keras.Input((*[5] * rank, 4), name="x")
    more = {} if not rank else {"kernel_size": 2}
    if "Depthwise" in name or "Separable" in name:
        more["depth_multiplier"] = 3
    if "Depthwise" not in name:
        more["units" if name == "Dense" else "filters"] = 6
    if groups:
        more["groups"] = 2
    layer = getattr(layers, name)(**more, bias_initializer="random_normal", name="layer")
    model = trained(keras.Model(x, layers.BatchNormalization(name="bn")(layer(x))))
    result = recipes.fold_batchnorm(model)
    assert result.folded == (("bn", "layer"),)
    assert_same_outputs(model, result.model, exact=False, batches=(2,))


def fold_case(case):
    x = keras.Input((6, 6, 3), name="x")
    outputs = []
    axis, training, dtype = -1, None, None
    conv = layers.Conv2D(6, 3, activation="tanh" if case == "activation" else None, name="conv")
    y = conv(x)
    if case == "read":
        outputs.append(layers.Flatten(name="flat")(y))
    if case == "output":
        outputs.append(y)
    if case == "axis":
        axis = 1
    if case == "training":
        training = True
    if case == "dtype":
        dtype = "mixed_bfloat16"
    if case == "quantized":
        conv = layers.Dense(4, name="conv")
        y = conv(x)
        conv.enable_lora(2)
    if case == "input":
        y = x
    if case == "pad":
        y = layers.ZeroPadding2D(name="pad")(y)
    norm = layers.BatchNormalization(axis=axis, dtype=dtype, name="bn")
    outputs.append(norm(y, training=training))
    if case == "twice":
        outputs.append(norm(layers.Conv2D(6, 3, name="other")(x)))
    return keras.Model(x, outputs)


@pytest.mark.parametrize(
    "case, why",
    [
        ("activation", "'conv' has an activation, tanh"),
        ("read", "'conv' is also read by 'flat'"),
        ("output", "'conv' is an output too"),
        ("axis", "it normalizes axis 1, not the channels of 'conv'"),
        ("training", "it is called with training=True"),
        ("dtype", "'conv' gives float32, it gives bfloat16"),
        ("quantized", "'conv' is quantized or has LoRA weights"),
        ("input", "it reads an input"),
        ("pad", "it reads 'pad' (ZeroPadding2D)"),
        ("twice", "it is called 2 times"),
    ],
)
def test_what_cannot_be_folded_stays_and_says_why(case, why):
    model = fold_case(case)
    result = recipes.fold_batchnorm(model)
    assert result.folded == () and [reason for _, reason in result.kept] == [why]
    assert [id(w) for w in result.model.weights] == [id(w) for w in model.weights]


@pytest.mark.parametrize("twice", [False, True])
def test_what_trains_with_the_model_around_it_is_not_folded(twice):
    i = keras.Input((4,), name="i")
    y = layers.BatchNormalization(name="bn")(layers.Dense(4, name="d")(i), training=False)
    inner = keras.Model(i, y, name="inner")
    x = keras.Input((4,), name="x")
    y = inner(x) if twice else x
    model = trained(keras.Model(x, inner(y, training=True)))
    result = recipes.fold_batchnorm(model)
    assert result.folded == ()
    assert [why for _, why in result.kept] == ["it is called with training=True"]


def test_a_flag_of_a_model_reaches_the_layers_inside():
    i = keras.Input((4,), name="i")
    y = layers.BatchNormalization(name="bn")(layers.Dense(4, name="d")(i), training=True)
    x = keras.Input((4,), name="x")
    model = trained(keras.Model(x, keras.Model(i, y, name="inner")(x, training=False)))
    result = recipes.fold_batchnorm(model)
    assert result.folded == (("inner/bn", "inner/d"),)
    assert_same_outputs(model, result.model, exact=False)


class Own(layers.Layer):
    """A layer with a normalization inside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.BatchNormalization(name="norm")

    def call(self, x):
        return self.norm(x)


def test_normalizations_inside_other_layers_are_not_passed_over():
    x = keras.Input((5, 4), name="x")
    y = layers.BatchNormalization(name="bn")(layers.Dense(4, name="d")(x))
    steps = layers.TimeDistributed(layers.BatchNormalization(name="inner"), name="steps")
    model = keras.Model(x, Own(name="own")(steps(y)))
    result = recipes.fold_batchnorm(model)
    assert dict(result.folded) == {"bn": "d"}
    assert not result.kept  # what is inside other layers is no node
    with pytest.raises(kg.EditError, match=r"'inner' is inside 'steps' \(TimeDistributed\)"):
        recipes.norm_swap(model)
    with pytest.raises(kg.EditError, match=r"'norm' is inside 'own' \(Own\)"):
        recipes.norm_swap(keras.Model(x, Own(name="own")(y)))
    with pytest.raises(kg.NothingSelectedError, match="no BatchNormalization in"):
        recipes.fold_batchnorm(kg.submodel(model, outputs="d"))


def test_normalizations_of_a_frozen_model():
    x = keras.Input((5, 4), name="x")
    model = keras.Model(x, layers.BatchNormalization(name="bn")(layers.Dense(4, name="d")(x)))
    frozen = kg.freeze(model)
    with pytest.raises(kg.NothingSelectedError, match="outside of other layers and kg.freeze"):
        recipes.fold_batchnorm(frozen)
    with pytest.raises(kg.EditError, match="unfreeze what is frozen"):
        recipes.norm_swap(frozen)
    thawed = kg.replace(frozen, kg.layers.Frozen, lambda node: node.operation.layer)
    assert type(recipes.norm_swap(thawed, 2).get_layer("bn")) is layers.GroupNormalization


def masked(*behind):
    """An embedding with a mask, and what reads it."""
    x = y = keras.Input((5,), dtype="int32", name="ids")
    for layer in (layers.Embedding(9, 4, mask_zero=True, name="emb"), *behind):
        y = layer(y)
    return trained(keras.Model(x, y))


def test_fold_batchnorm_where_a_mask_passes():
    norm = layers.BatchNormalization(name="bn")
    model = masked(layers.Dense(4, name="d"), norm, layers.LSTM(3, name="lstm"))
    result = recipes.fold_batchnorm(model)
    assert result.folded == (("bn", "d"),) and not result.kept
    ids = np.array([[1, 2, 3, 0, 0], [3, 0, 0, 0, 0]])
    a, b = (ops.convert_to_numpy(m(ids)) for m in (model, result.model))
    assert np.allclose(a, b, atol=1e-6)
    assert len(kg.select(result.model, "lstm").nodes[0].inputs) == 2  # the value and its mask


def test_add_adapters(donor, tmp_path):
    new = recipes.add_adapters(donor, size=3)
    # Two calls of one block: it gets one adapter, as it has one addition.
    ups = kg.select(new, "**/adapter_*_up").nodes
    assert len(ups) == 3 and len({id(n.operation) for n in ups}) == 2
    assert_same_outputs(donor, new)
    # The memory of the donor's weights, in variables that never train.
    mine = {id(w) for w in donor.weights}
    assert mine <= {id(getattr(w, "source", w)) for w in new.weights}
    assert all(w.trainable for w in donor.trainable_weights) and donor.trainable_weights
    assert new.count_params() == donor.count_params() + 2 * (8 * 3 + 3 + 3 * 8 + 8)
    new.save(tmp_path / "start.keras")
    loaded = keras.models.load_model(tmp_path / "start.keras")
    for model in (new, loaded):
        names = sorted(w.path.rpartition("adapter_")[2] for w in model.trainable_weights)
        assert len(names) == 8 and {name.rpartition("_")[2] for name in names} == {
            "down/kernel", "down/bias", "up/kernel", "up/bias",
        }  # fmt: skip
    lives(new, tmp_path)


def test_an_addition_of_other_shapes_is_no_residual_one():
    x = keras.Input((3, 4), name="x")
    y = layers.Add(name="scaled")([x, layers.Dense(1, name="gate")(x)])
    new = recipes.add_adapters(keras.Model(x, layers.Add(name="total")([x, y]) + 1.0), size=2)
    names = [layer.name for layer in new.layers if layer.name.endswith("_sum")]
    assert names == ["adapter_total_sum"]


def test_adapters_and_heads_of_a_frozen_model_train():
    model = network()
    model.trainable = False
    new = recipes.add_adapters(model, size=2, after="pool", activation="relu")
    assert [w.path for w in new.trainable_weights] == [
        "adapter_pool_down/kernel", "adapter_pool_down/bias",
        "adapter_pool_up/kernel", "adapter_pool_up/bias",
    ]  # fmt: skip
    assert new.get_layer("adapter_pool_down").activation is keras.activations.relu
    head = recipes.new_head(model, 3)
    assert [w.path for w in head.trainable_weights] == ["head/kernel", "head/bias"]


def test_add_dropout(donor, tmp_path):
    after = ["stem_bn", "image", "shared", "block/act"]
    new = recipes.add_dropout(donor, 0.5, after=after, seed=3)
    names = [n.label for n in kg.select(new, "**/dropout_*").nodes]
    assert sorted(names) == [
        "dropout_act", "dropout_act", "dropout_image", "dropout_shared_0", "dropout_shared_1",
        "dropout_stem_bn",
    ]  # fmt: skip
    seeds = {n.operation.seed for n in kg.select(new, "**/dropout_*").nodes}
    assert seeds == {3, 4, 5, 6, 7}
    assert_same_outputs(donor, new)
    assert [id(w) for w in new.weights] == [id(w) for w in donor.weights]
    x, drop = ops.ones((2, 15, 15, 3)), new.get_layer("dropout_image")
    assert set(np.unique(ops.convert_to_numpy(drop(x, training=True)))) == {0, 2}
    noise = recipes.add_dropout(donor, 0.1, after="mid", kind=layers.SpatialDropout2D)
    assert type(noise.get_layer("dropout_mid")) is layers.SpatialDropout2D
    lives(new, tmp_path)


def test_new_head(donor, tmp_path):
    new = recipes.new_head(donor, 7, activation="softmax")
    assert [layer.name for layer in new.layers[-2:]] == ["drop", "head"]
    assert new.output_shape == (None, 7)
    assert {id(w) for w in new.weights[:-2]} == {id(w) for w in donor.weights[:-2]}
    features = kg.extract(donor, "drop")(x := random_inputs(donor))
    assert np.array_equal(*map(ops.convert_to_numpy, (new.get_layer("head")(features), new(x))))
    early = recipes.new_head(donor, 4, at="mid")
    assert [layer.name for layer in early.layers[-3:]] == ["mid", "head_pool", "head"]
    own = recipes.new_head(donor, layers.Dense(2, name="mine"), at="pool")
    assert own.layers[-1].name == "mine" and own.output_shape == (None, 2)
    lives(new, tmp_path)


def test_new_head_of_sequential_and_nested():
    stack = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, name="h"),
            layers.Dense(9, name="out"),
            layers.Softmax(),
        ]
    )
    new = recipes.new_head(stack, 2)
    assert [layer.name for layer in new.layers[1:]] == ["h", "head"]
    x = keras.Input((4,), name="x")
    nested = keras.Model(x, layers.Activation("softmax")(stack(layers.Dense(4, name="first")(x))))
    new = recipes.new_head(nested, 2)
    assert [layer.name for layer in new.layers] == ["x", "first", "h", "head"]
    assert new.get_layer("h") is stack.get_layer("h")


def test_new_head_where_a_mask_passes():
    new = recipes.new_head(masked(layers.Dense(6, name="d"), layers.Softmax(name="soft")), 3)
    assert [layer.name for layer in new.layers] == ["ids", "emb", "head"]
    assert new.output_shape == (None, 5, 3)


@pytest.mark.parametrize("nested", [False, True])
def test_new_head_drops_no_pooling_behind_the_classifier(nested):
    x = keras.Input((5, 4), name="x")
    y = layers.Reshape((5, 10), name="shape")(
        layers.Dense(10, name="d")(layers.Dense(6, name="h")(x))
    )
    y = layers.GlobalAveragePooling1D(name="pool")(layers.Softmax(name="soft")(y))
    model, prefix = keras.Model(x, y, name="inner"), ""
    if nested:
        x = keras.Input((5, 4), name="x")
        model, prefix = keras.Model(x, layers.Softmax(name="end")(model(x))), "inner/"
    with pytest.raises(kg.EditError) as caught:
        recipes.new_head(model, 3)
    words = str(caught.value)
    assert (
        "'pool' (GlobalAveragePooling1D), behind the Dense 'd', turns (?, 5, 10) float32 into "
        in words
    )
    # Both ways out are ways.
    assert f'kg.replace(model, "{prefix}d", ...)' in words and f'at="{prefix}h")' in words
    assert recipes.new_head(model, 3, at=f"{prefix}h").output_shape == (None, 3)
    new = kg.replace(model, f"{prefix}d", layers.Dense(10, name="new"))
    assert len(kg.select(new, "**/pool")) == 1
    # What only stands in another shape is dropped, as before.
    flat = kg.submodel(kg.inline(model), outputs="shape")
    assert [layer.name for layer in recipes.new_head(flat, 3).layers] == ["x", "h", "head"]


@pytest.mark.parametrize("frozen", [False, True])
def test_new_head_averages_where_the_features_have_no_channels(donor, frozen):
    given = kg.freeze(donor) if frozen else donor
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        new = recipes.new_head(given, 3, at="mid")
    finally:
        keras.config.set_image_data_format(before)
    x = random_inputs(donor)
    want = ops.mean(kg.extract(donor, "mid")(x), (1, 2))
    got = kg.extract(new, "head_pool")(x)
    np.testing.assert_allclose(*map(ops.convert_to_numpy, (got, want)), rtol=1e-5)
    words = keras.Model(x := keras.Input((5, 4)), layers.LayerNormalization(name="last")(x))
    assert recipes.new_head(words, 3, at="last").get_layer("head_pool").output.shape == (None, 4)
    deep = keras.Model(x := keras.Input((1, 2, 3, 4, 5)), layers.Identity(name="last")(x))
    with pytest.raises(kg.EditError, match="averages over three axes at most"):
        recipes.new_head(deep, 3, at="last")


def test_new_head_of_a_frozen_classifier_and_the_place_it_names(donor):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="h"), layers.Dense(9)])
    assert [n.name for n in kg.read(recipes.new_head(kg.freeze(model), 2)).nodes] == ["h", "head"]
    x = keras.Input((6, 6, 4), name="x")
    gate = layers.Dense(4)(layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(x))
    scaled = keras.Model(x, layers.Multiply(name="scaled")([x, gate]), name="trunk")
    with pytest.raises(kg.EditError, match=r"ends in 'scaled' \(Multiply\).*at=\"scaled\"\)"):
        recipes.new_head(scaled, 3)
    pooled = keras.Model(x, layers.Activation("relu")(layers.GlobalMaxPooling2D(name="all")(x)))
    with pytest.raises(kg.EditError, match=r"at=\"all\"\)"):
        recipes.new_head(pooled, 3)


@pytest.mark.parametrize("named", [False, True])
def test_unet(donor, named, tmp_path):
    encoder = donor if named else kg.submodel(donor, outputs="loose_bn")
    taps = ["stem_bn", "mid"] if named else None
    new = recipes.unet(encoder, classes=2, taps=taps, filters=(6, 4), activation="sigmoid")
    assert new.output_shape == (None, 15, 15, 2) and new.name == f"{encoder.name}_unet"
    joined = new.get_layer("decoder0_concat")
    assert [tuple(t.shape[1:]) for t in joined.input] == [(8, 8, 16 if named else 8), (8, 8, 8)]
    # It starts where the encoder ends, and its second step is back at the input.
    assert new.get_layer("decoder1_resize").output.shape[1:] == (15, 15, 6)
    assert new.get_layer("stem") is donor.get_layer("stem")
    with pytest.raises(ValueError, match="logits"):
        new.get_layer("logits")
    if not named:
        lives(new, tmp_path)


def test_unet_passes_over_padding_and_stops_before_global_pooling():
    x = y = keras.Input((16, 16, 3), name="x")
    for i in range(2):
        y = layers.ZeroPadding2D(1, name=f"pad{i}")(y)
        y = layers.Conv2D(4, 3, strides=2, name=f"conv{i}")(y)
    y = layers.GlobalAveragePooling2D(keepdims=True, name="pool")(y)
    model = keras.Model(x, layers.Flatten()(layers.Conv2D(5, 1, name="logits")(y)))
    new = recipes.unet(model, filters=(4,))
    names = [layer.name for layer in new.layers]
    assert names[1:6] == ["pad0", "conv0", "pad1", "conv1", "decoder0_resize"]
    assert [t.shape[1] for t in new.get_layer("decoder0_concat").input] == [8, 8]


@pytest.mark.parametrize(
    "attempt, error, words",
    [
        (
            lambda m: recipes.swap_activation(m, "swish"), kg.NothingSelectedError,
            "nothing in 'network' is 'silu'. It has 'relu' (5), 'relu(max_value=6.0)' (1), "
            "'softmax' (1).",
        ),
        (
            lambda m: recipes.swap_activation(m, new="rleu"), kg.EditError,
            "swap_activation: new='rleu' is not an activation. Give the name of one of",
        ),
        (
            lambda m: recipes.add_adapters(m, activation="rleu"), kg.EditError,
            "add_adapters: activation='rleu' is not an activation.",
        ),
        (
            lambda m: recipes.new_head(m, 3, activation="rleu"), kg.EditError,
            "new_head: activation='rleu' is not an activation.",
        ),
        (lambda m: recipes.new_head(m, True), kg.EditError, "head must be a whole number above 0, got True"),
        (lambda m: recipes.new_head(m, 0), kg.EditError, "head must be a whole number above 0, got 0"),
        (
            lambda m: recipes.swap_activation(
                kg.insert(m, NoConfig(1, np.ones(2)), after="pool")
            ), kg.EditError,
            "swap_activation: NoConfig 'closed' cannot be made again from its configuration: ",
        ),
        (lambda m: recipes.norm_swap(m, 0), kg.EditError, "groups must be a whole number above 0, got 0"),
        (
            lambda m: recipes.norm_swap(kg.submodel(m, "pool", "top")), kg.NothingSelectedError,
            "BatchNormalization",
        ),
        (lambda m: recipes.add_adapters(m, 0), kg.EditError, "size must be a whole number above 0, got 0"),
        (
            lambda m: recipes.add_adapters(kg.submodel(m, "pool")), kg.NothingSelectedError,
            'has no residual addition that can be reached. Say where the adapters go, such as after="classes"',
        ),
        (lambda m: recipes.add_dropout(m, 2, "pool"), kg.EditError, "must be from 0 to 1, got 2"),
        (lambda m: recipes.add_dropout(m, "0.5", "pool"), kg.EditError, "must be from 0 to 1, got '0.5'"),
        (lambda m: recipes.add_dropout(m, 0.1, "poll"), kg.NothingSelectedError, "Nearest: 'pool'"),
        (
            lambda m: recipes.new_head(kg.submodel(m, outputs="up_bn"), 3), kg.EditError,
            "ends in 'up_bn' (BatchNormalization), not in a Dense, so it is not clear what to drop. "
            'Name the features: kg.recipes.new_head(model, ..., at="up_bn").',
        ),
        (
            lambda m: recipes.new_head(kg.submodel(m, "logits"), 3), kg.EditError,
            "has no layer with weights",
        ),
        (
            lambda m: recipes.new_head(kg.extract(m, ["pool", "top"]), 3), kg.EditError,
            "has 2 outputs, 'pool', 'top'. Say which features get the head",
        ),
        (
            lambda m: recipes.new_head(m, 3, at="block/*"), kg.AmbiguousError,
            "at='block/*' must name one value, but it names 'block#0/conv'",
        ),
        (
            lambda m: recipes.unet(kg.submodel(m, "pool")), kg.EditError,
            "must have one image of a fixed size as its input, but it has (?, 8) float32",
        ),
        (
            lambda m: recipes.unet(m.get_layer("block")), kg.EditError,
            "must have one image of a fixed size as its input, but it has (?, ?, ?, 8) float32",
        ),
        (
            lambda m: recipes.unet(kg.submodel(m, "depth_bn", "loose_bn")), kg.EditError,
            "is halved in size later. Name the maps, finest first",
        ),
        (
            lambda m: recipes.unet(m, taps=["mid", "stem_bn"]), kg.EditError,
            "taps go from fine to coarse; 'stem_bn' is above 'mid'",
        ),
        (
            lambda m: recipes.unet(m, taps=["pool"]), kg.EditError,
            "the tap 'pool' must be one map (batch, height, width, channels)",
        ),
        (lambda m: recipes.unet(m, filters=()), kg.EditError, "filters is empty"),
        (
            lambda m: recipes.unet(m, filters=(8, 0)), kg.EditError,
            "unet: filters must be a whole number above 0, got 0",
        ),
        (
            lambda m: recipes.unet(m, filters="8"), kg.EditError,
            "unet: filters must be a whole number above 0, got '8'",
        ),
        (
            lambda m: recipes.unet(m, classes=0), kg.EditError,
            "unet: classes must be a whole number above 0, got 0",
        ),
        (
            lambda m: recipes.unet(m, activation="rleu"), kg.EditError,
            "unet: activation='rleu' is not an activation.",
        ),
        (lambda m: recipes.unet(m, taps=[]), kg.EditError, "unet: taps is empty"),
    ],
)  # fmt: skip
def test_what_is_refused_says_the_way_out(refusing, attempt, error, words):
    with pytest.raises(error) as caught:
        attempt(refusing)
    assert words in str(caught.value)


def test_one_thing_is_taken_for_a_list_of_it_and_a_number_of_numpy_for_a_number(refusing):
    new = recipes.unet(refusing, np.int64(2), taps="stem_bn", filters=np.int32(4))
    assert new.output_shape == (None, 15, 15, 2)
    assert new.get_layer("decoder0_conv1").filters == 4
    assert recipes.new_head(refusing, np.int64(5)).output_shape == (None, 5)
    assert recipes.norm_swap(refusing, np.int64(4)).get_layer("stem_bn").groups == 4
    adapted = recipes.add_adapters(refusing, np.int64(3), after="pool")
    assert adapted.get_layer("adapter_pool_down").units == 3
    assert (
        recipes.add_dropout(refusing, np.float32(0.5), "pool").get_layer("dropout_pool").rate == 0.5
    )


SWAPS = {"MobileNetV3Small": "hard_swish", "EfficientNetB0": "swish", "ResNet50": "relu"}
FOLDS = {"MobileNetV2": (52, 0), "ResNet50": (53, 0), "DenseNet121": (59, 62)}
PYRAMIDS = {
    "MobileNetV2": [16, 8, 4, 2, 1],
    "ResNet50": [16, 8, 4, 2, 1],
    "EfficientNetB0": [16, 8, 4, 2, 1],
    "DenseNet121": [16, 8, 4, 2, 1],
    "Xception": [33, 17, 9, 5, 3],
    "InceptionV3": [35, 15, 7, 3, 1],
}


def real(names):
    """All on PyTorch, which compiles nothing; the first, and what needs no data, on the others."""
    return pytest.mark.parametrize("name", list(names)[: None if architectures.ALL else 1])


@real(SWAPS)
def test_swap_activation_on_real_models(name):
    model = architectures.application(name)
    old = SWAPS[name]
    new = recipes.swap_activation(model, old, "gelu")
    wanted = keras.activations.get(old).__name__
    count = sum(wanted in n.kind.lower() or n.operation.get_config().get("activation") == wanted
                for n in kg.read(model).nodes)  # fmt: skip
    assert activations(new).count("gelu") == count > 15
    assert all(map(np.array_equal, numbers(model), numbers(new)))
    if name == "MobileNetV3Small":  # its gates are of ReLUs with a ceiling
        assert len(kg.select(new, layers.ReLU)) == len(kg.select(model, layers.ReLU)) == 23
    if architectures.ALL:
        assert_same_outputs(model, recipes.swap_activation(new, "gelu", old), batches=(2,))


@real(FOLDS)
def test_fold_batchnorm_on_real_models(name):
    model = trained(architectures.application(name))
    result = recipes.fold_batchnorm(model)
    assert (len(result.folded), len(result.kept)) == FOLDS[name]
    assert len(kg.read(result.model)) == len(kg.read(model)) - FOLDS[name][0]
    if architectures.ALL:
        x = random_inputs(model)
        # Before softmax, which could hide what differs.
        cut = [kg.extract(m, kg.read(m).nodes[-2].label) for m in (model, result.model)]
        a, b = (np.asarray(ops.convert_to_numpy(m(x)), "float64") for m in cut)
        assert np.ptp(a) > 0 and np.abs(a - b).max() < 1e-4 * np.abs(a).max()


@real(PYRAMIDS)
def test_unet_on_real_models(name):
    model = architectures.application(name)
    with architectures.cheap_weights():
        new = recipes.unet(model, classes=2, filters=(8,))
    assert new.output_shape == (None, *model.input_shape[1:3], 2)
    sizes = [t.shape[1] for n in kg.select(new, layers.Concatenate).nodes
             if n.name.startswith("decoder") for t in n.operation.input]  # fmt: skip
    assert sorted(set(sizes), reverse=True) == PYRAMIDS[name][:-1]
    assert new.get_layer("decoder0_resize").input.shape[1] == PYRAMIDS[name][-1]
    if architectures.ALL:
        assert new(random_inputs(model, 1)).shape[1:3] == model.input_shape[1:3]


def test_backbones_of_keras_hub():
    with architectures.cheap_weights():
        backbone = trained(architectures.backbones()["ResNet"]())
        assert recipes.unet(backbone, filters=(4,)).output_shape == (None, 16, 16, 1)
        result = recipes.fold_batchnorm(backbone)
        assert len(result.folded) == 6 and not result.kept
        bert = architectures.backbones()["Bert"]()
        new = recipes.swap_activation(bert, "gelu_approximate", "relu")
    assert len(kg.diff(bert, new).kept) == 2
    assert all(map(np.array_equal, numbers(bert), numbers(new)))
    if architectures.ALL:
        assert_same_outputs(backbone, result.model, exact=False, batches=(1,))


def test_dtype_policies_stay():
    half = {"dtype": "mixed_bfloat16"}
    x = keras.Input((9, 9, 4), name="x")
    y = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv", **half)(x)
    y = layers.BatchNormalization(name="bn", **half)(layers.Conv2D(4, 1, name="c", **half)(y))
    y = layers.ReLU(name="act", **half)(layers.Add(name="add", **half)([y, ops.relu(y)]))
    model = trained(keras.Model(x, y))
    for new in (
        recipes.swap_activation(model),
        recipes.norm_swap(model, 2),
        recipes.fold_batchnorm(model).model,
        recipes.add_adapters(model, 2),
        recipes.add_dropout(model, 0.5, after=["act", "relu*"]),
    ):
        dtypes = {v.spec.dtype for n in kg.read(new).nodes for v in n.outputs}
        assert dtypes == {"bfloat16"}, new.layers
        assert {w.dtype for w in new.weights} == {"float32"}
    graph = kg.read(model).replace(dtype_policy=keras.DTypePolicy("mixed_bfloat16"))
    decoder = kg.build(recipes.unet(graph, taps=["conv", "add"], filters=(4,)))
    assert decoder.get_layer("decoder0_conv1").output.dtype == "bfloat16"
    assert decoder.get_layer("mask").output.dtype == "float32"
    # One map of the size of the input has nothing to go up to.
    assert [n.kind for n in kg.read(recipes.unet(model, taps=["add"])).nodes][-1] == "Conv2D"
    assert_same_outputs(model, recipes.add_adapters(model, 2))


@pytest.mark.parametrize(
    "recipe, says",
    [
        (lambda m, a: recipes.swap_activation(m, "relu", a), "swap_activation: new="),
        (
            lambda m, a: recipes.add_adapters(m, 2, after="h", activation=a),
            "add_adapters: activation=",
        ),
        (lambda m, a: recipes.new_head(m, 2, activation=a), "new_head: activation="),
        (lambda m, a: recipes.unet(m, activation=a), "unet: activation="),
    ],
)
def test_an_activation_is_no_class_and_not_one_layer_for_all_places(recipe, says):
    image = keras.Input((8, 8, 3))
    y = layers.Conv2D(4, 3, strides=2, activation="relu", name="h")(image)
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(y)))
    with pytest.raises(kg.EditError, match=f"{says}.*LeakyReLU.* is a class; give a function"):
        recipe(model, layers.LeakyReLU)
    if "unet" not in says and "new_head" not in says:
        with pytest.raises(kg.EditError, match=f"{says}.*PReLU.* is a layer with weights"):
            recipe(model, layers.PReLU())


def test_unet_takes_channels_last_alone():
    def encoder(order):
        shape = (3, 32, 32) if order == "channels_first" else (32, 32, 3)
        x = y = keras.Input(shape)
        for i in range(3):
            y = layers.Conv2D(
                8, 3, strides=2, padding="same", data_format=order, name=f"c{i}"
            )(y)  # fmt: skip
        return keras.Model(x, y)

    with pytest.raises(kg.EditError, match="unet: 'c0' has its channels first"):
        recipes.unet(encoder("channels_first"), 2)
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        made = recipes.unet(encoder("channels_last"), 2, filters=4)
    finally:
        keras.config.set_image_data_format(before)
    assert made.output_shape == (None, 32, 32, 2)
    assert made.predict_on_batch(np.ones((1, 32, 32, 3), "float32")).shape == (1, 32, 32, 2)
