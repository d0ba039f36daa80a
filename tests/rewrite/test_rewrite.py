"""Patterns found and replaced. The ideas are those of two other projects' own tests, said in Keras.

torch.fx, `test/fx/test_subgraph_rewriter.py`:
    logic kept (the identity rewrite), a single match, several matches, a chain of matches, the pattern
    is the whole graph, argument order, overlapping matches, inner values with other users, outputs of
    the pattern with other users, several outputs, an output that is given twice, placeholders that are
    constants, layers of the donor called again, keyword arguments, list arguments, filters (where=), a
    replacement that looks at the match, patterns written as functions with unpacking.
onnxscript, `onnxscript/rewriter/pattern_test.py` and the tests beside it:
    a match that fails on a constant, matches of which one has other uses, a long formula (GELU), both
    orders of commuting operations, a check on a match (a reshape that changes nothing), bindings that
    stay apart for several matches, several outputs, alternatives, an operation's attributes, functions
    (here: nested models), a trace of why nothing matched (near misses: test_matches.py).
"""

import keras
import numpy as np
import pytest
from donor import equal, unchanged
from keras import layers, ops

import keras_graft as kg
from keras_graft.testing import random_inputs

LINEAR = keras.activations.linear
BN, DENSE, RELU = layers.BatchNormalization, layers.Dense, layers.ReLU


def numpy(x):
    return ops.convert_to_numpy(x)


def names(model):
    return [node.label for node in kg.read(model).nodes]


def chain(*made, width=4):
    x = y = keras.Input((width,), name="x")
    for layer in made:
        y = layer(y)
    return keras.Model(x, y, name="chain")


def dense(name, **given):
    return DENSE(4, name=name, **given)


def blocks(count=3):
    return chain(*(f(f"{k}{i}") for i in range(count) for k, f in (
        ("d", lambda n: DENSE(4, name=n)), ("r", lambda n: RELU(name=n))
    )))  # fmt: skip


def test_a_rewrite_to_the_identity_changes_no_bit(tmp_path):
    model = blocks()
    with unchanged(model, tmp_path) as x:
        new = kg.rewrite(model, lambda x, d, r: r(d(x)), lambda x, d, r: r(d(x)), d=DENSE, r=RELU)
        equal(model(x), new(x))
        assert names(new) == names(model)
        assert [id(w) for w in new.weights] == [id(w) for w in model.weights]
        del new


def test_each_match_of_a_chain_reads_what_the_one_before_gives():
    model = blocks()
    new = kg.rewrite(model, lambda x, d, r: r(d(x)), lambda x, d: ops.tanh(d(x)), d=DENSE, r=RELU)
    assert [n.kind for n in kg.read(new).nodes] == ["Dense", "Tanh"] * 3
    x = y = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    for i in range(3):
        y = ops.tanh(model.get_layer(f"d{i}")(y))
    np.testing.assert_array_equal(numpy(new(x)), numpy(y))


def test_the_pattern_is_the_whole_model():
    model = chain(dense("d"), RELU(name="r"))
    new = kg.rewrite(model, lambda x, d, r: r(d(x)), lambda x, d: d(x), d=DENSE, r=RELU)
    assert names(new) == ["d"]
    assert new.get_layer("d") is model.get_layer("d")


@pytest.mark.parametrize("pattern", [lambda a, b: a - b, lambda b, a: b - a])
def test_the_order_of_arguments_counts_and_names_do_not(pattern):
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    model = keras.Model([a, b], a - b)
    one, two = np.float32([[1, 2, 3, 4]]), np.float32([[9, 9, 9, 9]])
    names_ = list(kg.matches(model, pattern)[0].inputs)
    assert [v.name for v in kg.matches(model, pattern)[0].inputs.values()] == ["a", "b"]
    new = kg.rewrite(model, lambda a, b: ops.subtract(a, b), lambda b, a: ops.subtract(b, a))
    np.testing.assert_array_equal(numpy(new([one, two])), two - one)
    assert names_ in (["a", "b"], ["b", "a"])


