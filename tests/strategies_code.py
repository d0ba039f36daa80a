"""Random models with code of their own: subclasses of Layer and Model, whose `call` follows a plan.

As in `strategies.py`, a plan is drawn as plain data. A `Block` makes its layers and weights from it, and
its `call` runs it. A plan is also the block's configuration, so that files load.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from hypothesis import strategies as st
from keras import layers, ops

WIDTH = 4
register = keras.saving.register_keras_serializable("strategies_code")

ANY = ("dense", "again", "weight", "matrix", "python", "power", "residual", "norm", "batchnorm", "drop",
       "where", "concat", "equal", "loss", "stack", "unused")  # fmt: skip
STEPS = ("mean", "last", "flatten", "positions", "causal", "mha", "gru", "masked", "token", "ones",
         "broadcast", "reverse", "noise")  # fmt: skip
CLOSING = ("branch", "values")
"""What no graph can say: the block around it must stay closed, with a reason."""

INNER = ("inner", "inner", "inner_again", "inner_keyword")
NAMES = (ANY + STEPS + INNER) * 2 + CLOSING

call = st.tuples(st.sampled_from(NAMES), st.integers(0, 5), st.integers(0, 5))


def blocks(depth: int = 2) -> st.SearchStrategy[dict]:
    """Return a strategy for the plan of a block, with blocks inside."""
    inner = blocks(depth - 1) if depth else st.none()
    calls = st.lists(call, min_size=2, max_size=5)
    return st.fixed_dictionaries({
        "calls": calls,
        "inner": inner,
        "masking": st.booleans(),
        "gives": st.sampled_from(["one", "one", "one", "tuple", "dict"]),
    })  # fmt: skip


@st.composite
def code_plans(draw) -> dict:
    """Return a plan: the inputs, the block that the model is, and how it gets them."""
    return {
        "inputs": draw(st.sampled_from(["x", "steps", "ids", "x+steps", "steps+steps", "ids+x"])),
        "structure": draw(st.sampled_from(["list", "dict"])),
        "length": draw(st.sampled_from([None, None, 5])),
        "block": draw(blocks()),
    }


def needs_closing(plan: dict | None) -> bool:
    """Whether a block, or one inside it, does what no graph can say."""
    if plan is None:
        return False
    names = [name for name, *_ in plan["calls"]]
    return any(n in CLOSING for n in names) or needs_closing(plan["inner"])


class _Code:
    """What a block and a model have in common: layers made from a plan, and its calls."""

    def prepare(self, plan: dict) -> None:
        self.plan = plan
        for number, (name, _, _) in enumerate(plan["calls"]):
            key = f"{name}{number}"
            if name in ("dense", "flatten", "residual"):
                made = layers.Dense(WIDTH, activation="tanh", name=key)
            elif name in ("norm", "batchnorm"):
                kind = layers.LayerNormalization if name == "norm" else layers.BatchNormalization
                made = kind(name=key)
            elif name == "drop":
                made = layers.Dropout(0.5, seed=number, name=key)
            elif name == "mha":
                made = layers.MultiHeadAttention(1, 2, name=key)
            elif name == "gru":
                made = layers.GRU(WIDTH, return_sequences=True, name=key)
            elif name in ("weight", "matrix", "token"):
                shape = (WIDTH, WIDTH) if name == "matrix" else (WIDTH,)
                made = self.add_weight(  # type: ignore[attr-defined]
                    shape=shape,
                    initializer="glorot_uniform" if name == "matrix" else "ones",
                    name=key,
                )
            elif name == "noise":
                made = keras.random.SeedGenerator(number)
            else:
                continue
            setattr(self, key, made)
        names = [name for name, *_ in plan["calls"]]
        if "again" in names or "unused" in names:
            self.shared = layers.Dense(WIDTH, name="shared")
        uses = plan["inner"] and any(name in INNER for name in names)
        self.inside = Block(plan["inner"], name="inner") if uses else None
        if plan["masking"]:
            self.supports_masking = True

    def follow(
        self, values: list, mask: Any = None, training: Any = None, factor: float = 1.0
    ) -> Any:
        pool = [v * factor if factor != 1.0 else v for v in values]
        for number, (name, i, j) in enumerate(self.plan["calls"]):
            x, y = pool[-1 - i % len(pool)], pool[-1 - j % len(pool)]
            if name in STEPS and len(x.shape) != 3:
                steps = [v for v in pool if len(v.shape) == 3]
                if not steps:
                    continue
                x = steps[i % len(steps)]
            pool.append(self.step(name, f"{name}{number}", x, y, mask, training))
        last = pool[-1]
        gives = self.plan["gives"]
        if gives == "one":
            return last
        return (last, pool[0]) if gives == "tuple" else {"z": last, "a": pool[-1 - len(pool) // 2]}

    def step(self, name: str, key: str, x: Any, y: Any, mask: Any, training: Any) -> Any:
        own = getattr(self, key, None)
        if name == "batchnorm" and len(x.shape) == 3:  # it takes one rank only
            return ops.reshape(own(ops.reshape(x, (-1, WIDTH))), ops.shape(x))
        if name in ("dense", "norm", "batchnorm", "drop", "gru"):
            return own(x)
        if name == "again":
            return self.shared(self.shared(x))
        if name == "weight":
            return x * own + own
        if name == "matrix":
            return ops.matmul(x, own) @ ops.transpose(own)
        if name == "python":
            return 0.5 * x - x / 3 + 1
        if name == "power":
            return ops.tanh(x**2) + abs(-x)
        if name == "residual":
            return own(x) + x
        if name == "where":
            return ops.where(x > 0, x, 0.1 * x)
        if name == "concat":
            return ops.concatenate([x, 2.0 * x], axis=-1)[..., 1 : WIDTH + 1]
        if name == "equal":
            return x + ops.cast(x == 0, x.dtype)
        if name == "stack":
            return ops.sum(ops.stack([x, ops.sin(x)], axis=0), axis=0)
        if name == "unused":
            self.shared(ops.cos(x))
            return ops.relu(x)
        if name == "loss":
            self.add_loss(0.01 * ops.mean(x))  # type: ignore[attr-defined]
            return x + 1.0
        if name == "branch":
            return x * 2.0 if training else x + 1.0
        if name == "values":
            return x if bool(ops.any(x > 100.0)) else ops.relu(x)
        if name.startswith("inner"):
            if self.inside is None:
                return ops.relu6(x)
            if name == "inner_again":
                x = _first(self.inside(x))
            found = self.inside(x, factor=2.0) if name == "inner_keyword" else self.inside(x)
            return _first(found)
        return self.over_steps(name, own, x, y, mask)

    def over_steps(self, name: str, own: Any, x: Any, y: Any, mask: Any) -> Any:
        batch, length = ops.shape(x)[0], ops.shape(x)[1]
        if name == "mean":
            return ops.mean(x, axis=1)
        if name == "last":
            return x[:, -1] - x[:, 0]
        if name == "flatten":
            return ops.reshape(own(ops.reshape(x, (-1, WIDTH))), (batch, length, WIDTH))
        if name == "positions":
            return x + 0.01 * ops.cast(ops.arange(length), x.dtype)[None, :, None]
        if name == "causal":
            scores = ops.einsum("bqd,bkd->bqk", x, x)
            steps = ops.arange(length)
            scores = ops.where(steps[None, :] <= steps[:, None], scores, -1e9)
            return ops.softmax(scores) @ x
        if name == "mha":
            return own(x, x, use_causal_mask=True)
        if name == "masked":
            if mask is None or len(mask.shape) != 2:
                return ops.sigmoid(x)
            return x + 0.0 * ops.sum(ops.cast(mask, x.dtype)) + ops.sigmoid(x)
        if name == "token":
            token = ops.broadcast_to(own, (batch, 1, WIDTH))
            return ops.concatenate([token, x], axis=1)[:, 1:] + token
        if name == "ones":
            return x + ops.ones((batch, length, 1), x.dtype)
        if name == "broadcast":
            return x + (y[:, None, :] if len(y.shape) == 2 else ops.mean(y, axis=1, keepdims=True))
        if name == "reverse":
            return ops.flip(x, axis=1) + x[:, ::1]
        assert name == "noise"
        return x + 0.1 * keras.random.normal(ops.shape(x), seed=own)


def _first(found: Any) -> Any:
    return keras.tree.flatten(found)[0] if not isinstance(found, dict) else found["z"]


@register
class Block(_Code, layers.Layer):
    """A layer whose code follows a plan."""

    def __init__(self, plan, **kwargs):
        super().__init__(**kwargs)
        self.prepare(plan)

    def call(self, x, mask=None, training=None, factor=1.0):
        return self.follow([x], mask, training, factor)

    def get_config(self):
        return {**super().get_config(), "plan": self.plan}


@register
class Net(_Code, keras.Model):
    """A model whose code follows a plan."""

    def __init__(self, plan, **kwargs):
        super().__init__(**kwargs)
        self.prepare(plan["block"])
        self.whole = plan
        if "ids" in plan["inputs"]:
            self.embed = layers.Embedding(3, WIDTH, mask_zero=True, name="embed")

    def call(self, inputs, training=None):
        values = list(inputs.values()) if isinstance(inputs, dict) else list(inputs)
        kinds = [keras.backend.standardize_dtype(v.dtype) for v in values]
        values = [self.embed(v) if k == "int32" else v for v, k in zip(values, kinds, strict=True)]
        return self.follow(values, None, training)

    def get_config(self):
        return {**super().get_config(), "plan": self.whole}

    def get_build_config(self):
        return {"by": "call"}  # shapes do not say what its layers get

    def build_from_config(self, config):
        self(data(self.whole, 2, self.whole["length"] or 6))


def data(plan: dict, batch: int, length: int) -> Any:
    """Return inputs for a model, as its `call` takes them."""
    rng = np.random.default_rng(batch)
    found = {}
    for number, kind in enumerate(plan["inputs"].split("+")):
        shape = (batch, WIDTH) if kind == "x" else (batch, length, WIDTH)
        array = rng.standard_normal(shape).astype("float32")
        if kind == "ids":
            array = rng.integers(0, 3, (batch, length)).astype("int32")
            array[:, 0] = 1
        found[f"{kind}{number}"] = ops.convert_to_tensor(array)
    return found if plan["structure"] == "dict" else list(found.values())


def symbols(plan: dict) -> Any:
    """Return symbolic inputs, whose lengths are not known unless the plan says so."""
    found = {}
    for number, kind in enumerate(plan["inputs"].split("+")):
        name, length = f"{kind}{number}", plan["length"]
        shape = {"x": (WIDTH,), "steps": (length, WIDTH), "ids": (length,)}[kind]
        found[name] = keras.Input(shape, dtype="int32" if kind == "ids" else "float32", name=name)
    return found if plan["structure"] == "dict" else list(found.values())


def interpret(plan: dict) -> keras.Model:
    """Return a subclassed model, built; its trained weights are random."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(1)
    model = Net(plan, name="net")
    model(data(plan, 2, plan["length"] or 6))
    return model


def functional(plan: dict) -> keras.Model:
    """Return a Functional model of blocks: one for each input, and one for their sum."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(1)
    inputs = keras.tree.flatten(symbols(plan))
    values = []
    for number, x in enumerate(inputs):
        if x.dtype == "int32":
            x = layers.Embedding(3, WIDTH, mask_zero=True, name=f"embed{number}")(x)
        values.append(_first(Block(plan["block"], name=f"first{number}")(x)))
    if len(values) == 2 and len(values[0].shape) == len(values[1].shape) == 2:
        values.append(layers.Add(name="add")(values))
    last = Block(plan["block"], name="last")
    outputs = last(last_input := values[-1])
    if len(_first(outputs).shape) == len(last_input.shape):
        outputs = last(_first(outputs))
    given = dict(zip((x.name for x in inputs), inputs, strict=True))
    return keras.Model(given if plan["structure"] == "dict" else inputs, outputs, name="functional")
