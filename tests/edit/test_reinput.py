"""Other inputs: on the donor's own layers, equal where the arithmetic is, refused where it cannot be."""

import gc
import warnings

import keras
import numpy as np
import pytest
from architectures import backbones, cheap_weights
from donor import donor_nodes
from hypothesis import given
from keras import layers, ops
from models import ALL, masked, masked_nested, nested_uint8, siamese
from strategies import examples, interpret, plans

import keras_graft as kg
from keras_graft import _keras
from keras_graft.testing import assert_same_graph, assert_same_outputs, random_inputs

BACKEND = keras.backend.backend()


@pytest.fixture(autouse=True)
def _cheap():
    with cheap_weights():
        yield


def image_net(size=(64, 64), channels=3):
    """Strides, padding, a residual, BatchNormalization, a pooling head."""
    keras.utils.clear_session(free_memory=False)
    inputs = keras.Input((*size, channels), name="image")
    x = layers.Conv2D(4, 7, strides=2, padding="same", name="stem")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.MaxPooling2D(3, strides=2, padding="same", name="max")(layers.ReLU(name="relu")(x))
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.Add(name="add")([x, layers.Conv2D(4, 1, name="point")(y)])
    x = layers.GlobalAveragePooling2D(name="pool")(x) * 2.0
    return keras.Model(inputs, layers.Dense(3, name="out")(x), name="image_net")


def vgg(size=32, channels=3):
    """A `Dense` behind a `Flatten` fixes the size."""
    keras.utils.clear_session(free_memory=False)
    inputs = keras.Input((size, size, channels), name="image")
    x = layers.MaxPooling2D(name="block5_pool")(layers.Conv2D(4, 3, name="conv")(inputs))
    x = layers.Dense(5, name="fc1")(layers.Flatten(name="flatten")(x))
    return keras.Model(inputs, layers.Dense(3, name="predictions")(x), name="vgg")


def wrapped(inner=image_net, calls=1):
    """A model around one whose own input has a fixed size."""
    base = inner()
    inputs = [keras.Input(base.input.shape[1:], name=f"image{i}") for i in range(calls)]
    y = [base(x) for x in inputs]
    y = layers.Concatenate(name="both")(y) if calls > 1 else y[0]
    return keras.Model(
        inputs if calls > 1 else inputs[0], layers.Dense(2, name="top")(y), name="outer"
    )


def from_inputs(*shapes, through, dtype="float32", batch=None):
    """A model of a function of tensors."""
    keras.utils.clear_session(free_memory=False)
    inputs = [
        keras.Input(batch_shape=(batch, *s), dtype=dtype, name=f"x{i}")
        for i, s in enumerate(shapes)
    ]
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], through(*inputs), name="small")


def draw(*shape, seed=0):
    return ops.convert_to_tensor(
        np.random.default_rng(seed).standard_normal(shape).astype("float32")
    )


