"""A folder of images is data: its classes, its order, its keys, and what is refused."""

from pathlib import Path

import keras
import numpy as np
import pytest
from feature_helpers import donor, run
from keras import layers
from PIL import Image

import keras_graft as kg
from keras_graft.features import FeatureStore, ImageFolder, compute

KINDS = {".png": "RGB", ".bmp": "RGB", ".jpg": "RGB", ".JPEG": "RGB", ".gif": "P", ".webp": "RGB"}


def picture(seed, size=(8, 8), mode="RGB"):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (*size, 3)).astype("uint8")).convert(mode)


@pytest.fixture
def photos(tmp_path):
    """Three classes, every format, a nested folder, and files that are no images."""
    path, seed = tmp_path / "photos", 0
    for name in ("dogs", "cats", "ants"):
        for suffix, mode in KINDS.items():
            for i in range(2):
                place = path / name / ("more" if i else "")
                place.mkdir(parents=True, exist_ok=True)
                seed += 1
                picture(seed, mode=mode).save(place / f"{i}{suffix}")
    (path / ".hidden").mkdir()
    (path / ".hidden" / "1.png").write_bytes(b"x")
    (path / "cats" / ".DS_Store").write_bytes(b"x")
    (path / "cats" / "notes.txt").write_text("x")
    (path / "README.md").write_text("x")
    return path


def test_what_a_folder_holds(photos):
    folder = ImageFolder(photos, size=(8, 8), batch_size=10)
    assert folder.class_names == ("ants", "cats", "dogs")
    assert (
        folder.samples == 36
        and len(folder) == 4
        and folder.targets.tolist() == [*[0] * 12, *[1] * 12, *[2] * 12]
    )
    assert folder.keys[:3] == ("ants/0.JPEG", "ants/0.bmp", "ants/0.gif")
    assert "ants/more/1.png" in folder.keys and not any("hidden" in key for key in folder.keys)
    assert folder.ignored == ("cats/notes.txt", "README.md")
    x = np.concatenate([folder[i][0] for i in range(4)])
    y = np.concatenate([folder[i][1] for i in range(4)])
    assert (
        x.shape == (36, 8, 8, 3) and x.dtype == "float32" and y.tolist() == folder.targets.tolist()
    )
    for key, image in zip(folder.keys, x, strict=True):
        np.testing.assert_array_equal(image, keras.utils.load_img(photos / key))
    assert repr(folder).endswith("36 images, 3 classes>")
    with pytest.raises(IndexError, match="There are 4 batches, not number 4"):
        folder[4]


def test_a_path_is_data(trunk, photos, tmp_path):
    for data in (photos, str(photos), ImageFolder(photos, batch_size=7)):
        store = compute(trunk, data, tmp_path / "store", batch_size=7, progress=False)
        assert store.complete and len(store) == 36
    found = store.to_numpy()
    folder = ImageFolder(photos, size=(8, 8), batch_size=36)
    assert found["keys"].tolist() == list(folder.keys)
    assert found["targets"].tolist() == folder.targets.tolist()
    x, y = folder[0]
    np.testing.assert_allclose(
        found["features"], trunk.predict(x, batch_size=7, verbose=0), rtol=1e-4, atol=1e-3
    )
    assert store.find(x).tolist() == list(range(36))
    # The same images in another order finish it.
    kg.features.keep(store.path, 0)
    order = np.random.default_rng(0).permutation(36)
    keys = np.array(folder.keys)[order]
    store = compute(trunk, (x[order], y[order]), store.path, keys=keys, progress=False)
    assert store.take(store.find(x), "keys")["keys"].tolist() == list(folder.keys)


def test_fit_head_and_advise_from_a_path(photos, tmp_path):
    model = donor()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    assert kg.features.advise(model, str(photos)).samples == 36
    done = kg.features.fit_head(
        model,
        "pool",
        str(photos),
        store=tmp_path / "s",
        progress=False,
        verbose=0,
        batch_size=8,
        dtype="float32",
    )
    assert len(done.store) == 36 and done.checked == 8 and done.difference < 1e-3
    model.fit(ImageFolder(photos, size=(8, 8)), verbose=0)


