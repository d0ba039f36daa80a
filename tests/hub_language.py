"""Causal language models of keras_hub with tiny configurations, and prompts for them, by name."""

from __future__ import annotations

from typing import Any

import hub_backbones
import keras
import keras_hub
import numpy as np

hub = keras_hub.models

TASKS = {
    "Bloom": hub.BloomCausalLM, "Falcon": hub.FalconCausalLM, "Gemma": hub.GemmaCausalLM,
    "Gemma 2": hub.GemmaCausalLM, "Gemma3 text": hub.Gemma3CausalLM,
    "Gemma3n text": hub.Gemma3nCausalLM, "Gemma4 text": hub.Gemma4CausalLM, "GPT2": hub.GPT2CausalLM,
    "GPTNeoX": hub.GPTNeoXCausalLM, "GptOss": hub.GptOssCausalLM, "Llama": hub.LlamaCausalLM,
    "Llama3": hub.Llama3CausalLM, "Mistral": hub.MistralCausalLM, "Mixtral": hub.MixtralCausalLM,
    "OPT": hub.OPTCausalLM, "Phi3": hub.Phi3CausalLM, "Qwen": hub.QwenCausalLM,
    "Qwen3": hub.Qwen3CausalLM, "Qwen3.5": hub.Qwen3_5CausalLM,
    "Qwen3.5 Moe": hub.Qwen3_5MoeCausalLM, "Qwen3 Moe": hub.Qwen3MoeCausalLM,
    "Qwen Moe": hub.QwenMoeCausalLM, "RWKV7": hub.RWKV7CausalLM, "SmolLM3": hub.SmolLM3CausalLM,
    "Bart": hub.BartSeq2SeqLM, "T5": hub.T5Seq2SeqLM, "T5Gemma": hub.T5GemmaSeq2SeqLM,
    "EdRec": hub.EdRecSeq2SeqLM,
}  # fmt: skip
"""The class of the task for the name of its backbone; the last four read a text first."""


def make(name: str) -> Any:
    """Return a language model without a preprocessor that takes the most likely token."""
    task = TASKS[name](backbone=hub_backbones.make(name), preprocessor=None)
    task.compile(sampler="greedy")
    return task


def prompt(task: Any, length: int = 8, given: int = 3) -> dict[str, Any]:
    """Return a prompt of two texts, padded with zeros to a length."""
    found = {}
    for name, tensor in task.input.items():
        data = np.zeros((2, length), "int32")
        if "position_ids" in name:
            data[:] = np.arange(length)
        elif "encoder" in name:
            data[:] = 1 if "mask" in name else np.arange(1, length + 1)
        elif "mask" in name:
            data[:, :given] = 1
        else:
            data[:, :given] = [[5, 6, 7], [8, 9, 3]]
        found[name] = data.astype(tensor.dtype)
    return found


def generated(task: Any) -> np.ndarray:
    """Return the tokens that a task generates, with those of the prompt.

    Not by `generate`, which without a preprocessor fails for some tasks on what it does afterwards.
    """
    out = task.make_generate_function()(prompt(task), stop_token_ids=None)
    return keras.ops.convert_to_numpy(out[_name_of_tokens(out)])


def one_by_one(task: Any, length: int = 8, given: int = 3) -> np.ndarray:
    """Return the tokens that the network gives one by one: without a cache, and without `generate`."""
    data = prompt(task, length, given)
    name = _name_of_tokens(data)
    mask = name.replace("token_ids", "padding_mask")
    for place in range(given, length):
        logits = keras.ops.convert_to_numpy(task(data, training=False))[:, place - 1]
        data[name][:, place] = logits.argmax(-1)
        data[mask][:, place] = 1
    return data[name]


def _name_of_tokens(data: dict[str, Any]) -> str:
    """Return the name of the tokens that are generated: of two, those of the decoder."""
    return min(name for name in data if name.endswith("token_ids"))
