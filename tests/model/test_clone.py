"""Clones: equal to the bit, independent, and shared inside as the donor is."""

import dataclasses
import functools
import os
import types
import weakref
from collections import OrderedDict, deque

import keras
import numpy as np
import pytest
from architectures import ALL as EVERY
from architectures import application, applications, backbones, cheap_weights
from donor import THOROUGH, arrays, equal, unchanged
from keras import layers
from models import ALL, siamese
from tied import train

import keras_graft as kg
from keras_graft.testing import assert_same_graph, random_inputs


def steps(model, x, count=1):
    """Train on all outputs; return what the model gives then."""
    model.compile(keras.optimizers.SGD(0.01), loss="mse")
    y = keras.tree.map_structure(lambda t: np.zeros(t.shape, "float32"), model(x))
    keras.utils.set_random_seed(3)
    for _ in range(count):
        model.train_on_batch(x, y)


def is_clone(model, new):
    """Assert that a model is another's clone: class, names, order of weights, flags, sharing."""
    assert type(new) is type(model) and new.name == model.name
    assert [w.path for w in new.weights] == [w.path for w in model.weights]
    assert [w.dtype for w in new.weights] == [w.dtype for w in model.weights]
    assert [w.trainable for w in new.variables] == [w.trainable for w in model.variables]
    assert {id(v) for v in new.variables}.isdisjoint({id(v) for v in model.variables})
    assert new.count_params() == model.count_params() and new.trainable == model.trainable
    equal(new.variables, model.variables)
    assert_same_graph(model, new)
    graphs = kg.read(model), kg.read(new)
    assert [len(o.calls) for o in kg.sharing(graphs[0]).operations] == [
        len(o.calls) for o in kg.sharing(graphs[1]).operations
    ]


@pytest.mark.parametrize("make", ALL)
def test_a_clone_is_equal_and_independent(make, tmp_path):
    model = make()
    with unchanged(model, tmp_path) as x:
        new = kg.clone(model)
        is_clone(model, new)
        equal(new(x), model(x))
        new.save(tmp_path / "new.keras")
        equal(keras.models.load_model(tmp_path / "new.keras")(x), model(x))
        for variable in new.variables:
            variable.assign(keras.ops.ones_like(variable.value))
        del new
    graph = kg.clone(kg.read(model))
    assert isinstance(graph, kg.Graph)
    equal(kg.build(graph)(x), model(x))
    equal(kg.build(kg.read(model), weights="copy")(x), model(x))


FEW = ("ResNet50", "MobileNetV3Small")  # where each shape of each op is compiled once


@pytest.mark.parametrize("name", [n for n in applications() if EVERY or n in FEW])
def test_applications(name):
    model = application(name)
    x = random_inputs(model, 2)
    new = kg.clone(model)
    is_clone(model, new)
    equal(new(x), model(x))
    for variable in new.variables:
        variable.assign(keras.ops.zeros_like(variable.value))
    assert any(np.any(a) for a in arrays(model.weights))


BACKBONES = backbones()


@pytest.mark.parametrize("name", BACKBONES if EVERY else list(BACKBONES)[::2])
def test_backbones(name):
    model = BACKBONES[name]()
    x = random_inputs(model, 2)
    new = kg.clone(model)
    is_clone(model, new)
    equal(new(x), model(x))
    # What the class keeps besides its graph is the clone's own.
    for attribute, value in vars(model).items():
        if isinstance(value, layers.Layer):
            assert getattr(new, attribute) is not value
            assert type(getattr(new, attribute)) is type(value)


STEPPED = [*BACKBONES, *applications()] if os.environ.get("KERAS_GRAFT_ALL") == "1" else (
    list(BACKBONES) if THOROUGH else ["Bert", "GPT2", "ResNet"]
)  # fmt: skip


@pytest.mark.parametrize("name", STEPPED)
def test_after_one_step_with_the_same_data_they_are_equal_still(name):
    model = BACKBONES[name]() if name in BACKBONES else application(name)
    x = random_inputs(model, 2)
    before = [a.copy() for a in arrays(model.weights)]
    new, idle = kg.clone(model), kg.clone(model)
    steps(model, x)
    equal(idle.weights, before)  # training one moves no other
    steps(new, x)
    for a, b in zip(arrays(new.weights), arrays(model.weights), strict=True):
        np.testing.assert_array_equal(a, b)
    equal(idle.weights, before)


