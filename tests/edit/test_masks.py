"""Masks: Keras attaches them to tensors in every run, so an edit cannot exchange every one."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_graft as kg
from keras_graft.testing import assert_same_outputs

IDS = np.array([[1, 2, 0, 0], [1, 0, 0, 0]], "int32")


class Reversed(layers.Layer):
    """Returns its input as a new tensor (an old one keeps its mask), with the opposite mask."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, x):
        return x * 1.0

    def compute_mask(self, x, previous_mask):
        return ops.logical_not(previous_mask)


def readers():
    """Return models in which layers find a mask in three ways: argument, tensor, nested model."""
    inner = keras.Input((4, 3), name="inner")
    nested = keras.Model(inner, layers.GRU(3, name="gru")(inner), name="nested")
    attention = layers.MultiHeadAttention(1, 2, name="att")
    kinds = {
        "argument": lambda e: layers.LSTM(3, name="lstm")(e),
        "passed": lambda e: layers.LSTM(3, name="lstm")(layers.Dropout(0.1, name="drop")(e)),
        "nested": nested,
        "attached": lambda e: attention(e, e),
    }
    for kind, call in kinds.items():
        keras.utils.clear_session(free_memory=False)
        ids = keras.Input((4,), dtype="int32", name="ids")
        e = layers.Embedding(3, 3, mask_zero=True, name="embed")(ids)
        yield kind, keras.Model(ids, call(e), name="m")


def flipped(mask):
    return ops.logical_not(mask)


@pytest.mark.parametrize("kind, model", [pytest.param(*pair, id=pair[0]) for pair in readers()])
def test_a_mask_that_a_layer_makes_is_not_replaced(kind, model):
    name = next(n.label for n in kg.read(model).nodes if n.label.startswith("not_equal"))
    words = (
        rf"'{name}' is the mask that Embedding 'embed' makes.*attached to that tensor.*way out: .*"
        r"kg\.insert\(model, layer, after=\"embed\"\)"
    )
    before = ops.convert_to_numpy(model(IDS))
    for edit in (
        lambda: kg.insert(model, flipped, after=name),
        lambda: kg.replace(model, name, flipped),
        lambda: kg.rewire(model, {name: "ids"}),
    ):
        with pytest.raises(kg.EditError, match=words):
            edit()
    assert np.array_equal(ops.convert_to_numpy(model(IDS)), before)
    # The way out.
    new = kg.insert(model, Reversed(name="reversed"), after="embed")
    assert not np.array_equal(ops.convert_to_numpy(new(IDS)), before)
    assert_same_outputs(new, kg.inline(new), IDS)


def test_a_mask_that_comes_with_an_input_is_not_replaced():
    (_, (_, model), *_) = readers()
    _, head = kg.split(model, at="embed", complete=True)
    mask = kg.read(head).inputs[1]
    words = rf"'{mask.label}' is the mask that comes with 'embed'.*after=\"embed\"\)"
    for edit in (
        lambda: kg.insert(head, flipped, after=mask),
        lambda: kg.rewire(head, {mask: kg.read(head).inputs[0]}),
    ):
        with pytest.raises(kg.EditError, match=words):
            edit()
    new = kg.insert(head, Reversed(name="reversed"), after="embed")
    x = [ops.convert_to_numpy(model.get_layer("embed")(IDS)), IDS != 0]
    assert np.array_equal(*map(ops.convert_to_numpy, (new(x), head([x[0], IDS == 0]))))


def test_a_mask_that_one_layer_reads_and_does_not_pass_on():
    ((_, model), *_) = readers()
    name = next(n.label for n in kg.read(model).nodes if n.label.startswith("not_equal"))
    new = kg.insert(model, flipped, between=(name, "lstm"))
    embedded = model.get_layer("embed")(IDS)
    expected = model.get_layer("lstm")(ops.convert_to_tensor(embedded), mask=IDS == 0)
    assert np.array_equal(*map(ops.convert_to_numpy, (new(IDS), expected)))


