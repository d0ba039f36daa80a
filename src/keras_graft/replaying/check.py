"""Check data that should be steps: an error names the file, the line, the step and what is near."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from keras_graft import _keras
from keras_graft.errors import EditError, FileError
from keras_graft.graph.names import listed, nearest
from keras_graft.printable import shown
from keras_graft.replaying.verbs import verbs

_MOST, _DEEPEST, _LARGEST = 10_000, 100, 2_000_000
"""The most steps, the deepest nesting, and the most values in them."""


@dataclass(frozen=True)
class Place:
    """Where a step is.

    Attributes:
        number: Its number, from 1.
        file: The name of the file; empty if it comes from none.
        line: The line at which the step begins.
        lines: The line of each argument.
    """

    number: int
    file: str = ""
    line: int | None = None
    lines: dict[str, int] = field(default_factory=dict)

    def said(self, argument: str = "") -> str:
        """Return the place in words: `"steps.yaml, line 4, step 2"`."""
        line = self.lines.get(argument, self.line)
        where = [self.file] if self.file else []
        where += [f"line {line}"] if line is not None else []
        return ", ".join([*where, f"step {self.number}"])

    def refuse(self, why: str, argument: str = "") -> NoReturn:
        """Raise the error: of the file, if it comes from one."""
        raise (FileError if self.file else EditError)(f"{self.said(argument)}: {why}")


Found = tuple[tuple[dict[str, Any], ...], tuple[Place, ...]]


def checked(data: Any, places: Iterable[Place] = ()) -> Found:
    """Return the steps in data, and where each is.

    Raises:
        FileError: If data of a file are no steps.
        EditError: If other data are none.
    """
    known = list(places)
    file = known[0].file if known else ""
    error, start = (FileError, f"{file}: ") if file else (EditError, "replay: ")
    if isinstance(data, dict):
        _check_head(data, error, start)
        data = data["steps"]
    if not isinstance(data, list | tuple):
        raise error(
            f'{start}steps are a list, or {{"format": {_keras.FORMAT}, "steps": [...]}}; got '
            f"{shown(data)}."
        )
    if len(data) > _MOST:
        raise error(f"{start}{len(data):,} steps are more than {_MOST:,}.")
    left = [_LARGEST]
    found, where = [], []
    for number, step in enumerate(data, 1):
        place = known[number - 1] if number <= len(known) else Place(number, file)
        found.append(_step(step, place, left, 0))
        where.append(place)
    return tuple(found), tuple(where)


def _check_head(data: dict[Any, Any], error: Any, start: str) -> None:
    names = ("format", "keras_graft", "steps")
    for key in data:
        if key not in names:
            near = nearest(str(key), names)
            raise error(
                f"{start}{shown(key)} is not known there; {listed(names)} are."
                + (f" Nearest: {listed(near)}." if near else "")
            )
    if data.get("format") != _keras.FORMAT:
        raise error(
            f"{start}the format is {shown(data.get('format'))}, and this version of keras-graft "
            f"reads format {_keras.FORMAT}."
        )
    if "steps" not in data:
        raise error(f"{start}it has no steps.")


def _step(step: Any, place: Place, left: list[int], depth: int) -> dict[str, Any]:
    if not isinstance(step, dict):
        place.refuse(f'a step is {{"verb": ..., "arguments": {{...}}}}; got {shown(step)}.')
    for key in step:
        if key not in ("verb", "arguments", "part"):
            place.refuse(f"{shown(key)} is not known; a step has 'verb', 'arguments' and 'part'.")
    name = step.get("verb")
    if not isinstance(name, str) or name not in verbs():
        near = nearest(str(name), verbs())
        hint = f" Nearest: {listed(near)}." if near else f" Verbs: {listed(verbs(), 40)}."
        place.refuse(f"there is no verb {shown(name)}.{hint}")
    given = step.get("arguments", {})
    if not isinstance(given, dict):
        place.refuse(f"{name}: arguments are names with values; got {shown(given)}.")
    known = verbs()[name].arguments
    for argument in given:
        if argument not in known and not verbs()[name].more:
            near = nearest(str(argument), known)
            hint = f" Nearest: {listed(near)}." if near else ""
            place.refuse(
                f"{name} has no argument {shown(argument)}; it has {listed(known)}.{hint}",
                str(argument),
            )
    missing = [argument for argument, needed in known.items() if needed and argument not in given]
    if missing:
        place.refuse(f"{name} needs {listed(missing)}.")
    for argument, value in given.items():
        _check_plain(value, place, argument, left, depth)
    part = step.get("part")
    if name == "split" and not (isinstance(part, int) and not isinstance(part, bool) and part >= 0):
        place.refuse(f"split gives several models: part= says which, from 0; got {shown(part)}.")
    if name != "split" and part is not None:
        place.refuse(f"part= is for split; {name} gives one model.")
    made: dict[str, Any] = {"verb": name, "arguments": given}
    if name == "join":
        _check_stages(given["stages"], place, left, depth)
    return made if part is None else {**made, "part": part}


def _check_stages(stages: Any, place: Place, left: list[int], depth: int) -> None:
    if not isinstance(stages, list):
        place.refuse(f"join: stages is a list; got {shown(stages)}.", "stages")
    for stage in stages:
        match stage:
            case {"given": str()} if len(stage) == 1:
                continue
            case {"after": int(), "steps": list(steps)} if len(stage) == 2:
                for inner in steps:
                    _step(inner, place, left, depth + 1)
            case _:
                place.refuse(
                    'join: a stage is {"given": "name"}, or {"after": number, "steps": [...]}; got '
                    f"{shown(stage)}.",
                    "stages",
                )


def _check_plain(value: Any, place: Place, name: str, left: list[int], depth: int) -> None:
    left[0] -= 1
    if left[0] < 0:
        place.refuse(f"the steps hold more than {_LARGEST:,} values.", name)
    if depth > _DEEPEST:
        place.refuse(f"{name}= is nested more than {_DEEPEST} deep.", name)
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                place.refuse(f"{name}= has the key {shown(key)}; keys are text.", name)
            _check_plain(item, place, name, left, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, place, name, left, depth + 1)
    elif not (value is None or isinstance(value, bool | int | float | str)):
        place.refuse(
            f"{name}= holds {shown(value)}, which is not plain data: give text, numbers, lists and "
            "objects, as kg.steps(model).to_dict() does.",
            name,
        )
