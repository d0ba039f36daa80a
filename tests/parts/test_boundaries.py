"""What is missing at a boundary: no more than necessary, and what it can be computed from."""

import itertools
import random

import keras
import pytest
from donor import equal
from keras import layers, ops

import keras_graft as kg
from keras_graft.graph.walk import is_op
from keras_graft.testing import random_inputs


def side():
    """Return a model with an output `s` that comes from `a`, on which `b` and the end depend too."""
    x = keras.Input((4,), name="x")
    a = layers.Dense(4, name="a")(x)
    b = layers.Dense(4, name="b")(a)
    s = layers.Dense(2, name="s")(layers.Dense(3, name="s0")(a))
    return keras.Model(x, [layers.Add(name="end")([b, a]), s], name="side")


def two_inputs():
    """Return a model of two inputs, of one of which several values cross everywhere."""
    x, pad = keras.Input((4, 3), name="x"), keras.Input((4,), name="pad")
    keep = ops.cast(ops.not_equal(pad, 0.0), "float32")
    column, row = (
        layers.Reshape((4, 1), name="column")(keep),
        layers.Reshape((1, 4), name="row")(keep),
    )
    a = layers.Dense(3, name="a")(x)
    b = layers.Dense(3, name="b")(a)
    y = layers.Multiply(name="times")([b, column])
    y = layers.Dot(1, name="dot")([y, layers.Permute((2, 1), name="turned")(row)])
    return keras.Model([x, pad], y, name="two_inputs")


def missing(error):
    return [value.label for value in error.value.missing]


def test_what_can_be_computed_is_not_missing(tmp_path):
    model = side()
    x = random_inputs(model, 3)
    with pytest.raises(kg.CutError) as error:
        kg.split(model, at="b")
    assert missing(error) == ["a"] and error.value.suggestion == ("b", "a")
    assert "1 other value crosses there:\n  'a', needed by 's0', 'b', 'end'" in str(error.value)
    for stages in (kg.split(model, at=("b", "a")), kg.split(model, at="b", complete=True)):
        trunk, head = stages
        assert [t.name for t in trunk.outputs] and len(trunk.outputs) == 2
        assert [layer.name for layer in trunk.layers] == ["x", "a", "b"]
        equal(model(x), head(trunk(x)))
        equal(model(x), kg.join(trunk, head)(x))
        head.save(tmp_path / "head.keras")
        equal(model(x), keras.saving.load_model(tmp_path / "head.keras")(trunk(x)))


def test_a_submodel_too():
    model = side()
    with pytest.raises(kg.CutError) as error:
        kg.submodel(model, inputs="b")
    assert missing(error) == ["a"]
    assert 'kg.submodel(model, inputs=["b", "a"], ...)' in str(error.value)
    x = random_inputs(model, 3)
    trunk, head = kg.extract(model, ["b", "a"]), kg.submodel(model, inputs={"b": "b", "a": "a"})
    equal(model(x), head(trunk(x)))


def test_what_comes_from_one_input_names_it():
    model = two_inputs()
    x = random_inputs(model, 3)
    with pytest.raises(kg.CutError) as error:
        kg.split(model, at="b")
    assert missing(error) == ["column", "turned"]
    assert "All of this comes from 'pad' alone, so this works too: " in str(error.value)
    assert 'kg.split(model, at=("b", "pad")).' in str(error.value)
    trunk, head = kg.split(model, at=("b", "pad"))
    assert {layer.name for layer in trunk.layers} == {"x", "pad", "a", "b"}
    equal(model(x), head(trunk(x)))
    trunk, head = kg.split(model, at="b", complete=True)
    assert len(trunk.outputs) == 3  # what costs something runs in the trunk
    equal(model(x), head(trunk(x)))


def masked():
    ids = keras.Input((7,), dtype="int32", name="ids")
    x = layers.Embedding(2, 6, mask_zero=True, name="embed")(ids)
    x = layers.LSTM(5, return_sequences=True, name="one")(x)
    x = layers.LSTM(5, return_sequences=True, name="two")(x)
    return keras.Model(ids, layers.GRU(3, name="end")(x), name="masked")


def test_a_mask_is_computed_again_from_the_input_that_is_given(tmp_path):
    model = masked()
    x = random_inputs(model, 3)
    with pytest.raises(kg.CutError) as error:
        kg.split(model, at="one")
    assert "comes from 'ids' alone" in str(error.value) and 'at=("one", "ids")' in str(error.value)
    trunk, head = kg.split(model, at=("one", "ids"))
    assert [layer.name for layer in head.layers if layer.weights] == ["two", "end"]
    equal(model(x), head(trunk(x)))
    equal(model(x), kg.join(trunk, head)(x))
    for stage in (trunk, head):
        stage.save(tmp_path / f"{stage.name}.keras")
    loaded = [keras.saving.load_model(tmp_path / f"{s.name}.keras") for s in (trunk, head)]
    equal(model(x), loaded[1](loaded[0](x)))
    assert len(kg.split(model, at=("one", "ids"), complete=True)[0].outputs) == 2


