"""Random models: a plan is drawn as plain data, and a small interpreter builds it.

A failing example prints as its plan. Every verb joins these models with its own property. A test
draws a plan and interprets it itself: weights are random, and Hypothesis wants none of that.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import keras
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from keras import layers, ops

WIDTH = 3
STEPS = 4

# What may stand in a plan. Each takes pool indices modulo what is there, so that any plan builds.
FLAT = ("dense", "relu", "norm", "drop", "mixed", "add", "multiply", "scale", "nested", "again",
        "sequential", "twice_nested", "split", "prelu", "layernorm", "einsum", "moments",
        "scaled", "clash", "subclass")  # fmt: skip
STEPWISE = ("lstm", "gru", "mean", "attention", "time", "states", "dense_steps", "add_steps",
            "nested_steps", "bilstm", "gru_from", "scores", "steps_prelu")  # fmt: skip


def seeded(test: Callable) -> Callable:
    """Let a random test draw the same examples in every run, and other ones on each backend.

    The properties hold on all backends: so three suites see as many different models as they draw.
    """
    backend = keras.backend.backend()
    if backend == "torch":  # Hypothesis takes a seed from the test itself
        return test
    return seed(zlib.crc32(f"{backend} {test.__qualname__}".encode()))(test)


def examples(torch: int, others: int) -> Callable[[Callable], Callable]:
    """Return a decorator for a random test, with how many examples it draws on each backend.

    PyTorch draws most: there a model starts fastest.
    """
    count = torch if keras.backend.backend() == "torch" else max(others, 1)
    bounded = settings(
        max_examples=count, deadline=None, derandomize=True, print_blob=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    return lambda test: bounded(seeded(test))


@keras.saving.register_keras_serializable("strategies")
class Scaled(layers.Layer):
    """A layer whose calls say different things to it."""

    def call(self, x, factor=1.0):
        return x * factor


@keras.saving.register_keras_serializable("strategies")
class Scored(keras.Model):
    """A Functional model with a method and an attribute of its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.rounds = 3

    def score(self, x):
        return sum(float(ops.sum(ops.cast(t, "float32"))) for t in keras.tree.flatten(self(x)))


instruction = st.tuples(
    st.sampled_from(FLAT + STEPWISE), st.integers(0, 7), st.integers(0, 7)
)  # fmt: skip


@st.composite
def plans(draw) -> dict:
    """Return a plan: which inputs, which calls, which outputs, in which structures."""
    return {
        "inputs": draw(st.sampled_from(["x", "ids", "x+ids", "x+x", "steps", "x+steps"])),
        "structure": draw(st.sampled_from(["flat", "dict", "list"])),
        "calls": draw(st.lists(instruction, min_size=1, max_size=9)),
        "outputs": draw(st.lists(st.integers(0, 20), min_size=1, max_size=3)),
        "out_structure": draw(st.sampled_from(["flat", "dict", "nested"])),
        "kind": draw(st.sampled_from(["model", "model", "subclass"])),
    }


class _Pool:
    """The values there are, by kind: vectors (batch, WIDTH) and sequences (batch, STEPS, WIDTH)."""

    def __init__(self) -> None:
        self.flat: list = []
        self.steps: list = []
        self.shared: dict = {}

    def pick(self, kind: str, index: int):
        pool = self.flat if kind == "flat" else self.steps
        return pool[-1 - index % len(pool)] if pool else None

    def one(self, name: str, make):
        """Return the layer of that name, made once: later calls share it."""
        if name not in self.shared:
            self.shared[name] = make()
        return self.shared[name]