def test_a_causal_model_with_a_tied_embedding():
    import keras_hub

    backbone = BACKBONES["GPT2"]()
    model = keras_hub.models.GPT2CausalLM(backbone=backbone)
    new = kg.clone(model)
    assert type(new) is type(model) and type(new.backbone) is type(backbone)
    assert new.backbone is not backbone and new.count_params() == model.count_params()
    x = random_inputs(model, 2)
    equal(new(x), model(x))
    new.backbone.token_embedding.embeddings.assign(np.zeros((20, 8)))
    assert not np.any(arrays(new(x))[0])  # the head is the same matrix
    assert np.any(arrays(model(x))[0])


def adorned():
    """A model with everything that a configuration forgets."""
    keras.utils.set_random_seed(1)
    x = keras.Input((6,), name="x")
    extra = keras.Input((6,), name="extra", optional=True)
    y = layers.Dense(6, name="lora")(x)
    y = layers.BatchNormalization(name="norm")(y)
    y = layers.Dropout(0.5, seed=7, name="drop")(y)
    y = layers.Dense(6, name="quantized")(y)
    y = layers.Dense(4, activation="relu", name="frozen")(y)
    model = keras.Model([x, extra], y, name="adorned")
    model.get_layer("lora").enable_lora(2)
    model.get_layer("quantized").quantize("int8")
    model.get_layer("frozen").trainable = False
    model.get_layer("frozen").activation = keras.activations.tanh  # after it was made
    model.get_layer("norm").moving_mean.assign(np.arange(6.0))
    model([np.ones((2, 6), "float32"), None], training=True)  # which moves the seed
    return model


def test_what_a_configuration_forgets():
    model = adorned()
    new = kg.clone(model)
    x = [np.random.default_rng(0).standard_normal((3, 6)).astype("float32"), None]
    equal(new(x), model(x))
    equal(new(x, training=True), model(x, training=True))  # the same seeds, in the same state
    assert new.get_layer("lora").lora_enabled and new.get_layer(
        "quantized"
    ).dtype_policy.name.startswith("int8")  # noqa: E501
    assert not new.get_layer("frozen").trainable
    assert [i.trainable for i in new.weights] == [i.trainable for i in model.weights]
    assert new.inputs[1].name == "extra" and kg.read(new).inputs[1].optional
    model.trainable = False
    assert not kg.clone(model).trainable


def test_share_a_part_and_clone_the_rest():
    model = siamese()
    x = random_inputs(model, 2)
    new = kg.clone(model, share="encoder", name="half")
    assert new.name == "half" and new.get_layer("encoder") is model.get_layer("encoder")
    assert new.get_layer("out") is not model.get_layer("out")
    equal(new(x), model(x))
    inner = kg.clone(model, share="encoder/d0")
    assert inner.get_layer("encoder").get_layer("d0") is model.get_layer("encoder").get_layer("d0")
    assert inner.get_layer("encoder") is not model.get_layer("encoder")
    equal(inner(x), model(x))


def test_fresh_values_come_from_the_layers_initializers_and_the_seed():
    x = keras.Input((4,), name="x")
    y = layers.Dense(50, kernel_initializer="ones", bias_initializer="he_normal", name="d")(x)
    y = layers.Dense(40, kernel_initializer=keras.initializers.RandomUniform(2, 3), name="u")(y)
    model = keras.Model(x, layers.BatchNormalization(name="norm")(y))
    model.get_layer("norm").moving_mean.assign(np.ones(40))
    one, two, other = (kg.clone(model, weights="fresh", seed=s) for s in (1, 1, 2))
    equal(one.weights, two.weights)
    assert not np.array_equal(*(arrays(m.get_layer("d").bias)[0] for m in (one, other)))
    equal(one.get_layer("d").kernel, np.ones((4, 50), "float32"))
    (uniform,) = arrays(one.get_layer("u").kernel)
    assert uniform.min() >= 2 and uniform.max() <= 3 and uniform.std() > 0.2
    equal(one.get_layer("norm").moving_mean, np.zeros(40, "float32"))
    assert not np.array_equal(*(arrays(m.get_layer("d").bias)[0] for m in (one, model)))
    equal(
        kg.build(kg.read(model), weights="fresh").get_layer("d").kernel, np.ones((4, 50), "float32")
    )
    # Sharing inside stays: one layer draws once.
    shared = kg.clone(siamese(), weights="fresh")
    assert len(shared.weights) == len(siamese().weights)


