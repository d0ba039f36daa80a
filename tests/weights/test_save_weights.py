"""`save_weights`: files that PyTorch loads, and files by address."""

import os

import keras
import numpy as np
import pytest
import torch
from donor import equal
from keras import layers as L
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch_linear import check, model, module
from weights import by_address, outputs_equal, refused

import keras_graft as kg

pytestmark = pytest.mark.once


def test_save_weights_writes_what_load_state_dict_takes(tmp_path):
    its, net = model(), module()
    before = by_address(its)
    for suffix, load in {
        "safetensors": load_file,
        "pth": torch.load,
        "pt": torch.load,
        "bin": torch.load,
    }.items():
        path = tmp_path / f"net.{suffix}"
        report = kg.save_weights(its, path, names="torch", match={"0": "hidden", "2": "out"})
        assert report.mapping == {"0": "hidden", "2": "out"}
        net.load_state_dict(load(path))
        check(net, its)
        kg.save_weights(its, str(path), names="torch", like=net)  # replaced
        assert load(path).keys() == net.state_dict().keys()
    assert len(list(tmp_path.iterdir())) == 4
    with safe_open(tmp_path / "net.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    after = by_address(its)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_save_weights_by_addresses_is_read_by_transplant(tmp_path):
    its, other = model(), model()
    report = kg.save_weights(its, tmp_path / "a.safetensors")
    assert report.mapping == {name: name for name in by_address(its)}
    kg.transplant(tmp_path / "a.safetensors", other)
    outputs_equal(its, other)


def test_half_precision_is_written_as_it_is(tmp_path):
    for dtype in ("bfloat16", "float16"):
        its = keras.Sequential([keras.Input((4,)), L.Dense(5, name="d", dtype=dtype)])
        its.layers[0].kernel.assign(keras.random.normal((4, 5)))
        for suffix, load in {"safetensors": load_file, "pth": torch.load}.items():
            kg.save_weights(its, tmp_path / f"a.{suffix}", names="torch")
            back = load(tmp_path / f"a.{suffix}")["d.weight"]
            assert back.dtype == getattr(torch, dtype)
            other = keras.Sequential([keras.Input((4,)), L.Dense(5, name="d", dtype=dtype)])
            kg.transplant(tmp_path / f"a.{suffix}", other, names="torch")
            equal(its.weights, other.weights)


def test_fused_projections_and_recurrent_layers_are_written_in_one(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(6, 3, batch_first=True, bidirectional=True)
            self.attn = nn.MultiheadAttention(6, 2, batch_first=True)

    x = keras.Input((4, 6))
    y = L.Bidirectional(L.LSTM(3, return_sequences=True), name="both")(x)
    its = keras.Model(x, L.MultiHeadAttention(2, 3, name="mha")(y, y))
    net = Net()
    report = kg.transplant(net, its, names="torch")
    expected = {"rnn.l0": "both/forward_lstm", "attn.in_proj.query": "mha/query"}
    assert (
        expected.items() <= {m: a.rstrip("_0123456789") for m, a in report.mapping.items()}.items()
    )
    kg.save_weights(its, tmp_path / "a.safetensors", names="torch", match=report.mapping)
    back = load_file(tmp_path / "a.safetensors")
    other = Net()
    other.load_state_dict(back)
    for name, tensor in net.state_dict().items():
        if not name.startswith("rnn.bias"):
            assert torch.equal(tensor, other.state_dict()[name])
    assert not back["rnn.bias_hh_l0"].any()  # PyTorch adds two biases: the second one is zero
    half = {n: a for n, a in report.mapping.items() if n != "attn.in_proj.key"}
    with pytest.raises(kg.WeightsError, match="belong to one tensor"):
        kg.save_weights(its, tmp_path / "a.safetensors", names="torch", match=half)


def test_adapters_are_merged_and_quantized_layers_refused(tmp_path):
    its = keras.Sequential([keras.Input((4,)), L.Dense(5, name="d")])
    its.layers[0].enable_lora(2)
    its.layers[0].lora_kernel_b.assign(keras.random.normal((2, 5)))
    kg.save_weights(its, tmp_path / "a.safetensors", names="torch")
    back = load_file(tmp_path / "a.safetensors")
    assert set(back) == {"d.weight", "d.bias"}
    x = np.ones((1, 4), "float32")
    ours = keras.ops.convert_to_numpy(its(x))
    assert np.allclose(x @ back["d.weight"].numpy().T + back["d.bias"].numpy(), ours, atol=1e-5)
    its = keras.Sequential([keras.Input((4,)), L.Dense(5, name="d")])
    its.quantize("int8")
    with pytest.raises(kg.WeightsError, match=r"is quantized \(int8\)"):
        kg.save_weights(its, tmp_path / "b.safetensors", names="torch")
    words = "not quantized in the source, quantized (int8) in the target"
    assert words in refused(nn.Linear(4, 5), its, names="torch")


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    its = model()
    path = tmp_path / "a.safetensors"
    kg.save_weights(its, path, names="torch")
    data = path.read_bytes()
    for call, words in (
        (lambda: kg.save_weights(its, tmp_path / "a.h5", names="torch"), "does not end in .safetensors"),
        (lambda: kg.save_weights(its, tmp_path / "no" / "a.pth", names="torch"), "there is no such folder"),
        (lambda: kg.save_weights(its, path, names="jax"), "names='jax' is neither"),
        (lambda: kg.save_weights(its, path, match={"a": "out"}), "need names='torch'"),
        (lambda: kg.save_weights(its, 5, names="torch"), "path=5 is not the path"),
        (lambda: kg.save_weights("net", path, names="torch"), "must be a Keras model"),
        (lambda: kg.save_weights(keras.Sequential(), path, names="torch"), "is not built"),
        (lambda: kg.save_weights(its, path, names="torch", match={"a": "ot"}), "Nearest: 'out'"),
        (lambda: kg.save_weights(its, path, names="torch", match=lambda a: "same"), "two layers would be"),
        (lambda: kg.save_weights(its, path, names="torch", match=lambda a: 3), "returned 3"),
        (lambda: kg.save_weights(its, path, names="torch", match=lambda a: 1 / 0), "raised ZeroDivisionError"),
        (lambda: kg.save_weights(its, path, names="torch", like={"a.weight": torch.ones(2, 2)}),
         "tensors of like= without a layer: 'a.weight'; layers without a module: 'hidden', 'out'"),
    ):  # fmt: skip
        with pytest.raises(kg.WeightsError) as caught:
            call()
        assert words in str(caught.value)
    whole = os.replace
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(kg.WeightsError, match="cannot be written: full"):
        kg.save_weights(its, path, names="torch")
    monkeypatch.setattr(os, "replace", whole)
    assert path.read_bytes() == data and [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_like_keeps_what_keras_has_no_layer_for(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 5)
            self.norm = nn.BatchNorm1d(5)
            self.extra = nn.Linear(5, 7)
            self.norm.num_batches_tracked += 9

    net = Net()
    x = keras.Input((4,))
    its = keras.Model(x, L.BatchNormalization(name="n")(L.Dense(5, name="b")(x)))
    with pytest.raises(kg.WeightsError, match="without a layer: 'extra.weight', 'extra.bias'"):
        kg.save_weights(its, tmp_path / "a.pth", names="torch", like=net)
    kg.save_weights(its, tmp_path / "a.pth", names="torch", like=net, match={"extra": None})
    back = torch.load(tmp_path / "a.pth")
    assert list(back) == list(net.state_dict()) and back["norm.num_batches_tracked"] == 9
    assert torch.equal(back["extra.weight"], net.extra.weight)
    equal(its.get_layer("b").kernel.value, back["body.weight"].T.contiguous())
