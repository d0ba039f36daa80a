"""Subclassed models as users write them: opened exactly, or closed with the right reason."""

from __future__ import annotations

import fnmatch
import functools

import closed
import closed_state
import generative
import generative_flows
import keras
import numpy as np
import pytest
import refused
import science
import structure
import structure_calls
import structure_layers
import tabular
import text
import text_positions
import vision
import vision_parts
from case import CASES
from donor import some
from subject import Plainly, Subject, Values, composites, floats_of, numpy, traces
from subject import closed as closed_in
from subject import opened as opened_in

import keras_graft as kg

tree = keras.tree
MODULES = (
    closed, closed_state, generative, generative_flows, refused, science, structure,
    structure_calls, structure_layers, tabular, text, text_positions, vision, vision_parts,
)  # fmt: skip
READ = some([case for case in CASES.values() if not case.refused])
"""All on PyTorch; every fifth on the others, which compile each shape of each op (donor.py)."""
REFUSED = [case for case in CASES.values() if case.refused]


@pytest.fixture(scope="module", params=READ, ids=str)
def subject(request):
    return Subject(request.param)


def same(left, right, about=""):
    """Assert that two structures of arrays are equal to the bit, or close with a reason."""
    tree.assert_same_structure(left, right)
    for (path, a), (_, b) in zip(
        tree.flatten_with_path(left), tree.flatten_with_path(right), strict=True
    ):
        assert a.dtype == b.dtype and a.shape == b.shape, path
        if about:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=str(path))
        else:
            bits = a.tobytes() == b.tobytes()
            assert bits, (path, np.nanmax(np.abs(a.astype("float64") - b)))


def test_opened_or_closed(subject):
    case, graph = subject.case, subject.graph
    reasons, inside = closed_in(graph), opened_in(graph)
    for path, words in case.closed.items():
        found = [why for at, why in reasons.items() if fnmatch.fnmatch(at, path)]
        assert found and all(words in why for why in found), (path, words, reasons)
    unexpected = [p for p in reasons if not any(fnmatch.fnmatch(p, at) for at in case.closed)]
    assert not unexpected, {p: reasons[p] for p in unexpected}
    is_open = {id(operation) for operation in inside.values()}
    missing = [x.name for x in composites(subject.donor) if x.built and id(x) not in is_open]
    allowed = [path.rpartition("/")[2] for path in case.closed]
    assert [name for name in missing if name not in allowed] == []


def test_variables(subject):
    donor, flat = subject.donor, subject.flat
    # What no output needs is gone once a block is no block any more: so is the last backcast.
    gone = subject.case.unneeded
    if gone:
        lost = {id(w) for w in donor.weights} - {id(w) for w in flat.weights}
        assert len(lost) == gone and len(flat.weights) == len(donor.weights) - gone
        return
    assert {w.path for w in donor.weights if id(w) not in set(map(id, flat.weights))} == set()
    assert {id(w) for w in flat.weights} == {id(w) for w in donor.weights}
    assert len(flat.weights) == len(donor.weights)
    metrics = {id(v) for m in donor.metrics for v in m.variables}
    assert {id(v) for v in flat.variables} == {id(v) for v in donor.variables} - metrics
    assert {id(v) for v in flat.trainable_variables} == {id(v) for v in donor.trainable_variables}
    assert flat.count_params() == donor.count_params()


def test_outputs_eager(subject):
    for args, expected in zip(subject.case.sets(), subject.expected, strict=True):
        x = subject.inputs_of_flat(args)
        same(expected, subject.values.run(subject.flat, x), subject.case.about)


def test_outputs_compiled(subject):
    if not subject.case.compiled:
        pytest.skip("the donor itself does not compile: its code looks at values")
    twin, values = subject.twin
    # One for all sets: TensorFlow traces a second shape in another way than the first.
    runner = Plainly(twin, len(subject.case.sets()[0]) > 1)
    for args in subject.case.sets():
        x = subject.inputs_of_flat(args)
        expected = values.run(functools.partial(runner.predict, verbose=0), x)
        found = subject.values.run(functools.partial(subject.flat.predict, verbose=0), x)
        same(expected, floats_of(found), subject.case.about)


def stepped(model, spread, x, outputs, values):
    """Run one step of SGD on the mean of squares of all outputs; return all variables."""
    runner = Plainly(model, spread)
    wanted = floats_of(outputs)
    runner.compile(keras.optimizers.SGD(0.1), ["mse"] * len(wanted))
    values.restore()
    runner.train_on_batch(x, [np.zeros_like(t) for t in wanted])
    found = [numpy(v) for v in values.variables]
    values.restore()
    return found


def test_one_training_step(subject):
    if not subject.case.compiled or not subject.case.trains:
        pytest.skip("the donor itself does not compile: its code looks at values")
    args, outputs = subject.case.sets()[0], subject.expected[0]
    x = subject.inputs_of_flat(args)
    twin, values = subject.twin
    expected = stepped(twin, len(args) > 1, x, outputs, values)
    found = stepped(subject.flat, False, x, outputs, subject.values)
    rows = zip(subject.values.variables, expected, found, subject.values.arrays, strict=True)
    moved = 0
    for variable, wanted, got, old in rows:
        moved += not np.array_equal(wanted, old)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6, err_msg=variable.path)
    assert moved


def test_saved_and_loaded(subject, tmp_path):
    flat = subject.flat
    subject.values.restore()
    flat.save(tmp_path / "flat.keras")
    loaded = keras.models.load_model(tmp_path / "flat.keras")
    assert len(loaded.weights) == len(flat.weights)
    seeds, old = without_weights(loaded), without_weights(flat)
    for new, state in zip(seeds, old, strict=True):
        new.assign(state)  # Keras saves no seed states
    values = Values(loaded)
    for args, expected in zip(subject.case.sets(), subject.expected, strict=True):
        same(expected, values.run(loaded, subject.inputs_of_flat(args)), subject.case.about)


def without_weights(model):
    """Return the variables that are no weights: the states of seeds."""
    weights = {id(w) for w in model.weights}
    return [v for v in model.variables if id(v) not in weights]


def test_untouched_stays_its_class(subject):
    again = kg.build(subject.graph)
    assert type(again) is type(subject.donor)
    for args, expected in zip(subject.case.sets(), subject.expected, strict=True):
        same(expected, subject.values.run(again, *args))


def left_on(subject):
    """Return what is on the layers of the donor now and was not, or the other way round."""
    old, new = subject.traces, traces(subject.donor)
    return {k: (old.get(k), new.get(k)) for k in old | new if old.get(k) != new.get(k)}


def unchanged(subject):
    assert left_on(subject) == {}
    assert subject.values.changed() == []
    for args, expected in zip(subject.case.sets(), subject.expected, strict=True):
        same(expected, subject.values.run(subject.donor, *args))


@pytest.mark.parametrize("case", READ, ids=str)
def test_nothing_stays_on_the_donor(case):
    subject = Subject(case)  # a new one: what lives through several tests is not collected
    subject.read()
    assert left_on(subject) == {} and subject.values.changed() == []
    subject.values.run(subject.flat, subject.inputs_of_flat(case.sets()[0]))
    subject.forget()
    unchanged(subject)


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_refused_as_a_whole(case):
    subject = Subject(case)
    with pytest.raises(kg.ReadError) as refusal:
        subject.read()
    for words in case.refused:
        assert words in str(refusal.value)
    unchanged(subject)


def test_there_are_many_cases():
    assert len(CASES) >= 60 and len(MODULES) > 10
