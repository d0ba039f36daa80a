"""Two networks in one picture: the new one, with what was dropped beside what stayed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from keras_graft.display.parts import Part, Source, parts_of
from keras_graft.printable import quoted


def compared(changes: Any) -> list[Part]:
    """Return the parts of the new graph, and in their places those that only the old one has.

    Args:
        changes: The two graphs and what happened to each call, by its path, as `Diff.changes`
            gives them.
    """
    old, new = parts_of(changes.old), parts_of(changes.new)
    merger = _Merger(changes, old, new)
    merged = merger.level(old, new)
    for part in _all(old):
        merger.reconnect(part)
    return merged


class _Merger:
    def __init__(self, changes: Any, old: Sequence[Part], new: Sequence[Part]) -> None:
        self._dropped = {path for path, said in changes.of_old.items() if said == "dropped"}
        by_match = {part.match: part for part in _all(new)}
        self._partner: dict[Part, Part] = {}
        back = {was: now for now, was in changes.pairs.items()}
        for part in _all(old):
            match = ("node", back.get(part.match[1])) if part.match[0] == "node" else part.match
            if match in by_match:
                self._partner[part] = by_match[match]
        kept = set(self._partner.values())
        for part in _all(new):
            type_, path = part.match
            if type_ == "node":
                part.item["change"] = changes.of_new[path]
                part.item["may_differ"] = path in changes.may_differ
            else:
                part.item["change"] = "kept" if part in kept else "new"
                part.item["may_differ"] = type_ == "output" and any(
                    source.match[1] in changes.may_differ for (source, _, _), _ in part.reads
                )
            part.form = part.form, part.item["change"]

    def level(self, old: Sequence[Part], new: Sequence[Part]) -> list[Part]:
        """Return the new parts of a level, with dropped ones behind what was before them."""
        here = set(new)
        behind: dict[Part | None, list[Part]] = {}
        anchor: Part | None = None
        for part in old:
            partner = self._partner.get(part)
            if partner is not None:
                if partner in here:
                    anchor = partner
                    if part.inside is not None and partner.inside is not None:
                        partner.inside = self.level(part.inside, partner.inside)
                continue
            gone = self._gone(part)
            if gone is not None:
                behind.setdefault(anchor, []).append(gone)
        merged = [*behind.get(None, ())]
        for part in new:
            merged += [part, *behind.get(part, ())]
        types = ("input", "node", "group", "output")
        middle = [p for p in merged if p.item["type"] in types[1:3]]
        ends = ([p for p in merged if p.item["type"] == type_] for type_ in ("input", "output"))
        first, last = ends
        return [*first, *middle, *last]

    def reconnect(self, part: Part) -> None:
        """Let an old part read the parts that are in the picture, and be read by them."""
        partner = self._partner.get(part)
        if partner is None:
            part.reads = [(self._now(source), what) for source, what in part.reads]
            part.near = [
                (n if isinstance(n, int) else self._partner.get(n, n), out) for n, out in part.near
            ]
        else:
            partner.reads += [
                (source, what) for source, what in part.reads if source[0] not in self._partner
            ]

    def _now(self, source: Source) -> Source:
        part, output, spec = source
        return self._partner.get(part, part), output, spec

    def _gone(self, part: Part) -> Part | None:
        """Return a part of the old graph with only what was dropped, or None if nothing was."""
        if part.inside is not None:
            part.inside = [p for p in map(self._gone, part.inside) if p is not None]
            if not part.inside:
                return None
        elif part in self._partner:
            return None
        part.item["change"] = "dropped"
        part.form = part.form, "dropped"
        if part.match[0] == "node":
            part.item["select"] = f"kg.select(old, {quoted(part.match[1])})"
        return part


def _all(parts: Sequence[Part]) -> Iterator[Part]:
    for part in parts:
        yield part
        if part.inside is not None:
            yield from _all(part.inside)
