"""Random chains of what Keras lets lie about its shapes, and edits that change what reaches it."""

from __future__ import annotations

import keras
import numpy as np
from hypothesis import strategies as st
from keras import layers, ops

import keras_graft as kg

LENGTH, WIDTH = 6, 8
WIDTHS = (1, 4, 5, 8, 16)
KINDS = (
    "lstm", "gru", "bidirectional", "time", "norm", "rms", "prelu", "einsum", "attention",
    "attend", "states", "dense", "batch", "conv", "relu", "drop", "nested", "closed", "reshape",
    "matmul", "pool", "scale", "shared",
)  # fmt: skip
EDITS = ("replace", "insert", "before", "remove", "rewire", "repeat", "join", "both", "nested")

change = st.tuples(
    st.sampled_from(EDITS), st.integers(0, 30), st.integers(0, 30), st.sampled_from(WIDTHS)
)


@st.composite
def plans(draw) -> dict:
    """Return a plan: which layers in a row, whether the length is known, and which edits."""
    return {
        "length": draw(st.sampled_from([LENGTH, LENGTH, None])),
        "kinds": draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=5)),
        "inside": draw(st.booleans()),
        "changes": draw(st.lists(change, min_size=1, max_size=3)),
    }


def _inner(kind: str, shape: tuple, name: str) -> keras.Model:
    x = keras.Input(shape, name=f"{name}_in")
    y = layers.Dense(WIDTH, name=f"{name}_d")(x)
    return keras.Model(x, layers.PReLU(shared_axes=[1], name=f"{name}_p")(y), name=name)


def _constant(*shape: int) -> np.ndarray:
    return np.linspace(-1, 1, int(np.prod(shape))).reshape(shape).astype("float32")


def _one(kind: str, name: str, y, shared):
    """Return what a layer of this kind makes of a sequence: another sequence."""
    if kind == "lstm":
        return layers.LSTM(3, return_sequences=True, name=name)(y)
    if kind == "gru":
        return layers.GRU(WIDTH, return_sequences=True, name=name)(y)
    if kind == "bidirectional":
        return layers.Bidirectional(layers.LSTM(2, return_sequences=True), name=name)(y)
    if kind == "time":
        return layers.TimeDistributed(layers.Dense(WIDTH), name=name)(y)
    if kind == "prelu":
        return layers.PReLU(shared_axes=[1], name=name)(y)
    if kind == "einsum":
        return layers.EinsumDense("abc,cd->abd", (None, WIDTH), name=name)(y)
    if kind == "attention":
        return layers.MultiHeadAttention(2, 3, name=name)(y, y)
    if kind == "attend":
        return layers.Attention(name=name)([layers.Dense(y.shape[-1], name=f"{name}_q")(y), y])
    if kind == "states":
        state = layers.Dense(3, name=f"{name}_s")(layers.GlobalMaxPooling1D()(y))
        return layers.GRU(3, return_sequences=True, name=name)(y, initial_state=state)
    if kind == "nested":
        return _inner(kind, (None, y.shape[-1]), name)(y)
    if kind == "closed":
        return _inner(kind, tuple(y.shape[1:]), name)(y)
    if kind == "reshape" and y.shape[1] is None:
        return y  # it would run at one length alone, which nothing tells
    if kind == "reshape":
        return ops.reshape(ops.transpose(y, (0, 2, 1)), (-1, y.shape[1], y.shape[2]))
    if kind == "matmul":
        return ops.matmul(y, _constant(y.shape[-1], WIDTH))
    if kind == "scale":
        return layers.Rescaling(_constant(y.shape[-1]), name=name)(y)
    if kind == "shared":
        if y.shape[-1] != WIDTH:
            return y
        return shared(shared(y))
    make = {
        "norm": layers.LayerNormalization, "rms": layers.RMSNormalization,
        "batch": layers.BatchNormalization, "relu": layers.ReLU,
    }.get(kind)  # fmt: skip
    if make is not None:
        return make(name=name)(y)
    if kind == "dense":
        return layers.Dense(WIDTH, name=name)(y)
    if kind == "conv":
        return layers.Conv1D(WIDTH, 3, padding="same", name=name)(y)
    if kind == "pool":
        return layers.AveragePooling1D(2, 1, padding="same", name=name)(y)
    return layers.Dropout(0.5, seed=1, name=name)(y)


def interpret(plan: dict) -> keras.Model:
    """Build the model that a plan says."""
    keras.utils.clear_session(free_memory=False)
    x = keras.Input((plan["length"], 4), name="x")
    y = layers.Dense(WIDTH, name="first")(x)
    shared = layers.LSTM(WIDTH, return_sequences=True, name="shared")
    if plan["inside"]:
        inner = keras.Input(y.shape[1:], name="inner")
        z = inner
        for number, kind in enumerate(plan["kinds"]):
            z = _one(kind, f"{kind}{number}", z, shared)
        z = layers.Activation("tanh", name="last")(z)
        y = keras.Model(inner, z, name="part")(y)
    else:
        for number, kind in enumerate(plan["kinds"]):
            y = _one(kind, f"{kind}{number}", y, shared)
    return keras.Model(x, layers.Activation("linear", name="end")(y), name="random")


def changed(model: keras.Model, what: tuple) -> keras.Model:
    """Make one edit that changes what some layer reads."""
    kind, i, j, width = what
    graph = kg.read(model)
    nodes = [node for node in graph.nodes if len(node.outputs) == 1]
    inside = [node for n in nodes if n.nested is not None for node in n.nested.nodes]
    node = nodes[i % len(nodes)]
    other = nodes[j % len(nodes)]

    def fresh(name="fresh"):
        return layers.Dense(width)

    if kind == "replace":
        return kg.replace(model, [node], lambda node: fresh())
    if kind == "both":
        return kg.replace(model, [node, other], lambda node: fresh())
    if kind == "insert":
        return kg.insert(model, lambda node: fresh(), after=[node.values[0]])
    if kind == "before":
        reads = list(dict.fromkeys(node.inputs))
        return kg.insert(model, fresh(), between=(graph.value(reads[j % len(reads)]), node))
    if kind == "remove":
        return kg.remove(model, [node], keep=[graph.value(node.inputs[0])])
    if kind == "rewire":
        return kg.rewire(model, {node.values[0]: other.values[0]})
    if kind == "repeat":
        return kg.repeat(model, other.values[0], node.values[0], 2)
    if kind == "join":
        x = keras.Input((LENGTH, 4), name="x")
        y = layers.Dense(WIDTH)(x)
        y = layers.ZeroPadding1D(1)(y) if width > 5 else y
        _, head = kg.split(model, at="first")
        return kg.join(keras.Model(x, y, name="front"), head)
    if not inside:
        return model
    found = inside[i % len(inside)]
    part = next(n for n in nodes if n.nested is not None and found in n.nested)
    return kg.replace(model, f"{part.label}/{found.label}", lambda node: fresh())
