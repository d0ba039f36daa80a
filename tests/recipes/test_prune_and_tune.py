"""prune_and_tune: the costs that were asked for, training that goes on, what is refused."""

import keras
import numpy as np
import pytest
from donor import unchanged
from keras import layers
from sklearn.datasets import load_digits

import keras_graft as kg
from keras_graft.recipes import prune_and_tune
from keras_graft.testing import assert_same_outputs

IMAGES, LABELS = load_digits(return_X_y=True)
IMAGES = (IMAGES.reshape(-1, 8, 8, 1) / 16).astype("float32")[:256]
LABELS = LABELS[:256]
DATA = IMAGES, LABELS


def network(optimizer=None, epochs=0, norm=True):
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((8, 8, 1), name="scan")
    for i in range(2):
        y = layers.Conv2D(12, 3, padding="same", name=f"conv{i}")(x)
        y = layers.BatchNormalization(name=f"bn{i}")(y) if norm else y
        x = layers.ReLU(name=f"relu{i}")(y if i == 0 else layers.Add(name="add")([x, y]))
    x = layers.Flatten(name="flat")(layers.MaxPooling2D(name="pool")(x))
    x = layers.Dense(16, activation="relu", name="hidden")(x)
    model = keras.Model(inputs, layers.Dense(10, name="digits")(x), name="network")
    if optimizer is not None:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, metrics=["accuracy"])
        if epochs:
            model.fit(*DATA, epochs=epochs, verbose=0)
    return model


def test_it_reaches_the_target_and_trains_on(tmp_path):
    model = network(keras.optimizers.Adam(0.01), 3)
    steps = int(model.optimizer.iterations)
    with unchanged(model, tmp_path):
        report = prune_and_tune(model, DATA, 0.5, steps=3, epochs=2)
    small, costs = report.model, [kg.costs(m).total for m in (model, report.model)]
    assert int(model.optimizer.iterations) == steps
    assert [s.multiply_adds for s in (report.steps[0], report.steps[-1])] == [
        c.multiply_adds for c in costs
    ]
    assert [s.parameters for s in (report.steps[0], report.steps[-1])] == [
        m.count_params() for m in (model, small)
    ]
    for i, step in enumerate(report.steps):
        share = step.multiply_adds / costs[0].multiply_adds
        assert 0.8 * 0.5 ** (i / 3) <= share <= 0.5 ** (i / 3)
        assert set(step.tuned) == {"loss", "accuracy"}
    # The state of the optimizer came along: 8 batches in each of 6 epochs.
    assert int(small.optimizer.iterations) == steps + 3 * 2 * 8 and report.fresh == ""
    assert report.steps[-1].tuned["loss"] < report.steps[-1].pruned["loss"]
    found = small.evaluate(*DATA, return_dict=True, verbose=0)
    assert found == pytest.approx(report.steps[-1].tuned, rel=1e-4)
    small.save(tmp_path / "small.keras")
    assert_same_outputs(small, keras.models.load_model(tmp_path / "small.keras"), IMAGES[:8])
    assert "loss pruned" in str(report) and "donor" in str(report)


@pytest.mark.once
@pytest.mark.parametrize("by", ["magnitude", "bn_scale", lambda group: np.arange(group.count)])
def test_other_importances_and_a_model_that_is_not_compiled(by):
    model = network()
    report = prune_and_tune(
        model, DATA, 0.6, steps=1, importance=by, layers=keras.layers.Conv2D,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), optimizer="sgd",
    )  # fmt: skip
    assert report.steps[-1].multiply_adds <= 0.6 * report.steps[0].multiply_adds
    assert report.model.get_layer("hidden").units == 16 and not model.compiled
    if callable(by):  # the first ones go: those that are left are the last of the donor
        count = report.model.get_layer("conv0").filters
        assert report.model.get_layer("conv1").filters == count < 12


@pytest.mark.once
def test_batches_keep_rounding_and_what_is_measured():
    model = network("adam", 1)
    batches = [(IMAGES[i : i + 64], LABELS[i : i + 64]) for i in range(0, 256, 64)]

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return batches[i]

    report = prune_and_tune(
        model, Batches(), 0.5, steps=2, keep="hidden", round_to=4, validation_data=batches[0]
    )
    small = report.model
    assert small.get_layer("hidden").units == 16
    assert small.get_layer("conv0").filters % 4 == 0
    held = model.evaluate(*batches[0], return_dict=True, verbose=0)
    assert report.steps[0].tuned == pytest.approx(held, rel=1e-4)


@pytest.mark.once
def test_an_optimizer_whose_state_cannot_be_sliced_starts_fresh():
    model = network(keras.optimizers.Adafactor(), 1)
    report = prune_and_tune(model, DATA, 0.7, steps=1, importance="random")
    assert "has the shape" in report.fresh
    assert "the optimizer starts fresh" in str(report)
    own = keras.optimizers.SGD(0.01)
    report = prune_and_tune(network("adam", 1), DATA, 0.7, steps=2, optimizer=own)
    assert report.fresh == "" and not own.built
    assert isinstance(report.model.optimizer, keras.optimizers.SGD)


@pytest.mark.once
def test_a_transformer():
    ids = keras.Input((None,), dtype="int32", name="ids")
    h = layers.Embedding(20, 16, name="table")(ids)
    a = layers.MultiHeadAttention(4, 4, name="attention")(h, h)
    h = layers.LayerNormalization(name="norm")(layers.Add(name="add")([h, a]))
    h = layers.Dense(32, activation="gelu", name="up")(h)
    h = layers.GlobalAveragePooling1D(name="pool")(layers.Dense(16, name="down")(h))
    model = keras.Model(ids, layers.Dense(2, activation="softmax", name="out")(h))
    model.compile("adam", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    data = rng.integers(0, 20, (32, 9)), rng.integers(0, 2, 32)
    with pytest.raises(kg.EditError, match="give input_shape="):
        prune_and_tune(model, data)
    report = prune_and_tune(model, data, 0.5, steps=2, input_shape=(9,), keep="norm")
    assert report.steps[-1].multiply_adds <= 0.5 * report.steps[0].multiply_adds


@pytest.mark.once
def test_refusals():
    model = network("adam")

    def refused(words, *given, **named):
        with pytest.raises(kg.GraftError) as caught:
            prune_and_tune(*given, **named)
        assert words in str(caught.value), str(caught.value)

    for wrong in (0.0, 1.0, 2, True, "half"):
        refused("target must be a number between 0 and 1", model, DATA, wrong)
    refused("steps must be a whole number above 0", model, DATA, steps=0)
    refused("takes a Keras model that is compiled", network(), DATA)
    refused("takes a Keras model that is compiled", kg.read(model), DATA)
    refused("by= must be", model, DATA, importance="nothing")
    refused("Give a larger target=, or select more layers=", model, DATA, 0.1, layers="hidden")
    prune_and_tune(model, DATA, 0.9, layers="conv*", steps=1)  # the way out
