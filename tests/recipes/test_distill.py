"""distill: the loss by hand, the student, the teacher left as it was, files, refusals."""

import json

import keras
import numpy as np
import pytest
from donor import unchanged
from keras import layers, ops

import keras_graft as kg
from keras_graft.recipes import distill
from keras_graft.testing import assert_same_outputs

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(12, 8, 8, 3)).astype("float32")
LABELS = RNG.integers(0, 4, 12)


def network(name, widths, end=None, norm=True):
    x = inputs = keras.Input((8, 8, 3), name=f"{name}_image")
    for i, width in enumerate(widths):
        x = layers.Conv2D(width, 3, padding="same", name=f"{name}_conv{i}")(x)
        if norm:
            x = layers.BatchNormalization(name=f"{name}_bn{i}")(x)
        x = layers.ReLU(name=f"{name}_relu{i}")(x)
    x = layers.MaxPooling2D(name=f"{name}_pool")(x)
    x = layers.Dropout(0.5, name=f"{name}_drop")(layers.Flatten(name=f"{name}_flat")(x))
    x = layers.Dense(4, activation=end, name=f"{name}_out")(x)
    return keras.Model(inputs, x, name=name)


PAIRS = {"small_relu0": "large_relu2", "small_pool": "large_pool"}


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def array(tensor):
    return np.array(ops.convert_to_numpy(tensor), "float64")


def by_hand(teacher, student, model, temperature, alpha, weight, pairs=PAIRS):
    """Return the loss in inference mode, in NumPy."""
    t, s = (array(m(IMAGES, training=False)) for m in (teacher, student))
    hard = -np.log(softmax(s)[np.arange(len(s)), LABELS]).mean()
    p, q = softmax(t / temperature), softmax(s / temperature)
    soft = (p * np.log(p / q)).sum(-1).mean() * temperature**2
    total = (1 - alpha) * hard + alpha * soft
    for i, (mine, its) in enumerate(pairs.items()):
        a = array(kg.extract(student, mine)(IMAGES, training=False))
        b = array(kg.extract(teacher, its)(IMAGES, training=False))
        if a.shape != b.shape:
            dense = model.get_layer(f"projection_{i}")
            a = a @ array(dense.kernel) + array(dense.bias)
        total += weight * ((a - b) ** 2).mean()
    return total


LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_loss_is_the_one_by_hand(alpha):
    teacher, student = network("large", (8, 8, 8)), network("small", (6,))
    model = distill(teacher, student, PAIRS, temperature=3.0, alpha=alpha, pair_weight=0.7)
    model.compile("sgd", LOSS)
    loss = model.evaluate(IMAGES, LABELS, batch_size=12, verbose=0)
    assert np.isclose(loss, by_hand(teacher, student, model, 3.0, alpha, 0.7), rtol=1e-4)


@pytest.mark.once
def test_regularizers_count_once():
    teacher, student = network("large", (8,)), network("small", (6,))
    student = kg.replace(
        student,
        "small_conv0",
        layers.Conv2D(6, 3, padding="same", kernel_regularizer="l2", name="small_conv0"),
    )
    model = distill(teacher, student, alpha=0.25)
    model.compile("sgd", LOSS)
    loss = model.evaluate(IMAGES, LABELS, batch_size=12, verbose=0)
    own = 0.01 * (array(student.get_layer("small_conv0").kernel) ** 2).sum()
    assert np.isclose(loss, own + by_hand(teacher, student, model, 4.0, 0.25, 0, {}), rtol=1e-4)


def test_fit_trains_the_student_and_nothing_else(tmp_path):
    teacher, student = network("large", (8, 8, 8)), network("small", (6,))
    flags = [w.trainable for w in teacher.weights]
    with unchanged(teacher, tmp_path):
        _trains(teacher, student)
    assert [w.trainable for w in teacher.weights] == flags


