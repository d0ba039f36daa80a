"""`fold`: put the nodes of each level into groups: repeated blocks, blocks of one name, segments.

A group is a stretch of nodes in the order of the level, so a picture in which groups are closed has
no cycles. Three kinds are made, each from what the one before left:

1. Runs of equal blocks (`repeats.py`), found in the structure alone.
2. Stretches whose names begin alike, where no other node has a name that begins so: Keras's own
   networks and most others name their blocks.
3. In what is still long, the stretches between places that few values cross (`width.py`): the
   mixed blocks of an Inception are those between single values.
"""

from __future__ import annotations

from collections.abc import Sequence

from keras_graft.display.group import block_of, repeat_of
from keras_graft.display.names import Prefixes, in_common, telling
from keras_graft.display.parts import Part
from keras_graft.display.repeats import Read, Run, runs
from keras_graft.display.width import segments, widths

_LONG = 24
"""A level with more things than this is divided further, into blocks of at most `_BLOCK`."""
_BLOCK = 64
_SHORT = 20
"""A stretch with no more nodes than this gets no blocks by name."""
_LEAST = 3
"""A block has at least so many nodes."""
_MOST = 0.6
"""A name that more of the nodes share than this says nothing: their parts are shown instead."""


def fold(parts: Sequence[Part]) -> list[Part]:
    """Return the parts of a level with groups in the places of the nodes that lie in them."""
    nodes = [part for part in parts if part.item["type"] not in ("input", "output")]
    for part in nodes:
        if part.inside is not None:
            part.inside = fold(part.inside)
    first = parts.index(nodes[0]) if nodes else len(parts)
    level = _Level(nodes)
    folded = level.folded(0, len(nodes), 0, 2)
    return [*parts[:first], *folded, *parts[first + len(nodes) :]]


