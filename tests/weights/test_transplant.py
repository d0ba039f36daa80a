"""transplant: what goes over between models, to the bit; what does not, by its words."""

import json

import keras
import numpy as np
import pytest
from donor import arrays, equal, unchanged
from keras import layers
from tied import language
from weights import Twins, nested, outputs_equal, refused, small, values

import keras_graft as kg

BF16 = "bfloat16"


# by name


def test_a_model_made_again_takes_all_by_automatic_names(tmp_path):
    source = nested()
    paths = [w.path for w in source.weights]
    assert len(set(paths)) < len(paths)  # Keras's own paths tell no weights apart here
    layers.Dense(3)  # the numbers of the second model are not those of the first
    target = nested()
    names = [{layer.name for layer in m.layers} - {"d", "out"} for m in (source, target)]
    assert not names[0] & names[1]
    seeds = [v for v in target.variables if not any(v is w for w in target.weights)]
    before = arrays(seeds)
    with unchanged(source, tmp_path):
        report = kg.transplant(source, target)
    outputs_equal(source, target)
    equal([w.value for w in source.weights], [w.value for w in target.weights])
    equal(before, seeds)
    assert len(report.moved) == len(target.weights) == 21
    assert len({m.target for m in report.moved}) == 21
    assert report.to_dict() == json.loads(json.dumps(report.to_dict()))
    # No memory is shared: training the target leaves the source.
    kept = values(source)
    target.compile("sgd", "mse")
    target.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)
    equal(kept, values(source))


def numbered(*numbers):
    """Return a model of Dense layers that Keras named so: 0 is `dense`."""
    names = ["dense" if n == 0 else f"dense_{n}" for n in numbers]
    return keras.Sequential([keras.Input((2,)), *(layers.Dense(2, name=n) for n in names)])


@pytest.mark.parametrize(
    "source, target, expected",
    [
        ((0, 1, 2), (3, 4, 5), {3: 0, 4: 1, 5: 2}),  # made again
        ((0, 1, 2), (1, 2, 3), {1: 1, 2: 2}),  # edited or made again, nobody knows: see below
        ((0, 1, 9), (2, 3, 12), {2: 0, 3: 1, 12: 9}),  # other layers between
        ((9, 10), (11, 12), {11: 9, 12: 10}),  # numbers, not text
        ((0, 1, 2, 3), (1, 3), {1: 1, 3: 3}),  # a part of the same model
        ((1, 3), (0, 1, 2, 3), {1: 1, 3: 3}),
        ((0, 1, 2, 3), (0, 2, 3, 4), {0: 0, 2: 2, 3: 3}),  # edited: one gone, one new
        ((2, 0, 1), (0, 2, 1), {0: 0, 2: 2, 1: 1}),
    ],
)
def test_automatic_numbers(source, target, expected):
    source, target = numbered(*source), numbered(*target)
    report = kg.transplant(source, target, strict=False)
    found = {
        m.target.split("/")[0]: m.source.split("/")[0] for m in report.moved if "kernel" in m.target
    }
    name = lambda n: f"dense_{n}" if n else "dense"  # noqa: E731
    assert found == {name(t): name(s) for t, s in expected.items()}


def test_what_was_edited_or_made_again_is_not_guessed():
    source, target = numbered(0, 1, 2), numbered(1, 2, 3)
    text = refused(source, target)
    assert "Without a source, 2 of the target: 'dense_3/kernel'" in text
    assert "Unused, 2 of the source: 'dense/kernel'" in text
    assert "match='order' if Keras gave the layers new names" in text
    kg.transplant(source, target, match="order")
    equal(source.get_weights(), target.get_weights())
    edited = kg.remove(source, "dense")
    edited = kg.clone(kg.insert(edited, layers.Dense(2, name="dense_3"), after="dense_2"))
    kg.transplant(source, edited, strict=False)
    for name in ("dense_1", "dense_2"):
        equal(source.get_layer(name).get_weights(), edited.get_layer(name).get_weights())


