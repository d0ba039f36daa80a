"""transplant where shapes fit and values mean something else: other axes, other words, nothing at all."""

import keras
import numpy as np
import pytest
from donor import arrays, equal
from keras import layers
from safetensors.numpy import save_file
from weights import outputs_equal, refused, small

import keras_graft as kg

WORDS = [["a", "b", "c", "d"], ["d", "c", "e", "a"]]
NUMBERS = [[1, 2, 3, 4], [4, 3, 5, 1]]


def dense(*units, name="m"):
    made = [layers.Dense(n, name=f"d{i}") for i, n in enumerate(units[1:])]
    return keras.Sequential([keras.Input(units[:1]), *made], name=name)


def embedding(rows, columns):
    layer = layers.Embedding(rows, columns, name="e")
    return keras.Sequential([keras.Input((3,), dtype="int32"), layer], name="m")


# -- suggestions ----------------------------------------------------------------------------------


def test_a_shape_turned_round_is_no_matter_of_padding():
    source, target = dense(5, 144), dense(144, 5)
    text = refused(source, target, keep="d0/bias")
    assert "'d0/kernel': (5, 144) in the source, (144, 5) in the target: resize=" in text
    assert "resize=kg.resize.transpose() may fit." in text and "crop_or_pad" not in text
    report = kg.transplant(source, target, resize=kg.resize.transpose(), keep="d0/bias")
    equal(source.get_layer("d0").kernel.value, arrays([target.get_layer("d0").kernel])[0].T)
    assert report.moved[0].rule == "transpose()"


@pytest.mark.parametrize("make, old, new, expected", [
    (embedding, (4, 3), (3, 4), "transpose()"), (embedding, (4, 3), (6, 5), "crop_or_pad()"),
    (embedding, (4, 3), (2, 5), None), (embedding, (4, 3), (6, 3), "vocabulary(keep)"),
    (dense, (4, 3), (2, 5), None), (dense, (4, 3), (5, 5), "crop_or_pad()"),
])  # fmt: skip
def test_what_is_suggested_keeps_what_the_source_has(make, old, new, expected):
    text = refused(make(*old), make(*new), keep="d0/bias" if make is dense else None)
    line = next(x for x in text.splitlines() if x.startswith("  '"))
    assert line.endswith("in the target." if expected is None else f"kg.resize.{expected} may fit.")


def test_axes_of_a_kernel_in_another_order_are_not_guessed():
    def model(size, channels, filters):
        layer = layers.Conv2D(filters, size, name="c")
        return keras.Sequential([keras.Input((9, 9, channels)), layer], name="m")

    text = refused(model((1, 3), 4, 5), model((3, 1), 4, 5))
    assert "'c/kernel': (1, 3, 4, 5) in the source, (3, 1, 4, 5) in the target." in text
    with pytest.raises(kg.WeightsError, match="axes= must be an order of axes, got"):
        kg.resize.transpose((0, 2))
    order = kg.resize.transpose((1, 0, 2, 3))
    source, target = model((1, 3), 4, 5), model((3, 1), 4, 5)
    assert kg.transplant(source, target, resize=order).moved[0].rule == "transpose((1, 0, 2, 3))"
    turned = arrays([source.get_layer("c").kernel])[0].transpose(1, 0, 2, 3)
    equal(turned, target.get_layer("c").kernel.value)


# -- PyTorch --------------------------------------------------------------------------------------


def torch_file(model, path, metadata=None, kernel="weight"):
    """Write a model as PyTorch keeps it."""
    tensors = {}
    for weight in model.weights:
        value = arrays([weight])[0]
        if value.ndim > 1 and weight.name == "kernel":
            value = np.ascontiguousarray(value.transpose([*range(2, value.ndim)][::-1] and (3, 2, 0, 1))
                                         if value.ndim == 4 else value.T)  # fmt: skip
        names = {"kernel": kernel, "embeddings": kernel}
        tensors[f"{weight.path.split('/')[-2]}.{names.get(weight.name, weight.name)}"] = value
    save_file(tensors, path, metadata)


def torch_names(address, variable):
    name = address.replace("/", ".")
    return name.replace("kernel", "weight").replace("embeddings", "weight")


