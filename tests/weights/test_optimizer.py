"""carry_optimizer: training goes on as if nothing had been, to the bit."""

import json

import keras
import numpy as np
import pytest
from donor import arrays, equal, some
from keras import layers
from keras import optimizers as opt
from tied import language
from weights import values

import keras_graft as kg
from keras_graft import _keras
from keras_graft.model.recreate import assign


def network(dtype="float32"):
    x = keras.Input((4,), name="x")
    y = layers.Dense(6, activation="relu", name="a", dtype=dtype)(x)
    y = layers.BatchNormalization(name="bn", dtype=dtype)(y)
    y = layers.Dropout(0.3, seed=1, name="drop", dtype=dtype)(y)
    model = keras.Model(x, layers.Dense(2, name="b", dtype="float32")(y), name="network")
    return model


def data(count=16):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 4)).astype("float32"), rng.normal(size=(count, 2))


def train(model, epochs=1):
    x, y = data()
    return model.fit(x, y, batch_size=4, epochs=epochs, shuffle=False, verbose=0)


def steps(model):
    """Train without the end of `fit`: on JAX, Keras fails in a second fit with `use_ema`."""
    x, y = data()
    return [model.train_on_batch(x[i : i + 4], y[i : i + 4]) for i in range(0, 16, 4)]


def decayed():
    made = opt.AdamW(weight_decay=0.1)
    made.exclude_from_weight_decay(var_names=["bias"])
    return made


def by_schedule():
    return opt.SGD(opt.schedules.ExponentialDecay(0.1, 2, 0.5), momentum=0.9)


def several():
    return opt.MultiOptimizer(OptimizerMap(opt.Adam(), {"b/.*": opt.SGD(0.1, momentum=0.9)}))


def OptimizerMap(default, named):
    from keras.src.optimizers.multi_optimizer import OptimizerMap

    return OptimizerMap(default, named)


OPTIMIZERS = {
    "adam": lambda: opt.Adam(0.01, amsgrad=True),
    "sgd": lambda: opt.SGD(0.1, momentum=0.9, nesterov=True),
    "plain": lambda: opt.SGD(0.1),
    "decayed": decayed,
    "rmsprop": lambda: opt.RMSprop(0.01, momentum=0.5, centered=True),
    "adagrad": lambda: opt.Adagrad(0.1),
    "adafactor": lambda: opt.Adafactor(0.1),
    "lion": lambda: opt.Lion(0.01),
    "schedule": by_schedule,
    "nadam": lambda: opt.Nadam(0.01),
    "adadelta": lambda: opt.Adadelta(1.0),
    "adamax": lambda: opt.Adamax(0.01),
    "ema": lambda: opt.Adam(0.01, use_ema=True, ema_overwrite_frequency=3),
    "accumulated": lambda: opt.Adam(0.01, gradient_accumulation_steps=3),
    "ftrl": lambda: opt.Ftrl(0.1),
    "lamb": lambda: opt.Lamb(0.01),
    "muon": lambda: opt.Muon(0.01),
    "clipped": lambda: opt.Adam(lambda: 0.01, global_clipnorm=0.5),
    "scaled": lambda: opt.LossScaleOptimizer(opt.Adam(0.01), dynamic_growth_steps=3),
}
if hasattr(opt, "ScheduleFreeAdamW"):
    OPTIMIZERS["schedule_free"] = lambda: opt.ScheduleFreeAdamW(0.01)
if hasattr(opt, "MultiOptimizer"):
    OPTIMIZERS["several"] = several


def state(optimizer):
    parts = _keras.slots(optimizer).values()
    found = [v for p in parts for v in p.single.values()]
    found += [v for p in parts for row in p.lists.values() for v in row if v is not None]
    return arrays(found)


@pytest.mark.parametrize("name", some(OPTIMIZERS, 6))
def test_training_goes_on_as_if_nothing_had_been(name):
    results = []
    run = steps if name == "ema" else train
    for carried in (False, True):
        keras.utils.set_random_seed(1)
        model = network()
        model.compile(OPTIMIZERS[name](), "mse", metrics=["mae"])
        run(model)
        if carried:
            old, before = model, state(model.optimizer)
            model = kg.build(kg.read(old))
            report = kg.carry_optimizer(old, model)
            assert len(report.taken) == 6 and report.new == report.dropped == ()
            assert model.optimizer is not old.optimizer
            equal(state(model.optimizer), before)
        found = run(model)
        if carried:
            equal(state(old.optimizer), before)  # the donor's own stays
        if run is train:
            results.append((values(model), state(model.optimizer), found.history))
        else:
            results.append((values(model), state(model.optimizer)))
    assert any(np.abs(x).sum() > 0 for x in results[0][1])
    equal(results[0], results[1])