@pytest.mark.parametrize("source, target, value, says", [
    ("float64", "float32", 1e300, r"float32, which ends at 3.40282e\+38, and 2 of its 6"),
    ("float32", "bfloat16", 3.4e38, r"bfloat16, which ends at 3.38953e\+38"),
    ("float64", "float16", -7e4, "float16, which ends at 65504.* up to -70000"),
])  # fmt: skip
def test_numbers_beyond_the_dtype_of_the_target(source, target, value, says):
    if keras.backend.backend() == "jax" and (source, target) == ("float64", "float32"):
        pytest.skip("JAX keeps float64 as float32, unless it is told otherwise")
    a, b = (
        keras.Sequential([keras.Input((2,)), layers.Dense(3, name="d", dtype=dtype)])
        for dtype in (source, target)
    )
    kernel = np.zeros((2, 3))
    kernel[:, 1] = value
    a.set_weights([kernel, np.zeros(3)])
    before = arrays(b.weights)
    with pytest.raises(kg.WeightsError, match=says):
        kg.transplant(a, b)
    equal(before, b.weights)
    a.set_weights([np.where(kernel, np.inf, 0), np.zeros(3)])
    kg.transplant(a, b)


class Counts(layers.Layer):
    def __init__(self, kind, **kwargs):
        super().__init__(**kwargs)
        self.kind = kind

    def build(self, shape):
        self.count = self.add_weight(
            shape=(2,), initializer="zeros", dtype=self.kind, trainable=False, name="count"
        )

    def call(self, x):
        return x


@pytest.mark.parametrize("source, target, value", [("int32", "int8", 300), ("int8", "uint8", -1)])
def test_whole_numbers_do_not_wrap(source, target, value):
    a, b = (keras.Sequential([keras.Input((2,)), Counts(k, name="c")]) for k in (source, target))
    a.get_layer("c").count.assign([value, 1])
    with pytest.raises(kg.WeightsError, match=rf"is {target}, which ends at \d+.* up to {value}"):
        kg.transplant(a, b)
    a.get_layer("c").count.assign([7, 1])
    kg.transplant(a, b)
    assert arrays(b.get_layer("c").count)[0].tolist() == [7, 1]


def test_names_that_a_person_gave_are_names():
    source = keras.Sequential([keras.Input((2,)), *(layers.Dense(2, name=f"b_{i}") for i in "12")])
    target = keras.Sequential([keras.Input((2,)), *(layers.Dense(2, name=f"b_{i}") for i in "23")])
    report = kg.transplant(source, target, strict=False)
    assert [(m.source, m.target) for m in report.moved][::2] == [("b_2/kernel", "b_2/kernel")]
    assert report.missing == ("b_3/kernel", "b_3/bias")
    assert report.unused == ("b_1/kernel", "b_1/bias")


def test_two_layers_of_one_name_go_by_their_order():
    def model():
        return keras.Sequential([keras.Input((4,)), Twins(name="t")])

    source, target = model(), model()
    report = kg.transplant(source, target)
    outputs_equal(source, target)
    assert [m.target for m in report.moved] == [
        "t/d/kernel", "t/d/bias", "t/d/kernel#1", "t/d/bias#1",
    ]  # fmt: skip


def test_variables_without_names_go_by_their_order():
    class Bare(layers.Layer):
        def build(self, shape):
            self.one = keras.Variable(keras.random.normal((4,)))
            self.two = keras.Variable(keras.random.normal((4,)))

        def call(self, x):
            return x * self.one + self.two

    source, target = (keras.Sequential([keras.Input((4,)), Bare(name="bare")]) for _ in "ab")
    assert not {w.name for w in source.weights} & {w.name for w in target.weights}
    kg.transplant(source, target)
    outputs_equal(source, target)


def test_a_name_around_the_source_counts_nothing():
    inner = small()
    x = keras.Input((4,))
    outer = keras.Model(x, inner(x), name="outer")
    target = small()
    kg.transplant(outer, target)
    outputs_equal(inner, target)


def test_a_shared_layer_is_filled_once_and_may_fill_several():
    def model(count):
        x = keras.Input((3,), name="x")
        both = layers.Dense(3, name="d")
        encoders = []
        for name in "ab":
            i = keras.Input((3,))
            layer = both if count == 1 else layers.Dense(3, name="d")
            encoders.append(keras.Model(i, layer(i), name=name))
        return keras.Model(x, encoders[1](encoders[0](x)))

    one, two = model(1), model(2)
    assert len(kg.transplant(one, model(1)).moved) == 2
    kg.transplant(one, two)
    outputs_equal(one, two)
    # The other way there are two values for one weight.
    with pytest.raises(kg.WeightsError, match="Unused, 2 of the source: 'b/d/kernel', 'b/d/bias'"):
        kg.transplant(model(2), model(1))