def test_a_mask_that_a_layer_passes_on_is_not_replaced_for_that_layer_alone():
    keras.utils.clear_session(free_memory=False)
    ids = keras.Input((4,), dtype="int32", name="ids")
    e = layers.Embedding(3, 3, mask_zero=True, name="embed")(ids)
    y = layers.GRU(3, return_sequences=True, name="gru")(e)
    model = keras.Model(ids, layers.LSTM(2, name="lstm")(y), name="m")
    words = r"'not_equal' is a mask that GRU 'gru' reads and passes on.*before=\"gru\"\)"
    with pytest.raises(kg.EditError, match=words):
        kg.insert(model, flipped, between=("not_equal", "gru"))
    new = kg.insert(model, Reversed(name="reversed"), before="gru")
    assert not np.array_equal(*(ops.convert_to_numpy(m(IDS)) for m in (model, new)))
    graph = kg.read(new)
    for name in ("reversed", "gru"):
        (node,) = graph.named(name)
        assert graph.label(node.outputs[0].mask) == "gru_logical_not"


@pytest.mark.parametrize("masked", [True, False])
def test_a_model_that_is_called_with_another_mask_stays_closed(masked):
    ids = keras.Input((4,), dtype="int32", name="ids")
    other = keras.Input((4,), dtype="bool", name="other")
    e = layers.Embedding(3, 3, mask_zero=masked, name="embed")(ids)
    inner = keras.Input((4, 3), name="inner")
    nested = keras.Model(inner, layers.GRU(3, name="gru")(inner), name="nested")
    plain = keras.Input((3,), name="plain")
    open_ = keras.Model(plain, layers.Dense(3, name="dense")(plain), name="open")
    model = keras.Model([ids, other], open_(nested(e, mask=other)), name="m")
    with pytest.raises(
        kg.EditError,
        match="'nested' cannot be opened: it is called with another mask for 'embed' than this has "
        r"outside .*'gru' inside it finds that mask on the tensor.*name the others",
    ):
        kg.inline(model)
    new = kg.inline(model, "open")
    x = [IDS, IDS == 2]
    assert_same_outputs(model, new, x)


def test_a_mask_that_is_an_argument_is_replaced_by_a_mask_alone():
    x = keras.Input((4, 3), name="x")
    one, two = (keras.Input((4,), dtype="bool", name=name) for name in ("one", "two"))
    y = layers.LSTM(3, return_sequences=True, name="lstm")(x, mask=one)
    model = keras.Model([x, one, two], [layers.LSTM(2, name="last")(y), ops.any(two)], name="m")
    words = r"'one' is the mask that .* 'lstm'.* is \(\?, 4, 3\) float32. The way out: name a value"
    with pytest.raises(kg.EditError, match=words):
        kg.rewire(model, {"one": "x"})
    new = kg.rewire(model, {"one": "two"})
    data, masks = np.ones((2, 4, 3), "float32"), (IDS == 0, IDS != 0)
    assert np.array_equal(
        *(
            ops.convert_to_numpy(m([data, *pair])[0])
            for m, pair in ((model, masks), (new, masks[::-1]))
        )
    )


@pytest.mark.parametrize("later", [True, False])
def test_a_layer_under_another_name_behind_a_mask_loads_in_a_new_process(tmp_path, later):
    # Keras names the ops of masks by counting. In the process that saved, the count goes on.
    ids = keras.Input((5,), dtype="int32", name="ids")
    x = layers.Embedding(9, 4, mask_zero=True, name="words")(ids)
    x = layers.Dense(4, name="dense")(x)
    x = layers.LSTM(3, name="rnn")(x) if later else layers.Flatten(name="flat")(x)
    model = keras.Model(ids, x, name="m")
    new = kg.insert(model, layers.Dense(4, name="dense"), after="dense")
    kind = kg.layers.Renamed if later else keras.Model
    assert isinstance(new.get_layer("dense_1"), kind)
    new.save(tmp_path / "m.keras")
    tokens = np.array([[1, 2, 0, 0, 0], [3, 0, 0, 0, 0]])
    expected = ops.convert_to_numpy(new(tokens))
    keras.utils.clear_session(free_memory=False)
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded(tokens)), expected)
