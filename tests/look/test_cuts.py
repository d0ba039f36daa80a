"""What `kg.cuts` and `kg.features.advise` say of sizes: the same, in words, also where some are open."""

import json

import keras
import numpy as np
import pytest
from architectures import backbones
from keras import layers
from models import residual

import keras_graft as kg
from keras_graft.tables import counted, in_bytes


def tower(units=(16, 8, 4, 2), size=32):
    x = y = keras.Input((size,), name="x")
    for i, n in enumerate(units):
        y = layers.Dense(n, name=f"d{i}")(y)
    return keras.Model(x, y, name="tower")


def images(shape=(None, None, 3), first=False):
    data = {"data_format": "channels_first" if first else "channels_last", "padding": "same"}
    x = keras.Input(shape, name="image")
    y = layers.Conv2D(8, 3, 2, name="half", **data)(x)
    y = layers.Conv2D(16, 3, 2, name="quarter", **data)(y)
    y = layers.GlobalAveragePooling2D(name="pool", data_format=data["data_format"])(y)
    return keras.Model(x, layers.Dense(2, name="out")(y), name="images")


def test_cuts_and_advice_give_the_same_numbers():
    model = residual()
    found, advice = kg.cuts(model), kg.features.advise(model, 1000)
    assert [(c.name, c.bytes_per_sample) for c in found] == [
        (row.cut.name, row.bytes_per_sample) for row in advice.rows
    ]
    assert found[0].bytes_per_sample == 8 * 8 * 4 * 4 and advice.rows[0].bytes_in_all == 1_024_000
    assert "1.0 kB" in str(found) and "1.0 MB" in str(advice) and "1,000 samples" in str(advice)
    half = kg.cuts(model, dtype="float16"), kg.features.advise(model, 1, dtype="float16")
    assert half[0][0].bytes_per_sample == half[1].rows[0].bytes_per_sample == 512
    assert str(half[1]).startswith("1 sample, kept as float16\n")


def test_the_smallest_are_printed_and_all_are_in_the_list():
    model = tower(units=range(40, 20, -1))
    found = kg.cuts(model)
    assert len(found) == 19 == len(found.to_dict()) and len(str(found).splitlines()) == 10
    assert str(found).startswith("19 cuts; the 8 with the smallest tensor (all: most=None)\n")
    assert "d18" in str(found) and "d10" not in str(found)  # 8 of them, in the order of the graph
    assert len(str(kg.cuts(model, most=None)).splitlines()) == 20
    by_size = kg.cuts(model, sort="bytes", most=2)
    assert [c.name for c in by_size][:2] == ["d18", "d17"] and "d17" in str(by_size)
    assert [c.name for c in found] == [f"d{i}" for i in range(19)]
    advice = kg.features.advise(model, 7, most=3, sort="bytes")
    assert [row.cut.name for row in advice.rows][:2] == ["d18", "d17"] and len(advice.rows) == 19
    assert "19 cuts; the 3 with the smallest" in str(advice)
    assert len(str(advice).splitlines()) == 6
    assert json.loads(json.dumps(advice.to_dict())) == advice.to_dict()
    assert len(advice.to_dict()["cuts"]) == 19


@pytest.mark.parametrize("first", [False, True])
def test_open_lengths_of_images_are_a_formula_of_the_input(first):
    model = images((3, None, None) if first else (None, None, 3), first)
    found = {c.name: c for c in kg.cuts(model)}
    assert str(found["half"].size) == "8 B x height x width"  # 8 channels of 4 bytes, halved twice
    assert str(found["quarter"].size) == "4 B x height x width"
    assert str(found["pool"].size) == "64 B" and found["half"].bytes_per_sample is None
    assert "8 B x height x width" in str(kg.cuts(model))
    advice = kg.features.advise(model, 1_000_000)
    assert "8 MB x height x width" in str(advice) and "  ?" not in str(advice)
    shape = (3, 64, 32) if first else (64, 32, 3)
    sized = {c.name: c for c in kg.cuts(model, input_shape=shape)}
    assert sized["half"].bytes_per_sample == 32 * 16 * 8 * 4 == 8 * 64 * 32
    assert sized["half"].spec.shape == ((None, 8, 32, 16) if first else (None, 32, 16, 8))
    assert sized["half"].value.spec == found["half"].value.spec  # a cut of the model as it is
    kg.split(model, at=sized["half"])


