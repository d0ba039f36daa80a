"""What a user keeps on a layer as a plain attribute: it is there afterwards, or prune refuses."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_graft as kg


def model(middle):
    x = keras.Input((4, 6), name="x")
    h = L.Dense(8, name="a")(x)
    return keras.Model(x, L.Dense(2, name="b")(middle(h)), name="m")


MIDDLE = {
    "a copy": lambda: L.Dense(8, name="mid"), "made again": lambda: L.LSTM(8, return_sequences=True, name="mid"),
    "itself": lambda: L.ReLU(name="mid"),
}  # fmt: skip


@pytest.mark.once
@pytest.mark.parametrize("kind", MIDDLE)
def test_attributes_of_a_user(kind):
    layer = MIDDLE[kind]()
    donor = model(layer)
    helper = keras.Sequential([keras.Input((3,)), L.Dense(2)], name="helper")
    table = np.arange(5)
    vars(layer).update(helper=helper, table=table, words="seen")
    for small in (kg.prune(donor, {"a": 0.5}), kg.widen(donor, {"a": 16})):
        new = small.get_layer("mid")
        assert new.helper is helper and new.words == "seen" and np.array_equal(new.table, table)
        assert small.count_params() == sum(int(np.prod(w.shape)) for w in small.weights)
    assert layer.helper is helper and layer.table is table


@pytest.mark.once
@pytest.mark.parametrize("kind", MIDDLE)
def test_an_array_of_the_channels_is_refused(kind):
    layer = MIDDLE[kind]()
    donor = model(layer)
    vars(layer)["mask"] = np.ones(8)
    with pytest.raises(kg.EditError) as caught:
        kg.prune(donor, {"a": 0.5})
    assert "'mid' keeps an array of shape (8,) in its attribute 'mask'" in str(caught.value)
    if kind == "itself":
        assert 'keep="mid"' in str(caught.value)
    with pytest.raises(kg.EditError, match=r"Set it after widen \(del layer.mask before\)\."):
        kg.widen(donor, {"a": 16})
    assert layer.mask.shape == (8,) and donor.get_layer("a").units == 8
    mask = vars(layer).pop("mask")  # the way out
    small = kg.prune(donor, {"a": 0.5})
    vars(small.get_layer("mid"))["mask"] = mask[:4]
