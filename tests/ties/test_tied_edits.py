"""Edits of models with ties: a tie is kept, goes where its source goes, or the edit is refused."""

import keras
import numpy as np
import pytest
from donor import arrays, equal
from keras import layers
from tied import size_in_file, target_like, train

import keras_graft as kg
from keras_graft.testing import random_inputs


def ties(model) -> set[tuple[str, str]]:
    """Return the ties, all of which have their source in the model; a file holds it once."""
    found = kg.sharing(model).ties
    assert all(tie.here for tie in found)
    return {(tie.target, tie.source) for tie in found}


def holds(model, expected, folder):
    """Assert which ties a model has: as it is, trained, saved and loaded."""
    assert ties(model) == expected
    x = random_inputs(model, 2)
    train(model, x, target_like(model, x))
    model.save(folder / "m.keras")
    assert size_in_file(folder / "m.keras") == model.count_params()
    again = keras.models.load_model(folder / "m.keras")
    assert ties(again) == expected and again.count_params() == model.count_params()
    equal(again(x), model(x))


def blocks(activation=None):
    x = keras.Input((8, 8, 3), name="x")
    y = layers.Conv2D(3, 3, padding="same", activation=activation, name="a")(x)
    y = layers.Conv2D(3, 3, padding="same", name="b")(y)
    y = layers.Conv2D(3, 3, padding="same", name="c")(y)
    y = layers.BatchNormalization(name="bn")(y)
    return keras.Model(x, layers.GlobalAveragePooling2D(name="pool")(y), name="blocks")


@pytest.mark.parametrize("weights", ["copy", "fresh"])
@pytest.mark.parametrize(("target", "source"), [("b", "a"), ("a", "b")])
def test_a_repeated_block_is_tied_inside_as_the_first_is(weights, target, source, tmp_path):
    model = kg.tie(blocks(), f"{target}/kernel", f"{source}/kernel")
    deeper = kg.repeat(model, "x", "b", 2, weights=weights)
    assert deeper.count_params() == model.count_params() + 81 + 3 + 3
    assert [w.path for w in deeper.get_layer(f"{source}_repeat").weights] == [
        f"{source}_repeat/kernel", f"{source}_repeat/bias",
    ]  # fmt: skip
    holds(
        deeper,
        {
            (f"{target}/kernel", f"{source}/kernel"),
            (f"{target}_repeat/kernel", f"{source}_repeat/kernel"),
        },
        tmp_path,
    )


@pytest.mark.parametrize("weights", ["copy", "fresh"])
def test_a_repeated_block_stays_tied_to_what_is_outside(weights, tmp_path):
    model = kg.tie(blocks(), "b/kernel", "a/kernel")
    deeper = kg.repeat(model, "a", "b", 2, weights=weights)
    assert deeper.count_params() == model.count_params() + 3
    holds(deeper, {("b/kernel", "a/kernel"), ("b_repeat/kernel", "a/kernel")}, tmp_path)
    # Of the source's layer there are two then, and the tie is to the first.
    deeper = kg.repeat(model, "x", "a", 2, weights=weights)
    holds(deeper, {("b/kernel", "a/kernel")}, tmp_path)


def test_a_call_that_gets_a_layer_of_its_own_stays_tied(tmp_path):
    x = keras.Input((4,), name="x")
    shared = layers.Dense(4, name="shared")
    first = layers.Dense(4, name="first")
    model = keras.Model(x, shared(shared(first(x))), name="twice")
    tied = kg.tie(model, "shared/kernel", "first/kernel")
    for weights in ("copy", "fresh"):
        apart = kg.unshare(tied, "shared#1", weights=weights)
        assert apart.count_params() == tied.count_params() + 4
        holds(
            apart,
            {("shared/kernel", "first/kernel"), ("shared_1/kernel", "first/kernel")},
            tmp_path,
        )
    # The other way round: the call that is let go leaves the source where it was.
    tied = kg.tie(model, "first/kernel", "shared/kernel")
    holds(kg.unshare(tied, "shared#1"), {("first/kernel", "shared/kernel")}, tmp_path)


