"""A head learns from a store what it learns above its trunk."""

import ast
import re

import keras
import numpy as np
import pytest
from feature_helpers import Py, donor, images, run
from keras import layers

import keras_graft as kg
from keras_graft.features import FeatureDataset, compute


class Losses(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.losses = []

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(float(logs["loss"]))


class Ordered(keras.utils.PyDataset):
    """The images in the order in which a FeatureDataset gives their features."""

    def __init__(self, x, y, like):
        super().__init__()
        self.x, self.y, self.like = x, y, like

    def __len__(self):
        return len(self.like)

    def __getitem__(self, i):
        rows = self.like[i][1]
        return self.x[rows], self.y[rows]

    def on_epoch_end(self):
        self.like.on_epoch_end()


def losses(model, data):
    steps = Losses()
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(True))
    model.fit(data, epochs=3, shuffle=False, verbose=0, callbacks=[steps])
    return steps.losses


def test_every_step_has_the_loss_of_the_whole_model(tmp_path):
    trunk, head = kg.split(donor(), at="pool")
    trunk = kg.freeze(trunk)
    x, y = images()
    order = compute(trunk, (x, np.arange(50)), tmp_path / "order", progress=False)
    start = [w.copy() for w in head.get_weights()]
    found = {}
    for dtype in ("float32", "float16"):
        head.set_weights([w.copy() for w in start])  # on JAX training may write into what it got
        store = compute(trunk, (x, y), tmp_path / dtype, dtype=dtype, progress=False)
        found[dtype] = losses(head, FeatureDataset(store, 16, seed=5))
    head.set_weights([w.copy() for w in start])
    like = FeatureDataset(order, 16, seed=5)
    whole = losses(kg.join(trunk, head), Ordered(x, y, like))
    assert len(whole) == 12 and whole[0] != whole[-1]
    np.testing.assert_allclose(found["float32"], whole, rtol=1e-5)
    np.testing.assert_allclose(found["float16"], whole, rtol=2e-3)


def test_fit_head_in_one_line(tmp_path):
    model = donor()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True), metrics=["accuracy"])
    before = [w.copy() for w in model.get_weights()]
    x, y = images()
    y = (x.mean((1, 2)).argmax(-1)).astype("int64")
    done = kg.features.fit_head(
        model, "pool", (x, y), store=tmp_path / "s", epochs=3, validation_split=0.2, progress=False
    )
    assert len(done.history.history["val_loss"]) == 3 and "accuracy" in done.history.history
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert done.checked == 32 and done.difference < 1e-2 and done.speed_up > 0
    assert done.model.layers[1].layer is model.layers[1]
    assert [w.path for w in done.model.trainable_variables] == ["out/kernel", "out/bias"]
    assert "seconds an epoch through the whole model, at least" in str(done)
    done.model.save(tmp_path / "joined.keras")
    loaded = keras.models.load_model(tmp_path / "joined.keras")
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), done.model.predict(x, verbose=0), rtol=1e-5, atol=1e-6
    )
    new = keras.Sequential([keras.Input((6,)), layers.Dense(3, name="three")])
    with pytest.raises(kg.FeatureError, match="Nothing says how to train"):
        kg.features.fit_head(donor(), "pool", (x, y), store=tmp_path / "t")
    features = keras.Input((6,))
    two = keras.Model(features, [layers.Dense(4, "softmax")(features) for _ in "ab"])
    with pytest.raises(kg.FeatureError, match="'loss': .'sparse_cat.*', 'sparse_cat.*'.}") as told:
        kg.features.fit_head(donor(), "pool", (x, (y, y)), head=two)
    way_out = re.search("compile=({.*}),", str(told.value))[1]
    kg.features.fit_head(
        donor(), "pool", (x, (y, y)), head=two, compile=ast.literal_eval(way_out), progress=False
    )
    again = kg.features.fit_head(
        model, "pool", (x, y), store=tmp_path / "s", head=new, progress=False,
        compile={"optimizer": "sgd", "loss": keras.losses.SparseCategoricalCrossentropy(True)},
    )  # fmt: skip
    assert again.model.output.shape == (None, 3) and again.head is new


