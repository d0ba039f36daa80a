"""One module of PyTorch and one layer of Keras that compute the same, for each kind of layer.

As a script it prints the largest difference of the outputs, both ways: the table in docs/weights.md.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from keras import layers as L  # noqa: E402
from torch import nn  # noqa: E402

import keras_graft as kg  # noqa: E402


class Case:
    """A module and a layer, and how the input and output of one become those of the other."""

    def __init__(self, module, layer, shape, images=False, ids=0, call=None):
        self.module, self.layer, self.shape = module, layer, shape
        self.images, self.ids, self.call = images, ids, call

    def made(self):
        """Return the module with random weights, and a model of one layer."""
        torch.manual_seed(1)
        module = self.module().eval()
        with torch.no_grad():
            for name, tensor in module.state_dict().items():
                if tensor.is_floating_point():
                    low = 0.5 if name.endswith("running_var") else -0.5
                    tensor.copy_(torch.rand(tensor.shape) + low)
        x = keras.Input(self.shape, dtype="int32" if self.ids else "float32")
        layer = self.layer()
        y = layer(x, x) if isinstance(layer, L.MultiHeadAttention) else layer(x)
        return module, keras.Model(x, y, name="keras")

    def error(self, module, model):
        """Return the largest difference of the outputs."""
        draw = np.random.default_rng(0)
        x = draw.normal(size=(2, *self.shape)).astype("float32")
        if self.ids:
            x = draw.integers(0, self.ids, (2, *self.shape)).astype("int32")
        given = np.moveaxis(x, -1, 1) if self.images else x
        with torch.no_grad():
            theirs = (self.call or (lambda m, x: m(x)))(module, torch.tensor(given)).numpy()
        if self.images and theirs.ndim > 2:
            theirs = np.moveaxis(theirs, 1, -1)
        return float(np.abs(keras.ops.convert_to_numpy(model(x)) - theirs).max())

    def both_ways(self, folder):
        """Return the largest differences from PyTorch to Keras, and from Keras to PyTorch."""
        module, model = self.made()
        kg.transplant(module.state_dict(), model, names="torch")
        there = self.error(module, model)
        draw = np.random.default_rng(7)
        for weight in model.weights:
            low = 0.5 if weight.name == "moving_variance" else -0.5
            weight.assign(draw.uniform(low, low + 1, weight.shape))
        path = Path(folder) / "back.safetensors"
        kg.save_weights(model, path, names="torch", like=module)
        from safetensors.torch import load_file

        module.load_state_dict(load_file(path))
        return there, self.error(module, model)


def attention(module, x):
    return module(x, x, x, need_weights=False)[0]


def first(module, x):
    return module(x)[0]


class Separable(nn.Module):
    def __init__(self):
        super().__init__()
        self.depthwise = nn.Conv2d(3, 6, 3, groups=3, bias=False)
        self.pointwise = nn.Conv2d(6, 5, 1)

    def forward(self, x):
        return self.pointwise(self.depthwise(x))


class Projections(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(8, 8) for _ in range(3))
        self.out_proj = nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = (p(x).unflatten(-1, (2, 4)).transpose(1, 2)
                   for p in (self.q_proj, self.k_proj, self.v_proj))  # fmt: skip
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out_proj(y.transpose(1, 2).flatten(-2))


class Fused(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).flatten(-2))


class Attention(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.attn = inner

    def forward(self, x):
        return self.attn(x)


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(8, 6)

    def forward(self, x):
        return self.dense(x).unflatten(-1, (2, 3))


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(6, 8)

    def forward(self, x):
        return self.dense(x.flatten(-2))


def picture(module, layer, size=6, channels=4, rank=2):
    return Case(module, layer, (*[size] * rank, channels), images=True)


CASES = {
    "Linear, Dense": Case(lambda: nn.Linear(5, 3), lambda: L.Dense(3), (5,)),
    "Linear without bias": Case(lambda: nn.Linear(5, 3, bias=False), lambda: L.Dense(3, use_bias=False), (5,)),
    "Linear, EinsumDense": Case(lambda: nn.Linear(5, 3), lambda: L.EinsumDense("abc,cd->abd", (None, 3), bias_axes="d"), (4, 5)),
    "EinsumDense into heads": Case(Heads, lambda: L.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de"), (4, 8)),
    "EinsumDense from heads": Case(Joined, lambda: L.EinsumDense("abcd,cde->abe", (None, 8), bias_axes="e"), (4, 2, 3)),
    "Conv1D": picture(lambda: nn.Conv1d(4, 6, 3), lambda: L.Conv1D(6, 3), rank=1),
    "Conv2D": picture(lambda: nn.Conv2d(4, 6, (3, 2)), lambda: L.Conv2D(6, (3, 2))),
    "Conv3D": picture(lambda: nn.Conv3d(4, 6, (3, 2, 1)), lambda: L.Conv3D(6, (3, 2, 1)), rank=3),
    "Conv2D, dilated": picture(lambda: nn.Conv2d(4, 6, 3, dilation=2), lambda: L.Conv2D(6, 3, dilation_rate=2)),
    "Conv2D of size 1, Linear": Case(lambda: nn.Linear(4, 6), lambda: L.Conv2D(6, 1), (3, 3, 4)),
    "Dense, Conv2d of size 1": picture(lambda: nn.Conv2d(4, 6, 1), lambda: L.Dense(6)),
    "Conv2D, grouped": picture(lambda: nn.Conv2d(4, 6, 3, groups=2), lambda: L.Conv2D(6, 3, groups=2)),
    "Conv2D, one group a channel": picture(lambda: nn.Conv2d(4, 8, 3, groups=4), lambda: L.Conv2D(8, 3, groups=4)),
    "DepthwiseConv1D": picture(lambda: nn.Conv1d(4, 4, 3, groups=4), lambda: L.DepthwiseConv1D(3), rank=1),
    "DepthwiseConv2D, multiplier 2": picture(lambda: nn.Conv2d(4, 8, (3, 2), groups=4), lambda: L.DepthwiseConv2D((3, 2), depth_multiplier=2)),
    "SeparableConv2D": picture(Separable, lambda: L.SeparableConv2D(5, 3, depth_multiplier=2), channels=3),
    "Conv1DTranspose": picture(lambda: nn.ConvTranspose1d(4, 6, 3, stride=2), lambda: L.Conv1DTranspose(6, 3, strides=2), rank=1),
    "Conv2DTranspose": picture(lambda: nn.ConvTranspose2d(4, 6, (3, 2), stride=2), lambda: L.Conv2DTranspose(6, (3, 2), strides=2)),
    "Conv3DTranspose": picture(lambda: nn.ConvTranspose3d(4, 6, 2, stride=2), lambda: L.Conv3DTranspose(6, 2, strides=2), size=3, rank=3),
    "Embedding": Case(lambda: nn.Embedding(7, 4), lambda: L.Embedding(7, 4), (5,), ids=7),
    "BatchNormalization": picture(lambda: nn.BatchNorm2d(4), lambda: L.BatchNormalization(epsilon=1e-5)),
    "LayerNormalization": Case(lambda: nn.LayerNorm(6), lambda: L.LayerNormalization(epsilon=1e-5), (3, 6)),
    "LayerNormalization, two axes": Case(lambda: nn.LayerNorm((3, 6)), lambda: L.LayerNormalization(axis=(-2, -1), epsilon=1e-5), (3, 6)),
    "GroupNormalization": picture(lambda: nn.GroupNorm(2, 4), lambda: L.GroupNormalization(2, epsilon=1e-5)),
    "InstanceNorm, GroupNormalization(-1)": picture(lambda: nn.InstanceNorm2d(4, affine=True), lambda: L.GroupNormalization(-1, epsilon=1e-5)),
    "RMSNormalization": Case(lambda: nn.RMSNorm(6, eps=1e-6), lambda: L.RMSNormalization(epsilon=1e-6), (3, 6)),
    "PReLU, one slope": picture(lambda: nn.PReLU(), lambda: L.PReLU(shared_axes=[1, 2, 3])),
    "PReLU, one a channel": picture(lambda: nn.PReLU(4), lambda: L.PReLU(shared_axes=[1, 2])),
    "LSTM": Case(lambda: nn.LSTM(5, 4, batch_first=True), lambda: L.LSTM(4, return_sequences=True), (6, 5), call=first),
    "LSTM, bidirectional": Case(lambda: nn.LSTM(5, 4, batch_first=True, bidirectional=True), lambda: L.Bidirectional(L.LSTM(4, return_sequences=True)), (6, 5), call=first),
    "LSTM, two layers": Case(lambda: nn.LSTM(5, 4, 2, batch_first=True), lambda: keras.Sequential([L.LSTM(4, return_sequences=True), L.LSTM(4, return_sequences=True)]), (6, 5), call=first),
    "LSTM, two bidirectional layers": Case(lambda: nn.LSTM(5, 4, 2, batch_first=True, bidirectional=True), lambda: keras.Sequential([L.Bidirectional(L.LSTM(4, return_sequences=True)) for _ in range(2)]), (6, 5), call=first),
    "LSTM of stacked cells": Case(lambda: nn.LSTM(5, 4, 2, batch_first=True), lambda: L.RNN([L.LSTMCell(4), L.LSTMCell(4)], return_sequences=True), (6, 5), call=first),
    "LSTM without bias": Case(lambda: nn.LSTM(5, 4, batch_first=True, bias=False), lambda: L.LSTM(4, return_sequences=True, use_bias=False), (6, 5), call=first),
    "GRU": Case(lambda: nn.GRU(5, 4, batch_first=True), lambda: L.GRU(4, return_sequences=True), (6, 5), call=first),
    "GRU, bidirectional": Case(lambda: nn.GRU(5, 4, batch_first=True, bidirectional=True), lambda: L.Bidirectional(L.GRU(4, return_sequences=True)), (6, 5), call=first),
    "RNN, SimpleRNN": Case(lambda: nn.RNN(5, 4, batch_first=True), lambda: L.SimpleRNN(4, return_sequences=True), (6, 5), call=first),
    "MultiheadAttention, in_proj": Case(lambda: nn.MultiheadAttention(8, 2, batch_first=True), lambda: L.MultiHeadAttention(2, 4), (5, 8), call=attention),
    "MultiheadAttention without bias": Case(lambda: nn.MultiheadAttention(8, 2, bias=False, batch_first=True), lambda: L.MultiHeadAttention(2, 4, use_bias=False), (5, 8), call=attention),
    "MultiHeadAttention, four Linears": Case(Projections, lambda: L.MultiHeadAttention(2, 4), (5, 8)),
    "MultiHeadAttention, one qkv": Case(lambda: Attention(Fused()), lambda: L.MultiHeadAttention(2, 4), (5, 8)),
}  # fmt: skip


if __name__ == "__main__":
    print("| Layer | From PyTorch | To PyTorch |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name, case in CASES.items():
            there, back = case.both_ways(folder)
            print(f"| {name} | {there:.1e} | {back:.1e} |")
