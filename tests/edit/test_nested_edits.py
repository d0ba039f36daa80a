"""Edits inside nested models, at any depth: at the level they belong to, on the donor's layers."""

import keras
import pytest
from donor import equal, unchanged
from keras import layers
from models import masked_nested, siamese

import keras_graft as kg
from keras_graft.testing import assert_same_graph, assert_same_outputs, random_inputs


def block(name, wide=4, mid=None):
    x = keras.Input((4,), name=f"{name}_in")
    y = layers.Dense(wide, activation="relu", name=f"{name}_a")(x)
    y = y if mid is None else mid(y)
    return keras.Model(x, layers.Dense(4, name=f"{name}_b")(y), name=name)


def matryoshka():
    """A model in a model in a model, with a Sequential beside it."""
    outer = block("outer", mid=block("middle", mid=block("core")))
    x = keras.Input((4,), name="x")
    stack = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, name="q0"), layers.ReLU(name="q1")], name="stack"
    )
    return keras.Model(x, layers.Dense(2, name="out")(stack(outer(x))), name="matryoshka")


def two_homes():
    """One model inside two others."""
    core = block("core")
    left, right = block("left", mid=core), block("right", mid=core)
    x = keras.Input((4,), name="x")
    return keras.Model(x, layers.Add(name="add")([left(x), right(x)]), name="two_homes")


def same_dense(old, units=None, **changes):
    """Return a Dense of the same weights, made by hand."""
    config = {**old.get_config(), **changes}
    new = layers.Dense.from_config(config)
    new.build(old.input.shape)
    new.set_weights(old.get_weights())
    return new


def test_a_model_called_twice_is_edited_once_and_stays_shared(tmp_path):
    model = siamese()
    with unchanged(model, tmp_path) as x:
        edited = kg.insert(model, layers.Rescaling(2.0, name="double"), after="encoder/d0")
        calls = kg.select(edited, "encoder").expect(2).nodes
        assert calls[0].operation is calls[1].operation
        assert [n.label for n in calls[0].nested] == ["d0", "double", "d1"]
        assert {id(w) for w in edited.weights} == {id(w) for w in model.weights}
        d0, d1 = (model.get_layer("encoder").get_layer(n) for n in ("d0", "d1"))
        halves = [d1(d0(t) * 2.0) for t in x]
        equal(edited(x), model.get_layer("out")(keras.ops.concatenate(halves, -1)))
        edited.save(tmp_path / "edited.keras")
        assert_same_outputs(edited, keras.models.load_model(tmp_path / "edited.keras"), x)
        assert_same_graph(model, kg.remove(edited, "encoder/double"))
        del edited, calls


def test_at_one_call_only(tmp_path):
    model = siamese()
    with unchanged(model, tmp_path) as x:
        edited = kg.insert(model, layers.Rescaling(2.0, name="double"), after="encoder#1/d0")
        d0, d1 = (model.get_layer("encoder").get_layer(n) for n in ("d0", "d1"))
        both = keras.ops.concatenate([d1(d0(x[0])), d1(d0(x[1]) * 2.0)], -1)
        equal(edited(x), model.get_layer("out")(both))
        assert edited.count_params() == model.count_params()
        edited.save(tmp_path / "edited.keras")  # which Keras could not load, were there two models
        assert_same_outputs(edited, keras.models.load_model(tmp_path / "edited.keras"), x)
        del edited


@pytest.mark.parametrize("path", ["outer/middle/core/core_a", "**/core_a", "outer/*/core/core_a"])
def test_at_the_third_depth(path, tmp_path):
    model = matryoshka()
    with unchanged(model, tmp_path) as x:
        inner = model.get_layer("outer").get_layer("middle").get_layer("core")
        linear = same_dense(inner.get_layer("core_a"), activation="linear", name="linear")
        edited = kg.replace(model, path, linear)
        assert kg.select(edited, "outer/middle/core/linear").nodes[0].operation is linear
        flat = kg.replace(kg.inline(model), "core_a", linear)
        assert_same_outputs(flat, edited, x)
        assert edited.count_params() == model.count_params()
        assert len(edited.weights) == len(model.weights)
        assert edited.get_layer("outer").get_layer("outer_a") is model.get_layer("outer").get_layer(
            "outer_a"
        )
        edited.save(tmp_path / "edited.keras")
        assert_same_outputs(edited, keras.models.load_model(tmp_path / "edited.keras"), x)
        del edited, flat


def test_a_model_in_two_others_is_edited_once(tmp_path):
    model = two_homes()
    with unchanged(model, tmp_path) as x:
        edited = kg.insert(model, layers.ReLU(name="new"), after="**/core_b")
        left, right = (edited.get_layer(n).get_layer("core") for n in ("left", "right"))
        assert left is right and left is not model.get_layer("left").get_layer("core")
        assert edited.count_params() == model.count_params()
        core = {
            n: model.get_layer("left").get_layer("core").get_layer(n) for n in ("core_a", "core_b")
        }
        halves = []
        for name in ("left", "right"):
            a, b = (model.get_layer(name).get_layer(f"{name}_{end}") for end in "ab")
            halves.append(b(keras.ops.relu(core["core_b"](core["core_a"](a(x))))))
        equal(edited(x), halves[0] + halves[1])
        del edited, left, right


