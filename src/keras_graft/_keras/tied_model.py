"""A model that holds ties: it finds their ends again when it comes out of a file."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import keras
from keras.src.models.functional import Functional  # 3.12 - 3.15

from keras_graft._keras.copying import track_on_torch
from keras_graft._keras.tied_layer import (
    all_ties,
    layers_inside,
    named_weights,
    owner_of,
    ties_of,
    told,
    way_out,
)
from keras_graft._keras.tying import carry_out
from keras_graft.errors import NotYetError, WeightsError


@keras.saving.register_keras_serializable("keras_graft")
class TiedModel(Functional):
    """A Functional model in which layers are tied. Uses `Functional` (3.12 - 3.15)."""

    def __init__(self, inputs: Any, outputs: Any, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(inputs, outputs, name=name, **kwargs)
        self._find_sources()
        self._address()

    def _find_sources(self) -> None:
        """Carry out the ties of layers that come out of a file, or of `clone_model`."""
        layers = dict(layers_of(self))
        changed = False
        for path, layer in layers.items():
            for tie in all_ties(layer):
                source = layers.get(tie.source_layer)
                found = tie.source is not None and not tie.tentative
                if found or tie.target != path or source is None:
                    continue
                weight = named_weights(source).get(tie.source_weight)
                if weight is None:
                    continue
                tie.tentative = False
                if weight is not tie.source:
                    carry_out(layer, tie, weight)
                    layer.source_found(owner_of(source, weight))
                    changed = True
        if changed:
            for _, layer in reversed(list(layers_of(self, models=True))):
                if isinstance(layer, keras.Model):
                    track_on_torch(layer)
            track_on_torch(self)

    def _address(self) -> list[Any]:
        """Tell the tied layers where the sources are, and return those whose source is here."""
        owners = {}
        layers = list(layers_of(self))
        for path, layer in layers:
            own = {id(tie.source) for tie in ties_of(layer)}
            for name, weight in named_weights(layer).items() if path else ():
                if id(weight) not in own:
                    owners.setdefault(id(weight), (path, name))
        here = []
        for path, layer in layers:
            found = [tie for tie in ties_of(layer) if id(tie.source) in owners]
            for tie in found:
                tie.target = path
                tie.source_layer, tie.source_weight = owners[id(tie.source)]
            if found:
                here.append(layer)
        return here

    def _tell(self, store: Any) -> None:
        for layer in self._address():
            for user in layers_inside(layer):
                user.__dict__["_keras_graft_store"] = weakref.ref(store)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration; the tied layers say where their sources are."""
        self._address()
        return super().get_config()

    def save_own_variables(self, store: Any) -> None:
        """Begin to write a file: the tied layers write nothing that their sources write."""
        if hasattr(type(store), "close"):  # the whole file, not a place in it
            self._tell(store)
        super().save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        """Begin to read a file."""
        if hasattr(type(store), "close"):
            self._tell(store)
        super().load_own_variables(store)

    def compile(self, optimizer: Any = "rmsprop", *args: Any, **kwargs: Any) -> None:
        """Refuse an optimizer of another model: Keras would lose the weights in training."""
        known = getattr(optimizer, "_trainable_variables", None)
        own = {id(v) for v in self.trainable_variables}
        if getattr(optimizer, "built", False) and {id(v) for v in known or ()} != own:
            raise WeightsError(
                f"The optimizer {optimizer.name!r} was built for the variables of another model "
                f"than {self.name!r}. Give a new one, or take the old one's state along: "
                "kg.carry_optimizer(old, new)."
            )
        super().compile(optimizer, *args, **kwargs)

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refuse, and change nothing: a tied weight has no quantized form."""
        here = self._address()
        if here:
            raise NotYetError(
                f"quantize: in {self.name!r}, {told(here[0])}, and a tied layer is not "
                f"quantized. {way_out(here[0])}"
            )
        super().quantize(*args, **kwargs)


def layers_of(model: Any, models: bool = False, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the layers of a model with their paths, and instead of models what is inside."""
    for layer in model.layers:
        path = prefix + layer.name
        if isinstance(layer, (Functional, keras.Sequential)):
            if models:
                yield path, layer
            yield from layers_of(layer, models, f"{path}/")
        else:
            yield path, getattr(layer, "keras_graft_inside", layer)


def model_class(operations: Any) -> type | None:
    """Return the class of a model of these operations, None for Keras's own choice."""
    for operation in operations:
        inside = [operation]
        if isinstance(operation, (Functional, keras.Sequential)):
            inside = [layer for _, layer in layers_of(operation)]
        if any(all_ties(layer) for layer in inside):
            return TiedModel
    return None