def numbers(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


def close(left, right):
    left, right = numbers(left), numbers(right)
    assert left.shape == right.shape
    assert np.allclose(left, right, rtol=1e-4, atol=1e-5), np.abs(left - right).max()


def leaves_alone(model):
    """Return a function that asserts that a donor is what it was."""
    functional = _keras.functional(model)
    nodes, config, graph = donor_nodes(functional), model.get_config(), kg.read(model)
    values = [np.array(ops.convert_to_numpy(w)) for w in model.weights]

    def check():
        gc.collect()
        assert donor_nodes(functional) == nodes
        assert model.get_config() == config
        assert_same_graph(model, graph, same_layers=True)
        for value, weight in zip(values, model.weights, strict=True):
            assert np.array_equal(value, ops.convert_to_numpy(weight), equal_nan=True)

    return check


def lives_on(model, tmp_path, x):
    """Save, load, clone and train a model."""
    model.save(tmp_path / "m.keras")
    assert_same_outputs(model, keras.models.load_model(tmp_path / "m.keras"), x)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert_same_outputs(model, clone, x)
    assert clone.input_shape == model.input_shape
    y = keras.tree.map_structure(np.asarray, keras.tree.map_structure(numbers, model(x)))
    clone.compile("sgd", "mse")
    before = clone.get_weights()
    clone.fit(x, keras.tree.map_structure(lambda t: t.astype("float32") + 1, y), verbose=0)
    assert any(not np.array_equal(a, b) for a, b in zip(before, clone.get_weights(), strict=True))


# -- sizes -----------------------------------------------------------------------------------


def test_another_image_size_equals_the_model_built_at_that_size(tmp_path):
    model = image_net()
    unchanged = leaves_alone(model)
    small = kg.reinput(model, (48, 40, 3))
    assert small.input.shape == (None, 48, 40, 3) and small.input.name == "image"
    assert [id(w) for w in small.weights] == [id(w) for w in model.weights]
    fresh = image_net((48, 40))
    fresh.set_weights(model.get_weights())
    assert_same_graph(small, fresh)
    x = draw(2, 48, 40, 3)
    assert_same_outputs(small, fresh, x)
    lives_on(small, tmp_path, x)
    free = kg.reinput(model, (None, None, 3))
    assert free.input.shape == (None, None, None, 3)
    assert_same_outputs(free, fresh, x)
    assert_same_outputs(free, model, draw(2, 64, 64, 3))
    lives_on(free, tmp_path, x)
    assert_same_graph(kg.reinput(free, (64, 64, 3)), model, same_layers=True)
    del small, free
    unchanged()


def test_resnet50_from_224_to_160():
    def resnet(size):
        keras.utils.clear_session(free_memory=False)
        return keras.applications.ResNet50(weights=None, input_shape=(size, size, 3), classes=3)

    model = resnet(224)
    unchanged = leaves_alone(model)
    small = kg.reinput(model, (160, 160, 3))
    assert [id(w) for w in small.weights] == [id(w) for w in model.weights]
    assert kg.select(small, "conv5_block3_out").values[0].spec.shape == (None, 5, 5, 2048)
    assert_same_graph(small, resnet(160))
    for count in (1, 4):
        other = kg.reinput(model, (160, 160, count), channels="mean")
        assert other.count_params() == model.count_params() + (count - 3) * 7 * 7 * 64
        assert [n for n, (a, b) in enumerate(zip(other.layers, model.layers, strict=True))
                if a is not b] == [0, 2]  # fmt: skip
    del small, other
    unchanged()


def test_the_same_specs_change_nothing():
    for make in ALL:
        model = make()
        shapes = {v.name: v.spec.shape[1:] for v in kg.read(model).inputs}
        same = kg.reinput(model, shapes)
        assert_same_graph(model, same, same_layers=True)
        assert_same_outputs(model, same)


@pytest.mark.parametrize("make", ALL, ids=lambda f: f.__name__)
def test_a_fixed_batch_and_a_free_one(make, tmp_path):
    model = make()
    unchanged = leaves_alone(model)
    specs = {v.name: v.spec.shape for v in kg.read(model).inputs}
    fixed = kg.reinput(model, batch_shape={n: (3, *s[1:]) for n, s in specs.items()})
    assert all(t.shape[0] == 3 for t in fixed.inputs + fixed.outputs)
    x = random_inputs(model, 3)
    assert_same_outputs(model, fixed, x)
    fixed.save(tmp_path / "fixed.keras")
    assert_same_outputs(fixed, keras.models.load_model(tmp_path / "fixed.keras"), x)
    free = kg.reinput(fixed, batch_shape=specs)
    assert {v.name: v.spec.shape for v in kg.read(free).inputs} == specs
    assert [t.shape for t in free.outputs] == [t.shape for t in model.outputs]
    assert_same_outputs(model, free)
    assert [id(w) for w in free.weights] == [id(w) for w in model.weights]
    del fixed, free
    unchanged()


def test_a_graph_for_a_graph():
    graph = kg.reinput(kg.read(image_net()), (48, 48, 3))
    assert isinstance(graph, kg.Graph) and graph.inputs[0].spec.shape == (None, 48, 48, 3)
    assert kg.build(graph).input_shape == (None, 48, 48, 3)


# -- channels ----------------------------------------------------------------------------------


def _conv2d(x):
    return layers.Conv2D(4, 3, activation="tanh", name="first")(x)


def _no_bias(x):
    return layers.Conv2D(4, 3, use_bias=False, padding="same", name="first")(x)


def _transposed(x):
    return layers.Conv2DTranspose(4, 3, name="first")(x)


def _dense(x):
    return layers.Dense(4, name="first")(x)


def _two(x):
    return [layers.Conv2D(4, 3, name="first")(x), layers.Dense(2, name="second")(x * 0.5)]


def _shared(x):
    conv = layers.Conv2D(4, 3, name="first")
    return conv(x) - conv(layers.Lambda(lambda t: t * 0.5, name="half")(x))


def _nested(x):
    inner = keras.Input(x.shape[1:], name="inner")
    base = keras.Model(inner, layers.Conv2D(4, 3, name="first")(inner), name="base")
    return layers.Add(name="add")([base(x), base(ops.flip(x, axis=1))])


def _sequential(x):
    stack = [keras.Input(x.shape[1:]), layers.Rescaling(0.5), layers.Conv2D(4, 3, name="first")]
    return keras.Sequential(stack, name="stack")(x)


FIRST = [
    ((8, 8), _conv2d), ((8, 8), _no_bias), ((8, 8), _transposed), ((8, 8), _dense), ((), _dense),
    ((9,), lambda x: layers.Conv1D(4, 3, name="first")(x)),
    ((5, 6, 7), lambda x: layers.Conv3D(4, 3, name="first")(x)),
    ((8, 8), _two), ((8, 8), _shared), ((8, 8), _nested), ((8, 8), _sequential),
]  # fmt: skip


def as_old(x, rule, old):
    """Return the input of the donor that a rule stands for."""
    count = x.shape[-1]
    if rule == "mean":
        return np.repeat(x.mean(-1, keepdims=True), old, axis=-1)
    if rule == "repeat":
        return x[..., np.arange(old) % count]
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, max(0, old - count))])
    return padded[..., :old]


