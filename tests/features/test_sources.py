"""Every source of data, in order and shuffled: each row of a store lies beside its own target."""

import keras
import numpy as np
import pytest
from feature_helpers import Py, donor, images, run
from keras import layers

import keras_graft as kg
from keras_graft.features import FeatureStore
from keras_graft.features.data import batches, count
from keras_graft.features.sources.given import class_names
from keras_graft.features.store.checksum import digests


def assert_pairs(store, trunk, x, y):
    """Compare rows by the content of their inputs: the order of the data does not matter."""
    rows = store.find(x)
    assert sorted(rows) == list(range(len(x))) and store.complete
    found = store.take(rows)
    expected = trunk.predict(x, batch_size=8, verbose=0)
    np.testing.assert_allclose(found["features"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["targets"], y)


def torch_data(x, y, **how):
    import torch

    tensors = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    return torch.utils.data.DataLoader(tensors, batch_size=8, **how) if how else tensors


def tf_data(x, y, shuffle):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((x, y))
    return (data.shuffle(50) if shuffle else data).batch(8)


def tables(x, y):
    import pandas

    # The columns of a table are one input.
    return pandas.DataFrame(x, index=np.arange(len(x))[::-1]), pandas.Series(y)


SOURCES = {
    "NumPy": lambda x, y: (x, y),
    "PyDataset": Py,
    "tf.data": lambda x, y: tf_data(x, y, False),
    "tf.data, shuffled": lambda x, y: tf_data(x, y, True),
    "DataLoader": lambda x, y: torch_data(x, y, shuffle=False),
    "DataLoader, shuffled": lambda x, y: torch_data(x, y, shuffle=True),
    "torch Dataset": lambda x, y: torch_data(x, y),
    "list": lambda x, y: [(x[i : i + 8], y[i : i + 8]) for i in range(0, len(x), 8)],
    "generator": lambda x, y: iter(Py(x, y)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_rows_lie_beside_their_targets_and_are_resumed_and_used_again(trunk, tmp_path, name):
    x, y = images()
    y = np.arange(50)
    store = run(trunk, SOURCES[name](x, y), tmp_path)
    assert_pairs(store, trunk, x, y)
    made = store.manifest
    assert run(trunk, SOURCES[name](x, y), tmp_path).manifest == made
    kg.features.keep(store.path, 2)
    assert not FeatureStore(store.path).complete
    assert_pairs(run(trunk, SOURCES[name](x, y), tmp_path), trunk, x, y)
    # Another source of the same samples finishes it too.
    kg.features.keep(store.path, 1)
    assert_pairs(run(trunk, SOURCES["DataLoader, shuffled"](x, y), tmp_path), trunk, x, y)


def test_tables(tmp_path):
    import pandas

    rng = np.random.default_rng(0)
    x, y = rng.random((50, 4), "float32"), np.arange(50)
    one = kg.freeze(keras.Sequential([keras.Input((4,)), layers.Dense(3)]))
    assert_pairs(run(one, tables(x, y), tmp_path), one, x, y)
    inputs = [keras.Input((1,), name=name) for name in ("a", "b")]
    two = kg.freeze(keras.Model(inputs, layers.Dense(3)(layers.Concatenate()(inputs))))
    table = pandas.DataFrame(x[:, :2], columns=["a", "b"])
    store = run(two, (dict(table), pandas.Series(y)), tmp_path / "two")
    expected = two.predict([x[:, :1], x[:, 1:2]], verbose=0)
    np.testing.assert_allclose(store.to_numpy()["features"], expected, rtol=1e-5, atol=1e-6)
    table["name"], table["kind"] = "x", pandas.Categorical(["u", "v"] * 25)
    says = (
        r"inputs have columns that are not numbers: 'name', 'kind'.*drop\(columns=\['name', 'kind'"
    )
    with pytest.raises(kg.FeatureError, match=says):
        run(one, (table, pandas.Series(y)), tmp_path / "three")
    # The ways out work.
    wide = kg.freeze(keras.Sequential([keras.Input((5,)), layers.Dense(3)]))
    for numbers, model in (
        (pandas.get_dummies(table).astype("float32"), wide),
        (table.drop(columns=["name", "kind"]).assign(
            c=table["name"].astype("category").cat.codes, d=0), one),
    ):  # fmt: skip
        assert len(run(model, (numbers, y), tmp_path / "out", resume=False)) == 50


class Samples:
    """Samples as torch's own Dataset gives them, made where torch is imported."""

    @staticmethod
    def of(items):
        import torch

        class Own(torch.utils.data.Dataset):
            def __len__(self):
                return len(items)

            def __getitem__(self, i):
                return items[i]

        return Own()


def test_samples_of_a_torch_dataset_become_batches():
    import torch

    tensor = torch.arange(4.0).to(torch.bfloat16)
    data = Samples.of([(tensor + i, i, 0.5) for i in range(5)])
    assert count(data) == 5
    first, second = batches(data, 3)
    assert first.x.tolist() == [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]] and len(second) == 2
    assert first.y.tolist() == [0, 1, 2] and first.w.tolist() == [0.5] * 3
    (batch,) = batches(Samples.of([{"a": np.ones(2), "b": 3}] * 4), 8)
    assert batch.x["a"].shape == (4, 2) and batch.x["b"].shape == (4,) and batch.y is None
    (batch,) = batches(Samples.of([[np.ones(2), np.int64(i)] for i in range(4)]), 8)
    assert batch.y.tolist() == [0, 1, 2, 3]
    with pytest.raises(kg.FeatureError, match="samples 0 to 1 cannot be one batch.*__getitem__"):
        list(batches(Samples.of([(np.ones(2), 0), (np.ones(3), 0)]), 8))
    with pytest.raises(kg.FeatureError, match="targets are texts"):
        list(batches(Samples.of([(np.ones(2), "cat")] * 3), 8))


def runs_never(monkeypatch):
    def runs(*_):
        raise AssertionError("the trunk runs")

    monkeypatch.setattr(keras.Model, "predict_on_batch", runs)


@pytest.mark.parametrize("make, says", [
    (lambda x, y: (x[:, :6], y), r'input "image" .* has samples of shape \(8, 8, 3\), but .* '
     r"\(6, 8, 3\): resize them, keras.ops.image.resize\(x, \(8, 8\)\)"),
    (lambda x, y: (np.moveaxis(x, -1, 1), y), r"channels come first, .*np.moveaxis\(x, 1, -1\)"),
    (lambda x, y: (x[..., :1], y), r"repeat the only channel, np.repeat\(x, 3, -1\)"),
    (lambda x, y: [(i, np.zeros(8)) for i in x], "one sample and not a batch of them, so add .batch"),
    (lambda x, y: (x.reshape(50, -1), y), r"shape \(192\): bring the data to the shape"),
    (lambda x, y: ([x, x], y), r"takes 1 inputs \('image'\), and the data gives 2"),
    (lambda x, y: (np.array(["a"] * 50), y), "takes float32, but the inputs are texts"),
])  # fmt: skip
def test_what_a_trunk_does_not_take_is_refused_before_it_runs(
    trunk, tmp_path, monkeypatch, make, says
):
    runs_never(monkeypatch)
    for _ in range(2):
        with pytest.raises(kg.FeatureError, match=says):
            run(trunk, make(*images()), tmp_path)
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_the_ways_out_for_shapes_work(trunk, tmp_path):
    x, _ = images(8)
    for ok in (
        keras.ops.image.resize(np.ascontiguousarray(x[:, :6]), (8, 8)),
        np.moveaxis(np.moveaxis(x, -1, 1), 1, -1), np.repeat(x[..., :1], 3, -1),
    ):  # fmt: skip
        assert len(run(trunk, ok, tmp_path, resume=False)) == 8


def test_what_keras_adapts_is_taken(tmp_path):
    flat = kg.freeze(keras.Sequential([keras.Input((1,)), layers.Dense(2)]))
    assert len(run(flat, np.arange(20.0), tmp_path)) == 20
    free = kg.freeze(keras.Sequential([keras.Input((None, 3)), layers.GlobalMaxPooling1D()]))
    assert len(run(free, np.ones((20, 7, 3), "float32"), tmp_path, resume=False)) == 20
    inputs = {"a": keras.Input((2,), name="first"), "b": keras.Input((2,), name="second")}
    two = kg.freeze(keras.Model(inputs, layers.Add()([inputs["a"], inputs["b"]])))
    x = np.ones((20, 2), "float32")
    assert len(run(two, {"a": x, "b": x}, tmp_path, resume=False)) == 20
    with pytest.raises(
        kg.FeatureError, match="takes 'a', 'b', and the data has 'a': 'b' is missing"
    ):
        run(two, {"a": x}, tmp_path)
    with pytest.raises(kg.FeatureError, match=r'input "b" .* of shape \(2\), but .* \(3\)'):
        run(two, {"a": x, "b": np.ones((20, 3))}, tmp_path)


def test_a_dataset_without_batches_is_refused_with_the_way_out(trunk, tmp_path):
    import tensorflow as tf

    x, y = images()
    one_by_one = tf.data.Dataset.from_tensor_slices((x, y))
    with pytest.raises(kg.FeatureError, match="gives one sample, not a batch.*add .batch"):
        run(trunk, one_by_one, tmp_path)
    with pytest.raises(kg.FeatureError, match="one sample and not a batch of them, so add .batch"):
        run(trunk, tf.data.Dataset.from_tensor_slices(x), tmp_path)
    assert_pairs(run(trunk, one_by_one.batch(32), tmp_path), trunk, x, y)


def test_class_names_are_reached():
    import torch

    class Named(list):
        class_names = ["cat", "dog"]

    assert class_names(Named()) == ("cat", "dog") and class_names((1, 2)) is None
    own = Samples.of([(np.ones(2), 0)])
    own.classes = ["a", "b"]
    assert class_names(torch.utils.data.DataLoader(own)) == ("a", "b") == class_names(own)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="texts are TensorFlow's")
def test_texts_of_every_source(tmp_path):
    import pandas
    import tensorflow as tf
    import torch

    words = ["cat", "dog and bird", "a bird", "é", ""] * 4
    trunk = keras.Sequential([
        keras.Input((), dtype="string"),
        layers.TextVectorization(output_mode="multi_hot", vocabulary=["cat", "dog", "bird"]),
    ])  # fmt: skip
    y = np.arange(20)
    expected = keras.ops.convert_to_numpy(trunk(keras.ops.convert_to_tensor(words)))
    pairs = list(zip(words, y, strict=True))
    for number, data in enumerate([
        (np.array(words), y), (np.array(words, object), y), (pandas.Series(words), y),
        tf.data.Dataset.from_tensor_slices((words, y)).batch(3),
        torch.utils.data.DataLoader(pairs, batch_size=3, shuffle=True), Samples.of(pairs),
    ]):  # fmt: skip
        store = run(trunk, data, tmp_path / str(number))
        found = store.to_numpy()
        assert sorted(found["targets"]) == y.tolist()
        np.testing.assert_array_equal(found["features"], expected[found["targets"]])
        assert (
            store.find(np.array(words[:3])).tolist()
            == store.find(np.array(words[:3], "O")).tolist()
        )
        kg.features.keep(store.path, 0)
        assert len(run(trunk, data, tmp_path / str(number))) == 20
    with pytest.raises(kg.FeatureError, match="takes texts, but the data holds numbers"):
        run(trunk, np.zeros(20), tmp_path / "n")


def directory(path, suffix, write):
    for name in ("b", "a"):
        (path / name).mkdir(parents=True)
        for i in range(6):
            write(path / name / f"{i}{suffix}", i + 10 * (name == "b"))
    return path


def assert_from_directory(trunk, make, tmp_path):
    """In order, shuffled and in every mode of labels, each row is what the trunk gives."""
    seen = {}
    for mode in ("int", "categorical", "binary"):
        for shuffle in (False, True):
            data = make(label_mode=mode, shuffle=shuffle, batch_size=5)
            assert class_names(data) == ("a", "b")
            store = run(trunk, data, tmp_path / f"{mode}{shuffle}")
            again = run(trunk, data, tmp_path / f"{mode}{shuffle}")
            assert len(store) == 12 and again.manifest == store.manifest
            for x, y in make(label_mode=mode, shuffle=True, batch_size=12):
                x = x.numpy()
                rows = store.find(x)
                assert sorted(rows) == list(range(12))
                found = store.take(rows)
                np.testing.assert_array_equal(found["targets"], y.numpy())
                np.testing.assert_allclose(
                    found["features"], trunk.predict(x, verbose=0), rtol=1e-5, atol=1e-5
                )
                seen[mode, shuffle] = sorted(digests(found["features"]))
    assert len(seen) == 6


def test_image_dataset_from_directory(trunk, tmp_path):
    def write(path, number):
        image = np.random.default_rng(number).integers(0, 255, (8, 8, 3))
        keras.utils.save_img(path, image, scale=False)

    path = directory(tmp_path / "images", ".png", write)
    assert_from_directory(
        trunk,
        lambda **how: keras.utils.image_dataset_from_directory(
            path, image_size=(8, 8), verbose=False, **how
        ),
        tmp_path,
    )
    model = donor()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    data = keras.utils.image_dataset_from_directory(path, image_size=(8, 8), verbose=False)
    done = kg.features.fit_head(
        model, "pool", data, store=tmp_path / "fitted", dtype="float32", progress=False, verbose=0
    )
    assert done.checked == 12 and done.difference < 1e-4
    wrong = keras.utils.image_dataset_from_directory(path, image_size=(9, 8), verbose=False)
    with pytest.raises(kg.FeatureError, match=r"image_size=\(8, 8\)"):
        run(trunk, wrong, tmp_path / "wrong")


def test_audio_dataset_from_directory(tmp_path):
    import wave

    def write(path, number):
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            sound = np.random.default_rng(number).integers(-9999, 9999, 32)
            file.writeframes(sound.astype("int16").tobytes())

    path = directory(tmp_path / "sounds", ".wav", write)
    trunk = kg.freeze(keras.Sequential([
        keras.Input((32, 1)), layers.Conv1D(3, 5, activation="relu"), layers.GlobalMaxPooling1D(),
    ]))  # fmt: skip
    assert_from_directory(
        trunk,
        lambda **how: keras.utils.audio_dataset_from_directory(
            path, output_sequence_length=32, verbose=False, **how
        ),
        tmp_path,
    )


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="texts are TensorFlow's")
def test_text_dataset_from_directory(tmp_path):
    path = directory(
        tmp_path / "texts", ".txt", lambda p, n: p.write_text(f"word{n} and word{n % 3}")
    )
    trunk = keras.Sequential([
        keras.Input((), dtype="string"),
        layers.TextVectorization(output_mode="multi_hot", vocabulary=[f"word{n}" for n in range(20)]),
    ])  # fmt: skip
    for shuffle in (False, True):
        data = keras.utils.text_dataset_from_directory(
            path, batch_size=5, shuffle=shuffle, verbose=False
        )
        store = run(trunk, data, tmp_path / str(shuffle))
        assert run(trunk, data, tmp_path / str(shuffle)).manifest == store.manifest
        for x, y in data:
            found = store.take(store.find(x.numpy()))
            np.testing.assert_array_equal(found["targets"], y.numpy())
            np.testing.assert_array_equal(found["features"], keras.ops.convert_to_numpy(trunk(x)))


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="there they are taken")
def test_texts_are_refused_where_no_trunk_takes_them(tmp_path):
    path = directory(tmp_path / "texts", ".txt", lambda p, n: p.write_text(f"word{n}"))
    data = keras.utils.text_dataset_from_directory(path, batch_size=5, verbose=False)
    trunk = kg.freeze(keras.Sequential([keras.Input((4,)), layers.Dense(2)]))
    with pytest.raises(kg.FeatureError, match="inputs are texts. Turn them into numbers first"):
        run(trunk, data, tmp_path)
    words = layers.TextVectorization(
        output_mode="multi_hot", vocabulary=["word1", "word2", "word3"]
    )
    assert len(run(trunk, data.map(lambda x, y: (words(x), y)), tmp_path)) == 12
