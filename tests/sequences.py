"""Random sequences of verbs on random models, and what must hold after each verb.

After every verb: the model it was given is what it was; the specs that the result announces are
those it gives, for every value inside; and where the verb changes no arithmetic, outputs are equal
to the bit. A verb may refuse, with an error of the package. Nothing else may be raised.

As a script it runs many sequences and prints the seed of each that fails:

    KERAS_BACKEND=torch python tests/sequences.py --count 3000 --start 0
"""

from __future__ import annotations

import argparse
import collections
import gc
import os
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers, ops
from strategies import FLAT, STEPWISE, Scaled, Scored, interpret

import keras_graft as kg
from keras_graft.graph.names import safe
from keras_graft.graph.select import everything
from keras_graft.testing import random_inputs

LONGEST = 6


def drawn_plan(rng: random.Random) -> dict:
    """Return a plan of a model, as `strategies.plans` draws it."""
    number = rng.randrange
    calls = [(rng.choice(FLAT + STEPWISE), number(8), number(8)) for _ in range(rng.randint(1, 7))]
    return {
        "inputs": rng.choice(["x", "ids", "x+ids", "x+x", "steps", "x+steps"]),
        "structure": rng.choice(["flat", "dict", "list"]),
        "calls": calls,
        "outputs": [number(21) for _ in range(rng.randint(1, 3))],
        "out_structure": rng.choice(["flat", "dict", "nested"]),
        "kind": rng.choice(["model", "model", "subclass"]),
    }


def drawn_steps(rng: random.Random) -> list[tuple[str, int]]:
    """Return the verbs of a sequence, each with a seed of its own."""
    count = rng.randint(1, LONGEST)
    return [(rng.choice(list(VERBS)), rng.randrange(10**6)) for _ in range(count)]


# -- what the verbs work on -------------------------------------------------------------------


def _values(model, rng: random.Random, deep: bool = True):
    graph = kg.read(model)
    nodes = everything(graph) if deep else graph.nodes
    return rng.choice([v for n in nodes for v in n.values] or list(graph.inputs))


def _node(model, rng: random.Random, deep: bool = True):
    graph = kg.read(model)
    nodes = list(everything(graph)) if deep else list(graph.nodes)
    if not nodes:
        raise kg.SelectionError("The model has no nodes.")
    return rng.choice(nodes)


def _ends(model, rng: random.Random):
    """Return a value and, more often than not, one that depends on it."""
    graph = kg.read(model)
    start = rng.choice(graph.all_values()).within(graph)
    stop = start
    for _ in range(rng.randint(0, 4)):
        users = stop.consumers
        stop = rng.choice(rng.choice(users).values) if users else stop
    return start, stop


def _width(rng: random.Random) -> int:
    return rng.choice([1, 2, 3, 3, 5])


def _linear(node):
    return layers.Activation("linear", dtype=node.values[0].spec.dtype)


def _new(rng: random.Random):
    """Return something that may stand in any place, or may be refused there."""
    return rng.choice([
        lambda node: layers.Dense(_width(rng)),
        lambda node: layers.Dropout(0.3),
        lambda node: layers.LayerNormalization(),
        lambda node: layers.PReLU(),
        lambda node: Scaled(name="d"),
        lambda node: keras.Sequential([layers.Dense(_width(rng)), layers.ReLU()]),
        lambda node: lambda *tensors: ops.tanh(tensors[0]) * 2.0,
        lambda node: lambda *tensors: ops.concatenate([tensors[0], tensors[0]], axis=-1),
        lambda node: lambda *tensors: ops.moments(tensors[0], axes=[-1], keepdims=True)[1],
        lambda node: layers.LSTM(3, return_sequences=True),
        lambda x: layers.Dense(_width(rng)),
        lambda *tensors: ops.sin(tensors[0]) + 1.0,
        lambda *tensors: layers.Dropout(0.3)(tensors[0]),
    ])  # fmt: skip


def _same(model, rng):
    """Give what changes no arithmetic."""
    value = _values(model, rng)
    if "float" not in value.spec.dtype:
        return model
    return kg.insert(model, _linear, after=[value])


