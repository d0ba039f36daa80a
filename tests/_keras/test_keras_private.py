"""What `_keras/` takes for granted of Keras's private state, tested on Keras itself.

If one of these fails, Keras moved: the message says which function of `_keras/` to look at.
"""

import gc
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_graft import _keras
from keras_graft._keras import configs
from keras_graft._keras.copying import COMPILED
from keras_graft._keras.inside import WRAPPED


@pytest.fixture
def small():
    x = keras.Input((4,), name="x")
    dense = layers.Dense(4, name="dense")
    y = layers.Dropout(0.5, name="drop")(dense(x), training=False)
    return keras.Model(x, dense(y), name="small")


def test_the_version_is_one_that_was_tried():
    low, high = _keras.private.RUN_ON
    assert low <= _keras.private.VERSION <= high, (
        f"Keras {keras.__version__} is new here: run the suite, and widen RUN_ON"
    )


def test_a_layer_keeps_build_and_quantize_in_functions_that_work_with_it(small):
    copy = _keras.Copier(_keras.variable_like)(small.get_layer("dense"))
    wrapped = WRAPPED if _keras.private.has("operation_fn") else ("build",)  # before 3.16
    assert set(WRAPPED) & set(vars(layers.Dense(4))) == set(wrapped), "see WRAPPED"
    for name in wrapped:
        made, ours = vars(layers.Dense(4))[name], vars(copy)[name]
        held = {cell.cell_contents for cell in ours.__closure__}
        assert ours.__code__ is made.__code__, "see _rebound()"
        assert held == {copy, getattr(layers.Dense, name).__get__(copy)}, "see _rebound()"
        assert ours.__wrapped__.__self__ is copy, "see _rebound()"


def test_a_sequential_delegates_to_a_functional():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    assert isinstance(model._functional, _keras.Functional), "see functional()"
    unbuilt = keras.Sequential([layers.Dense(2)])
    assert unbuilt._functional is None, "see functional()"


def test_nodes_are_kept_by_depth(small):
    by_depth = small._nodes_by_depth
    order = [n.operation.name for d in sorted(by_depth, reverse=True) for n in by_depth[d]]
    assert order == ["x", "dense", "drop", "dense"], "see nodes()"
    assert [n.is_input for d in sorted(by_depth, reverse=True) for n in by_depth[d]] == [
        True, False, False, False,
    ], "see nodes()"  # fmt: skip


def test_a_node_records_its_call(small):
    node = small.get_layer("drop")._inbound_nodes[0]
    assert node.arguments.args == (node.input_tensors[0],), "see arguments()"
    assert node.arguments.kwargs == {"training": False}, "see arguments()"
    assert node.arguments.keras_tensors == node.input_tensors, "see steps_behind()"
    assert node.outputs[0]._keras_history.node_index == 0, "see call_index()"


def test_a_model_keeps_its_structures():
    x = {"a": keras.Input((2,), name="a")}
    model = keras.Model(x, [layers.Dense(1)(x["a"])])
    assert model.input == x and isinstance(model.output, list), "see model/read.py"


def test_a_tensor_knows_its_node(small):
    history = small.output._keras_history
    assert (history.operation.name, history.node_index, history.tensor_index) == ("dense", 1, 0), (
        "see node_of()"
    )
    assert history.operation._inbound_nodes[1].outputs[0] is small.output, "see node_of()"
    source = small.input._keras_history.operation
    assert source.name == "x" and source._inbound_nodes[0].is_input, "see node_of(), input_layer()"


def test_masks_ride_on_symbolic_tensors():
    ids = keras.Input((3,), dtype="int32")
    y = layers.Embedding(4, 2, mask_zero=True)(ids)
    assert y._keras_mask is not None, "see mask_of()"
    assert _keras.node_of(y._keras_mask).operation.name.startswith("not_equal"), "see mask_of()"
    assert layers.Dropout(0.1)(y)._keras_mask is y._keras_mask, "see set_mask()"


def test_what_takes_masks_and_flags_is_known():
    assert layers.LSTM(2)._call_has_mask_arg, "see reads_masks()"
    assert not layers.Dense(2)._call_has_mask_arg, "see reads_masks()"
    assert layers.Bidirectional(layers.LSTM(2))._layers, "see reads_masks()"
    assert layers.Dropout(0.5)._call_has_training_arg, "see takes_training()"
    assert not layers.ReLU()._call_has_training_arg, "see takes_training()"


