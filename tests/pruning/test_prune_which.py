"""prune: what is kept, how units are compared, and what stays of a layer."""

import keras
import numpy as np
import pytest
from exactness import end, found, of, units
from keras import layers as L
from keras import ops
from zeroed import channels_of, cleared, same, scrambled

import keras_graft as kg


def kept():
    x = keras.Input((4,), name="x")
    y = L.Add(name="add")([L.ReLU(name="relu")(units()(x)), L.Dense(6, name="b")(x)])
    inner = keras.Input((6,), name="inner")
    nested = keras.Model(inner, L.Dense(6, name="c")(inner), name="nested")
    return keras.Model(x, L.Dense(2, name="end")(nested(y)))


@pytest.mark.once
@pytest.mark.parametrize("keep", ["relu", "add", L.ReLU, "a", "b"])
def test_layers_that_pass_channels_are_kept(keep):
    with pytest.raises(kg.EditError, match="keep= names a layer of it"):
        kg.prune(kept(), {"a": 2}, keep=keep)
    assert kg.prune(kept(), {"**": 0.5}, keep=keep).get_layer("a").units == 6


@pytest.mark.once
def test_layers_inside_a_nested_model_are_kept():
    with pytest.raises(kg.EditError, match="keep= names a layer of it"):
        kg.prune(kept(), {"nested/c": 2}, keep="nested")
    assert kg.prune(kept(), {"a": 2}, keep="nested").get_layer("a").units == 4


@pytest.mark.once
@pytest.mark.parametrize("by", ["magnitude", "l2"])
def test_weights_that_are_no_numbers_are_not_compared(by):
    model = kept()
    kernel = np.ones((4, 6))
    kernel[0, 2] = np.nan
    model.get_layer("a").kernel.assign(kernel)
    with pytest.raises(kg.EditError, match=r"not finite numbers, in the units \[2\]"):
        kg.prune(model, {"a": 2}, by=by)
    assert kg.prune(model, {"a": [2]}).get_layer("a").units == 5


def test_scores_below_zero_keep_their_order():
    x = keras.Input((4,), name="x")
    y = L.Dense(6, name="low")(x)
    model = keras.Model(x, L.Dense(2, name="end")(L.Dense(6, name="high")(y)))
    value = {"low": -np.arange(1.0, 7.0), "high": np.arange(1.0, 7.0)}
    small = kg.prune(
        model, {L.Dense: 0.5}, by=lambda group: value[group.layer], scope="global", keep="end"
    )
    assert [small.get_layer(n).units for n in ("low", "high")] == [1, 5]


def test_one_frozen_variable_stays_frozen():
    model = kept()
    model.get_layer("a").kernel.trainable = False
    layer = kg.prune(model, {"a": 2}).get_layer("a")
    assert not layer.kernel.trainable and layer.bias.trainable


@pytest.mark.once
def test_adapters_of_keras_stop_a_group():
    x = keras.Input((4,), name="x")
    model = keras.Model(x, L.Dense(2, name="b")(units()(x)))
    model.get_layer("b").enable_lora(2)
    assert "it has LoRA adapters" in kg.group(model, "a").protected[0]
    with pytest.raises(kg.EditError, match=r"LoRA adapters: kg.merge_adapters\(.*first"):
        kg.prune(model, {"a": 2})


def test_one_channel_that_is_left_is_not_squeezed():
    x = keras.Input((4, 4, 2), batch_size=2, name="x")
    y = L.GlobalAveragePooling2D(keepdims=True)(L.Conv2D(6, 2, name="a")(x))
    model = scrambled(keras.Model(x, L.Dense(2, name="end")(ops.squeeze(y))))
    group = kg.group(model, "a")
    cleared(group, range(5))
    same(model, kg.prune(model, {"a": channels_of(group, range(5))}))


def test_cells_with_different_numbers_of_states():
    def states(x):
        cells = L.StackedRNNCells([L.LSTMCell(5), L.GRUCell(5)])
        y, *more = keras.tree.flatten(L.RNN(cells, return_state=True, name="a")(x))
        return L.Concatenate()([y, *(L.Dense(2, name=f"e{i}")(s) for i, s in enumerate(more))])

    model = of(lambda x: end(states(x)))
    group = found(model)
    assert group.free and not group.changes
    rows = {m.weight for m in group.members}
    assert "e2/kernel" in rows and "e1/kernel" not in rows  # h and c of the LSTM are e0 and e1


def test_a_rule_that_is_wrong_does_not_pass(monkeypatch):
    from keras_graft.pruning import registry

    x = keras.Input((4, 6), name="x")
    y = keras.layers.Dense(5, name="wide")(x)
    y = keras.layers.UnitNormalization(name="unit")(y)
    model = keras.Model(x, keras.layers.Dense(2, name="out")(y), name="m")

    def wrong(call):  # says that nothing behind the first Dense depends on it
        call.absorb(call.axis(call.x, -1))
        call.absorb(call.axis(call.y, -1))

    monkeypatch.setitem(registry.LAYERS, keras.layers.UnitNormalization, wrong)
    with pytest.raises(kg.GraftError, match="keep='unit'|keep='out'"):
        kg.prune(model, {"wide": 2})
