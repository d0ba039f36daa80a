"""`kg.remat`: outputs, losses, gradients, state and files are the donor's; less is kept for training."""

import keras
import numpy as np
import pytest
from donor import equal
from keras import layers, ops

import keras_graft as kg
from keras_graft.testing import random_inputs

BACKEND = keras.backend.backend()


def blocks(count=3, drop=0.3):
    """Return residual blocks with normalization, dropout and losses of their own."""
    x = keras.Input((8,), name="x")
    y = layers.Dense(8, name="stem")(x)
    for i in range(count):
        z = layers.Dense(32, activation="gelu", name=f"block_{i}_up", activity_regularizer="l2")(y)
        z = layers.BatchNormalization(name=f"block_{i}_norm")(z)
        z = layers.Dropout(drop, seed=i, name=f"block_{i}_drop")(z)
        z = layers.Dense(8, name=f"block_{i}_down", kernel_regularizer="l2")(z)
        y = layers.Add(name=f"block_{i}_add")([y, z])
    return keras.Model(x, layers.Dense(3, name="out")(y), name="net")


def masked():
    """Return masks that cross the ends of blocks, and integers that enter one."""
    ids = keras.Input((7,), dtype="int32", name="ids")
    h = layers.Embedding(9, 8, mask_zero=True, name="layer_0_embed")(ids)
    h = layers.Dropout(0.2, seed=9, name="layer_0_drop")(h)
    for i in (1, 2):
        a = layers.LSTM(8, return_sequences=True, name=f"layer_{i}_lstm")(h)
        h = layers.LayerNormalization(name=f"layer_{i}_norm")(
            layers.Add(name=f"layer_{i}_add")([h, a])
        )
    h = layers.GRU(5, name="gru")(h)
    return keras.Model(ids, layers.Dense(3, name="out")(h), name="text")


def attending():
    x = h = keras.Input((7, 8), name="x")
    for i in (1, 2):
        a = layers.MultiHeadAttention(2, 4, dropout=0.2, seed=i, name=f"layer_{i}_attention")(h, h)
        h = layers.LayerNormalization(name=f"layer_{i}_norm")(
            layers.Add(name=f"layer_{i}_add")([h, a])
        )
    return keras.Model(x, layers.Dense(3, name="out")(h), name="attending")


def nested():
    """Return a model whose blocks lie in a nested model, called once."""
    inner = blocks(2)
    x = keras.Input((8,), name="outer_x")
    return keras.Model(x, layers.Dense(2, name="end")(inner(x)), name="outer")


def two_ends():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    h = layers.Add(name="part_0_add")(
        [layers.Dense(4, name="part_0_a")(a), layers.Dense(4, name="part_0_b")(b)]
    )
    side = layers.Dense(2, activation="tanh", name="part_0_side")(h)
    h = layers.Dense(4, activation="tanh", name="part_1_a")(h)
    h = layers.Dense(4, activation="tanh", name="part_1_b")(h)
    return keras.Model(
        {"a": a, "b": b}, {"end": layers.Dense(3, name="end")(h), "side": side}, name="two"
    )


def convolutions():
    x = keras.Input((8, 8, 3), name="image")
    y = x
    for i in range(2):
        y = layers.Conv2D(6, 3, padding="same", name=f"stage{i}_conv")(y)
        y = layers.BatchNormalization(name=f"stage{i}_bn")(y)
        y = layers.ReLU(name=f"stage{i}_relu")(y)
        y = layers.SpatialDropout2D(0.2, seed=i, name=f"stage{i}_drop")(y)
    return keras.Model(x, layers.GlobalAveragePooling2D(name="pool")(y), name="images")


CASES = {
    "blocks": (blocks, "block_*"),
    "masked": (masked, "layer_*"),
    "attending": (attending, "layer_*"),
    "composite": (attending, keras.layers.MultiHeadAttention),
    "nested": (nested, "net/block_*"),
    "two_ends": (two_ends, "part_*"),
    "convolutions": (convolutions, "stage*"),
    "one region": (blocks, ["stem", "out"]),
}


def targets(model, x):
    rng = np.random.default_rng(1)
    return keras.tree.map_structure(
        lambda t: rng.normal(size=tuple(t.shape)).astype("float32"), model(x)
    )


