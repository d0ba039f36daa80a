"""All rules: importing this file registers them."""

from keras_graft.pruning import layers_added as layers_added
from keras_graft.pruning import layers_attention as layers_attention
from keras_graft.pruning import layers_kernel as layers_kernel
from keras_graft.pruning import layers_norm as layers_norm
from keras_graft.pruning import layers_plain as layers_plain
from keras_graft.pruning import layers_recurrent as layers_recurrent
from keras_graft.pruning import ops_moved as ops_moved
from keras_graft.pruning import ops_plain as ops_plain
