"""Every layer class in a group, against a network built by hand without those channels."""

import inspect

import keras
import numpy as np
import pytest
from keras import layers as L
from zeroed import channels_of, cleared, same, scrambled

import keras_graft as kg

N = 6  # channels of the layer "src"
GONE = [1, 4]


def made(layer, n):
    given = inspect.signature(layer).parameters
    return layer(n) if "n" in given else layer()


def flat(*middle, width=4):
    """Return a function: `Dense` of n units, then layers, then the end."""

    def make(n):
        x = keras.Input((width,), name="x")
        h = L.Dense(n, name="src")(x)
        for layer in middle:
            h = layer()(h)
        return keras.Model(x, L.Dense(2, name="end")(h), name="m")

    return make


def image(*middle, rank=2, source=None):
    """Return a function: a convolution of n filters, then layers, then the end."""
    conv = getattr(L, f"Conv{rank}D")

    def make(n):
        x = keras.Input((*[5] * rank, 3), name="x")
        h = (source or (lambda n: conv(n, 2, padding="same", name="src")))(n)(x)
        for layer in middle:
            h = made(layer, n)(h)
        return keras.Model(x, L.Dense(2, name="end")(L.Flatten(name="flat")(h)), name="m")

    return make


def steps(*middle, source=None):
    """Return a function: a `Dense` on steps of n units, then layers, then the end."""

    def make(n):
        x = keras.Input((4, 3), name="x")
        h = (source or (lambda n: L.Dense(n, name="src")))(n)(x)
        for layer in middle:
            h = made(layer, n)(h)
        return keras.Model(x, L.Dense(2, name="end")(h), name="m")

    return make


def words(layer):
    def make(n):
        ids = keras.Input((4,), dtype="int32", name="x")
        return keras.Model(ids, L.Dense(2, name="end")(layer(n)(ids)), name="m")

    return make


def attention(kind, source="heads", **more):
    def make(n):
        x = keras.Input((4, 3), name="x")
        if source == "heads":
            h = kind(num_heads=n, key_dim=2, name="src", **more)(x, x)
        else:
            q = L.Dense(n, name="src")(x)
            h = kind(num_heads=2, key_dim=2, name="att", output_shape=3, **more)(q, q, q)
        return keras.Model(x, L.Dense(2, name="end")(h), name="m")

    return make


def grouped_queries(n):
    x = keras.Input((4, 3), name="x")
    h = L.GroupQueryAttention(2, n, n, name="src")(x, x)
    return keras.Model(x, L.Dense(2, name="end")(h), name="m")


def pair(kind):
    def make(n):
        x = keras.Input((4, 3), name="x")
        a, b = L.Dense(n, name="src")(x), L.Dense(n, name="other")(x)
        return keras.Model(x, L.Dense(2, name="end")(kind()([a, b, b])), name="m")

    return make


def reversible(n):
    ids = keras.Input((4,), dtype="int32", name="x")
    table = L.ReversibleEmbedding(7, n, name="src")
    return keras.Model(ids, L.Dense(2, name="end")(table(table(ids), reverse=True)), name="m")


def rnn(cells):
    return steps(source=lambda n: L.RNN(cells(n), return_sequences=True, name="src"))


def cell_alone(kind, states):
    def make(n):
        x = keras.Input((3,), name="x")
        start = [L.Dense(n, name=f"start{i}")(x) for i in range(states)]
        h, _ = kind(n, name="src")(x, start)
        return keras.Model(x, L.Dense(2, name="end")(h), name="m")

    return make


def convlstm(rank):
    kind = getattr(L, f"ConvLSTM{rank}D")

    def make(n):
        x = keras.Input((3, *[5] * rank, 2), name="x")
        h = kind(n, 2, padding="same", return_sequences=True, name="src")(x)
        h = kind(2, 2, padding="same", name="next")(h)
        return keras.Model(x, L.Dense(2, name="end")(L.Flatten(name="flat")(h)), name="m")

    return make


def conv(rank):
    return lambda: getattr(L, f"Conv{rank}D")(2, 2, padding="same", name="next")


def deconv(rank):
    return lambda: getattr(L, f"Conv{rank}DTranspose")(2, 2, padding="same", name="next")