def test_a_resumed_folder_skips_what_is_there(trunk, photos, tmp_path, monkeypatch):
    damaged = photos / "dogs" / "0.bmp"
    good = damaged.read_bytes()
    damaged.write_bytes(good[: len(good) // 2])
    says = r"image .*photos/dogs/0.bmp.* cannot be read: .*Delete it, or move it out of the folder"
    with pytest.raises(kg.FeatureError, match=says):
        compute(trunk, photos, tmp_path / "s", batch_size=4, progress=False, shard_bytes=1)
    assert 0 < len(FeatureStore(tmp_path / "s")) < 30
    before = len(FeatureStore(tmp_path / "s"))
    damaged.unlink()
    seen, real = [], keras.Model.predict_on_batch
    monkeypatch.setattr(
        keras.Model, "predict_on_batch", lambda self, x: (seen.append(len(x)), real(self, x))[1]
    )
    store = compute(trunk, photos, tmp_path / "s", batch_size=4, progress=False)
    # On JAX the last batch is filled up.
    missing = 35 - before
    filled = missing + (-missing % 4 if keras.backend.backend() == "jax" else 0)
    assert store.complete and len(store) == 35 and sum(seen) == filled + 1
    assert sorted(store.to_numpy()["keys"]) == sorted(ImageFolder(photos).keys)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK", "I;16"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_mode_becomes_what_the_model_takes(tmp_path, mode, channels):
    (tmp_path / "a").mkdir()
    image = picture(0)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype("uint16") * 256)
        image.save(tmp_path / "a" / "1.png")
        expected = picture(0).convert("L")
    elif mode == "CMYK":
        image = picture(0).convert("CMYK")
        image.save(tmp_path / "a" / "1.jpg", quality=100)
        expected = Image.open(tmp_path / "a" / "1.jpg")
    else:
        expected = image = image.convert(mode)
        image.save(tmp_path / "a" / "1.png")
    x, _ = ImageFolder(tmp_path, size=(8, 8), channels=channels)[0]
    assert x.shape == (1, 8, 8, channels) and x.min() >= 0 and x.max() <= 255
    expected = np.asarray(expected.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels]), "float32")
    np.testing.assert_allclose(x[0], expected.reshape(8, 8, channels), atol=2)


def test_sizes_and_channels_are_those_of_the_model(photos, tmp_path):
    picture(1, size=(30, 11)).save(photos / "cats" / "large.png")
    grey = keras.Sequential([keras.Input((5, 6, 1)), layers.Flatten()])
    store = compute(kg.freeze(grey), photos, tmp_path / "grey", progress=False)
    assert store.columns() == ["features/", "keys/", "targets/"] and len(store) == 37
    assert store.take([0])["features"].shape == (1, 30)
    first = keras.Sequential([keras.Input((3, 8, 8)), layers.Flatten()])
    x = compute(kg.freeze(first), photos, tmp_path / "first", progress=False)
    expected = ImageFolder(photos, size=(8, 8), batch_size=37)[0][0]
    np.testing.assert_array_equal(
        x.to_numpy()["features"].reshape(-1, 3, 8, 8), np.moveaxis(expected, -1, 1)
    )
    free = keras.Sequential([keras.Input((None, None, 3)), layers.GlobalAveragePooling2D()])
    says = r"takes images of any size.*kg.features.ImageFolder\(.*photos', size=\(224, 224\)\)"
    with pytest.raises(kg.FeatureError, match=says):
        compute(kg.freeze(free), photos, tmp_path / "free", progress=False)
    data = ImageFolder(photos, size=(224, 224))
    assert len(compute(kg.freeze(free), data, tmp_path / "free", progress=False)) == 37
    with pytest.raises(kg.FeatureError, match=r"size .* is not known: .*ImageFolder.*, size="):
        ImageFolder(photos)[0]
    with pytest.raises(kg.FeatureError, match="image_size|resize them"):
        compute(kg.freeze(grey), ImageFolder(photos, size=(9, 9)), tmp_path / "x", progress=False)
    rows = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    with pytest.raises(kg.FeatureError, match=r"is a folder of images, and .* takes \(None, 4\)"):
        compute(kg.freeze(rows), photos, tmp_path / "rows", progress=False)


