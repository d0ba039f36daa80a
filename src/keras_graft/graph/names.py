"""Names: make them unique or safe, and find the nearest to a misspelt one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

_UNSAFE = re.compile(r"[^A-Za-z0-9_.\-]+")


class Names:
    """Makes names unique, each in constant time even when thousands clash.

    >>> names = Names()
    >>> [names.take("relu"), names.take("relu"), names.take("relu_1"), names.take("relu")]
    ['relu', 'relu_1', 'relu_1_1', 'relu_2']
    """

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        # Each name in use, with the number to try first for its next variant.
        self._next: dict[str, int] = dict.fromkeys(reserved, 1)

    def take(self, name: str) -> str:
        """Reserve `name` or its first free variant, and return it."""
        result = name
        number = self._next.get(name, 1)
        while result in self._next:
            result = f"{name}_{number}"
            number += 1
        self._next[name] = number
        if result != name:
            self._next[result] = 1
        return result

    def free(self, name: str) -> None:
        """Make `name` available again."""
        del self._next[name]

    def copy(self) -> Names:
        """Return an independent copy."""
        new = Names()
        new._next = self._next.copy()
        return new


def is_one_of(given: object, *names: str) -> bool:
    """Whether an argument is one of these names. For an array, `in` may not return a bool."""
    return isinstance(given, str) and given in names


def items_of(given: Any) -> list[Any]:
    """Return a user's argument, one item or several, as a list.

    >>> items_of("a"), items_of(("a", "b"))
    (['a'], ['a', 'b'])
    """
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        return [given]
    try:
        return list(given)
    except Exception:  # a symbolic tensor counts as iterable, but raises
        return [given]


def safe(name: str) -> str:
    """Return `name` with only the characters that every backend accepts in a layer's name.

    >>> safe("encoder/shared#1")
    'encoder_shared_1'
    """
    return _UNSAFE.sub("_", name).strip("_") or "value"


def nearest(name: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """Return the candidates that a misspelt `name` may mean, the nearest first.

    >>> nearest("conv4_blok6_out", ["conv4_block6_out", "conv1_pad", "predictions"])
    ['conv4_block6_out']
    >>> nearest("Relu", ["ELU", "ReLU6", "ReLU"])[0]
    'ReLU'
    """
    pool = list(dict.fromkeys(candidates))
    lowered = name.lower()
    inside = [c for c in pool if lowered and (lowered in c.lower() or c.lower() in lowered)]
    # difflib is quadratic in the length of a name and linear in the number of names: fine for
    # thousands. In a larger model, hardly any name was typed by a person.
    close = difflib.get_close_matches(name, pool[:5000], n=count, cutoff=0.6)
    same = [c for c in pool if c.lower() == lowered]
    return list(dict.fromkeys(same + close + inside))[:count]


def listed(labels: Iterable[str], most: int = 10) -> str:
    """Return names as readable text; after `most` of them, only a count."""
    labels = list(labels)
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return (", ".join(repr(label) for label in labels[:most]) or "nothing") + more
