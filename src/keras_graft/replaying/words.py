"""Steps in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_LONG = 90


def sentence(step: dict[str, Any]) -> str:
    """Return the arguments of a step on one line."""
    parts = [f"{name}={_told(value)}" for name, value in step.get("arguments", {}).items()]
    if "part" in step:
        parts.append(f"part {step['part']}")
    text = ", ".join(parts)
    return text if len(text) <= _LONG else f"{text[: _LONG - 3]}..."


def told(value: Any) -> str:
    """Return a value as a few words."""
    return _told(value)


def walk(step: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield the arguments of a step that have objects with a key inside, with these objects."""
    for name, value in step.get("arguments", {}).items():
        for found in _inside(value, key):
            yield name, found


def _inside(value: Any, key: str) -> Iterator[Any]:
    if isinstance(value, dict):
        if key in value:
            yield value
        for name, item in value.items():
            if name != "config":
                yield from _inside(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from _inside(item, key)


def _told(value: Any) -> str:
    if isinstance(value, list):
        shown = [_told(item) for item in value[:4]]
        more = [f"and {len(value) - 4} more"] if len(value) > 4 else []
        return f"[{', '.join([*shown, *more])}]"
    if not isinstance(value, dict):
        return repr(value)
    match value:
        case {"layer": name, **rest}:
            return _layer(str(name), rest.get("config"))
        case {"for_each": one}:
            return f"{_told(one)} for each"
        case {"each": list(entries)}:
            kinds = dict.fromkeys(_kind(entry) for entry in entries)
            return f"{len(entries)} of {', '.join(kinds)}"
        case {"as_input": name}:
            return "an input" if name is None else f"the input {name!r}"
        case {"array": list(items)}:
            return f"the array {_told(items)}"
        case {"class": name} | {"function": name}:
            return str(name)
        case {"operation_of": name}:
            return f"the layer {name!r}"
        case {"unwritten": what}:
            return f"<{what}>"
        case {"given": name}:
            return f"<given: {name!r}>"
        case {"after": after, "steps": list(steps)}:
            verbs = ", ".join(str(step.get("verb")) for step in steps if isinstance(step, dict))
            return f"<after step {after}: {verbs}>"
        case {"tuple": list(items)}:
            return f"({', '.join(map(_told, items))})"
        case {"pairs": list(pairs)}:
            texts = [": ".join(map(_told, pair)) for pair in pairs if isinstance(pair, list)]
            return f"{{{', '.join(texts)}}}"
    return f"{{{', '.join(f'{name!r}: {_told(item)}' for name, item in value.items())}}}"


def _kind(entry: Any) -> str:
    if isinstance(entry, dict) and "layer" in entry:
        return str(entry["layer"]).rpartition(".")[2]
    return _told(entry)


def _layer(name: str, config: Any) -> str:
    own = config.get("name") if isinstance(config, dict) else None
    kind = name.rpartition(".")[2]
    return f"{kind} {own!r}" if isinstance(own, str) else kind