COVERED = {
    "Dense": [flat(), flat(lambda: L.Dense(3, name="next")), steps()],
    "EinsumDense": [
        steps(source=lambda n: L.EinsumDense("btc,cd->btd", (4, n), bias_axes="d", name="src")),
        steps(lambda: L.EinsumDense("...c,cd->...d", 3, name="next")),
    ],
    **{
        f"Conv{r}D": [image(rank=r), image(conv(r), rank=r)] for r in (1, 2, 3)
    },
    **{
        f"Conv{r}DTranspose": [
            image(deconv(r), rank=r),
            image(rank=r, source=lambda n, r=r: getattr(L, f"Conv{r}DTranspose")(
                n, 2, padding="same", name="src")),
        ]
        for r in (1, 2, 3)
    },
    **{
        f"DepthwiseConv{r}D": [
            image(lambda r=r: getattr(L, f"DepthwiseConv{r}D")(2, padding="same", name="dw"), rank=r)
        ]
        for r in (1, 2)
    },
    **{
        f"SeparableConv{r}D": [
            image(lambda r=r: getattr(L, f"SeparableConv{r}D")(2, 2, padding="same", name="s"), rank=r),
            image(rank=r, source=lambda n, r=r: getattr(L, f"SeparableConv{r}D")(
                n, 2, padding="same", name="src")),
        ]
        for r in (1, 2)
    },
    "BatchNormalization": [image(lambda: L.BatchNormalization(name="bn")), flat(
        lambda: L.BatchNormalization(name="bn", scale=False))],
    "LayerNormalization": [steps(lambda: L.LayerNormalization(name="ln"))],
    "RMSNormalization": [steps(lambda: L.RMSNormalization(name="rms"))],
    "GroupNormalization": [image(lambda n: L.GroupNormalization(n, name="gn"))],
    "SpectralNormalization": [
        image(source=lambda n: L.SpectralNormalization(
            L.Conv2D(n, 2, padding="same", name="in"), name="src")),
        image(lambda: L.SpectralNormalization(L.Conv2D(2, 2, name="in"), name="sn")),
    ],
    "PReLU": [image(lambda: L.PReLU(shared_axes=[1, 2], name="p")), image(lambda: L.PReLU(name="p"))],
    "Embedding": [words(lambda n: L.Embedding(7, n, name="src"))],
    "ReversibleEmbedding": [reversible],
    "MultiHeadAttention": [
        attention(L.MultiHeadAttention),
        attention(L.MultiHeadAttention, "width"),
        attention(L.MultiHeadAttention, use_bias=False),
    ],
    "GroupedQueryAttention": [grouped_queries],
    "Attention": [pair(lambda: L.Attention(use_scale=True, name="att"))],
    "AdditiveAttention": [pair(lambda: L.AdditiveAttention(name="att"))],
    **{
        name: [
            steps(source=lambda n, k=name: getattr(L, k)(n, return_sequences=True, name="src")),
            steps(lambda k=name: getattr(L, k)(3, return_sequences=True, name="next")),
        ]
        for name in ("SimpleRNN", "GRU", "LSTM")
    },
    "RNN": [rnn(lambda n: L.GRUCell(n, name="cell"))],
    "StackedRNNCells": [
        rnn(lambda n: L.StackedRNNCells(
            [L.LSTMCell(2, name="c0"), L.LSTMCell(n, name="c1")], name="cells"))
    ],
    "SimpleRNNCell": [cell_alone(L.SimpleRNNCell, 1)],
    "GRUCell": [cell_alone(L.GRUCell, 1)],
    "LSTMCell": [cell_alone(L.LSTMCell, 2)],
    **{f"ConvLSTM{r}D": [convlstm(r)] for r in (1, 2, 3)},
    "Bidirectional": [
        steps(source=lambda n: L.Bidirectional(
            L.LSTM(n, return_sequences=True, name="rnn"), merge_mode="sum", name="src")),
        steps(lambda: L.Bidirectional(L.GRU(2, return_sequences=True, name="rnn"), name="both")),
    ],
    "TimeDistributed": [
        steps(source=lambda n: L.TimeDistributed(L.Dense(n, name="in"), name="src")),
        steps(lambda: L.TimeDistributed(L.Dense(3, name="in"), name="td")),
    ],
}  # fmt: skip
"""For each class, networks in which it is the source of a group, passed through, or at its end."""

