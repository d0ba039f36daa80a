"""Random models with random ties, through any sequence of clones, edits, saves and loads."""

import re
import tempfile
from collections import Counter
from pathlib import Path

import keras
import numpy as np
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from keras import layers
from strategies import interpret, plans
from tied import size_in_file

import keras_graft as kg
from keras_graft import ties as _ties
from keras_graft.graph.select import everything
from keras_graft.testing import random_inputs
from keras_graft.weights.find import NodeWeight, find_weight

number = st.integers(0, 50)
# Other models and steps on each backend: these come to every kind of step that is TESTED.
SEED = {"torch": 1, "tensorflow": 2, "jax": 4}[keras.backend.backend()]


def weights_of(model) -> list[NodeWeight]:
    """Return the trainable weights of a model's layers, each once, without those that are tied."""
    found: dict[int, NodeWeight] = {}
    for node in everything(kg.read(model)):
        if node.nested is None and isinstance(node.operation, keras.Layer):
            for name, variable in _ties.named_weights(node.operation, tied=False).items():
                if variable.trainable:
                    found.setdefault(id(variable), NodeWeight(node, name, variable))
    return list(found.values())


def with_a_head(model):
    """Return the model with layers behind it that can be tied, shared, unshared and repeated."""
    y = layers.Flatten(name="flat")(keras.tree.flatten(model.output)[-1])
    shared = layers.Dense(3, name="head_shared")
    y = shared(shared(layers.Dense(3, name="head_in")(y)))
    y = layers.Dense(3, name="head_out")(y)
    return keras.Model(model.input, [*model.outputs, y], name=model.name)


def plain_layers(graph) -> list:
    """Return the calls of layers in a graph that are no models."""
    return [n for n in graph.nodes if n.nested is None and isinstance(n.operation, keras.Layer)]


def owned(layer) -> list[int]:
    """Return the sizes of the weights that a layer has and no other gives it."""
    own = {id(v): v for v in _ties.named_weights(layer, tied=False).values()}
    return [int(np.prod(v.shape)) for v in own.values()]


