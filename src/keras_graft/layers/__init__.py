"""Layers that keras-graft adds. Import keras_graft before you load a file that has one."""

from keras_graft.layers.frozen import Frozen
from keras_graft.layers.renamed import Renamed
from keras_graft.layers.then import Then
from keras_graft.layers.tied_dense import TiedDense

__all__ = ["Frozen", "Renamed", "Then", "TiedDense"]
