"""Read JSON that anyone may have written: parse it with limits, then check it by a schema.

A schema is a function. It takes a value and its address, and raises a ValueError if the value does
not fit: `record(rows=whole(), file=text("[a-z]+"))`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

from keras_graft.printable import shown

Schema = Callable[[Any, str], None]

LONGEST = 128 << 20
"""The most bytes of JSON that are written and read. More may be an attack on memory."""
_VALUES = 2_000_000
_MOST = 2**63 - 1


def bounded(data: bytes) -> bytes:
    """Return JSON; refuse it if it is too long to be read.

    A value may take a hundred bytes of memory and only three of the file.
    """
    values = sum(map(data.count, (b",", b"[", b"{")))
    if len(data) > LONGEST or values > _VALUES:
        raise ValueError(
            f"it has {len(data):,} bytes and about {values:,} values, and at most {LONGEST:,} and "
            f"{_VALUES:,} are read"
        )
    return data


def parse(data: bytes) -> Any:
    """Return the value that JSON describes.

    Raises:
        ValueError: If it is not JSON, too long, nested too deep, or has a key twice.
    """
    try:
        return json.loads(
            bounded(data).decode(), object_pairs_hook=_once, parse_int=_number,
            parse_constant=_constant,
        )  # fmt: skip
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{shown(next(n for n in names if names.count(n) > 1))} occurs twice")
    return found


def _number(digits: str) -> int:
    if len(digits) > 20:  # Python itself refuses some thousands of digits
        raise ValueError(f"it holds a number of {len(digits)} digits")
    return int(digits)


def _constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is not JSON")


def whole(low: int = 0, high: int = _MOST) -> Schema:
    """A whole number."""

    def check(value: Any, at: str) -> None:
        if type(value) is not int or not low <= value <= high:
            _refuse(value, at, f"a whole number from {low} to {high}")

    return check


def boolean(value: Any, at: str) -> None:
    """True or false."""
    if type(value) is not bool:
        _refuse(value, at, "true or false")


def text(pattern: str = r"(?s:.*)") -> Schema:
    """A text that matches a pattern as a whole."""
    known = re.compile(pattern)

    def check(value: Any, at: str) -> None:
        if not isinstance(value, str) or known.fullmatch(value) is None or not encodable(value):
            _refuse(value, at, f"a text like {pattern}" if known.groups else "a text")

    return check


def one_of(values: frozenset[str]) -> Schema:
    """One of some texts."""

    def check(value: Any, at: str) -> None:
        if not isinstance(value, str) or value not in values:
            _refuse(value, at, f"one of {', '.join(sorted(values))}")

    return check


def many(each: Schema, low: int = 0, high: int = _MOST) -> Schema:
    """A list of `low` to `high` items."""
    length = f" of {low}" if low == high else f" of {low} to {high}" if high < _MOST else ""

    def check(value: Any, at: str) -> None:
        if not isinstance(value, list) or not low <= len(value) <= high:
            _refuse(value, at, f"a list{length}")
        for i, item in enumerate(value):
            each(item, f"{at}[{i}]")

    return check


def table(each: Schema, key: str = r"(?s:.*)") -> Schema:
    """An object whose keys match a pattern."""
    name = text(key)

    def check(value: Any, at: str) -> None:
        if not isinstance(value, dict):
            _refuse(value, at, "an object")
        for own, item in value.items():
            name(own, f"a key of {at}")
            each(item, f"{at}[{shown(own)}]")

    return check


def record(**fields: Schema) -> Schema:
    """An object with exactly these keys."""

    def check(value: Any, at: str) -> None:
        if not isinstance(value, dict) or value.keys() != fields.keys():
            _refuse(value, at, f"an object of {', '.join(fields)}")
        for name, field in fields.items():
            field(value[name], f"{at}.{name}" if at else name)

    return check


def encodable(value: str) -> bool:
    """Whether a text can be written as UTF-8: JSON and Python can hold halves of characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse(value: Any, at: str, must: str) -> NoReturn:
    raise ValueError(f"{at or 'it'} is {shown(value)}, and must be {must}")
