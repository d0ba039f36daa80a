"""keras-graft: take trained Keras 3 networks apart and put them together again."""

from keras_graft import features as features
from keras_graft import layers as layers
from keras_graft import recipes, resize
from keras_graft.api import cuts, diff, extract, join, select, sharing, split, submodel
from keras_graft.blocks import inline, nest, repeat
from keras_graft.build import build
from keras_graft.carried import Carried
from keras_graft.clone import clone
from keras_graft.cuts import Cut
from keras_graft.diff import Diff
from keras_graft.edits import insert, remove, replace, rewire
from keras_graft.errors import (
    AmbiguousError,
    BuildError,
    CutError,
    EditError,
    FeatureError,
    GraftError,
    GraftWarning,
    GraphError,
    JoinError,
    KerasVersionError,
    NothingSelectedError,
    NotYetError,
    ReadError,
    SelectionError,
    WeightsError,
)
from keras_graft.freeze import freeze
from keras_graft.graph import Graph
from keras_graft.node import Node, Spec, Value
from keras_graft.optimizer import carry_optimizer
from keras_graft.reader import read
from keras_graft.reinput import reinput
from keras_graft.select import Selection
from keras_graft.share import share, unshare
from keras_graft.sharing import Sharing
from keras_graft.ties import register_transform, tie, untie
from keras_graft.transplant import transplant
from keras_graft.transplanted import Transplanted

__version__ = "0.1.0.dev0"

__all__ = [
    # look
    "read", "build", "select", "cuts", "sharing", "diff",
    # take apart, join
    "extract", "submodel", "split", "join",
    # edit
    "replace", "insert", "remove", "rewire", "repeat", "inline", "nest", "reinput",
    # weights
    "clone", "share", "unshare", "tie", "untie", "register_transform",
    "transplant", "resize", "carry_optimizer",
    # whole jobs, each a readable file
    "recipes",
    # for training a head
    "freeze",
    # what they give
    "Graph", "Node", "Value", "Spec", "Selection", "Cut", "Sharing", "Diff",
    "Transplanted", "Carried",
    # what they raise
    "GraftError", "ReadError", "GraphError", "SelectionError", "NothingSelectedError",
    "AmbiguousError", "CutError", "JoinError", "EditError", "BuildError", "WeightsError",
    "FeatureError", "KerasVersionError", "NotYetError", "GraftWarning",
]  # fmt: skip
