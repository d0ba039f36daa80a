"""carry_optimizer within one model: layers are unfrozen, and training goes on."""

import keras
import numpy as np
import pytest
from donor import arrays, equal, some
from keras import layers
from keras import optimizers as opt
from test_optimizer import OPTIMIZERS, Odd, network, state, steps, train
from weights import values

import keras_graft as kg
from keras_graft import _keras


def frozen_start(name):
    """A model whose first layer is frozen, trained for some steps."""
    keras.utils.set_random_seed(1)
    model = network()
    model.get_layer("a").trainable = False
    model.compile(OPTIMIZERS[name](), "mse", metrics=["mae"])
    steps(model)
    return model


def by_path(optimizer):
    """Return what an optimizer holds by the paths that Keras gave, without its own name."""
    return {v.path.partition("/")[2]: v for v in optimizer.variables}


def by_hand(name):
    """Unfreeze as one would with Keras alone: copy every slot by its path into a new optimizer."""
    model = frozen_start(name)
    old = model.optimizer
    model.get_layer("a").trainable = True
    model.compile(OPTIMIZERS[name](), "mse", metrics=["mae"])
    model.optimizer.build(model.trainable_variables)
    if name == "adafactor":  # its slots have names that Keras numbers
        model.optimizer.iterations.assign(old.iterations)
        for slot in ("_r", "_c", "_v"):
            for mine, its in zip(
                getattr(model.optimizer, slot)[2:], getattr(old, slot), strict=True
            ):
                mine.assign(its)
        return model
    before, now = by_path(old), by_path(model.optimizer)
    if name == "ema":  # of Keras's averages, one begins at the value of its variable
        for path, variable in now.items():
            if "average" in path and path not in before:
                variable.assign(model.get_layer("a").get_weights()[int("bias" in path)])
    for path, variable in before.items():
        now[path].assign(variable)
    return model


@pytest.mark.parametrize("how", ["one model", "its optimizer", "compiled again"])
@pytest.mark.parametrize("name", some([n for n in OPTIMIZERS if n not in ("scaled", "several")], 5))
def test_unfrozen_layers_begin_and_the_others_go_on(name, how):
    hand = by_hand(name)
    model = frozen_start(name)
    old, before = model.optimizer, state(model.optimizer)
    model.get_layer("a").trainable = True
    if how == "one model":
        report = kg.carry_optimizer(model, model)
    elif how == "its optimizer":
        report = kg.carry_optimizer(model.optimizer, model)
    else:
        model.compile(OPTIMIZERS[name](), "mse", metrics=["mae"])
        report = kg.carry_optimizer(old, model)
    assert [n for n, _ in report.taken] == ["bn/gamma", "bn/beta", "b/kernel", "b/bias"]
    assert report.new == ("a/kernel", "a/bias") and report.dropped == ()
    assert model.optimizer is not old and report.steps == int(old.iterations)
    equal(state(old), before)
    equal(state(model.optimizer), state(hand.optimizer))
    found = [steps(m) for m in (model, hand)]
    assert found[0] == found[1]
    equal(values(model), values(hand))
    equal(state(model.optimizer), state(hand.optimizer))
    assert not np.array_equal(*(arrays(m.get_layer("a").kernel)[0] for m in (model, network())))


@pytest.mark.parametrize("name", some(OPTIMIZERS, 6))
def test_where_nothing_was_unfrozen_training_goes_on_to_the_bit(name):
    results = []
    for carried in (False, True):
        keras.utils.set_random_seed(1)
        model = network()
        model.compile(OPTIMIZERS[name](), "mse", metrics=["mae"])
        found = steps(model)
        if carried:
            report = kg.carry_optimizer(model, model)
            assert len(report.taken) == 6 and report.new == report.dropped == ()
        found += steps(model)
        results.append((values(model), state(model.optimizer), found))
    equal(results[0], results[1])


def test_fit_goes_on_with_its_rate_and_metrics():
    model = frozen_start("adam")
    model.optimizer.learning_rate = 0.003
    model.get_layer("a").trainable = True
    kg.carry_optimizer(model, model)
    assert abs(float(arrays(model.optimizer.learning_rate)[0]) - 0.003) < 1e-9
    kernel = arrays(model.get_layer("a").kernel)[0]
    history = train(model)
    assert set(history.history) == {"loss", "mae"}
    assert not np.array_equal(kernel, arrays(model.get_layer("a").kernel)[0])
    assert int(model.optimizer.iterations) == 8
    # And frozen again, its slots are gone.
    model.get_layer("a").trainable = False
    assert kg.carry_optimizer(model, model).dropped == ("a/kernel", "a/bias")
    kernel = arrays(model.get_layer("a").kernel)[0]
    train(model)
    equal(kernel, model.get_layer("a").kernel)