@pytest.mark.parametrize("make, more, says", [
    (lambda x, y: x, {}, "fit_head needs targets"),
    (lambda x, y: [], {}, "The data is empty"),
    (lambda x, y: (x, y), {"validation_split": 1.0}, "validation_split must be between 0 and 1"),
    (lambda x, y: (x, y), {"validation_data": 1, "validation_split": 0.1}, "split or validation_data, not b"),
    (lambda x, y: (x, y), {"validation_data": []}, "The validation_data is empty"),
    (lambda x, y: (x, y), {"views": 0}, "views must be a whole number, 1 or more, got 0"),
    (lambda x, y: (x, y), {"views": 2, "augment": "off"}, "or views=, not both; got 'off' and views=2"),
    (lambda x, y: (x, y), {"augment": "on"}, "Give augment=.off. or views=, not both; got 'on'"),
    (lambda x, y: (x, y), {"views": 2}, "'donor_trunk' has no layer that augments, so all 2 views"),
    (lambda x, y: (x, y), {"class_weight": "even"}, "class_weight must be .balanced. or a dict"),
    (lambda x, y: (x, y), {"sample_weight": 1}, r"takes no 'sample_weight': give data=\(x, y\) or"),
    (lambda x, y: (x, y), {"head": "three"}, "head must be a model, a layer, .* got 'three'"),
    (lambda x, y: (x, y), {"head": 3}, "classes up to 3, but the head .* 0 to 2: head=4, or number"),
    (lambda x, y: (x, x), {"head": 3}, "head=3 needs targets that are classes"),
    (lambda x, y: (x, y), {"head": layers.Conv2D(2, 1)}, "head cannot take the features, of shape"),
    (lambda x, y: (x, np.eye(5)[y]), {}, "cannot be trained on the first batch, .*6. and .*32, 5"),
    (lambda x, y: (x, y), {"batch_size": 0}, "batch_size must be a whole number, 1 or more, got 0"),
])  # fmt: skip
def test_fit_head_refuses_before_it_computes(tmp_path, make, more, says):
    model = donor()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    with pytest.raises(kg.FeatureError, match=says):
        kg.features.fit_head(
            model, "pool", make(*images()), store=tmp_path / "s", progress=False, **more
        )
    assert not (tmp_path / "s").exists()


def test_fit_head_takes_data_in_another_order_in_each_pass(tmp_path):
    x, y = images()

    class Shuffled(Py):
        passes = 0

        def __getitem__(self, i):
            Shuffled.passes += i == 0
            order = np.random.default_rng(Shuffled.passes).permutation(len(self.x))
            rows = order[i * 8 : i * 8 + 8]
            return self.x[rows], self.y[rows]

    model = donor()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    done = kg.features.fit_head(
        model, "pool", Shuffled(x, y), store=tmp_path / "s", dtype="float32", progress=False
    )
    numbers = done.store.find(x)
    assert sorted(numbers) == list(range(50)) and numbers.tolist() != list(range(50))
    assert done.store.take(numbers)["targets"].tolist() == y.tolist()
    assert done.difference < 1e-4 and done.checked == 8


def test_fit_head_finds_data_that_changes_in_each_pass_before_it_trains(tmp_path):
    x, y = images()

    class Augmented(Py):
        def __getitem__(self, i):
            x, y = super().__getitem__(i)
            return x + np.random.default_rng().random(x.shape, "float32"), y

    model = donor()
    model.compile("adam", "mse")
    head = keras.Sequential([keras.Input((6,)), layers.Dense(1)])
    head.compile("adam", "mse")
    before = [w.copy() for w in head.get_weights()]
    with pytest.raises(kg.FeatureError, match="first 8 samples are not in .* other inputs in each"):
        kg.features.fit_head(
            model, "pool", Augmented(x, y), store=tmp_path / "s", head=head, dtype="float32",
            progress=False,
        )  # fmt: skip
    for a, b in zip(before, head.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_head_that_would_train_the_trunk_is_refused(tmp_path):
    inputs = keras.Input((4,))
    layer = layers.Dense(4, name="both")
    model = keras.Model(inputs, layer(layers.Activation("relu", name="at")(layer(inputs))))
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).random((20, 4), "float32")
    with pytest.raises(kg.FeatureError, match="train weights of the trunk .'both/kernel', 'both/b"):
        kg.features.fit_head(
            model, "at", (x, x), store=tmp_path / "s", head=kg.split(model, at="at")[1],
            progress=False,
        )  # fmt: skip
    with pytest.raises(kg.FeatureError, match=r"trunk \('both/kernel', 'both/bias'\), tied or "):
        kg.features.fit_head(model, "at", (x, x), store=tmp_path / "s", progress=False)
    assert not (tmp_path / "s").exists()
    apart = kg.unshare(model, "both#1")
    apart.compile("sgd", "mse")
    kg.features.fit_head(apart, "at", (x, x), store=tmp_path / "s", progress=False)