def test_overlapping_matches_are_taken_in_the_order_of_the_graph():
    model = chain(*(RELU(name=f"r{i}") for i in range(5)))
    found = kg.matches(model, lambda x, a, b: b(a(x)), a=RELU, b=RELU)
    assert [[n.path for n in m.nodes] for m in found] == [["r0", "r1"], ["r2", "r3"]]
    assert [(m.path, o.path) for m, o in found.overlapping] == [("r2", "r1"), ("r4", "r3")]
    assert "2 left out: shares nodes with a match before it" in str(found)
    new = kg.rewrite(model, lambda x, a, b: b(a(x)), lambda x, a: a(x), a=RELU, b=RELU)
    assert names(new) == ["r0", "r2", "r4"]


def branching():
    x = keras.Input((4,), name="x")
    h = dense("d")(x)
    return keras.Model(x, layers.Add(name="add")([RELU(name="r")(h), dense("e")(h)]), name="two")


def test_an_inner_value_with_other_readers_is_no_match():
    model = branching()
    found = kg.matches(model, lambda x, d, r: r(d(x)), d=DENSE, r=RELU)
    assert len(found) == 0
    assert found.near[0] == ("r", "'d' is also read by 'e'")
    with pytest.raises(kg.NothingSelectedError, match="'d' is also read by 'e'"):
        kg.rewrite(model, lambda x, d, r: r(d(x)), lambda x, d: d(x), d=DENSE, r=RELU)
    # The way out: the value is an output of the pattern too.
    new = kg.rewrite(
        model, lambda x, d, r: ((h := d(x)), r(h)), lambda x, d: ((h := d(x)), ops.tanh(h)),
        d="d", r=RELU,
    )  # fmt: skip
    assert [n.kind for n in kg.read(new).nodes] == ["Dense", "Tanh", "Dense", "Add"]
    x = random_inputs(model)
    h = model.get_layer("d")(x)
    np.testing.assert_allclose(
        numpy(new(x)), numpy(ops.tanh(h) + model.get_layer("e")(h)), rtol=1e-6
    )


def test_an_inner_value_that_is_an_output_of_the_model_is_no_match():
    x = keras.Input((4,), name="x")
    h = dense("d")(x)
    model = keras.Model(x, [h, RELU(name="r")(h)], name="taps")
    found = kg.matches(model, lambda x, d, r: r(d(x)), d=DENSE, r=RELU)
    assert found.near == (("r", "'d' is an output of 'taps' too"),)


def test_an_output_of_the_pattern_may_have_any_readers():
    model = branching()
    new = kg.rewrite(model, lambda x, d: d(x), lambda x, d: ops.tanh(d(x)), d="d")
    h = ops.tanh(model.get_layer("d")(x := random_inputs(model)))
    expected = ops.relu(h) + model.get_layer("e")(h)
    np.testing.assert_allclose(numpy(new(x)), numpy(expected), rtol=1e-6)


def attention():
    x = keras.Input((3, 4), name="x")
    q, k = layers.Dense(4, name="q")(x), layers.Dense(4, name="k")(x)
    between = layers.Activation("tanh", name="between")(q)
    v = layers.Dense(4, name="v")(x)
    y = layers.Add(name="add")([layers.Add(name="inner")([between, k]), v])
    return keras.Model(x, y, name="attention")


def test_several_outputs_that_are_read_before_the_last_one_is_there():
    model = attention()
    x = random_inputs(model)

    def merged(x, q, k, v):
        kernel = np.concatenate([numpy(layer.kernel) for layer in (q, k, v)], -1)
        one = layers.Dense(12, name="qkv")
        y = one(x)
        one.set_weights([kernel, np.zeros(12)])
        return y[..., :4], y[..., 4:8], y[..., 8:]

    wildcards = {"q": "q", "k": "k", "v": "v"}
    new = kg.rewrite(model, lambda x, q, k, v: (q(x), k(x), v(x)), merged, **wildcards)
    assert [n.kind for n in kg.read(new).nodes if n.name in ("q", "k", "v", "qkv")] == ["Dense"]
    np.testing.assert_allclose(numpy(new(x)), numpy(model(x)), rtol=1e-5, atol=1e-6)


