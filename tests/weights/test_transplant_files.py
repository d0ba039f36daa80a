"""transplant from files: by names where they hold them, as Keras loads where they do not."""

import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest
from architectures import application, backbones, cheap_weights
from donor import arrays, equal, some
from keras import layers
from safetensors.numpy import save_file
from tied import language
from weights import Twins, by_address, nested, outputs_equal, refused, small

import keras_graft as kg

BF16 = "bfloat16"


def test_a_keras_file_is_a_model(tmp_path):
    source = nested()
    source.compile("adam", "mse")
    source.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)
    source.save(tmp_path / "a.keras")
    target = nested()
    report = kg.transplant(tmp_path / "a.keras", target)
    outputs_equal(source, target)
    assert report.source == "'a.keras'" and len(report.moved) == 21
    assert report.moved[0].source.endswith("/kernel")


def test_a_keras_file_without_its_code_gives_its_weights(tmp_path):
    source, target = nested(), nested()
    source.save(tmp_path / "a.keras")
    with (
        zipfile.ZipFile(tmp_path / "a.keras") as old,
        zipfile.ZipFile(tmp_path / "b.keras", "w") as new,
    ):
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                data = data.replace(b"tests>Two", b"gone>Gone").replace(b'"Two"', b'"Gone"')
            new.writestr(name, data)
    report = kg.transplant(tmp_path / "b.keras", target)
    assert report.source == "'b.keras', read without its model"
    outputs_equal(source, target)


def test_a_weights_file_of_a_nested_model_goes_by_the_names_of_layers(tmp_path):
    source, target = nested(), nested()
    source.compile("adam", "mse")
    source.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)
    source.save_weights(tmp_path / "a.weights.h5")
    report = kg.transplant(str(tmp_path / "a.weights.h5"), target)
    outputs_equal(source, target)
    assert len(report.moved) == 21 and report.unused == ()


def test_a_weights_file_goes_by_names_where_keras_goes_by_position(tmp_path):
    def model(names):
        return keras.Sequential([keras.Input((3,)), *(layers.Dense(3, name=n) for n in names)])

    source, target = model("ab"), model("ba")
    source.save_weights(tmp_path / "a.weights.h5")
    kg.transplant(tmp_path / "a.weights.h5", target)
    for name in "ab":
        equal(source.get_layer(name).kernel.value, target.get_layer(name).kernel.value)
    target.load_weights(tmp_path / "a.weights.h5")  # Keras swaps them
    equal(source.get_layer("a").kernel.value, target.get_layer("b").kernel.value)


REAL = {**backbones(), **{n: lambda n=n: application(n) for n in ("MobileNet", "ResNet50V2")}}


@pytest.mark.parametrize("name", some(sorted(REAL), 9))
def test_real_architectures_made_again(name, tmp_path):
    with cheap_weights():
        source, target, again = (REAL[name]() for _ in range(3))
    rng = np.random.default_rng(0)
    for weight in source.weights:
        if "float" in weight.dtype:
            weight.assign(rng.normal(size=weight.shape))
    source.save_weights(tmp_path / "a.weights.h5")
    for model, given in ((target, source), (again, tmp_path / "a.weights.h5")):
        report = kg.transplant(given, model)
        assert len(report.moved) == len(source.weights)
        equal([w.value for w in source.weights], [w.value for w in model.weights])


def without_names(path):
    with h5py.File(path, "r+") as file:
        groups = []
        file.visititems(lambda _, item: groups.append(item))
        assert sum("name" in group.attrs for group in groups) > 9
        for group in groups:
            if "name" in group.attrs:
                del group.attrs["name"]


def test_an_old_weights_file_without_names_goes_as_keras_loads_it(tmp_path):
    source, target = nested(), nested()
    source.save_weights(tmp_path / "a.weights.h5")
    without_names(tmp_path / "a.weights.h5")
    kg.transplant(tmp_path / "a.weights.h5", target)
    outputs_equal(source, target)


def test_layers_of_one_name_in_a_weights_file_go_as_keras_loads_it(tmp_path):
    def model():
        return keras.Sequential([keras.Input((4,)), Twins(name="t"), layers.Dense(4, name="last")])

    source, target = model(), model()
    source.save_weights(tmp_path / "a.weights.h5")
    kg.transplant(tmp_path / "a.weights.h5", target)
    outputs_equal(source, target)


def test_a_weights_file_does_not_say_which_statistic_is_which(tmp_path):
    def model(scale):
        return keras.Sequential(
            [keras.Input((3,)), layers.BatchNormalization(scale=scale, name="bn")]
        )

    model(False).save_weights(tmp_path / "a.weights.h5")
    text = refused(tmp_path / "a.weights.h5", model(True))
    assert "Without a source, 4 of the target: 'bn/gamma'" in text
    assert "Unused, 3 of the source: 'bn/0', 'bn/1', 'bn/2'" in text
    model(False).save(tmp_path / "a.keras")  # the model says it
    text = refused(tmp_path / "a.keras", model(True))
    assert "Without a source, 1 of the target: 'bn/gamma'." in text


