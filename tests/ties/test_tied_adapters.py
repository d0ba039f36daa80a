"""LoRA adapters of a source: the tied layer follows them, whenever they came and wherever it goes."""

import keras
import numpy as np
import pytest
from donor import arrays, equal
from keras import layers
from tied import attention, language, model_of, size_in_file, target_like, train, two_models

import keras_graft as kg
from keras_graft.testing import random_inputs

ENDS = ("lm_head/kernel", "embedding/embeddings")


def close(left, right):
    for a, b in zip(arrays(left), arrays(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def adapt(layer, rank=2, alpha=None):
    """Give a layer adapters that are not nothing, as after training."""
    layer.enable_lora(rank, lora_alpha=alpha)
    rng = np.random.default_rng(3)
    for variable in layer.weights:
        if "lora" in variable.name:
            variable.assign(rng.normal(size=variable.shape).astype("float32"))
    return layer


def dense_pair():
    x = keras.Input((4,), name="x")
    y = layers.Dense(4, name="b")(layers.Dense(4, name="a", activation="tanh")(x))
    return keras.Model(x, y, name="dense_pair")


def convolutions():
    x = keras.Input((6, 6, 4), name="x")
    y = layers.Conv2D(4, 3, padding="same", name="a")(x)
    return keras.Model(x, layers.Conv2D(4, 3, padding="same", name="b")(y), name="convolutions")


def einsum():
    x = keras.Input((5, 4), name="x")
    y = layers.EinsumDense("abc,cd->abd", output_shape=(None, 4), name="a")(x)
    return keras.Model(x, layers.Dense(4, name="b")(y), name="einsum")


CASES = {
    "embedding": (language, *ENDS, "transpose", ("embedding",)),
    "head": (language, ENDS[1], ENDS[0], "transpose", ("lm_head",)),
    "two models": (two_models, "decoder/lm_head/kernel", "encoder/embedding/embeddings",
                   "transpose", ("encoder", "embedding")),
    "dense": (dense_pair, "b/kernel", "a/kernel", None, ("a",)),
    "convolutions": (convolutions, "b/kernel", "a/kernel", None, ("a",)),
    "einsum": (einsum, "b/kernel", "a/kernel", None, ("a",)),
    "inside one layer": (attention, "attention/query/kernel", "attention/key/kernel", None,
                         ("attention", "_key_dense")),
}  # fmt: skip


def at(model, path):
    for name in path:
        model = getattr(model, name) if name.startswith("_") else model.get_layer(name)
    return model


def kernel_of(layer):
    return layer.embeddings if hasattr(layer, "embeddings") else layer.kernel


def merged(model, path, target, transform):
    """Return the same model by hand: untied, with what the adapters make at both ends."""
    layer = at(model, path)
    value = arrays(kernel_of(layer))[0]
    twin = kg.untie(model, target)
    twin = kg.clone(twin)
    *weight, name = target.split("/")
    end = twin
    for part in weight:
        end = end._query_dense if part == "query" else end.get_layer(part)
    private = end._embeddings if name == "embeddings" else end._kernel
    value = np.swapaxes(value, -1, -2) if transform else value
    private.assign(np.array(value, order="C"))
    return twin


@pytest.mark.parametrize("alpha", [None, 5.0])
@pytest.mark.parametrize(
    ("make", "target", "source", "transform", "path"), CASES.values(), ids=CASES
)
def test_the_tied_layer_follows_them(make, target, source, transform, path, alpha, tmp_path):
    model = make()
    tied = kg.tie(model, target, source, transform=transform)
    x = random_inputs(tied, 3)
    before = arrays(tied(x))
    adapt(at(tied, path), alpha=alpha)
    assert not all(np.allclose(*pair) for pair in zip(arrays(tied(x)), before, strict=True))
    twin = merged(tied, path, target, transform)
    close(tied(x), twin(x))
    expected = arrays(tied(x))
    if make is not attention:  # whose layer is another one since the tie
        late = kg.tie(model, target, source, transform=transform)
        equal(late(x), expected)
    # Copies, and files.
    copy = kg.clone(tied)
    equal(copy(x), expected)
    tied.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    close(again(x), expected)
    if make is not attention:  # of which no file says that a layer inside has adapters
        assert again.count_params() == tied.count_params()
    assert len(kg.sharing(again).ties) == 1 and kg.sharing(again).ties[0].here
    tied.save_weights(tmp_path / "w.weights.h5")
    copy.load_weights(tmp_path / "w.weights.h5")
    close(copy(x), expected)
    # Of a copy that trains, both ends move together.
    copy = kg.clone(tied)
    train(copy, x, target_like(copy, x), steps=2)
    close(copy(x), merged(copy, path, target, transform)(x))
    equal(tied(x), expected)


def test_it_computes_what_keras_reversible_embedding_does(tmp_path):
    def ours():
        ids = keras.Input((5,), dtype="int32")
        source = layers.Embedding(11, 4, name="e")
        return keras.Model(
            ids, kg.layers.TiedDense(source, use_bias=False, name="head")(source(ids))
        )

    def its():
        ids = keras.Input((5,), dtype="int32")
        source = layers.ReversibleEmbedding(11, 4, name="e")
        return keras.Model(ids, source(source(ids), reverse=True))

    models = [ours(), its()]
    models[1].get_layer("e").set_weights(models[0].get_layer("e").get_weights())
    for model in models:
        adapt(model.get_layer("e"), alpha=3.0)
    x = random_inputs(models[0], 4)
    close(*(m(x) for m in models))
    y = target_like(models[0], x)
    for model in models:
        train(model, x, y, steps=3)
        assert len(model.trainable_variables) == 2
    close(*(m(x) for m in models))
    for a, b in zip(*(m.get_layer("e").weights for m in models), strict=True):
        close(a, b)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("mixed", ["float32", "mixed_bfloat16"])
def test_tied_dense(when, mixed, tmp_path):
    source = layers.Embedding(11, 4, name="source", dtype=mixed)
    if when == "before":
        source.build()
        adapt(source)
    model = model_of(source, dtype=mixed)
    if when == "after":
        adapt(source)
    matrix = arrays(keras.ops.cast(source.embeddings, "float32"))[0]
    x = random_inputs(model, 3)
    if mixed == "float32":
        close(model.get_layer("head").kernel.value, matrix.T)
    for other in (kg.clone(model), keras.models.clone_model(model)):
        assert other.count_params() == model.count_params()
        other.set_weights(model.get_weights())
        equal(*(keras.ops.cast(m(x), "float32") for m in (other, model)))
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert size_in_file(tmp_path / "m.keras") == 44 + 8 + 11
    if mixed == "float32":
        close(again(x), model(x))
    assert again.get_layer("head").source_layer is again.get_layer("source")
    train(model, x, target_like(model, x), steps=2)
    assert len([v for v in model.trainable_variables if "lora" in v.name]) == 2


def test_a_stage_without_the_source_trains_and_keeps_them(tmp_path):
    tied = kg.tie(language(), *ENDS, transform="transpose")
    adapt(tied.get_layer("embedding"))
    trunk, head = kg.split(tied, at="norm", complete=True)
    x = random_inputs(tied, 3)
    h = trunk(x)
    equal(head(h), tied(x))
    names = {v.name for v in head.trainable_variables}
    assert names == {"lora_embeddings_a", "lora_embeddings_b", "bias"}
    head.predict(h, verbose=0)  # compiled; what the adapters become must reach it
    factor = tied.get_layer("embedding").lora_embeddings_b
    factor.assign(factor + 1.0)
    close(head.predict(trunk(x), verbose=0), tied(x))
    train(head, keras.tree.map_structure(keras.ops.stop_gradient, trunk(x)), target_like(tied, x))
    equal(head(trunk(x)), tied(x))
    head.save(tmp_path / "head.keras")
    close(keras.models.load_model(tmp_path / "head.keras")(trunk(x)), tied(x))
    copy = kg.clone(head)
    equal(copy(trunk(x)), head(trunk(x)))
    assert {id(v) for v in copy.weights}.isdisjoint(id(v) for v in head.weights)
    joined = kg.join(trunk, head)
    equal(joined(x), tied(x))
    assert joined.count_params() == tied.count_params()


def test_edits():
    tied = kg.tie(language(), *ENDS, transform="transpose")
    adapt(tied.get_layer("embedding"))
    x = random_inputs(tied, 3)
    expected = arrays(tied(x))
    for new in (
        kg.insert(tied, layers.Dropout(0.5, name="drop"), after="norm"),
        kg.nest(tied, "norm", "lm_head", name="inner"),
        kg.freeze(tied),
        kg.replace(tied, "lm_head", layers.Dense(11, name="lm_head"), weights="keep"),
    ):
        equal(new(x), expected)
    free = kg.untie(tied, ENDS[0])
    close(free(x), expected)
    assert free.get_layer("lm_head").kernel.trainable
    assert free.count_params() == tied.count_params() + 44
    # The source may be replaced by a layer with adapters of its own.
    other = layers.Embedding(11, 4, mask_zero=True, name="other", lora_rank=2)
    new = kg.replace(tied, "embedding", other, weights="keep")
    equal(new(x), expected)
    assert kg.sharing(new).ties[0].here
    factor = other.lora_embeddings_b
    factor.assign(factor * 3.0)
    close(new(x), merged(new, ("other",), ENDS[0], "transpose")(x))
    equal(tied(x), expected)


def test_a_source_is_not_replaced_by_a_layer_without_a_place_for_them():
    tied = kg.tie(language(), *ENDS, transform="transpose")
    adapt(tied.get_layer("embedding"))
    plain = layers.Embedding(11, 4, mask_zero=True, name="plain")
    words = "'embedding' has LoRA adapters .'lora_embeddings_a', .*'plain' has no place"
    with pytest.raises(kg.EditError, match=words):
        kg.replace(tied, "embedding", plain, weights="keep")


def test_repeated_blocks_follow_theirs():
    model = dense_pair()
    tied = kg.tie(model, "b/kernel", "a/kernel")
    adapt(tied.get_layer("a"))
    deeper = kg.repeat(tied, "x", "b", 2, weights="copy")
    x = random_inputs(tied, 3)
    equal(deeper(x), tied(tied(x)))
    outside = kg.repeat(tied, "a", "b", 2, weights="copy")
    expected = arrays(tied.get_layer("b")(tied(x)))
    equal(outside(x), expected)
    factor = outside.get_layer("a").lora_kernel_b
    factor.assign(factor * 2.0)
    for name in ("b", "b_repeat"):
        equal(outside.get_layer(name).kernel.value, outside.get_layer("a").kernel)


def test_they_are_enabled_at_the_source_and_the_target_says_so(tmp_path):
    for model, target, name in (
        (kg.tie(language(), *ENDS, transform="transpose"), "lm_head", "embedding"),
        (model_of(layers.Embedding(11, 4, name="source")), "head", "source"),
    ):
        words = (
            f"'{target}/kernel' is tied to '{name}/embeddings', so adapters belong to the layer of "
            f"that weight. Call enable_lora on the layer of '{name}/embeddings': '{target}' follows"
        )
        before = len(model.weights)
        with pytest.raises(kg.GraftError, match=words):
            model.get_layer(target).enable_lora(2)
        assert len(model.weights) == before
        adapt(model.get_layer(name))
        assert len(model.weights) == before + 2
    tied = kg.tie(attention(), "attention/query/kernel", "attention/key/kernel")
    with pytest.raises(kg.GraftError, match=r"kg.untie\(model, \"attention.query/kernel\"\)"):
        tied.get_layer("attention")._query_dense.enable_lora(2)
    kg.untie(tied, "attention/query/kernel").get_layer("attention")._query_dense.enable_lora(2)
    # Where a bias alone is tied, adapters change nothing about it.
    bias = kg.tie(dense_pair(), "b/bias", "a/bias")
    adapt(bias.get_layer("b"))
    x = random_inputs(bias, 2)
    equal(kg.clone(bias)(x), bias(x))


def test_a_target_with_adapters_is_tied_the_other_way_round():
    model = language()
    adapt(model.get_layer("lm_head"))
    with pytest.raises(kg.WeightsError) as caught:
        kg.tie(model, *ENDS, transform="transpose")
    call = 'kg.tie(model, "embedding/embeddings", "lm_head/kernel", transform="transpose")'
    assert "'lm_head' has LoRA adapters for this weight" in str(caught.value)
    assert call in str(caught.value)
    tied = eval(call, {"kg": kg, "model": model})
    x = random_inputs(tied, 2)
    close(tied(x), merged(tied, ("lm_head",), ENDS[1], "transpose")(x))


def test_a_value_given_to_the_target_is_what_it_has():
    tied = kg.tie(dense_pair(), "b/kernel", "a/kernel")
    adapt(tied.get_layer("a"))
    value = np.random.default_rng(0).normal(size=(4, 4)).astype("float32")
    tied.get_layer("b").kernel.assign(value)
    equal(tied.get_layer("b").kernel.value, value)
    equal(tied.get_layer("a").kernel, value)
    assert arrays(tied.get_layer("a").lora_kernel_a)[0].any()  # else they could never learn again


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_a_source_that_is_quantized_leaves_the_target_as_it_was(mode):
    tied = kg.tie(dense_pair(), "b/kernel", "a/kernel")
    adapt(tied.get_layer("a"))
    kernel = arrays(tied.get_layer("b").kernel.value)
    tied.get_layer("a").quantize(mode)
    equal(tied.get_layer("b").kernel.value, kernel)
    with pytest.raises(kg.NotYetError, match="a tied layer is not quantized. Untie it first"):
        tied.get_layer("b").quantize(mode)


def test_frozen_at_either_end_is_frozen_at_both():
    for name in ("a", "b"):
        tied = kg.tie(dense_pair(), "b/kernel", "a/kernel")
        tied.get_layer(name).trainable = False
        assert "kernel" not in {v.name for v in tied.trainable_variables}
        tied.get_layer(name).trainable = True
        assert "kernel" in {v.name for v in tied.trainable_variables}


def test_freeze_and_unfreeze_leave_the_adapters_of_a_tie(tmp_path):
    tied = kg.tie(language(), *ENDS, transform="transpose")
    tuned = kg.lora(tied, "embedding", rank=2, seed=1)
    for variable in tuned.trainable_variables:
        variable.assign(0.3 * np.ones(variable.shape))
    ids = random_inputs(tuned, 2)
    before = np.asarray(tuned.predict(ids, verbose=0))
    frozen = kg.freeze(tuned)
    thawed = kg.unfreeze(frozen)
    assert [v.path for v in thawed.trainable_variables] == [
        v.path for v in tuned.trainable_variables
    ]
    for model in (tuned, frozen, thawed):
        np.testing.assert_array_equal(model.predict(ids, verbose=0), before)
        model.save(tmp_path / "m.keras")
        loaded = keras.models.load_model(tmp_path / "m.keras")
        np.testing.assert_array_equal(loaded.predict(ids, verbose=0), before)
    changed = 0.1 * np.ones(tuned.trainable_variables[0].shape)
    thawed.trainable_variables[0].assign(changed)
    now = np.asarray(thawed.predict(ids, verbose=0))
    assert not np.array_equal(now, before)
    np.testing.assert_array_equal(tuned.predict(ids, verbose=0), now)