class Composite(layers.Layer):
    """Has no `build` of its own: Keras builds what is inside when it is called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(4, bias_initializer="he_normal")

    def call(self, x):
        return self.inner(x)


def by_attribute():
    """A Functional model of a class of its own with a layer that it does not call here."""

    class WithMore(keras.Model):
        pass

    x = keras.Input((4,))
    model = WithMore(x, layers.Dense(3)(x))
    model.more = layers.Dense(2, bias_initializer="he_normal")
    model.more.build((None, 3))
    return model


def subclassed():
    model = Subclassed()
    model(np.ones((2, 4), "float32"))
    return model


def frozen():
    return kg.freeze(one_layer(layers.Dense(4, bias_initializer="he_normal")))


@pytest.mark.parametrize(
    "make",
    [lambda: one_layer(Composite()), subclassed, by_attribute, frozen],
    ids=["without build", "subclassed", "by attribute", "frozen"],
)
def test_fresh_values_everywhere(make):
    model = make()
    one, two = kg.clone(model, weights="fresh"), kg.clone(model, weights="fresh")
    for own in zip(arrays(model.weights), arrays(one.weights), arrays(two.weights), strict=True):
        if own[0].any():  # not the biases, which begin at zero
            assert not np.array_equal(own[0], own[1]) and not np.array_equal(own[1], own[2])


def test_fresh_adapters():
    model = one_layer(layers.Dense(4, name="d"))
    layer = model.get_layer("d")
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(np.ones((2, 4)))
    new = kg.clone(model, weights="fresh").get_layer("d")
    equal(new.lora_kernel_b, np.zeros((2, 4), "float32"))
    assert not np.array_equal(arrays(new.lora_kernel_a)[0], arrays(layer.lora_kernel_a)[0])
    assert not np.array_equal(arrays(new._kernel)[0], arrays(layer._kernel)[0])


def test_variables_among_the_arguments_of_calls():
    scale = keras.Variable(np.full(4, 2.0, "float32"), name="scale")
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(3, name="d")(x * scale))
    model.scale = scale
    data = np.ones((2, 4), "float32")
    new, expected = kg.clone(model), arrays(model(data))
    assert new.scale is not scale
    scale.assign(np.zeros(4))
    equal(new(data), expected)
    new.scale.assign(np.zeros(4))
    assert not np.array_equal(arrays(new(data))[0], expected[0])


class Trained(keras.Model):
    """Has an optimizer beside that of `compile`, as a GAN has."""

    def __init__(self):
        super().__init__()
        self.d = layers.Dense(2)

    def build(self, shape):
        self.d.build(shape)
        self.own = keras.optimizers.Adam(0.1)
        self.own.build(self.d.trainable_variables)

    def call(self, x):
        return self.d(x)


def test_an_optimizer_of_ones_own_is_that_of_the_clone_s_variables():
    model = Trained()
    model(np.ones((2, 4), "float32"))
    before, new = arrays(model.variables), kg.clone(model)
    new.own.apply([keras.ops.ones_like(v.value) for v in new.d.trainable_variables])
    equal(before, model.variables)
    assert not np.array_equal(arrays(new.d.kernel)[0], arrays(model.d.kernel)[0])


def test_what_a_causal_model_made_to_generate_is_made_anew():
    class Causal(keras.Model):
        pass

    x = keras.Input((4,))
    for model in (Causal(x, layers.Dense(4)(x)), subclassed()):
        model.generate_function = lambda x, model=model: model(x)
        assert kg.clone(model).generate_function is None


def test_errors_of_what_users_put_into_models_name_the_model():
    model = subclassed()
    model.closure = lambda x: model(x)
    with pytest.raises(
        kg.WeightsError, match="^Subclassed 'subclassed.*' cannot be cloned: the fun"
    ):
        kg.clone(model)
    model = one_layer(layers.Dense(4))
    model.compile("sgd", lambda y, p: keras.ops.mean(y - p))
    with pytest.raises(
        kg.WeightsError, match="'one' cannot be compiled again.*as you compiled the"
    ):
        kg.clone(model, compile=True)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.blocks = [layers.Dense(4, activation="relu"), layers.Dense(4)]
        self.table = {"out": layers.Dense(2)}
        self.again = self.blocks[0]

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self.table["out"](self.again(x))


def test_a_model_with_a_call_of_its_own():
    model = Subclassed()
    x = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")
    model(x)
    model.compile("adam", loss="mse")
    new = kg.clone(model)
    equal(new(x), model(x))
    assert type(new) is Subclassed and new.again is new.blocks[0] is not model.blocks[0]
    assert not new.compiled and len(new.weights) == len(model.weights)
    train(new, x, np.zeros((3, 2)), steps=2)
    assert not np.array_equal(arrays(new(x))[0], arrays(model(x))[0])


def test_compile_on_request():
    model = siamese()
    model.compile(keras.optimizers.SGD(0.25), loss="mae")
    assert not kg.clone(model).compiled
    new = kg.clone(model, compile=True)
    assert float(new.optimizer.learning_rate.numpy()) == 0.25 and new.loss == "mae"
    assert new.optimizer is not model.optimizer


class Keeping(layers.Layer):
    """A layer that another one's function lives in."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.function = lambda x: inner(x)
        self.inner = inner

    def call(self, x):
        return self.function(x)


