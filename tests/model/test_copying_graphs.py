"""`copy` and `pickle` of a graph, of what lies in it, and of what was selected or reported."""

import copy
import pickle

import keras
import pytest
from keras import layers
from models import masked, multi_output, nested_uint8, residual, siamese

import keras_graft as kg
from keras_graft.testing import assert_same_outputs, random_inputs


@pytest.fixture(autouse=True)
def names_from_the_start():
    keras.utils.clear_session(free_memory=False)


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


WAYS = pytest.mark.parametrize("again", [copy.deepcopy, pickled])
MODELS = pytest.mark.parametrize(
    "make", [residual, siamese, nested_uint8, masked, multi_output], ids=lambda make: make.__name__
)


def variables(graph):
    return {id(w) for w in kg.build(graph).weights}


@WAYS
@MODELS
def test_a_graph_again(make, again):
    model = make()
    graph = kg.read(model)
    new = again(graph)
    assert new.name == graph.name
    # Keras computes a mask once more in a model that it has loaded.
    extra = make is masked and again is pickled
    assert extra or str(new) == str(graph)
    assert [n.kind for n in new.nodes][extra:] == [n.kind for n in graph.nodes]
    assert not variables(new) & variables(graph)
    assert kg.build(new).count_params() == model.count_params()
    x = random_inputs(model)
    assert_same_outputs(model, kg.build(new), x)
    node = new.nodes[-1]
    assert new.node(node).producers and node in new and new.position(node) is not None
    assert [v.label for v in new.outputs] == [v.label for v in graph.outputs]
    kg.extract(new, node)
    # Edits of what was read again leave the other as it was.
    edited = kg.insert(new, layers.Activation("relu"), after=node.values[0])
    assert len(edited) == len(new) + 1


@WAYS
def test_an_edited_graph_again(again):
    model = residual()
    graph = kg.remove(
        kg.insert(kg.read(model), layers.ReLU(name="new"), after="add0"), "add1", "new"
    )
    new = again(graph)
    assert [n.label for n in new.nodes] == [n.label for n in graph.nodes]
    assert_same_outputs(kg.build(graph), kg.build(new), random_inputs(model))


@WAYS
def test_what_lies_in_a_graph_goes_with_it(again):
    graph = kg.read(nested_uint8())
    inside = kg.select(graph, "base/r0")[0]
    value = inside.values[0]
    new, node, tensor, first = again((graph, inside, value, graph.inputs[0]))
    assert (node.path, tensor.path, first.path) == (inside.path, value.path, graph.inputs[0].path)
    assert node.scope[0].graph is new and node.graph is node.scope[0].nested
    assert kg.select(new, node)[0] == node and tensor.producer == node and first in new.inputs
    assert node.operation is kg.select(new, "base/r0")[0].operation is not inside.operation
    alone = again(inside)
    assert alone.path == inside.path and alone in alone.home


@WAYS
def test_a_selection_again(again):
    graph = kg.read(residual())
    for selector in ("add*", layers.Add, lambda node: node.kind == "Add", [graph.nodes[2]]):
        found = kg.select(graph, selector)
        new = again(found)
        assert new.labels == found.labels and str(new) == str(found)
        assert new[0] in new.graph and kg.extract(new.graph, new)


@WAYS
def test_reports_again(again):
    model = siamese()
    other = kg.insert(model, layers.ReLU(), after="encoder#0")
    for report in (
        kg.cuts(model), kg.sharing(model), kg.diff(model, other), kg.transplant(model, kg.clone(model)),
        kg.features.advise(model, 10), kg.sharing(kg.tie(two(), "b/kernel", "a/kernel")),
    ):  # fmt: skip
        assert str(again(report)) == str(report)


def two():
    x = keras.Input((3,), name="x")
    return keras.Model(x, [layers.Dense(3, name="a")(x), layers.Dense(3, name="b")(x)])


@WAYS
def test_ties_and_shared_layers_stay_so(again):
    tied = kg.read(kg.tie(two(), "b/kernel", "a/kernel"))
    new = kg.build(again(tied))
    assert new.count_params() == kg.build(tied).count_params() == 15
    new.get_layer("a").kernel.assign(keras.ops.ones((3, 3)))
    _, b = new(keras.ops.ones((1, 3)))
    assert (keras.ops.convert_to_numpy(b) == 3.0).all()
    assert len(kg.sharing(again(kg.read(siamese()))).operations) == 1


def test_deepcopy_shares_within_the_copy_what_was_shared():
    graph = kg.read(residual())
    trunk, head = kg.split(graph, "add0")
    both, one, two, layer = copy.deepcopy((graph, trunk, head, graph.nodes[0].operation))
    assert variables(one) | variables(two) == variables(both)
    assert both.nodes[0].operation is layer is one.nodes[0].operation
    assert copy.deepcopy([graph, graph])[0] is not graph


def test_copy_is_the_same_as_nothing_in_a_graph_changes():
    graph = kg.read(residual())
    assert copy.copy(graph) is graph
    assert copy.copy(graph.nodes[0]) is graph.nodes[0]
    assert copy.copy(graph.inputs[0]) is graph.inputs[0]


def test_what_was_taken_out_of_its_graph_is_not_pickled():
    graph = kg.read(residual())
    for thing in (graph.steps[0], graph.inputs[0].within(None)):
        with pytest.raises(kg.GraphError, match=r"taken out of its graph.*graph\.node"):
            pickle.dumps(thing)
        assert copy.deepcopy(thing) == thing


def test_a_layer_whose_code_is_not_there_is_named():
    class Odd(layers.Layer):
        def call(self, x):
            return x

    x = keras.Input((3,))
    graph = kg.read(keras.Model(x, Odd(name="odd")(x)))
    with pytest.raises(
        kg.GraphError,
        match=r"cannot be made again from its pickle(.|\n)*Odd",
    ):
        pickled(graph)
