"""learning_rates: each weight at its own rate, against one plain optimizer for each weight."""

import copy
import inspect

import keras
import numpy as np
import pytest
from donor import arrays, equal, some
from keras import layers
from keras import optimizers as opt

import keras_graft as kg
from keras_graft import _keras


def network(dtype=None):
    x = keras.Input((4,), name="x")
    y = layers.Dense(6, activation="relu", name="stem", dtype=dtype)(x)
    y = layers.BatchNormalization(name="bn", dtype=dtype)(y)
    y = layers.Dense(5, name="mid", dtype=dtype)(y)
    return keras.Model(x, layers.Dense(2, name="head", dtype="float32")(y), name="network")


def data(count=16):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 4)).astype("float32"), rng.normal(size=(count, 2))


def train(model, epochs=1, **kwargs):
    x, y = data()
    return model.fit(x, y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, **kwargs)


RATES = {"stem": 0, "**/bias": 0.02, "mid": 0.003, "**": 0.01}
RATE_OF = {
    "stem/kernel": 0, "stem/bias": 0, "bn/gamma": 0.01, "bn/beta": 0.01, "mid/kernel": 0.003,
    "mid/bias": 0.02, "head/kernel": 0.01, "head/bias": 0.02,
}  # fmt: skip
OPTIMIZERS = {
    "sgd": lambda **k: opt.SGD(momentum=0.9, nesterov=True, **k),
    "plain": lambda **k: opt.SGD(**k),
    "adam": lambda **k: opt.Adam(amsgrad=True, **k),
    "adamw": lambda **k: opt.AdamW(**{"weight_decay": 0.1} | k),
    "lion": lambda **k: opt.Lion(**k),
    "adafactor": lambda **k: opt.Adafactor(**k),
    "nadam": lambda **k: opt.Nadam(**k),
    "rmsprop": lambda **k: opt.RMSprop(momentum=0.5, centered=True, **k),
    "adagrad": lambda **k: opt.Adagrad(**k),
    "adadelta": lambda **k: opt.Adadelta(**k),
    "adamax": lambda **k: opt.Adamax(**k),
    "ftrl": lambda **k: opt.Ftrl(**k),
    "lamb": lambda **k: opt.Lamb(**k),
    "muon": lambda **k: opt.Muon(**k),
    "clipped": lambda **k: opt.Adam(clipnorm=0.5, **k),
    "clipped values": lambda **k: opt.Adam(clipvalue=0.3, **k),
    "averaged": lambda **k: opt.Adam(use_ema=True, ema_overwrite_frequency=3, **k),
    "accumulated": lambda **k: opt.Adam(gradient_accumulation_steps=2, **k),
}
if hasattr(opt, "ScheduleFreeAdamW"):
    OPTIMIZERS["schedule_free"] = lambda **k: opt.ScheduleFreeAdamW(**k)


def gradients(variables, steps=6):
    rng = np.random.default_rng(1)
    return [[rng.normal(size=v.shape).astype("float32") for v in variables] for _ in range(steps)]


def stepped(optimizer, variables, rows):
    """Make steps with these gradients, and return the values."""
    for row in rows:
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in row], variables)
    return arrays(variables)


def one_by_one(make, model, rate_of, decay_of, rows):
    """Return what a plain optimizer for each weight makes of it: the loop that one writes by hand."""
    model = kg.clone(model)
    result = []
    for i, variable in enumerate(model.trainable_variables):
        rate, decay = rate_of[variable.path], decay_of.get(variable.path)
        if rate:
            mine = {} if decay is None else {"weight_decay": decay}
            alone = make(learning_rate=rate, **mine)
            stepped(alone, [variable], [[row[i]] for row in rows])
        result += arrays(variable)
    return result


