"""Models with code of their own as graphs: sizes, lengths, weights, paths, what stays closed."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_graft as kg

register = keras.saving.register_keras_serializable("test_opening")


def array(tensor):
    return ops.convert_to_numpy(tensor)


def flat(graph):
    """Build a graph with nothing closed in it, as a Functional."""
    return kg.build(kg.inline(graph).replace(name="flat", origin=None, past=None))


@register
class Block(layers.Layer):
    """Residual, a raw weight, and a size that is read."""

    def __init__(self, width=6, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.up = layers.Dense(2 * width, activation="relu", name="up")
        self.down = layers.Dense(width, name="down")

    def build(self, shape):
        self.scale = self.add_weight(shape=(self.width,), name="scale", regularizer="l2")
        self.up.build(shape)
        self.down.build((*shape[:-1], 2 * self.width))

    def call(self, x):
        batch, length, width = ops.shape(x)
        h = ops.reshape(self.down(self.up(x)), (batch * length, width))
        return x + ops.reshape(h, (batch, length, width)) * self.scale

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@register
class Tiny(keras.Model):
    """A language model with a tied head."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.tokens = layers.Embedding(11, 6, name="tokens")
        self.positions = layers.Embedding(32, 6, name="positions")
        self.blocks = [Block(name=f"block_{i}") for i in range(2)]

    def call(self, ids):
        x = self.tokens(ids) + self.positions(ops.arange(ops.shape(ids)[1]))
        for block in self.blocks:
            x = block(x)
        return ops.matmul(x, ops.transpose(self.tokens.embeddings))


IDS = np.array([[1, 2, 3, 4], [5, 6, 0, 0]])
LONG = np.arange(27).reshape(3, 9) % 11


def tiny():
    model = Tiny(name="tiny")
    model(IDS)
    return model, kg.read(model, keras.Input((None,), dtype="int32"))


def test_a_language_model_is_a_graph_of_blocks():
    model, graph = tiny()
    labels = [node.label for node in graph]
    assert labels[:2] == ["tokens", "arange"] and labels[-1] == "matmul"
    blocks = [node for node in graph if node.nested is not None]
    assert [node.label for node in blocks] == ["block_0", "block_1"]
    assert [node.path for node in kg.select(graph, "block_*/down")] == [
        "block_0/down",
        "block_1/down",
    ]
    built = flat(graph)
    for ids in (IDS, LONG):
        np.testing.assert_array_equal(array(built(ids)), array(model(ids)))
    assert {id(w) for w in built.weights} == {id(w) for w in model.weights}
    assert built.count_params() == model.count_params()
    assert len(built.losses) == len(model.losses) == 2


def test_the_tied_head_is_stored_once(tmp_path):
    model, graph = tiny()
    built = flat(graph)
    built.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(array(loaded(LONG)), array(model(LONG)))
    assert loaded.count_params() == model.count_params() and len(loaded.losses) == 2
    with pytest.warns(kg.GraftWarning, match="is a plain Functional: its donor is a Tiny"):
        edited = kg.build(kg.insert(graph, layers.ReLU(name="r"), after="block_0"))
    edited.save(tmp_path / "e.keras")
    loaded = keras.models.load_model(tmp_path / "e.keras")
    np.testing.assert_array_equal(array(loaded(LONG)), array(edited(LONG)))
    assert loaded.count_params() == model.count_params()


def test_untouched_it_stays_its_class_and_a_cut_needs_no_weight_of_the_front():
    model, graph = tiny()
    again = kg.build(graph)
    assert type(again) is Tiny and again is not model and again.weights[0] is model.weights[0]
    np.testing.assert_array_equal(array(again(LONG)), array(model(LONG)))
    copy = kg.build(graph, weights="copy")
    assert type(copy) is Tiny and copy.weights[0] is not model.weights[0]
    trunk, head = (kg.build(part) for part in kg.split(graph, "block_0"))
    np.testing.assert_array_equal(array(head(trunk(LONG))), array(model(LONG)))


def test_reading_leaves_nothing_behind():
    model, _ = tiny()
    before = {id(x): (dict(vars(x)), len(x._inbound_nodes)) for x in model._flatten_layers()}
    keras.utils.clear_session(free_memory=False)
    kg.explain(model, keras.Input((None,), dtype="int32"))
    for layer in model._flatten_layers():
        known, nodes = before[id(layer)]
        assert {k: id(v) for k, v in vars(layer).items()} == {k: id(v) for k, v in known.items()}
        assert len(layer._inbound_nodes) == nodes
    assert layers.Add().name == "add" and keras.KerasTensor.__eq__ is object.__eq__


class Code(keras.Model):
    def __init__(self, code):
        super().__init__(name="code")
        self.code, self.dense = code, layers.Dense(4)

    def call(self, x):
        return self.code(self.dense(x), ops.shape(x)[1])


