"""Costs where the batch axis changes or moves, and where a layer holds another one: counted by hand."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_graft as kg


def counted(function, shape, batch=1):
    x = keras.Input(shape, name="x")
    return kg.costs(keras.Model(x, function(x)), batch=batch).total


def dense(x):
    return layers.Dense(7)(x)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "longer",
    [
        lambda x: ops.concatenate([x, x], axis=0),
        lambda x: layers.Concatenate(axis=0)([x, x]),
        lambda x: ops.tile(x, [2, 1]),
        lambda x: ops.repeat(x, 2, axis=0),
        lambda x: ops.relu(ops.repeat(x, 2, axis=0)),
        lambda x: ops.vstack([x, x]),
    ],
)
def test_ops_that_lengthen_the_batch_axis(longer, batch):
    assert counted(lambda x: dense(longer(x)), (6,), batch).multiply_adds == 2 * batch * 6 * 7


@pytest.mark.parametrize("batch", [1, 3])
def test_a_part_of_the_batch(batch):
    assert counted(lambda x: dense(x[:1, :]), (6,), batch).multiply_adds == 6 * 7


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "moved, times",
    [
        (lambda x: ops.transpose(x, (1, 0, 2)), 1),
        (lambda x: ops.swapaxes(x, 0, 1), 1),
        (lambda x: ops.expand_dims(x, 0), 1),
        (lambda x: ops.stack([x, x]), 2),
        (lambda x: ops.transpose(ops.transpose(x, (1, 0, 2)), (1, 0, 2)), 1),
    ],
)
def test_a_batch_axis_that_is_moved(moved, times, batch):
    total = counted(lambda x: dense(moved(x)), (5, 6), batch)
    assert total.multiply_adds == times * batch * 5 * 6 * 7


def test_a_batch_axis_that_is_moved_beside_an_open_length():
    total = counted(lambda x: dense(ops.transpose(x, (1, 0, 2))), (None, 6), 3)
    assert str(total.multiply_adds) == "126 x length"
    total = counted(lambda x: dense(ops.concatenate([x, x], axis=0)), (None, 6), 3)
    assert str(total.multiply_adds) == "252 x length"


def test_a_constant_with_a_batch():
    weights = np.ones((3, 6, 7), "float32")
    total = counted(lambda x: ops.matmul(x, weights), (5, 6))
    assert total.multiply_adds == 3 * 5 * 6 * 7


@pytest.mark.parametrize("merge_mode", ["concat", "sum", None])
@pytest.mark.parametrize("format, shape", [
    ("channels_last", (2, 8, 6, 4)), ("channels_first", (2, 4, 8, 6)),
])  # fmt: skip
@pytest.mark.parametrize("steps", [False, True])
def test_a_convolution_in_both_directions(merge_mode, format, shape, steps):
    given = dict(padding="same", data_format=format, return_sequences=steps)
    one = counted(lambda x: layers.ConvLSTM2D(3, 3, **given)(x), shape)
    both = layers.Bidirectional(layers.ConvLSTM2D(3, 3, **given), merge_mode=merge_mode)
    two = counted(both, shape)
    assert one.multiply_adds == 2 * 8 * 6 * 3 * 4 * 9 * (4 + 3)
    assert two.multiply_adds == 2 * one.multiply_adds


def test_an_attention_whose_result_has_several_axes():
    attention = layers.MultiHeadAttention(2, 4, output_shape=(3, 5))
    total = counted(lambda x: attention(x, x), (5, 16))
    assert total.multiply_adds == 3 * 5 * 16 * 8 + 2 * 5 * 5 * (4 + 4) + 5 * 8 * 15
