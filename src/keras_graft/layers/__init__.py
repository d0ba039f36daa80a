"""Layers that keras-graft adds. Import keras_graft before you load a file that has one."""

from keras_graft.layers.add_loss import AddLoss, WithMask
from keras_graft.layers.constant import Constant
from keras_graft.layers.dynamic_op import DynamicOp
from keras_graft.layers.fixed_training import FixedTraining
from keras_graft.layers.frozen import Frozen
from keras_graft.layers.operator import Operator
from keras_graft.layers.patched import Patched
from keras_graft.layers.random import Random
from keras_graft.layers.remat import Remat
from keras_graft.layers.renamed import Renamed
from keras_graft.layers.then import Then
from keras_graft.layers.tied_dense import TiedDense
from keras_graft.layers.weight import KeepWeights, Weight

__all__ = [
    "AddLoss", "Constant", "DynamicOp", "FixedTraining", "Frozen", "KeepWeights", "Operator", "Patched",
    "Random", "Remat", "Renamed", "Then", "TiedDense", "Weight", "WithMask",
]  # fmt: skip
