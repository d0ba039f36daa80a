"""Files of strangers: nothing outside them is read, and what they announce is what they give."""

import json
import zipfile

import h5py
import keras
import numpy as np
import pytest
from donor import equal
from forged import SECRET, beside, model, whole
from safetensors.numpy import save_file
from weights import refused

import keras_graft as kg
from keras_graft.errors import FileError
from keras_graft.model.files import load

PATH = "layers/dense/vars/0"


def leads_out(file, path, how):
    old = file[path][()]
    del file[path]
    if how == "external link":
        file[path] = h5py.ExternalLink("secret.h5", f"/{old.shape}")
    elif how == "soft link":
        file["elsewhere"] = old
        file[path] = h5py.SoftLink("/elsewhere")
    elif how == "external storage":
        file.create_dataset(path, old.shape, "float32", external=[("secret.bin", 0, old.nbytes)])
    elif how == "reference":
        file.create_dataset(path, data=np.array(file.ref, h5py.ref_dtype))
    else:
        layout = h5py.VirtualLayout(old.shape, "float32")
        layout[...] = h5py.VirtualSource("secret.h5", f"{old.shape}", old.shape)
        file.create_virtual_dataset(path, layout)


WORDS = {
    "external link": "is a ExternalLink to the file 'secret.h5', and is not followed. Only files",
    "soft link": "is a SoftLink, and is not followed",
    "external storage": "are in another file, 'secret.bin', which is not read",
    "virtual": "is a virtual dataset: its values are in other places or files, which are not read",
    "reference": "holds object, not numbers",
}


def changed(kind, folder, change):
    """Return the path of a file in whose HDF5 something was changed, its checksums right."""
    path = whole(kind, folder)
    if kind != ".keras":
        with h5py.File(path, "r+") as file:
            change(file)
        return path
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    inner = folder / "inner.h5"
    inner.write_bytes(members["model.weights.h5"])
    with h5py.File(inner, "r+") as file:
        change(file)
    members["model.weights.h5"] = inner.read_bytes()
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def first_dataset(file):
    found = []
    file.visititems(lambda name, x: found.append(name) if isinstance(x, h5py.Dataset) else None)
    return next(path for path in found if file[path].shape == (4, 5))


