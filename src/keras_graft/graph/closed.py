"""The error text for a path that leads into a layer that is not a model."""

from __future__ import annotations

from keras_graft.graph.names import listed
from keras_graft.graph.node import Node
from keras_graft.printable import printable, quoted


def what_is_closed(node: Node) -> str:
    """Return what a closed node contains, and how it can be changed, as text for an error."""
    here = quoted(node.path)
    own = getattr(node.operation, "__dict__", {})
    held = {
        name: value
        for name, value in {**own, **own.get("_modules", {})}.items()  # PyTorch's inner layers
        if not name.startswith("_") and hasattr(value, "get_config") and hasattr(value, "weights")
    }
    if not held:
        return f"{node.path!r} is a {node.kind}, a single call with nothing inside to be selected."
    text = (
        f"{node.path!r} is closed. It is a {node.kind}: "
        f"{node.closed or 'what its call does inside is code, not part of the graph'}. "
    )
    models = [name for name, value in held.items() if hasattr(value, "get_layer")]
    if models:
        return (
            f"{text}The model that it holds can be edited by itself: "
            f"new = kg.replace(kg.select(model, {here})[0].operation.{printable(models[0])}, ...). "
            f"Then put a {node.kind} with the new model in its place: kg.replace(model, {here}, ...)."
        )
    return (
        f"{text}It holds {listed(held)}. Put another layer in its place as a whole: "
        f'kg.replace(model, {here}, new), with weights="keep" to keep trained values.'
    )
