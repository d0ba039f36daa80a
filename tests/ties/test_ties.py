"""One variable for two layers: what is computed, counted and trained, and what is refused."""

import keras
import numpy as np
import pytest
from donor import arrays, equal, loads_alone, unchanged
from keras import layers
from tied import CASES, language, recurrent, target_like, train, two_models

import keras_graft as kg
from keras_graft import _keras
from keras_graft import ties as _ties
from keras_graft.testing import random_inputs
from keras_graft.weights.find import find_weight

ENDS = ("lm_head/kernel", "embedding/embeddings")


def ends(model, target, source):
    graph = kg.read(model)
    return find_weight(graph, target, "test"), find_weight(graph, source, "test")


def turned(array, transform):
    return np.swapaxes(array, -1, -2) if transform else array


@pytest.mark.parametrize(("make", "target", "source", "transform"), CASES.values(), ids=CASES)
def test_a_tie_is_one_variable(make, target, source, transform, tmp_path):
    model = make()
    before, of = ends(model, target, source)
    size = int(np.prod(before.variable.shape))
    with unchanged(model, tmp_path) as x:
        tied = kg.tie(model, target, source, transform=transform)
        assert tied.count_params() == model.count_params() - size
        assert len(tied.weights) == len(model.weights) - 1
        assert not any(w is before.variable for w in tied.weights)
        assert any(w is of.variable for w in tied.weights)
        # All the rest is the donor's.
        assert {id(w) for w in tied.weights} < {id(w) for w in model.weights}
        # It computes what the donor would, had it the source's values at the target.
        twin = kg.clone(model)
        at, _ = ends(twin, target, source)
        at.variable.assign(np.array(turned(arrays(of.variable)[0], transform), order="C"))
        for a, b in zip(arrays(tied(x)), arrays(twin(x)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        del tied, twin, at


@pytest.mark.parametrize(("make", "target", "source", "transform"), CASES.values(), ids=CASES)
def test_training_moves_both_ends_as_one(make, target, source, transform):
    tied = kg.tie(kg.clone(make()), target, source, transform=transform)
    x = random_inputs(tied, 4)
    train(tied, x, target_like(tied, x), steps=2)
    to, of = ends(tied, target, source)
    assert to.variable is of.variable
    (tie,) = _ties.ties_of(to.layer)
    equal(tie.seen.value, turned(arrays(of.variable)[0], transform))
    # Adam keeps two numbers for each that it trains, and counts its steps.
    trained = sum(int(np.prod(v.shape)) for v in tied.trainable_variables)
    slots = [v for v in tied.optimizer.variables if len(v.shape)]
    assert sum(int(np.prod(v.shape)) for v in slots) == 2 * trained
    if keras.backend.backend() == "torch":
        known = {id(p) for p in tied.parameters()}
        assert known == {id(v.value) for v in tied.variables}


@keras.saving.register_keras_serializable("test")
class ByHand(keras.Model):
    """A language model whose matrix is one variable, written as one would by hand."""

    def __init__(self, bias: bool = True):
        super().__init__()
        self.matrix = self.add_weight(shape=(11, 4), name="matrix")
        self.gamma = self.add_weight(shape=(4,), name="gamma", initializer="ones")
        self.beta = self.add_weight(shape=(4,), name="beta", initializer="zeros")
        self.bias = self.add_weight(shape=(11,), name="bias", initializer="zeros")

    def call(self, ids):
        h = keras.ops.take(self.matrix, ids, axis=0)
        mean, variance = keras.ops.moments(h, axes=[-1], keepdims=True)
        h = (h - mean) / keras.ops.sqrt(variance + 1e-3) * self.gamma + self.beta
        return keras.ops.matmul(h, keras.ops.transpose(self.matrix)) + self.bias


def unmasked():
    ids = keras.Input((5,), dtype="int32", name="ids")
    x = layers.LayerNormalization(name="norm")(layers.Embedding(11, 4, name="embedding")(ids))
    return keras.Model(ids, layers.Dense(11, name="lm_head")(x))


@pytest.mark.parametrize("optimizer", [keras.optimizers.SGD, keras.optimizers.Adam])
def test_the_update_is_that_of_a_model_with_one_variable(optimizer):
    tied = kg.tie(unmasked(), *ENDS, transform="transpose")
    hand = ByHand()
    x = np.arange(20).reshape(4, 5) % 11
    hand(x)
    start = {"matrix": "embedding", "gamma": "norm", "beta": "norm", "bias": "lm_head"}
    for mine, layer in start.items():
        name = {"matrix": "embeddings"}.get(mine, mine)
        value = getattr(tied.get_layer(layer), name)
        getattr(hand, mine).assign(arrays(value)[0])
    y = target_like(tied, x)
    for model in (tied, hand):
        train(model, x, y, steps=3, optimizer=optimizer(0.05))
    pairs = [
        (tied.get_layer("embedding").embeddings, hand.matrix),
        (tied.get_layer("norm").gamma, hand.gamma),
        (tied.get_layer("lm_head").bias, hand.bias),
    ]
    for a, b in pairs:
        np.testing.assert_allclose(arrays(a)[0], arrays(b)[0], rtol=2e-4, atol=2e-5)


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = language()
    finally:
        keras.config.set_dtype_policy("float32")
    tied = kg.tie(model, *ENDS, transform="transpose")
    x = random_inputs(tied, 3)
    assert keras.backend.standardize_dtype(tied(x).dtype) == "bfloat16"
    train(tied, x, target_like(model, x))
    assert tied.get_layer("embedding").embeddings.dtype == "float32"
    again = kg.clone(tied)
    equal(keras.ops.cast(again(x), "float32"), keras.ops.cast(tied(x), "float32"))


def test_a_transform_of_ones_own():
    kg.register_transform(
        "test_doubled", lambda v: v * 2, lambda v: v / 2, lambda shape: tuple(shape)
    )
    model = recurrent()
    tied = kg.tie(model, "second/kernel", "first/kernel", transform="test_doubled")
    cell = tied.get_layer("second").cell
    equal(cell.kernel.value, 2 * arrays(model.get_layer("first").cell.kernel)[0])
    cell.kernel.assign(np.ones((4, 16)))
    equal(model.get_layer("first").cell.kernel, np.full((4, 16), 0.5, "float32"))
    for name in ("transpose", "test_doubled"):
        with pytest.raises(kg.WeightsError, match=f"'{name}' is taken by another transform"):
            kg.register_transform(name, lambda v: v, lambda v: v, lambda s: s)
    equal(cell.kernel.value, np.ones((4, 16), "float32"))


def test_untie_gives_the_same_numbers_to_a_variable_of_its_own(tmp_path):
    for make, target, source, transform in CASES.values():
        tied = kg.tie(make(), target, source, transform=transform)
        with unchanged(tied, tmp_path) as x:
            free = kg.untie(tied, target)
            to, of = ends(free, target, source)
            assert to.variable is not of.variable
            assert free.count_params() == make().count_params()
            assert _ties.ties_of(to.layer) == [] and not isinstance(to.layer, _ties.TiedLayer)
            equal(to.variable, turned(arrays(of.variable)[0], transform))
            for a, b in zip(arrays(free(x)), arrays(tied(x)), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
            assert {w.path for w in free.weights} == {w.path for w in make_again(make).weights}
            del free, to, of


def make_again(make):
    keras.utils.clear_session(free_memory=False)
    return make()


def test_two_ties_of_one_layer_and_one_taken_back():
    tied = kg.tie(recurrent(), "second/kernel", "first/kernel")
    tied = kg.tie(tied, "second/recurrent_kernel", "first/recurrent_kernel")
    assert [t.target for t in kg.sharing(tied).ties] == [
        "second/lstm_cell/kernel", "second/lstm_cell/recurrent_kernel",
    ]  # fmt: skip
    free = kg.untie(tied, "second/kernel")
    assert [t.target for t in kg.sharing(free).ties] == ["second/lstm_cell/recurrent_kernel"]
    cells = free.get_layer("first").cell, free.get_layer("second").cell
    assert cells[1].recurrent_kernel.source is cells[0].recurrent_kernel
    assert isinstance(cells[1].kernel, keras.Variable) and not isinstance(
        cells[1].kernel, _keras.Tied
    )
    equal(cells[0].kernel, cells[1].kernel)


def test_sharing_and_diff_tell_of_ties():
    model = language()
    tied = kg.tie(model, *ENDS, transform="transpose")
    report = kg.sharing(tied)
    (tie,) = report.ties
    assert (tie.target, tie.source, tie.transform, tie.here) == (*ENDS, "transpose", True)
    assert "lm_head/kernel  embedding/embeddings  transpose" in str(report)
    assert [v.users for v in report.variables] == [("embedding", "lm_head")]
    change = kg.diff(model, tied)
    assert change.ties_new == ("embedding/embeddings",) and change.ties_gone == ()
    assert (change.new_parameters, change.dropped_parameters) == (0, 44)
    assert kg.diff(tied, kg.untie(tied, ENDS[0])).ties_gone == ("embedding/embeddings",)


def test_many_edits_on_one_graph_and_one_build():
    graph = kg.tie(kg.read(two_models()), "decoder/lm_head/kernel", "encoder/embedding/embeddings",
                   transform="transpose")  # fmt: skip
    assert isinstance(graph, kg.Graph)
    graph = kg.insert(graph, lambda node: layers.Dropout(0.5), after="decoder/mix")
    graph = kg.inline(graph)
    model = kg.build(graph)
    assert isinstance(model, _ties.TiedModel)
    assert [t.target for t in kg.sharing(model).ties] == ["lm_head/kernel"]
    assert model.count_params() == two_models().count_params() - 44


# -- what is refused ----------------------------------------------------------------------------


def frozen_source():
    model = language()
    model.get_layer("embedding").trainable = False
    return model


def quantized_source():
    model = language()
    model.get_layer("embedding").quantize("int8")
    return model


def with_lora():
    model = language()
    model.get_layer("lm_head").enable_lora(2)
    return model


def other_dtype():
    ids = keras.Input((5,), dtype="int32", name="ids")
    x = layers.Embedding(11, 4, name="embedding")(ids)
    return keras.Model(ids, layers.Dense(11, dtype="bfloat16", name="lm_head")(x))


def regularized():
    ids = keras.Input((5,), dtype="int32", name="ids")
    x = layers.Embedding(11, 4, name="embedding")(ids)
    return keras.Model(ids, layers.Dense(11, kernel_regularizer="l2", name="lm_head")(x))


def constrained():
    ids = keras.Input((5,), dtype="int32", name="ids")
    x = layers.Embedding(11, 4, name="embedding")(ids)
    return keras.Model(ids, layers.Dense(11, kernel_constraint="non_neg", name="lm_head")(x))


def tied_once():
    return kg.tie(language(), *ENDS, transform="transpose")


def turning(target=ENDS[0], source=ENDS[1], transform="transpose"):
    return lambda m: kg.tie(m, target, source, transform=transform)


REFUSALS = {
    "shape": (language, turning(transform=None),
              r"target has shape \(4, 11\), and the source gives \(11, 4\)\. With transform=\"tran"),
    "another shape": (language, turning(source="norm/gamma"), "cannot take shape .4,.: a transpose"),
    "no transform": (language, turning(transform="turn"), "there is no transform 'turn', only 'transp"),
    "frozen": (frozen_source, turning(), "target is trainable, the source frozen.*get_layer..embe"),
    "quantized": (quantized_source, turning(), r"'embedding' is quantized \(int8\)"),
    "lora": (with_lora, turning(), "'lm_head' has LoRA adapters"),
    "dtype": (other_dtype, turning(), "target is bfloat16, the source float32"),
    "regularizer": (regularized, turning(), "the target has a regularizer.*the source none"),
    "constraint": (constrained, turning(), "the target has a constraint.*the source none"),
    "itself": (language, turning(source="lm_head/kernel"), "cannot be tied to itself"),
    "again": (tied_once, turning(), "they are one variable already"),
    "a tied source": (tied_once, turning("lm_head/bias", "lm_head/kernel", None),
                      "'lm_head/kernel' is itself tied to 'embedding/embeddings'. Tie to that"),
    "a cycle": (tied_once, turning("embedding/embeddings", "lm_head/bias"),
                "close a cycle or a chain. Untie it first: kg.untie.model, \"lm_head/kernel\""),
    "one layer": (language, turning("lm_head/bias", "lm_head/kernel", None),
                  "both are weights of one layer, 'lm_head'"),
    "no weights": (lambda: kg.insert(language(), layers.ReLU(name="act"), before="lm_head"),
                   turning("act/kernel"), "'act' .ReLU. has no weights: it is not built"),
    "no such weight": (language, turning("lm_head/matrix"),
                       "has no weights named 'matrix'; it has 'kernel', 'bias'"),
    "two layers": (recurrent, turning("*/kernel"), "names 3 layers: 'first', 'second', 'out'"),
    "no name": (language, turning("lm_head"), "a weight is named by its address, such as \"embedding/embeddings\""),
    "two models": (language, lambda m: kg.tie(m, ENDS[0], language().weights[0]),
                   "belongs to no layer of 'language'. A tie is within one model"),
    "untie": (language, lambda m: kg.untie(m, ENDS[0]), "'lm_head/kernel' is not tied. 'language' "),
    "untie another": (tied_once, lambda m: kg.untie(m, "lm_head/bias"),
                      "'lm_head/bias' is not tied. Tied here: 'lm_head/kernel'"),
    "quantize": (tied_once, lambda m: m.quantize("int8"),
                 "quantize: in 'language', 'lm_head/kernel' is tied to 'embedding/embeddings'"),
    "lora on a tie": (tied_once, lambda m: m.get_layer("lm_head").enable_lora(2),
                      "'lm_head/kernel' is tied to 'embedding/embeddings', so adapters belong to"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "attempt", "words"), REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_be_tied_is_refused_and_changes_nothing(make, attempt, words, tmp_path):
    model = make()
    with unchanged(model, tmp_path):
        with pytest.raises(kg.GraftError, match=f"(?s){words}") as caught:
            attempt(model)
        del caught


def test_an_optimizer_of_another_model_is_refused_and_nothing_is_lost():
    model = language()
    x = random_inputs(model, 4)
    y = target_like(model, x)
    train(model, x, y)
    tied = kg.tie(model, *ENDS, transform="transpose")
    words = "was built for other variables than those of 'language'. Compile with a new one"
    # On JAX Keras would lose the weights; elsewhere it trains what the optimizer knows, which is all.
    if keras.backend.backend() == "jax":
        with pytest.raises(kg.WeightsError, match=words):
            train(tied, x, y, optimizer=model.optimizer)
    other = language()
    train(other, x, y)
    with pytest.raises(kg.WeightsError, match=words):
        train(tied, x, y, optimizer=other.optimizer)
    train(tied, x, y)
    assert all(w._value is not None for w in [*tied.weights, *model.weights])
    train(tied, x, y, optimizer=tied.optimizer)  # its own may be used again


def test_edits_keep_a_tie_or_refuse():
    tied = kg.tie(language(), *ENDS, transform="transpose")
    with pytest.raises(
        kg.EditError, match="'lm_head/kernel' is tied to 'embedding/embeddings', wh"
    ):
        kg.replace(tied, "embedding", layers.Embedding(11, 4, mask_zero=True, name="other"))
    x = random_inputs(tied, 3)
    source = kg.replace(
        tied, "embedding", layers.Embedding(11, 4, mask_zero=True, name="other"), weights="keep"
    )
    assert source.count_params() == tied.count_params()
    (tie,) = kg.sharing(source).ties
    assert (tie.source, tie.here) == ("other/embeddings", True)
    equal(source(x), tied(x))
    head = kg.replace(
        tied, "lm_head", layers.Dense(11, use_bias=False, name="plain"), weights="keep"
    )
    assert [t.target for t in kg.sharing(head).ties] == ["plain/kernel"]
    assert head.count_params() == tied.count_params() - 11
    equal(arrays(head(x))[0] + arrays(tied.get_layer("lm_head").bias)[0], tied(x))
    with pytest.raises(kg.EditError, match="has no such weight of that shape"):
        kg.replace(tied, "lm_head", layers.Dense(5, use_bias=False, name="small"), weights="keep")
    other = kg.replace(tied, "lm_head", layers.Dense(5, name="small"))  # the tied layer is gone
    assert kg.sharing(other).ties == () and loads_alone(other)
    for new in (
        kg.insert(tied, layers.Dropout(0.5, name="drop"), after="norm"),
        kg.remove(tied, "norm"),
        kg.rewire(tied, {"norm": "embedding"}),
        kg.nest(tied, "norm", "lm_head", name="inner"),
    ):
        assert len(kg.sharing(new).ties) == 1 and kg.sharing(new).ties[0].here
        assert isinstance(new, _ties.TiedModel)


def test_a_frozen_tie_is_frozen_at_both_ends():
    tied = kg.tie(language(), *ENDS, transform="transpose")
    with pytest.raises(kg.EditError, match="use one variable"):
        kg.freeze(tied, "embedding")
    frozen = kg.freeze(tied)
    x = random_inputs(tied, 3)
    equal(frozen(x), tied(x))
    assert frozen.trainable_variables == []
    assert [t.target for t in kg.sharing(frozen).ties] == [ENDS[0]]
    for attempt in (
        lambda: kg.untie(frozen, ENDS[0]),
        lambda: kg.tie(kg.freeze(language(), "lm_head"), *ENDS, transform="transpose"),
    ):
        with pytest.raises(kg.WeightsError, match="'lm_head' is permanently in inference mode"):
            attempt()


def test_a_weight_may_be_given_as_a_variable():
    x = keras.Input((4,), name="x")
    y = layers.Dense(4, name="b")(layers.Dense(4, name="a")(x))
    model = kg.tie(keras.Model(x, layers.Dense(4, name="c")(y)), "a/kernel", "b/kernel")
    # It is of the layer that it belongs to, not of one that is tied to it.
    both = kg.tie(model, "c/kernel", model.get_layer("b").kernel)
    assert [t.source for t in kg.sharing(both).ties] == ["b/kernel", "b/kernel"]
    tied = kg.tie(language(), *ENDS, transform="transpose")
    untied = kg.untie(tied, tied.get_layer("lm_head").kernel)
    assert untied.count_params() == language().count_params()


@pytest.mark.parametrize("target", ["lm_head/kernel", "lm_head.kernel"])
@pytest.mark.parametrize("source", ["embedding/embeddings", "embedding.embeddings"])
def test_a_weight_has_one_address_and_a_second_way_to_write_it(target, source):
    model = kg.tie(language(), target, source, transform="transpose")
    (tie,) = kg.sharing(model).ties
    assert (tie.target, tie.source) == ("lm_head/kernel", "embedding/embeddings")
    assert kg.untie(model, target).count_params() == language().count_params()
    other = language()
    report = kg.transplant(language(), other, keep=[target])
    assert "lm_head/kernel" in str(report)


def test_an_address_leads_into_nested_models_and_layers():
    model = kg.tie(
        two_models(), "decoder/lm_head/kernel", "encoder.embedding/embeddings", "transpose"
    )
    assert kg.sharing(model).ties[0].source == "encoder/embedding/embeddings"
    x = keras.Input((5, 4), name="x")
    y = layers.MultiHeadAttention(2, 4, name="attn")(x, x)
    donor = keras.Model(x, y)
    for target in ("attn/query/kernel", "attn.query/kernel"):
        tied = kg.tie(donor, target, "attn/key/kernel")
        assert [t.target for t in kg.sharing(tied).ties] == ["attn/query/kernel"]
    with pytest.raises(kg.WeightsError, match="has no weights named 'kernl'; it has 'kernel'"):
        kg.tie(donor, "attn/query/kernl", "attn/key/kernel")