@pytest.mark.parametrize("weights", ["first", "mean"])
def test_a_tie_goes_to_the_layer_that_its_source_becomes(weights, tmp_path):
    model = blocks()
    tied = kg.tie(model, "c/kernel", "b/kernel")
    one = kg.share(tied, ["a", "b"], weights=weights)
    assert one.count_params() == tied.count_params() - 84
    holds(one, {("c/kernel", "a/kernel")}, tmp_path)
    with pytest.raises(kg.WeightsError, match="a weight of 'c' is tied"):
        kg.share(tied, ["a", "c"])


def test_a_tied_first_kernel_takes_no_other_channels():
    model = blocks()
    target = kg.tie(model, "a/kernel", "b/kernel")
    with pytest.raises(
        kg.EditError,
        match=r"'a' receives the new channels, but 'a/kernel' is tied to 'b/kernel'. Untie",
    ):
        kg.reinput(target, (8, 8, 1), channels="mean")
    source = kg.tie(model, "b/kernel", "a/kernel")
    with pytest.raises(
        kg.EditError, match=r"'b/kernel' is tied to 'a/kernel', which would be gone"
    ):
        kg.reinput(source, (8, 8, 1), channels="mean")
    for tied in (target, source):
        assert ties(kg.reinput(tied, (16, 16, 3))) == ties(tied)
        free = kg.reinput(
            kg.untie(tied, kg.sharing(tied).ties[0].target), (8, 8, 1), channels="mean"
        )
        assert free.get_layer("a").kernel.shape == (3, 3, 1, 3)


def test_a_batchnorm_is_not_folded_into_what_is_tied():
    model = blocks()
    for ends in (("c/kernel", "a/kernel"), ("a/kernel", "c/kernel")):
        tied = kg.tie(model, *ends)
        x = random_inputs(tied, 2)
        expected = arrays(tied(x))
        report = kg.recipes.fold_batchnorm(tied)
        assert not report.folded and ties(report.model) == {ends}
        equal(expected, report.model(x))
    assert report.kept == (("bn", "'c' shares a weight with 'a'"),)


def test_a_tied_layer_gets_another_activation(tmp_path):
    model = kg.tie(blocks("relu"), "a/kernel", "b/kernel")
    new = kg.recipes.swap_activation(model, "relu", "gelu")
    assert new.get_layer("a").activation is keras.activations.gelu
    assert new.count_params() == model.count_params()
    holds(new, {("a/kernel", "b/kernel")}, tmp_path)

    ids = keras.Input((5,), dtype="int32", name="ids")
    embedding = layers.Embedding(11, 4, name="embedding")
    head = kg.layers.TiedDense(embedding, activation="relu", name="head")
    model = keras.Model(ids, head(embedding(ids)))
    new = kg.recipes.swap_activation(model, "relu", "gelu")
    head = new.get_layer("head")
    assert head.activation is keras.activations.gelu
    assert head.source_layer is new.get_layer("embedding") is embedding
    holds(new, {("head/kernel", "embedding/embeddings")}, tmp_path)


def test_fresh_weights_leave_a_tie_a_tie():
    model = kg.tie(blocks(), "c/kernel", "a/kernel")
    new = kg.clone(model, weights="fresh", seed=2)
    assert ties(new) == ties(model)
    assert not np.array_equal(*(arrays(m.get_layer("a").kernel)[0] for m in (model, new)))


def test_a_tie_keeps_its_transform_whatever_layer_takes_over(tmp_path):
    x = keras.Input((4,), name="x")
    y = layers.Dense(4, name="b")(layers.Dense(4, name="a")(x))
    other = layers.Dense(4, name="other")
    model = keras.Model(x, other(y))
    tied = kg.tie(model, "b/kernel", "a/kernel")  # as it is, where a TiedDense would turn it
    new = kg.replace(tied, "b", kg.layers.TiedDense(other, name="b"), weights="keep")
    data = random_inputs(tied, 2)
    equal(new(data), tied(data))
    assert kg.sharing(new).ties[0].transform is None
    holds(new, {("b/kernel", "a/kernel")}, tmp_path)
