"""What a function is, a factory or a function of tensors, is decided by what it returns."""

import functools
import gc

import keras
import numpy as np
import pytest
from donor import donor_nodes
from keras import layers, ops

import keras_graft as kg


def make():
    x = y = keras.Input((4,), name="x")
    for i in range(2):
        h = layers.Dense(4, name=f"b{i}_dense")(y)
        y = layers.ReLU(name=f"b{i}_relu")(layers.Add(name=f"b{i}_add")([h, y]))
    return keras.Model(x, layers.Dense(2, name="out")(y), name="m")


X = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")


def outputs(model):
    return keras.ops.convert_to_numpy(model(X))


def names(model):
    return [operation.name for operation in model.operations]


class Halves:
    """Works on tensors, as an object."""

    def __call__(self, x):
        return x * 0.5


class Makes:
    """A factory, as an object and as a method."""

    def __call__(self, place):
        return layers.Rescaling(0.5)

    def method(self, place):
        return layers.Rescaling(0.5)


def kept(scale, node):
    return layers.Rescaling(scale)


HALVES = {
    "n": lambda n: layers.Rescaling(0.5),
    "x": lambda x: layers.Rescaling(0.5),
    "node": lambda node: layers.Rescaling(0.5),
    "any": lambda *tensors: layers.Rescaling(0.5),
    "partial": functools.partial(kept, 0.5),
    "object": Makes(),
    "method": Makes().method,
    "model": lambda n: keras.Sequential([layers.Rescaling(0.5)]),
    "gives a function": lambda n: lambda x: x * 0.5,
    "gives an object": lambda n: Halves(),
    "works on tensors": lambda x: x * 0.5,
    "works on what it calls node": lambda node: node * 0.5,
    "works on any": lambda *tensors: tensors[0] * 0.5,
    "makes a layer and calls it": lambda x: layers.Rescaling(0.5)(x),
    "calls it by name": lambda x: layers.Rescaling(0.5)(inputs=x),
    "tensors, partial": functools.partial(ops.multiply, 0.5),
    "tensors, object": Halves(),
    "layer": layers.Rescaling(0.5),
}
"""All of them halve."""

