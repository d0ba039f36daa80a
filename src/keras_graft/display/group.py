"""Groups of nodes in a picture: a block, and a run of equal blocks."""

from __future__ import annotations

from collections.abc import Sequence

from keras_graft.display.names import beginning, is_given_by_keras, prefix, tokens
from keras_graft.display.parts import Part, empty_item
from keras_graft.printable import quoted


def block_of(
    nodes: Sequence[Part], inside: list[Part], begins: Sequence[str], copy: int | None = None
) -> Part:
    """Return a group of nodes; for one node, that node.

    Args:
        nodes: All nodes in it.
        inside: The same nodes, in groups.
        begins: The parts with which most names of these nodes begin, and those of no others.
        copy: Which block of a run it is, from 1.
    """
    if len(nodes) == 1:
        nodes[0].item["copy"] = copy
        return nodes[0]
    name = _written(nodes, begins)
    label = name or f"up to {nodes[-1].item['label']}"
    item = empty_item("group", label, "block")
    item["copy"] = copy
    _select(item, nodes, name)
    return Part(item, label, inside=inside)


def repeat_of(nodes: Sequence[Part], blocks: list[Part], begins: Sequence[str]) -> Part:
    """Return a group of equal blocks, each a block or a single node."""
    name = _written(nodes, begins)
    label = name or beginning(block.name for block in blocks)
    if not label or _tells_nothing(blocks[0], nodes[len(nodes) // len(blocks) - 1]):
        label = _kinds(nodes, len(blocks))
    item = empty_item("group", label, "repeat")
    item["times"] = len(blocks)
    _select(item, nodes, name)
    return Part(item, label, inside=blocks)


def _written(nodes: Sequence[Part], begins: Sequence[str]) -> str:
    """Return the beginning of a name as it is written."""
    names = (part.name for part in nodes if begins)
    return next((prefix(n, begins) for n in names if tokens(n)[: len(begins)] == begins), "")


def _tells_nothing(block: Part, last: Part) -> bool:
    """Whether a block is only named after its last node, which Keras gave its name."""
    ends = block.name == f"up to {last.item['label']}"
    return ends and is_given_by_keras(last.name, last.item["kind"])


def _kinds(nodes: Sequence[Part], times: int) -> str:
    kinds = [part.item["kind"] for part in nodes[: len(nodes) // times]]
    return ", ".join(kinds) if len(kinds) <= 3 else f"{kinds[0]} ... {kinds[-1]}"


def _select(item: dict, nodes: Sequence[Part], name: str) -> None:
    """Fill in a glob that selects the nodes of a group, where their names have one."""
    exact = any(part.name == name for part in nodes)
    if not name or exact or any(c in name for c in "*?[/"):
        return
    begin = nodes[0].item["path"].removesuffix(nodes[0].item["label"])
    path = f"{begin}{name}_*"
    if any(c in begin for c in "*?[") or not all(p.name.startswith(f"{name}_") for p in nodes):
        return
    item["path"], item["select"] = path, f"kg.select(model, {quoted(path)})"
