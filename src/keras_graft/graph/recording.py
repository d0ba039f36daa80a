"""`Step`, one verb that made a graph; and what a verb selects and puts in while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from keras_graft.graph.copyable import Key


@dataclass(frozen=True, eq=False)
class Step:
    """One verb that made a graph, as plain data: what a file can hold.

    Attributes:
        verb: The name of the verb: `"insert"`, `"recipes.add_dropout"`.
        arguments: Its arguments by their names, without the model.
        part: Which of several results the graph is, for `split`.
        call: The same for all results of one call.
    """

    verb: str
    arguments: Mapping[str, Any]
    part: int | None = None
    call: Any = field(default_factory=Key)

    def to_dict(self) -> dict[str, Any]:
        """Return the step as a file holds it."""
        found: dict[str, Any] = {"verb": self.verb, "arguments": dict(self.arguments)}
        return found if self.part is None else {**found, "part": self.part}

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return a list of this step."""
        return [self.to_dict()]


@dataclass(frozen=True)
class Put:
    """What an edit put in at one place.

    Attributes:
        new: The layer, the model or the function of tensors.
        data: The layer as plain data, if it had no weights before.
        named: Whether it was named after its place.
    """

    new: Any
    data: dict[str, Any] | None = None
    named: bool = False


class Recording:
    """What one verb does with its arguments. Dropped when the verb returns.

    Attributes:
        graph: The graph that the verb is given.
        puts: What was put in, in order.
        chosen: Arguments that were not given, and that the verb chose.
    """

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.puts: list[Put] = []
        self.chosen: dict[str, Any] = {}
        self._found: dict[int, tuple[Any, list[str]]] = {}

    def note(self, selector: Any, paths: list[str]) -> None:
        self._found.setdefault(id(selector), (selector, paths))

    def paths(self, selector: Any) -> list[str] | None:
        """Return the paths that a selector selected; None if it was not asked for any."""
        found = self._found.get(id(selector))
        return None if found is None else found[1]


_NOW: ContextVar[Recording | None] = ContextVar("recording", default=None)


def recording() -> Recording | None:
    """Return the recording of the verb that runs; None if none is recorded."""
    return _NOW.get()


@contextlib.contextmanager
def recorded(graph: Any) -> Iterator[Recording]:
    """Record what the verb that runs inside does. Verbs that it calls are not recorded."""
    found = Recording(graph)
    token = _NOW.set(found)
    try:
        yield found
    finally:
        _NOW.reset(token)


def selected(graph: Any, selector: Any, items: Sequence[Any]) -> None:
    """Tell the verb that runs what a selector selected; names and patterns say it themselves."""
    now = _NOW.get()
    if now is not None and now.graph is graph and not isinstance(selector, str):
        now.note(selector, [item.path for item in items])


def put(new: Put) -> None:
    """Tell the verb that runs what was put in."""
    now = _NOW.get()
    if now is not None:
        now.puts.append(new)


def chose(name: str, value: Any) -> None:
    """Tell the verb that runs which value an argument got that was not given."""
    now = _NOW.get()
    if now is not None:
        now.chosen[name] = value
