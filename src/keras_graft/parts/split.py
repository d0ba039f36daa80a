"""`split`: cut a model into parts, such as trunk and head, at one or more boundaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_graft.errors import CutError, SelectionError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed
from keras_graft.graph.node import Node, Slot, Value, flat_slots
from keras_graft.graph.opened import Opened, closed_maker
from keras_graft.graph.select import Selection, select_value
from keras_graft.graph.walk import after, crossing, lacking, needed
from keras_graft.model.verb import verb
from keras_graft.parts.ends import part, refuse


@verb
def split(graph: Graph, at: Any, complete: bool = False) -> tuple[Graph, ...]:
    """Cut a model at one boundary, or at a list of boundaries.

    Args:
        model: A Keras model or a `Graph`.
        at: A selector of one value; a tuple of them for a boundary of several values; a list
            of boundaries.
        complete: Add the values that also cross, instead of raising: no more than necessary, and
            none that can be computed from the rest.

    Returns:
        The stages, one more than there are boundaries. Run in sequence, they equal the model.

    Raises:
        CutError: If a boundary misses values that also cross it. The message names each, what
            needs it, and the call that works.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> h = keras.layers.Dense(3, name="h")(x)
    >>> model = keras.Model(x, keras.layers.Dense(2, name="out")(h), name="tiny")
    >>> trunk, head = kg.split(model, at="h")
    >>> trunk.count_params() + head.count_params() == model.count_params()
    True
    """
    boundaries = list(at) if isinstance(at, list | Selection) else [at]
    if not boundaries:
        raise SelectionError(f"split(at=[]) names no boundary in {graph.name!r}.")
    chosen: list[list[Value]] = []
    for boundary in boundaries:
        parts = boundary if isinstance(boundary, tuple) else (boundary,)
        if not parts:
            raise SelectionError(f"A boundary of {graph.name!r} is an empty tuple.")
        chosen.append([select_value(graph, part) for part in parts])
    opened = Opened(graph)
    flat = opened.find([v for values in chosen for v in values])
    while True:
        groups = iter(flat)
        chosen = [list(dict.fromkeys(next(groups) for _ in group)) for group in chosen]
        stages = _stages(opened, chosen, complete)
        if not isinstance(stages, Node):
            break
        # A mask made inside a nested model crosses: it is a value once that model is open.
        flat = opened.open(opened.graph.calls(stages.operation), [v for g in chosen for v in g])
    names = ("trunk", "head") if len(stages) == 2 else [f"stage{i}" for i in range(len(stages))]
    return tuple(
        s.replace(name=f"{graph.name}_{name}") for s, name in zip(stages, names, strict=True)
    )


def _stages(
    opened: Opened, boundaries: Sequence[list[Value]], complete: bool
) -> list[Graph] | Node:
    """Cut at each boundary; or return the nested call that must be opened first."""
    stages: list[Graph] = []
    rest = opened.graph
    for boundary in boundaries:
        found = _split_once(opened, rest, boundary, complete)
        if isinstance(found, Node):
            return found
        trunk, rest = found
        stages.append(trunk)
    return [*stages, rest]


def _split_once(
    opened: Opened, graph: Graph, boundary: list[Value], complete: bool
) -> tuple[Graph, Graph] | Node:
    for value in boundary:
        if value not in graph:
            raise CutError(
                f"Boundary {opened.path(value)!r} of {opened.graph.name!r} does not come after "
                "the one before it: give boundaries in the order in which data passes."
            )
    missing = _lacking(opened, graph, boundary)
    if missing and not complete:
        refuse(
            opened, graph, boundary, missing, "split",
            lambda value: not _lacking(opened, graph, [*boundary, value]),
        )  # fmt: skip
    for value in missing:
        maker = closed_maker(graph, [value])
        if maker is not None:
            return maker
    boundary = boundary + missing
    structure: Any = Slot(0) if len(boundary) == 1 else flat_slots(len(boundary))
    trunk = part(
        graph, graph.inputs, graph.input_template, boundary, structure,
        needed(graph, boundary), graph.name,
    )  # fmt: skip
    head = needed(graph, graph.outputs, boundary)
    rest = part(graph, boundary, structure, graph.outputs, graph.output_template, head, graph.name)
    return trunk, rest


def _lacking(opened: Opened, graph: Graph, boundary: Sequence[Value]) -> list[Value]:
    """Return the fewest values that a boundary must add to be a cut; none if it is one."""
    cut = set(boundary)
    below = set(needed(graph, boundary))
    behind = after(graph, cut)
    head = [n for n in needed(graph, graph.outputs, cut) if n in behind and n not in below]
    if not head and not any(v in cut for v in graph.outputs):
        raise CutError(
            f"No output of {opened.graph.name!r} depends on "
            f"{listed(map(opened.path, boundary))}: this boundary has nothing behind it."
        )
    return lacking(graph, crossing(graph, head, graph.outputs, cut), cut, below)
