"""`gradients`: against the backend's own by hand, finite differences, and what is refused."""

import re

import keras
import numpy as np
import pytest
from donor import arrays, equal, unchanged
from inside_by_hand import gradient_by_hand
from keras import layers, ops
from models import masked, mixed, residual, several, siamese

import keras_graft as kg
from keras_graft.testing import random_inputs


@pytest.mark.parametrize("at", ["stem", "add0", "bn1", "add1", "pool", "image"])
def test_a_gradient_at_a_cut_is_that_of_the_part_behind_it(at, tmp_path):
    model = residual()

    def compare(x):
        found = kg.gradients(model, x, at, of=2)
        if at == "image":
            value, head = x, model
        else:
            value = kg.submodel(model, outputs=at)(x, training=False)
            head = kg.submodel(model, inputs=[at] if at != "bn1" else ["bn1", "add0"])

        def run(tensor):
            rest = [tensor] if at != "bn1" else [tensor, kg.record(model, x, "add0")["add0"]]
            return ops.sum(head(rest if at != "image" else tensor, training=False)[:, 2])

        by_hand = gradient_by_hand(run, value)
        np.testing.assert_allclose(arrays(found.values)[0], by_hand, rtol=1e-4, atol=1e-6)
        equal(found.activations, value)
        equal(found.outputs, model(x, training=False))

    with unchanged(model, tmp_path) as x:
        compare(x)


def test_finite_differences():
    x = keras.Input((3,), name="x")
    h = layers.Dense(4, activation="tanh", name="h")(x)
    y = layers.Dense(2, activation="softmax", name="y")(ops.add(h, ops.sin(h)))
    model = keras.Model(x, y)
    data = random_inputs(model, 2)
    found = arrays(kg.gradients(model, data, "h", of=1).values)[0]
    patched = kg.patch(model, {"h": kg.Given("push", lambda tensor, push: tensor + push)})
    step = 1e-2
    for sample in range(2):
        for unit in range(4):
            push = np.zeros((2, 4), "float32")
            push[sample, unit] = step
            up, down = (
                arrays(patched([data, ops.convert_to_tensor(push * sign)]))[0][:, 1].sum()
                for sign in (1, -1)
            )
            np.testing.assert_allclose(found[sample, unit], (up - down) / (2 * step), atol=2e-3)


