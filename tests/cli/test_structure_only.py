"""Questions read the structure of a file: weights that are damaged or missing do not matter."""

import zipfile

import h5py
import keras
import pytest
from commands import data, run
from keras import layers
from models import residual

from keras_graft import _keras

pytestmark = pytest.mark.once


def nested():
    x = keras.Input((6,), name="x")
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="deep")], name="inner")
    y = inner(layers.Dense(4, name="first")(x))
    return keras.Model(x, layers.Dense(2, name="out")(layers.BatchNormalization(name="bn")(y)))


def without_weights(folder, how):
    """Return a file of a model whose weights cannot be read."""
    nested().save(folder / "m.keras")
    with (
        zipfile.ZipFile(folder / "m.keras") as old,
        zipfile.ZipFile(folder / "b.keras", "w") as new,
    ):
        for name in old.namelist():
            content = old.read(name)
            if name == "model.weights.h5":
                if how == "missing":
                    continue
                content = content[:100] if how == "truncated" else bytes(len(content))
            new.writestr(name, content)
    return folder / "b.keras"


@pytest.mark.parametrize("how", ["missing", "truncated", "zeros"])
def test_the_weights_of_a_file_are_not_read(how, tmp_path):
    broken = without_weights(tmp_path, how)
    for command in ("nodes", "cuts", "sharing"):
        assert run(command, broken).stdout == run(command, tmp_path / "m.keras").stdout
    assert data("advise", broken, "--samples", 10)["cuts"][0]["name"] == "first"
    assert "damaged" in run("extract", broken, "bn", "-o", tmp_path / "x.keras", code=2).stderr


def test_the_weights_of_a_legacy_file_are_not_read(tmp_path):
    nested().save(tmp_path / "m.h5")
    before = run("nodes", tmp_path / "m.h5").stdout
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        del file["model_weights"]
    assert run("nodes", tmp_path / "m.h5").stdout == before and "inner" in before
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        del file.attrs["model_config"]
    assert "has no model_config" in run("nodes", tmp_path / "m.h5", code=2).stderr


@pytest.mark.parametrize("name", ["m.keras", "m.h5", "app:MobileNetV2"])
def test_no_weight_is_made(name, tmp_path, monkeypatch):
    made = []
    if not name.startswith("app:"):
        residual().save(tmp_path / name)
        name = tmp_path / name
    for initializer in ("GlorotUniform", "HeNormal", "Zeros", "Ones"):
        cls = getattr(keras.initializers, initializer)
        call = cls.__call__
        monkeypatch.setattr(
            cls, "__call__", lambda *args, call=call, **k: made.append(1) or call(*args, **k)
        )
    run("cuts", name)
    assert not made
    x = keras.Input((3,))
    assert keras.Model(x, layers.Dense(2)(x)).weights[0].shape == (3, 2) and made  # as before


def test_a_model_without_values_leaves_no_trace():
    """Keras would give values later to variables that were made in a stateless scope."""
    state = _keras.private.global_state
    before = list(state.get_global_attribute("uninitialized_variables") or ())
    with _keras.without_values():
        model = nested()
    assert model.count_params() == 28 + 20 + 10 + 16
    assert all(variable._value is None for variable in model.weights)
    assert list(state.get_global_attribute("uninitialized_variables") or ()) == before


def test_safe_mode_holds_for_the_structure_too(tmp_path):
    model = keras.Sequential([keras.Input((2,)), layers.Lambda(lambda x: x + 1, name="code")])
    for name in ("m.keras", "m.h5"):
        model.save(tmp_path / name)
        said = run("nodes", tmp_path / name, code=2).stderr
        assert "which safe mode does not run" in said and "--unsafe" in said
        allowed = run("nodes", tmp_path / name, "--unsafe")
        assert "code" in allowed.stdout and "may run" in allowed.stderr


def test_a_configuration_that_is_damaged(tmp_path):
    nested().save(tmp_path / "m.keras")
    for content in (b"{", b"[]", b'{"class_name": "Functional"}'):
        with zipfile.ZipFile(tmp_path / "b.keras", "w") as new:
            new.writestr("config.json", content)
        said = run("nodes", tmp_path / "b.keras", code=2).stderr
        assert said.startswith("error: ") and said.count("\n") == 1, said
    with zipfile.ZipFile(tmp_path / "b.keras", "w") as new:
        new.writestr("other.json", "{}")
    assert "has no config.json" in run("nodes", tmp_path / "b.keras", code=2).stderr
