"""prune and group: whole networks, what is refused, and what stays of a model."""

import keras
import numpy as np
import pytest
from blocks import transformer
from donor import equal, unchanged
from keras import layers as L
from models import hidden_mask, masked, residual, sequential, shared, siamese
from zeroed import channels_of, cleared, same, scrambled, without_zeros

import keras_graft as kg
from keras_graft.testing import random_inputs


def vit():
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(12, 4, 4, name="patch")(x)
    x = L.Reshape((4, 12), name="rows")(x)
    x = x + kg.layers.Weight((4, 12), name="positions")(x)
    for i in range(2):
        y = L.LayerNormalization(name=f"norm{i}")(x)
        y = L.MultiHeadAttention(3, 4, name=f"attention{i}")(y, y)
        x = L.Add(name=f"add{i}")([x, y])
        y = L.Dense(24, activation="gelu", name=f"up{i}")(x)
        x = L.Add(name=f"sum{i}")([x, L.Dense(12, name=f"down{i}")(y)])
    x = L.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(inputs, L.Dense(4, name="head")(x), name="vit")


def gpt():
    """A language model of ops: projections in one kernel, heads by reshapes, the head tied."""
    ops = keras.ops
    ids = keras.Input((6,), dtype="int32", name="ids")
    x = L.Embedding(20, 12, name="words")(ids)
    for i in range(2):
        parts = ops.split(L.Dense(36, name=f"qkv{i}")(x), 3, axis=-1)
        q, k, v = (ops.transpose(ops.reshape(p, (-1, 6, 3, 4)), (0, 2, 1, 3)) for p in parts)
        scores = ops.softmax(ops.matmul(q, ops.swapaxes(k, -1, -2)) / 2.0)
        y = ops.reshape(ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3)), (-1, 6, 12))
        x = x + L.Dense(12, name=f"out{i}")(y)
        y = L.Dense(24, activation="gelu", name=f"up{i}")(x)
        x = x + L.Dense(12, name=f"down{i}")(y)
    model = keras.Model(ids, L.Dense(20, use_bias=False, name="lm")(x), name="gpt")
    return kg.tie(model, "lm/kernel", "words/embeddings", transform="transpose")


def bilstm():
    ids = keras.Input((6,), dtype="int32", name="ids")
    x = L.Embedding(20, 6, mask_zero=True, name="words")(ids)
    x = L.Bidirectional(L.LSTM(5, return_sequences=True, name="rnn"), name="both")(x)
    y = L.Attention(name="attention")([L.Dense(10, name="query")(x), x])
    return keras.Model(ids, L.Dense(3, name="out")(L.GlobalMaxPooling1D(name="max")(y)), name="bi")


def unet():
    return kg.recipes.unet(trunk(), classes=2, filters=(6, 5, 4))


def trunk():
    x = inputs = keras.Input((16, 16, 3), name="image")
    for i, width in enumerate((4, 6, 8)):
        x = L.Conv2D(width, 3, 2, padding="same", name=f"down{i}")(x)
        x = L.BatchNormalization(name=f"bn{i}")(x)
        x = L.ReLU(name=f"relu{i}")(x)
    return keras.Model(inputs, x, name="trunk")


def shuffled():
    """Channels in groups, shuffled, cut and joined again."""
    ops = keras.ops
    x = inputs = keras.Input((6, 6, 3), name="image")
    x = L.Conv2D(12, 3, padding="same", name="first")(x)
    x = L.Conv2D(12, 3, padding="same", groups=3, name="grouped")(x)
    y = L.Conv2D(4, 1, name="side")(x)
    x = L.Concatenate(name="joined")([x[..., :6], y, x[..., 6:]])
    x = L.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    x = ops.relu(x) * L.Conv2D(32, 1, activation="sigmoid", name="gate")(
        L.GlobalAveragePooling2D(keepdims=True, name="squeeze")(x)
    )
    x = L.Flatten(name="flat")(L.Permute((3, 1, 2), name="turned")(x))
    return keras.Model(inputs, L.Dense(2, name="out")(x), name="shuffled")


