"""`split`: cut a model into parts, such as trunk and head, at one or more boundaries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keras_graft import advice
from keras_graft.errors import CutError, SelectionError, warn
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import is_one_of, listed
from keras_graft.graph.node import Node, Slot, Value, flat_slots
from keras_graft.graph.opened import Opened, closed_maker
from keras_graft.graph.recording import chose
from keras_graft.graph.select import Selection, select_value
from keras_graft.graph.walk import after, crossing, lacking, needed
from keras_graft.look.balance import balance as balanced
from keras_graft.model.verb import verb
from keras_graft.parts.ends import part, refuse
from keras_graft.parts.labels import labelled
from keras_graft.printable import shown
from keras_graft.tables import shortened


@verb
def split(
    graph: Graph,
    at: Any = None,
    complete: bool = False,
    *,
    by: Callable[[Node], Any] | None = None,
    parts: int | None = None,
    balance: str = "flops",
) -> tuple[Graph, ...]:
    """Cut a model at boundaries that are named, by a function of its calls, or into equal stages.

    Args:
        model: A Keras model or a `Graph`.
        at: A selector of one value; a tuple of them for a boundary of several values; a list
            of boundaries.
        complete: Add the values that also cross, instead of raising: no more than necessary, and
            none that can be computed from the rest. With `parts`: cut at any place, also where
            several values cross.
        by: In place of `at`, a function that gets each call, a `Node`, and returns its stage.
            Numbers say the order; other labels are put into an order in which the stages can run.
            For a nested model, None means: ask for the calls inside. For another call: the stage of
            the last value that it reads. What crosses is handed on, whatever it is.
        parts: In place of `at`, how many stages to make: the dearest one becomes as cheap as
            possible, and of equal choices the fewest bytes cross. `kg.balance` prints what each
            stage costs, and which layers several stages use.
        balance: What `parts` balances: "flops", "bytes" or "parameters".

    Returns:
        The stages, one more than there are boundaries. Run in sequence, they equal the model.

    Raises:
        SelectionError: If not one of `at`, `by` and `parts` is given, or it is none of these.
        CutError: If a boundary misses values that also cross it. The message names each, what
            needs it, and the call that works. Also if a call needs one that `by` puts into a later
            stage, or if there are too few places for so many parts.

    With `parts`, it warns where something that is balanced is not known, and counts as nothing.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> h = keras.layers.Dense(3, name="h")(x)
    >>> model = keras.Model(x, keras.layers.Dense(2, name="out")(h), name="tiny")
    >>> trunk, head = kg.split(model, at="h")
    >>> trunk.count_params() + head.count_params() == model.count_params()
    True
    >>> [stage.name for stage in kg.split(model, by=lambda node: node.name == "out")]
    ['tiny_trunk', 'tiny_head']
    >>> [stage.count_params() for stage in kg.split(model, parts=2, balance="parameters")]
    [15, 8]
    """
    chosen = _boundaries(graph, at, complete, by, parts, balance)
    complete = bool(complete or by is not None or parts is not None)
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


def _boundaries(
    graph: Graph, at: Any, complete: bool, by: Any, parts: Any, balance: Any
) -> list[list[Value]]:
    """Return the values of each boundary; for the step, a function becomes what it chose."""
    ways = {"at": at, "by": by, "parts": parts}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) != 1:
        raise SelectionError(
            f"split takes one of at=, by= and parts=; got {' and '.join(given) or 'none'}. "
            f"For example {advice.call('split', parts=2)}."
        )
    if parts is None and not is_one_of(balance, "flops"):
        raise SelectionError(
            f"split: balance= says what parts= balances, and there is no parts=; got {shown(balance)}."
        )
    if by is not None:
        if not callable(by):
            raise SelectionError(
                "split: by= is a function of a node that returns its stage, such as "
                f"by=lambda node: node.name.startswith('head'); got {shown(by)}."
            )
        found = labelled(graph, by)
        chose("at", [tuple(values) for values in found])
        chose("by", None)
        chose("complete", True)
        return [list(values) for values in found]
    if parts is not None:
        cut = balanced(graph, parts, balance, complete=bool(complete))
        if cut.unknown:
            paths = shortened([repr(path) for path, _ in cut.unknown])
            warn(
                f"split: of {paths} it is not known what they cost, which counts as nothing. "
                f"{advice.call('balance', ('parts', int(parts)), by=balance)} says why."
            )
        return [list(values) for values in cut]
    boundaries = list(at) if isinstance(at, list | Selection) else [at]
    if not boundaries:
        raise SelectionError(f"split(at=[]) names no boundary in {graph.name!r}.")
    chosen: list[list[Value]] = []
    for boundary in boundaries:
        values = boundary if isinstance(boundary, tuple) else (boundary,)
        if not values:
            raise SelectionError(f"A boundary of {graph.name!r} is an empty tuple.")
        chosen.append([select_value(graph, value) for value in values])
    return chosen


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
