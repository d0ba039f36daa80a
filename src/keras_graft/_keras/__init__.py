"""The only package that uses Keras's private state.

Each function names what it uses and the Keras versions it was run on. `tests/_keras` tests every
assumption made here, so a change in Keras is found there first. Names of private modules are only
in `private.py`; a name that is gone, there or on an object, is a `KerasVersionError`.
"""

import inspect
from typing import Any

from keras_graft._keras import private
from keras_graft._keras.adapters import adapters_of, is_adapter, scale_of, with_adapters
from keras_graft._keras.configs import get_config, without_tensorflow
from keras_graft._keras.copying import (
    Copier,
    attributes,
    order_layers,
    plain_container,
    track_on_torch,
    variable_like,
    with_body_of,
)
from keras_graft._keras.flags import (
    default_flag,
    defaults_leak,
    flags_apart,
    leaves_flag,
    settle_flags,
)
from keras_graft._keras.foreign_outputs import watch
from keras_graft._keras.functional import (
    LaterOutputs,
    functional_config,
    make_functional,
    takes_functional_arguments,
    uses_functional_config,
)
from keras_graft._keras.inside import first_held
from keras_graft._keras.layers import is_model, layers_inside, put_in_place_of, sublayers, tracked
from keras_graft._keras.meantime import forget_readers, named_since, names_given
from keras_graft._keras.nodes import (
    Builder,
    arguments,
    call_index,
    donor_nodes,
    functional,
    input_layer,
    is_functional_subclass,
    mark,
    marked,
    mask_of,
    name_plainly,
    node_of,
    nodes,
    reads_masks,
    recorded_flag_stays,
    release,
    renamed_op,
    run_under_masks,
    set_mask,
    set_model_state,
    steps_behind,
    structures,
    takes_training,
)
from keras_graft._keras.optimizers import (
    Slots,
    batches_seen,
    compilation,
    is_accumulated,
    is_learning_rate,
    key_of,
    moves_averages,
    not_decayed,
    same_optimizer,
    slots,
    trained_by,
)
from keras_graft._keras.saving import (
    TooLargeError,
    automatic_name,
    class_of_config,
    has_value,
    own_weights,
    saving_paths,
    weights_up_to,
)
from keras_graft._keras.tied_variable import AS_IT_IS, TRANSFORMS, Tied, Transform
from keras_graft._keras.views import (
    View,
    call_as,
    call_like,
    inner_call,
    is_elementwise,
    own_call_context,
    own_seeds,
    takes_masks_off,
    view,
)

__all__ = [
    "get_config",
    "without_tensorflow",
    "Copier",
    "attributes",
    "first_held",
    "default_flag",
    "defaults_leak",
    "flags_apart",
    "leaves_flag",
    "settle_flags",
    "order_layers",
    "plain_container",
    "track_on_torch",
    "variable_like",
    "with_body_of",
    "Builder",
    "LaterOutputs",
    "arguments",
    "call_index",
    "donor_nodes",
    "forget_readers",
    "functional",
    "input_layer",
    "is_functional_subclass",
    "make_functional",
    "mark",
    "marked",
    "mask_of",
    "name_plainly",
    "node_of",
    "nodes",
    "reads_masks",
    "recorded_flag_stays",
    "release",
    "renamed_op",
    "run_under_masks",
    "set_mask",
    "set_model_state",
    "steps_behind",
    "structures",
    "takes_training",
    "Slots",
    "batches_seen",
    "is_accumulated",
    "compilation",
    "is_learning_rate",
    "key_of",
    "moves_averages",
    "not_decayed",
    "same_optimizer",
    "slots",
    "trained_by",
    "TooLargeError",
    "automatic_name",
    "named_since",
    "names_given",
    "has_value",
    "own_weights",
    "saving_paths",
    "weights_up_to",
    "adapters_of",
    "is_adapter",
    "scale_of",
    "with_adapters",
    "AS_IT_IS",
    "TRANSFORMS",
    "Tied",
    "Transform",
    "is_model",
    "layers_inside",
    "put_in_place_of",
    "tracked",
    "class_of_config",
    "functional_config",
    "takes_functional_arguments",
    "uses_functional_config",
    "View",
    "own_call_context",
    "call_as",
    "call_like",
    "inner_call",
    "is_elementwise",
    "own_seeds",
    "sublayers",
    "takes_masks_off",
    "view",
    "watch",
]

for _name in __all__:
    if inspect.isfunction(_found := globals()[_name]):
        globals()[_name] = private.guarded(_found)


def __getattr__(name: str) -> Any:
    """Return a private class of Keras, such as `Functional`, where it is used: see `private`."""
    if name in private.NAMES:
        return getattr(private, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
