"""Keras's private state of quantized layers: dtype policies, what is saved, and GPTQ and AWQ."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras

from keras_graft._keras import private


def policy_of(layer: Any) -> Any:
    """Return the dtype policy of a layer itself, also where a `DTypePolicyMap` says it.

    Uses `Layer._dtype_policy` (3.12 - 3.15).
    """
    policy = layer._dtype_policy
    if not isinstance(policy, keras.dtype_policies.DTypePolicyMap):
        return policy
    return policy[layer.path] if layer.path else policy.default_policy


def use_own_policy(layer: Any) -> None:
    """Give a layer its dtype policy as its own: a map of policies may be that of other layers too.

    Keras writes into the map when it quantizes. Uses `Layer._dtype_policy` (3.12 - 3.15).
    """
    layer.__dict__["_dtype_policy"] = policy_of(layer)


def set_policies_inside(layer: Any, policies: Mapping[str, Any]) -> None:
    """Let the configuration of a layer say the dtype policies of layers inside it.

    A layer that hands its `dtype` on makes them so again. Uses `Layer._dtype_policy` (3.12 - 3.15).

    Args:
        layer: The layer.
        policies: The policies by the paths of the layers inside.
    """
    layer.__dict__["_dtype_policy"] = keras.dtype_policies.DTypePolicyMap(
        policy_of(layer), dict(policies)
    )


def rename_policies(layer: Any, old: str, new: str) -> None:
    """Let a map of dtype policies name the paths below a layer that has another name now.

    Uses `Layer._dtype_policy` and `DTypePolicyMap._policy_map` (3.12 - 3.15).
    """
    policy = getattr(layer, "_dtype_policy", None)
    if not isinstance(policy, keras.dtype_policies.DTypePolicyMap):
        return
    before = f"{old}/"
    paths = {
        f"{new}/{path[len(before) :]}" if path.startswith(before) else path: own
        for path, own in policy._policy_map.items()
    }
    layer.__dict__["_dtype_policy"] = keras.dtype_policies.DTypePolicyMap(
        policy._default_policy_arg, paths
    )


def quantized_weights(layer: Any, mode: str) -> list[str] | None:
    """Return the names of the weights that a layer saves in a mode; None if it has no such mode.

    Uses `variable_serialization_spec` (3.12 - 3.15).
    """
    spec = getattr(layer, "variable_serialization_spec", None)
    return None if not isinstance(spec, dict) or mode not in spec else list(spec[mode])


def save_all_weights(layer: Any) -> None:
    """Let a quantized layer save each of its weights.

    Keras leaves out the zero points of GPTQ and AWQ (3.14, 3.15.0 and 3.15.1), and cannot load
    what it saved.
    """
    store: dict[str, Any] = {}
    layer.save_own_variables(store)
    if len(store) < len(layer._trainable_variables) + len(layer._non_trainable_variables):
        layer.__dict__["save_own_variables"] = types.MethodType(_save_all, layer)


def _save_all(layer: Any, store: Any) -> None:
    names = quantized_weights(layer, layer.quantization_mode) or []
    values = [getattr(layer, name, None) for name in names]
    for number, value in enumerate(value for value in values if value is not None):
        store[str(number)] = value


def quantizer_class(mode: str) -> Any:
    """Return Keras's `GPTQ` (3.12 - 3.15) or `AWQ` (3.14, 3.15)."""
    return private.GPTQ if mode == "gptq" else private.AWQ


def tokens(config: Any) -> Any:
    """Return the samples that a configuration of GPTQ or AWQ asks for: shape (samples, length)."""
    found = private.get_dataloader(
        config.tokenizer, config.sequence_length, config.dataset, num_samples=config.num_samples
    )
    return found[:, 0]


@contextlib.contextmanager
def inputs_seen(layers: Sequence[Any], see: Callable[[Any, Any], None]) -> Iterator[None]:
    """Show what each of some layers, which no other model uses, is called with.

    Args:
        layers: The layers, not quantized yet.
        see: Called with a layer and its input before each call.
    """

    def watched(layer: Any) -> Callable[..., Any]:
        call = layer.call

        def run(*args: Any, **kwargs: Any) -> Any:
            see(layer, args[0] if args else kwargs["inputs"])
            return call(*args, **kwargs)

        return run

    before = {id(layer): layer.__dict__.get("call") for layer in layers}
    try:
        for layer in layers:
            layer.__dict__["call"] = watched(layer)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("call", None)
            if before[id(layer)] is not None:
                layer.__dict__["call"] = before[id(layer)]


@contextlib.contextmanager
def weights_read_outside(layers: Sequence[Any], read: Callable[[Any], None]) -> Iterator[None]:
    """Tell when code reads the matrix of a layer without calling the layer.

    Args:
        layers: Layers that no other model uses.
        read: Called with the layer.
    """
    classes = [type(layer) for layer in layers]
    running: list[Any] = []

    def watching(layer: Any, cls: Any) -> type:
        def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
            running.append(self)
            try:
                return cls.__call__(self, *args, **kwargs)
            finally:
                running.pop()

        def prop(name: str) -> property:
            def get(self: Any) -> Any:
                if not any(one is self for one in running):
                    read(self)
                return getattr(cls, name).fget(self)

            return property(get)

        own = {n: prop(n) for n in ("kernel", "embeddings") if isinstance(getattr(cls, n, None), property)}
        return type(cls.__name__, (cls,), {"__call__": __call__, "__module__": cls.__module__, **own})

    try:
        for layer, cls in zip(layers, classes, strict=True):
            layer.__class__ = watching(layer, cls)
        yield
    finally:
        for layer, cls in zip(layers, classes, strict=True):
            layer.__class__ = cls
