"""`kg.stages`, and `kg.extract(model, stages=...)`."""

import json

import keras
import numpy as np
import pytest
from architectures import ALL, SAMPLE, application, applications, backbones, cheap_weights
from keras import layers
from models import residual, sequential

import keras_graft as kg

NAMES = applications() if ALL else sorted(SAMPLE)


def strides(model, **kwargs):
    return [stage.stride for stage in kg.stages(model, **kwargs)]


@pytest.mark.parametrize("name", NAMES)
def test_the_strides_of_every_architecture_are_those_known(name):
    found = kg.stages(application(name))
    expected = [2, 4, 8, 16, 32]
    if name.startswith("VGG"):
        expected = [1, *expected]
    if name.startswith("ConvNeXt"):
        expected = expected[1:]
    assert [stage.stride for stage in found] == expected and found.by == "resolution"
    assert [stage.index for stage in found] == list(range(len(expected)))
    sizes = [stage.parameters for stage in found]
    assert sizes == sorted(sizes) and found[-1].channels > found[0].channels


@pytest.mark.once
def test_the_stages_of_resnet_are_the_ends_of_its_blocks():
    with cheap_weights():
        model = keras.applications.ResNet50(weights=None, include_top=False)  # of any size
    found = kg.stages(model)
    assert [(s.name, s.channels, s.stride) for s in found] == [
        ("conv1_relu", 64, 2), ("conv2_block3_out", 256, 4), ("conv3_block4_out", 512, 8),
        ("conv4_block6_out", 1024, 16), ("conv5_block3_out", 2048, 32),
    ]  # fmt: skip
    assert found[-1].parameters == model.count_params()
    for stage in found[:3]:
        trunk = kg.extract(model, stage.name)
        assert stage.parameters == trunk.count_params()


@pytest.mark.once
@pytest.mark.parametrize("name", ["Xception", "InceptionV3", "NASNetLarge", "DenseNet121"])
def test_a_stage_ends_where_branches_join(name):
    ends = {
        "Xception": ["block1_conv2_act", "add*", "add*", "add*", "block14_sepconv2_act"],
        "InceptionV3": ["activation*", "activation*", "mixed2", "mixed7", "mixed10"],
        "NASNetLarge": ["stem_bn1", "reduction_concat_stem_1", "activation*", "activation*",
                        "activation*"],
        "DenseNet121": ["conv1_relu", "pool2_conv", "pool3_conv", "pool4_conv", "relu"],
    }[name]  # fmt: skip
    import fnmatch

    found = [stage.name for stage in kg.stages(application(name))]
    assert all(map(fnmatch.fnmatch, found, ends)), found


def unet(first=False):
    data = {"data_format": "channels_first" if first else "channels_last"}
    axis = 1 if first else -1
    x = inputs = keras.Input((3, 32, 32) if first else (32, 32, 3))
    kept = []
    for k in range(2):
        x = layers.Conv2D(4 * 2**k, 3, padding="same", name=f"down{k}_conv", **data)(x)
        x = layers.ReLU(name=f"down{k}_relu")(x)
        kept.append(x)
        x = layers.MaxPooling2D(name=f"down{k}_pool", **data)(x)
    x = layers.Conv2D(16, 3, padding="same", name="middle", **data)(x)
    for k in (1, 0):
        x = layers.UpSampling2D(name=f"up{k}", **data)(x)
        x = layers.Concatenate(axis, name=f"up{k}_join")([x, kept[k]])
        x = layers.Conv2D(4, 3, padding="same", name=f"up{k}_conv", **data)(x)
    return keras.Model(inputs, x, name="unet")


@pytest.mark.parametrize("first", [False, True])
def test_the_decoder_of_a_unet_has_stages_of_its_own(first):
    if first and keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow's pooling takes no channels first on a CPU")
    found = kg.stages(unet(first))
    assert [(s.name, s.stride, s.channels) for s in found] == [
        ("down0_relu", 1, 4), ("down1_relu", 2, 8), ("middle", 4, 16), ("up1_conv", 2, 4),
        ("up0_conv", 1, 4),
    ]  # fmt: skip


