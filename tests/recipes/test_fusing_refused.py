"""fuse_activation, merge_branches, fold_batchnorm: what would compute or train something else stays."""

import keras
import numpy as np
import pytest
from donor import equal
from keras import layers, ops

import keras_graft as kg

DENSE = layers.Dense


def numpy(x):
    return ops.convert_to_numpy(x)


def branches(*made, add=None, x=None):
    x = keras.Input((8, 8, 4), name="x") if x is None else x
    add = layers.Add(name="add") if add is None else add
    return keras.Model(x, add([each(x) for each in made]), name="branches")


def conv(size, name, **given):
    return layers.Conv2D(4, size, padding="same", name=name, **given)


def normed(name, norm):
    return lambda x: norm(conv(3, name)(x))


def merge(model):
    return kg.recipes.merge_branches(model)


def fuse(*made):
    x = y = keras.Input((4,), name="x")
    for layer in made:
        y = layer(y)
    return keras.Model(x, y, name="chain")


def why(call, model):
    with pytest.raises(kg.NothingSelectedError) as caught:
        call(model)
    return str(caught.value)


class Conv2D(layers.Conv2D):
    def call(self, x):
        kernel = self.kernel - ops.mean(self.kernel, axis=(0, 1, 2), keepdims=True)
        return ops.conv(x, kernel, padding="same")


class Norm(layers.BatchNormalization):
    def call(self, x, training=None, mask=None):
        return super().call(x, training=training, mask=mask) * 2


class Add(layers.Add):
    def call(self, x):
        return super().call(x) * 2


def test_classes_with_code_of_their_own_are_not_merged():
    own = Conv2D(4, 3, padding="same", name="own")
    words = "'{}' is a {}, which may have code of its own"
    assert words.format("own", "Conv2D") in why(merge, branches(own, conv(1, "a")))
    model = branches(normed("c", Norm(name="norm")), conv(1, "a"))
    assert words.format("norm", "Norm") in why(merge, model)
    model = branches(conv(3, "a"), conv(1, "b"), add=Add(name="sum"))
    assert words.format("sum", "Add") in why(merge, model)
    x = keras.Input((8, 8, 4))
    model = keras.Model(x, layers.ReLU()(own(x)))
    assert words.format("own", "Conv2D") in why(kg.recipes.fuse_activation, model)


def test_branches_in_another_dtype_than_their_sum_are_a_near_miss():
    mixed = {"dtype": "mixed_bfloat16"}
    x = keras.Input((8, 8, 4), name="x")
    add = layers.Add(dtype="float32", name="add")
    parts = [conv(3, "a", **mixed)(x), conv(1, "b", **mixed)(x)]
    y = layers.Add(name="fine")([conv(3, "c")(add(parts)), conv(1, "d")(add.output)])
    model = keras.Model(x, y)
    assert [n.name for n in kg.read(merge(model)).nodes] == ["a", "b", "add", "c"]
    found = why(merge, keras.Model(x, add.output))
    assert "'a' gives (?, 8, 8, 4) bfloat16, and 'add' (?, 8, 8, 4) float32" in found


def test_a_layer_with_adapters_is_a_near_miss_until_they_are_merged():
    model = kg.lora(branches(conv(3, "a"), conv(1, "b")), "a", rank=2)
    words = "'a' has adapters: kg.merge_adapters(model) first"
    assert words in why(merge, model)
    assert len(kg.read(merge(kg.merge_adapters(model))).nodes) == 1
    model = kg.lora(fuse(DENSE(4, name="a"), layers.ReLU(name="r")), "a", rank=2)
    assert words in why(kg.recipes.fuse_activation, model)
    assert len(kg.read(kg.recipes.fuse_activation(kg.merge_adapters(model))).nodes) == 1


def test_norms_of_a_nested_model_that_is_called_in_training_stay():
    inner = branches(normed("c", layers.BatchNormalization(name="bn")), conv(1, "a"))
    x = keras.Input((8, 8, 4))
    assert "'bn' is called with training=True" in why(
        merge, keras.Model(x, inner(x, training=True))
    )
    assert len(kg.select(merge(keras.Model(x, inner(x))), "**").nodes) == 2


