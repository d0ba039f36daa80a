"""`patch`: what is replaced, what the result is, and what is refused."""

import re

import keras
import numpy as np
import pytest
from donor import arrays, equal, unchanged
from keras import layers, ops
from models import ALL, masked, masked_nested, mixed, multi_output, several, siamese

import keras_graft as kg
from keras_graft.graph.select import everything
from keras_graft.testing import assert_same_outputs, random_inputs

each = pytest.mark.parametrize("make", ALL, ids=lambda f: f.__name__)


def chain():
    x = keras.Input((4,), name="x")
    a = layers.Dense(5, activation="relu", name="a")(x)
    b = layers.Dense(5, name="b")(a)
    y = layers.Add(name="sum")([a, b])
    return keras.Model(x, layers.Dense(2, name="out")(y), name="chain")


def floats(model):
    graph = kg.read(model)
    nodes = [n for n in everything(graph) if isinstance(n.operation, keras.Layer)]
    return [v for n in nodes for v in n.values[:1] if "float" in v.spec.dtype and v.consumers]


def by_hand(model, x, **change):
    """Run `chain` layer by layer, as a hook would."""
    a = change.get("a", lambda t: t)(model.get_layer("a")(x))
    b = change.get("b", lambda t: t)(model.get_layer("b")(a))
    return model.get_layer("out")(change.get("sum", lambda t: t)(a + b))


@pytest.mark.parametrize(
    ("new", "change"),
    [
        (0, ops.zeros_like),
        (1.5, lambda t: ops.zeros_like(t) + 1.5),
        (np.arange(5), lambda t: ops.zeros_like(t) + ops.arange(5, dtype="float32")),
        (np.ones((1, 1)), ops.ones_like),
        ([0.0, 1.0, 2.0, 3.0, 4.0], lambda t: ops.zeros_like(t) + ops.arange(5, dtype="float32")),
        (lambda t: t * 2.0, lambda t: t * 2.0),
        (lambda t: ops.mean(t, axis=0, keepdims=True), lambda t: ops.mean(t, axis=0) + 0 * t),
        (ops.tanh, ops.tanh),
        (lambda t: t[:, :1], lambda t: t[:, :1] + 0 * t),
    ],
)
def test_a_patched_model_gives_what_layers_run_by_hand_give(new, change):
    model = chain()
    x = random_inputs(model, 3)
    for name in ("a", "b", "sum"):
        equal(kg.patch(model, {name: new})(x), by_hand(model, x, **{name: change}))
    both = kg.patch(model, {"a": new, "b": lambda t: t + 1})
    equal(both(x), by_hand(model, x, a=change, b=lambda t: t + 1))


def test_an_input_serves_many_values_with_one_model():
    model = chain()
    x = random_inputs(model, 3)
    patched = kg.patch(model, {"a": kg.Given("other"), "b": kg.Given("push", ops.add, (1,))})
    assert [t.name for t in patched.inputs] == ["x", "other", "push"]
    rng = np.random.default_rng(0)
    for _ in range(3):
        a = ops.convert_to_tensor(rng.standard_normal((3, 5)).astype("float32"))
        push = ops.convert_to_tensor(rng.standard_normal((3, 1)).astype("float32"))
        wanted = by_hand(model, x, a=lambda t, a=a: a, b=lambda t, push=push: t + push)
        equal(patched([x, a, push]), wanted)
        equal(patched({"x": x, "other": a, "push": push}), wanted)
    # One value for the whole batch is broadcast, as NumPy does it.
    equal(patched([x, a[:1], push]), patched([x, ops.repeat(a[:1], 3, axis=0), push]))
    found = patched.predict([np.asarray(arrays(x)[0]), arrays(a)[0], arrays(push)[0]], verbose=0)
    np.testing.assert_allclose(found, arrays(wanted)[0], rtol=1e-5, atol=1e-6)


def test_one_input_for_several_places():
    model = chain()
    x = random_inputs(model, 3)
    mean = kg.Given("mean")
    patched = kg.patch(model, {("a", "b"): mean})
    assert [t.name for t in patched.inputs] == ["x", "mean"]
    value = ops.ones((3, 5)) * 2.0
    equal(patched([x, value]), by_hand(model, x, a=lambda t: value, b=lambda t: value))
    unnamed = kg.patch(model, {"a": kg.Given(), "b": kg.Given()})
    assert [t.name for t in unnamed.inputs] == ["x", "a_given", "b_given"]


@each
def test_every_float_patched_back_gives_the_plain_output(make, tmp_path):
    model = make()
    with unchanged(model, tmp_path) as x:
        for value in floats(model):
            (tensor,) = kg.record(model, x, [value]).values()
            patched = kg.patch(model, {value: tensor})
            equal(model(x, training=False), patched(x, training=False))
            del patched, tensor


