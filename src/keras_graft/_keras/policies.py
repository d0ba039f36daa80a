"""Keras's private state of dtype policies: each layer's own, and maps of those of several layers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras

from keras_graft._keras.layers import layers_inside


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
    policy: Any = getattr(layer, "_dtype_policy", None)
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


@contextlib.contextmanager
def in_float32(models: Iterable[Any]) -> Iterator[keras.StatelessScope]:
    """Let models compute in float32 where they compute in 16 bits; no state of theirs is written.

    What a 16-bit variable holds is read as float32 as well. Other values for variables can be given
    to the scope with `add_update`. Uses `Layer._dtype_policy` (3.12 - 3.15).
    """
    layers = {id(x): x for model in models for x in layers_inside(model)}
    before = {key: vars(x)["_dtype_policy"] for key, x in layers.items() if _is_half(x)}
    scope = keras.StatelessScope()
    for layer in layers.values():
        for variable in getattr(layer, "variables", ()):
            if variable.dtype in HALF:
                wide = keras.ops.cast(variable.value, "float32")
                scope.add_update((variable, keras.ops.stop_gradient(wide)))
    try:
        for key in before:
            vars(layers[key])["_dtype_policy"] = _wide(policy_of(layers[key]))
        with scope:
            yield scope
    finally:
        for key, policy in before.items():
            vars(layers[key])["_dtype_policy"] = policy


HALF = ("float16", "bfloat16")


def _is_half(layer: Any) -> bool:
    policy = policy_of(layer) if "_dtype_policy" in vars(layer) else None
    return policy is not None and (policy.compute_dtype in HALF or policy.variable_dtype in HALF)


def _wide(policy: Any) -> Any:
    """Return the same policy around float32."""
    quantized, _, _ = policy.name.rpartition("_from_")
    return keras.dtype_policies.get(f"{quantized}_from_float32" if quantized else "float32")