def test_outputs_between_which_something_outside_runs_are_no_match():
    x = keras.Input((4,), name="x")
    a = dense("a")(x)
    b = layers.Add(name="b")([x, RELU(name="outside")(a)])
    model = keras.Model(x, [layers.Softmax(name="s")(a), b], name="around")
    found = kg.matches(
        model, lambda x, y, a, b: (a(x), b([x, y])), a=DENSE, b=layers.Add
    )  # fmt: skip
    assert found.near == (("a", "y, 'outside', depends on its output 'a'"),)


def test_an_output_given_twice_and_one_that_is_an_input():
    model = chain(RELU(name="r"), dense("d"))
    both = kg.rewrite(
        model, lambda x, d, r: ((h := r(x)), d(h)), lambda x, d: (x, x), r=RELU, d=DENSE
    )
    x = random_inputs(model)
    np.testing.assert_array_equal(numpy(both(x)), x)


def test_alternatives_of_classes_and_of_patterns():
    model = chain(dense("a"), RELU(name="r"), dense("b"), layers.Activation("tanh", name="t"),
                  dense("c"), layers.Softmax(name="s"))  # fmt: skip
    found = kg.matches(model, lambda x, d, f: f(d(x)), d=DENSE, f=[RELU, layers.Activation])
    assert [m.path for m in found] == ["r", "t"]
    patterns = [lambda x, d: layers.Softmax()(d(x)), lambda x, d: layers.ReLU()(d(x))]
    found = kg.matches(model, patterns, d=DENSE)
    assert [(m.path, m.number) for m in found] == [("r", 1), ("s", 0)]
    new = kg.rewrite(model, patterns, lambda x, d: d(x), d=DENSE)
    assert names(new) == ["a", "b", "t", "c"]


@pytest.mark.parametrize("order", [0, 1])
def test_operations_that_commute_fit_in_both_orders(order):
    x, y = keras.Input((4,), name="x"), keras.Input((4,), name="y")
    pair = [RELU(name="r")(x), y]
    for made, pattern in [
        (lambda p: layers.Add(name="add")(p), lambda a, b, r, add: add([r(a), b])),
        (lambda p: layers.Multiply(name="add")(p), lambda a, b, r, add: add([b, r(a)])),
        (lambda p: layers.Average(name="add")(p), lambda a, b, r, add: add([b, r(a)])),
    ]:
        model = keras.Model([x, y], made(pair[::-1] if order else pair))
        kinds = [layers.Add, layers.Multiply, layers.Average]
        (match,) = kg.matches(model, pattern, r=RELU, add=kinds)
        assert [v.name for v in match.inputs.values()] == ["x", "y"]
    for op in (ops.add, ops.multiply, ops.maximum, ops.minimum, ops.logical_or, ops.equal):
        model = keras.Model([x, y], op(*(pair[::-1] if order else pair)))
        for pattern in (lambda a, b, r, op=op: op(r(a), b), lambda a, b, r, op=op: op(b, r(a))):
            (match,) = kg.matches(model, pattern, r=RELU)
            assert [v.name for v in match.inputs.values()] == ["x", "y"]
    model = keras.Model([x, y], ops.subtract(*(pair[::-1] if order else pair)))
    assert len(kg.matches(model, lambda a, b, r: r(a) - b, r=RELU)) == 1 - order


def test_an_addition_of_many_in_any_order():
    x = keras.Input((4,), name="x")
    made = [layers.Activation(f, name=f) for f in ("relu", "tanh", "sigmoid", "elu", "gelu")]
    model = keras.Model(x, layers.Add(name="add")([layer(x) for layer in made]))
    wild = {layer.name: layer for layer in made}

    def pattern(x, relu, tanh, sigmoid, elu, gelu, add):
        return add([gelu(x), elu(x), relu(x), sigmoid(x), tanh(x)])

    assert len(kg.matches(model, pattern, add=layers.Add, **wild)) == 1


