"""`join`: chain several models into one flat model; the inverse of `split`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_graft.errors import BuildError, JoinError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed
from keras_graft.graph.node import Node, Slot, Spec, Value
from keras_graft.graph.walk import pruned
from keras_graft.model.build import like
from keras_graft.model.infer import infer
from keras_graft.model.read import read
from keras_graft.model.recording import Ready, step
from keras_graft.parts.ends import renewed
from keras_graft.printable import words_of
from keras_graft.shared.tie_again import rejoined
from keras_graft.tables import counted


def join(*stages: Any) -> Any:
    """Return one flat model that runs the stages one after another; the inverse of `split`.

    A tie whose ends are in different stages is restored, also for stages loaded from files, if the
    values at both ends are still equal. If not, a warning names both ends and the call that ties
    them. It also names layers that several stages of one model, loaded from files, have copies of.

    Args:
        stages: Keras models or `Graph`s, from the inputs on. Each reads what the one before it gives.

    Returns:
        What the first of them is, made of the same layers.

    Raises:
        JoinError: If the outputs of a stage do not fit the inputs of the next.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> h = keras.layers.Dense(3, name="h")(x)
    >>> model = keras.Model(x, keras.layers.Dense(2, name="out")(h), name="tiny")
    >>> trunk, head = kg.split(model, at="h")
    >>> [layer.name for layer in kg.join(trunk, head).layers]
    ['x', 'h', 'out']
    """
    graphs = [read(stage) for stage in stages]
    others = Ready([_origin(graphs[0], other) for other in graphs[1:]])
    edits = graphs[0].edits if graphs else ()
    with step("join", None, {"stages": others}, edits) as remembering:
        try:
            graph = infer(_joined(*graphs), way_out=_between)
        except BuildError as error:
            raise JoinError(f"join: {words_of(error)}") from error
        result = remembering(rejoined(graph, graphs))
    return like(stages[0], result)


def _origin(first: Graph, other: Graph) -> dict[str, Any]:
    """Return where a stage comes from: a state of the first one and the steps since, or a name.

    It comes from the same model if both have a step in common, or are parts of one split.
    """
    common = 0
    for one, two in zip(first.edits, other.edits, strict=False):
        if one is not two:
            break
        common += 1
    left = other.edits[common:]
    next_ = first.edits[common : common + 1]
    parts = bool(next_ and left and getattr(next_[0], "call", 0) is getattr(left[0], "call", 1))
    if not common and not parts:
        return {"given": other.name}
    return {"after": common, "steps": [step for edit in left for step in edit.to_dicts()]}


def _between(graph: Graph, node: Node, wanted: str) -> str:
    return (
        f"The way out: put a model between the stages that turns the output of the earlier one "
        f"into what {node.label!r} takes, {wanted}: kg.join(one, between, other)."
    )


def _joined(*stages: Graph) -> Graph:
    """Return one flat graph that runs the stages one after another."""
    if not stages:
        raise JoinError("join() needs at least one stage.")
    result = stages[0]
    for stage in stages[1:]:
        handed = _handed(result, stage)
        for give, take, name in zip(handed, stage.inputs, stage.input_names, strict=True):
            if not _fits(give.spec, take.spec):
                raise JoinError(
                    f"Output {result.label(give)!r} of {result.name!r} is {give.spec}, input "
                    f"{name!r} of {stage.name!r} takes {take.spec}."
                )
        if any(n in result for n in stage.steps):
            stage = renewed(stage)
        mapping = dict(zip(stage.inputs, handed, strict=True))
        result = Graph(
            result.steps + tuple(n.reading(mapping) for n in stage.steps),
            result.inputs,
            tuple(mapping.get(v, v) for v in stage.outputs),
            result.input_template,
            stage.output_template,
            f"{stages[0].name}_joined",
            result.trainable or stage.trainable,
            result.dtype_policy,
        )
    return pruned(result)


def _handed(result: Graph, stage: Graph) -> list[Value]:
    """Return the value for each input of a stage, as Keras passes values when it calls the stage.

    Values in a dict are matched to a dict of inputs by key, or to inputs by name; all other values
    by position.
    """
    given, taken = _named(result.output_template), _named(stage.input_template)
    single = len(result.outputs) == len(stage.inputs) == 1
    if given is not None and not (single and taken is None):
        if taken is None:
            taken = dict(zip(stage.input_names, range(len(stage.inputs)), strict=True))
        if given.keys() != taken.keys():
            raise JoinError(
                f"{result.name!r} gives a dict of {listed(given)}, {stage.name!r} takes "
                f"{listed(taken)}. Name the inputs of the second as the first names its outputs, or "
                "let the first give a list: kg.submodel(model, outputs=[...])."
            )
        places = {place: result.outputs[given[name]] for name, place in taken.items()}
        return [places[i] for i in range(len(stage.inputs))]
    if len(result.outputs) != len(stage.inputs):
        raise JoinError(
            f"{result.name!r} gives {counted(len(result.outputs), 'value')} "
            f"({listed(result.label(v) for v in result.outputs)}), {stage.name!r} takes "
            f"{len(stage.inputs)} ({listed(stage.input_names)})."
        )
    return list(result.outputs)


def _named(template: Any) -> dict[str, int] | None:
    """Return the index of each key if the structure is a dict, else None."""
    if isinstance(template, Mapping) and all(isinstance(s, Slot) for s in template.values()):
        return {str(key): slot.index for key, slot in template.items()}
    return None


def _fits(give: Spec | None, take: Spec | None) -> bool:
    if give is None or take is None:
        return True
    if give.dtype != take.dtype or len(give.shape) != len(take.shape):
        return False
    return all(
        a is None or b is None or a == b for a, b in zip(give.shape, take.shape, strict=True)
    )
