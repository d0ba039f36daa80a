"""keras-graft: take trained Keras 3 networks apart and put them together again."""

import keras_graft.model.pickling  # noqa: F401 - registers how graphs are copied and pickled
from keras_graft import features as features
from keras_graft import layers as layers
from keras_graft import recipes
from keras_graft.adapters.adapter_files import load_adapters, save_adapters
from keras_graft.adapters.choose import remove_adapters, set_adapters
from keras_graft.adapters.lora import lora
from keras_graft.adapters.merge import merge_adapters, unmerge_adapters
from keras_graft.adapters.report import Adapters, list_adapters
from keras_graft.adapters.train_only import train_only
from keras_graft.display.picture import Picture
from keras_graft.display.show import show
from keras_graft.edit.freeze import freeze
from keras_graft.edit.inline import inline
from keras_graft.edit.insert import insert
from keras_graft.edit.nest import nest
from keras_graft.edit.plain import plain
from keras_graft.edit.reinput import reinput
from keras_graft.edit.remat import remat
from keras_graft.edit.remove import remove
from keras_graft.edit.repeat import repeat
from keras_graft.edit.replace import replace
from keras_graft.edit.rewire import rewire
from keras_graft.edit.unfreeze import unfreeze
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
    RunError,
    SelectionError,
    WeightsError,
)
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Spec, Value
from keras_graft.graph.select import Selection
from keras_graft.inside.given import Given
from keras_graft.inside.gradients import Gradients, gradients
from keras_graft.inside.importance import Importance, importance
from keras_graft.inside.patch import patch
from keras_graft.inside.record import Recorder, record, recorder
from keras_graft.look.balance import balance
from keras_graft.look.balance_report import Balance, Balanced
from keras_graft.look.costs import costs
from keras_graft.look.costs_report import Cost, Costs
from keras_graft.look.cuts import Cut, cuts
from keras_graft.look.diff import diff
from keras_graft.look.diff_report import Diff
from keras_graft.look.select import select
from keras_graft.look.sharing import Sharing, sharing
from keras_graft.look.stages import Stages, stages
from keras_graft.model.build import build
from keras_graft.model.clone import clone
from keras_graft.model.explain import Explanation, explain
from keras_graft.model.read import read
from keras_graft.parts.extract import extract, submodel
from keras_graft.parts.join import join
from keras_graft.parts.split import split
from keras_graft.pruning.group import Group, Member, group
from keras_graft.pruning.prune import prune
from keras_graft.pruning.widen import widen
from keras_graft.quantizing.quantize import quantize
from keras_graft.quantizing.report import Quantized, list_quantized
from keras_graft.replaying.replay import replay
from keras_graft.replaying.steps import Steps, steps
from keras_graft.rewrite.match import Match, Matches
from keras_graft.rewrite.matches import matches
from keras_graft.rewrite.rewrite import rewrite
from keras_graft.shared.share import share
from keras_graft.shared.tie import register_transform, tie
from keras_graft.shared.unshare import unshare
from keras_graft.shared.untie import untie
from keras_graft.tasks.replace_backbone import replace_backbone
from keras_graft.training.learning_rates import learning_rates
from keras_graft.training.optimizer import LearningRates
from keras_graft.training.rates import Rates
from keras_graft.weights import resize
from keras_graft.weights.carried import Carried
from keras_graft.weights.carry_optimizer import carry_optimizer
from keras_graft.weights.merge_checkpoints import merge_checkpoints
from keras_graft.weights.merging.report import Merged
from keras_graft.weights.report import Transplanted
from keras_graft.weights.save_weights import save_weights
from keras_graft.weights.torch_format.report import TorchNames
from keras_graft.weights.torch_names import torch_names
from keras_graft.weights.transplant import transplant

__version__ = "0.1.0.dev0"

__all__ = [
    # look
    "read", "build", "select", "cuts", "costs", "stages", "balance", "sharing", "diff", "explain",
    # take apart, join
    "extract", "submodel", "split", "join",
    # edit
    "replace", "insert", "remove", "rewire", "repeat", "inline", "nest", "reinput",
    "replace_backbone", "rewrite", "matches", "plain", "remat",
    # fewer channels
    "group", "prune", "widen", "importance", "Group", "Member", "Importance",
    # fewer bits
    "quantize", "list_quantized",
    # look inside a run
    "record", "recorder", "patch", "gradients",
    # weights
    "clone", "share", "unshare", "tie", "untie", "register_transform",
    "transplant", "resize", "carry_optimizer", "save_weights", "torch_names",
    "merge_checkpoints",
    # whole jobs, one readable file each
    "recipes",
    # pictures
    "show", "Picture",
    # for training
    "freeze", "unfreeze", "train_only", "learning_rates",
    # what was done
    "steps", "replay", "Steps",
    # adapters
    "lora", "list_adapters", "set_adapters", "merge_adapters", "unmerge_adapters",
    "remove_adapters", "save_adapters", "load_adapters",
    # results
    "Graph", "Node", "Value", "Spec", "Selection", "Cut", "Cost", "Costs", "Stages", "Balance", "Balanced", "Sharing", "Diff",
    "Explanation", "Given", "Recorder", "Gradients",
    "Match", "Matches", "Merged", "Transplanted", "Carried", "TorchNames", "LearningRates", "Rates", "Adapters", "Quantized",
    # errors and warnings
    "GraftError", "ReadError", "GraphError", "SelectionError", "NothingSelectedError",
    "AmbiguousError", "CutError", "JoinError", "EditError", "BuildError", "WeightsError",
    "RunError", "FeatureError", "KerasVersionError", "NotYetError", "GraftWarning",
]  # fmt: skip
