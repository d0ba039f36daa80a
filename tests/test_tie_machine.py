"""Random models with random ties, through any sequence of clones, edits, saves and loads."""

import tempfile
from pathlib import Path

import keras
import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from keras import layers
from strategies import interpret, plans
from tied import size_in_file

import keras_graft as kg
from keras_graft import _keras
from keras_graft.select import everything
from keras_graft.testing import random_inputs
from keras_graft.weights import Weight


def weights_of(model) -> list[Weight]:
    """Return the trainable weights of a model's layers, each once, without those that are tied."""
    found: dict[int, Weight] = {}
    for node in everything(kg.read(model)):
        if node.nested is None and isinstance(node.operation, keras.Layer):
            for name, variable in _keras.named_weights(node.operation, tied=False).items():
                if variable.trainable:
                    found.setdefault(id(variable), Weight(node, name, variable))
    return list(found.values())


class Ties(RuleBasedStateMachine):
    """A model, and what is to be true of it after each step."""

    @initialize(plan=plans())
    def start(self, plan):
        self.model = interpret(plan)
        self.parameters = self.model.count_params()
        self.ties: list[str | None] = []

    @rule(i=st.integers(0, 50), j=st.integers(0, 50), transpose=st.booleans())
    def tie(self, i, j, transpose):
        weights = weights_of(self.model)
        if len(weights) < 2:
            return
        target, source = weights[i % len(weights)], weights[j % len(weights)]
        transform = "transpose" if transpose else None
        try:
            new = kg.tie(self.model, target.variable, source.variable, transform=transform)
        except kg.WeightsError:
            return
        self.parameters -= int(np.prod(target.variable.shape))
        self.model = new
        self.ties.append(transform)

    @precondition(lambda self: self.ties)
    @rule(i=st.integers(0, 50))
    def untie(self, i):
        ties = kg.sharing(self.model).ties
        one = ties[i % len(ties)]
        self.model = kg.untie(self.model, one.target)
        self.ties.remove(one.transform)
        (path, name) = one.target.rsplit(".", 1)
        (layer,) = {
            id(n.operation): n.operation for n in kg.select(self.model, path).nodes
        }.values()
        self.parameters += int(np.prod(_keras.named_weights(layer)[name].shape))

    @rule(how=st.sampled_from(["copy", "fresh", "keras", "build"]))
    def clone(self, how):
        if how == "keras" and not isinstance(self.model, _keras.TiedModel):
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
        self.model = new

    @rule()
    def save_and_load(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            self.model.save(path)
            held = size_in_file(path)
            new = keras.models.load_model(path)
        assert held == self.parameters, "each array is in the file once"
        self._same(new)
        self.model = new

    @rule(i=st.integers(0, 50), what=st.sampled_from(["insert", "inline", "replace"]))
    def edit(self, i, what):
        graph = kg.read(self.model)
        layers_ = [n for n in graph.nodes if isinstance(n.operation, keras.Layer)]
        if not layers_:
            return
        node = layers_[i % len(layers_)]
        if what == "inline":
            self.model = kg.inline(self.model)
            return
        if what == "insert":
            new = kg.insert(self.model, layers.Identity(name=f"identity_{i}_{len(graph)}"),
                            after=node.values[0])  # fmt: skip
        else:
            new = kg.replace(self.model, node, lambda node: node.operation)
        self._same(new)
        self.model = new

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
            for tie in _keras.ties_of(node.operation):
                value = keras.ops.convert_to_numpy(tie.source)
                if tie.transform:
                    value = np.swapaxes(value, -1, -2)
                assert np.array_equal(keras.ops.convert_to_numpy(tie.seen.value), value)
                assert any(w is tie.source for w in self.model.weights)


TestTies = Ties.TestCase
TestTies.settings = settings(
    max_examples={"torch": 60, "tensorflow": 12, "jax": 12}[keras.backend.backend()],
    phases=(Phase.generate,),  # a run of many builds shrinks for minutes; the steps are printed
    stateful_step_count=8, deadline=None, derandomize=True, print_blob=False,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