PLACES = {
    "after": (lambda m, new: kg.insert(m, new, after="b0_add"), 1),
    "before": (lambda m, new: kg.insert(m, new, before="b0_relu"), 1),
    "between": (lambda m, new: kg.insert(m, new, between=("b0_add", "b0_relu")), 1),
    "replace": (lambda m, new: kg.replace(m, "b0_relu", new), 1),
    "glob": (lambda m, new: kg.insert(m, new, after="b*_add"), 2),
    "list": (lambda m, new: kg.insert(m, new, before=["b0_relu", "b1_relu"]), 2),
    "class": (lambda m, new: kg.replace(m, layers.ReLU, new), 2),
    "input": (lambda m, new: kg.insert(m, new, after="x"), 1),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("new", HALVES)
def test_it_is_what_it_returns_at_every_place(place, new):
    model = make()
    gc.collect()
    nodes = donor_nodes(model)
    edit, count = PLACES[place]
    if new == "layer" and count > 1:
        with pytest.raises(kg.EditError, match="2 places.*one Rescaling.*Give a factory"):
            edit(model, HALVES[new])
        return
    edited = edit(model, HALVES[new])
    expected = edit(model, lambda node: layers.Lambda(lambda x: x * 0.5))
    assert np.array_equal(outputs(edited), outputs(expected))
    assert not np.array_equal(outputs(edited), outputs(model))
    assert len(kg.read(edited)) == len(kg.read(expected))
    del edited, expected
    gc.collect()
    assert donor_nodes(model) == nodes


@pytest.mark.parametrize(
    "function", [ops.relu, keras.activations.relu, keras.activations.get("relu"), layers.ReLU()]
)
def test_functions_of_keras(function):
    edited = kg.insert(make(), function, after="b0_dense")
    kinds = [n.kind.lower() for n in kg.read(edited)]
    assert kinds == ["dense", "relu", "add", "relu", "dense", "add", "relu", "dense"]


@pytest.mark.parametrize("function", [lambda n: n, lambda x: x, keras.activations.linear])
def test_what_returns_what_it_gets_changes_nothing(function):
    model = make()
    assert names(kg.insert(model, function, after="b*_add")) == names(model)


def test_several_inputs():
    model = make()
    for new in (ops.multiply, lambda a, b: a * b, lambda *n: n[0] * n[1], lambda n: ops.multiply):
        edited = kg.replace(model, layers.Add, new)
        assert [n.kind for n in kg.read(edited)].count("Multiply") == 2
        assert np.array_equal(
            outputs(edited), outputs(kg.replace(model, layers.Add, lambda n: layers.Multiply()))
        )


def test_a_factory_is_called_once_for_each_place_with_the_node():
    asked = []

    def factory(place):
        asked.append(place)
        return layers.Identity()

    kg.insert(make(), factory, after="b*_add")
    kg.replace(make(), "b1_relu", factory)
    kg.insert(make(), factory, before="out")
    assert [(type(n), n.label) for n in asked] == [
        (kg.Node, "b0_add"), (kg.Node, "b1_add"), (kg.Node, "b1_relu"), (kg.Node, "out"),
    ]  # fmt: skip
    kg.insert(make(), factory, after="x")
    assert (type(asked[-1]), asked[-1].label) == (kg.Value, "x")


def test_each_place_is_decided_by_itself():
    mixed = lambda n: layers.Identity() if n.name == "b0_add" else (lambda x: -x)  # noqa: E731
    edited = kg.insert(make(), mixed, after="b*_add")
    assert [n.kind for n in kg.read(edited)][2:7] == [
        "Identity",
        "ReLU",
        "Dense",
        "Add",
        "Negative",
    ]


def test_what_a_factory_returns_for_several_places_is_shared():
    one = layers.Dense(4, name="one")
    edited = kg.insert(make(), lambda n: one, after="b*_add")
    assert [n.label for n in kg.read(edited) if n.operation is one] == ["one#0", "one#1"]
    assert edited.get_layer("one") is one


def test_a_function_of_tensors_is_called_with_a_node_without_effect():
    model = make()
    own, other = layers.Dense(4), keras.Sequential([layers.Dense(4)])
    edited = kg.insert(model, lambda x: own(x) + other(x), after="b0_add")
    assert own.built and other.built and len(own.weights) == 2
    assert edited.count_params() == model.count_params() + 40
    gc.collect()
    assert len(own._inbound_nodes) == 1


TAKES = {
    "a tensor": lambda t, x: x + t,
    "what it makes of it": lambda t, x: ops.relu(t) + x,
    "what a layer makes of it": lambda t, x: layers.Add()([layers.Dense(4)(t), x]),
    "a comparison": lambda t, x: ops.where(t < x, t, x),
    "a number": lambda t, x: ops.full_like(t, 2.0) * x,
}


@pytest.mark.parametrize("name", ["x", "b0_dense", "b0_relu"])
@pytest.mark.parametrize("takes", TAKES)
def test_tensors_of_the_model_around_it_leave_nothing_there(takes, name):
    model = make()
    gc.collect()
    nodes = donor_nodes(model)
    tensor = model.input if name == "x" else model.get_layer(name).output
    edited = kg.insert(model, lambda x: TAKES[takes](tensor, x), after="b1_dense")
    assert edited(X).shape == (3, 2)
    with pytest.raises(kg.EditError, match="Keras says"):
        kg.insert(model, lambda x: TAKES[takes](tensor, x)[:, :, 0], after="b1_dense")
    del edited
    gc.collect()
    assert donor_nodes(model) == nodes


# -- what is wrong --------------------------------------------------------------------------------


def refuses(node):
    raise kg.EditError("not this one, says the factory")


WIDTHS = {"b9_add": 4}
WRONG = {
    "factory, attribute": (
        lambda n: layers.Dense(n.operation.unitz),
        r"insert after 'b0_add': for the node 'b0_add', the factory '<lambda>' raised AttributeError: "
        r"'Add' object has no attribute 'unitz'\.\nCalled with the tensors next, as a function of "
        r"tensors: it raised AttributeError: 'KerasTensor' object has no attribute 'operation'\.$",
    ),
    "factory, key": (
        lambda n: layers.Dense(WIDTHS[n.name]),
        r"the factory '<lambda>' raised KeyError: 'b0_add'\.\nCalled with the tensors .*KeyError",
    ),
    "factory, misspelt": (
        lambda n: layers.Dense(n.opration.units),
        r"the factory '<lambda>' raised AttributeError: 'Node' object has no attribute 'opration'\.\n",
    ),
    "factory, shape": (
        lambda n: layers.Dense(n.shape[-1]),
        r"the factory .* no attribute 'shape'\. A Node has it in node.values\[0\].spec.shape\.\n"
        r".*: <lambda> gives Dense, not symbolic tensors\.$",
    ),
    "factory, of both": (
        lambda n: layers.Dense(-1),
        r"'<lambda>' raised ValueError: .*units=-1, both with the node 'b0_add' and "
        r"with the tensors\.$",
    ),
    "takes nothing": (
        lambda: layers.ReLU(),
        r"raised TypeError: .*takes 0 positional arguments .* and with the tensors",
    ),
    "gives none": (
        lambda n: None,
        r"gives NoneType, not symbolic tensors.*returns tensors\.\nCalled with the node 'b0_add' "
        r"first, as a factory, it gives None; a factory gives a layer, a model or a function of t",
    ),
    "gives text": (lambda n: "relu", r"first, as a factory, it gives str; a factory gives"),
    "gives a graph": (lambda n: n.home, r"first, as a factory, it gives Graph; a factory"),
    "gives a class": (
        lambda n: layers.ReLU,
        r"for the node 'b0_add', the factory '<lambda>' gives the class ReLU; give a layer, "
        r"ReLU\(\.\.\.\)\.$",
    ),
    "class": (layers.ReLU, r"ReLU is a class; give a layer, ReLU\(...\), or a factory, lambda node"),
    "partial of a class": (
        functools.partial(layers.Dropout, 0.5),
        r"Called with the node 'b0_add' first, as a factory, it raised ValueError: .*noise_shape",
    ),
    "number": (3, "expected a layer, a model or a function of tensors, got int"),
    "graph": (kg.read(make()), "expected a layer, a model or a function of tensors, got Graph"),
    "tensors": (
        lambda x: x[:, :, 0],
        r"does not take what it would read there:\n  \(\?, 4\) float32 from node 'b0_add'\nKeras says: "
        r".*\nCalled with the node 'b0_add' first, as a factory, it raised TypeError: 'Node' object "
        r"is not subscriptable\.$",
    ),
    "tensors, of a layer": (
        lambda x: layers.LSTM(3)(x),
        r"Keras says: .*expected ndim=3, found ndim=2.*\nCalled with the node .* raised ValueError: Only",
    ),
    "tensors, too many": (
        lambda a, b: a + b,
        r"raised TypeError: .*missing 1 required .* with the tensors",
    ),
    "function of a factory": (
        lambda n: lambda x: layers.ReLU(),
        r"<lambda> gives ReLU, not symbolic tensors. A function gets one tensor for each input and "
        r"returns tensors\.$",
    ),
    "refused": (refuses, "^not this one, says the factory$"),
    "nothing selected": (lambda n: kg.select(n.home, "nowhere"), "^Nothing in 'm' matches 'nowhere'"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_neither_is_refused_with_both_errors(case):
    new, words = WRONG[case]
    model = make()
    gc.collect()
    nodes, config = donor_nodes(model), model.get_config()
    for after in ("b0_add", "b*_add"):
        with pytest.raises(kg.GraftError, match="(?s)" + words) as caught:
            kg.insert(model, new, after=after)
        del caught
    gc.collect()
    assert donor_nodes(model) == nodes and model.get_config() == config


def test_at_an_input_the_words_say_so():
    with pytest.raises(
        kg.EditError, match=r"(?s)for the input 'x', .*A Value has it in node.spec.s"
    ):
        kg.insert(make(), lambda n: layers.Dense(n.shape[-1]), after="x")
    edited = kg.insert(make(), lambda n: layers.Dense(n.spec.shape[-1]), after="x")
    assert edited.get_layer("x_dense").units == 4


def test_the_way_out_of_a_shape_works():
    edited = kg.insert(make(), lambda n: layers.Dense(n.values[0].spec.shape[-1]), after="b0_add")
    assert edited.get_layer("b0_add_dense").units == 4


def test_a_function_of_tensors_may_refuse_a_node():
    def careful(x):
        if isinstance(x, kg.Node):
            raise kg.EditError("a tensor, please")
        return x * 2.0

    assert "b0_add_multiply" in names(kg.insert(make(), careful, after="b0_add"))

    def never(x):
        raise kg.EditError("a tensor, please") if isinstance(x, kg.Node) else ValueError("no")

    with pytest.raises(kg.EditError, match="^a tensor, please$"):
        kg.insert(make(), never, after="b0_add")


# -- names ----------------------------------------------------------------------------------------


def test_names_that_an_edit_makes_up_tell_the_place(tmp_path):
    model = make()
    for _ in range(2):  # the same, whatever was made before
        edited = kg.insert(model, lambda n: layers.Dropout(0.1), after="b*_add")
        assert [name for name in names(edited) if "dropout" in name] == [
            "b0_add_dropout", "b1_add_dropout",
        ]  # fmt: skip
    assert edited.get_layer("b0_add_dropout").rate == 0.1
    edited.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert names(loaded) == names(edited) and np.array_equal(outputs(loaded), outputs(edited))


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda m: kg.insert(m, lambda n: layers.Dropout(0.1), before="out"), ["out_dropout"]),
        (lambda m: kg.insert(m, lambda n: layers.Dropout(0.1), after="x"), ["x_dropout"]),
        (lambda m: kg.replace(m, "b0_relu", lambda n: layers.Dropout(0.1)), ["b0_relu_dropout"]),
        (lambda m: kg.insert(m, lambda x: layers.Dropout(0.1)(x), after="b0_add"), ["b0_add_dropout"]),
        (lambda m: kg.insert(m, lambda x: x * 2.0 + 1.0, after="b0_add"),
         ["b0_add_multiply", "b0_add_add"]),
        (lambda m: kg.insert(m, lambda x: layers.ReLU()(layers.Dense(4)(layers.Dense(4)(x))), after="b0_add"),
         ["b0_add_dense", "b0_add_dense_1", "b0_add_re_lu"]),
        (lambda m: kg.insert(m, lambda n: keras.Sequential([layers.Dense(4, name="d")]), after="b0_add"),
         ["b0_add_sequential"]),
        (lambda m: kg.insert(m, lambda n: layers.Dropout(0.1, name="mine"), after="b0_add"), ["mine"]),
    ],
)  # fmt: skip
def test_names_of_one_place(edit, expected, tmp_path):
    model = make()
    edited = edit(model)
    assert [name for name in names(edited) if name not in names(model)] == expected
    edited.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert names(loaded) == names(edited) and np.array_equal(outputs(loaded), outputs(edited))


