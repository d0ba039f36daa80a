"""The command `fit`: from a folder of images, or from arrays, to a saved model and a report."""

import json

import keras
import numpy as np
import pytest
from commands import run
from feature_images import photos
from keras import layers

import keras_graft as kg

pytestmark = pytest.mark.once


@pytest.fixture
def saved(tmp_path):
    x = inputs = keras.Input((12, 12, 3), name="image")
    x = layers.Rescaling(1 / 255)(x)
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    keras.Model(inputs, layers.Dense(7, name="old")(x)).save(tmp_path / "m.keras")
    return tmp_path


def fit(folder, data, *more, code=0):
    how = ["-m", folder / "m.keras", "--at", "pool", "-o", folder / "new.keras"]
    return run("fit", data, *how, "--epochs", 40, "--learning-rate", 0.03, *more, code=code)


def test_from_a_folder_of_images_to_a_model_that_knows_them(saved):
    photos(saved / "photos")
    said = fit(saved, saved / "photos", "--report", saved / "r.html", "--validation-split", 0.25)
    assert "at the end" in said.stdout and "red" in said.stdout
    page = (saved / "r.html").read_text()
    assert page.startswith("<!doctype html>") and page.count("<svg") == 2
    loaded = keras.models.load_model(saved / "new.keras")
    images = kg.features.ImageFolder(saved / "photos", size=(12, 12))
    x, y = (
        np.concatenate(part) for part in zip(*(images[i] for i in range(len(images))), strict=True)
    )
    assert (loaded.predict(x, verbose=0).argmax(-1) == y).mean() > 0.7


def test_json_says_the_same_as_the_loaded_model(saved):
    photos(saved / "photos")
    data = json.loads(fit(saved, saved / "photos", "--json", "--validation-split", 0.0).stdout)
    assert data["written"][0]["path"] == str(saved / "new.keras")
    assert data["class_names"] == ["blue", "green", "red"] and "validation" not in data
    loaded = keras.models.load_model(saved / "new.keras")
    loaded.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    images = kg.features.ImageFolder(saved / "photos", size=(12, 12))
    found = loaded.evaluate(images, verbose=0, return_dict=True)
    assert data["training"]["final"]["accuracy"] == pytest.approx(found["accuracy"])
    assert data["training"]["final"]["loss"] == pytest.approx(found["loss"], rel=1e-2)


def test_from_arrays_and_from_a_store_that_is_kept(saved):
    rng = np.random.default_rng(0)
    np.savez(saved / "d.npz", x=rng.random((40, 12, 12, 3), "float32"), y=np.arange(40) % 4)
    said = fit(saved, saved / "d.npz", "--store", saved / "s")
    assert "class 3" in said.stdout and (saved / "s" / "manifest.json").exists()
    again = fit(saved, saved / "d.npz", "--store", saved / "s", "--force")
    assert "Nothing to compute" in again.stderr
    assert keras.models.load_model(saved / "new.keras").output_shape == (None, 4)


def test_refusals(saved):
    photos(saved / "photos")
    assert "no folder" in fit(saved, saved / "photos", "-o", saved / "a/b/new.keras", code=2).stderr
    assert ".html" in fit(saved, saved / "photos", "--report", saved / "r.txt", code=2).stderr
    assert "There is no file or folder" in fit(saved, saved / "nowhere", code=2).stderr
    (saved / "text").write_text("a")
    assert "is not a readable .npy or .npz" in fit(saved, saved / "text", code=2).stderr
    np.save(saved / "x.npy", np.ones((4, 12, 12, 3), "float32"))
    assert "has no y" in fit(saved, saved / "x.npy", code=2).stderr
    assert "not both" not in fit(saved, saved / "photos", "--views", 2, code=1).stderr
    fit(saved, saved / "photos")
    assert "already exists; --force" in fit(saved, saved / "photos", code=2).stderr
