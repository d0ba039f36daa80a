"""Weights of models with LoRA adapters: one result from a live model and from either kind of file."""

import keras
import numpy as np
import pytest
from donor import arrays, equal
from keras import layers
from weights import by_address

import keras_graft as kg

LAYERS = {
    "dense": lambda: layers.Dense(3, name="d"),
    "embedding": lambda: layers.Embedding(7, 3, name="d"),
    "einsum": lambda: layers.EinsumDense("ab,bc->ac", 3, bias_axes="c", name="d"),
}


def model(kind, rank=None, alpha=None):
    x = keras.Input((4,), name="x")
    y = layers.Dense(4, name="first")(x) if kind != "embedding" else x
    layer = LAYERS[kind]()
    made = keras.Model(x, layers.Dense(2, name="last")(layer(y)), name="net")
    if rank:
        layer.enable_lora(rank, lora_alpha=alpha)
    return made


def trained(kind, rank=2, alpha=5.0):
    made = model(kind, rank, alpha)
    rng = np.random.default_rng(1)
    for weight in made.weights:
        weight.assign(rng.normal(size=weight.shape))
    return made


def sources(kind, folder):
    """Return the same trained model: as it lives, and as the files that Keras writes of it."""
    live = trained(kind)
    live.save(folder / "m.keras")
    live.save_weights(folder / "m.weights.h5")
    return {"live": live, "keras": folder / "m.keras", "h5": folder / "m.weights.h5"}


DATA = np.arange(12).reshape(3, 4).astype("float32") % 7


def close(a, b):
    for left, right in zip(arrays(a), arrays(b), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("match", ["name", "order"])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_target_without_adapters_gets_what_they_make(kind, match, strict, tmp_path):
    found = {}
    for name, source in sources(kind, tmp_path).items():
        if match == "order" and name == "h5":  # which holds no order
            continue
        target = model(kind)
        report = kg.transplant(source, target, match=match, strict=strict)
        assert not (report.missing or report.unused or report.mismatched)
        found[name] = by_address(target)
        close(target(DATA), trained(kind)(DATA))
        if name == "live":
            (row,) = (m for m in report.moved if m.rule)
            assert row.rule == "merged with its LoRA adapters" and row.target.startswith("d/")
            assert "merged with its LoRA adapters" in str(report)
    for values in found.values():
        assert values.keys() == found["live"].keys()
        for address, value in values.items():
            np.testing.assert_array_equal(value, found["live"][address])
    live = trained(kind)  # and the source stays as it was
    before = arrays(live.weights)
    kg.transplant(live, model(kind))
    equal(live.weights, before)


@pytest.mark.parametrize("name", ["live", "keras", "h5"])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("rank", "alpha"), [(2, 5.0), (3, 5.0), (2, 1.0)])
def test_a_target_with_adapters_of_its_own(kind, name, rank, alpha, tmp_path):
    source = sources(kind, tmp_path)[name]
    target = model(kind, rank, alpha)
    before = {a: v for a, v in by_address(target).items() if "lora" in a}
    report = kg.transplant(source, target)
    close(target(DATA), trained(kind)(DATA))
    now = {a: v for a, v in by_address(target).items() if "lora" in a}
    if name == "live" and (rank, alpha) == (2, 5.0):  # adapters to adapters, as they are
        assert sum("lora" in m.target for m in report.moved) == 2 and not report.idle
        for address, value in by_address(trained(kind)).items():
            np.testing.assert_array_equal(by_address(target)[address], value)
    else:
        assert set(report.idle) == set(before) and "adapters that add nothing" in str(report)
        for address, value in before.items():  # they may learn: only one of the two is nothing
            np.testing.assert_array_equal(now[address], value)
        assert any(v.any() for v in now.values())


def test_adapters_of_the_target_that_add_something_are_missed(tmp_path):
    for source in (model("dense"), trained("dense", rank=3)):
        target = trained("dense")
        before = arrays(target.weights)
        with pytest.raises(kg.WeightsError, match="'d/lora_kernel_a', 'd/lora_kernel_b'"):
            kg.transplant(source, target)
        equal(target.weights, before)
        report = kg.transplant(source, target, strict=False)
        assert set(report.missing) == {"d/lora_kernel_a", "d/lora_kernel_b"}


@pytest.mark.parametrize("strict", [True, False])
def test_adapters_of_a_quantized_layer_are_not_dropped(strict, tmp_path):
    source, target = trained("dense"), model("dense")
    source.get_layer("d").quantize("int8")
    target.get_layer("d").quantize("int8")
    before = arrays(target.weights)
    with pytest.raises(
        kg.WeightsError, match=r"(?s)'d/kernel' of the source has LoRA.*give the fi"
    ):
        kg.transplant(source, target, strict=strict)
    equal(target.weights, before)
    source.save(tmp_path / "q.keras")  # the way out
    kg.transplant(tmp_path / "q.keras", target, strict=strict)
    again = keras.models.load_model(tmp_path / "q.keras")
    equal(target(DATA), again(DATA))


def test_a_part_and_a_function():
    source, target = trained("dense"), model("dense")
    match = {"d/kernel": "d/kernel", "d/bias": "d/bias"}.get
    report = kg.transplant(source, target, match=lambda a, v: match(a), keep=["first", "last"])
    assert not report.unused and len(report.moved) == 2
    equal(target.get_layer("d").kernel, source.get_layer("d").kernel)
    # What no target has stays out with its adapters.
    x = keras.Input((4,), name="x")
    small = keras.Model(x, layers.Dense(4, name="first")(x))
    report = kg.transplant(source, small, strict=False)
    assert [m.target for m in report.moved] == ["first/kernel", "first/bias"]


def test_a_stage_without_the_source_of_its_tie():
    x = keras.Input((4,), name="x")
    y = layers.Dense(4, name="b")(layers.Dense(4, name="a")(x))
    tied = kg.tie(keras.Model(x, y), "b/kernel", "a/kernel")
    tied.get_layer("a").enable_lora(2)
    tied.get_layer("a").lora_kernel_b.assign(np.ones((2, 4)))
    _, head = kg.split(tied, at="a")
    x = keras.Input((4,), name="x")
    plain = keras.Model(x, layers.Dense(4, name="b")(x))
    kg.transplant(head, plain)
    equal(plain.get_layer("b").kernel, tied.get_layer("a").kernel)
