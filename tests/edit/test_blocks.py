"""inline, nest and repeat: blocks opened, folded and run again, exact and on the donor's layers."""

import itertools

import keras
import numpy as np
import pytest
from donor import THOROUGH, arrays, equal, some, unchanged
from keras import layers
from models import ALL, multi_output, residual, sequential, shared, siamese
from test_nested_edits import matryoshka, two_homes

import keras_graft as kg
from keras_graft.testing import assert_same_graph, assert_same_outputs, random_inputs

each = pytest.mark.parametrize("make", ALL, ids=lambda f: f.__name__)


def values(graph):
    return [*graph.inputs, *(v for n in graph.nodes for v in n.values)]


def loaded(model, path):
    model.save(path / "model.keras")
    return keras.models.load_model(path / "model.keras")


# -- nest and inline ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: kg.freeze(m, "blk1"),
        lambda m: kg.insert(m, layers.Dropout(0.1), after="blk1/d1"),
        lambda m: kg.replace(m, "blk1", m.get_layer("blk1")),
        lambda m: kg.recipes.add_adapters(m, 2),
    ],
)
def test_nested_models_in_a_row_behind_a_mask(edit, tmp_path):
    """The second is handed the mask that the first makes inside, where no tensor carries it."""
    model, x = masked_row(), np.array([[1, 2, 0, 0, 3, 0]])
    new = edit(model)
    for made in (new, loaded(new, tmp_path)):
        np.testing.assert_allclose(run(made, x), run(model, x), rtol=1e-6)


def run(model, x):
    return model.predict_on_batch(x)


def masked_row():
    tokens = keras.Input((6,), dtype="int32", name="tok")
    x = layers.Embedding(11, 8, mask_zero=True, name="emb")(tokens)
    for i in range(2):
        inner = keras.Input((6, 8))
        y = layers.LSTM(8, return_sequences=True, name=f"d{i}")(inner)
        x = keras.Model(inner, layers.Add(name=f"a{i}")([inner, y]), name=f"blk{i}")(x)
    return keras.Model(tokens, layers.Dense(3, name="lm")(layers.LSTM(4, name="last")(x)))


def test_a_split_between_them_carries_the_mask():
    model, x = masked_row(), np.array([[1, 2, 0, 0, 3, 0]])
    trunk, head = kg.split(model, "blk1", complete=True)
    np.testing.assert_allclose(run(head, run(trunk, x)), run(model, x), rtol=1e-6)
    twice = kg.repeat(model, "blk0", "blk1", 2)
    blk0, blk1 = (model.get_layer(f"blk{i}") for i in range(2))
    y = blk1(blk1(blk0(model.get_layer("emb")(x))))
    expected = model.get_layer("lm")(model.get_layer("last")(y))
    np.testing.assert_allclose(run(twice, x), keras.ops.convert_to_numpy(expected), rtol=1e-6)


@each
def test_every_block_that_nests_is_inlined_back(make, tmp_path):
    model = make()
    count = 0
    with unchanged(model, tmp_path) as x:
        graph = kg.read(model)
        for start, stop in some(itertools.permutations(values(graph), 2)):
            try:
                nested = kg.nest(model, start, stop, name="block")
            except kg.GraftError as error:
                assert str(error).startswith("nest 'block': ")
                continue
            assert_same_outputs(model, nested, x)
            assert {id(w) for w in nested.weights} == {id(w) for w in model.weights}
            assert isinstance(nested.get_layer("block"), keras.Model)
            back = kg.inline(nested, "block")
            assert_same_graph(graph, back, same_layers=True)
            count += 1
            if count % 5 == 1:
                assert_same_outputs(nested, loaded(nested, tmp_path), x)
            del nested, back
        del graph, start, stop
    assert not THOROUGH or count > 2 or make in (multi_output, siamese, shared)


def test_a_block_of_several_ends():
    model = residual()
    x = random_inputs(model, 3)
    nested = kg.nest(model, ["stem"], {"sum": "add0", "norm": "bn1"}, name="block")
    block = nested.get_layer("block")
    assert set(block.output) == {"sum", "norm"} and [n.name for n in block.inputs] == ["stem"]
    assert [layer.name for layer in nested.layers] == [
        "image", "stem", "block", "conv1", "add1", "pool", "out",
    ]  # fmt: skip
    assert_same_outputs(model, nested, x)
    nested = kg.nest(model, {"a": "conv0", "b": "stem"}, "add0", name="block")
    assert set(nested.get_layer("block").input) == {"a", "b"}
    assert_same_outputs(model, nested, x)
    whole = kg.nest(model, None, None, name="all")
    assert [layer.name for layer in whole.layers] == ["image", "all"]
    assert_same_outputs(model, whole, x)


