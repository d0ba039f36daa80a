"""The only package that uses Keras's private state.

Each function names what it uses and the Keras versions it was run on. `tests/_keras` tests every
assumption made here, so a change in Keras is found there first. Names of private modules are only
in `private.py`; a name that is gone, there or on an object, is a `KerasVersionError`.
"""

import inspect
from typing import TYPE_CHECKING, Any

from keras_graft._keras import private
from keras_graft._keras.adapted_variable import Adapted as Adapted
from keras_graft._keras.adapted_variable import Joined as Joined
from keras_graft._keras.adapted_variable import Part as Part
from keras_graft._keras.adapted_variable import float_variable as float_variable
from keras_graft._keras.adapters import adapters_of as adapters_of
from keras_graft._keras.adapters import factors_in as factors_in
from keras_graft._keras.adapters import is_adapter as is_adapter
from keras_graft._keras.adapters import scales_of as scales_of
from keras_graft._keras.adapters import sum_of as sum_of
from keras_graft._keras.adapters import with_adapters as with_adapters
from keras_graft._keras.configs import compile_like as compile_like
from keras_graft._keras.configs import get_config as get_config
from keras_graft._keras.configs import save as save
from keras_graft._keras.configs import serialize as serialize
from keras_graft._keras.copying import Copier as Copier
from keras_graft._keras.copying import attributes as attributes
from keras_graft._keras.copying import order_layers as order_layers
from keras_graft._keras.copying import plain_container as plain_container
from keras_graft._keras.copying import track_on_torch as track_on_torch
from keras_graft._keras.copying import twin as twin
from keras_graft._keras.copying import variable_like as variable_like
from keras_graft._keras.copying import with_body_of as with_body_of
from keras_graft._keras.flags import default_flag as default_flag
from keras_graft._keras.flags import defaults_leak as defaults_leak
from keras_graft._keras.flags import flags_apart as flags_apart
from keras_graft._keras.flags import leaves_flag as leaves_flag
from keras_graft._keras.flags import settle_flags as settle_flags
from keras_graft._keras.foreign_outputs import watch as watch
from keras_graft._keras.functional import LaterOutputs as LaterOutputs
from keras_graft._keras.functional import functional_config as functional_config
from keras_graft._keras.functional import make_functional as make_functional
from keras_graft._keras.functional import takes_functional_arguments as takes_functional_arguments
from keras_graft._keras.functional import uses_functional_config as uses_functional_config
from keras_graft._keras.inside import first_held as first_held
from keras_graft._keras.layers import built_for as built_for
from keras_graft._keras.layers import flag_of as flag_of
from keras_graft._keras.layers import is_model as is_model
from keras_graft._keras.layers import layers_inside as layers_inside
from keras_graft._keras.layers import own_trained as own_trained
from keras_graft._keras.layers import projections as projections
from keras_graft._keras.layers import put_in_place_of as put_in_place_of
from keras_graft._keras.layers import set_built_for as set_built_for
from keras_graft._keras.layers import set_flag as set_flag
from keras_graft._keras.layers import sublayers as sublayers
from keras_graft._keras.layers import track as track
from keras_graft._keras.layers import tracked as tracked
from keras_graft._keras.layers import trained_weights as trained_weights
from keras_graft._keras.layers import untrack as untrack
from keras_graft._keras.layers import untracked as untracked
from keras_graft._keras.layers import use_instead as use_instead
from keras_graft._keras.layers import values_of as values_of
from keras_graft._keras.meantime import forget_readers as forget_readers
from keras_graft._keras.meantime import named_since as named_since
from keras_graft._keras.meantime import names_given as names_given
from keras_graft._keras.meantime import take_names_back as take_names_back
from keras_graft._keras.nodes import Builder as Builder
from keras_graft._keras.nodes import arguments as arguments
from keras_graft._keras.nodes import call_index as call_index
from keras_graft._keras.nodes import functional as functional
from keras_graft._keras.nodes import input_layer as input_layer
from keras_graft._keras.nodes import is_functional_subclass as is_functional_subclass
from keras_graft._keras.nodes import mask_of as mask_of
from keras_graft._keras.nodes import name_plainly as name_plainly
from keras_graft._keras.nodes import node_of as node_of
from keras_graft._keras.nodes import nodes as nodes
from keras_graft._keras.nodes import reads_masks as reads_masks
from keras_graft._keras.nodes import recorded_flag_stays as recorded_flag_stays
from keras_graft._keras.nodes import release as release
from keras_graft._keras.nodes import renamed_op as renamed_op
from keras_graft._keras.nodes import run_under_masks as run_under_masks
from keras_graft._keras.nodes import set_mask as set_mask
from keras_graft._keras.nodes import set_model_state as set_model_state
from keras_graft._keras.nodes import steps_behind as steps_behind
from keras_graft._keras.nodes import takes_training as takes_training
from keras_graft._keras.nodes import undone_on_error as undone_on_error
from keras_graft._keras.ops import bare_op as bare_op
from keras_graft._keras.ops import bound as bound
from keras_graft._keras.ops import copying_op as copying_op
from keras_graft._keras.ops import function_named as function_named
from keras_graft._keras.ops import is_new_op as is_new_op
from keras_graft._keras.ops import op_attributes as op_attributes
from keras_graft._keras.ops import op_class as op_class
from keras_graft._keras.ops import op_name as op_name
from keras_graft._keras.optimizers import Slots as Slots
from keras_graft._keras.optimizers import batches_seen as batches_seen
from keras_graft._keras.optimizers import compilation as compilation
from keras_graft._keras.optimizers import count_with as count_with
from keras_graft._keras.optimizers import is_accumulated as is_accumulated
from keras_graft._keras.optimizers import is_learning_rate as is_learning_rate
from keras_graft._keras.optimizers import key_of as key_of
from keras_graft._keras.optimizers import moves_averages as moves_averages
from keras_graft._keras.optimizers import not_decayed as not_decayed
from keras_graft._keras.optimizers import own_schedule as own_schedule
from keras_graft._keras.optimizers import same_optimizer as same_optimizer
from keras_graft._keras.optimizers import slots as slots
from keras_graft._keras.optimizers import steps_alone as steps_alone
from keras_graft._keras.optimizers import trained_by as trained_by
from keras_graft._keras.optimizers import works as works
from keras_graft._keras.policies import in_float32 as in_float32
from keras_graft._keras.policies import policy_of as policy_of
from keras_graft._keras.policies import rename_policies as rename_policies
from keras_graft._keras.policies import set_policies_inside as set_policies_inside
from keras_graft._keras.policies import use_own_policy as use_own_policy
from keras_graft._keras.private import VERSION as VERSION
from keras_graft._keras.quantization import inputs_seen as inputs_seen
from keras_graft._keras.quantization import quantize_layer as quantize_layer
from keras_graft._keras.quantization import quantized_weights as quantized_weights
from keras_graft._keras.quantization import quantizer_class as quantizer_class
from keras_graft._keras.quantization import save_all_weights as save_all_weights
from keras_graft._keras.quantization import tokens as tokens
from keras_graft._keras.quantization import weights_read_outside as weights_read_outside
from keras_graft._keras.rated import Pace as Pace
from keras_graft._keras.rated import Rated as Rated
from keras_graft._keras.rematerialized import blocks_once as blocks_once
from keras_graft._keras.rematerialized import rematerialized as rematerialized
from keras_graft._keras.remembering import FORMAT as FORMAT
from keras_graft._keras.remembering import InFile as InFile
from keras_graft._keras.remembering import Remembering as Remembering
from keras_graft._keras.remembering import in_file as in_file
from keras_graft._keras.remembering import remembering as remembering
from keras_graft._keras.remembering import with_steps_in_file as with_steps_in_file
from keras_graft._keras.runtime import autocast_of as autocast_of
from keras_graft._keras.runtime import losses_kept as losses_kept
from keras_graft._keras.runtime import take_losses as take_losses
from keras_graft._keras.saving import TooLargeError as TooLargeError
from keras_graft._keras.saving import automatic_name as automatic_name
from keras_graft._keras.saving import class_of_config as class_of_config
from keras_graft._keras.saving import has_value as has_value
from keras_graft._keras.saving import own_weights as own_weights
from keras_graft._keras.saving import saving_paths as saving_paths
from keras_graft._keras.saving import weights_up_to as weights_up_to
from keras_graft._keras.seeds import seeds as seeds
from keras_graft._keras.seeds import set_seeds as set_seeds
from keras_graft._keras.structure import model_of_config as model_of_config
from keras_graft._keras.structure import model_of_legacy_config as model_of_legacy_config
from keras_graft._keras.structure import without_values as without_values
from keras_graft._keras.symbolic import call_with as call_with
from keras_graft._keras.symbolic import dtype_of as dtype_of
from keras_graft._keras.symbolic import ignores_training as ignores_training
from keras_graft._keras.symbolic import is_kerass as is_kerass
from keras_graft._keras.symbolic import loose_node as loose_node
from keras_graft._keras.symbolic import set_shape as set_shape
from keras_graft._keras.symbolic import shuts as shuts
from keras_graft._keras.symbolic import stand_in as stand_in
from keras_graft._keras.tied_variable import AS_IT_IS as AS_IT_IS
from keras_graft._keras.tied_variable import TRANSFORMS as TRANSFORMS
from keras_graft._keras.tied_variable import Tied as Tied
from keras_graft._keras.tied_variable import Transform as Transform
from keras_graft._keras.tracing import DRAWS as DRAWS
from keras_graft._keras.tracing import MAKES as MAKES
from keras_graft._keras.tracing import heard as heard
from keras_graft._keras.tracing import records_gradients as records_gradients
from keras_graft._keras.views import Thawed as Thawed
from keras_graft._keras.views import View as View
from keras_graft._keras.views import call_as as call_as
from keras_graft._keras.views import call_like as call_like
from keras_graft._keras.views import inner_call as inner_call
from keras_graft._keras.views import is_cast as is_cast
from keras_graft._keras.views import is_elementwise as is_elementwise
from keras_graft._keras.views import own_call_context as own_call_context
from keras_graft._keras.views import own_seeds as own_seeds
from keras_graft._keras.views import takes_masks_off as takes_masks_off
from keras_graft._keras.views import thawed as thawed
from keras_graft._keras.views import view as view
from keras_graft._keras.written import Placeholder as Placeholder
from keras_graft._keras.written import Written as Written
from keras_graft._keras.written import calls_written as calls_written

for _name, _found in list(globals().items()):
    if inspect.isfunction(_found):
        globals()[_name] = private.guarded(_found)


if TYPE_CHECKING:  # a type checker must find a name that is not there
    Functional: Any
    Node: Any
else:

    def __getattr__(name: str) -> Any:
        """Return a private class of Keras, such as `Functional`, where it is used: see `private`."""
        if name in private.NAMES:
            return getattr(private, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