def test_without_its_state_training_goes_another_way():
    """So that the test above can fail."""
    results = []
    for carried in (False, True):
        keras.utils.set_random_seed(1)
        model = network()
        model.compile(opt.Adam(0.01), "mse")
        train(model)
        if carried:
            model = kg.build(kg.read(model))
            model.compile(opt.Adam(0.01), "mse")
        train(model)
        results.append(values(model))
    assert not all(np.array_equal(*pair) for pair in zip(*results, strict=True))


def test_mixed_float16_with_its_loss_scale():
    model = network("mixed_float16")
    old = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_float16")
        whole = keras.Model(model.inputs, model.outputs)
        whole.compile(opt.Adam(0.01), "mse")
        assert isinstance(whole.optimizer, opt.LossScaleOptimizer)
        train(whole)
        new = kg.build(kg.read(whole))
        report = kg.carry_optimizer(whole, new)
        assert type(new.optimizer) is opt.LossScaleOptimizer
        assert isinstance(new.optimizer.inner_optimizer, opt.Adam)
        assert report.optimizer == "LossScaleOptimizer(Adam)" and len(report.taken) == 6
        equal(state(new.optimizer), state(whole.optimizer))
        train(new)
        whole.compile(opt.Adam(0.01), "mse", auto_scale_loss=False)
        train(whole)
        new = kg.build(kg.read(whole))
        kg.carry_optimizer(whole, new)
        assert isinstance(new.optimizer, opt.Adam)
    finally:
        keras.config.set_dtype_policy(old)


def edited():
    """A trained model, and one with a layer more, another head and a frozen layer."""
    model = network()
    model.compile(opt.Adam(0.01), "mse", metrics=[keras.metrics.MeanAbsoluteError(name="far")])
    train(model)
    new = kg.insert(model, layers.Dense(6, name="more"), after="bn")
    new = kg.replace(new, "b", layers.Dense(2, name="c"))
    return model, new


def test_after_an_edit_what_is_left_takes_its_slots():
    model, new = edited()
    report = kg.carry_optimizer(model, new)
    assert [n for n, _ in report.taken] == ["a/kernel", "a/bias", "bn/gamma", "bn/beta"]
    assert report.new == ("more/kernel", "more/bias", "c/kernel", "c/bias")
    assert report.dropped == ("b/kernel", "b/bias")
    assert report.slots == ("momentum", "velocity") and report.steps == 4
    assert "Adam after 4 steps; for each weight: momentum, velocity" in str(report)
    assert "more/kernel  new: starts fresh" in str(report)
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
    assert "<table>" in report._repr_html_()
    (part,) = _keras.slots(new.optimizer).values()
    for i, variable in enumerate(new.trainable_variables):
        for name, row in part.lists.items():
            found = arrays(row[i])[0]
            if variable.path.split("/")[0] in ("more", "c"):
                assert not found.any()
            else:
                assert np.array_equal(found, slot(model, variable, name)) and found.any()
    assert int(arrays(new.optimizer.iterations)[0]) == 4
    assert abs(float(arrays(new.optimizer.learning_rate)[0]) - 0.01) < 1e-8
    history = train(new)
    assert set(history.history) == {"loss", "far"}
    # Metrics count for themselves.
    (mine,), (its,) = (m.metrics[1].metrics for m in (new, model))
    assert mine.name == its.name == "far" and mine is not its


def slot(model, variable, name):
    (part,) = _keras.slots(model.optimizer).values()
    return arrays(part.lists[name][part.index()[id(variable)]])[0]