def test_no_layer_runs_twice():
    """Where the trunk needs a layer, what it gives is missing, also if it could be computed again."""
    x = keras.Input((4,), name="x")
    a = layers.Dense(4, name="a")(x)
    n = layers.BatchNormalization(name="n")(a)
    b = layers.Dense(4, name="b")(n)
    model = keras.Model(x, layers.Add(name="end")([b, n, a]), name="norm")
    with pytest.raises(kg.CutError) as error:
        kg.split(model, at=("a", "b"))
    assert missing(error) == ["n"]
    with pytest.raises(kg.CutError) as error:
        kg.split(model, at="b")
    assert missing(error) == ["a", "n"] and "alone" not in str(error.value)


def test_a_missing_value_that_another_needs_stays():
    """`w` cannot be computed behind the boundary, so the trunk computes `s` for it anyway."""
    x, z = keras.Input((4,), name="x"), keras.Input((4,), name="z")
    a = layers.Dense(4, name="a")(x)
    b = layers.Dense(4, name="b")(a)
    s = layers.Dense(4, name="s")(a)
    w = layers.Add(name="w")([s, layers.Dense(4, name="c")(z)])
    model = keras.Model([x, z], [layers.Add(name="end")([b, a]), s, w], name="needs")
    with pytest.raises(kg.CutError) as error:
        kg.split(model, at="b")
    assert missing(error) == ["a", "s", "w"]
    data = random_inputs(model, 3)
    trunk, head = kg.split(model, at="b", complete=True)
    equal(model(data), head(trunk(data)))


def test_several_boundaries():
    x = keras.Input((4,), name="x")
    a = layers.Dense(4, name="a")(x)
    b = layers.Dense(4, name="b")(a)
    c = layers.Dense(4, name="c")(layers.Add(name="ab")([a, b]))
    s = layers.Dense(2, name="s")(layers.Dense(3, name="s0")(b))
    model = keras.Model(x, [layers.Add(name="end")([c, b]), s], name="three")
    data = random_inputs(model, 3)
    stages = kg.split(model, at=["a", "c"], complete=True)
    assert [len(stage.outputs) for stage in stages] == [1, 2, 2]
    y = data
    for stage in stages:
        y = stage(y)
    equal(model(data), y)


def random_graph(seed):
    rng = random.Random(seed)
    inputs = [keras.Input((2,), name=f"x{i}") for i in range(rng.choice([1, 2, 2]))]
    pool = list(inputs)
    for number in range(rng.randint(4, 9)):
        one, other = rng.choice(pool[-4:]), rng.choice(pool)
        pool.append(
            rng.choice([
                lambda: layers.Dense(2, name=f"d{number}")(one),  # noqa: B023
                lambda: layers.Add(name=f"a{number}")([one, other]),  # noqa: B023
                lambda: ops.add(one, other),  # noqa: B023
                lambda: ops.tanh(one),  # noqa: B023
            ])()
        )  # fmt: skip
    outputs = [pool[-1], *rng.sample(pool[len(inputs) :], rng.randint(0, 2))]
    return keras.Model(inputs, outputs, name="random"), rng


def works(graph, boundary):
    """Whether a split there is taken, and runs each layer as often as the whole does."""
    try:
        trunk, head = kg.split(graph, at=tuple(boundary))
    except kg.CutError:
        return False
    calls = [n.operation for stage in (trunk, head) for n in stage.steps if not is_op(n)]
    assert len(calls) <= len([n for n in graph.steps if not is_op(n)])
    return True


@pytest.mark.parametrize("seed", range(12))
def test_no_missing_value_can_be_left_out(seed):
    keras.utils.clear_session(free_memory=False)
    model, rng = random_graph(seed)
    graph = kg.read(model)
    data = random_inputs(model, 2)
    values = [v for n in graph.nodes for v in n.values]
    for size in (1, 2):
        boundary = rng.sample(values, min(size, len(values)))
        try:
            kg.split(graph, at=tuple(boundary))
        except kg.CutError as error:
            if "nothing behind" in str(error):
                continue
            found = list(error.missing)
            assert works(graph, [*boundary, *found]), error
            for count in range(len(found)):
                for fewer in itertools.combinations(found, count):
                    assert not works(graph, [*boundary, *fewer]), error
            if "alone" in str(error):
                at = eval(str(error).rpartition("at=")[2].rstrip(").") + ")")  # noqa: S307
                assert works(graph, at), error
        trunk, head = (kg.build(s) for s in kg.split(graph, at=tuple(boundary), complete=True))
        equal(model(data), head(trunk(data)))
        equal(model(data), kg.join(trunk, head)(data))
        ends = [*boundary]
        try:
            part = kg.submodel(graph, inputs=ends)
        except kg.CutError as error:
            if "does not depend" in str(error):
                continue
            ends += error.missing
            part = kg.submodel(graph, inputs=ends)
            for value in error.missing:
                with pytest.raises(kg.CutError):
                    kg.submodel(graph, inputs=[v for v in ends if v != value])
        given = kg.build(kg.extract(graph, [*ends]))(data)
        equal(model(data), kg.build(part)([given[v.path] for v in ends]))


def test_cost_grows_with_the_nodes_alone():
    """Many values are missing, and each but the first can be computed from the one before."""
    x = keras.Input((2,), name="x")
    y = first = ops.tanh(x)
    outputs = []
    for _ in range(1500):
        y = ops.tanh(y)
        outputs.append(y)
    z = layers.Dense(2, name="b")(first)
    model = keras.Model(x, [layers.Add(name="end")([z, first]), *outputs], name="long")
    graph = kg.read(model)
    with pytest.raises(kg.CutError) as error:
        kg.split(graph, at="b")
    assert len(error.value.missing) == 1
