"""Rules for recurrent layers: a unit goes with all its gates."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_graft.graph.node import Value
from keras_graft.pruning.activations import along
from keras_graft.pruning.call import Call, Path
from keras_graft.pruning.closure import Axis
from keras_graft.pruning.registry import layers

_L = keras.layers
GATES = {_L.SimpleRNNCell: 1, _L.GRUCell: 3, _L.LSTMCell: 4}


def _states(c: Call, cell: Any, units: list[Any], values: Any, index: int = -1) -> None:
    """Couple states with the units of the cells that have them; some have two."""
    cells = _flat(cell)
    sizes = [len(s) if isinstance(s := one.state_size, list | tuple) else 1 for one in cells]
    if cells and hasattr(cells[0], "filters"):
        sizes = [2]  # of a convolutional cell, the sizes are said in another way
    owners = [unit for unit, count in zip(units, sizes, strict=True) for _ in range(count)]
    if values and len(values) != len(owners):
        for unit in units:
            c.stop(unit, "its states are given in a way that is not known here")
    for unit, value in zip(owners, values, strict=False):
        c.same(unit, c.axis(value, index))


def _flat(cell: Any) -> list[Any]:
    if type(cell) is _L.StackedRNNCells:
        return [one for inner in cell.cells for one in _flat(inner)]
    return [cell]


def _cell(c: Call, cell: Any, gates: int, into: Axis | None, name: Path) -> Axis | None:
    """Couple the units of a cell with its kernels; return the units."""
    count = cell.units if hasattr(cell, "units") else cell.filters
    units = c.number(name, count)
    c.numbers[units.holder[2]] = units  # type: ignore[index]
    places, unit = np.arange(gates * count), np.arange(gates * count) % count
    c.same(into, c.weight(cell.kernel, -2))
    c.same(units, c.weight(cell.recurrent_kernel, -2))
    c.summed.add(c.weight(cell.recurrent_kernel, -2))
    for weight in (cell.kernel, cell.recurrent_kernel, cell.bias):
        if weight is not None:
            c.link(units, unit, c.weight(weight, -1), places)
    # A convolutional cell sees an image, of any size here.
    image = (3,) * getattr(cell, "rank", 0)
    first = bool(image) and cell.data_format == "channels_first"
    shape = (3, count, *image) if first else (3, *image, count)
    for given in ("activation", "recurrent_activation"):
        along(c, units, getattr(cell, given, None), shape, 1 if first else len(shape) - 1)
    return units


def _cells(c: Call, cell: Any, into: Axis | None, prefix: Path) -> list[Any]:
    """Return the units of the cells of a layer, each coupled with the input of the next one."""
    if type(cell) is _L.StackedRNNCells:
        found: list[Any] = []
        for i, one in enumerate(cell.cells):
            inner = _cells(c, one, found[-1] if found else into, (*prefix, "cells", i, "config"))
            if not inner:
                return []
            found += inner
        return found
    gates = GATES.get(type(cell))
    return [_cell(c, cell, gates, into, (*prefix, "units"))] if gates else []


@layers(_L.SimpleRNN, _L.GRU, _L.LSTM)
def recurrent(c: Call) -> None:
    units = _cells(c, c.layer.cell, c.axis(c.x, -1), ())
    _around(c, units, -1)


@layers(_L.RNN)
def rnn(c: Call) -> None:
    units = _cells(c, c.layer.cell, c.axis(c.x, -1), ("cell", "config"))
    _around(c, units, -1)


@layers(_L.ConvLSTM1D, _L.ConvLSTM2D, _L.ConvLSTM3D)
def convolutional(c: Call) -> None:
    first = c.layer.cell.data_format == "channels_first"
    index = lambda value: c.axis(value, -c.layer.cell.rank - 1 if first else -1)  # noqa: E731
    units = [_cell(c, c.layer.cell, 4, index(c.x), ("filters",))]
    _around(c, units, -c.layer.cell.rank - 1 if first else -1)


def _around(c: Call, units: list[Any], index: int, outputs: Any = None, states: Any = None) -> None:
    """Couple units with the output, the states that are returned, and those that are given."""
    if not units or getattr(c.layer, "stateful", False):
        why = "a stateful layer keeps states of a fixed size"
        for value in c.inputs:
            c.stop(c.axis(value, index), why if units else "there is no rule for its cell")
        return
    outputs = list(c.outputs) if outputs is None else outputs
    states = list(c.inputs[1:]) if states is None else states
    c.same(units[-1], c.axis(outputs[0], index))
    if c.layer.return_sequences:
        steps(c, outputs[:1])
    _states(c, c.layer.cell, units, outputs[1:], index)
    states = [
        v for v in states if isinstance(v, Value) and "bool" not in str(v.spec and v.spec.dtype)
    ]
    _states(c, c.layer.cell, units, states, index)
    c.source = units[-1]


def steps(c: Call, outputs: Any) -> None:
    """Couple the steps of what goes in and comes out, and of a mask: the state goes through all."""
    masks = [v for v in c.inputs[1:] if "bool" in str(v.spec and v.spec.dtype)]
    for value in (*outputs, *masks):
        c.same(c.axis(c.x, 1), c.axis(value, 1))
    c.note(c.axis(c.x, 1), "the state goes through the steps that are removed")


@layers(_L.SimpleRNNCell, _L.GRUCell, _L.LSTMCell)
def cell(c: Call) -> None:
    units = _cell(c, c.layer, GATES[type(c.layer)], c.axis(c.x, -1), ("units",))
    for value in (*c.inputs[1:], *c.outputs):
        c.same(units, c.axis(value, -1))
    c.source = units


@layers(_L.StackedRNNCells)
def stacked(c: Call) -> None:
    units = _cells(c, c.layer, c.axis(c.x, -1), ())
    if not units:
        return
    c.same(units[-1], c.axis(c.y, -1))
    for values in (c.inputs[1:], c.outputs[1:]):
        _states(c, c.layer, units, values)
    c.source = units[-1]


@layers(_L.Bidirectional)
def bidirectional(c: Call) -> None:
    layer = c.layer
    made = []
    states = [v for v in c.inputs[1:] if "bool" not in str(v.spec and v.spec.dtype)]
    returned = list(c.outputs[1 if layer.merge_mode is not None else 2 :])
    for place, (name, inner) in enumerate(
        (("layer", layer.forward_layer), ("backward_layer", layer.backward_layer))
    ):
        call = c.within(inner, (name, "config"))
        cells = getattr(inner, "cell", None)
        if type(inner) in (_L.SimpleRNN, _L.GRU, _L.LSTM):
            units = _cells(call, cells, c.axis(c.x, -1), ())
        elif type(inner) is _L.RNN:
            units = _cells(call, cells, c.axis(c.x, -1), ("cell", "config"))
        else:
            return
        if not units or inner.stateful:
            return
        made.append(units[-1])
        for values in (states, returned):
            half = values[len(values) // 2 * place :][: len(values) // 2]
            _states(c, cells, units, half)
    forward, backward = made
    out = c.axis(c.y, -1)
    if layer.merge_mode == "concat":
        assert out is not None
        c.link(forward, np.arange(forward.size), out, np.arange(forward.size))
        c.link(backward, np.arange(backward.size), out, np.arange(backward.size) + forward.size)
    elif layer.merge_mode is None:
        c.same(forward, c.axis(c.outputs[0], -1))
        c.same(backward, c.axis(c.outputs[1], -1))
    else:
        c.same(forward, out)
    # Keras takes the shape of both from the forward layer: they have as many units.
    c.same(forward, backward)
    c.source = forward
    if layer.return_sequences:
        steps(c, c.outputs[: 2 if layer.merge_mode is None else 1])
