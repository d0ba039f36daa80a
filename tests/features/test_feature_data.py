"""Data for a trunk: every kind, its targets and keys, and what is refused."""

import keras
import numpy as np
import pytest
from feature_helpers import Py, donor, images, run
from keras import layers

import keras_graft as kg
from keras_graft.features.data import batches, count


def kinds(x, y):
    import tensorflow as tf
    import torch

    yield (x, y)
    yield Py(x, y)
    yield [(x[i : i + 8], y[i : i + 8]) for i in range(0, len(x), 8)]
    yield ((x[i : i + 8], y[i : i + 8]) for i in range(0, len(x), 8))
    yield tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    tensors = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    yield torch.utils.data.DataLoader(tensors, batch_size=8)


def test_every_kind_of_data_gives_the_same_batches():
    x, y = images()
    for data in kinds(x, y):
        found = list(batches(data, 8))
        assert [len(b) for b in found] == [8] * 6 + [2], type(data)
        np.testing.assert_array_equal(np.concatenate([b.x for b in found]), x)
        np.testing.assert_array_equal(np.concatenate([b.y for b in found]), y)
        assert all(isinstance(b.x, np.ndarray) and b.w is None for b in found)


def test_how_many_samples_is_known_where_it_can_be():
    x, y = images()
    assert [count(d) for d in kinds(x, y)] == [50, None, None, None, None, 50]


def test_of_a_loader_the_samples_of_its_sampler_count(trunk, tmp_path):
    import torch

    x, y = images()
    tensors = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))

    def loader(**how):
        return torch.utils.data.DataLoader(tensors, **how)

    some = loader(batch_size=8, sampler=range(20))
    assert count(some) == 20
    for _ in range(2):  # the second time it is there
        assert len(run(trunk, some, tmp_path, keys=range(20))) == 20
    assert count(loader(batch_sampler=[[0, 1], [2]])) is None
    assert count(loader(batch_size=8, drop_last=True)) is None
    assert count(loader(batch_size=None)) is None


def test_several_inputs():
    x = {"a": np.zeros((5, 2)), "b": np.ones((5, 3))}
    (batch,) = batches((x, None, np.arange(5)), 8)
    assert batch.x["b"].shape == (5, 3) and batch.y is None and batch.w.tolist() == [0, 1, 2, 3, 4]
    (batch,) = batches([x["a"], x["b"]], 8)
    assert [leaf.shape for leaf in batch.x] == [(5, 2), (5, 3)]