@pytest.mark.parametrize("make", [chain, siamese, several, masked, multi_output, mixed])
def test_a_patched_model_is_an_ordinary_model(make, tmp_path):
    model = make()
    value = floats(model)[0]
    patched = kg.patch(model, {value: lambda t: t * 0.5 + 1})
    asked = kg.patch(model, {value: kg.Given("given")})
    for new in (patched, asked, kg.patch(model, {value: 0.25})):
        assert {id(w) for w in new.weights} == {id(w) for w in model.weights}
        new.save(tmp_path / "new.keras")
        loaded = keras.models.load_model(tmp_path / "new.keras")
        assert_same_outputs(new, loaded)
        assert_same_outputs(new, kg.clone(new))
        assert_same_outputs(new, kg.build(kg.read(new)))
        new.save_weights(tmp_path / "new.weights.h5")
        model.load_weights(tmp_path / "new.weights.h5")  # it has the donor's weights, no others
    x = random_inputs(asked, 4)
    asked.compile("sgd", "mse")
    asked.train_on_batch(x, asked(x))


def test_a_value_inside_nested_models():
    model = siamese()  # one encoder, called twice
    x = random_inputs(model, 3)
    encoder, out = model.get_layer("encoder"), model.get_layer("out")
    d0, d1 = encoder.get_layer("d0"), encoder.get_layer("d1")

    def hand(first, second):
        parts = [d1(first(d0(x[0]))), d1(second(d0(x[1])))]
        return out(ops.concatenate(parts, -1))

    def same(t):
        return t

    whole = kg.patch(model, {"encoder/d0": 0})
    equal(whole(x), hand(ops.zeros_like, ops.zeros_like))
    assert whole.get_layer("encoder").get_layer("d1") is d1  # still one model, called twice
    equal(kg.patch(model, {"encoder#1/d0": 0})(x), hand(same, ops.zeros_like))
    parts = kg.patch(model, {"encoder#0/d0": ops.tanh, "encoder#1/d0": 0})
    equal(parts(x), hand(ops.tanh, ops.zeros_like))
    asked = kg.patch(model, {"encoder/d0": kg.Given("given")})
    value = ops.ones((3, 5))
    equal(asked([*x, value]), hand(lambda t: value, lambda t: value))


def test_the_structure_of_the_inputs():
    model = several()
    patched = kg.patch(model, {"l": kg.Given("given")})
    assert list(patched.input) == ["left", "right", "given"]
    x = random_inputs(patched, 3)
    given = x.pop("given")
    equal(patched({**x, "given": given})["aux"][0], given)
    with pytest.raises(kg.EditError, match=r'has \'left\' already.*kg.Given\("left_given"\)'):
        kg.patch(model, {"l": kg.Given("left")})
    kg.patch(model, {"l": kg.Given("left_given")})


@pytest.mark.parametrize("make", [masked, masked_nested])
def test_masks_go_on_with_the_new_value(make):
    model = make()
    x = random_inputs(model, 4)
    for value in floats(model):
        (tensor,) = kg.record(model, x, [value]).values()
        for new in (tensor, lambda t: t * 1.0):
            equal(model(x), kg.patch(model, {value: new})(x))


def test_the_dtype_of_the_value_stays():
    model = mixed()
    for value in floats(model):
        for new in (np.float64(2.0), lambda t: t + ops.ones((1,), "float32")):
            patched = kg.patch(model, {value: new})
            graph = kg.read(patched)
            assert graph.outputs[0].spec == kg.read(model).outputs[0].spec
            patched(random_inputs(model, 2))
    ids = keras.Input((3,), dtype="int32", name="ids")
    model = keras.Model(ids, layers.Embedding(9, 2, name="e")(ids))
    x = ops.ones((2, 3), "int32")
    equal(kg.patch(model, {"ids": 4})(x), model(x * 4))
    with pytest.raises(kg.EditError, match=re.escape('give whole numbers, x.astype("int32")')):
        kg.patch(model, {"ids": np.full(3, 4.0)})
    equal(kg.patch(model, {"ids": np.full(3, 4.0).astype("int32")})(x), model(x * 4))


def test_a_model_with_its_own_class_and_a_graph():
    backbone = pytest.importorskip("keras_hub").models.BertBackbone(
        vocabulary_size=12, num_layers=2, num_heads=2, hidden_dim=8, intermediate_dim=16,
        max_sequence_length=8,
    )  # fmt: skip
    with pytest.warns(kg.GraftWarning, match="calls these layers one by one does not"):
        patched = kg.patch(backbone, {"transformer_layer_0": lambda t: t * 0.0})
    assert isinstance(patched, type(backbone))
    x = random_inputs(backbone, 2)
    assert np.ptp(arrays(patched(x)["sequence_output"])[0], axis=0).max() < 1e-6
    graph = kg.patch(kg.read(backbone), {"transformer_layer_0": lambda t: t * 0.0})
    assert isinstance(graph, kg.Graph)
    with pytest.warns(kg.GraftWarning):
        equal(kg.build(graph)(x), patched(x))
    with pytest.warns(kg.GraftWarning, match="lies between layers"):
        asked = kg.patch(backbone, {"transformer_layer_0": kg.Given("given")})
    (tensor,) = kg.record(backbone, x, "transformer_layer_0").values()
    equal(asked({**x, "given": tensor}), backbone(x))


