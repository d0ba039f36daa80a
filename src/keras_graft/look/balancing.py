"""`balanced`: where to cut a row of pieces so that the dearest part is as cheap as possible."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class Piece:
    """What lies between two neighbouring places where a cut is allowed.

    Attributes:
        amount: What it costs.
        held: What it holds, by identity: two pieces of one part pay for it once.
    """

    amount: int = 0
    held: dict[int, int] = field(default_factory=dict)

    def add(self, amount: int, held: Mapping[int, int]) -> None:
        """Add what a call costs and holds."""
        self.amount += amount
        self.held.update(held)

    @property
    def whole(self) -> int:
        """What it costs as a part of its own."""
        return self.amount + sum(self.held.values())


def balanced(pieces: Sequence[Piece], crossing: Sequence[int], parts: int) -> list[int]:
    """Return where to cut: the dearest part is as cheap as any cuts make it.

    Among such cuts it returns those over which the least passes. Both are exact: what the dearest
    part may cost is found by bisection, as a part gets no cheaper when a piece joins it; the cuts
    then by dynamic programming.

    Args:
        pieces: The pieces, in their order; at least as many as there are parts.
        crossing: How much passes before each piece; that before the first one does not matter.
        parts: How many parts to make.

    Returns:
        For each part but the first its first piece.

    >>> row = [Piece(cost) for cost in (4, 1, 1, 6)]
    >>> balanced(row, [0, 9, 1, 9], 2), balanced(row, [0, 9, 1, 9], 3)
    ([3], [2, 3])
    """
    low, high = max(piece.whole for piece in pieces), _part(pieces)
    while low < high:
        middle = (low + high) // 2
        if _fewest(_starts(pieces, middle)) <= parts:
            high = middle
        else:
            low = middle + 1
    return _cheapest(_starts(pieces, low), crossing, parts)


def _part(pieces: Sequence[Piece]) -> int:
    held: dict[int, int] = {}
    for piece in pieces:
        held |= piece.held
    return sum(piece.amount for piece in pieces) + sum(held.values())


def _starts(pieces: Sequence[Piece], most: int) -> list[int]:
    """Return for each end the first start from which a part up to it costs no more than `most`."""
    users: Counter[int] = Counter()
    start = cost = 0
    found = [0]
    for piece in pieces:
        cost += piece.amount + sum(size for key, size in piece.held.items() if not users[key])
        users.update(piece.held.keys())
        while cost > most:
            gone = pieces[start]
            users.subtract(gone.held.keys())
            cost -= gone.amount + sum(size for key, size in gone.held.items() if not users[key])
            start += 1
        found.append(start)
    return found


def _fewest(starts: Sequence[int]) -> int:
    """Return how few parts there can be."""
    count, end = 0, len(starts) - 1
    while end:
        count, end = count + 1, starts[end]
    return count


def _cheapest(starts: Sequence[int], crossing: Sequence[int], parts: int) -> list[int]:
    """Return the cuts over which the least passes; of equal ones the first."""
    size = len(starts) - 1
    endless = float("inf")
    before = [0.0] + [endless] * size
    chosen: list[list[int]] = []
    for number in range(parts):
        best, now = [0] * (size + 1), [endless] * (size + 1)
        window: deque[int] = deque()  # starts that may be the best, the cheapest first
        paid = [
            before[i] + (crossing[i] if 0 < i < size and number else 0) for i in range(size + 1)
        ]
        for end in range(1, size + 1):
            new = end - 1
            while window and paid[window[-1]] > paid[new]:
                window.pop()
            window.append(new)
            while window[0] < starts[end]:
                window.popleft()
            best[end], now[end] = window[0], paid[window[0]]
        chosen.append(best)
        before = now
    end, cuts = size, []
    for best in reversed(chosen[1:]):
        end = best[end]
        cuts.append(end)
    return cuts[::-1]
