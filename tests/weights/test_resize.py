"""The rules for other shapes: what they make of weights, and where they are not used."""

import keras
import numpy as np
import pytest
from architectures import cheap_weights
from donor import arrays, equal
from keras import layers
from weights import by_address, refused, small, values

import keras_graft as kg
from keras_graft.weights.address import groups


def grey(classes=3, size=32, channels=1):
    with cheap_weights():
        return keras.applications.ResNet50(
            weights=None, input_shape=(size, size, channels), classes=classes, name="grey"
        )


def test_a_resnet_for_grey_images_and_three_of_a_thousand_classes():
    source, target = grey(1000, channels=3), grey()
    with pytest.raises(kg.WeightsError) as caught:
        kg.transplant(source, target)
    assert "'conv1_conv/kernel': (7, 7, 3, 64) in the source, (7, 7, 1, 64) in the target" in str(
        caught.value
    )
    assert 'resize=kg.resize.channels("mean") may fit' in str(caught.value)
    keep = [281, None, 285]
    own = arrays([target.get_layer("predictions").kernel])[0][:, 1]
    rules = [kg.resize.channels("mean"), kg.resize.classes(keep)]
    report = kg.transplant(source, target, resize=rules)
    assert {m.target: m.rule for m in report.moved if m.rule} == {
        "conv1_conv/kernel": "channels('mean')",
        "predictions/kernel": "classes(2 kept, 1 new)",
        "predictions/bias": "classes(2 kept, 1 new)",
    }
    assert len(report.moved) == len(target.weights)
    x = np.random.default_rng(0).random((2, 32, 32, 1), "float32") * 255
    features = [kg.extract(m, "avg_pool") for m in (source, target)]
    expected, found = (
        arrays(f(v))[0] for f, v in zip(features, (np.repeat(x, 3, -1), x), strict=True)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * expected.max())
    kernel, old = (arrays([m.get_layer("predictions").kernel])[0] for m in (target, source))
    assert np.array_equal(kernel[:, [0, 2]], old[:, [281, 285]])
    assert np.array_equal(kernel[:, 1], own)
    moving = [m.get_layer("conv1_bn").moving_mean.value for m in (source, target)]
    equal(*moving)


def bert(size):
    import keras_hub

    return keras_hub.models.BertBackbone(
        vocabulary_size=size, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=16,
        max_sequence_length=6,
    )  # fmt: skip


def masked_lm(size, tied):
    backbone = bert(size)
    table = backbone.token_embedding
    states = backbone(backbone.input)["sequence_output"]
    head = layers.Dense(size, name="lm_head")
    logits = table(states, reverse=True) if tied else head(states)
    return keras.Model(backbone.input, logits, name="lm")


@pytest.mark.parametrize("tied", [True, False])
def test_a_bert_with_more_words(tied):
    with cheap_weights():
        source, target = masked_lm(20, tied), masked_lm(24, tied)
    keep = [*range(10), None, None, *range(10, 20), -1, None]
    old = [i for i, k in enumerate(keep) if k is not None and k >= 0]
    report = kg.transplant(source, target, resize=kg.resize.vocabulary(keep))
    resized = {m.target.split("/")[-1]: m.rule for m in report.moved if m.rule}
    names = {"embeddings"} if tied else {"embeddings", "kernel", "bias"}
    assert resized == {name: "vocabulary(20 kept, 4 new)" for name in names}
    assert len(report.moved) == len(target.weights)
    ids = np.arange(6)[None] + 9
    x = {"token_ids": ids, "segment_ids": ids * 0, "padding_mask": ids * 0 + 1}
    y = {**x, "token_ids": np.array(old)[ids]}
    expected, found = arrays(source(x))[0], arrays(target(y))[0]
    np.testing.assert_allclose(found[..., old], expected, rtol=1e-5, atol=1e-6)


