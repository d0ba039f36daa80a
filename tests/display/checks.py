"""What holds for the scene of any network."""

import json
from collections import Counter

import keras_graft as kg
from keras_graft.graph.select import everything


def leaf_edges(graph):
    """Return {(source, reader, kind)} of a graph, by paths, followed value by value."""

    def source(value):
        """Return the path of what gives a handle, through the borders of nested models."""
        node = value.producer
        if node is None:
            if not value.scope:
                return "input", value.label
            call = value.scope[-1]
            entry = call.entries[value.index].source
            if entry is None:
                return None
            outer = call.reads[entry].within(call.graph, call.scope)
            return source(call.home.value(outer).within(call.graph, call.scope))
        if node.nested is None:
            return "node", node.path
        at = [v.key for v in node.gives].index(value.key)
        inner = [*node.nested.outputs, *(mask for _, mask in node.unseen)][at]
        return source(inner.within(node.nested, (*node.scope, node)))

    found = set()
    for node in everything(graph):
        if node.nested is None:
            masks = [m for _, m in node.hidden]
            masks += [v for v in node.inputs if any(u.mask == v for u in node.inputs)]
            reads = [(v, "data") for v in node.inputs if v not in masks]
            reads += [(m, "mask") for m in masks]
            for value, kind in reads:
                bound = node.home.known(value).within(node.graph, node.scope)
                found.add((source(bound), ("node", node.path), kind))
    for number, value in enumerate(graph.outputs):
        found.add((source(value), ("output", number), "data"))
    return {edge for edge in found if edge[0] is not None}


def check(scene, graph):
    """Check a scene of a graph; return its items."""
    items = scene["items"]
    json.dumps(scene, allow_nan=False)
    paths = Counter(i["path"] for i in items.values() if i["type"] == "node")
    leaves = [n.path for n in everything(graph) if n.nested is None]
    assert paths == Counter(leaves) and scene["totals"]["nodes"] == len(leaves)
    models = [n.path for n in everything(graph) if n.nested is not None]
    groups = {k: i for k, i in items.items() if i["type"] == "group"}
    assert Counter(
        i["path"] for i in groups.values() if i["kind"] not in ("block", "repeat")
    ) == Counter(models)
    _check_tree(items, groups)
    ends = {key: ("output", n) for n, key in enumerate(k for k in items if k[0] == "o")}
    name = {k: ends.get(k, (i["type"], i["path"])) for k, i in items.items()}
    assert {(name[a], name[b], kind) for a, b, _, kind in scene["edges"]} == leaf_edges(graph)
    place = {key: i for i, key in enumerate(items)}
    assert all(
        place[a] < place[b] for a, b, _, _ in scene["edges"]
    )  # so nothing closed has a cycle
    variables = {id(getattr(w, "source", w)): w for w in graph.weights}
    total = sum(int(w.value.numel() if hasattr(w.value, "numel") else w.value.size) for w in variables.values())  # fmt: skip
    assert scene["totals"]["parameters"] == total
    for cut in scene["cuts"]:
        assert cut["after"] in items and 0 <= cut["share"] <= 1
    assert [c["name"] for c in scene["cuts"]] == [c.name for c in kg.cuts(graph)]
    return items


def _check_tree(items, groups):
    children = {}
    for key, item in items.items():
        if item["parent"] is not None:
            assert item["parent"] in groups
            children.setdefault(item["parent"], []).append(key)
    order = list(items)
    for key in groups:
        stack, below = [key], []
        while stack:
            at = stack.pop()
            below.append(order.index(at))
            stack += children.get(at, ())
        assert max(below) - min(below) == len(below) - 1  # nothing else in between
        assert children.get(key), "an empty group"
    for key, item in groups.items():
        if item["kind"] == "repeat":
            blocks = children[key]
            assert len(blocks) == item["times"] > 1
            assert [items[b]["copy"] for b in blocks] == list(range(1, len(blocks) + 1))
            assert len({form(items, children, b) for b in blocks}) == 1


def form(items, children, key):
    """Return what must be equal in equal blocks."""
    item = items[key]
    inside = tuple(form(items, children, c) for c in children.get(key, ()))
    spec = item["spec"] if item["type"] == "node" else ""
    return item["kind"], spec, item["parameters"], inside


def outline(scene, depth=1):
    """Return the groups as lines, for comparison with what a reader expects."""
    items, lines = scene["items"], []
    level = {None: -1}
    for key, item in items.items():
        level[key] = level[item["parent"]] + 1
        if item["type"] == "group" and level[key] <= depth:
            times = f" x{item['times']}" if item["times"] else ""
            lines.append("  " * level[key] + item["label"] + times)
    return lines
