"""Where an edit goes, where a user names it shortly: one node alone, many nodes, masks beside."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_graft as kg


def ones(model):
    return [
        keras.ops.convert_to_numpy(y)
        for y in keras.tree.flatten(
            model([keras.ops.ones((2, *i.shape[1:])) for i in model.inputs])
        )
    ]


def chain():
    x = keras.Input((4,), name="x")
    y = layers.Dense(4, name="refine")(layers.Dense(4, name="first")(x))
    return keras.Model(x, layers.Dense(2, name="out")(y))


def test_repeat_of_one_node():
    model = chain()
    again = kg.repeat(model, "refine", "refine", 3)
    assert [n.label for n in kg.read(again)] == ["first", "refine#0", "refine#1", "refine#2", "out"]
    assert np.array_equal(ones(again)[0], ones(kg.repeat(model, "first", "refine", 3))[0])
    own = kg.repeat(model, "refine", "refine", 2, weights="copy")
    assert [n.label for n in kg.read(own)] == ["first", "refine", "refine_repeat", "out"]
    with pytest.raises(kg.EditError, match="'x': it is an input, which nothing computes"):
        kg.repeat(model, "x", "x", 2)
    x, y = keras.Input((4,), name="x"), keras.Input((4,), name="y")
    both = keras.Model([x, y], layers.Add(name="add")([x, y]))
    with pytest.raises(
        kg.EditError,
        match=r'has 2 inputs.*kg.repeat\(model, "x", "add", ...\) or kg.repeat\(model, "y"',
    ):
        kg.repeat(both, "add", "add", 2)
    assert np.all(ones(kg.repeat(both, "x", "add", 2))[0] == 3)


class Block(layers.Layer):
    def call(self, x, mask_in=None):
        return x + 1.0 if mask_in is None else x + keras.ops.cast(mask_in, x.dtype)[..., None]


def masked_blocks():
    x, mask = keras.Input((3, 4), name="x"), keras.Input((3,), dtype="bool", name="mask")
    y = x
    for i in range(4):
        y = Block(name=f"block_{i}")(y, mask_in=mask)
    return keras.Model([x, mask], layers.Dense(2, name="out")(y))


def test_remove_passes_the_only_input_of_the_outputs_spec():
    model = masked_blocks()
    less = kg.remove(model, ["block_1", "block_3"])
    assert [n.label for n in kg.read(less)] == ["block_0", "block_2", "out"]
    dense = model.get_layer("out")
    expected = keras.ops.convert_to_numpy(dense(keras.ops.full((2, 3, 4), 3.0)))
    assert np.array_equal(ones(less)[0], expected)
    assert len(kg.read(kg.remove(model, "block_*"))) == 1


def residual():
    x = keras.Input((4,), name="x")
    y = x
    for i in range(3):
        y = layers.Add(name=f"add{i}")([y, layers.Dense(4, name=f"d{i}")(y)])
    return keras.Model(x, y)


def test_keep_for_several_nodes():
    model = residual()
    words = r'has 2 inputs, 2 of the output.*keep="x" or keep="d0"; for several.*keep=0, or a list'
    with pytest.raises(kg.EditError, match=words):
        kg.remove(model, "add*")
    assert len(kg.read(kg.remove(model, "add*", keep=0))) == 0
    assert [n.label for n in kg.read(kg.remove(model, "add*", keep=1))] == ["d0", "d1", "d2"]
    kept = kg.remove(model, ["add0", "add1"], keep=["x", "d1"])
    assert [n.label for n in kg.read(kept)] == ["d1", "d2", "add2"]
    with pytest.raises(
        kg.EditError, match="keep=2, but it has 2 inputs, counted from 0: 'x', 'd0'"
    ):
        kg.remove(model, "add*", keep=2)
    with pytest.raises(kg.EditError, match=r"keep='x' is none of its inputs .* such as keep=0"):
        kg.remove(model, "add*", keep="x")
    with pytest.raises(kg.EditError, match=r"keep=\['x', 'd0'\] names 'x', 'd0' of its inputs"):
        kg.remove(model, "add0", keep=["x", "d0"])


def several():
    x = keras.Input((5, 4), name="x")
    y, state, cell = layers.LSTM(3, return_sequences=True, return_state=True, name="one")(x)
    z, h, c = layers.LSTM(3, return_sequences=True, return_state=True, name="two")(y)
    return keras.Model(x, [z, h])


def test_insert_behind_what_is_used_of_several_values():
    model = several()
    new = kg.insert(model, lambda node: layers.ReLU(), after="*")
    graph = kg.read(new)
    reads = [graph.label(n.inputs[0]) for n in graph.nodes if n.kind == "ReLU"]
    assert sorted(reads) == ["one:0", "two:0", "two:1", "x"]
    assert np.array_equal(ones(new)[0], np.maximum(ones(kg.extract(new, "two:0"))[0], 0))
    only = kg.insert(model, layers.ReLU(name="r"), after="one")
    graph = kg.read(only)
    assert graph.label(graph.named("r")[0].inputs[0]) == "one:0"
    with pytest.raises(
        kg.EditError, match="gives 'two:0', 'two:1'. Name one, such as after=\"two:0\""
    ):
        kg.insert(model, layers.ReLU(), after="two")


class Holds(layers.Layer):
    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.enc = inner

    def call(self, x):
        return self.enc(x)


def closed():
    i = keras.Input((4, 4, 1), name="i")
    cnn = keras.Model(i, layers.Conv2D(2, 3, padding="same", name="conv")(i), name="cnn")
    x = keras.Input((3, 4, 4, 1), name="x")
    y = layers.TimeDistributed(cnn, name="td")(x)
    y = Holds(layers.Dense(2), name="v")(y)
    return keras.Model(x, layers.Dense(2, name="out")(y), name="closed")


def test_a_path_into_something_closed():
    model = closed()
    words = r"'td/cnn/conv': 'td' is closed. It is a TimeDistributed.*\(model, \"td\"\)\[0\].operation.layer"
    with pytest.raises(kg.NothingSelectedError, match=words) as caught:
        kg.remove(model, "td/cnn/conv")
    # The way out, as it is said.
    new = kg.replace(
        kg.select(model, "td")[0].operation.layer, "conv", layers.Conv2D(2, 1, name="small")
    )
    changed = kg.replace(model, "td", layers.TimeDistributed(new, name="td"))
    assert changed.get_layer("td").layer.get_layer("small") and "kg.replace(model" in str(
        caught.value
    )
    with pytest.raises(kg.NothingSelectedError, match="matches 'v/enc'. Nearest: 'v'"):
        kg.select(model, "v/enc")
    with pytest.raises(
        kg.NothingSelectedError, match="'out' is a Dense, a single call with nothing"
    ):
        kg.select(model, "out/kernel")
    outer = keras.Input((3, 4, 4, 1))
    nested = keras.Model(outer, model(outer))
    with pytest.raises(
        kg.NothingSelectedError, match=r"'closed/td' is closed.*\"closed/td\"\)\[0\]"
    ):
        kg.select(nested, "closed/td/cnn")


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_half_of_the_blocks_of_a_backbone(kind):
    hub = pytest.importorskip("keras_hub")
    sizes = dict(
        vocabulary_size=12,
        num_layers=4,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        dropout=0.0,
    )
    if kind == "bert":
        model = hub.models.BertBackbone(**sizes, max_sequence_length=6)
    else:
        model = hub.models.GPT2Backbone(**sizes, max_sequence_length=6)
    less = kg.remove(model, ["transformer_layer_1", "transformer_layer_3"])
    names = [layer.name for layer in less.layers]
    assert "transformer_layer_2" in names and "transformer_layer_3" not in names
    x = {
        "token_ids": np.arange(12).reshape(2, 6),
        "padding_mask": np.array([[1] * 6, [1, 1, 1, 1, 0, 0]]),
    }
    if kind == "bert":
        x["segment_ids"] = np.zeros((2, 6), int)
    x = {name: keras.ops.convert_to_tensor(x[name], "int32") for name in x}
    # By hand: what enters the first block, through the blocks that stay, with the same mask.
    first = kg.read(model).named("transformer_layer_0")[0]
    y = kg.extract(model, first.inputs[0].within(first.graph))(x)
    mask = x["padding_mask"]
    for name in ("transformer_layer_0", "transformer_layer_2"):
        layer = model.get_layer(name)
        y = layer(y, padding_mask=mask) if kind == "bert" else layer(y, decoder_padding_mask=mask)
    found = less(x)
    if kind == "bert":
        found = found["sequence_output"]
    else:
        y = model.get_layer("layer_norm")(y)
    np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (found, y)))


def test_what_is_no_mask_is_not_handed_on_as_one():
    keras.utils.clear_session(free_memory=False)
    x = keras.Input((4, 3), name="x")
    y = keras.layers.Masking(name="masking")(x)
    y = keras.layers.Add(name="add")(
        [keras.layers.LSTM(3, return_sequences=True, name="lstm")(y), y]
    )
    model = keras.Model(x, keras.layers.GlobalAveragePooling1D(name="mean")(y), name="m")
    words = "'any' is the mask that Masking 'masking' makes"
    with pytest.raises(kg.EditError, match=words):
        kg.remove(model, "any", keep=0)
    with pytest.raises(kg.EditError, match=words):
        kg.rewire(model, {"any": "x"})
    plain = kg.replace(model, "masking", keras.layers.Identity())
    assert not [node for node in kg.read(plain) if node.name in ("any", "not_equal")]
    data = np.ones((2, 4, 3), "float32")  # nothing is masked here: the same
    np.testing.assert_allclose(*(keras.ops.convert_to_numpy(m(data)) for m in (model, plain)))


def test_a_nested_model_of_which_nothing_would_be_left():
    inner = keras.Input((4,), name="inner")
    nested = keras.Model(inner, layers.Dropout(0.2, name="drop")(inner), name="nested")
    x = keras.Input((4,), name="x")
    model = keras.Model(x, layers.Dense(2, name="out")(nested(x)), name="m")
    words = r"The nested model 'nested' would return its own input.*kg\.remove\(model, \"nested\"\)"
    with pytest.raises(kg.EditError, match=words):
        kg.remove(model, "nested/drop")
    assert [layer.name for layer in kg.remove(model, "nested").layers] == ["x", "out"]


def test_a_mask_that_is_an_argument_and_handed_on():
    keras.utils.clear_session(free_memory=False)
    x = keras.Input((4, 3), name="x")
    y = layers.Masking(name="masking")(x)
    y = layers.LSTM(3, return_sequences=True, name="lstm")(y)
    model = keras.Model(x, layers.LSTM(3, name="last")(y), name="m")
    with pytest.raises(kg.EditError, match="'any' is the mask that Masking 'masking' makes"):
        kg.rewire(model, {"any": "not_equal"})