def test_a_vocabulary_in_another_order_needs_to_be_named():
    def model():
        ids = keras.Input((3,), dtype="int32")
        y = layers.Embedding(4, 4, name="table")(ids)
        return keras.Model(ids, layers.Dense(4, name="head")(y))

    source, target = model(), model()
    rule = kg.resize.vocabulary([3, 2, 1, 0])
    assert "vocabulary(4 kept, 0 new) was not used" in refused(source, target, resize=rule)
    kg.transplant(source, target, resize={"table": rule, "head": rule})
    (table, kernel, bias), old = values(target), values(source)
    assert np.array_equal(table, old[0][::-1])
    assert np.array_equal(kernel, old[1][:, ::-1]) and np.array_equal(bias, old[2][::-1])


def test_a_vit_of_another_image_size():
    import keras_hub

    def model(size):
        return keras_hub.models.ViTBackbone(
            image_shape=(size, size, 3), patch_size=4, num_layers=1, num_heads=2, hidden_dim=8,
            mlp_dim=16,
        )  # fmt: skip

    with cheap_weights():
        source, target = model(16), model(24)
    assert "resize=kg.resize.positions(grid=True, prefix=1) may fit" in refused(source, target)
    wrong = kg.resize.positions(grid=True)
    assert "17 positions, which are not a grid of 4 by 4. Give prefix=" in refused(
        source, target, resize=wrong
    )
    rule = kg.resize.positions(grid=True, prefix=1)
    report = kg.transplant(source, target, resize=rule)
    assert {m.rule for m in report.moved} == {None, "positions(grid=True, prefix=1)"}
    assert len(report.moved) == len(target.weights)
    old, new = by_address(source), by_address(target)
    (table,) = (key for key, value in old.items() if value.shape == (17, 8))
    assert np.array_equal(new[table][0], old[table][0])
    expected = as_image(old[table][1:].reshape(1, 4, 4, 8), 6)
    np.testing.assert_allclose(new[table][1:].reshape(1, 6, 6, 8), expected, atol=1e-6)
    for key in set(old) - {m.target for m in report.moved if m.rule}:
        assert np.array_equal(old[key], new[key])
    for key in {m.target for m in report.moved if m.rule} - {table}:  # the numbers of positions
        assert np.array_equal(new[key].ravel(), np.arange(37))
    assert target(np.ones((1, 24, 24, 3))).shape == (1, 37, 8)


def test_positions_that_cannot_be():
    for grid, prefix in (((2, 2), 0), (((2, 0), (3, 3)), 0), (True, -1), ("square", 0)):
        with pytest.raises(kg.WeightsError, match="grid= must be True, or"):
            kg.resize.positions(grid, prefix)
    weight = pair((8, 3), (6, 3), name="position")[1]
    with pytest.raises(
        kg.WeightsError, match="8 positions in the source and 6 in the target: none"
    ):
        kg.resize.positions(prefix=6)(np.ones((8, 3)), (6, 3), weight)


def as_image(values, size):
    resized = keras.ops.image.resize(
        values.astype("float32"), (size, size), data_format="channels_last"
    )
    return keras.ops.convert_to_numpy(resized)


def test_positions_of_a_sequence_and_of_a_rectangle():
    values = np.random.default_rng(0).random((8, 3))
    weight = pair((8, 3), (6, 3), name="position")[1]
    found = kg.resize.positions()(values, (6, 3), weight)
    expected = keras.ops.image.resize(
        values.reshape(1, 8, 1, 3).astype("float32"), (6, 1), data_format="channels_last"
    )
    np.testing.assert_allclose(found, arrays(expected)[0].reshape(6, 3), atol=1e-6)
    rule = kg.resize.positions(grid=((2, 4), (4, 4)))
    found = rule(values, (16, 3), weight)
    expected = keras.ops.image.resize(
        values.reshape(1, 2, 4, 3).astype("float32"), (4, 4), data_format="channels_last"
    )
    np.testing.assert_allclose(found.reshape(1, 4, 4, 3), arrays(expected)[0], atol=1e-6)
    # The numbers of the positions are no embeddings.
    numbers = kg.resize.positions()(np.arange(8)[None].repeat(3, 0).T, (6, 3), weight)
    assert np.array_equal(numbers, weight.read())
    # Given for all weights, it takes positions alone.
    one, other = pair((8, 3), (6, 3), name="table")[0]
    text = refused(one, other, resize=kg.resize.positions())
    assert "positions() was not used" in text
    kg.transplant(one, other, resize={"table": kg.resize.positions()})


