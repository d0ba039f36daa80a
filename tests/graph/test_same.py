"""Which values of graphs are the same, and the calls inside nested models: on plain objects."""

from types import SimpleNamespace

import pytest

from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Slot, Spec, Template, Value
from keras_graft.graph.same import comparable, numbered
from keras_graft.graph.select import leaves

pytestmark = pytest.mark.once

RELU, DENSE = SimpleNamespace(name="relu"), SimpleNamespace(name="dense")


def call(operation, *inputs, **kwargs):
    template = Template(tuple(Slot(i) for i in range(len(inputs))), kwargs)
    return Node(operation, template, inputs, (Value(Spec((None, 4))),))


def marks(graph, *given):
    """Number the values by texts that say how they are computed."""
    return numbered(
        graph,
        given,
        lambda node, reads: [f"{node.operation.name}({', '.join(reads)}):{i}"
                             for i in range(len(node.outputs))],
    )  # fmt: skip


def test_equal_calls_on_equal_values_have_equal_numbers():
    x = Value(Spec((None, 4)), "x")
    one, two = call(RELU, x), call(RELU, x)
    after_one, after_two = call(DENSE, *one.outputs), call(DENSE, *two.outputs)
    swapped = call(RELU, *after_one.outputs)
    nodes = (one, two, after_one, after_two, swapped)
    found = marks(Graph(nodes, (x,), swapped.outputs), "x")
    assert [found[node.outputs[0]] for node in nodes] == [
        "relu(x):0", "relu(x):0", "dense(relu(x):0):0", "dense(relu(x):0):0",
        "relu(dense(relu(x):0):0):0",
    ]  # fmt: skip
    assert found[x] == "x"


def test_a_mask_that_is_not_an_argument_is_read_too():
    x, mask = Value(Spec((None, 4)), "x"), Value(Spec((None,), "bool"), "mask")
    node = call(RELU, x).replace(hidden=((x, mask),))
    assert marks(Graph((node,), (x, mask), node.outputs), "x", "m")[node.outputs[0]] == (
        "relu(x, m):0"
    )


def test_arguments_are_equal_if_they_say_the_same():
    assert comparable({"a": [1, Slot(0)], "b": None}) == comparable({"b": None, "a": (1, Slot(0))})
    assert comparable([1]) != comparable([True]) != comparable([1.0])
    array = object()
    assert comparable([array]) == comparable([array]) != comparable([object()])


def test_leaves_are_the_calls_inside_with_their_paths():
    x = Value(Spec((None, 4)), "x")
    inner = None
    for depth in range(3):
        own = call(RELU, x)
        nodes = (own, call(DENSE, *own.outputs))
        if depth:
            model = SimpleNamespace(name=f"m{depth}")
            nodes = (*nodes, call(model, *own.outputs).replace(nested=inner))
        inner = Graph(nodes, (x,), own.outputs)
    found = list(leaves(inner.nodes))
    paths = ["relu", "dense", "m2/relu", "m2/dense", "m2/m1/relu", "m2/m1/dense"]
    assert [node.path for node in found] == paths
    assert [node.path for node in leaves(inner.nodes[2:])] == paths[2:]
