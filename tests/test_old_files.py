"""Files and stores that earlier versions wrote load, and give what they gave."""

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import keras_graft as kg

FILES = Path(__file__).parent / "data" / "before_move"
EXPECTED = np.load(FILES / "expected.npz")
MODELS = {
    "tied": "ids",
    "tied_dense": "ids",
    "frozen": "images",
    "kept_class": "images",
    "renamed": "rows",
}


@keras.saving.register_keras_serializable("before_move")
class Scored(keras.Model):
    def score(self, x):
        return float(keras.ops.max(self(x)))


def outputs(model, data):
    return keras.ops.convert_to_numpy(model(EXPECTED[data]))


@pytest.mark.parametrize("name", MODELS)
def test_models_load_and_give_what_they_gave(name):
    model = keras.saving.load_model(FILES / f"{name}.keras")
    # Written on PyTorch: other backends round differently.
    np.testing.assert_allclose(outputs(model, MODELS[name]), EXPECTED[name], rtol=1e-5, atol=1e-6)
    before = outputs(model, MODELS[name])
    for weight in model.weights:
        weight.assign(np.zeros(weight.shape))
    model.load_weights(FILES / f"{name}.weights.h5")
    np.testing.assert_array_equal(outputs(model, MODELS[name]), before)


def test_what_is_special_about_a_model_is_found_again():
    tied = keras.saving.load_model(FILES / "tied.keras")
    assert len(kg.sharing(tied).ties) == 1
    assert tied.count_params() == 11 * 4 + 4 + 4 + 11
    dense = keras.saving.load_model(FILES / "tied_dense.keras")
    assert isinstance(dense.get_layer("head"), kg.layers.TiedDense)
    frozen = keras.saving.load_model(FILES / "frozen.keras")
    assert not frozen.trainable_weights and isinstance(frozen.get_layer("bn"), kg.layers.Frozen)
    kept = keras.saving.load_model(FILES / "kept_class.keras")
    assert isinstance(kept, Scored)
    assert kept.score(EXPECTED["images"]) == pytest.approx(EXPECTED["kept_class"].max(), rel=1e-5)
    renamed = keras.saving.load_model(FILES / "renamed.keras")
    assert [layer.name for layer in renamed.layers if layer.weights] == ["d", "d_1"]
    assert isinstance(kg.replace(renamed, "d_1", layers.Dense(2)), keras.Model)


def test_weights_are_taken_from_the_files():
    target = keras.saving.load_model(FILES / "tied.keras")
    for weight in target.weights:
        weight.assign(np.zeros(weight.shape))
    for end in (".keras", ".weights.h5"):
        kg.transplant(FILES / f"tied{end}", target)
        np.testing.assert_allclose(outputs(target, "ids"), EXPECTED["tied"], rtol=1e-5, atol=1e-6)


def test_a_store_is_read_and_is_known_to_be_complete(tmp_path, capsys):
    shutil.copytree(FILES / "store", tmp_path / "store")
    store = kg.features.FeatureStore(tmp_path / "store")
    assert len(store) == 20 and store.complete
    assert store.verify() == store.bytes
    given = store.to_numpy()
    assert list(given["features"]) == ["pool", "relu"]
    for name, column in given["features"].items():
        np.testing.assert_array_equal(column, EXPECTED[f"store/{name}"])
    np.testing.assert_array_equal(given["targets"], EXPECTED["targets"])
    assert store.columns() == ["features/pool", "features/relu", "targets/"]
    trunk = keras.saving.load_model(FILES / "trunk.keras")
    manifest = (tmp_path / "store" / "manifest.json").read_bytes()
    data = EXPECTED["data"], EXPECTED["targets"]
    kg.features.compute(trunk, data, tmp_path / "store", batch_size=4, dtype="float16")
    assert (tmp_path / "store" / "manifest.json").read_bytes() == manifest
