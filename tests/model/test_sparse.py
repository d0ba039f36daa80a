"""Sparse tensors: an input of a result is sparse where what it stands for is, and nowhere else."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from donor import equal
from keras import layers, ops

import keras_graft as kg
from keras_graft.testing import random_inputs

BACKEND = keras.backend.backend()
only_sparse = pytest.mark.skipif(BACKEND == "torch", reason="has no sparse tensors")


@pytest.fixture(autouse=True)
def _names():
    keras.utils.clear_session(free_memory=False)  # ops are numbered


@keras.saving.register_keras_serializable("tests")
class Halved(layers.Layer):
    def call(self, x, factor=0.5):
        return x * factor


def scaled():
    """Return a model of dense tensors, many of which Keras calls sparse on some backends."""
    x = keras.Input((4,), name="x")
    y = Halved(name="halved")(x) * 0.5
    y = layers.Identity(name="same")(y)
    y = layers.Reshape((2, 2), name="shaped")(y)
    y = layers.Flatten(name="flat")(y) / 3.0
    i = keras.Input((4,), name="i")
    y = keras.Model(i, 2.0 * i, name="inner")(y)
    y = layers.Add(name="sum")([y * 0.25, layers.Permute((1,), name="permuted")(y * 2.0)])
    return keras.Model(x, layers.Dense(2, name="out")(y), name="scaled")


def inputs_of(model):
    return [t.sparse for t in model.inputs] + [
        layer.sparse for layer in model._flatten_layers() if hasattr(layer, "sparse")
    ]


def test_no_dense_value_is_called_sparse(tmp_path):
    model = scaled()
    graph = kg.read(model)
    assert not [v for n in kg.select(graph, "**").nodes for v in n.values if v.spec.sparse]
    x = random_inputs(model, 3)
    for cut in kg.cuts(model):
        trunk, head = kg.split(model, at=cut)
        equal(model(x), head(trunk(x)))
        assert not any(inputs_of(head)), cut
        assert '"sparse": true' not in head.to_json()
    head = kg.submodel(model, inputs="multiply")
    results = [
        head, kg.clone(head), kg.insert(head, layers.Dense(4, name="more"), before="same"),
        kg.nest(model, "multiply", "flat", name="block"), kg.inline(model),
        kg.reinput(head, shape=(4,)), kg.freeze(head),
    ]  # fmt: skip
    assert not any(flag for result in results for flag in inputs_of(result))


def test_a_clash_of_names_makes_no_sparse_input():
    x = keras.Input((4,), name="x")
    i, j = keras.Input((4,), name="i"), keras.Input((4,), name="j")
    one = keras.Model(i, layers.Dense(4, name="d")(i), name="one")
    two = keras.Model(j, layers.Dense(4, name="d")(j * 0.5), name="two")
    flat = kg.inline(keras.Model(x, two(one(x)), name="both"))
    assert [layer.name for layer in flat.layers] == ["x", "d", "d_1"]
    assert not any(inputs_of(flat))


def test_a_head_made_on_this_backend_loads_on_pytorch(tmp_path):
    model = kg.inline(scaled())
    head = kg.submodel(kg.remove(model, "halved"), inputs="multiply")
    head.save(tmp_path / "head.keras")
    x = np.ones((2, 4), "float32")
    np.save(tmp_path / "y.npy", ops.convert_to_numpy(head(x)))
    code = (
        "import keras, numpy as np; head = keras.saving.load_model('head.keras');"
        "y = keras.ops.convert_to_numpy(head(np.ones((2, 4), 'float32')));"
        "np.testing.assert_allclose(y, np.load('y.npy'), rtol=1e-5)"
    )
    env = {**os.environ, "KERAS_BACKEND": "torch"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=env)


def sparse_data():
    data = np.array([[0, 2, 0, 0], [1, 0, 0, 3]], "float32")
    if BACKEND == "jax":
        import jax.experimental.sparse as jax_sparse

        return jax_sparse.BCOO.fromdense(data), data
    import tensorflow as tf

    return tf.sparse.from_dense(data), data


@only_sparse
def test_what_is_sparse_stays_sparse(tmp_path):
    x = keras.Input((4,), sparse=True, name="x")
    y = layers.Identity(name="same")(x * 0.5)
    z = layers.Dense(3, name="d")(y)
    model = keras.Model(x, layers.Dense(2, name="out")(z * 2.0), name="sparse")
    graph = kg.read(model)
    found = {n.label: n.values[0].spec.sparse for n in graph.nodes}
    assert found == {
        "multiply": True, "same": True, "d": False, "multiply_1": False, "out": False,
    }, found  # fmt: skip
    given, dense = sparse_data()
    trunk, head = kg.split(model, at="same")
    assert trunk.inputs[0].sparse and head.inputs[0].sparse
    expected = ops.convert_to_numpy(model(given))
    np.testing.assert_allclose(ops.convert_to_numpy(head(trunk(given))), expected, rtol=1e-6)
    assert not kg.split(model, at="d")[1].inputs[0].sparse
    for result in (head, kg.clone(model), kg.nest(model, "x", "d", name="block")):
        assert result.inputs[0].sparse
        result.save(tmp_path / "m.keras")
        assert keras.saving.load_model(tmp_path / "m.keras").inputs[0].sparse


@only_sparse
def test_a_layer_told_to_gives_a_sparse_tensor():
    x = keras.Input((3,), dtype="int32", name="x")
    y = layers.CategoryEncoding(5, output_mode="multi_hot", sparse=True, name="code")(x)
    model = keras.Model(x, layers.Dense(2, name="out")(y), name="coded")
    _, head = kg.split(model, at="code")
    assert head.inputs[0].sparse
