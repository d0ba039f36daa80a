"""Files and dicts of PyTorch weights: each kind, damaged and forged ones, and what is written."""

import builtins
import json
import os
import pickle
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import pytest
import torch
from donor import equal
from forged import doubled, empty, filled, flipped, head_flipped, noise, swapped, truncated, zeroed
from keras import layers as L
from safetensors.torch import load_file, save_file
from torch import nn
from torch_linear import check, model, module
from weights import refused, values

import keras_graft as kg

pytestmark = pytest.mark.once


SOURCES = {
    "state dict": lambda net, folder: net.state_dict(),
    "arrays": lambda net, folder: {n: t.numpy() for n, t in net.state_dict().items()},
    "module": lambda net, folder: net,
    "safetensors": lambda net, folder: _safetensors(net, folder / "model.safetensors"),
    "pth": lambda net, folder: _pickled(net.state_dict(), folder / "model.pth"),
    "pt, old format": lambda net, folder: _pickled(
        net.state_dict(), folder / "model.pt", _use_new_zipfile_serialization=False
    ),
    "bin": lambda net, folder: _pickled(net.state_dict(), folder / "pytorch_model.bin"),
    "checkpoint": lambda net, folder: _pickled(
        {"epoch": 3, "state_dict": net.state_dict(), "optimizer": {"lr": 0.1}}, folder / "last.ckpt"
    ),
    "index": lambda net, folder: _sharded(net, folder),
    "index of bins": lambda net, folder: _sharded(net, folder, "pytorch_model", "bin"),
}


def _safetensors(net, path):
    save_file(net.state_dict(), path)
    return path


def _pickled(what, path, **kwargs):
    torch.save(what, path, **kwargs)
    return path


def _sharded(net, folder, stem="model", suffix="safetensors"):
    state, index = net.state_dict(), {}
    for i, name in enumerate(state):
        file = f"{stem}-{i + 1:05}-of-{len(state):05}.{suffix}"
        if suffix == "bin":
            torch.save({name: state[name]}, folder / file)
        else:
            save_file({name: state[name]}, folder / file)
        index[name] = file
    path = folder / f"{stem}.{suffix}.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": index}))
    return path


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_source(kind, tmp_path):
    net, its = module(), model()
    source = SOURCES[kind](net, tmp_path)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    report = kg.transplant(source, its, names="torch")
    check(net, its)
    assert report.mapping == {"0": "hidden", "2": "out"} and len(report.moved) == 4
    assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())
    if isinstance(source, Path):
        again = model()
        kg.transplant(str(source), again, names="torch")
        check(net, again)


def test_a_source_is_copied_not_shared():
    net, its = module(), model()
    state = net.state_dict()
    kg.transplant(state, its, names="torch")
    kept = values(its)
    for tensor in state.values():
        tensor.zero_()
    equal(kept, values(its))


