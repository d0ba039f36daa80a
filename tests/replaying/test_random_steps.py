"""Random sequences of verbs: a replay of the steps equals the sequence, to the bit."""

import collections
import json
import random
import re

import keras
import pytest
from sequences import VERBS, arrays, check_equal, interpret, sequence

import keras_graft as kg
from keras_graft.testing import random_inputs

START, COUNT = {"torch": (5000, 200), "jax": (5200, 30), "tensorflow": (5230, 30)}[
    keras.backend.backend()
]
TOGETHER = 10
NOT_STEPS = ("transplant",)
"""What changes values and makes no model."""

MASKS = re.compile(r'"(not_equal|any|logical_\w+)(_\d+)?[":]')
"""Ops that compute masks: Keras makes their names up at each reading, and no step can name one."""


def run(seed, counts):
    keras.utils.set_random_seed(seed)
    plan, verbs = sequence(seed)
    first = model = interpret(plan)
    before = arrays(first(random_inputs(first, 2)))
    for name, own in verbs:
        if name in NOT_STEPS:
            continue
        try:
            model = VERBS[name](model, random.Random(own))
        except kg.GraftError:
            continue
    steps = kg.steps(model)
    if plan["kind"] == "subclass" and "save and load" in dict(verbs):
        counts["lost"] += 1  # a class of the user's own keeps no steps in its file
        return
    if steps.needs:  # what was saved and loaded between a split and a join
        counts["needs"] += 1
        return
    if steps.unwritten:
        counts["unwritten"] += 1
        with pytest.raises(kg.EditError, match="Python function"):
            kg.replay(first, steps)
        return
    if MASKS.search(json.dumps(steps.to_dict())):
        counts["masks"] += 1
        return
    counts["replayed"] += 1
    counts["steps"] += len(steps)
    counts.update(step["verb"] for step in steps)
    again = kg.replay(first, steps)
    x = random_inputs(model, 2)
    check_equal(arrays(model(x)), arrays(again(x)), f"{steps}\noutputs")
    check_equal(arrays(model.weights), arrays(again.weights), f"{steps}\nweights")
    assert [layer.name for layer in model.layers] == [layer.name for layer in again.layers]
    assert [v.trainable for v in model.weights] == [v.trainable for v in again.weights]
    check_equal(before, arrays(first(random_inputs(first, 2))), "the donor")
    assert kg.steps(again).to_dict() == steps.to_dict()


@pytest.mark.parametrize("first", range(START, START + COUNT, TOGETHER))
def test_a_replay_equals_the_sequence(first):
    counts = collections.Counter()
    for seed in range(first, first + TOGETHER):
        try:
            run(seed, counts)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {sequence(seed)}") from error
    assert counts["replayed"]
