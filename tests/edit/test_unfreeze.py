"""unfreeze: trained again in a new model, the donor with its flags, or in place; slots kept."""

import keras
import numpy as np
import pytest
from donor import arrays, equal, some, unchanged
from keras import layers
from keras import optimizers as opt
from models import ALL, masked, mixed, residual, shared, siamese
from tied import language

import keras_graft as kg
from keras_graft import _keras
from keras_graft.testing import random_inputs

each = pytest.mark.parametrize("make", some(ALL, 3), ids=lambda f: f.__name__)


def names(model):
    return [v.path for v in model.trainable_variables]


def not_averages(model):
    """The paths of what is trained where all but BatchNormalization is unfrozen."""
    still = {
        id(v)
        for layer in model._flatten_layers()
        if isinstance(layer, layers.BatchNormalization)
        for v in layer.weights
    }
    return [v.path for v in model.trainable_variables if id(v) not in still]


@each
def test_what_freeze_wrapped_is_the_donors_again(make, tmp_path):
    donor = make()
    x = random_inputs(donor)
    frozen = kg.freeze(donor)
    with unchanged(frozen, tmp_path):
        if not any(layer.weights for layer in donor.layers):
            return
        thawed = kg.unfreeze(frozen, batch_norm=True)
        assert names(thawed) == names(donor)
        assert [id(w) for w in thawed.weights] == [id(w) for w in donor.weights]
        equal(donor(x, training=False), thawed(x, training=False))
        del thawed
    partly = kg.unfreeze(frozen)
    assert names(partly) == not_averages(donor)


@each
def test_flags_are_undone_in_a_new_model_and_stay_in_the_donor(make, tmp_path):
    donor = make()
    if not donor.trainable_variables:
        return
    expected, averages = not_averages(donor), names(donor)
    donor.trainable = False
    with unchanged(donor, tmp_path) as x:
        new = kg.unfreeze(donor)
        assert names(new) == expected and donor.trainable_variables == []
        assert names(kg.unfreeze(donor, batch_norm=True)) == averages
        alike(donor, new, x)
        new.save(tmp_path / "new.keras")
        loaded = keras.models.load_model(tmp_path / "new.keras")
        assert len(names(loaded)) == len(names(new))
        equal(new(x, training=False), loaded(x, training=False))
        del new, loaded


def alike(donor, new, x):
    """Compare outputs: on PyTorch, recurrent layers round differently for weights with a gradient."""
    found = [arrays(m(x, training=False)) for m in (donor, new)]
    kinds = {n.kind for n in kg.select(donor, "**").nodes} & {"LSTM", "GRU", "Bidirectional"}
    if keras.backend.backend() != "torch" or not kinds:
        return equal(*found)
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def network(bn=True):
    keras.utils.set_random_seed(1)
    inner = keras.Input((4,))
    y = layers.Dense(4, activation="relu", name="a")(inner)
    y = layers.BatchNormalization(name="bn")(y) if bn else y
    trunk = keras.Model(inner, layers.Dense(3, name="b")(y), name="trunk")
    x = keras.Input((4,))
    return keras.Model(x, layers.Dense(2, name="head")(trunk(x)), name="network")


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(16, 4)).astype("float32"), rng.normal(size=(16, 2))


def train(model, epochs=1):
    x, y = data()
    return model.fit(x, y, batch_size=4, epochs=epochs, shuffle=False, verbose=0)


