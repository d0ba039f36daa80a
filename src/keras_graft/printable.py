"""Escape text from files and users, so that no name can forge a line or control a terminal.

Names of layers, models, columns and files may come from a file and contain anything. Everything
that Python escapes in a `repr` is escaped here too: control characters (a newline, the escape
codes of a terminal), marks that reverse the direction of text, zero-width characters. Invisible
characters that Python calls printable are escaped as well.
"""

from __future__ import annotations

import re

_INVISIBLE = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"
    + "".join(map(chr, [*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]))
)
"""Printable for Python, but invisible (Unicode's "default ignorable" code points)."""

_LONG = 400
_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def printable(text: object) -> str:
    r"""Return text on one line, with invisible characters escaped.

    >>> print(printable("a\nerror: all is lost \x1b[31m"))
    a\nerror: all is lost \x1b[31m
    """
    text = str(text)
    if not text.isprintable() or not _INVISIBLE.isdisjoint(text):
        text = "".join(map(_escaped, text))
    return text


def printable_lines(text: object) -> str:
    """Return text of several lines, with invisible characters escaped."""
    return "\n".join(map(printable, str(text).split("\n")))


def quoted(text: object) -> str:
    r"""Return text as a Python string in double quotes, for the calls that messages recommend.

    >>> print(f"kg.remove(model, {quoted('drop')}) or {quoted(chr(10))}")
    kg.remove(model, "drop") or "\n"
    """
    return '"' + printable(re.sub(r'(["\\])', r"\\\1", str(text))) + '"'


def words_of(error: object) -> str:
    """Return the text of another library's error, without bold and colours.

    Lines after the first are indented, so that nobody takes them for lines of ours.
    """
    return printable_lines(_STYLE.sub("", str(error))).replace("\n", "\n  ")


def shown(thing: object) -> str:
    """Return the `repr` of a user's argument on one line, without the middle if it is long.

    Keras's `repr` of a layer shows the name unescaped; that of an array has many lines.
    """
    try:
        text = printable(repr(thing))
    except Exception:  # an object of the user's own
        text = f"<{type(thing).__name__}>"
    return text if len(text) <= _LONG else f"{text[: _LONG // 2]}...{text[-_LONG // 2 :]}"


def _escaped(character: str) -> str:
    if character.isprintable() and character not in _INVISIBLE:
        return character
    return character.encode("unicode_escape").decode("ascii")