def test_a_frozen_layer_loses_its_slots_and_a_thawed_one_begins():
    model = network()
    model.get_layer("a").trainable = False
    model.compile(opt.Adam(), "mse")
    train(model)
    model.get_layer("a").trainable = True
    model.get_layer("b").trainable = False
    new = kg.build(kg.read(model))
    report = kg.carry_optimizer(model, new)
    assert [n for n, _ in report.taken] == ["bn/gamma", "bn/beta"]
    assert report.new == ("a/kernel", "a/bias") and report.dropped == ("b/kernel", "b/bias")
    train(new)


def test_the_average_of_a_new_variable_begins_at_its_value():
    model = network()
    model.compile(opt.SGD(0.1, use_ema=True, ema_momentum=0.9), "mse")
    train(model)
    new = kg.replace(model, "b", layers.Dense(2, name="c"))
    kernel = arrays(new.get_layer("c").kernel)[0]
    report = kg.carry_optimizer(model, new)
    (part,) = _keras.slots(new.optimizer).values()
    (name,) = part.lists
    found = dict(zip([v.path for v in part.variables], arrays(part.lists[name]), strict=True))
    assert np.array_equal(found["c/kernel"], kernel) and kernel.any()
    assert report.slots == ("average",)


def test_what_is_excluded_from_decay_stays_so():
    made = opt.AdamW(0.0, weight_decay=0.5)
    model = network()
    made.exclude_from_weight_decay(var_list=[model.get_layer("a").kernel], var_names=["gamma"])
    model.compile(made, "mse")
    train(model)
    new = kg.build(kg.read(model))
    kg.carry_optimizer(model, new)
    new.optimizer.learning_rate = 0.1
    variables = new.trainable_variables
    for variable in variables:
        variable.assign(keras.ops.ones(variable.shape))
    for row in _keras.slots(new.optimizer)[""].lists.values():
        for x in row:
            x.assign(keras.ops.zeros(x.shape))
    new.optimizer.apply([keras.ops.zeros(v.shape) for v in variables], variables)
    moved = {v.path for v in variables if not (arrays(v)[0] == 1).all()}
    assert moved == {v.path for v in variables} - {"a/kernel", "bn/gamma"}


def test_copies_take_slots_by_name_or_by_pairs():
    model = network()
    model.compile(opt.Adam(0.01), "mse")
    train(model)
    text = refused(model, network())
    assert 'give match="name", or pairs=' in text
    copies = []
    for how in ("name", "pairs"):
        new = network()
        kg.transplant(model, new)
        assign(*(m.get_layer("drop").seed_generator.state for m in (new, model)))
        if how == "name":
            report = kg.carry_optimizer(model, new, match="name")
        else:
            pairs = zip(model.weights, new.weights, strict=True)
            report = kg.carry_optimizer(model, new, pairs=pairs)
        assert len(report.taken) == 6 and report.new == report.dropped == ()
        equal(state(new.optimizer), state(model.optimizer))
        copies.append(new)
    for each in (model, *copies):
        keras.utils.set_random_seed(2)
        train(each)
    for copy in copies:
        equal(values(model), values(copy))


def test_a_copy_of_another_shape_begins():
    model = network()
    model.compile(opt.Adam(0.01), "mse")
    train(model)
    x = keras.Input((4,))
    y = layers.Dense(6, name="a")(x)
    new = keras.Model(x, layers.Dense(3, name="b")(y))
    report = kg.carry_optimizer(model, new, match="name")
    assert [n for n, _ in report.taken] == ["a/kernel", "a/bias"]
    assert report.new == ("b/kernel", "b/bias")


def test_a_model_that_is_compiled_keeps_its_learning_rate_and_loss():
    model, new = edited()
    new.compile(opt.Adam(0.5), "mae")
    mine = new.optimizer
    report = kg.carry_optimizer(model, new)
    assert new.optimizer is mine and new.loss == "mae" and len(report.taken) == 4
    assert float(arrays(mine.learning_rate)[0]) == 0.5
    assert int(arrays(mine.iterations)[0]) == 4
    train(new)


def test_a_learning_rate_that_was_changed_is_the_one_of_now():
    model, new = edited()
    model.optimizer.learning_rate = 0.003
    kg.carry_optimizer(model, new)
    equal(arrays(new.optimizer.learning_rate), arrays(model.optimizer.learning_rate))


