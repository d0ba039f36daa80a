"""kg.quantize and kg.list_quantized: layers by selector in fewer bits, the donor untouched."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from donor import arrays, equal, unchanged
from keras import layers, ops

import keras_graft as kg

MODES = ["int8", "int4", "float8"]
IDS = np.arange(15).reshape(3, 5) % 11


def gpt():
    x = inputs = keras.Input((5,), dtype="int32", name="ids")
    x = layers.Embedding(11, 8, name="embed")(x)
    for i in range(2):
        y = layers.LayerNormalization(name=f"block_{i}_norm")(x)
        y = layers.MultiHeadAttention(2, 4, name=f"block_{i}_attention")(y, y, use_causal_mask=True)
        x = layers.Add(name=f"block_{i}_add")([x, y])
        y = layers.Dense(16, activation="gelu", name=f"block_{i}_up")(x)
        x = layers.Add(name=f"block_{i}_out")([x, layers.Dense(8, name=f"block_{i}_down")(y)])
    return keras.Model(inputs, layers.Dense(11, name="head")(x), name="gpt")


@keras.saving.register_keras_serializable("quantize")
class Mlp(layers.Layer):
    """A layer that does not hand its dtype on to the layers inside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.up, self.down = layers.Dense(6, name="up"), layers.Dense(8, name="down")

    def build(self, shape):
        self.up.build(shape)
        self.down.build((*shape[:-1], 6))
        self.built = True

    def call(self, x):
        return self.down(self.up(x))


@keras.saving.register_keras_serializable("quantize")
class ReadsOutside(layers.Layer):
    """A layer whose code reads the matrix of a layer inside: integers would be garbage."""

    def build(self, shape):
        self.emb = layers.Embedding(7, 6, name="emb")
        self.emb.build(shape)
        self.mid = layers.Dense(6, name="mid")
        self.mid.build((None, None, 6))
        self.built = True

    def call(self, x):
        return self.mid(self.emb(x)) @ ops.transpose(self.emb.embeddings)


def modes(model):
    found = {layer.path: layer.quantization_mode for layer in model._flatten_layers()}
    return {path: mode for path, mode in found.items() if mode}


def like_keras(layer, mode):
    """Return a layer of the same values that Keras itself quantized."""
    twin = type(layer).from_config(layer.get_config())
    twin.build_from_config(layer.get_build_config())
    twin.set_weights(layer.get_weights())
    twin.quantize(mode)
    return twin


def reloads(model, path, x):
    model.save(path / "model.keras")
    equal(model(x), keras.models.load_model(path / "model.keras")(x))


@pytest.mark.parametrize("mode", MODES)
def test_selected_layers_are_as_keras_quantizes_them_and_others_are_shared(mode, tmp_path):
    model = gpt()
    with unchanged(model, tmp_path):
        small = kg.quantize(model, "**", mode)
        for layer in model.layers[1:]:
            new = small.get_layer(layer.name)
            if type(layer) is layers.Dense or (
                type(layer) is layers.Embedding and mode != "float8"
            ):
                equal(new.get_weights(), like_keras(layer, mode).get_weights())
            elif not isinstance(layer, layers.MultiHeadAttention | layers.Embedding):
                assert new is layer
        old = model.get_layer("block_0_attention").query_dense
        new = small.get_layer("block_0_attention").query_dense
        equal(new.get_weights(), like_keras(old, mode).get_weights())
        assert len(modes(small)) == (13 if mode == "float8" else 14)
        reloads(small, tmp_path, IDS)
        equal(small(IDS), kg.clone(small)(IDS))
        small = new = None