def _split_and_join(model, rng):
    trunk, head = kg.split(model, at=_values(model, rng), complete=rng.random() < 0.8)
    return kg.join(trunk, head)


def _staged(model, rng):
    order = {node.path: i for i, node in enumerate(kg.read(model).nodes)}
    parts = rng.choice([2, 3])
    return kg.join(*kg.split(model, by=lambda node: order[node.path] * parts // len(order)))


def _balanced(model, rng):
    parts = rng.choice([2, 3])
    return kg.join(*kg.split(model, parts=parts, balance="parameters", complete=True))


def _saved(model, rng):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return keras.models.load_model(path)


def _transplanted(model, rng):
    target = kg.clone(model, weights="fresh", seed=rng.randrange(100))
    kg.transplant(model, target)
    return target


def _tied(model, rng):
    nodes = [n for n in everything(kg.read(model)) if n.nested is None]
    weights = [
        f"{n.path.split('#')[0]}.{w.path.rpartition('/')[2]}"
        for n in nodes if isinstance(n.operation, keras.Layer) for w in n.operation.weights
    ]  # fmt: skip
    if len(weights) < 2:
        return model
    return kg.tie(model, rng.choice(weights), rng.choice(weights), rng.choice([None, "transpose"]))


def _untied(model, rng):
    ties = kg.sharing(model).ties
    return kg.untie(model, rng.choice(ties).target) if ties else model


def _shared(model, rng):
    nodes = [n for n in kg.read(model).nodes if isinstance(n.operation, keras.Layer)]
    if not nodes:
        return model
    first = rng.choice(nodes)
    alike = [n for n in nodes if type(n.operation) is type(first.operation)]
    return kg.share(model, [first, rng.choice(alike)], weights=rng.choice(["first", "mean"]))


def _unshared(model, rng):
    graph = kg.read(model)
    calls = [n for n in graph.nodes if len(graph.calls(n.operation)) > 1]
    return kg.unshare(model, rng.choice(calls)) if calls else model


def _reinput(model, rng):
    batch = rng.choice([None, 2])
    return kg.reinput(model, batch_shape={t.name: (batch, *t.shape[1:]) for t in model.inputs})


def _resized(model, rng):
    name, tensor = rng.choice(list(zip(kg.read(model).input_names, model.inputs, strict=True)))
    return kg.reinput(model, {name: (*tensor.shape[1:-1], _width(rng))})


def _rewritten(model, rng, replacement):
    node = _node(model, rng)
    return kg.rewrite(model, lambda x, f: f(x), replacement, f=type(node.operation))


VERBS: dict[str, Callable] = {
    "read and build": lambda m, rng: kg.build(kg.read(m)),
    "insert linear": _same,
    "replace by itself": lambda m, rng: kg.replace(m, [_node(m, rng)], lambda node: node.operation),
    "split and join": _split_and_join,
    "split by and join": _staged,
    "split parts and join": _balanced,
    "remat": lambda m, rng: kg.remat(m, [_node(m, rng)]),
    "inline": lambda m, rng: kg.inline(m),
    "nest": lambda m, rng: kg.nest(m, *_ends(m, rng), name=f"block{rng.randrange(10**6)}"),
    "clone": lambda m, rng: kg.clone(m),
    "transplant": _transplanted,
    "save and load": _saved,
    "reinput batch": _reinput,
    "unshare": _unshared,
    "insert after": lambda m, rng: kg.insert(m, _new(rng), after=[_values(m, rng)]),
    "insert before": lambda m, rng: kg.insert(m, _new(rng), before=[_node(m, rng)]),
    "replace": lambda m, rng: kg.replace(m, [_node(m, rng)], _new(rng)),
    "rewrite to itself": lambda m, rng: _rewritten(m, rng, lambda x, f: f(x)),
    "rewrite": lambda m, rng: _rewritten(m, rng, lambda x, f: keras.ops.tanh(f(x))),
    "remove": lambda m, rng: kg.remove(m, [_node(m, rng)]),
    "remove keeping": lambda m, rng: (
        lambda node: kg.remove(m, node, keep=rng.choice(node.inputs).within(node.home, node.scope))
    )(_node(m, rng)),
    "rewire": lambda m, rng: kg.rewire(m, {_values(m, rng): _values(m, rng)}),
    "prune": lambda m, rng: kg.prune(m, {"**": rng.choice([1, 0.5])}),
    "widen": lambda m, rng: kg.widen(m, {"**": rng.choice([1.5, 2.0])}),
    "quantize": lambda m, rng: kg.quantize(m, "**", rng.choice(["int8", "int4"])),
    "repeat": lambda m, rng: kg.repeat(m, *_ends(m, rng), 2, weights=rng.choice(["share", "copy"])),
    "reinput width": _resized,
    "patch": lambda m, rng: kg.patch(m, {_values(m, rng): rng.choice([0, 0.5, lambda t: t])}),
    "patch an input": lambda m, rng: kg.patch(
        m, {_values(m, rng): kg.Given(f"given{rng.randrange(10**6)}")}
    ),
    "extract": lambda m, rng: kg.extract(m, {f"t{i}": _values(m, rng) for i in range(2)}),
    "submodel": lambda m, rng: kg.submodel(m, outputs=[_values(m, rng)]),
    "from the middle": lambda m, rng: kg.submodel(m, inputs=_values(m, rng)),
    "freeze": lambda m, rng: kg.freeze(m, [_node(m, rng)]),
    "unfreeze": lambda m, rng: kg.unfreeze(m, [_node(m, rng)]),
    "lora": lambda m, rng: kg.lora(m, [_node(m, rng)], 2, name=f"a{rng.randrange(10**6)}"),
    "train only": lambda m, rng: kg.train_only(m, [_node(m, rng)]),
    "set adapters": lambda m, rng: kg.set_adapters(m, []),
    "merge adapters": lambda m, rng: kg.merge_adapters(m),
    "unmerge adapters": lambda m, rng: kg.unmerge_adapters(m),
    "remove adapters": lambda m, rng: kg.remove_adapters(m),
    "plain": lambda m, rng: kg.plain(m, ties="untie"),
    "tie": _tied,
    "untie": _untied,
    "share": _shared,
    "fresh": lambda m, rng: kg.clone(m, weights="fresh", seed=1),
}  # fmt: skip

EXACT = ("read and build", "insert linear", "replace by itself", "rewrite to itself", "split and join",
         "split by and join", "split parts and join", "remat", "inline", "nest",
         "clone", "transplant", "save and load", "reinput batch", "unshare", "untie", "freeze",
         "unfreeze", "lora", "train only", "set adapters", "merge adapters", "unmerge adapters",
         "remove adapters")  # fmt: skip
"""Verbs after which outputs must be what they were, to the bit."""


# -- what must hold ------------------------------------------------------------------------------


def arrays(structure) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(t) for t in keras.tree.flatten(structure)]


def check_announced(model) -> None:
    """Assert that every value of a model has the shape and dtype that the model announces."""
    # Keras runs a model with an unbuilt layer once more before its first batch.
    unbuilt = [layer.name for layer in model._flatten_layers() if not layer.built]
    assert not unbuilt, f"not built: {unbuilt}"
    graph = kg.read(model)
    values = list(dict.fromkeys([*graph.outputs, *(v for n in graph.nodes for v in n.outputs)]))
    given = arrays(kg.build(kg.submodel(graph, outputs=values))(random_inputs(model, 2)))
    for value, array in zip(map(graph.value, values), given, strict=True):
        announced = value.spec.shape
        assert len(announced) == array.ndim and all(
            a is None or a == b for a, b in zip(announced, array.shape, strict=True)
        ), f"{value.label!r} announces {announced} and gives {array.shape}"
        assert value.spec.dtype == str(array.dtype), (
            f"{value.label!r} announces {value.spec.dtype} and gives {array.dtype}"
        )


def check_equal(before, after, what: str) -> None:
    assert len(before) == len(after), f"{what}: {len(before)} outputs, then {len(after)}"
    for a, b in zip(before, after, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape, f"{what}: {a.dtype} {a.shape}, {b.dtype}"
        assert np.array_equal(a, b, equal_nan=True), f"{what} differs by {np.abs(a - b).max()}"


def check_places_told(before, after) -> None:
    """Assert that what an edit made, and nobody named, is called by a place of the model before."""
    places = {safe(n.label) for n in everything(kg.read(before))} | {
        safe(v.label) for v in kg.read(before).inputs
    }
    old = {node.name for node in everything(kg.read(before))}
    made = kg.read(after)
    # Keras names the ops that compute masks, and a layer that is called again may make them again.
    masks = {value.mask for node in made.nodes for value in node.values}
    for node in reversed(made.nodes):
        if node.values and all(
            v in masks or (v.consumers and {*v.consumers} <= masks) for v in node.values
        ):
            masks.add(node)
        elif node.name not in old and node.nested is None and node.kind not in NAMED:
            assert any(node.name.startswith(f"{place}_") for place in places), node.name


NAMED = ("Scaled",)
"""What the functions of `_new` name."""


def run(plan: dict, steps: list[tuple[str, int]], counts: collections.Counter) -> None:
    """Run one sequence.

    Raises:
        AssertionError: If something does not hold; also for an exception that is no GraftError.
    """
    model = interpret(plan)
    subclassed = type(model) is Scored
    for number, (verb, seed) in enumerate(steps):
        where = f"step {number}, {verb}"
        x = random_inputs(model, 2)
        before, names = arrays(model(x)), [layer.name for layer in model.layers]
        try:
            result = VERBS[verb](model, random.Random(seed))
        except kg.GraftError as error:
            assert str(error).strip(), f"{where}: a refusal without words"
            counts[f"{verb}: refused"] += 1
            result = model
        except Exception as error:
            raise AssertionError(f"{where}: {type(error).__name__}: {error}") from error
        else:
            counts[verb] += 1
        check_equal(before, arrays(model(x)), f"{where}: the donor")
        assert [layer.name for layer in model.layers] == names, f"{where}: the donor's names"
        if result is not model:
            torch = keras.backend.backend() == "torch"
            if torch and verb in ("freeze", "unfreeze", "lora", "train only"):
                # Another kernel of PyTorch runs an LSTM whose weights have no gradient. The factors
                # of adapters that never train add zero, in every other verb too.
                for a, b in zip(before, arrays(result(x)), strict=True):
                    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=where)
            elif verb in EXACT:
                check_equal(before, arrays(result(x)), where)
            check_announced(result)
            str(kg.diff(model, result))
            if verb in ("insert after", "insert before", "replace", "rewrite"):
                check_places_told(model, result)
            if subclassed and verb not in PARTS:
                assert isinstance(result, Scored), f"{where}: the class is gone"
            subclassed = type(result) is Scored
        model = result


PARTS = (
    "split and join",
    "split by and join",
    "split parts and join",
    "extract",
    "submodel",
    "from the middle",
    "plain",
)
"""Verbs whose result is a part, or of Keras's classes only: not the donor's kind of model."""


def sequence(seed: int) -> tuple[dict, list[tuple[str, int]]]:
    """Return the model and the verbs of a seed."""
    rng = random.Random(seed)
    return drawn_plan(rng), drawn_steps(rng)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--count", type=int, default=300)
    options.add_argument("--start", type=int, default=0, help="the first seed")
    options.add_argument("--long", action="store_true", help="print whole tracebacks")
    given = options.parse_args()
    counts: collections.Counter = collections.Counter()
    failed = []
    start = time.time()
    for seed in range(given.start, given.start + given.count):
        keras.utils.set_random_seed(seed)
        plan, steps = sequence(seed)
        try:
            run(plan, steps, counts)
        except Exception as error:
            failed.append(seed)
            text = (
                traceback.format_exc() if given.long else f"{type(error).__name__}: {error}"[:900]
            )
            print(f"seed {seed}: {text}\n  {plan}\n  {steps}", flush=True)
        if seed % 50 == 0:
            keras.utils.clear_session()
            gc.collect()
    print(f"{given.count} sequences from seed {given.start}, {keras.backend.backend()}, "
          f"{time.time() - start:.0f} s: {len(failed)} failed {failed}")  # fmt: skip
    for name in sorted(counts):
        print(f"  {counts[name]:6} {name}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
