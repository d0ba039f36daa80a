"""The file of the page: what may run in it, how names are escaped, what it carries."""

import base64
import hashlib
import json
from html.parser import HTMLParser
from importlib.resources import files

import page_scenes as scenes
import pytest

from keras_graft.display.page import CODE, page, page_of_tables

pytestmark = pytest.mark.once

ASSETS = files("keras_graft.display") / "page_files"


class Parsed(HTMLParser):
    """The elements of a page as a browser finds them: the texts of scripts and styles, and the policy."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.texts, self.policy = [], [], [], ""
        self._in = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.tags.append(tag)
        self.attributes += attrs
        self._in = (tag, known) if tag in ("script", "style", "title", "h1") else None
        if known.get("http-equiv") == "Content-Security-Policy":
            self.policy = known["content"]

    def handle_data(self, data):
        if self._in:
            self.texts.append((*self._in, data))

    def handle_endtag(self, tag):
        self._in = None

    def of(self, tag, **wanted):
        return [
            t
            for g, a, t in self.texts
            if g == tag and all(a.get(k) == v for k, v in wanted.items())
        ]


def digest(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def scene_in(text):
    (data,) = Parsed(text).of("script", id="scene")
    return json.loads(data)


def policy(text):
    parts = (part.split() for part in Parsed(text).policy.split(";"))
    return {name: values for name, *values in parts}


@pytest.mark.parametrize("text", [page(scenes.blocks()), page_of_tables("t", [("", ["a"], [[1]])])])
def test_only_its_own_scripts_and_styles_may_run(text):
    found, allowed = Parsed(text), policy(text)
    code = [
        t for tag, a, t in found.texts if tag == "script" and a.get("type") != "application/json"
    ]
    assert sorted(allowed["script-src"]) == sorted(map(digest, code))
    assert allowed["style-src"] == list(map(digest, found.of("style")))
    assert allowed["default-src"] == ["'none'"]
    assert allowed["worker-src"] == ["blob:"]
    assert allowed["base-uri"] == allowed["form-action"] == ["'none'"]


@pytest.mark.parametrize("text", [page(scenes.blocks()), page_of_tables("t", [])])
def test_nothing_is_fetched(text):
    found = Parsed(text)
    assert not {name for name, _ in found.attributes} & {"src", "href", "srcset", "action", "style"}
    assert "sourceMappingURL" not in text
    assert "url(http" not in text and "@import" not in text


def test_a_name_cannot_end_the_script_or_begin_one():
    plain, forged = Parsed(page(scenes.blocks())), Parsed(page(scenes.forged()))
    assert forged.tags == plain.tags
    assert forged.of("title") == [scenes.SCRIPT]
    (data,) = forged.of("script", id="scene")
    assert not set("<>&\u2028\u202e") & set(data) and data.isascii()


def test_names_arrive_as_they_are_and_invisible_characters_are_shown():
    items = scene_in(page(scenes.forged()))["items"]
    labels = [items[f"n{i}"]["label"] for i in range(10)]
    assert labels[:3] == [scenes.SCRIPT, scenes.PICTURE, scenes.LINK]
    assert labels[3] == r"a\u202egnp.exe\u2028\u200f"
    assert labels[5:] == ["{{code}}", "-->", "<!--", r"\ud800", "&lt;b&gt;"]


def test_a_scene_is_not_changed():
    scene = scenes.blocks()
    assert scene_in(page(scene)) == scene == scenes.blocks()


def test_scripts_put_nothing_in_as_html():
    for name in (*CODE, "layout"):
        code = (ASSETS / f"{name}.js").read_text()
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
        ):
            assert word not in code, (name, word)
        assert "</script" not in code and "<!--" not in code
        assert code.count("\n") <= 300, name


def test_every_file_is_used():
    used = {f"{name}.js" for name in (*CODE, "layout")}
    used |= {"dagre.min.js", "dagre.LICENSE", "page.css", "page.html", "tables.html"}
    assert {f.name for f in ASSETS.iterdir()} == used


def test_the_library_comes_with_its_licence():
    (library,) = Parsed(page(scenes.blocks())).of("script", id="layout-library")
    licence = (ASSETS / "dagre.LICENSE").read_text()
    assert "Permission is hereby granted" in licence
    assert licence.strip() in library


def test_the_empty_page_is_small():
    assert len(page(scenes.scene({}, []))) < 160_000


def test_tables_of_a_report():
    text = page_of_tables(
        scenes.SCRIPT,
        [
            (
                ("two", scenes.PICTURE),
                ["layer", "weights"],
                [[scenes.SCRIPT, 12345], ["b", None], ["c", "1.6 MB"]],
            ),
            ("only words", [], []),
        ],
    )
    found = Parsed(text)
    assert found.tags.count("script") == 1 and "img" not in found.tags
    assert found.of("h1") == found.of("title") == [scenes.SCRIPT]
    assert found.tags.count("table") == 1
    assert '<td class="number">12,345</td>' in text and '<td class="number">?</td>' in text
    assert '<td class="number">1.6 MB</td>' in text
    assert "<p>only words</p>" in text
