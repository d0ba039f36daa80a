"""Random models under every verb: equal to the bit, and the donor left as it was."""

import gc

import keras
import numpy as np
import pytest
from donor import donor_nodes
from hypothesis import given
from hypothesis import strategies as st
from strategies import FLAT, STEPWISE, examples, interpret, plans
from zeroed import channels_of, cleared, some_of

import keras_graft as kg
from keras_graft.graph.select import everything
from keras_graft.testing import assert_same_graph, random_inputs

bounded = examples(torch=70, others=25)


def numpy(structure):
    return [keras.ops.convert_to_numpy(t) for t in keras.tree.flatten(structure)]


def equal(left, right):
    keras.tree.assert_same_structure(left, right)
    for a, b in zip(numpy(left), numpy(right), strict=True):
        assert a.dtype == b.dtype
        # The mean over a wholly masked sample is no number, on both sides.
        assert np.array_equal(a, b, equal_nan=True), f"differs by {np.abs(a - b).max()}"


def flatly(left, right):
    for a, b in zip(numpy(left), numpy(right), strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)


@bounded
@given(plans())
def test_read_and_build(plan):
    model = interpret(plan)
    config = model.get_config()
    gc.collect()
    nodes = donor_nodes(model)
    x = random_inputs(model, 3)
    again = kg.build(kg.read(model).validate())
    equal(model(x), again(x))
    assert [id(w) for w in again.weights] == [id(w) for w in model.weights]
    assert_same_graph(model, again, same_layers=True)
    del again
    gc.collect()
    assert donor_nodes(model) == nodes
    assert model.get_config() == config


@bounded
@given(plans(), st.data())
def test_any_value_completes_to_a_cut(plan, data):
    model = interpret(plan)
    graph = kg.read(model)
    reachable = [v.path for n in everything(graph) for v in n.values]
    path = data.draw(st.sampled_from(reachable or list(graph.input_names)))
    x = random_inputs(model, 3)
    try:
        trunk, head = kg.split(model, at=path, complete=True)
    except (kg.CutError, kg.EditError) as error:
        assert "nothing behind it" in str(error) or "cannot be opened" in str(error)
        return
    equal(model(x), head(trunk(x)))
    equal(model(x), kg.join(trunk, head)(x))
    shared = {id(w) for m in (trunk, head) for w in m.weights}
    assert shared <= {id(w) for w in model.weights}


@bounded
@given(plans())
def test_cuts_are_exactly_the_values_that_split_takes(plan):
    model = interpret(plan)
    graph = kg.read(model)
    x = random_inputs(model, 3)
    found = {c.name for c in kg.cuts(graph)}
    for node in graph.nodes:
        for value in node.values:
            if value in graph.outputs:
                continue
            try:
                trunk, head = kg.split(model, at=value)
            except kg.CutError:
                assert value.label not in found
            else:
                assert value.label in found, value
                equal(model(x), head(trunk(x)))


@bounded
@given(plans(), st.data())
def test_extract_gives_what_keras_gives(plan, data):
    model = interpret(plan)
    graph = kg.read(model)
    values = [v for n in graph.nodes for v in n.values] or list(graph.inputs)
    taps = data.draw(st.lists(st.sampled_from(values), min_size=1, max_size=3, unique_by=id))
    x = random_inputs(model, 3)
    extractor = kg.extract(model, taps)
    result = extractor(x)
    assert set(result) == {v.path for v in taps}
    expected = keras.Model(model.input, {v.path: v.origin for v in taps})(x)
    for name in result:
        flatly(result[name], expected[name])
    inner = kg.submodel(model, outputs=taps)
    flatly([result[v.path] for v in taps], inner(x))