def test_what_stands_between_the_nodes_of_a_block_comes_behind_it():
    x = keras.Input((4,), name="x")
    a = layers.Dense(4, name="a")(x)
    side = layers.Dense(4, name="s1")(layers.Dense(4, name="s0")(a))
    c = layers.Dense(4, name="c")(layers.Dense(4, name="b")(a))
    model = keras.Model(x, layers.Add(name="add")([side, c]), name="between")
    graph = kg.read(model)
    order = [n.label for n in graph]
    assert order.index("s0") < order.index("c")
    nested = kg.nest(graph, "x", ["a", "c"], name="block").validate()
    assert [n.label for n in nested][0] == "block"
    assert_same_outputs(model, kg.build(nested), random_inputs(model, 3))


def test_nesting_inside_a_nested_model(tmp_path):
    model = matryoshka()
    with unchanged(model, tmp_path) as x:
        nested = kg.nest(model, "outer/middle/middle_in", "outer/middle/core", name="first")
        middle = nested.get_layer("outer").get_layer("middle")
        assert [layer.name for layer in middle.layers] == ["middle_in", "first", "middle_b"]
        assert_same_outputs(model, nested, x)
        assert_same_graph(model, kg.inline(nested, "outer/middle/first"))
        assert_same_outputs(nested, loaded(nested, tmp_path), x)
        del nested, middle


def test_what_is_opened_is_what_the_selector_names():
    model = matryoshka()

    def inside(m, path=""):
        return {n.path for n in kg.select(m, "**").nodes if n.nested is not None}

    assert inside(model) == {"outer", "outer/middle", "outer/middle/core", "stack"}
    assert inside(kg.inline(model, "stack")) == {"outer", "outer/middle", "outer/middle/core"}
    assert inside(kg.inline(model, "*")) == {"middle", "middle/core"}
    assert inside(kg.inline(model, "outer")) == {"middle", "middle/core", "stack"}
    assert inside(kg.inline(model, "outer/middle")) == {"outer", "outer/core", "stack"}
    assert inside(kg.inline(model, "**/core")) == {"outer", "outer/middle", "stack"}
    assert inside(kg.inline(model, ["outer", "outer/middle/core"])) == {"middle", "stack"}
    assert inside(kg.inline(model, keras.Sequential)) == {
        "outer", "outer/middle", "outer/middle/core",
    }  # fmt: skip
    for flat in (kg.inline(model), kg.inline(model, "**")):
        assert inside(flat) == set()
        assert_same_outputs(model, flat, random_inputs(model, 3))
        assert {id(w) for w in flat.weights} == {id(w) for w in model.weights}


def test_inline_makes_loadable_what_keras_cannot_load(tmp_path):
    model = two_homes()
    x = random_inputs(model, 3)
    with pytest.raises(ValueError, match="could not be loaded"):
        loaded(model, tmp_path)
    flat = kg.inline(model)
    assert flat.count_params() == model.count_params()
    assert_same_outputs(model, loaded(flat, tmp_path), x)


def test_inlining_a_model_without_nested_ones_changes_nothing():
    model = residual()
    assert_same_graph(model, kg.inline(model), same_layers=True)


# -- repeat ---------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["share", "copy", "fresh"])
def test_repeat_runs_the_block_again(weights, tmp_path):
    model = residual()
    with unchanged(model, tmp_path) as x:
        repeated = kg.repeat(model, "stem", "add0", 3, weights=weights)
        trunk, block, head = kg.split(model, at=["stem", "add0"])
        blocks = [block, block, block]
        if weights == "fresh":
            ends = ["add0", "add0_repeat", "add0_repeat_1"]
            blocks[1:] = [kg.submodel(repeated, a, b) for a, b in itertools.pairwise(ends)]
        y = trunk(x)
        for run in blocks:
            y = run(y)
        equal(repeated(x), head(y))
        new = 0 if weights == "share" else 2 * block.count_params()
        assert repeated.count_params() == model.count_params() + new
        assert_same_outputs(repeated, loaded(repeated, tmp_path), x)
        convs = [n.label for n in kg.read(repeated) if n.kind == "Conv2D"]
        if weights == "share":
            assert convs == ["stem", "conv0#0", "conv0#1", "conv0#2", "conv1"]
        else:
            assert convs == ["stem", "conv0", "conv0_repeat", "conv0_repeat_1", "conv1"]
            kernels = [repeated.get_layer(n).kernel for n in convs[1:4]]
            assert kernels[0] is model.get_layer("conv0").kernel
            same = [np.array_equal(*arrays([kernels[0], k])) for k in kernels[1:]]
            assert same == [weights == "copy"] * 2
            del kernels
        del repeated, trunk, block, head, blocks, run


