"""`Tie`, the record of a tie, and `TiedLayer`, a layer that uses the variable of another layer.

A tied layer is an ordinary layer with one variable replaced by that of another layer. Its class is
a subclass made for this purpose, which decides what is saved to a file.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_graft import _keras, advice
from keras_graft.errors import NotYetError
from keras_graft.graph.record import all_ties, record_of, remember, ties_of


@dataclass(eq=False)
class Tie:
    """One tie of a layer: as saved in a file, and, once the source is found, as applied.

    Attributes:
        weight: The name of the variable within the layer, such as `"kernel"`.
        transform: The name of a transform, or None.
        target: The path of the layer within the model that holds both ends.
        source_layer: The path of the layer that the variable belongs to.
        source_weight: The name of the variable within that layer.
        source: The variable; None as long as it is not found.
        seen: The variable that the layer uses: a `Tied` of the source.
        own: The name, path, regularizer and constraint of the variable that was replaced.
        tentative: Whether `source` is of a layer loaded with this one; the model may have its own.
        inside: Whether the source belongs to a layer inside the tied one.
        apart: Whether only `join` may restore the tie: this end has its own weight since it was
            saved in a file without the other end.
    """

    weight: str
    transform: str | None
    target: str
    source_layer: str
    source_weight: str
    source: Any = None
    seen: Any = None
    own: dict[str, Any] = field(default_factory=dict)
    tentative: bool = False
    inside: bool = False
    apart: bool = False

    @property
    def source_name(self) -> str:
        """The address of the source, as a user writes it."""
        return f"{self.source_layer}/{self.source_weight}"

    @property
    def target_name(self) -> str:
        """The address of the target, as a user writes it."""
        return f"{self.target}/{self.weight}"

    def to_config(self) -> dict[str, Any]:
        """Return what is saved in a file."""
        written = {key: value for key, value in vars(self).items() if key in _WRITTEN}
        return {**written, "apart": True} if self.apart else written


_WRITTEN = ("weight", "transform", "target", "source_layer", "source_weight")
OWN = ("_name", "_path", "_regularizer", "_constraint")


def named_weights(layer: Any, tied: bool = True) -> dict[str, Any]:
    """Return the weights of a layer by their paths below its own name: `"query/kernel"`.

    Args:
        layer: The layer.
        tied: Whether to include the weights that it has from another layer.
    """
    ties: dict[int, list[str]] = {}
    for tie in ties_of(layer):
        ties.setdefault(id(tie.source), []).append(tie.weight)
    found: dict[str, Any] = {}
    others = {id(v) for v in followed(layer) if not owns(layer, v)}
    for weight in layer.weights:
        if id(weight) in others:
            continue
        names = ties.get(id(weight), []) if tied else []
        if id(weight) not in ties or owns(layer, weight):
            names = [*names, _inner_name(weight.path, layer)]
        for name in names:
            number = 1
            unique = name
            while unique in found:  # two inner layers have the same name
                number += 1
                unique = f"{name}#{number}"
            found[unique] = weight
    return found


def owns(layer: Any, variable: Any) -> bool:
    """Whether a variable belongs to a layer, or to one inside, and not only by a tie."""
    return owner_of(layer, variable) is not None


def uses(layer: Any) -> tuple[Tie, ...]:
    """Return the ties whose variables a layer uses itself, also ties of a layer around it."""
    return record_of(layer).uses


def hidden(layer: Any) -> list[Any]:
    """Return the variables that a layer uses and another layer saves to a file."""
    return [item for tie in uses(layer) for item in (tie.seen, tie.source)]


def followed(layer: Any) -> list[Any]:
    """Return the LoRA adapters of other layers that a layer, or one inside it, uses."""
    ties = [tie for user in _keras.layers_inside(layer) for tie in uses(user)]
    return list({id(v): v for tie in ties for v in tie.seen.adapters}.values())


def _inner_name(path: str, layer: Any) -> str:
    if layer.path and path.startswith(f"{layer.path}/"):
        return path[len(layer.path) + 1 :]
    parts = path.split("/")
    return "/".join(parts[parts.index(layer.name) + 1 :] if layer.name in parts[:-1] else parts)


def owner_of(layer: Any, variable: Any) -> Any:
    """Return the layer, `layer` or one inside it, that owns a variable directly, not by a tie."""
    return next((user for user in _keras.layers_inside(layer) if _has(user, variable)), None)


def _has(layer: Any, variable: Any) -> bool:
    return any(item is variable for store in _keras.tracked(layer) for item in store) and not any(
        item is variable for item in hidden(layer)
    )


class TiedLayer:
    """A mixin: the methods of a layer class that tied layers override. See `tied_class`."""

    graft_base: type
    graft_own: tuple[str, ...] = ()
    """Attributes that the plain class does not have."""

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the layer, with its class and its ties."""
        cls = type(self)
        self.__class__ = self.graft_base  # type: ignore[assignment]
        try:
            plain: Any = keras.saving.serialize_keras_object(self)
        finally:
            self.__class__ = cls  # type: ignore[assignment]
        kept = {key: plain[key] for key in ("module", "class_name", "registered_name")}
        ties = [tie.to_config() for tie in all_ties(self)]
        return {**plain["config"], "keras_graft_tied": {"class": kept, "ties": ties}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Return the layer with its own variables; the model around it applies the ties."""
        config = dict(config)
        tied = config.pop("keras_graft_tied", None)
        if tied is None:
            return cls.graft_base.from_config(config)  # type: ignore[attr-defined]
        layer: Any = keras.saving.deserialize_keras_object({**tied["class"], "config": config})
        become_tied(layer)
        remember(layer, ties=tuple(Tie(**tie) for tie in tied["ties"]))
        return layer

    def save_own_variables(self, store: Any) -> None:
        """Save the layer's own variables; the model around it saves the tied ones elsewhere."""
        known = record_of(self).knows
        if self.saved_elsewhere(store):
            store = _Without(store, hidden(self))
        elif type(whole(store)) is dict:
            pass  # no file: `transplant` asks in which order a file would hold them
        elif ties_of(self) and (known is None or known() is not whole(store)):
            warnings.warn(
                f"{told(self)}, and the model that is saved knows no ties: in the file it is a "  # type: ignore[attr-defined]
                "weight of its own. Save a model that keras-graft made of it: "
                "kg.build(kg.read(model)).",
                stacklevel=2,
            )
        super().save_own_variables(store)  # type: ignore[misc]

    def load_own_variables(self, store: Any) -> None:
        """Load the layer's own variables; ignore a tied weight if the file has its source."""
        tied = hidden(self)
        places: dict[str, Any] = {}
        super().save_own_variables(places)  # type: ignore[misc]
        places = {key: v for key, v in places.items() if any(v is item for item in tied)}
        there = [key for key in places if key in store.keys()]  # noqa: SIM118 - no mapping
        elsewhere = self.saved_elsewhere(store)
        if there and elsewhere:
            warnings.warn(
                f"The file holds separate arrays for weights of {self.name!r} that are tied "  # type: ignore[attr-defined]
                f"here: {told(self)}. The arrays of the sources were loaded, the others ignored.",
                stacklevel=2,
            )
        if places and (not there or elsewhere):
            store = _With(store, places)
        super().load_own_variables(store)  # type: ignore[misc]

    def saved_elsewhere(self, store: Any) -> bool:
        """Whether the source is saved in the same file: that of a model with both ends."""
        file = record_of(self).sources
        return file is not None and file() is whole(store)

    def source_found(self, layer: Any) -> None:
        """Called with the layer that the source belongs to, once it is found."""

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: the source would have to be quantized with it."""
        raise NotYetError(f"{told(self)}: a tied layer is not quantized. {way_out(self)}")

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Refuse for a tied weight: the adapters of the source's layer apply to it."""
        ties = [tie for tie in uses(self) if tie.seen.name in ("kernel", "embeddings")]
        if not ties:  # only a bias is tied, and adapters do not change a bias
            super().enable_lora(*args, **kwargs)  # type: ignore[misc]
            return
        raise NotYetError(
            f"enable_lora: {told(self)}, so adapters belong to the layer of that weight. Call "
            f"enable_lora on the layer of {ties[0].source_name!r}: {self.name!r} follows it. "  # type: ignore[attr-defined]
            f"For adapters of its own: {way_out(self)}"
        )

    @property
    def variables(self) -> list[Any]:
        """All variables, also the adapters of other layers that this one uses."""
        return _together(super().variables, self)  # type: ignore[misc]

    @property
    def weights(self) -> list[Any]:
        """All weights, also the adapters of other layers that this one uses."""
        return _together(super().weights, self)  # type: ignore[misc]


def _together(own: list[Any], layer: Any) -> list[Any]:
    """Return the variables and the adapters used: a compiled function must know both."""
    more = [v for tie in uses(layer) for v in tie.seen.adapters]
    return list({id(v): v for v in (*own, *more)}.values()) if more else own


def told(layer: Any) -> str:
    ties = ties_of(layer) or uses(layer)
    return ", ".join(f"{t.target_name!r} is tied to {t.source_name!r}" for t in ties)


def way_out(layer: Any) -> str:
    name = (ties_of(layer) or uses(layer))[0].target_name
    return f"Untie it first: {advice.call('untie', ('target', str(name)))}."


@functools.cache
def tied_class(base: type) -> type:
    """Return the subclass of a layer's class for tied layers."""
    if issubclass(base, TiedLayer):
        return base
    cls = type(base.__name__, (TiedLayer, base), {"__module__": __name__, "graft_base": base})
    # All are registered under one name: the configuration says which class it was.
    return keras.saving.register_keras_serializable("keras_graft", "Tied")(cls)


def plain_class(cls: type) -> type:
    """Return the class that a tied layer's class was made from; any other class unchanged."""
    return cls.__dict__.get("graft_base", cls)


def same_tie(tie: Tie, new: Any) -> Tie:
    """Return a tie like `tie` for the layer `new`: the one it has for this weight, if any."""
    for known in all_ties(new):
        if known.weight == tie.weight:
            known.tentative, known.transform = False, tie.transform
            return known
    return Tie(*(getattr(tie, name) for name in _WRITTEN))


def plain_config(layer: Any) -> tuple[type, dict[str, Any]]:
    """Return the class and configuration of a layer, without its ties."""
    cls = plain_class(type(layer))
    if cls is type(layer):
        return cls, _keras.get_config(layer)
    config = _keras.get_config(layer)
    return cls, {
        k: v
        for k, v in config.items()
        if k not in ("keras_graft_tied", "ties", *type(layer).graft_own)
    }


def become_tied(layer: Any) -> None:
    """Change the class of a layer to its class for tied layers."""
    layer.__class__ = tied_class(type(layer))
    layer.__dict__.pop("quantize", None)  # `Layer.__new__` put the plain class's method there


tied_class(keras.layers.Layer)  # type: ignore[arg-type] # a file may be loaded before any tie


class Partial:
    """A store of a file that saves or loads something else than the file's own store."""

    def __init__(self, store: Any) -> None:
        self._store = store


def whole(store: Any) -> Any:
    """Return the file's own store."""
    while isinstance(store, Partial):
        store = store._store
    return store


class _Without(Partial):
    """A store of a file that ignores some variables when saving."""

    def __init__(self, store: Any, hidden: list[Any]) -> None:
        super().__init__(store)
        self._hidden = hidden

    def __setitem__(self, key: str, value: Any) -> None:
        if not any(value is item for item in self._hidden):
            self._store[key] = value


class _With(Partial, Mapping):
    """A store of a file with more arrays than the file has, for loading."""

    def __init__(self, store: Any, more: Mapping[str, Any]) -> None:
        super().__init__(store)
        self._more = more

    def __getitem__(self, key: str) -> Any:
        return self._more[key] if key in self._more else self._store[key]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._store.keys(), *self._more]))

    def __len__(self) -> int:
        return len(list(iter(self)))
