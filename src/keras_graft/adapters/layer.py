"""`AdaptedLayer`: a layer with low-rank adapters, on its own weights or on those of layers inside.

An adapted layer is an ordinary layer in which an `Adapted` variable stands for each of its weights.
Its class is a subclass made for this purpose, which decides what is saved to a file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

from keras_graft import _keras
from keras_graft import ties as _ties
from keras_graft.adapters.factors import new_factors
from keras_graft.adapters.quantized import (
    add_to_quantized,
    as_saved,
    is_quantized,
    without_lora,
)
from keras_graft.adapters.state import Adapter, State
from keras_graft.errors import NotYetError
from keras_graft.graph.record import record_of, remember
from keras_graft.weights.address import Weight, groups


class AdaptedLayer:
    """A mixin: the methods of a layer class that adapted layers override. See `adapted_class`."""

    graft_adapted: type

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the layer, with its class and its adapters."""
        cls = type(self)
        self.__class__ = self.graft_adapted  # type: ignore[assignment]
        try:
            with as_saved(self):
                plain: Any = keras.saving.serialize_keras_object(self)
        finally:
            self.__class__ = cls  # type: ignore[assignment]
        kept = {key: plain[key] for key in ("module", "class_name", "registered_name")}
        state = record_of(self).pending or record_of(self).adapted
        own = {} if state is None else state.to_config()
        return {**plain["config"], "keras_graft_adapted": {"class": kept, **own}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Return the layer without its adapters; it gets them when it is built."""
        config = dict(config)
        own = config.pop("keras_graft_adapted", None)
        if own is None:
            return cls.graft_adapted.from_config(config)  # type: ignore[attr-defined]
        layer: Any = keras.saving.deserialize_keras_object({**own["class"], "config": config})
        become_adapted(layer)
        if "adapters" in own:
            remember(layer, pending=State.from_config(own))
            _restore(layer)
        return layer

    def build_from_config(self, config: Any) -> None:
        """Build the layer as Keras does when it loads a file, then add the adapters."""
        super().build_from_config(config)  # type: ignore[misc]
        _restore(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer; after its first call it is built, and gets the adapters of its file."""
        result = super().__call__(*args, **kwargs)  # type: ignore[misc]
        _restore(self)
        return result

    def save_own_variables(self, store: Any) -> None:
        """Save the weights as if there were no adapters, and the adapters under their names."""
        own = adapters_on(self)
        with _keras.untracked(self, own), as_saved(self):
            super().save_own_variables(_Plain(store))  # type: ignore[misc]
        for variable in own:
            store[variable.name] = variable

    def load_own_variables(self, store: Any) -> None:
        """Load the weights and the adapters. In a file without these, they add nothing."""
        own = adapters_on(self)
        with _keras.untracked(self, own), as_saved(self):
            super().load_own_variables(_Less(store, {v.name for v in own}))  # type: ignore[misc]
        for variable in own:
            if variable.name in store.keys():  # noqa: SIM118 - no mapping
                variable.assign(store[variable.name])
            elif variable.name.endswith("_b"):
                variable.assign(keras.ops.zeros(variable.shape, variable.dtype))

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: the adapters would be lost."""
        raise NotYetError(
            f"quantize: {self.name!r} has adapters. Merge them first: "  # type: ignore[attr-defined]
            "kg.merge_adapters(model). Or add them to the quantized model."
        )

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: the weights are frozen already."""
        raise NotYetError(
            f"enable_lora: {self.name!r} has adapters of kg.lora. Add more with "  # type: ignore[attr-defined]
            'kg.lora(model, ..., name="more").'
        )


@functools.cache
def adapted_class(base: type) -> type:
    """Return the subclass of a layer's class for adapted layers."""
    if issubclass(base, AdaptedLayer):
        return base
    cls = type(base.__name__, (AdaptedLayer, base), {"__module__": __name__, "graft_adapted": base})
    # All are registered under one name: the configuration says which class it was.
    return keras.saving.register_keras_serializable("keras_graft", "Adapted")(cls)


def plain_class(cls: type) -> type:
    """Return the class that an adapted layer's class was made from; any other class unchanged."""
    if "graft_adapted" in cls.__dict__:
        return cls.graft_adapted  # type: ignore[attr-defined]
    base = cls.__dict__.get("graft_base")
    if base is not None and issubclass(base, AdaptedLayer):  # tied after it was adapted
        return _ties.tied_class(plain_class(base))
    return cls


def become_adapted(layer: Any) -> None:
    """Change the class of a layer to its class for adapted layers."""
    layer.__class__ = adapted_class(type(layer))
    layer.__dict__.pop("quantize", None)  # `Layer.__new__` put the plain class's method there


adapted_class(keras.layers.Layer)  # type: ignore[arg-type] # a file may be loaded before `lora`


def adapters_on(layer: Any) -> list[Any]:
    """Return the variables of adapters that a layer itself tracks."""
    return [factor for made in record_of(layer).sums for factor in made.factors]


def adapt(layer: Any, state: State, owners: set[int], done: set[int]) -> None:
    """Give a layer its adapters. No other model may use it, and its weights are frozen already.

    Args:
        layer: A layer that a model calls, built.
        state: Its adapters, with their variables.
        owners: The layers whose own weights have adapters, by their identities; more are added.
        done: The layers that are adapted already; more are added.
    """
    known = {weight.address: weight for weight in groups(layer).weights()}
    found: dict[int, tuple[Weight, list[Adapter]]] = {}
    for adapter in state.adapters:
        weight = known[adapter.weight]
        found.setdefault(id(weight.variable), (weight, []))[1].append(adapter)
    owners |= {id(weight.layer) for weight, _ in found.values()}
    inside = _keras.layers_inside(layer)
    for one in inside:
        below = {id(x) for x in _keras.layers_inside(one)}
        _keras.set_flag(one, state.trains or bool(below & owners))
        if id(one) not in done:
            done.add(id(one))
            _adapt_one(one, found)
    if state.adapters or (state.trains and not state.only) or _frozen_inside(layer):
        become_adapted(layer)  # no file says otherwise what trains
    remember(layer, adapted=state, pending=None)
    for one in reversed(inside):
        if one.built:
            _keras.track_on_torch(one)


def _frozen_inside(layer: Any) -> bool:
    """Whether layers inside a layer are frozen: Keras does not load their flags."""
    inside = _keras.layers_inside(layer)[1:]
    return any(isinstance(v, _keras.View) for one in inside for v in _keras.own_weights(one))


def _adapt_one(layer: Any, found: dict[int, tuple[Weight, list[Adapter]]]) -> None:
    sums = []
    for variable in _keras.own_weights(layer):
        weight, adapters = found.get(id(variable), (None, []))
        if weight is None or weight.layer is not layer:  # or it is only tied to such a weight
            continue
        parts, factors = [], []
        for adapter in adapters:
            seen = [_as_used(factor, adapter) for factor in (adapter.a, adapter.b)]
            for factor in seen:
                _keras.track(layer, factor)
            factors += seen
            if adapter.active:
                parts.append(_keras.Part(seen[0], seen[1], adapter.scale, adapter.inputs))
        made = _keras.Adapted(variable, tuple(parts), factors)
        if is_quantized(layer):
            add_to_quantized(layer, made)
        else:
            _keras.use_instead(layer, [variable], made)
        sums.append(made)
    remember(layer, sums=tuple(sums))
    if sums:
        become_adapted(layer)


def _as_used(factor: Any, adapter: Adapter) -> Any:
    return factor if adapter.active and adapter.trains else _keras.view(factor)


def take_off(layer: Any, old: Any, copy: Callable[[Any], Any]) -> None:
    """Remove the adapters from a copy of an adapted layer, whose class is plain already.

    Args:
        layer: The copy.
        old: The adapted layer.
        copy: Returns the copy of a variable.
    """
    for one, before in zip(_keras.layers_inside(layer), _keras.layers_inside(old), strict=True):
        _keras.untrack(one, map(copy, adapters_on(before)))
        without_lora(one, before)
        remember(one, sums=(), adapted=None, pending=None)


def _freeze_in_place(layer: Any, left: set[int]) -> None:
    """Let a layer, which no other model uses, hold its trained weights as views."""
    for one in _keras.layers_inside(layer):
        for variable in _keras.trained_weights(one):
            if id(variable) in left:
                continue
            seen = _keras.view(variable)
            _keras.put_in_place_of(one, variable, seen)
            _keras.use_instead(one, [variable], seen)


def _restore(layer: Any) -> None:
    """Give a layer that was loaded from a file the adapters that the file names."""
    state = record_of(layer).pending
    if state is None or not layer.built:
        return
    remember(layer, pending=None)
    known = {weight.address: weight for weight in groups(layer).weights()}
    adapted = {id(known[adapter.weight].variable) for adapter in state.adapters}
    trained = {id(w.variable) for w in known.values()} - adapted if state.trains else set()
    _freeze_in_place(layer, trained)
    known = {weight.address: weight for weight in groups(layer).weights()}
    made = []
    for adapter in state.adapters:
        weight = known[adapter.weight]
        a, b = new_factors(adapter, weight.layer, weight.variable)
        made.append(adapter.replace(a=a, b=b))
    adapt(layer, state.replace(adapters=tuple(made)), set(), set())


class _Plain(_ties.Partial):
    """A store of a file that gets weights without what adapters add."""

    def __setitem__(self, key: str, value: Any) -> None:
        self._store[key] = value.source if isinstance(value, _keras.Adapted) else value


class _Less(_ties.Partial, Mapping):
    """A store of a file without the adapters, for loading."""

    def __init__(self, store: Any, left: set[str]) -> None:
        super().__init__(store)
        self._left = left

    def __getitem__(self, key: str) -> Any:
        return self._store[key]

    def __iter__(self) -> Iterator[str]:
        keys = self._store.keys()  # the store is no mapping
        return (key for key in keys if key not in self._left)

    def __len__(self) -> int:
        return len(list(iter(self)))