def network():
    x = keras.Input((3, 3, 3))
    y = layers.Flatten()(layers.Conv2D(3, 3, name="conv")(x))
    y = layers.Dense(4, name="wide")(layers.Dense(3, name="square")(y))
    return keras.Model(x, y, name="m")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_square_kernels_of_pytorch_are_refused_and_turned(tmp_path, metadata):
    source, target, path = network(), network(), tmp_path / "a.safetensors"
    torch_file(source, path, metadata)
    text = refused(path, target, match=torch_names)
    for name in ("conv", "square"):
        line = next(x for x in text.splitlines() if x.startswith(f"  '{name}/kernel'"))
        why = "says format 'pt'" if metadata else f"'{name}.weight' is a PyTorch name"
        assert why in line and "its axes are in another order than Keras's" in line
        assert "resize=kg.resize.transpose() may fit." in line
    kg.transplant(path, target, match=torch_names, resize=kg.resize.transpose())
    outputs_equal(source, target)


def test_a_square_matrix_beside_turned_ones_is_not_copied_as_it_is(tmp_path):
    source, target, path = dense(3, 3, 4), dense(3, 3, 4), tmp_path / "a.safetensors"
    torch_file(source, path, kernel="kernel")  # names say nothing, the other shapes do
    report = kg.transplant(path, target, strict=False)
    assert {m.target for m in report.moved} == {"d0/bias", "d1/bias"}
    assert "'d1.kernel' of the same file has the target's shape reversed" in refused(path, target)
    kg.transplant(path, target, resize=kg.resize.transpose())
    outputs_equal(source, target)


@pytest.mark.parametrize("metadata", [None, {"format": "tf"}, {"format": "flax"}])
def test_square_kernels_of_keras_are_copied(tmp_path, metadata):
    source, target = dense(3, 3, 4), dense(3, 3, 4)
    named = {w.path.replace("/", "."): arrays([w])[0] for w in source.weights}
    save_file(named, tmp_path / "a.safetensors", metadata)
    kg.transplant(tmp_path / "a.safetensors", target)
    outputs_equal(source, target)


def test_embeddings_of_pytorch_are_as_keras_has_them(tmp_path):
    source, target, path = embedding(4, 4), embedding(4, 4), tmp_path / "a.safetensors"
    torch_file(source, path, {"format": "pt"})
    kg.transplant(path, target, match=torch_names)
    equal(source.weights, target.weights)


def test_a_kernel_that_is_right_as_it_is_can_be_said_to_be(tmp_path):
    source, target, path = dense(3, 3), dense(3, 3), tmp_path / "a.safetensors"
    save_file(
        {w.path.replace("/", "."): arrays([w])[0] for w in source.weights}, path, {"format": "pt"}
    )
    assert "'d0/kernel'" in refused(path, target, resize=None)
    kg.transplant(path, target, resize={"d0/kernel": lambda value, shape, weight: value})
    outputs_equal(source, target)


# -- nothing in common ----------------------------------------------------------------------------


@pytest.mark.parametrize("target", [lambda: small(), lambda: dense(9, 8, name="small")])
def test_a_transplant_that_does_nothing_is_refused(target):
    text = refused(dense(4, 5), target(), strict=False)
    assert text.startswith("transplant: nothing is copied from 'm' to 'small'.")
    assert "The way out: resize=" in text and "strict=False" not in text


def test_a_transplant_of_nothing_that_keep_names_is_no_mistake():
    assert len(kg.transplant(small(), small(), keep="*", strict=False).kept) == 4
    model = small()
    assert len(kg.transplant(model, model).shared) == 4


# -- words ----------------------------------------------------------------------------------------


def looked_up(lookup, columns=4, rows=7):
    x = keras.Input(
        (3,), dtype="string" if "String" in type(lookup).__name__ else "int64", name="x"
    )
    y = layers.Flatten()(layers.Embedding(rows, columns, name="emb")(lookup(x)))
    return keras.Model(x, layers.Dense(2, name="out")(y), name="m")


def strings(i):
    return layers.StringLookup(vocabulary=WORDS[i], name="words")


