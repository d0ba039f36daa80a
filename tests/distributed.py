"""Run by test_distribution.py, with four devices: python distributed.py data|model."""

import sys
import tempfile

import jax
import keras
import numpy as np

import keras_graft as kg

devices = jax.devices()
assert len(devices) == 4
if sys.argv[1] == "data":
    distribution = keras.distribution.DataParallel(devices=keras.distribution.list_devices())
else:
    mesh = keras.distribution.DeviceMesh((2, 2), ("batch", "model"))
    layouts = keras.distribution.LayoutMap(mesh)
    layouts["(in|mid).*kernel"] = (None, "model")
    layouts["out.*kernel"] = ("model", None)
    layouts[".*(in|mid).*bias"] = ("model",)
    distribution = keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")
keras.distribution.set_distribution(distribution)

x = inputs = keras.Input((8,), name="x")
x = keras.layers.Dense(16, activation="relu", name="in")(x)
x = keras.layers.BatchNormalization(name="bn")(x)
x = keras.layers.Dense(16, activation="relu", name="mid")(x)
model = keras.Model(inputs, keras.layers.Dense(4, name="out")(x), name="donor")
data = np.random.default_rng(0).random((32, 8), "float32")


def layout(variable):
    return variable._layout.axes, variable.value.sharding, variable.value.sharding.num_devices


before = {v.path: layout(v) for v in model.variables}
if sys.argv[1] == "model":
    assert not model.get_layer("in").kernel.value.sharding.is_fully_replicated
    assert model.get_layer("out").kernel.value.addressable_shards[0].data.shape == (8, 4)
assert all(devices == 4 for _, _, devices in before.values())
expected = model.predict(data, verbose=0)
done = []


def check(name, *models, exact=True, same=True):
    """The donor's variables lie where they lay, those of the result where the donor's do."""
    assert {v.path: layout(v) for v in model.variables} == before
    found = {v.path: layout(v) for m in models for v in m.variables if v.path in before}
    assert found == {path: before[path] for path in found}
    assert not exact or found.keys() == before.keys(), found.keys() ^ before.keys()
    if same:
        result = data
        for part in models:
            result = part.predict(result, verbose=0)
        np.testing.assert_array_equal(result, expected)
    done.append(name)


check("extract", kg.extract(model, "bn"), exact=False, same=False)
trunk, head = kg.split(model, at="bn")
check("split", trunk, head)
joined = kg.join(trunk, head)
check("join", joined)
check("insert", kg.insert(joined, lambda node: keras.layers.Dropout(0.5), after="bn"))
gelu = kg.replace(model, "mid", keras.layers.Dense(16, name="mid"), weights="keep")
check("replace", gelu, same=False)
frozen = kg.freeze(joined, ["in", "bn"])
check("freeze", frozen)
check("thaw", kg.replace(frozen, kg.layers.Frozen, lambda node: node.operation.layer))
copied = kg.build(kg.read(model), weights="copy")
assert not {id(v) for v in copied.variables} & {id(v) for v in model.variables}
check("copy", copied)
check("fresh", kg.build(kg.read(model), weights="fresh"), same=False)
check("clone", kg.clone(model))

# It trains, trunk and all, and a head trains from a store of the trunk that is spread out.
frozen.compile("sgd", "mse")
frozen.fit(data, np.zeros((32, 4)), epochs=1, batch_size=16, verbose=0)
assert layout(model.get_layer("in").kernel) == before["in/kernel"]
with tempfile.TemporaryDirectory() as folder:
    still = kg.freeze(trunk)
    store = kg.features.compute(still, data, folder, batch_size=16, progress=False)
    np.testing.assert_array_equal(
        store.to_numpy()["features"], still.predict(data, batch_size=16, verbose=0)
    )
# Edited where no distribution is set, variables lie where the donor's do all the same.
before = {v.path: layout(v) for v in model.variables}
keras.distribution.set_distribution(None)
check("alone", kg.build(kg.read(model), weights="copy"), kg.clone(model), same=False)
print("as before:", *done)