NETWORKS = {
    "residual": (residual, ["stem", "conv0", "bn1"]),
    "siamese": (siamese, ["encoder#0/d0", "encoder#1/d1"]),
    "sequential": (sequential, ["s0"]),
    "masked": (masked, ["embed", "lstm"]),
    "hidden_mask": (hidden_mask, ["embed", "attention", "mix"]),
    "vit": (vit, ["attention0", "up1"]),
    "gpt": (gpt, ["words", "qkv0", "up1", "down0"]),
    "bilstm": (bilstm, ["words", "both", "query"]),
    "shuffled": (shuffled, ["first", "grouped", "side", "depthwise", "gate"]),
    "transformer": (transformer, ["layer_1/mlp/up", "layer_0/attention/value"]),
}
CASES = [(name, layer) for name, (_, layers) in NETWORKS.items() for layer in layers]


@pytest.mark.parametrize(("name", "layer"), CASES)
def test_channels_that_do_nothing_are_removed(name, layer):
    model = scrambled(NETWORKS[name][0]())
    assert not kg.group(model, layer).protected
    without_zeros(model, layer)


@pytest.mark.parametrize("name", NETWORKS)
def test_half_of_everything_runs_trains_saves_and_loads(name, tmp_path):
    model = scrambled(NETWORKS[name][0]())
    with unchanged(model, tmp_path):
        small = kg.prune(model, {"**": 0.5})
        x = random_inputs(model, 2)
        y = small(x)
        assert small.count_params() < model.count_params()
        small.compile(keras.optimizers.Adam(1e-4), "mse")
        before = [np.array(keras.ops.convert_to_numpy(w)) for w in small.trainable_weights]
        small.fit(x, keras.tree.map_structure(np.asarray, _numpy(y)), verbose=0, epochs=1)
        small.fit(x, keras.tree.map_structure(np.ones_like, _numpy(y)), verbose=0, epochs=1)
        now = small.trainable_weights
        assert any(
            (a != keras.ops.convert_to_numpy(b)).any() for a, b in zip(before, now, strict=True)
        )
        small.save(tmp_path / "small.keras")
        again = keras.saving.load_model(tmp_path / "small.keras")
        same(small, again, 1e-6)
        del small, again, now


def _numpy(structure):
    return keras.tree.map_structure(keras.ops.convert_to_numpy, structure)


def test_a_unet_through_its_skips():
    model = scrambled(unet())
    names = [n.path for n in kg.select(model, keras.layers.Conv2D).nodes]
    for name in (names[0], names[3], names[-2]):
        without_zeros(model, name)


@pytest.mark.once
def test_the_group_says_what_shrinks():
    assert str(kg.group(residual(), "stem")) == (
        "group of 'stem': 4 units\n"
        "weight               class               axis  shape         positions\n"
        "stem/kernel          Conv2D                 3  (3, 3, 3, 4)          4  gives\n"
        "stem/bias            Conv2D                 0  (4)                   4  gives\n"
        "bn0/gamma            BatchNormalization     0  (4)                   4  gives\n"
        "bn0/beta             BatchNormalization     0  (4)                   4  gives\n"
        "bn0/moving_mean      BatchNormalization     0  (4)                   4  gives\n"
        "bn0/moving_variance  BatchNormalization     0  (4)                   4  gives\n"
        "conv0/kernel         Conv2D                 2  (3, 3, 4, 4)          4  reads\n"
        "conv0/kernel         Conv2D                 3  (3, 3, 4, 4)          4  gives\n"
        "conv0/bias           Conv2D                 0  (4)                   4  gives\n"
        "bn1/gamma            BatchNormalization     0  (4)                   4  gives\n"
        "bn1/beta             BatchNormalization     0  (4)                   4  gives\n"
        "bn1/moving_mean      BatchNormalization     0  (4)                   4  gives\n"
        "bn1/moving_variance  BatchNormalization     0  (4)                   4  gives\n"
        "conv1/kernel         Conv2D                 2  (3, 3, 4, 4)          4  reads\n"
        "conv1/kernel         Conv2D                 3  (3, 3, 4, 4)          4  gives\n"
        "conv1/bias           Conv2D                 0  (4)                   4  gives\n"
        "out/kernel           Dense                  0  (4, 3)                4  reads"
    )