def rolled(x, n):
    half = ops.shape(x)[0] // 2
    return ops.concatenate([x[half:], x[:half]], 0)


EXACT = [
    lambda x, n: ops.pad(x, [[0, 0], [0, (-n) % 8], [0, 0]]),
    lambda x, n: ops.reshape(x, (-1, n * 4)),
    lambda x, n: x * ops.cast(n, "float32"),
    lambda x, n: x[:, : n // 2] ** 2,
    lambda x, n: x[:, : divmod(n, 2)[0]] * ops.cast(n**2 + 2 % n, "float32"),
    lambda x, n: x * (1 / ops.cast(n, x.dtype)),
    rolled,
]
OF_SIZES = [
    (lambda x, n: x[:, :-1] if n % 2 else x, r"other sizes \(line \d+ of test_opening.py: .*% 2"),
    (lambda x, n: x * 2 if n == 1 else x, "compares a size that is not known"),
    (lambda x, n: x * {32: 2.0}.get(n, 1.0), "looks up a size that is not known"),
    (lambda x, n: x * float(n), "makes a Python float of a size that is not known"),
    (lambda x, n: x * (1 / n), r"keras.ops.cast\(n, x.dtype\) makes a tensor"),
    (lambda x, n: x * n**0.5, "makes a Python float of a size that is not known"),
    (lambda x, n: sum(x[:, i] for i in range(n)), r"other sizes \(line \d+ of .*range\(n\)"),
    (lambda x, n: x * min(n, 100), "compares a size that is not known"),
]


@pytest.mark.parametrize("code", EXACT)
def test_sizes_are_read_when_it_runs(code):
    model = Code(code)
    model(np.ones((2, 16, 3), "float32"))
    built = flat(kg.read(model, keras.Input((None, 3))))
    for shape in ((4, 5, 3), (3, 32, 3), (1, 17, 3), (6, 64, 3)):
        x = np.random.default_rng(0).standard_normal(shape).astype("float32")
        np.testing.assert_array_equal(array(built(x)), array(model(x)))


@pytest.mark.parametrize(("code", "words"), OF_SIZES)
def test_code_that_depends_on_a_size_is_refused(code, words):
    model = Code(code)
    model(np.ones((2, 16, 3), "float32"))
    with pytest.raises(kg.ReadError, match=words):
        kg.read(model, keras.Input((None, 3)))
    kg.read(model, np.ones((2, 16, 3), "float32"))  # the way out: sizes that are known


class Cross(layers.Layer):
    """One input is as long as another, and a third is not."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)

    def call(self, x, weight, memory):
        x = x + ops.reshape(ops.arange(ops.shape(x)[1], dtype="float32"), (1, -1, 1)) * weight
        m = self.dense(memory) * ops.cast(ops.shape(memory)[1], "float32")
        return x + ops.mean(m, axis=1, keepdims=True)


def test_lengths_that_may_differ_are_told_apart():
    x, w, m = (keras.Input((None, 4), name=n) for n in "xwm")
    model = keras.Model([x, w, m], Cross(name="cross")(x, w, m))
    built = kg.inline(model, "cross")
    rng = np.random.default_rng(0)
    for n, k in ((3, 7), (7, 3), (5, 5)):
        data = [rng.standard_normal((2, i, 4)).astype("float32") for i in (n, n, k)]
        np.testing.assert_array_equal(array(built(data)), array(model(data)))


@register
class Twice(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block = Block(4, name="block")

    def call(self, x):
        return self.block(self.block(x))


def test_a_block_called_twice_is_edited_in_one_call_or_in_both(tmp_path):
    model = Twice(name="twice")
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype("float32")
    model(x)
    graph = kg.read(model, keras.Input((None, 4)))
    assert [node.path for node in kg.select(graph, "block#1/up")] == ["block#1/up"]
    for target, count in (("block#1/up", 1), ("block/up", 2)):
        with pytest.warns(kg.GraftWarning):
            edited = kg.build(kg.insert(graph, lambda n: layers.ReLU(), after=target))
        known = [n for n in kg.select(edited, layers.ReLU)]
        assert len(known) == count
        edited.save(tmp_path / "m.keras")
        loaded = keras.models.load_model(tmp_path / "m.keras")
        np.testing.assert_array_equal(array(loaded(x)), array(model(x)))  # it was a ReLU already
        assert loaded.count_params() == model.count_params()


class Masked(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embed = layers.Embedding(5, 6, mask_zero=True, name="embed")
        self.dense = layers.Dense(6, name="dense")

    def call(self, ids):
        return self.dense(self.embed(ids))


class Reads(keras.Model):
    def __init__(self):
        super().__init__(name="reads")
        self.masked, self.lstm = Masked(name="masked"), layers.LSTM(3, name="lstm")

    def call(self, ids):
        return self.lstm(self.masked(ids))


def test_a_mask_made_inside_a_block_reaches_the_layer_behind():
    model, ids = Reads(), np.array([[1, 2, 0], [3, 0, 0]])
    model(ids)
    graph = kg.read(model, keras.Input((None,), dtype="int32"))
    assert graph.node(graph.nodes[0]).nested is not None
    edited = kg.insert(graph, layers.Identity(), after="masked/embed").replace(past=None)
    for built in (flat(graph), kg.build(edited)):
        np.testing.assert_array_equal(array(built(ids)), array(model(ids)))


class Base(keras.Model):
    def __init__(self):
        super().__init__(name="base")
        self.norm = layers.BatchNormalization(name="norm")
        self.drop = layers.Dropout(0.5, name="drop")

    def call(self, x):
        # Keras hands a flag on to the calls behind it, so the Dropout comes first.
        return self.norm(self.drop(x), training=False)


def test_a_flag_that_code_sets_itself_stays():
    model, x = Base(), np.random.default_rng(0).standard_normal((8, 4)).astype("float32")
    model(x)
    built = flat(kg.read(model, x))
    assert [type(layer).__name__ for layer in built.layers[1:]] == ["Dropout", "FixedTraining"]
    built.compile("sgd", "mse")
    before = array(model.norm.moving_mean).copy()
    built.fit(x, x, verbose=0)
    np.testing.assert_array_equal(array(model.norm.moving_mean), before)
    follows = array(built(x, training=True)) != array(built(x))
    assert follows.any()  # the Dropout does what the model is told


def test_what_is_opened_and_what_stays_closed():
    x = keras.Input((None, 6), name="x")
    y = layers.MultiHeadAttention(2, 3, name="attend")(Block(name="block")(x), x)
    model = keras.Model(x, y, name="net")
    assert [n.nested is None for n in kg.read(model)] == [True, True]
    assert [n.nested is None for n in kg.read(model, open="**")] == [False, True]
    assert [n.nested is None for n in kg.read(model, open="attend")] == [True, False]
    assert [n.nested is None for n in kg.read(model, open="**", leaves=[Block])] == [True, True]
    assert kg.select(model, "**/query").labels == ["attend/query"]
    assert kg.select(model, "block/*").labels[:2] == ["block/up", "block/down"]
    with pytest.raises(kg.NothingSelectedError, match="'block/uq'. Nearest: 'block/up'"):
        kg.select(model, "block/uq")
    text = str(kg.explain(model))
    assert "attend  MultiHeadAttention                a layer of Keras: name it to open it" in text
    with pytest.raises(kg.ReadError, match="open= takes paths, got 3"):
        kg.read(model, open=3)
    with pytest.raises(kg.ReadError, match="'net' has inputs already: inputs= is for a model"):
        kg.read(model, inputs=np.ones((2, 3, 6)))


def test_weights_are_copied_by_address_both_ways():
    """The block is the user's own on one side, and a Functional with a `Weight` on the other."""
    (first, _), (second, graph), (third, _) = tiny(), tiny(), tiny()
    with pytest.warns(kg.GraftWarning):
        edited = kg.build(kg.insert(graph, layers.ReLU(name="r"), after="block_0/up"))
    assert not np.array_equal(array(first(LONG)), array(second(LONG)))
    kg.transplant(first, edited)
    kg.transplant(edited, third)
    np.testing.assert_array_equal(array(edited(LONG)), array(first(LONG)))
    np.testing.assert_array_equal(array(third(LONG)), array(first(LONG)))


@register
class Loss(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, name="dense")

    def call(self, x):
        y = self.dense(x)
        self.add_loss(ops.mean(y))
        return y


@register
class LossOfLeaf(layers.Layer):
    def call(self, x):
        self.add_loss(ops.mean(x))
        return x


class Beside(keras.Model):
    """Calls a layer for its loss alone."""

    def __init__(self, beside):
        super().__init__(name="beside")
        self.beside, self.out = beside, layers.Dense(2, name="out")

    def call(self, x):
        self.beside(x)
        return self.out(x)


def test_a_loss_counts_where_nothing_needs_the_result(tmp_path):
    x = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")
    model = Beside(Loss(name="loss"))
    expected, losses = array(model(x)), array(model.losses[0])
    built = flat(kg.read(model, x))
    built.save(tmp_path / "m.keras")
    for made in (built, keras.models.load_model(tmp_path / "m.keras")):
        np.testing.assert_array_equal(array(made(x)), expected)
        np.testing.assert_array_equal([array(loss) for loss in made.losses], [losses])
    model = Beside(LossOfLeaf(name="leaf"))
    model(x)
    with pytest.raises(kg.ReadError, match="its graph adds 0 losses, and its code 1"):
        kg.read(model, x)
