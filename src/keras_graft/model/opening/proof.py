"""Run the code of an opened layer and its graph on the same data: both must give the same bits."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Value
from keras_graft.model.calls import filled
from keras_graft.model.opening.frame import Frame
from keras_graft.model.opening.reasons import NUMBERS, Reason, reason_of
from keras_graft.model.opening.written import states_of

tree = keras.tree

_MOST = 100_000_000
"""How many numbers a tensor may have: the attention of large images must not fill the memory."""


def disproof(frame: Frame, graph: Graph) -> Reason | None:
    """Return how the graph differs from the code, None if it gives the same on two sets of data."""
    worlds = (0, 1) if any(a != b for sizes in frame.worlds for a, b in sizes) else (0,)
    for world in worlds:
        if frame.largest[world] > _MOST:
            return (
                "its code does not run on sizes that are tried: it makes a tensor of "
                f"{frame.largest[world]:,} numbers"
            )
        shapes = [[pair[world] for pair in sizes] for sizes in frame.worlds]
        found = _at(frame, graph, shapes)
        if found is not None:
            return found
    return None


def _at(frame: Frame, graph: Graph, shapes: Sequence[Sequence[int]]) -> Reason | None:
    tensors = data_for(graph.inputs, shapes)
    layer = frame.layer
    with _state_kept(layer), _keras.own_call_context():
        try:
            outputs = _by_code(frame, tensors)
            losses = _numbers(_keras.take_losses(_keras.layers_inside(layer)))
        except Exception as error:
            return f"its code does not run on sizes that are tried: {reason_of(error, layer)}"
    layers = _layers_of(graph)
    with _state_kept(layer), _keras.inner_call(), _keras.autocast_of(layer):
        _keras.take_losses(layers)
        try:
            given = run_graph(graph, tensors)
            found = _numbers(_keras.take_losses(layers))
        except Exception as error:
            return f"its graph does not run: {reason_of(error, layer)}"
    # TensorFlow adds up large tensors in another order each time.
    if len(losses) != len(found) or not np.allclose(losses, found, rtol=1e-5, atol=1e-6):
        return (
            f"its graph adds {len(found)} losses, and its code {len(losses)} (or they differ): a call "
            "whose result nothing needs may add one"
        )
    if dataclasses.is_dataclass(outputs):
        outputs = {f.name: getattr(outputs, f.name) for f in dataclasses.fields(outputs)}  # type: ignore[arg-type]
    flat = [leaf for leaf in tree.flatten(outputs) if leaf is not None]
    if len(flat) != len(given):
        return f"its graph gives {len(given)} tensors, and its code {len(flat)}"
    for number, (a, b) in enumerate(zip(flat, given, strict=True)):
        if not same_bits(a, b):
            return f"{NUMBERS} (output {number})"
        if not same_bits(_keras.mask_of(a), _keras.mask_of(b)):
            return f"its graph attaches another mask than its code does (output {number})"
    return None


def _layers_of(graph: Graph) -> list[Any]:
    operations = [op for op in graph.operations if isinstance(op, keras.Layer)]
    found = {id(x): x for op in operations for x in _keras.layers_inside(op)}
    return list(found.values())


def _numbers(losses: Sequence[Any]) -> list[float]:
    return sorted(float(np.asarray(keras.ops.convert_to_numpy(loss)).sum()) for loss in losses)


def _by_code(frame: Frame, tensors: Sequence[Any]) -> Any:
    """Call the layer as it was called in the trace, with these tensors."""
    places = {id(source): i for i, source in enumerate(frame.sources)}
    args, kwargs = frame.given
    get = lambda leaf: (  # noqa: E731
        tensors[places[id(leaf)]] if isinstance(leaf, keras.KerasTensor) else leaf
    )
    args, kwargs = (tree.map_structure(get, part) for part in (args, kwargs))
    kwargs.pop("training", None)
    return frame.layer(*args, **kwargs)


def run_graph(graph: Graph, tensors: Sequence[Any]) -> list[Any]:
    """Run the calls of a graph on tensors; a nested model or layer runs as a whole."""
    values: dict[Value, Any] = {
        v.within(None): t for v, t in zip(graph.inputs, tensors, strict=True)
    }
    for node in graph.steps:
        # A mask that a closed layer makes is no value here: Keras finds it on the tensor.
        lost = {value for value in node.inputs if value not in values}
        if not lost <= {value.mask for value in node.inputs}:
            continue
        args, kwargs = filled(node.template, [values.get(value) for value in node.inputs])
        outputs = tree.flatten(node.operation(*args, **kwargs))
        values.update(zip(node.outputs, outputs, strict=False))
    return [values[value.within(None)] for value in graph.outputs]


def data_for(inputs: Sequence[Value], shapes: Sequence[Sequence[int]]) -> list[Any]:
    """Return tensors for the inputs of a graph, with the masks that they carry attached."""
    rng = np.random.default_rng(7)
    tensors = []
    for value, shape in zip(inputs, shapes, strict=True):
        assert value.spec is not None
        dtype = value.spec.dtype
        if dtype == "bool":
            array: Any = rng.random(tuple(shape)) > 0.3
            if array.ndim > 1:
                array[..., 0] = True
        elif "int" in dtype:
            array = rng.integers(0, 2, tuple(shape))
        else:
            array = rng.standard_normal(tuple(shape))
        tensors.append(keras.ops.convert_to_tensor(array, dtype=dtype))
    by_value = dict(zip((v.within(None) for v in inputs), tensors, strict=True))
    for value, tensor in zip(inputs, tensors, strict=True):
        if value.mask is not None:
            _keras.set_mask(tensor, by_value[value.mask])
    return tensors


def same_bits(a: Any, b: Any) -> bool:
    """Whether two tensors have the same dtype, shape and bits; None only equals None."""
    if a is None or b is None:
        return a is b
    first, second = (np.asarray(keras.ops.convert_to_numpy(x)) for x in (a, b))
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    return first.tobytes() == second.tobytes()


@contextlib.contextmanager
def _state_kept(layer: Any) -> Iterator[None]:
    """Restore the variables of a layer that are no trained weights: seeds, statistics, states."""
    states = states_of(layer)
    before = [keras.ops.copy(v.value) for v in states]
    with _keras.losses_kept(layer), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for variable, value in zip(states, before, strict=True):
                variable.assign(value)