def steps(model, x, y, count=2):
    """Train for some steps from the same start; return the losses, and then all variables."""
    start = [ops.convert_to_numpy(v) for v in model.variables]
    keras.utils.set_random_seed(5)  # PyTorch draws from its own generator where no seed is given
    model.compile("sgd", "mse", jit_compile=BACKEND == "jax")
    losses = [model.train_on_batch(x, y) for _ in range(count)]
    found = {id(v): ops.convert_to_numpy(v) for v in model.variables}
    for variable, value in zip(model.variables, start, strict=True):
        variable.assign(value)
    return losses, found


def is_remat(model):
    return any(isinstance(layer, kg.layers.Remat) for layer in model._flatten_layers())


@pytest.mark.parametrize("case", CASES)
def test_training_is_that_of_the_donor(case, tmp_path):
    make, target = CASES[case]
    model = make()
    x = random_inputs(model, 4)
    y = targets(model, x)
    made = kg.remat(model, target)
    assert is_remat(made)
    equal(model(x), made(x))
    assert {id(v) for v in made.variables} == {id(v) for v in model.variables}
    made.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert is_remat(loaded)
    equal(made(x), loaded(x))
    losses, values = steps(model, x, y)
    again, found = steps(made, x, y)
    np.testing.assert_allclose(losses, again, rtol=1e-5)
    for key, value in values.items():
        if BACKEND == "torch":  # eager: the same operations, in the same order
            np.testing.assert_array_equal(value, found[key])
        np.testing.assert_allclose(value, found[key], rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(losses, steps(loaded, x, y)[0], rtol=1e-5)


@pytest.mark.once
def test_what_is_selected_is_grouped_into_blocks():
    def names(target, make=blocks):
        made = kg.remat(kg.read(make()), target)
        return [(n.name, [x.name for x in n.nested.nodes]) for n in made.nodes if n.kind == "Remat"]

    assert [name for name, _ in names("block_*")] == ["block_0", "block_1", "block_2"]
    assert names(["block_1_up", "block_1_drop"]) == [  # with what lies between
        ("block_1", ["block_1_up", "block_1_norm", "block_1_drop"])
    ]
    assert [name for name, _ in names(["stem", "out"])] == ["stem_remat", "out_remat"]
    assert names("layer_*_attention", attending)[0] == (
        "layer_1_attention_remat",
        ["layer_1_attention"],
    )
    model = nested()
    whole = kg.remat(model, "net")
    assert [x.name for x in whole.layers] == ["outer_x", "net_remat", "end"]
    inside = kg.remat(model, "net/block_1_*")
    assert [x.name for x in inside.get_layer("net").layers][-2:] == ["block_1", "out"]
    # Names that clash with a layer's get a number.
    x = keras.Input((4,), name="b_0")
    y = layers.Dense(4, name="b_0_x")(layers.Dense(4, name="b_0_y")(x))
    y = layers.Dense(4, name="b_1_x")(layers.Dense(4, name="b_1_y")(y))
    made = kg.remat(keras.Model(x, y), "b_*_*")
    assert [layer.name for layer in made.layers] == ["b_0", "b_0_1", "b_1"]


@pytest.mark.once
def test_inline_and_plain_undo_it(tmp_path):
    model = blocks()
    made = kg.remat(model, "block_*")
    x = random_inputs(model, 3)
    again = kg.inline(made, kg.layers.Remat)
    assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]
    equal(model(x), again(x))
    plain = kg.plain(made)
    assert not is_remat(plain)
    equal(model(x), plain(x))
    steps_made = kg.replay(kg.clone(model), kg.steps(made))
    assert is_remat(steps_made)
    equal(model(x), steps_made(x))


def test_an_edit_inside_keeps_it():
    made = kg.remat(blocks(), "block_*")
    other = kg.replace(made, "block_1/block_1_drop", layers.Identity(name="none"))
    assert type(other.get_layer("block_1")).__name__ == "Remat"
    x = random_inputs(other, 3)
    other.compile("sgd", "mse")
    assert np.isfinite(other.train_on_batch(x, targets(other, x)))


