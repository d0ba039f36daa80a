"""What cannot be done is refused: by name, with the way out, and nothing is changed or lost."""

import gc
import re

import keras
import numpy as np
import pytest
from donor import donor_nodes
from keras import layers
from models import masked, multi_output, nested_uint8, residual, sequential, siamese

import keras_graft as kg
from keras_graft import _keras
from keras_graft.testing import assert_same_graph, random_inputs


class OwnCall(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


class SequentialWithCall(keras.Sequential):
    def call(self, x):
        return super().call(x) * 2.0


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: keras.Sequential([layers.Dense(2)]), "was never built.*model.build"),
        (lambda: keras.Sequential(name="empty"), "'empty' was never built"),
        (OwnCall, r"OwnCall 'own_call.*was never built.*Call it once on data first: model\(x\)"),
        (SequentialWithCall, "SequentialWithCall 'sequential_with_call.*was never built"),
        (lambda: layers.Dense(2), r"Dense 'dense.*was never built.*layer\(x\)"),
        (lambda: "model", "Expected a Keras model .* got str: 'model'"),
        (lambda: None, "Expected a Keras model .* got NoneType"),
    ],
)
def test_what_cannot_be_read(model, words):
    for verb in (
        kg.read,
        kg.cuts,
        kg.sharing,
        lambda m: kg.split(m, at="x"),
        lambda m: kg.extract(m, "x"),
        lambda m: kg.submodel(m, "x"),
        lambda m: kg.join(m, m),
        lambda m: kg.diff(kg.read(m) if isinstance(m, str) else m, m),  # a text names a file
    ):
        with pytest.raises(kg.ReadError, match=words):
            verb(model())


REFUSALS = [
    # unknown names and empty selections
    (residual, lambda m: kg.split(m, "ad0"), kg.NothingSelectedError, "'ad0'. Nearest: 'add0'"),
    (residual, lambda m: kg.extract(m, "zzz*"), kg.NothingSelectedError, r"matches 'zzz\*'. print"),
    (residual, lambda m: kg.select(m, layers.LSTM), kg.NothingSelectedError, "matches <class"),
    (residual, lambda m: kg.select(m, re.compile("^q")), kg.NothingSelectedError, "lists its"),
    (residual, lambda m: kg.select(m, lambda n: False), kg.NothingSelectedError, "Nothing in"),
    (residual, lambda m: kg.extract(m, []), kg.NothingSelectedError, "An empty list"),
    (residual, lambda m: kg.extract(m, {}), kg.NothingSelectedError, "An empty dict"),
    (residual, lambda m: kg.split(m, []), kg.SelectionError, "names no boundary"),
    (residual, lambda m: kg.split(m, ()), kg.SelectionError, "is an empty tuple"),
    (residual, lambda m: kg.select(m, 3), kg.SelectionError, "3 is not a selector: give a name"),
    (nested_uint8, lambda m: kg.split(m, "r0"), kg.NothingSelectedError, "Nearest: 'base/r0'"),
    (siamese, lambda m: kg.select(m, "encoder#2"), kg.NothingSelectedError, "'encoder#2'"),
    (multi_output, lambda m: kg.select(m, "lstm:3"), kg.NothingSelectedError, "'lstm:3'"),
    (residual, lambda m: kg.select(m, "add*").expect(3), kg.SelectionError, "Expected 3.*found 2"),
    # ambiguous ones
    (multi_output, lambda m: kg.split(m, "lstm"), kg.AmbiguousError, "'lstm:0', 'lstm:1'"),
    (residual, lambda m: kg.split(m, "add*"), kg.AmbiguousError, "selects 2: 'add0', 'add1'"),
    (siamese, lambda m: kg.split(m, "encoder"), kg.AmbiguousError, "'encoder#0', 'encoder#1'"),
    # of another model
    (
        residual, lambda m: kg.split(m, residual().get_layer("add0").output),
        kg.SelectionError, "is a tensor of another model, not of 'residual'",
    ),
    (
        residual, lambda m: kg.split(m, kg.read(siamese()).nodes[0]),
        kg.SelectionError, "belongs to another model, not to 'residual'",
    ),
    (
        residual, lambda m: kg.split(m, kg.cuts(sequential())[0]),
        kg.SelectionError, "belongs to another model, not to 'residual'",
    ),
    (
        residual, lambda m: kg.select(m, layers.Dense(3)), kg.NothingSelectedError, "matches <Dense",
    ),
    # no cuts
    (residual, lambda m: kg.split(m, "conv0"), kg.CutError, "is not a cut of 'residual': 1 other"),
    (residual, lambda m: kg.split(m, ["add1", "add0"]), kg.CutError, "in which data passes"),
    (residual, lambda m: kg.submodel(m, "add1", "add0"), kg.CutError, "exchanged"),
    (residual, lambda m: kg.submodel(m, "conv1"), kg.CutError, 'submodel(model, inputs=["conv1"'),
    (masked, lambda m: kg.split(m, "embed"), kg.CutError, "'not_equal.*', needed by 'lstm', 'mean"),
    # ends that do not fit
    (residual, lambda m: kg.join(), kg.JoinError, "at least one"),
    (residual, lambda m: kg.join(m, sequential()), kg.JoinError, "'out' of 'residual'.*takes"),
    (siamese, lambda m: kg.join(residual(), m), kg.JoinError, "gives 1 value .*takes 2"),
    # not yet, and what no build takes
    (residual, lambda m: kg.build(kg.read(m), "steal"), kg.BuildError, "got 'steal'"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "attempt", "error", "words"), REFUSALS, ids=range(len(REFUSALS)))
def test_a_refusal_says_why_and_changes_nothing(make, attempt, error, words):
    model = make()
    functional = _keras.functional(model)
    x = random_inputs(model)
    graph, config = kg.read(model), model.get_config()
    printed = str(graph)
    outputs = [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(model(x))]
    weights = [keras.ops.convert_to_numpy(w) for w in model.weights]
    gc.collect()
    nodes = donor_nodes(functional)

    with pytest.raises(error) as caught:
        attempt(model)
    assert re.search(words.replace("(", r"\(").replace("[", r"\["), str(caught.value), re.S), (
        caught.value
    )
    with pytest.raises(error):
        attempt(graph)

    del caught
    gc.collect()
    assert donor_nodes(functional) == nodes
    assert model.get_config() == config
    assert str(graph) == printed
    assert_same_graph(model, graph, same_layers=True)
    for before, after in zip(weights, model.weights, strict=True):
        assert np.array_equal(before, keras.ops.convert_to_numpy(after))
    for before, after in zip(outputs, keras.tree.flatten(model(x)), strict=True):
        assert np.array_equal(before, keras.ops.convert_to_numpy(after))


def test_build_takes_a_graph():
    with pytest.raises(kg.BuildError, match="takes a keras_graft.Graph, got Functional"):
        kg.build(residual())
