"""What an edited model announces is what it gives, and what cannot run is refused when it is made."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_graft as kg
from keras_graft import abstract, trial

BACKEND = keras.backend.backend()
WIDE, LONG = 8, 6


def constant(*shape):
    return np.linspace(-1, 1, int(np.prod(shape))).reshape(shape).astype("float32")


def attend(y, layer, **kwargs):
    return layer(y, y, **kwargs)


def states(y, size):
    """States that come from the model: they were made for LSTMs and GRUs of one size."""
    return layers.Reshape((LONG * WIDE,), name="flat")(y)[:, :size]


# What reads the width 8 of "d", each in a node "c". Keras takes any width in its place.
LIARS = {
    "LSTM": lambda y: layers.LSTM(3, name="c")(y),
    "GRU": lambda y: layers.GRU(3, return_sequences=True, name="c")(y),
    "SimpleRNN": lambda y: layers.SimpleRNN(3, name="c")(y),
    "RNN": lambda y: layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)], name="c")(y),
    "Bidirectional": lambda y: layers.Bidirectional(layers.LSTM(3), name="c")(y),
    "TimeDistributed": lambda y: layers.TimeDistributed(layers.Dense(3), name="c")(y),
    "LayerNormalization": lambda y: layers.LayerNormalization(name="c")(y),
    "RMSNormalization": lambda y: layers.RMSNormalization(name="c")(y),
    "PReLU": lambda y: layers.PReLU(name="c")(y),
    "MultiHeadAttention": lambda y: attend(y, layers.MultiHeadAttention(2, 3, name="c")),
    "GroupedQueryAttention": lambda y: attend(
        y, layers.GroupQueryAttention(3, 2, 1, name="c")
    ),
    "Normalization": lambda y: layers.Normalization(
        mean=constant(WIDE), variance=constant(WIDE) + 2, name="c"
    )(y),
    "Rescaling": lambda y: layers.Rescaling(constant(WIDE), name="c")(y),
    "Sequential": lambda y: keras.Sequential(
        [keras.Input((LONG, WIDE)), layers.PReLU(name="p")], name="c"
    )(y),
}  # fmt: skip

# The same, where PyTorch takes a width of 1 for any other; and what Keras itself refuses.
OTHERS = {
    "EinsumDense": lambda y: layers.EinsumDense("abc,cd->abd", (None, 3), name="c")(y),
    "Dense": lambda y: layers.Dense(3, name="c")(y),
    "BatchNormalization": lambda y: layers.BatchNormalization(name="c")(y),
    "Conv1D": lambda y: layers.Conv1D(3, 2, name="c")(y),
}
ALL = LIARS | OTHERS


def model(what, spread=0):
    """A model in which "c" reads "d", 8 wide, beside a "narrow" value, 5 wide."""
    x = keras.Input((LONG, 4), name="x")
    y = layers.Dense(WIDE, name="d")(x)
    narrow = layers.Dense(5, name="narrow")(x)
    z = ALL[what](y) if isinstance(what, str) else what(y)
    return keras.Model(x, [z, narrow], name="m")


def nested(what):
    inner = keras.Input((LONG, 4), name="inner")
    y = layers.Dense(WIDE, name="d")(inner)
    part = keras.Model(inner, [ALL[what](y), layers.Dense(5, name="narrow")(inner)], name="part")
    x = keras.Input((LONG, 4), name="x")
    return keras.Model(x, part(x), name="m")


def joined(width):
    def join(m):
        trunk, head = kg.split(m, at=("d", "narrow"))
        x = keras.Input((LONG, 4))
        other = keras.Model(x, [layers.Dense(width)(x), layers.Dense(5)(x)])
        return kg.join(other, head)

    return join


# Each makes "c" read something that is not 8 wide.
VERBS = {
    "replace": lambda m: kg.replace(m, "d", layers.Dense(16, name="other")),
    "replace by 1": lambda m: kg.replace(m, "d", layers.Dense(1, name="other")),
    "replace by a function": lambda m: kg.replace(m, "d", lambda x: ops.concatenate([x, x, x], axis=-1)),
    "insert after": lambda m: kg.insert(m, layers.Dense(16, name="other"), after="d"),
    "insert before": lambda m: kg.insert(m, layers.Dense(5, name="other"), between=("d", "c")),
    "remove": lambda m: kg.remove(m, "d", keep="x"),
    "rewire": lambda m: kg.rewire(m, {"d": "narrow"}),
    "graph": lambda m: kg.replace(kg.read(m), "d", layers.Dense(16, name="other")),
}  # fmt: skip


def numbers(structure):
    return [ops.convert_to_numpy(t) for t in keras.tree.flatten(structure)]


def data(m, batch=2):
    return [
        np.random.default_rng(0).random((batch, *t.shape[1:])).astype(t.dtype) for t in m.inputs
    ]


def snapshot(m):
    """What a donor is: outputs, weights, states of every kind, names, specs."""
    variables = [*m.variables, *(v for layer in m._flatten_layers() for v in layer.variables)]
    values = [ops.convert_to_numpy(v) for v in variables]
    return values, m.to_json(), [(t.shape, t.dtype) for t in m.outputs]


def same(one, other):
    assert one[1:] == other[1:]
    for a, b in zip(one[0], other[0], strict=True):
        assert np.array_equal(a, b)


def as_announced(m):
    """Run a model, and check that it gives the specs that it announces."""
    given = keras.tree.flatten(m(data(m)))
    for said, tensor in zip(m.outputs, given, strict=True):
        assert len(said.shape) == len(tensor.shape), (said, tensor.shape)
        pairs = zip(said.shape, tensor.shape, strict=True)
        assert all(a in (None, b) for a, b in pairs), (said, tensor.shape)
        assert tensor.shape[0] == 2, (said, tensor.shape)
        assert said.dtype == keras.backend.standardize_dtype(tensor.dtype)


@pytest.mark.parametrize("verb", VERBS if BACKEND == "torch" else ["replace"])
@pytest.mark.parametrize("what", LIARS)
def test_what_cannot_run_on_another_width_is_refused_by_name(what, verb):
    donor = model(what)
    before, x = snapshot(donor), data(donor)
    outputs = numbers(donor(x))
    with pytest.raises(kg.BuildError) as caught:
        VERBS[verb](donor)
    text = str(caught.value)
    found = {
        "remove": 4, "rewire": 5, "insert before": 5, "replace by 1": 1, "replace by a function": 12
    }.get(verb, 16)  # fmt: skip
    assert f"{what} 'c' in graph 'm'" in text, text
    assert f"expected (?, 6, 8) float32, found (?, 6, {found}) float32" in text, text
    source = {"remove": "'x' from an input", "rewire": "'narrow' from node 'narrow'"}.get(verb)
    assert (source or " from node '") in text
    assert "The way out: " in text and "kg.replace(model, " in text, text
    same(before, snapshot(donor))
    for a, b in zip(outputs, numbers(donor(x)), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("verb", VERBS if BACKEND == "torch" else ["remove", "rewire"])
@pytest.mark.parametrize("what", OTHERS)
def test_others_are_refused_or_give_what_they_announce(what, verb):
    donor = model(what)
    try:
        result = VERBS[verb](donor)
    except kg.BuildError as error:
        assert f"{what} 'c'" in str(error) and "The way out: " in str(error)
    else:
        as_announced(kg.build(result) if isinstance(result, kg.Graph) else result)


@pytest.mark.parametrize("what", ["LSTM", "PReLU", "MultiHeadAttention", "EinsumDense"])
@pytest.mark.parametrize("verb", VERBS)
def test_inside_a_nested_model_too(what, verb):
    inner = {
        "replace": lambda m: kg.replace(m, "part/d", layers.Dense(16, name="other")),
        "insert after": lambda m: kg.insert(m, layers.Dense(16, name="other"), after="part/d"),
        "remove": lambda m: kg.remove(m, "part/d", keep="part/inner"),
        "rewire": lambda m: kg.rewire(m, {"part/d": "part/narrow"}),
    }
    if verb not in inner:
        pytest.skip("the same mechanism")
    donor = nested(what)
    before = snapshot(donor)
    with pytest.raises(kg.BuildError, match=f"{what} 'c' in graph 'part'"):
        inner[verb](donor)
    same(before, snapshot(donor))