class NoConfig(layers.Layer):
    def __init__(self, array, **kwargs):
        super().__init__(**kwargs)
        self.array = array

    def build(self, shape):
        self.w = self.add_weight(shape=(4,), name="w", initializer="ones")

    def call(self, x):
        return keras.ops.add(x * self.w, self.array)


def one_layer(layer):
    x = keras.Input((4,), name="x")
    return keras.Model(x, layer(x), name="one")


def test_what_cannot_be_cloned_is_refused():
    model = one_layer(Keeping(layers.Dense(4), name="keeping"))
    with pytest.raises(kg.WeightsError, match="'keeping' cannot be cloned: the function .*share="):
        kg.clone(model)
    kg.clone(model, share="keeping")
    model = one_layer(NoConfig(np.arange(4.0, dtype="float32"), name="bare"))
    x = np.ones((2, 4), "float32")
    equal(kg.clone(model)(x), model(x))
    with pytest.raises(
        kg.WeightsError, match="'bare': no initial values can be drawn for 'bare/w'"
    ):
        kg.clone(model, weights="fresh")
    with pytest.raises(kg.WeightsError, match="a Graph is not compiled"):
        kg.clone(kg.read(model), compile=True)
    model = adorned()
    with pytest.raises(kg.WeightsError, match="'quantized' is quantized: no initializer draws"):
        kg.clone(model, weights="fresh")
    with pytest.raises(kg.WeightsError, match="clone takes a Keras model or a .*, got Dense"):
        kg.clone(layers.Dense(2))
    with pytest.raises(kg.WeightsError, match='weights must be "copy" or "fresh", got \'both\''):
        kg.clone(model, weights="both")
    with pytest.raises(kg.WeightsError, match="seed= is for"):
        kg.clone(model, seed=3)
    with pytest.raises(kg.NothingSelectedError, match="nothing"):
        kg.clone(model, share="nothing")
    with pytest.raises(kg.BuildError, match='"share", "copy" or "fresh"'):
        kg.build(kg.read(model), weights="some")


def test_cheap_weights_are_weights():  # the clones above would be equal if all were zero
    with cheap_weights():
        model = application("MobileNetV2")
    assert np.std(arrays(model.get_layer("Conv1").kernel)[0]) > 0


