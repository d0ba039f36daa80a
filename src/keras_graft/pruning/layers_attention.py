"""Rules for attention: heads go whole, the widths around them by channels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft.pruning.call import Call
from keras_graft.pruning.closure import Axis
from keras_graft.pruning.registry import layer_class, layers

_L = keras.layers


def _given(c: Call) -> tuple[Any, Any, Any]:
    """Return query, value and key."""
    query, value = c.argument(0, "query"), c.argument(1, "value")
    key = c.argument(2, "key")
    return query, value, value if key is None else key


def _projected(c: Call, dense: Any, value: Any, heads: Axis | None) -> None:
    """A projection of a width to heads: kernel (width, heads, size), bias (heads, size)."""
    if dense is not None:
        c.same(c.axis(value, -1), c.weight(dense.kernel, 0))
        c.same(heads, c.weight(dense.kernel, 1), c.weight(dense.bias, 0))


def _given_out(c: Call, dense: Any, heads: Axis | None) -> None:
    """The output projection: kernel (heads, size, width), bias (width)."""
    out = c.axis(c.y, -1)
    c.same(heads, c.weight(dense.kernel, 0))
    c.summed.add(c.weight(dense.kernel, 0))
    c.same(out, c.weight(dense.kernel, -1), c.weight(dense.bias, -1))


def _around(c: Call, heads: Axis | None, query: Any, others: Any, causal: int) -> None:
    """Couple what is around the heads: tokens, masks and returned scores.

    The tokens of the query go with those of the output. What the query attends to stays: a softmax
    is over it.

    Args:
        c: The call.
        heads: The heads, None if there are none.
        query: The query, whose axes between batch and width are tokens.
        others: Key and value.
        causal: The place of `use_causal_mask` among the arguments.
    """
    own = {v.key for v in (query, *others)}
    masks = [v for v in c.inputs if v.key not in own]
    masked = masks or c.constant_shapes() or c.argument(causal, "use_causal_mask", False)
    scores = c.outputs[1] if len(c.outputs) > 1 else None
    before = 0 if heads is None else 1
    for i in range(1, len(query.spec.shape) - 1):
        axis = c.axis(query, i)
        c.same(axis, c.axis(c.y, i))
        c.same(axis, None if scores is None else c.axis(scores, i + before))
        if masked:
            c.stop(axis, "a mask says what each of its positions attends to")
    for value in others:
        for i in range(1, len(value.spec.shape) - 1):
            c.stop(c.axis(value, i), "a softmax is over all of its positions")
    if heads is None:
        return
    if scores is not None:
        c.same(heads, c.axis(scores, 1))
    for mask in masks:  # (batch, heads, query, key), or without the heads
        rank = len(c.shape(mask))
        if rank == 4:
            c.same(heads, c.axis(mask, 1))
        elif rank > 4:
            c.stop(heads, "it is given a cache of keys and values")


@layers(_L.MultiHeadAttention)
def multi_head(c: Call) -> None:
    layer = c.layer
    query, value, key = _given(c)
    heads = c.number("num_heads", layer.num_heads)
    c.numbers[heads.holder[2]] = heads  # type: ignore[index]
    dense = _keras.projections(layer)
    for name, value_ in (("query", query), ("key", key), ("value", value), ("gate", query)):
        _projected(c, dense[name], value_, heads)
    _given_out(c, dense["output"], heads)
    out, width = c.axis(c.y, -1), c.axis(query, -1)
    given = _keras.get_config(layer).get("output_shape")
    if given:
        c.counts(("output_shape", len(given) - 1), out)
    elif out is not None and width is not None:
        # Without `output_shape` the output has as many channels as the query, after pruning too.
        c.changes.append(
            lambda kept: (
                {} if len(kept(out)) == len(kept(width)) else {("output_shape",): [len(kept(out))]}
            )
        )
    _around(c, heads, query, (key, value), 9)
    c.source = heads


@layers(layer_class("GroupQueryAttention"), layer_class("GroupedQueryAttention"))
def group_query(c: Call) -> None:
    layer = c.layer
    query, value, key = _given(c)
    queries = c.number("num_query_heads", layer.num_query_heads)
    heads = c.number("num_key_value_heads", layer.num_key_value_heads)
    for number in (queries, heads):
        c.numbers[number.holder[2]] = number  # type: ignore[index]
    repeats = layer.num_query_heads // layer.num_key_value_heads
    c.link(queries, np.arange(queries.size), heads, np.arange(queries.size) // repeats)
    dense = _keras.projections(layer)
    _projected(c, dense["query"], query, queries)
    _projected(c, dense["gate"], query, queries)
    _projected(c, dense["key"], key, heads)
    _projected(c, dense["value"], value, heads)
    _given_out(c, dense["output"], queries)
    c.same(c.axis(query, -1), c.axis(c.y, -1))  # it has no number for another width
    _around(c, queries, query, (key, value), 9)
    c.source = queries


@layers(_L.Attention, _L.AdditiveAttention)
def dot_product(c: Call) -> None:
    given = c.argument(0, "inputs")
    if not isinstance(given, list | tuple) or len(given) < 2:
        return
    query, value = given[:2]
    key = given[2] if len(given) > 2 else value
    c.same(c.axis(query, -1), c.axis(key, -1))
    scaled = getattr(c.layer, "use_scale", False)
    if type(c.layer) is _L.Attention and c.layer.score_mode == "dot":
        c.sums(c.axis(query, -1), c.axis(key, -1), what="score")
    elif type(c.layer) is _L.Attention or not scaled:
        c.sums(c.axis(query, -1), c.axis(key, -1), every=True, what="score")
    c.same(c.axis(value, -1), c.axis(c.y, -1))
    _around(c, None, query, (key, value), 4)
    scale = getattr(c.layer, "scale", None)
    if scale is not None and len(scale.shape) == 1:
        c.same(c.axis(query, -1), c.weight(scale, 0))
    c.source = c.axis(c.y, -1)
