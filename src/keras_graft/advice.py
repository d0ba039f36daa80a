"""The calls that messages recommend, as data: verbs and arguments, written when a message is made.

In Python they are written as Python. The command, whose users write no Python, puts another writer
in place while it runs, and the same messages name its own commands and options.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from keras_graft.printable import quoted


class As(str):
    """A part of a call that is written as it stands, such as `new`: users put their own there."""


MORE = As("...")
"""Stands for what a call may have besides."""


@dataclass(frozen=True)
class Call:
    """A call of a verb.

    Attributes:
        verb: Its name.
        arguments: The values by the names of the verb's parameters, in order.
        keywords: The names of those that Python writes with their names.
        model: The first argument, as Python writes it.
    """

    verb: str
    arguments: dict[str, Any]
    keywords: frozenset[str] = frozenset()
    model: str = "model"


class Writer(Protocol):
    """Writes what messages recommend."""

    def call(self, call: Call) -> str:
        """Return a call as text."""
        ...

    def option(self, name: str, value: Any) -> str:
        """Return one argument of the verb that runs as text."""
        ...

    def way(self, name: str, words: str) -> str:
        """Return the words for a way out that is neither: `words` says what to do in Python."""
        ...


def as_python(call: Call) -> str:
    """Return a call as Python writes it."""
    given = [call.model] if call.model else []
    given += [
        f"{name}={python(value)}" if name in call.keywords and value != MORE else python(value)
        for name, value in call.arguments.items()
    ]
    return f"kg.{call.verb}({', '.join(given)})"


def as_option(name: str, value: Any) -> str:
    """Return an argument as Python writes it."""
    return f"{name}={python(value)}"


class _Python:
    """Writes Python."""

    def call(self, call: Call) -> str:
        return as_python(call)

    def option(self, name: str, value: Any) -> str:
        return as_option(name, value)

    def way(self, name: str, words: str) -> str:
        return words


_WRITERS: list[Writer] = [_Python()]


def call(verb: str, *given: tuple[str, Any], model: str = "model", **named: Any) -> str:
    """Return a call of a verb as a user would write it.

    Args:
        verb: The name of the verb.
        given: The arguments that Python writes without their names, as pairs of name and value.
        model: The first argument, as Python writes it; "" for none.
        named: The arguments that Python writes with their names.

    >>> print(call("split", at=("a", "b")))
    kg.split(model, at=("a", "b"))
    >>> print(call("insert", ("new", As("layer")), after="pool"))
    kg.insert(model, layer, after="pool")
    """
    made = Call(verb, dict(given) | named, frozenset(named), model)
    return _WRITERS[-1].call(made)


def option(name: str, value: Any) -> str:
    """Return an argument of the verb that runs, as a user would write it.

    >>> print(option("complete", True), option("augment", "off"))
    complete=True augment="off"
    """
    return _WRITERS[-1].option(name, value)


def way(name: str, words: str) -> str:
    """Return the words for a way out that is neither a call nor an argument.

    Args:
        name: What it is about, for a writer that has words of its own.
        words: What to do in Python.
    """
    return _WRITERS[-1].way(name, words)


@contextmanager
def written_by(writer: Writer) -> Iterator[None]:
    """Let another writer write what messages recommend, until the end of the block."""
    _WRITERS.append(writer)
    try:
        yield
    finally:
        _WRITERS.remove(writer)


def python(value: Any) -> str:
    """Return a value as Python writes it, with invisible characters escaped.

    >>> print(python(["a", ("b",)]), python(As("...")), python(None))
    ["a", ("b",)] ... None
    """
    if isinstance(value, As):
        return str(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return f"[{', '.join(map(python, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(python, value))}{',' if len(value) == 1 else ''})"
    return repr(value)
