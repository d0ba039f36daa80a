"""A layer that works with the variable of another layer.

A tied layer is an ordinary layer of its class in whose place for a variable stands that of
another layer. Its class is a subclass made for it, which knows what to write to a file.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.errors import NotYetError
from keras_graft.graph.index import all_ties, ties_of
from keras_graft.printable import quoted


@dataclass(eq=False)
class Tie:
    """One tie of a layer, as a file says it, and, once the source is found, carried out.

    Attributes:
        weight: The name of the variable within the layer, such as `"kernel"`.
        transform: The name of a transform, or None.
        target: The path of the layer within the model that holds both ends.
        source_layer: The path of the layer that the variable belongs to.
        source_weight: The name of the variable within that layer.
        source: The variable; None as long as it is not found.
        seen: What the layer works with: a `Tied` of the source.
        own: The name, path, regularizer and constraint of the variable that is gone.
        tentative: Whether `source` is of a layer out of a file, which the model may have too.
        inside: Whether the source belongs to a layer inside the tied one.
        apart: Whether the source is not found and must not be, but by `join`: this end has a weight
            of its own since it was in a file without the other end.
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
        """The source, as a user writes it."""
        return f"{self.source_layer}/{self.source_weight}"

    @property
    def target_name(self) -> str:
        """The target, as a user writes it."""
        return f"{self.target}/{self.weight}"

    def to_config(self) -> dict[str, Any]:
        """Return what a file says."""
        written = {key: value for key, value in vars(self).items() if key in _WRITTEN}
        return {**written, "apart": True} if self.apart else written


_WRITTEN = ("weight", "transform", "target", "source_layer", "source_weight")
OWN = ("_name", "_path", "_regularizer", "_constraint")


def named_weights(layer: Any, tied: bool = True) -> dict[str, Any]:
    """Return the weights of a layer by their paths after its own name: `"query/kernel"`.

    Args:
        layer: The layer.
        tied: Whether the weights are named that it has from another layer.
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
            while unique in found:  # two layers inside of one name
                number += 1
                unique = f"{name}#{number}"
            found[unique] = weight
    return found


def owns(layer: Any, variable: Any) -> bool:
    """Whether a variable belongs to a layer, or to one inside, and not by a tie alone."""
    return owner_of(layer, variable) is not None


def uses(layer: Any) -> list[Tie]:
    """Return the ties whose variables a layer works with itself; those of a layer around too."""
    return layer.__dict__.get("_keras_graft_uses", [])


def hidden(layer: Any) -> list[Any]:
    """Return what a layer works with and another one writes to a file."""
    return [item for tie in uses(layer) for item in (tie.seen, tie.source)]


def followed(layer: Any) -> list[Any]:
    """Return the LoRA adapters of other layers that a layer, and those inside, compute with."""
    ties = [tie for user in _keras.layers_inside(layer) for tie in uses(user)]
    return list({id(v): v for tie in ties for v in tie.seen.adapters}.values())


def _inner_name(path: str, layer: Any) -> str:
    if layer.path and path.startswith(f"{layer.path}/"):
        return path[len(layer.path) + 1 :]
    parts = path.split("/")
    return "/".join(parts[parts.index(layer.name) + 1 :] if layer.name in parts[:-1] else parts)


def owner_of(layer: Any, variable: Any) -> Any:
    """Return the layer inside `layer` that a variable belongs to directly, and not by a tie."""
    return next((user for user in _keras.layers_inside(layer) if _has(user, variable)), None)


def _has(layer: Any, variable: Any) -> bool:
    return any(item is variable for store in _keras.tracked(layer) for item in store) and not any(
        item is variable for item in hidden(layer)
    )


class TiedLayer:
    """What a tied layer does in its own way, before its class proper: see `tied_class`."""

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
        """Return the layer with variables of its own, to be tied by the model around it."""
        config = dict(config)
        tied = config.pop("keras_graft_tied", None)
        if tied is None:
            return cls.graft_base.from_config(config)  # type: ignore[attr-defined]
        layer: Any = keras.saving.deserialize_keras_object({**tied["class"], "config": config})
        become_tied(layer)
        layer.__dict__["_keras_graft_ties"] = [Tie(**tie) for tie in tied["ties"]]
        return layer

    def save_own_variables(self, store: Any) -> None:
        """Write what is the layer's own; the rest is in the file of the model around it."""
        known = self.__dict__.get("_keras_graft_known")
        if self.saved_elsewhere(store):
            store = _Without(store, hidden(self))
        elif ties_of(self) and (known is None or known() is not store):
            warnings.warn(
                f"{told(self)}, and the model that is saved knows no ties: in the file it is a "  # type: ignore[attr-defined]
                "weight of its own. Save a model that keras-graft made of it: "
                "kg.build(kg.read(model)).",
                stacklevel=2,
            )
        super().save_own_variables(store)  # type: ignore[misc]

    def load_own_variables(self, store: Any) -> None:
        """Read what is the layer's own. An array that the file holds for a tied weight is left."""
        tied = hidden(self)
        places: dict[str, Any] = {}
        super().save_own_variables(places)  # type: ignore[misc]
        places = {key: v for key, v in places.items() if any(v is item for item in tied)}
        there = [key for key in places if key in store.keys()]  # noqa: SIM118 - no mapping
        elsewhere = self.saved_elsewhere(store)
        if there and elsewhere:
            warnings.warn(
                f"The file holds arrays of its own for weights of {self.name!r} that are tied "  # type: ignore[attr-defined]
                f"here: {told(self)}. What it holds for the sources was taken, the others were "
                "left.",
                stacklevel=2,
            )
        if places and (not there or elsewhere):
            store = _With(store, places)
        super().load_own_variables(store)  # type: ignore[misc]

    def saved_elsewhere(self, store: Any) -> bool:
        """Whether the source is in the same file: of a model that holds both ends."""
        store_told = self.__dict__.get("_keras_graft_store")
        return store_told is not None and store_told() is store

    def source_found(self, layer: Any) -> None:
        """Hear which layer the source belongs to."""

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: the source would have to be quantized with it."""
        raise NotYetError(f"{told(self)}: a tied layer is not quantized. {way_out(self)}")

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Refuse for a weight of another layer, whose adapters this one follows."""
        ties = [tie for tie in uses(self) if tie.seen.name in ("kernel", "embeddings")]
        if not ties:  # a bias is tied, of which adapters know nothing
            super().enable_lora(*args, **kwargs)  # type: ignore[misc]
            return
        raise NotYetError(
            f"enable_lora: {told(self)}, so adapters belong to the layer of that weight. Call "
            f"enable_lora on the layer of {ties[0].source_name!r}: {self.name!r} follows it. "  # type: ignore[attr-defined]
            f"For adapters of its own: {way_out(self)}"
        )

    @property
    def variables(self) -> list[Any]:
        """All variables, with the adapters of other layers that it computes with."""
        return _together(super().variables, self)  # type: ignore[misc]

    @property
    def weights(self) -> list[Any]:
        """All weights, with the adapters of other layers that it computes with."""
        return _together(super().weights, self)  # type: ignore[misc]


