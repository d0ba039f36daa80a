"""`kg.replace_backbone`: tasks of keras_hub around edited backbones, against those made by hand."""

import gc

import keras
import numpy as np
import pytest
from donor import arrays, equal, unchanged

import keras_graft as kg

hub = pytest.importorskip("keras_hub", exc_type=ImportError).models

LISTED = "ignore:.* between layers that the attribute"


def _seeded(cls, **config):
    keras.utils.set_random_seed(0)
    return cls(**config)


def _gpt2(layers=4):
    return _seeded(
        hub.GPT2Backbone, vocabulary_size=40, num_layers=layers, num_heads=2, hidden_dim=16,
        intermediate_dim=32, max_sequence_length=12, name="gpt2",
    )  # fmt: skip


def _llama(layers=4):
    return _seeded(
        hub.LlamaBackbone, vocabulary_size=40, num_layers=layers, num_query_heads=4,
        num_key_value_heads=2, hidden_dim=16, intermediate_dim=24, name="llama",
    )  # fmt: skip


def _gemma():
    return _seeded(
        hub.GemmaBackbone, vocabulary_size=40, num_layers=4, num_query_heads=2,
        num_key_value_heads=1, hidden_dim=16, intermediate_dim=32, head_dim=8, name="gemma",
    )  # fmt: skip


def _opt():
    return _seeded(
        hub.OPTBackbone, vocabulary_size=40, num_layers=4, num_heads=2, hidden_dim=16,
        intermediate_dim=32, max_sequence_length=12, name="opt",
    )  # fmt: skip


LANGUAGE = {
    "GPT2": (hub.GPT2CausalLM, _gpt2), "Llama": (hub.LlamaCausalLM, _llama),
    "Gemma": (hub.GemmaCausalLM, _gemma), "OPT": (hub.OPTCausalLM, _opt),
}  # fmt: skip


def _language(name="GPT2", **options):
    cls, backbone = LANGUAGE[name]
    task = cls(backbone=backbone(), preprocessor=None)
    for number, variable in enumerate(task.weights):  # so large that tokens differ
        drawn = np.random.default_rng(number).normal(0, 0.5, variable.shape)
        variable.assign(variable + keras.ops.cast(drawn, variable.dtype))
    task.compile(sampler=options.pop("sampler", "greedy"), **options)
    return task


def _prompt(length=9):
    ids = np.zeros((2, length), "int32")
    ids[:, :3] = [[5, 6, 7], [8, 9, 3]]
    return {"token_ids": ids, "padding_mask": (ids > 0).astype("int32")}


def _generated(task):
    return np.asarray(task.generate(_prompt(), stop_token_ids=None)["token_ids"])


def _one_by_one(task):
    """Generate with the network alone: no cache, and no list of layers."""
    data = _prompt()
    for place in range(3, data["token_ids"].shape[1]):
        logits = keras.ops.convert_to_numpy(task(data, training=False))[:, place - 1]
        data["token_ids"][:, place] = logits.argmax(-1)
        data["padding_mask"][:, place] = 1
    return data["token_ids"]


def _block(backbone, number):
    return backbone.transformer_layers[number].name


def _halved(backbone):
    return kg.remove(backbone, [_block(backbone, 1), _block(backbone, 3)], keep=0)


def _deeper(backbone):
    return kg.repeat(backbone, _block(backbone, 0), _block(backbone, 2), 2)


def _copied(backbone):
    return kg.repeat(backbone, _block(backbone, 0), _block(backbone, 2), 2, weights="copy")


def _adapted(backbone):
    new = kg.lora(backbone, "**/query*", rank=2, seed=1)
    for weight in new.weights:
        if "lora" in weight.path:
            drawn = np.random.default_rng(1).normal(0, 0.5, weight.shape)
            weight.assign(keras.ops.cast(drawn, weight.dtype))
    return new


