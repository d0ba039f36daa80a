"""Each kind of layer with the weights of its module in PyTorch: the same outputs, both ways."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from donor import equal
from keras import layers as L
from torch import nn
from torch_cases import CASES, Case, attention
from weights import refused

import keras_graft as kg

DOCS = Path(__file__).parents[2] / "docs" / "weights.md"


@pytest.mark.parametrize("name", CASES)
def test_a_layer_computes_what_its_module_does(name, tmp_path):
    there, back = CASES[name].both_ways(tmp_path)
    assert there < 1e-5 and back < 1e-5


@pytest.mark.once
def test_the_documents_list_every_kind_of_layer():
    rows = re.findall(
        r"^\| ([^|]+) \| [0-9][0-9.e+-]+ \| [0-9][0-9.e+-]+ \|$", DOCS.read_text(), re.M
    )
    assert rows == list(CASES)


@pytest.mark.parametrize("size", [(6, 6), (5, 7)])
def test_a_dense_layer_behind_a_flattened_image_has_its_rows_in_another_order(size):
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(), nn.LazyLinear(5)
    )

    def layer():
        return keras.Sequential(
            [L.Conv2D(4, 3), L.ReLU(), L.MaxPooling2D(2), L.Flatten(), L.Dropout(0.5), L.Dense(5)]
        )

    module(torch.zeros(1, 3, *size))
    case = Case(lambda: module, layer, (*size, 3), images=True)
    its, model = case.made()
    kg.transplant(its.state_dict(), model, names="torch")
    assert case.error(its, model) < 1e-5
    assert size[0] > 6 or not np.allclose(
        model.layers[-1].layers[-1].kernel, its[5].weight.detach().T
    )


@pytest.mark.once
def test_what_is_flattened_is_known_inside_nested_models_and_over_their_edges():
    inner = keras.Sequential([keras.Input((6, 6, 3)), L.Conv2D(4, 3)], name="trunk")
    top = keras.Sequential([keras.Input((4, 4, 4)), L.Flatten(), L.Dense(5)], name="top")
    x = keras.Input((6, 6, 3))
    model = keras.Model(x, top(inner(x)))
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 5))
    kg.transplant(module.state_dict(), model, names="torch")
    assert Case(lambda: module, None, (6, 6, 3), images=True).error(module, model) < 1e-5


@pytest.mark.once
def test_a_flattened_sequence_and_a_permuted_image_are_as_pytorch_has_them():
    steps = keras.Sequential([keras.Input((4, 6)), L.Dense(6), L.Flatten(), L.Dense(5)])
    module = nn.Sequential(nn.Linear(6, 6), nn.Flatten(), nn.Linear(24, 5))
    kg.transplant(module.state_dict(), steps, names="torch")
    assert Case(lambda: module, None, (4, 6)).error(module, steps) < 1e-5

    image = keras.Sequential(
        [keras.Input((6, 6, 3)), L.Conv2D(4, 3), L.Permute((3, 1, 2)), L.Flatten(), L.Dense(5)]
    )
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 5))
    kg.transplant(module.state_dict(), image, names="torch")
    assert Case(lambda: module, None, (6, 6, 3), images=True).error(module, image) < 1e-5


@pytest.mark.once
def test_attention_with_keys_of_another_width():
    module = nn.MultiheadAttention(8, 2, kdim=6, vdim=5, batch_first=True)
    layer = L.MultiHeadAttention(2, 4)
    q, k, v = keras.Input((5, 8)), keras.Input((7, 6)), keras.Input((7, 5))
    model = keras.Model([q, k, v], layer(q, v, k))
    kg.transplant(module.state_dict(), model, names="torch")
    draw = np.random.default_rng(0)
    x = [draw.normal(size=(2, *s)).astype("float32") for s in ((5, 8), (7, 6), (7, 5))]
    theirs = module(*map(torch.tensor, x), need_weights=False)[0].detach().numpy()
    assert np.abs(keras.ops.convert_to_numpy(model(x)) - theirs).max() < 1e-5


@pytest.mark.once
def test_layers_that_pytorch_does_not_have_are_refused_and_named(tmp_path):
    def model(layer, shape=(6, 5)):
        return keras.Sequential([keras.Input(shape), layer], name="m")

    gru = model(L.GRU(4, reset_after=False, name="gru"))
    state = nn.GRU(5, 4, batch_first=True).state_dict()
    words = refused(state, gru, names="torch")
    assert "'gru' (GRUCell) of the target computes what no module of PyTorch does" in words
    assert 'keep="gru"' in words
    report = kg.transplant(state, gru, names="torch", keep="gru", match={"l0": None})
    assert len(report.kept) == 3 and not report.moved

    einsum = model(L.EinsumDense("abc,c->abc", (None, 5), name="each"))
    partly = model(L.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="e", name="part"))
    for other, why in (
        (gru, "'gru' (GRUCell) has no module in PyTorch that computes the same: reset_after=False"),
        (einsum, "'each' (EinsumDense) has no module in PyTorch that computes the same: its equation "
                 "'abc,c->abc' is not a Linear's"),
        (partly, "its bias_axes 'e' are not the outputs of a Linear"),
    ):  # fmt: skip
        with pytest.raises(kg.WeightsError) as caught:
            kg.save_weights(other, tmp_path / "a.safetensors", names="torch")
        assert why in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.once
def test_modules_with_more_than_the_layer_has_are_refused():
    def model(layer):
        return keras.Sequential([keras.Input((6,)), layer], name="m")

    plain = model(L.BatchNormalization(scale=False, name="bn"))
    state = nn.BatchNorm1d(6).state_dict()
    assert "Unused, 1 of the source: 'weight'" in refused(state, plain, names="torch")
    report = kg.transplant(state, plain, names="torch", keep="weight")
    assert report.ignored == ("num_batches_tracked",) and len(report.moved) == 3

    dense = model(L.Dense(3, use_bias=False, name="d"))
    state = nn.Linear(6, 3).state_dict()
    assert "Unused, 1 of the source: 'bias'" in refused(state, dense, names="torch")
    kg.transplant(state, dense, names="torch", resize=kg.resize.bias())
    equal(dense.layers[0].kernel.value, state["weight"].T.contiguous())


@pytest.mark.once
def test_a_bias_that_pytorch_does_not_have_is_zero_by_a_rule():
    dense = keras.Sequential([keras.Input((6,)), L.Dense(3, bias_initializer="ones")])
    state = nn.Linear(6, 3, bias=False).state_dict()
    assert "resize=kg.resize.bias()" in refused(state, dense, names="torch")
    kg.transplant(state, dense, names="torch", resize=kg.resize.bias())
    equal(dense.layers[0].bias.value, np.zeros(3, "float32"))


@pytest.mark.once
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes_are_cast_and_listed(dtype):
    module = nn.MultiheadAttention(8, 2, batch_first=True).to(getattr(torch, dtype))
    case = Case(lambda: module, lambda: L.MultiHeadAttention(2, 4), (5, 8), call=attention)
    x = keras.Input((5, 8))
    model = keras.Model(x, case.layer()(x, x))
    report = kg.transplant(module.state_dict(), model, names="torch")
    assert {m.cast for m in report.moved} == {f"{dtype} -> float32"}
    assert case.error(module.float(), model) < 1e-5


@pytest.mark.once
def test_the_two_biases_of_half_an_lstm_are_added_in_full():
    module = nn.LSTM(5, 4).to(torch.float16)
    model = keras.Sequential([keras.Input((6, 5)), L.LSTM(4)])
    report = kg.transplant(module.state_dict(), model, names="torch")
    assert [m.cast for m in report.moved] == ["float16 -> float32", "float16 -> float32", None]
    exact = module.bias_ih_l0.detach().float() + module.bias_hh_l0.detach().float()
    equal(model.weights[2].value, exact)


@pytest.mark.once
def test_a_layer_alone_is_a_target():
    layer = L.Dense(3)
    layer.build((None, 5))
    module = nn.Linear(5, 3)
    assert kg.transplant(module, layer, names="torch").modules[0].how == "name"
    equal(layer.kernel.value, module.weight.detach().T.contiguous())
