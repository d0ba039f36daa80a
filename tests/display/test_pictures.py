"""Outline, DOT, SVG and JSON of a network: what a reader sees, and names that try to break out."""

import dataclasses
import json
import re
import xml.etree.ElementTree as ET
from collections import Counter

import keras
import models
import pytest
from architectures import application
from hypothesis import given
from hypothesis import strategies as st
from keras import layers
from strategies import examples, interpret, plans

import keras_graft as kg
from keras_graft.display.dot import dot
from keras_graft.display.layout import layered
from keras_graft.display.model_explorer import model_explorer
from keras_graft.display.scene import scene
from keras_graft.display.svg import svg
from keras_graft.display.text import text
from keras_graft.display.view import View

pytestmark = pytest.mark.once

NAMES = [
    'quo"te', "back\\slash", "back\\", "line\nbreak", "<img src=x onerror=alert(1)>", "&amp;", "]]>",
    "\\N\\l{x|y}", "'", "--><!--", "}", "\x00\x1b[31m", "\ud800", "\u202e", "a;b", "#1:0", "x" * 300,
    "名前", " ", "$(x)`y`", "<b>", "%s{0}",
]  # fmt: skip


def named():
    x = y = keras.Input((4,), name="x")
    for name in NAMES:
        y = layers.Dense(4, name=name)(y)
    inner = keras.Input((4,), name="i")
    nested = keras.Model(inner, layers.Dense(4, name='in"ner')(inner), name='mo"del<i>\n')
    return keras.Model(x, nested(y), name='net"<b>\\')


@pytest.fixture(scope="module")
def resnet():
    return scene(application("ResNet50"))


# -- text


def test_an_outline(resnet):
    lines = text(resnet, depth=0).splitlines()
    assert lines[0] == "resnet50: 176 nodes, 23,593,859 parameters, 53,120 of them not trained"
    assert [line.split()[0] for line in lines[3:]] == [
        "conv1", "pool1_pad", "pool1_pool", "conv2", "conv3", "conv4", "conv5",
        "avg_pool", "predictions", "predictions",
    ]  # fmt: skip
    lines = text(resnet, depth=2).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("  conv4_block x 5"))
    # Of equal blocks only the first is opened.
    assert re.match(r"    conv4_block2 +block, 10 nodes ", lines[at + 1])
    assert lines[at + 2].strip() == "... 4 more equal blocks, the last: conv4_block6"
    assert lines[at + 3].startswith("conv5")
    assert any(line.startswith("      conv4_block2_add") for line in text(resnet, 3).splitlines())


def test_the_depth_is_chosen_so_that_the_picture_is_small(resnet):
    view = View(resnet)
    assert view.depth == 1 and 15 < len(view.boxes()) <= 40
    assert View(scene(models.siamese())).depth == 1  # everything is open: it is small
    assert View(resnet, 99).depth <= 4


@pytest.mark.parametrize("depth", [None, 0, 1, 9])
def test_an_outline_fits_in_100_columns(resnet, depth):
    for drawn in (resnet, scene(named()), scene(application("NASNetLarge"))):
        assert max(map(len, text(drawn, depth).splitlines())) <= 100
        assert text(drawn, depth).isascii() or drawn["name"].startswith("net")


def test_an_outline_says_what_is_shared_frozen_and_tied():
    model = models.siamese()
    model.get_layer("encoder").trainable = False
    said = text(scene(model))
    assert "frozen; shared: encoder (2 calls)" in said
    assert "43 of them not trained" in said


# -- DOT


