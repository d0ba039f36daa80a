"""Three hundred random sequences of verbs: what must hold after each is in `sequences.py`."""

import collections

import keras
import pytest
from sequences import VERBS, run, sequence

START, COUNT = {"torch": (0, 200), "jax": (200, 60), "tensorflow": (260, 70)}[
    keras.backend.backend()
]
TOGETHER = 10


@pytest.mark.parametrize("first", range(START, START + COUNT, TOGETHER))
def test_what_must_hold_after_every_verb(first):
    counts: collections.Counter = collections.Counter()
    for seed in range(first, first + TOGETHER):
        keras.utils.set_random_seed(seed)
        plan, steps = sequence(seed)
        try:
            run(plan, steps, counts)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {plan} {steps}") from error
    assert counts


def test_the_sequences_reach_every_verb():
    steps = [verb for seed in range(START, START + COUNT) for verb, _ in sequence(seed)[1]]
    assert set(steps) == set(VERBS)


@pytest.mark.once
def test_an_edit_behind_a_mask_that_enters_a_nested_model():
    calls = [("add", 0, 5), ("nested_steps", 1, 7), ("clash", 6, 6), ("nested_steps", 2, 0),
             ("add", 6, 1), ("clash", 5, 6)]  # fmt: skip
    plan = {
        "inputs": "steps", "structure": "list", "calls": calls, "outputs": [20, 18],
        "out_structure": "flat", "kind": "subclass",
    }  # fmt: skip
    steps = [("from the middle", 66083), ("patch an input", 71943)]
    counts: collections.Counter = collections.Counter()
    keras.utils.set_random_seed(37)
    run(plan, [("replace", 529737), *steps], counts)
    assert counts["patch an input"] == 1
