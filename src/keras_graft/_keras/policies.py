"""Keras's private state of dtype policies: each layer's own, and maps of those of several layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras


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
