"""Models with a layer "a", and whether what `kg.group` says of its units is true."""

import keras
import numpy as np
import pytest
from keras import layers as L
from zeroed import channels_of, cleared, same, scrambled, some_of

import keras_graft as kg


def of(function, shape=(4, 4)):
    x = keras.Input(shape, name="x")
    return scrambled(keras.Model(x, function(x)))


def end(y):
    return L.Dense(2, name="end")(L.Flatten(name="flat")(y))


def units(n=6, **more):
    return L.Dense(n, name="a", **more)


def tokens(x):
    """Units of a layer as the tokens of a sequence."""
    return L.Permute((2, 1))(units()(x))


def found(model):
    """Return the group of "a", after what it says is seen to be true: exact, noted or protected."""
    group = kg.group(model, "a")
    free = some_of(group)
    if not free:
        with pytest.raises(kg.EditError, match="cannot be pruned"):
            kg.prune(model, {"a": 1})
        return group
    cleared(group, free)
    small = kg.prune(model, {"a": channels_of(group, free)})
    if group.changes:
        x = np.ones((2, *model.input_shape[1:]), "float32")
        assert small(x).shape == model(x).shape
        with pytest.raises(AssertionError):
            same(model, small)  # a note where nothing changes would be wrong too
    else:
        same(model, small)
    return group
