"""prune inside the blocks of keras_hub, which are opened where a group reaches them."""

import keras
import numpy as np
import pytest
from donor import THOROUGH
from zeroed import channels_of, cleared, scrambled, some_of

import keras_graft as kg

hub = pytest.importorskip("keras_hub")
SIZES = {
    "vocabulary_size": 20, "num_layers": 2, "num_heads": 2, "hidden_dim": 8,
    "intermediate_dim": 16, "max_sequence_length": 8,
}  # fmt: skip
CASES = [
    ("GPT2Backbone", "transformer_layer_0/self_attention", 1300),
    ("GPT2Backbone", "transformer_layer_1/feedforward_intermediate_dense", 1355),
    ("BertBackbone", "transformer_layer_0/self_attention_layer", 1388),
    ("BertBackbone", "transformer_layer_1/feedforward_intermediate_dense", 1443),
]


@pytest.mark.skipif(not THOROUGH, reason="on PyTorch")
@pytest.mark.parametrize(("name", "layer", "parameters"), CASES)
def test_units_that_do_nothing(name, layer, parameters, tmp_path):
    model = scrambled(getattr(hub.models, name)(**SIZES))
    group = kg.group(model, layer)
    units = some_of(group)
    assert units and not group.changes
    cleared(group, units)
    small = kg.prune(model, {layer: channels_of(group, units)})
    assert type(small) is not keras.Model and isinstance(small, getattr(hub.models, name))
    assert small.count_params() == parameters
    given = {key: np.ones((2, 6), "int32") for key in small.input}
    want = keras.tree.flatten(model(given))
    small.save(tmp_path / "small.keras")
    again = keras.saving.load_model(tmp_path / "small.keras")
    for found in (small(given), again(given)):
        for a, b in zip(want, keras.tree.flatten(found), strict=True):
            a, b = keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b)
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.once
def test_the_width_is_an_output():
    group = kg.group(hub.models.GPT2Backbone(**SIZES), "token_embedding")
    assert not group.free
    assert "is an output of the model" in str(group)