def interpret(plan: dict) -> keras.Model:
    """Build the model that a plan says."""
    keras.utils.clear_session(free_memory=False)
    pool = _Pool()
    inputs = {}
    for number, kind in enumerate(plan["inputs"].split("+")):
        name = f"{kind}{number}"
        if kind == "x":
            inputs[name] = keras.Input((WIDTH,), name=name)
            pool.flat.append(inputs[name])
        elif kind == "ids":
            inputs[name] = keras.Input((STEPS,), dtype="int32", name=name)
            embed = layers.Embedding(3, WIDTH, mask_zero=True, name=f"embed{number}")
            pool.steps.append(embed(inputs[name]))
        else:
            inputs[name] = keras.Input((STEPS, WIDTH), name=name)
            pool.steps.append(layers.Masking(0.0, name=f"masking{number}")(inputs[name]))
    for number, (what, i, j) in enumerate(plan["calls"]):
        _call(pool, what, f"{what}{number}", i, j)
    values = pool.flat + pool.steps
    chosen = [values[i % len(values)] for i in plan["outputs"]]
    # A graph that reaches no input is none: the first input always takes part.
    first = next(iter(inputs.values()))
    if not any(_reaches(v, first) for v in chosen):
        chosen.append(values[-1] if _reaches(values[-1], first) else values[0])
    if plan["structure"] == "dict":
        given = inputs
    elif plan["structure"] == "list" or len(inputs) > 1:
        given = list(inputs.values())
    else:
        given = first
    if plan["out_structure"] == "dict":
        outputs = {f"o{i}": v for i, v in enumerate(chosen)}
    elif plan["out_structure"] == "nested":
        outputs = {"first": chosen[0], "rest": chosen[1:] + [chosen[0]]}
    else:
        outputs = chosen[0] if len(chosen) == 1 else chosen
    kind = Scored if plan.get("kind") == "subclass" else keras.Model
    return kind(given, outputs, name="random")


def _reaches(tensor, source) -> bool:
    stack, seen = [tensor], set()
    while stack:
        at = stack.pop()
        if at is source:
            return True
        if id(at) in seen:
            continue
        seen.add(id(at))
        node = at._keras_history.operation._inbound_nodes[at._keras_history.node_index]
        stack.extend(node.input_tensors)
    return False


def _inner(name: str, shape: tuple, kind: type = keras.Model) -> keras.Model:
    x = keras.Input(shape, name=f"{name}_in")
    y = layers.Dense(WIDTH, activation="tanh", name=f"{name}_a")(x)
    if len(shape) == 2:
        y = layers.GRU(WIDTH, return_sequences=True, name=f"{name}_gru")(y)
    y = layers.Add(name=f"{name}_add")([x, y])
    return kind(x, y, name=name)


def _clashing(name: str) -> keras.Model:
    """Return a model whose layer has a name that others have, called with different arguments."""
    x = keras.Input((WIDTH,), name=f"{name}_in")
    d = Scaled(name="d")
    y = layers.Concatenate(name=f"{name}_both")([d(x, factor=2.0), x])
    return keras.Model(x, layers.Dense(WIDTH, name="e")(d(y, factor=5.0)), name=name)


