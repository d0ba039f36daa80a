"""Random subclassed models: read, built from their parts, edited, saved, and what their code gives."""

import contextlib
import gc
import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples
from strategies_code import code_plans, data, functional, interpret, needs_closing, symbols

import keras_graft as kg


def arrays(structure):
    return [keras.ops.convert_to_numpy(t) for t in keras.tree.flatten(structure)]


def equal(left, right):
    """Assert that tensors are equal to the bit."""
    left, right = arrays(left), arrays(right)
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert np.array_equal(a, b, equal_nan=True), f"differs by {np.abs(a - b).max()}"


@contextlib.contextmanager
def states_kept(*models):
    """Restore what is no trained weight: seeds and statistics."""
    states = {id(v): v for m in models for v in m.variables if not v.trainable}
    before = arrays([v.value for v in states.values()])
    yield
    for variable, value in zip(states.values(), before, strict=True):
        variable.assign(value)


def given_by(model, x, **kwargs):
    with states_kept(model):
        found = model(x, **kwargs)
        return arrays(found), arrays(list(model.losses))


def same(model, other, plan, predict=False):
    lengths = (plan["length"],) * 2 if plan["length"] else (6, 9)
    for batch, length in zip((2, 3), lengths, strict=True):
        x = data(plan, batch, length)
        for training in (None, True):
            (left, losses), (right, others) = (
                given_by(m, x, **({"training": True} if training else {})) for m in (model, other)
            )
            equal(left, right)
            np.testing.assert_allclose(
                sum(map(np.sum, losses)), sum(map(np.sum, others)), rtol=1e-5
            )
    if predict:
        with states_kept(model, other):
            left = model.predict(x, verbose=0)
        with states_kept(model, other):
            equal(left, other.predict(x, verbose=0))


def moves(model, variable, plan):
    """Whether outputs change with a weight."""
    x, value = data(plan, 2, plan["length"] or 6), keras.ops.copy(variable.value)
    before, _ = given_by(model, x)
    variable.assign(value + 1.0)
    after, _ = given_by(model, x)
    variable.assign(value)
    return any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(before, after, strict=True))


def layers_of(model):
    return list(model._flatten_layers())


def residue(model):
    return [(layer.name, len(layer._inbound_nodes), layer.trainable) for layer in layers_of(model)]


def loaded(model, plan):
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "m.keras")
        again = keras.models.load_model(Path(folder) / "m.keras")
    if "noise" not in str(plan):  # a file holds no state of a seed generator
        same(model, again, plan)


@contextlib.contextmanager
def untouched(model):
    before, config = residue(model), model.get_config()
    weights = arrays(model.variables)
    yield
    assert residue(model) == before and model.get_config() == config
    equal(model.variables, weights)


def read(model, plan, *args, **kwargs):
    """Return the graph, or None if the code of the model itself does what no graph can say."""
    with untouched(model):
        try:
            return kg.read(model, *args, **kwargs)
        except kg.GraftError as error:
            assert needs_closing(plan["block"]), str(error)
            assert "cannot be read as a graph: its " in str(error)
            return None


def closed_with_reason(graph, plan):
    closed = [one for one in kg.explain(graph).closed if "a layer of Keras" not in one.reason]
    assert not closed or needs_closing(plan["block"]), [(c.path, c.reason) for c in closed]
    for one in closed:
        words = ("line ", "training", "losses")
        assert any(word in one.reason for word in words), (one.path, one.reason)


@examples(torch=200, others=20)
@given(code_plans())
def test_code_is_read_as_what_it_does(plan):
    model = interpret(plan)
    graph = read(model, plan, (symbols(plan),))
    if graph is None:
        return
    closed_with_reason(graph, plan)
    flat = flattened(graph)
    same(model, flat, plan, predict=True)
    needed = {id(v) for v in flat.variables}
    assert needed <= {id(v) for v in model.variables}
    # A weight that no output needs may be gone; one that is there is the donor's own.
    for variable in model.trainable_variables:
        if id(variable) not in needed:
            assert not moves(model, variable, plan)
    loaded(flat, plan)
    with untouched(model):
        kept = kg.build(graph)
        assert type(kept) is type(model)
        same(model, kept, plan)


def flattened(graph):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", kg.GraftWarning)  # of the class, which an edit gives up
        return kg.build(kg.inline(graph))


@examples(torch=100, others=15)
@given(code_plans(), st.data())
def test_an_edit_at_any_place_keeps_the_numbers(plan, drawn):
    # Only PyTorch runs a branch on values with symbolic tensors, as a Functional of blocks needs.
    whole = "values" not in str(plan) or keras.backend.backend() == "torch"
    code = not (drawn.draw(st.booleans()) and whole)
    model = interpret(plan) if code else functional(plan)
    graph = read(model, plan, (symbols(plan),)) if code else read(model, plan, open="**")
    if graph is None:
        return
    closed_with_reason(graph, plan)
    nodes = kg.select(graph, "**").nodes if len(graph) else ()
    values = [v for n in nodes for v in n.values if v.consumers]
    leaves = [n for n in nodes if n.nested is None and isinstance(n.operation, keras.Layer)]
    masks = {v.mask for n in nodes for v in n.values} | {v.mask for v in graph.inputs}
    values = [v for v in values if v.within(None) not in masks]  # what makes a mask always makes it
    with untouched(model), warnings.catch_warnings():
        warnings.simplefilter("ignore", kg.GraftWarning)
        if values:
            value = drawn.draw(st.sampled_from(values))
            new = kg.build(kg.insert(graph, lambda v: keras.layers.Identity(), after=value))
            same(model, new, plan)
            loaded(new, plan)
            del new
        if leaves:
            leaf = drawn.draw(st.sampled_from(leaves))
            new = kg.build(kg.replace(graph, leaf, lambda node: node.operation))
            same(model, new, plan)
            del new
        gc.collect()
