"""The outline of a model, for `show`: blocks and nested models, and how often blocks repeat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_graft_cli.rows import Rows
from keras_graft_cli.running import Told

_SHORT = 40
"""Without a depth, levels are opened until the outline would have more lines than this."""


def outline(graph: Any, chosen: Any, depth: int | None) -> Told:
    """Return the outline of a graph, or of what a selector chose in it.

    Args:
        graph: The graph.
        chosen: A selection; None for all.
        depth: How many levels are open; None: as many as leave it short, or all of a selection.
    """
    from keras_graft.display.scene import scene

    whole = scene(graph)
    tree = _tree(whole["items"])
    if chosen is not None:
        kept = {path for node in chosen.nodes for path in (node.path, node.path.partition("#")[0])}
        tree = _only(tree, kept)
    if depth is None:
        levels = range(1, 1 + max((_deepest(item) for item in tree), default=0))
        fitting = [d for d in levels if chosen is not None or _count(tree, d) <= _SHORT]
        depth = max(fitting, default=1)
    totals = whole["totals"]
    title = f"{whole['name']}: {_counted(totals['nodes'], 'node')}, "
    title += _counted(totals["parameters"], "parameter")
    if totals["frozen"]:
        title += f", {totals['frozen']:,} of them not trained"
    rows: list[Sequence[object]] = []
    for item in tree:
        _add(item, depth, 0, rows, every=chosen is not None)
    data = {
        "name": whole["name"],
        "totals": totals,
        "outline": [_plain(item, depth) for item in tree],
    }
    return Told(data, Rows(("node", "kind", "output", "params", ""), rows, title))


def _tree(items: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the items of a scene, each with what is in it."""
    made = {key: {**item, "children": []} for key, item in items.items()}
    for item in made.values():
        if item["parent"] is not None:
            made[item["parent"]]["children"].append(item)
    return [item for item in made.values() if item["parent"] is None]


def _only(tree: list[dict[str, Any]], paths: set[str]) -> list[dict[str, Any]]:
    """Return what a selection names, and the groups in which it lies."""
    found = []
    for item in tree:
        inner = _only(item["children"], paths)
        if inner or (item["type"] == "node" and item["path"] in paths):
            found.append({**item, "children": inner})
    return found


def _deepest(item: dict[str, Any]) -> int:
    return 1 + max(map(_deepest, item["children"]), default=0)


def _count(tree: list[dict[str, Any]], depth: int) -> int:
    """Return how many lines a tree has at a depth; of equal blocks only the first is open."""
    total = 0
    for item in tree:
        total += 1
        if depth > 1:
            children = item["children"]
            total += _count(children[:1] if item["times"] else children, depth - 1)
    return total


def _add(item: dict[str, Any], depth: int, level: int, rows: list[Any], every: bool) -> None:
    """Add the lines of an item and, as far as it is open, of what is in it."""
    children = item["children"]
    is_open = bool(children) and depth > 1
    label = f"{item['label']} x {item['times']}" if item["times"] else item["label"]
    if children and not is_open:
        label += f" ({_counted(_nodes(item), 'node')})"
    parameters = item["parameters"] or ""
    indent = "  " * level
    rows.append((indent + label, item["kind"], item["spec"], parameters, _notes(item)))
    if not is_open:
        return
    shown = children[:1] if item["times"] and not every else children
    for child in shown:
        _add(child, depth - 1, level + 1, rows, every)
    if len(shown) < len(children):
        rest = f"{indent}  ... {_counted(len(children) - 1, 'more equal block')}"
        rows.append((rest, "", "", "", f"to {children[-1]['label']}"))


def _notes(item: dict[str, Any]) -> str:
    """Return what is special about an item: frozen weights, several calls, ties."""
    notes = {"frozen": ["frozen"], "mixed": ["partly frozen"]}.get(item["state"], [])
    if item["shared"]:
        notes = [*notes, f"shared: {item['shared']}"]
    if item["ties"]:
        notes = [*notes, f"tied: {', '.join(item['ties'])}"]
    return "; ".join(notes)


def _plain(item: dict[str, Any], depth: int) -> dict[str, Any]:
    keys = "type", "label", "path", "kind", "parameters", "times"
    children = [_plain(child, depth - 1) for child in item["children"]] if depth > 1 else []
    return {**{key: item[key] for key in keys}, "output": item["spec"], "children": children}


def _nodes(item: dict[str, Any]) -> int:
    return (item["type"] == "node") + sum(map(_nodes, item["children"]))


def _counted(number: int, one: str) -> str:
    return f"{number:,} {one}" + ("" if number == 1 else "s")
