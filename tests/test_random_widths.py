"""Random edits in front of layers that lie about their shapes: true, or refused and nothing changed."""

import keras
import numpy as np
from hypothesis import given
from strategies import examples
from width_changes import LENGTH, changed, interpret, plans

import keras_graft as kg


def numbers(structure):
    return [keras.ops.convert_to_numpy(t) for t in keras.tree.flatten(structure)]


def data(model):
    shape = [d or LENGTH for d in model.input.shape[1:]]
    return np.random.default_rng(0).standard_normal((2, *shape)).astype("float32")


@examples(torch=10, others=10)
@given(plans())
def test_what_is_announced_is_given(plan):
    donor = interpret(plan)
    x, config = data(donor), donor.get_config()
    weights, outputs = numbers(donor.weights), numbers(donor(x))
    model = donor
    for what in plan["changes"]:
        try:
            model = changed(model, what)
        except kg.GraftError as error:
            assert str(error)
            continue
        given = keras.tree.flatten(model(data(model)))
        for said, tensor in zip(model.outputs, given, strict=True):
            pairs = zip((2, *said.shape[1:]), tensor.shape, strict=True)
            assert all(a in (None, b) for a, b in pairs), (said, tensor.shape)
            assert said.dtype == keras.backend.standardize_dtype(tensor.dtype)
    assert donor.get_config() == config
    for before, now in ((weights, donor.weights), (outputs, donor(x))):
        for a, b in zip(before, numbers(now), strict=True):
            assert np.array_equal(a, b)