@pytest.mark.parametrize(("size", "first"), FIRST, ids=range(len(FIRST)))
def test_each_rule_is_what_it_says(size, first, tmp_path):
    model = from_inputs((*size, 3), through=first)
    kernels = [np.array(w) for w in model.get_weights()]
    for rule, count in [("mean", 1), ("mean", 5), ("repeat", 1), ("repeat", 2), ("pad", 2),
                        ("pad", 5)]:  # fmt: skip
        other = kg.reinput(model, (*size, count), channels=rule)
        x = np.random.default_rng(count).standard_normal((2, *size, count)).astype("float32")
        wanted = model(as_old(x, rule, 3))
        for a, b in zip(keras.tree.flatten(other(x)), keras.tree.flatten(wanted), strict=True):
            close(a, b)
    for count in (4, 7):
        other = kg.reinput(model, (*size, count), channels="repeat")
        x = np.random.default_rng(count).standard_normal((2, *size, 3)).astype("float32")
        y = other(x[..., np.arange(count) % 3])
        for a, b in zip(keras.tree.flatten(y), keras.tree.flatten(model(x)), strict=True):
            close(a, b)
    assert all(np.array_equal(a, b) for a, b in zip(kernels, model.get_weights(), strict=True))
    names = [n.operation.name for n in kg.select(other, "**").nodes]
    assert names == [n.operation.name for n in kg.select(model, "**").nodes]
    if first is not _shared:  # a lambda that Keras will not load
        other.save(tmp_path / "m.keras")
        x = random_inputs(other, 2)
        assert_same_outputs(other, keras.models.load_model(tmp_path / "m.keras"), x)


@pytest.mark.parametrize("rule", ["mean", "repeat"])
def test_a_grey_image_gives_what_its_repetition_gave(rule, tmp_path):
    model = image_net()
    unchanged = leaves_alone(model)
    grey = kg.reinput(model, (64, 64, 1), channels=rule)
    x = draw(2, 64, 64, 1)
    close(grey(x), model(ops.repeat(x, 3, axis=-1)))
    assert [a.name for a in grey.layers] == [b.name for b in model.layers]
    changed = [b.name for a, b in zip(grey.layers, model.layers, strict=True) if a is not b]
    assert "stem" in changed and set(changed) <= {"image", "stem"}
    lives_on(grey, tmp_path, x)
    del grey
    unchanged()


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow has no such convolution on a CPU")
def test_channels_first():
    def through(x):
        x = layers.Conv2D(4, 3, data_format="channels_first", name="first")(x)
        return layers.GlobalAveragePooling2D(data_format="channels_first", name="pool")(x)

    model = from_inputs((3, 8, 8), through=through)
    grey = kg.reinput(model, (1, 9, 8), channels="mean")
    x = draw(2, 1, 9, 8)
    close(grey(x), kg.reinput(model, (3, 9, 8))(ops.repeat(x, 3, axis=1)))


