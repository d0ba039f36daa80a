"""`Policy`: which layers are opened, by their paths, and which stay closed."""

from __future__ import annotations

import fnmatch
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.errors import ReadError
from keras_graft.model.opening.frame import Place
from keras_graft.printable import shown

NOT_ASKED = "it was not asked to be opened"
ASKED = "leaves= says that it stays closed"


class Policy:
    """Says for a layer at a place why it stays closed, or None if it should be opened.

    Args:
        opened: A pattern of paths, or a list of them: `"**"`, `"layer_*/attention"`. With `"**"`,
            layers of Keras itself, such as `MultiHeadAttention`, stay closed; name one to open it.
        leaves: What stays closed: patterns, classes and layers.
        of_keras: Whether `"**"` opens layers of Keras itself too.
    """

    def __init__(self, opened: Any = "**", leaves: Any = None, of_keras: bool = False) -> None:
        self.opened = _patterns(opened, "open", texts=True)
        self.leaves = _patterns(leaves, "leaves")
        self._of_keras = of_keras

    def at(self, layer: Any, path: tuple[str, ...]) -> str | None:
        """Return why a layer at a path stays closed, or None."""
        if any(_is(leaf, layer, path) for leaf in self.leaves):
            return ASKED
        if not holds_layers(layer):
            return "it holds no layers"
        named = any(pattern != "**" and _leads(pattern, path) for pattern in self.opened)
        kept = _keras.is_kerass(layer) and not self._of_keras
        if not named and (kept or "**" not in self.opened):
            return NOT_ASKED
        return _keras.shuts(layer)


def holds_layers(layer: Any) -> bool:
    """Whether an operation is a layer that holds others, and no model whose graph Keras knows."""
    if not isinstance(layer, keras.Layer) or _keras.functional(layer) is not None:
        return False
    return bool(_keras.sublayers(layer))


def path_of(place: Place, prefix: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the path of a call inside a layer, from the place that begins with that layer."""
    return (*prefix, *(name for name, _ in place[1:]))


def _patterns(given: Any, name: str, texts: bool = False) -> list[Any]:
    items = [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
    for item in items:
        known = isinstance(item, str) or not texts and isinstance(item, type | keras.Layer)
        if not known:
            kinds = "paths" if texts else "paths, classes of layers and layers"
            raise ReadError(f"read: {name}= takes {kinds}, got {shown(item)}.")
    return items


def _is(leaf: Any, layer: Any, path: tuple[str, ...]) -> bool:
    if isinstance(leaf, type):
        return isinstance(layer, leaf)
    if not isinstance(leaf, str):
        return layer is leaf
    return matches(leaf.split("/"), path)


def matches(pattern: list[str], path: tuple[str, ...]) -> bool:
    """Whether a path matches a pattern; `**` stands for any number of names."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(matches(pattern[1:], path[i:]) for i in range(len(path) + 1))
    if not path or not fnmatch.fnmatchcase(path[0], pattern[0].partition("#")[0]):
        return False
    return matches(pattern[1:], path[1:])


def _leads(pattern: str, path: tuple[str, ...]) -> bool:
    """Whether a pattern names a path, or something inside it."""
    parts = pattern.split("/")
    return any(matches(parts[:count], path) for count in range(1, len(parts) + 1))
