"""Restore what code writes while it is read: attributes, lists, variables, random states."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft.graph.sizes import Doubt, leaves

_KERAS_OWN = {"_called", "_losses", "built", "_loss_ids"}
"""Attributes that Keras itself may set during a call."""


@contextlib.contextmanager
def restored(layer: Any) -> Iterator[None]:
    """Restore the attributes of a layer after its code ran on symbolic tensors.

    Raises:
        Doubt: If it kept anything but a tensor, to look at later: a graph keeps nothing.
    """
    before = _Attributes(layer)
    states = random.getstate(), np.random.get_state()
    why: str | None = None
    try:
        yield
    finally:
        why = before.restore()
        if random.getstate() != states[0] or not _same(np.random.get_state(), states[1]):
            random.setstate(states[0])
            np.random.set_state(states[1])
            why = "its code draws random numbers with Python or NumPy"
    if why is not None:  # where its code was refused, that is the reason
        raise Doubt(why)


@contextlib.contextmanager
def untouched(root: Any) -> Iterator[None]:
    """Restore all layers inside one: what code writes in any of them, losses and states.

    Code is run on data too, to compare it with its graph. States are all variables that are not
    trained: statistics, seeds, metrics, and those of stateful layers.
    """
    layers = _keras.layers_inside(root)
    attributes = [_Attributes(layer) for layer in layers]
    states = [(v, keras.ops.copy(v.value)) for v in _states(root, layers)]
    drawn = random.getstate(), np.random.get_state()
    names = _keras.names_given()
    try:
        yield
    finally:
        _keras.take_names_back(names)
        for each in attributes:
            each.restore()
        for variable, value in states:
            variable.assign(value)
        random.setstate(drawn[0])
        np.random.set_state(drawn[1])


@contextlib.contextmanager
def attributes_kept(operations: Iterable[Any]) -> Iterator[None]:
    """Restore the attributes of layers, and of all layers inside them, after a run without data."""
    layers = {
        id(inner): inner
        for operation in operations
        if isinstance(operation, keras.Layer)
        for inner in _keras.layers_inside(operation)
    }
    attributes = [_Attributes(layer) for layer in layers.values()]
    try:
        yield
    finally:
        for each in attributes:
            each.restore()


def states_of(root: Any) -> list[Any]:
    """Return the variables inside a layer that are not trained."""
    return _states(root, _keras.layers_inside(root))


def _states(root: Any, layers: list[Any]) -> list[Any]:
    found = {id(v): v for v in root.variables if not v.trainable}
    for layer in layers:
        for value in vars(layer).values():
            if isinstance(value, keras.metrics.Metric):
                found.update((id(v), v) for v in value.variables)
            elif isinstance(value, list | tuple):
                own = [v for v in value if isinstance(v, keras.Variable) and not v.trainable]
                found.update((id(v), v) for v in own)
    return list(found.values())


class _Attributes:
    """The attributes of a layer as they were, and what its lists, dicts and sets held."""

    def __init__(self, layer: Any) -> None:
        self._now = vars(layer)
        self._before = dict(self._now)
        self._held = {
            name: value.copy()
            for name, value in self._before.items()
            if isinstance(value, list | dict | set) and hasattr(value, "copy")
        }

    def restore(self) -> str | None:
        """Restore them, and say what code changed, None if nothing that matters."""
        now, before = self._now, self._before
        changed = [k for k, v in now.items() if k not in before or before[k] is not v]
        written = [k for k in changed if not _only_tensors(now[k]) and k not in _KERAS_OWN]
        for key in changed:
            if key in before:
                now[key] = before[key]
            else:
                del now[key]
        filled = [name for name, was in self._held.items() if not _same(before[name], was)]
        for name in filled:
            _refill(before[name], self._held[name])
        kept = [name for name in filled if name not in _KERAS_OWN]
        if written:
            return f"its code sets the attribute {sorted(written)[0]!r}"
        return f"its code keeps something in {sorted(kept)[0]!r}" if kept else None


def _refill(container: Any, items: Any) -> None:
    if isinstance(container, list):
        list.__setitem__(container, slice(None), list(items))
    elif isinstance(container, dict):
        dict.clear(container)
        dict.update(container, items)
    else:
        set.clear(container)
        set.update(container, items)


def _same(now: Any, was: Any) -> bool:
    """Whether a container holds the very same items."""
    if isinstance(now, dict):
        return list(now) == list(was) and all(now[key] is was[key] for key in now)
    if isinstance(now, set):
        return now == was
    return len(now) == len(was) and all(
        a is b or isinstance(a, np.ndarray | int | float | str) and np.array_equal(a, b)
        for a, b in zip(now, was, strict=True)
    )


def _only_tensors(value: Any) -> bool:
    return all(leaf is None or isinstance(leaf, keras.KerasTensor) for leaf in leaves(value))
