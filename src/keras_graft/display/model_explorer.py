"""A scene as the JSON that Google's Model Explorer opens.

The form is that of `graph_builder.py` in google-ai-edge/model-explorer (version 0.1.32): a collection with
a label and graphs; nodes with an id, a label, a namespace ("a/b/c": the layers around them),
attributes, incoming edges, and metadata of outputs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from keras_graft.display.view import remarks, title_of
from keras_graft.graph.names import Names

_STYLES = {"new": "#b7e4c7", "dropped": "#f5c2c7", "changed": "#ffe8a3"}


def model_explorer(scene: Mapping[str, Any]) -> str:
    """Return a network as JSON for Model Explorer, with every group as a layer of it.

    >>> import keras
    >>> from keras_graft.display.scene import scene
    >>> x = keras.Input((4,), name="x")
    >>> drawn = scene(keras.Model(x, keras.layers.Dense(2, name="out")(x), name="tiny"))
    >>> [node["label"] for node in json.loads(model_explorer(drawn))["graphs"][0]["nodes"]]
    ['x', 'out', 'out']
    """
    items = scene["items"]
    spaces = _namespaces(items)
    nodes = {
        key: {
            "id": key,
            "label": item["label"],
            "namespace": spaces.get(item["parent"], ""),
            "attrs": _attributes(item),
            "incomingEdges": [],
            "outputsMetadata": [
                {"id": str(i), "attrs": [{"key": "tensor_shape", "value": spec}]}
                for i, spec in enumerate(filter(None, item["spec"].split("; ")))
            ],
        }
        for key, item in items.items()
        if item["type"] != "group"
    }
    for key, node in nodes.items():
        if items[key]["change"] in _STYLES:
            node["style"] = {"backgroundColor": _STYLES[items[key]["change"]]}
    for source, target, spec, _ in scene["edges"]:
        given = items[source]["spec"].split("; ")
        edges = nodes[target]["incomingEdges"]
        edges.append({
            "sourceNodeId": source,
            "sourceNodeOutputId": str(given.index(spec) if spec in given else 0),
            "targetNodeInputId": str(len(edges)),
        })  # fmt: skip
    groups = {
        spaces[key]: {pair["key"]: pair["value"] for pair in _attributes(item)}
        for key, item in items.items()
        if item["type"] == "group"
    }
    name = scene["name"] or "network"
    graph = {"id": name, "nodes": list(nodes.values()), "groupNodeAttributes": groups}
    return json.dumps({"label": name, "graphs": [graph]})


def _namespaces(items: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the path of each group. Labels in it are made unique and lose what separates them."""
    taken: dict[str | None, Names] = {}
    found: dict[str, str] = {}
    for key, item in items.items():
        if item["type"] == "group":
            label = re.sub(r"[/;]", "_", title_of(item)).strip() or "group"
            name = taken.setdefault(item["parent"], Names()).take(label)
            around = found.get(item["parent"], "")
            found[key] = f"{around}/{name}" if around else name
    return found


def _attributes(item: Mapping[str, Any]) -> list[dict[str, str]]:
    pairs = [("kind", item["kind"]), ("path", item["path"]), ("output", item["spec"])]
    pairs += [("parameters", f"{item['parameters']:,}" if item["parameters"] else None)]
    pairs += [("multiplications", f"{item['cost']:,}" if item["cost"] else None)]
    pairs += [("remarks", "; ".join(remarks(item)) or None), *item["arguments"]]
    return [{"key": key, "value": value} for key, value in pairs if value]
