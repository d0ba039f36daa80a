"""Backbones and language models of keras_hub, opened: a sample of the table of benchmarks/hub.py."""

from pathlib import Path

import keras
import numpy as np
import pytest

import keras_graft as kg
from keras_graft.model.explain import explained

pytest.importorskip("keras_hub", exc_type=ImportError)
import hub_backbones  # noqa: E402
import hub_language  # noqa: E402

OPEN = ("Bert", "DistilBert", "Bart", "GPT2", "FNet", "Llama", "ViT", "MobileNet", "ResNet")
"""Small, of different kinds, and open with all that is inside."""
LANGUAGE = ("GPT2", "Llama")


def _array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def _off(one, other, data):
    left, right = (keras.tree.flatten(x(data, training=False)) for x in (one, other))
    return max(float(np.abs(_array(a) - _array(b)).max()) for a, b in zip(left, right, strict=True))


@pytest.mark.filterwarnings("ignore::keras_graft.GraftWarning")
@pytest.mark.parametrize("name", OPEN)
def test_a_backbone_is_its_parts(name):
    model = hub_backbones.make(name)
    graph = kg.read(model, open="**")
    found = [one for one in explained(graph) if "a layer of Keras" not in one.reason]
    assert all(one.open for one in found), found
    flat = kg.inline(graph) if found else graph
    built = kg.build(flat)
    held = {id(variable) for variable in built.weights}
    assert all(id(variable) in held for variable in model.weights)
    for size in hub_backbones.sizes_of(name):
        assert _off(model, built, hub_backbones.inputs_of(model, size)) == 0


@pytest.mark.parametrize("name", OPEN)
def test_an_untouched_backbone_keeps_its_class_and_layers(name):
    model = hub_backbones.make(name)
    built = kg.build(kg.read(model, open="**"))
    assert isinstance(built, type(model))
    assert [layer.name for layer in built.layers] == [layer.name for layer in model.layers]
    assert all(a is b for a, b in zip(built.layers, model.layers, strict=True) if a.weights)


@pytest.mark.filterwarnings("ignore::keras_graft.GraftWarning")
@pytest.mark.parametrize("name", LANGUAGE)
def test_a_language_model_is_its_parts_and_generates(name):
    task = hub_language.make(name)
    built = kg.build(kg.inline(kg.read(task, open="**")))
    for size in hub_backbones.sizes_of(name):
        assert _off(task, built, hub_backbones.inputs_of(task, size)) == 0
    half = kg.remove(task.backbone, task.backbone.transformer_layers[1].name)
    short = kg.replace_backbone(task, half)
    tokens = hub_language.generated(short)
    np.testing.assert_array_equal(tokens, hub_language.one_by_one(short))


@pytest.mark.once
def test_every_backbone_has_a_configuration():
    from keras_hub.src.models.backbone import Backbone

    def below(cls):
        for one in cls.__subclasses__():
            yield one
            yield from below(one)

    text = " ".join(path.read_text() for path in Path(__file__).parent.glob("hub_*.py"))
    known = {cls.__name__ for cls in below(Backbone) if cls.__module__.startswith("keras_hub")}
    missing = {name for name in known - {"FeaturePyramidBackbone"} if f"{name}(" not in text}
    assert not missing
