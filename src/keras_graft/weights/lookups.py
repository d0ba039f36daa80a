"""Which words the ids of an embedding or kernel stand for: the lookup layers in front of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.errors import ReadError, WeightsError
from keras_graft.graph.graph import Graph
from keras_graft.model.read import read

_WORDS = (keras.layers.StringLookup, keras.layers.IntegerLookup, keras.layers.TextVectorization)
_OTHERS = {
    keras.layers.Hashing: ("num_bins", "mask_value", "salt"),
    keras.layers.HashedCrossing: ("num_bins",),
    keras.layers.Discretization: ("bin_boundaries",),
}
Found = dict[int, tuple[Any, ...]]


def is_lookup(layer: Any) -> bool:
    """Whether a layer turns its input into ids."""
    return isinstance(layer, (*_WORDS, *_OTHERS)) and not getattr(layer, "invert", False)


def lookups_in_front(layer: Any) -> Found:
    """Return the lookup layers whose ids each layer takes, by the `id()` of that layer.

    If the calls of a layer or model cannot be read, any embedding inside may take ids from any.
    """
    found: Found = {}
    if any(is_lookup(x) for x in _keras.layers_inside(layer)):
        try:
            graph = read(layer)
        except ReadError:
            _closed(layer, (), found)
        else:
            _walk(graph, {}, found)
    return found


def _walk(graph: Graph, ids: dict[Any, tuple[Any, ...]], found: Found) -> None:
    """Follow ids from the lookup layers to the first layers with weights."""
    for node in graph.steps:
        layer = node.operation
        given = _union(ids.get(value.key, ()) for value in node.inputs)
        if is_lookup(layer):
            given = (layer,)
        elif node.nested is not None:
            inside = {
                value.key: ids.get(node.reads[entry.source].key, ())
                for value, entry in zip(node.nested.inputs, node.entries, strict=False)
                if entry.source is not None
            }
            _walk(node.nested, inside, found)
            for value, inner in zip(node.outputs, node.nested.outputs, strict=False):
                ids[value.key] = inside.get(inner.key, ())
            continue
        elif getattr(layer, "weights", None):
            _closed(layer, given, found)
            given = ()
        ids.update((value.key, given) for value in node.outputs)
    return


def _closed(layer: Any, given: tuple[Any, ...], found: Found) -> None:
    inside = _keras.layers_inside(layer)
    given = _union([given, [x for x in inside if is_lookup(x)]])
    for inner in inside:
        if given and (inner is layer or isinstance(inner, keras.layers.Embedding)):
            found[id(inner)] = _union([found.get(id(inner), ()), given])


def _union(groups: Any) -> tuple[Any, ...]:
    return tuple({id(x): x for group in groups for x in group}.values())


def difference(source: Sequence[Any], target: Sequence[Any]) -> str | None:
    """Return how the meaning of ids differs between two sides; None if it is the same."""
    if not source or not target or sorted(map(_meaning, source)) == sorted(map(_meaning, target)):
        return None
    its, mine = source[0], target[0]
    names = f"{type(its).__name__} {its.name!r} in front of it in the source"
    if [len(source), len(target)] != [1, 1] or type(its) is not type(mine):
        return (
            f"different lookup layers are in front of it: {_listed(source)} in the source, "
            f"{_listed(target)} in the target"
        )
    if not isinstance(its, _WORDS):
        fields = next(fields for cls, fields in _OTHERS.items() if isinstance(its, cls))
        unlike = [name for name in fields if getattr(its, name) != getattr(mine, name)]
        return f"{names} has a different {' and '.join(unlike)} than {mine.name!r} in the target"
    old, new = _vocabulary(its), _vocabulary(mine)
    moved = sum(a != b for a, b in zip(old, new, strict=False)) + abs(len(old) - len(new))
    return (
        f"{names} has a different vocabulary than {mine.name!r} in the target: {moved} of "
        f"{max(len(old), len(new))} ids stand for something else"
    )


def _listed(layers: Sequence[Any]) -> str:
    return ", ".join(f"{type(x).__name__} {x.name!r}" for x in layers)


def _meaning(layer: Any) -> str:
    if isinstance(layer, _WORDS):
        return repr(_vocabulary(layer))
    fields = next(fields for cls, fields in _OTHERS.items() if isinstance(layer, cls))
    return repr([type(layer).__name__, *(getattr(layer, name) for name in fields)])


def _vocabulary(layer: Any) -> list[Any]:
    return list(layer.get_vocabulary())


def has_words(layer: Any) -> bool:
    """Whether a layer has a vocabulary, which says what its ids mean."""
    return isinstance(layer, _WORDS)


def ids_by_token(old: Any, new: Any) -> list[int]:
    """Return, for each id of a new vocabulary, the old id of the same token; -1 if there is none.

    Args:
        old: A lookup layer, or the tokens in the order of their ids.
        new: The same for the new vocabulary.
    """
    tokens = []
    for given in (old, new):
        if isinstance(given, str | bytes) or not (
            hasattr(given, "get_vocabulary") or isinstance(given, Sequence)
        ):
            raise WeightsError(
                "resize.tokens: it takes two lookup layers with a vocabulary, or two lists of "
                f"tokens, got {type(given).__name__}."
            )
        found = _vocabulary(given) if hasattr(given, "get_vocabulary") else list(given)
        seen: Counter[Any] = Counter()
        numbered = []
        for token in found:  # several ids may stand for unknown tokens
            numbered.append((token, seen[token]))
            seen[token] += 1
        tokens.append(numbered)
    places = {token: i for i, token in enumerate(tokens[0])}
    return [places.get(token, -1) for token in tokens[1]]