@seed(SEED)
class Ties(RuleBasedStateMachine):
    """A model, and what must be true of it after each step."""

    seen: Counter = Counter()

    @initialize(plan=plans(), pairs=st.lists(st.tuples(number, number), min_size=1, max_size=3))
    def start(self, plan, pairs):
        self.model = with_a_head(interpret(plan))
        self.parameters = self.model.count_params()
        self.ties: list[str | None] = []
        for i, j in pairs:
            self._tie(i, j)

    @rule(i=number, j=number)
    def tie(self, i, j):
        self._tie(i, j)

    def _tie(self, i, j):
        weights = weights_of(self.model)
        if not weights:
            return
        target = weights[i % len(weights)]
        shape = tuple(target.variable.shape)
        turned = (*shape[:-2], *shape[:-3:-1])
        fits = [
            (w, transform)
            for transform, wanted in ((None, shape), ("transpose", turned))
            for w in weights
            if tuple(w.variable.shape) == wanted and w is not target
            and (len(shape) > 1 or not transform)
        ]  # fmt: skip
        if not fits:
            return
        source, transform = fits[j % len(fits)]
        try:
            new = kg.tie(self.model, target.variable, source.variable, transform=transform)
        except kg.WeightsError as error:
            assert re.search("one layer|cycle|tied|dtype|inside", str(error)), error
            return
        self.parameters -= int(np.prod(shape))
        self.model = new
        self.ties.append(transform)
        self.seen["tie"] += 1

    @precondition(lambda self: self.ties)
    @rule(i=number)
    def untie(self, i):
        ties = kg.sharing(self.model).ties
        one = ties[i % len(ties)]
        self._goes_on_as(kg.untie(self.model, one.target), "untie")
        self.ties.remove(one.transform)
        weight = find_weight(kg.read(self.model), one.target, "test")
        self.parameters += int(np.prod(weight.variable.shape))

    @rule(how=st.sampled_from(["copy", "fresh", "keras", "build"]))
    def clone(self, how):
        if how == "keras" and not isinstance(self.model, _ties.TiedModel):
            return  # Keras parts what models inside share
        make = {
            "keras": keras.models.clone_model,
            "build": lambda model: kg.build(kg.read(model), weights="copy"),
        }.get(how, lambda model: kg.clone(model, weights=how))
        if how == "keras" and any(
            isinstance(layer, (keras.Sequential, keras.Model)) for layer in self.model.layers
        ):
            return
        new = make(self.model)
        if how in ("copy", "build"):
            self._same(new)
        assert {id(w) for w in new.weights}.isdisjoint(id(w) for w in self.model.weights)
        self._goes_on_as(new, "clone")

    @rule()
    def save_and_load(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            self.model.save(path)
            held = size_in_file(path)
            new = keras.models.load_model(path)
        assert held == self.parameters, "each array is in the file once"
        self._same(new)
        self._goes_on_as(new, "save")

    @rule(i=number, what=st.sampled_from(["insert", "inline", "replace"]))
    def edit(self, i, what):
        graph = kg.read(self.model)
        layers_ = [n for n in graph.nodes if isinstance(n.operation, keras.Layer)]
        if not layers_:
            return
        node = layers_[i % len(layers_)]
        if what == "inline":
            return self._goes_on_as(kg.inline(self.model), what)
        if what == "insert":
            new = kg.insert(self.model, layers.Identity(name=f"identity_{i}_{len(graph)}"),
                            after=node.values[0])  # fmt: skip
        else:
            new = kg.replace(self.model, node, lambda node: node.operation)
        self._same(new)
        self._goes_on_as(new, what)

    @rule(i=number)
    def unshare(self, i):
        graph = kg.read(self.model)
        calls = [n for n in plain_layers(graph) if len(graph.calls(n.operation)) > 1]
        if calls:
            node = calls[i % len(calls)]
            new = kg.unshare(self.model, node)
            self._same(new)
            self._goes_on_as(new, "unshare")
            self._add_a_copy_of(node.operation)

    @rule(i=number, weights=st.sampled_from(["share", "copy"]))
    def repeat(self, i, weights):
        blocks = [
            n for n in plain_layers(kg.read(self.model))
            if len(n.inputs) == len(n.values) == 1 and n.inputs[0].spec == n.values[0].spec
        ]  # fmt: skip
        if blocks:
            node = blocks[i % len(blocks)]
            new = kg.repeat(self.model, node.inputs[0], node.values[0], 2, weights=weights)
            self._goes_on_as(new, "repeat")
            if weights == "copy":
                self._add_a_copy_of(node.operation)

    @rule(i=number, j=number, weights=st.sampled_from(["first", "mean"]))
    def share(self, i, j, weights):
        nodes = [n for n in plain_layers(kg.read(self.model)) if n.operation.weights]
        if not nodes:
            return
        first = nodes[i % len(nodes)]
        alike = [
            n for n in nodes
            if type(n.operation) is type(first.operation) and n.operation is not first.operation
        ]  # fmt: skip
        if not alike:
            return
        other = alike[j % len(alike)]
        try:
            new = kg.share(self.model, [first, other], weights=weights)
        except kg.WeightsError as error:
            assert re.search("tied|differ", str(error))
        else:
            self._goes_on_as(new, "share")
            self.parameters -= sum(owned(other.operation))

    @rule(batch=st.sampled_from([None, 2]))
    def reinput(self, batch):
        shapes = {tensor.name: (batch, *tensor.shape[1:]) for tensor in self.model.inputs}
        new = kg.reinput(self.model, batch_shape=shapes)
        self._same(new)
        self._goes_on_as(new, "reinput")

    def _goes_on_as(self, new, what):
        self.model = new
        self.seen[what] += bool(self.ties)

    def _add_a_copy_of(self, layer):
        self.parameters += sum(owned(layer))
        self.ties += [tie.transform for tie in _ties.ties_of(layer)]

    def _same(self, new):
        x = random_inputs(self.model, 2)
        pairs = zip(keras.tree.flatten(self.model(x)), keras.tree.flatten(new(x)), strict=True)
        for a, b in pairs:
            a, b = keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b)
            # A weight that was turned lies turned in memory, and PyTorch sums along it otherwise.
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    @invariant()
    def every_tie_holds(self):
        if not hasattr(self, "model"):
            return
        assert self.model.count_params() == self.parameters
        report = kg.sharing(self.model)
        assert sorted(map(str, self.ties)) == sorted(str(t.transform) for t in report.ties)
        assert all(tie.here for tie in report.ties)
        for node in everything(kg.read(self.model)):
            for tie in _ties.ties_of(node.operation):
                value = keras.ops.convert_to_numpy(tie.source)
                if tie.transform:
                    value = np.swapaxes(value, -1, -2)
                assert np.array_equal(keras.ops.convert_to_numpy(tie.seen.value), value)
                assert any(w is tie.source for w in self.model.weights)


class TestTies(Ties.TestCase):
    def runTest(self):  # the name that Hypothesis gave it
        Ties.seen.clear()
        super().runTest()
        assert all(Ties.seen[what] for what in TESTED), Ties.seen


TESTED = ("tie", "untie", "clone", "save", "insert", "inline", "replace", "unshare", "repeat",
          "share", "reinput")  # fmt: skip
"""What is to have happened to models with ties, in each run of the machine."""

TestTies.settings = settings(
    max_examples={"torch": 30, "tensorflow": 20, "jax": 12}[keras.backend.backend()],
    phases=(Phase.generate,),  # a run of many builds shrinks for minutes; the steps are printed
    stateful_step_count=8, deadline=None, derandomize=True, print_blob=False,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
