"""Real architectures: read, built, cut, joined, saved, equal to the bit."""

import gc

import keras
import numpy as np
import pytest
from architectures import ALL, SAMPLE, application, applications, backbones, sampled
from donor import donor_nodes
from keras import layers

import keras_graft as kg
from keras_graft import _keras
from keras_graft.testing import assert_same_outputs, random_inputs

# Where every cut is tried, not ten spread over the model.
EVERY = {"ResNet50", "MobileNetV2", "Bert"} if ALL else {"Bert"}


def places(name):
    """Return how many cuts are tried; None for all."""
    return None if name in EVERY else 10 if ALL else 2


def numpy(structure):
    return [keras.ops.convert_to_numpy(t) for t in keras.tree.flatten(structure)]


def run(stages, x):
    for stage in stages:
        x = stage(x)
    return x


def equal(left, right):
    left, right = numpy(left), numpy(right)
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b), f"differs by {np.abs(a - b).max()}"


def check(model, count, tmp_path):
    """Take a model apart in `count` places, and put it together again."""
    functional = _keras.functional(model)
    x = random_inputs(model, 2)
    expected = model(x)
    assert all(np.isfinite(a.astype("float64")).all() for a in numpy(expected))
    gc.collect()
    nodes = donor_nodes(functional)
    again = kg.build(kg.read(model))
    equal(expected, again(x))
    # As a set: a backbone that sets attributes before it is a model has an order of its own.
    assert {id(w) for w in again.weights} == {id(w) for w in functional.weights}
    assert len(again.weights) == len(functional.weights)
    own = {id(w): int(np.prod(w.shape)) for w in functional.weights}
    found = kg.cuts(model)
    chosen = found if count is None else sampled(found, count)
    for number, cut in enumerate(chosen):
        trunk, head = kg.split(model, at=cut)
        middle = trunk(x)
        equal(expected, head(middle))
        parts = {id(w): int(np.prod(w.shape)) for m in (trunk, head) for w in m.weights}
        assert parts == own
        assert (trunk.count_params(), head.count_params()) == (
            cut.parameters_below, cut.parameters_above,
        )  # fmt: skip
        joined = kg.join(trunk, head)
        if count is None or number == len(chosen) // 2:
            equal(expected, joined(x))
        assert [n.operation for n in kg.read(joined)] == [n.operation for n in kg.read(model)]
        if number == len(chosen) // 2 and sum(own.values()) < 30_000_000:
            head.save(tmp_path / "head.keras")
            equal(expected, keras.models.load_model(tmp_path / "head.keras")(middle))
        del trunk, head, joined
    if len(found) == 0:  # then any boundary completes to one
        node = kg.read(model).nodes[len(kg.read(model)) // 2]
        equal(expected, run(kg.split(model, at=node.values[0], complete=True), x))
        del node
    del again
    gc.collect()
    assert donor_nodes(functional) == nodes
    return found


@pytest.mark.parametrize("name", applications() if ALL else sorted(SAMPLE))
def test_applications(name, tmp_path):
    model = application(name)
    assert check(model, places(name), tmp_path)


@pytest.mark.parametrize("name", sorted(backbones()))
def test_hub_backbones(name, tmp_path):
    keras.utils.set_random_seed(3)
    model = backbones()[name]()
    check(model, places(name), tmp_path)


def unet():
    x = inputs = keras.Input((16, 16, 3), name="image")
    skips = []
    for i in range(3):
        x = layers.Conv2D(4, 3, padding="same", activation="relu", name=f"down{i}")(x)
        skips.append(x)
        x = layers.MaxPooling2D(name=f"pool{i}")(x)
    x = layers.Conv2D(4, 3, padding="same", name="bottom")(x)
    for i in reversed(range(3)):
        x = layers.UpSampling2D(name=f"up{i}")(x)
        x = layers.Concatenate(name=f"cat{i}")([x, skips[i]])
        x = layers.Conv2D(4, 3, padding="same", activation="relu", name=f"back{i}")(x)
    return keras.Model(inputs, layers.Conv2D(1, 1, name="mask")(x), name="unet")


@pytest.mark.parametrize(
    ("make", "at", "missing"),
    [
        (lambda: application("ResNet50"), "conv3_block2_1_relu", ["conv3_block1_out"]),
        (lambda: application("ResNet50"), "conv3_block1_3_bn", ["conv3_block1_0_bn"]),
        (unet, "bottom", ["down0", "down1", "down2"]),
        (unet, "back1", ["down0"]),
    ],
)
def test_a_boundary_that_misses_values_names_exactly_them(make, at, missing):
    model = make()
    with pytest.raises(kg.CutError) as caught:
        kg.split(model, at=at)
    labels = [v.label for v in caught.value.missing]
    assert labels == missing
    assert all(repr(label) in str(caught.value) for label in missing)
    x = random_inputs(model)
    equal(model(x), run(kg.split(model, at=at, complete=True), x))
    equal(model(x), run(kg.split(model, at=caught.value.suggestion), x))


def test_an_inception_branch_misses_the_other_branches():
    model = application("InceptionV3")
    graph = kg.read(model)
    mixed = kg.select(graph, "mixed1").nodes[0]
    branch = mixed.inputs[1]
    with pytest.raises(kg.CutError) as caught:
        kg.split(graph, at=branch)
    # Brute force: what is used behind the branch and does not depend on it.
    behind = {n for n in graph.nodes if _depends(graph, n, branch)}
    needed = {v for n in behind for v in n.inputs if _known(graph, v, branch)} - {branch}
    assert set(caught.value.missing) == needed and len(needed) == 3
    x = random_inputs(model)
    equal(model(x), run(kg.split(model, at=branch, complete=True), x))


def _depends(graph, node, value):
    return node in _behind(graph, value)


def _behind(graph, value):
    reached, found = {value}, set()
    for node in graph.nodes:
        if reached & set(node.inputs):
            found.add(node)
            reached |= set(node.outputs)
    return found


def _known(graph, value, branch):
    return graph.producer(value) not in _behind(graph, branch)


def test_ten_taps_cost_one_forward_pass(monkeypatch):
    model = application("MobileNetV2")
    taps = [node.label for node in sampled(kg.read(model).nodes, 12)[1:-1]]
    extractor = kg.extract(model, taps)
    x = random_inputs(model)
    calls = {}
    for layer in extractor.layers:

        def counted(*args, _call=layer.call, _name=layer.name, **kwargs):
            calls[_name] = calls.get(_name, 0) + 1
            return _call(*args, **kwargs)

        monkeypatch.setattr(layer, "call", counted)
    result = extractor(x)
    assert len(result) == len(taps) == 10
    assert len(calls) > 100 and set(calls.values()) == {1}
    assert len(calls) < len(model.layers)  # and nothing behind the last tap
    monkeypatch.undo()
    for name in taps:
        equal(result[name], keras.Model(model.input, model.get_layer(name).output)(x))


def test_two_loads_of_one_file_join(tmp_path):
    model = application("MobileNetV3Small")
    model.save(tmp_path / "m.keras")
    first = keras.models.load_model(tmp_path / "m.keras")
    second = keras.models.load_model(tmp_path / "m.keras")
    cut = kg.cuts(first)[len(kg.cuts(first)) // 2].name
    mixed = kg.join(kg.split(first, at=cut)[0], kg.split(second, at=cut)[1])
    x = random_inputs(model)
    equal(model(x), mixed(x))
    names = [layer.name for layer in first.layers]
    assert names == [layer.name for layer in second.layers] == [x.name for x in model.layers]
    mixed.save(tmp_path / "mixed.keras")
    assert_same_outputs(mixed, keras.models.load_model(tmp_path / "mixed.keras"), x)
    assert mixed.count_params() == model.count_params()
