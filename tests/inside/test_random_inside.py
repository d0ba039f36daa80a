"""Random models, looked into: what is recorded, patched back and differentiated."""

import gc

import keras
import numpy as np
from donor import arrays, donor_nodes, equal
from hypothesis import given
from hypothesis import strategies as st
from inside_by_hand import gradient_by_hand
from strategies import examples, interpret, plans

import keras_graft as kg
from keras_graft.graph.select import everything
from keras_graft.testing import random_inputs


def values_of(graph):
    return [*graph.inputs, *(v for n in everything(graph) for v in n.values)]


def recorded(graph, x, values):
    """Return what is recorded of the values; those that a file of Keras cannot open are left out."""
    try:
        return kg.record(graph, x, values)
    except kg.EditError as error:
        assert "cannot be opened" in str(error)
        return None


@examples(torch=60, others=15)
@given(plans())
def test_recording_everything_equals_extracting_one_by_one(plan):
    model = interpret(plan)
    gc.collect()
    nodes = donor_nodes(model)
    x = random_inputs(model, 3)
    graph = kg.read(model)
    values = values_of(graph)
    found = recorded(graph, x, values)
    if found is None:
        return
    assert list(found) == [v.path for v in values]
    for value in values:
        equal(found[value.path], kg.build(kg.extract(graph, value))(x, training=False))
    gc.collect()
    assert donor_nodes(model) == nodes


def as_list(x, structure, given):
    if isinstance(structure, dict):
        return {**x, "given": given}
    return [*x, given] if isinstance(structure, list | tuple) else [x, given]


@examples(torch=60, others=15)
@given(plans(), st.data())
def test_a_recorded_value_that_is_patched_back_changes_nothing(plan, data):
    model = interpret(plan)
    x = random_inputs(model, 3)
    graph = kg.read(model)
    value = data.draw(st.sampled_from([v for v in values_of(graph) if v.spec.shape]))
    found = recorded(graph, x, [value])
    if found is None:
        return
    tensor = found[value.path]
    try:
        patched = kg.build(kg.patch(graph, {value: tensor}))
        asked = kg.build(kg.patch(graph, {value: kg.Given("given")}))
    except kg.EditError as error:
        assert "mask" in str(error) or "cannot be opened" in str(error) or "is used" in str(error)
        return
    equal(model(x, training=False), patched(x, training=False))
    inputs = as_list(x, model.input, tensor)
    equal(model(x, training=False), asked(inputs, training=False))
    assert {id(w) for w in patched.weights} == {id(w) for w in model.weights}


@examples(torch=60, others=10)
@given(plans(), st.data())
def test_a_gradient_equals_that_of_an_input_that_is_added(plan, data):
    model = interpret(plan)
    x = random_inputs(model, 3)
    graph = kg.read(model)
    values = [v for v in values_of(graph) if v.spec.shape and "float" in v.spec.dtype]
    value = data.draw(st.sampled_from(values))

    def total(outputs):
        floats = [t for t in keras.tree.flatten(outputs) if "float" in str(t.dtype)]
        return sum((keras.ops.sum(keras.ops.tanh(t)) for t in floats), start=keras.ops.zeros(()))

    add = kg.Given("given", lambda tensor, given: tensor + given)
    try:
        found = kg.gradients(graph, x, value, of=total)
        shifted = kg.build(kg.patch(graph, {value: add}))
    except kg.EditError as error:
        assert "mask" in str(error) or "cannot be opened" in str(error) or "is used" in str(error)
        return
    except kg.RunError as error:
        assert "no output of" in str(error) or "does not require grad" in str(error)
        return
    zeros = keras.ops.zeros_like(found.activations)

    def run(given):
        return total(shifted(as_list(x, model.input, given), training=False))

    (tensor,) = arrays(found.values)
    by_hand = gradient_by_hand(run, zeros)
    np.testing.assert_allclose(tensor, by_hand, rtol=1e-4, atol=1e-6)
    assert tensor.shape == tuple(found.activations.shape)
    equal(found.outputs, model(x, training=False))
