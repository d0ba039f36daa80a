"""Open a layer: its code becomes a graph, if that is proven to be exact."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_graft.graph.graph import Graph
from keras_graft.graph.sizes import Doubt
from keras_graft.model.from_keras import Reader
from keras_graft.model.opening.frame import Frame, Place
from keras_graft.model.opening.graphs import FrameReader, Made, graph_of
from keras_graft.model.opening.groups import groups_of
from keras_graft.model.opening.proof import disproof
from keras_graft.model.opening.reasons import Reason, is_about_numbers, is_error, may_be_sizes
from keras_graft.model.opening.run import run
from keras_graft.model.opening.worlds import BATCH, FAMILIES, MULTIPLE, Pair, Way
from keras_graft.model.opening.written import untouched

_MOST = 40

_WAYS: list[tuple[dict[str, list[Pair]], Pair]] = [
    *((family, BATCH) for family in FAMILIES),
    (FAMILIES[0], (BATCH[0] * MULTIPLE, BATCH[1] * MULTIPLE)),
]
"""Values for sizes, and for those of a batch, in the order in which they are tried."""


@dataclass
class Known:
    """What the layers of one model have in common while they are opened.

    Attributes:
        proven: What was compared on data, and found equal. None: nothing is proven, and code runs
            only once.
        weights: For a variable, by its identity, and a dtype policy: the `Weight` that gives it.
    """

    proven: set[str] | None = field(default_factory=set)
    weights: dict[Any, Any] = field(default_factory=dict)


@dataclass
class Opened:
    """A layer whose code became a graph.

    Attributes:
        graph: The graph.
        sources: For each input of the graph, the tensor that it is outside.
        reasons: For the layers inside that stay closed, why.
    """

    graph: Graph
    sources: list[Any]
    reasons: dict[Place, Reason] = field(default_factory=dict)


def opened(
    reader: Reader, layer: Any, args: Any, kwargs: Any, wanted: Callable[[Any, Place], str | None],
    whole: bool = False, known: Known | None = None,
) -> Opened:  # fmt: skip
    """Return the graph of the code of a layer.

    Args:
        reader: Reads the models inside whose graph Keras knows.
        layer: The layer; it is built.
        args: Its arguments: symbolic tensors, with None for sizes that are not known.
        kwargs: The other arguments.
        wanted: Says for a layer inside why it stays closed; None if it should be opened.
        whole: Whether the graph is that of a whole model, with the structure of its arguments.
        known: What other layers of the same model have given; more is added.

    Raises:
        Doubt: If the layer itself must stay closed.
    """
    known = Known() if known is None else known
    with untouched(layer):
        return _best(reader, layer, args, kwargs, wanted, whole, known)


def _best(
    reader: Reader, layer: Any, args: Any, kwargs: Any, wanted: Callable[[Any, Place], str | None],
    whole: bool, known: Known,
) -> Opened:  # fmt: skip
    best: Opened | None = None
    failed: Doubt | None = None
    given = keras.tree.flatten((args, kwargs))
    unknown = any(isinstance(t, keras.KerasTensor) and None in t.shape for t in given)
    for family, batch in _WAYS if unknown else _WAYS[:1]:
        try:
            way = family, groups_of(layer, args, kwargs, family, batch[0]), batch
            found = _opened(reader, layer, args, kwargs, wanted, whole, known, way)
        except Doubt as doubt:
            failed = failed or doubt
            if not may_be_sizes(str(doubt)):
                break
            continue
        if best is None or len(found.reasons) < len(best.reasons):
            best = found
        if not any(map(may_be_sizes, found.reasons.values())):
            break
    if best is None:
        assert failed is not None
        if unknown and is_error(str(failed)):
            family = FAMILIES[0]
            raise Doubt(
                f"{failed}; sizes that are not known were tried as {family['short'][0][0]}, "
                f"{family['short'][0][1]} and others: give inputs of fixed sizes if its code needs them"
            ) from failed
        raise failed
    return best


def _opened(
    reader: Reader, layer: Any, args: Any, kwargs: Any, wanted: Callable[[Any, Place], str | None],
    whole: bool, known: Known, way: Way,
) -> Opened:  # fmt: skip
    closed: dict[Place, Reason] = {}
    native = False
    for _ in range(_MOST):
        ran = run(
            layer, args, kwargs, wanted, closed, way, native, known.weights, known.proven is None
        )
        made = Made()
        inputs, outputs, names = _structures(ran.frame) if whole else (None, None, None)
        graph = graph_of(
            FrameReader(reader, ran.frame, made), ran.frame, inputs, outputs,
            layer if whole else None, names,
        )  # fmt: skip
        frames = [(ran.frame, graph), *made.frames]
        wrong = None if known.proven is None else _disproven(frames, known.proven)
        if wrong is None:
            return Opened(graph, [ran.given[id(s)] for s in ran.frame.sources], ran.reasons)
        frame, reason = wrong
        if is_about_numbers(reason) and not native:
            native = True
            continue
        if len(frame.place) == 1:
            raise Doubt(reason)
        closed[frame.place] = reason
    raise Doubt("too many of the layers inside stay closed")


def _disproven(frames: list[tuple[Frame, Graph]], proven: set[str]) -> tuple[Frame, Reason] | None:
    for frame, graph in sorted(frames, key=lambda pair: -len(pair[0].place)):
        form = repr((type(frame.layer), _form(frame)))
        if form in proven:
            continue
        reason = disproof(frame, graph)
        if reason is not None:
            return frame, reason
        proven.add(form)
    return None


def _form(frame: Frame) -> Any:
    """Return what two layers of one class whose code does the same have in common."""
    numbers: dict[int, int] = {}
    known = {id(step.operation): type(step.operation) for step in frame.steps}

    def plain(item: Any) -> Any:
        if isinstance(item, tuple | list):
            return tuple(plain(part) for part in item)
        if isinstance(item, dict):
            return tuple((key, plain(part)) for key, part in item.items())
        if type(item) is int and item > 1_000_000:  # the identity of a layer or a weight
            return known.get(item), numbers.setdefault(item, len(numbers))
        return item

    return plain(frame.worlds), plain(frame.log)


def _structures(frame: Frame) -> tuple[Any, Any, list[str]]:
    """Return the structures of the inputs and outputs of a model, and the names of the inputs."""
    args, kwargs = frame.given
    inner = {
        id(source): tensor for source, tensor in zip(frame.sources, frame.tensors, strict=True)
    }
    names: dict[int, str] = {}

    def take(leaf: Any, path: str) -> Any:
        if not isinstance(leaf, keras.KerasTensor) or id(leaf) not in inner:
            return None
        names.setdefault(id(leaf), path)
        return inner[id(leaf)]

    def walk(item: Any, path: str) -> Any:
        if isinstance(item, dict):
            found = {key: walk(part, str(key)) for key, part in item.items()}
            return {key: part for key, part in found.items() if part is not None} or None
        if isinstance(item, list | tuple):
            parts = [walk(part, f"{path}_{i}") for i, part in enumerate(item)]
            return [part for part in parts if part is not None] or None
        return take(item, path)

    parameters = list(inspect.signature(frame.layer.call).parameters)
    parts = {name: walk(arg, name) for name, arg in zip(parameters, args, strict=False)}
    keywords = {name: walk(arg, name) for name, arg in kwargs.items()}
    parts = {name: part for name, part in parts.items() if part is not None}
    keywords = {name: part for name, part in keywords.items() if part is not None}
    if keywords:
        inputs: Any = {**parts, **keywords}
    else:
        inputs = next(iter(parts.values())) if len(parts) == 1 else list(parts.values())
    named = [names.get(id(source), f"mask_{i}") for i, source in enumerate(frame.sources)]
    outputs, flat = frame.structure
    return inputs, _plain(outputs, flat), named


def _plain(outputs: Any, flat: list[Any]) -> Any:
    """Return the structure of outputs without what is no tensor."""
    given = iter(flat)

    def walk(item: Any) -> Any:
        if isinstance(item, dict):
            # In the order of the dict: `keras.tree` flattens some backends' dicts in that of keys.
            return {key: walk(part) for key, part in item.items()}
        if isinstance(item, list | tuple):
            return [walk(part) for part in item]
        return item

    packed = keras.tree.pack_sequence_as(outputs, list(given))
    found = walk(packed)
    if isinstance(found, dict):
        return {key: part for key, part in found.items() if part is not None}
    return [part for part in found if part is not None] if isinstance(found, list) else found