def pair(old, new, name):
    """Return two models of one embedding, of other shapes, and the second's weight."""

    def model(shape):
        ids = keras.Input((2,), dtype="int32")
        return keras.Model(ids, layers.Embedding(*shape, name=name)(ids))

    models = model(old), model(new)
    return models, groups(models[1]).weights()[0]


def test_a_bias_on_or_off():
    def model(use_bias):
        x = keras.Input((4,))
        y = layers.Dense(5, use_bias=use_bias, name="d")(x)
        return keras.Model(x, layers.LayerNormalization(center=use_bias, name="n")(y))

    source, target = model(False), model(True)
    target.get_layer("d").bias.assign(np.ones(5))
    assert "For a bias resize=kg.resize.bias()." in refused(source, target)
    # The shift of a normalization is none: it is named by itself.
    text = refused(source, target, resize=kg.resize.bias())
    assert "Without a source, 1 of the target: 'n/beta'." in text
    report = kg.transplant(source, target, resize=kg.resize.bias(), keep="n/beta")
    assert not arrays(target.get_layer("d").bias)[0].any()
    (bias,) = (m for m in report.moved if m.rule)
    assert (bias.target, bias.source, bias.rule) == ("d/bias", None, "bias()")
    back = model(False)
    report = kg.transplant(target, back, resize=kg.resize.bias(), keep="n/beta")
    assert report.dropped == ("d/bias",) and report.unused == ()
    assert "source: dropped by a rule" in str(report)
    equal(source.get_layer("d").kernel.value, back.get_layer("d").kernel.value)


def test_crop_or_pad_and_a_rule_of_ones_own():
    source, target = small(6, 3), small(3, 4)
    kg.transplant(source, target, resize=kg.resize.crop_or_pad(fill=0.5))
    old, new = by_address(source), by_address(target)
    assert np.array_equal(new["hidden/kernel"], old["hidden/kernel"][:3])
    assert np.array_equal(new["out/kernel"][:, :3], old["out/kernel"])
    assert (new["out/kernel"][:, 3] == 0.5).all() and new["out/bias"][3] == 0.5

    def last(value, shape, weight):
        assert weight.address == "hidden/kernel" and weight.layer is target.get_layer("hidden")
        return value[-shape[0] :]

    report = kg.transplant(source, target, resize={"hidden/kernel": last}, keep="out")
    assert [m.rule for m in report.moved] == ["last", None]
    assert np.array_equal(by_address(target)["hidden/kernel"], old["hidden/kernel"][3:])

    def wrong(value, shape, weight):
        return value

    text = refused(source, target, resize={"hidden/kernel": wrong}, keep="out")
    assert "the rule wrong returned (6, 5) for 'hidden/kernel', which is (3, 5)" in text


def test_channels_of_statistics_and_transposed_kernels():
    def model(channels):
        x = keras.Input((4, 4, channels), name="x")
        y = layers.BatchNormalization(name="bn")(x)
        return keras.Model(x, layers.Conv2DTranspose(2, 3, name="up")(y), name="m")

    source, target = model(3), model(1)
    for weight in source.weights:
        weight.assign(np.random.default_rng(1).random(weight.shape))
    kg.transplant(source, target, resize=kg.resize.channels("mean"))
    old, new = by_address(source), by_address(target)
    np.testing.assert_allclose(
        new["bn/moving_mean"], old["bn/moving_mean"].mean(keepdims=True), rtol=1e-6
    )
    np.testing.assert_allclose(new["up/kernel"], old["up/kernel"].sum(-1, keepdims=True), rtol=1e-6)
    expected = kg.reinput(source, (4, 4, 1), channels="mean")
    assert all(np.array_equal(v, new[k]) for k, v in by_address(expected).items())
    text = refused(
        source, target, resize=kg.resize.channels(lambda kernel, count: kernel[..., :1, :])
    )
    assert "'bn/gamma': (3,) in the source, (1,) in the target" in text and "'up/" not in text