@pytest.mark.once
def test_what_cannot_be_right_is_refused():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            shared := layers.Dense(4, name="shared"),
            shared,
            layers.Dense(4, name="end"),
        ]
    )
    x = keras.Input((4,), name="x")
    model = keras.Model(x, layers.Dense(4, name="end")(shared(layers.ReLU(name="r")(shared(x)))))
    with pytest.raises(kg.EditError, match="its layer is called outside it too"):
        kg.remat(model, "shared#0")
    assert kg.remat(model, ["shared", "r"]).count_params() == model.count_params()  # the way out
    ids = keras.Input((7,), dtype="int32", name="ids")
    h = layers.Embedding(9, 8, mask_zero=True, name="embed")(ids)
    h = layers.MultiHeadAttention(2, 4, name="attention")(h, h)
    model = keras.Model(ids, layers.GRU(3, name="gru")(h), name="text")
    with pytest.raises(
        kg.EditError, match="'attention' .MultiHeadAttention. takes off a mask that enters"
    ):
        kg.remat(model, "attention")
    with pytest.raises(kg.EditError, match="it is an input"):
        kg.remat(model, "ids")
    x = keras.Input((4,), name="x")
    a0 = layers.Dense(4, name="a_0_x")(x)
    b0 = layers.Dense(4, name="a_1_x")(a0)
    a1 = layers.Dense(4, name="a_0_y")(b0)
    model = keras.Model(x, layers.Dense(4, name="a_1_y")(a1))
    with pytest.raises(kg.EditError, match="lies between calls of two blocks"):
        kg.remat(model, "a_*")
    assert is_remat(kg.remat(model, "a_0_*"))  # with what lies between
    before = [layer.name for layer in model.layers]
    with pytest.raises(kg.NothingSelectedError):
        kg.remat(model, "nothing_*")
    assert [layer.name for layer in model.layers] == before


def test_mixed_precision_and_a_frozen_layer():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = blocks()
    finally:
        keras.config.set_dtype_policy("float32")
    model.get_layer("block_1_up").trainable = False
    if BACKEND == "tensorflow":  # Keras cannot add losses of two dtypes there, in any model
        for layer in model.layers:
            if hasattr(layer, "kernel"):
                layer.activity_regularizer = layer.kernel_regularizer = None
                layer.kernel.regularizer = None
    x = random_inputs(model, 4)
    y = keras.tree.map_structure(lambda t: np.ones(t.shape, "float32"), model(x))
    made = kg.remat(model, "block_*")
    equal(model(x), made(x))
    losses, values = steps(model, x, y)
    again, found = steps(made, x, y)
    np.testing.assert_allclose(losses, again, rtol=2e-2)
    for key, value in values.items():
        np.testing.assert_allclose(value, found[key], rtol=5e-2, atol=5e-3)


def kept(model, x):
    """Return how many bytes stay for the backward pass, as each backend tells."""
    if BACKEND == "torch":
        import torch

        sizes = {}

        def pack(tensor):
            if tensor.requires_grad is False or tensor.grad_fn is not None:
                sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = ops.sum(model(x, training=True))
        del loss
        return sum(sizes.values())
    import jax

    trainable, state = model.trainable_variables, model.non_trainable_variables

    def loss(values):
        outputs, _ = model.stateless_call(values, [v.value for v in state], x, training=True)
        return ops.sum(outputs)

    _, backward = jax.vjp(loss, [v.value for v in trainable])
    return sum(leaf.nbytes for leaf in jax.tree.leaves(backward) if hasattr(leaf, "nbytes"))


def deep(count=8):
    x = y = keras.Input((16,), name="x")
    for i in range(count):
        z = layers.Dense(256, activation="gelu", name=f"block_{i}_up")(y)
        z = layers.Dense(256, activation="gelu", name=f"block_{i}_mid")(z)
        z = layers.Dense(16, name=f"block_{i}_down")(z)
        y = layers.Add(name=f"block_{i}_add")([y, z])
    return keras.Model(x, y, name="deep")


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow on a CPU does not tell")
def test_less_is_kept_for_training():
    model = deep()
    x = np.random.default_rng(0).normal(size=(512, 16)).astype("float32")
    whole, less = kept(model, x), kept(kg.remat(model, "block_*"), x)
    assert less < whole / 2