def test_frozen_layers_take_and_give_weights():
    source, target = small(), small()
    frozen = kg.freeze(target, "hidden")
    report = kg.transplant(source, frozen)
    outputs_equal(source, frozen)
    assert [m.target for m in report.moved][0] == "hidden/kernel"
    again = small()
    kg.transplant(frozen, again)
    outputs_equal(source, again)
    # A frozen layer has the donor's very variables.
    assert len(kg.transplant(target, frozen).shared) == 4


def test_numbers_that_a_smaller_dtype_does_not_hold_are_refused():
    source, target = (
        keras.Sequential([keras.Input((2,)), layers.Dense(3, name="d", dtype=dtype)])
        for dtype in ("float32", "float16")
    )
    source.get_layer("d").bias.assign([1.0, np.inf, 65504.0])
    assert {m.cast for m in kg.transplant(source, target).moved} == {"float32 -> float16"}
    source.get_layer("d").bias.assign([1.0, -1e5, np.inf])
    before = arrays(target.weights)
    text = refused(source, target)
    assert "'d/bias' of the target is float16, which ends at 65504, and 1 of its 3" in text
    equal(before, target.weights)
    kg.transplant(source, target, keep="d/bias")


def test_a_tied_weight_is_one_weight():
    source = language()
    tied = kg.tie(source, "lm_head/kernel", "embedding/embeddings", "transpose")
    text = refused(kg.clone(source), tied)
    assert "Unused, 1 of the source: 'lm_head/kernel'" in text
    assert "In the target 'lm_head/kernel' is tied to 'embedding/embeddings': kg.untie" in text
    copy = kg.clone(tied, weights="fresh")
    report = kg.transplant(tied, copy)
    outputs_equal(tied, copy)
    assert [m.target for m in report.moved] == [
        "embedding/embeddings", "norm/gamma", "norm/beta", "lm_head/bias",
    ]  # fmt: skip
    for keep in ("lm_head", "lm_head/kernel"):
        text = refused(tied, copy, keep=keep)
        assert "keep= names 'lm_head/kernel', which is tied to 'embedding/embeddings'" in text
    assert kg.transplant(tied, copy, keep=["lm_head", "embedding"]).kept[-1] == "lm_head/bias"
    plain = kg.clone(source)
    text = refused(tied, plain)
    assert "Without a source, 1 of the target: 'lm_head/kernel'" in text
    assert "In the source 'lm_head/kernel' is tied to 'embedding/embeddings': kg.untie" in text
    untied = kg.untie(tied, "lm_head/kernel")
    kg.transplant(untied, plain)
    outputs_equal(untied, plain)


def test_a_tie_across_the_order_of_layers_is_still_the_owner_s():
    tied = kg.tie(language(), "embedding/embeddings", "lm_head/kernel", "transpose")
    copy = kg.clone(tied, weights="fresh")
    report = kg.transplant(tied, copy)
    outputs_equal(tied, copy)
    assert [m.target for m in report.moved][-2:] == ["lm_head/kernel", "lm_head/bias"]
    # A part that has the tied end alone has the weight there.
    part = kg.extract(tied, "norm")
    assert kg.transplant(tied, part, strict=False).shared[0].startswith("embedding/")


# other matches


def test_match_by_order_and_by_shape():
    source = keras.Sequential(
        [keras.Input((4,)), *(layers.Dense(4, name=n) for n in "ab"), layers.Dense(2, name="c")]
    )
    target = keras.Sequential(
        [keras.Input((4,)), *(layers.Dense(4, name=n) for n in "ef"), layers.Dense(2, name="g")]
    )
    kg.transplant(source, target, match="order")
    outputs_equal(source, target)
    target = small(4, 2)  # (4, 5), (5,), (5, 2), (2,)
    report = kg.transplant(source, target, match="shape", strict=False)
    assert [(m.source, m.target) for m in report.moved] == [("c/bias", "out/bias")]
    target = keras.Sequential(
        [keras.Input((4,)), layers.Dense(2), layers.Dense(4), layers.Dense(4)]
    )
    report = kg.transplant(source, target, match="shape", strict=False)
    assert [m.source for m in report.moved] == [
        "c/kernel",
        "c/bias",
        "a/bias",
        "a/kernel",
        "b/bias",
    ]