def test_a_long_formula_becomes_one_op():
    def gelu(x):
        return 0.5 * x * (1 + ops.tanh(0.79788456 * (x + 0.044715 * x**3)))

    x = keras.Input((8,), name="x")
    model = keras.Model(x, layers.Dense(3, name="d")(gelu(x)), name="formula")

    def other_order(x):
        return (ops.tanh((0.044715 * x**3 + x) * 0.79788456) + 1) * (x * 0.5)

    for pattern in (gelu, other_order):
        new = kg.rewrite(model, pattern, lambda x: ops.gelu(x, approximate=True))
        assert [n.kind for n in kg.read(new).nodes] == ["Gelu", "Dense"]
        x = random_inputs(model)
        np.testing.assert_allclose(numpy(new(x)), numpy(model(x)), rtol=1e-5, atol=1e-6)
    wrong = lambda x: 0.5 * x * (1 + ops.tanh(0.79788456 * (x + 0.04 * x**3)))  # noqa: E731
    assert len(kg.matches(model, wrong)) == 0


def test_a_constant_is_matched_by_value_or_by_a_wildcard_given_away():
    x = keras.Input((4,), name="x")
    model = keras.Model(x, ops.relu(x * 2.0) * 3.0)
    assert [m["c"] for m in kg.matches(model, lambda x, c: x * c, c=float)] == [2.0, 3.0]
    assert [m["c"] for m in kg.matches(model, lambda x, c: c * x, c=lambda c: c > 2)] == [3.0]
    assert len(kg.matches(model, lambda x: x * 2)) == 1
    assert len(kg.matches(model, lambda x, c: ops.relu(x * c) * c, c=float)) == 0
    new = kg.rewrite(model, lambda x, c: x * c, lambda x, c: x * (c + 1), c=float)
    np.testing.assert_array_equal(numpy(new(np.ones((1, 4)))), np.full((1, 4), 12.0))


def test_a_name_that_stands_twice_is_the_same_layer_and_the_same_tensor():
    x, y = keras.Input((4,), name="x"), keras.Input((4,), name="y")
    d, e = dense("d"), dense("e")
    shared = keras.Model([x, y], d(x) + d(y))
    apart = keras.Model([x, y], d(x) + e(y))
    twice = lambda a, b, d: d(a) + d(b)  # noqa: E731
    assert len(kg.matches(shared, twice, d=DENSE)) == 1
    assert len(kg.matches(apart, twice, d=DENSE)) == 0
    calls = kg.matches(shared, twice, d=DENSE)[0].calls("d")
    assert [node.path for node in calls] == ["d#0", "d#1"]
    squared = lambda a, f: f(a) * a  # noqa: E731
    x1 = keras.Model([x, y], RELU(name="r")(x) * x)
    x2 = keras.Model([x, y], RELU(name="r2")(x) * y)
    assert len(kg.matches(x1, squared, f=RELU)) == 1
    assert len(kg.matches(x2, squared, f=RELU)) == 0


def test_two_calls_of_a_pattern_are_two_calls_of_the_graph():
    x = keras.Input((4,), name="x")
    h = RELU(name="r")(x)
    model = keras.Model(x, layers.Add(name="add")([h, h]))
    assert (
        len(kg.matches(model, lambda x, a, b, s: s([a(x), b(x)]), a=RELU, b=RELU, s=layers.Add))
        == 0
    )
    assert len(kg.matches(model, lambda x, a, s: s([(h := a(x)), h]), a=RELU, s=layers.Add)) == 1


def test_a_tensor_of_a_pattern_comes_from_outside_the_match():
    x = keras.Input((4,), name="x")
    h = RELU(name="r")(x)
    model = keras.Model(x, layers.Add(name="add")([h, h]))
    found = kg.matches(model, lambda x, y, r, s: s([r(x), y]), r=RELU, s=layers.Add)
    assert found.near == (("add", "y would be 'r', which is made inside the match"),)


def test_conditions_on_a_match():
    model = chain(dense("a"), dense("b", activation="relu"), dense("c", use_bias=False))
    one = lambda x, d: d(x)  # noqa: E731
    paths = lambda **given: [m.path for m in kg.matches(model, one, **given)]  # noqa: E731
    assert paths(d=DENSE, where=lambda d: d.activation is LINEAR) == ["a", "c"]
    assert paths(d=lambda layer: layer.activation is not LINEAR) == ["b"]  # an op has none: no
    assert paths(d=DENSE, where=lambda match: match["d"].use_bias) == ["a", "b"]
    assert paths(d=DENSE, where=lambda m: m.nodes[0].name == "c") == ["c"]
    assert paths(d=DENSE, where=lambda x, d: x.producer is None) == ["a"]
    found = kg.matches(model, one, d=DENSE, where=lambda d: "" if d.use_bias else "it has no bias")
    assert found.near == (("c", "it has no bias"),)