def test_new_rows_are_what_they_are_said_to_be():
    for new, expected in (("zeros", np.zeros(2)), ("mean", None), ("own", None)):
        (source, target), weight = pair((3, 2), (3, 2), name="table")
        own, old = weight.read(), by_address(source)["table/embeddings"]
        expected = {"mean": old.mean(0), "own": own[1], "zeros": np.zeros(2)}[new]
        rule = kg.resize.vocabulary([2, None, 0], new=new)
        kg.transplant(source, target, resize={"table": rule})
        found = weight.read()
        assert np.array_equal(found[[0, 2]], old[[2, 0]])
        np.testing.assert_allclose(found[1], expected, rtol=1e-6)


def test_a_head_of_new_classes_stays():
    source, target = small(out=3), small(out=2)
    own = by_address(target)
    report = kg.transplant(source, target, resize=kg.resize.classes())
    new = by_address(target)
    assert all(np.array_equal(own[k], new[k]) for k in ("out/kernel", "out/bias"))
    assert [m.rule for m in report.moved if m.rule] == ["classes()"] * 2


def test_rules_that_cannot_be():
    source, target = small(), small(out=2)
    classes = kg.resize.classes
    assert "was not used" in refused(source, target, resize=classes([0, 3]))  # of 0, 1, 2
    assert "was not used" in refused(source, target, resize=classes([0, 1, 2]))
    assert "was not used" in refused(source, target, resize=kg.resize.channels("pad"))
    assert "resize= names 'oout', which matches no weight. Nearest: 'out'" in refused(
        source, target, resize={"oout": classes([0, 1])}
    )
    for given in ("mean", ["mean"]):
        assert "resize= holds 'mean', which is not a rule" in refused(source, target, resize=given)
    with pytest.raises(kg.WeightsError, match="'median' is not a rule; there are 'mean', 'repeat'"):
        kg.resize.channels("median")
    with pytest.raises(kg.WeightsError, match="list old ids, and None or -1 for new ones"):
        kg.resize.vocabulary([0, -2])
    with pytest.raises(kg.WeightsError, match="new='ones' is none of"):
        kg.resize.classes([0], new="ones")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_targets_own_rows_stay_to_the_bit(dtype):
    def embed(rows, dtype):
        x = keras.Input((2,), dtype="int32")
        return keras.Model(x, layers.Embedding(rows, 4, dtype=dtype, name="e")(x))

    source, target = embed(3, dtype), embed(4, "float32")
    own = arrays(target.weights)[0]
    kg.transplant(source, target, resize=kg.resize.vocabulary([2, 0, None, 1]))
    now = arrays(target.weights)[0]
    np.testing.assert_array_equal(now[2], own[2])
    old = arrays([keras.ops.cast(source.weights[0], "float32")])[0]
    np.testing.assert_array_equal(now[[0, 1, 3]], old[[2, 0, 1]])


@pytest.mark.parametrize("made", [object, "U3", complex])
def test_a_rule_that_gives_no_numbers_changes_nothing(made):
    source, target = (
        keras.Sequential([keras.Input((4,)), layers.Dense(n, name="out")]) for n in (3, 2)
    )
    before = arrays(target.weights)

    def rule(value, shape, weight):
        return np.full(shape, 1, made)

    assert "which cannot hold this" in refused(source, target, resize={"out/bias": rule})
    equal(before, target.weights)


@pytest.mark.parametrize("keep", [3, ["a"], [0.5, 1], [True, False], {1: 2}, [-2], []])
def test_what_is_no_list_of_ids_is_refused(keep):
    for rule in (kg.resize.vocabulary, kg.resize.classes):
        with pytest.raises(kg.WeightsError, match="list old ids, and None or -1 for new ones, got"):
            rule(keep)


