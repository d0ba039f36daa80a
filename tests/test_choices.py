"""Arguments that are one of a few words: whatever else is given is refused with our errors."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_graft as kg


def model():
    x = keras.Input((4,), name="x")
    y = layers.Dense(4, name="b")(layers.Dense(4, name="a")(x))
    return keras.Model(x, layers.Dense(4, name="c")(y), name="m")


CALLS = {
    "clone": lambda m, value: kg.clone(m, weights=value),
    "build": lambda m, value: kg.build(kg.read(m), weights=value),
    "repeat": lambda m, value: kg.repeat(m, "a", "b", 2, weights=value),
    "replace": lambda m, value: kg.replace(m, "a", layers.Dense(4), weights=value),
    "share": lambda m, value: kg.share(m, ["a", "b"], weights=value),
    "tie": lambda m, value: kg.tie(m, "b/kernel", "a/kernel", transform=value),
    "register_transform": lambda m, value: kg.register_transform(value, abs, abs, abs),
    "register_transform of": lambda m, value: kg.register_transform("any", value, abs, abs),
    "transplant match": lambda m, value: kg.transplant(m, model(), match=value),
    "transplant keep": lambda m, value: kg.transplant(m, model(), keep=[value]),
    "transplant resize": lambda m, value: kg.transplant(m, model(), resize=[value]),
    "transplant globs": lambda m, value: kg.transplant(m, model(), resize={"a": [value]}),
    "transplant names": lambda m, value: kg.transplant(m, model(), names=value),
    "save_weights names": lambda m, value: kg.save_weights(m, "gone/a.safetensors", names=value),
    "diff by": lambda m, value: kg.diff(m, m, by=value),
    "stages by": lambda m, value: kg.stages(m, by=value),
    "costs by": lambda m, value: kg.costs(m, by=value),
    "costs input_shape": lambda m, value: kg.costs(m, input_shape=value),
    "cuts sort": lambda m, value: kg.cuts(m, sort=value),
    "cuts dtype": lambda m, value: kg.cuts(m, dtype=value),
    "cuts input_shape": lambda m, value: kg.cuts(m, input_shape=value),
    "balance": lambda m, value: kg.balance(m, 2, value),
    "balance parts": lambda m, value: kg.balance(m, value),
    "split balance": lambda m, value: kg.split(m, parts=2, balance=value),
    "split by": lambda m, value: kg.split(m, by=value),
    "channels": lambda m, value: kg.resize.channels(value),
    "vocabulary": lambda m, value: kg.resize.vocabulary([0], new=value),
    "tokens": lambda m, value: kg.resize.tokens(["a"], ["a"], fresh=value),
    "positions": lambda m, value: kg.resize.positions(prefix=value),
    "transpose": lambda m, value: kg.resize.transpose(value),
    "lora name": lambda m, value: kg.lora(m, "a", name=[value]),
    "set_adapters": lambda m, value: kg.set_adapters(kg.lora(m, "a"), [value]),
    "set_adapters train": lambda m, value: kg.set_adapters(kg.lora(m, "a"), [], train=value),
    "remove_adapters": lambda m, value: kg.remove_adapters(kg.lora(m, "a"), [value]),
    "quantize mode": lambda m, value: kg.quantize(m, "**", value),
    "prune by": lambda m, value: kg.prune(m, {"a": 0.5}, by=value),
    "prune scope": lambda m, value: kg.prune(m, {"a": 0.5}, scope=value),
    "recorder compile": lambda m, value: kg.recorder(m, "a", compile=value),
    "given name": lambda m, value: kg.patch(m, {"a": kg.Given("g", value)}),
    "given dtype": lambda m, value: kg.patch(m, {"a": kg.Given("g", dtype=value)}),
    "plain": lambda m, value: kg.plain(m, ties=value),
    "merge_checkpoints": lambda m, value: kg.merge_checkpoints([m, model()], value),
    "show": lambda m, value: kg.show(m, as_=value),
    "reinput": lambda m, value: kg.reinput(m, (6,), channels=value),
}


@pytest.mark.parametrize("value", [[], {}, np.ones(3), {"a": {1}}, b"copy", 1.5, "Copy"], ids=str)
@pytest.mark.parametrize("call", sorted(CALLS))
def test_what_is_none_of_the_words_is_refused(call, value):
    made = model()
    before = [v.path for v in made.variables]
    if call == "register_transform" and isinstance(value, str):
        return  # a name
    with pytest.raises(kg.GraftError) as caught:
        CALLS[call](made, value)
    assert len(str(caught.value)) < 1000
    assert [v.path for v in made.variables] == before