def parsed(code):
    """Read DOT by its grammar, as far as it is used; return node and edge statements."""
    string = r'"(?:[^"\\]|\\.)*"'
    attribute = rf"\w+=(?:{string}|\w+)"
    statements, depth = [], 0
    assert code.startswith("digraph ") and not re.search(r"[\x00-\x09\x0b-\x1f]", code)
    for line in code.split("\n"):
        line = line.strip()
        if re.fullmatch(rf"(?:digraph|subgraph) {string} {{", line):
            depth += 1
        elif line == "}":
            depth -= 1
        elif match := re.fullmatch(rf'"(\w+)" \[{attribute}(?:, {attribute})*\];', line):
            statements.append(match[1])
        elif match := re.fullmatch(rf'"(\w+)" -> "(\w+)"(?: \[{attribute}\])?;', line):
            statements.append((match[1], match[2]))
        else:
            assert re.fullmatch(
                rf"(?:{attribute};? ?)+|node \[{attribute}(?:, {attribute})*\];", line
            ), line
    assert depth == 0
    return statements


@pytest.mark.parametrize("depth", [0, 1, 2, 9])
def test_dot_holds_every_box_and_edge(resnet, depth):
    for drawn in (resnet, scene(named()), scene(models.siamese()), scene(models.masked())):
        view = View(drawn, depth)
        found = parsed(dot(drawn, depth))
        boxes = [s for s in found if isinstance(s, str)]
        assert boxes == view.boxes()
        edges = [s for s in found if isinstance(s, tuple)]
        assert Counter(edges) == Counter((a, b) for a, b, _ in view.edges())
        assert all(count == 1 for count in Counter(edges).values())
        assert all(a != b for a, b in edges)  # none inside a closed group


def test_names_in_dot_stay_names():
    code = dot(scene(named()), 9)
    escaped = re.findall(r'\[label="((?:[^"\\]|\\.)*)"', code)
    labels = [re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], text) for text in escaped]
    shown = [label.split("\n")[0] for label in labels]
    assert 'quo"te' in shown and "<b>" in shown and "back\\" in shown and "line\\nbreak" in shown
    assert 'digraph "net\\"<b>\\\\" {' in code
    assert "<<" not in code and "=<" not in code  # nothing is HTML


# -- SVG


def rectangles(root):
    for rect in root.iter("{http://www.w3.org/2000/svg}rect"):
        css = (rect.get("class") or "").split()
        yield css, *(float(rect.get(key)) for key in ("x", "y", "width", "height"))