def test_compiled_options_go_along():
    model = network()
    model.compile("sgd", keras.losses.Huber(0.3), loss_weights=[2.0],
                  run_eagerly=True, weighted_metrics=["mse"])  # fmt: skip
    x, y = data(4)
    model.train_on_batch(x, y)
    new = kg.build(kg.read(model))
    kg.carry_optimizer(model, new)
    assert new.run_eagerly and new.loss is model.loss
    assert set(new.train_on_batch(x, y, return_dict=True)) == {"loss", "mse"}


def refused(old, new, **kwargs):
    compiled, optimizer = new.compiled, getattr(new, "optimizer", None)
    before = state(optimizer) if optimizer is not None else None
    with pytest.raises(kg.WeightsError) as caught:
        kg.carry_optimizer(old, new, **kwargs)
    assert new.compiled is compiled and getattr(new, "optimizer", None) is optimizer
    if before is not None:
        equal(before, state(optimizer))
    return str(caught.value)


def test_what_cannot_be_carried_is_refused():
    model, new = edited()
    assert "match='shape' is neither \"name\" nor None" in refused(model, new, match="shape")
    assert "without an optimizer" in refused(new, model)
    fresh = network()
    fresh.compile("adam", "mse")
    assert "has made no step, so it holds nothing to carry" in refused(fresh, new)
    assert "and 'a/kernel' and 'a/kernel' are not" in refused(
        model, new, pairs=[(new.weights[0], fresh.weights[0])]
    )
    c = new.get_layer("c")
    text = refused(model, new, pairs=[(model.get_layer("a").kernel, c.kernel)])
    assert "pairs 'a/kernel' (4, 6) with 'c/kernel' (6, 2)" in text
    new.compile(opt.SGD(0.1), "mse")
    text = refused(model, new)
    assert "new is compiled with SGD, old with Adam" in text
    new.compile(opt.LossScaleOptimizer(opt.Adam()), "mse")
    assert "new is compiled with LossScaleOptimizer, old with Adam" in refused(model, new)
    new.compile(model.optimizer, "mse")
    assert "both models were compiled with the same optimizer" in refused(model, new)
    new.compile(opt.Adam(), "mse")
    train(new)
    assert "new has been trained since it was compiled" in refused(model, new)
    new.get_layer("a").trainable = False
    assert "the optimizer of new was made for different variables" in refused(model, new)


def test_other_optimizers_inside_are_refused():
    model = network()
    model.compile(opt.LossScaleOptimizer(opt.Adam()), "mse")
    train(model)
    new = kg.build(kg.read(model))
    new.compile(opt.LossScaleOptimizer(opt.SGD(0.1)), "mse")
    text = refused(model, new)
    assert "LossScaleOptimizer(Adam) in old, LossScaleOptimizer(SGD) in new" in text


class Hidden(opt.SGD):
    def build(self, variables):
        super().build(variables)
        self.box = {"x": self.add_variable((), name="hidden")}


def test_an_optimizer_of_which_it_is_not_known_what_it_holds():
    model = network()
    model.compile(Hidden(0.1), "mse")
    train(model)
    text = refused(model, kg.build(kg.read(model)))
    assert "Hidden holds variables of unknown purpose" in text
    assert "hidden" in text


def test_values_that_a_failed_step_took():
    model, new = edited()
    variable = model.optimizer.variables[-1]
    value, variable._value = variable._value, None
    with pytest.raises(kg.WeightsError, match="has lost its values in a training step that failed"):
        kg.carry_optimizer(model, new)
    variable._value = value


def test_a_model_with_a_compile_of_its_own_is_to_be_compiled_first():
    class Own(keras.Model):
        def compile(self, loss, **kwargs):
            super().compile(opt.Adam(0.01), loss, **kwargs)

    model, _ = edited()
    new = Own(model.inputs, model.outputs)
    assert "Own has a compile() of its own. Compile new first, with an optimizer of class Adam" in (
        refused(model, new)
    )
    new.compile("mse")
    assert len(kg.carry_optimizer(model, new).taken) == 6


def test_an_optimizer_that_cannot_be_made_again():
    class Pickled(opt.SGD):
        def __init__(self, secret):
            super().__init__(0.1, momentum=0.9)

    model = network()
    model.compile(Pickled("x"), "mse")
    train(model)
    new = kg.build(kg.read(model))
    assert "Pickled cannot be made again from its configuration" in refused(model, new)
    new.compile(Pickled("x"), "mse")
    assert len(kg.carry_optimizer(model, new).taken) == 6


