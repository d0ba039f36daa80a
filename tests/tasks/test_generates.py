"""`generate` of tasks around edited backbones: against tasks made by hand, and the network alone."""

import keras
import numpy as np
import pytest
from donor import arrays, equal
from language_models import (
    EDITS,
    LANGUAGE,
    block_of,
    copied,
    deeper,
    generated,
    halved,
    hub,
    language,
    llama,
    one_by_one,
    prompt,
)

import keras_graft as kg

LISTED = "ignore:.* between layers that the attribute"


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name", LANGUAGE)
def test_generates_as_the_task_made_by_hand(name, edit):
    donor = language(name)
    backbone = EDITS[edit](donor.backbone)
    task = kg.replace_backbone(donor, backbone)
    assert type(task) is type(donor) and task.backbone is backbone
    by_hand = type(donor)(backbone=backbone, preprocessor=None)
    by_hand.compile(sampler="greedy")
    equal(task(prompt()), by_hand(prompt()))
    tokens = generated(task)
    np.testing.assert_array_equal(tokens, generated(by_hand))
    np.testing.assert_array_equal(tokens, one_by_one(task))
    assert not np.array_equal(tokens, generated(donor))


@pytest.mark.parametrize("name", LANGUAGE)
def test_lists_and_numbers_of_layers_follow_the_calls(name):
    donor = LANGUAGE[name][1]()
    first = donor.transformer_layers
    half, deep, more = halved(donor), deeper(donor), copied(donor)
    assert half.transformer_layers == [first[0], first[2]] and half.num_layers == 2
    for new, names in ((deep, [0, 1, 2, 1, 2, 3]), (more, [0, 1, 2, None, None, 3])):
        found = new.transformer_layers
        assert new.num_layers == len(found) == 6
        calls = [n.operation for n in kg.read(new) if any(n.operation is x for x in found)]
        assert found == calls
        at = {id(layer): number for number, layer in enumerate(first)}
        assert [at.get(id(layer)) for layer in found] == names
    assert donor.num_layers == 4 and donor.transformer_layers == first
    turned = kg.rewire(donor, {block_of(donor, 2): block_of(donor, 0)})
    assert turned.transformer_layers == [first[0], first[3]] and turned.num_layers == 2


def test_a_deeper_backbone_is_saved_with_its_list(tmp_path):
    donor = language()
    task = kg.replace_backbone(donor, deeper(donor.backbone))
    task.save(tmp_path / "deep.keras")
    again = keras.models.load_model(tmp_path / "deep.keras", compile=False)
    assert type(again) is type(task)
    assert again.backbone.num_layers == task.backbone.num_layers
    layers = again.backbone.transformer_layers
    assert [x.name for x in layers] == [x.name for x in task.backbone.transformer_layers]
    again.compile(sampler="greedy")
    np.testing.assert_array_equal(generated(again), generated(task))
    with pytest.raises(kg.NotYetError, match=r"model\.save"):
        task.save_to_preset(str(tmp_path / "preset"))


def test_a_backbone_and_a_task_from_files(tmp_path):
    donor = language()
    half = halved(donor.backbone)
    half.save(tmp_path / "half.keras")
    loaded = keras.models.load_model(tmp_path / "half.keras")
    task = kg.replace_backbone(donor, loaded)
    np.testing.assert_array_equal(generated(task), generated(kg.replace_backbone(donor, half)))
    task.save(tmp_path / "task.keras")
    again = keras.models.load_model(tmp_path / "task.keras", compile=False)
    one = kg.replace_backbone(again, kg.remove(again.backbone, block_of(again.backbone, 1)))
    one.compile(sampler="greedy")
    assert len(one.backbone.transformer_layers) == 1
    np.testing.assert_array_equal(generated(one), one_by_one(one))


@pytest.mark.filterwarnings(LISTED)
@pytest.mark.parametrize("zero", [True, False])
def test_an_inserted_layer_is_refused_even_one_that_does_nothing_yet(zero):
    donor = language()
    start = "zeros" if zero else "ones"
    adapter = keras.layers.Dense(16, kernel_initializer=start, name="more")
    new = kg.insert(donor.backbone, lambda x: x + adapter(x), after="transformer_layer_1")
    with pytest.raises(kg.EditError, match=r"would skip .*more.*`transformer_layers`"):
        kg.replace_backbone(donor, new)


@pytest.mark.filterwarnings(LISTED)
@pytest.mark.parametrize("after", ["embeddings_dropout", "transformer_layer_1", "layer_norm"])
def test_an_inserted_function_is_refused(after):
    donor = language()
    new = kg.insert(donor.backbone, lambda x: x * 1.5, after=after)
    with pytest.raises(
        kg.EditError, match=r"does not give what the network .*`transformer_layers`"
    ):
        kg.replace_backbone(donor, new)


@pytest.mark.filterwarnings(LISTED)
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "float16"])
def test_16_bits_hide_no_difference(dtype):
    donor = language("Llama", dtype=dtype)
    before = [x.dtype_policy.name for x in donor._flatten_layers()]
    same = kg.replace_backbone(donor, halved(donor.backbone))
    assert before == [x.dtype_policy.name for x in donor._flatten_layers()] and dtype in before
    assert {x.dtype_policy.name for x in same._flatten_layers()} == set(before)
    for scale in (1.5, 1.02):
        new = kg.insert(donor.backbone, lambda x, s=scale: x * s, after=block_of(donor.backbone, 1))
        with pytest.raises(kg.EditError, match="does not give what the network"):
            kg.replace_backbone(donor, new)


