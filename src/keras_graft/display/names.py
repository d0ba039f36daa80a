"""Names of layers, taken apart: what several have in common, and which stretch has a name alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

_TOKEN = re.compile(r"[^_/.]*[^_/.\d](?:_\d+(?![^_/.]))?(?![^_/.])|[^_/.]+")


def tokens(name: str) -> tuple[str, ...]:
    """Return the parts of a name; a number belongs to the word before it if that has none.

    >>> tokens("conv2_block1_1_relu"), tokens("block_4_expand_BN")
    (('conv2', 'block1', '1', 'relu'), ('block_4', 'expand', 'BN'))
    """
    return tuple(_TOKEN.findall(name))


def telling(named: Iterable[tuple[str, str]]) -> list[tuple[str, ...]]:
    """Return the parts of each name; none for a name that tells nothing about blocks.

    That is one that Keras gave by itself, or one that begins as no other does: such a node may lie
    in any block.

    Args:
        named: The name and the class of each layer.

    >>> telling([("b_0_conv", "Conv2D"), ("re_lu_2", "ReLU"), ("b_0_out", "Add"), ("new", "Dense")])
    [('b_0', 'conv'), (), ('b_0', 'out'), ()]
    """
    found = [() if is_given_by_keras(*pair) else tokens(pair[0]) for pair in named]
    first = Counter(name[:1] for name in found)
    return [name if first[name[:1]] > 1 else () for name in found]


def is_given_by_keras(name: str, kind: str) -> bool:
    """Whether a layer has the name that Keras gives by itself: it says nothing about blocks.

    >>> is_given_by_keras("re_lu_2", "ReLU"), is_given_by_keras("conv1_relu", "ReLU")
    (True, False)
    """
    words = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", re.sub(r"\W+", "", kind))
    words = re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
    return name.startswith(words) and re.fullmatch(r"(_\d+)?", name[len(words) :]) is not None


def in_common(names: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Return the parts with which all names begin; empty names do not count."""
    names = [name for name in names if name]
    shortest = min(names, key=len, default=())
    for i, part in enumerate(shortest):
        if any(name[i] != part for name in names):
            return tuple(shortest[:i])
    return tuple(shortest)


def prefix(name: str, parts: Sequence[str]) -> str:
    """Return the beginning of a name that has these parts, as it is written.

    >>> prefix("conv2_block1_1_relu", ["conv2", "block1"])
    'conv2_block1'
    """
    end = 0
    for match, _ in zip(_TOKEN.finditer(name), parts, strict=False):
        end = match.end()
    return name[:end]


def beginning(names: Iterable[str]) -> str:
    """Return the letters with which all names begin, without a digit or separator at the end.

    >>> beginning(["conv4_block2", "conv4_block3"])
    'conv4_block'
    """
    names = list(names)
    first, last = min(names, default=""), max(names, default="")
    length = next(
        (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b),
        min(len(first), len(last)),
    )
    return first[:length].rstrip("_-./0123456789")


class Prefixes:
    """How many nodes of a level have a name that begins with certain parts."""

    def __init__(self, names: Iterable[Sequence[str]]) -> None:
        self._counts = Counter(_beginnings(names))

    def count(self, parts: Sequence[str]) -> int:
        """Return how many nodes have a name that begins with these parts."""
        return self._counts[tuple(parts)]

    def mostly(self, names: Sequence[Sequence[str]]) -> tuple[str, ...]:
        """Return the longest beginning of most of these names that no other node has.

        >>> names = [tokens(n) for n in ["b_0_conv", "b_0_norm", "b_0_gelu", "add_3"]]
        >>> Prefixes(names).mostly(names), Prefixes([*names, ("b_0", "x")]).mostly(names)
        (('b_0',), ())
        """
        found = [
            (len(parts), parts)
            for parts, count in Counter(_beginnings(names)).items()
            if count >= 0.6 * len(names) and count == self._counts[parts]
        ]
        return max(found, default=(0, ()))[1]


def _beginnings(names: Iterable[Sequence[str]]) -> Iterable[tuple[str, ...]]:
    return (tuple(name[:i]) for name in names for i in range(1, len(name) + 1))
