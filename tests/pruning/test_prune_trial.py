"""What a wrong rule would make is never given out: each call that changes is tried, or is like one."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_graft as kg
from keras_graft.pruning.smaller import Smaller


def network():
    """Several calls of one configuration, with other numbers of channels each."""
    x = keras.Input((12, 12, 3), name="x")
    y = x
    for i, (filters, size) in enumerate([(8, 3), (8, 3), (10, 3), (12, 1), (16, 1)]):
        y = layers.Conv2D(filters, size, padding="same", name=f"conv{i}")(y)
        y = layers.BatchNormalization(name=f"bn{i}")(y)
        y = layers.ReLU(name=f"relu{i}")(y)
        if i == 2:
            y = layers.MaxPooling2D(name="pool")(layers.ZeroPadding2D(name="pad")(y))
    y = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(y)
    y = layers.SeparableConv2D(6, 3, name="separable")(y)
    y = layers.Conv2D(12, 1, groups=2, name="grouped")(y)
    y = layers.GlobalAveragePooling2D(name="mean")(y)
    for i, units in enumerate([10, 10, 14]):
        y = layers.Dense(units, activation="relu", name=f"dense{i}")(y)
    return keras.Model(x, layers.Dense(4, name="end")(y), name="network")


def changed():
    model = network()
    new = kg.prune(model, {"**": 0.5})
    pairs = zip(model.variables, new.variables, strict=True)
    return [
        (i, axis)
        for i, (old, now) in enumerate(pairs)
        for axis in range(len(old.shape))
        if old.shape[axis] != now.shape[axis]
    ]


@pytest.mark.parametrize("more", [False, True], ids=["one channel too few", "the channels it had"])
def test_a_weight_of_another_size_is_refused(more, monkeypatch):
    taken = Smaller._taken
    places = changed()
    assert len(places) > 50
    for i, axis in places:
        model = network()
        wrong = model.variables[i]

        def other(self, source, array, axis=axis, wrong=wrong):
            right = taken(self, source, array)
            if source is not wrong or right is array:
                return right
            if more:
                size = array.shape[axis]
                return np.take(right, np.arange(size) % right.shape[axis], axis)
            return np.take(right, np.arange(right.shape[axis] - 1), axis)

        monkeypatch.setattr(Smaller, "_taken", other)
        with pytest.raises(kg.GraftError, match="Please report it, with the layer's class"):
            kg.prune(model, {"**": 0.5})
            pytest.fail(f"{wrong.path}, axis {axis}")