def test_a_frozen_layer_is_in_a_file_as_the_layer_it_is(tmp_path):
    source = small()
    frozen = kg.freeze(source)
    frozen.save_weights(tmp_path / "a.weights.h5")
    plain, other = small(), small()
    kg.transplant(tmp_path / "a.weights.h5", plain)
    kg.transplant(tmp_path / "a.weights.h5", kg.freeze(other))
    for model in (plain, other):
        outputs_equal(source, model)


def test_a_file_of_a_tied_model(tmp_path):
    tied = kg.tie(language(), "lm_head/kernel", "embedding/embeddings", "transpose")
    tied.save_weights(tmp_path / "a.weights.h5")
    tied.save(tmp_path / "a.keras")
    for name in ("a.weights.h5", "a.keras"):
        copy = kg.clone(tied, weights="fresh")
        assert len(kg.transplant(tmp_path / name, copy).moved) == 4
        outputs_equal(tied, copy)
        assert "Without a source, 1 of the target: 'lm_head/kernel'" in refused(
            tmp_path / name, language()
        )


def test_a_file_that_breaks_off_changes_nothing(tmp_path):
    source, target = small(), small()
    source.save_weights(tmp_path / "a.weights.h5")
    with h5py.File(tmp_path / "a.weights.h5", "r+") as file:
        place = file["layers/dense_1/vars"]
        value = place["1"][()]
        del place["1"]
        place.create_dataset("1", data=value + 7, chunks=value.shape, fletcher32=True)
    data = (tmp_path / "a.weights.h5").read_bytes()
    at = data.index((value + 7).tobytes())
    (tmp_path / "a.weights.h5").write_bytes(data[:at] + b"\x01" + data[at + 1 :])
    text = refused(tmp_path / "a.weights.h5", target)
    assert "'layers/dense_1/vars/1' of 'a.weights.h5' cannot be read: " in text


def test_paths_that_two_variables_have_lead_nowhere(tmp_path):
    def model():
        x = keras.Input((4,))
        inner = [keras.Model(x, layers.Dense(4, name="d")(x), name=n) for n in "ab"]
        return keras.Model(x, inner[1](inner[0](x)))

    target = model()
    assert [w.path for w in target.weights][::2] == ["d/kernel", "d/kernel"]
    save_file({"d/kernel": np.ones((4, 4), "float32")}, tmp_path / "a.safetensors")
    assert "Unused, 1 of the source: 'd/kernel'" in refused(tmp_path / "a.safetensors", target)


def test_a_bfloat16_file(tmp_path):
    source, target = small(dtype=BF16), small(dtype=BF16)
    source.save_weights(tmp_path / "a.weights.h5")
    kg.transplant(tmp_path / "a.weights.h5", target)
    equal([w.value for w in source.weights], [w.value for w in target.weights])


@pytest.mark.parametrize("separator", "/.")
def test_safetensors(tmp_path, separator):
    source, target = nested(), nested()
    named = {address.replace("/", separator): v for address, v in by_address(source).items()}
    assert len(named) == 21
    save_file(named, tmp_path / "a.safetensors")
    kg.transplant(tmp_path / "a.safetensors", target)
    outputs_equal(source, target)
    # All in one name more, as the outermost model's.
    save_file({f"model{separator}{k}": v for k, v in named.items()}, tmp_path / "b.safetensors")
    again = nested()
    kg.transplant(tmp_path / "b.safetensors", again)
    outputs_equal(source, again)
    text = refused(tmp_path / "a.safetensors", again, match="order")
    assert "match='order' uses the order of the layers, which the file does not store" in text


def test_safetensors_by_the_paths_of_variables(tmp_path):
    def model():
        x = keras.Input((4,))
        inner = keras.Model(x, layers.Dense(4, name="d")(x), name="inner")
        x = keras.Input((4,))
        return keras.Model(x, layers.Dense(2, name="out")(inner(x)))

    source, target = model(), model()
    assert source.weights[0].path == "d/kernel"  # the address is inner/d/kernel
    save_file({w.path: arrays([w])[0] for w in source.weights}, tmp_path / "a.safetensors")
    kg.transplant(tmp_path / "a.safetensors", target)
    outputs_equal(source, target)


