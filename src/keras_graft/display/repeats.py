"""Find runs of equal consecutive blocks in a list of nodes.

In an order where blocks stay together, a run of equal blocks is a run in a string: a stretch with a
period, as "abcabcabc" has period 3. The letters are the forms of the nodes. A window of letters that
comes again proposes its distance as a period, for windows of every power of two: these are
the names of Karp, Miller and Rosenberg (1972), "Rapid identification of repeated patterns in
strings, trees and arrays". A proposed period is checked node by node, with the wiring: two nodes
match if they read from equally far before them, or from the very same node (as all blocks of a
transformer read one mask). Every step is linear but for the log n sizes of windows.

Runs in strings are treated in Main and Lorentz (1984), "An O(n log n) algorithm for finding all
repetitions in a string".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Read = tuple[int, int]
"""The place of what is read (negative: an input), and which of its outputs."""


@dataclass(frozen=True)
class Run:
    """Equal blocks, one after another.

    Attributes:
        start: The place of the first node.
        period: How many nodes a block has.
        times: How many blocks there are.
    """

    start: int
    period: int
    times: int

    @property
    def stop(self) -> int:
        """The place behind the last node."""
        return self.start + self.period * self.times


def runs(
    forms: Sequence[int],
    reads: Sequence[Sequence[Read]],
    better: Callable[[int, int, int], object] = lambda start, period, times: -start,
) -> list[Run]:
    """Return runs of equal blocks that do not overlap, in order.

    Args:
        forms: For each node, a number that is equal for equal nodes.
        reads: For each node, what it reads.
        better: Where a run may begin at several nodes, the one for which this is greatest of
            (start, period, times) is taken. The blocks of "babab" may be "ba" or "ab".

    >>> chain = [[(i - 1, 0)] for i in range(9)]
    >>> runs([0, 1, 2, 1, 2, 1, 2, 1, 3], chain)
    [Run(start=1, period=2, times=3)]
    >>> runs([0, 5, 5, 5, 1, 2, 3, 4, 6], chain)
    [Run(start=1, period=1, times=3)]
    """
    found = _maximal(forms, reads)
    found.sort(key=lambda run: (-(run[1] - run[0]), run[2], run[0]))
    taken: list[Run] = []
    used = [False] * len(forms)
    for start, stop, period in found:
        for first, last in _free(used, start, stop):
            run = _best(first, last, period, better)
            if run is not None:
                run = _reached_back(run, forms, reads, used)
                taken.append(run)
                used[run.start : run.stop] = [True] * (run.stop - run.start)
    return sorted(taken, key=lambda run: run.start)


def _maximal(forms: Sequence[int], reads: Sequence[Sequence[Read]]) -> list[tuple[int, int, int]]:
    """Return (start, stop, period) of stretches that cannot be made longer."""
    count = len(forms)

    def alike(i: int, j: int) -> bool:
        if forms[i] != forms[j] or len(reads[i]) != len(reads[j]):
            return False
        return all(
            a == b or (a[1] == b[1] and i - a[0] == j - b[0])
            for a, b in zip(reads[i], reads[j], strict=True)
        )

    found: set[tuple[int, int, int]] = set()
    checked: dict[int, int] = {}  # for each period, up to where it was checked
    names = list(forms)
    width = 1
    while width <= count // 2:
        last: dict[int, int] = {}
        for i, name in enumerate(names):
            before = last.get(name)
            last[name] = i
            if before is None:
                continue
            period = i - before
            if before < checked.get(period, 0) or not alike(before, i):
                continue
            start = before
            while start > 0 and alike(start - 1, start - 1 + period):
                start -= 1
            stop = i
            while stop + 1 < count and alike(stop + 1 - period, stop + 1):
                stop += 1
            checked[period] = stop - period + 1
            if stop + 1 - start >= 2 * period:
                found.add((start, stop + 1, period))
        checked.clear()
        pairs: dict[tuple[int, int], int] = {}
        names = [
            pairs.setdefault((names[i], names[i + width]), len(pairs))
            for i in range(len(names) - width)
        ]
        width *= 2
    return list(found)


def _free(used: Sequence[bool], start: int, stop: int) -> list[tuple[int, int]]:
    """Return the stretches between `start` and `stop` of which no node is used."""
    found = []
    first = start
    for i in range(start, stop + 1):
        if i == stop or used[i]:
            if i > first:
                found.append((first, i))
            first = i + 1
    return found


def _best(
    start: int, stop: int, period: int, better: Callable[[int, int, int], object]
) -> Run | None:
    """Return the run within a stretch, at the best of the nodes where it may begin."""
    options = []
    for first in range(start, start + period):
        times = (stop - first) // period
        if times >= (2 if period > 1 else 3):
            options.append((better(first, period, times), Run(first, period, times)))
    return max(options, key=lambda option: option[0], default=(None, None))[1]  # type: ignore


def _reached_back(
    run: Run, forms: Sequence[int], reads: Sequence[Sequence[Read]], used: Sequence[bool]
) -> Run:
    """Return the run with blocks before it that are equal inside, whatever they read outside.

    The first cell of a NASNet reads, two cells back, something else than a cell.
    """
    period = run.period

    def alike(i: int, j: int, start: int) -> bool:
        if forms[i] != forms[j] or len(reads[i]) != len(reads[j]):
            return False
        for a, b in zip(reads[i], reads[j], strict=True):
            within = a[0] >= start
            if a[1] != b[1] or within != (b[0] >= start + period):
                return False
            if within and i - a[0] != j - b[0]:
                return False
        return True

    start, times = run.start, run.times
    while start >= period and not any(used[start - period : start]):
        first = start - period
        if not all(alike(i, i + period, first) for i in range(first, start)):
            break
        start, times = first, times + 1
    return Run(start, period, times)
