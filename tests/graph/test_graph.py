from types import SimpleNamespace

import pytest

from keras_graft import GraphError, cuts
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Spec, Template, Value

pytestmark = pytest.mark.once


def chain(length):
    value = first = Value(Spec((None, 4)), "x")
    nodes = []
    for i in range(length):
        out = Value(Spec((None, 4)))
        nodes.append(Node(SimpleNamespace(name=f"n{i}"), Template(), (value,), (out,)))
        value = out
    return Graph(tuple(nodes), (first,), (value,))


def test_a_chain_of_20000_validates_cuts_and_prints():
    graph = chain(20_000).validate()
    assert len(cuts(graph)) == 19_999
    assert str(graph).count("\n") == 20_003


def test_neighbours():
    node = chain(3).nodes[1]
    assert [n.label for n in node.producers] == ["n0"]
    assert [n.label for n in node.consumers] == ["n2"]


def test_unknown_producer():
    graph = chain(3)
    with pytest.raises(GraphError, match="'n1' reads a value that nothing gives"):
        graph.replace(nodes=graph.nodes[1:]).validate()


def test_cycle_is_named():
    graph = chain(3)
    turned = graph.nodes[0].reading({graph.inputs[0]: graph.outputs[0]})
    with pytest.raises(GraphError, match="has a cycle: n0 <- n2 <- n1 <- n0"):
        graph.replace(nodes=(turned, *graph.nodes[1:])).validate()


def test_frozen():
    with pytest.raises(AttributeError):
        chain(1).name = "other"
