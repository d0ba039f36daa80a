"""What is refused, in which words, and that the way out works; near misses; the report."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_graft as kg
from keras_graft.testing import random_inputs

pytestmark = pytest.mark.once

BN, DENSE, RELU = layers.BatchNormalization, layers.Dense, layers.ReLU


def made():
    x = keras.Input((4,), name="x")
    h = RELU(name="relu1")(DENSE(4, name="dense1")(x))
    return keras.Model(x, BN(name="bn")(DENSE(4, name="dense2")(h)), name="m")


def refused(call, error=kg.EditError):
    model = made()
    before = [layer.name for layer in model.layers]
    with pytest.raises(error) as caught:
        call(model)
    assert [layer.name for layer in model.layers] == before
    return str(caught.value)


PATTERNS = {
    "3": (3, "a pattern is a function of tensors, such as lambda x, conv, bn: bn(conv(x)), or a list of"),
    "class": (DENSE, "a pattern is a function of tensors"),
    "layer": (DENSE(4), "a pattern is a function of tensors"),
    "nothing": (lambda x: x, "gives <x>. A pattern returns what its calls give"),
    "none": (lambda x: None, "gives None. A pattern returns what its calls give"),
    "unused": (lambda x, d: ops.relu(x), "does not use 'd' as a tensor. A layer is given by name, such as "
               "d=keras.layers.Dense"),
    "not given": (lambda x, d: d(x), "is not callable. Tensors there: 'x', 'd'. A layer is given by "
                  "name: d=keras.layers.Dense."),
    "apart": (lambda a, b: (ops.relu(a), ops.relu(b)), "has parts that no tensor connects: 'Relu' and "
              "'Relu'"),
    "any": (lambda *a: ops.relu(a[0]), "a pattern names each of its tensors and wildcards"),
    "shape": (lambda x: ops.reshape(x, x.shape), "has no shape: it stands for any tensor. Say which are "
              "meant in where=lambda x: ..."),
    "dtype": (lambda x: ops.relu(ops.relu(x).dtype), "has no dtype"),
    "raises": (lambda x: 1 / 0, "raised ZeroDivisionError: division by zero"),
    "unpack": (lambda x: sum([*ops.relu(x)]), "How many outputs 'Relu' gives is not known in a pattern"),
    "input": (lambda x: sum([*x]), "The parameter 'x' is one tensor"),
}  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_is_no_pattern(pattern):
    given, words = PATTERNS[pattern]
    assert words in refused(lambda m: kg.matches(m, given))
    assert words in refused(lambda m: kg.rewrite(m, given, lambda x: x))


def test_wildcards_that_are_none():
    one = lambda x, d: d(x)  # noqa: E731
    words = refused(lambda m: kg.matches(m, one, d=DENSE, e=DENSE))
    assert "is a wildcard that no pattern has as a parameter; parameters: 'd', 'x'" in words
    words = refused(lambda m: kg.matches(m, one, d=None))
    assert "d=None is no wildcard: give a class, such as d=keras.layers.Dense" in words
    assert "names nothing that it may be" in refused(lambda m: kg.matches(m, one, d=[]))
    idle = lambda x, d, e: d(x)  # noqa: E731
    assert "neither calls nor gives away 'e'" in refused(
        lambda m: kg.matches(m, idle, d=DENSE, e=DENSE)
    )
    words = refused(lambda m: kg.matches(m, one, d="dense9"), kg.NothingSelectedError)
    assert "Nearest: 'dense" in words
    words = refused(lambda m: kg.matches(m, one, d=lambda layer: 1 / 0), kg.SelectionError)
    assert "asked about 'dense1', raised ZeroDivisionError" in words
    words = refused(lambda m: kg.matches(m, one, d=DENSE, where=lambda d: 1 / 0), kg.SelectionError)
    assert "where=, asked about <Match x=x, d=dense1>, raised ZeroDivisionError" in words


def test_names_that_the_pattern_does_not_have():
    one = lambda x, d: d(x)  # noqa: E731
    words = refused(lambda m: kg.rewrite(m, one, lambda x, dense: x, d=DENSE))
    assert "the replacement has 'dense', which is no name of the pattern: it has 'x', 'd'" in words
    words = refused(lambda m: kg.matches(m, one, lambda x, dense: x, d=DENSE))
    assert "where= has 'dense', which is no name of the pattern" in words
    assert "where= is a function, got 3" in refused(lambda m: kg.matches(m, one, 3, d=DENSE))
    words = refused(lambda m: kg.rewrite(m, one, RELU(name="r"), d=DENSE))
    assert (
        "the replacement is a function of the names of the pattern: lambda x, d: ...; got the"
        in words
    )
    with pytest.raises(kg.SelectionError, match="The pattern has no 'e'; it has 'x', 'd'"):
        kg.matches(made(), one, d=DENSE)[0]["e"]


def test_replacements_that_give_something_else():
    one = lambda x, d: d(x)  # noqa: E731
    words = refused(lambda m: kg.rewrite(m, one, lambda x: DENSE(5)(x), d="dense1"))
    assert words == (
        "rewrite 'dense1': the replacement gives (?, 5) float32 for 'dense1', which gave (?, 4) float32, "
        "and 'relu1' reads that. Let it give the same shape and dtype."
    )
    words = refused(lambda m: kg.rewrite(m, one, lambda x: (x, x), d="dense1"))
    assert "the replacement gives 2 values, and the pattern gives 1" in words
    words = refused(lambda m: kg.rewrite(m, one, lambda x: 3, d="dense1"))
    assert "gives int, not symbolic tensors" in words
    words = refused(lambda m: kg.rewrite(m, one, lambda x: 1 / 0, d="dense1"))
    assert words == "rewrite 'dense1': the replacement raised ZeroDivisionError: division by zero"
    words = refused(lambda m: kg.rewrite(m, one, lambda x: DENSE(4)(x, x, x), d="dense1"))
    assert words.startswith("rewrite 'dense1': the replacement raised TypeError: ")


def test_a_refusal_at_the_second_match_changes_nothing():
    model = made()
    kinds = [n.kind for n in kg.read(model).nodes]
    calls = []

    def second(x, d):
        calls.append(d)
        return d(x) if len(calls) == 1 else DENSE(9)(x)

    with pytest.raises(kg.EditError, match="rewrite 'dense2'"):
        kg.rewrite(model, lambda x, d: d(x), second, d=DENSE)
    assert [n.kind for n in kg.read(model).nodes] == kinds
    assert len(model.get_layer("dense1")._inbound_nodes) == 1


def test_nothing_matches_and_what_nearly_does():
    words = refused(
        lambda m: kg.rewrite(m, lambda x, d, b: b(d(x)), lambda x: x, d=DENSE, b=RELU,
                             where=lambda d: d.units == 5),
        kg.NothingSelectedError,
    )  # fmt: skip
    assert words == (
        "rewrite: the pattern fits nowhere in 'm'.\n"
        "Near misses:\n"
        "  relu1: where= does not hold\n"
        "  bn: dense2 -> bn matches all but b: bn is BatchNormalization, expected ReLU\n"
        "kg.matches(model, pattern, ...) lists what fits and what nearly does."
    )


def test_the_report():
    found = kg.matches(made(), lambda x, dense, bn: bn(dense(x)), dense=DENSE, bn=BN)
    assert str(found) == (
        "1 match\n"
        "x      dense   bn\n"
        "relu1  dense2  bn\n\n"
        "1 near miss\n"
        "at     why not\n"
        "relu1  dense1 -> relu1 matches all but bn: relu1 is ReLU, expected BatchNormalization"
    )
    assert found.to_dict()["matches"] == [{"x": "relu1", "dense": "dense2", "bn": "bn"}]
    assert repr(found[0]) == "<Match x=relu1, dense=dense2, bn=bn>"
    assert [node.path for node in found[0].nodes] == ["dense2", "bn"]
    assert found[0]["dense"].units == 4 and found[0].outputs[0].path == "bn"
    assert "<table>" in found._repr_html_()


def test_a_call_with_another_setting_is_a_near_miss():
    x = keras.Input((4,), name="x")
    model = keras.Model(x, ops.relu(ops.sum(ops.relu(x), axis=1)), name="sums")
    found = kg.matches(model, lambda x: ops.relu(ops.sum(x, axis=0)))
    ((path, why),) = found.near
    assert (
        path.startswith("relu") and "is Sum(axis=[1], keepdims=False), expected Sum(axis=[0]" in why
    )


@pytest.mark.parametrize("pattern", [lambda x: ops.relu(x), lambda x: 1 / 0, lambda x: x.shape])
def test_keras_is_as_it_was_after_a_pattern_is_written_down(pattern):
    before = keras.Operation.symbolic_call, keras.Layer.__call__
    filtering = keras.config.is_traceback_filtering_enabled()
    with contextlib.suppress(kg.EditError):
        kg.matches(made(), pattern)
    assert (keras.Operation.symbolic_call, keras.Layer.__call__) == before
    assert keras.config.is_traceback_filtering_enabled() == filtering
    assert ops.relu(keras.Input((3,))).shape == (None, 3)


class Two(layers.Layer):
    """Gives two values that need both inputs."""

    def __init__(self, first, **given):
        super().__init__(**given)
        self.first = first

    def call(self, x, y):
        h = self.first(x)
        return h, h + y


@pytest.mark.parametrize("between", [0, 1])
def test_matches_that_need_outputs_of_each_other(between):
    x = keras.Input((4,), name="x")
    h = [layers.Dense(4, name=f"d{i}")(x) for i in (1, 2)]
    far = [layers.ReLU(name=f"f{i}")(y) if between else y for i, y in zip((1, 2), h, strict=True)]
    sums = [
        layers.Add(name=f"a{i}")([one, other])
        for i, one, other in zip((1, 2), h, far[::-1], strict=True)
    ]
    model = keras.Model(x, [*sums, *h], name="ring")

    def pattern(x, y, d, a):
        h = d(x)
        return h, a([h, y])

    kinds = {"d": layers.Dense, "a": layers.Add}
    put = lambda x, y, d: Two(d)(x, y)  # noqa: E731
    text = refused(lambda _: kg.rewrite(model, pattern, put, **kinds))
    assert "read outputs of each other" in text and "'a1'" in text and "'a2'" in text
    assert "by where=" in text
    new = kg.rewrite(model, pattern, put, where=lambda d: d.name == "d1", **kinds)
    data = random_inputs(model)
    for one, other in zip(new(data), model(data), strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (one, other)))


def test_one_value_given_twice_is_replaced_by_one():
    x = keras.Input((4,), name="x")
    model = keras.Model(x, layers.ReLU(name="r")(x), name="model")

    def twice(x, r):
        y = r(x)
        return y, y

    kinds = {"r": layers.ReLU}
    text = refused(lambda _: kg.rewrite(model, twice, lambda x: (x + 1, x + 2), **kinds))
    assert "gives 'r' as its outputs 0 and 1, and the replacement gives two values" in text
    new = kg.rewrite(model, twice, lambda x: ((y := x + 1), y), **kinds)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(new(np.ones((1, 4)))), 2)
