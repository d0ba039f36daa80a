"""Files of adapters: small, for one network only, and refused where they are damaged."""

import json
import os

import keras
import numpy as np
import pytest
from adapted import arrays, attention, stirred
from donor import equal
from keras import layers
from safetensors.numpy import load_file, save_file

import keras_graft as kg
from keras_graft.errors import FileError
from keras_graft.testing import random_inputs

pytestmark = pytest.mark.once


@pytest.fixture
def file(tmp_path):
    donor = attention()
    kg.save_adapters(stirred(kg.lora(donor, "**/query", 2)), tmp_path / "a.safetensors")
    return donor, tmp_path / "a.safetensors"


def test_what_a_file_holds(file):
    donor, path = file
    found = load_file(path)
    assert {key: value.shape for key, value in found.items()} == {
        "default/attention/query/kernel/a": (8, 2), "default/attention/query/kernel/b": (2, 2, 4),
    }  # fmt: skip
    assert os.listdir(path.parent) == ["a.safetensors"]
    tuned = kg.load_adapters(donor, str(path))
    equal(tuned.trainable_variables, list(found.values()))


def test_a_network_of_a_hundred_million_parameters(tmp_path):
    """The sizes of a transformer of 12 blocks, counted without its weights."""
    blocks, width, heads, rank = 12, 768, 12, 8
    base = blocks * (12 * width * width) + 20_000 * width
    adapters = 2 * blocks * (width * rank + rank * heads * (width // heads))
    assert base > 100e6 and adapters < 0.01 * base
    # One block of it, whose file has the size that this says.
    x = keras.Input((4, width))
    block = keras.Model(x, layers.MultiHeadAttention(heads, width // heads, name="a")(x, x))
    tuned = kg.lora(block, ["**/query", "**/value"], rank)
    assert sum(r.parameters for r in kg.list_adapters(tuned).rows) == adapters // blocks
    kg.save_adapters(tuned, tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").stat().st_size < 4 * adapters // blocks + 2000


def test_another_network_is_refused(file):
    donor, path = file
    other = kg.clone(donor, weights="fresh")
    weights = arrays(other.weights)
    with pytest.raises(kg.WeightsError, match="the same network with other weights. Load the weig"):
        kg.load_adapters(other, path)
    equal(other.weights, weights)
    with pytest.raises(
        kg.WeightsError, match="fit another network: layers, or how they are called"
    ):
        kg.load_adapters(kg.replace(donor, "norm", layers.Activation("relu", name="norm")), path)
    changed = kg.clone(donor)
    changed.get_layer("head").bias.assign([0, 0, 1e-6])
    with pytest.raises(kg.WeightsError, match="other weights"):
        kg.load_adapters(changed, path)
    # Adapters of the model do not count, nor does how it is frozen.
    x = random_inputs(donor, 2)
    alone = kg.load_adapters(donor, path)
    beside = kg.load_adapters(kg.lora(kg.clone(donor), "head", 2, name="more"), path)
    equal(beside(x), alone(x))
    equal(kg.load_adapters(kg.train_only(donor, "head"), path)(x), alone(x))
    donor.trainable = False
    equal(kg.load_adapters(donor, path)(x), alone(x))


def test_names_of_layers_do_not_count(tmp_path):
    """Keras numbers the layers that have no name, so the same code gives different names."""

    def made():
        x = keras.Input((4,))
        y = layers.Dense(4)(layers.Dense(4)(x))
        return keras.Model(x, layers.Dense(4)(y))

    one, two = made(), made()
    two.set_weights(one.get_weights())
    assert one.layers[-1].name != two.layers[-1].name
    last, middle = one.layers[-1].name, one.layers[-2].name
    tuned = stirred(kg.lora(one, last, 2, train=[middle, last]))
    tuned.get_layer(middle).kernel.assign(np.ones((4, 4)))
    tuned.get_layer(last).bias.assign(np.ones(4))
    kg.save_adapters(tuned, tmp_path / "a.safetensors")
    loaded = kg.load_adapters(two, tmp_path / "a.safetensors")
    given = random_inputs(one, 2)
    equal(loaded(given), tuned(given))
    assert kg.list_adapters(loaded).rows[0].weight == f"{two.layers[-1].name}/kernel"
    assert kg.list_adapters(loaded).trainable == kg.list_adapters(tuned).trainable


def test_refusals(file, tmp_path):
    donor, path = file
    tuned = kg.load_adapters(donor, path)
    cases = [
        (lambda: kg.load_adapters(tuned, path), kg.EditError, "has an adapter 'default' already."),
        (lambda: kg.load_adapters(donor, path, name="a b"), kg.EditError, "letters, digits"),
        (lambda: kg.load_adapters(donor, path, train="no"), kg.EditError, "train must be True or"),
        (lambda: kg.load_adapters(donor, tmp_path / "b.safetensors"), FileError, "there is no file"),
        (lambda: kg.load_adapters(donor, "a.keras"), FileError, "ends in .safetensors"),
        (lambda: kg.save_adapters(donor, path), kg.EditError, "it has no adapters. Add one"),
        (lambda: kg.save_adapters(tuned, "a.npz"), FileError, "ends in .safetensors, got 'a.npz'"),
        (lambda: kg.save_adapters(tuned, tmp_path / "no" / "a.safetensors"), FileError, "cannot be w"),
        (lambda: kg.save_adapters(kg.merge_adapters(tuned), path), kg.EditError, "is merged. Unmerge"),
        (lambda: kg.save_adapters(kg.merge_adapters(kg.lora(tuned, "head", name="m"), "m"), path),
         kg.EditError, "'m' is merged into 'attend', and the file would fit no copy of the donor"),
    ]  # fmt: skip
    for call, error, says in cases:
        with pytest.raises(error) as caught:
            call()
        assert says in str(caught.value), caught.value
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors"]
    kg.save_adapters(kg.lora(tuned, "head", 2, name="more"), tmp_path / "two.safetensors")
    with pytest.raises(kg.EditError, match="name= is for a file with one adapter, and 'two.safete"):
        kg.load_adapters(donor, tmp_path / "two.safetensors", name="x")


def written(path, change=lambda about: None, tensors=None):
    """Write the file again with other metadata."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as opened:
        about = dict(opened.metadata())
    change(about)
    save_file(load_file(path) if tensors is None else tensors, path, metadata=about)


@pytest.mark.parametrize("change", [
    lambda a: a.pop("adapters"), lambda a: a.update(adapters="{"), lambda a: a.update(adapters="{}"),
    lambda a: a.update(adapters='[{"name": "x"}]'), lambda a: a.update(adapters="[3]"),
    lambda a: a.update(adapters="[" * 10**5), lambda a: a.pop("fingerprint"),
    lambda a: a.update(fingerprint="[]"), lambda a: a.pop("trained"), lambda a: a.pop("format"),
    lambda a: a.update(version="9"), lambda a: one(a, rank=3), lambda a: one(a, rank="2"),
    lambda a: one(a, rank=-1), lambda a: one(a, rank=10**9), lambda a: one(a, name="a/../b"),
    lambda a: one(a, name=3), lambda a: one(a, inputs=[7]), lambda a: one(a, inputs=[]),
    lambda a: one(a, inputs=[0, 0]), lambda a: one(a, inputs="0"), lambda a: one(a, inputs=[0, 1, 2]),
    lambda a: one(a, inputs=None), lambda a: one(a, alpha=float("nan")), lambda a: one(a, alpha=[1]),
    lambda a: one(a, weight=None), lambda a: one(a, place=99), lambda a: one(a, place=-1),
    lambda a: one(a, place="0"), lambda a: one(a, inputs=[True]), lambda a: one(a, alpha=10**400),
])  # fmt: skip
def test_forged_files(file, change):
    donor, path = file
    written(path, change)
    with pytest.raises(FileError):
        kg.load_adapters(donor, path)


def one(about, **changes):
    (adapter,) = json.loads(about["adapters"])
    about["adapters"] = json.dumps([{**adapter, **changes}])


def test_damaged_arrays(file):
    donor, path = file
    whole = path.read_bytes()
    tensors = load_file(path)
    for name in tensors:
        for value in (None, tensors[name][:1], np.zeros(tensors[name].shape, bool)):
            new = {k: v for k, v in tensors.items() if k != name}
            written(path, tensors=new if value is None else {**new, name: value.copy()})
            with pytest.raises(FileError, match="is damaged"):
                kg.load_adapters(donor, path)
            path.write_bytes(whole)
    for size in (0, 5, 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(FileError, match="is damaged"):
            kg.load_adapters(donor, path)


def test_half_precision_heads(tmp_path):
    x = keras.Input((4,), name="x")
    y = layers.Dense(3, name="d", dtype="bfloat16")(x)
    donor = keras.Model(x, layers.Dense(2, name="head", dtype="bfloat16")(y))
    tuned = stirred(kg.lora(donor, "d", 2, train="head"))
    tuned.get_layer("head").bias.assign([1, 2])
    kg.save_adapters(tuned, tmp_path / "a.safetensors")
    given = random_inputs(donor, 2)
    equal(kg.load_adapters(kg.clone(donor), tmp_path / "a.safetensors")(given), tuned(given))
