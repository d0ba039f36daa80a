"""URLs as they may be shown: without passwords, keys and tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote

MASK = "***"
_SCHEME = "[A-Za-z][A-Za-z0-9+.-]*://"
_URL = re.compile(rf"(?P<scheme>{_SCHEME})(?P<rest>(?:(?!::{_SCHEME}).)*)", re.S)
"""One URL; fsspec joins several by two colons."""
_AMONG = re.compile(rf"(?P<scheme>{_SCHEME})(?P<rest>(?:(?!::{_SCHEME})[^\s'\"<>])*)")
"""A URL in a text."""
_CONTAINER = re.compile(r"(abfss?|wasbs?|az|adl)://")
"""In these, the part before an @ is the name of a container."""
_SECRET = re.compile(r"pass|pwd|secret|token|key|cred|sig|sas|auth|connection_string|cookie", re.I)


def masked(text: str) -> str:
    """Return a URL with its credentials and the values of its query masked; a path as it is.

    >>> masked("s3://KEY:SECRET@bucket/features")
    's3://***@bucket/features'
    >>> masked("https://host/features?sig=abc&part=1")
    'https://host/features?sig=***&part=***'
    """
    return _URL.sub(_masked, text)


def _masked(found: re.Match[str]) -> str:
    user, host, query = _split(found["scheme"], found["rest"])
    for mark in "?#":
        if mark in query:
            before, _, after = query.partition(mark)
            query = (
                before + mark + re.sub(r"(^|(?<=[&;?#]))([^&;?#=]*=)?[^&;?#]+", rf"\2{MASK}", after)
            )
            break
    return f"{found['scheme']}{MASK + '@' if user else ''}{host}{query}"


def _split(scheme: str, rest: str) -> tuple[str, str, str]:
    """Return the credentials of a URL, its host and path, and its query, from its mark on."""
    first = re.split(r"[/?#]", rest, maxsplit=1)[0]
    # The secrets of S3 may hold slashes: a colon that is not that of a port begins one.
    opened = re.match(r"[^/?#@:]*:(?!\d*(?:[/?#]|$))", rest)
    user = ""
    if "@" in first or (opened and "@" in rest):
        end = rest.rindex("@") if opened else first.rindex("@")
        if ":" in rest[:end] or not _CONTAINER.match(scheme):
            user, rest = rest[:end], rest[end + 1 :]
    mark = re.search(r"\?|#(?=[^?]*=)", rest)
    edge = mark.start() if mark else len(rest)
    return user, rest[:edge], rest[edge:]


def secrets(url: str, options: Mapping[str, Any] | None = None) -> list[str]:
    """Return the secrets in a URL and in the options of its file system, longest first."""
    found: set[str] = set()
    for match in _URL.finditer(url):
        user, _, query = _split(match["scheme"], match["rest"])
        if user:
            found |= {user, *user.split(":")}
        found |= {part.partition("=")[2] or part for part in re.split(r"[?&;#]", query)}
    found |= set(_inside(options or {}, False))
    found |= {change(secret) for secret in list(found) for change in (unquote, _quoted)}
    return sorted((s for s in found if len(s) > 2), key=len, reverse=True)


def _quoted(secret: str) -> str:
    return quote(secret, safe="")


def _inside(options: Any, secret: bool) -> Iterable[str]:
    """Yield the values of options that are named like secrets, at any depth."""
    if isinstance(options, Mapping):
        for name, value in options.items():
            yield from _inside(value, secret or bool(_SECRET.search(str(name))))
    elif isinstance(options, list | tuple):
        for value in options:
            yield from _inside(value, secret)
    elif secret and isinstance(options, str | bytes):
        yield options if isinstance(options, str) else options.decode(errors="replace")


def without(hidden: Iterable[str], text: str) -> str:
    """Return a text, such as that of an error, with the secrets in it masked."""
    for secret in hidden:
        text = text.replace(secret, MASK)
    return _AMONG.sub(_masked, text)