def _call(pool: _Pool, what: str, name: str, i: int, j: int) -> None:
    x, y = pool.pick("flat", i), pool.pick("flat", j)
    s, t = pool.pick("steps", i), pool.pick("steps", j)
    if what in STEPWISE and s is not None:
        if what == "lstm":
            pool.steps.append(layers.LSTM(WIDTH, return_sequences=True, name=name)(s))
        elif what == "gru":
            pool.flat.append(pool.one("gru", lambda: layers.GRU(WIDTH, name="gru"))(s))
        elif what == "mean":
            pool.flat.append(layers.GlobalAveragePooling1D(name=name)(s))
        elif what == "attention":
            attend = pool.one("attend", lambda: layers.MultiHeadAttention(1, 2, name="attend"))
            pool.steps.append(attend(s, t))
        elif what == "time":
            inner = layers.Dense(WIDTH, name=f"{name}_inner")
            pool.steps.append(layers.TimeDistributed(inner, name=name)(s))
        elif what == "states":
            _, h, c = layers.LSTM(WIDTH, return_sequences=True, return_state=True, name=name)(s)
            pool.flat += [h, c]
        elif what == "dense_steps":
            dense = pool.one("steps", lambda: layers.Dense(WIDTH, name="shared_steps"))
            pool.steps.append(dense(s))
        elif what == "add_steps":
            pool.steps.append(layers.Add(name=name)([s, t]))
        elif what == "bilstm":
            lstm = layers.LSTM(WIDTH, return_sequences=True)
            pool.steps.append(layers.Bidirectional(lstm, merge_mode="sum", name=name)(s))
        elif what == "gru_from":
            gru = layers.GRU(WIDTH, return_sequences=True, name=name)
            pool.steps.append(gru(s, initial_state=x) if x is not None else gru(s))
        elif what == "scores":
            # A layer of its own: Keras counts the outputs of a layer by its first call.
            y, scores = layers.MultiHeadAttention(1, 2, name=name)(
                s, t, return_attention_scores=True
            )
            pool.steps.append(y)
            pool.flat.append(layers.Dense(WIDTH, name=f"{name}_scores")(ops.mean(scores, (1, 2))))
        elif what == "steps_prelu":
            pool.steps.append(layers.PReLU(name=name)(s))
        elif what == "nested_steps":
            pool.steps.append(
                pool.one("inner_steps", lambda: _inner("steps_model", (STEPS, WIDTH)))(s)
            )
    elif what in FLAT and x is not None:
        if what == "dense":
            pool.flat.append(layers.Dense(WIDTH, name=name)(x))
        elif what == "again":
            pool.flat.append(pool.one("dense", lambda: layers.Dense(WIDTH, name="shared"))(x))
        elif what == "relu":
            pool.flat.append(layers.ReLU(name=name)(x))
        elif what == "norm":
            pool.flat.append(layers.BatchNormalization(name=name)(x, training=False))
        elif what == "drop":
            pool.flat.append(layers.Dropout(0.5, name=name)(x))
        elif what == "mixed":
            pool.flat.append(layers.Dense(WIDTH, dtype="mixed_float16", name=name)(x))
        elif what == "add":
            pool.flat.append(layers.Add(name=name)([x, y]))
        elif what == "multiply":
            pool.flat.append(ops.multiply(x, y))
        elif what == "scale":
            pool.flat.append(ops.relu(x - 0.5) * 2.0)
        elif what == "split":
            pool.flat.append(
                ops.concatenate(ops.split(ops.concatenate([x, y], 1), 2, axis=1)[::-1], 1)[
                    :, :WIDTH
                ]
            )
        elif what == "prelu":
            pool.flat.append(layers.PReLU(name=name)(x))
        elif what == "layernorm":
            pool.flat.append(layers.LayerNormalization(name=name)(x))
        elif what == "einsum":
            pool.flat.append(layers.EinsumDense("ab,bc->ac", WIDTH, name=name)(x))
        elif what == "moments":
            mean, variance = ops.moments(x, axes=[1], keepdims=True)
            pool.flat.append((x - mean) / ops.sqrt(variance + 1.0))
        elif what == "scaled":
            scaled = pool.one("scaled", lambda: Scaled(name="d"))
            pool.flat.append(scaled(x, factor=float(i)) - scaled(y, factor=float(j)))
        elif what == "clash":
            pool.flat.append(_clashing(name)(x))
        elif what == "subclass":
            pool.flat.append(_inner(name, (WIDTH,), Scored)(x))
        elif what == "nested":
            pool.flat.append(pool.one("inner", lambda: _inner("model", (WIDTH,)))(x))
        elif what == "sequential":
            stack = keras.Sequential(
                [keras.Input((WIDTH,)), layers.Dense(WIDTH, name="q0"), layers.ReLU(name="q1")],
                name=name,
            )
            pool.flat.append(stack(x))
        elif what == "twice_nested":
            outer = keras.Input((WIDTH,), name=f"{name}_in")
            z = _inner(f"{name}_inner", (WIDTH,))(outer)
            z = layers.Dense(WIDTH, name=f"{name}_out")(z)
            pool.flat.append(keras.Model(outer, z, name=name)(x))
