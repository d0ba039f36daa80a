"""`split` by a function of the calls, and into stages of which the dearest is as cheap as possible."""

import itertools
import json
import random
import warnings

import keras
import numpy as np
import pytest
from donor import equal
from hypothesis import given
from keras import layers, ops
from models import ALL
from strategies import examples, interpret, plans

import keras_graft as kg
from keras_graft.look.balancing import Piece, balanced
from keras_graft.look.costing import Costing
from keras_graft.testing import random_inputs


def chained(stages, data):
    for stage in stages:
        data = stage(data)
    return data


def residual():
    x = keras.Input((8,), name="x")
    y = layers.Dense(8, name="stem")(x)
    for i in range(4):
        z = layers.Dense(16, activation="relu", name=f"up{i}")(y)
        z = layers.Dense(8, name=f"down{i}")(z)
        y = layers.Add(name=f"add{i}")([y, z])
    return keras.Model(x, layers.Dense(3, name="out")(y), name="net")


def two_ends():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    shared = layers.Dense(4, name="shared")
    h = shared(a)
    early = layers.Dense(2, name="early")(h)
    h = layers.Dense(4, name="mid")(h)
    h = layers.Add(name="both")([h, shared(b)])
    return keras.Model(
        {"a": a, "b": b}, {"end": layers.Dense(3, name="end")(h), "early": early}, name="two"
    )


def nested():
    def block(name):
        x = keras.Input((8,), name="in")
        y = layers.Dense(8, name="one")(x)
        y = layers.Dense(8, name="two")(layers.ReLU(name="relu")(y))
        return keras.Model(x, y, name=name)

    x = keras.Input((8,), name="x")
    first = block("first")
    y = first(x)
    y = block("second")(y)
    return keras.Model(x, layers.Add(name="sum")([y, first(y)]), name="outer")


# -- by a function ------------------------------------------------------------------------


