"""Half a language model, and a deeper one: tasks of keras_hub around edited backbones."""

import keras
import keras_hub
import numpy as np

import keras_graft as kg

keras.utils.set_random_seed(0)
backbone = keras_hub.models.GPT2Backbone(
    vocabulary_size=64,
    num_layers=6,
    num_heads=2,
    hidden_dim=32,
    intermediate_dim=64,
    max_sequence_length=16,
)
lm = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
lm.compile(optimizer=keras.optimizers.Adam(3e-3), sampler="greedy")

# Texts in which each token is the one before plus three.
starts = np.random.default_rng(0).integers(1, 63, (64, 1))
texts = (starts + 3 * np.arange(13)) % 63 + 1
data = {"token_ids": texts[:, :-1], "padding_mask": np.ones((64, 12), "int32")}
lm.fit(data, texts[:, 1:], epochs=30, verbose=0)

prompt = {
    "token_ids": np.pad(texts[:4, :4], ((0, 0), (0, 8))),
    "padding_mask": np.pad(np.ones((4, 4), "int32"), ((0, 0), (0, 8))),
}


def right(task: keras.Model) -> float:
    """Return how many of the tokens that a task writes are right."""
    tokens = np.asarray(task.generate(prompt, stop_token_ids=None)["token_ids"])
    return float((tokens[:, 4:] == texts[:4, 4:12]).mean())


before = right(lm)
print(f"six blocks: {before:.0%} of the tokens are right")

# Half the depth: the same task, the same weights, every second block.
half = kg.remove(lm.backbone, [f"transformer_layer_{i}" for i in (1, 3, 5)])
short = kg.replace_backbone(lm, half)
print(f"three blocks: {type(short).__name__}, {short.count_params():,} parameters")
short.fit(data, texts[:, 1:], epochs=10, verbose=0)
print(f"three blocks, trained on for ten epochs: {right(short):.0%}")

# A deeper one: two blocks run twice, with weights of their own.
deep = kg.repeat(lm.backbone, "transformer_layer_2", "transformer_layer_4", 2, weights="copy")
longer = kg.replace_backbone(lm, deep)
print(f"eight blocks: num_layers = {longer.backbone.num_layers}")

# A layer between two blocks is in no list: `generate` would skip it, so this is refused.
adapter = keras.layers.Dense(32, kernel_initializer="identity", name="adapter")
between = kg.insert(lm.backbone, adapter, after="transformer_layer_1")
try:
    kg.replace_backbone(lm, between)
except kg.EditError as error:
    print(str(error).split(": it runs")[0])
slow = kg.replace_backbone(lm, between, cache=False)  # the whole network for each token
print(f"without a cache: {'equal' if right(slow) == right(lm) else 'different'}")
