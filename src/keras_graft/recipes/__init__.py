"""Whole jobs in one call, each a readable file written with the public verbs alone.

Each takes a Keras model or a `Graph` and gives back the same kind. Start from their source when
yours is a different job.
"""

from keras_graft.model.verb import recipe as _recipe
from keras_graft.recipes import (
    _add_adapters,
    _add_dropout,
    _distill,
    _fold_batchnorm,
    _fuse_activation,
    _low_rank,
    _merge_branches,
    _new_head,
    _norm_swap,
    _prune_and_tune,
    _swap_activation,
    _unet,
)
from keras_graft.recipes._fold_batchnorm import Folded
from keras_graft.recipes._low_rank import LowRank
from keras_graft.recipes._tuned import PrunedAndTuned

swap_activation = _recipe(_swap_activation.swap_activation)
norm_swap = _recipe(_norm_swap.norm_swap)
fold_batchnorm = _recipe(_fold_batchnorm.fold_batchnorm)
fuse_activation = _recipe(_fuse_activation.fuse_activation)
merge_branches = _recipe(_merge_branches.merge_branches)
low_rank = _recipe(_low_rank.low_rank)
add_adapters = _recipe(_add_adapters.add_adapters)
add_dropout = _recipe(_add_dropout.add_dropout)
new_head = _recipe(_new_head.new_head)
unet = _recipe(_unet.unet)
distill = _distill.distill  # they train, and are no steps
prune_and_tune = _prune_and_tune.prune_and_tune

__all__ = [
    "swap_activation", "norm_swap", "fold_batchnorm", "fuse_activation", "merge_branches", "add_adapters", "add_dropout", "new_head",
    "unet", "low_rank", "distill", "prune_and_tune",
    "Folded", "LowRank", "PrunedAndTuned",
]  # fmt: skip
