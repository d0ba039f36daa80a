"""What a tie is: one variable that two layers use, perhaps through a transform.

The record on a layer, the layer that works with another's variable, how a tie is applied, and the
model that finds both ends again when it is loaded.
"""

from keras_graft.graph.index import all_ties, ties_of
from keras_graft.ties.apply import carry_out, look_again, own_variable, shared_copy, take_back
from keras_graft.ties.layer import (
    Tie,
    TiedLayer,
    followed,
    named_weights,
    owner_of,
    owns,
    plain_config,
    same_tie,
)
from keras_graft.ties.model import TiedModel, layers_behind, model_class

__all__ = [
    "Tie", "TiedLayer", "TiedModel", "all_ties", "carry_out", "followed", "layers_behind",
    "look_again", "model_class", "named_weights", "own_variable", "owner_of", "owns",
    "plain_config", "same_tie", "shared_copy", "take_back", "ties_of",
]  # fmt: skip
