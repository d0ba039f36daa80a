"""Attention, as layers and as an op."""

from __future__ import annotations

from typing import Any

from keras import layers

from keras_graft.costs.elementwise import PER_VALUE
from keras_graft.costs.formula import divided, product
from keras_graft.costs.work import Call, Dims, Work, rule

_SOFTMAX = PER_VALUE["softmax"]
_ATTENTION = (
    "the projections of query, key, value and result; for each pair of positions the products "
    "with keys and values (Vaswani et al., 2017)"
)


def _projected(shape: Dims, wide: int, bias: bool) -> Work:
    """Count a projection of the last axis to `wide` values."""
    places = divided(shape.size, shape[-1])
    return Work(shape.size * wide, places * wide if bias else 0)


@rule(layers.MultiHeadAttention, source=_ATTENTION)
def _multi_head(call: Call) -> Work:
    layer = call.operation
    query, value = _argument(call, 0, "query"), _argument(call, 1, "value")
    key = call.tensor(2, "key") or value
    heads, wide, deep = layer.num_heads, layer.key_dim, layer.value_dim
    bias = layer.use_bias
    found = _projected(query, heads * wide, bias) + _projected(key, heads * wide, bias)
    found += _projected(value, heads * deep, bias)
    axes = tuple(layer._attention_axes or range(1, len(query) - 1))
    asked, given = (product(shape[a] for a in axes) for shape in (query, key))
    apart = product(query[i] for i in range(len(query) - 1) if i not in axes)
    pairs = apart * heads * asked * given
    found += Work(pairs * (wide + deep), _SOFTMAX * pairs + apart * asked * heads * wide)
    result = product(query[:-1]) * heads * deep
    last = product(call.out[len(query) - 1 :])  # `output_shape` may have several axes
    return found + Work(result * last, product(query[:-1]) * last if bias else 0)


@rule(
    layers.GroupQueryAttention,
    source="as multi-head attention, with fewer heads for keys and values (Ainslie et al., 2023)",
)
def _grouped(call: Call) -> Work:
    layer = call.operation
    query, value = _argument(call, 0, "query"), _argument(call, 1, "value")
    key = call.tensor(2, "key") or value
    wide, heads, fewer = layer.head_dim, layer.num_query_heads, layer.num_key_value_heads
    bias = layer.use_bias
    found = _projected(query, heads * wide, bias)
    found += _projected(key, fewer * wide, bias) + _projected(value, fewer * wide, bias)
    batch, asked, given = query[0], query[1], key[1]
    pairs = batch * heads * asked * given
    found += Work(pairs * 2 * wide, _SOFTMAX * pairs + batch * asked * heads * wide)
    if getattr(layer, "use_gate", False):
        gated = batch * asked * heads * wide
        found += _projected(query, heads * wide, bias) + Work(0, 5 * gated)
    last = query[-1]
    done = batch * asked * last
    return found + Work(done * heads * wide, done if bias else 0)


def _argument(call: Call, index: int, name: str) -> Dims:
    found = call.tensor(index, name)
    assert found is not None
    return found


def _three(call: Call) -> tuple[Dims, Dims, Dims]:
    query, value = call.inputs[0], call.inputs[1]
    structure: Any = call.args[0] if call.args else call.kwargs["inputs"]
    return query, value, structure[2] if len(structure) > 2 else value


@rule(layers.Attention, source="the products of queries and keys, and of weights and values")
def _attention(call: Call) -> Work:
    layer = call.operation
    query, value, key = _three(call)
    pairs = query[0] * query[1] * value[1]
    context = Work(pairs * value[-1], _SOFTMAX * pairs)
    if layer.score_mode != "dot":
        return context + Work(0, 3 * pairs * query[-1] + pairs)
    return context + Work(pairs * key[-1], pairs if layer.scale is not None else 0)


@rule(
    layers.AdditiveAttention,
    source="for each pair a sum of tanh over the features (Bahdanau et al., 2015); then the values",
)
def _additive(call: Call) -> Work:
    query, value, _ = _three(call)
    pairs = query[0] * query[1] * value[1]
    per = 4 if call.operation.use_scale else 3
    return Work(pairs * value[-1], per * pairs * query[-1] + _SOFTMAX * pairs)


@rule("nn.DotProductAttention", source="the products of queries and keys, of weights and values")
def _dot_product(call: Call) -> Work:
    query, key = _argument(call, 0, "query"), _argument(call, 1, "key")
    value = _argument(call, 2, "value")
    batch, asked, heads, wide = query
    pairs = batch * heads * asked * key[1]
    return Work(pairs * (wide + value[-1]), (_SOFTMAX + 1) * pairs)
