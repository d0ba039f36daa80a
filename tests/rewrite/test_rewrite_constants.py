"""Constants and arguments of calls: which are the same, and which go without saying."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_graft as kg


def numpy(x):
    return ops.convert_to_numpy(x)


def found(model, pattern, **wildcards):
    return [m.path for m in kg.matches(model, pattern, **wildcards)]


def over(function, shape=(4,), dtype="float32"):
    x = keras.Input(shape, name="x", dtype=dtype)
    return keras.Model(x, function(x), name="over")


def test_each_match_gets_its_own_constant():
    a = np.ones(2000, "float32")
    b = a.copy()
    b[1000] = 7  # both print as [1. 1. ... 1. 1.]
    x = keras.Input((2000,), name="x")
    model = keras.Model(x, ops.multiply(layers.ReLU()(ops.multiply(x, a)), b))
    given = []

    def put(x, c):
        given.append(c)
        return ops.multiply(x, ops.convert_to_tensor(c))

    new = kg.rewrite(model, lambda x, c: x * c, put, c=lambda v: True)
    assert [c[1000] for c in given] == [1, 7]
    data = np.full((1, 2000), 2, "float32")
    np.testing.assert_array_equal(numpy(new(data)), numpy(model(data)))


def test_a_whole_number_and_a_float_are_two_constants_of_matches():
    model = over(lambda x: ops.multiply(layers.ReLU()(ops.multiply(x, 1)), 1.0))
    kinds = []

    def put(x, c):
        kinds.append(type(c))
        return ops.multiply(x, c)

    kg.rewrite(model, lambda x, c: x * c, put, c=(int, float))
    assert kinds == [int, float]


@pytest.mark.parametrize(
    "dtype, here, wanted, same",
    [
        ("int32", 1000001, 1000000, False),
        ("int32", 1000001, 1000001, True),
        ("float32", 2, 2.0, True),
        ("float32", 0.1, np.float32(0.1), True),
        ("float32", 0.1, 0.1000001, False),  # 13 steps of float32
        ("float32", 0.1, 0.1 + 1e-12, True),
        ("float64", 0.1, 0.1 + 1e-12, False),
        ("float64", 0.1, 0.1, True),
        ("float32", 1e300, 1e301, True),  # both are infinite there
    ],
)
def test_numbers_are_compared_as_the_graph_computes_with_them(dtype, here, wanted, same):
    model = over(lambda x: ops.multiply(x, here), dtype=dtype)
    assert len(found(model, lambda x: ops.multiply(x, wanted))) == same


def test_variables_are_constants_by_identity():
    a, b = keras.Variable(1.0), keras.Variable(1.0)
    twice = lambda x, c: ops.relu(x * c) * c  # noqa: E731
    for other, count in ((b, 0), (a, 1)):
        model = over(lambda x: ops.relu(x * a) * other)  # noqa: B023
        assert len(kg.matches(model, twice, c=lambda v: True)) == count


class Half(layers.Layer):
    """Has arguments with defaults of all kinds."""

    def call(self, x, scale=2.0, parts=1, sizes=None):
        x = x if scale is None else x * scale
        return x * (sum(parts) if isinstance(parts, list) else parts) * len(sizes or [1])


@pytest.mark.parametrize(
    "given, says",
    [
        ({}, False),
        ({"scale": 2.0}, False),
        ({"parts": 1, "sizes": None}, False),
        ({"scale": None}, True),
        ({"parts": [1, 1]}, True),
        ({"sizes": [None, None]}, True),
    ],
)
def test_an_argument_goes_without_saying_where_it_is_the_default(given, says):
    model = over(lambda x: Half(name="half")(x, **given))
    kinds = {"s": Half}
    assert len(found(model, lambda x, s: s(x), **kinds)) == (not says)
    assert len(found(model, lambda x, s: s(x, **given), **kinds)) == 1
    assert len(found(model, lambda x, s: s(x, **dict.fromkeys(given, ...)), **kinds)) == 1


def test_none_is_an_argument_where_there_is_no_default():
    class Free(layers.Layer):
        def call(self, x, **given):
            return x * len(given)

    model = over(lambda x: Free(name="free")(x, more=None))
    assert found(model, lambda x, s: s(x), s=Free) == []
    assert found(model, lambda x, s: s(x, more=None), s=Free) == ["free"]
    model = over(lambda x: Free(name="free")(x))
    assert found(model, lambda x, s: s(x, more=None), s=Free) == []


def test_a_list_of_one_tensor_is_that_tensor_for_a_functional_model_alone():
    class Last(layers.Layer):
        def call(self, xs):
            return xs[-1] * 2

    assert found(over(lambda x: Last(name="last")([x])), lambda x, s: s(x), s=Last) == []
    assert found(over(lambda x: Last(name="last")([x])), lambda x, s: s([x]), s=Last) == ["last"]
    x = keras.Input((4,))
    inner = keras.Model(x, layers.ReLU()(x), name="inner")
    assert found(over(lambda x: inner([x])), lambda x, s: s(x), s=inner) == ["inner"]


def test_the_mask_of_another_tensor_does_not_go_without_saying():
    x, y = (keras.Input((5, 3), name=name) for name in "xy")
    a, b = layers.Masking(name="a")(x), layers.Masking(2.0, name="b")(y)
    attention = layers.MultiHeadAttention(1, 2, name="attention")
    own = keras.Model([x, y], attention(a, b))
    assert found(own, lambda x, y, s: s(x, y), s=attention) == ["attention"]
    given = keras.Model([x, y], attention(a, b, query_mask=b._keras_mask))
    assert found(given, lambda x, y, s: s(x, y), s=attention) == []


def test_dots_in_an_index_are_a_part_of_it():
    model = over(lambda x: x[..., 0])
    assert found(model, lambda x: x[...]) == []
    assert len(found(model, lambda x: x[..., 0])) == 1
    assert len(found(model, lambda x, k: x[k], k=lambda key: True)) == 1
