"""Values that a layer gives at a later call only, such as attention maps."""

import keras
import pytest
from donor import equal, loads_alone, unchanged
from keras import layers, ops

import keras_graft as kg
from keras_graft.testing import assert_same_outputs, random_inputs


def attention(name="mha"):
    q = keras.Input((4, 6), name="q")
    x = layers.Dense(6, name="before")(q)
    y = layers.MultiHeadAttention(2, 3, name=name)(x, q)
    return keras.Model(q, layers.Dense(2, name="out")(y), name="attention")


def with_scores(model):
    attend = model.get_layer("mha")
    return kg.replace(
        model, "mha", lambda q, v: attend(q, v, return_attention_scores=True)[0]
    )  # fmt: skip


def expected(model, x):
    before = model.get_layer("before")(x)
    return model.get_layer("mha")(before, x, return_attention_scores=True)[1]


def reloaded(model, path):
    model.save(path / "m.keras")
    return keras.saving.load_model(path / "m.keras")


def test_attention_maps_of_a_trained_model(tmp_path):
    model = attention()
    with unchanged(model, tmp_path) as x:
        new = with_scores(model)
        assert_same_outputs(model, new, x, exact=False)  # maps are computed by another kernel
        for maps in (kg.extract(new, "mha:1"), kg.submodel(new, outputs="mha:1")):
            assert maps.output_shape == (None, 2, 4, 4)
            equal(expected(model, x), maps(x))
            assert loads_alone(maps)  # a file of it loads where this package is not known
            equal(expected(model, x), reloaded(maps, tmp_path)(x))
            equal(maps(x), kg.clone(maps)(x))
            equal(maps(x), kg.build(kg.read(maps))(x))
        both = kg.extract(new, {"out": "out", "maps": "mha:1"})
        equal([expected(model, x), new(x)], [both(x)["maps"], both(x)["out"]])
        del new, maps, both


def test_cuts_at_such_values(tmp_path):
    model = attention()
    x = random_inputs(model, 3)
    new = kg.extract(with_scores(model), ["mha:1", "out"])
    stages = kg.split(new, at=("mha:0", "mha:1"))
    loaded = [reloaded(stage, tmp_path) for stage in stages]
    for trunk, head in (stages, loaded):
        equal(new(x), head(trunk(x)))
    equal(new(x), kg.join(*stages)(x))
    stages = kg.split(new, at="mha:1", complete=True)
    equal(new(x), stages[1](stages[0](x)))
    tail = kg.submodel(new, inputs=["mha:0", "mha:1"], outputs="out")
    y, maps = new.get_layer("mha")(
        new.get_layer("before")(x), x, return_attention_scores=True
    )  # fmt: skip
    equal(new(x)["out"], tail([y, maps]))


def test_every_edit_around_such_values(tmp_path):
    model = attention()
    x = random_inputs(model, 3)
    new = kg.extract(with_scores(model), {"out": "out", "maps": "mha:1"})
    scaled = kg.insert(new, layers.Rescaling(2.0, name="twice"), after="mha:1")
    equal(2 * expected(model, x), scaled(x)["maps"])
    nested = kg.nest(new, "q", ["mha:0", "mha:1"], name="block")
    equal(new(x), nested(x))
    equal(new(x), kg.inline(nested)(x))
    copied = kg.build(kg.read(new), weights="copy")
    for result in (scaled, nested, copied, kg.inline(nested), kg.freeze(new)):
        equal(result(x), reloaded(result, tmp_path)(x))


def test_a_function_that_works_with_the_maps_alone():
    model = attention()
    x = random_inputs(model, 3)
    attend = model.get_layer("mha")
    new = kg.replace(
        model, "mha",
        lambda q, v: ops.sum(attend(q, v, return_attention_scores=True)[1], 1)[..., :1] * q,
    )  # fmt: skip
    before = model.get_layer("before")(x)
    maps = ops.sum(expected(model, x), 1)[..., :1]
    equal(model.get_layer("out")(maps * before), new(x))