def test_a_name_that_somebody_gave_is_kept():
    keras.utils.clear_session()
    explicit = layers.Dropout(0.1, name="dropout")
    for new in (explicit, lambda n: explicit, lambda n: layers.Dropout(0.1, name="dropout")):
        layers.Dropout(0.2)  # Keras has made up the same name by now
        assert "dropout" in names(kg.insert(make(), new, after="b0_add"))
    assert explicit.name == "dropout"


def test_a_layer_that_is_given_as_it_is_keeps_its_name():
    own = layers.Dropout(0.1)
    name = own.name
    edited = kg.insert(make(), own, after="b0_add")
    assert own.name == name and edited.get_layer(name) is own
    for shared in (lambda n: own, lambda x: own(x)):
        assert names(kg.insert(make(), shared, after="b*_add")).count(name) == 1
    assert own.name == name


def test_layers_of_other_models_keep_their_names():
    other = make()
    keras.utils.clear_session()
    x = keras.Input((4,))
    donor = keras.Model(x, layers.Dense(4)(x))  # "dense", which Keras gives again below
    keras.utils.clear_session()
    edited = kg.insert(donor, lambda x: layers.Dense(4)(donor.layers[-1](x)), after="dense")
    assert donor.layers[-1].name == "dense" and "dense_dense" in names(edited)
    edited = kg.insert(other, lambda n: donor.layers[-1], after="b0_add")
    assert donor.layers[-1].name == "dense" and "dense" in names(edited)