def normalized(same=False):
    def through(x):
        scale = [0.5] * 3 if same else [0.1, 0.5, 2.0]
        x = layers.Rescaling(scale, offset=[0.0] * 3 if same else [1.0, 2.0, 3.0], name="scale")(x)
        given = layers.Normalization(
            mean=[0.3] * 3 if same else [0.1, 0.2, 0.3], variance=[2.0] * 3, name="given"
        )
        x = given(x)
        adapted = layers.Normalization(name="adapted")
        x = adapted(x)
        bn = layers.BatchNormalization(name="bn")
        x = bn(x)
        for layer in (adapted, bn):
            for v in layer.weights:
                if len(v.shape):
                    v.assign(np.full(3, 0.7) if same else np.linspace(0.5, 1.5, 3))
        adapted.finalize_state()
        return layers.Conv2D(4, 3, name="first")(x)

    return from_inputs((8, 8, 3), through=through)


def test_statistics_of_channels_go_by_the_same_rule(tmp_path):
    model = normalized()
    unchanged = leaves_alone(model)
    x = draw(2, 8, 8, 3)
    more = kg.reinput(model, (8, 8, 6), channels="repeat")
    close(more(ops.concatenate([x, x], axis=-1)), model(x))
    padded = kg.reinput(model, (8, 8, 4), channels="pad")
    close(padded(ops.concatenate([x, draw(2, 8, 8, 1, seed=5)], axis=-1)), model(x))
    assert more.get_layer("adapted").adapt_mean.shape == (6,)
    for other in (more, padded):
        other.save(tmp_path / "m.keras")
        assert_same_outputs(other, keras.models.load_model(tmp_path / "m.keras"))
    mean = kg.reinput(model, (8, 8, 1), channels="mean")
    assert np.allclose(mean.get_layer("bn").moving_mean, 1.0)
    assert np.allclose(mean.get_layer("scale").scale, np.mean([0.1, 0.5, 2.0]))
    del more, padded, mean, other
    unchanged()
    model = normalized(same=True)
    for rule in ("mean", "repeat"):
        grey = kg.reinput(model, (8, 8, 1), channels=rule)
        close(grey(x[..., :1]), model(ops.repeat(x[..., :1], 3, axis=-1)))


@pytest.mark.parametrize("name", ["EfficientNetB0", "MobileNetV3Small"])
def test_applications_that_normalize_in_front(name):
    keras.utils.clear_session(free_memory=False)
    make = getattr(keras.applications, name)
    model = make(weights=None, input_shape=(64, 64, 3), classes=3)
    grey = kg.reinput(model, (96, 64, 1), channels="mean")
    assert grey.input.shape == (None, 96, 64, 1)
    small = kg.reinput(model, (96, 64, 3))
    x = ops.abs(draw(1, 96, 64, 1)) * 100
    close(grey(x), small(ops.repeat(x, 3, axis=-1)))


def test_a_rule_of_ones_own():
    model = image_net()

    def first_of_all(kernel, count):
        return np.repeat(kernel[..., :1, :], count, axis=-2)

    other = kg.reinput(model, (64, 64, 2), channels=first_of_all)
    kernel = numbers(other.get_layer("stem").kernel)
    assert np.array_equal(kernel[..., 1, :], numbers(model.get_layer("stem").kernel)[..., 0, :])


# -- sequences, dtypes -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Bert", "GPT2", "Llama", "T5", "Whisper"])
def test_text_backbones_at_a_fixed_length_and_back(name):
    keras.utils.clear_session(free_memory=False)
    model = backbones()[name]()
    unchanged = leaves_alone(model)
    old = {k: t.shape[1:] for k, t in model.input.items()}
    new = {k: (8, *s[1:]) for k, s in old.items()}
    fixed = kg.reinput(model, new)
    assert {k: t.shape[1:] for k, t in fixed.input.items()} == new
    assert_same_outputs(model, fixed, random_inputs(fixed))
    free = kg.reinput(fixed, old)
    assert_same_graph(model, free, same_layers=True)
    assert_same_outputs(model, free, random_inputs(model))
    del fixed, free
    unchanged()


@pytest.mark.parametrize("make", [masked, masked_nested])
def test_another_length_under_masks(make, tmp_path):
    model = make()
    unchanged = leaves_alone(model)
    for length in (5, None):
        other = kg.reinput(model, (length,))
        assert other.input.shape == (None, length)
        ids = ops.convert_to_tensor(np.array([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0]], "int32"))
        padded = ops.pad(ids, [[0, 0], [0, 2]])
        close(other(ids), model(padded))  # the mask hides the rest
        lives_on(other, tmp_path, ids)
    assert_same_outputs(kg.reinput(other, (7,)), model)
    del other
    unchanged()