def test_a_functional_runs_on_symbolic_tensors_under_masks():
    x = keras.Input((3, 2))
    model = keras.Model(x, layers.LSTM(2, name="lstm")(x))
    tensor, mask = keras.Input((3, 2)), keras.Input((3,), dtype="bool")
    y = _keras.run_under_masks(model, [tensor], [mask], None)
    node = _keras.node_of(y)
    assert node.operation.name == "lstm" and node.input_tensors == [tensor], "see run_under_masks()"
    assert tensor._keras_mask is mask, "see run_under_masks()"


def test_a_model_has_flags_of_its_own(small):
    _keras.set_model_state(small, False, keras.DTypePolicy("mixed_bfloat16"))
    assert not small.trainable and small.dtype_policy.name == "mixed_bfloat16"
    assert small.get_layer("dense")._trainable, "see set_model_state()"
    assert small.get_layer("dense").dtype_policy.name == "float32", "see set_model_state()"


def test_outbound_nodes_are_written_and_never_needed(small, tmp_path):
    assert small.get_layer("drop")._outbound_nodes, "see Builder"
    for operation in small._operations:
        operation._outbound_nodes.clear()
    if _keras.private.VERSION < (3, 14):
        with pytest.raises(ValueError, match="`inputs` not connected"):
            keras.Model(small.input, small.output)
        small.layers[0]._outbound_nodes.append(None)
    keras.Model(small.input, small.output)
    x = ops.ones((2, 4))
    small.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert ops.all(again(x) == small(x)), "see Builder"
    keras.models.clone_model(small)


def test_an_op_is_its_attributes():
    x = keras.Input((3,))
    op = _keras.node_of(ops.concatenate([x, x], axis=1)).operation
    fresh = _keras.renamed_op(op, "other")
    assert fresh.name == "other" and op.name != "other"
    assert ops.all(fresh([ops.ones((1, 3))] * 2) == ops.ones((1, 6))), "see renamed_op()"


def outputs(builder, layer, *tensors):
    made = keras.KerasTensor((None, 4))
    builder.node(layer, tensors, {}, [made])
    return made


def test_places_on_a_layer_are_used_again_and_taken_away():
    x = keras.Input((4,))
    layer = layers.Dense(4)
    layer(x)
    builder = _keras.Builder()
    first, second, third = (outputs(builder, layer, x) for _ in range(3))
    assert len(layer._inbound_nodes) == 4
    del second
    gc.collect()
    assert len(layer._inbound_nodes) == 4  # the third must not move
    assert _keras.node_of(third).outputs[0] is third
    other = outputs(_keras.Builder(), layer, x)
    assert len(layer._inbound_nodes) == 4 and _keras.call_index(_keras.node_of(other)) == 2
    del third, other
    gc.collect()
    assert len(layer._inbound_nodes) == 2
    assert _keras.node_of(first).outputs[0] is first
    del first
    gc.collect()
    assert len(layer._inbound_nodes) == 1


def test_a_failed_build_takes_its_nodes_away():
    x = keras.Input((4,))
    layer = layers.Dense(4)
    builder = _keras.Builder()
    kept = [outputs(builder, layer, x) for _ in range(2)]
    builder.undo()
    assert kept and len(layer._inbound_nodes) == 0


def test_the_recursion_limit_is_lifted_only_around_keras():
    import sys

    before = sys.getrecursionlimit()
    seen = []

    def fail(*args, **kwargs):
        seen.append(sys.getrecursionlimit())
        raise RuntimeError

    with pytest.raises(RuntimeError):
        _keras.make_functional([], [], "m", 5000, fail)
    assert seen[0] > 20_000 and sys.getrecursionlimit() == before


def test_a_variable_keeps_its_value_and_flag_in_two_attributes():
    variable = keras.Variable([1.0, 2.0])
    assert "_value" in vars(variable) and vars(variable)["_trainable"], "see View"
    view = _keras.view(variable)
    assert _keras.view(variable) is view and _keras.view(view) is view
    assert not view.trainable and view.path == variable.path and view.shape == variable.shape
    variable.assign([3.0, 4.0])
    assert keras.ops.convert_to_numpy(view).tolist() == [3, 4], "see View"
    view.assign([5.0, 6.0])
    assert keras.ops.convert_to_numpy(variable).tolist() == [5, 6], "see View"
    view.trainable = True
    assert variable.trainable and not view.trainable, "see View"


