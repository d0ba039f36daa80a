"""widen: equal outputs for every layer class and on real networks; or refused, with the reason."""

import keras
import numpy as np
import pytest
from architectures import cheap_weights
from donor import unchanged
from keras import layers as L
from keras import ops
from test_prune_layers import COVERED, ROWS, N, image, steps
from zeroed import scrambled

import keras_graft as kg
from keras_graft.testing import random_inputs

WHOLE = {"LayerNormalization", "RMSNormalization"}
"""What is equal only if every channel is repeated as often."""

REFUSED = {"ReversibleEmbedding", "Attention"}
"""What sums over the units without a weight that could be divided."""


def array(tensor):
    return np.array(ops.convert_to_numpy(tensor), "float64")


def alike(model, wide):
    x = random_inputs(model, 3, 1)
    before, after = array(model(x)), array(wide(x))
    assert np.allclose(before, after, rtol=1e-3, atol=1e-4 * np.abs(before).max())


@pytest.mark.parametrize("factor", [2.0, 1.34])
@pytest.mark.parametrize(("name", "place"), ROWS[:: 1 if keras.backend.backend() == "torch" else 9])
def test_every_layer_class(name, place, factor):
    if not hasattr(L, name) and name != "GroupedQueryAttention":
        pytest.skip(f"this Keras has no {name}")
    model = scrambled(COVERED[name][place](N))
    if name in REFUSED or (name in WHOLE and factor != 2):
        with pytest.raises(kg.EditError, match="would differ by"):
            kg.widen(model, {"src": factor})
        return
    wide = kg.widen(model, {"src": factor})
    alike(model, wide)
    count = round(N * factor)
    assert kg.group(wide, "src").count == count
    # As built by hand with that width.
    hand = COVERED[name][place](count)
    assert [w.shape for w in wide.weights] == [w.shape for w in hand.weights]


def test_the_weights_by_hand(tmp_path):
    x = keras.Input((5, 5, 3), name="x")
    y = L.Conv2D(4, 3, name="a")(x)
    y = L.ReLU(name="r")(L.BatchNormalization(name="bn")(y))
    model = scrambled(keras.Model(x, L.Conv2D(2, 2, name="b")(y)))
    with unchanged(model, tmp_path):
        kg.widen(model, {"a": 6})
    wide = kg.widen(model, {"a": 6})
    alike(model, wide)
    order = [0, 0, 1, 1, 2, 3]
    old, new = ({w.path: array(w) for w in m.weights} for m in (model, wide))
    for path in old:
        if path.startswith(("a/", "bn/")):
            assert np.array_equal(new[path], old[path][..., order]), path
    share = np.array([0.5, 0.5, 0.5, 0.5, 1, 1])[:, None]
    assert np.array_equal(new["b/kernel"], old["b/kernel"][:, :, order] * share)
    assert np.array_equal(new["b/bias"], old["b/bias"])
    # There and back.
    again = kg.prune(wide, {"a": [1, 3]})
    assert np.allclose(array(again.get_layer("a").kernel), old["a/kernel"])


@pytest.mark.once
def test_other_layouts_of_channels():
    def channels_first(n):
        x = keras.Input((3, 5, 5), name="x")
        h = L.Conv2D(n, 2, padding="same", data_format="channels_first", name="src")(x)
        return keras.Model(x, L.Dense(2, name="end")(L.Flatten(name="flat")(h)))

    def transposed(n):
        x = keras.Input((4, 3), name="x")
        h = ops.transpose(L.Dense(n, name="src")(x), (0, 2, 1))
        h = L.Flatten(name="flat")(L.Concatenate(axis=1, name="join")([h, h]))
        return keras.Model(x, L.Dense(2, name="end")(h))

    def split(n):
        x = keras.Input((4, 3), name="x")
        a, b = ops.split(L.Dense(2 * n, name="src")(x), 2, axis=-1)
        return keras.Model(x, L.Dense(2, name="end")(a * ops.sigmoid(b)))

    def groups(n):
        x = keras.Input((5, 5, 4), name="x")
        h = L.Conv2D(n * 2, 2, groups=2, name="src")(L.Conv2D(4, 1, name="before")(x))
        return keras.Model(x, L.Conv2D(2, 1, name="end")(h))

    for make in (channels_first, transposed, split, groups):
        model = scrambled(make(N))
        for factor in (1.5, 2.0):
            try:
                wide = kg.widen(model, {"src": factor})
            except kg.EditError as error:
                assert make is groups, (make, error)
                continue
            alike(model, wide)


