"""Calls of one operation that differ: arguments, shapes, masks, numbers of outputs."""

import gc

import keras
import numpy as np
import pytest
from donor import equal
from keras import layers, ops

import keras_graft as kg
from keras_graft.testing import assert_same_graph, random_inputs


@keras.saving.register_keras_serializable("tests")
class Scaled(layers.Layer):
    """Its arguments say what it does; `parts` says how many values it gives."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(), initializer="ones", name="factor")

    def call(self, x, scale=1.0, other=None, parts=1, training=False):
        x = x * scale * self.factor
        if other is not None:
            x = x + other
        if training:
            x = x + 100.0
        return x if parts == 1 else tuple(x + i for i in range(parts))


@keras.saving.register_keras_serializable("tests")
class Plain(layers.Layer):
    """Holds nothing."""

    def call(self, x, scale=1.0):
        return x * scale


def dense(name, width=8):
    return layers.Dense(width, name=name)


def in_front(make, shape=(8,), names=("d",)):
    """Return a model whose nested parts clash: layers `names`, then what `make` calls again."""
    i = keras.Input(shape, name="i")
    one = i
    for name in names:
        one = dense(name, shape[-1])(one)
    one = keras.Model(i, one, name="one")
    j = keras.Input(shape, name="j")
    two = keras.Model(j, make(j), name="two")
    x = keras.Input(shape, name="x")
    return keras.Model(x, two(one(x)), name="clash")


def scaled(kind=Scaled):
    def make(j):
        layer = kind(name="d")
        return ops.add(layer(j, scale=2.0), layer(j, scale=5.0))

    return make


def with_tensors(j):
    layer = Scaled(name="d")
    return layer(layer(j, other=j), scale=3.0, other=layer(j))


def with_several(j):
    layer = Scaled(name="d")
    a, b, c = layer(j, parts=3)
    return layer(a, other=layer(b, parts=2)[1]) + c


def with_flags(j):
    layer = Scaled(name="d")
    return layer(j, training=True) + layer(j, training=False) * layer(j)


def with_masks(j):
    attend = layers.MultiHeadAttention(2, 3, name="d")
    mask = ops.cast(ops.ones_like(j[:, :, :1]) @ ops.ones_like(j[:, :1, :1]), "bool")
    kept, scores = attend(j, j, attention_mask=mask, return_attention_scores=True)
    return attend(kept, j) + ops.sum(scores) + attend(j, kept, use_causal_mask=True)


def with_shapes(j):
    layer = Scaled(name="d")
    return layer(j) + ops.sum(layer(ops.concatenate([j, j])), axis=0)


def with_ranks(j):
    layer = Scaled(name="d")
    return layer(j) + ops.sum(layer(j[:, None, :]), axis=1)


def with_states(j):
    lstm = layers.LSTM(8, return_sequences=True, return_state=True, name="d")
    y, h, c = lstm(j)
    z, h, c = lstm(y, initial_state=[h, c])
    return layers.Add(name="sum")([y, z]) + h[:, None]


CASES = {
    "arguments": (scaled(), (8,)), "no weights": (scaled(Plain), (8,)),
    "tensors": (with_tensors, (8,)), "several": (with_several, (8,)), "flags": (with_flags, (8,)),
    "masks": (with_masks, (4, 8)), "ranks": (with_ranks, (8,)), "states": (with_states, (4, 8)),
    "shapes": (with_shapes, (8,)),
}  # fmt: skip


def calls(graph, kind):
    return [n.template.kwargs for n in kg.read(graph).nodes if isinstance(n.operation, kind)]


@pytest.mark.parametrize("case", CASES)
def test_a_clash_is_settled_for_calls_that_differ(case, tmp_path):
    make, shape = CASES[case]
    model = in_front(make, shape)
    flat = kg.inline(model)
    x = random_inputs(model, 3)
    for training in (False, True):
        equal(model(x, training=training), flat(x, training=training))
    equal(model(x), flat(x))
    assert {id(w) for w in flat.weights} == {id(w) for w in model.weights}
    graph = kg.read(flat)
    (layer,) = [x for x in model.get_layer("two").layers if x.name == "d"]
    assert len([n for n in graph.nodes if n.operation is layer]) == len(
        [n for n in kg.read(model.get_layer("two")).nodes if n.operation is layer]
    )
    assert_same_graph(kg.inline(kg.read(model)), graph, same_layers=True)
    again = kg.build(kg.insert(graph, layers.Activation("linear", name="end"), after=graph.outputs))
    equal(model(x), again(x))
    clone = kg.clone(flat)
    equal(model(x), clone(x))
    assert not {id(w) for w in clone.weights} & {id(w) for w in flat.weights}
    for number, result in enumerate((flat, again, clone)):
        path = tmp_path / f"{number}.keras"
        result.save(path)
        loaded = keras.saving.load_model(path)
        equal(model(x), loaded(x))
        assert loaded.count_params() == model.count_params()
        if len({str(k) for k in calls(flat, type(layer))}) > 1:  # else a stock model of Keras's
            assert calls(loaded, type(layer)) == calls(flat, type(layer))
        edited = kg.insert(loaded, layers.Activation("linear", name="more"), before="d")
        equal(model(x), edited(x))
        edited.save(path)
        equal(model(x), keras.saving.load_model(path)(x))


def test_the_same_call_of_a_clash_loads_without_this_package(tmp_path):
    def twice(j):
        layer = Scaled(name="d")
        return layer(layer(j, scale=2.0), scale=2.0)

    model = in_front(twice)
    flat = kg.inline(model)
    x = random_inputs(model)
    equal(model(x), flat(x))
    assert '"module": "keras_graft' not in flat.to_json()
    flat.save(tmp_path / "flat.keras")
    equal(model(x), keras.saving.load_model(tmp_path / "flat.keras")(x))


def test_the_donor_and_what_hangs_on_its_layers_stay(tmp_path):
    model = in_front(with_several)
    (layer,) = [x for x in model.get_layer("two").layers if x.name == "d"]
    nodes, output = len(layer._inbound_nodes), layer.output
    flat = kg.inline(model)
    flat.save(tmp_path / "flat.keras")
    del flat
    gc.collect()
    assert len(layer._inbound_nodes) == nodes and layer.output is output


def test_weights_of_a_clash_train_and_travel(tmp_path):
    model = in_front(scaled())
    flat = kg.inline(model)
    x = random_inputs(model, 4)
    flat.compile("sgd", "mse")
    before = [np.array(ops.convert_to_numpy(w)) for w in flat.trainable_variables]
    flat.fit(x, np.zeros((4, 8), "float32"), verbose=0)
    after = [np.array(ops.convert_to_numpy(w)) for w in flat.trainable_variables]
    assert len(before) == 3 and all((a != b).any() for a, b in zip(before, after, strict=True))
    equal(model(x), flat(x))
    flat.save_weights(tmp_path / "w.weights.h5")
    other = kg.clone(flat, weights="fresh")
    other.load_weights(tmp_path / "w.weights.h5")
    equal(other(x), flat(x))


def test_the_issue():
    model = in_front(scaled(Plain))
    x = np.ones((2, 8), "float32")
    one = model.get_layer("one")
    expected = 7 * ops.convert_to_numpy(one(x))
    np.testing.assert_allclose(ops.convert_to_numpy(kg.inline(model)(x)), expected, rtol=1e-6)


def test_diff_tells_arguments_apart():
    x = keras.Input((4,), name="x")
    layer = Plain(name="p")
    one, other = (kg.read(keras.Model(x, layer(x, scale=s))) for s in (1, True))
    assert kg.diff(one, one).to_dict() != kg.diff(one, other).to_dict()


def test_a_label_names_the_layer_that_the_built_model_has_under_it():
    # Two layers of one name in two nested models; Keras orders the nodes of the flat model by depth,
    # where the graph has them as the models were called.
    def inner(name, extra):
        x = keras.Input((3,), name=f"{name}_in")
        y = keras.layers.Dense(3, name="end")(x)
        for i in range(extra):
            y = keras.layers.Dense(3, name=f"{name}{i}")(y)
        return keras.Model(x, y, name=name)

    for first, second in ((0, 3), (3, 0)):
        x = keras.Input((3,), name="x")
        a, b = inner("a", first), inner("b", second)
        for order in ((a, b), (b, a)):
            y = keras.layers.Add(name="add")([model(x) for model in order])
            graph = kg.inline(kg.read(keras.Model(x, y)))
            built = kg.build(graph)
            again = kg.read(built)
            for label in ("end", "end_1"):
                (node,) = kg.select(graph, label).nodes
                (found,) = kg.select(built, label).nodes
                assert found.operation is node.operation
                own = built.get_layer(label)
                assert {id(w) for w in own.weights} == {id(w) for w in node.operation.weights}
                (copy,) = kg.select(kg.clone(again), label).nodes
                for w, v in zip(copy.operation.weights, node.operation.weights, strict=True):
                    np.testing.assert_array_equal(
                        keras.ops.convert_to_numpy(w), keras.ops.convert_to_numpy(v)
                    )
