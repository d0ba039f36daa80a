"""The layers and ops of this package: those that a graph holds in place of code."""

from __future__ import annotations

from keras_graft.costs.elementwise import PER_VALUE, nothing, only_operations
from keras_graft.costs.products import matmul
from keras_graft.costs.work import Call, Work, rule
from keras_graft.layers.add_loss import AddLoss, WithMask
from keras_graft.layers.operator import Operator
from keras_graft.layers.patched import Patched
from keras_graft.layers.random import Random
from keras_graft.layers.weight import KeepWeights, Weight

rule(Weight, KeepWeights, AddLoss, WithMask, Patched, source="gives a value that is there")(nothing)
rule(Random, source="draws numbers, each backend in its own way")(only_operations)

_SIGNS = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "mod": "mod",
    "floordiv": "floor_divide", "pow": "power", "eq": "equal", "ne": "not_equal", "lt": "less",
    "le": "less_equal", "gt": "greater", "ge": "greater_equal", "and": "logical_and",
    "or": "logical_or", "xor": "logical_xor",
}  # fmt: skip


@rule(Operator, source="as the op of Keras with the same meaning")
def _operator(call: Call) -> Work:
    sign = call.operation.sign
    if sign == "matmul":
        return matmul(call)
    return Work(0, PER_VALUE[_SIGNS[sign]] * call.out.size)