def test_a_reshape_that_changes_nothing_is_removed():
    x = keras.Input((4, 2), name="x")
    y = layers.Reshape((4, 2), name="same")(layers.Dense(2, name="d")(x))
    model = keras.Model(x, layers.Reshape((8,), name="other")(y))
    new = kg.rewrite(
        model, lambda x, r: r(x), lambda x: x, r=layers.Reshape,
        where=lambda match: match.inputs["x"].spec.shape == match.outputs[0].spec.shape,
    )  # fmt: skip
    assert names(new) == ["d", "other"]


def test_bindings_of_several_matches_stay_apart():
    model = chain(*(DENSE(n, name=f"d{n}") for n in (3, 5, 7)))
    seen = []

    def put(x, d, match):
        seen.append((d.units, match.path, match.inputs["x"].path))
        return d(x)

    kg.rewrite(model, lambda x, d: d(x), put, d=DENSE)
    assert seen == [(3, "d3", "x"), (5, "d5", "d3"), (7, "d7", "d5")]


def test_attributes_of_ops_count():
    x = keras.Input((3, 4), name="x")
    model = keras.Model(x, ops.mean(x, axis=1))
    assert len(kg.matches(model, lambda x: ops.mean(x, axis=1))) == 1
    assert len(kg.matches(model, lambda x: ops.mean(x, axis=-1))) == 0
    assert len(kg.matches(model, lambda x: ops.mean(x, axis=1, keepdims=True))) == 0
    sliced = keras.Model(x, x[..., 0])
    assert len(kg.matches(sliced, lambda x: x[..., 0])) == 1
    assert len(kg.matches(sliced, lambda x: x[..., 1])) == 0
    assert len(kg.matches(sliced, lambda x, key: x[key], key=tuple)) == 1


def test_layers_in_a_pattern_are_of_the_same_configuration():
    model = chain(dense("a"), layers.Activation("relu", name="f"), layers.Dropout(0.5, name="drop"))
    fits = lambda pattern: len(kg.matches(model, pattern))  # noqa: E731
    assert fits(lambda x: layers.Activation("relu")(x)) == 1
    assert fits(lambda x: layers.Activation("gelu")(x)) == 0
    assert fits(lambda x: layers.Dropout(0.5)(x)) == 1
    found = kg.matches(model, lambda x: layers.Dropout(0.4)(x))
    assert found.near == (("drop", "drop has rate=0.5, expected 0.4"),)
    assert fits(lambda x: model.get_layer("a")(x)) == 1  # the donor's own
    assert fits(lambda x: chain(dense("a")).layers[1](x)) == 0


def test_several_outputs_of_a_call_are_unpacked():
    x = keras.Input((5, 3), name="x")
    y, h, c = layers.LSTM(4, return_state=True, return_sequences=True, name="lstm")(x)
    model = keras.Model(x, [y, layers.Add(name="add")([h, c])], name="states")

    def pattern(x, lstm, add):
        y, h, c = lstm(x)
        return y, add([c, h])

    def swapped(x, lstm, add):
        y, h, c = lstm(x)
        return y, ops.multiply(h, c)

    new = kg.rewrite(model, pattern, swapped, lstm=layers.LSTM, add=layers.Add)
    data = random_inputs(model)
    y, h, c = model.get_layer("lstm")(data)
    equal(new(data), [y, h * c])
    one = kg.matches(model, lambda x, lstm: lstm(x), lstm=layers.LSTM)
    assert one.near[0][1] == (
        "lstm gives 3 outputs, and the pattern uses 1: write y, y1, y2 = lstm(...)"
    )


