"""What each cut of a model would cost and save."""

import keras
import numpy as np
import pytest
from feature_helpers import donor, images
from keras import layers

import keras_graft as kg


def test_advice_says_what_each_cut_takes_and_saves():
    advice = kg.features.advise(donor(), images()[0])
    rows = {cut.name: (each, total, share) for cut, each, total, share in advice.rows}
    stem, block = 36 * 27 * 6, 36 * 54 * 6
    assert rows["stem"] == (864, 43200, pytest.approx(stem / (stem + block + 24)))
    assert rows["pool"] == (24, 1200, pytest.approx((stem + block) / (stem + block + 24)))
    assert "bytes in all" in str(advice) and list(rows)[0] == "stem"
    with pytest.raises(kg.FeatureError, match="how many samples it has"):
        kg.features.advise(donor(), iter([]))
    for none in (0, -5):
        with pytest.raises(kg.FeatureError, match=f"There are {none} samples: give a number of 1"):
            kg.features.advise(donor(), none)


def test_advice_counts_what_a_layer_does_at_each_place():
    x = keras.Input((10, 3), dtype="float64", name="x")
    h = layers.LSTM(4, name="all", return_sequences=True)(x)
    h = layers.LSTM(4, name="last", dtype="float64")(h)
    model = keras.Model(x, layers.Dense(5, name="out")(h))
    work = np.array([10 * 16 * 7, 10 * 16 * 8, 20])
    for given in (model, kg.freeze(model)):
        rows = kg.features.advise(given, np.int64(7)).rows
        assert [cut.name for cut, *_ in rows] == ["all", "last"]
        assert [each for _, each, *_ in rows] == [160, 32]
        shares = [share for *_, share in rows]
        np.testing.assert_allclose(shares, np.cumsum(work)[:2] / work.sum())
        assert rows[0].bytes_in_all == 7 * rows[0].bytes_per_sample
    image = keras.Input((None, 4, 2))
    up = layers.Conv2DTranspose(3, 2, strides=2, name="up")(image)
    down = layers.Conv2D(1, 1, name="down")(up)
    (cut, each, total, share) = kg.features.advise(keras.Model(image, down), 9).rows[0]
    assert cut.name == "up" and each is None and total is None
    np.testing.assert_allclose(share, 4 * 24 / (4 * 24 + 2 * 8 * 3))  # what is open counts as one


def test_advice_looks_into_layers():
    def work(model):
        """The multiplications below the last cut, where those above are 7."""
        share = kg.features.advise(model, 1).rows[-1][-1]
        return 7 * share / (1 - share)

    def behind(x, y):
        if len(y.shape) > 2:
            y = layers.Reshape((-1,))(y)
        y = layers.Dense(1, use_bias=False, name="narrow")(y)
        return keras.Model(x, layers.Dense(7, use_bias=False, name="last")(y))

    frames = keras.Input((5, 8, 8, 3))
    each = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(2, 3), layers.GlobalAveragePooling2D()]
    )
    np.testing.assert_allclose(
        work(behind(frames, layers.TimeDistributed(each)(frames))), 5 * 36 * 54 + 10
    )
    x = keras.Input((5, 4))
    heads = layers.EinsumDense("abc,cde->abde", (5, 3, 2))(x)
    np.testing.assert_allclose(work(behind(x, heads)), 5 * 24 + 30)
    wide = layers.EinsumDense("...c,cd->...d", 6)(x)
    np.testing.assert_allclose(work(behind(x, wide)), 5 * 24 + 30)
    opened = layers.EinsumDense("abc,cd->abd", (None, 6))(x)
    pooled = layers.GlobalAveragePooling1D()(opened)
    np.testing.assert_allclose(work(behind(x, pooled)), 5 * 24 + 6)
    attention = layers.MultiHeadAttention(2, 3)(x, x)
    pairs = 2 * 5 * 5 * (3 + 3)  # of each head, with keys and values
    np.testing.assert_allclose(work(behind(x, attention)), 5 * 4 * 24 + pairs + 20)


def test_advice_knows_that_embeddings_of_keras_hub_are_looked_up():
    hub = pytest.importorskip("keras_hub").layers
    ids = keras.Input((6,), dtype="int32")
    both = hub.TokenAndPositionEmbedding(vocabulary_size=50, sequence_length=6, embedding_dim=4)
    h = layers.Dense(4, name="h")(both(ids))
    logits = both.token_embedding(h, reverse=True)
    (before, after) = [share for *_, share in kg.features.advise(keras.Model(ids, logits), 1).rows]
    assert before == 0
    np.testing.assert_allclose(after, 16 / (16 + 200))


def test_advice_knows_that_a_frozen_embedding_multiplies_nothing():
    ids = keras.Input((6,), dtype="int32")
    h = layers.Embedding(50, 4, name="embedding")(ids)
    model = kg.freeze(keras.Model(ids, layers.Dense(2)(layers.Dense(4, name="h")(h))))
    assert [share for *_, share in kg.features.advise(model, 1).rows] == [0, pytest.approx(2 / 3)]