class _Level:
    """The nodes of one level, and what is counted about them once."""

    def __init__(self, nodes: list[Part]) -> None:
        self._nodes = nodes
        places = {part: i for i, part in enumerate(nodes)}
        self._reads: list[list[Read]] = [
            [
                (-1 - n if isinstance(n, int) else places[n], output)
                for n, output in part.near
                if isinstance(n, int) or n in places
            ]
            for part in nodes
        ]
        self._names = telling([(part.name, part.item["kind"]) for part in nodes])
        self._prefixes = Prefixes(self._names)
        self._widths = widths(self._reads)
        self._readers = [0] * len(nodes)
        for read in self._reads:
            for place, _ in read:
                if place >= 0:
                    self._readers[place] += 1
        self._same = self._alike_around()

    def _alike_around(self) -> list[int]:
        """Return for each place how many parts the names before and behind it share."""
        ahead: list[tuple[str, ...]] = [()] * (len(self._nodes) + 1)
        for i in range(len(self._nodes) - 1, -1, -1):
            ahead[i] = self._names[i] or ahead[i + 1]
        found, last = [], ()
        for i, name in enumerate(self._names):
            found.append(len(in_common([last, ahead[i]])) if last and ahead[i] else 0)
            last = name or last
        return [*found, 0]

    def folded(self, start: int, stop: int, depth: int, nesting: int) -> list[Part]:
        """Return the nodes of a stretch in groups.

        Args:
            start: The first node.
            stop: The place behind the last node.
            depth: How many parts of their names are known to be alike.
            nesting: How many levels of repeats may lie in each other.
        """
        units: list[_Unit] = []
        at = start
        for run in self._runs(start, stop) if nesting else ():
            units += [_Unit(i, i + 1, self._nodes[i]) for i in range(at, run.start)]
            blocks = []
            for number in range(run.times):
                first = run.start + number * run.period
                last = first + run.period
                same = len(in_common(self._names[first:last]))
                blocks.append(block_of(
                    self._nodes[first:last], self.folded(first, last, same, nesting - 1),
                    self._prefixes.mostly(self._names[first:last]), number + 1,
                ))  # fmt: skip
            units.append(_Unit(run.start, run.stop, repeat_of(
                self._nodes[run.start : run.stop], blocks, self._exact(run.start, run.stop)
            )))  # fmt: skip
            at = run.stop
        units += [_Unit(i, i + 1, self._nodes[i]) for i in range(at, stop)]
        return [unit.part for unit in self._divided(self._by_name(units, depth))]

    def _runs(self, start: int, stop: int) -> list[Run]:
        forms = [part.form for part in self._nodes[start:stop]]
        reads = [
            [(place - start, out) for place, out in self._reads[i]] for i in range(start, stop)
        ]
        found = runs(forms, reads, lambda *run: self._quality(start, *run))
        return [Run(run.start + start, run.period, run.times) for run in found]

    def _quality(self, offset: int, start: int, period: int, times: int) -> tuple[float, ...]:
        """Say how good a beginning of equal blocks is: by what crosses, by names, by who reads."""
        borders = range(start + offset, start + offset + period * times + 1, period)
        inner = borders[1:-1]
        named = -sum(self._same[b] for b in inner) / len(inner)
        crossing = -sum(self._widths[b] for b in inner) / len(inner)
        read = sum(self._readers[b - 1] for b in inner) / len(inner)
        return crossing, named, times, read, start

    def _exact(self, start: int, stop: int) -> tuple[str, ...]:
        """Return the beginning that the names of a stretch have, and no others."""
        same = in_common(self._names[start:stop])
        return same if same and self._prefixes.count(same) == self._named(start, stop) else ()

    def _named(self, start: int, stop: int) -> int:
        return sum(map(bool, self._names[start:stop]))

    def _by_name(self, units: list[_Unit], depth: int) -> list[_Unit]:
        """Return units with groups of those whose names begin alike."""
        if not units or units[-1].stop - units[0].start <= _SHORT:
            return units
        result: list[_Unit] = []
        at = 0
        while at < len(units):
            same = self._begins(units[at], depth)
            end = at + 1
            for i in range(at + 1, len(units) if same else at):
                begins = self._begins(units[i], depth)
                if begins == same:
                    end = i + 1
                elif begins is not None:
                    break
            stretch = units[at:end]
            start, stop = stretch[0].start, stretch[-1].stop
            alone = bool(same) and self._prefixes.count(same or ()) == self._named(start, stop)
            if not same or end - at < 2:
                result += stretch
            elif not alone or stop - start > _MOST * len(self._nodes) or end - at == len(units):
                deeper = self._by_name(stretch, depth + 1)
                result += deeper
            elif stop - start < _LEAST:
                result += stretch
            else:
                same = self._exact(start, stop) or same
                inside = [unit.part for unit in self._by_name(stretch, len(same))]
                group = block_of(self._nodes[start:stop], inside, same)
                result.append(_Unit(start, stop, group))
            at = end
        return result

    def _begins(self, unit: _Unit, depth: int) -> tuple[str, ...] | None:
        """Return the first parts of the names in a unit, one more than `depth`, if it has them.

        None for a unit whose names tell nothing: it may lie in any block.
        """
        if not self._named(unit.start, unit.stop):
            return None
        names = in_common(self._names[unit.start : unit.stop])
        return names[: depth + 1] if len(names) > depth else ()

    def _divided(self, units: list[_Unit]) -> list[_Unit]:
        """Return units; where they are many, single ones are grouped between narrow places."""
        if len(units) <= _LONG:
            return units
        places = [unit.start for unit in units] + [units[-1].stop]
        result: list[_Unit] = []
        parts = segments([self._widths[place] for place in places], _BLOCK)
        for first, last in parts if len(parts) > 1 else ():
            stretch = units[first:last]
            single = any(unit.stop - unit.start == 1 for unit in stretch)
            if single and len(stretch) > _LEAST:
                start, stop = stretch[0].start, stretch[-1].stop
                begins = self._prefixes.mostly(self._names[start:stop])
                group = block_of(self._nodes[start:stop], [u.part for u in stretch], begins)
                result.append(_Unit(start, stop, group))
            else:
                result += stretch
        return result or units


class _Unit:
    """A stretch of nodes that is one thing: a node or a group."""

    __slots__ = ("part", "start", "stop")

    def __init__(self, start: int, stop: int, part: Part) -> None:
        self.start, self.stop, self.part = start, stop, part
