"""Selectors as words of a command line: names, patterns, paths, `class:ReLU`, several by commas."""

from __future__ import annotations

from typing import Any

from keras_graft_cli.errors import UsageError


def selector(text: str) -> Any:
    """Return the selector that a word stands for.

    >>> selector("conv4_*"), selector("a,b")
    ('conv4_*', ['a', 'b'])
    """
    parts = [_one(part) for part in _parts(text)]
    return parts[0] if len(parts) == 1 else parts


def several(texts: list[str]) -> Any:
    """Return the selector of several words; one word is itself."""
    parts = [selector(text) for text in texts]
    return parts[0] if len(parts) == 1 else parts


def boundary(text: str) -> Any:
    """Return the boundary that a word stands for: `a,b` is one boundary of two values.

    >>> boundary("a"), boundary("a,b")
    ('a', ('a', 'b'))
    """
    parts = [_one(part) for part in _parts(text)]
    return parts[0] if len(parts) == 1 else tuple(parts)


def _parts(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UsageError(f"{text!r} has an empty name beside a comma.")
    return parts


def _one(text: str) -> Any:
    kind, colon, name = text.partition(":")
    if kind != "class" or not colon:
        return text
    import keras

    from keras_graft.graph.names import nearest

    known = {k: v for k, v in vars(keras.layers).items() if isinstance(v, type)}
    known |= {"Model": keras.Model, "Sequential": keras.Sequential}
    own = {k: v for k, v in keras.saving.get_custom_objects().items() if isinstance(v, type)}
    of_name = [key for key in own if key.rpartition(">")[2] == name]
    if len(of_name) > 1 and name not in known:
        raise UsageError(f"{text!r}: several classes have this name: {', '.join(of_name)}.")
    known = {**{k.rpartition(">")[2]: v for k, v in own.items()}, **own, **known}
    if name not in known:
        near = nearest(name, known)
        hint = f" Nearest: {', '.join(near)}." if near else ""
        raise UsageError(f"{text!r}: there is no layer class {name!r}.{hint}")
    return known[name]