def test_one_open_axis_is_named_alone():
    model = images((64, None, 3))
    assert str(kg.cuts(model)[0].size) == "512 B x width"  # 32 rows of 8 channels, halved once


def test_the_share_of_compute_knows_the_given_shape():
    x = keras.Input((None, 4), name="x")
    y = layers.Dense(4, use_bias=False, name="each")(x)
    y = layers.GlobalAveragePooling1D(name="mean")(y)
    model = keras.Model(x, layers.Dense(4, use_bias=False, name="out")(y))
    shares = [kg.features.advise(model, 1, input_shape=s).rows[0].compute_saved
              for s in (None, (3, 4))]  # fmt: skip
    np.testing.assert_allclose(shares, [0.5, 0.75])


@pytest.mark.once
def test_a_backbone_of_unknown_length_gives_a_formula():
    pytest.importorskip("keras_hub")
    model = backbones()["Llama"]()
    (cut,) = kg.cuts(model)
    assert str(cut.size) == "32 B x length" and "32 B x length" in str(kg.cuts(model))
    assert "32 MB x length" in str(kg.features.advise(model, 1_000_000))
    assert kg.cuts(model, input_shape=(128,))[0].bytes_per_sample == 32 * 128
    by_name = {name: (128,) for name in kg.read(model).input_names}
    assert kg.cuts(model, input_shape=by_name)[0].bytes_per_sample == 32 * 128
    assert "4.1 MB" in str(kg.features.advise(model, 1000, input_shape=(128,)))


def test_a_shape_that_fits_no_input_is_refused():
    model = images()
    for shape in ((4,), (8, 8, 4), "8,8,3", 8, (0, 8, 3), {"other": (8, 8, 3)}, (True, 8, 3), ()):
        for ask in (kg.cuts, lambda m, **k: kg.features.advise(m, 9, **k)):
            with pytest.raises(kg.SelectionError, match="fits no input of .images.") as caught:
                ask(model, input_shape=shape)
            assert '"image" (?, ?, ?, 3) float32' in str(caught.value)
    kg.cuts(model, input_shape=(224, 224, 3))  # the way out


def test_other_words_and_numbers_are_refused():
    model = tower()
    for ask in (kg.cuts, lambda m, **k: kg.features.advise(m, 9, **k)):
        for given, words in (
            ({"sort": "size"}, '"bytes", for the smallest first'), ({"sort": []}, "sort="),
            ({"most": 0}, "or None for all"), ({"most": 1.5}, "most="), ({"most": True}, "most="),
            ({"dtype": "int8"}, "'float16'"), ({"dtype": 16}, "dtype="),
        ):  # fmt: skip
            with pytest.raises(kg.SelectionError, match=words):
                ask(model, **given)


def test_a_model_without_cuts_says_so():
    x = keras.Input((4,))
    assert str(kg.cuts(keras.Model(x, layers.Dense(2)(x)))).startswith("no cuts:")


def test_words():
    sizes = {0: "0 B", 1: "1 B", 999: "999 B", 1000: "1 kB", 1500: "1.5 kB", 99_400: "99.4 kB",
             999_499: "999 kB", 999_600: "1 MB", 1_605_632_000: "1.6 GB", 2e15: "2,000 TB",
             0.25: "0.25 B"}  # fmt: skip
    assert {size: in_bytes(size) for size in sizes} == sizes
    assert [counted(n, "sample") for n in (0, 1, 2)] == ["0 samples", "1 sample", "2 samples"]


@pytest.mark.parametrize("op, size", [
    (lambda y: y[:, ::2], "16 B x axis 1"),
    (lambda y: keras.ops.repeat(y, 3, axis=1), "16 B x axis 1"),
    (lambda y: keras.ops.concatenate([y, y], axis=1), "16 B x axis 1"),
    (lambda y: keras.ops.concatenate([y, y], axis=-1), "32 B x length"),
    (lambda y: keras.layers.MaxPooling1D(2)(y), "8 B x length"),
])  # fmt: skip
def test_a_formula_names_the_length_of_the_input_only_where_it_is_known(op, size):
    x = keras.Input((None, 3), name="x")
    y = op(keras.layers.Dense(4, name="d")(x))
    model = keras.Model(x, keras.layers.Dense(1, name="out")(y))
    assert str(kg.cuts(model)[-1].size) == size