EDITS = {"half": _halved, "deeper": _deeper, "copied": _copied, "lora": _adapted}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name", LANGUAGE)
def test_generates_as_the_task_made_by_hand(name, edit):
    donor = _language(name)
    backbone = EDITS[edit](donor.backbone)
    task = kg.replace_backbone(donor, backbone)
    assert type(task) is type(donor) and task.backbone is backbone
    by_hand = type(donor)(backbone=backbone, preprocessor=None)
    by_hand.compile(sampler="greedy")
    equal(task(_prompt()), by_hand(_prompt()))
    tokens = _generated(task)
    np.testing.assert_array_equal(tokens, _generated(by_hand))
    np.testing.assert_array_equal(tokens, _one_by_one(task))
    assert not np.array_equal(tokens, _generated(donor))


@pytest.mark.parametrize("name", LANGUAGE)
def test_lists_and_numbers_of_layers_follow_the_calls(name):
    donor = LANGUAGE[name][1]()
    first = donor.transformer_layers
    half, deep, more = _halved(donor), _deeper(donor), _copied(donor)
    assert half.transformer_layers == [first[0], first[2]] and half.num_layers == 2
    for new, names in ((deep, [0, 1, 2, 1, 2, 3]), (more, [0, 1, 2, None, None, 3])):
        found = new.transformer_layers
        assert new.num_layers == len(found) == 6
        calls = [n.operation for n in kg.read(new) if any(n.operation is x for x in found)]
        assert found == calls
        at = {id(layer): number for number, layer in enumerate(first)}
        assert [at.get(id(layer)) for layer in found] == names
    assert donor.num_layers == 4 and donor.transformer_layers == first
    turned = kg.rewire(donor, {_block(donor, 2): _block(donor, 0)})
    assert turned.transformer_layers == [first[0], first[3]] and turned.num_layers == 2


def test_a_deeper_backbone_is_saved_with_its_list(tmp_path):
    donor = _language()
    task = kg.replace_backbone(donor, _deeper(donor.backbone))
    task.save(tmp_path / "deep.keras")
    again = keras.models.load_model(tmp_path / "deep.keras", compile=False)
    assert type(again) is type(task)
    assert again.backbone.num_layers == task.backbone.num_layers
    layers = again.backbone.transformer_layers
    assert [x.name for x in layers] == [x.name for x in task.backbone.transformer_layers]
    again.compile(sampler="greedy")
    np.testing.assert_array_equal(_generated(again), _generated(task))
    with pytest.raises(kg.NotYetError, match=r"model\.save"):
        task.save_to_preset(str(tmp_path / "preset"))


def test_the_donor_is_left_as_it_was(tmp_path):
    donor = _language()
    tokens, optimizer, sampler = _generated(donor), donor.optimizer, donor.sampler
    with unchanged(donor, tmp_path):
        task = kg.replace_backbone(donor, _halved(donor.backbone))
        del task
        with pytest.warns(kg.GraftWarning), pytest.raises(kg.EditError):
            kg.replace_backbone(
                donor, kg.insert(donor.backbone, lambda x: 2 * x, after="transformer_layer_1")
            )
        gc.collect()
    assert donor.optimizer is optimizer and donor.sampler is sampler
    np.testing.assert_array_equal(_generated(donor), tokens)


def test_compiled_as_the_donor():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    donor = _language(sampler="top_p", optimizer=keras.optimizers.SGD(0.25), loss=loss)
    donor.sampler.p = 0.75
    task = kg.replace_backbone(donor, _halved(donor.backbone))
    assert float(task.optimizer.learning_rate) == 0.25 and task.loss is loss
    assert task.optimizer is not donor.optimizer and not task.optimizer.built
    assert task.sampler is not donor.sampler and task.sampler.p == 0.75
    donor.sampler.seed_generator.next()
    task = kg.replace_backbone(donor, donor.backbone)
    np.testing.assert_array_equal(_generated(task), _generated(donor))  # the same draws
    raw = hub.GPT2CausalLM(backbone=_gpt2(), preprocessor=None, compile=False)
    assert not kg.replace_backbone(raw, _halved(raw.backbone)).compiled