def test_a_rate_of_ones_own_for_fine_tuning():
    model = frozen_start("adam")
    old = model.optimizer
    model.get_layer("a").trainable = True
    model.compile(opt.Adam(1e-4, amsgrad=True), "mae")
    mine = model.optimizer
    report = kg.carry_optimizer(old, model)
    assert model.optimizer is mine and model.loss == "mae" and report.new == ("a/kernel", "a/bias")
    assert float(arrays(mine.learning_rate)[0]) == np.float32(1e-4)
    train(model)


@pytest.mark.parametrize("name", ["scaled", "several"])
def test_one_that_holds_others(name):
    if name not in OPTIMIZERS:
        pytest.skip("not in this Keras")
    model = frozen_start(name)
    before = {k: p.lists for k, p in _keras.slots(model.optimizer).items()}
    model.get_layer("a").trainable = True
    report = kg.carry_optimizer(model, model)
    assert report.new == ("a/kernel", "a/bias") and len(report.taken) == 4
    for path, part in _keras.slots(model.optimizer).items():
        for slot, row in part.lists.items():
            old = {v.path.rpartition("/")[2]: v for v in before[path][slot] if v is not None}
            for variable in row:
                if variable is not None:
                    key = variable.path.rpartition("/")[2]
                    equal(variable, old[key] if key in old else np.zeros(variable.shape, "float32"))
    train(model)


def test_a_trunk_inside_is_unfrozen():
    x = keras.Input((4,))
    trunk = keras.Model(
        x, layers.Dense(4, name="inner")(layers.Dense(4, name="first")(x)), name="t"
    )
    trunk.trainable = False
    model = keras.Sequential([keras.Input((4,)), trunk, layers.Dense(2, name="head")])
    model.compile("adam", "mse")
    train(model)
    trunk.trainable = True
    report = kg.carry_optimizer(model, model)
    assert report.new == ("t/first/kernel", "t/first/bias", "t/inner/kernel", "t/inner/bias")
    train(model)


def test_a_metric_that_cannot_be_made_again_stays():
    model = network()
    model.compile("adam", "mse", metrics=[Odd(2.0)])
    train(model)
    kg.carry_optimizer(model, model)
    assert len(train(model).history) == 2


class Own(keras.Model):
    def compile(self, loss, **kwargs):
        super().compile(opt.Adam(0.01), loss, **kwargs)


def test_refusals_name_a_way_out_that_works():
    model = frozen_start("adam")
    old = model.optimizer
    model.get_layer("a").trainable = True
    model.compile(opt.Adam(0.01, amsgrad=True), "mse")
    now = model.optimizer
    with pytest.raises(
        kg.WeightsError, match=r"(?s)compile\(\) gives a model a new one.*old = mod"
    ):
        kg.carry_optimizer(model, model)
    assert model.optimizer is now and not now.built
    kg.carry_optimizer(old, model)  # the way out
    train(model)

    own = Own(model.inputs, model.outputs)
    own.compile("mse")
    train(own)
    old = own.optimizer
    with pytest.raises(kg.WeightsError, match=r"Own has a compile\(\) of its own. Keep its optim"):
        kg.carry_optimizer(own, own)
    assert own.optimizer is old
    own.compile("mse")
    assert len(kg.carry_optimizer(old, own).taken) == 6

    other = network()
    with pytest.raises(
        kg.WeightsError, match="'network' is not compiled, and an optimizer does no"
    ):
        kg.carry_optimizer(old, other)
    other.compile(opt.Adam(), "mse")
    with pytest.raises(kg.WeightsError, match='match="name" uses the layers of the old model'):
        kg.carry_optimizer(old, other, match="name")
    pairs = list(zip(own.trainable_variables, other.trainable_variables, strict=True))
    assert len(kg.carry_optimizer(old, other, pairs=pairs).taken) == 6
    with pytest.raises(kg.WeightsError, match="must be a compiled model or an optimizer, got 'ad"):
        kg.carry_optimizer("adam", other)