@pytest.mark.once
def test_a_path_selects_one_projection_and_its_file_loads_in_keras_alone(tmp_path):
    model = gpt()
    small = kg.quantize(model, "block_1_attention/query")
    assert modes(small) == {"block_1_attention/query": "int8"}
    assert small.get_layer("block_0_attention") is model.get_layer("block_0_attention")
    near = arrays(model(IDS))[0], arrays(small(IDS))[0]
    assert 0 < np.abs(near[0] - near[1]).max() < 0.05
    small.save(tmp_path / "m.keras")
    np.save(tmp_path / "y.npy", arrays(small(IDS))[0])
    code = (
        "import keras, numpy as np, sys\n"
        f"m = keras.models.load_model({str(tmp_path / 'm.keras')!r})\n"
        "y = keras.ops.convert_to_numpy(m(np.arange(15).reshape(3, 5) % 11))\n"
        f"assert np.array_equal(y, np.load({str(tmp_path / 'y.npy')!r}))\n"
        "assert 'keras_graft' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_loaded_model_is_quantized_further_and_saved_again_by_a_clone(tmp_path):
    kg.quantize(gpt(), "**/query").save(tmp_path / "first.keras")
    loaded = keras.models.load_model(tmp_path / "first.keras")
    reloads(kg.clone(loaded), tmp_path, IDS)
    more = kg.quantize(loaded, "**/key")
    assert len(modes(more)) == 4
    reloads(more, tmp_path, IDS)


def test_a_layer_that_hands_no_dtype_on_is_opened(tmp_path):
    x = keras.Input((5, 8), name="x")
    model = keras.Model(x, Mlp(name="mlp")(x))
    small = kg.quantize(model, "mlp/up")
    given = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    assert "mlp" not in [layer.name for layer in small.layers]
    assert list(modes(small).values()) == ["int8"]
    reloads(small, tmp_path, given)
    assert modes(model) == {}


def test_shared_and_nested_layers_are_quantized_once(tmp_path):
    inner = keras.Input((4,), name="inner")
    dense = layers.Dense(4, name="shared")
    encoder = keras.Model(inner, dense(dense(inner)), name="encoder")
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    model = keras.Model([a, b], layers.Add()([encoder(a), encoder(b)]))
    small = kg.quantize(model, "encoder/shared")
    x = [np.ones((2, 4), "float32"), np.zeros((2, 4), "float32")]
    assert len(small.weights) == 3 and len(modes(small)) == 1
    reloads(small, tmp_path, x)


def test_what_reads_a_weight_by_itself_is_refused_and_the_way_out_works(tmp_path):
    x = keras.Input((3,), dtype="int32", name="x")
    model = keras.Model(x, ReadsOutside(name="lm")(x))
    with pytest.raises(kg.EditError, match='kg.untie\\(model, "lm/embeddings/value"\\)'):
        kg.quantize(model, "lm/emb")
    assert modes(kg.quantize(model, "**")) == {"lm/mid": "int8"}
    untied = kg.untie(model, "lm/embeddings/value")
    reloads(kg.quantize(untied, "lm/emb"), tmp_path, np.ones((2, 3), int))


def test_time_distributed_calls_the_method_that_knows_no_integers():
    x = keras.Input((5, 8), name="x")
    model = keras.Model(x, layers.TimeDistributed(layers.Dense(3, name="d"), name="td")(x))
    with pytest.raises(kg.NothingSelectedError, match="'td' reads its weight without calling it"):
        kg.quantize(model, "td")


def tied():
    x = keras.Input((5,), dtype="int32", name="x")
    y = layers.Embedding(11, 8, name="embed")(x)
    y = layers.Dense(8, name="mid")(y)
    model = keras.Model(x, layers.Dense(11, use_bias=False, name="head")(y))
    return kg.tie(model, "head/kernel", "embed/embeddings", transform="transpose")


def test_ties_are_left_alone_by_patterns_and_refused_by_name(tmp_path):
    assert modes(kg.quantize(tied(), "**")) == {"mid": "int8"}
    for name in ("embed", "head"):
        with pytest.raises(kg.EditError, match='kg.untie\\(model, "head/kernel"\\)'):
            kg.quantize(tied(), name)
    free = kg.quantize(kg.untie(tied(), "head/kernel"), "**")
    assert len(modes(free)) == 3
    reloads(free, tmp_path, IDS)


def test_adapters_frozen_and_quantized_layers_are_refused_by_name():
    model = gpt()
    adapted = kg.lora(model, "block_0_up", rank=2)
    with pytest.raises(kg.EditError, match="has adapters. Merge them first: kg.merge_adapters"):
        kg.quantize(adapted, "block_0_up")
    assert "block_0_up" in modes(kg.quantize(kg.merge_adapters(adapted), "block_0_up"))
    with pytest.raises(kg.EditError, match="Thaw it first: kg.unfreeze"):
        kg.quantize(kg.freeze(model, "block_0_up"), "block_0_up")
    with pytest.raises(kg.EditError, match=r"quantized already \(int8\)"):
        kg.quantize(kg.quantize(model, "block_0_up"), "block_0_up")
    small = kg.lora(kg.quantize(model, "**"), "block_0_up", rank=2)
    assert len(small.trainable_variables) == 2


@pytest.mark.once
def test_the_words_of_refusals():
    model = gpt()
    with pytest.raises(kg.NothingSelectedError, match="Did you mean 'block_0_up'"):
        kg.quantize(model, "block_0_upp")
    with pytest.raises(kg.EditError, match="'c': Keras has no quantized Conv1D"):
        x = keras.Input((5, 8))
        kg.quantize(keras.Model(x, layers.Conv1D(3, 2, name="c")(x)), "c")
    with pytest.raises(kg.EditError, match='mode must be "int8"'):
        kg.quantize(model, "head", "int2")
    with pytest.raises(kg.EditError, match="'gptq' needs data to calibrate with: data=x"):
        kg.quantize(model, "head", "gptq")
    with pytest.raises(kg.EditError, match="kg.list_quantized\\(result, model, data=x\\)"):
        kg.quantize(model, "head", data=IDS)
    with pytest.raises(kg.EditError, match="Int8QuantizationConfig for mode='int8'"):
        kg.quantize(model, "head", config=keras.quantizers.Float8QuantizationConfig())
    with pytest.raises(kg.RunError, match='quantize: the input "ids"'):
        kg.quantize(model, "head", "gptq", data=np.ones((3, 4)))
    with pytest.raises(kg.NothingSelectedError, match="blocks='blok'"):
        kg.quantize(model, "head", "gptq", data=IDS, blocks="blok")


def test_int8_is_refused_where_a_layer_computes_in_float16():
    x = keras.Input((4,))
    y = keras.layers.Dense(3, name="half", dtype="mixed_float16")(x)
    model = keras.Model(x, keras.layers.Dense(3, name="full")(y))
    with pytest.raises(kg.EditError, match="'half'.*computes in float16. Take int4"):
        kg.quantize(model, "half")
    small = kg.quantize(model, "**")
    kinds = {layer.name: layer.quantization_mode for layer in small.layers[1:]}
    assert kinds == {"half": None, "full": "int8"}
    assert kg.quantize(model, "half", "int4").get_layer("half").quantization_mode == "int4"


def test_mixed_precision_and_an_own_configuration(tmp_path):
    x = keras.Input((8,), name="x")
    policy = keras.DTypePolicy("mixed_bfloat16")
    y = layers.Dense(4, dtype=policy, name="a")(x)
    model = keras.Model(x, layers.Dense(3, dtype=policy, name="b")(y))
    config = keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)
    small = kg.quantize(model, "a", config=config)
    assert small.get_layer("a").dtype_policy.name == "int8_from_mixed_bfloat16"
    assert model.get_layer("a").dtype_policy.name == "mixed_bfloat16"
    reloads(small, tmp_path, np.ones((2, 8), "float32"))


