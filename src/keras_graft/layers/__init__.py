"""Layers that the package adds. A file that holds one loads once keras_graft was imported."""

from keras_graft.layers.frozen import Frozen
from keras_graft.layers.renamed import Renamed
from keras_graft.layers.tied_dense import TiedDense

__all__ = ["Frozen", "Renamed", "TiedDense"]