def test_only_files_that_need_pytorch_import_it(tmp_path):
    """On JAX or TensorFlow PyTorch may be missing: `.safetensors` files are read without it."""
    net = module()
    _safetensors(net, tmp_path / "model.safetensors")
    torch.save(net.state_dict(), tmp_path / "model.pth")
    code = f"""
import os, sys
os.environ["KERAS_BACKEND"] = "jax"
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError(name)
sys.meta_path.insert(0, Missing())
import keras, keras_graft as kg
x = keras.Input((4,))
hidden = keras.layers.Dense(5, activation="relu", name="hidden")(x)
model = keras.Model(x, keras.layers.Dense(3, name="out")(hidden))
folder = {str(tmp_path)!r}
print(len(kg.transplant(folder + "/model.safetensors", model, names="torch").moved))
kg.save_weights(model, folder + "/back.safetensors", names="torch")
for call in (
    lambda: kg.transplant(folder + "/model.pth", model, names="torch"),
    lambda: kg.save_weights(model, folder + "/back.pth", names="torch"),
):
    try:
        call()
    except kg.WeightsError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[0] == "4"
    assert (
        "'model.pth' is read with PyTorch, which is not installed: pip install torch" in done.stdout
    )
    assert "'back.pth' needs a package that is not installed: pip install torch" in done.stdout
    back = load_file(tmp_path / "back.safetensors")
    assert torch.equal(back["hidden.weight"], net[0].weight.detach())
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "back.safetensors",
        "model.pth",
        "model.safetensors",
    ]


class Evil:
    def __reduce__(self):
        return os.system, (f"touch {Evil.path}",)


@pytest.mark.parametrize("new", [True, False])
def test_code_in_a_pickle_does_not_run(new, tmp_path):
    Evil.path = tmp_path / "ran"
    state = {**module().state_dict(), "evil": Evil()}
    torch.save(state, tmp_path / "model.pth", _use_new_zipfile_serialization=new)
    (tmp_path / "raw.bin").write_bytes(pickle.dumps(state["evil"]))
    for name in ("model.pth", "raw.bin"):
        words = refused(tmp_path / name, model(), names="torch")
        assert "cannot be read as a file of tensors alone" in words and "weights_only=True" in words
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "pt"])
def test_damaged_files_are_refused_or_hold_numbers(suffix, tmp_path):
    """Whatever the damage, a file is read or refused with our error; nothing else is raised."""
    net, its = module(), model()
    path = tmp_path / f"model.{suffix}"
    if suffix == "safetensors":
        save_file(net.state_dict(), path)
    else:
        torch.save(net.state_dict(), path, _use_new_zipfile_serialization=suffix == "pth")
    whole, draw, count = path.read_bytes(), random.Random(5), 0
    damages = (truncated, flipped, head_flipped, zeroed, filled, swapped, doubled, noise, empty)
    for damage in damages:
        for _ in range(6):
            path.write_bytes(damage(whole, draw))
            before = values(its)
            try:
                kg.transplant(path, its, names="torch")
            except kg.GraftError as error:
                count += 1
                equal(before, values(its))
                assert len(str(error)) < 3000 and str(error).isprintable() or "\n" in str(error)
    assert count > 20


def test_what_a_file_of_tensors_must_not_hold(tmp_path):
    net = module()
    state = net.state_dict()
    cases = {
        "a list": ([1, 2], "holds a list, not a state dict"),
        "a number": ({**state, "step": 3}, "'step' of 'model.pth' is int, not a tensor"),
        "a key": ({**state, 5: state["0.bias"]}, "has the key 5, which is no name"),
        "sparse": ({**state, "s": torch.eye(3).to_sparse()}, "'s' of 'model.pth' is sparse"),
        "expanded": (
            {**state, "0.weight": torch.zeros(1).expand(10**6, 10**6)},
            "'0.weight' of 'model.pth' announces (1000000, 1000000), more than it holds",
        ),
        "meta": ({**state, "m": torch.empty(3, device="meta")}, "without values"),
    }
    for what, words in cases.values():
        torch.save(what, tmp_path / "model.pth")
        assert words in refused(tmp_path / "model.pth", model(), names="torch")
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\0" * 300_000_000)
    assert "'bomb.pth' is forged" in refused(tmp_path / "bomb.pth", model(), names="torch")


def test_names_that_would_forge_a_line_are_escaped(tmp_path):
    name = "a\nerror: all is lost \x1b[31m"
    save_file({f"{name}.weight": torch.ones(5, 4)}, tmp_path / "a.safetensors")
    for source in (tmp_path / "a.safetensors", {f"{name}.weight": torch.ones(5, 4)}):
        words = refused(
            source, keras.Sequential([keras.Input((4, 4)), L.Conv1D(7, 1)]), names="torch"
        )
        assert "a\\nerror: all is lost \\x1b[31m" in words and "\x1b" not in words
    twice = {f"{name}.weight": torch.ones(5, 4), "b\r.weight": torch.zeros(5, 4)}
    its = keras.Sequential([keras.Input((4,)), L.Dense(5), L.Dense(4), L.Dense(5)])
    words = refused(twice, its, names="torch")
    assert "b\\r" in words and "\r" not in words
    its = keras.Sequential([keras.Input((4,)), L.Dense(5, use_bias=False)])
    report = kg.transplant(tmp_path / "a.safetensors", its, names="torch")
    assert report.mapping == {name: its.layers[0].name}
    found = kg.torch_names(tmp_path / "a.safetensors", its)
    assert "\x1b" not in str(found) + found._repr_html_()
    found.save(tmp_path / "names.json")
    assert "\x1b" not in (tmp_path / "names.json").read_text()
    kg.transplant(tmp_path / "a.safetensors", its, names="torch", match=tmp_path / "names.json")


def test_an_index_reads_no_file_elsewhere(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    _safetensors(module(), tmp_path / "secret.safetensors")
    path = folder / "model.safetensors.index.json"
    for name, words in {
        "../secret.safetensors": "which is not a file beside it",
        str(tmp_path / "secret.safetensors"): "which is not a file beside it",
        "..\\secret.safetensors": "which is not a file beside it",
        "gone.safetensors": "there is no file",
        "model.safetensors.index.json": "which is not a file beside it",
    }.items():
        path.write_text(json.dumps({"weight_map": {"0.weight": name}}))
        assert words in refused(path, model(), names="torch")
    for text in (
        "",
        "[]",
        "{}",
        '{"weight_map": 3}',
        '{"weight_map": {"a": 3}}',
        "[" * 10**5,
        "\x00",
    ):
        path.write_text(text)
        assert "is damaged" in refused(path, model(), names="torch")
    _safetensors(module(), folder / "part.safetensors")
    path.write_text(
        json.dumps({"weight_map": {"0.weight": "part.safetensors", "9.bias": "part.safetensors"}})
    )
    assert "names tensors that its files lack: '9.bias'" in refused(path, model(), names="torch")


def test_other_files_and_sources_are_refused(tmp_path):
    its = model()
    its.save_weights(tmp_path / "a.weights.h5")
    words = refused(tmp_path / "a.weights.h5", its, names="torch")
    assert "is not a file of PyTorch weights" in words and "without names='torch'" in words
    assert "there is no file" in refused(tmp_path / "none.pth", its, names="torch")
    assert "is a directory" in refused(tmp_path, its, names="torch")
    assert "must be the path of a file, a state dict or a PyTorch module" in refused(
        model(), its, names="torch"
    )
    assert "names='jax' is neither 'keras' nor 'torch'" in refused(model(), its, names="jax")
    torch.save(module().state_dict(), tmp_path / "a.pth")
    assert "For PyTorch's .pth, .pt and .bin give names='torch'" in refused(tmp_path / "a.pth", its)
    for source in (module(), module().state_dict()):
        assert "or a state dict of PyTorch give names='torch'" in refused(source, its)
    save_file(module().state_dict(), tmp_path / "a.safetensors")
    words = refused(tmp_path / "a.safetensors", its)
    assert "The source has the names of PyTorch: names='torch' reads them." in words
    _sharded(module(), tmp_path)
    assert "give names='torch'" in refused(tmp_path / "model.safetensors.index.json", its)


def test_a_dict_that_was_read_from_safetensors_has_no_order(tmp_path):
    net = nn.ModuleDict({"b": nn.Linear(4, 4), "a": nn.Linear(4, 4)})
    its = keras.Sequential([keras.Input((4,)), L.Dense(4, name="x"), L.Dense(4, name="y")])
    assert kg.transplant(net, its, names="torch").mapping == {"b": "x", "a": "y"}
    _safetensors(net, tmp_path / "a.safetensors")
    for source in (tmp_path / "a.safetensors", load_file(tmp_path / "a.safetensors")):
        words = refused(source, its, names="torch")
        assert "2 modules of" in words and "no order is certain" in words
        report = kg.transplant(source, its, names="torch", strict=False, match={"b": "x"})
        assert report.mapping == {"b": "x", "a": "y"}
        with pytest.raises(kg.WeightsError, match="nothing is copied"):
            kg.transplant(source, its, names="torch", strict=False)


def test_a_mapping_must_name_what_is_there(tmp_path):
    net, its = module(), model()
    for match, words in (
        ({"1": "hidden"}, "names the module '1', which the source does not have"),
        ({"0": "hiden"}, "the layer 'hiden', which the target does not have"),
        ({"0": "hiden"}, "Nearest: 'hidden'"),
        ({"0": "out", "2": "out"}, "gives 'out' to two modules"),
        ({"0": "?"}, "has no layer for '0' yet"),
        ({"0": 3}, "match= holds '0': 3"),
        ({3: "out"}, "match= holds 3: 'out'"),
        ({"x*": "out"}, "names 'x*', which matches no module"),
        ({"*": "hid*_*"}, "has more '*' than the name"),
        ("shape", "match='shape' is not"),
        (5, "match=5 is not"),
        ("gone.json", "cannot be read as JSON"),
        ({"0": None}, "Without a source, 2 of the target"),
    ):  # fmt: skip
        assert words in refused(net, its, names="torch", match=match), match
    (tmp_path / "names.json").write_text("{")
    assert "cannot be read as JSON" in refused(
        net, its, names="torch", match=tmp_path / "names.json"
    )
    (tmp_path / "names.json").write_text("[1]")
    assert "match=[1] is not" in refused(net, its, names="torch", match=tmp_path / "names.json")
    (tmp_path / "names.json").write_text('{"0": "hidden", "2": null}')
    kg.transplant(net, its, names="torch", match=tmp_path / "names.json", keep="out")
    assert "match={'0': 'hidden'} is none of 'name'" in refused(model(), its, match={"0": "hidden"})


def test_the_report_of_names_cannot_be_written_where_nothing_can(tmp_path):
    found = kg.torch_names(module(), model())
    with pytest.raises(kg.WeightsError, match="cannot be written"):
        found.save(tmp_path / "no" / "names.json")


def test_reading_a_source_opens_no_other_file(tmp_path, monkeypatch):
    path = _safetensors(module(), tmp_path / "model.safetensors")
    opened, real = [], builtins.open

    def spy(file, *args, **kwargs):
        opened.append(str(file))
        return real(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", spy)
    kg.transplant(path, model(), names="torch")
    assert not [name for name in opened if "model" in name and name != str(path)]
