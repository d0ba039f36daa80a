"""What stages had in common: a join ties it again, or says what is two now and what makes it one."""

import re
import warnings

import keras
import numpy as np
import pytest
from donor import arrays, equal
from keras import layers
from tied import language, model_of, size_in_file, target_like, train, two_models

import keras_graft as kg
from keras_graft.testing import random_inputs

ENDS = ("lm_head/kernel", "embedding/embeddings")


def unmasked():
    ids = keras.Input((5,), dtype="int32", name="ids")
    x = layers.LayerNormalization(name="norm")(layers.Embedding(11, 4, name="embedding")(ids))
    return keras.Model(ids, layers.Dense(11, name="lm_head")(x), name="language")


def chain():
    x = keras.Input((4,), name="x")
    y = layers.Dense(4, name="a")(x)
    y = layers.Dense(4, name="norm")(y)
    return keras.Model(x, layers.Dense(4, name="b")(y), name="chain")


CASES = {
    "head": lambda: kg.tie(unmasked(), *ENDS, transform="transpose"),
    "masked": lambda: kg.tie(language(), *ENDS, transform="transpose"),
    "from the head": lambda: kg.tie(unmasked(), *ENDS[::-1], transform="transpose"),
    "as it is": lambda: kg.tie(chain(), "b/kernel", "a/kernel"),
    "tied dense": lambda: model_of(layers.Embedding(11, 4, name="source")),
    "bias": lambda: kg.tie(chain(), "b/bias", "a/bias"),
}  # fmt: skip


def stages(tied, folder, times=1, at="norm"):
    """Return the stages of a model, saved and loaded."""
    parts = kg.split(tied, at=at, complete=True)
    for _ in range(times):
        for i, part in enumerate(parts):
            part.save(folder / f"{i}.keras")
        parts = [keras.models.load_model(folder / f"{i}.keras") for i in range(len(parts))]
    return parts


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_a_tie_that_a_stage_remembers_is_restored(make, times, tmp_path):
    tied = make()
    trunk, head = stages(tied, tmp_path, times)
    x = random_inputs(tied, 3)
    expected = arrays(head(trunk(x)))
    sizes = [part.count_params() for part in (trunk, head)]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="join")
        joined = kg.join(trunk, head)
    assert joined.count_params() == tied.count_params() < sum(sizes)
    (tie,), (old,) = kg.sharing(joined).ties, kg.sharing(tied).ties
    assert tie == old and tie.here
    equal(joined(x), tied(x))
    # The stages are left as they were.
    assert [part.count_params() for part in (trunk, head)] == sizes
    equal(head(trunk(x)), expected)
    joined.save(tmp_path / "joined.keras")
    assert size_in_file(tmp_path / "joined.keras") == tied.count_params()
    again = keras.models.load_model(tmp_path / "joined.keras")
    assert again.count_params() == tied.count_params()
    equal(again(x), tied(x))
    train(joined, x, target_like(tied, x), steps=2)
    equal(kg.clone(joined)(x), joined(x))


@pytest.mark.parametrize("which", ["trunk", "head"])
def test_one_stage_from_a_file_is_enough(which, tmp_path):
    tied = kg.tie(unmasked(), *ENDS, transform="transpose")
    parts = kg.split(tied, at="norm")
    loaded = stages(tied, tmp_path)
    joined = kg.join(loaded[0], parts[1]) if which == "trunk" else kg.join(parts[0], loaded[1])
    x = random_inputs(tied, 3)
    equal(joined(x), tied(x))
    assert joined.count_params() == tied.count_params() and kg.sharing(joined).ties[0].here
    if which == "trunk":
        source = joined.get_layer("embedding")
        assert source is loaded[0].get_layer("embedding")
        source.embeddings.assign(np.zeros((11, 4)))
        assert not arrays(joined.get_layer("lm_head").kernel.value)[0].any()
        assert arrays(parts[1].get_layer("lm_head").kernel.value)[0].any()


def test_three_stages_and_a_graph(tmp_path):
    tied = kg.tie(
        two_models(), "decoder/lm_head/kernel", "encoder/embedding/embeddings", "transpose"
    )
    parts = stages(tied, tmp_path, at=["encoder", "decoder/mix"])
    x = random_inputs(tied, 2)
    joined = kg.join(*parts)
    assert joined.count_params() == tied.count_params() and kg.sharing(joined).ties[0].here
    equal(joined(x), tied(x))
    graph = kg.join(*map(kg.read, parts))
    assert kg.build(graph).count_params() == tied.count_params()
    # Without the source's stage there is nothing to tie to, and the next join knows still.
    half = kg.join(*parts[1:])
    assert not kg.sharing(half).ties
    half.save(tmp_path / "half.keras")
    for part in (half, keras.models.load_model(tmp_path / "half.keras")):
        assert kg.join(parts[0], part).count_params() == tied.count_params()