def test_arguments_of_a_call_are_part_of_the_pattern():
    x = keras.Input((4,), name="x")
    model = keras.Model(x, BN(name="bn")(BN(name="still")(x), training=True), name="trained")
    found = kg.matches(model, lambda x, bn: bn(x), bn=BN)
    assert [m.path for m in found] == ["still"]
    assert found.near == ((
        "bn", "bn is called with training=True, and the pattern does not say that: write bn(..., "
        "training=...), with that value or with Python's ... for any",
    ),)  # fmt: skip
    paths = lambda pattern: [m.path for m in kg.matches(model, pattern, bn=BN)]  # noqa: E731
    assert paths(lambda x, bn: bn(x, training=True)) == ["bn"]
    assert paths(lambda x, bn: bn(x, training=...)) == ["still", "bn"]
    assert paths(lambda x, bn: bn(x, training=False)) == []
    assert paths(lambda x, bn: bn(inputs=x)) == ["still"]


def test_a_mask_that_is_given_is_a_tensor_of_the_pattern():
    x, m = keras.Input((5, 3), name="x"), keras.Input((5,), name="m", dtype="bool")
    model = keras.Model([x, m], layers.LSTM(4, name="lstm")(x, mask=m))
    lstm = {"lstm": layers.LSTM}
    assert len(kg.matches(model, lambda x, lstm: lstm(x), **lstm)) == 0
    (match,) = kg.matches(model, lambda x, m, lstm: lstm(x, mask=m), **lstm)
    assert match.inputs["m"].name == "m"
    new = kg.rewrite(
        model, lambda x, m, lstm: lstm(x, mask=m), lambda x, m, lstm: lstm(x, mask=m), **lstm
    )
    data = [ops.ones((2, 5, 3)), ops.convert_to_tensor([[True, True, False, False, True]] * 2)]
    equal(model(data), new(data))


def test_a_mask_that_keras_passes_goes_without_saying(tmp_path):
    x = keras.Input((5,), name="x", dtype="int32")
    h = layers.Embedding(9, 4, mask_zero=True, name="e")(x)
    h = layers.LSTM(4, return_sequences=True, name="a")(layers.Dropout(0.1, name="drop")(h))
    model = keras.Model(x, layers.LSTM(3, name="b")(h), name="masked")
    with unchanged(model, tmp_path):
        new = kg.rewrite(
            model, lambda x, d, r: r(d(x)), lambda x, r: r(x), d=layers.Dropout, r=layers.LSTM
        )
        ids = np.array([[1, 2, 0, 0, 0], [3, 4, 5, 0, 0]])
        equal(model(ids), new(ids))
        new.save(tmp_path / "new.keras")
        equal(new(ids), keras.saving.load_model(tmp_path / "new.keras")(ids))
        del new


def test_new_layers_are_named_by_their_place_and_learn(tmp_path):
    model = blocks(2)
    new = kg.rewrite(
        model, lambda x, d, r: r(d(x)), lambda x, d: DENSE(4, "gelu")(d(x)), d=DENSE, r=RELU
    )
    assert names(new) == ["d0", "r0_dense", "d1", "r1_dense"]
    new.compile("sgd", "mse")
    new.fit(np.ones((4, 4)), np.zeros((4, 4)), verbose=0)
    new.save(tmp_path / "new.keras")
    x = random_inputs(new)
    equal(new(x), keras.saving.load_model(tmp_path / "new.keras")(x))


def test_dtypes_of_a_mixed_policy_are_kept():
    with_policy = keras.Input((4,), name="x")
    h = DENSE(4, dtype="mixed_float16", name="d")(with_policy)
    model = keras.Model(with_policy, RELU(dtype="mixed_float16", name="r")(h))
    new = kg.rewrite(model, lambda x, d, r: r(d(x)), lambda x, d: ops.relu(d(x)), d=DENSE, r=RELU)
    assert kg.read(new).outputs[0].spec.dtype == "float16"
    with pytest.raises(
        kg.EditError, match=r"gives \(\?, 4\) float32 for 'r', which gave .* float16"
    ):
        kg.rewrite(
            model, lambda x, d, r: r(d(x)), lambda x, d: ops.cast(d(x), "float32"), d=DENSE, r=RELU
        )