def test_a_clash_is_numbered():
    model = kg.insert(make(), layers.Dense(4, name="b0_add_dense"), after="b0_add")
    edited = kg.insert(model, lambda n: layers.Dense(4), after="b0_add")
    assert {"b0_add_dense", "b0_add_dense_1"} <= set(names(edited))
    assert edited.get_layer("b0_add_dense") is model.get_layer("b0_add_dense")
    x = keras.Input((4,), name="d_dropout")
    model = keras.Model(x, layers.Dense(4, name="d")(x))
    assert names(kg.insert(model, lambda n: layers.Dropout(0.1), after="d")) == [
        "d_dropout", "d", "d_dropout_1",
    ]  # fmt: skip
    x = keras.Input((4,), name="x")
    shared = layers.Dense(4, name="a")
    y = layers.Dense(4, name="a_0")(shared(shared(x)))
    edited = kg.insert(
        keras.Model(x, y), lambda n: layers.Dropout(0.1), after=["a#0", "a#1", "a_0"]
    )
    assert names(edited) == ["x", "a", "a_0_dropout", "a_1_dropout", "a_0", "a_0_dropout_1"]
    assert type(edited.get_layer("a_0_dropout_1")) is layers.Dropout


def test_names_in_models_inside_are_told_by_their_own_places():
    def inner(name):
        x = keras.Input((4,))
        return keras.Model(x, layers.Dense(4, name="d")(x), name=name)

    x = keras.Input((4,), name="x")
    edited = kg.insert(
        keras.Model(x, inner("two")(inner("one")(x))), lambda n: layers.Dropout(0.1), after="**/d"
    )
    for name in ("one", "two"):
        assert names(edited.get_layer(name))[1:] == ["d", "d_dropout"]


def test_ops_of_a_graph_keep_their_names():
    graph = kg.insert(kg.read(make()), ops.tanh, after="b0_add")
    again = kg.replace(graph, "b0_add_tanh", lambda n: n.operation)
    assert names(kg.build(again)) == names(kg.build(graph))
    twice = kg.insert(graph, graph.named("b0_add_tanh")[0].operation, after="b1_add")
    assert [n.label for n in kg.read(kg.build(twice)) if n.kind == "Tanh"] == [
        "b0_add_tanh#0", "b0_add_tanh#1",
    ]  # fmt: skip