REFUSED = {
    "shape": ({"a": np.ones(4)}, r"patch 'a': the array is (4) float64, and does not broadcast to "
              "the value there, (?, 5) float32. Give one of shape (1, 5)", {"a": np.ones((1, 5))}),
    "function": ({"a": lambda t: t[:, :3]}, "returns is (?, 3) float32, and does not broadcast",
                 {"a": lambda t: t[:, :1]}),
    "rank": ({"a": np.ones((1, 1, 5))}, "is (1, 1, 5) float64, and does not broadcast", None),
    "layer": ({"a": layers.Dense(3)}, "(?, 3) float32, and does not broadcast", None),
    "word": ({"a": "b"}, "patch: 'b' replaces no value: give a number, an array, a function",
             {"a": kg.Given("name")}),
    "none": ({"a": None}, "patch: None replaces no value", None),
    "class": ({"a": layers.ReLU}, "is a class; give a layer or a function", {"a": layers.ReLU()}),
    "numpy": ({"a": lambda t: np.sin(t)}, "Write the function with keras.ops", {"a": ops.sin}),
    "constant": ({"a": lambda t: 0}, "give the number or the array itself", {"a": 0}),
    "two": ({"a": lambda t: (t, t)}, "gives 2 values, and one is needed", None),
    "twice": ({"a": 0, "*a": 1}, "patch 'a': two selectors name it, for 0 and 1", None),
    "one layer": ({"*": layers.ReLU()}, "Give a factory", None),
    "name": ({"a": kg.Given("x")}, "'chain' has 'x' already. Give the input another name, "
             'kg.Given("x_given")', {"a": kg.Given("x_given")}),
    "node's name": ({"a": kg.Given("b")}, "'chain' has 'b' already", None),
    "slash": ({"a": kg.Given("a/b")}, "give a name, without a slash", None),
    "given shape": ({"a": kg.Given("g", shape=(4,))}, "the input 'g' is (?, 4) float32, and does "
                    "not broadcast", {"a": kg.Given("g", shape=(1,))}),
    "given dtype": ({"a": kg.Given("g", dtype="no")}, "no dtype of Keras", None),
    "no dict": (["a"], "give {selector: value}", None),
    "empty": ({}, "got an empty dict", None),
    "nothing": ({"aa": 0}, "Nothing in 'chain' matches 'aa'. Nearest: 'a'", None),
    "tensor": ({"a": keras.Input((5,))}, "replaces no value", None),
}  # fmt: skip


@pytest.mark.once
@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_names_the_place_and_changes_nothing(case, tmp_path):
    values, words, works = REFUSED[case]
    model = chain()
    with unchanged(model, tmp_path):
        with pytest.raises(kg.GraftError, match=re.escape(words)) as caught:
            kg.patch(model, values)
        del caught
    if works is not None:
        kg.patch(model, works)


@pytest.mark.once
def test_an_output_of_several_is_named():
    model = multi_output()
    with pytest.raises(kg.EditError, match=r"Name one, such as \"lstm:0\"") as caught:
        kg.patch(model, {"lstm": 0})
    assert "lstm:1" in str(caught.value)
    patched = kg.patch(model, {"lstm:1": 0})
    x = random_inputs(model, 2)
    assert not np.array_equal(arrays(patched(x))[-1], arrays(model(x))[-1])


@pytest.mark.once
def test_a_mask_is_refused_with_a_way_out():
    graph = kg.read(masked())
    node = next(n for n in graph.nodes if n.kind == "NotEqual")
    with pytest.raises(kg.EditError, match="whose compute_mask returns the mask that you want"):
        kg.patch(graph, {node.path: True})


def test_a_tie_stays():
    x = keras.Input((5,), name="x")
    y = layers.Dense(5, name="b")(layers.Dense(5, name="a")(x))
    model = kg.tie(keras.Model(x, y), "b/kernel", "a/kernel")
    patched = kg.patch(model, {"a": 0})
    assert kg.sharing(patched).ties
    equal(patched(ops.ones((2, 5))), model.get_layer("b")(ops.zeros((2, 5))))


def test_a_patched_model_whose_shapes_are_changed_is_refused():
    # What is put in place has a shape of its own, which an edit may part from the tensor's.
    x = keras.Input((6, 3), name="x")
    model = keras.Model(x, layers.ReLU(name="relu")(x), name="steps")
    ones = np.ones((6, 3), "float32")
    for value in (ones, lambda t: ops.zeros_like(t[:, :, :3]) + ones):
        patched = kg.patch(model, {"x": value})
        with pytest.raises(
            kg.GraftError, match=r"shape \((None, )?6, 3\) in the place of a tensor"
        ):
            kg.reinput(patched, shape=(6, 5))
    fits_any = kg.patch(model, {"x": np.ones((1, 3))})
    assert kg.reinput(fits_any, shape=(8, 3)).output_shape == (None, 8, 3)
