"""Turn opened calls into graphs: each `Frame` becomes the graph inside a node."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Spec, Value
from keras_graft.graph.sizes import Size
from keras_graft.model.from_keras import Inside, Level, Reader, Traced
from keras_graft.model.opening.frame import Frame

tree = keras.tree


class FrameReader:
    """Gives each call that was opened the graph of its frame.

    Args:
        reader: Reads nested models whose graph Keras knows.
        frame: The frame around the calls.
        made: The graphs of calls that were opened already.
    """

    def __init__(self, reader: Reader, frame: Frame, made: Made) -> None:
        self._reader = reader
        self._frame = frame
        self._made = made

    def opened(self, step: Any) -> Inside | None:
        """Return the graph inside a call that was opened; None for any other."""
        frame = self._frame.inner.get(id(step))
        if frame is None:
            return None
        graph = self._made.graph(self._reader, frame)
        masks = {id(stand): _value_of(graph, mask, frame) for stand, mask in frame.unseen}
        return Inside(graph, tuple(frame.sources), masks)

    def closed(self, step: Any) -> str:
        """Return why a call stays closed."""
        return self._frame.closed.get(id(step), "")

    def inside(self, operation: Any) -> Graph | None:
        """Return the graph of a nested model."""
        return self._reader.inside(operation)

    def under_masks(
        self, operation: Any, plain: Graph, specs: Sequence[Spec | None],
        masks: Mapping[int, Value], training: bool | None,
    ) -> Graph:  # fmt: skip
        """Return the graph of a nested model as it runs when its inputs carry masks."""
        return self._reader.under_masks(operation, plain, specs, masks, training)

    def trace(self, function: Any, inputs: Sequence[Value]) -> Traced:
        """Run a function on symbolic tensors and return its calls."""
        return self._reader.trace(function, inputs)


def _value_of(graph: Graph, tensor: Any, frame: Frame) -> int:
    """Return which output of an opened call carries a mask."""
    masks = [id(_keras.mask_of(output)) for output in frame.outputs]
    return masks.index(id(tensor))


class Made:
    """The graphs that frames became: two calls that do the same have one graph."""

    def __init__(self) -> None:
        self._known: dict[int, list[tuple[Any, Graph, Frame]]] = {}
        self.frames: list[tuple[Frame, Graph]] = []

    def graph(self, reader: Reader, frame: Frame, **given: Any) -> Graph:
        """Return the graph of a frame."""
        form = form_of(frame)
        for known, graph, _ in self._known.get(id(frame.layer), ()):
            if known == form:
                return graph
        graph = graph_of(FrameReader(reader, frame, self), frame, **given)
        self._known.setdefault(id(frame.layer), []).append((form, graph, frame))
        self.frames.append((frame, graph))
        return graph


def form_of(frame: Frame) -> Any:
    """Return what two calls that do the same have in common."""
    inputs = [(len(t.shape), t.dtype, tuple(_none(d) for d in t.shape)) for t in frame.tensors]
    inner = [
        (number, form_of(frame.inner[id(step)]))
        for number, step in enumerate(frame.steps)
        if id(step) in frame.inner
    ]
    return inputs, frame.masks, frame.log, frame.fixed, inner


def _none(size: Any) -> Any:
    return None if isinstance(size, Size) else size


def graph_of(
    reader: Reader, frame: Frame, inputs: Any = None, outputs: Any = None, origin: Any = None,
    names: Sequence[str] | None = None,
) -> Graph:  # fmt: skip
    """Return a frame as a graph.

    Args:
        reader: Reads the models inside.
        frame: The frame.
        inputs: The structure of the inputs: of the tensors that enter; a flat list if None.
        outputs: The structure of the outputs, likewise.
        origin: The model that the graph is the whole of, if it is one.
        names: The names of the inputs; those of the arguments if None.
    """
    layer = frame.layer
    if inputs is not None:
        names = _in_order_of(frame, inputs, names)
    for tensor in (*frame.tensors, *(t for step in frame.steps for t in step.outputs)):
        _keras.set_shape(tensor, tuple(_none(d) for d in tensor.shape))
    names = input_names(frame) if names is None else names
    values = [
        Value(_spec(tensor), name, origin=tensor)
        for tensor, name in zip(frame.tensors, names, strict=True)
    ]
    by_tensor = dict(zip(map(id, frame.tensors), values, strict=True))
    values = [
        value.replace(mask=by_tensor.get(id(_keras.mask_of(tensor))))
        for tensor, value in zip(frame.tensors, values, strict=True)
    ]
    level = Level(reader, frame.tensors, values, frame.steps)
    given = frame.outputs if outputs is None else outputs
    return level.graph(
        frame.tensors if inputs is None else inputs, given, str(layer.name), layer.trainable,
        layer.dtype_policy, origin,
    )  # fmt: skip


def _in_order_of(frame: Frame, inputs: Any, names: Sequence[str] | None) -> list[str]:
    """Sort what enters a frame as a structure of the tensors is flattened; return the names so."""
    place = {id(tensor): i for i, tensor in enumerate(frame.tensors)}
    order = [place[id(tensor)] for tensor in tree.flatten(inputs)]
    order += [i for i in range(len(frame.tensors)) if i not in order]
    assert names is not None
    names = [names[i] for i in order]
    for part in (frame.tensors, frame.sources, frame.worlds):
        part[:] = [part[i] for i in order]
    return names


def _spec(tensor: Any) -> Spec:
    return Spec(tuple(tensor.shape), tensor.dtype, bool(tensor.sparse))


def input_names(frame: Frame) -> list[str]:
    """Return names for the tensors that enter a call: those of the arguments of `call`."""
    first = next(iter(_parameters(frame.layer)), "input")
    count = len(frame.tensors) - frame.masks
    names = [first] if count == 1 else [f"{first}_{i}" for i in range(count)]
    return [*names, *(f"mask_{i}" for i in range(frame.masks))]


def _parameters(layer: Any) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = inspect.signature(layer.call).parameters.values()
    return [p.name for p in found if p.kind in kinds]
