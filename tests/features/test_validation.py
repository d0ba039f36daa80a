"""What a head is validated on, how classes are counted, and what the report says of it."""

import json

import keras
import numpy as np
import pytest
from feature_helpers import donor, images, run
from keras import layers

import keras_graft as kg
from keras_graft.features import FeatureDataset
from keras_graft.features.head.classes import classes_of, divided
from keras_graft.features.head.heads import made

K = keras.ops.convert_to_numpy


def fit(data, **kwargs):
    kwargs = {"head": 4, "progress": False, **kwargs}
    return kg.features.fit_head(donor(), "pool", data, **kwargs)


def sorted_by_class(n=60):
    """As a folder of images gives them: one class after the other."""
    x, _ = images(n)
    return x, np.arange(n) * 4 // n


def test_each_class_is_divided_in_the_same_proportion():
    done = fit(sorted_by_class(), validation_split=0.2)
    assert done.training.classes == {0: 12, 1: 12, 2: 12, 3: 12}
    assert done.validation.classes == {0: 3, 1: 3, 2: 3, 3: 3}
    assert done.training.samples == 48 and done.validation.samples == 12


@pytest.mark.once
@pytest.mark.parametrize("counts", [[50, 30, 20], [97, 2, 1], [1, 1, 1], [10] * 10, [3]])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_proportions_are_kept_as_far_as_whole_samples_allow(counts, share):
    classes = np.repeat(np.arange(len(counts)), counts)
    rows = np.arange(100, 100 + len(classes))
    training, validation = divided(rows, classes, share, 7)
    assert sorted([*training, *validation]) == rows.tolist()
    assert len(validation) == round(len(rows) * share)
    for one, count in enumerate(counts):
        got = (classes[validation - 100] == one).sum()
        assert got <= max(count - 1, 0) or len(validation) > len(rows) - len(counts)
        assert abs(got - count * share) < 1.5
    again = divided(rows, classes, share, 7)
    np.testing.assert_array_equal(validation, again[1])
    if len(rows) == 100:
        assert divided(rows, classes, share, 8)[1].tolist() != validation.tolist()


@pytest.mark.once
@pytest.mark.parametrize("targets, found", [
    (np.arange(20) % 3, np.arange(20) % 3),
    (np.arange(20)[:, None] % 3, np.arange(20) % 3),
    (np.eye(3, dtype="float32")[np.arange(20) % 3], np.arange(20) % 3),
    (np.arange(20) % 2 == 0, np.arange(20) % 2 == 0),
    (np.arange(20), None),  # as many values as samples: numbers
    (np.arange(20) % 3 - 1, None),
    (np.linspace(0, 1, 20), None),
    (np.ones((20, 3), "float32"), None),
    (np.eye(3)[np.arange(20) % 3] * 2, None),
    (np.zeros((20, 2, 2), int), None),
    ({"a": np.arange(20) % 3}, None),
    (None, None),
])  # fmt: skip
def test_which_targets_are_classes(trunk, tmp_path, targets, found):
    x, _ = images(20)
    got = classes_of(run(trunk, x if targets is None else (x, targets), tmp_path))
    assert (got is None) == (found is None)
    if found is not None:
        np.testing.assert_array_equal(got, found)


def test_validation_data_has_its_own_store(tmp_path):
    x, y = sorted_by_class()
    other = images(20, seed=1)
    done = fit((x, y), validation_data=other, store=tmp_path / "s", epochs=2)
    assert done.validation_store.path == str(tmp_path / "s-validation")
    assert done.training.samples == 60 and done.validation.samples == 20
    pooled = kg.split(donor(), at="pool")[0]
    assert done.history.history["val_loss"][-1] == pytest.approx(done.validation.final["loss"])
    whole = done.model
    whole.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    loss, accuracy = whole.evaluate(*other, verbose=0)
    assert done.validation.final["loss"] == pytest.approx(loss, rel=1e-3)
    assert done.validation.final["accuracy"] == pytest.approx(accuracy)
    assert pooled.count_params() and len(done.validation_store) == 20


