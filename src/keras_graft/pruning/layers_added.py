"""Rules for layers that are not in `keras.layers`: of this package, of applications, of keras_hub."""

from __future__ import annotations

from keras_graft.graph.node import Slot
from keras_graft.graph.sizes import Axis as SizeAxis
from keras_graft.graph.sizes import Computed, leaves
from keras_graft.layers.weight import KeepWeights, Weight
from keras_graft.pruning.call import Call
from keras_graft.pruning.layers_attention import multi_head
from keras_graft.pruning.layers_kernel import reversible_embedding
from keras_graft.pruning.registry import OPS, layers, named, ops


@layers(Weight)
def weight(c: Call) -> None:
    variable = c.layer.value
    for i in range(len(variable.shape)):
        c.same(c.axis(c.y, i), c.weight(variable, i))
        c.counts(("shape", i), c.axis(c.y, i))
    for i in range(len(c.x.spec.shape)):
        c.absorb(c.axis(c.x, i))  # it only says when the layer is called
    c.source = c.axis(c.y, len(variable.shape) - 1) if variable.shape else None


@layers(KeepWeights)
def keep_weights(c: Call) -> None:
    for value, out in zip(c.inputs, c.outputs, strict=True):
        c.through(value, out)


@named("keras", "LayerScale")
def layer_scale(c: Call) -> None:
    """The scale of the blocks of ConvNeXt."""
    c.through(c.x, c.y)
    c.same(c.axis(c.y, -1), c.weight(c.layer.gamma, 0))
    c.counts("projection_dim", c.axis(c.y, -1))
    c.source = c.axis(c.y, -1)


@named("keras", "StochasticDepth")
def stochastic_depth(c: Call) -> None:
    c.through(c.x, c.y)


@named("keras_hub", "PositionEmbedding")
def position_embedding(c: Call) -> None:
    c.through(c.x, c.y)
    c.same(c.axis(c.y, -1), c.weight(c.layer.position_embeddings, 1))
    c.source = c.axis(c.y, -1)


@named("keras_hub", "RotaryEmbedding")
def rotary_embedding(c: Call) -> None:
    rank = len(c.x.spec.shape)
    c.through(c.x, c.y, leave=(c.layer.feature_axis % rank, c.layer.sequence_axis % rank))


@ops("DynamicOp")
def dynamic_op(c: Call) -> None:
    """An op with sizes among its arguments: the rule of the op."""
    sized = c.layer.sized
    given = [*leaves(sized.args), *leaves(sized.kwargs)]
    name = sized.name.rpartition(".")[2]
    if any(isinstance(x, Slot) for x in given):
        rule = OPS.get(name) if sized.target.startswith("op:") else None
        if rule is not None and not sized.kwargs and len(sized.args) == len(c.inputs):
            op = type(name, (), {})()
            vars(op).update(sized.attributes)
            rule(c.within(op, ("sized",)))
        return
    # It makes a tensor, and reads only sizes of others.
    used = {(x.tensor.index, x.axis) for x in given if isinstance(x, SizeAxis)}
    if not any(isinstance(x, Computed) for x in given):
        for i, value in enumerate(c.inputs):
            for axis in range(len(c.shape(value))):
                if (i, axis) not in used:
                    c.absorb(c.axis(value, axis))


named("keras_hub", "CachedMultiHeadAttention")(multi_head)
named("keras_hub", "ReversibleEmbedding")(reversible_embedding)
