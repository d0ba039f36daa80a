"""The counts against JAX: each product of a call in its jaxpr, and XLA's own cost analysis."""

import math

import keras
import pytest
import rule_cases

import keras_graft as kg

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="XLA runs on JAX")


def function_of(model):
    # The weights are arguments: XLA folds constants.
    return lambda trained, rest, *x: model.stateless_call(
        trained, rest, list(x) if len(x) > 1 else x[0]
    )[0]


def arrays(model):
    inputs = [keras.ops.ones((1, *v.shape[1:]), v.dtype) for v in model.inputs]
    weights = model.trainable_variables, model.non_trainable_variables
    return [*([v.value for v in part] for part in weights), *inputs]


def products(jaxpr):
    """Return the multiply-adds of the products and convolutions in a jaxpr."""
    total = 0
    for step in jaxpr.eqns:
        name, given = step.primitive.name, [v.aval.shape for v in step.invars]
        if name == "dot_general":
            (left, _), _ = step.params["dimension_numbers"]
            total += math.prod(step.outvars[0].aval.shape) * math.prod(given[0][i] for i in left)
        elif name == "conv_general_dilated":
            numbers = step.params["dimension_numbers"]
            kernel = math.prod(given[1][i] for i in numbers.rhs_spec[1:])
            if math.prod(step.params["lhs_dilation"]) > 1:  # transposed: zeros between the values
                places = math.prod(given[0])
                kernel = math.prod(given[1]) // given[1][numbers.rhs_spec[1]]
                total += places * kernel
            else:
                total += math.prod(step.outvars[0].aval.shape) * kernel
        times = step.params.get("length", 1) if name == "scan" else 1
        for inner in step.params.values():
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                total += times * products(inner)
    return total


@pytest.mark.parametrize("case", rule_cases.CASES, ids=lambda case: case[0])
def test_the_products_in_the_program_are_those_that_the_rules_count(case):
    import jax
    from test_rules import model_of

    name, function, shapes, wanted, _ = case
    if name == "op_transpose":
        pytest.skip("Keras 3.15 does not run ops.conv_transpose in a model on JAX")
    model = model_of(function, shapes)
    found = products(jax.make_jaxpr(function_of(model))(*arrays(model)).jaxpr)
    if name == "rnn_cells":  # Keras traces stacked cells once more, outside of the loop
        wanted += wanted // 6
    assert found == wanted


FEW = ["conv2d_same", "conv1d_causal", "transpose2d_same", "dense", "multi_head", "op_conv"]


@pytest.mark.parametrize("name", FEW)
def test_xla_counts_what_is_left_without_padding(name):
    import jax
    from test_rules import model_of

    _, function, shapes, wanted, padding = next(c for c in rule_cases.CASES if c[0] == name)
    model = model_of(function, shapes)
    said = jax.jit(function_of(model)).lower(*arrays(model)).compile().cost_analysis()
    said = said[0] if isinstance(said, list) else said
    total = kg.costs(model).total
    ours = 2 * (wanted - padding) + total.operations
    assert said["flops"] + said.get("transcendentals", 0) == pytest.approx(ours, rel=0.05)


@pytest.mark.parametrize("name", ["MobileNet", "ResNet50", "EfficientNetB0"])
def test_applications_agree_with_xla_within_five_percent(name):
    import jax

    model = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3))
    said = jax.jit(function_of(model)).lower(*arrays(model)).cost_analysis()
    total = kg.costs(model).total
    ours = total.flops - 2 * total.padding
    assert said["flops"] + said.get("transcendentals", 0) == pytest.approx(ours, rel=0.05)
