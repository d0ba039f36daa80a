"""What enters and leaves each group of a picture."""

from __future__ import annotations

from collections.abc import Sequence

from keras_graft.display.parts import Part
from keras_graft.graph.node import Spec


def fill_borders(parts: Sequence[Part]) -> None:
    """Fill in the specs of what groups read from outside, and of what is read outside of them.

    Nested models have theirs: those of their calls.

    Args:
        parts: All parts of a scene, groups before what is inside them.
    """
    leaves = [part for part in parts if part.inside is None]
    place = {part: i for i, part in enumerate(leaves)}
    readers: dict[tuple[int, int], list[int]] = {}
    specs: dict[tuple[int, int], Spec | None] = {}
    reads: list[list[tuple[int, int]]] = []
    for i, part in enumerate(leaves):
        found = [(place[s], output, spec) for (s, output, spec), _ in part.reads if s in place]
        reads.append([(source, output) for source, output, _ in found])
        for source, output, spec in found:
            specs[source, output] = spec
            readers.setdefault((source, output), [i, i])[1] = i
    made: list[list[tuple[int, int]]] = [[] for _ in leaves]
    for value in sorted(specs):
        made[value[0]].append(value)
    for group in parts:
        if group.inside is None or group.node is not None:
            continue
        first, last = _first(group), _last(group)
        start, stop = place[first], place[last] + 1
        entering = dict.fromkeys(
            value for i in range(start, stop) for value in reads[i] if not start <= value[0] < stop
        )
        leaving = [
            value
            for i in range(start, stop)
            for value in made[i]
            if readers[value][1] >= stop or readers[value][0] < start
        ]
        group.item["inputs"] = [str(specs[value] or "?") for value in entering]
        group.item["spec"] = "; ".join(str(specs[value] or "?") for value in leaving)


def _first(part: Part) -> Part:
    while part.inside:
        part = part.inside[0]
    return part


def _last(part: Part) -> Part:
    while part.inside:
        part = part.inside[-1]
    return part