def test_safetensors_is_an_extra(tmp_path, monkeypatch):
    (tmp_path / "a.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    text = refused(tmp_path / "a.safetensors", small())
    assert "pip install 'keras-graft[features]'" in text


def test_files_that_cannot_be_read(tmp_path):
    target = small()
    assert "there is no file" in refused(tmp_path / "no.keras", target)
    for name in ("a.keras", "a.weights.h5", "a.safetensors"):
        (tmp_path / name).write_bytes(b"nothing" * 9)
        text = refused(tmp_path / name, target)
        assert name in text and ("damaged" in text or "not a readable .keras file" in text), text
    (tmp_path / "a.pt").write_bytes(b"")
    assert "'a.pt' is not a .keras, .weights.h5 or .safetensors file" in refused(
        tmp_path / "a.pt", target
    )
    (tmp_path / "b.keras").mkdir()
    assert "b.keras' is a directory, not a file" in refused(tmp_path / "b.keras", target)
    (tmp_path / "a.weights.json").write_text("{}")
    assert "is the index of weights in several files" in refused(
        tmp_path / "a.weights.json", target
    )


class Twice(layers.Layer):
    """A head by hand: it works with another layer's matrix, which Keras then files twice."""

    def __init__(self, embedding, **kwargs):
        super().__init__(**kwargs)
        self.matrix = embedding.embeddings

    def call(self, x):
        return keras.ops.matmul(x, keras.ops.transpose(self.matrix))


def test_a_file_that_holds_a_variable_twice(tmp_path):
    def make():
        x = keras.Input((3,), dtype="int32")
        embedding = layers.Embedding(5, 4, name="embedding")
        y = embedding(x)
        return keras.Model(x, Twice(embedding, name="twice")(y))

    source, target = make(), make()
    path = tmp_path / "a.weights.h5"
    source.save_weights(path)
    kg.transplant(path, target)
    equal(source.weights, target.weights)
    with h5py.File(path, "r+") as file:  # two that differ are two weights
        file["layers/twice/vars/0"][...] += 1
    assert "Unused, 1 of the source" in refused(path, target)


def test_a_bias_of_a_file_with_dots_in_its_names_is_dropped(tmp_path):
    source = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="d")], name="m")
    target = keras.Sequential(
        [keras.Input((3,)), layers.Dense(2, use_bias=False, name="d")], name="m"
    )
    path = tmp_path / "a.safetensors"
    save_file({w.path.replace("/", "."): arrays([w])[0] for w in source.weights}, path)
    report = kg.transplant(path, target, resize=kg.resize.bias())
    assert len(report.dropped) == 1 and len(report.moved) == 1
    equal(source.get_layer("d").kernel, target.get_layer("d").kernel)


def biased(use_bias):
    made = [layers.Dense(2, use_bias=use_bias, name="d"), layers.Dense(2, name="out")]
    return keras.Sequential([keras.Input((3,)), *made], name="m")


def test_a_bias_that_a_file_has_a_number_for_is_dropped_or_left(tmp_path):
    source, target, path = biased(True), biased(False), tmp_path / "a.weights.h5"
    source.save_weights(path)
    assert "Unused, 1 of the source: 'd/bias'." in refused(path, target)
    report = kg.transplant(path, target, resize=kg.resize.bias())
    assert report.dropped == ("d/bias",) and len(report.moved) == 3
    target = biased(False)
    assert kg.transplant(path, target, keep="d/bias").unused == ()
    equal(source.get_layer("d").kernel, target.get_layer("d").kernel)


def test_a_layer_of_a_file_with_dots_in_its_names_is_left(tmp_path):
    source = biased(True)
    target = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="d")], name="m")
    path = tmp_path / "a.safetensors"
    save_file({k.replace("/", "."): v for k, v in by_address(source).items()}, path)
    assert "Unused, 2 of the source" in refused(path, target)
    assert kg.transplant(path, target, keep="out").unused == ()
    equal(source.get_layer("d").kernel, target.get_layer("d").kernel)


@pytest.mark.parametrize("strict", [True, False])
def test_a_scale_of_a_quantized_layer_is_no_bias(tmp_path, strict):
    def model(use_bias):
        made = [layers.Dense(3, use_bias=use_bias, name="d"), layers.LayerNormalization(name="n")]
        return keras.Sequential([keras.Input((4,)), *made])

    source, target = model(False), model(True)
    source.quantize("int8")
    source.save_weights(tmp_path / "q.weights.h5")
    before = arrays(target.get_layer("d").weights)
    if strict:
        with pytest.raises(
            kg.WeightsError, match="'d/kernel'.*int8 in the source, float32 in the t"
        ):
            kg.transplant(tmp_path / "q.weights.h5", target, keep="d/bias")
    else:
        report = kg.transplant(tmp_path / "q.weights.h5", target, strict=False)
        assert len(report.moved) == 2 and report.missing == ("d/bias",)
    equal(before, target.get_layer("d").weights)


@pytest.mark.parametrize("layer", [
    lambda: layers.Dense(3, name="d"), lambda: layers.Embedding(3, 4, name="d"),
    lambda: layers.EinsumDense("ab,bc->ac", 3, bias_axes="c", name="d"),
])  # fmt: skip
def test_a_file_of_before_lora_fills_the_kernel(tmp_path, layer):
    base, target = (keras.Sequential([keras.Input((4,)), layer()]) for _ in range(2))
    base.save_weights(tmp_path / "base.weights.h5")
    target.get_layer("d").enable_lora(2)
    adapters = {a: v for a, v in by_address(target).items() if "lora" in a}
    assert len(adapters) == 2
    kg.transplant(tmp_path / "base.weights.h5", target, keep="d/lora*")
    found = by_address(target)
    for address, values in by_address(base).items():
        np.testing.assert_array_equal(found[address], values)
    for address, values in adapters.items():
        np.testing.assert_array_equal(found[address], values)