def test_whole_numbers_run_or_are_refused():
    x = keras.Input((8, 8, 3), name="image")
    model = keras.Model(x, layers.Conv2D(2, 3, name="conv")(x))
    if keras.backend.backend() == "jax":
        image = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype("uint8")
        given = [ops.convert_to_numpy(m(image)) for m in (kg.reinput(model, dtype="uint8"), model)]
        np.testing.assert_allclose(*given, rtol=1e-5, atol=1e-4)
    else:
        with pytest.raises(
            kg.EditError, match="Conv2D 'conv' in graph .* cannot run on its inputs"
        ):
            kg.reinput(model, dtype="uint8")


def test_dtypes():
    model = masked()
    wide = kg.reinput(model, dtype="int64")
    assert wide.input.dtype == "int64"
    ids = np.array([[1, 1, 0, 1, 0, 1, 1]])
    assert_same_outputs(lambda x: wide(x.astype("int64")), lambda x: model(x.astype("int32")), ids)
    model = nested_uint8()
    base = model.get_layer("base")
    for dtype in ("float32", "int32"):
        other = kg.reinput(model, dtype={"image": dtype})
        assert other.input.dtype == dtype and other.get_layer("base") is base
        x = np.random.default_rng(0).integers(0, 255, (2, 9, 9, 3))
        assert_same_outputs(
            lambda x, m=other, d=dtype: m(x.astype(d)), lambda x: model(x.astype("uint8")), x
        )


def test_some_inputs_of_several():
    def through(x, y):
        return ops.mean(x, axis=1) + layers.Dense(4, name="d")(y)

    model = from_inputs((5, 4), (3,), through=through)
    other = kg.reinput(model, {"x0": (None, 4)})
    assert [t.shape for t in other.inputs] == [(None, None, 4), (None, 3)]


# -- nested models -----------------------------------------------------------------------------


def test_a_nested_model_of_a_fixed_size_is_made_anew_on_its_layers(tmp_path):
    model = wrapped()
    unchanged = leaves_alone(model)
    for size in ((48, 48), (None, None)):
        other = kg.reinput(model, (*size, 3))
        base = other.get_layer("image_net")
        assert base.input.shape == (None, *size, 3)
        assert base.get_layer("stem") is model.get_layer("image_net").get_layer("stem")
        assert {id(w) for w in other.weights} == {id(w) for w in model.weights}
        x = draw(2, 48, 48, 3)
        close(other(x), kg.reinput(kg.inline(model), (48, 48, 3))(x))
        lives_on(other, tmp_path, x)
    del other, base
    unchanged()


def test_a_nested_model_called_twice_stays_one(tmp_path):
    model = wrapped(calls=2)
    both = kg.reinput(model, {"image0": (48, 48, 3), "image1": (48, 48, 3)})
    one = kg.reinput(model, {"image1": (48, 48, 3)})
    first = kg.reinput(model, {"image0": (48, 48, 3)})
    for other, size in ((both, 48), (one, None), (first, None)):
        nested = [n.operation for n in kg.read(other).nodes if n.nested is not None]
        assert len(nested) == 2 and nested[0] is nested[1]
        assert nested[0].input.shape == (None, size, size, 3)
        assert other.count_params() == model.count_params()
        x = random_inputs(other)
        other.save(tmp_path / "m.keras")
        assert_same_outputs(other, keras.models.load_model(tmp_path / "m.keras"), x)
    x = random_inputs(model)
    again = kg.reinput(one, {"image1": (64, 64, 3)})
    assert_same_outputs(model, again, x)


def test_a_model_that_takes_it_is_left_as_it_is():
    model = nested_uint8()
    other = kg.reinput(model, (12, 10, 3))
    assert other.get_layer("base") is model.get_layer("base")


def test_models_inside_models(tmp_path):
    def outer():
        inner = image_net()
        x = keras.Input((64, 64, 3), name="middle_in")
        return keras.Model(x, layers.Dense(4, name="middle")(inner(x)), name="middle_net")

    model = wrapped(outer)
    other = kg.reinput(model, (48, 48, 1), channels="repeat")
    nested = other.get_layer("middle_net").get_layer("image_net")
    assert nested.input.shape == (None, 48, 48, 1)
    x = draw(2, 48, 48, 1)
    close(other(x), kg.reinput(model, (48, 48, 3))(ops.repeat(x, 3, axis=-1)))
    lives_on(other, tmp_path, x)