@pytest.mark.once
def test_what_has_no_rule_stops_a_group():
    x = keras.Input((4,), name="x")
    y = L.Lambda(lambda t: t * 2, output_shape=(6,), name="any")(L.Dense(6, name="d")(x))
    model = keras.Model(x, L.Dense(2, name="out")(y))
    text = str(kg.group(model, "d"))
    assert "the group stops (6 of 6 units): Lambda 'any': there is no rule" in text
    with pytest.raises(kg.EditError, match=r"'d' cannot be pruned: Lambda 'any': there is no rule"):
        kg.prune(model, {"d": 2})
    with pytest.raises(kg.EditError, match=r"'out' cannot be pruned: 'out' is an output of the"):
        kg.prune(model, {"out": 1})
    with pytest.raises(kg.EditError, match="nothing that is selected can be pruned"):
        kg.prune(model, {"**": 0.5})


@pytest.mark.once
def test_a_part_that_is_an_output_stays():
    x = keras.Input((4,), name="x")
    y = L.Dense(6, name="d")(x)
    model = keras.Model(x, [y[:, :2], L.Dense(2, name="end")(y)])
    group = kg.group(model, "d")
    assert group.free == (2, 3, 4, 5) and sorted(group.protected) == [0, 1]
    small = kg.prune(model, {"d": 4})
    assert small.get_layer("d").units == 2 and small.output_shape[0] == (None, 2)
    with pytest.raises(kg.EditError, match="'d': 5 units should go, and 'd' has 6, of which 4"):
        kg.prune(model, {"d": 5})


def test_grouped_channels_go_whole():
    model = shuffled()
    assert kg.group(model, "grouped").count == 3
    with pytest.raises(kg.EditError, match=r"channels \[0\] go together with \[1, 2, 3\]"):
        kg.prune(model, {"grouped": [0]})
    small = kg.prune(model, {"grouped": [0, 1, 2, 3]})
    layer = small.get_layer("grouped")
    assert (layer.groups, layer.filters) == (2, 8)


@pytest.mark.once
@pytest.mark.parametrize(
    ("channels", "words"),
    [
        ({"conv0": True}, r"'conv0': expected the channels to remove"),
        ({"conv0": 1.0}, "expected the channels"),
        ({"conv0": -1}, "expected the channels"),
        ({"conv0": "half"}, "expected the channels"),
        ({"conv0": []}, "expected the channels"),
        ({"conv0": [4]}, "'conv0' has 4 channels, 0 to 3, and no channel 4"),
        ({"conv0": [0, 1, 2, 3]}, "all 4 units on one axis of the group of 'conv0' would be gone"),
        ({"conv0": 4}, "4 units should go, and 'conv0' has 4"),
        ({"conv0": 0.5, "conv1": 0.25}, r"'conv0' \(0.5\) and 'conv1' \(0.25\) are in one group"),
        ({"conv0": [0], "conv1": [1]}, "name different channels"),
        ({"conv0": [0], "conv1": 0.5}, "one names channels, the other how many"),
        ({"pool": 0.5}, r"'pool' \(GlobalAveragePooling2D\) makes no channels of its own"),
        ({}, "a dict from selectors"),
        (0.5, "a dict from selectors"),
    ],
)
def test_what_is_refused(channels, words):
    with pytest.raises(kg.EditError, match=words):
        kg.prune(residual(), channels)


@pytest.mark.once
@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"by": "size"}, "by= must be 'magnitude', 'l2', 'bn_scale', 'random'"),
        ({"scope": "all"}, 'scope must be "layer" or "global"'),
        ({"round_to": 0}, "round_to= must be a positive integer"),
        ({"by": lambda group: [1]}, "must return 4 finite numbers"),
        ({"by": lambda group: 1 / 0}, "raised ZeroDivisionError"),
        ({"keep": "stem"}, "cannot be pruned: keep= names a layer of it"),
    ],
)
def test_options_that_are_refused(more, words):
    with pytest.raises(kg.EditError, match=words):
        kg.prune(residual(), {"conv0": 0.5}, **more)