def test_ids_may_come_from_anywhere():
    assert repr(kg.resize.classes(i for i in (2, None))) == "classes(1 kept, 1 new)"
    assert repr(kg.resize.vocabulary(np.arange(3))) == "vocabulary(3 kept, 0 new)"
    assert repr(kg.resize.vocabulary(range(4))) == "vocabulary(4 kept, 0 new)"


def head(classes, dtype=None):
    """A head whose kernel has rows that tell its classes apart."""
    model = keras.Sequential([keras.Input((8,)), layers.Dense(classes, name="head", dtype=dtype)])
    kernel = np.random.default_rng(classes).standard_normal((8, classes))
    model.set_weights([kernel, np.arange(classes)])
    return model


def quantized(classes, mode):
    model = head(classes)
    model.quantize(mode)
    return model


@pytest.mark.parametrize("mode, rule", [
    ("int4", kg.resize.classes([4, 3, 2, 1, 0, None])),
    ("int4", {"head": kg.resize.classes([4, 3, 2, 1, 0, None])}),
    ("int8", kg.resize.classes([4, 3, 2, 1, 0, None], new="zeros")),
    ("int8", kg.resize.classes([4, 3, 2, 1, 0, None], new="mean")),
    ("int8", kg.resize.crop_or_pad()),
])  # fmt: skip
def test_rules_do_not_compute_with_quantized_values(mode, rule):
    source, target = quantized(5, mode), quantized(6, mode)
    before = arrays(target.weights)
    with pytest.raises(kg.WeightsError, match=f"is quantized .{mode}.. Use it before quantize"):
        kg.transplant(source, target, resize=rule)
    equal(before, target.weights)


@pytest.mark.parametrize("keep", [[4, 3, 2, 1, 0, None], [2, 0]])
def test_quantized_classes_are_picked(keep):
    source, target = quantized(5, "int8"), quantized(len(keep), "int8")
    x = np.random.default_rng(0).random((3, 8), "float32")
    own = target.predict(x, verbose=0)
    kg.transplant(source, target, resize=kg.resize.classes(keep))
    old, now = source.predict(x, verbose=0), target.predict(x, verbose=0)
    for i, k in enumerate(keep):
        np.testing.assert_allclose(now[:, i], own[:, i] if k is None else old[:, k], rtol=1e-5)


def decoder(channels, length):
    ids = keras.Input((length,), dtype="int32")
    x = layers.Embedding(length, 4, name="pos_emb")(ids)
    return keras.Model(ids, layers.Conv1DTranspose(channels, 2, name="conv1d_transpose")(x))


def test_a_transposed_convolution_has_no_positions():
    with pytest.raises(kg.WeightsError) as caught:
        kg.transplant(decoder(2, 8), decoder(3, 16), resize=kg.resize.positions())
    assert "'conv1d_transpose/kernel': (2, 2, 4) in the source, (2, 3, 4)" in str(caught.value)
    assert "positions" not in str(caught.value).split("conv1d_transpose/kernel")[1]
    target = decoder(2, 16)
    report = kg.transplant(decoder(2, 8), target, resize=kg.resize.positions())
    assert [m.target for m in report.moved if m.rule] == ["pos_emb/embeddings"]


@pytest.mark.parametrize("address, whether", [
    ("pos_emb/embeddings", True), ("vit/position_embedding/embeddings", True),
    ("posembed", True), ("abs_pos/w", True), ("encoder/positions/w", True), ("pos/w", True),
    ("positional_encoding/w", True), ("transpose/kernel", False), ("composer/kernel", False),
    ("deposit/kernel", False),
])  # fmt: skip
def test_which_weights_are_of_positions(address, whether):
    from keras_graft.weights.address import Weight

    weight = Weight(address, "embeddings", (4, 2), "float32", lambda: None)
    assert kg.resize.positions().seeks(weight) is whether