def test_a_generator_is_read_once():
    x, y = sorted_by_class()
    read = []

    def generator():
        for i in range(0, 60, 20):
            read.append(i)
            yield x[i : i + 20], y[i : i + 20]

    done = fit(generator(), validation_data=generator(), epochs=1)
    assert sorted(read) == [0, 0, 20, 20, 40, 40]
    assert len(done.store) == len(done.validation_store) == 60


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow",
    reason="TensorFlow keeps the datasets of generators: there it is deleted when Python exits",
)
def test_without_a_folder_the_store_is_deleted_with_the_report():
    from pathlib import Path

    done = fit(sorted_by_class())
    folder = Path(done.store.path).parent
    assert folder.exists()
    del done
    import gc

    gc.collect()
    assert not folder.exists()


@pytest.mark.parametrize("y, loss, outputs", [
    (np.arange(60) % 4, "sparse_categorical_crossentropy", 4),
    (np.eye(4, dtype="float32")[np.arange(60) % 4], "categorical_crossentropy", 4),
    (np.arange(60) % 2, "binary_crossentropy", 1),
])  # fmt: skip
def test_a_number_of_classes_is_a_head(y, loss, outputs):
    done = kg.features.fit_head(donor(), "add", (images(60)[0], y), head=outputs, progress=False)
    assert [layer.name for layer in done.head.layers] == ["features", "head_pool", "predictions"]
    assert done.head.loss == loss and done.model.output_shape == (None, outputs)
    assert "accuracy" in done.training.final
    total = done.model.predict(images(60)[0], verbose=0).sum(-1)
    if outputs > 1:
        np.testing.assert_allclose(total, 1, rtol=1e-5)


def test_a_loss_of_logits_gets_logits():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    done = fit(sorted_by_class(), compile={"optimizer": "sgd", "loss": loss})
    assert done.head.layers[-1].activation is keras.activations.linear


@pytest.mark.once
@pytest.mark.parametrize("loss, activation", [
    ("mse", "linear"), ("sparse_categorical_crossentropy", "softmax"), ("mae", "linear"),
    (keras.losses.MeanSquaredError(), "linear"), (keras.losses.CategoricalHinge(), "linear"),
    (keras.losses.SparseCategoricalCrossentropy(), "softmax"),
    (keras.losses.SparseCategoricalCrossentropy(from_logits=True), "linear"),
    (keras.losses.sparse_categorical_crossentropy, "softmax"),
    (["sparse_categorical_crossentropy"], "softmax"), ({"predictions": "mse"}, "linear"),
    (keras.losses.CategoricalFocalCrossentropy(), "softmax"), ("kl_divergence", "softmax"),
    (lambda y, p: 0.0, "linear"),
])  # fmt: skip
def test_a_number_of_outputs_gives_what_the_loss_takes(loss, activation):
    head = made(3, kg.split(donor(), at="pool")[0], {"loss": loss})
    assert head.layers[-1].activation.__name__ == activation


def test_a_regression_learns_numbers_beyond_one():
    x, _ = images(60)
    y = x.mean((1, 2, 3)) * 20
    how = {"optimizer": keras.optimizers.Adam(0.1), "loss": "mse"}
    done = fit((x, y), head=1, compile=how, epochs=60)
    assert done.training.final["loss"] < 5


def test_the_joined_model_goes_on_where_the_head_stopped(tmp_path):
    x, y = sorted_by_class()
    done = fit((x, y), epochs=3)
    steps = int(done.head.optimizer.iterations)
    assert int(done.model.optimizer.iterations) == steps == 6
    found = done.model.evaluate(x, y, verbose=0, return_dict=True)
    assert found["accuracy"] == pytest.approx(done.training.final["accuracy"])
    tuned = kg.unfreeze(done.model, "block")
    assert int(tuned.optimizer.iterations) == steps
    momenta = [
        [
            K(v)
            for v in model.optimizer.variables
            if "predictions" in v.path and "momentum" in v.path
        ]
        for model in (done.head, tuned)
    ]
    assert momenta[0] and all(np.array_equal(a, b) for a, b in zip(*momenta, strict=True))
    tuned.fit(x, y, verbose=0)
    done.model.save(tmp_path / "m.keras")
    assert int(keras.models.load_model(tmp_path / "m.keras").optimizer.iterations) == steps


def test_layers_are_a_head():
    y = {"optimizer": "sgd", "loss": "sparse_categorical_crossentropy"}
    one = fit(sorted_by_class(), head=layers.Dense(4, "softmax"), compile=y)
    assert one.head.count_params() == 6 * 4 + 4
    several = [layers.Dense(5, "relu"), layers.Dropout(0.1), layers.Dense(4, "softmax")]
    two = fit(sorted_by_class(), head=several, compile=y)
    assert two.head.layers[1:] == several


