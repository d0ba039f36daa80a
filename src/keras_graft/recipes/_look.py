"""What several recipes ask of a network."""

from __future__ import annotations

from typing import Any

import keras_graft as kg


def data(node: kg.Node) -> list[Any]:
    """Return the inputs of a call, without those that are the masks of others."""
    masks = {value.mask for value in node.inputs}
    return [v.within(node.home, node.scope) for v in node.inputs if v not in masks]