def test_a_sequential_model_is_cloned_after_it_was_trained():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="d")])
    model.compile("sgd", "mse")
    x = np.ones((2, 4), "float32")
    model.fit(x, np.zeros((2, 3)), verbose=0)
    model.predict(x, verbose=0)
    new = kg.clone(model)
    assert not new.compiled
    equal(new(x), model(x))
    new.compile("sgd", "mse")
    new.fit(x, np.zeros((2, 3)), verbose=0)
    assert not np.array_equal(arrays(new(x))[0], arrays(model(x))[0])


class Slotted:
    __slots__ = ("layer",)

    def __init__(self, layer):
        self.layer = layer


@dataclasses.dataclass(frozen=True)
class Frozen:
    layer: keras.Layer


HOLDERS = {
    "deque": (lambda d: deque([d], maxlen=3), lambda h: h[0]),
    "ordered": (lambda d: [OrderedDict(a=d, b=2)], lambda h: list(h[0].values())[0]),
    "frozenset": (lambda d: frozenset([d]), lambda h: next(iter(h))),
    "namespace": (lambda d: types.SimpleNamespace(layer=d), lambda h: h.layer),
    "slots": (Slotted, lambda h: h.layer),
    "dataclass": (Frozen, lambda h: h.layer),
    "weak": (weakref.ref, lambda h: h()),
}


class Holding(layers.Layer):
    """Works with a layer that it has twice: Keras knows of one."""

    def __init__(self, how, **kwargs):
        super().__init__(**kwargs)
        self.layer = layers.Dense(4)
        self.how, self.holder = how, HOLDERS[how][0](self.layer)

    def build(self, shape):
        self.layer.build(shape)

    def call(self, x):
        return HOLDERS[self.how][1](self.holder)(x)


@pytest.mark.parametrize("how", HOLDERS)
def test_whatever_holds_a_layer_holds_the_clones(how):
    x = keras.Input((4,))
    model = keras.Model(x, Holding(how, name="h")(x))
    data = np.ones((2, 4), "float32")
    expected, new = arrays(model(data)), kg.clone(model)
    equal(expected, new(data))
    layer = new.get_layer("h")
    assert HOLDERS[how][1](layer.holder) is layer.layer is not model.get_layer("h").layer
    for variable in new.variables:
        variable.assign(variable.value + 1)
    equal(expected, model(data))
    assert not np.array_equal(expected[0], arrays(new(data))[0])


SHELF = layers.Dense(4, name="shelf")


def shelved(t):
    return SHELF(t)


class Caller:
    """Calls a function; a layer's attribute may be such an object."""

    def __init__(self, function):
        self.function = function

    def __call__(self, t):
        return self.function(t)


@pytest.mark.parametrize(
    "function",
    [
        lambda t: SHELF(t),
        lambda t: [SHELF(i) for i in (t,)][0],
        lambda t, d=SHELF: d(t),
        lambda t: shelved(t),
        Caller(shelved),
        functools.partial(shelved),
    ],
    ids=["global", "inside", "default", "by another", "in an object", "partial"],
)
def test_a_function_that_works_with_a_layer_is_refused(function):
    x = keras.Input((4,))
    model = keras.Model(x, layers.Lambda(function, name="f")(SHELF(x)))
    with pytest.raises(
        kg.WeightsError, match="'f' cannot be cloned: the function .* uses <Dense name=shelf"
    ):
        kg.clone(model)
    assert kg.clone(model, share=["shelf", "f"]).get_layer("f") is model.get_layer("f")


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="modules of PyTorch")
def test_a_module_of_pytorch_has_parameters_of_its_own():
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    x = keras.Input((4,))
    y = layers.TorchModuleWrapper(module, name="t", output_shape=(None, 4))(x)
    model = keras.Model(x, layers.Dense(2, name="d")(y))
    data = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    new = kg.clone(model)
    inside = new.get_layer("t").module
    for a, b in zip(inside.parameters(), new.get_layer("t").weights, strict=True):
        assert a is b.value
    expected, before = arrays(model(data)), arrays(model.variables)
    equal(expected, new(data))
    statistics = module[1].running_mean.clone()
    steps(new, data)
    assert not np.array_equal(expected[0], arrays(new(data))[0])
    equal(before, model.variables)
    assert torch.equal(statistics, module[1].running_mean)
    tied = kg.replace(model, "d", layers.Dense(2, name="e"))
    assert tied.get_layer("t").module is module