def test_selectors_of_one_group_agree():
    model = residual()
    small = kg.prune(model, {"conv0": [0, 2], "conv1": [2, 0]})
    assert small.get_layer("stem").filters == 2
    assert kg.prune(model, {"conv*": 0.5}).get_layer("conv1").filters == 2


def test_the_least_important_go():
    model = scrambled(residual())
    kernels = [model.get_layer(n).kernel for n in ("stem", "conv0", "conv1")]
    for kernel in kernels:
        array = np.array(keras.ops.convert_to_numpy(kernel))
        array[..., 2] = 0
        kernel.assign(array)
    small = kg.prune(model, {"conv0": 1})
    equal(small.get_layer("stem").kernel, np.delete(_numpy(kernels[0]), 2, -1))
    gamma = np.array([3, 1, 2, 4], "float32")
    for name in ("bn0", "bn1"):
        model.get_layer(name).gamma.assign(gamma)
    small = kg.prune(model, {"stem": 1}, by="bn_scale")
    equal(small.get_layer("bn0").gamma, gamma[[0, 2, 3]])
    small = kg.prune(model, {"stem": 2}, by=lambda group: -np.arange(group.count))
    equal(small.get_layer("bn0").gamma, gamma[:2])
    one, two = (kg.prune(model, {"stem": 1}, by="random", seed=3) for _ in range(2))
    equal(one.get_layer("bn0").gamma, two.get_layer("bn0").gamma)


def test_globally_the_weakest_layer_loses_most():
    x = keras.Input((4,), name="x")
    y = L.Dense(8, name="weak")(x)
    y = L.Dense(8, name="even")(y)
    model = keras.Model(x, L.Dense(2, name="out")(y))
    model.get_layer("even").kernel.assign(np.ones((8, 8)))
    model.get_layer("weak").kernel.assign(np.ones((4, 8)) * ([0.01] * 6 + [9, 9]))
    small = kg.prune(model, {keras.layers.Dense: 0.5}, scope="global")
    assert small.get_layer("weak").units + small.get_layer("even").units == 8
    assert small.get_layer("weak").units == 2
    small = kg.prune(model, {keras.layers.Dense: 0.3}, round_to=4)
    assert [small.get_layer(n).units for n in ("weak", "even")] == [8, 8]
    small = kg.prune(model, {keras.layers.Dense: 0.6}, round_to=4, keep="even")
    assert [small.get_layer(n).units for n in ("weak", "even")] == [4, 8]


def test_ties_stay_at_both_ends(tmp_path):
    model = scrambled(gpt())
    group = kg.group(model, "words")
    assert "words/embeddings" in {m.weight for m in group.members}
    small = kg.prune(model, {"words": 0.5})
    assert small.get_layer("words").output_dim == 6
    assert len([w for w in small.weights if tuple(w.shape) in ((20, 6), (6, 20))]) == 1
    small.save(tmp_path / "tied.keras")
    same(small, keras.saving.load_model(tmp_path / "tied.keras"), 1e-6)


def test_what_stays_of_a_layer():
    model = sequential()
    model.get_layer("s0").trainable = False
    small = kg.prune(model, {"s0": 2})
    assert type(small) is type(kg.replace(model, "drop", L.Dropout(0.1)))
    assert not small.get_layer("s0").trainable and small.get_layer("s1").trainable
    assert small.get_layer("s0").name == "s0"
    x = keras.Input((4,), name="x")
    y = L.Dense(6, name="a", dtype="mixed_float16")(x)
    mixed = keras.Model(x, L.Dense(2, name="b")(L.Dense(3, name="c")(y)))
    small = kg.prune(mixed, {"a": 0.5})
    assert small.get_layer("a").dtype_policy.name == "mixed_float16"
    assert kg.prune(mixed, {"c": 1}).get_layer("a") is mixed.get_layer("a")