def test_values_that_differ_are_two_and_it_says_which_call_ties_them(tmp_path):
    for make in (CASES["head"], CASES["tied dense"]):
        tied = make()
        (record,) = kg.sharing(tied).ties
        trunk, head = stages(tied, tmp_path)
        target, source = record.target.split("/")[0], record.source.split("/")[0]
        head.get_layer(target).kernel.assign(np.ones((4, 11)))
        x = random_inputs(tied, 3)
        expected = arrays(head(trunk(x)))
        words = f"join: '{record.target}' was tied to '{record.source}'.*their values differ"
        with pytest.warns(UserWarning, match=words) as caught:
            joined = kg.join(trunk, head)
        equal(joined(x), expected)
        assert joined.count_params() == trunk.count_params() + head.count_params()
        # It stays two in files, and the call that it names makes one of them.
        joined.save(tmp_path / "joined.keras")
        again = keras.models.load_model(tmp_path / "joined.keras")
        (text,) = (str(w.message) for w in caught if "was tied" in str(w.message))
        call = re.search(r"kg\.tie\(.*\)", text).group()
        for model in (joined, again):
            equal(model(x), expected)
            assert model.count_params() == trunk.count_params() + head.count_params()
            one = eval(call, {"kg": kg, "joined": model})
            assert one.count_params() == tied.count_params() and kg.sharing(one).ties[0].here
            matrix = arrays(one.get_layer(source).embeddings)[0]
            equal(np.array(arrays(one.get_layer(target).kernel.value)[0]), matrix.T)
            one.save(tmp_path / "one.keras")
            last = keras.models.load_model(tmp_path / "one.keras")
            equal(last(x), one(x))
            assert last.count_params() == tied.count_params()


def test_what_does_not_fit_any_more_is_said(tmp_path):
    trunk, head = stages(CASES["head"](), tmp_path)
    trunk.get_layer("embedding").trainable = False
    with pytest.warns(UserWarning, match="was tied to .*: the target is trainable, the source fro"):
        joined = kg.join(trunk, head)
    assert joined.count_params() == trunk.count_params() + head.count_params()


def test_adapters_that_came_before_the_split(tmp_path):
    tied = CASES["head"]()
    layer = tied.get_layer("embedding")
    layer.enable_lora(2)
    layer.lora_embeddings_b.assign(np.ones((2, 4)))
    trunk, head = stages(tied, tmp_path)
    joined = kg.join(trunk, head)
    x = random_inputs(tied, 2)
    for a, b in zip(arrays(joined(x)), arrays(tied(x)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert joined.count_params() == tied.count_params() and kg.sharing(joined).ties[0].here


def shared():
    x = keras.Input((4,), name="x")
    dense, norm = layers.Dense(4, name="dense"), layers.BatchNormalization(name="norm")
    y = norm(dense(x))
    y = layers.Dense(4, name="middle")(y)
    return keras.Model(x, norm(dense(y)), name="net")


def test_a_layer_in_two_stages_is_two_after_files_and_it_is_said(tmp_path):
    model = shared()
    trunk, head = kg.split(model, at="middle")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="join")
        assert kg.join(trunk, head).count_params() == model.count_params()
        copy = kg.clone(trunk)
        kg.join(trunk, kg.clone(trunk), copy)  # twice the same stage, on purpose
    loaded = stages(model, tmp_path, at="middle")
    with pytest.warns(
        UserWarning,
        match="join: 'dense' .with equal weights., 'norm' .with equal weights.: a layer of",
    ) as caught:
        joined = kg.join(*loaded)
    x = random_inputs(model, 3)
    equal(joined(x), model(x))
    assert joined.count_params() == model.count_params() + 36
    (text,) = (str(w.message) for w in caught if "kg.share" in str(w.message))
    for call in re.findall(r"kg\.share\(.*?\]\)", text):
        joined = eval(call, {"kg": kg, "joined": joined})
    assert joined.count_params() == model.count_params()
    equal(joined(x), model(x))


def test_stages_that_were_trained_apart(tmp_path):
    loaded = stages(shared(), tmp_path, at="middle")
    loaded[1].get_layer("dense").kernel.assign(np.ones((4, 4)))
    with pytest.warns(UserWarning, match="'dense' .with different weights., 'norm' .with equal"):
        kg.join(*loaded)


def test_models_that_were_never_one_are_joined_without_a_word():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="join")
        first, second = chain(), chain()
        kg.join(first, second)
        kg.join(first, kg.clone(first))
