"""Whatever a verb is given: a GraftError (or the TypeError of a wrong name), and no change."""

import re
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import keras_graft as kg


def make():
    x = keras.Input((4,), name="x")
    shared = layers.Dense(4, name="a")
    a = shared(x)
    b = layers.Add(name="b")([shared(a), a])
    inner = keras.Input((4,), name="inner")
    nested = keras.Model(inner, layers.Dense(4, name="i")(inner), name="nested")
    return keras.Model(x, layers.Dense(2, name="c")(nested(b)), name="m")


def raises(*_):
    raise KeyError("of a user")


class Odd:
    def __eq__(self, other):
        raise RuntimeError("no comparison")

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self):
        raise RuntimeError("no repr")


def odd():
    other = keras.Input((4,))
    nested = []
    for _ in range(3000):
        nested = [nested]
    return {
        "none": None, "list": [], "dict": {}, "empty": "", "superscript": "a:²", "arabic": "a:٣",
        "call": "a#²", "bytes": b"x", "float": 3.5, "nan": float("nan"), "object": object(),
        "array": np.zeros((2, 2)), "scalar": np.float32(1), "true": True, "number": -1,
        "tensor": other, "its layer": layers.Dense(3)(other), "value": keras.ops.ones((2, 4)),
        "long": "a" * 100_000, "digits": "a:" + "1" * 5000, "calls": "a#" + "9" * 5000,
        "dots": "a" + "." * 3000, "slashes": "a" + "/" * 3000, "deep": "**/" * 3000,
        "names": "nested/" * 3000, "brackets": "[" * 3000, "stars": "*a" * 300, "surrogate": "\ud800",
        "null": "a\0", "lambda": lambda node: node.nothing, "raises": raises, "odd": Odd(),
        "list of none": [None], "nested list": [["a"], [["b"]], []], "very nested": nested,
        "pattern": re.compile(b"a"), "type": int, "set": {"a"}, "dict of none": {"a": None},
        "dict of numbers": {1: 2}, "tuple": (), "tuple of odd": (Odd(), 3), "class": layers.Layer,
        "other node": kg.read(make()).nodes[0], "exception": ValueError, "ellipsis": ...,
        "generator": (name for name in "ab"), "module": np, "model": keras.Sequential(),
        "int": 10**5000,
    }  # fmt: skip


RELU = layers.ReLU
INPUT = np.ones((2, 4), "float32")
STATE = {"a.weight": np.ones((4, 4), "float32"), "a.bias": np.zeros(4, "float32")}
SAVED = Path(tempfile.mkdtemp(), "a.safetensors")


def _hashed(given):
    """Return what can be a key of a dict; else a text."""
    try:
        hash(given)
    except Exception:
        return "a"
    return given