def test_sequential():
    stack = [keras.Input((64, 64, 3), name="x"), layers.Conv2D(4, 3, name="c"),
             layers.GlobalMaxPooling2D(name="p")]  # fmt: skip
    model = keras.Sequential(stack, name="stack")
    small = kg.reinput(model, (32, 32, 3))
    assert small.get_layer("c") is model.get_layer("c")
    assert_same_outputs(kg.reinput(model, (None, None, 3)), small, draw(2, 32, 32, 3))


# -- refusals ----------------------------------------------------------------------------------


def _vit():
    keras.utils.clear_session(free_memory=False)
    return backbones()["ViT"]()


def _bert():
    keras.utils.clear_session(free_memory=False)
    return backbones()["Bert"]()


def _baked():
    return from_inputs((16, 4), through=lambda x: ops.reshape(x, (-1, 64)))


def _separable():
    return from_inputs((8, 8, 3), through=lambda x: layers.SeparableConv2D(4, 3, name="sep")(x))


def _one_kernel():
    conv = layers.Conv2D(4, 3, name="conv")
    return from_inputs((8, 8, 3), (8, 8, 3), through=lambda x, y: conv(x) + conv(y))


def _stateful():
    return from_inputs(
        (5, 3), batch=4, through=lambda x: layers.LSTM(4, stateful=True, name="lstm")(x)
    )


def _norm():
    return from_inputs(
        (8, 8, 3), through=lambda x: layers.Dense(2)(layers.BatchNormalization(name="bn")(x))
    )


def _bert_at(length):
    return {name: (length,) for name in ("token_ids", "segment_ids", "padding_mask")}


WAY_OUT = "the part before 'flatten', kg.submodel\\(model, outputs=\"{}block5_pool\"\\).* GlobalAveragePooling2D"
REFUSALS = [
    (image_net, {}, "give shape=..., batch_shape=... or dtype=..."),
    (image_net, {"shape": {"imge": (48, 48, 3)}}, "names 'imge', which is not an input. Nearest: 'image'"),
    (siamese, {"shape": (4,)}, "2 inputs, 'a', 'b'. Give shape= by name: shape={'a': \\(4,\\)}"),
    (image_net, {"shape": (48, 3)}, "'image' has 3 dimensions without the batch, .*64, 64, 3.*has 2"),
    (image_net, {"batch_shape": (48, 48, 3)}, "has 4 dimensions with the batch"),
    (image_net, {"shape": (48, 0, 3)}, "a tuple of positive numbers and None, got \\(48, 0, 3\\)"),
    (image_net, {"shape": 48}, "a tuple of positive numbers and None, got 48"),
    (image_net, {"shape": (48, 48, 3), "batch_shape": (2, 48, 48, 3)}, "both a shape= and a batch_shape="),
    (image_net, {"dtype": "float7"}, "dtype= of input 'image'.*float7"),
    (image_net, {"shape": (48, 48, 1), "channels": "sum"}, "channels must be one of 'mean', 'repeat', 'pad'"),
    (image_net, {"shape": (48, 48, 3), "channels": "mean"}, "channels='mean', and no layer needs it"),
    (image_net, {"shape": (48, 48, 1)},
     "Conv2D 'stem' has weights for 3. Say .*channels='mean' or channels='repeat' or channels='pad'"),
    (image_net, {"shape": (48, 48, 1), "channels": lambda k, n: k}, "a kernel of shape \\(7, 7, 3, 4\\).*\\(7, 7, 1, 4\\) is needed"),
    (_norm, {"shape": (8, 8, 1), "channels": lambda k, n: k}, "'bn' has numbers for each channel but no kernel"),
    (vgg, {"shape": (24, 24, 3)},
     "Dense 'fc1' in graph 'vgg' does not take its inputs:\n  'flatten' from node 'flatten': "
     "expected \\(\\?, 900\\) float32, found \\(\\?, 484\\) float32.*" + WAY_OUT.format("")),
    (vgg, {"shape": (None, None, 3)}, "Dense 'fc1'.*Unknown dimensions were tried with inputs of .*" + WAY_OUT.format("")),
    (lambda: wrapped(vgg), {"shape": (24, 24, 3)}, "'fc1' in graph 'vgg'.*" + WAY_OUT.format("vgg/")),
    (_vit, {"shape": (32, 32, 3)},
     "'vit_patching_and_embedding' .* cannot run on its inputs:\n  'images' from an input: expected "
     '\\(\\?, 16, 16, 3\\) float32, found \\(\\?, 32, 32, 3\\) float32.*kg.replace\\(model, "vit_patching_and_embedding"'),
    (_vit, {"shape": (None, None, 3)}, "'vit_patching_and_embedding' .* cannot run"),
    (_bert, {"shape": _bert_at(32)}, "PositionEmbedding 'position_embedding' .* cannot run.*found \\(\\?, 32, 8\\)"),
    (_baked, {"shape": (10, 4)}, "Reshape 'reshape' .*expected \\(\\?, 16, 4\\) float32.*found \\(.*10, 4\\)"),
    (_baked, {"shape": (32, 4)}, "'reshape' .* would mix samples.* 4 rows for 2 samples"),
    (_separable, {"shape": (8, 8, 1), "channels": "mean"}, "'sep'.*gives the old 3 channels: kg.join\\(front, model\\)"),
    (_one_kernel, {"shape": {"x0": (8, 8, 1)}, "channels": "mean"}, "Conv2D 'conv' still reads the old number of channels from 'x1'"),
    (_one_kernel, {"shape": {"x0": (8, 8, 1), "x1": (8, 8, 2)}, "channels": "mean"}, "'conv#1' is called elsewhere with 1 channels"),
    (_stateful, {"batch_shape": (1, 5, 3)}, "LSTM 'lstm' .* cannot run"),
    (_stateful, {"batch_shape": (None, 5, 3)}, "LSTM 'lstm' .* cannot run"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "how", "words"), REFUSALS, ids=range(len(REFUSALS)))