def test_a_dropout_that_both_sides_call_is_no_weight(tmp_path):
    x = keras.Input((4,))
    drop = layers.Dropout(0.5, name="drop")
    y = layers.Dense(4, name="at")(drop(x))
    model = keras.Model(x, layers.Dense(2, name="out")(drop(y)))
    model.compile("sgd", "mse")
    data = np.ones((8, 4), "float32"), np.ones((8, 2), "float32")
    done = kg.features.fit_head(model, "at", data, store=tmp_path, progress=False, verbose=0)
    assert [layer.name for layer in done.head.layers][1:] == ["drop", "out"]


def test_a_tie_across_the_cut_is_not_lost_in_silence(tmp_path):
    ids = keras.Input((5,), dtype="int32")
    h = layers.Embedding(9, 4, name="embedding")(ids)
    h = layers.Dense(4, name="block")(h)
    model = kg.tie(
        keras.Model(ids, layers.Dense(9, name="lm_head")(h)), "lm_head.kernel",
        "embedding.embeddings", transform="transpose",
    )  # fmt: skip
    loss = keras.losses.SparseCategoricalCrossentropy(True)
    x = np.random.default_rng(0).integers(0, 9, (20, 5))
    model.compile("sgd", loss)
    with pytest.raises(kg.FeatureError, match=r"'embedding/embeddings'.*lose the tie: kg.untie"):
        kg.features.fit_head(model, "block", (x, x), store=tmp_path / "s", progress=False)
    assert not (tmp_path / "s").exists()
    apart = kg.untie(model, "lm_head.kernel")
    apart.compile("sgd", loss)
    done = kg.features.fit_head(apart, "block", (x, x), store=tmp_path / "s", progress=False)
    assert done.head.count_params() == 4 * 9 + 9


def test_fit_head_leaves_out_and_stops_as_it_is_told(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    x, y = images()
    x[3] = 1e9  # its features overflow float16
    model = donor()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    with pytest.raises(kg.FeatureError, match="Sample 3 fails.*on_error"):
        kg.features.fit_head(model, "pool", (x, y), store=tmp_path / "s", progress=False)
    done = kg.features.fit_head(
        model, "pool", (x, y), store=tmp_path / "s", progress=False, on_error="skip",
        resume=False, epochs=10**6, callbacks=[Stop()], verbose=0,
    )  # fmt: skip
    assert len(done.store) == 49 and done.checked == 31
    assert done.epoch_seconds > 1e-4
    x[:32] = 1e9  # the whole first batch, and one more
    x[33] = 1e9
    done = kg.features.fit_head(
        model, "pool", (x, y), store=tmp_path / "t", progress=False, on_error="skip", verbose=0
    )
    assert len(done.store) == 17 and done.checked == 17 and done.difference < 1e-2
    x[:] = 1e9
    with pytest.raises(kg.FeatureError, match="The trunk fails on each sample of data, 50 in all"):
        kg.features.fit_head(
            model, "pool", (x, y), store=tmp_path / "u", progress=False, on_error="skip"
        )


def test_fit_head_takes_samples_in_the_order_of_the_seed(tmp_path):
    """Also where `fit` begins a pass only to look at it, as it does to build metrics."""
    model = donor()
    head = kg.split(model, at="pool")[1]
    twin = kg.clone(head)
    how = {"optimizer": "sgd", "loss": keras.losses.SparseCategoricalCrossentropy(True)}
    ours, theirs = Losses(), Losses()
    done = kg.features.fit_head(
        model, "pool", images(), store=tmp_path / "s", progress=False, head=head, batch_size=8,
        epochs=3, seed=5, compile={**how, "metrics": ["accuracy"]}, callbacks=ours, verbose=0,
        validation_split=0.2,
    )  # fmt: skip
    twin.compile(**how, metrics=["accuracy"])
    parts = [
        FeatureDataset(done.store, 8, subset != "validation", 5, 0.2, subset)
        for subset in ("training", "validation")
    ]
    history = twin.fit(
        parts[0], validation_data=parts[1], shuffle=False, epochs=3, verbose=0, callbacks=[theirs]
    )
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-6)
    assert len(ours.losses) == 15 and len(set(ours.losses)) == 15
    for key in ("val_loss", "val_accuracy"):
        np.testing.assert_allclose(done.history.history[key], history.history[key], rtol=1e-6)
    several = keras.callbacks.CallbackList([Losses()], model=head)
    kg.features.fit_head(
        model, "pool", images(), store=tmp_path / "s", progress=False, head=head, batch_size=8,
        callbacks=several, verbose=0,
    )  # fmt: skip
    assert len(several.callbacks[0].losses) == 7