def test_a_copy_trains_and_leaves_the_donor_alone():
    model = residual()
    x = random_inputs(model, 4)
    deep = kg.repeat(model, "stem", "add0", 2, weights="copy")
    model.trainable = False
    try:
        before = arrays(model.weights)
        deep.compile("sgd", "mse")
        assert len(deep.trainable_weights) == 4
        deep.fit(x, np.ones((4, 3)), verbose=0)
        equal(before, model.weights)
    finally:
        model.trainable = True
    assert not np.array_equal(
        *arrays([deep.get_layer(n).kernel for n in ("conv0", "conv0_repeat")])
    )


@pytest.mark.parametrize("weights", ["share", "copy"])
def test_each_repetition_makes_the_mask_that_is_read_behind_it(weights):
    x = keras.Input((4, 3), name="x")
    y = layers.Dense(3, name="mix")(layers.Masking(name="masking")(x))
    seen = keras.ops.cast(y._keras_mask, "float32")
    model = keras.Model(x, [layers.GRU(2, name="gru")(y), seen], name="masks")
    mix, gru = model.get_layer("mix"), model.get_layer("gru")
    mix.bias.assign(np.array([1.0, 2.0, 3.0], "float32"))
    data = np.ones((2, 4, 3), "float32")
    data[:, 2:] = 0.0
    repeated = kg.repeat(model, "x", "mix", 2, weights=weights)
    # The second masking sees no zeros: the bias is there. So the GRU reads all four steps.
    once = keras.ops.convert_to_numpy(mix(data * (data != 0)))
    twice = keras.ops.convert_to_numpy(mix(once))
    equal(model(data)[1], np.float32(data.any(-1)))
    equal(repeated(data), [gru(twice, mask=np.ones((2, 4), bool)), np.ones((2, 4), "float32")])
    assert not np.array_equal(*arrays([gru(twice), gru(twice, mask=data.any(-1))]))
    (last,) = kg.select(repeated, "gru").nodes
    mask = last.inputs[0].mask
    # It is computed from what the first repetition gave, not from the input of the model.
    reads = last.home.producer(last.home.producer(mask).inputs[0]).inputs
    assert [last.home.label(v) for v in reads] == ["mix#0" if weights == "share" else "mix"]


@pytest.mark.parametrize("weights", ["share", "copy"])
def test_a_repetition_reads_the_mask_that_comes_with_what_it_reads(weights):
    ids = keras.Input((4,), dtype="int32", name="ids")
    z = layers.Embedding(3, 3, mask_zero=True, name="embed")(ids)
    z = layers.LSTM(3, return_sequences=True, name="lstm")(z)
    z = layers.Masking(mask_value=9.0, name="other")(z)  # whose mask is always true
    model = keras.Model(ids, layers.GRU(2, name="gru")(z), name="masks")
    lstm, gru, embed = (model.get_layer(n) for n in ("lstm", "gru", "embed"))
    data = np.array([[1, 2, 0, 0], [2, 1, 1, 0]], "int32")
    repeated = kg.repeat(model, "embed", "other", 2, weights=weights)
    first = lstm(keras.ops.convert_to_numpy(embed(data)), mask=data != 0)
    all_steps = np.ones((2, 4), bool)
    second = lstm(keras.ops.convert_to_numpy(first), mask=all_steps)
    second = keras.ops.convert_to_numpy(second)
    equal(repeated(data), gru(second, mask=all_steps))
    with_old = lstm(keras.ops.convert_to_numpy(first), mask=data != 0)
    assert not np.array_equal(*arrays([second, with_old]))


@each
def test_once_changes_nothing_and_copies_equal_shared_ones(make, tmp_path):
    model = make()
    count = 0
    with unchanged(model, tmp_path) as x:
        for start, stop in some(itertools.permutations(values(kg.read(model)), 2)):
            try:
                repeated = kg.repeat(model, start, stop, 3)
            except kg.EditError as error:
                assert str(error).startswith("repeat ")
                continue
            assert_same_graph(model, kg.repeat(model, start, stop, 1), same_layers=True)
            copied = kg.repeat(model, start, stop, 3, weights="copy")
            assert_same_outputs(repeated, copied, x)
            count += 1
            del repeated, copied
        del start, stop
    assert (
        not THOROUGH
        or count
        or make.__name__ not in ("residual", "shared", "several", "hidden_mask")
    )


