"""`MultiHeadAttention` takes masks off what it reads: for all that runs later, masks are gone."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_graft as kg
from keras_graft.testing import assert_same_outputs


def make(early: bool) -> keras.Model:
    ids = keras.Input((4,), dtype="int32", name="ids")
    e = layers.Embedding(3, 3, mask_zero=True, name="embed")(ids)
    inner = keras.Input((4, 3), name="inner")
    y = layers.Add(name="add")([inner, layers.Dense(3, name="d")(inner)])
    nested = keras.Model(inner, y, name="nested")
    a = layers.MultiHeadAttention(1, 2, name="att")(layers.Dropout(0.1, name="drop")(e), e)
    if early:  # a longer way to the outputs: Keras runs it first
        a = layers.Dense(3, name="last")(layers.Dense(3, name="long")(a))
    y = layers.GlobalAveragePooling1D(name="mean")(nested(e))
    return keras.Model(ids, [y, a], name="m")


def test_a_model_that_puts_a_mask_on_again_stays_closed():
    model = make(early=True)
    words = (
        "'nested' cannot be opened: MultiHeadAttention 'att' removes the mask from what both read, and "
        "the model restores it for 'd' inside it"
    )
    for verb in (kg.inline, lambda m: kg.extract(m, "nested/d")):
        with pytest.raises(kg.EditError, match=words):
            verb(model)
    ids = np.array([[1, 2, 0, 0], [1, 0, 0, 0]])
    assert_same_outputs(model, kg.build(kg.read(model)), ids)


def test_a_model_before_the_attention_is_opened():
    model = make(early=False)
    flat = kg.inline(model)
    assert all(node.nested is None for node in kg.read(flat).nodes)
    assert_same_outputs(model, flat, np.array([[1, 2, 0, 0], [1, 0, 0, 0]]))
