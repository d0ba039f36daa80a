"""carry_optimizer after prune: the slots of the positions that stayed."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras import optimizers as opt

import keras_graft as kg
from keras_graft import _keras

RNG = np.random.default_rng(0)


def array(tensor):
    return np.array(ops.convert_to_numpy(tensor))


def network():
    x = keras.Input((8, 8, 3), name="x")
    y = layers.Conv2D(8, 3, name="c")(x)
    y = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(y))
    y = layers.GlobalAveragePooling2D(name="pool")(y)
    y = layers.Dense(6, activation="relu", name="d")(y)
    return keras.Model(x, layers.Dense(2, name="out")(y), name="network")


def trained(optimizer):
    model = network()
    model.compile(optimizer, "mse")
    data = RNG.normal(size=(16, 8, 8, 3)), RNG.normal(size=(16, 2))
    model.fit(*data, batch_size=8, verbose=0)
    return model, data


KEPT = {"c": [1, 2, 4, 5, 6, 7], "d": [0, 2, 3, 4]}


def sliced(name, values):
    """Return by hand what stays of a weight, or of its slot."""
    layer, weight = name.split("/")[-2:]
    if layer in ("c", "bn"):
        values = values[..., KEPT["c"]]
    if layer == "d" and weight == "kernel":
        values = values[KEPT["c"]]
    if layer == "d":
        values = values[..., KEPT["d"]]
    if layer == "out" and weight == "kernel":
        values = values[KEPT["d"]]
    return values


OPTIMIZERS = {
    "sgd": lambda: opt.SGD(0.1, momentum=0.9),
    "adam": lambda: opt.Adam(amsgrad=True),
    "averaged": lambda: opt.Adam(use_ema=True),
    "scaled": lambda: opt.LossScaleOptimizer(opt.RMSprop(momentum=0.5)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_slots_are_those_of_what_stayed(name):
    model, data = trained(OPTIMIZERS[name]())
    small = kg.prune(model, {"c": [0, 3], "d": [1, 5]})
    before = [array(v) for v in model.optimizer.variables]
    report = kg.carry_optimizer(model, small)
    assert not report.to_dict().get("new") and "dropped           0" in str(report)
    olds, news = (_keras.slots(m.optimizer) for m in (model, small))
    compared = 0
    for path, part in news.items():
        for kind, row in part.lists.items():
            for variable, slot in zip(part.variables, row, strict=True):
                old = next(v for v in olds[path].variables if v.path == variable.path)
                its = olds[path].lists[kind][olds[path].index()[id(old)]]
                assert np.array_equal(array(slot), sliced(variable.path, array(its)))
                compared += bool(array(slot).any())
    assert compared >= 6
    assert int(small.optimizer.iterations) == int(model.optimizer.iterations)
    assert all(map(np.array_equal, before, map(array, model.optimizer.variables)))
    small.fit(*data, verbose=0)


@pytest.mark.once
def test_zeroed_units_train_on_as_they_would_have():
    """A unit whose weights and slots are zero changes nothing: both models make the same steps."""
    model, data = trained(opt.SGD(0.01, momentum=0.9))
    layer, out = model.get_layer("d"), model.get_layer("out")
    places = {
        id(layer.kernel): (..., [1, 5]),
        id(layer.bias): (..., [1, 5]),
        id(out.kernel): [1, 5],
    }
    slots = _keras.slots(model.optimizer)[""]
    rows = [dict(zip(map(id, slots.variables), row, strict=True)) for row in slots.lists.values()]
    for variable in (layer.kernel, layer.bias, out.kernel):
        for target in (variable, *(row[id(variable)] for row in rows)):
            values = array(target).copy()
            values[places[id(variable)]] = 0
            target.assign(values)
    small = kg.prune(model, {"d": [1, 5]})
    kg.carry_optimizer(model, small)
    before = [array(w).copy() for w in model.weights]
    small.fit(*data, shuffle=False, batch_size=8, epochs=3, verbose=0)
    found = array(small(data[0]))
    for weight, values in zip(model.weights, before, strict=True):  # small shares some of them
        weight.assign(values)
    assert not np.allclose(array(model(data[0])), found, atol=1e-3)
    model.fit(*data, shuffle=False, batch_size=8, epochs=3, verbose=0)
    assert np.allclose(array(model(data[0])), found, atol=1e-5)


@pytest.mark.once
def test_slots_of_another_shape_are_refused():
    model, _ = trained(opt.Adafactor())
    small = kg.prune(model, {"c": [0, 3]})
    with pytest.raises(kg.WeightsError, match="has the shape"):
        kg.carry_optimizer(model, small)


@pytest.mark.once
def test_a_prune_of_a_prune_has_no_donor():
    model, _ = trained("adam")
    small = kg.prune(kg.prune(model, {"c": [0, 3]}), {"c": [0]})
    report = kg.carry_optimizer(model, small)
    assert "c/kernel" in report.new and "out/kernel" not in report.new