@pytest.mark.filterwarnings("ignore:.* between layers that the attribute")
def test_a_range_of_blocks_of_a_transformer_deepens_it():
    import keras_hub

    keras.utils.set_random_seed(3)
    hub = keras_hub.models
    bert = hub.BertBackbone(
        vocabulary_size=20, num_layers=4, num_heads=2, hidden_dim=8, intermediate_dim=16,
        max_sequence_length=16,
    )  # fmt: skip
    gpt = hub.GPT2Backbone(
        vocabulary_size=20, num_layers=4, num_heads=2, hidden_dim=8, intermediate_dim=16,
        max_sequence_length=16,
    )  # fmt: skip
    for model, name in ((bert, "transformer_layer"), (gpt, "transformer_layer")):
        x = random_inputs(model, 2)
        # [[0, 3], [1, 4]]: blocks 0, 1, 2, 1, 2, 3
        deep = kg.repeat(model, f"{name}_0", f"{name}_2", 2, weights="copy")
        kinds = [n for n in kg.read(deep) if n.name.startswith(name)]
        assert [n.name for n in kinds] == [
            f"{name}_0", f"{name}_1", f"{name}_2", f"{name}_1_repeat", f"{name}_2_repeat",
            f"{name}_3",
        ]  # fmt: skip
        masks = [n.template.kwargs or [v.label for v in n.inputs[1:]] for n in kinds]
        assert masks[1:3] == masks[3:5] and masks[0]
        block = model.get_layer(f"{name}_1").count_params()
        assert deep.count_params() == model.count_params() + 2 * block
        assert_same_outputs(kg.repeat(model, f"{name}_0", f"{name}_2", 2), deep, x)
        differs = [
            np.abs(a - b).max() for a, b in zip(arrays(model(x)), arrays(deep(x)), strict=True)
        ]
        assert max(differs) > 0


def test_repeat_inside_a_nested_model():
    model = siamese()
    x = random_inputs(model, 3)
    model = kg.insert(model, layers.Dense(5, name="mid"), after="encoder/d0")
    deep = kg.repeat(model, "encoder/d0", "encoder/mid", 2)
    first, second = kg.select(deep, "encoder").nodes
    assert first.operation is second.operation
    assert [n.label for n in first.nested] == ["d0", "mid#0", "mid#1", "d1"]
    encoder = deep.get_layer("encoder")
    y = encoder.get_layer("d0")(x[0])
    y = encoder.get_layer("d1")(encoder.get_layer("mid")(encoder.get_layer("mid")(y)))
    equal(encoder(x[0]), y)


def test_a_block_with_a_nested_model_in_it_is_copied():
    model = kg.nest(residual(), "stem", "add0", name="block")
    x = random_inputs(model, 3)
    deep = kg.repeat(model, "stem", "block", 2, weights="copy")
    assert deep.count_params() == model.count_params() + model.get_layer("block").count_params()
    assert_same_outputs(kg.repeat(model, "stem", "block", 2), deep, x)
    assert deep.get_layer("block_repeat").get_layer("conv0") is not model.get_layer(
        "block"
    ).get_layer("conv0")


class Stubborn(layers.Layer):
    """Cannot be made again: its configuration does not say what it needs."""

    def __init__(self, table, **kwargs):
        super().__init__(**kwargs)
        self.table = table

    def call(self, x):
        return x * keras.ops.convert_to_tensor(self.table)

    def get_config(self):
        return layers.Layer.get_config(self)


def stubborn():
    x = keras.Input((4,), name="x")
    y = Stubborn(np.arange(4.0, dtype="float32"), name="stubborn")(x)
    return keras.Model(x, layers.Dense(2, name="out")(y), name="model")


def test_a_layer_that_no_configuration_describes_is_repeated():
    model = stubborn()
    new = kg.repeat(model, "x", "stubborn", 2, weights="copy")
    first, second = new.get_layer("stubborn"), new.get_layer("stubborn_repeat")
    assert first is model.get_layer("stubborn") and second is not first
    x = np.ones((2, 4), dtype="float32")
    equal(new(x), model.get_layer("out")(second(first(x))))