@pytest.mark.parametrize("kind", [".keras", ".h5", ".weights.h5"])
@pytest.mark.parametrize("how", sorted(WORDS))
def test_nothing_outside_the_file_is_read(kind, how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where external storage is looked for
    beside(tmp_path)
    path = changed(kind, tmp_path, lambda file: leads_out(file, first_dataset(file), how))
    if kind != ".h5":
        for strict in (True, False):
            assert WORDS[how] in refused(path, model(), strict=strict)
    if kind != ".weights.h5":
        with pytest.raises(FileError, match=r"damaged|not (followed|read)") as caught:
            load(str(path))
        assert WORDS[how] in str(caught.value)


def test_a_vocabulary_outside_the_file_is_not_read(tmp_path):
    x = keras.Input((1,), dtype="string", name="x")
    words = keras.layers.StringLookup(vocabulary=["a", "b"], name="words")
    source = keras.Model(x, keras.layers.Embedding(3, 2, name="emb")(words(x)))
    source.save(tmp_path / "a.keras")
    beside(tmp_path)
    with (
        zipfile.ZipFile(tmp_path / "a.keras") as old,
        zipfile.ZipFile(tmp_path / "b.keras", "w") as new,
    ):
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                config = json.loads(data)
                config["config"]["layers"][1]["config"]["vocabulary"] = str(tmp_path / "secret.txt")
                data = json.dumps(config).encode()
            new.writestr(name, data)
    with pytest.raises(FileError, match="which safe mode does not run|outside"):
        load(str(tmp_path / "b.keras"))


@pytest.mark.parametrize("kind", [".keras", ".weights.h5"])
def test_the_dtype_that_a_file_says_is_the_one_it_holds(kind, tmp_path):
    def change(file):
        file[first_dataset(file)].attrs["dtype"] = "bfloat16"

    path, target = changed(kind, tmp_path, change), model()
    assert "says that it is bfloat16, and is float32" in refused(path, target)
    assert "says that it is bfloat16" in refused(path, target, strict=False)


@pytest.mark.parametrize("dtype, words", [
    ("complex64", "complex64 in the source, float32 in the target"),
    ("float128", "float128 in the source, float32 in the target"),
    ("V7", "in the source, float32 in the target"), ("S4", "in the source, float32 in the target"), (">f4", None), (">f8", None),
])  # fmt: skip
def test_what_no_variable_can_hold_is_found_before_anything_changes(dtype, words, tmp_path):
    def change(file):
        del file["layers/dense_1/vars/1"]
        values = np.zeros(3, dtype) if dtype == "V7" else np.full(3, 1.5).astype(dtype)
        file["layers/dense_1/vars/1"] = values

    path, target = changed(".weights.h5", tmp_path, change), model()
    if words is None:
        kg.transplant(path, target)
        equal(target.get_layer("out").bias.value, np.full(3, 1.5, "float32"))
    else:
        text = refused(path, target)
        assert words in text and "'out/bias'" in text


def test_a_zip_that_unpacks_to_far_more_is_not_read(tmp_path):
    path = tmp_path / "a.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("metadata.json", "{}")
        file.writestr("config.json", "{}")
        file.writestr("model.weights.h5", bytes(80 * 2**20))
    words = r"bytes and says that it unpacks to 83,886,084, so it is not read\."
    with pytest.raises(FileError, match=words):
        load(str(path))
    with pytest.raises(kg.WeightsError, match=words):
        kg.transplant(path, model())


def test_a_model_far_larger_than_its_file_is_not_made(tmp_path):
    for kind in (".keras", ".h5"):
        path = whole(kind, tmp_path)
        if kind == ".h5":
            with h5py.File(path, "r+") as file:
                text = file.attrs["model_config"]
                file.attrs["model_config"] = text.replace('"units": 5', '"units": 50000000000')
        else:
            with zipfile.ZipFile(path) as old:
                members = {name: old.read(name) for name in old.namelist()}
            with zipfile.ZipFile(path, "w") as new:
                for name, data in members.items():
                    new.writestr(name, data.replace(b'"units": 5', b'"units": 50000000000'))
        with pytest.raises(
            FileError, match=r"is damaged or forged: it has .* Dense 'hidden' would have a"
        ):
            load(str(path))
    assert keras.Layer.add_weight.__module__.startswith("keras.")  # as it was
    with pytest.raises(kg.WeightsError, match="would have a weight of the shape"):
        kg.transplant(tmp_path / "whole.keras", model())


def test_a_packed_file_is_read_and_its_checksums_compared(tmp_path):
    path, source = tmp_path / "a.keras", whole(".keras", tmp_path)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    target = model()
    kg.transplant(path, target)
    equal(target.weights, load(str(source)).weights)
    with zipfile.ZipFile(path) as file:
        at = file.getinfo("model.weights.h5").header_offset + 200
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(bytes(data))
    assert "is damaged (" in refused(path, model())


@pytest.mark.parametrize("name", [
    "a" + ".b" * 3000, "a" + "/b" * 3000, "hidden/²", "hidden/" + "9" * 5000, "9" * 5000, "", ".", "a/٣",
])  # fmt: skip
def test_names_of_tensors_that_are_no_names(name, tmp_path):
    save_file(
        {name: np.ones(3, "float32"), "hidden/bias": np.ones(5, "float32")},
        tmp_path / "a.safetensors",
    )
    text = refused(tmp_path / "a.safetensors", model())
    assert "has 3001 parts" in text or "Unused, 1 of the source" in text


def test_the_secret_is_there_to_be_read(tmp_path):
    """What the tests above would find if links were followed."""
    beside(tmp_path)
    path = changed(
        ".weights.h5", tmp_path, lambda f: leads_out(f, first_dataset(f), "external link")
    )
    with h5py.File(path) as file:
        assert (file[PATH][()] == SECRET).all()
