"""Steps in YAML and JSON files. Files are not trusted: they are plain data, and bounded in size."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from json.decoder import scanstring  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any

from keras_graft.errors import FileError
from keras_graft.printable import shown, words_of
from keras_graft.replaying.check import Found, Place, checked

_SUFFIXES = (".yaml", ".yml", ".json")
_LARGEST = {".json": 64 * 2**20, ".yaml": 4 * 2**20, ".yml": 4 * 2**20}
"""The most bytes of a file. PyYAML reads slowly: a larger recipe is kept as JSON."""


def save(data: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write steps to a file; an existing one is replaced."""
    file = _checked(path, "written")
    if file.suffix == ".json":
        text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    else:
        yaml = _yaml(file)

        class Dumper(yaml.SafeDumper):
            def ignore_aliases(self, data: Any) -> bool:
                return True

        text = yaml.dump(
            data, Dumper=Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True,
            width=100,
        )  # fmt: skip
    try:
        file.write_text(text, encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise FileError(f"{str(file)!r} cannot be written: {words_of(error)}") from error


def load(path: str | os.PathLike[str]) -> Found:
    """Return the steps of a file, and where each is.

    Raises:
        FileError: If the file cannot be read, or holds no steps.
    """
    file = _checked(path, "read")
    try:
        with file.open("rb") as opened:
            raw = opened.read(_LARGEST[file.suffix] + 1)
        if len(raw) > _LARGEST[file.suffix]:
            raise FileError(
                f"{file.name!r} has more than {_LARGEST[file.suffix]:,} bytes"
                + (": keep so many steps as JSON." if file.suffix != ".json" else ".")
            )
        text = raw.decode("utf-8")
    except OSError as error:
        raise FileError(f"{str(file)!r} cannot be read: {words_of(error)}") from error
    except UnicodeDecodeError as error:
        raise FileError(f"{file.name!r} is not text in UTF-8: {words_of(error)}") from error
    try:
        data, places = (_from_json if file.suffix == ".json" else _from_yaml)(text, file)
    except RecursionError:
        raise FileError(f"{file.name!r} is nested too deep to be steps.") from None
    return checked(data, places=places or [Place(1, file.name)])


def _checked(path: Any, done: str) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise FileError(f"steps: expected the path of a file, got {shown(path)}.")
    file = Path(path)
    if file.suffix not in _SUFFIXES:
        raise FileError(f"{str(file)!r}: steps are {done} as .yaml or .json, got {file.suffix!r}.")
    return file


def _yaml(file: Path) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise FileError(
            f'{file.name!r}: YAML needs PyYAML: pip install "keras-graft[cli]"; or use .json.'
        ) from error
    return yaml


# -- YAML: composed to nodes, which know their lines, and made plain data here -------------------


def _from_yaml(text: str, file: Path) -> tuple[Any, list[Place]]:
    yaml = _yaml(file)
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise _at(file, event, "anchors and aliases (& and *) are not read: write it out.")
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        said = getattr(error, "problem", None) or "it is not YAML"
        raise FileError(f"{file.name}{line}: {words_of(said)}.") from error
    if root is None:
        raise FileError(f"{file.name}: the file is empty.")
    maker = yaml.SafeLoader("")
    data = _plain(root, yaml, maker, file)
    listing: Any = root
    if isinstance(listing, yaml.MappingNode):
        listing = next((v for k, v in listing.value if k.value == "steps"), None)
    nodes = listing.value if isinstance(listing, yaml.SequenceNode) else []
    return data, [_place(number, node, yaml, file) for number, node in enumerate(nodes, 1)]


def _place(number: int, node: Any, yaml: Any, file: Path) -> Place:
    lines: dict[str, int] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.value == "arguments" and isinstance(value, yaml.MappingNode):
            lines = {str(name.value): name.start_mark.line + 1 for name, _ in value.value}
    return Place(number, file.name, node.start_mark.line + 1, lines)


_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null")}


def _plain(node: Any, yaml: Any, maker: Any, file: Path) -> Any:
    if isinstance(node, yaml.ScalarNode):
        if node.tag not in _TAGS:
            raise _at(
                file, node, f"{shown(node.value)[:60]} is no text, number, true, false or null."
            )
        try:
            return maker.construct_object(node)
        except (ValueError, yaml.YAMLError) as error:
            raise _at(file, node, f"{words_of(error)}.") from error
    tag = "seq" if isinstance(node, yaml.SequenceNode) else "map"
    if node.tag != f"tag:yaml.org,2002:{tag}":
        raise _at(file, node, f"the tag {shown(node.tag)[:60]} is not read.")
    if tag == "seq":
        return [_plain(item, yaml, maker, file) for item in node.value]
    found: dict[Any, Any] = {}
    for key, value in node.value:
        name = _plain(key, yaml, maker, file)
        if not isinstance(name, str):
            raise _at(file, key, f"the key {shown(name)} is not text: put it in quotes.")
        if name in found:
            raise _at(file, key, f"{shown(name)} is there twice.")
        found[name] = _plain(value, yaml, maker, file)
    return found


def _at(file: Path, node: Any, why: str) -> FileError:
    return FileError(f"{file.name}, line {node.start_mark.line + 1}: {why}")


# -- JSON ------------------------------------------------------------------------------------


def _from_json(text: str, file: Path) -> tuple[Any, list[Place]]:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(found)
        if len(made) < len(found):
            twice = next(name for name in made if [n for n, _ in found].count(name) > 1)
            raise FileError(f"{file.name}: {shown(twice)} is there twice in one object.")
        return made

    def constant(name: str) -> Any:
        raise FileError(f"{file.name}: {name} is no number that JSON knows.")

    decoder = json.JSONDecoder(object_pairs_hook=pairs, parse_constant=constant)
    try:
        data = decoder.decode(text)
    except json.JSONDecodeError as error:
        raise FileError(f"{file.name}, line {error.lineno}: {error.msg}.") from error
    except ValueError as error:  # a number of thousands of digits
        if isinstance(error, FileError):
            raise
        raise FileError(f"{file.name}: {words_of(error)}.") from error
    start = _space(text, 0)
    listing: int | None = start
    if text[start] == "{":
        listing = next((at for key, at, _ in _items(text, start, decoder) if key == "steps"), None)
    if listing is None or text[listing] != "[":
        return data, []
    places = []
    for number, (_, at, _) in enumerate(_items(text, listing, decoder), 1):
        lines: dict[str, int] = {}
        for key, inner, _ in _items(text, at, decoder) if text[at] == "{" else ():
            if key == "arguments" and text[inner] == "{":
                lines = {str(k): _line(text, i) for k, _, i in _items(text, inner, decoder)}
        places.append(Place(number, file.name, _line(text, at), lines))
    return data, places


def _items(text: str, at: int, decoder: Any) -> Iterator[tuple[str | None, int, int]]:
    """Yield the items of the object or list at a position: key, start of the value, of the item."""
    is_object = text[at] == "{"
    at = _space(text, at + 1)
    while text[at] not in "]}":
        begin, key = at, None
        if is_object:
            key, at = scanstring(text, at + 1, True)
            at = _space(text, _space(text, at) + 1)  # over the colon
        start = at
        _, at = decoder.raw_decode(text, at)
        yield key, start, begin
        at = _space(text, at)
        if text[at] == ",":
            at = _space(text, at + 1)


def _space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\n\r":
        at += 1
    return at


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
