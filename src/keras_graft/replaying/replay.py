"""`replay`: the steps that made one model, on another model of the same architecture."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from keras_graft import _keras
from keras_graft.errors import EditError, GraftError, warn
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed
from keras_graft.graph.recording import Step
from keras_graft.model.build import like
from keras_graft.model.read import read
from keras_graft.printable import quoted, shown, words_of
from keras_graft.replaying.arguments import Arguments
from keras_graft.replaying.check import Place
from keras_graft.replaying.steps import Steps
from keras_graft.replaying.verbs import verbs

_NODES = 200_000
"""The most calls that a repetition may make."""
_BYTES = 4 * 2**30
"""The most bytes of new weights, beside four times those of the model."""


def replay(model: Any, steps: Any, given: Mapping[str, Any] | None = None) -> Any:
    """Do to a model what was done to another one: the steps of `kg.steps`, or of a file.

    The weights of the model are those of the result. Where no arithmetic differs, everything is
    equal to the bit to calling the same verbs in Python. New layers draw new weights. They are equal
    too if the layer was given without weights: its step has the seeds. For a layer that makes other
    layers when it is first called (`MultiHeadAttention`), for `weights="fresh"`, for `kg.lora`
    without `seed=` and for layers that a recipe makes, call `keras.utils.set_random_seed` before
    both. A layer that had weights of its own gets new ones, and a warning names it.

    Steps are data: no code in a file runs. Classes and functions are Keras's own, or registered with
    Keras by code that you imported.

    Args:
        model: A Keras model or a `Graph`, with the names that the steps select.
        steps: What `kg.steps` returns, a list of steps, or the path of a `.yaml` or `.json` file.
        given: By their names, the models that steps join and the files of adapters that they load:
            `kg.steps(model).needs` lists them.

    Returns:
        A Keras model or a `Graph`, as `model` is. It remembers these steps.

    Raises:
        FileError: If a file holds no steps; the message names the line and the step.
        EditError: If a step cannot be replayed: it needs a Python function, or a class that is not
            registered.
        GraftError: If a verb refuses its step: its own error, which begins with the step's number.
            Nothing is changed then.

    Warns:
        GraftWarning: If a layer had weights of its own, which are not in the steps.

    >>> import keras, keras_graft as kg
    >>> def model():
    ...     x = keras.Input((4,), name="x")
    ...     return keras.Model(x, keras.layers.Dense(3, name="d")(x))
    >>> one, other = model(), model()
    >>> edited = kg.insert(one, keras.layers.Dropout(0.1, name="drop"), before="d")
    >>> again = kg.replay(other, kg.steps(edited))
    >>> [layer.name for layer in again.layers], again.get_layer("d") is other.get_layer("d")
    (['x', 'drop', 'd'], True)
    """
    plan = Steps.of(steps)
    graph = read(model)
    _check(plan, given)
    if plan.without_weights:
        warn(
            f"replay: new weights are drawn for {listed(plan.without_weights, 3)}: steps hold no "
            "weights. kg.transplant copies them."
        )
    work = _Replay(given or {})
    size = sum(_size(weight) for weight in graph.weights)
    try:
        with _keras.weights_up_to(_BYTES + 4 * size):
            result = work.run(plan, plan.places, graph)
    except _keras.TooLargeError as error:
        raise EditError(f"replay: {words_of(error)}: steps should not make so much.") from error
    return like(model, result.remembering((*graph.edits, *_again(plan, len(_steps_of(graph))))))


def _steps_of(graph: Graph) -> list[dict[str, Any]]:
    """Return the steps of a graph as plain data."""
    return [step for edit in graph.edits for step in edit.to_dicts()]


def _again(plan: Steps, before: int) -> list[Step]:
    """Return steps as a model remembers them that had `before` others already."""
    found = []
    for step in plan:
        arguments = copy.deepcopy(step["arguments"])
        if step["verb"] == "join":
            for stage in arguments["stages"]:
                if "after" in stage:
                    stage["after"] += before
        found.append(Step(step["verb"], arguments, step.get("part")))
    return found


class _Replay:
    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given

    def run(self, steps: Any, places: Any, graph: Graph) -> Graph:
        """Return a graph after some steps."""
        states = [graph]
        for number, step in enumerate(steps):
            place = places[number] if number < len(places) else Place(number + 1)
            try:
                states.append(self._step(step, states))
            except _keras.TooLargeError:
                raise
            except GraftError as error:
                raise _at(place, step, error) from error
            except (TypeError, ValueError) as error:  # an argument of a type that a verb names
                place.refuse(f"{step['verb']}: {words_of(error)}")
        return states[-1]

    def _step(self, step: dict[str, Any], states: list[Graph]) -> Graph:
        graph, verb = states[-1], verbs()[step["verb"]]
        if verb.name == "join":
            return verb.function(
                graph, *(self._stage(s, states) for s in step["arguments"]["stages"])
            )
        make = Arguments(graph, self._given)
        arguments = {name: make(value) for name, value in step["arguments"].items()}
        if verb.name == "repeat":
            _check_times(graph, arguments["times"])
        result = verb.function(graph, **arguments)
        make.check_used()
        if isinstance(result, tuple):
            if step["part"] >= len(result):
                raise EditError(f"part={step['part']}, and the split gives {len(result)} parts.")
            return result[step["part"]]
        return result if isinstance(result, Graph) else result.model

    def _stage(self, stage: dict[str, Any], states: list[Graph]) -> Graph:
        if "given" in stage:
            return read(self._given[stage["given"]])
        if not 0 <= stage["after"] < len(states):
            raise EditError(
                f"join: a stage begins after step {stage['after']}, which was not done before."
            )
        return self.run(stage["steps"], (), states[stage["after"]])


def _check(plan: Steps, given: Any) -> None:
    if plan.unwritten:
        raise EditError(
            f"replay: {listed(plan.unwritten, 3)}, which is not in the steps. Give the verb a layer, a "
            "class, or a function registered with keras.saving.register_keras_serializable(); or "
            "edit the step."
        )
    if given is not None and not isinstance(given, Mapping):
        raise EditError(f"replay: given= is names with models or files; got {shown(given)}.")
    missing = [name for name in plan.needs if name not in (given or {})]
    if missing:
        call = ", ".join(f"{quoted(name)}: ..." for name in missing)
        raise EditError(
            f"replay: the steps need {listed(missing)}, which is outside of them. Give it: "
            f"kg.replay(model, steps, given={{{call}}})."
        )


def _check_times(graph: Graph, times: Any) -> None:
    if isinstance(times, int) and times * len(graph) > _NODES:
        raise EditError(
            f"repeat: times={shown(times)} in a model of {len(graph)} calls makes more than "
            f"{_NODES:,}, which no steps may."
        )


def _at(place: Place, step: dict[str, Any], error: GraftError) -> GraftError:
    """Return the error of a verb, with the step before its words."""
    text = str(error)
    start = f"{step['verb']}: "
    new = copy.copy(error)
    new.args = (f"{place.said()}, {start}{text.removeprefix(start)}", *error.args[1:])
    return new


def _size(weight: Any) -> int:
    shape = [dimension or 1 for dimension in weight.shape]
    total = 4
    for dimension in shape:
        total *= dimension
    return total