def test_tables_are_taken_by_position_and_not_by_their_labels():
    import pandas

    table = pandas.DataFrame({"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]}, index=[2, 0, 1])
    y = pandas.Series([7, 8, 9], index=[1, 2, 0])
    assert count((table, y)) == count(table) == 3
    assert next(batches({"t": table}, 8)).x["t"].tolist() == [[1, 4], [2, 5], [3, 6]]
    for data in ((table, y), ({"t": table}, y)):
        (batch,) = batches(data, 8)
        leaf = batch.x["t"] if isinstance(batch.x, dict) else batch.x
        assert leaf.tolist() == [[1, 4], [2, 5], [3, 6]]
        assert batch[[2, 0]].y.tolist() == [9, 7]
    assert next(iter(batches(table, 2))).x.tolist() == [[1, 4], [2, 5]]


def test_tensors_of_torch_are_taken_whatever_they_are():
    import torch

    x = torch.arange(6.0).reshape(3, 2).requires_grad_()
    y = torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16)
    (batch,) = batches([(x, y)], 8)
    assert batch.x.tolist() == [[0, 1], [2, 3], [4, 5]] and batch.y.dtype == "float32"
    assert batch.y.tolist() == [1, 2, 3]


@pytest.mark.parametrize("data, says", [
    ((np.zeros((3, 2)), np.zeros(4)), r"different numbers of samples: \[3, 4\]"),
    (7, "int is not data: give arrays"),
    ([(np.zeros(()),)], "one sample, not a batch of samples: add .batch"),
    ([(np.zeros((2, 1)), "text")], "targets are texts .a list of str"),
    ([(1, 2, 3, 4)], "got 4 items"),
    ([(np.zeros((8, 2)), np.zeros(7))], r"arrays of a batch have different numbers.*\[7, 8\]"),
    ([(np.zeros((8, 2)), np.zeros(8), np.zeros(9))], r"different numbers of samples: \[8, 9\]"),
    ((np.zeros((2, 2)), [0, 1]), r"targets are a list of int: give np.asarray\(targets\)"),
    ((np.zeros((2, 2)), [[0], [1]]), "targets are a list of list"),
    (np.array([[1], [1, 2]], object), "Python objects, or rows of different lengths"),
    ((np.zeros((2, 2)), [np.int64(0), np.int64(1)]), "targets are a list of int64"),
    ((np.zeros((2, 2)), np.array(3)), "one sample, not a batch of samples"),
    ((None, np.zeros(2)), "has no inputs: the first of"),
    (({"a": {"b": np.zeros((2, 2))}}, np.zeros(2)), "inputs are nested more than once"),
    ((np.zeros((2, 2)), {"a": [np.zeros(2)]}), "targets are nested more than once"),
])  # fmt: skip
def test_what_is_no_data_is_refused(data, says):
    with pytest.raises(kg.FeatureError, match=says):
        list(batches(data, 8))


def test_what_is_sparse_or_ragged_is_refused():
    import scipy.sparse
    import tensorflow as tf
    import torch

    sparse = torch.eye(3).to_sparse()
    for leaf in (
        scipy.sparse.eye(3).tocsr(), tf.ragged.constant([[1.0], [1.0, 2.0], [3.0]]),
        tf.sparse.eye(3), sparse, torch.empty(3, 2, device="meta"),
    ):  # fmt: skip
        for data in ((leaf, np.zeros(3)), (np.zeros((3, 2)), leaf), [(np.zeros((3, 2)), leaf)]):
            with pytest.raises(kg.FeatureError, match="sparse, ragged or without values: make it"):
                list(batches(data, 8))
    (batch,) = batches((tf.Variable([[1.0], [2.0]]), torch.tensor([3, 4])), 8)
    assert batch.x.tolist() == [[1], [2]] and batch.y.tolist() == [3, 4]
    (batch,) = batches(np.array([1, 2], ">f4"), 8)
    assert batch.x.dtype.isnative and batch.x.tolist() == [1, 2]
    assert [b.x.tolist() for b in batches([[np.array([1, 2]), np.array([3, 4])]], 8)] == [[1, 2]]


@pytest.mark.parametrize("fold", [
    lambda x: keras.ops.reshape(x, (-1, 2)), keras.ops.mean,
    lambda x: keras.ops.mean(x, axis=0, keepdims=True),
])  # fmt: skip
def test_a_trunk_that_does_not_keep_the_samples_apart_is_refused(tmp_path, fold):
    x = keras.Input((4,))
    trunk = keras.Model(x, {"same": x * 1.0, "folded": fold(x)})
    with pytest.raises(kg.FeatureError, match="shape .* for 8 samples.*one row for each sample"):
        run(trunk, np.ones((16, 4), "float32"), tmp_path)


def test_what_is_nested_twice_is_refused(trunk, tmp_path):
    x = keras.Input((4,))
    nested = keras.Model(x, {"a": [x * 1.0, x * 2.0], "b": x * 3.0})
    with pytest.raises(kg.FeatureError, match="The features are nested more than once.*one dict"):
        run(nested, np.ones((16, 4), "float32"), tmp_path)
    images_, y = images(16)
    twice = [(images_[i : i + 8], {"a": [y[i : i + 8]] * 8}) for i in (0, 8)]
    with pytest.raises(kg.FeatureError, match="The targets are nested more than once"):
        run(trunk, twice, tmp_path)


def test_sources_may_fill_the_same_arrays_for_each_batch(trunk, tmp_path):
    import torch

    x, y = images(48)
    shared = np.empty((8, 8, 8, 3), "float32"), np.empty(8, "int64")

    class Filled(Py):
        def __getitem__(self, i):
            shared[0][:], shared[1][:] = super().__getitem__(i)
            return shared

    def tensors():
        for batch in map(Filled(x, y).__getitem__, range(6)):
            yield tuple(map(torch.from_numpy, batch))

    expected = trunk.predict(x, batch_size=8, verbose=0)
    for number, data in enumerate((Filled(x, y), tensors())):
        found = run(trunk, data, tmp_path / str(number)).to_numpy()
        assert found["targets"].tolist() == y.tolist()
        np.testing.assert_allclose(found["features"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("first", [0, 1])
def test_every_batch_has_the_same_columns(trunk, tmp_path, first):
    x, y = images(16)
    data = [(x[:8],), (x[8:], y[8:])]
    with pytest.raises(
        kg.FeatureError, match="from 8 on have different columns.*: targets. Give targets"
    ):
        run(trunk, [data[first], data[1 - first]], tmp_path)
    with pytest.raises(
        kg.FeatureError, match="batch_size must be a whole number, 1 or more, got 0"
    ):
        run(trunk, (x, y), tmp_path, batch_size=0)


def test_data_without_an_end_is_refused():
    import tensorflow as tf

    with pytest.raises(kg.FeatureError, match="has no end: remove .repeat"):
        list(batches(tf.data.Dataset.range(3).repeat(), 8))


def test_all_targets_and_keys_of_arrays_are_compared(trunk, tmp_path):
    x, y = images()
    keys = np.arange(50)
    run(trunk, (x, y), tmp_path, keys=keys)
    other = y.copy()
    other[45] += 1
    says = "samples 32 to .* had different targets, sample weights or keys"
    with pytest.raises(kg.FeatureError, match=says):
        run(trunk, (x, other), tmp_path, keys=keys)
    with pytest.raises(kg.FeatureError, match=says):
        run(trunk, (x, y), tmp_path, keys=np.where(keys == 45, 99, keys))
    assert len(run(trunk, (x, y), tmp_path, keys=keys)) == 50


def test_keys_that_do_not_fit_are_refused(trunk, tmp_path):
    with pytest.raises(kg.FeatureError, match="50 samples, 3 keys"):
        run(trunk, images()[0], tmp_path, keys=[1, 2, 3])
    with pytest.raises(kg.FeatureError, match="more samples than the 9 keys"):
        run(trunk, (b for b in [images(20)[0]]), tmp_path, keys=range(9))
    for _ in range(2):
        with pytest.raises(kg.FeatureError, match="20 samples, 30 keys"):
            run(trunk, (b for b in [images(20)[0]]), tmp_path, keys=range(30), resume=False)
        run(trunk, (b for b in [images(20)[0]]), tmp_path, keys=range(20), resume=False)
    with pytest.raises(kg.FeatureError, match="20 samples, 30 keys"):
        run(trunk, (b for b in [images(20)[0]]), tmp_path, keys=range(30))


@pytest.mark.parametrize("keys, back", [
    (np.array([b"k%d" % i for i in range(20)]), [f"k{i}" for i in range(20)]),
    ((f"é{i}" for i in range(20)), [f"é{i}" for i in range(20)]),
    (np.arange(20).astype(object), list(range(20))),
    (range(20), list(range(20))),
])  # fmt: skip
def test_keys_come_back_as_what_they_were(trunk, tmp_path, keys, back):
    assert run(trunk, images(20)[0], tmp_path, keys=keys).take(range(20))["keys"].tolist() == back


def test_a_key_that_would_come_back_shorter_is_refused(trunk, tmp_path):
    keys = [f"k{i}" for i in range(18)] + ["a\0b", "a\0"]
    with pytest.raises(kg.FeatureError, match=r"Key 19, 'a\\x00', ends with a NUL"):
        run(trunk, images(20)[0], tmp_path, keys=keys)
    assert not (tmp_path / "store").exists()
    store = run(trunk, images(20)[0], tmp_path, keys=[*keys[:19], "a"])
    assert store.take([18, 19])["keys"].tolist() == ["a\0b", "a"]


@pytest.mark.parametrize("keys", [
    [], [1.5] * 20, [*range(19), "a"], [2**70] * 20, [None] * 20, [[1]] * 20, [b"\xff"] * 20,
])  # fmt: skip
def test_keys_that_are_neither_integers_nor_texts_are_refused(trunk, tmp_path, keys):
    with pytest.raises(kg.FeatureError, match="keys must be a list of integers .*or of texts"):
        run(trunk, images(20)[0], tmp_path, keys=keys)


WORDS = ["cat", "dog", "a bird"] * 4


def texts():
    """Labels as texts, in every form in which data gives them."""
    yield np.array(WORDS), "str192"
    yield np.array(WORDS, object), "object"
    yield np.array([w.encode() for w in WORDS]), "bytes48"
    yield np.array([w.encode() for w in WORDS], object), "object"
    yield np.array(WORDS)[:, None], "str192"
    yield {"a": np.zeros(12), "b": np.array(WORDS, object)}, "object"
    yield WORDS, "a list of str"
    if hasattr(np.dtypes, "StringDType"):
        yield np.array(WORDS, np.dtypes.StringDType()), "StringDType"


@pytest.mark.parametrize("y, kind", list(texts()))
@pytest.mark.parametrize("whole", [True, False])
def test_targets_that_are_texts_are_refused_before_the_trunk_runs(
    trunk, tmp_path, monkeypatch, y, kind, whole
):
    def runs(x):
        raise AssertionError("the trunk runs")

    monkeypatch.setattr(keras.Model, "predict_on_batch", lambda *_: runs(0))
    x = images(12)[0]
    data = (x, y) if whole else [(x, y)]
    says = (
        rf"targets.* are texts \(.*{kind}.*\), which a store cannot hold: give each class a number"
    )
    with pytest.raises(kg.FeatureError, match=says):
        run(trunk, data, tmp_path)
    with pytest.raises(kg.FeatureError, match=says):
        kg.features.fit_head(donor(), "pool", data, store=tmp_path / "store", progress=False)
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_the_ways_out_for_targets_that_are_texts(trunk, tmp_path):
    x, y = images(12)[0], np.array(WORDS, object)
    assert run(trunk, x, tmp_path, keys=y).take([2, 0])["keys"].tolist() == ["a bird", "cat"]
    names, numbers = np.unique(y, return_inverse=True)
    fitted = kg.features.fit_head(
        donor(), "pool", (x, numbers), store=tmp_path / "fitted", progress=False,
        compile={"optimizer": "sgd", "loss": "sparse_categorical_crossentropy"},
    )  # fmt: skip
    kept = fitted.store.take([0, 1, 2], "targets")["targets"]
    assert names[kept].tolist() == ["cat", "dog", "a bird"]


def test_text_in_the_batches_of_other_libraries(trunk, tmp_path):
    import torch

    x = images(12)[0]
    loader = torch.utils.data.DataLoader([*zip(x, WORDS, strict=True)], batch_size=4)
    with pytest.raises(kg.FeatureError, match="targets are texts .a list of str.*np.unique"):
        run(trunk, loader, tmp_path)
    pandas = pytest.importorskip("pandas")
    for series in (pandas.Series(WORDS), pandas.Series(WORDS, dtype="category")):
        with pytest.raises(kg.FeatureError, match="targets are texts .object.*np.unique"):
            run(trunk, (x, series), tmp_path)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices((x, WORDS)).batch(4)
        with pytest.raises(kg.FeatureError, match="targets are texts .object.*np.unique"):
            run(trunk, data, tmp_path)


def test_objects_that_are_no_texts(trunk, tmp_path):
    x = images(12)[0]
    with pytest.raises(
        kg.FeatureError, match=r"targets are not numbers \(object\).*y.astype\('float"
    ):
        run(trunk, (x, np.array([1, 2.5, True] * 4, object)), tmp_path)
    with pytest.raises(kg.FeatureError, match="sample weights are not numbers .object"):
        run(trunk, (x, np.zeros(12), np.ones(12, object)), tmp_path)
    with pytest.raises(kg.FeatureError, match="targets are not numbers .datetime64"):
        run(trunk, (x, np.zeros(12, "datetime64[s]")), tmp_path)
    with pytest.raises(kg.FeatureError, match="takes float32, but the inputs are texts.*TextVec"):
        run(trunk, np.array(WORDS, object), tmp_path)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="texts are TensorFlow's")
def test_inputs_that_are_texts_of_one_length(tmp_path):
    trunk = keras.Sequential([
        keras.Input((), dtype="string"),
        layers.TextVectorization(output_mode="multi_hot", vocabulary=["cat", "dog", "bird"]),
    ])  # fmt: skip
    x = np.array(WORDS, object)
    store = run(trunk, x.astype(str), tmp_path)
    np.testing.assert_array_equal(
        store.to_numpy()["features"], trunk.predict_on_batch(keras.ops.convert_to_tensor(WORDS))
    )