@pytest.mark.parametrize("name", some(OPTIMIZERS, 3))
def test_each_weight_moves_as_with_an_optimizer_of_its_own(name):
    model = network()
    start = dict(zip((v.path for v in model.trainable_variables), arrays(model.trainable_variables), strict=True))  # fmt: skip
    rows = gradients(model.trainable_variables)
    expected = one_by_one(OPTIMIZERS[name], model, RATE_OF, {}, rows)
    found = kg.clone(model)
    optimizer = kg.learning_rates(found, OPTIMIZERS[name](), RATES)
    stepped(optimizer, found.trainable_variables, rows)
    for variable, its in zip(found.trainable_variables, expected, strict=True):
        np.testing.assert_allclose(arrays(variable)[0], its, rtol=1e-5, atol=1e-6)
        moved = not np.array_equal(arrays(variable)[0], start[variable.path])
        assert moved == bool(RATE_OF[variable.path]), variable.path


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lion", "rmsprop"])
def test_weight_decay_by_selector(name):
    model = network()
    rows = gradients(model.trainable_variables)
    decay_of = {p: 0.0 if p.endswith("bias") else 0.3 for p in RATE_OF if "bn" not in p}
    expected = one_by_one(OPTIMIZERS[name], model, RATE_OF, decay_of, rows)
    decays = {"**/bias": 0, "stem": 0.3, "mid": 0.3, "head": 0.3}
    optimizer = kg.learning_rates(model, OPTIMIZERS[name](), RATES, weight_decay=decays)
    found = stepped(optimizer, model.trainable_variables, rows)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_what_the_optimizer_does_not_decay_is_not_decayed():
    model = network()
    rows = gradients(model.trainable_variables)
    expected = one_by_one(
        OPTIMIZERS["adamw"], model, dict.fromkeys(RATE_OF, 0.1),
        {p: 0.0 if p.endswith("bias") else 0.1 for p in RATE_OF}, rows,
    )  # fmt: skip
    adamw = opt.AdamW(weight_decay=0.1)
    adamw.exclude_from_weight_decay(var_names=["bias"])
    found = stepped(kg.learning_rates(model, adamw, 0.1), model.trainable_variables, rows)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_muon_has_one_decay_where_one_is_given():
    model = network()
    rows = gradients(model.trainable_variables)
    rates = dict.fromkeys(RATE_OF, 0.01)

    def muon(weight_decay=None, **kwargs):
        both = {"weight_decay": weight_decay, "adam_weight_decay": weight_decay}
        known = inspect.signature(opt.Muon).parameters  # before 3.13 it has one of them
        return opt.Muon(**{k: v for k, v in both.items() if k in known}, **kwargs)

    expected = one_by_one(muon, model, rates, dict.fromkeys(RATE_OF, 0.2), rows)
    optimizer = kg.learning_rates(model, opt.Muon(), 0.01, weight_decay=0.2)
    for a, b in zip(stepped(optimizer, model.trainable_variables, rows), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("what", ["sgd", "adam"])
def test_fit_moves_weights_as_a_loop_in_numpy_does(what):
    x, y = data()
    inputs = keras.Input((4,))
    body = layers.Dense(3, name="body", use_bias=False)
    model = keras.Model(inputs, layers.Dense(2, name="head")(body(inputs)))
    w, v, b = (a.astype("float64") for a in arrays(model.weights))
    make = opt.SGD(momentum=0.9) if what == "sgd" else opt.Adam()
    optimizer = kg.learning_rates(model, make, {"body": 0.01, "head/bias": 0.1, "**": 0.03})
    model.compile(optimizer, "mse")
    train(model, epochs=3)
    rates, parts = (0.01, 0.03, 0.1), [w, v, b]
    first, second = [np.zeros_like(p) for p in parts], [np.zeros_like(p) for p in parts]
    step = 0
    for _ in range(3):
        for i in range(0, 16, 4):
            step += 1
            a, t = x[i : i + 4], y[i : i + 4]
            error = 2 * (a @ parts[0] @ parts[1] + parts[2] - t) / t.size
            hidden = a @ parts[0]
            grads = [a.T @ error @ parts[1].T, hidden.T @ error, error.sum(0)]
            for k, (g, rate) in enumerate(zip(grads, rates, strict=True)):
                if what == "sgd":
                    first[k] = 0.9 * first[k] - rate * g
                    parts[k] = parts[k] + first[k]
                else:
                    first[k] = 0.9 * first[k] + 0.1 * g
                    second[k] = 0.999 * second[k] + 0.001 * g * g
                    m, s = first[k] / (1 - 0.9**step), second[k] / (1 - 0.999**step)
                    # Keras adds epsilon before it corrects the second moment.
                    root = np.sqrt(s) + 1e-7 / np.sqrt(1 - 0.999**step)
                    parts[k] = parts[k] - rate * m / root
    for found, expected in zip(arrays(model.weights), parts, strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("name", some(["sgd", "adamw", "nadam", "clipped", "accumulated"], 2))
def test_one_rate_for_all_is_the_plain_optimizer_to_the_bit(name):
    results = []
    for rated in (False, True):
        keras.utils.set_random_seed(1)
        model = network()
        make = OPTIMIZERS[name](learning_rate=0.01)
        model.compile(kg.learning_rates(model, make, 0.01) if rated else make, "mse")
        losses = train(model, 2).history["loss"]
        results.append((arrays(model.variables), arrays(model.optimizer.variables), losses))
    equal(results[0], results[1])


def test_the_rate_0_is_as_if_the_layer_were_not_trained():
    results = []
    for rated in (False, True):
        keras.utils.set_random_seed(1)
        model = network()
        make = opt.Adam(0.01, global_clipnorm=0.1)
        if not rated:
            model.get_layer("stem").trainable = False
        rates = {"stem": 0, "**": 0.01}
        model.compile(kg.learning_rates(model, make, rates) if rated else make, "mse")
        train(model, 2)
        results.append((arrays(model.variables), arrays(model.optimizer.variables)))
    equal(results[0], results[1])


def test_the_norm_is_that_of_all_gradients():
    model = network()
    rows = gradients(model.trainable_variables)
    trained = [i for i, v in enumerate(model.trainable_variables) if RATE_OF[v.path]]
    clipped = []
    for row in rows:
        norm = np.sqrt(sum(float((row[i] ** 2).sum()) for i in trained))
        clipped.append([g * min(1, 0.5 / norm) for g in row])
    expected = one_by_one(OPTIMIZERS["adam"], model, RATE_OF, {}, clipped)
    optimizer = kg.learning_rates(model, opt.Adam(amsgrad=True, global_clipnorm=0.5), RATES)
    for a, b in zip(stepped(optimizer, model.trainable_variables, rows), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def schedule(rate=0.1):
    return opt.schedules.ExponentialDecay(rate, 2, 0.5)


@pytest.mark.parametrize("name", ["sgd", "adafactor"])
def test_schedules(name):
    model = network()
    rows = gradients(model.trainable_variables)
    rate_of = {p: 0.02 if p.endswith("bias") else schedule() for p in RATE_OF}
    expected = one_by_one(OPTIMIZERS[name], model, rate_of, {}, rows)
    optimizer = kg.learning_rates(
        model, OPTIMIZERS[name](), {"**/bias": 0.02, "**": schedule()}, weight_decay=0
    )
    assert abs(float(arrays(optimizer.learning_rate)[0]) - 0.1) < 1e-7
    for a, b in zip(stepped(optimizer, model.trainable_variables, rows), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert abs(float(arrays(optimizer.learning_rate)[0]) - 0.02) < 1e-7  # 0.1 / 8 is less
    with pytest.raises(kg.WeightsError, match="rates follow schedules here"):
        optimizer.learning_rate = 0.5


def rates_of(optimizer):
    return {row[0]: row[2] for row in optimizer.rates.weights}


def test_callbacks_scale_all_rates():
    model = network()
    model.compile(kg.learning_rates(model, "sgd", RATES), "mse")
    assert abs(float(arrays(model.optimizer.learning_rate)[0]) - 0.02) < 1e-9
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    train(model, 2, callbacks=[halve])
    for name, rate in rates_of(model.optimizer).items():
        assert abs(rate - RATE_OF[name] / 4) < 1e-9
    worse = keras.callbacks.ReduceLROnPlateau("loss", factor=0.1, patience=1, min_delta=1e9)
    train(model, 2, callbacks=[worse])
    assert abs(rates_of(model.optimizer)["head/kernel"] - 0.01 / 40) < 1e-9
    with pytest.raises(kg.WeightsError, match="the learning rate is a number here, got <"):
        model.optimizer.learning_rate = schedule()


def test_training_resumed_from_a_file_is_training_that_went_on(tmp_path):
    def begun():
        keras.utils.set_random_seed(1)
        model = network()
        rates = {"stem": 0, "mid": schedule(), "**/bias": 0.02, "**": 0.01}
        made = kg.learning_rates(model, opt.AdamW(), rates, decay=0.9, weight_decay={"mid": 0.2})
        model.compile(made, "mse")
        train(model)
        return model

    straight = begun()
    straight.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert str(loaded.optimizer.rates) == str(straight.optimizer.rates)
    assert isinstance(loaded.optimizer, kg.LearningRates)
    equal(straight.optimizer.variables, loaded.optimizer.variables)
    for model in (straight, loaded):
        train(model, 2)
    equal(straight.variables, loaded.variables)
    equal(straight.optimizer.variables, loaded.optimizer.variables)
    fresh = begun()
    fresh.save_weights(tmp_path / "model.weights.h5")
    before = arrays(fresh.optimizer.variables)
    train(fresh)
    fresh.load_weights(tmp_path / "model.weights.h5")
    equal(before, fresh.optimizer.variables)


def test_a_scaled_rate_is_in_the_file(tmp_path):
    model = network()
    model.compile(kg.learning_rates(model, "sgd", RATES), "mse")
    model.optimizer.learning_rate = 0.2
    train(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert rates_of(loaded.optimizer) == rates_of(model.optimizer)
    assert abs(rates_of(loaded.optimizer)["mid/kernel"] - 0.03) < 1e-7


def test_a_copy_of_an_optimizer_from_a_file_knows_what_is_unfrozen_later(tmp_path):
    model = network()
    model.get_layer("mid").trainable = False
    model.compile(kg.learning_rates(model, "adam", RATES), "mse")
    train(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    kg.unfreeze(loaded, "mid", in_place=True)
    assert abs(rates_of(loaded.optimizer)["mid/kernel"] - 0.003) < 1e-7
    train(loaded)


def test_state_is_carried_in_and_out():
    model = network()
    model.get_layer("stem").trainable = False
    model.compile(opt.Adam(0.01), "mse")
    train(model)
    old = model.optimizer
    model.get_layer("stem").trainable = True
    rates = {"stem": 1e-3, "mid": 0, "**": 1e-2}
    model.compile(kg.learning_rates(model, old, rates), "mse")
    report = kg.carry_optimizer(old, model)
    assert report.new == ("stem/kernel", "stem/bias")
    assert report.dropped == ("mid/kernel", "mid/bias") and len(report.taken) == 4
    assert int(model.optimizer.iterations) == 4
    slots, before = _keras.slots(model.optimizer)[""], _keras.slots(old)[""]
    for variable, momentum in zip(slots.variables, slots.lists["_momentums"], strict=True):
        if id(variable) in before.index():
            equal(momentum, before.lists["_momentums"][before.index()[id(variable)]])
    train(model)
    middle = model.optimizer
    kg.carry_optimizer(model, model)  # compiled again as it was
    assert isinstance(model.optimizer, kg.LearningRates) and model.optimizer is not middle
    assert rates_of(model.optimizer) == rates_of(middle)
    equal(model.optimizer.variables[2:], middle.variables[2:])
    train(model)
    model.compile(opt.Adam(0.01), "mse")
    assert len(kg.carry_optimizer(middle, model).new) == 2
    train(model)


def test_a_new_layer_has_no_rate_until_it_is_given_one():
    model = network()
    model.compile(kg.learning_rates(model, "adam", RATES), "mse")
    train(model)
    edited = kg.insert(model, layers.Dense(5, name="more"), after="mid")
    with pytest.raises(kg.WeightsError, match="'more/kernel', 'more/bias' would be trained") as e:
        kg.carry_optimizer(model, edited)
    assert "kg.learning_rates(model, optimizer, rates)" in str(e.value)
    edited.compile(kg.learning_rates(edited, model.optimizer, RATES), "mse")  # the way out
    assert kg.carry_optimizer(model, edited).new == ("more/kernel", "more/bias")
    train(edited)


def test_half_precision_with_a_scaled_loss(tmp_path):
    model = network("mixed_float16")
    model.dtype_policy = "mixed_float16"
    optimizer = kg.learning_rates(model, "adam", RATES)
    model.compile(opt.LossScaleOptimizer(optimizer, initial_scale=64.0), "mse")
    stem, mid = arrays(model.get_layer("stem").kernel), arrays(model.get_layer("mid").kernel)
    train(model)
    equal(stem, model.get_layer("stem").kernel)
    assert not np.array_equal(mid[0], arrays(model.get_layer("mid").kernel)[0])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        train(each)
    equal(model.variables, loaded.variables)
    kg.carry_optimizer(model, model)
    train(model)


def test_a_deep_copy_is_an_optimizer_with_the_same_rates():
    model = network()
    optimizer = kg.learning_rates(model, "sgd", RATES)
    optimizer.build(model.trainable_variables)
    twin = copy.deepcopy(optimizer)
    assert str(twin.rates) == str(optimizer.rates)
    before = arrays(optimizer.variables)
    rows = gradients(model.trainable_variables, 1)
    stepped(twin, model.trainable_variables, rows)
    equal(before, optimizer.variables)
    assert int(twin.iterations) == 1 and int(optimizer.iterations) == 0


def rates(model, *args, **kwargs):
    return rates_of(kg.learning_rates(model, "adam", *args, **kwargs))


def test_the_first_selector_that_names_a_weight_counts():
    model = network()
    found = rates(model, {"mid.bias": 1.0, layers.BatchNormalization: 2.0, "**": 3.0})
    assert found == {
        "stem/kernel": 3, "stem/bias": 3, "bn/gamma": 2, "bn/beta": 2, "mid/kernel": 3,
        "mid/bias": 1, "head/kernel": 3, "head/bias": 3,
    }  # fmt: skip
    same = rates(model, {model.get_layer("mid"): 1.0, lambda n: n.name == "bn": 2.0, "*": 3.0})
    assert same["mid/kernel"] == 1 and same["bn/beta"] == 2 and same["head/bias"] == 3
    assert set(rates(model, 1e-4).values()) == {1e-4}
    assert rates(model, {"m*": np.float64(0.5), "**": 1})["mid/kernel"] == 0.5


def nested(times=1):
    inner = keras.Input((4,))
    body = layers.Dense(4, name="second")(layers.Dense(4, name="first")(inner))
    trunk = keras.Model(inner, body, name="trunk")
    x = y = keras.Input((4,))
    for _ in range(times):
        y = trunk(y)
    return keras.Model(x, layers.Dense(2, name="first")(y), name="nested")


@pytest.mark.parametrize("times", [1, 2])
def test_weights_in_nested_models_have_paths(times):
    model = nested(times)
    found = rates(model, {"trunk/first": 1.0, "**/first": 2.0, "trunk": 3.0})
    assert found == {
        "trunk/first/kernel": 1, "trunk/first/bias": 1, "trunk/second/kernel": 3,
        "trunk/second/bias": 3, "first/kernel": 2, "first/bias": 2,
    }  # fmt: skip
    model.compile(kg.learning_rates(model, "sgd", {"trunk": 0, "**": 0.1}), "mse")
    trunk = arrays(model.get_layer("trunk").weights)
    train(model)
    equal(trunk, model.get_layer("trunk").weights)


def test_one_variable_has_one_rate():
    inputs = x = keras.Input((4,))
    dense = layers.Dense(4, name="shared")
    model = keras.Model(inputs, layers.Dense(2, name="out")(dense(dense(x))))
    assert rates(model, {"shared#1": 1.0, "**": 2.0})["shared/kernel"] == 1
    with pytest.raises(kg.WeightsError) as caught:
        rates(model, {"shared#0": 1.0, "shared#1": 2.0, "**": 3.0})
    assert (
        "'shared#0/kernel' and 'shared#1/kernel' are one variable, and rates= gives it two"
        in str(caught.value)
    )
    assert rates(model, {"shared#0": 1.0, "out": 2.0})["shared/kernel"] == 1


def test_a_tied_weight_has_the_rate_of_both_its_layers():
    ids = keras.Input((5,), dtype="int32", name="ids")
    h = layers.Embedding(9, 4, name="words")(ids)
    model = keras.Model(ids, layers.Dense(9, name="lm_head")(h))
    tied = kg.tie(model, "lm_head/kernel", "words/embeddings", transform="transpose")
    assert rates(tied, {"words": 1.0, "**": 2.0}) == {"words/embeddings": 1, "lm_head/bias": 2}
    assert rates(tied, {"lm_head/kernel": 1.0, "**": 2.0})["words/embeddings"] == 1
    with pytest.raises(kg.WeightsError) as caught:
        rates(tied, {"words": 1.0, "lm_head": 2.0})
    assert "'words/embeddings' and 'lm_head/kernel' are one variable" in str(caught.value)
    assert "by 'words' and by 'lm_head'" in str(caught.value)
    assert rates(tied, {"words": 1.0, "lm_head/bias": 2.0})["lm_head/bias"] == 2  # a way out
    tied.compile(kg.learning_rates(tied, "sgd", {"words": 0.1, "**": 0}), "mse")
    before = arrays(tied.variables)
    tied.fit(np.ones((4, 5)), np.ones((4, 5, 9)), verbose=0)
    moved = [not np.array_equal(a, b) for a, b in zip(before, arrays(tied.variables), strict=True)]
    assert moved == [True, False]


def fact(model, **kwargs):
    """Return, for each power of the decay, the layers that have it."""
    found = {}
    for name, rate in rates(model, 1.0, decay=0.5, **kwargs).items():
        found.setdefault(round(-np.log2(rate)), []).append(name.split("/")[0])
    return {k: list(dict.fromkeys(v)) for k, v in sorted(found.items())}


@pytest.mark.once
def test_decay_counts_blocks_from_the_head():
    assert fact(network()) == {0: ["head"], 1: ["mid"], 2: ["stem", "bn"]}
    model = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), classes=3)
    found = fact(model)
    assert found[0] == ["predictions"] and found[17] == ["conv1_conv", "conv1_bn"]
    assert [v[0].rpartition("_1_")[0] for v in list(found.values())[1:17]] == [
        f"conv{stage}_block{i}" for stage, n in ((5, 3), (4, 6), (3, 4), (2, 3)) for i in range(n, 0, -1)
    ]  # fmt: skip
    assert all(len({name[:12] for name in v}) == 1 for v in list(found.values())[1:17])


@pytest.mark.once
def test_decay_in_a_transformer_with_masks():
    keras_hub = pytest.importorskip("keras_hub")
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=30, num_layers=3, num_heads=2, hidden_dim=8, intermediate_dim=16, max_sequence_length=8,
    )  # fmt: skip
    found = fact(backbone)
    assert found == {
        0: ["pooled_dense"], 1: ["transformer_layer_2"], 2: ["transformer_layer_1"],
        3: ["transformer_layer_0"],
        4: ["token_embedding", "position_embedding", "segment_embedding", "embeddings_layer_norm"],
    }  # fmt: skip
    inside = rates(backbone, {"**/query": 2.0, "**": 1.0})
    assert inside["transformer_layer_0/self_attention_layer/query/kernel"] == 2.0
    assert inside["transformer_layer_0/self_attention_layer/key/kernel"] == 1.0


@pytest.mark.once
def test_decay_through_nested_models_shared_layers_and_blocks_of_ones_own():
    found = rates(nested(), 1.0, decay=0.5)
    assert found["first/kernel"] == 1 and found["trunk/second/kernel"] == 0.5
    assert found["trunk/first/kernel"] == 0.25
    assert rates(nested(2), 1.0, decay=0.5)["trunk/first/kernel"] == 0.5**4
    assert fact(network(), blocks=["stem", "**"]) == {0: ["bn", "mid", "head"], 1: ["stem"]}
    several = rates(network(), {"head": 0.1, "**": 1.0}, decay=0.5)
    assert several["head/bias"] == 0.1 and several["mid/bias"] == 0.5
    with pytest.raises(kg.WeightsError, match="no selector of blocks= names 'bn/gamma', 'bn/beta'"):
        fact(network(), blocks=["stem", "mid", "head"])


@pytest.mark.once
def test_frozen_layers_need_no_rate_and_have_one_when_unfrozen():
    model = network()
    frozen = kg.freeze(model, "stem")
    assert set(rates(frozen, {"stem": 1.0, "**": 2.0})) == set(RATE_OF) - {
        "stem/kernel",
        "stem/bias",
    }
    optimizer = kg.learning_rates(frozen, "adam", {"stem": 1.0, "**": 2.0})
    frozen.compile(optimizer, "mse")
    train(frozen)
    thawed = kg.unfreeze(frozen, "stem")
    assert (
        rates_of(thawed.optimizer)["stem/kernel"] == 1 and len(thawed.optimizer.rates.weights) == 8
    )
    assert int(thawed.optimizer.iterations) == 4
    train(thawed)
    some = kg.learning_rates(frozen, "adam", {"bn": 1.0, "mid": 1.0, "head": 2.0})
    frozen.compile(some, "mse")
    train(frozen)
    with pytest.raises(
        kg.WeightsError, match="'stem/kernel', 'stem/bias' would be trained, and no"
    ):
        kg.unfreeze(frozen, "stem")


@pytest.mark.once
def test_a_subclassed_model_is_named_by_addresses():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.a, self.b = layers.Dense(3, name="a"), layers.Dense(2, name="b")

        def call(self, x):
            return self.b(self.a(x))

    model = Own()
    model(np.ones((1, 4)))
    assert rates(model, {"a": 1.0, "**": 2.0})["b/kernel"] == 2
    model.compile(kg.learning_rates(model, "sgd", {"a": 0, "**": 0.1}), "mse")
    before = arrays(model.a.kernel)
    train(model)
    equal(before, model.a.kernel)


@pytest.mark.once
def test_the_report_is_a_table_and_data():
    optimizer = kg.learning_rates(
        network(),
        opt.AdamW(),
        {"stem": 0, "mid": schedule(), "**": 1e-3},
        weight_decay={"mid": 0.1},
    )
    text = str(optimizer.rates)
    assert (
        text
        == """AdamW
 rate  given as          weight decay  weights  parameters
  0.1  ExponentialDecay           0.1        2          35
0.001  0.001                    0.004        4          24
    0  0                            0        2          30

weight        rate  weight decay
stem/kernel      0             0
stem/bias        0             0
bn/gamma     0.001         0.004
bn/beta      0.001         0.004
mid/kernel     0.1           0.1
mid/bias       0.1           0.1
head/kernel  0.001         0.004
head/bias    0.001         0.004"""
    )
    assert optimizer.rates.to_dict()["weights"][0] == ["stem/kernel", 24, 0.0, "0", None]
    assert "<td>head/kernel</td>" in optimizer.rates._repr_html_()


def wrapped():
    return opt.LossScaleOptimizer(opt.Adam())


REFUSED = {
    "nothing": (lambda m: rates(m, {"stm": 1, "**": 1}), "'stm' names no weight of 'network'. Nearest: 'stem'"),
    "no weights": (lambda m: rates(m, {"x": 1, "**": 1}), "names no weight|without any weights"),
    "not all": (lambda m: rates(m, {"stem": 1, "bn": 1}), "names 'mid/kernel', 'mid/bias', 'head/kernel'"),
    "order": (lambda m: rates(m, {"**": 1, "stem": 0}), r"'stem' names only weights that '\*\*' before"),
    "negative": (lambda m: rates(m, {"**": -1}), "'\\*\\*' has the value -1; it must be a number >= 0 or a Le"),
    "bool": (lambda m: rates(m, True), "has the value True"),
    "text": (lambda m: rates(m, {"**": "0.1"}), "has the value '0.1'"),
    "nan": (lambda m: rates(m, float("nan")), "has the value nan"),
    "empty": (lambda m: rates(m, {}), "rates= is empty"),
    "all zero": (lambda m: rates(m, 0), "all trainable weights have the rate 0"),
    "decay": (lambda m: rates(m, 1, decay=1.5), r"decay= is a number in \(0, 1\], got 1.5"),
    "blocks": (lambda m: rates(m, 1, blocks=["stem"]), "needs decay="),
    "a decay schedule": (lambda m: rates(m, 1, weight_decay=schedule()), "must be a number >= 0"),
    "decay of nothing": (lambda m: rates(m, 1, weight_decay={"stm": 1}), "in weight_decay=, 'stm'"),
    "wrapped": (lambda m: kg.learning_rates(m, wrapped(), 1), "give the optimizer inside the LossScale"),
    "no optimizer": (lambda m: kg.learning_rates(m, "adm", 1), "'adm' is not an optimizer"),
    "scheduled": (lambda m: kg.learning_rates(m, opt.Adam(schedule()), 1), "Adam has a schedule of its"),
    "no model": (lambda m: kg.learning_rates("m", "adam", 1), "must be a built Keras model, got 'm'"),
    "excluded": (lambda m: kg.learning_rates(m, "adam", 1).exclude_from_weight_decay(var_names=["b"]), "weight_decay="),
}  # fmt: skip


@pytest.mark.once
@pytest.mark.parametrize("what", REFUSED)
def test_refusals_name_the_culprit(what):
    call, words = REFUSED[what]
    with pytest.raises(kg.WeightsError, match=words):
        call(network())


@pytest.mark.once
def test_the_ways_out_work():
    model = network()
    assert rates(model, {"stem": 0, "**": 1})["stem/bias"] == 0  # the order turned round
    assert rates(model, {"stem": 1, "bn": 1, "**": 1e-4})["mid/bias"] == 1e-4
    assert kg.learning_rates(model, wrapped().inner_optimizer, 1e-3).rates.optimizer == "Adam"
    assert (
        kg.learning_rates(model, "adam", {"**": schedule()}).rates.weights[0][3]
        == "ExponentialDecay"
    )
    again = kg.learning_rates(model, kg.learning_rates(model, "sgd", 1), {"**": 2})
    assert again.rates.optimizer == "SGD" and again.rates.weights[0][2] == 2
    if hasattr(opt, "MultiOptimizer"):
        with pytest.raises(kg.WeightsError, match="MultiOptimizer makes no steps itself"):
            kg.learning_rates(model, opt.MultiOptimizer(lambda v: opt.Adam()), 1)


@pytest.mark.once
def test_what_a_file_says_is_checked():
    made = kg.learning_rates(network(), "adam", 1e-3).get_config()
    made["table"]["weights"][0][3] = 7
    with pytest.raises(kg.WeightsError, match="names a group that it does not hold"):
        kg.LearningRates.from_config(made)


@pytest.mark.once
def test_callbacks_that_look_inside_work(tmp_path):
    model = network()
    averaged = opt.Adam(use_ema=True, ema_momentum=0.5)
    model.compile(kg.learning_rates(model, averaged, RATES), "mse")
    stem = arrays(model.get_layer("stem").weights)
    train(model, callbacks=[keras.callbacks.SwapEMAWeights()])
    equal(stem, model.get_layer("stem").weights)
    model.compile(kg.learning_rates(model, "adam", RATES), "mse")
    train(model, 2, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup")])
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor="loss")
    train(model, callbacks=[checkpoint])
    loaded = keras.models.load_model(tmp_path / "best.keras")
    equal(loaded.optimizer.variables, model.optimizer.variables)