REFUSALS = [
    (residual, lambda m: kg.nest(m, "bn0", "add0", name="b"), kg.CutError,
     "(?s)from 'bn0' reads other values too:.*'stem', needed by 'add0'.*inputs=\\[\"bn0\", \"stem\"\\]"),
    (residual, lambda m: kg.nest(m, "image", "bn0", name="b"), kg.EditError,
     "(?s)nodes outside the block read values from inside it:.*'stem', read by 'add0'.*outputs=\\[\"bn0\", \"stem\"\\]"),
    (residual, lambda m: kg.nest(m, "add1", "add0", name="b"), kg.EditError, "are inputs and outputs exchanged"),
    (residual, lambda m: kg.nest(m, ["stem", "add0"], ["bn0", "add1"], name="b"), kg.EditError,
     "would lie in the block and also before it"),
    (residual, lambda m: kg.nest(m, "stem", "add0", name="pool"), kg.EditError,
     "<Node pool: GlobalAveragePooling2D> has this name already"),
    (residual, lambda m: kg.nest(m, "stem", "add0", name="image"), kg.EditError, "this name already"),
    (residual, lambda m: kg.nest(m, "stem", ["add0", "add0"], name="b"), kg.EditError, "'add0' is named twice"),
    (shared, lambda m: kg.nest(m, "x", "shared#1", name="b"), kg.EditError,
     "'shared#0' lies in the block, and its layer is called outside it too: 'shared#2'"),
    (residual, lambda m: kg.nest(m, "stem", "ad0", name="b"), kg.NothingSelectedError, "Nearest: 'add0'"),
    (matryoshka, lambda m: kg.nest(m, "x", "outer/middle", name="b"), kg.EditError,
     "lie in one model, and these do not: 'x', 'outer/middle'"),
    (residual, lambda m: kg.inline(m, "pool"), kg.EditError,
     "names no nested model that can be opened: it names 'pool \\(GlobalAveragePooling2D\\)'"),
    (residual, lambda m: kg.repeat(m, "stem", "pool", 2), kg.EditError,
     "takes \\(\\?, 8, 8, 4\\) float32 from 'stem' and gives \\(\\?, 4\\) float32 at 'pool'"),
    (residual, lambda m: kg.repeat(m, "stem", "bn1", 2), kg.EditError,
     "(?s)it is not clear from which repetition:.*'add0', read by 'add1'"),
    (residual, lambda m: kg.repeat(m, "add0", "stem", 2), kg.EditError, "does not depend on"),
    (residual, lambda m: kg.repeat(m, "stem", "add0", 0), kg.EditError, "1 or more; got 0"),
    (residual, lambda m: kg.repeat(m, "stem", "add0", 2, weights="both"), kg.EditError, "got 'both'"),
    (multi_output, lambda m: kg.repeat(m, "lstm", "states", 2), kg.EditError, "must each name one thing"),
]  # fmt: skip


def test_nest_in_a_model_that_is_called_twice(tmp_path):
    inner = keras.Sequential([keras.Input((4,))], name="inner")
    for name in "abc":
        inner.add(layers.Dense(4, name=name))
    x = keras.Input((4,), name="x")
    model = keras.Model(x, inner(inner(x)))
    says = (
        "'inner' is called 2 times, .*'inner#1/b'.*kg.replace\\(model, \"inner\", lambda node: new"
    )
    with pytest.raises(kg.EditError, match=says):
        kg.nest(model, "inner/a", "inner/b", "block")
    new = kg.nest(inner, "a", "b", "block")
    nested = kg.replace(model, "inner", lambda node: new)
    assert_same_outputs(model, nested)
    assert nested.count_params() == model.count_params()
    nested.save(tmp_path / "nested.keras")
    assert_same_outputs(nested, keras.models.load_model(tmp_path / "nested.keras"))


@pytest.mark.parametrize(("make", "attempt", "error", "words"), REFUSALS, ids=range(len(REFUSALS)))
def test_what_cannot_be_done_is_refused_and_changes_nothing(make, attempt, error, words, tmp_path):
    model = make()
    with unchanged(model, tmp_path):
        graph = kg.read(model)
        with pytest.raises(error, match=words) as caught:
            attempt(model)
        with pytest.raises(error, match=words) as again:
            attempt(graph)
        assert_same_graph(model, graph, same_layers=True)
        del caught, again, graph


def test_a_sequential_is_nested():
    model = sequential()
    nested = kg.nest(model, "x", "drop", name="first")
    assert_same_outputs(model, nested, random_inputs(model, 3))
    assert [layer.name for layer in nested.layers] == ["x", "first", "s1"]
