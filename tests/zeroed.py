"""Models in which some units of a group do nothing, to compare with those without the units."""

from __future__ import annotations

import keras
import numpy as np

import keras_graft as kg
from keras_graft.testing import random_inputs


def scrambled(model: keras.Model, seed: int = 0) -> keras.Model:
    """Give every weight values that differ, so that one channel is not another; return the model."""
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        if "float" in weight.dtype:
            low = 0.5 if "variance" in weight.name or "gamma" in weight.name else -0.3
            weight.assign(generator.uniform(low, 0.7, weight.shape))
    return model


def cleared(group: kg.Group, units) -> None:
    """Set all weights of some units to zero."""
    for member in group.members:
        value = np.array(keras.ops.convert_to_numpy(member.variable))
        place = [slice(None)] * value.ndim
        place[member.axis] = np.isin(member.units, list(units))
        value[tuple(place)] = 0
        member.variable.assign(value)


def channels_of(group: kg.Group, units) -> list[int]:
    """Return the channels of a layer that belong to units."""
    return np.flatnonzero(np.isin(group.channels, list(units))).tolist()


def some_of(group: kg.Group) -> list[int]:
    """Return a third of the units, so that no axis loses all of its own."""
    units: list[int] = []
    for unit in group.free:
        more = {*units, unit}
        if len(units) < max(1, group.count // 3) and not any(
            more.issuperset(own.tolist()) for own in group.alone
        ):
            units.append(unit)
    return units


def without_zeros(model: keras.Model, layer, units=None, rtol: float = 1e-3) -> keras.Model:
    """Clear units of a layer, prune them, and assert that the outputs stay; return the result."""
    group = kg.group(model, layer)
    units = some_of(group) if units is None else units
    cleared(group, units)
    small = kg.prune(model, {layer: channels_of(group, units)})
    assert small.count_params() < model.count_params()
    same(model, small, rtol)
    return small


def same(model, small, rtol: float = 1e-3) -> None:
    """Assert that two models give the same within float tolerance, and the shapes they announce."""
    x = random_inputs(model, 2)
    old, new = (keras.tree.flatten(m(x, training=False)) for m in (model, small))
    for a, b, spec in zip(old, new, keras.tree.flatten(small.outputs), strict=True):
        a, b = keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b)
        assert b.shape[1:] == tuple(n or m for n, m in zip(spec.shape, b.shape, strict=True))[1:]
        scale = max(float(np.abs(a).max()), 1e-6)
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale)
