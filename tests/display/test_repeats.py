"""Runs of equal blocks in a list of nodes, on plain numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

from keras_graft.display.repeats import runs
from keras_graft.display.width import segments, widths

pytestmark = pytest.mark.once


def chain(count):
    return [[(i - 1, 0)] for i in range(count)]


def is_run(forms, reads, run):
    blocks = [
        range(run.start + i * run.period, run.start + (i + 1) * run.period)
        for i in range(run.times)
    ]
    first = [forms[i] for i in blocks[0]]
    inner = [
        [(s - blocks[0].start, o) for s, o in reads[i] if s >= blocks[0].start] for i in blocks[0]
    ]
    for block in blocks[1:]:
        if [forms[i] for i in block] != first:
            return False
        mine = [[(s - block.start, o) for s, o in reads[i] if s >= block.start] for i in block]
        if mine != inner:
            return False
    return True


@given(st.lists(st.integers(0, 2), max_size=40), st.randoms(use_true_random=False))
@examples(300, 0)
def test_every_run_is_one_and_none_overlap(forms, random):
    reads = [
        [(random.randrange(-2, i), 0) for _ in range(random.randrange(3))]
        for i in range(len(forms))
    ]
    for given_reads in (reads, chain(len(forms))):
        found = runs(forms, given_reads)
        assert all(is_run(forms, given_reads, run) for run in found)
        assert all(a.stop <= b.start for a, b in zip(found, found[1:], strict=False))


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12, unique=False), st.integers(2, 9))
@examples(300, 0)
def test_what_is_one_run_is_found_as_one(block, times):
    if len(set(block)) == 1:
        block = [block[0]]
        times += 1
    forms = [7, *block * times, 8]
    found = runs(forms, chain(len(forms)))
    assert len(found) == 1 and found[0].period * found[0].times == len(block) * times


def test_a_run_in_a_run():
    forms = [0] * 4 + [1] * 4
    found = runs(forms * 3, chain(24))
    assert [(r.start, r.period, r.times) for r in found] == [(0, 8, 3)]


def test_one_tensor_that_all_blocks_read():
    forms = [0, 1, 2] * 5
    reads = [[(i - 1, 0), (-5, 0)] if form == 1 else [(i - 1, 0)] for i, form in enumerate(forms)]
    assert [(r.period, r.times) for r in runs(forms, reads)] == [(3, 5)]


def test_the_first_block_may_read_something_else_outside():
    forms = [9, 9] + [0, 1, 2] * 4
    reads = [
        [(i - 1, 0), (max(i - 6, 0), 0)] if form == 1 else [(i - 1, 0)]
        for i, form in enumerate(forms)
    ]
    assert [(r.start, r.times) for r in runs(forms, reads)] == [(2, 4)]


def test_the_work_grows_with_the_nodes():
    def work(count):
        looked = [0]

        class Counted(list):
            def __getitem__(self, i):
                looked[0] += 1
                return super().__getitem__(i)

        forms = ([0, 1, 2, 1, 3] * 8 + [4, 5]) * (count // 42)
        runs(Counted(forms), chain(len(forms)))
        return looked[0]

    assert work(42 * 64) < 2.6 * work(42 * 32)


def test_where_few_values_cross():
    # a -> b -> c, and a -> c: a diamond between two single values
    assert widths([[(-1, 0)], [(0, 0)], [(0, 0), (1, 0)], [(2, 0)]]) == [1, 1, 2, 1, 0]
    assert segments([0, 1, 2, 2, 1, 2, 2, 1, 0], 20) == [(0, 1), (1, 4), (4, 7), (7, 8)]
    assert segments([0] + [1] * 5, 20) == [(i, i + 1) for i in range(5)]
