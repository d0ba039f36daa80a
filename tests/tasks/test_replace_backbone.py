"""`kg.replace_backbone`: tasks of keras_hub around edited backbones, against those made by hand."""

import gc

import keras
import numpy as np
import pytest
from donor import arrays, equal, unchanged
from language_models import generated, gpt2, halved, hub, language, llama, prompt, seeded

import keras_graft as kg


def test_the_donor_is_left_as_it_was(tmp_path):
    donor = language()
    tokens, optimizer, sampler = generated(donor), donor.optimizer, donor.sampler
    with unchanged(donor, tmp_path):
        task = kg.replace_backbone(donor, halved(donor.backbone))
        del task
        with pytest.warns(kg.GraftWarning), pytest.raises(kg.EditError):
            kg.replace_backbone(
                donor, kg.insert(donor.backbone, lambda x: 2 * x, after="transformer_layer_1")
            )
        gc.collect()
    assert donor.optimizer is optimizer and donor.sampler is sampler
    np.testing.assert_array_equal(generated(donor), tokens)


def test_compiled_as_the_donor():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    donor = language(sampler="top_p", optimizer=keras.optimizers.SGD(0.25), loss=loss)
    donor.sampler.p = 0.75
    task = kg.replace_backbone(donor, halved(donor.backbone))
    assert float(task.optimizer.learning_rate) == 0.25 and task.loss is loss
    assert task.optimizer is not donor.optimizer and not task.optimizer.built
    assert task.sampler is not donor.sampler and task.sampler.p == 0.75
    donor.sampler.seed_generator.next()
    task = kg.replace_backbone(donor, donor.backbone)
    np.testing.assert_array_equal(generated(task), generated(donor))  # the same draws
    raw = hub.GPT2CausalLM(backbone=gpt2(), preprocessor=None, compile=False)
    raw.trainable = False
    made = kg.replace_backbone(raw, halved(raw.backbone))
    assert not made.compiled and not made.trainable and not made.trainable_weights


def test_trains_as_the_task_made_by_hand():
    losses = []
    for way in ("verb", "hand"):
        donor = language(optimizer=keras.optimizers.SGD(0.1))
        half = halved(donor.backbone)
        if way == "verb":
            task = kg.replace_backbone(donor, half)
        else:
            task = hub.GPT2CausalLM(backbone=half, preprocessor=None)
            task.compile(optimizer=keras.optimizers.SGD(0.1))
        data = prompt()
        history = task.fit(
            x=data, y=data["token_ids"], sample_weight=data["padding_mask"], batch_size=2, epochs=2,
            verbose=0,
        )  # fmt: skip
        losses.append(history.history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.once
def test_what_is_no_task_and_what_is_no_backbone():
    donor = language()
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(kg.EditError, match=r"must be a task of keras_hub.*kg\.replace\(model"):
        kg.replace_backbone(other, donor.backbone)
    with pytest.raises(kg.EditError, match="must be a task of keras_hub"):
        kg.replace_backbone(None, donor.backbone)
    with pytest.raises(kg.EditError, match="is a GPT2Backbone, and .* is a LlamaBackbone"):
        kg.replace_backbone(donor, llama())
    with pytest.raises(kg.EditError, match="is a GPT2Backbone, and .* is a Functional"):
        kg.replace_backbone(donor, kg.extract(donor.backbone, "transformer_layer_1"))
    with pytest.raises(kg.EditError, match="is a GPT2Backbone, and 3 is a int"):
        kg.replace_backbone(donor, 3)
    with pytest.raises(kg.EditError, match='head must be "keep" or "new", got .old.'):
        kg.replace_backbone(donor, donor.backbone, head="old")


def test_a_task_that_was_edited_itself():
    donor = language()
    edited = kg.remove(donor, "gpt2/transformer_layer_1")
    with pytest.raises(kg.EditError, match=r'was edited itself.*kg\.remove\(task, "gpt2/\.\.\."\)'):
        kg.replace_backbone(edited, donor.backbone)
    again = kg.remove(edited, "gpt2/transformer_layer_3")
    again.compile(sampler="greedy")
    task = kg.replace_backbone(donor, halved(donor.backbone))
    np.testing.assert_array_equal(generated(again), generated(task))


def _resnet(filters=(64, 16)):
    return seeded(
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
    return seeded(
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
    backbone = seeded(
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
    data = {f"{k}_{n}": v for k in ("encoder", "decoder") for n, v in prompt().items()}
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
        backbone=seeded(
            hub.GPT2Backbone, vocabulary_size=40, num_layers=2, num_heads=2, hidden_dim=16,
            intermediate_dim=32, max_sequence_length=12, dtype="mixed_bfloat16",
        )
    )  # fmt: skip
    graph = kg.remove(kg.read(donor.backbone), "transformer_layer_1")
    task = kg.replace_backbone(donor, graph)
    assert task.compute_dtype == "bfloat16" and task.dtype_policy.name == "mixed_bfloat16"
    assert generated(task).shape == (2, 9)
