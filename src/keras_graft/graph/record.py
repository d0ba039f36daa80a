"""`Record`: what the package remembers about a layer, an op or a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_NAME = "_keras_graft"


@dataclass(frozen=True, eq=False)
class Record:
    """What the package remembers about a layer, an op or a model.

    Frozen, as a layer and its copy may have the same record: `remember` replaces it.

    Attributes:
        ties: The ties of the layer, made by `ties/apply.py`.
        uses: The ties whose variables the layer uses itself, also ties of a layer around it.
        file: What the file that a `TiedDense` was loaded from says about its ties.
        sources: A reference to the open file in which the sources of the ties are, saved or loaded.
        knows: A reference to the open file of a model that knows the ties.
        alias: The layer or op that this one calls under another name.
        call: The template of the call that a model made for an alias holds.
        mask: Whether a model does nothing but attach a mask.
        sums: What the layer uses in place of its weights since `kg.lora`: each with its adapters.
        adapted: The adapters of the layer and of those inside it.
        pending: The adapters in the file that the layer comes from, until it is built.
        kept: Which weights `replace` copied from the old layer.
        attributes: The names of the attributes that a model of the donor's class has from it.
        gone: The names of the attributes that it lost, each with the reason.
        edits: The steps that made a model, as `Graph.edits`.
        taken: Of a variable: which positions of another one it was made of.
    """

    ties: tuple[Any, ...] = ()
    uses: tuple[Any, ...] = ()
    file: list[dict[str, Any]] | None = None
    sources: Any = None
    knows: Any = None
    alias: Any = None
    call: Any = None
    mask: bool = False
    sums: tuple[Any, ...] = ()
    adapted: Any = None
    pending: Any = None
    kept: Any = None
    attributes: tuple[str, ...] = ()
    gone: Mapping[str, str] = field(default_factory=dict)
    edits: tuple[Any, ...] = ()
    taken: Any = None


_EMPTY = Record()


def record_of(item: Any) -> Record:
    """Return what the package remembers about a layer, an op or a model."""
    return getattr(item, "__dict__", {}).get(_NAME, _EMPTY)


def remember(item: Any, **changes: Any) -> None:
    """Change fields of the record of a layer, an op or a model."""
    # Not by `setattr`: Keras would track what the record holds.
    item.__dict__[_NAME] = dataclasses.replace(record_of(item), **changes)


def forget(attributes: dict[str, Any]) -> Record:
    """Remove the record from attributes copied from a model, and return it."""
    return attributes.pop(_NAME, _EMPTY)


def is_wrapper(operation: Any) -> bool:
    """Whether a layer of the package has another layer inside that it calls: `Frozen`, `Renamed`."""
    return hasattr(type(operation), "keras_graft_inside")


def unwrapped(operation: Any) -> Any:
    """Return the layer inside a `Frozen` or `Renamed`; any other operation unchanged."""
    return operation.keras_graft_inside if is_wrapper(operation) else operation


def all_ties(operation: Any) -> tuple[Any, ...]:
    """Return the ties of a layer, also those whose source is not found.

    For a `Frozen` or `Renamed`, the ties of the layer inside.
    """
    return record_of(unwrapped(operation)).ties


def ties_of(operation: Any) -> list[Any]:
    """Return the ties of a layer whose sources are known."""
    return [tie for tie in all_ties(operation) if tie.source is not None]