def texts(root):
    return [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("depth", [None, 0, 1, 9])
def test_an_image_is_valid_and_boxes_do_not_overlap(resnet, depth):
    drawn = [resnet, scene(named()), *(scene(make()) for make in models.ALL)]
    for one in drawn:
        root = ET.fromstring(svg(one, depth))
        width, height = map(float, root.get("viewBox").split()[2:])
        boxes = [r[1:] for r in rectangles(root) if "g" not in r[0]]
        for x, y, w, h in boxes:
            assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
        stacks = 2 * sum(one["items"][k]["times"] is not None for k in View(one, depth).boxes())
        assert len(boxes) == len(View(one, depth).boxes()) + stacks
        for i, (x, y, w, h) in enumerate(boxes):
            for x2, y2, w2, h2 in boxes[i + 1 :]:
                apart = x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y
                assert apart or (w == w2 and abs(x - x2) <= 6 and abs(y - y2) <= 6)  # a stack


def test_an_image_for_a_readme(resnet):
    image = svg(resnet)
    assert len(image) < 30_000 and len(svg(resnet, 0)) < 10_000
    assert "prefers-color-scheme:dark" in image
    assert "<script" not in image and "href" not in image and "url(http" not in image
    assert "conv4_block x 5" in texts(ET.fromstring(image))


def test_names_in_an_image_are_text():
    root = ET.fromstring(svg(scene(named()), 9))
    found = texts(root)
    for name in (
        "<img src=x onerror=alert(1)>",
        "&amp;",
        "]]>",
        "--><!--",
        "line\\nbreak",
        'quo"te',
    ):
        assert name in found
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags == {"svg", "style", "defs", "marker", "path", "text", "rect"}
    attributes = {key for element in root.iter() for key in element.attrib}
    assert not [key for key in attributes if key.startswith("on") or "href" in key]


def test_skip_connections_are_lines_around():
    drawn = scene(models.residual())
    root = ET.fromstring(svg(drawn, 9))
    lines = [e for e in root.iter("{http://www.w3.org/2000/svg}path")]
    edges = len(View(drawn, 9).edges())
    assert len(lines) >= edges + 1  # and the arrow; a line into an open group is two


def test_a_layout_keeps_the_order_and_leaves_room_for_lines():
    sizes = {key: (60.0, 20.0) for key in "abcdef"}
    edges = [("a", "b"), ("b", "c"), ("c", "d"), ("a", "d"), ("a", "e"), ("e", "f"), ("d", "f")]
    placed = layered(sizes, edges)
    assert all(placed.boxes[a][1] < placed.boxes[b][1] for a, b in edges)
    for line in placed.lines.values():
        for x, y in line[1:-1]:
            for bx, by in placed.boxes.values():
                assert not (abs(x - bx) < 30 and by < y < by + 20)
    assert layered({}, []).height == 0
    assert layered({"a": (5, 5)}, []).boxes == {"a": (2.5, 0)}


# -- Model Explorer

GRAPH = {"id", "nodes", "groupNodeAttributes"}
NODE = {
    "id": str, "label": str, "namespace": str, "attrs": list, "incomingEdges": list,
    "outputsMetadata": list,
}  # fmt: skip


def test_the_form_of_model_explorer(resnet):
    """The fields of `graph_builder.py` in google-ai-edge/model-explorer, and their types."""
    for drawn in (resnet, scene(named()), scene(models.multi_output())):
        collection = json.loads(model_explorer(drawn))
        assert collection.keys() == {"label", "graphs"}
        (graph,) = collection["graphs"]
        assert graph.keys() == GRAPH
        identifiers = {node["id"] for node in graph["nodes"]}
        assert len(identifiers) == len(graph["nodes"])
        for node in graph["nodes"]:
            assert {k: type(v) for k, v in node.items()} == NODE
            for pair in [*node["attrs"], *(p for o in node["outputsMetadata"] for p in o["attrs"])]:
                assert {k: type(v) for k, v in pair.items()} == {"key": str, "value": str}
            for edge in node["incomingEdges"]:
                assert edge["sourceNodeId"] in identifiers
                assert edge["sourceNodeOutputId"].isdigit() and edge["targetNodeInputId"].isdigit()
        edges = [(e["sourceNodeId"], n["id"]) for n in graph["nodes"] for e in n["incomingEdges"]]
        assert Counter(edges) == Counter((a, b) for a, b, _, _ in drawn["edges"])
        spaces = {n["namespace"] for n in graph["nodes"]} - {""}
        assert spaces <= graph["groupNodeAttributes"].keys()
        for space, said in graph["groupNodeAttributes"].items():
            assert ";" not in space and all(isinstance(v, str) for v in said.values())
            assert "/" not in space or space.rpartition("/")[0] in graph["groupNodeAttributes"]


def test_the_layers_of_model_explorer(resnet):
    nodes = json.loads(model_explorer(resnet))["graphs"][0]["nodes"]
    space = {node["label"]: node["namespace"] for node in nodes}
    assert space["conv4_block3_1_conv"] == "conv4/conv4_block x 5/conv4_block3"
    assert space["avg_pool"] == ""
    # Two groups of one label at one level stay two.
    spaces = [
        n["namespace"].partition("/")[0]
        for n in json.loads(model_explorer(scene(application("NASNetLarge"))))["graphs"][0]["nodes"]
    ]
    assert sum(s.startswith("up to normal_concat x 4") for s in set(spaces)) == 3


# -- all of them


@given(plans(), st.integers(0, 3))
@examples(15, 0)
def test_any_network(plan, depth):
    drawn = scene(interpret(plan))
    parsed(dot(drawn, depth))
    ET.fromstring(svg(drawn, depth))
    json.loads(model_explorer(drawn))
    assert max(map(len, text(drawn, depth).splitlines())) <= 100


# -- kg.show


def test_show_and_save(tmp_path):
    model = models.residual()
    for as_ in ("svg", "dot", "text", "model_explorer"):
        file = tmp_path / f"picture.{as_}"
        picture = kg.show(model, as_=as_, path=file)
        assert isinstance(picture, kg.Picture) and picture.format == as_
        assert file.read_text(encoding="utf-8") == str(picture) == str(kg.show(kg.read(model), as_))
        assert picture.save(tmp_path / "again") == tmp_path / "again"
    assert repr(kg.show(model, "svg")).startswith("<Picture: svg, ")
    assert repr(kg.show(model, "text")) == str(kg.show(model, "text"))
    names = kg.show(named(), "text")._repr_html_()
    assert names.startswith("<pre>") and "<img" not in names
    assert kg.show(model, "svg")._repr_html_().startswith("<svg")
    assert kg.show(model, "svg", depth=0).text != kg.show(model, "svg", depth=9).text


def test_reports_show_their_tables():
    report = kg.cuts(models.residual())
    assert str(kg.show(report, "text")) == str(report)
    with pytest.raises(
        kg.GraftError, match='A Cuts has no picture, it has tables: use as_="html" or as_="text"'
    ):
        kg.show(report, as_="svg")


@pytest.mark.parametrize("as_", ["png", "", 1, "SVG", [], {"html"}])
def test_another_kind_of_picture_is_refused(as_):
    with pytest.raises(
        kg.GraftError, match='use one of "html", "svg", "dot", "text", "model_explorer"'
    ):
        kg.show(models.residual(), as_=as_)


@pytest.mark.parametrize("depth", [-1, "1", 1.0, True, [1]])
def test_another_depth_is_refused(depth):
    with pytest.raises(kg.GraftError, match="use 0 for all groups closed, or more"):
        kg.show(models.residual(), as_="text", depth=depth)


@pytest.mark.parametrize("x", [None, 3, "model.keras", [], object()])
def test_what_is_no_network_is_refused(x):
    with pytest.raises(kg.ReadError):
        kg.show(x, as_="text")


def test_a_file_that_cannot_be_written(tmp_path):
    for path in (tmp_path / "gone" / "x.svg", tmp_path, "null\0byte"):
        with pytest.raises(kg.GraftError, match="The picture cannot be written to"):
            kg.show(models.residual(), as_="svg", path=path)


def test_a_page():
    pytest.importorskip("keras_graft.display.page")
    model = models.residual()
    page = kg.show(model)
    assert page.format == "html" and str(page).lower().startswith("<!doctype html>")
    frame = kg.read(model)._repr_html_()
    assert frame.startswith('<iframe sandbox="allow-scripts" ') and frame.count("<") == 2
    assert page._repr_html_() == frame
    assert "<h1" in str(kg.show(kg.sharing(model)))


def test_a_picture_is_a_value():
    assert dataclasses.replace(kg.Picture("a", "text")) == kg.Picture("a", "text")


def test_the_name_of_a_file_says_the_kind_of_picture(tmp_path):
    x = keras.Input((4,), name="x")
    model = keras.Model(x, keras.layers.Dense(2, name="out")(x), name="tiny")
    for name, kind in (("a.svg", "svg"), ("a.txt", "text"), ("a.html", "html"), ("a", "html")):
        assert kg.show(model, path=tmp_path / name).format == kind
    assert (tmp_path / "a.svg").read_text().startswith("<svg")
    assert kg.show(model, as_="dot", path=tmp_path / "b.gv").format == "dot"
    with pytest.raises(kg.GraftError, match="is html, and .*b.svg. has the name of another kind"):
        kg.show(model).save(tmp_path / "b.svg")
    with pytest.raises(kg.GraftError, match="kind PNG cannot be written.*ends in .svg"):
        kg.show(model, path=tmp_path / "b.png")
    assert not (tmp_path / "b.svg").exists() and not (tmp_path / "b.png").exists()