def test_match_by_order_needs_shapes_that_fit():
    text = refused(small(), small(out=2), match="order")
    assert "'out/kernel': (5, 3) in the source, (5, 2) in the target" in text


def test_match_by_a_function():
    source = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, name="one"), layers.Dense(3, name="two")]
    )
    target = small()
    names = {"hidden": "one", "out": "two"}

    def match(address, variable):
        assert any(variable is w for w in target.weights) and variable.path == address
        layer, weight = address.split("/")
        return f"{names[layer]}/{weight}" if layer in names else None

    kg.transplant(source, target, match=match)
    equal([w.value for w in source.weights], [w.value for w in target.weights])
    names["out"] = "tow"
    text = refused(source, target, match=match)
    assert "match= returned 'tow/kernel' for 'out/kernel'" in text
    assert "Nearest: 'two/kernel'" in text
    del names["out"]
    text = refused(source, target, match=match)
    assert "Without a source, 2 of the target: 'out/kernel', 'out/bias'." in text
    assert "match='path' is none of 'name', 'shape', 'order'" in refused(
        source, target, match="path"
    )


# refusals and reports


def test_strict_lists_what_is_left_on_both_sides():
    x = keras.Input((4,))
    y = layers.Dense(6, name="hidden")(x)
    source = keras.Model(x, layers.Dense(3, name="old")(y), name="source")
    text = refused(source, small())
    assert text.startswith("transplant: nothing is copied from 'source' to 'small'.")
    assert "Without a source, 2 of the target: 'out/kernel', 'out/bias'." in text
    assert "For a bias" not in text  # the kernel has no source either
    assert "Unused, 2 of the source: 'old/kernel', 'old/bias'." in text
    assert (
        "'hidden/kernel': (4, 6) in the source, (4, 5) in the target: "
        "resize=kg.resize.classes(keep) may fit." in text
    )
    assert "strict=False" not in text  # it would do nothing


def test_without_strict_what_does_not_fit_stays_and_is_told():
    source, target = small(out=2), small()
    before = values(target)
    report = kg.transplant(source, target, strict=False)
    equal(values(source)[:2], values(target)[:2])
    equal(before[2:], values(target)[2:])
    assert [m.target for m in report.moved] == ["hidden/kernel", "hidden/bias"]
    assert [m.target for m in report.mismatched] == ["out/kernel", "out/bias"]
    assert report.missing == report.unused == ()
    text = str(report)
    assert "'small' from 'small': 25 parameters" in text
    assert "out/kernel    out/kernel  (5, 2)  (5, 3)    other shape" in text
    assert "<table>" in report._repr_html_()


def test_keep_leaves_weights_on_both_sides():
    source, target = small(out=2), small()
    before = values(target)
    report = kg.transplant(source, target, keep="out")
    equal(before[2:], values(target)[2:])
    assert report.kept == ("out/kernel", "out/bias")
    assert "target: kept by keep=" in str(report)
    assert "keep= names 'oout'" in refused(source, target, keep=["out", "oout"])


def test_dtypes_are_cast_and_said():
    source, target = small(), small(dtype=BF16)
    report = kg.transplant(source, target)
    assert [m.cast for m in report.moved] == ["float32 -> bfloat16"] * 2 + [None] * 2
    expected = keras.ops.cast(source.weights[0].value, BF16)
    equal(expected, target.weights[0].value)
    assert "float32 -> bfloat16" in str(report)
    back = small()
    kg.transplant(target, back)
    equal(keras.ops.cast(expected, "float32"), back.weights[0].value)


def test_quantized_weights_go_over_to_the_same_layout_only(tmp_path):
    source, target = small(), small()
    source.quantize("int8")
    text = refused(source, target)
    assert "quantized (int8) in the source, not quantized in the target" in text
    assert "not quantized in the source, quantized (int8) in the target" in refused(small(), source)
    source.save_weights(tmp_path / "q.weights.h5")
    assert "int8 in the source, float32 in the target" in refused(tmp_path / "q.weights.h5", target)
    target.quantize("int8")
    kg.transplant(source, target)
    outputs_equal(source, target)
    other = small()
    other.quantize("int8")
    kg.transplant(tmp_path / "q.weights.h5", other)
    outputs_equal(source, other)