PROTECTED = {
    "FlaxLayer": "code of another library", "JaxLayer": "code of another library",
    "TFSMLayer": "code of another library", "TorchModuleWrapper": "code of another library",
    "Normalization": "its numbers come from data", "Discretization": "its numbers come from data",
    "IntegerLookup": "no channels", "StringLookup": "no channels", "TextVectorization": "no channels",
    "Layer": "no class of its own", "Wrapper": "no class of its own", "Lambda": "any code",
}  # fmt: skip
"""Classes that may hold weights and stop a group, and why."""

WEIGHTLESS = [
    "Activation",
    "ActivityRegularization",
    "Add",
    "AlphaDropout",
    "AugMix",
    "AutoContrast",
    "Average",
    "CategoryEncoding",
    "CenterCrop",
    "Concatenate",
    "ContrastLimitedAdaptiveHistogramEqualization",
    "CutMix",
    "Dot",
    "Dropout",
    "ELU",
    "Equalization",
    "Flatten",
    "GaussianDropout",
    "GaussianNoise",
    "HashedCrossing",
    "Hashing",
    "Identity",
    "InputLayer",
    "LeakyReLU",
    "Masking",
    "MaxNumBoundingBoxes",
    "Maximum",
    "MelSpectrogram",
    "Minimum",
    "MixUp",
    "Multiply",
    "Permute",
    "Pipeline",
    "RandAugment",
    "ReLU",
    "RepeatVector",
    "Rescaling",
    "Reshape",
    "Resizing",
    "STFTSpectrogram",
    "Softmax",
    "Solarization",
    "Subtract",
    "UnitNormalization",
]
WEIGHTLESS_BEGINNINGS = (
    "Average", "AvgPool", "Adaptive", "Max", "Global", "Cropping", "ZeroPadding", "UpSampling",
    "Random", "SpatialDropout", "Convolution",
)  # fmt: skip


def by_hand(array, shape):
    """Return an array without the channels: each axis that is shorter goes round them in turn."""
    for axis, (old, new) in enumerate(zip(array.shape, shape, strict=True)):
        if old != new:
            array = np.delete(array, np.flatnonzero(np.isin(np.arange(old) % N, GONE)), axis)
    return array


def differs(one, other, path=""):
    """Return where two configurations differ."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [d for k in one for d in differs(one[k], other[k], f"{path}/{k}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [d for i, pair in enumerate(zip(one, other)) for d in differs(*pair, f"{path}/{i}")]  # noqa: B905
    if isinstance(one, keras.KerasTensor):
        one, other = (one.shape, one.dtype), (other.shape, other.dtype)
    return [] if one == other else [f"{path}: {one!r} != {other!r}"]


ROWS = [(name, i) for name, row in COVERED.items() for i in range(len(row))]


@pytest.mark.parametrize(("name", "place"), ROWS, ids=lambda x: str(x))
def test_as_built_by_hand(name, place):
    if not hasattr(L, name) and name != "GroupedQueryAttention":
        pytest.skip(f"this Keras has no {name}")
    make = COVERED[name][place]
    model, small = scrambled(make(N)), make(N - len(GONE))
    group = kg.group(model, "src")
    assert group.count == N and not group.protected, str(group)
    pruned = kg.prune(model, {"src": GONE})
    # The input aside: Keras says more of one that a user made.
    ours, theirs = (m.get_config()["layers"][1:] for m in (pruned, small))
    assert not differs(ours, theirs)
    for old, new, hand in zip(model.weights, pruned.weights, small.weights, strict=True):
        assert new.shape == hand.shape and new.name == hand.name and new.path == hand.path
        assert new.trainable == hand.trainable and new.dtype == hand.dtype
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(new),
            by_hand(keras.ops.convert_to_numpy(old), hand.shape),
        )
    if not group.changes:
        cleared(group, GONE)
        same(model, kg.prune(model, {"src": channels_of(group, GONE)}))


@pytest.mark.once
def test_every_layer_class_is_in_a_row():
    """Fails when Keras has a class that nobody looked at."""
    found = {
        cls.__name__  # GroupQueryAttention is the name of GroupedQueryAttention
        for cls in vars(L).values()
        if inspect.isclass(cls) and issubclass(cls, keras.Layer)
    }
    plain = {n for n in found if n.startswith(WEIGHTLESS_BEGINNINGS)} | set(WEIGHTLESS)
    assert found - plain - COVERED.keys() - PROTECTED.keys() == set()