VERBS = {
    "select": lambda m, o: kg.select(m, o),
    "expect": lambda m, o: kg.select(m, "a").where(o),
    "extract": lambda m, o: kg.extract(m, o),
    "extract dict": lambda m, o: kg.extract(m, {"y": o}),
    "extract list": lambda m, o: kg.extract(m, ["a#0", o]),
    "submodel from": lambda m, o: kg.submodel(m, o),
    "submodel to": lambda m, o: kg.submodel(m, outputs=o),
    "split": lambda m, o: kg.split(m, o),
    "split tuple": lambda m, o: kg.split(m, (o, "b")),
    "remat": lambda m, o: kg.remat(m, o),
    "split by": lambda m, o: kg.split(m, by=o),
    "split parts": lambda m, o: kg.split(m, parts=o),
    "split balance": lambda m, o: kg.split(m, parts=2, balance=o),
    "balance": lambda m, o: kg.balance(m, o),
    "balance by": lambda m, o: kg.balance(m, 2, o),
    "balance of": lambda m, o: kg.balance(o, 2),
    "join": lambda m, o: kg.join(m, o),
    "join none": lambda m, o: kg.join(o),
    "extract stages": lambda m, o: kg.extract(m, stages=o),
    "diff": lambda m, o: kg.diff(m, o),
    "diff by": lambda m, o: kg.diff(m, m, by=o),
    "diff files": lambda m, o: kg.diff(o, o),
    "stages": lambda m, o: kg.stages(o),
    "stages by": lambda m, o: kg.stages(m, by=o),
    "costs": lambda m, o: kg.costs(o),
    "costs by": lambda m, o: kg.costs(m, by=o),
    "costs depth": lambda m, o: kg.costs(m, depth=o),
    "costs batch": lambda m, o: kg.costs(m, batch=o),
    "costs most": lambda m, o: kg.costs(m, most=o),
    "costs input_shape": lambda m, o: kg.costs(m, input_shape=o),
    "cuts sort": lambda m, o: kg.cuts(m, sort=o),
    "cuts most": lambda m, o: kg.cuts(m, most=o),
    "cuts input_shape": lambda m, o: kg.cuts(m, input_shape=o),
    "advise input_shape": lambda m, o: kg.features.advise(m, 9, input_shape=o),
    "read": lambda m, o: kg.read(o),
    "build": lambda m, o: kg.build(o),
    "build weights": lambda m, o: kg.build(kg.read(m), weights=o),
    "replace_backbone": lambda m, o: kg.replace_backbone(o, m),
    "replace": lambda m, o: kg.replace(m, o, RELU()),
    "replace by": lambda m, o: kg.replace(m, "b", o),
    "replace weights": lambda m, o: kg.replace(m, "b", RELU(), weights=o),
    "rewrite": lambda m, o: kg.rewrite(m, o, lambda x: x),
    "rewrite replacement": lambda m, o: kg.rewrite(m, lambda x, d: d(x), o, d=layers.Dense),
    "rewrite where": lambda m, o: kg.rewrite(m, lambda x, d: d(x), lambda x: x, o, d=layers.Dense),
    "rewrite wildcard": lambda m, o: kg.rewrite(m, lambda x, d: d(x), lambda x: x, d=o),
    "rewrite constant": lambda m, o: kg.rewrite(m, lambda x, c: x * c, lambda x: x, c=o),
    "matches": lambda m, o: kg.matches(m, o),
    "matches model": lambda m, o: kg.matches(o, lambda x, d: d(x), d=layers.Dense),
    "matches where": lambda m, o: kg.matches(m, lambda x, d: d(x), o, d=layers.Dense),
    "matches wildcard": lambda m, o: kg.matches(m, lambda x, d: d(x), d=o),
    "insert after": lambda m, o: kg.insert(m, RELU(), after=o),
    "insert before": lambda m, o: kg.insert(m, RELU(), before=o),
    "insert between": lambda m, o: kg.insert(m, RELU(), between=o),
    "insert pair": lambda m, o: kg.insert(m, RELU(), between=("b", o)),
    "insert what": lambda m, o: kg.insert(m, o, after="b"),
    "remove": lambda m, o: kg.remove(m, o),
    "remove keep": lambda m, o: kg.remove(m, "b", keep=o),
    "group": lambda m, o: kg.group(m, o),
    "group model": lambda m, o: kg.group(o, "a#0"),
    "quantize": lambda m, o: kg.quantize(m, o),
    "quantize mode": lambda m, o: kg.quantize(m, "**", o),
    "quantize config": lambda m, o: kg.quantize(m, "**", config=o),
    "quantize data": lambda m, o: kg.quantize(m, "**", "gptq", data=o),
    "quantize blocks": lambda m, o: kg.quantize(
        m, "**", "gptq", data=np.ones((2, 4), "float32"), blocks=o
    ),
    "quantize batch_size": lambda m, o: kg.quantize(
        m, "**", "gptq", data=np.ones((2, 4), "float32"), batch_size=o
    ),
    "list_quantized": lambda m, o: kg.list_quantized(o),
    "list_quantized donor": lambda m, o: kg.list_quantized(m, o),
    "list_quantized data": lambda m, o: kg.list_quantized(m, m, o),
    "prune": lambda m, o: kg.prune(m, o),
    "prune selector": lambda m, o: kg.prune(m, {_hashed(o): 0.5}),
    "prune how much": lambda m, o: kg.prune(m, {"**": o}),
    "prune by": lambda m, o: kg.prune(m, {"**": 0.5}, by=o),
    "prune scope": lambda m, o: kg.prune(m, {"**": 0.5}, scope=o),
    "prune keep": lambda m, o: kg.prune(m, {"**": 0.5}, keep=o),
    "prune round_to": lambda m, o: kg.prune(m, {"**": 0.5}, round_to=o),
    "prune seed": lambda m, o: kg.prune(m, {"**": 0.5}, by="random", seed=o),
    "widen": lambda m, o: kg.widen(m, o),
    "widen selector": lambda m, o: kg.widen(m, {_hashed(o): 2.0}),
    "widen how much": lambda m, o: kg.widen(m, {"**": o}),
    "widen noise": lambda m, o: kg.widen(m, {"**": 2.0}, noise=o),
    "widen seed": lambda m, o: kg.widen(m, {"**": 2.0}, seed=o),
    "widen check": lambda m, o: kg.widen(m, {"**": 2.0}, check=o),
    "importance": lambda m, o: kg.importance(o, (INPUT, INPUT), "mse"),
    "importance data": lambda m, o: kg.importance(m, o, "mse"),
    "importance loss": lambda m, o: kg.importance(m, (INPUT, INPUT), o),
    "importance batches": lambda m, o: kg.importance(m, (INPUT, INPUT), "mse", batches=o),
    "low_rank": lambda m, o: kg.recipes.low_rank(m, o),
    "low_rank selector": lambda m, o: kg.recipes.low_rank(m, {_hashed(o): 0.5}),
    "low_rank how much": lambda m, o: kg.recipes.low_rank(m, {"**": o}),
    "low_rank by": lambda m, o: kg.recipes.low_rank(m, {"**": 0.5}, by=o),
    "distill": lambda m, o: kg.recipes.distill(m, o),
    "distill pairs": lambda m, o: kg.recipes.distill(m, m, o),
    "distill pair": lambda m, o: kg.recipes.distill(m, m, {_hashed(o): o}),
    "distill temperature": lambda m, o: kg.recipes.distill(m, m, temperature=o),
    "prune_and_tune": lambda m, o: kg.recipes.prune_and_tune(o, (INPUT, INPUT), loss="mse"),
    "prune_and_tune target": lambda m, o: kg.recipes.prune_and_tune(m, (INPUT, INPUT), o),
    "rewire": lambda m, o: kg.rewire(m, o),
    "rewire old": lambda m, o: kg.rewire(m, [(o, "x")] if isinstance(o, Odd) else {"b": o}),
    "repeat start": lambda m, o: kg.repeat(m, o, "b", 2),
    "repeat stop": lambda m, o: kg.repeat(m, "x", o, 2),
    "repeat times": lambda m, o: kg.repeat(m, "x", "a#0", o),
    "repeat weights": lambda m, o: kg.repeat(m, "x", "b", 2, weights=o),
    "inline": lambda m, o: kg.inline(m, o),
    "record": lambda m, o: kg.record(m, INPUT, o),
    "record x": lambda m, o: kg.record(m, o, "b"),
    "record dict": lambda m, o: kg.record(m, INPUT, {"y": o}),
    "record batch_size": lambda m, o: kg.record(m, INPUT, "b", o),
    "record model": lambda m, o: kg.record(o, INPUT, "b"),
    "recorder": lambda m, o: kg.recorder(m, "b", compile=o),
    "patch": lambda m, o: kg.patch(m, o),
    "patch value": lambda m, o: kg.patch(m, {"b": o}),
    "patch selector": lambda m, o: kg.patch(m, {_hashed(o): 0}),
    "patch given name": lambda m, o: kg.patch(m, {"b": kg.Given(o)}),
    "patch given function": lambda m, o: kg.patch(m, {"b": kg.Given("g", o)}),
    "patch given shape": lambda m, o: kg.patch(m, {"b": kg.Given("g", shape=o)}),
    "patch given dtype": lambda m, o: kg.patch(m, {"b": kg.Given("g", dtype=o)}),
    "gradients": lambda m, o: kg.gradients(m, INPUT, o, of=1),
    "gradients x": lambda m, o: kg.gradients(m, o, "b", of=1),
    "gradients of": lambda m, o: kg.gradients(m, INPUT, "b", of=o),
    "nest in": lambda m, o: kg.nest(m, o, "b", "n"),
    "nest out": lambda m, o: kg.nest(m, "x", o, "n"),
    "nest name": lambda m, o: kg.nest(m, "a#0", "b", o),
    "freeze": lambda m, o: kg.freeze(m, o),
    "unfreeze": lambda m, o: kg.unfreeze(m, o),
    "unfreeze in place": lambda m, o: kg.unfreeze(m, o, in_place=True),
    "unfreeze model": lambda m, o: kg.unfreeze(o),
    "rates model": lambda m, o: kg.learning_rates(o, "adam", 1e-3),
    "rates optimizer": lambda m, o: kg.learning_rates(m, o, 1e-3),
    "rates": lambda m, o: kg.learning_rates(m, "adam", o),
    "rates selector": lambda m, o: kg.learning_rates(m, "adam", {_hashed(o): 1e-3, "**": 1e-4}),
    "rates value": lambda m, o: kg.learning_rates(m, "adam", {"a": o, "**": 1e-4}),
    "rates decay": lambda m, o: kg.learning_rates(m, "adam", 1e-3, decay=o),
    "rates blocks": lambda m, o: kg.learning_rates(m, "adam", 1e-3, decay=0.5, blocks=o),
    "rates weight decay": lambda m, o: kg.learning_rates(m, "adam", 1e-3, weight_decay=o),
    "train only": lambda m, o: kg.train_only(m, o),
    "lora": lambda m, o: kg.lora(m, o),
    "lora model": lambda m, o: kg.lora(o, "c"),
    "lora rank": lambda m, o: kg.lora(m, "c", rank=o),
    "lora alpha": lambda m, o: kg.lora(m, "c", alpha=o),
    "lora name": lambda m, o: kg.lora(m, "c", name=o),
    "lora train": lambda m, o: kg.lora(m, "c", train=o),
    "lora seed": lambda m, o: kg.lora(m, "c", seed=o),
    "list adapters": lambda m, o: kg.list_adapters(o),
    "set adapters": lambda m, o: kg.set_adapters(kg.lora(m, "c"), o),
    "set adapters train": lambda m, o: kg.set_adapters(kg.lora(m, "c"), "default", train=o),
    "merge adapters": lambda m, o: kg.merge_adapters(kg.lora(m, "c"), o),
    "unmerge adapters": lambda m, o: kg.unmerge_adapters(kg.merge_adapters(kg.lora(m, "c")), o),
    "remove adapters": lambda m, o: kg.remove_adapters(kg.lora(m, "c"), o),
    "save adapters": lambda m, o: kg.save_adapters(kg.lora(m, "c"), o),
    "load adapters": lambda m, o: kg.load_adapters(m, o),
    "cuts": lambda m, o: kg.cuts(o),
    "sharing": lambda m, o: kg.sharing(o),
    "clone": lambda m, o: kg.clone(o),
    "clone weights": lambda m, o: kg.clone(m, weights=o),
    "clone share": lambda m, o: kg.clone(m, share=o) if o is not None else None,
    "tie target": lambda m, o: kg.tie(m, o, "c/kernel"),
    "tie source": lambda m, o: kg.tie(m, "c/kernel", o),
    "tie transform": lambda m, o: kg.tie(m, "c/kernel", "a/kernel", transform=o),
    "untie": lambda m, o: kg.untie(m, o),
    "plain": lambda m, o: kg.plain(m, o),
    "plain model": lambda m, o: kg.plain(o),
    "merge_checkpoints": lambda m, o: kg.merge_checkpoints(o),
    "merge_checkpoints source": lambda m, o: kg.merge_checkpoints([m, o]),
    "merge_checkpoints method": lambda m, o: kg.merge_checkpoints([m], o),
    "merge_checkpoints weights": lambda m, o: kg.merge_checkpoints([m], weights=o),
    "merge_checkpoints numbers": lambda m, o: kg.merge_checkpoints([m], weights={"a": o}),
    "merge_checkpoints base": lambda m, o: kg.merge_checkpoints([m], "ties", base=o),
    "merge_checkpoints out": lambda m, o: kg.merge_checkpoints([m], out=o),
    "merge_checkpoints only": lambda m, o: kg.merge_checkpoints([m], only=o),
    "merge_checkpoints density": lambda m, o: kg.merge_checkpoints([m], "ties", base=m, density=o),
    "merge_checkpoints scale": lambda m, o: kg.merge_checkpoints([m], "ties", base=m, scale=o),
    "merge_checkpoints seed": lambda m, o: kg.merge_checkpoints([m], "dare", base=m, seed=o),
    "share": lambda m, o: kg.share(m, o),
    "share pair": lambda m, o: kg.share(m, ["a", o]),
    "share weights": lambda m, o: kg.share(m, ["a", "c"], weights=o),
    "unshare": lambda m, o: kg.unshare(m, o),
    "reinput": lambda m, o: kg.reinput(m, o),
    "reinput dict": lambda m, o: kg.reinput(m, {"x": o}),
    "reinput size": lambda m, o: kg.reinput(m, (o,)),
    "reinput batch": lambda m, o: kg.reinput(m, batch_shape={"x": o}),
    "transplant source": lambda m, o: kg.transplant(o, m),
    "transplant target": lambda m, o: kg.transplant(m, o),
    "transplant match": lambda m, o: kg.transplant(kg.clone(m), m, match=o),
    "transplant resize": lambda m, o: kg.transplant(kg.clone(m), m, resize=o),
    "transplant keep": lambda m, o: kg.transplant(kg.clone(m), m, keep=o),
    "transplant torch": lambda m, o: kg.transplant(o, m, names="torch"),
    "transplant torch match": lambda m, o: kg.transplant(STATE, m, match=o, names="torch"),
    "transplant names": lambda m, o: kg.transplant(kg.clone(m), m, names=o),
    "torch_names source": lambda m, o: kg.torch_names(o, m),
    "torch_names target": lambda m, o: kg.torch_names(STATE, o),
    "torch_names match": lambda m, o: kg.torch_names(STATE, m, match=o),
    "save_weights": lambda m, o: kg.save_weights(o, SAVED, names="torch"),
    "save_weights path": lambda m, o: kg.save_weights(m, o, names="torch"),
    "save_weights names": lambda m, o: kg.save_weights(m, SAVED, names=o),
    "save_weights match": lambda m, o: kg.save_weights(m, SAVED, names="torch", match=o),
    "save_weights like": lambda m, o: kg.save_weights(m, SAVED, names="torch", like=o),
    "carry from": lambda m, o: kg.carry_optimizer(o, m),
    "carry to": lambda m, o: kg.carry_optimizer(m, o),
    "freeze model": lambda m, o: kg.freeze(o),
    "trunk": lambda m, o: kg.features.advise(m, o),
}
GIVEN = odd()


@pytest.mark.parametrize("verb", VERBS)
def test_odd_arguments(verb):
    model = make()
    printed, config = str(kg.read(model)), model.get_config()
    weights = [keras.ops.convert_to_numpy(w) for w in model.weights]
    wrong = {}
    for name, given in GIVEN.items():
        try:
            VERBS[verb](model, given)
        except kg.GraftError as error:
            assert len(str(error)) < 20_000, name
        except Exception as error:
            wrong[name] = f"{type(error).__name__}: {str(error)[:100]}"
    assert not wrong, "\n".join(f"{name}: {text}" for name, text in wrong.items())
    assert str(kg.read(model)) == printed and model.get_config() == config
    for before, after in zip(weights, model.weights, strict=True):
        assert np.array_equal(before, keras.ops.convert_to_numpy(after))


def test_a_value_that_would_read_itself():
    with pytest.raises(kg.EditError, match=r"rewire \{'x': 'a#0'\}: The graph has a cycle: a"):
        kg.rewire(make(), {"x": "a#0"})
    with pytest.raises(kg.EditError, match=r"rewire \{'a#0': 'b'\}: The graph has a cycle"):
        kg.rewire(make(), {"a#0": "b"})