@pytest.mark.parametrize(
    ("name", "layer"),
    [("ResNet50", "conv3_block1_1_conv"), ("MobileNetV2", "block_3_expand"), ("DenseNet121", "conv1_conv")],
)  # fmt: skip
@pytest.mark.once
def test_real_networks(name, layer):
    with cheap_weights():
        model = getattr(keras.applications, name)(weights=None, input_shape=(32, 32, 3), classes=5)
    wide = kg.widen(model, {layer: 1.25})
    alike(model, wide)
    old, new = kg.costs(model).total, kg.costs(wide).total
    assert new.multiply_adds > old.multiply_adds and wide.count_params() > model.count_params()


@pytest.mark.once
def test_a_pattern_widens_all_that_can_be(tmp_path):
    x = keras.Input((9, 9, 3), name="x")
    y = L.Conv2D(4, 3, padding="same", activation="relu", name="stem")(x)
    for i in range(2):
        z = L.Conv2D(6, 3, padding="same", activation="relu", name=f"inner{i}")(y)
        y = L.Add(name=f"add{i}")([y, L.Conv2D(4, 1, name=f"outer{i}")(z)])
    y = L.GlobalAveragePooling2D(name="pool")(y)
    model = scrambled(keras.Model(x, L.Dense(3, name="out")(y)))
    wide = kg.widen(model, {"inner*": 9, "stem": 1.5})
    widths = {
        n: wide.get_layer(n).filters for n in ("stem", "inner0", "inner1", "outer0", "outer1")
    }
    assert widths == {"stem": 6, "inner0": 9, "inner1": 9, "outer0": 6, "outer1": 6}
    alike(model, wide)
    wide = kg.widen(model, {"**": 2.0})
    assert wide.get_layer("out").units == 3
    alike(model, wide)
    wide.save(tmp_path / "wide.keras")
    alike(model, keras.models.load_model(tmp_path / "wide.keras"))
    wide.compile("sgd", "mse")
    wide.fit(np.zeros((2, 9, 9, 3)), np.zeros((2, 3)), verbose=0)
    (step,) = kg.steps(kg.widen(kg.read(model), {"stem": 8}))
    assert step["verb"] == "widen"
    alike(model, kg.replay(model, [step]))


@pytest.mark.once
def test_noise_breaks_the_symmetry():
    model = scrambled(image()(N))
    wide = kg.widen(model, {"src": 2.0}, noise=0.1, seed=1)
    kernel, old = (array(m.get_layer("src").kernel) for m in (wide, model))
    assert np.array_equal(kernel[..., ::2], old)
    apart = np.abs(kernel[..., 1::2] - old)
    assert (apart > 0).any() and apart.mean() < 0.2 * old.std()
    same = kg.widen(model, {"src": 2.0}, noise=0.1, seed=1)
    assert np.array_equal(array(same.get_layer("src").kernel), kernel)
    chosen = kg.widen(model, {"src": N + 2}, seed=3)
    alike(model, chosen)
    first = kg.widen(model, {"src": N + 2})
    assert not np.array_equal(
        array(first.get_layer("src").kernel), array(chosen.get_layer("src").kernel)
    )


@pytest.mark.once
def test_training_goes_on_with_the_slots():
    model = scrambled(image()(N))
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    model.fit(np.ones((4, 5, 5, 3)), np.ones((4, 2)), verbose=0)
    wide = kg.widen(model, {"src": 2.0})
    report = kg.carry_optimizer(model, wide)
    assert not report.new


@pytest.mark.once
def test_refusals():
    model = scrambled(steps(lambda: L.LayerNormalization(name="ln"))(N))

    def refused(words, *given, model=model, **named):
        with pytest.raises(kg.GraftError) as caught:
            kg.widen(model, *given, **named)
        assert words in str(caught.value), str(caught.value)

    refused("repeat every unit of 'src' as often", {"src": N + 1})
    alike(model, kg.widen(model, {"src": 2 * N}))  # the way out
    kg.widen(model, {"src": N + 1}, check=False)
    refused("is an output of the model", {"end": 4})
    refused(
        f"width {N - 1}, and 'src' has {N} channels in {N} units: give {N} or more", {"src": N - 1}
    )
    for wrong in (0, -1, 0.5, True, "8", None, [1]):
        refused("expected a width (64), or a factor of 1.0 or more (1.5)", {"src": wrong})
    refused("the second argument is a dict", ["src"])
    refused("noise= must be a number of 0 or more", {"src": 8}, noise=-1)
    refused("seed= must be an integer", {"src": 8}, seed=1.5)
    refused("check= must be True or False", {"src": 8}, check=1)
    refused("nothing", {"nothing": 8})
    refused("should have the widths", {"src": 1.5, "next": 2.0}, model=_added())


def _added():
    x = keras.Input((4, 3), name="x")
    y = L.Add(name="add")([L.Dense(N, name="src")(x), L.Dense(N, name="next")(x)])
    return keras.Model(x, L.Dense(2, name="end")(y))