def integers(i):
    return layers.IntegerLookup(vocabulary=NUMBERS[i], name="words")


def row(model, token):
    lookup, table = model.get_layer("words"), arrays([model.get_layer("emb").embeddings])[0]
    return table[list(lookup.get_vocabulary()).index(token)]


@pytest.mark.parametrize("make, tokens", [(strings, WORDS), (integers, NUMBERS)])
def test_rows_that_stand_for_other_words(make, tokens):
    source, target = looked_up(make(0)), looked_up(make(1))
    own = row(target, tokens[1][2])
    text = refused(source, target)
    kind = type(make(0)).__name__
    assert f"'emb/embeddings': (7, 4) in the source, (7, 4) in the target: {kind} 'words'" in text
    assert (
        "'words' in front of it in the source has a different vocabulary than 'words' in the target"
        in text
    )
    assert "4 of 5 ids stand for something else" in text
    hint = 'kg.resize.tokens(source.get_layer("words"), target.get_layer("words"))'
    assert f"resize={hint} may fit." in text
    assert "'emb/embeddings'" in str(kg.transplant(source, target, strict=False).mismatched)
    rule = eval(hint, {"kg": kg, "source": source, "target": target})
    report = kg.transplant(source, target, resize=rule)
    assert [m.rule for m in report.moved] == ["tokens(4 kept, 1 new)", None, None]
    for token in set(tokens[0]) & set(tokens[1]):
        equal(row(source, token), row(target, token))
    equal(own, row(target, tokens[1][2]))
    # The other way out: the same words.
    again = looked_up(make(1))
    again.get_layer("words").set_vocabulary(tokens[0])
    kg.transplant(source, again)
    equal(source.weights, again.weights)
    # A rule for shapes does not say which row is which.
    assert "was not used" in refused(source, looked_up(make(1)), resize=kg.resize.crop_or_pad())
    ids = [0, 4, 3, -1, 1, 5, 6]
    kg.transplant(source, looked_up(make(1)), resize=kg.resize.vocabulary(ids))
    kg.transplant(source, looked_up(make(1)), keep="emb")


def test_words_behind_other_layers_and_in_nested_models():
    def model(i, rows=7):
        x = keras.Input((3,), dtype="string", name="x")
        ids = keras.ops.maximum(layers.StringLookup(vocabulary=WORDS[i], name="words")(x), 0)
        y = keras.Input((3,), dtype="int64")
        inner = keras.Model(y, layers.Embedding(rows, 4, name="emb")(y), name="inner")
        return keras.Model(x, layers.Dense(2, name="out")(inner(ids)), name="m")

    assert "'inner/emb/embeddings'" in refused(model(0), model(1))
    kg.transplant(model(0), model(0))
    text = refused(model(0), model(1, rows=9))  # another shape, and other words
    assert "has a different vocabulary" in text and "kg.resize.tokens(" in text


def test_words_in_a_layer_that_is_closed():
    class Closed(layers.Layer):
        def __init__(self, i, **kwargs):
            super().__init__(**kwargs)
            self.words = layers.IntegerLookup(vocabulary=NUMBERS[i])
            self.emb = layers.Embedding(5, 4)

        def build(self, shape):
            self.emb.build(shape)

        def call(self, x):
            return self.emb(self.words(x))

        def compute_output_spec(self, x):
            return keras.KerasTensor((*x.shape, 4), "float32")

    def model(i):
        x = keras.Input((3,), dtype="int64", name="x")
        return keras.Model(x, Closed(i, name="closed")(x), name="m")

    assert "has a different vocabulary" in refused(model(0), model(1))
    kg.transplant(model(0), model(0))


def test_a_kernel_behind_counted_words():
    def model(i):
        x = keras.Input((3,), dtype="string", name="x")
        y = layers.StringLookup(vocabulary=WORDS[i], output_mode="multi_hot", name="words")(x)
        return keras.Model(x, layers.Dense(5, name="out")(y), name="m")

    source, target = model(0), model(1)
    assert "'out/kernel': (5, 5) in the source, (5, 5) in the target: StringLookup" in refused(
        source, target
    )
    old, new = source.get_layer("words"), target.get_layer("words")
    kg.transplant(source, target, resize=kg.resize.tokens(old, new, fresh="zeros"))
    kernels = [arrays([m.get_layer("out").kernel])[0] for m in (source, target)]
    equal(kernels[0][[0, 4, 3, 1]], kernels[1][[0, 1, 2, 4]])
    assert not kernels[1][3].any()


