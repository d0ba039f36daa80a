"""importance: by hand, on structures, from batches; what it refuses."""

import keras
import numpy as np
import pytest
from donor import unchanged
from keras import layers, ops

import keras_graft as kg

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(10, 4)).astype("float32"), RNG.normal(size=(10, 2)).astype("float32")


def network():
    x = keras.Input((4,), name="x")
    h = layers.Dense(6, activation="relu", name="a")(x)
    h = layers.Dropout(0.5, name="drop")(layers.BatchNormalization(name="bn")(h))
    return keras.Model(x, layers.Dense(2, name="b")(h), name="network")


def array(tensor):
    return np.array(ops.convert_to_numpy(tensor), "float64")


def by_hand(model, x, y):
    """Return the score of each unit of `a`: mean squared error, in NumPy."""
    names = ("kernel", "bias")
    (w, b), (v, c) = ([array(getattr(model.get_layer(n), k)) for k in names] for n in ("a", "b"))
    bn = model.get_layer("bn")
    scale = array(bn.gamma) / np.sqrt(array(bn.moving_variance) + bn.epsilon)
    z = x @ w + b
    h = np.maximum(z, 0)
    normed = (h - array(bn.moving_mean)) / np.sqrt(array(bn.moving_variance) + bn.epsilon)
    out = (normed * array(bn.gamma) + array(bn.beta)) @ v + c
    d = 2 * (out - y) / y.size @ v.T  # at the output of the norm
    score = np.abs(d.sum(0) * array(bn.beta)) + np.abs((d * normed).sum(0) * array(bn.gamma))
    d = d * scale * (z > 0)
    return score + np.abs(x.T @ d * w).sum(0) + np.abs(d.sum(0) * b)


def trained():
    model = network()
    for weight in model.weights:
        if "seed" not in weight.path:
            weight.assign(RNG.uniform(0.5, 1.5, weight.shape) * RNG.choice([-1, 1], weight.shape))
    model.get_layer("bn").moving_variance.assign(RNG.uniform(0.5, 1.5, 6))
    return model


def test_it_is_the_one_by_hand(tmp_path):
    model = trained()
    group = kg.group(model, "a")
    with unchanged(model, tmp_path):
        found = kg.importance(model, (X, Y), "mse")(group)
    assert np.allclose(found, by_hand(model, X, Y), rtol=1e-4)


def test_batches_are_added():
    model = trained()
    group = kg.group(model, "a")
    want = by_hand(model, X[:4], Y[:4]) + by_hand(model, X[4:8], Y[4:8])
    arrays = kg.importance(model, (X, Y), "mse", batches=2, batch_size=4)
    stream = kg.importance(model, ((X[i : i + 4], Y[i : i + 4]) for i in (0, 4)), "mse")
    assert arrays.batches == stream.batches == 2
    for each in (arrays, stream):
        assert np.allclose(each(group), want, rtol=1e-4)


def test_it_prunes():
    model = trained()
    by = kg.importance(model, (X, Y), "mse")
    gone = np.argsort(by_hand(model, X, Y))[:3]
    a = kg.prune(model, {"a": 0.5}, by=by)
    b = kg.prune(model, {"a": sorted(gone.tolist())})
    assert all(
        np.array_equal(array(x), array(y)) for x, y in zip(a.weights, b.weights, strict=True)
    )


