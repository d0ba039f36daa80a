"""Tied weights: one variable that two layers use, directly or through a transform.

Here are the record of a tie, the class of a tied layer, the code that applies a tie, and the model
class that restores ties when a file is loaded.
"""

from keras_graft.graph.record import all_ties, ties_of
from keras_graft.ties.apply import carry_out, look_again, own_variable, shared_copy, take_back
from keras_graft.ties.layer import (
    Partial,
    Tie,
    TiedLayer,
    followed,
    named_weights,
    owner_of,
    owns,
    plain_config,
    same_tie,
    tied_class,
)
from keras_graft.ties.model import TiedModel, layers_behind, model_class

__all__ = [
    "Partial", "Tie", "TiedLayer", "TiedModel", "all_ties", "carry_out", "followed", "layers_behind",
    "look_again", "model_class", "named_weights", "own_variable", "owner_of", "owns",
    "plain_config", "same_tie", "shared_copy", "take_back", "tied_class", "ties_of",
]  # fmt: skip
