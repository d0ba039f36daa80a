"""The only module that touches Keras's private state.

Each function names what it uses and the Keras versions it was run on. `tests/test_keras_private.py`
holds every assumption made here, so that a Keras that moved is found there first.
"""

from keras_graft._keras.graphs import (
    Builder as Builder,
)
from keras_graft._keras.graphs import (
    Functional as Functional,
)
from keras_graft._keras.graphs import (
    Node as Node,
)
from keras_graft._keras.graphs import (
    arguments as arguments,
)
from keras_graft._keras.graphs import (
    call_index as call_index,
)
from keras_graft._keras.graphs import (
    donor_nodes as donor_nodes,
)
from keras_graft._keras.graphs import (
    functional as functional,
)
from keras_graft._keras.graphs import (
    input_layer as input_layer,
)
from keras_graft._keras.graphs import (
    is_functional_subclass as is_functional_subclass,
)
from keras_graft._keras.graphs import (
    make_functional as make_functional,
)
from keras_graft._keras.graphs import (
    mark as mark,
)
from keras_graft._keras.graphs import (
    marked as marked,
)
from keras_graft._keras.graphs import (
    mask_of as mask_of,
)
from keras_graft._keras.graphs import (
    name_plainly as name_plainly,
)
from keras_graft._keras.graphs import (
    node_of as node_of,
)
from keras_graft._keras.graphs import (
    nodes as nodes,
)
from keras_graft._keras.graphs import (
    reads_masks as reads_masks,
)
from keras_graft._keras.graphs import (
    release as release,
)
from keras_graft._keras.graphs import (
    renamed_op as renamed_op,
)
from keras_graft._keras.graphs import (
    run_under_masks as run_under_masks,
)
from keras_graft._keras.graphs import (
    set_mask as set_mask,
)
from keras_graft._keras.graphs import (
    set_model_state as set_model_state,
)
from keras_graft._keras.graphs import (
    steps_behind as steps_behind,
)
from keras_graft._keras.graphs import (
    structures as structures,
)
from keras_graft._keras.graphs import (
    takes_training as takes_training,
)
from keras_graft._keras.optimizers import (
    Slots as Slots,
)
from keras_graft._keras.optimizers import (
    compilation as compilation,
)
from keras_graft._keras.optimizers import (
    is_learning_rate as is_learning_rate,
)
from keras_graft._keras.optimizers import (
    key_of as key_of,
)
from keras_graft._keras.optimizers import (
    moves_averages as moves_averages,
)
from keras_graft._keras.optimizers import (
    not_decayed as not_decayed,
)
from keras_graft._keras.optimizers import (
    same_optimizer as same_optimizer,
)
from keras_graft._keras.optimizers import (
    slots as slots,
)
from keras_graft._keras.saving import (
    automatic_name as automatic_name,
)
from keras_graft._keras.saving import (
    has_value as has_value,
)
from keras_graft._keras.saving import (
    own_weights as own_weights,
)
from keras_graft._keras.saving import (
    saving_paths as saving_paths,
)
from keras_graft._keras.views import (
    View as View,
)
from keras_graft._keras.views import (
    own_call_context as own_call_context,
)
from keras_graft._keras.views import (
    own_seeds as own_seeds,
)
from keras_graft._keras.views import (
    sublayers as sublayers,
)
from keras_graft._keras.views import (
    view as view,
)