def test_a_frozen_layer_is_frozen_after():
    model = scrambled(residual())
    small = without_zeros(kg.freeze(model, "conv0"), "stem")
    assert type(small.get_layer("conv0")).__name__ == "Frozen"
    assert not small.get_layer("conv0").trainable_weights


@pytest.mark.once
def test_quantized_and_adapted_layers_are_refused():
    model = sequential()
    adapted = kg.lora(model, "s1/kernel", rank=2)
    with pytest.raises(kg.EditError, match=r"has LoRA adapters. Merge them first: kg.merge_ad"):
        kg.prune(adapted, {"s0": 2})
    assert kg.prune(kg.merge_adapters(adapted), {"s0": 2}).get_layer("s0").units == 3
    again = kg.clone(model)
    again.get_layer("s1").quantize("int8")
    with pytest.raises(kg.EditError, match="'s1' is quantized") as caught:
        kg.prune(again, {"s0": 2})
    assert "kg.quantize(kg.prune(model, ...), 's1', 'int8')" in str(caught.value)


def test_a_shared_layer_shrinks_in_all_its_calls():
    model = shared()
    with pytest.raises(kg.EditError, match="is an output of the model"):
        kg.prune(model, {"shared": 1})
    small = kg.prune(siamese(), {"encoder#0/d1": [0]})
    assert small.get_layer("encoder").get_layer("d1").units == 2
    assert small.get_layer("out").kernel.shape == (4, 2)


def test_heads_and_cleared_units_of_a_graph():
    graph = kg.read(scrambled(vit()))
    group = kg.group(graph, "attention1")
    cleared(group, [1])
    small = kg.prune(graph, {"attention1": channels_of(group, [1])})
    assert isinstance(small, kg.Graph)
    same(kg.build(graph), kg.build(small))
    assert kg.build(small).get_layer("attention1").num_heads == 2


def test_a_nested_model_that_runs_under_masks():
    steps = inner = keras.Input((6, 8), name="steps")
    inner = L.GRU(5, return_sequences=True, name="gru")(inner)
    inner = L.Add(name="again")([L.Dense(8, name="back")(inner), steps])
    nested = keras.Model(steps, inner, name="nested")
    ids = keras.Input((6,), dtype="int32", name="ids")
    x = L.Embedding(20, 8, mask_zero=True, name="words")(ids)
    x = nested(nested(x))
    model = scrambled(keras.Model(ids, L.Dense(3, name="out")(L.LSTM(4, name="rnn")(x)), name="m"))
    for layer in ("nested#0/gru", "words"):
        small = without_zeros(model, layer)
        assert [x.name for x in small.layers] == [x.name for x in model.layers]
        again = kg.build(kg.read(small), weights="copy")
        equal(again(random_inputs(small)), small(random_inputs(small)))


@keras.saving.register_keras_serializable("test_prune")
class TiedHead(L.Layer):
    """A language model that uses the table of its embedding as its head."""

    def build(self, shape):
        self.words = L.Embedding(7, 6, name="words")
        self.words.build(shape)
        self.mid = L.Dense(6, name="mid")
        self.mid.build((*shape, 6))
        self.built = True

    def call(self, ids):
        return keras.ops.matmul(
            self.mid(self.words(ids)), keras.ops.transpose(self.words.embeddings)
        )


@pytest.mark.parametrize("layer", ["lm/words", "lm/mid"])
def test_a_table_that_is_also_the_head_stays_one_variable(tmp_path, layer):
    ids = keras.Input((3,), dtype="int32", name="ids")
    model = scrambled(keras.Model(ids, TiedHead(name="lm")(ids), name="m"))
    small = without_zeros(model, layer)
    assert [tuple(w.shape) for w in small.trainable_weights] == [(7, 4), (4, 4), (4,)]
    small.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    x = random_inputs(small)
    equal(loaded(x), small(x))
    assert loaded.count_params() == small.count_params() == 48
