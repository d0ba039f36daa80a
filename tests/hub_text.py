"""Tiny keras_hub backbones that read text, by name: each of few layers and a vocabulary of 24."""

from __future__ import annotations

from typing import Any

import keras_hub

hub = keras_hub.models

TOKENS: dict[str, Any] = {"vocabulary_size": 24, "num_layers": 2}
PLAIN = TOKENS | {"num_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}
"""A transformer with as many keys as queries."""
GROUPED = TOKENS | {
    "num_query_heads": 4, "num_key_value_heads": 2, "hidden_dim": 16, "intermediate_dim": 12,
}  # fmt: skip
"""Two queries share a key and a value."""
LONG = {"max_sequence_length": 16}


def albert():
    return hub.AlbertBackbone(**PLAIN, **LONG, embedding_dim=6, num_groups=1)


def bart():
    return hub.BartBackbone(**PLAIN, **LONG)


def bert():
    return hub.BertBackbone(**PLAIN, **LONG)


def bloom():
    return hub.BloomBackbone(**PLAIN)


def deberta():
    return hub.DebertaV3Backbone(**PLAIN, **LONG, bucket_size=4)


def distilbert():
    return hub.DistilBertBackbone(**PLAIN, **LONG)


def edrec():
    return hub.EdRecBackbone(
        vocab_size=24, num_layers_enc=2, num_layers_dec=2, hidden_dim=8, intermediate_dim=12,
        num_heads=2,
    )  # fmt: skip


def electra():
    config = {key: value for key, value in PLAIN.items() if key != "vocabulary_size"}
    return hub.ElectraBackbone(**config, **LONG, vocab_size=24, embedding_dim=6)


def esm():
    return hub.ESMBackbone(**PLAIN, **LONG)


def fnet():
    config = {key: value for key, value in PLAIN.items() if key != "num_heads"}
    return hub.FNetBackbone(**config, **LONG)


def falcon():
    config = {key: value for key, value in PLAIN.items() if key != "num_heads"}
    return hub.FalconBackbone(**config, num_attention_heads=2)


def gemma():
    return hub.GemmaBackbone(**GROUPED, head_dim=4)


def gemma2():
    return hub.GemmaBackbone(
        **GROUPED, head_dim=4, query_head_dim_normalize=False, use_post_ffw_norm=True,
        use_post_attention_norm=True, attention_logit_soft_cap=50.0, final_logit_soft_cap=30.0,
        use_sliding_window_attention=True, sliding_window_size=4,
    )  # fmt: skip


def gemma3_text():
    return hub.Gemma3Backbone(
        **GROUPED, image_size=None, head_dim=4, use_sliding_window_attention=True,
        sliding_window_size=4,
    )  # fmt: skip


def gemma3n_text():
    return hub.Gemma3nBackbone(
        text_vocab_size=24, text_hidden_size=8, num_hidden_layers=2, pad_token_id=0,
        num_attention_heads=2, num_key_value_heads=1, head_dim=4, intermediate_size=[12, 12],
        hidden_activation="gelu_approximate", layer_types=["full_attention", "sliding_attention"],
        sliding_window=4, rope_theta=10000.0, max_position_embeddings=16,
        vocab_size_per_layer_input=24, hidden_size_per_layer_input=2, altup_num_inputs=2,
        laurel_rank=1,
    )  # fmt: skip


def gemma4_text():
    return hub.Gemma4Backbone(
        **GROUPED, image_size=None, head_dim=4, sliding_window_size=4, sliding_window_pattern=2,
    )  # fmt: skip


def gpt2():
    return hub.GPT2Backbone(**PLAIN, **LONG)


def gpt_neo_x():
    return hub.GPTNeoXBackbone(**PLAIN, **LONG, rotary_percentage=0.5)


def gpt_oss():
    return hub.GptOssBackbone(**GROUPED, num_experts=3, top_k=2, sliding_window=4)


def llama():
    return hub.LlamaBackbone(**GROUPED)


def llama3():
    return hub.Llama3Backbone(**GROUPED)


def mistral():
    return hub.MistralBackbone(**GROUPED, sliding_window=4)


def mixtral():
    return hub.MixtralBackbone(**GROUPED, num_experts=3, top_k=2, sliding_window=4)


def opt():
    return hub.OPTBackbone(**PLAIN, **LONG)


def phi3():
    return hub.Phi3Backbone(**GROUPED)


def qwen():
    return hub.QwenBackbone(**GROUPED)


def qwen3():
    return hub.Qwen3Backbone(**GROUPED, head_dim=4)


def qwen3_5():
    return hub.Qwen3_5Backbone(
        **GROUPED, head_dim=4, layer_types=["linear_attention", "full_attention"],
        partial_rotary_factor=0.5, linear_num_key_heads=2, linear_num_value_heads=2,
        linear_key_head_dim=4, linear_value_head_dim=4,
    )  # fmt: skip


def qwen3_5_moe():
    config = {key: value for key, value in GROUPED.items() if key != "intermediate_dim"}
    return hub.Qwen3_5MoeBackbone(
        **config, head_dim=4, moe_intermediate_dim=6, shared_expert_intermediate_size=6,
        num_experts=3, top_k=2, layer_types=["linear_attention", "full_attention"],
        partial_rotary_factor=0.5, linear_num_key_heads=2, linear_num_value_heads=2,
        linear_key_head_dim=4, linear_value_head_dim=4,
    )  # fmt: skip


def qwen3_moe():
    return hub.Qwen3MoeBackbone(
        **GROUPED, moe_intermediate_dim=6, num_experts=3, head_dim=4, top_k=2
    )


def qwen_moe():
    return hub.QwenMoeBackbone(
        **GROUPED, moe_intermediate_dim=6, shared_expert_intermediate_dim=6, num_experts=3, top_k=2
    )


def roberta():
    return hub.RobertaBackbone(**PLAIN, **LONG)


def roformer():
    return hub.RoformerV2Backbone(**PLAIN, head_size=4)


def rwkv7():
    return hub.RWKV7Backbone(
        hidden_size=8, head_size=4, num_layers=2, vocabulary_size=24, intermediate_dim=12,
        gate_lora=4, mv_lora=4, aaa_lora=4, decay_lora=4,
    )  # fmt: skip


def smollm3():
    return hub.SmolLM3Backbone(
        vocabulary_size=24, hidden_dim=16, intermediate_dim=12, num_layers=2, num_attention_heads=4,
        num_key_value_heads=2, attention_bias=False, attention_dropout=0.0,
        rope_layer_enabled_list=[True, False], layer_types=["full_attention"] * 2, mlp_bias=False,
        layer_norm_epsilon=1e-5, max_position_embeddings=16, rope_theta=10000.0,
        partial_rotary_factor=1.0,
    )  # fmt: skip


def t5():
    return hub.T5Backbone(**PLAIN)


_SIDE = {
    "hidden_dim": 8, "intermediate_dim": 12, "num_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 4, "layer_types": ["full_attention", "sliding_attention"],
}  # fmt: skip
SIDES = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in _SIDE.items()}


