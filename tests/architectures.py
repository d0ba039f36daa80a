"""Real architectures, built cheaply: every constructor of keras.applications, keras_hub backbones.

Drawing random weights costs most of the time of building a large network on some backends, and
which numbers they are does not matter here. `cheap_weights` fills them from one buffer.
"""

from __future__ import annotations

import contextlib
import inspect
import os

import keras
import numpy as np
import pytest

ALL = keras.backend.backend() == "torch" or os.environ.get("KERAS_GRAFT_ALL", "") == "1"
"""All architectures with ten cuts each, or a sample. CI takes all on one backend: eager PyTorch,
which compiles nothing; the others compile every shape of every op once."""

SAMPLE = {"ResNet50", "MobileNetV3Small", "DenseNet121", "InceptionV3", "EfficientNetB0"}

_RANDOM = ("RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling", "Orthogonal")


@contextlib.contextmanager
def cheap_weights():
    """Let random initializers cut their numbers from one buffer, at a scale that keeps signals."""
    buffer = np.random.default_rng(0).standard_normal(100_003).astype("float32")

    def fill(self, shape, dtype=None, **kwargs):
        shape = tuple(shape)
        fan = int(np.prod(shape[:-1])) or 1
        values = np.resize(buffer, shape) * np.float32(1.4 / np.sqrt(fan))
        return keras.ops.convert_to_tensor(values, dtype=dtype or keras.config.floatx())

    classes = [getattr(keras.initializers, name) for name in _RANDOM]
    old = [cls.__call__ for cls in classes]
    try:
        for cls in classes:
            cls.__call__ = fill
        yield
    finally:
        for cls, call in zip(classes, old, strict=True):
            cls.__call__ = call


def applications() -> list[str]:
    """Return the constructors of keras.applications, whatever this Keras has."""
    names = []
    for name, make in vars(keras.applications).items():
        if callable(make) and "include_top" in inspect.signature(make).parameters:
            names.append(name)
    return sorted(names)


def application(name: str) -> keras.Model:
    """Build one of them, small in its input, with its classifier."""
    size = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}.get(name, 32)
    with cheap_weights():
        make = getattr(keras.applications, name)
        try:
            return make(weights=None, input_shape=(size, size, 3), classes=3)
        except ValueError as error:
            if "is not available with the" in str(error):
                pytest.skip(str(error))
            raise


def backbones() -> dict:
    """Return constructors of keras_hub backbones with tiny configurations, by name."""
    import keras_hub

    hub = keras_hub.models
    text = {"vocabulary_size": 20, "num_layers": 2, "hidden_dim": 8, "intermediate_dim": 16}
    heads = {**text, "num_heads": 2}
    bert = {**heads, "max_sequence_length": 16}
    decoder = {**text, "num_query_heads": 2, "num_key_value_heads": 1}
    made = {
        "Bert": lambda: hub.BertBackbone(**bert),
        "Electra": lambda: hub.ElectraBackbone(
            vocab_size=20, num_layers=2, num_heads=2, hidden_dim=8, embedding_dim=4,
            intermediate_dim=16, max_sequence_length=16,
        ),
        "Roberta": lambda: hub.RobertaBackbone(**bert),
        "DistilBert": lambda: hub.DistilBertBackbone(**bert),
        "Albert": lambda: hub.AlbertBackbone(
            vocabulary_size=20, num_layers=2, num_heads=2, embedding_dim=4, hidden_dim=8,
            intermediate_dim=16, max_sequence_length=16,
        ),
        "DebertaV3": lambda: hub.DebertaV3Backbone(**bert, bucket_size=8),
        "FNet": lambda: hub.FNetBackbone(
            vocabulary_size=20, num_layers=2, hidden_dim=8, intermediate_dim=16,
            max_sequence_length=16,
        ),
        "XLMRoberta": lambda: hub.XLMRobertaBackbone(**bert),
        "GPT2": lambda: hub.GPT2Backbone(**bert),
        "OPT": lambda: hub.OPTBackbone(**bert),
        "Bloom": lambda: hub.BloomBackbone(**heads, max_sequence_length=16),
        "GPTNeoX": lambda: hub.GPTNeoXBackbone(**heads, rotary_percentage=0.5, max_sequence_length=16),
        "Llama": lambda: hub.LlamaBackbone(**decoder),
        "Mistral": lambda: hub.MistralBackbone(**decoder, sliding_window=8),
        "Phi3": lambda: hub.Phi3Backbone(**decoder),
        "Gemma": lambda: hub.GemmaBackbone(**decoder, head_dim=4),
        "T5": lambda: hub.T5Backbone(**heads),
        "Bart": lambda: hub.BartBackbone(**bert),
        "Whisper": lambda: hub.WhisperBackbone(
            **heads, num_mels=8, max_encoder_sequence_length=16, max_decoder_sequence_length=8,
        ),
        "ViT": lambda: hub.ViTBackbone(
            image_shape=(16, 16, 3), patch_size=4, num_layers=2, num_heads=2, hidden_dim=8,
            mlp_dim=16,
        ),
        "ResNet": lambda: hub.ResNetBackbone(
            input_conv_filters=[64], input_conv_kernel_sizes=[3], stackwise_num_filters=[64, 64],
            stackwise_num_blocks=[1, 1], stackwise_num_strides=[1, 2], block_type="basic_block",
            image_shape=(16, 16, 3),
        ),
        "DenseNet": lambda: hub.DenseNetBackbone(
            stackwise_num_repeats=[2, 2], image_shape=(32, 32, 3), growth_rate=4,
        ),
        "CSPDarkNet": lambda: hub.CSPNetBackbone(
            stem_filters=8, stem_kernel_size=3, stem_strides=1, stackwise_depth=[1, 1],
            stackwise_strides=[2, 2], stackwise_num_filters=[8, 16], stage_type="dark", block_type="dark_block",
            image_shape=(16, 16, 3),
        ),
    }  # fmt: skip
    return made


def sampled(items, count: int) -> list:
    """Return `count` of `items`, spread evenly, first and last among them."""
    items = list(items)
    if len(items) <= count:
        return items
    if count == 1:
        return [items[len(items) // 2]]
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
