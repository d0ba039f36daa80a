"""Scenes written by hand, for tests of the page that need no model."""

from __future__ import annotations

from typing import Any

SCRIPT = "</script><script>alert(1)</script>"
PICTURE = "<img src=x onerror=alert(1)>"
LINK = "javascript:alert(1)"
REVERSED = "a\u202egnp.exe\u2028\u200f"
LONG = "a_name_of_a_layer_that_does_not_end_" * 60


def item(label: str, kind: str = "Dense", **known: Any) -> dict[str, Any]:
    """Return an item as `scene` makes them; `known` replaces what it says."""
    return {
        "type": "node",
        "parent": None,
        "label": label,
        "path": label,
        "select": f'kg.select(model, "{label}")',
        "kind": kind,
        "spec": "(?, 8) float32",
        "inputs": ["(?, 8) float32"],
        "parameters": 72,
        "trainable": 72,
        "cost": 64,
        "share": 0.25,
        "arguments": [["units", "8"]],
        "state": "trainable",
        "shared": None,
        "ties": [],
        "change": None,
        "may_differ": False,
        "times": None,
        "copy": None,
    } | known


def end(label: str, type_: str) -> dict[str, Any]:
    return item(
        label, type_.title(), type=type_, parameters=0, trainable=0, cost=None, share=None,
        arguments=[], state="none", path=label if type_ == "input" else None,
        select=f'kg.select(model, "{label}")' if type_ == "input" else None, inputs=[],
    )  # fmt: skip


def group(label: str, kind: str, parent: str | None = None, **known: Any) -> dict[str, Any]:
    return item(
        label, kind, type="group", parent=parent, arguments=[], inputs=[],
        path=None if kind in ("block", "repeat") else label, **known,
    )  # fmt: skip


def scene(items: dict[str, Any], edges: list[Any], **known: Any) -> dict[str, Any]:
    nodes = [i for i in items.values() if i["type"] == "node"]
    return {
        "format": 1,
        "name": "network",
        "kind": "graph",
        "totals": {
            "nodes": len(nodes),
            "operations": len(nodes),
            "parameters": sum(i["parameters"] for i in nodes),
            "trainable": sum(i["trainable"] for i in nodes),
            "frozen": 0,
        },
        "items": items,
        "edges": [[a, b, "(?, 8) float32", "data"] for a, b in edges],
        "cuts": [],
    } | known


def blocks(count: int = 4) -> dict[str, Any]:
    """An input, `count` equal blocks with a skip connection each, a frozen and tied end."""
    items = {"i0": end("x", "input"), "g0": group("block", "repeat", times=count)}
    edges, before = [], "i0"
    for i in range(count):
        items[f"g{i + 1}"] = group(f"block_{i}", "block", "g0", copy=i)
        for j, kind in enumerate(["Dense", "ReLU", "Add"]):
            name = f"block_{i}_{kind.lower()}"
            items[f"n{3 * i + j}"] = item(name, kind, parent=f"g{i + 1}")
        a, b, c = (f"n{3 * i + j}" for j in range(3))
        edges += [(before, a), (a, b), (b, c), (before, c)]
        before = c
    last = f"n{3 * count}"
    items[last] = item("out", state="frozen", ties=["embedding/embeddings"], trainable=0)
    items["o0"] = end("out", "output")
    edges += [(before, last), (last, "o0")]
    cuts = [
        {
            "after": f"n{3 * i + 2}",
            "name": f"block_{i}_add",
            "output": "(?, 8) float32",
            "bytes": 32,
            "bytes_text": "32 B",
            "below": 216 * (i + 1),
            "above": 216 * (count - i - 1) + 72,
            "share": (i + 1) / (count + 1),
            "call": f'kg.split(model, "block_{i}_add")',
        }
        for i in range(count)
    ]
    return scene(items, edges, cuts=cuts)


def flat(count: int) -> dict[str, Any]:
    """A long network without groups, with a skip connection over every third node."""
    items = {f"n{i}": item(f"dense_{i}") for i in range(count)}
    edges = [(f"n{i}", f"n{i + 1}") for i in range(count - 1)]
    edges += [(f"n{i}", f"n{i + 3}") for i in range(0, count - 3, 3)]
    return scene(items, edges)


def diff() -> dict[str, Any]:
    """A layer changed, one dropped, one new; the output may differ."""
    items = {
        "i0": end("x", "input"),
        "g0": group("block", "block"),
        "n0": item("first", parent="g0", change="kept"),
        "n1": item("second", parent="g0", change="changed"),
        "n2": item("relu", "ReLU", parent="g0", change="dropped"),
        "n3": item("gelu", "Activation", parent="g0", change="new"),
        "o0": end("out", "output") | {"may_differ": True},
    }
    edges = [("i0", "n0"), ("n0", "n1"), ("n1", "n2"), ("n1", "n3"), ("n3", "o0")]
    return scene(items, edges, kind="diff")


def forged() -> dict[str, Any]:
    """Names that are scripts, that turn the text around, or that do not end."""
    names = [
        SCRIPT,
        PICTURE,
        LINK,
        REVERSED,
        LONG,
        "{{code}}",
        "-->",
        "<!--",
        "\ud800",
        "&lt;b&gt;",
    ]
    items = {
        f"n{i}": item(name, name, arguments=[[name, name]], shared=name, ties=[name], spec=name)
        for i, name in enumerate(names)
    }
    items["g0"] = group(SCRIPT, SCRIPT)
    items["n0"]["parent"] = "g0"
    cut = {
        "after": "n1", "name": SCRIPT, "output": PICTURE, "bytes": None, "bytes_text": PICTURE,
        "below": 1, "above": 2, "share": None, "call": SCRIPT,
    }  # fmt: skip
    edges = [(f"n{i}", f"n{i + 1}") for i in range(len(names) - 1)]
    return scene(items, edges, name=SCRIPT, cuts=[cut])
