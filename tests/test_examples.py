"""The examples run and print what they promise; those that train for long are run by `make test`."""

import runpy
from pathlib import Path

import pytest
from architectures import cheap_weights

EXAMPLES = Path(__file__).parent.parent / "examples"
WORDS = {
    "share_a_layer": "whole 72 parameters, trunk 72, head 72: the same ones",
    "model_as_a_layer": "encoder#1/hidden",
    "intermediate_outputs": "Nearest: 'expanded_conv_4_add'",
    "cut_in_the_middle": "'conv4_block2_out', needed by 'conv4_block3_1_conv', 'conv4_block3_add'",
    "another_input": 'kg.submodel(model, outputs="last_pool")',
    "recipe_swap_activation": "49 layers exchanged, 16 with trained values kept",
    "recipe_norm_swap": "bn_Conv1: 8 groups of 32 channels",
    "rewrite": "['image', 'conv3']",
    "recipe_fold_batchnorm": "kept: it reads 'pool' (MaxPooling2D)",
    "recipe_add_adapters": "6 adapters: 5,896 parameters train, of 1,539,964",
    "recipe_add_dropout": "the same predictions, to the bit",
    "recipe_new_head": 'at="global_average_pooling2d',
    "prune": "9,908 -> 2,652 parameters",
    "smaller_and_larger": "outputs differ by less than 0.0001: True",
    "recipe_unet": "decoder2_concat: (19, 19, 32) and (19, 19, 144)",
    "lora": "merged: the parameters of the network, and no others",
    "costs": "300,774,272 multiply-adds",
    "stages": "EfficientNetB0: strides [2, 4, 8, 16, 32]",
    "features_store": "joined, it gives what the head gave on the store",
    "transplant": "predictions/kernel  (1280, 10)     (1280, 4)      classes(3 kept, 1 new)",
    "carry_optimizer": "a model that was not edited trains on as it would have: True",
    "fine_tune": "saved and loaded: ",
    "unfreeze": "steps: 12 at 0.01 and less",
    "clone_a_model": "fresh weights of one seed are equal: True",
    "cross_reference": "out/kernel  embedding/embeddings  transpose",
    "share_and_unshare": "67,722 parameters, with one attention layer 17,802",
    "torch_weights": "the same outputs after training with Keras: True",
    "show_a_network": "BatchNormalization, Conv2D, Add x 6  repeat, 18 nodes  ",
    "replay_steps": "replayed on the second checkpoint, equal to the bit: True",
    "look_inside": "without 16 of Grad-CAM's pixels, the class loses ",
    "path_patching": "found: head 2 of block 1; planted: head 2 of block 1",
    "replace_backbone": "without a cache: the same tokens",
    "join_models": "head of the second: equal to the bit",
}


def test_every_example_is_tested():
    assert {p.stem for p in EXAMPLES.glob("*.py")} == {
        *WORDS, "digits", "photographs", "masked_language_model", "prune_and_tune",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(WORDS))
def test_example(name, capsys):
    with cheap_weights():
        runpy.run_path(str(EXAMPLES / f"{name}.py"))
    assert WORDS[name] in capsys.readouterr().out