def test_what_both_have_is_left_and_a_source_never_changes():
    source = small()
    trunk = kg.extract(source, "hidden")
    report = kg.transplant(source, trunk, strict=False)
    assert report.shared == ("hidden/kernel", "hidden/bias") and report.moved == ()
    head = kg.replace(source, "out", layers.Dense(3, name="new"))
    match = lambda address, variable: {"hidden/bias": "hidden/bias#"}.get(address)  # noqa: E731
    assert "no such weight" in refused(source, head, match=match)

    def crossed(address, variable):
        return "out/bias" if address == "hidden/bias" else None

    text = refused(small(out=5), small(out=5), match=lambda a, v: None)
    assert "Without a source, 4" in text
    source = small(out=5)
    head = kg.replace(source, "out", layers.Dense(3, name="new"))
    text = refused(source, head, match=crossed, strict=False)
    assert "'hidden/bias' of the target is also a variable of the source" in text
    assert "'out/bias'" in text


def test_what_is_no_model_is_refused():
    with pytest.raises(
        kg.WeightsError, match="the source must be a Keras model or layer, or the path"
    ):
        kg.transplant(3, small())
    with pytest.raises(kg.WeightsError, match="the target must be a Keras model or layer, got str"):
        kg.transplant(small(), "small.keras")
    with pytest.raises(kg.WeightsError, match="the target 'd' is not built"):
        kg.transplant(small(), layers.Dense(2, name="d"))


def test_values_that_a_failed_step_took():
    source, target = small(), small()
    variable = source.weights[0]
    value, variable._value = variable._value, None
    text = (
        "'hidden/kernel' of the source has no value: it was lost in training with an optimizer made"
    )
    assert text in refused(source, target)
    variable._value = value


def test_layers_are_taken_as_well_as_models():
    source, target = small(), small()
    kg.transplant(source.get_layer("out"), target.get_layer("out"))
    equal([w.value for w in source.weights][2:], [w.value for w in target.weights][2:])


def test_normalization_computes_with_what_it_got():
    def model():
        return keras.Sequential([keras.Input((3,)), layers.Normalization(name="norm")])

    source, target = model(), model()
    source.layers[0].adapt(np.random.default_rng(0).normal(3, 2, (50, 3)))
    assert not np.array_equal(*(arrays(m(np.ones((1, 3)))) for m in (source, target)))
    kg.transplant(source, target)
    outputs_equal(source, target)


def test_a_kept_weight_has_its_source_wherever_that_is():
    def pair(*names):
        return keras.Sequential([keras.Input((3,)), *(layers.Dense(3, name=n) for n in names)])

    source, target = pair("a", "b"), pair("c", "d")
    before = arrays(target.get_layer("d").weights)
    for match in ("order", lambda address, v: address.replace("c/", "a/").replace("d/", "b/")):
        report = kg.transplant(source, target, match=match, keep="d")
        assert report.kept == ("d/kernel", "d/bias") and not report.unused
        equal(source.get_layer("a").weights, target.get_layer("c").weights)
        equal(before, target.get_layer("d").weights)


def test_a_name_with_brackets_names_itself():
    source, target = (
        keras.Sequential(
            [keras.Input((3,)), layers.Dense(3, name="b[0]"), layers.Dense(2, name="c")]
        )
        for _ in range(2)
    )
    before = arrays(target.get_layer("b[0]").weights)
    assert len(kg.transplant(source, target, keep="b[0]").kept) == 2
    equal(before, target.get_layer("b[0]").weights)


def test_what_is_no_argument_is_said():
    source, target = small(), small()
    before = values(target)
    for keep in (5, [layers.Dense(2)], [None]):
        assert "keep= holds" in refused(source, target, keep=keep)
    assert "resize= holds 5, which is not a rule" in refused(source, target, resize=5)
    assert "resize.bias itself. Call it for a rule: kg.resize.bias(" in refused(
        source, target, resize=kg.resize.bias
    )
    assert "match= returned ['a'] for" in refused(source, target, match=lambda address, v: ["a"])
    equal(before, target.weights)