@pytest.mark.once
@pytest.mark.parametrize("size", [(24, 32), (96, 100), (240, 320), (10, 400)])
def test_large_jpegs_are_decoded_in_part_and_look_the_same(tmp_path, size):
    (tmp_path / "a").mkdir()
    picture(0, size=(6, 8)).resize((320, 240)).save(tmp_path / "a" / "1.jpg", quality=95)
    found = ImageFolder(tmp_path, size=size)[0][0][0]
    with Image.open(tmp_path / "a" / "1.jpg") as file:
        whole = np.asarray(file.resize(size[::-1], Image.Resampling.BILINEAR), "float32")
    assert found.shape == (*size, 3) and np.abs(found - whole).mean() < 3
    if size == (240, 320):
        np.testing.assert_array_equal(found, whole)


def test_images_without_classes_have_no_targets(trunk, tmp_path):
    for i in range(5):
        (tmp_path / "flat").mkdir(exist_ok=True)
        picture(i).save(tmp_path / "flat" / f"{i}.png")
    store = compute(trunk, tmp_path / "flat", tmp_path / "s", progress=False)
    assert sorted(store.to_numpy()) == ["features", "keys"] and len(store) == 5
    model = donor()
    model.compile("sgd", "mse")
    with pytest.raises(kg.FeatureError, match="fit_head needs targets"):
        kg.features.fit_head(model, "pool", tmp_path / "flat", store=tmp_path / "t", progress=False)


def test_what_is_no_folder_of_images_is_refused(trunk, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts" / "a").mkdir(parents=True)
    (tmp_path / "texts" / "a" / "1.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for name, says in {
        "nowhere": "is not a folder of images: FileNotFoundError: No such file.*Give a folder with a folder of images for each class",
        "file": "is not a folder of images: NotADirectoryError", "empty": "is empty, or has no images",
        "texts": "has no images in the folders 'a': images end with .jpg",
    }.items():  # fmt: skip
        with pytest.raises(kg.FeatureError, match=says):
            compute(trunk, str(tmp_path / name), tmp_path / "s", progress=False)
    assert not (tmp_path / "s").exists()


@pytest.mark.once
def test_arguments(photos):
    for how, says in (
        ({"size": 8}, "size must be"), ({"size": (8, 0)}, "size must be"),
        ({"channels": 2}, "channels must be 1, 3 or 4"), ({"batch_size": 0}, "batch_size must be"),
        ({"classes": ["cats", "bees"]}, "has no folder 'bees': it has 'ants', 'cats', 'dogs'"),
    ):  # fmt: skip
        with pytest.raises(kg.FeatureError, match=says):
            ImageFolder(photos, **how)
    chosen = ImageFolder(photos, classes=["dogs", "cats"])
    assert chosen.class_names == ("dogs", "cats") and chosen.keys[0].startswith("dogs/")
    assert sorted(set(chosen.targets.tolist())) == [0, 1]


def test_no_tensorflow_is_imported(photos):
    import subprocess
    import sys

    if keras.backend.backend() == "tensorflow":
        return
    code = (
        "import sys, keras_graft as kg\n"
        f"kg.features.ImageFolder({str(photos)!r}, size=(8, 8))[0]\n"
        "assert 'tensorflow' not in sys.modules"
    )
    import os

    source = str(Path(kg.__file__).parent.parent)
    subprocess.run([sys.executable, "-c", code], check=True,
                   env={**os.environ, "PYTHONPATH": source})  # fmt: skip


def test_another_store_than_that_of_the_folder_is_refused(trunk, photos, tmp_path):
    run(trunk, ImageFolder(photos, size=(8, 8)), tmp_path)
    (photos / "dogs" / "0.png").rename(photos / "ants" / "00.png")
    with pytest.raises(kg.FeatureError, match="had different targets, sample weights or keys"):
        run(trunk, str(photos), tmp_path)