def test_inside_a_sequential(tmp_path):
    model = matryoshka()
    with unchanged(model, tmp_path) as x:
        edited = kg.remove(model, "stack/q1")
        stack = edited.get_layer("stack")
        assert [layer.name for layer in stack.layers][-1] == "q0"
        middle = kg.extract(model, "outer")(x)
        equal(edited(x), model.get_layer("out")(model.get_layer("stack").get_layer("q0")(middle)))
        del edited, stack


def test_the_mask_still_arrives(tmp_path):
    model = masked_nested()
    with unchanged(model, tmp_path) as x:
        lstm = layers.LSTM(5, return_sequences=True, name="other")
        edited = kg.replace(model, "encoder/lstm", lstm, weights="keep")
        assert_same_outputs(model, edited, x)
        assert lstm is edited.get_layer("encoder").get_layer("other")
        # Without its mask the layer gives something else: the test would see it.
        states = keras.ops.convert_to_numpy(kg.extract(model, "encoder/attention")(x))
        assert int(keras.ops.sum(x == 0)) > 0
        assert not keras.ops.all(lstm(states) == lstm(states, mask=keras.ops.not_equal(x, 0)))
        edited.save(tmp_path / "edited.keras")
        assert_same_outputs(edited, keras.models.load_model(tmp_path / "edited.keras"), x)
        del edited


def test_many_edits_at_many_depths_one_build(tmp_path):
    model = matryoshka()
    with unchanged(model, tmp_path) as x:
        graph = kg.read(model)
        nodes = kg.select(graph, "**/*_b").expect(3)
        graph = kg.insert(graph, lambda node: layers.Identity(name=f"{node.name}_id"), after=nodes)
        graph = kg.remove(graph, "stack/q1")
        graph = kg.replace(graph, "out", layers.Dense(7, name="seven"))
        graph = kg.rewire(graph, {"outer/middle/middle_a": "outer/middle/middle_in"})
        edited = kg.build(graph)
        assert edited.output.shape == (None, 7)
        assert [n.label for n in kg.select(edited, "outer/middle").nodes[0].nested] == [
            "core", "middle_b", "middle_b_id",
        ]  # fmt: skip
        assert keras.ops.all(keras.ops.isfinite(edited(x)))
        report = kg.diff(model, edited)
        assert {layer.name for layer in report.dropped} == {
            "outer/middle/middle_a", "stack/q1", "out",
        }  # fmt: skip
        del edited, graph, nodes


def test_a_width_is_changed_on_both_sides_in_one_call():
    model = matryoshka()
    widths = {"core_a": 9, "core_b": 4}
    edited = kg.replace(
        model, "**/core_*", lambda node: layers.Dense(widths[node.name], name=f"{node.name}_new")
    )
    assert kg.select(edited, "**/core_a_new").values[0].spec.shape == (None, 9)
    assert kg.diff(model, edited).dropped_parameters == 4 * 4 + 4 + 4 * 4 + 4
    assert edited(random_inputs(edited)).shape == (2, 2)


def test_a_new_shape_comes_out_of_a_nested_model():
    inner = keras.Input((6, 3), name="inner")
    encoder = keras.Model(inner, layers.AveragePooling1D(2, name="half")(inner), name="encoder")
    x = keras.Input((6, 3), name="x")
    model = keras.Model(x, layers.Dense(2, name="out")(encoder(x)))
    edited = kg.replace(model, "encoder/half", layers.AveragePooling1D(3, name="third"))
    assert edited.output.shape == (None, 2, 2) and model.output.shape == (None, 3, 2)
    (change,) = [c for c in kg.diff(model, edited).specs if c.name == "out"]
    assert (change.old.shape, change.new.shape) == ((None, 3, 2), (None, 2, 2))


def test_what_no_longer_fits_is_named_at_its_depth():
    model = matryoshka()
    with pytest.raises(kg.BuildError) as caught:
        kg.replace(model, "outer/middle/core/core_a", layers.Dense(9, name="wide"))
    assert "Dense 'core_b' in graph 'core'" in str(caught.value)
    assert "expected (?, 4) float32, found (?, 9) float32" in str(caught.value)


def test_an_input_of_one_call_is_refused():
    model = siamese()
    with pytest.raises(kg.EditError, match='before="encoder#0"'):
        kg.insert(model, layers.ReLU(), after="encoder#0/inner")


def test_ends_in_two_models_are_refused():
    with pytest.raises(kg.EditError, match="must each name one thing in the same model"):
        kg.rewire(matryoshka(), {"outer/middle/middle_a": "x"})


def test_what_was_selected_inside_a_model_is_found_after_it_was_called_anew():
    image = keras.Input((None, None, 3), name="pixels")
    inner = layers.ReLU(name="r")(layers.Conv2D(4, 3, name="c")(image))
    base = keras.Model(image, layers.GlobalAveragePooling2D(name="p")(inner), name="base")
    x = keras.Input((9, 9, 3), name="image")
    model = keras.Model(x, layers.Dense(2, name="out")(base(x)), name="outer")
    graph = kg.insert(kg.read(model), layers.Rescaling(2.0, name="double"), after="base/c")
    (chosen,) = kg.select(graph, "base/double").nodes
    graph = kg.insert(graph, layers.ZeroPadding2D(1, name="pad"), after="image")
    assert kg.select(graph, "base").nodes[0].inputs[0].spec.shape == (None, 11, 11, 3)
    assert kg.build(kg.extract(graph, chosen)).output.shape == (None, 9, 9, 4)
    graph = kg.remove(graph, chosen)
    assert [n.label for n in kg.select(graph, "base").nodes[0].nested] == ["c", "r", "p"]
