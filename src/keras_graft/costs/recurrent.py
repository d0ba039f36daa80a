"""Recurrent layers: their cells at each step, and the layers around other layers."""

from __future__ import annotations

import math
from typing import Any

from keras import layers

from keras_graft.costs.convolution import lengths
from keras_graft.costs.elementwise import activation, plus
from keras_graft.costs.formula import divided
from keras_graft.costs.work import Call, Dims, Work, rule

_CELL = "for each unit and gate, at each step: the features that it reads + the units"


def _steps(call: Call) -> Any:
    return call.first[1]


def _gates(batch: Any, reads: Any, cell: Any, gates: int) -> Any:
    return batch * gates * cell.units * (reads + cell.units)


def _lstm(cell: Any, batch: Any, reads: Any) -> Work:
    values = batch * cell.units
    functions = plus(
        activation(cell.recurrent_activation, 3 * values), activation(cell.activation, 2 * values)
    )
    # The two products and the bias of each gate are added; then f * c + i * g, and o * c.
    done = plus((8 if cell.use_bias else 4) * values, functions, 4 * values)
    return Work(_gates(batch, reads, cell, 4), done)


def _gru(cell: Any, batch: Any, reads: Any) -> Work:
    values = batch * cell.units
    functions = plus(
        activation(cell.recurrent_activation, 2 * values), activation(cell.activation, values)
    )
    bias = 0 if not cell.use_bias else 6 if cell.reset_after else 3
    # The two products of each gate are added; r * h; then z * h + (1 - z) * new.
    done = plus((3 + bias + 1 + 4) * values, functions)
    return Work(_gates(batch, reads, cell, 3), done)


def _simple(cell: Any, batch: Any, reads: Any) -> Work:
    values = batch * cell.units
    done = plus((2 if cell.use_bias else 1) * values, activation(cell.activation, values))
    return Work(_gates(batch, reads, cell, 1), done)


@rule(layers.LSTMCell, source=f"{_CELL}; four gates (Hochreiter and Schmidhuber, 1997)")
def _lstm_cell(call: Call) -> Work:
    return _lstm(call.operation, call.first[0], call.first[-1])


@rule(layers.GRUCell, source=f"{_CELL}; three gates (Cho et al., 2014)")
def _gru_cell(call: Call) -> Work:
    return _gru(call.operation, call.first[0], call.first[-1])


@rule(layers.SimpleRNNCell, source=f"{_CELL}; one gate")
def _simple_cell(call: Call) -> Work:
    return _simple(call.operation, call.first[0], call.first[-1])


@rule(layers.StackedRNNCells, source="the cells one after the other")
def _stacked(call: Call) -> Work:
    total, reads = Work(), call.first
    for cell in call.operation.cells:
        total, reads = total + _of_cell(call, cell, reads), Dims((reads[0], *_size(cell)))
    return total


def _size(cell: Any) -> tuple[Any, ...]:
    size = getattr(cell, "output_size", None)
    if size is None:
        size = cell.state_size
        size = size[0] if isinstance(size, list | tuple) else size
    return tuple(size) if isinstance(size, list | tuple) else (size,)


def _of_cell(call: Call, cell: Any, reads: Dims) -> Work:
    return call.inner(cell, (reads,), (Dims((reads[0], *_size(cell))),))


@rule(
    layers.RNN, layers.LSTM, layers.GRU, layers.SimpleRNN,
    source="the cell at each step",
)  # fmt: skip
def _rnn(call: Call) -> Work:
    reads = Dims((call.first[0], *call.first[2:]))
    return _of_cell(call, call.operation.cell, reads).times(_steps(call))


@rule(
    layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D,
    source="at each step two convolutions that give four gates (Shi et al., 2015)",
)  # fmt: skip
def _conv_lstm(call: Call) -> Work:
    layer = call.operation
    cell, first = layer.cell, layer.data_format == "channels_first"
    frame = Dims((call.first[0], *call.first[2:]))
    reads = frame[1] if first else frame[-1]
    # Also where the outputs of all steps are returned: the last axes are those of one frame.
    out = call.out[2:] if layer.return_sequences else call.out[1:]
    places = lengths(Dims((1, *out)), first).size
    kernel, filters = math.prod(cell.kernel_size), cell.filters
    values = call.first[0] * places * filters
    products = values * 4 * kernel * (reads + filters)
    functions = plus(
        activation(cell.recurrent_activation, 3 * values), activation(cell.activation, 2 * values)
    )
    done = plus((8 if cell.use_bias else 4) * values, functions, 4 * values)
    return Work(products, done).times(_steps(call))


@rule(layers.Bidirectional, source="both layers; their results are merged")
def _bidirectional(call: Call) -> Work:
    layer = call.operation
    one = call.out
    if layer.merge_mode == "concat":
        one = Dims((*one[:-1], divided(one[-1], 2)))
    found = sum((call.inner(inner, (call.first,), (one,)) for inner in _both(layer)), start=Work())
    merged = {"sum": 1, "mul": 1, "ave": 2}.get(layer.merge_mode, 0)
    return found + Work(0, merged * call.out.size)


def _both(layer: Any) -> tuple[Any, Any]:
    return layer.forward_layer, layer.backward_layer


@rule(layers.TimeDistributed, source="the layer inside at each step")
def _time_distributed(call: Call) -> Work:
    one = Dims((call.first[0], *call.first[2:]))
    gives = Dims((call.out[0], *call.out[2:]))
    return call.inner(call.operation.layer, (one,), (gives,)).times(_steps(call))


@rule(layers.SpectralNormalization, source="the layer inside; its kernel is normalized in training")
def _spectral(call: Call) -> Work:
    return call.inner(call.operation.layer, call.inputs, call.outputs)