def test_losses_of_activations_stay():
    l2 = {"activity_regularizer": "l2"}
    for made in (
        [DENSE(4, name="loss", **l2), layers.ReLU()],
        [DENSE(4), layers.ReLU(name="loss", **l2)],
        [DENSE(4), layers.Activation("tanh", name="loss", **l2)],
    ):
        assert "'loss' has an activity_regularizer" in why(kg.recipes.fuse_activation, fuse(*made))
    norm = layers.BatchNormalization(name="loss", **l2)
    for model in (
        branches(conv(3, "a"), conv(1, "loss", **l2)),
        branches(conv(3, "a"), normed("c", norm)),
        branches(conv(3, "a"), conv(1, "b"), add=layers.Add(name="loss", **l2)),
    ):
        assert "'loss' has an activity_regularizer" in why(merge, model)


def test_an_activation_with_weights_or_a_mask_stays():
    act = layers.Activation(layers.PReLU(), name="act")
    model = fuse(DENSE(4), act)
    for _ in range(2):  # its weights come when it is called
        assert "'act' is a layer with weights" in why(kg.recipes.fuse_activation, model)
        model(np.ones((1, 4)))
    new = kg.recipes.fuse_activation(fuse(DENSE(4, name="d"), layers.Activation(layers.Softmax())))
    assert [n.name for n in kg.read(new).nodes] == ["d"]
    x = keras.Input((4, 3), name="x")
    softmax = layers.Softmax(name="softmax")
    model = keras.Model(x, softmax(DENSE(4, name="d")(layers.Masking()(x))))
    assert "'softmax' reads a mask" in why(kg.recipes.fuse_activation, model)


def test_the_flags_of_single_weights_are_kept():
    model = fuse(DENSE(4, name="d"), layers.ReLU())
    model.get_layer("d").bias.trainable = False
    new = kg.recipes.fuse_activation(model)
    assert [w.name for w in new.trainable_weights] == ["kernel"]
    model = branches(conv(3, "a"), conv(1, "b"))
    for name in "ab":
        model.get_layer(name).bias.trainable = False
    assert [w.name for w in merge(model).trainable_weights] == ["kernel"]
    model = branches(conv(3, "a"), conv(1, "b"))
    model.get_layer("b").trainable = False
    assert "'b' is frozen or trained, other than 'a'" in why(merge, model)
    model.get_layer("a").trainable = False
    new = merge(model)
    assert new.trainable_weights == []
    model = branches(normed("a", layers.BatchNormalization(name="bn")), conv(1, "b"))
    for name in "ab":
        model.get_layer(name).trainable = False
    assert [w.name for w in merge(model).trainable_weights] == ["bias"]  # as that of the norm


def test_no_bias_comes_without_one_before():
    new = merge(branches(conv(3, "a", use_bias=False), conv(1, "b", use_bias=False)))
    assert new.count_params() == 3 * 3 * 4 * 4


def test_an_initializer_that_holds_an_array():
    rng = np.random.default_rng(0)
    given = [
        {"kernel_initializer": keras.initializers.Constant(rng.normal(size=(*size, 4, 4)))}
        for size in ((5, 3), (3, 5))
    ]
    model = branches(conv((5, 3), "a", **given[0]), conv((3, 5), "b", **given[1]))
    new = merge(model)
    x = rng.normal(size=(2, 8, 8, 4)).astype("float32")
    np.testing.assert_allclose(numpy(new(x)), numpy(model(x)), rtol=2e-4, atol=2e-4)
    equal(new(x), keras.models.clone_model(new, clone_function=lambda layer: layer)(x))


def test_folding_a_norm_keeps_flags_and_losses():
    model = fuse(DENSE(4, name="d"), layers.BatchNormalization(name="bn"))
    model.get_layer("d").bias.trainable = False
    new = kg.recipes.fold_batchnorm(model).model
    assert [w.name for w in new.trainable_weights] == ["kernel"]
    for made in (
        [DENSE(4, activity_regularizer="l2", name="loss"), layers.BatchNormalization(name="bn")],
        [DENSE(4), layers.BatchNormalization(activity_regularizer="l2", name="loss")],
    ):
        (kept,) = kg.recipes.fold_batchnorm(fuse(*made)).kept
        assert kept[1] == "'loss' has an activity_regularizer"
