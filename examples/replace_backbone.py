"""Half a language model, and a deeper one: tasks of keras_hub around edited backbones."""

import warnings

import keras
import keras_hub
import numpy as np

import keras_graft as kg

keras.utils.set_random_seed(0)
backbone = keras_hub.models.GPT2Backbone(
    vocabulary_size=64,
    num_layers=4,
    num_heads=2,
    hidden_dim=16,
    intermediate_dim=32,
    max_sequence_length=16,
)
lm = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
lm.compile(sampler="greedy")
prompt = {
    "token_ids": np.array([[5, 6, 7, 8, 0, 0, 0, 0]]),
    "padding_mask": np.array([[1, 1, 1, 1, 0, 0, 0, 0]]),
}


def written(task: keras.Model) -> np.ndarray:
    """Return the tokens that a task writes."""
    return np.asarray(task.generate(prompt, stop_token_ids=None)["token_ids"])


# Half the depth: the same task, with the same weights, and every second block.
half = kg.remove(lm.backbone, ["transformer_layer_1", "transformer_layer_3"])
short = kg.replace_backbone(lm, half)
print(f"{type(short).__name__}: {lm.count_params():,} parameters, then {short.count_params():,}")
short.fit(prompt, prompt["token_ids"], verbose=0)

# A deeper one: a block runs twice, the second time with weights of its own.
deep = kg.repeat(lm.backbone, "transformer_layer_1", "transformer_layer_2", 2, weights="copy")
longer = kg.replace_backbone(lm, deep)
print(f"deeper: num_layers = {longer.backbone.num_layers}, writes {written(longer).shape}")

# A layer between two blocks is in no list of blocks: `generate` would skip it, so this is refused.
adapter = keras.layers.Dense(16, kernel_initializer="orthogonal", name="adapter")
with warnings.catch_warnings():
    warnings.simplefilter("ignore", kg.GraftWarning)  # it says so already
    between = kg.insert(lm.backbone, adapter, after="transformer_layer_1")
try:
    kg.replace_backbone(lm, between)
except kg.EditError as error:
    print(str(error).split(": it runs")[0])

# Two ways out: block and adapter as one layer, or the whole network for each token.
block = lm.backbone.get_layer("transformer_layer_1")
both = kg.layers.Then(block, adapter, name="both")
fast = kg.replace_backbone(lm, kg.replace(lm.backbone, "transformer_layer_1", both))
slow = kg.replace_backbone(lm, between, cache=False)
assert np.array_equal(written(fast), written(slow))
print("with the adapter inside a block, and without a cache: the same tokens")