@pytest.mark.filterwarnings(LISTED)
@pytest.mark.parametrize("name", LANGUAGE)
def test_the_way_out_of_an_inserted_layer(name, tmp_path):
    donor = language(name)
    where = block_of(donor.backbone, 1)
    block = donor.backbone.get_layer(where)
    more = keras.layers.Dense(16, kernel_initializer=keras.initializers.RandomNormal(seed=1))
    both = kg.layers.Then(block, more, name="both")
    new = kg.replace(donor.backbone, where, both)
    task = kg.replace_backbone(donor, new)
    assert task.backbone.transformer_layers[1] is both
    tokens = generated(task)
    np.testing.assert_array_equal(tokens, one_by_one(task))
    assert not np.array_equal(tokens, generated(donor))
    expected = kg.insert(kg.read(donor.backbone), more, after=where)
    equal(new(prompt()), kg.build(expected)(prompt()))
    if name != "Llama":
        task.save(tmp_path / "both.keras")
        again = keras.models.load_model(tmp_path / "both.keras", compile=False)
        again.compile(sampler="greedy")
        np.testing.assert_array_equal(generated(again), tokens)


def test_an_edited_llama_says_how_its_weights_are_saved(tmp_path):
    # A layer of Llama cannot say how it was made in keras_hub 0.32.
    donor = language("Llama")
    task = kg.replace_backbone(donor, halved(donor.backbone))
    with pytest.raises(kg.NotYetError) as told:
        task.save(tmp_path / "half.keras")
    words = str(told.value)
    assert "'transformer_layer_0' (LlamaTransformerDecoder) cannot say it" in words
    assert 'model.save_weights("model.weights.h5")' in words
    task.save_weights(tmp_path / "model.weights.h5")
    again = hub.LlamaCausalLM(backbone=kg.clone(llama(), weights="fresh"), preprocessor=None)
    again = kg.replace_backbone(again, halved(again.backbone))
    assert not np.array_equal(arrays(again(prompt()))[0], arrays(task(prompt()))[0])
    again.load_weights(tmp_path / "model.weights.h5")
    equal(again(prompt()), task(prompt()))
    third = kg.replace_backbone(task, kg.remove(task.backbone, "transformer_layer_2", keep=0))
    assert third.backbone.num_layers == 1


def test_then_must_treat_each_position_separately():
    donor = language()
    block = donor.backbone.transformer_layers[1]

    class Mixes(keras.layers.Layer):
        def call(self, x):
            return keras.ops.cumsum(x, axis=1)

    both = kg.layers.Then(block, Mixes(name="mixes"), name="both")
    new = kg.replace(donor.backbone, block.name, both)
    with pytest.raises(kg.EditError, match="does not give what the network"):
        kg.replace_backbone(donor, new)


def _last_inside(backbone, name):
    graph = kg.read(backbone, open="**")
    (node,) = kg.select(graph, name).nodes
    return f"{name}/{node.nested.nodes[-1].name}"


BEYOND = {
    "inserted layer": lambda b: kg.insert(
        b, keras.layers.Dense(16, kernel_initializer="orthogonal", name="m"), after=block_of(b, 1)
    ),
    "inserted function": lambda b: kg.insert(b, lambda x: x * 1.5, after=block_of(b, 0)),
    "edited inside": lambda b: kg.insert(
        b, keras.layers.LayerNormalization(name="m"), after=_last_inside(b, block_of(b, 1))
    ),
}


@pytest.mark.filterwarnings(LISTED)
@pytest.mark.parametrize("edit", BEYOND)
@pytest.mark.parametrize("name", LANGUAGE)
def test_any_backbone_generates_without_a_cache(name, edit, tmp_path):
    donor = language(name)
    backbone = BEYOND[edit](donor.backbone)
    with pytest.raises(kg.EditError, match=r"kg\.replace_backbone\(task, backbone, cache=False\)"):
        kg.replace_backbone(donor, backbone)
    task = kg.replace_backbone(donor, backbone, cache=False)
    assert isinstance(task, type(donor)) and type(task).__name__ == type(donor).__name__
    tokens = generated(task)
    np.testing.assert_array_equal(tokens, one_by_one(task))
    if name == "Llama" or edit == "edited inside":
        return  # layers of keras_hub that cannot say how they were made, or not be called by Keras
    task.save(tmp_path / "task.keras")
    again = keras.models.load_model(tmp_path / "task.keras", compile=False)
    again.compile(sampler="greedy")
    np.testing.assert_array_equal(generated(again), tokens)
    assert type(again) is type(task)


@pytest.mark.parametrize("sampler", ["greedy", "beam", "top_k"])
@pytest.mark.parametrize("stop", [None, (3, 17), (11,)])
def test_without_a_cache_all_is_as_with_it(sampler, stop):
    donor = language(sampler=sampler)
    task = kg.replace_backbone(donor, donor.backbone, cache=False)
    with_cache = donor.generate(prompt(), stop_token_ids=stop)
    without = task.generate(prompt(), stop_token_ids=stop)
    for key, value in with_cache.items():
        np.testing.assert_array_equal(np.asarray(without[key]), np.asarray(value))
    for name in ("call_with_cache", "score"):
        with pytest.raises(kg.NotYetError, match=f"{name}: .* cache=False"):
            getattr(task, name)(prompt()["token_ids"])
    again = kg.replace_backbone(task, task.backbone)
    assert type(again) is type(donor)  # with a cache again