def test_uneven_classes_are_counted_the_same_if_asked():
    x, _ = images(60)
    y = np.repeat([0, 1], [50, 10])
    plain = fit((x, y), head=2)
    assert 'classes are uneven, 10 to 50 samples: class_weight="balanced"' in str(plain)
    even = fit((x, y), head=2, class_weight="balanced")
    assert even.class_weight == {0: 0.6, 1: 3.0}
    assert "uneven" not in str(even)
    weights = np.where(y == 1, 3.0, 0.6)
    losses = {}
    for name, data, how in [("class", (x, y), "balanced"), ("sample", (x, y, weights), None)]:
        keras.utils.set_random_seed(1)
        done = fit(data, head=2, class_weight=how, epochs=2)
        losses[name] = done.history.history["loss"]
    np.testing.assert_allclose(losses["class"], losses["sample"], rtol=1e-4)
    with pytest.raises(kg.FeatureError, match="needs targets that are classes.*x, y, weights"):
        fit(
            (x, x.mean((1, 2))),
            head=layers.Dense(3),
            compile={"loss": "mse"},
            class_weight="balanced",
        )


def test_a_class_that_the_head_does_not_know_is_found_before_training():
    x, _ = images(60)
    y = np.repeat([0, 1, 2], [40, 10, 10])  # the first batch has only class 0
    with pytest.raises(kg.FeatureError, match="classes up to 2, but .* classes 0 to 1: head=3"):
        fit((x, y), head=2)
    with pytest.raises(kg.FeatureError, match="classes up to 2, but .* classes 0 to 1: head=3"):
        fit((x, y), head=1)


def test_the_report_as_text_data_and_html():
    x, y = sorted_by_class()
    done = fit((x, y), validation_split=0.2, epochs=3)
    said = str(done)
    for words in (
        "epoch  ", "val_accuracy", "at the end  accuracy", "validation  ", "class 3",
        "seconds to compile the trunk", "largest difference of the joined model on 32 samples, with features as float16",
        "frozen, in inference mode: bn, drop",
    ):  # fmt: skip
        assert words in said, (words, said)
    data = json.loads(json.dumps(done.to_dict()))
    assert len(data["epochs"]["val_loss"]) == 3 and data["checked"] == 32
    assert data["validation"]["classes"] == {"0": 3, "1": 3, "2": 3, "3": 3}
    assert data["validation"]["final"]["loss"] == pytest.approx(data["epochs"]["val_loss"][-1])
    page = done._repr_html_()
    assert (
        page.count("<svg") == 2
        and page.count("<polyline") == 4
        and "http" not in page.replace('xmlns="http://www.w3.org/2000/svg"', "")
    )


def test_a_long_training_is_printed_in_a_few_lines():
    done = fit(sorted_by_class(), epochs=40)
    lines = str(done).splitlines()
    numbers = [int(line.split()[0]) for line in lines[2:14]]
    assert lines[0] == "40 epochs, 12 of them shown"
    assert numbers[0] == 1 and numbers[-1] == 40 and lines[14] == ""


def test_several_inputs_and_outputs():
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    h = layers.Dense(5, name="h")(layers.Concatenate()([a, b]))
    model = keras.Model({"a": a, "b": b}, {"u": layers.Dense(2)(h), "v": layers.Dense(1)(h)})
    model.compile("sgd", {"u": "mse", "v": "mae"})
    rng = np.random.default_rng(0)
    x = {"a": rng.random((40, 4), "float32"), "b": rng.random((40, 3), "float32")}
    y = {"u": rng.random((40, 2), "float32"), "v": rng.random((40, 1), "float32")}
    done = kg.features.fit_head(model, "h", (x, y), validation_split=0.25, progress=False)
    assert done.training.classes is None and done.validation.samples == 10
    assert {"loss", "val_loss"} <= done.history.history.keys()


def test_the_dataset_gives_the_parts_that_fit_head_uses(trunk, tmp_path):
    x, y = sorted_by_class()
    done = fit((x, y), validation_split=0.2, seed=5, store=tmp_path / "s")
    part = FeatureDataset(done.store, 8, False, 5, 0.2, "validation")
    _, targets = part.to_numpy()
    assert np.bincount(targets).tolist() == [3, 3, 3, 3]