def test_what_cannot_be_is_refused_and_changes_nothing(make, how, words):
    model = make()
    unchanged = leaves_alone(model)
    with pytest.raises(kg.EditError, match="(?s)" + words) as caught:
        kg.reinput(model, **how)
    assert str(caught.value).startswith("reinput")
    del caught
    unchanged()


def test_the_ways_out_work():
    model = vgg()
    trunk = kg.submodel(model, outputs="block5_pool")
    assert kg.reinput(trunk, (24, 24, 3)).output.shape == (None, 11, 11, 4)
    x = keras.Input((8, 8, 1))
    front = keras.Model(x, layers.Concatenate()([x, x, x]))
    assert kg.join(front, _separable()).input.shape == (None, 8, 8, 1)


# What Keras's own inference lets pass, and what fails or is another thing when it runs.
SILENT = [
    ((5, 10), (5, 12), lambda: layers.EinsumDense("abc,cd->abd", (None, 4))),
    ((10,), (12,), lambda: layers.LayerNormalization()),
    ((10,), (1,), lambda: layers.LayerNormalization()),
    ((10,), (12,), lambda: layers.RMSNormalization()),
    ((10,), (1,), lambda: layers.RMSNormalization()),
    ((5, 3), (5, 4), lambda: layers.LSTM(4)),
    ((5, 3), (5, 4), lambda: layers.Bidirectional(layers.GRU(4))),
    ((5, 3), (5, 4), lambda: layers.TimeDistributed(layers.Dense(4))),
    ((8, 8, 3), (6, 6, 3), lambda: layers.PReLU()),
    ((8, 8, 3), (1, 1, 3), lambda: layers.PReLU()),
    ((8, 8, 3), (None, None, 3), lambda: layers.PReLU()),
    ((3, 8, 8, 3), (3, 8, 8, 4), lambda: layers.ConvLSTM2D(4, 3)),
    ((5, 10), (None, 10), lambda: layers.Reshape((50,))),
    ((4, 4, 3), (4, 4, 1), lambda: layers.Rescaling([0.1, 0.2, 0.3])),
    ((4, 4, 3), (4, 4, 4), lambda: layers.Rescaling([0.1, 0.2, 0.3])),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "make"), SILENT, ids=range(len(SILENT)))
def test_what_keras_lets_pass_is_refused(old, new, make):
    layer = make()
    layer.name = "culprit"
    model = from_inputs(old, through=lambda x: layer(ops.relu(x)))
    unchanged = leaves_alone(model)
    with pytest.raises(kg.EditError, match="'culprit'") as caught:
        kg.reinput(model, new)
    del caught
    unchanged()
    layer(keras.KerasTensor((None, *new)))  # Keras says nothing


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.LayerNormalization(),
        lambda: layers.RMSNormalization(),
        lambda: layers.LSTM(4),
        lambda: layers.Bidirectional(layers.GRU(4)),
        lambda: layers.MultiHeadAttention(1, 2),
        lambda: layers.EinsumDense("abc,cd->abd", (None, 4)),
    ],
    ids=range(6),
)
def test_behind_a_mask_too(make):
    layer = make()
    layer.name = "culprit"
    call = (lambda x: layer(x, x)) if isinstance(layer, layers.MultiHeadAttention) else layer
    model = from_inputs((5, 3), through=lambda x: call(layers.Masking()(x)))
    with pytest.raises(kg.EditError, match="'culprit' .*cannot run on its inputs"):
        kg.reinput(model, (5, 2))


