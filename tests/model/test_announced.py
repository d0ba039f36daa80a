"""What an edited model announces is what it gives, and what cannot run is refused when it is made."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_graft as kg
from keras_graft.model import abstract

BACKEND = keras.backend.backend()
WIDE, LONG = 8, 6


def constant(*shape):
    return np.linspace(-1, 1, int(np.prod(shape))).reshape(shape).astype("float32")


def attend(y, layer, **kwargs):
    return layer(y, y, **kwargs)


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


@pytest.fixture(autouse=True)
def _names():
    keras.utils.clear_session(free_memory=False)


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
    assert "The way out: " in text and "let it read (?, 6, 8) float32" in text, text
    if verb == "rewire":
        assert 'kg.insert(model, new, after="narrow")' in text, text
    elif donor.get_layer("c").weights:
        assert f"new {what}" in text and "kg.replace(model, " in text, text
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


# -- the ways out ------------------------------------------------------------------------


def test_the_ways_out_work():
    def fresh():
        return layers.LSTM(3, name="new")

    donor = model("LSTM")
    with pytest.raises(kg.BuildError, match=r'kg.replace\(model, \["d", "c"\], lambda node'):
        kg.replace(donor, "d", layers.Dense(5))
    new = {"d": lambda: layers.Dense(5, name="other"), "c": fresh}
    as_announced(kg.replace(donor, ["d", "c"], lambda node: new[node.name]()))
    with pytest.raises(kg.BuildError, match=r'kg.replace\(model, "c", lambda x'):
        kg.insert(donor, layers.Dense(5), after="d")
    as_announced(kg.replace(donor, "c", lambda x: fresh()(layers.Dense(5)(x))))
    with pytest.raises(kg.BuildError, match=r"Identity\(\).*\[\"d\", \"c\"\], lambda node"):
        kg.remove(donor, "d", keep="x")
    new["d"] = layers.Identity
    as_announced(kg.replace(donor, ["d", "c"], lambda node: new[node.name]()))
    with pytest.raises(kg.BuildError, match=r'kg.insert\(model, new, after="narrow"\)'):
        kg.rewire(donor, {"d": "narrow"})
    fits = kg.insert(donor, layers.Dense(8, name="fits"), after="narrow")
    as_announced(kg.rewire(fits, {"d": "fits"}))


def test_put_in_what_was_built_for_another_width():
    stack = keras.Sequential([keras.Input((6, 4), name="x"), layers.Dense(8, name="d")], name="s")
    lstm, dense = layers.LSTM(8, return_sequences=True, name="lstm"), layers.Dense(3)
    lstm.build((None, 6, 5))
    dense.build((None, 5))
    for edit in (
        lambda: kg.replace(stack, "d", lstm),
        lambda: kg.insert(stack, lstm, after="d"),
        lambda: kg.insert(stack, layers.TimeDistributed(dense), after="d"),
        lambda: kg.insert(stack, layers.Rescaling(constant(5)), before="d"),
        lambda: kg.insert(stack, lambda x: layers.LayerNormalization()(x) * lstm(x), after="d"),
    ):
        with pytest.raises(kg.BuildError, match="The way out: use a .* not called before"):
            edit()
    as_announced(kg.insert(stack, layers.LSTM(8, return_sequences=True), after="d"))
    fits = layers.LSTM(3, name="fits")
    fits.build((None, 6, 8))
    as_announced(kg.insert(stack, fits, after="d"))


# -- several inputs, ranks, ops ------------------------------------------------------------


def with_state():
    x = keras.Input((6, 4), name="x")
    state = layers.Dense(3, name="d")(layers.Flatten(name="flat")(x))
    return keras.Model(x, layers.GRU(3, name="c")(x, initial_state=state), name="m")


def with_attention(kind):
    x = keras.Input((6, 4), name="x")
    q, k = layers.Dense(8, name="d")(x), layers.Dense(8, name="k")(x)
    return keras.Model(x, kind(name="c")([q, k]), name="m")


@pytest.mark.parametrize("width", [1, 5])
def test_states_and_attention_of_another_width(width):
    for make in (
        with_state,
        lambda: with_attention(layers.Attention),
        lambda: with_attention(layers.AdditiveAttention),
    ):
        donor = make()
        kind = type(donor.get_layer("c")).__name__
        words = rf"(?s){kind} 'c' .*expected .*, found \(.*\?.* {width}\) float32"
        try:
            result = kg.replace(donor, "d", layers.Dense(width, name="other"))
        except kg.BuildError as error:
            assert pytest.raises(kg.BuildError, match=words) and kind in str(error)
        else:  # a sum takes a width of 1 for any other
            assert kind == "AdditiveAttention" and width == 1
            as_announced(result)


def test_attention_to_a_matrix_is_refused():
    x = keras.Input((6, 4), name="x")
    y = layers.Reshape((6, 4), name="d")(x)
    attend_ = layers.MultiHeadAttention(2, 3, name="c")
    donor = keras.Model(x, attend_(y, y), name="m")
    with pytest.raises(kg.BuildError, match="MultiHeadAttention 'c'"):
        kg.replace(donor, "d", layers.GlobalAveragePooling1D())
    flat = keras.Sequential([keras.Input((4,)), layers.Dense(8, name="d")])
    with pytest.raises(kg.BuildError, match="MultiHeadAttention"):
        kg.insert(flat, lambda y: layers.MultiHeadAttention(2, 3)(y, y), after="d")


def test_ops_that_were_recorded_with_constants():
    for op in (
        lambda y: ops.reshape(y, (-1, 48)),
        lambda y: ops.einsum("abc,cd->abd", y, constant(8, 3)),
        lambda y: ops.matmul(y, constant(8, 3)),
        lambda y: ops.add(y, constant(8)),
    ):
        with pytest.raises(kg.BuildError, match="The way out: "):
            kg.replace(model(op), "d", layers.Dense(16))
    as_announced(kg.replace(model(lambda y: ops.sum(y, axis=-1)), "d", layers.Dense(16)))
    as_announced(kg.replace(model(lambda y: ops.add(y, constant(8))), "d", layers.Dense(1)))


def test_a_call_that_would_mix_samples_is_refused():
    donor = model(lambda y: layers.Dense(2)(ops.reshape(y, (-1, 48))))
    with pytest.raises(kg.BuildError, match="would mix samples: it would turn 2 rows into 4"):
        kg.replace(donor, "d", layers.Dense(16))


# -- sizes that may vary --------------------------------------------------------------------


def free_length(through):
    x = keras.Input((None, 4), name="x")
    y = layers.Dense(8, name="d")(x)
    z = layers.Concatenate(axis=1, name="both")([y, layers.UpSampling1D(3, name="up")(y)])
    return keras.Model(x, through(z), name="m")


def test_sizes_that_may_vary_go_together():
    donor = free_length(layers.LayerNormalization(name="c"))
    with pytest.raises(kg.BuildError, match="LayerNormalization 'c'.*cannot run"):
        kg.replace(donor, ["d"], layers.Dense(5))
    assert kg.replace(donor, "c", layers.LSTM(3)).output_shape == (None, 3)
    # 4 * length: of the sizes that are tried only some fit, and the length is never known.
    donor = free_length(lambda z: layers.Dense(2)(ops.reshape(z, (-1, 256 * 4 * 8))))
    kg.insert(donor, layers.Activation("relu"), after="both")
    donor = free_length(lambda z: z)
    wide = kg.replace(donor, "d", layers.Dense(5, name="other"))
    assert wide.output_shape == (None, None, 5) and wide(np.ones((2, 7, 4))).shape == (2, 28, 5)


def test_a_nested_model_of_any_width():
    inner = keras.Input((None, None), name="inner")
    y = ops.einsum("abc,c->ab", inner, constant(8))
    x = keras.Input((6, 4), name="x")
    enc = keras.Model(inner, y, name="enc")
    donor = keras.Model(x, enc(layers.Dense(8, name="d")(x)), name="m")
    with pytest.raises(
        kg.BuildError, match="'enc' in graph 'm' \\('enc/einsum.*' inside it\\) cannot"
    ):
        kg.replace(donor, "d", layers.Dense(5))
    around = keras.Input((None, None), name="around")
    outer = keras.Model(around, enc(around), name="outer")
    donor = keras.Model(x, outer(layers.Dense(8, name="d")(x)), name="m")
    with pytest.raises(
        kg.BuildError, match="'outer' in graph 'm' \\('outer/enc/einsum.*' inside it\\) cannot"
    ):
        kg.replace(donor, "d", layers.Dense(5))


def test_stages_that_do_not_run_in_turn():
    def stage(shape, through, name):
        x = keras.Input(shape, name=f"{name}_x")
        return keras.Model(x, through(x), name=name)

    ends = stage((None, 8), lambda y: ops.einsum("abc,b->ac", y, constant(6)), "ends")
    for length in (6, 9):
        trunk = stage((length, 4), layers.Dense(8, name="t"), "trunk")
        if length == 6:
            as_announced(kg.join(trunk, ends))
            continue
        for stages in ((trunk, ends), (kg.read(trunk), kg.read(ends))):
            with pytest.raises(kg.JoinError, match=r"(?s)'einsum.*kg.join\(one, between, other\)"):
                kg.join(*stages)
        as_announced(kg.join(trunk, stage((9, 8), lambda y: y[:, :6], "between"), ends))
    # The length was known, and may be that: it is no reason to refuse.
    kg.join(
        stage((None, 4), layers.Dense(8, name="t"), "trunk"),
        stage((6, 8), layers.PReLU(name="p"), "head"),
    )


# -- what does not change, and what is not refused -------------------------------------------


class Counter(layers.Layer):
    """Counts its calls, as a metric does, and adds a loss."""

    def build(self, _):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")
        self.built = True

    def call(self, x):
        self.calls.assign(self.calls + 1.0)
        self.add_loss(ops.sum(x))
        return x

    def compute_output_shape(self, shape):
        return shape


def test_no_state_moves():
    x = keras.Input(batch_shape=(2, 6, 4), name="x")
    y = layers.Dense(8, name="d", activity_regularizer="l2")(x)
    y = layers.Dropout(0.5, seed=1, name="drop")(y, training=True)
    y = layers.GaussianNoise(0.5, seed=1, name="noise")(y, training=True)
    y = Counter(name="count")(y)
    y = layers.Dense(3, name="e")(layers.GlobalAveragePooling1D(name="pool")(y))
    y = layers.LSTM(3, stateful=True, name="lstm")(layers.Reshape((3, 1))(y))
    donor = keras.Model(x, layers.BatchNormalization(name="bn")(y, training=True), name="m")
    donor(data(donor))
    before, losses = snapshot(donor), len(donor.losses)
    edits = [
        lambda: kg.insert(donor, lambda t: ops.concatenate([t, t], axis=1), after="drop"),
        lambda: kg.replace(
            donor, ["d", "e"], lambda node: layers.Dense(5 if node.name == "d" else 3)
        ),
    ]
    for edit in edits:
        result = edit()
        same(before, snapshot(donor))
        assert len(donor.losses) == losses
        as_announced(result)
        donor.get_layer("lstm").reset_states()
        before = snapshot(donor)


@pytest.fixture
def runs(monkeypatch):
    """The labels of the calls that ran on abstract tensors."""
    found = []
    real = abstract.Walk.through

    def through(self, steps):
        found.append([node.operation.name for node in steps])
        return real(self, steps)

    monkeypatch.setattr(abstract.Walk, "through", through)
    return found


def test_only_what_is_behind_a_changed_spec_runs_and_once(runs):
    def chain():
        x = keras.Input((6, 4), name="x")
        y = layers.Dense(8, name="d0")(x)
        for i in range(4):
            y = layers.Activation("relu", name=f"a{i}")(layers.Dense(8, name=f"d{i + 1}")(y))
        y = ops.mean(y, axis=1)
        return keras.Model(x, layers.Dense(2, name="out")(y), name="m")

    donor = chain()
    kg.insert(donor, lambda node: layers.Dropout(0.5), after="a*")
    kg.insert(donor, layers.Dense(8), after="a1")
    kg.insert(donor, layers.LayerNormalization(), after="a1")
    kg.replace(donor, "a1", lambda node: layers.Activation("gelu"))
    kg.replace(donor, "d2", lambda node: node.operation)
    kg.replace(donor, "d2", layers.Dense(8))
    kg.rewire(donor, {"a1": "a0"})
    kg.remove(donor, "a2")
    kg.repeat(donor, "a0", "a2", 3)
    kg.inline(kg.nest(donor, "a0", "a2", name="block"))
    kg.build(kg.read(donor), weights="copy")
    assert runs == []
    longer = layers.ZeroPadding1D(1, name="pad")
    g = kg.insert(kg.read(donor), longer, after="a2")
    assert runs == [["pad", "d4", "a3", "mean"]]
    g = kg.insert(g, layers.Dropout(0.1, name="one"), after="d1")
    g = kg.insert(g, layers.Dropout(0.1, name="two"), after="a3")
    as_announced(kg.build(g))
    assert len(runs) == 1
    # Many places of one edit, one run.
    kg.insert(donor, lambda node: layers.ZeroPadding1D(1), after="a*")
    assert len(runs) == 2
    # Inside a nested model: what changes no spec there runs nothing around it either.
    x = keras.Input((6, 4), name="x")
    outer = keras.Model(x, layers.Activation("relu")(chain()(x)), name="outer")
    kg.insert(outer, layers.Dropout(0.5), after="m/a1")
    assert len(runs) == 2


class Eager(layers.Layer):
    """Runs on numbers alone."""

    def call(self, x):
        if BACKEND == "jax":
            float(ops.sum(x))
        elif BACKEND == "tensorflow":
            x.numpy()
        elif x.device.type == "meta":
            raise RuntimeError("no meta")
        return x * 2

    def compute_output_shape(self, shape):
        return shape


class Never(layers.Layer):
    """Runs nowhere here: it waits for something outside."""

    def call(self, x):
        raise RuntimeError("not now")

    def compute_output_shape(self, shape):
        return shape


def test_what_cannot_be_tried_is_taken_at_its_word():
    eager = kg.replace(model(lambda y: Eager(name="c")(y)), "d", layers.Dense(5))
    assert eager.outputs[0].shape == (None, 6, 5)
    as_announced(eager) if BACKEND != "tensorflow" else None
    never = kg.replace(model(Never(name="c")), "d", layers.Dense(5))
    assert never.outputs[0].shape == (None, 6, 5)
    # What comes behind is tried nevertheless.
    with pytest.raises(kg.BuildError, match="LayerNormalization 'ln'"):
        kg.replace(
            model(lambda y: layers.LayerNormalization(name="ln")(Never()(y))), "d", layers.Dense(5)
        )


def test_lookups_sparse_inputs_and_quantized_layers():
    x = keras.Input((6,), dtype="int64" if BACKEND == "torch" else "int32", name="x")
    y = layers.IntegerLookup(vocabulary=[1, 2], output_mode="int", name="look")(x)
    y = layers.Embedding(5, 8, name="d")(y)
    ids = keras.Model(x, layers.Dense(2, name="out")(layers.Dropout(0.5, name="c")(y)), name="m")
    new = kg.replace(
        ids,
        ["d", "out"],
        lambda node: layers.Embedding(5, 3) if node.name == "d" else layers.Dense(2),
    )
    assert new.output_shape == (None, 6, 2)
    if BACKEND != "torch":
        s = keras.Input((8,), sparse=True, name="s")
        wide = keras.Model(s, layers.Dense(2, name="out")(layers.Dense(8, name="d")(s)), name="m")
        new = kg.replace(wide, ["d", "out"], lambda node: layers.Dense(5, name=f"n_{node.name}"))
        assert new.output_shape == (None, 5)
    for mode in ("int8", "float8"):
        donor = model(lambda y: layers.Dense(4, name="e")(layers.Dropout(0.5)(y)))
        donor.get_layer("e").quantize(mode)
        as_announced(kg.insert(donor, lambda y: ops.concatenate([y, y], axis=1), after="d"))
        with pytest.raises(kg.BuildError, match="Dense 'e'"):
            kg.replace(donor, "d", layers.Dense(5))
    donor = model(lambda y: layers.Dense(4, name="e")(y))
    donor.get_layer("e").enable_lora(2)
    as_announced(kg.insert(donor, lambda y: ops.concatenate([y, y], axis=1), after="d"))


@pytest.mark.parametrize("dtype", ["float64", "int64"])
def test_numbers_of_64_bits_whether_the_backend_has_them_or_not(dtype):
    # JAX keeps both in 32 bits, for the whole program, unless it is told otherwise.
    x = keras.Input((4,), dtype=dtype, name="x")
    y = layers.Dense(4, dtype="float64", name="d")(ops.cast(x, dtype) * 2)
    donor = keras.Model(x, layers.ReLU(dtype="float64", name="r")(y), name="m")
    new = kg.replace(donor, "d", layers.Dense(3, dtype="float64"))
    new = kg.insert(new, lambda y: ops.cast(ops.cast(y, dtype), "float64"), before="r")
    assert new.output_shape == (None, 3)
    assert new.output.dtype == "float64"
    data = np.arange(8).reshape(2, 4).astype(dtype)
    given = keras.backend.standardize_dtype(new(data).dtype)
    assert given == ("float32" if BACKEND == "jax" else "float64")


def test_a_layer_that_says_something_else_than_it_gives():
    class Liar(layers.Layer):
        def call(self, x):
            return ops.concatenate([x, x], axis=-1)

        def compute_output_shape(self, shape):
            return shape

    stack = keras.Sequential([keras.Input((6, 4)), layers.Dense(8, name="d")])
    with pytest.raises(kg.BuildError, match=r"announces \(\?, 6, 8\), but returns \(2, 6, 16\)"):
        kg.insert(stack, Liar(), after="d")


@pytest.mark.parametrize("make", [lambda: layers.Dropout(0.3), lambda: layers.PReLU()])
def test_a_layer_that_gives_another_dtype_than_it_says_is_refused(make):
    ids = keras.Input((4,), dtype="int32", name="ids")
    mask = keras.ops.not_equal(ids, 0)
    model = keras.Model(ids, layers.Embedding(3, 2, name="embed")(keras.ops.cast(mask, "int32")))
    x = np.array([[0, 1, 2, 0]], "int32")
    before = keras.ops.convert_to_numpy(model(x))
    try:
        new = kg.insert(model, make(), after="not_equal")
    except kg.GraftError as error:
        assert "cannot run on its inputs" in str(error) and "bool" in str(error)
    else:  # some backends take flags for numbers
        for node in kg.read(new):
            (value,) = node.values
            given = kg.submodel(new, outputs=value)(x)
            assert keras.backend.standardize_dtype(given.dtype) == value.spec.dtype
    assert np.array_equal(before, keras.ops.convert_to_numpy(model(x)))


def test_a_mask_that_is_no_longer_read_is_no_input_of_which_a_spec_is_known():
    x = keras.Input((4, 3), name="x")
    y = layers.LSTM(3, return_sequences=True, name="lstm")(layers.Masking(name="masking")(x))
    model = keras.Model(x, layers.GRU(2, name="gru")(y))
    with pytest.raises(kg.BuildError, match="lstm") as error:
        kg.replace(model, "masking", lambda t: keras.ops.concatenate([t, t], axis=-1))
    assert "expected (?, 4, 3) float32, found (?, 4, 6) float32" in str(error.value)


def test_a_state_that_comes_from_what_is_read_too():
    x = keras.Input((4, 3), name="x")
    state = layers.GlobalAveragePooling1D(name="mean")(x)
    model = keras.Model(x, layers.GRU(3, name="gru")(x, initial_state=state), name="m")
    with pytest.raises(kg.BuildError, match="GRU 'gru'.* cannot run on its inputs"):
        kg.remove(model, "mean", keep="x")


def test_a_mask_of_another_length_than_what_it_masks():
    keras.utils.clear_session(free_memory=False)
    ids = keras.Input((4,), dtype="int32", name="ids")
    y = layers.Embedding(3, 3, mask_zero=True, name="embed")(ids)
    model = keras.Model(ids, layers.LSTM(3, name="lstm")(y), name="m")
    words = (
        r"'not_equal', the mask of 'embed', would be \(\?, 3\) bool, and does not fit \(\?, 4, 3\)"
    )
    with pytest.raises(kg.BuildError, match=words):
        kg.insert(model, lambda x: x[:, :3], between=("ids", "not_equal"))
    shorter = kg.insert(model, lambda x: x[:, :3], after="ids")
    assert kg.extract(shorter, "embed").output_shape == (None, 3, 3)