def t5gemma():
    return hub.T5GemmaBackbone(vocabulary_size=24, **SIDES, sliding_window=4)


def t5gemma2():
    return hub.T5Gemma2Backbone(vocabulary_size=24, **SIDES, sliding_window=4)


def xlm_roberta():
    return hub.XLMRobertaBackbone(**PLAIN, **LONG)


def xlnet():
    return hub.XLNetBackbone(**PLAIN)


MAKERS = {
    "Albert": albert, "Bart": bart, "Bert": bert, "Bloom": bloom, "DebertaV3": deberta,
    "DistilBert": distilbert, "EdRec": edrec, "Electra": electra, "ESM": esm, "FNet": fnet,
    "Falcon": falcon, "Gemma": gemma, "Gemma 2": gemma2, "Gemma3 text": gemma3_text,
    "Gemma3n text": gemma3n_text, "Gemma4 text": gemma4_text, "GPT2": gpt2, "GPTNeoX": gpt_neo_x,
    "GptOss": gpt_oss, "Llama": llama, "Llama3": llama3, "Mistral": mistral, "Mixtral": mixtral,
    "OPT": opt, "Phi3": phi3, "Qwen": qwen, "Qwen3": qwen3, "Qwen3.5": qwen3_5,
    "Qwen3.5 Moe": qwen3_5_moe, "Qwen3 Moe": qwen3_moe, "Qwen Moe": qwen_moe, "Roberta": roberta,
    "RoformerV2": roformer, "RWKV7": rwkv7, "SmolLM3": smollm3, "T5": t5, "T5Gemma": t5gemma,
    "T5Gemma2": t5gemma2, "XLMRoberta": xlm_roberta, "XLNet": xlnet,
}  # fmt: skip