def test_trains_as_the_task_made_by_hand():
    losses = []
    for way in ("verb", "hand"):
        donor = _language(optimizer=keras.optimizers.SGD(0.1))
        half = _halved(donor.backbone)
        if way == "verb":
            task = kg.replace_backbone(donor, half)
        else:
            task = hub.GPT2CausalLM(backbone=half, preprocessor=None)
            task.compile(optimizer=keras.optimizers.SGD(0.1))
        data = _prompt()
        history = task.fit(
            x=data, y=data["token_ids"], sample_weight=data["padding_mask"], batch_size=2, epochs=2,
            verbose=0,
        )  # fmt: skip
        losses.append(history.history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings(LISTED)
@pytest.mark.parametrize("zero", [True, False])
def test_an_inserted_layer_is_refused_even_one_that_does_nothing_yet(zero):
    donor = _language()
    start = "zeros" if zero else "ones"
    adapter = keras.layers.Dense(16, kernel_initializer=start, name="more")
    new = kg.insert(donor.backbone, lambda x: x + adapter(x), after="transformer_layer_1")
    with pytest.raises(kg.EditError, match=r"would skip .*more.*`transformer_layers`"):
        kg.replace_backbone(donor, new)


@pytest.mark.filterwarnings(LISTED)
@pytest.mark.parametrize("after", ["embeddings_dropout", "transformer_layer_1", "layer_norm"])
def test_an_inserted_function_is_refused(after):
    donor = _language()
    new = kg.insert(donor.backbone, lambda x: x * 1.5, after=after)
    with pytest.raises(
        kg.EditError, match=r"does not give what the network .*`transformer_layers`"
    ):
        kg.replace_backbone(donor, new)


@pytest.mark.filterwarnings(LISTED)
@pytest.mark.parametrize("name", LANGUAGE)
def test_the_way_out_of_an_inserted_layer(name, tmp_path):
    donor = _language(name)
    where = _block(donor.backbone, 1)
    block = donor.backbone.get_layer(where)
    more = keras.layers.Dense(16, kernel_initializer=keras.initializers.RandomNormal(seed=1))
    both = kg.layers.Then(block, more, name="both")
    new = kg.replace(donor.backbone, where, both)
    task = kg.replace_backbone(donor, new)
    assert task.backbone.transformer_layers[1] is both
    tokens = _generated(task)
    np.testing.assert_array_equal(tokens, _one_by_one(task))
    assert not np.array_equal(tokens, _generated(donor))
    expected = kg.insert(kg.read(donor.backbone), more, after=where)
    equal(new(_prompt()), kg.build(expected)(_prompt()))
    if name != "Llama":
        task.save(tmp_path / "both.keras")
        again = keras.models.load_model(tmp_path / "both.keras", compile=False)
        again.compile(sampler="greedy")
        np.testing.assert_array_equal(_generated(again), tokens)


def test_an_edited_llama_says_how_its_weights_are_saved(tmp_path):
    # A layer of Llama cannot say how it was made in keras_hub 0.32.
    donor = _language("Llama")
    task = kg.replace_backbone(donor, _halved(donor.backbone))
    with pytest.raises(kg.NotYetError) as told:
        task.save(tmp_path / "half.keras")
    words = str(told.value)
    assert "'transformer_layer_0' (LlamaTransformerDecoder) cannot say it" in words
    assert 'model.save_weights("model.weights.h5")' in words
    task.save_weights(tmp_path / "model.weights.h5")
    again = hub.LlamaCausalLM(backbone=kg.clone(_llama(), weights="fresh"), preprocessor=None)
    again = kg.replace_backbone(again, _halved(again.backbone))
    assert not np.array_equal(arrays(again(_prompt()))[0], arrays(task(_prompt()))[0])
    again.load_weights(tmp_path / "model.weights.h5")
    equal(again(_prompt()), task(_prompt()))
    third = kg.replace_backbone(task, kg.remove(task.backbone, "transformer_layer_2", keep=0))
    assert third.backbone.num_layers == 1


def test_then_must_treat_each_position_separately():
    donor = _language()
    block = donor.backbone.transformer_layers[1]

    class Mixes(keras.layers.Layer):
        def call(self, x):
            return keras.ops.cumsum(x, axis=1)

    both = kg.layers.Then(block, Mixes(name="mixes"), name="both")
    new = kg.replace(donor.backbone, block.name, both)
    with pytest.raises(kg.EditError, match="does not give what the network"):
        kg.replace_backbone(donor, new)


# -- without a cache -------------------------------------------------------------------------------

def _last_inside(backbone, name):
    graph = kg.read(backbone, open="**")
    (node,) = kg.select(graph, name).nodes
    return f"{name}/{node.nested.nodes[-1].name}"


BEYOND = {
    "inserted layer": lambda b: kg.insert(
        b, keras.layers.Dense(16, kernel_initializer="orthogonal", name="m"), after=_block(b, 1)
    ),
    "inserted function": lambda b: kg.insert(b, lambda x: x * 1.5, after=_block(b, 0)),
    "edited inside": lambda b: kg.insert(
        b, keras.layers.LayerNormalization(name="m"), after=_last_inside(b, _block(b, 1))
    ),
}


@pytest.mark.filterwarnings(LISTED)
@pytest.mark.parametrize("edit", BEYOND)
@pytest.mark.parametrize("name", LANGUAGE)
def test_any_backbone_generates_without_a_cache(name, edit, tmp_path):
    donor = _language(name)
    backbone = BEYOND[edit](donor.backbone)
    with pytest.raises(kg.EditError, match=r"kg\.replace_backbone\(task, backbone, cache=False\)"):
        kg.replace_backbone(donor, backbone)
    task = kg.replace_backbone(donor, backbone, cache=False)
    assert isinstance(task, type(donor)) and type(task).__name__ == type(donor).__name__
    tokens = _generated(task)
    np.testing.assert_array_equal(tokens, _one_by_one(task))
    if name == "Llama" or edit == "edited inside":
        return  # layers of keras_hub that cannot say how they were made, or not be called by Keras
    task.save(tmp_path / "task.keras")
    again = keras.models.load_model(tmp_path / "task.keras", compile=False)
    again.compile(sampler="greedy")
    np.testing.assert_array_equal(_generated(again), tokens)
    assert type(again) is type(task)


@pytest.mark.parametrize("sampler", ["greedy", "beam", "top_k"])
@pytest.mark.parametrize("stop", [None, (3, 17), (11,)])
def test_without_a_cache_all_is_as_with_it(sampler, stop):
    donor = _language(sampler=sampler)
    task = kg.replace_backbone(donor, donor.backbone, cache=False)
    with_cache = donor.generate(_prompt(), stop_token_ids=stop)
    without = task.generate(_prompt(), stop_token_ids=stop)
    for key, value in with_cache.items():
        np.testing.assert_array_equal(np.asarray(without[key]), np.asarray(value))
    for name in ("call_with_cache", "score"):
        with pytest.raises(kg.NotYetError, match=f"{name}: .* cache=False"):
            getattr(task, name)(_prompt()["token_ids"])
    again = kg.replace_backbone(task, task.backbone)
    assert type(again) is type(donor)  # with a cache again


@pytest.mark.once
def test_what_is_no_task_and_what_is_no_backbone():
    donor = _language()
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(kg.EditError, match=r"must be a task of keras_hub.*kg\.replace\(model"):
        kg.replace_backbone(other, donor.backbone)
    with pytest.raises(kg.EditError, match="must be a task of keras_hub"):
        kg.replace_backbone(None, donor.backbone)
    with pytest.raises(kg.EditError, match="is a GPT2Backbone, and .* is a LlamaBackbone"):
        kg.replace_backbone(donor, _llama())
    with pytest.raises(kg.EditError, match="is a GPT2Backbone, and .* is a Functional"):
        kg.replace_backbone(donor, kg.extract(donor.backbone, "transformer_layer_1"))
    with pytest.raises(kg.EditError, match="is a GPT2Backbone, and 3 is a int"):
        kg.replace_backbone(donor, 3)
    with pytest.raises(kg.EditError, match='head must be "keep" or "new", got .old.'):
        kg.replace_backbone(donor, donor.backbone, head="old")


def test_a_task_that_was_edited_itself():
    donor = _language()
    edited = kg.remove(donor, "gpt2/transformer_layer_1")
    with pytest.raises(kg.EditError, match=r'was edited itself.*kg\.remove\(task, "gpt2/\.\.\."\)'):
        kg.replace_backbone(edited, donor.backbone)
    again = kg.remove(edited, "gpt2/transformer_layer_3")
    again.compile(sampler="greedy")
    task = kg.replace_backbone(donor, _halved(donor.backbone))
    np.testing.assert_array_equal(_generated(again), _generated(task))


# -- classifiers and others ------------------------------------------------------------------------


def _resnet(filters=(64, 16)):
    return _seeded(
        hub.ResNetBackbone, input_conv_filters=[64], input_conv_kernel_sizes=[3],
        stackwise_num_filters=list(filters), stackwise_num_blocks=[2, 2],
        stackwise_num_strides=[1, 2], block_type="basic_block", image_shape=(16, 16, 3), name="resnet",
    )  # fmt: skip


def _images():
    return np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype("float32")


def test_an_image_classifier_keeps_its_head(tmp_path):
    donor = hub.ImageClassifier(
        backbone=_resnet(), num_classes=4, dropout=0.1, activation="softmax", name="classifier"
    )
    new = kg.recipes.swap_activation(donor.backbone, old="relu", new="gelu")
    with unchanged(donor, tmp_path):
        task = kg.replace_backbone(donor, new)
        assert type(task) is hub.ImageClassifier and task.name == "classifier"
        assert task.output_dense is donor.output_dense
        assert task.get_layer("predictions") is donor.output_dense
        assert task.num_classes == 4 and task.dropout == 0.1 and task.activation == "softmax"
        expected = donor.output_dense(donor.pooler(new(_images())))
        np.testing.assert_allclose(*arrays([task(_images()), expected]), atol=1e-6)
        task.save(tmp_path / "c.keras")
        loaded = keras.models.load_model(tmp_path / "c.keras")
        np.testing.assert_allclose(*arrays([loaded(_images()), task(_images())]), atol=1e-6)
        del task, expected, loaded
    task = kg.replace_backbone(donor, new)
    task.fit(_images(), np.array([0, 1, 2]), verbose=0)


def test_a_backbone_of_another_width():
    donor = hub.ImageClassifier(backbone=_resnet(), num_classes=4)
    wider = _resnet((64, 24))
    with pytest.raises(kg.EditError) as told:
        kg.replace_backbone(donor, wider)
    words = str(told.value)
    assert "gives (?, 2, 2, 24) float32" in words and "on (?, 2, 2, 16) float32" in words
    assert '"predictions/kernel" is (16, 4) and must be (24, 4)' in words
    assert 'kg.replace_backbone(task, backbone, head="new")' in words
    task = kg.replace_backbone(donor, wider, head="new")
    assert task.output_dense.kernel.shape == (24, 4) and donor.output_dense.kernel.shape == (16, 4)
    task.fit(_images(), np.array([0, 1, 2]), verbose=0)
    last = kg.read(wider).outputs[0].producer.name
    narrow = kg.insert(wider, keras.layers.Conv2D(16, 1, name="narrow"), after=last)
    task = kg.replace_backbone(donor, narrow)
    assert task.output_dense is donor.output_dense


def _bert(layers=2):
    return _seeded(
        hub.BertBackbone, vocabulary_size=30, num_layers=layers, num_heads=2, hidden_dim=8,
        intermediate_dim=16, max_sequence_length=12, name="bert",
    )  # fmt: skip


def _text():
    ids = np.random.default_rng(1).integers(1, 30, (2, 8)).astype("int32")
    return {
        "token_ids": ids, "padding_mask": np.ones_like(ids), "segment_ids": np.zeros_like(ids),
    }  # fmt: skip


def test_a_text_classifier():
    donor = hub.BertTextClassifier(backbone=_bert(), num_classes=3)
    half = kg.remove(donor.backbone, "transformer_layer_1")
    task = kg.replace_backbone(donor, half)
    by_hand = hub.BertTextClassifier(backbone=half, num_classes=3)
    by_hand.get_layer("logits").set_weights(donor.get_layer("logits").get_weights())
    equal(task(_text()), by_hand(_text()))
    assert task.get_layer("logits") is donor.get_layer("logits")
    task.fit(_text(), np.array([0, 1]), verbose=0)


@pytest.mark.parametrize("copied", [False, True])
def test_a_masked_language_model_uses_the_embedding_of_its_backbone(copied):
    donor = hub.BertMaskedLM(backbone=_bert())
    half = kg.remove(donor.backbone, "transformer_layer_1")
    if copied:
        half = kg.clone(half)
    task = kg.replace_backbone(donor, half)
    data = _text() | {"mask_positions": np.array([[1, 2], [3, 4]], "int32")}
    by_hand = hub.BertMaskedLM(backbone=half)
    for old, new in zip(donor.layers[-1].weights, by_hand.layers[-1].weights, strict=True):
        if not any(new is v for v in half.weights):
            new.assign(old)
    equal(task(data), by_hand(data))
    held = {id(v) for v in task.weights}
    assert {id(v) for v in half.weights} <= held
    foreign = {id(v) for v in donor.backbone.weights} - {id(v) for v in half.weights}
    assert not held & foreign


def test_a_sequence_to_sequence_model():
    backbone = _seeded(
        hub.BartBackbone, vocabulary_size=40, num_layers=3, num_heads=2, hidden_dim=16,
        intermediate_dim=32, max_sequence_length=12,
    )  # fmt: skip
    donor = hub.BartSeq2SeqLM(backbone=backbone, preprocessor=None)
    half = kg.remove(
        backbone, ["transformer_encoder_layer_1", "transformer_decoder_layer_1"], keep=0
    )
    assert half.num_layers == 2
    task = kg.replace_backbone(donor, half)
    by_hand = hub.BartSeq2SeqLM(backbone=half, preprocessor=None)
    data = {f"{k}_{n}": v for k in ("encoder", "decoder") for n, v in _prompt().items()}
    for one in (task, by_hand):
        one.compile(sampler="greedy")
    left, right = (x.generate(data, stop_token_ids=None) for x in (task, by_hand))
    np.testing.assert_array_equal(left["decoder_token_ids"], right["decoder_token_ids"])


def test_a_segmenter():
    encoder = _resnet()
    backbone = hub.DeepLabV3Backbone(
        image_encoder=encoder, spatial_pyramid_pooling_key="P3",
        dilation_rates=[1, 2], upsampling_size=4, image_shape=(16, 16, 3), name="deeplab",
    )  # fmt: skip
    donor = hub.DeepLabV3ImageSegmenter(backbone=backbone, num_classes=2)
    new = kg.clone(backbone, weights="fresh")
    task = kg.replace_backbone(donor, new)
    assert type(task) is type(donor)
    assert not {id(v) for v in task.weights} & {id(v) for v in backbone.weights}
    head = [w for w in donor.weights if not any(w is v for v in backbone.weights)]
    assert head and all(any(w is v for v in task.weights) for w in head)


def test_a_graph_and_mixed_precision():
    donor = hub.GPT2CausalLM(
        backbone=_seeded(
            hub.GPT2Backbone, vocabulary_size=40, num_layers=2, num_heads=2, hidden_dim=16,
            intermediate_dim=32, max_sequence_length=12, dtype="mixed_bfloat16",
        )
    )  # fmt: skip
    graph = kg.remove(kg.read(donor.backbone), "transformer_layer_1")
    task = kg.replace_backbone(donor, graph)
    assert task.compute_dtype == "bfloat16" and task.dtype_policy.name == "mixed_bfloat16"
    assert _generated(task).shape == (2, 9)