@pytest.mark.once
def test_losses():
    model = trained()
    group = kg.group(model, "a")
    want = kg.importance(model, (X, Y), "mse")(group)
    model.compile("sgd", keras.losses.MeanSquaredError())
    assert np.allclose(kg.importance(model, (X, Y))(group), want)
    own = lambda y, p: ops.square(y - p)  # noqa: E731
    assert np.allclose(kg.importance(model, (X, Y), own)(group), want)
    # A structure of outputs: the sum of their losses, and one is left out.
    x = model.input
    two = keras.Model(x, {"p": model.output, "q": 2 * model.output})
    labels = {"p": Y, "q": Y}
    assert np.allclose(kg.importance(two, (X, labels), {"p": "mse", "q": None})(group), want)
    both = kg.importance(two, (X, labels), "mse")(group)
    assert not np.allclose(both, want)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(5, name="d"), layers.Dense(4)])
    data = X[:, :3], np.arange(10) % 4
    by = kg.importance(model, data, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert by(kg.group(model, "d")).shape == (5,)


@pytest.mark.once
def test_attention_embeddings_and_ties():
    ids = keras.Input((7,), dtype="int32", name="ids")
    h = layers.Embedding(11, 8, name="table")(ids)
    h = layers.Add(name="add")([h, layers.MultiHeadAttention(4, 2, name="attention")(h, h)])
    h = layers.Dense(6, activation="gelu", name="up")(h)
    h = layers.Dense(8, name="down")(h)
    model = keras.Model(ids, layers.Dense(11, name="head")(h))
    model = kg.tie(model, "head/kernel", "table/embeddings", transform="transpose")
    data = RNG.integers(0, 11, (6, 7)), RNG.integers(0, 11, (6, 7))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    by = kg.importance(model, data, loss)
    for name, count in (("attention", 4), ("up", 6), ("table", 8)):
        found = by(kg.group(model, name))
        assert found.shape == (count,) and (found > 0).all()
    small = kg.prune(model, {"attention": 1, "up": 0.5}, by=by)
    assert small.count_params() < model.count_params()


@pytest.mark.once
def test_refusals():
    model = trained()

    def refused(words, *given, **named):
        with pytest.raises(kg.RunError) as caught:
            kg.importance(*given, **named)
        assert words in str(caught.value), str(caught.value)

    refused("'network' is not compiled with a loss", model, (X, Y))
    refused("takes a Keras model", kg.read(model), (X, Y), "mse")
    refused("'nothing' is no loss", model, (X, Y), "nothing")
    refused("data gives no batch", model, [], "mse")
    refused("batches must be a whole number above 0", model, (X, Y), "mse", batches=0)
    refused("batch_size must be", model, (X, Y), "mse", batch_size=True)
    refused("a run raised", model, (X[:, :3], Y), "mse")
    refused("1 outputs, 2 labels", model, (X, [Y, Y]), "mse")
    model.get_layer("a").trainable = model.get_layer("bn").trainable = False
    by = kg.importance(model, (X, Y), "mse")
    with pytest.raises(kg.GraftError, match="no weight that computes the group of 'a' is trained"):
        kg.prune(model, {"a": 2}, by=by)
    kg.prune(model, {"a": 2}, by="magnitude")  # the way out


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("loss", ["mse", keras.losses.MeanSquaredError()])
def test_weights_of_samples_count(loss, batched):
    model = trained()
    weights = np.zeros(10, "float32")
    weights[:4] = 10 / 4
    data = [(X, Y, weights)] if batched else (X, Y, weights)
    found = kg.importance(model, data, loss)(kg.group(model, "a"))
    assert np.allclose(found, by_hand(model, X[:4], Y[:4]), rtol=1e-4)


def test_weights_of_losses_count():
    model = trained()
    two = keras.Model(model.input, {"out": model.output, "other": layers.Dense(1)(model.output)})
    two.compile("sgd", {"out": "mse", "other": "mse"}, loss_weights={"out": 2.0, "other": 0.0})
    labels = {"out": Y, "other": np.ones((10, 1))}
    found = kg.importance(two, (X, labels))(kg.group(two, "a"))
    assert np.allclose(found, 2 * by_hand(model, X, Y), rtol=1e-4)


@pytest.mark.once
def test_a_loss_of_the_models_own_is_not_ignored():
    class Own(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return ops.mean(y_pred)

    model = trained()
    own = Own(model.input, model.output)
    own.compile("sgd", "mse")
    with pytest.raises(kg.RunError, match="Own has a compute_loss"):
        kg.importance(own, (X, Y))
    found = kg.importance(own, (X, Y), own.loss)(kg.group(own, "a"))
    assert np.allclose(found, by_hand(model, X, Y), rtol=1e-4)