def test_a_view_goes_with_its_last_user():
    variable = keras.Variable([1.0])
    kept = id(variable)
    view = _keras.view(variable)
    assert kept in _keras.views._made
    del view, variable
    gc.collect()
    assert kept not in _keras.views._made


def test_a_thawed_variable_is_trained_and_has_the_value_of_a_frozen_one():
    variable = keras.Variable([1.0, 2.0], trainable=False)
    thawed = _keras.thawed(variable)
    assert _keras.thawed(variable) is thawed and thawed.path == variable.path
    assert thawed.trainable and not variable.trainable
    for one, other in ((variable, thawed), (thawed, variable)):
        one.assign([3.0, 4.0])
        assert keras.ops.convert_to_numpy(other).tolist() == [3, 4], "see Thawed"
        one.assign([5.0, 6.0])
    optimizer = keras.optimizers.SGD(1.0)
    optimizer.apply([keras.ops.convert_to_tensor([1.0, 1.0])], [thawed])
    assert keras.ops.convert_to_numpy(variable).tolist() == [4, 5], "see Thawed"
    thawed.trainable = False
    variable.trainable = True
    assert not thawed.trainable and variable.trainable
    kept = id(variable)
    del thawed, variable, optimizer, one, other
    gc.collect()
    assert kept not in _keras.views._thawed


