"""How many values cross each place between two nodes, and where to divide a list of nodes."""

from __future__ import annotations

from collections.abc import Sequence


def widths(reads: Sequence[Sequence[tuple[int, int]]]) -> list[int]:
    """Return for each place before a node, and the one behind the last, how many values cross it.

    A value crosses from behind its node to the last node that reads it: register pressure, as
    compilers count it. One that only leaves the level is not counted.

    >>> widths([[(-1, 0)], [(0, 0)], [(0, 0), (1, 0)]])
    [1, 1, 2, 0]
    """
    count = len(reads)
    last: dict[tuple[int, int], int] = {}
    for i, read in enumerate(reads):
        for value in read:
            last[value] = i
    changes = [0] * (count + 2)
    for (place, _), reader in last.items():
        changes[max(place + 1, 0)] += 1
        changes[reader + 1] -= 1
    found, now = [], 0
    for change in changes[: count + 1]:
        now += change
        found.append(now)
    return found


def segments(crossing: Sequence[int], long: int) -> list[tuple[int, int]]:
    """Divide a list of nodes where the fewest values cross, until no part is longer than `long`.

    It is divided once at least.

    Args:
        crossing: How many values cross before each node, and behind the last one.
        long: A part with at most so many nodes stays.

    Returns:
        The parts, as places of the first node and behind the last.

    >>> segments([0, 1, 3, 3, 1, 3, 3, 0], 9)
    [(0, 1), (1, 4), (4, 7)]
    """
    done: list[tuple[int, int]] = []
    todo = [(0, len(crossing) - 1)]
    while todo:
        start, stop = todo.pop()
        inner = crossing[start + 1 : stop]
        whole = stop - start == len(crossing) - 1
        if not inner or (stop - start <= long and not whole):
            done.append((start, stop))
            continue
        least = min(inner)
        borders = [start, *(start + 1 + i for i, c in enumerate(inner) if c == least), stop]
        todo += reversed(list(zip(borders, borders[1:], strict=False)))
    return done