@pytest.mark.parametrize("one, other, what", [
    (lambda: layers.Hashing(6, name="h"), lambda: layers.Hashing(6, salt=3, name="h"), "a different salt"),
    (lambda: layers.Hashing(5, name="h"), lambda: layers.Hashing(6, name="h"), "a different num_bins"),
    (lambda: layers.Discretization([0, 5], name="h"), lambda: layers.Discretization([0, 6], name="h"),
     "a different bin_boundaries"),
    (lambda: layers.Hashing(6, name="h"), lambda: layers.IntegerLookup(vocabulary=[1], name="h"),
     "different lookup layers are in front of it: Hashing 'h' in the source, IntegerLookup 'h'"),
])  # fmt: skip
def test_ids_without_words(one, other, what):
    source, target = looked_up(one()), looked_up(other())
    text = refused(source, target)
    assert "'emb/embeddings'" in text and what in text and "tokens" not in text
    kg.transplant(source, target, keep="emb")
    kg.transplant(source, looked_up(one()))


def test_tokens_of_two_vocabularies():
    with pytest.raises(kg.WeightsError, match="two lookup layers with a vocabulary"):
        kg.resize.tokens(layers.Hashing(3), layers.Hashing(3))
    rule = kg.resize.tokens(["", "?", "?", "a"], ["", "?", "a", "b"], fresh="mean")
    weight = embedding(6, 1).get_layer("e")
    assert str(rule) == "tokens(3 kept, 1 new: mean)"
    assert weight.input_dim == 6
    values = np.array([[1.0], [2.0], [3.0], [6.0]])
    assert rule(values, (4, 1), None).ravel().tolist() == [1.0, 2.0, 6.0, 3.0]


# -- positions ------------------------------------------------------------------------------------


def positioned(count):
    class Positions(layers.Layer):
        def build(self, shape):
            self.table = self.add_weight(
                name="pos_embed", shape=(1, count, 2), initializer="normal"
            )

        def call(self, x):
            return x + self.table[:, :1]

    return keras.Sequential([keras.Input((1, 2)), Positions(name="p")], name="m")


@pytest.mark.parametrize(
    "old, new, prefix", [(17, 16, (1, 0)), (16, 17, (0, 1)), (17, 4, (1, 0)), (4, 17, (0, 1))]
)
def test_a_class_token_on_one_side(old, new, prefix):
    source, target = positioned(old), positioned(new)
    rule = f"positions(grid=True, prefix={prefix})"
    assert f"resize=kg.resize.{rule} may fit" in refused(source, target)
    text = refused(source, target, resize=kg.resize.positions(grid=True, prefix=1))
    assert (
        "prefix=(1, 0) if only the source has one and prefix=(0, 1) if only the target has" in text
    )
    before, its = arrays(target.weights)[0][0], arrays(source.weights)[0][0]
    report = kg.transplant(source, target, resize=kg.resize.positions(grid=True, prefix=prefix))
    assert report.moved[0].rule == rule
    now = arrays(target.weights)[0][0]
    equal(before[: prefix[1]], now[: prefix[1]])
    if {old, new} == {17, 16}:
        equal(its[prefix[0] :], now[prefix[1] :])
    else:
        plain = kg.resize.positions(grid=True)(
            its[None, prefix[0] :], (1, new - prefix[1], 2), None
        )
        equal(plain[0], now[prefix[1] :])


def test_squares_may_be_of_a_line_too():
    assert "positions(grid=True); resize=kg.resize.positions() may fit" in refused(
        positioned(16), positioned(25)
    )
    with pytest.raises(kg.WeightsError, match="got grid=False, prefix=\\(1, -1\\)"):
        kg.resize.positions(prefix=(1, -1))
