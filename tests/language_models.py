"""Small language models of keras_hub, edits of their backbones, and what they generate."""

import keras
import numpy as np
import pytest

import keras_graft as kg

hub = pytest.importorskip("keras_hub", exc_type=ImportError).models


def seeded(cls, **config):
    keras.utils.set_random_seed(0)
    return cls(**config)


def gpt2(layers=4):
    return seeded(
        hub.GPT2Backbone, vocabulary_size=40, num_layers=layers, num_heads=2, hidden_dim=16,
        intermediate_dim=32, max_sequence_length=12, name="gpt2",
    )  # fmt: skip


def llama(layers=4, dtype=None):
    return seeded(
        hub.LlamaBackbone, vocabulary_size=40, num_layers=layers, num_query_heads=4,
        num_key_value_heads=2, hidden_dim=16, intermediate_dim=24, name="llama", dtype=dtype,
    )  # fmt: skip


def gemma():
    return seeded(
        hub.GemmaBackbone, vocabulary_size=40, num_layers=4, num_query_heads=2,
        num_key_value_heads=1, hidden_dim=16, intermediate_dim=32, head_dim=8, name="gemma",
    )  # fmt: skip


def opt():
    return seeded(
        hub.OPTBackbone, vocabulary_size=40, num_layers=4, num_heads=2, hidden_dim=16,
        intermediate_dim=32, max_sequence_length=12, name="opt",
    )  # fmt: skip


LANGUAGE = {
    "GPT2": (hub.GPT2CausalLM, gpt2), "Llama": (hub.LlamaCausalLM, llama),
    "Gemma": (hub.GemmaCausalLM, gemma), "OPT": (hub.OPTCausalLM, opt),
}  # fmt: skip


def language(name="GPT2", dtype=None, **options):
    cls, backbone = LANGUAGE[name]
    made = backbone() if dtype is None else backbone(dtype=dtype)
    task = cls(backbone=made, preprocessor=None, **({} if dtype is None else {"dtype": dtype}))
    for number, variable in enumerate(task.weights):  # so large that tokens differ
        drawn = np.random.default_rng(number).normal(0, 0.5, variable.shape)
        variable.assign(variable + keras.ops.cast(drawn, variable.dtype))
    task.compile(sampler=options.pop("sampler", "greedy"), **options)
    return task


def prompt(length=9):
    ids = np.zeros((2, length), "int32")
    ids[:, :3] = [[5, 6, 7], [8, 9, 3]]
    return {"token_ids": ids, "padding_mask": (ids > 0).astype("int32")}


def generated(task):
    return np.asarray(task.generate(prompt(), stop_token_ids=None)["token_ids"])


def one_by_one(task):
    """Generate with the network alone: no cache, and no list of layers."""
    data = prompt()
    for place in range(3, data["token_ids"].shape[1]):
        logits = keras.ops.convert_to_numpy(task(data, training=False))[:, place - 1]
        data["token_ids"][:, place] = logits.argmax(-1)
        data["padding_mask"][:, place] = 1
    return data["token_ids"]


def block_of(backbone, number):
    return backbone.transformer_layers[number].name


def halved(backbone):
    return kg.remove(backbone, [block_of(backbone, 1), block_of(backbone, 3)], keep=0)


def deeper(backbone):
    return kg.repeat(backbone, block_of(backbone, 0), block_of(backbone, 2), 2)


def copied(backbone):
    return kg.repeat(backbone, block_of(backbone, 0), block_of(backbone, 2), 2, weights="copy")


def adapted(backbone):
    new = kg.lora(backbone, "**/query*", rank=2, seed=1)
    for weight in new.weights:
        if "lora" in weight.path:
            drawn = np.random.default_rng(1).normal(0, 0.5, weight.shape)
            weight.assign(keras.ops.cast(drawn, weight.dtype))
    return new


EDITS = {"half": halved, "deeper": deeper, "copied": copied, "lora": adapted}
