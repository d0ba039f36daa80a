"""Each rule against a count by hand, and every layer and op of Keras has a rule or a reason."""

import keras
import pytest
import rule_cases

import keras_graft as kg
from keras_graft.costs import find, other_layers
from keras_graft.costs.formula import Unknown
from keras_graft.costs.work import RULES
from keras_graft.look.costing import Costing


def model_of(function, shapes):
    inputs = [
        keras.Input(s[1:], dtype=s[0]) if isinstance(s[0], str) else keras.Input(s) for s in shapes
    ]
    return keras.Model(inputs, function(*inputs))


@pytest.mark.parametrize("case", rule_cases.CASES, ids=lambda case: case[0])
def test_multiply_adds_are_those_counted_by_hand(case):
    _, function, shapes, wanted, padding = case
    model = model_of(function, shapes)
    total = kg.costs(model).total
    assert (total.multiply_adds, total.at_least) == (wanted, ())
    assert padding is None or total.padding == padding
    assert kg.costs(model, batch=3).total.multiply_adds == 3 * wanted
    assert total.parameters == model.count_params()


@pytest.mark.once
def test_every_layer_of_keras_has_a_rule_or_a_reason():
    missing = [
        name
        for name, cls in vars(keras.layers).items()
        if isinstance(cls, type) and issubclass(cls, keras.Layer)
        and cls not in RULES and cls not in other_layers.OPENED
    ]  # fmt: skip
    assert not missing, f"no rule in keras_graft/costs for {missing}"
    assert all(rule.source for rule in RULES.values())


@pytest.mark.once
def test_every_op_of_keras_has_a_rule_or_a_reason():
    from keras_graft._keras import ops

    missing = [
        name for name in ops._ops() if name not in RULES and not name.startswith("operation.")
    ]
    assert not missing, f"no rule in keras_graft/costs for {missing}"


@pytest.mark.once
def test_a_subclass_with_code_of_its_own_is_opened_and_one_without_is_not():
    class Twice(keras.layers.Dense):
        def call(self, x):
            return super().call(x) + keras.ops.matmul(x, self.kernel)

    class Named(keras.layers.Dense):
        pass

    assert find.rule_of(Twice(3)) is None and find.rule_of(Named(3)) is RULES[keras.layers.Dense]
    x = keras.Input((4,))
    assert kg.costs(keras.Model(x, Twice(3)(x))).total.multiply_adds == 2 * 12


@pytest.mark.once
def test_code_is_counted_inside():
    class Block(keras.layers.Layer):
        def __init__(self, units, **kwargs):
            super().__init__(**kwargs)
            self.dense = keras.layers.Dense(units)
            self.scale = self.add_weight(shape=(units,), initializer="ones")

        def call(self, x):
            return (
                keras.ops.matmul(x, keras.ops.transpose(x, (0, 2, 1))) @ self.dense(x) * self.scale
            )

    class Odd(keras.layers.Layer):
        def call(self, x):
            if keras.ops.shape(x)[1] == 5 and float(keras.ops.convert_to_numpy(x)[0, 0, 0]):
                return x
            return x

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

    x = keras.Input((5, 4))
    found = kg.costs(keras.Model(x, Block(3)(x)))
    assert found.total.multiply_adds == 5 * 5 * 4 + 5 * 4 * 3 + 5 * 5 * 3
    assert found.total.operations == 5 * 3 + 5 * 3 and found.unknown == ()
    twice = keras.Model(x, Block(4)(Block(4)(x)))
    assert kg.costs(twice).total.multiply_adds == 2 * (100 + 80 + 100)
    odd = keras.Model(x, keras.layers.Dense(2)(Odd(name="odd")(x)))
    found = kg.costs(odd)
    assert found.total.multiply_adds == 40 and "multiply_adds" in found.total.at_least
    assert [name for name, _ in found.unknown] == ["odd"]
    assert found["odd"].multiply_adds is None and "at least 40 multiply-adds" in str(found)


@pytest.mark.once
@pytest.mark.parametrize("layer", [keras.layers.Resizing(4, 4), keras.layers.Hashing(3)], ids=str)
def test_what_no_rule_counts_is_not_known_and_has_a_reason(layer):
    rule = find.rule_of(layer)
    assert rule is not None and rule.source.startswith("unknown: ")
    with pytest.raises(Unknown, match="each backend|prepares data"):
        rule.count(None)


@pytest.mark.once
def test_adapters_are_multiplied_at_each_call():
    x = keras.Input((6, 5))
    model = keras.Model(x, keras.layers.Dense(4, name="d")(x))
    adapted = kg.lora(model, "d", rank=2)
    assert kg.costs(adapted).total.multiply_adds == 6 * 5 * 4 + 5 * 2 * 4
    model.get_layer("d").enable_lora(2)
    assert kg.costs(model).total.multiply_adds == 6 * 5 * 4 + 5 * 2 * 4


@pytest.mark.once
def test_layers_around_others_are_counted_as_these():
    x = keras.Input((6, 5))
    model = keras.Model(x, keras.layers.Dense(4, name="d")(x))
    assert kg.costs(kg.freeze(model)).total.multiply_adds == 120
    inner = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4), keras.layers.Dense(3)])
    model = keras.Model(x, keras.layers.TimeDistributed(inner)(x))
    assert kg.costs(model).total.multiply_adds == 6 * (20 + 12)

    class Cell(keras.layers.Layer):
        state_size = 4

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = keras.layers.Dense(4)

        def call(self, x, states):
            out = self.dense(keras.ops.concatenate([x, states[0]], axis=-1))
            return out, [out]

    assert kg.costs(keras.Model(x, keras.layers.RNN(Cell())(x))).total.multiply_adds == 6 * 9 * 4


@pytest.mark.once
def test_a_reshape_of_the_batch_is_followed():
    x = keras.Input((6, 4))
    rows = keras.ops.reshape(x, (-1, 2, 4))  # three rows a sample
    model = keras.Model(x, keras.layers.Dense(5)(rows))
    assert kg.costs(model).total.multiply_adds == 3 * 2 * 4 * 5
    graph = kg.read(model)
    assert Costing(graph, 2).of(graph.nodes).multiply_adds == 2 * 3 * 2 * 4 * 5