def _trains(teacher, student):
    count, config = len(student.trainable_weights), json.dumps(student.get_config())
    before = {w.path: array(w) for w in student.weights}
    model = distill(teacher, student, PAIRS)
    model.compile(keras.optimizers.Adam(0.01), LOSS, metrics=["accuracy"])
    losses = model.fit(IMAGES, LABELS, epochs=8, batch_size=12, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    # The statistics of the student's norm move, and the teacher's do not.
    moved = [w for w in student.weights if "seed" not in w.path]
    assert all(not np.array_equal(array(w), before[w.path]) for w in moved)
    assert len(model.trainable_weights) == count + 4  # with two projections
    assert json.dumps(student.get_config()) == config
    alone = model.student
    assert [layer.name for layer in alone.layers][1:] == [x.name for x in student.layers][1:]
    assert alone.get_layer("small_conv0") is student.get_layer("small_conv0")
    assert_same_outputs(student, alone, IMAGES)
    assert_same_outputs(student, model, IMAGES)


def test_it_is_saved_and_loaded(tmp_path):
    teacher, student = network("large", (8, 8, 8)), network("small", (6,))
    model = distill(teacher, student, PAIRS, alpha=0.25, temperature=2.0)
    model.compile("sgd", LOSS)
    model.fit(IMAGES, LABELS, batch_size=12, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same_outputs(model, loaded, IMAGES)
    assert_same_outputs(student, loaded.student, IMAGES)
    for m in (model, loaded):  # the optimizer too
        m.fit(IMAGES, LABELS, batch_size=12, shuffle=False, verbose=0)
    loss = loaded.evaluate(IMAGES, LABELS, batch_size=12, verbose=0)
    by = by_hand(teacher, loaded.student, loaded, 2.0, 0.25, 1.0)
    assert np.isclose(loss, by, rtol=1e-4)
    loaded.student.save(tmp_path / "student.keras")
    alone = keras.models.load_model(tmp_path / "student.keras")
    assert type(alone).__name__ == "Functional"
    assert_same_outputs(loaded.student, alone, IMAGES)


@pytest.mark.once
def test_the_teacher_and_the_student_run_once_in_a_batch():
    runs = []

    class Counted(layers.Layer):
        def call(self, x):
            runs.append(self.name)
            return x

    teacher, student = network("large", (8, 8, 8)), network("small", (6,))
    teacher = kg.insert(teacher, Counted(name="teacher_ran"), after="large_relu0")
    student = kg.insert(student, Counted(name="student_ran"), after="small_conv0")
    model = distill(teacher, student, PAIRS)
    model.compile("sgd", LOSS, run_eagerly=True)
    model.fit(IMAGES, LABELS, batch_size=4, verbose=0)  # a run on symbolic tensors too
    runs.clear()
    model.fit(IMAGES, LABELS, batch_size=4, verbose=0)
    assert sorted(runs) == ["student_ran"] * 3 + ["teacher_ran"] * 3


@pytest.mark.once
def test_probabilities_are_taken_as_such():
    teacher, student = network("large", (8,)), network("small", (6,))
    logits = distill(teacher, student)
    ends = [
        kg.replace(m, f"{m.name}_out", layers.Dense(4, "softmax", name=f"{m.name}_out"), "keep")
        for m in (teacher, student)
    ]
    mixed = distill(ends[0], kg.insert(student, layers.Softmax(name="end"), after="small_out"))
    losses = []
    for model in (logits, distill(*ends), mixed):
        model.compile("sgd", None)
        losses.append(model.evaluate(IMAGES, batch_size=12, verbose=0))
    assert np.allclose(losses, losses[0], rtol=1e-3)


@pytest.mark.once
def test_numbers_without_labels():
    teacher, student = network("large", (8,)), network("small", (6,))
    model = distill(teacher, student, temperature=None, alpha=1)
    model.compile("sgd", None)
    loss = model.evaluate(IMAGES, batch_size=12, verbose=0)
    by = ((array(teacher(IMAGES)) - array(student(IMAGES))) ** 2).mean()
    assert np.isclose(loss, by, rtol=1e-5)
    model.fit(IMAGES, verbose=0)


@pytest.mark.once
def test_several_inputs_and_outputs_and_a_pruned_teacher():
    a, b = keras.Input((4,), name="a"), keras.Input((6,), name="b")
    h = layers.Dense(8, activation="relu", name="h")(layers.Concatenate(name="c")([a, b]))
    outputs = {"z": layers.Dense(3, name="z")(h), "k": layers.Dense(2, name="k")(h)}
    teacher = keras.Model({"a": a, "b": b}, outputs, name="teacher")
    student = kg.clone(kg.prune(teacher, {"h": 0.5}))
    model = distill(teacher, student, {"h": "h"})
    x = {"a": RNG.normal(size=(5, 4)), "b": RNG.normal(size=(5, 6))}
    y = {"z": np.zeros((5, 3)), "k": np.zeros((5, 2))}
    model.compile("sgd", {"z": "mse", "k": "mse"})
    model.fit(x, y, verbose=0)
    assert set(model.student(x)) == {"z", "k"}
    assert_same_outputs(model, model.student, x)
    assert_same_outputs(student, model.student, x)


@pytest.mark.once
def test_mixed_precision_and_a_nested_tap():
    inner = keras.Input((8, 8, 5), name="inner")
    block = keras.Model(inner, layers.Conv2D(7, 1, name="c")(inner), name="block")
    x = keras.Input((8, 8, 3), name="x")
    with _policy("mixed_bfloat16"):
        y = layers.Conv2D(5, 1, name="first")(x)
        y = layers.GlobalAveragePooling2D(name="pool")(y)
        y = layers.Dense(4, name="out", dtype="float32")(y)
    student = keras.Model(x, y, name="student")
    t = layers.GlobalAveragePooling2D(name="gap")(block(layers.Conv2D(5, 1, name="stem")(x)))
    teacher = keras.Model(x, layers.Dense(4, name="logits")(t), name="teacher")
    model = distill(teacher, student, {"first": "block/c"})
    model.compile("sgd", LOSS)
    assert np.isfinite(model.fit(IMAGES, LABELS, verbose=0).history["loss"][0])
    assert model.get_layer("projection_0").compute_dtype == "bfloat16"


class _policy:
    def __init__(self, name):
        self.name = name

    def __enter__(self):
        self.old = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.name)

    def __exit__(self, *error):
        keras.config.set_dtype_policy(self.old)


@pytest.mark.once
def test_refusals():
    teacher, student = network("large", (8, 8)), network("small", (6,))

    def refused(words, *arguments, teacher=teacher, student=student, **named):
        with pytest.raises(kg.GraftError) as caught:
            distill(teacher, student, *arguments, **named)
        assert words in str(caught.value), str(caught.value)

    refused("alpha must be a number from 0 to 1", alpha=1.5)
    refused("alpha must be a number from 0 to 1", alpha=True)
    refused("pair_weight must be a number 0 or more", pair_weight=-1)
    refused("temperature must be a number above 0, or None", temperature=0)
    refused("pairs= is a dict from selectors of the student", ["small_relu0"])
    refused("'small_pool' of the student is (None, 4, 4, 6)", {"small_pool": "large_relu0"})
    refused("small_nothing", {"small_nothing": "large_relu0"})
    refused("large_nothing", {"small_relu0": "large_nothing"})
    other = keras.Model(x := keras.Input((9,)), layers.Dense(4)(x))
    refused("the inputs of the teacher are", student=other)
    five = kg.recipes.new_head(student, 5, at="small_flat")
    refused("kg.recipes.new_head(student, ...)", student=five)
    distill(teacher, kg.recipes.new_head(five, 4, at="small_flat"))  # the way out


@pytest.mark.once
@pytest.mark.parametrize("between", [True, False])
def test_a_projection_where_channels_come_first(between):
    def part(name, width, steps):
        x = keras.Input((3, steps, 8), name="x")
        h = layers.Conv2D(width, 3, data_format="channels_first", name=f"{name}_conv")(x)
        h = layers.ReLU(name=f"{name}_relu")(h)
        y = layers.Flatten(name=f"{name}_flat")(h)
        return keras.Model(x, layers.Dense(4, name=f"{name}_out")(y), name=name)

    teacher, student = part("large", 7, 8), part("small", 5, 8)
    tap = "relu" if between else "conv"
    pairs = {f"small_{tap}": f"large_{tap}"}
    model = distill(teacher, student, pairs, temperature=None, alpha=1.0)
    model.compile("sgd", None)
    x = RNG.normal(size=(6, 3, 8, 8)).astype("float32")
    loss = model.evaluate(x, batch_size=6, verbose=0)
    inside, its = (
        array(kg.extract(m, f"{m.name}_{tap}")(x, training=False)) for m in (student, teacher)
    )
    layer = model.get_layer("projection_0")
    inside = np.einsum("nchw,cd->ndhw", inside, array(layer.kernel))
    by = ((inside + array(layer.bias)[:, None, None] - its) ** 2).mean()
    by += ((array(student(x)) - array(teacher(x))) ** 2).mean()
    assert np.isclose(loss, by, rtol=1e-4)
    last = layers.Permute((2, 3, 1), name="p")(teacher.get_layer("large_conv").output)
    last = layers.Dense(4, name="end")(layers.Flatten(name="flat")(last))
    with pytest.raises(kg.EditError, match="only the axis of the channels may differ"):
        distill(keras.Model(teacher.input, last, name="last"), student, {"small_conv": "p"})