@pytest.mark.parametrize("split, says", [(0.99, "training"), (0.01, "validation")])
def test_no_part_is_empty(tmp_path, split, says):
    model = donor()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    with pytest.raises(kg.FeatureError, match=f"={split} of 10 samples leaves none for {says}"):
        kg.features.fit_head(
            model, "pool", images(10), store=tmp_path, validation_split=split, progress=False
        )


def test_what_is_no_number_is_the_same_if_it_is_none_in_both(tmp_path):
    x, y = np.array([[np.nan, 1], [np.inf, 2], [3, 4]], "float32"), np.zeros((3, 2))
    inputs = keras.Input((2,))
    at = layers.Activation("linear", name="at")(inputs)
    model = keras.Model(inputs, layers.Activation("tanh")(at))
    model.compile("sgd", "mse")
    head = keras.Sequential([keras.Input((2,)), layers.Activation("tanh")])
    done = kg.features.fit_head(
        model, "at", (x, y), store=tmp_path, head=head, compile={"loss": "mse"}, progress=False,
        verbose=0,
    )  # fmt: skip
    assert done.difference == 0 and done.checked == 3


def test_a_store_that_is_not_of_this_trunk_is_found_out(tmp_path):
    model = donor()
    model.compile("adam", "mse")
    x, _ = images()
    data = (x, np.zeros((50, 4)))
    run(kg.freeze(kg.split(model, at="pool")[0]), data, tmp_path, dtype="float32")
    path = tmp_path / "store" / "shard-00000.safetensors"
    from safetensors.numpy import load_file, save_file

    columns = load_file(path)
    columns["features/"] = columns["features/"] + 1
    save_file(columns, path)
    with pytest.raises(kg.FeatureError, match=r"does not hold what the trunk gives[\s\S]*verify"):
        kg.features.fit_head(
            model, "pool", data, store=tmp_path / "store", dtype="float32", progress=False,
            batch_size=8,
        )  # fmt: skip


@pytest.mark.parametrize("weight", ["balanced", {0: 1.0, 1: 2.0, 2: 1.0, 3: 1.0}])
def test_both_kinds_of_weights_are_refused_before_the_trunk_runs(weight, tmp_path):
    x, y = images(24)
    how = {"head": 4, "class_weight": weight, "store": tmp_path / "s", "progress": False}
    w = np.ones(24)
    with pytest.raises(kg.FeatureError, match=r"weights \* np\.array\(\[1\.0, 2\.0\]\)\[y\]"):
        kg.features.fit_head(donor(), "pool", (x, y, w), **how)
    assert not (tmp_path / "s").exists()
    del how["class_weight"]
    each = w * np.array([1.0, 2.0, 1.0, 1.0])[y]
    kg.features.fit_head(donor(), "pool", (x, y, each), **how)


@pytest.mark.once
def test_classes_as_floats_are_told_what_to_do():
    x, y = images(24)
    with pytest.raises(kg.FeatureError, match=r'y\.astype\("int64"\)'):
        kg.features.fit_head(donor(), "pool", (x, y.astype("float32")), head=4, progress=False)
    with pytest.raises(kg.FeatureError, match="For other numbers"):
        kg.features.fit_head(donor(), "pool", (x, y + 0.5), head=4, progress=False)
