"""prune and group on the networks of keras.applications, with channels that do nothing."""

import keras
import numpy as np
import pytest
from donor import THOROUGH
from zeroed import without_zeros

import keras_graft as kg

A = keras.applications
small = {"weights": None, "input_shape": (32, 32, 3), "classes": 5}
NETWORKS = {
    "ResNet50": (lambda: A.ResNet50(**small), ["conv3_block3_2_conv", "conv4_block1_0_conv"]),
    "MobileNetV3Small": (
        lambda: A.MobileNetV3Small(**small),
        ["expanded_conv_2_depthwise", "expanded_conv_4_squeeze_excite_conv"],
    ),
    "EfficientNetB0": (
        lambda: A.EfficientNetB0(**small), ["block4a_dwconv", "block4c_project_conv"]
    ),
    "DenseNet121": (lambda: A.DenseNet121(**small), ["conv4_block1_2_conv"]),
    "ConvNeXtTiny": (
        lambda: A.ConvNeXtTiny(**small), ["convnext_tiny_stage_1_block_2_pointwise_conv_1"]
    ),
    "NASNetMobile": (lambda: A.NASNetMobile(**small), ["separable_conv_2_normal_left2_5"]),
}  # fmt: skip


def made(name):
    if name == "NASNetMobile" and keras.backend.backend() == "torch":
        pytest.skip("Keras does not make it on PyTorch")
    if not THOROUGH and name != "NASNetMobile":
        pytest.skip("on PyTorch")
    return NETWORKS[name][0]()


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_that_do_nothing(name):
    model = made(name)
    for layer in NETWORKS[name][1]:
        without_zeros(model, layer)


@pytest.mark.parametrize("name", NETWORKS)
def test_half_of_all_channels(name, tmp_path):
    model = made(name)
    half = kg.prune(model, {"**": 0.5})
    assert half.count_params() < 0.45 * model.count_params()
    assert half.output_shape == model.output_shape
    half.compile("sgd", "categorical_crossentropy")
    x, y = np.random.default_rng(0).random((2, 32, 32, 3)), np.eye(5)[:2]
    half.fit(x, y, verbose=0)
    half.save(tmp_path / "half.keras")
    again = keras.saving.load_model(tmp_path / "half.keras")
    np.testing.assert_allclose(again.predict(x, verbose=0), half.predict(x, verbose=0), rtol=1e-5)


def test_the_work_grows_with_the_nodes(monkeypatch):
    """Each call is asked for its rule once, however many groups it belongs to."""
    from keras_graft.pruning import network

    asked = []
    rule_for = network.rule_for
    monkeypatch.setattr(network, "rule_for", lambda op: asked.append(op) or rule_for(op))
    model = made("ResNet50")
    kg.prune(model, {keras.layers.Conv2D: 0.5})
    assert len(asked) <= len(kg.read(model).steps)