@pytest.mark.parametrize("how", ["flag", "frozen"])
def test_training_moves_what_was_unfrozen_in_both_models(how):
    donor = network()
    if how == "flag":
        donor.get_layer("trunk").trainable = False
    frozen = donor if how == "flag" else kg.freeze(donor, "trunk")
    flags = [layer.trainable for layer in frozen._flatten_layers()]
    new = kg.unfreeze(frozen, "trunk/b")
    assert names(new) == ["b/kernel", "b/bias", "head/kernel", "head/bias"]
    before = dict(zip((v.path for v in donor.variables), arrays(donor.variables), strict=True))
    new.compile("sgd", "mse")
    train(new)
    moved = {v.path for v in donor.variables if not np.array_equal(before[v.path], arrays(v)[0])}
    assert moved == {"b/kernel", "b/bias", "head/kernel", "head/bias"}
    x, _ = data()
    equal(frozen(x, training=False), new(x, training=False))
    assert [layer.trainable for layer in frozen._flatten_layers()] == flags
    donor.compile("sgd", "mse")  # and the other way round
    kernel = arrays(donor.get_layer("head").kernel)
    train(donor)
    assert not np.array_equal(kernel[0], arrays(new.get_layer("head").kernel)[0])
    equal(frozen(x, training=False), new(x, training=False))
    for variable in donor.variables:
        variable.assign(variable * 2)
    equal(frozen(x, training=False), new(x, training=False))


def test_batch_normalization_stays_in_inference_mode_unless_asked():
    donor = network()
    donor.trainable = False
    new = kg.unfreeze(donor)
    new.compile("sgd", "mse")
    bn = donor.get_layer("trunk").get_layer("bn")
    before = arrays(bn.weights)
    train(new)
    equal(before, bn.weights)
    asked = kg.unfreeze(donor, batch_norm=True)
    asked.compile("sgd", "mse")
    train(asked)
    assert not any(np.array_equal(a, b) for a, b in zip(before, arrays(bn.weights), strict=True))
    with pytest.raises(
        kg.EditError, match="only BatchNormalization layers are frozen here: 'trunk"
    ):
        kg.unfreeze(donor, "trunk/bn")
    assert names(kg.unfreeze(donor, "trunk/bn", batch_norm=True)) == ["bn/gamma", "bn/beta"]
    still = kg.unfreeze(kg.freeze(donor))
    assert [n.kind for n in kg.select(still, "trunk/bn").nodes] == ["Frozen"]


