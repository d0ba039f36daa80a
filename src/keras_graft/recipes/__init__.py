"""Whole jobs in one call, each a readable file written with the public verbs alone.

Each takes a Keras model or a `Graph` and gives back the same kind. Start from their source when
yours is a different job.
"""

from keras_graft.recipes._add_adapters import add_adapters
from keras_graft.recipes._add_dropout import add_dropout
from keras_graft.recipes._fold_batchnorm import Folded, fold_batchnorm
from keras_graft.recipes._new_head import new_head
from keras_graft.recipes._norm_swap import norm_swap
from keras_graft.recipes._swap_activation import swap_activation
from keras_graft.recipes._unet import unet

__all__ = [
    "swap_activation", "norm_swap", "fold_batchnorm", "add_adapters", "add_dropout", "new_head",
    "unet", "Folded",
]  # fmt: skip
