"""Random models with clashing names, calls that differ, several outputs and dicts, under the verbs."""

import keras
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples
from strategies_calls import call_plans, interpret

import keras_graft as kg
from keras_graft.graph.walk import pruned
from keras_graft.testing import assert_same_graph, random_inputs

bounded = examples(torch=18, others=6)


def numpy(structure):
    return [keras.ops.convert_to_numpy(t) for t in keras.tree.flatten(structure)]


def equal(left, right):
    keras.tree.assert_same_structure(left, right)
    for a, b in zip(numpy(left), numpy(right), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert np.array_equal(a, b, equal_nan=True), f"differs by {np.abs(a - b).max()}"


def true_specs(model, x):
    """Assert that a model gives the shapes that it announces."""
    given = keras.tree.flatten(model(x))
    for said, tensor in zip(model.outputs, given, strict=True):
        assert all(a in (None, b) for a, b in zip(said.shape, tensor.shape, strict=True))


@examples(torch=30, others=6)
@given(call_plans(), st.data())
def test_flat_models_call_as_the_nested_ones_did(plan, data):
    model = interpret(plan)
    graph = kg.read(model)
    x = random_inputs(model, 3)
    inner = data.draw(st.lists(st.sampled_from(graph.nodes), min_size=1, max_size=2))
    inner = [node for node in inner if node.nested is not None]
    results = [kg.inline(graph)] + ([kg.inline(graph, inner)] if inner else [])
    for flat in results:
        built = kg.build(flat)
        equal(model(x), built(x))
        true_specs(built, x)
        assert {id(w) for w in built.weights} <= {id(w) for w in model.weights}
        # What no output needs has names in `flat`, which number others there.
        needed = pruned(flat)
        assert_same_graph(needed, kg.build(needed), same_layers=True)
        equal(model(x), kg.build(kg.read(built))(x))
    copied = kg.build(results[0], weights="copy")
    equal(model(x), copied(x))
    assert not {id(w) for w in copied.weights} & {id(w) for w in model.weights}
    assert kg.diff(model, kg.build(results[0])).other_outputs == ()


@bounded
@given(call_plans(), st.data())
def test_any_value_is_given_out_and_cut_at(plan, data):
    model = interpret(plan)
    flat = kg.inline(model) if data.draw(st.booleans()) else model
    graph = kg.read(flat)
    x = random_inputs(model, 3)
    values = [v for n in kg.select(graph, "**").nodes for v in n.values]
    taps = data.draw(st.lists(st.sampled_from(values), min_size=1, max_size=3, unique_by=id))
    given = kg.extract(flat, taps)
    true_specs(given, x)
    found = given(x)
    assert set(found) == {v.path for v in taps}
    boundary = taps[0] if len(taps) == 1 else tuple(taps)
    try:
        trunk, head = kg.split(flat, at=boundary, complete=True)
    except kg.CutError as error:
        assert "nothing behind it" in str(error) or "does not come after" in str(error)
        return
    equal(model(x), head(trunk(x)))
    equal(model(x), kg.join(trunk, head)(x))
    for tap in taps:
        equal(found[tap.path], kg.extract(flat, tap)(x))


@examples(torch=6, others=6)
@given(call_plans(), st.data())
def test_what_is_made_of_them_is_saved_and_loaded(tmp_path_factory, plan, data):
    model = interpret(plan)
    x = random_inputs(model, 3)
    path = tmp_path_factory.mktemp("saved") / "m.keras"
    flat = kg.inline(model)
    values = [v for n in kg.read(flat).nodes for v in n.values]
    taps = data.draw(st.lists(st.sampled_from(values), min_size=1, max_size=2, unique_by=id))
    edited = kg.insert(flat, lambda node: keras.layers.Activation("linear"), after=taps)
    for result in (flat, kg.clone(flat), kg.extract(flat, taps), edited):
        result.save(path)
        loaded = keras.saving.load_model(path)
        equal(result(x), loaded(x))
        assert loaded.count_params() == result.count_params()
        equal(result(x), kg.build(kg.read(loaded))(x))
    equal(model(x), edited(x))