@examples(torch=9, others=8)
@given(plans())
def test_what_is_built_is_saved_and_loaded(tmp_path_factory, plan):
    model = interpret(plan)
    found = kg.cuts(model)
    x = random_inputs(model, 3)
    stages = kg.split(model, at=found[len(found) // 2]) if found else [kg.build(kg.read(model))]
    path = tmp_path_factory.mktemp("saved")
    y = x
    for i, stage in enumerate(stages):
        stage.save(path / f"{i}.keras")
        loaded = keras.models.load_model(path / f"{i}.keras")
        equal(stage(y), loaded(y))
        y = stage(y)
    equal(model(x), y)


@examples(torch=25, others=5)
@given(plans())
def test_weights_are_written_with_pytorch_names_and_read_back(tmp_path_factory, plan):
    model = interpret(plan)
    other = kg.clone(model, weights="fresh", seed=5)
    path = tmp_path_factory.mktemp("torch") / "model.safetensors"
    kg.save_weights(model, path, names="torch")
    kg.transplant(path, other, names="torch")
    x = random_inputs(model, 3)
    equal(model(x), other(x))


def same_weights(model, edited):
    assert {id(w) for w in edited.weights} == {id(w) for w in model.weights}


def linear(node):
    return keras.layers.Activation("linear", dtype=node.values[0].spec.dtype)


@bounded
@given(plans(), st.data())
def test_an_edit_at_any_depth_that_changes_no_arithmetic(plan, data):
    model = interpret(plan)
    graph = kg.read(model)
    x = random_inputs(model, 3)
    values = [v for n in everything(graph) for v in n.values if "float" in v.spec.dtype]
    if not values:
        return
    value = data.draw(st.sampled_from(values))
    try:
        edited = kg.insert(model, linear, after=[value])
    except kg.EditError as error:  # a node that computes the mask of one call is no place
        assert "only computes the mask of one call" in str(error)
        return
    equal(model(x), edited(x))
    same_weights(model, edited)
    nodes = [n for n in everything(graph) if isinstance(n.operation, keras.Layer)]
    if nodes:
        node = data.draw(st.sampled_from(nodes))
        edited = kg.replace(model, [node], lambda node: node.operation)
        equal(model(x), edited(x))
        same_weights(model, edited)
    everywhere = kg.insert(graph, linear, after=[v for v in values if not v.scope] or values)
    equal(model(x), kg.build(everywhere)(x))


@bounded
@given(plans())
def test_the_plain_model_is_keras_s_and_gives_the_same(plan):
    model = interpret(plan)
    x = random_inputs(model, 3)
    before = numpy(model(x))
    try:
        plain = kg.plain(model, ties="untie")
    except kg.EditError as error:
        assert "Keras's own layers cannot express" in str(error)
        return
    for node in everything(kg.read(plain)):
        assert type(node.operation).__module__.startswith("keras."), node
    for a, b in zip(numpy(plain(x)), before, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    flatly(before, model(x))


@bounded
@given(plans(), st.data())
def test_a_rewrite_to_itself_changes_nothing_and_each_match_is_what_the_pattern_says(plan, data):
    model = interpret(plan)
    x = random_inputs(model, 3)
    nodes = [n for n in everything(kg.read(model)) if n.nested is None]
    first = data.draw(st.sampled_from(nodes)) if nodes else None
    if first is None or not first.consumers:
        return
    kinds = {
        "a": type(first.operation),
        "b": type(data.draw(st.sampled_from(first.consumers)).operation),
    }
    pattern = lambda x, a, b: b(a(x))  # noqa: E731
    found = kg.matches(model, pattern, **kinds)
    taken = [(n, n.scope) for match in found for n in match.nodes]
    assert len(set(taken)) == len(taken)
    for match in found:
        a, b = match.nodes
        assert type(a.operation) is kinds["a"] or isinstance(a.operation, kinds["a"])
        assert a.values[0].consumers == (b,) and not {v.key for v in a.outputs} & {
            v.key for v in a.home.outputs
        }
    if len(found):
        edited = kg.rewrite(model, pattern, lambda x, a, b: b(a(x)), **kinds)
        equal(model(x), edited(x))
        same_weights(model, edited)


@bounded
@given(plans(), st.data())
def test_adapters_that_add_nothing_change_nothing_anywhere(plan, data):
    model = interpret(plan)
    x = random_inputs(model, 3)
    expected = numpy(model(x))
    ids, flags = [id(w) for w in model.weights], [v.trainable for v in model.variables]
    nodes = sorted({n.path for n in everything(kg.read(model))}) or ["**"]
    chosen = data.draw(st.lists(st.sampled_from(nodes), min_size=1, max_size=3))
    try:
        tuned = kg.lora(model, chosen, rank=2)
    except kg.GraftError as error:
        assert "can take an adapter" in str(error)
        return
    assert {v.name.split("_")[0] for v in tuned.trainable_variables} == {"lora"}
    removed = kg.remove_adapters(tuned)
    for new in (tuned, kg.clone(tuned), kg.merge_adapters(tuned), removed):
        for a, b in zip(numpy(new(x)), expected, strict=True):  # PyTorch: another kernel for LSTMs
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert [id(w) for w in removed.weights] == ids == [id(w) for w in model.weights]
    assert [v.trainable for v in model.variables] == flags
    assert [v.trainable for v in removed.variables] == flags


@bounded
@given(plans(), st.data())
def test_any_block_nests_and_opens_again_or_is_refused(plan, data):
    model = interpret(plan)
    graph = kg.read(model)
    x = random_inputs(model, 3)
    values = graph.all_values()
    start, stop = (data.draw(st.sampled_from(values)) for _ in range(2))
    try:
        nested = kg.nest(graph, start, stop, name="block")
    except kg.GraftError as error:
        assert str(error).startswith("nest 'block': ")
    else:
        equal(model(x), kg.build(nested)(x))
        assert_same_graph(graph, kg.inline(nested, "block"), same_layers=True)
    flat = kg.inline(model)
    assert all(n.nested is None for n in kg.read(flat).nodes)
    equal(model(x), flat(x))
    same_weights(model, flat)


@bounded
@given(plans(), st.data())
def test_repeats_of_copies_equal_repeats_of_the_same(plan, data):
    model = interpret(plan)
    graph = kg.read(model)
    x = random_inputs(model, 3)
    values = graph.all_values()
    start, stop = (data.draw(st.sampled_from(values)) for _ in range(2))
    try:
        shared = kg.repeat(graph, start, stop, 3)
    except kg.EditError as error:
        assert str(error).startswith("repeat ")
        return
    assert_same_graph(graph, kg.repeat(graph, start, stop, 1), same_layers=True)
    result = kg.build(shared)
    same_weights(model, result)
    equal(result(x), kg.repeat(model, start, stop, 3, weights="copy")(x))


@pytest.mark.parametrize("kind", ["flat", "dict", "nested"])
def test_the_strategy_reaches_its_corners(kind):
    plan = {
        "inputs": "x+ids", "structure": "dict", "out_structure": kind, "outputs": list(range(30)),
        "calls": [(what, i, i + 1) for i, what in enumerate(FLAT + STEPWISE)],
    }  # fmt: skip
    model = interpret(plan)
    graph = kg.read(model)
    assert any(n.nested is not None for n in kg.select(graph, "**").nodes)
    assert any(n.hidden for n in graph.nodes) and any(v.mask for v in graph.all_values())
    equal(model(random_inputs(model)), kg.build(graph)(random_inputs(model)))


@bounded
@given(plans(), st.data())
def test_what_was_frozen_and_unfrozen_is_the_donor(plan, data):
    model = interpret(plan)
    # Keras makes the ops of some masks again in each reading.
    nodes = [
        n
        for n in everything(kg.read(model))
        if n.nested is None and isinstance(n.operation, keras.Layer)
    ]
    chosen = data.draw(st.lists(st.sampled_from(nodes), min_size=1, unique_by=id)) if nodes else []
    if not chosen:
        return
    try:
        frozen = kg.freeze(model, chosen)
    except kg.EditError as error:
        assert "use one variable" in str(error) or "is stateful" in str(error)
        return
    thawed = kg.unfreeze(frozen, batch_norm=True)
    # `freeze` drops recorded training flags, so the calls may differ in these.
    before, now = (
        [
            id(n.operation)
            for n in everything(kg.read(m))
            if n.nested is None and isinstance(n.operation, keras.Layer)
        ]
        for m in (model, thawed)
    )
    assert before == now
    assert [id(v) for v in thawed.trainable_variables] == [id(v) for v in model.trainable_variables]
    x = random_inputs(model, 2)
    equal(model(x, training=False), thawed(x, training=False))


@bounded
@given(plans())
def test_flags_are_undone_without_a_change_of_the_donor(plan):
    model = interpret(plan)
    before = [v.path for v in model.trainable_variables]
    model.trainable = False
    flags = [layer.trainable for layer in model._flatten_layers()]
    new = kg.unfreeze(model, batch_norm=True)
    assert sorted(v.path for v in new.trainable_variables) == sorted(before)
    assert [layer.trainable for layer in model._flatten_layers()] == flags
    assert model.trainable_variables == []
    for one, other in zip(numpy(model.weights), numpy(new.weights), strict=True):
        np.testing.assert_array_equal(one, other)
    old, now = ([n.path for n in everything(kg.read(m))] for m in (model, new))
    assert old == now


@examples(torch=15, others=6)
@given(plans(), st.data())
def test_a_loaded_model_is_the_same_by_value(tmp_path_factory, plan, data):
    model = interpret(plan)
    path = tmp_path_factory.mktemp("by_value") / "m.keras"
    model.save(path)
    report = kg.diff(model, path)
    assert report.by == "value" and report.renamed == report.unclear == ()
    assert report.new == report.dropped == report.changed == report.specs == ()
    assert report.other_outputs == () and report.shared_parameters == model.count_params()
    found = report.changes()
    assert {*found.of_old.values(), *found.of_new.values()} <= {"kept"}
    # One other value of one weight is found, and named.
    loaded = keras.models.load_model(path)
    weights = [w for w in loaded.weights if w.shape and 0 not in w.shape]
    if not weights:
        return
    weight = data.draw(st.sampled_from(weights))
    values = np.array(keras.ops.convert_to_numpy(weight.value))
    values.flat[-1] = values.flat[-1] + 2
    weight.assign(values)
    report = kg.diff(model, loaded, by="value")
    assert report.new == report.dropped == () and report.changed_parameters == values.size
    assert len({c.name.partition("#")[0] for c in report.changed}) >= 1
    assert all("differs by up to 2" in c.what for c in report.changed)


@examples(torch=40, others=8)
@given(plans(), st.data())
def test_one_edit_of_a_copy_is_what_changed_by_value(plan, data):
    model = interpret(plan)
    graph = kg.read(model)
    places = [v for n in everything(graph) for v in n.values]
    if not places:
        return
    place = data.draw(st.sampled_from(places)).path
    try:
        edited = kg.insert(kg.clone(model), keras.layers.Activation("tanh", name="mark"), place)
    except kg.GraftError:
        return  # not every value can be changed: a mask, whole numbers
    # Behind a value that nothing uses it is not in the model, and nothing has changed.
    there = any(node.name == "mark" for node in everything(kg.read(edited)))
    report = kg.diff(model, edited, by="value")
    new = [layer.name.rpartition("/")[2].partition("#")[0] for layer in report.new]
    assert new == ["mark"] * there
    assert report.dropped == report.renamed == report.unclear == ()
    assert report.shared_parameters == model.count_params() and report.new_parameters == 0
    assert not there or "after " in report.new[0].where or "between " in report.new[0].where


@bounded
@given(plans(), st.data())
def test_channels_that_do_nothing_are_pruned(plan, data):
    model = interpret(plan)
    nodes = [n for n in everything(kg.read(model)) if getattr(n.operation, "weights", ())]
    names = [n.path for n in nodes if n.nested is None]
    if not names:
        return
    name = data.draw(st.sampled_from(names))
    try:
        group = kg.group(model, name)
    except kg.EditError as error:
        assert "makes no channels" in str(error)
        return
    units = some_of(group)
    channels = channels_of(group, units)
    if not units or group.protected:
        return
    cleared(group, units)
    small = kg.prune(model, {name: channels})
    assert small.count_params() < model.count_params()
    x = random_inputs(model, 2)
    old, new = numpy(model(x)), numpy(small(x))
    for a, b in zip(old, new, strict=True):
        assert a.shape == b.shape
        if not group.changes:
            np.testing.assert_allclose(a, b, rtol=0.01, atol=0.01 * max(1e-6, np.abs(a).max()))


@bounded
@given(plans(), st.data())
def test_a_wider_network_gives_the_same(plan, data):
    model = interpret(plan)
    nodes = [n for n in everything(kg.read(model)) if getattr(n.operation, "weights", ())]
    names = [n.path for n in nodes if n.nested is None]
    if not names:
        return
    name, factor = data.draw(st.sampled_from(names)), data.draw(st.sampled_from([1.5, 2.0]))
    try:
        wide = kg.widen(model, {name: factor})
    except kg.EditError as error:
        words = ("makes no channels", "cannot be widened", "would differ by", "widths")
        assert any(each in str(error) for each in words), error
        return
    assert wide.count_params() >= model.count_params()
    x = random_inputs(model, 2, 5)
    for a, b in zip(numpy(model(x)), numpy(wide(x)), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0.01, atol=0.01 * max(1e-6, np.abs(a).max()))


@bounded
@given(plans())
def test_quantized_layers_give_nearly_the_same_and_the_donor_stays(plan):
    model = interpret(plan)
    config = model.get_config()
    x = random_inputs(model, 2)
    before = numpy(model(x))
    try:
        small = kg.quantize(model, "**")
    except (kg.NothingSelectedError, kg.EditError) as error:
        assert "that Keras can quantize" in str(error)
        return
    for a, b in zip(before, numpy(small(x)), strict=True):
        assert a.shape == b.shape and np.isfinite(b).all() == np.isfinite(a).all()
    assert model.get_config() == config
    for a, b in zip(before, numpy(model(x)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(row.mode == "int8" for row in kg.list_quantized(small, model).rows)


@bounded
@given(plans())
def test_half_of_all_channels_can_go(plan):
    model = interpret(plan)
    config = model.get_config()
    try:
        small = kg.prune(model, {"**": 0.5})
    except kg.NothingSelectedError:
        return  # it has no node
    except kg.EditError as error:
        assert "nothing that is selected" in str(error) or "makes no channels" in str(error)
        return
    x = random_inputs(model, 2)
    for a, b in zip(numpy(model(x)), numpy(small(x)), strict=True):
        assert a.shape == b.shape
    assert model.get_config() == config