def test_one_and_three_dimensions_and_axes_that_differ():
    x = y = keras.Input((64, 2))
    for i in range(3):
        y = layers.Conv1D(4, 3, 2, padding="same", name=f"c{i}")(y)
    assert strides(keras.Model(x, y)) == [2, 4, 8]
    x = y = keras.Input((None, 16, 16, 2))
    for i in range(3):
        y = layers.Conv3D(4, 3, (1, 2, 2), padding="same", name=f"c{i}")(y)
    assert strides(keras.Model(x, y)) == [(1, 2, 2), (1, 4, 4), (1, 8, 8)]
    x = keras.Input((5, 16, 16, 3))
    y = layers.TimeDistributed(layers.Conv2D(4, 3, 2, padding="same"), name="each")(x)
    assert strides(keras.Model(x, y), by="resolution") == [(1, 2, 2)]
    x = keras.Input((8, 8, 3))
    y = layers.Conv2DTranspose(4, 3, 2, padding="same", name="larger")(x)
    assert strides(keras.Model(x, y)) == [0.5]


def test_small_maps_padding_and_squeezes_are_no_stages():
    x = keras.Input((8, 8, 3))
    y = layers.Rescaling(2.0)(x)  # before the first kernel
    y = layers.Conv2D(4, 3, 2, padding="same", name="stem")(y)
    squeezed = layers.GlobalAveragePooling2D(keepdims=True)(y)
    squeezed = layers.Conv2D(4, 1, activation="sigmoid", name="gate")(squeezed)
    y = layers.Multiply(name="gated")([y, squeezed])
    y = layers.ZeroPadding2D(3, name="pad")(y)
    y = layers.Conv2D(8, 3, 2, name="next")(y)
    y = layers.MaxPooling2D(4, name="tiny")(y)
    y = layers.Dense(2, name="head")(layers.Flatten()(y))
    found = kg.stages(keras.Model(x, y))
    assert [(s.name, s.stride) for s in found] == [("gated", 2), ("next", 4), ("tiny", 16)]


def test_nested_models_are_looked_into():
    inner = unet()
    image = keras.Input((32, 32, 3), name="image")
    y = layers.GlobalAveragePooling2D(name="pool")(inner(image))
    model = keras.Model(image, layers.Dense(2, name="head")(y))
    found = kg.stages(model)
    assert [s.name for s in found][:2] == ["unet/down0_relu", "unet/down1_relu"]
    assert [s.stride for s in found] == strides(inner)
    taps = kg.extract(model, stages=(1, 2))
    x = np.ones((1, 32, 32, 3), "float32")
    for name, value in taps(x).items():
        plain = kg.extract(inner, name.partition("/")[2])(x)
        assert np.array_equal(*map(keras.ops.convert_to_numpy, (value, plain)))
    # A stage of a model with two towers belongs to one of them.
    twice = keras.Input((32, 32, 3), name="other")
    both = keras.Model([image, twice], layers.Add()([inner(image), inner(twice)]))
    assert {s.name.partition("/")[0] for s in kg.stages(both)} >= {"unet#0", "unet#1"}


@pytest.mark.once
@pytest.mark.parametrize("name", ["Bert", "Llama", "GPT2", "Gemma", "Albert", "Bart", "Whisper"])
def test_the_stages_of_a_transformer_are_its_blocks(name):
    pytest.importorskip("keras_hub")
    model = backbones()[name]()
    found = kg.stages(model)
    assert found.by == "block"
    wanted = {"Gemma": "decoder_block_", "Albert": "group_0_inner_layer_0#"}
    blocks = [s.name for s in found if s.name.startswith(wanted.get(name, "transformer_"))]
    assert len(blocks) == (4 if name in ("Bart", "Whisper") else 2)
    assert all(stage.channels == 8 for stage in found)
    assert kg.extract(model, stages=-1).output_shape[-1] == 8


