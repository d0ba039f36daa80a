"""What `_keras/` takes for granted of Keras's private state, tested on Keras itself.

If one of these fails, Keras moved: the message says which function of `_keras/` to look at.
"""

import gc

import keras
import pytest
from keras import layers, ops

from keras_graft import _keras


@pytest.fixture
def small():
    x = keras.Input((4,), name="x")
    dense = layers.Dense(4, name="dense")
    y = layers.Dropout(0.5, name="drop")(dense(x), training=False)
    return keras.Model(x, dense(y), name="small")


def test_the_version_is_one_that_was_tried():
    major, minor = map(int, keras.__version__.split(".")[:2])
    assert (3, 12) <= (major, minor) <= (3, 15), (
        f"Keras {keras.__version__} is new here: run the suite, and widen the versions in _keras/"
    )


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
    assert model._inputs_struct == x, "see structures()"
    assert isinstance(model._outputs_struct, list), "see structures()"


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
