"""A small network, written in PyTorch and in Keras, for the tests of files."""

import torch
from donor import equal
from torch import nn
from weights import small


def module():
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def model():
    return small()


def check(net, its):
    """Assert that a model has the weights of a module."""
    for layer, linear in (("hidden", net[0]), ("out", net[2])):
        equal(its.get_layer(layer).kernel.value, linear.weight.detach().T.contiguous())
        equal(its.get_layer(layer).bias.value, linear.bias.detach())
