"""The same done with hooks that users write by hand, one way for each backend."""

import keras
import numpy as np
import pytest
from architectures import application, cheap_weights
from donor import arrays, equal
from inside_by_hand import gradient_by_hand
from keras import layers, ops

import keras_graft as kg
from keras_graft.testing import random_inputs


def hooked(model, x, hooks, seen=None):
    """Run a model with its layers' `call` wrapped, as a user hooks into Keras today."""
    old = {}
    try:
        for name in {**hooks, **dict.fromkeys(seen or ())}:
            layer = model.get_layer(name)
            old[layer] = layer.call

            def call(*args, _layer=layer, _name=name, **kwargs):
                value = old[_layer](*args, **kwargs)
                value = hooks[_name](value) if _name in hooks else value
                if seen is not None:
                    seen[_name] = value
                return value

            layer.__dict__["call"] = call
        return model(x, training=False)
    finally:
        for layer in old:
            layer.__dict__.pop("call", None)


CHANGES = {
    "zero": (0, ops.zeros_like),
    "constant": (0.5, lambda t: ops.zeros_like(t) + 0.5),
    "scaled": (lambda t: t * 0.5, lambda t: t * 0.5),
    "steered": (lambda t: t + 1.0, lambda t: t + 1.0),
    "mean of the batch": (
        lambda t: ops.mean(t, axis=0, keepdims=True),
        lambda t: ops.zeros_like(t) + ops.mean(t, axis=0, keepdims=True),
    ),
}


@pytest.fixture(scope="module")
def network():
    with cheap_weights():
        return application("MobileNetV2")


@pytest.mark.parametrize("case", CHANGES)
def test_patching_a_real_network_equals_hooks(network, case):
    new, change = CHANGES[case]
    x = random_inputs(network, 2)
    names = ["block_3_depthwise_relu", "block_5_add", "block_13_project_BN"]
    patched = kg.patch(network, dict.fromkeys(names, new))
    equal(patched(x, training=False), hooked(network, x, dict.fromkeys(names, change)))


def test_recording_a_real_network_equals_hooks(network):
    x = random_inputs(network, 2)
    seen = dict.fromkeys([f"block_{i}_depthwise_relu" for i in range(1, 13)])
    hooked(network, x, {}, seen)
    found = kg.record(network, x, list(seen))
    equal([found[name] for name in seen], list(seen.values()))


def test_grad_cam_of_a_real_network_equals_a_model_of_two_outputs(network):
    """The recipe of Keras's own Grad-CAM example, with the backend's own gradient."""
    x = random_inputs(network, 2)
    found = kg.gradients(network, x, "out_relu", of=2)
    trunk, head = kg.split(network, at="out_relu")
    value = trunk(x, training=False)
    by_hand = gradient_by_hand(lambda t: ops.sum(head(t, training=False)[:, 2]), value)
    np.testing.assert_allclose(arrays(found.values)[0], by_hand, rtol=1e-3, atol=1e-8)
    equal(found.activations, value)


def transformer(blocks=2, width=16, heads=2):
    ids = keras.Input((6,), dtype="int32", name="ids")
    x = layers.Embedding(11, width, name="embed")(ids)
    for i in range(blocks):
        y = layers.LayerNormalization(name=f"norm_{i}")(x)
        y = layers.MultiHeadAttention(heads, width // heads, name=f"attention_{i}")(y, y)
        x = layers.Add(name=f"add_{i}")([x, y])
        y = layers.Dense(32, activation="gelu", name=f"up_{i}")(x)
        y = layers.Dense(width, name=f"mlp_{i}")(y)
        x = layers.Add(name=f"out_{i}")([x, y])
    return keras.Model(ids, layers.Dense(11, name="logits")(x), name="transformer")


def test_path_patching_equals_hooks():
    """A value of another run, at one place, and what follows from it."""
    model = transformer()
    rng = np.random.default_rng(0)
    clean, other = (ops.convert_to_tensor(rng.integers(0, 11, (3, 6))) for _ in range(2))
    taken = kg.record(model, other, ["attention_0", "mlp_1"])
    patched = kg.patch(model, {name: kg.Given(f"{name}_given") for name in taken})
    wanted = hooked(model, clean, {n: lambda t, n=n: taken[n] for n in taken})
    equal(patched([clean, *taken.values()], training=False), wanted)
    own = kg.record(model, clean, list(taken))
    equal(patched([clean, *own.values()], training=False), model(clean, training=False))
