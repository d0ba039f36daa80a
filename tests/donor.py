"""What every verb promises: the donor is left as it was, bit for bit."""

from __future__ import annotations

import contextlib
import gc
import io
import zipfile

import h5py
import keras
import numpy as np
from architectures import ALL

from keras_graft import _keras
from keras_graft.testing import random_inputs

THOROUGH = ALL
"""Whether every case is tried, or a sample: eager PyTorch compiles nothing, and is quick."""


def donor_nodes(model) -> int:
    """Return how many Keras nodes the operations of a model have."""
    return sum(len(x._inbound_nodes) + len(x._outbound_nodes) for x in model._operations)


def some(cases, step: int = 5) -> list:
    """Return all cases where that is quick, else every `step`-th."""
    return list(cases)[:: 1 if THOROUGH else step]


def arrays(structure) -> list[np.ndarray]:
    """Return the tensors of a structure as arrays."""
    return [keras.ops.convert_to_numpy(t) for t in keras.tree.flatten(structure)]


def equal(left, right) -> None:
    """Assert that two structures of tensors are equal to the bit, dtypes too."""
    left, right = arrays(left), arrays(right)
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)


def loads_alone(model) -> bool:
    """Whether Keras finds the class of a model's file without this package: its own Functional."""
    cls = type(model)
    return (cls.__module__, cls.__name__) == (_keras.Functional.__module__, "Functional")


def saved(model, path) -> dict:
    """Return what a model's file holds, without the time at which it was written."""
    model.save(path)
    found = {}
    with zipfile.ZipFile(path) as file:
        found["config"] = file.read("config.json")
        with h5py.File(io.BytesIO(file.read("model.weights.h5"))) as weights:
            weights.visititems(
                lambda name, item: (
                    found.__setitem__(name, item[()].tobytes())
                    if isinstance(item, h5py.Dataset)
                    else None
                )
            )
    return found


@contextlib.contextmanager
def unchanged(model, path):
    """Assert at the end that the donor is what it was, and that nothing hangs on its layers.

    What was made in between must be gone by then.
    """
    x = random_inputs(model, 3)
    functional = _keras.functional(model)
    layers = list(model._flatten_layers(include_self=False))
    ends = [layer.output for layer in layers if layer._inbound_nodes]
    outputs, weights = arrays(model(x)), arrays(model.variables)
    flags = [layer.trainable for layer in layers]
    config, file = model.get_config(), saved(model, path / "before.keras")
    gc.collect()
    nodes = donor_nodes(functional)
    yield x
    gc.collect()
    assert donor_nodes(functional) == nodes
    assert model.get_config() == config and saved(model, path / "after.keras") == file
    assert [layer.trainable for layer in layers] == flags
    again = [layer.output for layer in layers if layer._inbound_nodes]
    pairs = zip(keras.tree.flatten(ends), keras.tree.flatten(again), strict=True)
    assert all(a is b for a, b in pairs)
    equal(weights, model.variables)
    equal(outputs, model(x))
