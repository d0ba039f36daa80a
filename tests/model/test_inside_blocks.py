"""Edits inside layers that hold layers, each equal to the same done by hand."""

import keras
import numpy as np
import pytest
from blocks import WIDTH, by_hand, transformer
from donor import arrays, equal, unchanged
from keras import layers

import keras_graft as kg
from keras_graft.testing import assert_same_outputs

SIZES = [(2, 5), (1, 9), (3, 1)]


@pytest.fixture(name="model")
def _model(tmp_path):
    model = transformer()
    with unchanged(model, tmp_path):
        yield model


def ids(batch, length):
    return np.random.default_rng(batch).integers(0, 7, (batch, length)).astype("int32")


def close(left, right):
    for a, b in zip(arrays(left), arrays(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def holds(new, hand, path, same=close):
    """Assert that a model gives what a function gives, for several sizes, also from its file."""
    new.save(path / "new.keras")
    loaded = keras.models.load_model(path / "new.keras")
    for size in SIZES:
        x = ids(*size)
        same(new(x), hand(x))
        equal(new(x), loaded(x))
    # What is compiled may round in another way than what is not.
    close(keras.tree.map_structure(np.asarray, new.predict(x, verbose=0)), hand(x))
    assert len(loaded.weights) == len(new.weights)


def variables(model):
    return {id(v) for v in model.variables}


def paths(graph, selector):
    return [node.path for node in kg.select(graph, selector).nodes]


def changed(model, change):
    """Return the model by hand, with values changed whose path a function takes."""
    return lambda x: by_hand(model, x, change)


def test_the_hand_written_model_is_the_model(model):
    for size in SIZES:
        close(model(ids(*size)), by_hand(model, ids(*size)))
    assert all(one.open for one in kg.explain(model)) and len(kg.explain(model)) == 12


def test_a_cut_inside_a_block(model, tmp_path):
    with pytest.raises(kg.CutError, match="'layer_0', needed by"):
        kg.split(model, at="layer_1/attention")
    trunk, head = kg.split(model, at=("layer_1/attention", "layer_0"))
    assert [out.shape for out in trunk.outputs] == [(None, None, WIDTH)] * 2
    seen = {}
    by_hand(model, x := ids(2, 5), lambda path, value: seen.setdefault(path, value))
    close(trunk(x), [seen["layer_1/attention"], seen["layer_0"]])
    equal(head(trunk(x)), model(x))
    assert variables(trunk) | variables(head) == variables(model)
    inside = {id(v) for v in model.get_layer("layer_1").attention.weights}
    assert inside <= variables(trunk) and not inside & variables(head)
    both = kg.join(trunk, head)
    holds(both, model, tmp_path, equal)
    holds(trunk, trunk, tmp_path, equal)
    # What no cut touched is the donor's own layer again.
    assert head.get_layer("layer_2") is model.get_layer("layer_2")


def test_taps_of_every_query(model, tmp_path):
    taps = kg.extract(model, "layer_*/attention/query")
    assert list(taps(ids(2, 5))) == [f"layer_{i}/attention/query" for i in range(4)]

    def hand(x):
        seen = {}
        by_hand(model, x, lambda path, value: seen.setdefault(path, value))
        return {path: value for path, value in seen.items() if path.endswith("query")}

    holds(taps, hand, tmp_path)
    assert not variables(taps) & {id(v) for v in model.get_layer("layer_3").mlp.variables}


def test_gelu_for_relu_in_every_mlp(model, tmp_path):
    new = kg.replace(
        model, "layer_*/mlp/act", lambda node: layers.Activation("gelu", name=node.name)
    )
    ups = {}

    def change(path, value):
        if path.endswith("mlp/up"):
            ups[path[:-3]] = value
        return keras.activations.gelu(ups[path[:-4]]) if path.endswith("mlp/act") else value

    holds(new, changed(model, change), tmp_path)
    assert variables(new) == variables(model)
    assert paths(kg.read(new), "**/act") == [f"layer_{i}/mlp/act" for i in range(4)]
    assert {n.kind for n in kg.select(kg.read(new), "**/act").nodes} == {"Activation"}
    # By the class of the layer, and with the recipe, it is the same.
    graph = kg.read(model, open="**")
    for other in (
        kg.replace(graph, layers.ReLU, lambda node: layers.Activation("gelu", name=node.name)),
        kg.recipes.swap_activation(graph, "relu", "gelu"),
    ):
        assert_same_outputs(new, kg.build(other), ids(2, 5))


def test_adapters_after_attention(model, tmp_path):
    new = kg.recipes.add_adapters(model, size=2, after="layer_*/attention")
    assert_same_outputs(model, new, ids(2, 5))
    added = kg.select(kg.read(new), "**/adapter_*").nodes
    downs, ups = ([n.operation for n in added if n.name.endswith(end)] for end in ("down", "up"))
    assert len(downs) == len(ups) == 4
    assert {id(v) for v in new.trainable_variables} == {
        id(v) for layer in downs + ups for v in layer.variables
    }
    for layer in ups:
        layer.kernel.assign(keras.random.normal(layer.kernel.shape, seed=2))
    pairs = {
        f"layer_{i}/attention": (d, u) for i, (d, u) in enumerate(zip(downs, ups, strict=True))
    }

    def change(path, value):
        down, up = pairs.get(path, (None, None))
        return value if down is None else value + up(down(value))

    holds(new, changed(model, change), tmp_path)


def test_lora_on_queries(model, tmp_path):
    new = kg.lora(model, "layer_*/attention/query", rank=2, seed=4)
    assert_same_outputs(model, new, ids(2, 5))
    factors = {}
    for number, (a, b) in enumerate(
        zip(new.trainable_variables[::2], new.trainable_variables[1::2], strict=True)
    ):
        b.assign(keras.random.normal(b.shape, seed=number))
        factors[f"layer_{number}/attention/query"] = a, b
    assert len(factors) == 4

    known = {}

    def see(path, value):
        known[path.rpartition("/")[2]] = value
        a, b = factors.get(path, (None, None))
        return value if a is None else value + known["norm"] @ a @ b

    hand = changed(model, see)
    holds(new, hand, tmp_path)
    close(kg.merge_adapters(new)(ids(2, 5)), hand(ids(2, 5)))


def test_half_the_depth_and_more(model, tmp_path):
    half = kg.remove(model, ["layer_1", "layer_3"])
    holds(half, lambda x: by_hand(model, x, calls=["layer_0", "layer_2"]), tmp_path)
    assert [n for n in (layer.name for layer in half.layers) if "layer_" in n] == [
        "layer_0", "layer_2",
    ]  # fmt: skip
    assert all(half.get_layer(n) is model.get_layer(n) for n in ("layer_0", "layer_2"))
    order = ["layer_0", "layer_1", "layer_0", "layer_1", "layer_2", "layer_3"]
    shared = kg.repeat(model, "embed", "layer_1", 2)
    holds(shared, lambda x: by_hand(model, x, calls=order), tmp_path)
    assert variables(shared) == variables(model)
    copied = kg.repeat(model, "embed", "layer_1", 2, weights="copy")
    assert_same_outputs(shared, copied, ids(2, 5))
    assert len(copied.trainable_weights) == len(model.trainable_weights) + 2 * 15
    # Inside a block: its MLP runs twice, as one layer after the other.
    twice = kg.repeat(model, "layer_1/mlp", "layer_1/mlp", 2)
    again = model.get_layer("layer_1").mlp
    change = lambda path, value: again(value) if path == "layer_1/mlp" else value  # noqa: E731
    holds(twice, changed(model, change), tmp_path)
    none = kg.remove(model, "layer_*/mlp")
    change = lambda path, value: 0 * value if path.endswith("/mlp") else value  # noqa: E731
    with pytest.raises(AssertionError):
        close(none(ids(2, 5)), by_hand(model, ids(2, 5), change))  # x + x, not x + 0


def test_ties_between_blocks(model, tmp_path):
    new = kg.tie(model, "layer_3/attention/query/kernel", "layer_1/attention/query/kernel")
    old = [model.get_layer(f"layer_{i}").attention.query for i in (1, 3)]
    gone = variables(model) - variables(new)
    assert gone == {id(old[1].kernel)}

    known = {}

    def see(path, value):
        known[path] = value
        if path == "layer_3/attention/query":
            return known["layer_3/norm"] @ old[0].kernel + old[1].bias
        return value

    holds(new, lambda x: by_hand(model, x, see), tmp_path)
    loaded = keras.models.load_model(tmp_path / "new.keras")
    first = kg.select(kg.read(loaded), "layer_1/attention/query").nodes[0].operation
    third = kg.select(kg.read(loaded), "layer_3/attention/query").nodes[0].operation
    assert first.kernel in third.weights and first is not third
    assert kg.untie(loaded, "layer_3/attention/query/kernel").count_params() == model.count_params()


def test_one_layer_shared_by_two_blocks(model, tmp_path):
    new = kg.share(model, ["layer_0/mlp/up", "layer_2/mlp/up"])
    up = model.get_layer("layer_0").mlp.up
    known = {}

    def see(path, value):
        known[path] = value
        return up(known["layer_2/add"]) if path == "layer_2/mlp/up" else value

    holds(new, lambda x: by_hand(model, x, see), tmp_path)
    assert len(new.weights) == len(model.weights) - 2


def test_frozen_inside(model, tmp_path):
    new = kg.freeze(model, "layer_1/attention")
    assert_same_outputs(model, new, ids(2, 5))
    frozen = {id(v) for v in model.get_layer("layer_1").attention.variables}
    left = {id(v) for v in new.trainable_variables}
    assert left == {id(v) for v in model.trainable_variables} - frozen
    holds(new, model, tmp_path, equal)
    before = arrays(new.weights)
    copied = kg.clone(new)
    copied.compile("sgd", "mse")
    copied.fit(ids(4, 5), np.ones((4, 5, 3), "float32"), verbose=0)
    for weight, old in zip(copied.weights, before, strict=True):
        if "layer_1/attention" in weight.path:
            equal(weight, old)
        elif weight.path.endswith("kernel"):
            assert not np.array_equal(arrays(weight)[0], old)
    equal(new.weights, before)


def test_one_block_inline(model, tmp_path):
    new = kg.inline(model, "layer_1")
    names = ["norm", "attention", "drop", "add", "mlp", "add_1"]
    assert paths(kg.read(new), "*")[1:8] == ["layer_0", *names]
    holds(new, model, tmp_path, equal)
    assert variables(new) == variables(model)
    block = model.get_layer("layer_1")
    assert [new.get_layer(n) for n in ("norm", "attention", "mlp")] == [
        block.norm, block.attention, block.mlp,
    ]  # fmt: skip
    deep = kg.inline(kg.read(model, open="**"))
    assert all(node.nested is None for node in deep.steps)
    holds(kg.build(deep), model, tmp_path, equal)


@pytest.fixture(name="recurrent")
def _recurrent(tmp_path):
    model = transformer(2, twice=True)
    with unchanged(model, tmp_path):
        yield model


def test_a_block_called_twice(recurrent, tmp_path):
    taps = kg.extract(recurrent, ["layer_1#0/attention/query", "layer_1#1/attention/query"])

    def hand(x):
        seen = {"layer_1/attention/query": []}
        see = lambda path, value: seen.setdefault(path, []).append(value) or value  # noqa: E731
        by_hand(recurrent, x, see, ["layer_0", "layer_1", "layer_1"])
        return seen["layer_1/attention/query"]

    holds(taps, hand, tmp_path)
    # An edit in one call only: its code is put in place of both calls.
    one = kg.insert(recurrent, lambda x: x * 2.0, after="layer_1#1/mlp")
    counted = []

    def see(path, value):
        counted.append(path)
        last = path == "layer_1/mlp" and counted.count(path) == 2
        return value * 2.0 if last else value

    def hand_one(x):
        counted.clear()
        return by_hand(recurrent, x, see, ["layer_0", "layer_1", "layer_1"])

    holds(one, hand_one, tmp_path)
    assert variables(one) == variables(recurrent)
    both = kg.insert(recurrent, lambda x: x * 2.0, after="layer_1/mlp")
    double = lambda path, value: value * 2.0 if path == "layer_1/mlp" else value  # noqa: E731
    holds(
        both, lambda x: by_hand(recurrent, x, double, ["layer_0", "layer_1", "layer_1"]), tmp_path
    )