@pytest.mark.parametrize("dtype", [">f4", "longdouble", "bfloat16"])
def test_what_a_rule_gives_may_be_of_any_numbers(dtype):
    from keras_graft.features.store.shards import dtype_of

    source, target = head(3), head(2)
    expected = arrays(source.weights)
    kg.transplant(
        source, target, resize=lambda v, shape, w: v[..., :2].astype(dtype_of(dtype))
    )  # fmt: skip
    np.testing.assert_allclose(target.get_weights()[0], expected[0][:, :2], rtol=1e-2)
    for made, says in (
        (lambda v, shape, w: [[1.0, 2.0], [3.0]], "did not return an array for 'head/kernel'"),
        (lambda v, shape, w: np.zeros(shape, "V2"), "which cannot hold this"),
    ):
        target = head(2)
        before = arrays(target.weights)
        with pytest.raises(kg.WeightsError, match=says):
            kg.transplant(source, target, resize=made)
        equal(before, target.weights)


@pytest.mark.parametrize("one, other", [("bfloat16", "float16"), ("float16", "bfloat16")])
def test_classes_between_half_precisions(one, other):
    source, target = head(3, one), head(2, other)
    own = np.asarray(arrays(target.weights)[0], "float32")
    kg.transplant(source, target, resize=kg.resize.classes([2, None]))
    found = np.asarray(arrays(target.weights)[0], "float32")
    np.testing.assert_allclose(found[:, 0], np.asarray(arrays(source.weights)[0], "float32")[:, 2],
                               rtol=1e-2)  # fmt: skip
    np.testing.assert_array_equal(found[:, 1], own[:, 1])


@pytest.mark.parametrize("make, says", [
    (lambda: kg.resize.positions(prefix="a"), "got grid=False, prefix='a'"),
    (lambda: kg.resize.positions(prefix=1.0), "prefix= a number of positions, or one for .*got .*prefix=1.0"),
    (lambda: kg.resize.positions(grid=((2.0, 2.0), (3, 3))), "grid= must be True, or"),
    (lambda: kg.resize.positions(grid=[(1, 2), (3,)]), "grid= must be True, or"),
    (lambda: kg.resize.positions(grid=((2, "a"), (1, 2))), "grid= must be True, or"),
    (lambda: kg.resize.vocabulary([2**70]), "keep= must list old ids"),
    (lambda: kg.resize.crop_or_pad("x"), "fill= must be a number, got 'x'"),
    (lambda: kg.resize.crop_or_pad(None), "fill= must be a number, got None"),
    (lambda: kg.transplant(head(3), head(2), resize={1: kg.resize.classes([0, 1])}),
     "resize= names 1, but a glob of addresses must be a text"),
])  # fmt: skip
def test_rules_that_make_no_sense_are_refused_at_once(make, says):
    with pytest.raises(kg.WeightsError, match=says):
        make()


def test_rules_say_how_they_fill():
    assert str(kg.resize.classes([1, None], new="mean")) == "classes(1 kept, 1 new: mean)"
    assert str(kg.resize.vocabulary([1], new="zeros")) == "vocabulary(1 kept, 0 new)"
    assert str(kg.resize.crop_or_pad(9.0)) == "crop_or_pad(9)"


def test_the_bias_of_a_new_layer_is_its_own():
    source = keras.Sequential([keras.Input((4,)), layers.Dense(3, use_bias=False, name="d")])
    target = keras.Sequential([
        keras.Input((4,)), layers.Dense(3, name="d"),
        layers.Dense(2, name="new", bias_initializer=keras.initializers.Constant(-4.6)),
    ])  # fmt: skip
    target.get_layer("d").bias.assign([1, 2, 3])
    with pytest.raises(kg.WeightsError) as caught:
        kg.transplant(source, target, keep="d")
    assert "For a bias" not in str(caught.value)
    with pytest.raises(kg.WeightsError, match="For a bias resize=kg.resize.bias"):
        kg.transplant(source, target)
    report = kg.transplant(source, target, resize=kg.resize.bias(), strict=False)
    assert report.missing == ("new/kernel", "new/bias")
    kernel, bias, _, new = arrays(target.weights)
    assert bias.tolist() == [0, 0, 0]
    np.testing.assert_allclose(new, -4.6, rtol=1e-6)
    equal([kernel], source.weights)