def test_blocks_are_told_by_names():
    x = y = keras.Input((6, 4), name="x")
    for i in range(3):
        z = layers.Dense(4, name=f"block{i}_dense")(y)
        y = layers.Add(name=f"block{i}_add")([y, z])
    model = keras.Model(x, y)
    found = kg.stages(model)
    assert [s.name for s in found] == ["block0_add", "block1_add", "block2_add"]
    # Names that Keras gave say nothing.
    x = y = keras.Input((4,))
    for _ in range(3):
        y = layers.Dense(4)(y)
    assert list(kg.stages(keras.Model(x, y))) == []


def test_nested_blocks_are_stages():
    def block(name):
        h = keras.Input((4,))
        return keras.Model(h, layers.Dense(4, name="inner")(h), name=name)

    x = y = keras.Input((4,), name="x")
    for i in range(3):
        y = block(f"block_{i}")(y)
    model = keras.Model(x, y)
    assert [s.name for s in kg.stages(model)] == ["block_0", "block_1", "block_2"]
    assert [s.parameters for s in kg.stages(model)] == [20, 40, 60]
    assert kg.extract(model, stages=1).count_params() == 40


def test_extract_takes_the_numbers_of_stages():
    model = application("ResNet50")
    found = kg.stages(model)
    x = np.ones((2, 32, 32, 3), "float32")
    taps = kg.extract(model, stages=(2, 3, -1))
    assert list(taps(x)) == [found[i].name for i in (2, 3, 4)]
    by_name = kg.extract(model, [found[i].name for i in (2, 3, 4)])
    for name, value in taps(x).items():
        assert np.array_equal(*map(keras.ops.convert_to_numpy, (value, by_name(x)[name])))
    one = kg.extract(model, stages=np.int64(1))
    assert one.output_shape == found[1].value.spec.shape
    assert list(kg.extract(model, stages=range(2))(x)) == [found[0].name, found[1].name]
    assert len(kg.extract(model, stages=(0, 0, -5)).outputs) == 1
    assert isinstance(kg.extract(kg.read(model), stages=0), kg.Graph)


@pytest.mark.parametrize("bad", [5, -6, (0, 9), (), "1", 1.5, True, (None,), {1: 2}])
def test_other_numbers_are_refused_and_the_stages_listed(bad):
    model = application("ResNet50")
    with pytest.raises(kg.SelectionError, match="0 'conv1_relu', 1 'conv2_block3_out'") as caught:
        kg.extract(model, stages=bad)
    assert "stages=" in str(caught.value)


def test_a_model_without_stages_says_so():
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(2)(x))
    assert str(kg.stages(model)).startswith("no stages:")
    with pytest.raises(kg.SelectionError, match="kg.cuts"):
        kg.extract(model, stages=0)
    for arguments in ({}, {"taps": "dense", "stages": 0}):
        with pytest.raises(kg.SelectionError, match="stages=\\(-2, -1\\)"):
            kg.extract(model, **arguments)
    with pytest.raises(kg.SelectionError, match='by= is "resolution" or "block"'):
        kg.stages(model, by="blocks")
    assert list(kg.stages(sequential())) == []


def test_a_stage_is_a_selector_and_the_report_is_data():
    model = residual()
    (found,) = kg.stages(model)
    assert found.name == "add1" and kg.select(model, found).labels == ["add1"]
    trunk, head = kg.split(model, at=found)
    assert trunk.output_shape == (None, 8, 8, 4)
    data = kg.stages(model).to_dict()
    assert json.loads(json.dumps(data)) == data
    assert data[0]["stride"] == 1 and data[0]["channels"] == 4
    assert (
        repr(kg.stages(model)) == str(kg.stages(model))
        and "<table>" in kg.stages(model)._repr_html_()
    )