def _together(own: list[Any], layer: Any) -> list[Any]:
    """Return variables with those that are followed: a compiled function must know them."""
    more = [v for tie in uses(layer) for v in tie.seen.adapters]
    return list({id(v): v for v in (*own, *more)}.values()) if more else own


def told(layer: Any) -> str:
    ties = ties_of(layer) or uses(layer)
    return ", ".join(f"{t.target_name!r} is tied to {t.source_name!r}" for t in ties)


def way_out(layer: Any) -> str:
    name = (ties_of(layer) or uses(layer))[0].target_name
    return f"Untie it first: kg.untie(model, {quoted(name)})."


@functools.cache
def tied_class(base: type) -> type:
    """Return the subclass of a layer's class for layers that are tied."""
    if issubclass(base, TiedLayer):
        return base
    cls = type(base.__name__, (TiedLayer, base), {"__module__": __name__, "graft_base": base})
    # All of them have one name in files: which class it was is in the configuration.
    return keras.saving.register_keras_serializable("keras_graft", "Tied")(cls)


def plain_class(cls: type) -> type:
    """Return the class of which a tied layer's class is made; any other class itself."""
    return cls.__dict__.get("graft_base", cls)


def same_tie(tie: Tie, new: Any) -> Tie:
    """Return a tie for `new` like that of another layer: the one it has of this weight, if any."""
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
    """Let a layer be of the class for tied layers."""
    layer.__class__ = tied_class(type(layer))
    layer.__dict__.pop("quantize", None)  # `Layer.__new__` put that of the plain class there


tied_class(keras.layers.Layer)  # type: ignore[arg-type] # a file may be read before anything was tied


class _Without:
    """A place in a file that takes all but some variables."""

    def __init__(self, store: Any, hidden: list[Any]) -> None:
        self._store, self._hidden = store, hidden

    def __setitem__(self, key: str, value: Any) -> None:
        if not any(value is item for item in self._hidden):
            self._store[key] = value


class _With(Mapping):
    """A place in a file that seems to hold some arrays more."""

    def __init__(self, store: Any, more: Mapping[str, Any]) -> None:
        self._store, self._more = store, more

    def __getitem__(self, key: str) -> Any:
        return self._more[key] if key in self._more else self._store[key]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._store.keys(), *self._more]))

    def __len__(self) -> int:
        return len(list(iter(self)))