def test_a_map_of_policies_of_the_donor_is_not_written_into():
    policies = keras.dtype_policies.DTypePolicyMap("float32")
    x = keras.Input((8,), name="x")
    y = layers.Dense(4, dtype=policies, name="a")(x)
    model = keras.Model(x, layers.Dense(3, dtype=policies, name="b")(y))
    small = kg.quantize(model, "a")
    assert len(policies) == 0 and modes(model) == {} and modes(small) == {"a": "int8"}


@pytest.mark.once
def test_the_report_says_what_changed():
    model = gpt()
    report = kg.list_quantized(kg.quantize(model, "**/query"), model, data=IDS)
    rows = {row.weight: row for row in report.rows}
    one = rows["block_0_attention/query/kernel"]
    before = arrays(model.get_layer("block_0_attention").query_dense.kernel)[0]
    scale = np.abs(before).max(0) / 127
    assert one.mode == "int8" and one.bytes_before == 288 and one.bytes == 32 + 8 * 4 + 8 * 4 + 32
    assert 0 < one.error.mean < one.error.largest <= scale.max() / 2 * 1.001
    assert one.error.scale == pytest.approx(np.abs(before).max())
    assert rows["head/kernel"].mode is None and rows["head/kernel"].why_not is None
    assert report.bytes_before - report.bytes == 2 * (288 - one.bytes)
    assert 0 < report.outputs[0][1].largest < 0.05
    text = str(report)
    assert "2 of 14 layers quantized" in text and "EinsumDense  int8" in text
    with pytest.raises(kg.EditError, match="give the model before"):
        kg.list_quantized(model, data=IDS)
    x = keras.Input((5, 8))
    conv = keras.Model(x, layers.Conv1D(3, 2, name="c")(x))
    assert kg.list_quantized(conv).rows[0].why_not == "Keras has no quantized Conv1D"


def test_other_verbs_work_on_a_quantized_model(tmp_path):
    model = gpt()
    small = kg.quantize(model, "**")
    trunk, head = kg.split(small, "block_0_out")
    equal(small(IDS), head(trunk(IDS)))
    more = kg.insert(small, layers.Activation("linear"), after="block_0_out")
    equal(small(IDS), more(IDS))
    reloads(kg.repeat(small, "block_1_norm", "block_1_out", 2, weights="copy"), tmp_path, IDS)
    with pytest.raises(kg.EditError, match="is quantized"):
        kg.prune(small, {"block_0_up": 2})
    assert "2.9 kB" not in str(kg.costs(model)).splitlines()[1]
    again = kg.replay(model, kg.steps(small))
    equal(small(IDS), again(IDS))


def test_a_quantized_attention_is_opened(tmp_path):
    x = keras.Input((5, 8), name="x")
    h = layers.MultiHeadAttention(2, 4, name="a")(x, x)
    model = kg.quantize(keras.Model(x, h), "**/query")
    graph = kg.inline(kg.read(model, open="a"), "a")
    assert "a" not in [node.name for node in graph.nodes]
    given = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    opened = kg.build(graph)
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(m(given)) for m in (model, opened)))
    plain = kg.plain(kg.freeze(model, "a"))
    plain.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert [len(m.trainable_variables) for m in (plain, loaded)] == [0, 0]
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(m(given)) for m in (model, loaded)))
