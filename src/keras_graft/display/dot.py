"""A scene in the language of Graphviz."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_graft.display.view import View, remarks, summary, title_of
from keras_graft.tables import counted

_SHAPES = {"input": "ellipse", "output": "ellipse", "node": "box", "group": "box3d"}
_CHANGES = {"new": "#b7e4c7", "dropped": "#f5c2c7", "changed": "#ffe8a3"}


def dot(scene: Mapping[str, Any], depth: int | None = None) -> str:
    r"""Return a network in DOT, the language of Graphviz. Open groups are clusters.

    Args:
        scene: The scene.
        depth: How many levels of groups are open; None: as many as leave it small.

    >>> import keras
    >>> from keras_graft.display.scene import scene
    >>> x = keras.Input((4,), name="x")
    >>> print(dot(scene(keras.Model(x, keras.layers.Dense(2, name='a"b')(x), name="tiny"))))
    digraph "tiny" {
      label="tiny\n1 node, 10 parameters";
      labelloc=t;
      fontname="sans-serif";
      node [shape=box, style="rounded,filled", fillcolor="white", fontname="sans-serif"];
      "i0" [label="x\nInput (?, 4) float32", shape=ellipse];
      "n0" [label="a\"b\nDense (?, 2) float32\n10 parameters"];
      "o0" [label="a\"b\nOutput (?, 2) float32", shape=ellipse];
      "i0" -> "n0";
      "n0" -> "o0";
    }
    """
    view = View(scene, depth)
    lines = [
        f"digraph {_quoted(scene['name'])} {{",
        f"  label={_quoted(scene['name'], summary(scene))};",
        "  labelloc=t;",
        '  fontname="sans-serif";',
        '  node [shape=box, style="rounded,filled", fillcolor="white", fontname="sans-serif"];',
    ]
    for key in view.children[None]:
        _add(view, key, lines, "  ")
    for source, target, kind in view.edges():
        style = " [style=dashed]" if kind == "mask" else ""
        lines.append(f"  {_quoted(source)} -> {_quoted(target)}{style};")
    return "\n".join([*lines, "}"])


def _add(view: View, key: str, lines: list[str], indent: str) -> None:
    item = view.items[key]
    if view.is_open(key):
        lines.append(f"{indent}subgraph {_quoted(f'cluster_{key}')} {{")
        lines.append(f'{indent}  label={_quoted(title_of(item))}; style="rounded"; color="gray";')
        for child in view.children[key]:
            _add(view, child, lines, indent + "  ")
        lines.append(f"{indent}}}")
        return
    said = [title_of(item), f"{item['kind']} {item['spec']}".rstrip()]
    if item["type"] == "group":
        said.append(counted(view.nodes_in(key), "node"))
    if item["parameters"]:
        said.append(counted(item["parameters"], "parameter"))
    attributes = [f"label={_quoted(*said, *remarks(item))}"]
    if item["type"] != "node":
        attributes.append(f"shape={_SHAPES[item['type']]}")
    if item["change"] in _CHANGES:
        attributes.append(f"fillcolor={_quoted(_CHANGES[item['change']])}")
    lines.append(f"{indent}{_quoted(key)} [{', '.join(attributes)}];")


def _quoted(*lines: str) -> str:
    r"""Return lines as a string of DOT.

    In a label a backslash begins an escape (`\l`, `\N`), so a name's own is doubled. A name never
    begins with `<`, as HTML does: it is always in quotes.
    """
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(escaped) + '"'