@pytest.mark.parametrize("make", ALL)
def test_stages_by_a_function_equal_the_donor(make):
    """Each call gets a stage by its place in the graph, whatever the model is."""
    model = make()
    graph = kg.read(model)
    order = {node.path: i for i, node in enumerate(graph.nodes)}
    if len(order) < 2:
        return
    parts = min(3, len(order))
    stages = kg.split(model, by=lambda node: order[node.path] * parts // len(order))
    data = random_inputs(model, 2)
    equal(model(data), chained(stages, data))
    assert len(stages) == parts


@pytest.mark.once
def test_labels_that_are_no_numbers_are_put_in_order():
    model = residual()
    stages = kg.split(
        model,
        by=lambda n: "z first" if n.name == "stem" else "a last" if n.name == "out" else "middle",
    )
    assert [[layer.name for layer in s.layers if layer.weights][0] for s in stages] == [
        "stem",
        "up0",
        "out",
    ]
    by_flag = kg.split(model, by=lambda n: n.name == "out")
    assert [s.name for s in by_flag] == ["net_trunk", "net_head"]
    # Of two labels, the first call of "b" comes first; "a" must run before it.
    x = keras.Input((2,))
    late, early = layers.Dense(2, name="b0")(x), layers.Dense(2, name="a0")(x)
    model = keras.Model(x, layers.Add(name="b1")([late, early]))
    graph = kg.read(model)
    assert [n.name for n in graph.nodes][:2] == ["b0", "a0"]
    first, second = kg.split(graph, by=lambda n: n.name[0])
    assert [n.name for n in first.nodes] == ["a0"] and [n.name for n in second.nodes] == [
        "b0",
        "b1",
    ]


@pytest.mark.once
def test_a_stage_that_needs_a_later_one_is_refused_with_both_calls():
    model = residual()
    with pytest.raises(kg.CutError) as error:
        kg.split(model, by=lambda n: 0 if n.name == "add1" else 1)
    assert "puts 'add1' into stage 0, and 'add0', which it needs, into stage 1" in str(error.value)
    stages = kg.split(model, by=lambda n: 0 if n.name == "add1" else 1 if n.name == "out" else None)
    assert [len(s.layers) for s in stages][1] == 2  # the way out: None is "with what it reads"
    with pytest.raises(kg.CutError, match="'up1', which it needs|'down1', which it needs"):
        kg.split(model, by=lambda n: "a" if n.name in ("up1", "add3") else "b")
    for by, says in (
        (lambda n: 0, "gives all 14 calls of 'net' the stage 0"),
        (lambda n: None, "gives all 14 calls of 'net' no stage"),
        (lambda n: [n.name], "cannot be compared, \\['stem'\\]"),
        ("add1", "by= is a function of a node"),
    ):
        with pytest.raises(kg.SelectionError, match=says):
            kg.split(model, by=by)
    for ways in ({}, {"at": "add1", "parts": 2}, {"by": len, "parts": 2}):
        with pytest.raises(kg.SelectionError, match="split takes one of at=, by= and parts="):
            kg.split(model, **ways)


def test_several_inputs_and_outputs_and_a_shared_layer(tmp_path):
    model = two_ends()
    data = random_inputs(model, 3)
    stages = kg.split(model, by=lambda n: {"shared": n.call, "both": 1, "end": 2}.get(n.name, 0))
    assert [len(s.outputs) for s in stages] == [3, 2, 2]
    equal(model(data), chained(stages, data))
    assert (
        stages[0].get_layer("shared") is stages[1].get_layer("shared") is model.get_layer("shared")
    )
    for i, stage in enumerate(stages):
        stage.save(tmp_path / f"{i}.keras")
    equal(
        model(data),
        chained([keras.saving.load_model(tmp_path / f"{i}.keras") for i in range(3)], data),
    )


def test_inside_nested_models():
    model = nested()
    data = random_inputs(model, 2)
    whole = kg.split(model, by=lambda n: 1 if n.name in ("second", "sum") or n.call else 0)
    assert [[layer.name for layer in s.layers] for s in whole][0] == ["x", "first"]  # stays closed
    equal(model(data), chained(whole, data))
    inside = kg.split(
        model,
        by=lambda n: (
            None if n.name == "second" else int(n.path in ("second/two", "sum", "first#1"))
        ),
    )
    assert {layer.name for layer in inside[0].layers} == {"x", "first", "one", "relu"}
    equal(model(data), chained(inside, data))


@pytest.mark.once
def test_the_step_has_what_the_function_chose():
    model = residual()
    second = kg.split(
        model, by=lambda n: int(n.name in ("up2", "down2", "add2", "up3", "down3", "add3", "out"))
    )[1]
    (step,) = kg.steps(second)
    assert step["arguments"] == {"at": [{"tuple": ["add1"]}], "by": None, "complete": True}
    data = np.ones((2, 8), "float32")
    equal(second(data), kg.replay(kg.clone(model), kg.steps(second))(data))
    third = kg.split(model, parts=3, balance="parameters")[2]
    equal(
        third(data),
        kg.replay(kg.clone(model), json.loads(json.dumps(kg.steps(third).to_dict())))(data),
    )


# -- by a balance -------------------------------------------------------------------------


def amounts(model, stages, by):
    """Return what each stage costs, by `kg.costs` of the models that were made."""
    found = []
    for stage in stages:
        total = kg.costs(stage).total
        found.append({
            "flops": total.flops, "parameters": total.parameters,
            "bytes": total.weight_bytes + total.activation_bytes,
        }[by])  # fmt: skip
    return found


@pytest.mark.parametrize("by", ["flops", "bytes", "parameters"])
def test_no_other_cuts_are_better(by):
    model = residual()
    found = kg.cuts(model)
    best = {}
    for parts in (2, 3, 4):
        for chosen in itertools.combinations(found, parts - 1):
            stages = kg.split(kg.read(model), at=list(chosen))
            key = max(amounts(model, stages, by)), sum(c.bytes_per_sample for c in chosen)
            best[parts] = min(best.get(parts, key), key)
    data = random_inputs(model, 2)
    for parts, expected in best.items():
        report = kg.balance(model, parts, by)
        stages = kg.split(model, parts=parts, balance=by)
        made = amounts(model, stages, by)
        assert made == [stage.amount for stage in report.stages]
        assert (max(made), sum(stage.passed for stage in report.stages)) == expected
        equal(model(data), chained(stages, data))


@pytest.mark.once
@pytest.mark.parametrize("seed", range(150))
def test_balanced_equals_brute_force(seed):
    rng = random.Random(seed)
    size = rng.randint(2, 9)
    keys = range(rng.randint(1, 5))
    sizes = {key: rng.randint(0, 9) for key in keys}
    pieces = [
        Piece(rng.choice([0, 1, 2, 5, 9]), {k: sizes[k] for k in rng.sample(keys, rng.randint(0, len(keys)))})
        for _ in range(size)
    ]  # fmt: skip
    crossing = [rng.randint(0, 4) for _ in range(size + 1)]

    def key(cuts):
        ends = [0, *cuts, size]
        costs = []
        for i, j in itertools.pairwise(ends):
            held = set().union(*(p.held for p in pieces[i:j]))
            costs.append(sum(p.amount for p in pieces[i:j]) + sum(sizes[k] for k in held))
        return max(costs), sum(crossing[c] for c in cuts)

    for parts in range(2, size + 1):
        best = min(map(key, itertools.combinations(range(1, size), parts - 1)))
        found = balanced(pieces, crossing, parts)
        assert found == sorted(set(found)) and len(found) == parts - 1
        assert key(found) == best


@examples(torch=20, others=4)
@given(plans())
def test_balanced_stages_of_random_models_equal_them(plan):
    model = interpret(plan)
    data = random_inputs(model, 3)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", kg.GraftWarning)
            stages = kg.split(model, parts=3, balance="bytes", complete=True)
    except (kg.CutError, kg.EditError) as error:
        assert "calls to cut between" in str(error) or "cannot be opened" in str(error)
        return
    equal(model(data), chained(stages, data))


@pytest.mark.once
@pytest.mark.parametrize("seed", range(20))
def test_random_graphs_against_brute_force(seed):
    """Every place of the order, where several values may cross; layers are used more than once."""
    rng = random.Random(seed)
    keras.utils.clear_session(free_memory=False)
    pool = [keras.Input((3,), name=f"x{i}") for i in range(rng.choice([1, 2]))]
    first = len(pool)
    dense = [layers.Dense(3, name=f"d{i}") for i in range(3)]
    for _ in range(rng.randint(4, 8)):
        one, other = rng.choice(pool[-3:]), rng.choice(pool)
        pool.append(rng.choice([lambda: rng.choice(dense)(one), lambda: ops.add(one, other)])())  # noqa: B023
    model = keras.Model(pool[:first], [pool[-1], rng.choice(pool[first:])], name="random")
    graph = kg.read(model)
    nodes = graph.nodes
    for by in ("flops", "bytes", "parameters"):
        for parts in (2, 3):
            if len(nodes) < parts:
                continue
            keys = []
            for cuts in itertools.combinations(range(1, len(nodes)), parts - 1):
                ends = [0, *cuts, len(nodes)]
                place = {
                    nodes[k].key: s
                    for s, (i, j) in enumerate(itertools.pairwise(ends))
                    for k in range(i, j)
                }
                dearest = max(spent(graph, nodes[i:j])[by] for i, j in itertools.pairwise(ends))
                crossing = 0
                for value in graph.all_values():
                    maker = graph.producer(value)
                    start = 0 if maker is None else place[maker.key]
                    users = [place[n.key] for n in graph.consumers(value)]
                    users += [parts - 1] if value in graph.outputs else []
                    crossing += value.spec.bytes_per_sample * (max([start, *users]) - start)
                keys.append((dearest, crossing))
            report = kg.balance(graph, parts, by, complete=True)
            dearest = max(stage.amount for stage in report.stages)
            assert (dearest, sum(s.passed for s in report.stages)) == min(keys)
            data = random_inputs(model, 2)
            stages = kg.split(model, parts=parts, balance=by, complete=True)
            equal(model(data), chained(stages, data))


def spent(graph, nodes):
    found = Costing(graph).of(nodes)
    return {
        "flops": 2 * found.multiply_adds + found.operations, "parameters": found.parameters,
        "bytes": found.weight_bytes + found.activation_bytes,
    }  # fmt: skip


@pytest.mark.once
def test_a_layer_of_two_stages_is_stated():
    model = nested()
    report = kg.balance(model, 3, "parameters")
    assert report.shared == (("first/one", (0, 2)), ("first/two", (0, 2)))
    assert "layer of several stages" in str(report)
    assert report.to_dict()["shared"][0]["stages"]
    assert kg.balance(residual(), 2).shared == ()


@pytest.mark.once
def test_what_is_not_known_is_stated():
    x = keras.Input((8,), name="x")
    y = layers.Dense(8, name="a")(x)
    y = ops.sort(y)
    y = layers.Dense(8, name="b")(y)
    model = keras.Model(x, y, name="unsure")
    report = kg.balance(model, 2)
    assert [path for path, _ in report.unknown] == ["sort"]
    assert "not known, so counted as nothing" in str(report)
    with pytest.warns(kg.GraftWarning, match="of 'sort' it is not known what they cost"):
        kg.split(model, parts=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kg.split(model, parts=2, balance="parameters")


@pytest.mark.once
def test_too_few_places_name_a_way_out():
    model = two_ends()
    with pytest.raises(kg.CutError) as error:
        kg.split(model, parts=3)
    assert "'two' has no places where a single value crosses, and 3 stages need 2" in str(
        error.value
    )
    assert "kg.split(model, parts=3, complete=True)" in str(error.value)
    assert len(kg.split(model, parts=3, complete=True)) == 3
    with pytest.raises(
        kg.CutError,
        match="has 5 calls to cut between, and 9 stages need 8. "
        r"This works: kg.split\(model, parts=6, complete=True\)\.",
    ):
        kg.split(model, parts=9, complete=True)
    assert len(kg.split(model, parts=6, complete=True)) == 6
    for parts in (0, 1, 2.5, "2", True):
        with pytest.raises(kg.SelectionError, match="parts= says how many"):
            kg.split(model, parts=parts)
    with pytest.raises(kg.SelectionError, match='is one of "flops", "bytes", "parameters"'):
        kg.split(model, parts=2, balance="time")
    with pytest.raises(kg.SelectionError, match="there is no parts="):
        kg.split(model, at="mid", complete=True, balance="bytes")


def test_open_lengths_are_said_with_input_shape():
    x = keras.Input((None, 8), name="x")
    y = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    for i in range(3):
        y = layers.Dense(8, name=f"d{i}")(y)
    model = keras.Model(x, y, name="open")
    assert [s.gives for s in kg.balance(model, 2).stages][0] == ("attention",)
    long = kg.balance(model, 3, input_shape=(4096, 8))
    assert long.stages[0].cost.multiply_adds > 4096 * 4096
    stages = kg.split(model, at=long)
    data = random_inputs(model, 2)
    equal(model(data), chained(stages, data))


@pytest.mark.once
def test_resnet50_in_four():
    model = keras.applications.ResNet50(weights=None)
    report = kg.balance(model, 4)
    assert len(report.stages) == 4 and all(stage.share < 0.3 for stage in report.stages)
    assert {value.path for b in report for value in b} <= {c.name for c in kg.cuts(model)}
    finer = kg.balance(model, 4, complete=True)
    assert max(s.share for s in finer.stages) <= max(s.share for s in report.stages)