# -- any model ---------------------------------------------------------------------------------


@examples(torch=36, others=12)
@given(plans())
def test_random_models_with_a_fixed_batch_and_a_free_one(plan):
    model = interpret(plan)
    specs = {v.name: v.spec.shape for v in kg.read(model).inputs}
    assert_same_graph(model, kg.reinput(model, batch_shape=specs), same_layers=True)
    x = random_inputs(model, 3)
    fixed = kg.reinput(model, batch_shape={n: (3, *s[1:]) for n, s in specs.items()})
    assert_same_outputs(model, fixed, x)
    free = kg.reinput(fixed, batch_shape=specs)
    assert_same_outputs(model, free)
    assert [id(w) for w in free.weights] == [id(w) for w in model.weights]


def test_behind_a_flatten_the_way_out_works():
    x = keras.Input((8, 8, 3))
    y = layers.Flatten(name="flat")(layers.Conv2D(4, 3, name="conv")(x))
    model = keras.Model(x, layers.Dense(2, name="d")(y))
    with pytest.raises(kg.EditError) as caught:
        kg.reinput(model, (10, 10, 3))
    text = str(caught.value)
    assert "first replace 'flat' by a layer that gives 'd' the old shape from any size: " in text
    assert 'kg.replace(model, "flat", ...)' in text and 'kg.replace(model, "d"' not in text
    new = kg.replace(
        model, "flat", lambda t: layers.Dense(144)(layers.GlobalAveragePooling2D()(t))
    )  # fmt: skip
    assert kg.reinput(new, (10, 10, 3)).output_shape == (None, 2)


def test_channels_in_front_are_no_way_out_if_other_sizes_change_too():
    x = keras.Input((4, 4))
    model = keras.Model(x, ops.reshape(x, (-1, 16)) * 2.0)
    with pytest.raises(kg.EditError) as caught:
        kg.reinput(model, (8, 8))
    assert "kg.join(front, model)" not in str(caught.value)
    with pytest.raises(kg.EditError, match=r"gives the old 4 channels: kg.join\(front, model\)"):
        kg.reinput(model, (4, 8))
    front = keras.Input((4, 8))
    kg.join(keras.Model(front, layers.Dense(4)(front)), model)


def test_a_dtype_that_no_call_takes_is_refused():
    model = keras.Sequential([keras.Input((4,), name="x"), layers.Dense(2)])
    with pytest.raises(kg.EditError) as caught:
        kg.reinput(model, dtype="string")
    text = str(caught.value)
    assert "string" in text and "_Run" not in text, text
    if (
        keras.backend.backend() != "tensorflow"
    ):  # which has texts, and says at the layer that it is none
        assert "Give a dtype and a shape that the layers behind take" in text and "'x' (" in text


def test_channels_that_are_normalized_differently_are_told():
    x = keras.Input((4, 4, 3), name="x")
    norm = keras.layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.2, 0.2, 0.2], name="norm")
    y = keras.layers.Flatten()(keras.layers.Conv2D(2, 3, name="conv")(norm(x)))
    model = keras.Model(x, y)
    with pytest.warns(kg.GraftWarning, match="Normalization 'norm' treats each channel differ"):
        kg.reinput(model, (4, 4, 1), channels="mean")
    grey = keras.Input((4, 4, 1))
    repeated = kg.join(keras.Model(grey, keras.ops.repeat(grey, 3, axis=-1)), model)
    image = np.random.default_rng(0).random((2, 4, 4, 1), "float32")
    assert_same_outputs(lambda _: model(np.repeat(image, 3, -1)), repeated, image)
    even = keras.layers.Normalization(mean=[0.5] * 3, variance=[0.2] * 3, name="norm")
    model = keras.Model(x, keras.layers.Conv2D(2, 3, name="conv")(even(x)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", kg.GraftWarning)
        kg.reinput(model, (4, 4, 1), channels="mean")
        kg.reinput(model, (4, 4, 5), channels="pad")