@keras.saving.register_keras_serializable("test_unfreeze")
class Block(layers.Layer):
    """A layer with a BatchNormalization and a Dropout inside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, name="dense")
        self.bn = layers.BatchNormalization(name="inner_bn")
        self.drop = layers.Dropout(0.5, name="drop")

    def build(self, shape):
        self.dense.build(shape)
        self.bn.build((*shape[:-1], 4))

    def call(self, x, training=None):
        return self.drop(self.bn(self.dense(x), training=training), training=training)


@pytest.mark.parametrize("how", ["flag", "frozen", "both"])
def test_layers_inside_a_layer(how):
    x = keras.Input((4,))
    donor = keras.Model(x, layers.Dense(2, name="head")(Block(name="block")(x)))
    if how != "frozen":
        donor.get_layer("block").trainable = False
    frozen = donor if how == "flag" else kg.freeze(donor, "block")
    new = kg.unfreeze(frozen)
    block = new.get_layer("block")
    assert type(block) is Block and names(new)[0].endswith("dense/kernel") and len(names(new)) == 4
    assert (block.dense.trainable, block.bn.trainable) == (True, False)
    inner = donor.get_layer("block")
    before = arrays(inner.bn.weights), arrays(inner.dense.kernel)
    new.compile("sgd", "mse")
    train(new)
    equal(before[0], inner.bn.weights)
    assert not np.array_equal(before[1][0], arrays(inner.dense.kernel)[0])
    out = keras.ops.convert_to_numpy(block(np.ones((8, 4), "float32"), training=True))
    assert (out == 0).any()  # Dropout is on again
    assert inner.bn.trainable == (how == "frozen")


def test_a_model_that_was_never_trained_whole():
    x = keras.Input((4,))
    donor = keras.Model(x, layers.Dense(2, name="b")(layers.Dense(3, name="a")(x)), trainable=False)
    assert donor.layers[1].trainable and not names(kg.freeze(donor))
    new = kg.unfreeze(donor, "b")
    assert names(new) == ["b/kernel", "b/bias"] and new.trainable and not donor.trainable
    assert all(layer.trainable for layer in donor.layers)
    before = arrays(donor.get_layer("a").kernel)
    new.compile("sgd", "mse")
    train(new)
    equal(before, donor.get_layer("a").kernel)
    donor = keras.Model(x, layers.Dense(2, name="b")(layers.Dense(3, name="a")(x)), trainable=False)
    assert kg.unfreeze(donor, "b", in_place=True) is donor
    assert names(donor) == [v.path for v in donor.get_layer("b").weights]


def frozen_head_start(make, frozen):
    model = network(bn=False)
    if frozen == "flag":
        model.get_layer("trunk").trainable = False
    else:
        model = kg.freeze(model, "trunk")
    model.compile(make(), "mse", metrics=["mae"])
    train(model)
    return model


def by_hand(make):
    """The same with Keras alone: a new optimizer, the slots of the head copied by name."""
    model = frozen_head_start(make, "flag")
    old = model.optimizer
    model.get_layer("trunk").get_layer("b").trainable = True
    model.get_layer("trunk")._trainable = True
    model.compile(make(), "mse", metrics=["mae"])
    model.optimizer.build(model.trainable_variables)
    its = {v.path.partition("/")[2]: v for v in old.variables}
    for variable in model.optimizer.variables:
        if variable.path.partition("/")[2] in its:
            variable.assign(its[variable.path.partition("/")[2]])
    return model


MADE = {
    "adam": lambda: opt.Adam(0.01),
    "sgd": lambda: opt.SGD(0.1, momentum=0.9),
    "rmsprop": lambda: opt.RMSprop(0.01),
    "lion": lambda: opt.Lion(0.01),
}


@pytest.mark.parametrize("how", ["flag", "flag in place", "frozen"])
@pytest.mark.parametrize("name", some(MADE, 3))
def test_training_goes_on_as_in_a_loop_by_hand_to_the_bit(name, how):
    hand = by_hand(MADE[name])
    start = frozen_head_start(MADE[name], "frozen" if how == "frozen" else "flag")
    old = start.optimizer
    slots = {v.path.partition("/")[2]: arrays(v)[0] for v in old.variables}
    new = kg.unfreeze(start, "trunk/b", in_place="place" in how)
    assert (new is start) == ("place" in how) and new.optimizer is not old
    for variable in new.optimizer.variables:
        path = variable.path.partition("/")[2]
        equal(variable, slots.get(path, np.zeros(variable.shape, "float32")))
    equal([slots[k] for k in slots], old.variables)
    found = [train(m, 2).history for m in (new, hand)]
    assert found[0] == found[1]
    equal(new.trainable_variables, hand.trainable_variables)
    equal(new.optimizer.variables, hand.optimizer.variables)
    assert int(new.optimizer.iterations) == 12


def test_step_by_step_slots_stay():
    model = kg.freeze(network(bn=False), "trunk")
    model.compile("adam", "mse")
    for selector in ("trunk/b", "trunk/a"):
        train(model)
        old = _keras.slots(model.optimizer)[""]
        model = kg.unfreeze(model, selector)
        new = _keras.slots(model.optimizer)[""]
        for place, variable in enumerate(old.variables):
            its = new.index()[id(variable)]
            equal(old.lists["_momentums"][place], new.lists["_momentums"][its])
    assert len(names(model)) == 6
    train(model)
    again = kg.unfreeze(model)  # nothing is frozen any more
    assert names(again) == names(model)
    assert all(a is b for a, b in zip(again.weights, model.weights, strict=True))


def test_compiled_and_not_trained_yet():
    model = kg.freeze(network(), "trunk")
    model.compile(opt.Adam(0.02), "mse", metrics=["mae"])
    new = kg.unfreeze(model)
    assert new.optimizer is not model.optimizer and set(train(new).history) == {"loss", "mae"}
    assert abs(float(arrays(new.optimizer.learning_rate)[0]) - 0.02) < 1e-7
    assert not kg.unfreeze(kg.freeze(network(), "trunk")).compiled


def test_in_place():
    model = network()
    model.get_layer("trunk").trainable = False
    trunk = model.get_layer("trunk")
    assert kg.unfreeze(model, "trunk/b", in_place=True) is model
    assert names(model) == ["b/kernel", "b/bias", "head/kernel", "head/bias"]
    assert [layer.trainable for layer in trunk.layers[1:]] == [False, False, True]
    assert trunk.trainable and model.get_layer("trunk") is trunk
    kg.unfreeze(model, in_place=True)
    assert [layer.trainable for layer in trunk.layers[1:]] == [True, False, True]
    with pytest.raises(kg.EditError, match="in_place=True changes a Keras model, got <Graph"):
        kg.unfreeze(kg.read(model), in_place=True)
    frozen = kg.freeze(model, "trunk")
    with pytest.raises(kg.EditError, match="kg.freeze has wrapped 'trunk/a', 'trunk/b', and a wra"):
        kg.unfreeze(frozen, in_place=True)
    assert names(kg.unfreeze(frozen)) == ["a/kernel", "a/bias", *names(model)[2:]]  # the way out


class Own(keras.Model):
    def compile(self, loss, **kwargs):
        super().compile(opt.Adam(0.01), loss, **kwargs)


@pytest.mark.parametrize("in_place", [False, True])
def test_where_the_optimizer_cannot_be_kept_nothing_changes(in_place):
    base = network()
    base.get_layer("trunk").trainable = False
    model = Own(base.inputs, base.outputs)
    model.compile("mse")
    train(model)
    flags, old = [layer.trainable for layer in model._flatten_layers()], model.optimizer
    with pytest.raises(kg.WeightsError, match=r"Own has a compile\(\) of its own"):
        kg.unfreeze(model, in_place=in_place)
    assert [layer.trainable for layer in model._flatten_layers()] == flags
    assert model.optimizer is old and len(names(model)) == 2
    train(model)


def test_graphs():
    graph = kg.read(kg.freeze(residual()))
    thawed = kg.unfreeze(graph, "conv*")
    assert isinstance(thawed, kg.Graph)
    assert {n.name for n in thawed if n.kind == "Frozen"} == {"stem", "bn0", "bn1", "out"}
    assert {n.name for n in graph if n.kind != "Frozen"} == {"add0", "add1", "pool"}


def test_all_calls_of_a_shared_layer_and_a_shared_model():
    donor = shared()
    donor.trainable = False
    new = kg.unfreeze(donor, "shared#1")
    assert names(new) == [v.path for v in donor.weights] and len(new.weights) == 2
    pair = siamese()
    pair.trainable = False
    new = kg.unfreeze(pair, "encoder/d1")
    assert names(new) == ["d1/kernel", "d1/bias"]
    assert len({id(n.operation) for n in kg.read(new) if n.name == "encoder"}) == 1
    new.compile("sgd", "mse")
    before = arrays(pair.get_layer("encoder").get_layer("d1").kernel)
    new.fit([np.ones((4, 4))] * 2, np.ones((4, 2)), verbose=0)
    assert not np.array_equal(
        before[0], arrays(pair.get_layer("encoder").get_layer("d1").kernel)[0]
    )


def test_half_of_a_tie_is_refused_and_a_whole_one_stays_tied(tmp_path):
    donor = kg.tie(language(), "lm_head/kernel", "embedding/embeddings", transform="transpose")
    donor.trainable = False
    with pytest.raises(kg.EditError) as caught:
        kg.unfreeze(donor, "embedding")
    assert "'embedding' and 'lm_head' use one variable, 'embedding/embeddings'" in str(caught.value)
    assert "kg.unfreeze(model, ['embedding', 'lm_head'])" in str(caught.value)
    new = kg.unfreeze(donor, ["embedding", "lm_head"])  # the way out
    assert [p for p in names(new)] == ["embedding/embeddings", "lm_head/bias"]
    assert len(new.weights) == len(donor.weights)
    x = random_inputs(donor)
    equal(donor(x), new(x))
    new.compile("sgd", "mse")
    target = np.zeros(new.output.shape[1:], "float32")[None]
    new.fit(x, np.repeat(target, len(keras.tree.flatten(x)[0]), 0), verbose=0)
    equal(donor(x), new(x))
    new.save(tmp_path / "tied.keras")
    loaded = keras.models.load_model(tmp_path / "tied.keras")
    assert len(loaded.weights) == len(new.weights)
    equal(loaded(x), new(x))
    frozen = kg.freeze(donor)
    with pytest.raises(kg.EditError, match="'lm_head' and 'embedding' use one variable"):
        kg.unfreeze(frozen, "lm_head")
    assert len(names(kg.unfreeze(frozen, ["embedding", "lm_head"]))) == 2


def test_weights_under_an_adapter_stay_frozen():
    donor = network()
    donor.get_layer("head").enable_lora(2)
    kept = names(donor)
    donor.trainable = False
    assert names(kg.unfreeze(donor, batch_norm=True)) == kept
    assert not any(p.endswith("head/kernel") for p in kept)
    kg.unfreeze(donor, in_place=True, batch_norm=True)
    assert names(donor) == kept


def test_frozen_and_unfrozen_again():
    donor = residual()
    donor.trainable = False
    once = kg.unfreeze(donor, "conv*")
    frozen = kg.freeze(once)
    assert names(frozen) == []
    again = kg.unfreeze(frozen, "conv*")
    assert names(again) == names(once)
    assert [id(v) for v in again.trainable_variables] == [id(v) for v in once.trainable_variables]
    clone = kg.clone(once)
    assert names(clone) == names(once)
    x = random_inputs(donor)
    equal(donor(x, training=False), clone(x, training=False))
    found = kg.diff(donor, once)
    assert found.shared_parameters == donor.count_params() and found.new_parameters == 0


def test_memory_is_shared_both_ways_when_loaded_into(tmp_path):
    donor = network()
    donor.trainable = False
    new = kg.unfreeze(donor)
    other = network()
    for weight in other.weights:
        weight.assign(weight + 1)
    other.save_weights(tmp_path / "w.weights.h5")
    new.load_weights(tmp_path / "w.weights.h5")
    equal(donor.weights, other.weights)
    equal(new.weights, other.weights)
    gradient = (
        0 if keras.backend.backend() != "torch" else donor.layers[-1].kernel.value.requires_grad
    )
    assert not gradient  # the donor's parameter keeps its flag


@pytest.mark.parametrize("make", [mixed, masked], ids=lambda f: f.__name__)
def test_mixed_precision_and_masks_train(make):
    donor = make()
    donor.trainable = False
    new = kg.unfreeze(donor)
    x = random_inputs(new, 8)
    before = arrays(new.trainable_variables)
    new.compile(opt.SGD(0.1), "mse")
    new.fit(x, np.ones((8, *new.output.shape[1:]), "float32"), verbose=0)
    moved = [
        not np.array_equal(a, b)
        for a, b in zip(before, arrays(new.trainable_variables), strict=True)
    ]
    assert any(moved)


@pytest.mark.once
def test_real_networks():
    keras_hub = pytest.importorskip("keras_hub")
    model = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), classes=3)
    model.trainable = False
    new = kg.unfreeze(model, "conv5_*")
    assert (
        all(p.startswith("conv5_") and "_bn" not in p for p in names(new)) and len(names(new)) == 20
    )
    assert [id(a) for a in new.layers[:100]][1:] == [id(a) for a in model.layers[:100]][1:]
    x = np.random.default_rng(0).random((2, 32, 32, 3), "float32")
    equal(model(x, training=False), new(x, training=False))
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=30, num_layers=2, num_heads=2, hidden_dim=8, intermediate_dim=16,
        max_sequence_length=8, dropout=0.0,
    )  # fmt: skip
    expected = [v.path for v in backbone.get_layer("transformer_layer_1").trainable_variables]
    backbone.trainable = False
    new = kg.unfreeze(backbone, "transformer_layer_1")
    assert isinstance(new, keras_hub.models.BertBackbone)
    assert names(new) == expected and names(backbone) == []
    tokens = random_inputs(backbone, 2)
    equal(backbone(tokens), new(tokens))
