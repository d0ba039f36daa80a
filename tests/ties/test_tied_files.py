"""Ties in files: stored once, there again when loaded, and a clear word where files differ."""

import warnings

import keras
import numpy as np
import pytest
from donor import arrays, equal, loads_alone
from keras import layers
from tied import CASES, in_file, language, size_in_file, target_like, train, two_models

import keras_graft as kg
from keras_graft import _keras
from keras_graft import ties as _ties
from keras_graft.testing import random_inputs

ENDS = ("lm_head/kernel", "embedding/embeddings")


def close(left, right):
    """Assert equality up to the order of sums: PyTorch adds along a turned matrix in another."""
    for a, b in zip(arrays(left), arrays(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("make", "target", "source", "transform"), CASES.values(), ids=CASES)
def test_a_file_holds_the_array_once_and_loads_tied(make, target, source, transform, tmp_path):
    tied = kg.tie(make(), target, source, transform=transform)
    x = random_inputs(tied, 4)
    train(tied, x, target_like(tied, x))
    path = tmp_path / "model.keras"
    for _ in range(3):  # a file of what came out of a file, and so on
        tied.save(path)
        assert size_in_file(path) == tied.count_params()
        again = keras.models.load_model(path)
        assert type(again) is _ties.TiedModel and again.count_params() == tied.count_params()
        equal(again(x), tied(x))
        # The optimizer came along, and goes on as it would have.
        y = target_like(tied, x)
        for model in (again, tied):
            model.train_on_batch(x, y)
        close(again(x), tied(x))
        assert [t.target for t in kg.sharing(again).ties] == [
            t.target for t in kg.sharing(tied).ties
        ]
        tied = again
    weights = tmp_path / "w.weights.h5"
    tied.save_weights(weights)
    assert size_in_file(weights) == tied.count_params()
    fresh = kg.clone(tied, weights="fresh")
    fresh.load_weights(weights)
    equal(fresh(x), tied(x))


@pytest.mark.parametrize(("make", "target", "source", "transform"), CASES.values(), ids=CASES)
def test_clones_are_tied(make, target, source, transform, tmp_path):
    tied = kg.tie(make(), target, source, transform=transform)
    x = random_inputs(tied, 4)
    for copy in (kg.clone(tied), keras.models.clone_model(tied), kg.clone(tied, weights="fresh")):
        assert copy.count_params() == tied.count_params() and len(copy.weights) == len(tied.weights)
        assert {id(w) for w in copy.weights}.isdisjoint(id(w) for w in tied.weights)
        copy.set_weights(tied.get_weights())
        equal(copy(x), tied(x))
        train(copy, x, target_like(tied, x))
        (tie,) = [t for n in kg.read(copy) for t in _flat_ties(n)]
        value = arrays(tie.source)[0]
        equal(tie.seen.value, np.swapaxes(value, -1, -2) if transform else value)
        copy.save(tmp_path / "copy.keras")
        equal(keras.models.load_model(tmp_path / "copy.keras")(x), copy(x))


def _flat_ties(node):
    inside = node.nested.nodes if node.nested is not None else ()
    return [*_ties.ties_of(node.operation), *(t for n in inside for t in _flat_ties(n))]


def test_a_file_from_before_the_tie_and_one_from_after_it_is_undone(tmp_path):
    model = language()
    tied = kg.tie(model, *ENDS, transform="transpose")
    x = random_inputs(tied, 3)
    expected = arrays(tied(x))
    for name, other in (("before", model), ("after", kg.untie(tied, ENDS[0]))):
        path = tmp_path / f"{name}.weights.h5"
        other.save_weights(path)
        copy = kg.clone(tied, weights="fresh")
        with pytest.warns(
            UserWarning, match="'lm_head/kernel' is tied to 'embedding/embeddings'. The arrays of"
        ):
            copy.load_weights(path)
        equal(copy(x), expected)  # the embedding's array was taken
        assert copy.count_params() == tied.count_params()
    path = tmp_path / "tied.weights.h5"
    tied.save_weights(path)
    free = kg.untie(tied, ENDS[0])
    with pytest.raises(ValueError, match="expected 2 variables, but received 1"):
        free.load_weights(path)  # Keras says what is missing


def test_a_stage_holds_what_its_tie_needs(tmp_path):
    tied = kg.tie(language(), *ENDS, transform="transpose")
    x = random_inputs(tied, 3)
    trunk, head = kg.split(tied, at="norm", complete=True)
    assert (trunk.count_params(), head.count_params()) == (52, 55)
    assert loads_alone(trunk) and isinstance(head, _ties.TiedModel)
    (tie,) = kg.sharing(head).ties
    assert (tie.target, tie.source, tie.here) == (*ENDS, False)
    assert "not in this model: held here" in str(kg.sharing(head))
    path = tmp_path / "head.keras"
    head.save(path)
    assert size_in_file(path) == 55
    again = keras.models.load_model(path)
    h = trunk(x)
    close(again(h), head(h))
    assert again.count_params() == 55
    joined = kg.join(trunk, head)
    equal(joined(x), tied(x))
    assert joined.count_params() == tied.count_params() and kg.sharing(joined).ties[0].here
    joined.save(path)
    assert size_in_file(path) == tied.count_params()


def test_a_stage_from_a_file_has_gone_its_own_way(tmp_path):
    tied = kg.tie(language(), *ENDS, transform="transpose")
    trunk, head = kg.split(tied, at="norm", complete=True)
    head.save(tmp_path / "head.keras")
    head = keras.models.load_model(tmp_path / "head.keras")
    head.get_layer("lm_head").kernel.assign(np.ones((4, 11)))
    x = random_inputs(tied, 3)
    expected = arrays(head(trunk(x)))
    joined = kg.join(trunk, head)
    joined.save(tmp_path / "joined.keras")
    for model in (joined, keras.models.load_model(tmp_path / "joined.keras")):
        equal(model(x), expected)
        assert model.count_params() == 107 and kg.sharing(model).ties == ()
    equal(head(trunk(x)), expected)


def test_a_frozen_tie_is_in_the_file_once(tmp_path):
    frozen = kg.freeze(kg.tie(language(), *ENDS, transform="transpose"))
    x = random_inputs(frozen, 3)
    for model in (frozen, kg.clone(frozen)):
        model.save(tmp_path / "m.keras")
        assert size_in_file(tmp_path / "m.keras") == frozen.count_params() == 63
        again = keras.models.load_model(tmp_path / "m.keras")
        equal(again(x), frozen(x))
        assert again.count_params() == 63 and again.trainable_variables == []
        assert kg.sharing(again).ties[0].here


def test_a_tied_layer_in_two_models_inside(tmp_path):
    dense = layers.Dense(4, name="d")

    def inside(name):
        x = keras.Input((4,))
        return keras.Model(x, dense(x), name=name)

    x = keras.Input((4,), name="x")
    model = keras.Model(x, layers.Dense(4, name="e")(inside("b")(inside("a")(x))))
    for target, source in (("a/d/kernel", "e/kernel"), ("e/kernel", "a/d/kernel")):
        tied = kg.tie(model, target, source)
        x = random_inputs(tied, 3)
        for _ in range(2):
            tied.save(tmp_path / "m.keras")
            again = keras.models.load_model(tmp_path / "m.keras")
            equal(again(x), tied(x))
            assert again.count_params() == 24 == size_in_file(tmp_path / "m.keras")
            train(again, x, target_like(again, x), steps=2)
            equal(again.get_layer("a").get_layer("d").kernel, again.get_layer("e").kernel)
            equal(again.get_layer("b").get_layer("d").kernel, again.get_layer("e").kernel)
            tied = again


def test_a_source_that_was_quantized_since_is_left(tmp_path):
    tied = kg.tie(language(), *ENDS, transform="transpose")
    tied.get_layer("embedding").quantize("int8")
    x = random_inputs(tied, 3)
    tied.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    close(again(x), tied(x))
    assert kg.sharing(again).ties == ()


def test_a_model_that_knows_no_ties_says_so_when_it_is_saved(tmp_path):
    tied = kg.tie(language(), *ENDS, transform="transpose")
    plain = keras.Model(tied.inputs, tied.outputs)
    with pytest.warns(UserWarning, match="'lm_head/kernel' is tied to .* knows no ties"):
        plain.save(tmp_path / "m.keras")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*knows no ties")
        kg.build(kg.read(plain)).save(tmp_path / "m.keras")
        for part in kg.split(tied, at="norm", complete=True):
            part.save(tmp_path / "part.keras")
        x = keras.Input((5,), dtype="int32")
        outer = kg.build(kg.read(keras.Model(x, layers.ReLU()(tied(x)))))
        outer.save(tmp_path / "outer.keras")
    assert keras.models.load_model(tmp_path / "m.keras").count_params() == 63
    assert keras.models.load_model(tmp_path / "outer.keras").count_params() == 63


@pytest.mark.parametrize(
    "layer", [layers.ReLU, lambda: layers.Dropout(0.5)], ids=["relu", "dropout"]
)
def test_layers_without_weights_across_models(layer, tmp_path):
    act = layer()
    inner = keras.Input((4,))
    inside = keras.Model(inner, layers.Dense(4)(act(inner)), name="inside")
    x = keras.Input((4,), name="x")
    model = kg.build(kg.read(keras.Model(x, inside(act(x)))))
    model.save(tmp_path / "m.keras")
    x = random_inputs(model, 3)
    equal(keras.models.load_model(tmp_path / "m.keras")(x), model(x))


def test_a_model_inside_saved_alone_has_its_array(tmp_path):
    tied = kg.tie(
        two_models(), "decoder/lm_head/kernel", "encoder/embedding/embeddings", "transpose"
    )
    decoder = tied.get_layer("decoder")
    tied.save(tmp_path / "whole.keras")  # which holds the array elsewhere
    decoder.save(tmp_path / "decoder.keras")
    assert size_in_file(tmp_path / "decoder.keras") == decoder.count_params()
    h = random_inputs(decoder, 3)
    close(keras.models.load_model(tmp_path / "decoder.keras")(h), decoder(h))
    # Its weights loaded into it alone reach the other end too.
    decoder.save_weights(tmp_path / "d.weights.h5")
    value = arrays(decoder.get_layer("lm_head").kernel)[0]
    tied.get_layer("encoder").get_layer("embedding").embeddings.assign(np.zeros((11, 4)))
    decoder.load_weights(tmp_path / "d.weights.h5")
    equal(tied.get_layer("encoder").get_layer("embedding").embeddings, np.swapaxes(value, 0, 1))


def test_a_tied_model_inside_another(tmp_path):
    tied = kg.tie(language(), *ENDS, transform="transpose")
    ids = keras.Input((5,), dtype="int32", name="outer")
    outer = keras.Model(ids, layers.Dense(3, name="top")(tied(ids)))
    x = random_inputs(outer, 3)
    outer.save(tmp_path / "outer.keras")
    assert size_in_file(tmp_path / "outer.keras") == outer.count_params()
    again = keras.models.load_model(tmp_path / "outer.keras")
    equal(again(x), outer(x))
    flat = kg.inline(outer)
    equal(flat(x), outer(x))
    flat.save(tmp_path / "flat.keras")
    again = keras.models.load_model(tmp_path / "flat.keras")
    equal(again(x), outer(x))
    assert again.count_params() == outer.count_params() == flat.count_params()


# -- a layer in several models inside: Keras writes it and cannot read it -------------------------


def in_two():
    dense = layers.Dense(4, name="d")

    def inside(name):
        x = keras.Input((4,))
        return keras.Model(x, layers.Dense(4, name=f"{name}_out")(dense(x)), name=name)

    x = keras.Input((4,), name="x")
    return keras.Model(x, inside("b")(inside("a")(x)))


def above_and_inside(order):
    dense = layers.Dense(4, name="d")
    inner = keras.Input((4,))
    model = keras.Model(inner, dense(inner), name="inside")
    x = keras.Input((4,), name="x")
    first, second = (dense, model) if order == "above first" else (model, dense)
    return keras.Model(x, second(layers.ReLU()(first(x))))


def sequentials():
    norm = layers.BatchNormalization(name="norm")
    a = keras.Sequential([keras.Input((4,)), norm], name="a")
    b = keras.Sequential([keras.Input((4,)), layers.Dense(4), norm], name="b")
    x = keras.Input((4,), name="x")
    return keras.Model(x, b(a(x)))


def backbone():
    x = keras.Input((4,))
    body = keras.Model(x, layers.LayerNormalization()(layers.Dense(4)(x)), name="body")

    def inside(name):
        x = keras.Input((4,))
        return keras.Model(x, layers.Dense(4, name=f"{name}_out")(body(x)), name=name)

    x = keras.Input((4,), name="x")
    return keras.Model(x, inside("b")(inside("a")(x)))


ACROSS = {
    "in two": in_two,
    "above first": lambda: above_and_inside("above first"),
    "inside first": lambda: above_and_inside("inside first"),
    "sequentials": sequentials,
    "backbone": backbone,
}


@pytest.mark.parametrize("make", ACROSS.values(), ids=ACROSS)
def test_what_models_inside_share_is_shared_again_after_loading(make, tmp_path):
    model = make()
    path = tmp_path / "m.keras"
    model.save(path)
    if _keras.private.VERSION >= (3, 15):  # before, some get weights of their own instead
        with pytest.raises(ValueError, match="could not be loaded|is not connected"):
            keras.models.load_model(path)  # should Keras learn it, this class is needed no more
    for ours in (kg.clone(model), kg.build(kg.read(model))):
        x = random_inputs(ours, 3)
        equal(ours(x), model(x))
        ours.save(path)
        again = keras.models.load_model(path)
        equal(again(x), ours(x))
        assert again.count_params() == model.count_params()
        train(again, x, target_like(again, x), steps=2)
        again.save(path)
        third = keras.models.load_model(path)
        equal(third(x), again(x))
        assert third.count_params() == model.count_params()


def test_no_class_of_ours_without_need(tmp_path):
    model = language()
    assert type(kg.clone(model)) is type(model) is type(kg.build(kg.read(model)))
    kg.clone(model).save(tmp_path / "m.keras")
    assert in_file(tmp_path / "m.keras").keys() == {
        "layers/embedding/vars/0", "layers/layer_normalization/vars/0",
        "layers/layer_normalization/vars/1", "layers/dense/vars/0", "layers/dense/vars/1",
    }  # fmt: skip