@pytest.mark.once
def test_the_channels_that_an_attention_gives():
    """Its source are the heads; its output projection computes channels, and sums over heads."""
    ids = keras.Input((4,), dtype="int32", name="ids")
    h = L.Embedding(9, 8, name="e")(ids)
    h = L.Add(name="s")([h, L.MultiHeadAttention(2, 4, name="a")(h, h)])
    model = scrambled(keras.Model(ids, L.Dense(2, name="end")(L.LayerNormalization(name="n")(h))))
    gives = {(m.weight, m.axis) for m in kg.group(model, "e").members if m.gives}
    assert {("a/attention_output/kernel", 2), ("a/attention_output/bias", 0)} <= gives
    assert not any(w.startswith(("a/query", "a/key", "a/value")) for w, _ in gives)
    alike(model, kg.widen(model, {"e": 2.0}))
    alike(model, kg.widen(model, {"a": 4}))
    alike(model, kg.widen(model, {"e": 2.0}, noise=1e-7))  # nothing checks it


@pytest.mark.once
def test_what_is_refused_at_a_factor_is_not_proposed():
    model = scrambled(steps(lambda: L.Softmax(name="soft"))(N))
    with pytest.raises(kg.EditError, match="softmax over the channels changes") as caught:
        kg.widen(model, {"src": 2.0})
    assert "repeat every unit" not in str(caught.value)


HALVES = ("mixed_bfloat16", "mixed_float16", "bfloat16", "float16")


def _in(policy, make):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return scrambled(make())
    finally:
        keras.config.set_dtype_policy(before)


def _blocks(wrong=0.0):
    x = keras.Input((6, 8), name="x")
    h = x
    for i in range(4):
        h = L.Dense(12, activation="gelu", name=f"a{i}")(h)
        h = L.Add(name=f"add{i}")([h, L.MultiHeadAttention(2, 4, name=f"m{i}")(h, h)])
        # PyTorch has no orthogonal matrices in 16 bits.
        h = L.LSTM(9, recurrent_initializer="zeros", return_sequences=True, name=f"l{i}")(h)
    if wrong:
        h = h + ops.sum(h, axis=-1, keepdims=True) * wrong
    return keras.Model(x, L.Dense(3, name="end")(h))


@pytest.mark.parametrize("policy", HALVES)
def test_16_bits(policy, tmp_path):
    """Rounding refuses nothing that is right, and hides nothing that is wrong."""
    model = _in(policy, _blocks)
    widths = {"a0": 16, "a3": 2.0, "m1": 3, "l2": 13}
    with unchanged(model, tmp_path):
        kg.widen(model, widths)
    wide = kg.widen(model, widths)
    assert wide.dtype_policy.name == policy == wide.get_layer("l2").cell.dtype_policy.name
    assert {v.dtype for v in wide.weights} == {v.dtype for v in model.weights}
    x = random_inputs(model, 3, 1)
    before, after = (array(ops.cast(m(x), "float32")) for m in (model, wide))
    assert np.abs(before - after).max() < 0.05 * np.abs(before).max()
    model = _in(policy, lambda: _blocks(0.02))
    for width in (10, 2.0):
        with pytest.raises(kg.EditError) as caught:
            kg.widen(model, {"l3": width})
        assert "'end' would differ by " in str(caught.value)
        assert "something sums over the repeated units without weights" in str(caught.value)
    kg.widen(model, {"l3": 2.0}, check=False)


@pytest.mark.once
def test_16_bits_that_stay():
    """What an op, or the input of a nested model, rounds also if layers compute in float32."""

    def nested(wrong=0.0, cast=True):
        x = keras.Input((6,), name="x")
        h = L.Dense(7, name="src", activation="relu")(x)
        inner = keras.Input((7,), dtype="bfloat16", name="inner")
        model = keras.Model(inner, L.Dense(5, name="in")(inner), name="nested")
        end = L.Dense(300, name="end")(model(h) + wrong * ops.sum(h, -1, keepdims=True))
        return keras.Model(x, ops.cast(end, "bfloat16") if cast else end)

    for cast in (True, False):
        kg.widen(_in("mixed_bfloat16", lambda c=cast: nested(cast=c)), {"src": 10})
        with pytest.raises(kg.EditError, match="would differ by"):
            kg.widen(_in("mixed_bfloat16", lambda c=cast: nested(0.1, c)), {"src": 10})


@pytest.mark.once
def test_what_is_not_a_number_is_a_difference():
    x = keras.Input((6,), name="x")
    h = L.Dense(4, name="src", activation="sigmoid")(x)
    model = keras.Model(x, ops.log(4.0 - ops.sum(h, -1)))
    with pytest.raises(kg.EditError, match="would differ by inf"):
        kg.widen(model, {"src": 4.0})
