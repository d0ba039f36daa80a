"""Random models whose layers have clashing names and are called in different ways.

As in `strategies.py`, a plan is drawn as plain data, and `interpret` builds it. Each part is a model
inside with a layer of one and the same name; parts take and give single tensors, lists or dicts.
"""

from __future__ import annotations

import keras
from hypothesis import strategies as st
from keras import layers

WIDTH = 3
KINDS = ("scaled", "plain", "dense", "attend", "lstm", "norm")
STRUCTURES = ("flat", "list", "dict")

call = st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 3))
part = st.fixed_dictionaries({
    "kind": st.sampled_from(KINDS),
    "calls": st.lists(call, min_size=1, max_size=3),
    "takes": st.sampled_from(STRUCTURES),
    "gives": st.sampled_from(STRUCTURES),
    "times": st.integers(1, 2),
})  # fmt: skip


@st.composite
def call_plans(draw) -> dict:
    """Return a plan: which inputs, which parts, which outputs, in which structures."""
    return {
        "inputs": draw(st.integers(1, 2)),
        "structure": draw(st.sampled_from(STRUCTURES)),
        "parts": draw(st.lists(part, min_size=2, max_size=3)),
        "outputs": draw(st.lists(st.integers(0, 9), min_size=1, max_size=3)),
        "out_structure": draw(st.sampled_from(STRUCTURES)),
    }


@keras.saving.register_keras_serializable("strategies_calls")
class Scaled(layers.Layer):
    """Its arguments say what it computes, and `parts` how many values it gives."""

    def build(self, *_):
        self.factor = self.add_weight(shape=(), initializer="ones", name="factor")

    def call(self, x, scale=1.0, other=None, parts=1, training=False):
        x = x * scale * self.factor
        if other is not None:
            x = x - other
        if training:
            x = x + 10.0
        return x if parts == 1 else tuple(x + i for i in range(parts))


@keras.saving.register_keras_serializable("strategies_calls")
class Plain(layers.Layer):
    """Holds nothing."""

    def call(self, x, scale=1.0):
        return x * scale


def interpret(plan: dict) -> keras.Model:
    """Build the model that a plan says."""
    keras.utils.clear_session(free_memory=False)
    names = [f"x{i}" for i in range(plan["inputs"])]
    inputs = [keras.Input((WIDTH,), name=name) for name in names]
    pool = list(inputs)
    for number, told in enumerate(plan["parts"]):
        model = _part(told, f"part{number}")
        for time in range(told["times"]):
            given = pool[-1], pool[-1 - (number + time) % len(pool)]
            pool += keras.tree.flatten(model(_structured(given, told["takes"], ("p", "q"))))
    reached = [pool[-1 - i % len(pool)] for i in plan["outputs"]]
    chosen = [pool[-1], *reached] if plan["out_structure"] != "flat" else [pool[-1]]
    keys = [f"o{i}" for i in range(len(chosen))]
    return keras.Model(
        _structured(inputs, plan["structure"], names),
        _structured(chosen, plan["out_structure"], keys),
        name="calls",
    )


def _structured(values, structure: str, keys):
    if structure == "dict":
        return dict(zip(keys, values, strict=True))
    return values[0] if structure == "flat" and len(values) == 1 else list(values)


def _part(told: dict, name: str) -> keras.Model:
    inputs = [keras.Input((WIDTH,), name=key) for key in "pq"]
    layer = _layer(told["kind"])
    pool, made = list(inputs), []
    # Keras takes no output that the first call of a layer did not give too.
    order = sorted(told["calls"], key=lambda call: -_count(told["kind"], call[0]))
    for how, i, j in order:
        x, y = pool[-1 - i % len(pool)], pool[-1 - j % len(pool)]
        made = _called(layer, told["kind"], how, x, y)
        pool += made
    # A model that does not read one of its inputs is another test's: both always take part.
    last = layers.Add(name="end")([made[-1], *inputs])
    outputs = [last] if told["gives"] == "flat" else [last, made[0]]
    return keras.Model(
        _structured(inputs, told["takes"], ("p", "q")),
        _structured(outputs, told["gives"], ("u", "v")),
        name=name,
    )


def _layer(kind: str) -> layers.Layer:
    make = {
        "scaled": Scaled, "plain": Plain,
        "dense": lambda name: layers.Dense(WIDTH, activation="tanh", name=name),
        "attend": lambda name: layers.MultiHeadAttention(1, 2, name=name),
        "lstm": lambda name: layers.LSTM(WIDTH, return_state=True, name=name),
        "norm": layers.BatchNormalization,
    }  # fmt: skip
    return make[kind](name="d")


def _count(kind: str, how: int) -> int:
    if kind == "scaled":
        return {3: 2, 4: 3}.get(how, 1)
    return 1 + (kind == "attend" and how % 3 == 2)


def _called(layer: layers.Layer, kind: str, how: int, x, y) -> list:
    if kind == "scaled":
        kwargs = [
            {}, {"scale": 2.0}, {"other": y}, {"parts": 2}, {"scale": 0.5, "other": y, "parts": 3},
            {"training": False, "other": y},
        ]  # fmt: skip
        return keras.tree.flatten(layer(x, **kwargs[how]))
    if kind == "plain":
        return [layer(x, scale=how + 0.5)]
    if kind == "dense":
        return [layer(x)]
    if kind == "norm":
        return [layer(x, training=False) if how % 2 else layer(x)]
    row, other = x[:, None, :], y[:, None, :]
    if kind == "lstm":
        if how % 2:
            return list(layer(row))
        return list(layer(row, initial_state=[x, y]))
    if how % 3 == 0:
        return [layer(row, other)[:, 0]]
    if how % 3 == 1:
        return [layer(row, other, use_causal_mask=True)[:, 0]]
    kept, scores = layer(row, other, return_attention_scores=True)
    return [kept[:, 0], kept[:, 0] * scores[:, 0, 0]]