def twice():
    """Return a model in which one layer gives one value first, and another time two, of the first."""
    q = keras.Input((4, 6), name="q")
    attend = layers.MultiHeadAttention(2, 3, name="mha")
    x = attend(q, q)
    y, _ = attend(x, q, return_attention_scores=True)
    return keras.Model(q, y, name="twice")


def test_a_second_call_that_gives_more(tmp_path):
    model = twice()
    x = random_inputs(model, 3)
    attend = model.get_layer("mha")
    _, maps = attend(attend(x, x), x, return_attention_scores=True)
    new = kg.extract(model, ["mha#1:0", "mha#1:1"])
    equal([model(x), maps], new(x))
    # No class of Keras's own takes such a model out of a file, nor makes it.
    with pytest.raises(ValueError, match="is not connected"):
        keras.Model(model.input, [v.origin for v in kg.select(model, "mha#1").nodes[0].values])
    for result in (reloaded(new, tmp_path), kg.clone(new), keras.models.clone_model(new)):
        assert len(result.outputs) == 2
    equal(new(x), reloaded(new, tmp_path)(x))
    equal(new(x), kg.clone(new)(x))
    trunk, head = kg.split(new, at=("mha#1:0", "mha#1:1"))
    equal(new(x), head(trunk(x)))
    outer = keras.Input((4, 6))
    again = keras.Model(outer, new(outer))
    equal(new(x), reloaded(again, tmp_path)(x))


def test_a_name_clash_besides(tmp_path):
    """The layer that gives more has a stand-in."""
    model = attention()
    i = keras.Input((4, 6), name="i")
    first = keras.Model(i, layers.Dense(6, name="mha")(i), name="first")
    x = keras.Input((4, 6), name="x")
    flat = kg.inline(keras.Model(x, with_scores(model)(first(x)), name="both"))
    (label,) = [n.label for n in kg.read(flat) if n.kind == "MultiHeadAttention"]
    maps = kg.extract(flat, f"{label}:1")
    data = random_inputs(flat, 3)
    equal(expected(model, first(data)), maps(data))
    equal(maps(data), reloaded(maps, tmp_path)(data))


def test_states_of_a_layer_that_gave_none_before(tmp_path):
    """Keras decides here by an attribute, and the layer is the donor's."""
    x = keras.Input((4, 6), name="x")
    lstm = layers.LSTM(3, return_state=True, name="lstm")
    y, h, c = lstm(x)
    model = keras.Model(x, lstm(x, initial_state=[h, c])[0] + y, name="states")
    data = random_inputs(model, 3)
    new = kg.extract(model, ["lstm#1:2", "lstm#0:1"])
    again = kg.submodel(model, inputs=["lstm#0:1", "lstm#0:2", "x"], outputs="lstm#1:2")
    assert again.output_shape == (None, 3)
    equal(new(data), reloaded(new, tmp_path)(data))


@keras.saving.register_keras_serializable("tests_later")
class Own(keras.Model):
    def ends(self):
        return len(self.outputs)


def test_a_class_of_the_users_own(tmp_path):
    """What keeps the donor's class gives such values out, and loads, too."""
    q = keras.Input((4, 6), name="q")
    attend = layers.MultiHeadAttention(2, 3, name="mha")
    y, scores = attend(attend(q, q), q, return_attention_scores=True)
    model = Own(q, layers.Dense(2, name="d")(y), name="own")
    x = random_inputs(model, 3)
    new = kg.insert(model, lambda t: t + ops.mean(scores) - ops.mean(scores), after="d")
    assert_same_outputs(model, new, x, exact=False)
    assert type(new).__name__ == "Own" and new.ends() == 1
    equal(new(x), reloaded(new, tmp_path)(x))
    equal(new(x), kg.clone(new)(x))