def test_a_training_flag_leaks_in_a_call_context():
    class Flags(layers.Layer):
        def call(self, x, training=None):
            seen.append(training)
            return x

    class Outer(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner, self.after = Flags(), Flags()

        def call(self, x, training=None):
            with _keras.own_call_context():
                x = self.inner(x, training=False)
            return self.after(x)

    seen = []
    Outer()(ops.ones((1, 2)), training=True)
    assert seen[-2:] == [False, True], "see own_call_context()"


def test_layers_and_seeds_inside_a_layer_are_known():
    both = layers.Bidirectional(layers.LSTM(2, dropout=0.5))
    assert [type(layer).__name__ for layer in _keras.sublayers(both)] == ["LSTM", "LSTM"], (
        "see sublayers()"
    )
    assert _keras.own_seeds(layers.Dropout(0.5)), "see own_seeds()"
    assert not _keras.own_seeds(layers.Dropout(0.0)), "see own_seeds()"


def test_names_that_keras_gives_are_known():
    for cls in (layers.Conv2D, layers.LSTM, layers.BatchNormalization, keras.Sequential):
        keras.utils.clear_session(free_memory=False)
        layer = cls(2, 3) if cls is layers.Conv2D else cls(2) if cls is layers.LSTM else cls()
        assert layer.name == _keras.automatic_name(layer), "see automatic_name()"


def test_names_that_keras_gives_from_now_on_are_known():
    old = [layers.Dense(4), keras.KerasTensor((1, 4))]
    given = _keras.names_given()
    new = [layers.Dense(4), keras.KerasTensor((1, 4)), keras.Sequential()]
    kinds = ["dense", "keras_tensor", "sequential"]
    assert [_keras.named_since(item, given) for item in new] == kinds, "see named_since()"
    # The last is called as Keras would call the next, and nothing was made up for it.
    named = [layers.Dense(4, name="mine"), layers.Add(name=f"add_{given.get('add', 0)}")]
    assert not any(_keras.named_since(item, given) for item in (*old, *named)), "see named_since()"


def test_what_reads_a_tensor_is_forgotten():
    x = keras.Input((4,))
    layer = layers.Dense(4)
    y = layer(x)
    kept = layers.ReLU()(y)
    given = _keras.names_given()
    ops.tanh(ops.relu(y) + x)
    _keras.forget_readers([x, y, keras.KerasTensor((1, 4))], given)
    (reader,) = layer._outbound_nodes
    assert reader.outputs == [kept], "see forget_readers()"
    assert [node.operation for node in x._keras_history.operation._outbound_nodes] == [layer]


def test_what_a_layer_owns_is_without_the_layers_inside():
    x = keras.Input((3, 4))
    model = keras.Model(x, layers.Bidirectional(layers.LSTM(2, dropout=0.5), name="b")(x))
    assert _keras.own_weights(model) == _keras.own_weights(model.get_layer("b")) == []
    found = [w for x in model._flatten_layers() for w in _keras.own_weights(x)]
    assert {id(w) for w in found} == {id(w) for w in model.weights}, "see own_weights()"
    norm = layers.BatchNormalization()
    norm.build((None, 3))
    assert [w.name for w in _keras.own_weights(norm)] == [
        "gamma", "beta", "moving_mean", "moving_variance",
    ], "see own_weights()"  # fmt: skip


def test_where_a_file_keeps_a_variable(small, tmp_path):
    import h5py

    small.save_weights(tmp_path / "a.weights.h5")
    found = _keras.saving_paths(small)
    assert set(found) == {"layers/dense/vars/0", "layers/dense/vars/1"}, "see saving_paths()"
    assert found["layers/dense/vars/0"] is small.get_layer("dense").kernel, "see saving_paths()"
    with h5py.File(tmp_path / "a.weights.h5") as file:
        assert all(path in file for path in found), "see saving_paths()"
        assert file["layers/dense/vars"].attrs["name"] == "dense", "see weights/from_files.py"


def test_whether_a_variable_holds_anything(small):
    variable = small.get_layer("dense").kernel
    assert _keras.has_value(variable), "see has_value()"
    value, variable._value = variable._value, None
    assert not _keras.has_value(variable), "see has_value()"
    variable._value = value


def trained(small, optimizer):
    small.compile(optimizer, "mse", metrics=[keras.metrics.MeanSquaredError()])
    small.train_on_batch(np.ones((2, 4)), np.ones((2, 4)))
    return optimizer


def test_an_optimizer_holds_lists_in_the_order_of_its_variables(small):
    optimizer = trained(small, keras.optimizers.Adam())
    ((path, found),) = _keras.slots(optimizer).items()
    assert path == "" and set(found.lists) == {"_momentums", "_velocities"}, "see slots()"
    assert set(found.single) == {"_iterations", "_learning_rate"}, "see slots()"
    assert [id(v) for v in found.variables] == [id(v) for v in small.trainable_variables], (
        "see slots()"
    )
    held = [*found.single.values(), *(v for row in found.lists.values() for v in row)]
    assert {id(v) for v in held} == {id(v) for v in optimizer.variables}, "see slots()"
    rate = found.single["_learning_rate"]
    assert _keras.is_learning_rate(optimizer, rate), "see is_learning_rate()"
    for i, variable in enumerate(found.variables):
        assert optimizer._get_variable_index(variable) == i, "see slots()"


def test_an_optimizer_counts_batches_and_keeps_gradients(small):
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    trained(small, optimizer)
    for _ in range(2):
        small.train_on_batch(np.ones((2, 4)), np.ones((2, 4)))
    assert int(_keras.batches_seen(optimizer)) == 3, "see batches_seen()"
    assert int(optimizer.iterations) == 1, "see batches_seen()"
    (name,) = _keras.slots(optimizer)[""].lists
    assert _keras.is_accumulated(name), "see is_accumulated()"


def test_an_optimizer_inside_another_is_found(small):
    inner = keras.optimizers.SGD(momentum=0.9, use_ema=True)
    optimizer = trained(small, keras.optimizers.LossScaleOptimizer(inner))
    found = _keras.slots(optimizer)
    assert set(found) == {"", ".inner_optimizer"}, "see slots()"
    assert {"step_counter", "dynamic_scale"} <= set(found[""].single), "see slots()"
    (average,) = set(found[".inner_optimizer"].lists) - {"momentums"}
    assert _keras.moves_averages(average), "see moves_averages()"


def test_an_optimizer_is_made_again():
    def rate():
        return 0.25

    inner = keras.optimizers.AdamW(rate, weight_decay=0.1)
    again = _keras.same_optimizer(keras.optimizers.LossScaleOptimizer(inner, 8.0))
    assert again.initial_scale == 8.0 and again.inner_optimizer.weight_decay == 0.1, (
        "see same_optimizer()"
    )
    assert again.inner_optimizer._learning_rate is rate, "see same_optimizer()"
    optimizer = keras.optimizers.SGD(0.5)
    optimizer.learning_rate = 0.125
    assert float(_keras.same_optimizer(optimizer).learning_rate) == 0.125, "see same_optimizer()"


def test_what_is_not_decayed_is_known(small):
    optimizer = keras.optimizers.AdamW()
    assert _keras.not_decayed(optimizer) == (set(), []), "see not_decayed()"
    kernel = small.get_layer("dense").kernel
    optimizer.exclude_from_weight_decay([kernel], ["bias"])
    assert _keras.not_decayed(optimizer) == ({_keras.key_of(optimizer, kernel)}, ["bias"]), (
        "see not_decayed()"
    )


def test_what_a_model_was_compiled_with(small):
    trained(small, keras.optimizers.SGD())
    found = _keras.compilation(small)
    assert found["loss"] == "mse" and "optimizer" not in found, "see compilation()"
    (metric,) = found["metrics"]
    assert isinstance(metric, keras.metrics.MeanSquaredError), "see compilation()"
    assert metric is not small._compile_config.config["metrics"][0], "see compilation()"
    small.compile(keras.optimizers.SGD(), **found)


# -- copies, and what ties and clones are made of ------------------------------------------


def test_what_a_layer_has_is_in_its_attributes_and_its_tracker():
    dense = layers.Dense(2)
    assert "build" in vars(dense), "bound to this one: see NOT_TAKEN"
    dense.build((None, 3))
    config = dense._tracker.config
    assert {"trainable_variables", "non_trainable_variables", "layers"} <= set(config), "see Copier"
    for name, (test, store) in config.items():
        assert callable(test) and dense._tracker.stored_ids[name] == {id(x) for x in store}, (
            "see Copier._tracker()"
        )
    assert dense._trainable_variables is config["trainable_variables"][1], "see Copier"
    assert [id(v) for v in dense._trainable_variables] == [id(dense._kernel), id(dense.bias)], (
        "see carry_out()"
    )


def test_a_copy_has_nothing_of_the_original():
    dense = layers.Dense(2, name="dense")
    dense.build((None, 3))
    copier = _keras.Copier(_keras.variable_like)
    new = copier(dense)
    assert set(vars(new)) - {"build", "quantize"} == set(vars(dense)) - {"build", "quantize"}, (
        "see Copier.object()"
    )
    assert new._tracker is not dense._tracker and new._layers is not dense._layers, "see Copier"
    assert {id(v) for v in new.weights}.isdisjoint(id(v) for v in dense.weights), "see Copier"
    x = np.ones((1, 3), "float32")
    np.testing.assert_array_equal(*(ops.convert_to_numpy(layer(x)) for layer in (dense, new)))
    if keras.backend.backend() == "torch":
        held = [p for _, p in new.named_parameters()]
        assert {id(p) for p in held} == {id(v.value) for v in new.weights}, "see track_on_torch()"
        assert "_torch_params" in new._modules, "see track_on_torch()"


def test_what_a_variable_is_made_of():
    variable = keras.Variable(
        np.ones(2), dtype="bfloat16", trainable=False, autocast=False, aggregation="sum",
        synchronization="on_read", name="v",
    )  # fmt: skip
    variable.regularizer = keras.regularizers.L2(0.5)
    variable.constraint = keras.constraints.NonNeg()
    variable.overwrite_with_gradient = True
    new = _keras.variable_like(variable)
    names = {k for k in vars(variable) if k.startswith("_") and not k.startswith("_self_")}
    for name in names - {"_value", "_ndim", "_shape", "_initializer"}:
        assert getattr(new, name) == getattr(variable, name), f"{name}: see variable_like()"
    assert tuple(new._shape) == (2,) and new._ndim == 1, "see Tied"


def test_a_functional_of_another_class_has_the_same_attributes(small):
    class Other(_keras.Functional):
        pass

    other = _keras.with_body_of(small, Other)
    assert type(other) is Other and other.layers == small.layers, "see with_body_of()"
    assert other.get_layer("dense") is small.get_layer("dense"), "see with_body_of()"
    assert [layer.name for layer in small._layers] == ["x", "dense", "drop"], "see order_layers()"


def test_a_model_knows_the_file_that_it_is_written_to(small, tmp_path):
    stores = []

    class Watched(_keras.Functional):
        def save_own_variables(self, store):
            stores.append(("save", store, hasattr(type(store), "close")))

        def load_own_variables(self, store):
            stores.append(("load", store, hasattr(type(store), "close")))

    class Layer(layers.Dense):
        def save_own_variables(self, store):
            stores.append(("inside", store, None))
            super().save_own_variables(store)

    x = keras.Input((2,))
    inside = Watched(x, Layer(2)(x))
    y = keras.Input((2,))
    model = Watched(y, inside(y))
    model.save_weights(tmp_path / "a.weights.h5")
    kinds = [(kind, whole) for kind, _, whole in stores]
    assert kinds[0] == ("save", True), "see TiedModel.save_own_variables()"
    assert [s for k, s, _ in stores if k == "inside"][0] is stores[0][1], (
        "the places in a file are one object: see TiedLayer.saved_elsewhere()"
    )
    stores.clear()
    model.load_weights(tmp_path / "a.weights.h5")
    assert stores[0][0] == "load" and stores[0][2], "see TiedModel.load_own_variables()"


def test_shared_layers_are_marked_in_a_configuration():
    x = keras.Input((2,))
    dense = layers.Dense(2, name="dense")
    one, two = (keras.Model(x, dense(x), name=name) for name in ("one", "two"))
    model = keras.Model(x, two(one(x)))
    with keras.src.saving.serialization_lib.ObjectSharingScope():
        config = model.get_config()
    marks = []
    stack = [config]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if item.get("class_name") == "Dense":
                marks.append(item.get("shared_object_id"))
            stack += item.values()
        elif isinstance(item, (list, tuple)):
            stack += item
    assert len(marks) == 2 and set(marks) - {None} == {id(dense)}, "see _forget()"


def test_an_optimizer_knows_its_variables(small):
    optimizer = trained(small, keras.optimizers.Adam())
    assert [id(v) for v in optimizer._trainable_variables] == [
        id(v) for v in small.trainable_variables
    ], "see TiedModel.make_train_function()"


def held(model):
    return vars(model).keys() | vars(model).get("_modules", {}).keys()


def test_a_model_begins_with_the_trainer(small):
    trainer = keras.Model.__bases__[0]
    assert trainer.__name__.endswith("Trainer"), "see Copier.object()"
    trained(small, keras.optimizers.Adam())
    made = {"optimizer", "_compile_config"}
    assert made <= held(small), "see Copier.object()"
    before = held(keras.Model(small.inputs, small.outputs))
    small.fit(np.ones((2, 4)), np.ones((2, 4)), verbose=0)
    small.predict(np.ones((2, 4)), verbose=0)
    assert held(small) - before <= COMPILED, "see COMPILED"
    assert not _keras.attributes(small).keys() & COMPILED


def test_keras_asks_once_whether_tensorflow_is_there(monkeypatch):
    from keras.src.utils import module_utils

    fresh = module_utils.LazyModule("tensorflow")
    assert fresh._available is None and fresh.module is None, "see without_tensorflow()"
    monkeypatch.setattr(_keras.private, "tensorflow", fresh)
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    with configs.without_tensorflow():
        assert not fresh.available, "see without_tensorflow()"
    assert fresh._available is None, "it is asked anew"
    monkeypatch.setitem(sys.modules, "tensorflow", keras)
    with configs.without_tensorflow():
        assert fresh.available, "what is imported may be what is written"


def test_a_default_flag_is_handed_on_up_to_3_15():
    x = keras.Input((2, 2, 1))
    y = layers.Resizing(2, 2, name="resize")(x)
    seen = []

    class See(layers.Layer):
        def call(self, inputs, training=None):
            seen.append(training)
            return inputs

    model = keras.Model(x, See()(y))
    del seen[:]
    model(np.zeros((1, 2, 2, 1), "float32"))
    assert bool(seen[0]) is _keras.defaults_leak(), "see flags.defaults_leak()"
    minor = int(keras.__version__.split(".")[1])
    assert _keras.defaults_leak() is (minor < 16), "see flags.defaults_leak()"


def test_a_class_is_found_as_keras_finds_it_in_a_file():
    @keras.saving.register_keras_serializable("private")
    class Registered(keras.Model):
        pass

    found = _keras.private.retrieve_class(
        "Registered", "private>Registered", "nowhere", obj_type="class", full_config={}
    )
    assert found is Registered, "see KeptModel.from_config()"
    with pytest.raises(TypeError, match="Could not locate class"):
        _keras.private.retrieve_class("system", "os>system", "os", obj_type="class", full_config={})
