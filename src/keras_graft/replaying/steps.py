"""`steps`: the verbs that made a model, as a report that can be saved and loaded."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.record import record_of
from keras_graft.printable import shown
from keras_graft.replaying.check import Place, checked
from keras_graft.replaying.files import load, save
from keras_graft.replaying.words import sentence, told, walk
from keras_graft.tables import Table, Tabular


@dataclass(frozen=True, repr=False)
class Steps(Tabular):
    """The verbs that made a model, in order: prints as a table.

    Each step is plain data: `{"verb": "remove", "arguments": {"target": "drop"}}`.

    Attributes:
        places: Where each step is, for messages.
    """

    _steps: tuple[dict[str, Any], ...]
    places: tuple[Place, ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def of(cls, steps: Any) -> Steps:
        """Return steps from a path, from the data of `to_dict`, or from a list of steps.

        Raises:
            FileError: If a file cannot be read, or holds no steps.
            EditError: If the data are no steps.
        """
        if isinstance(steps, Steps):
            return steps
        if isinstance(steps, str | os.PathLike):
            return cls.load(steps)
        return cls(*checked(steps))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Steps:
        """Return the steps of a `.yaml` or `.json` file. No code in it runs.

        Raises:
            FileError: If the file cannot be read, or holds no steps: with the line and the step.
        """
        return cls(*load(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the steps to a `.yaml`, `.yml` or `.json` file; an existing file is replaced.

        Raises:
            FileError: If it cannot be written, or has another suffix.
        """
        save(self.to_dict(), path)

    def to_dict(self) -> dict[str, Any]:
        """Return what a file holds: the format, the version of keras-graft, and the steps."""
        return {**_keras.in_file(()), "steps": copy.deepcopy(list(self._steps))}

    @property
    def unwritten(self) -> list[str]:
        """What cannot be written down, such as a Python function: replay refuses these steps."""
        return [
            f"step {number}, {step['verb']}: {name}= is {value['unwritten']}"
            for number, step in enumerate(self._steps, 1)
            for name, value in walk(step, "unwritten")
        ]

    @property
    def without_weights(self) -> list[str]:
        """The layers that had weights of their own when they were put in: these are not kept."""
        return [
            f"step {number}, {step['verb']}: {name}= is {told(value)}"
            for number, step in enumerate(self._steps, 1)
            for name, value in walk(step, "had_weights")
        ]

    @property
    def needs(self) -> list[str]:
        """The names of the models and files that `kg.replay(..., given=)` needs."""
        found = [v["given"] for step in self._steps for _, v in walk(step, "given")]
        return list(dict.fromkeys(found))

    def tables(self) -> list[Table]:
        """Return one line for each step, and below what a replay cannot do."""
        rows = [
            (number, step["verb"], sentence(step)) for number, step in enumerate(self._steps, 1)
        ]
        count = len(rows)
        title = f"{count} step{'' if count == 1 else 's'}"
        found: list[Table] = [(title, ("step", "verb", "arguments"), rows)]
        for head, lines in (
            ("cannot be replayed: give a layer, a class or a registered function", self.unwritten),
            ("weights that are not in the steps: a replay draws new ones", self.without_weights),
            ("needed to replay: kg.replay(model, steps, given={name: ...})", self.needs),
        ):
            if lines:
                found.append(((f"{head}:", *(f"  {line}" for line in lines)), (), []))
        return found

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._steps)

    def __getitem__(self, index: Any) -> Any:
        """Return one step, or for a slice these steps."""
        if isinstance(index, slice):
            return Steps(self._steps[index], self.places[index])
        return self._steps[index]


def steps(model: Any) -> Steps:
    """Return the verbs that made a model: a recipe that can be saved, edited and replayed.

    A model remembers them also when it is saved as a `.keras` file and loaded again. What is
    selected by a function or a pattern is noted by its names; a layer that is put in by its
    configuration, without weights.

    Args:
        model: A Keras model or a `Graph`.

    Returns:
        The steps; none for a model that no verb made. See `kg.replay`.

    Raises:
        EditError: If the steps in the file of the model are damaged.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> y = keras.layers.ReLU(name="act")(keras.layers.Dense(3, name="d")(x))
    >>> model = kg.replace(keras.Model(x, y), "act", lambda node: keras.layers.Activation("gelu"))
    >>> model = kg.insert(model, keras.layers.Dropout(0.1, name="drop"), before="d")
    >>> print(kg.steps(model))
    2 steps
    step  verb     arguments
       1  replace  target='act', new=Activation for each
       2  insert   new=Dropout 'drop', before='d'
    """
    if isinstance(model, Graph):
        edits: Sequence[Any] = model.edits
    elif isinstance(model, keras.Model):
        edits = record_of(model).edits
    else:
        raise EditError(
            f"steps: expected a Keras model or a keras_graft.Graph, got {shown(model)}."
        )
    found: list[Any] = []
    for edit in edits:
        content = getattr(edit, "content", None)
        if content is not None:
            _check_content(content, model)
        found += edit.to_dicts()
    return Steps(*checked(found))


def _check_content(content: Any, model: Any) -> None:
    if not isinstance(content, dict) or content.get("format") != _keras.FORMAT:
        name = getattr(model, "name", "")
        raise EditError(
            f"steps: the file of {name!r} says about its steps {shown(content)[:100]}, and this "
            f"version of keras-graft reads format {_keras.FORMAT}."
        )