def test_a_tied_weight_has_its_slots_once():
    model = kg.tie(language(), "lm_head/kernel", "embedding/embeddings", "transpose")
    model.compile(opt.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    ids = np.random.default_rng(0).integers(0, 11, (8, 5))
    model.fit(ids, ids, batch_size=4, verbose=0)
    new = kg.clone(model)
    report = kg.carry_optimizer(model, new, match="name")
    assert [n for n, _ in report.taken] == [
        "embedding/embeddings", "norm/gamma", "norm/beta", "lm_head/bias",
    ]  # fmt: skip
    for each in (model, new):
        each.fit(ids, ids, batch_size=4, shuffle=False, verbose=0)
    equal(values(model), values(new))
    # After untying there is a variable more, and its slots begin.
    loose = kg.untie(model, "lm_head/kernel")
    report = kg.carry_optimizer(model, loose)
    assert report.new == ("lm_head/kernel",) and len(report.taken) == 4
    loose.fit(ids, ids, batch_size=4, verbose=0)


@pytest.mark.parametrize(("before", "after"), [(2, None), (None, 2), (2, 4)])
def test_steps_are_carried_not_batches(before, after):
    def adam(batches):
        return opt.Adam(0.01, gradient_accumulation_steps=batches)

    old = network()
    old.compile(adam(before), "mse")
    steps(old)
    new = kg.insert(old, layers.Activation("linear"), after="a")
    new.compile(adam(after), "mse")
    report = kg.carry_optimizer(old, new)
    made = 4 // (before or 1)
    assert report.steps == made == int(old.optimizer.iterations) == int(new.optimizer.iterations)
    waiting = [v for v in new.optimizer.variables if "gradient_accumulator" in v.path]
    assert len(waiting) == (len(new.trainable_variables) if after else 0)
    assert not any(np.any(a) for a in arrays(waiting))


def test_gradients_that_wait_go_along_at_the_same_pace():
    old = network()
    old.compile(opt.SGD(0.1, gradient_accumulation_steps=8), "mse")
    steps(old)
    new = kg.insert(old, layers.Activation("linear"), after="a")
    report = kg.carry_optimizer(old, new)
    assert report.slots == ("accumulated gradient",) and not report.begins
    equal(*([v for v in m.optimizer.variables if len(v.shape)] for m in (old, new)))
    # In its first window a new model has made no step, and has trained all the same.
    other = kg.insert(old, layers.Activation("linear"), after="a")
    other.compile(opt.SGD(0.1, gradient_accumulation_steps=8), "mse")
    steps(other)
    with pytest.raises(kg.WeightsError, match="new has been trained since it was compiled"):
        kg.carry_optimizer(old, other)


def test_the_report_says_which_slots_begin_and_are_gone():
    old = network()
    old.compile(opt.SGD(0.1), "mse")
    steps(old)
    new = kg.insert(old, layers.Activation("linear"), after="a")
    new.compile(opt.SGD(0.1, momentum=0.9), "mse")
    report = kg.carry_optimizer(old, new)
    assert (report.slots, report.begins, report.gone) == ((), ("momentum",), ())
    assert "for each weight: nothing; starts fresh for all: momentum" in str(report)
    steps(new)
    back = kg.insert(new, layers.Activation("linear"), after="a")
    back.compile(opt.SGD(0.1), "mse")
    report = kg.carry_optimizer(new, back)
    assert (report.slots, report.begins, report.gone) == ((), (), ("momentum",))
    assert report.to_dict()["gone"] == ["momentum"]


def test_pairs_that_are_none_are_refused():
    old = network()
    old.compile("adam", "mse")
    steps(old)
    for pairs in (5, old.trainable_variables, [(1, 2, 3)]):
        with pytest.raises(kg.WeightsError, match="pairs= must be a list of pairs"):
            kg.carry_optimizer(old, kg.clone(old), pairs=pairs)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX gives memory away")
def test_values_that_were_given_away_are_not_carried():
    old = network()
    old.compile("adam", "mse")
    steps(old)
    new = kg.insert(old, layers.Activation("linear"), after="a")
    old.optimizer.variables[-1].value.delete()
    with pytest.raises(kg.WeightsError, match="has lost its values"):
        kg.carry_optimizer(old, new)
    assert not new.compiled


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX gives memory away")
def test_a_variable_that_was_given_away_fills_no_average():
    old = network()
    old.compile(keras.optimizers.SGD(0.1, use_ema=True), "mse")
    old.optimizer.build(old.trainable_variables)
    more = layers.Dense(6, name="more")
    new = kg.insert(old, more, after="a")
    new.compile(keras.optimizers.SGD(0.1, use_ema=True), "mse")
    new.optimizer.build(new.trainable_variables)
    before = arrays(new.optimizer.variables)
    more.kernel.value.delete()
    with pytest.raises(
        kg.WeightsError, match="'more/kernel' has no value: it was lost in a training step"
    ):
        kg.carry_optimizer(old, new)
    equal(before, new.optimizer.variables)


class Odd(keras.metrics.Mean):
    """A metric that does not say how it was made."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(self.scale * y_pred)


def test_a_metric_that_cannot_be_made_again():
    old = network()
    old.compile("adam", "mse", metrics=[Odd(2.0)])
    steps(old)
    new = kg.insert(old, layers.Activation("linear"), after="a")
    with pytest.raises(kg.WeightsError, match="a metric of old cannot be made again"):
        kg.carry_optimizer(old, new)
    assert not new.compiled


def pair():
    return keras.Sequential([
        keras.Input((4,)), layers.Dense(4, name="a"), layers.Dense(4, name="b")
    ])  # fmt: skip


def test_a_variable_that_another_optimizer_inside_trains_now_begins():
    x = np.random.default_rng(0).random((16, 4))

    def compiled(name):
        model = pair()
        inner = {f".*{name}/.*": keras.optimizers.SGD(0.1, momentum=0.9)}
        model.compile(
            keras.optimizers.MultiOptimizer(OptimizerMap(keras.optimizers.Adam(), inner)), "mse"
        )
        return model

    old, new = compiled("a"), compiled("b")
    old.fit(x, x, verbose=0)
    report = kg.carry_optimizer(old, new, match="name")
    assert not report.taken and len(report.new) == 4
    assert report.slots.count("momentum") <= 1
    same = compiled("a")
    report = kg.carry_optimizer(old, same, match="name")
    assert len(report.taken) == 4 and not report.new


def test_one_that_holds_another_is_trained_if_that_is():
    x = np.random.default_rng(0).random((16, 4))

    def compiled():
        model = pair()
        inner = keras.optimizers.SGD(0.1, momentum=0.9)
        model.compile(keras.optimizers.LossScaleOptimizer(inner), "mse")
        return model

    old, new = compiled(), compiled()
    for model in (old, new):
        model.fit(x, x, verbose=0)
    with pytest.raises(kg.WeightsError, match="new has been trained since it was compiled"):
        kg.carry_optimizer(old, new, match="name")


def test_what_is_trained_on_gives_its_slots_to_no_other():
    x = np.random.default_rng(0).random((16, 4))
    names = ("dense", "dense_1", "dense_2")
    old = keras.Sequential([keras.Input((4,)), *(layers.Dense(4, name=n) for n in names)])
    old.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    old.fit(x, x, verbose=0)
    new = kg.remove(old, "dense")
    new = kg.insert(new, layers.Dense(4, name="dense_3"), after="dense_2")
    report = kg.carry_optimizer(old, new, match="name")
    assert report.new == ("dense_3/kernel", "dense_3/bias")
    assert [pair[0] for pair in report.taken] == [pair[1] for pair in report.taken]


def test_one_optimizer_under_two_patterns():
    x = np.random.default_rng(0).random((16, 4))
    old, sgd = pair(), keras.optimizers.SGD(0.1, momentum=0.9)
    inner = {"a/.*": sgd, "b/.*": sgd}
    old.compile(
        keras.optimizers.MultiOptimizer(OptimizerMap(keras.optimizers.Adam(), inner)), "mse"
    )
    old.fit(x, x, verbose=0)
    with pytest.raises(
        kg.WeightsError, match="the optimizers wrap optimizers of different classes"
    ):
        kg.carry_optimizer(old, kg.insert(old, layers.Dense(4, name="c"), after="b"))