def test_the_forms_of_a_target():
    model = residual()
    x = random_inputs(model, 4)
    single = [arrays(kg.gradients(model, x, "add0", of=c).values)[0] for c in range(3)]
    classes = np.array([2, 0, 1, 1])
    mixed_ = arrays(kg.gradients(model, x, "add0", of=classes).values)[0]
    for i, c in enumerate(classes):
        np.testing.assert_allclose(mixed_[i], single[c][i], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(
        arrays(kg.gradients(model, x, "add0", of=-1).values)[0], single[2]
    )
    largest = arrays(model(x, training=False))[0].argmax(-1)
    equal(kg.gradients(model, x, "add0").values, kg.gradients(model, x, "add0", of=largest).values)
    by_function = kg.gradients(model, x, "add0", of=lambda y: y[:, 1])
    np.testing.assert_allclose(arrays(by_function.values)[0], single[1], rtol=1e-5, atol=1e-7)
    scalar = kg.gradients(model, x, "add0", of=lambda y: ops.sum(y[:, 1]) * 2.0)
    np.testing.assert_allclose(arrays(scalar.values)[0], 2 * single[1], rtol=1e-5, atol=1e-7)


def test_several_values_in_a_row_have_the_whole_gradient():
    """A later value does not hide the way from an earlier one."""
    model = residual()
    x = random_inputs(model, 2)
    found = kg.gradients(model, x, ["stem", "add0", "add1"], of=0)
    assert list(found.values) == ["stem", "add0", "add1"] == list(found.activations)
    for name in found.values:
        alone = kg.gradients(model, x, name, of=0)
        np.testing.assert_allclose(
            arrays(found.values[name])[0], arrays(alone.values)[0], rtol=1e-5, atol=1e-7
        )
        equal(found.activations[name], alone.activations)
    assert "stem   (2, 8, 8, 4)" in str(found)


def test_an_embedding_has_a_gradient_and_its_ids_have_none():
    model = masked()
    x = random_inputs(model, 3)
    found = kg.gradients(model, x, "embed", of=1)
    assert found.values.shape == (3, 7, 6)
    patched = kg.patch(model, {"embed": kg.Given("given", lambda tensor, given: tensor + given)})

    def run(tensor):
        return ops.sum(patched([x, tensor], training=False)[:, 1])

    by_hand = gradient_by_hand(run, ops.zeros((3, 7, 6)))
    np.testing.assert_allclose(arrays(found.values)[0], by_hand, rtol=1e-4, atol=1e-7)
    assert np.abs(by_hand).max() > 0
    with pytest.raises(kg.RunError, match=r"only a float has a gradient.* at=\"embed\"") as caught:
        kg.gradients(model, x, "ids", of=1)
    kg.gradients(model, x, re.search(r'at="(\w+)"', str(caught.value))[1], of=1)


def test_a_frozen_model_has_gradients():
    model = residual()
    x = random_inputs(model, 2)
    wanted = arrays(kg.gradients(model, x, "add0", of=1).values)[0]
    model.trainable = False
    found = kg.gradients(model, x, "add0", of=1)
    np.testing.assert_allclose(arrays(found.values)[0], wanted, rtol=1e-5, atol=1e-7)
    frozen = kg.gradients(kg.freeze(model), x, "add0", of=1)
    np.testing.assert_allclose(arrays(frozen.values)[0], wanted, rtol=1e-5, atol=1e-7)


def test_inside_nested_models_and_each_call_of_a_shared_one():
    model = siamese()
    x = random_inputs(model, 3)
    found = kg.gradients(model, x, "encoder/d0", of=0)
    assert list(found.values) == ["encoder#0/d0", "encoder#1/d0"]
    for i in range(2):
        alone = kg.gradients(model, x, f"encoder#{i}/d0", of=0)
        equal(alone.values, found.values[f"encoder#{i}/d0"])
    assert not np.array_equal(*(arrays(v)[0] for v in found.values.values()))


def test_several_outputs_and_an_unused_way():
    model = several()
    x = random_inputs(model, 2)
    found = kg.gradients(model, x, ["l", "left", "right"], of=lambda y: y["sum"][:, 0])
    assert set(found.outputs) == {"sum", "aux"}
    assert found.values["right"].shape == (2, 3)
    none = kg.gradients(model, x, "l", of=lambda y: y["aux"][1][:, 0])
    assert not arrays(none.values)[0].any()
    with pytest.raises(kg.RunError, match="Give a function of the outputs: of=lambda outputs"):
        kg.gradients(model, x, "l", of=0)


def test_half_precision():
    model = mixed()
    x = random_inputs(model, 2)
    found = kg.gradients(model, x, "half", of=0)
    assert keras.backend.standardize_dtype(found.values.dtype) == "bfloat16"
    kernels = [arrays(model.get_layer(name).kernel)[0] for name in ("half2", "full")]
    wanted = (kernels[0] @ kernels[1])[:, 0]
    values = arrays(ops.cast(found.values, "float32"))[0]
    np.testing.assert_allclose(values, np.broadcast_to(wanted, values.shape), rtol=0.02, atol=0.01)


REFUSED = {
    "word": (dict(of="a"), "is no class, no array of classes and no function"),
    "float": (dict(of=1.5), "is no class"),
    "bool": (dict(of=True), "is no class"),
    "range": (dict(of=3), "of=3, and there are 3 classes"),
    "below": (dict(of=-4), "of=-4, and there are 3 classes"),
    "count": (dict(of=[0, 1, 2]), "of= has 3 classes, and there are 2 samples"),
    "rank": (dict(of=lambda y: y), "returns shape (2, 3); it returns one number for each sample"),
    "none": (dict(of=lambda y: None), "returns None"),
    "raises": (dict(of=lambda y: y.foo), "gradients: the run raised AttributeError"),
}  # fmt: skip


@pytest.mark.once
@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal(case, tmp_path):
    given, words = REFUSED[case]
    model = residual()
    with unchanged(model, tmp_path):
        with pytest.raises(kg.RunError, match=re.escape(words)) as caught:
            kg.gradients(model, np.ones((2, 8, 8, 3)), "add0", **given)
        del caught


@pytest.mark.once
def test_a_value_that_nothing_needs():
    graph = kg.read(residual())
    head = graph.replace(outputs=[kg.select(graph, "add0").values[0]])
    with pytest.raises(kg.RunError, match="no output of 'residual' needs 'add1'"):
        kg.gradients(head, np.ones((2, 8, 8, 3)), "add1", of=ops.sum)
