"""The site is built strictly from the sources alone, and fetches nothing."""

import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keras_graft as kg

ROOT = Path(__file__).parent.parent
MODULES = (
    "keras_graft",
    *(f"keras_graft.{m}" for m in ("features", "layers", "recipes", "testing")),
)
MODULES += ("keras_graft.weights.resize",)


def public():
    """Return every public name as the reference writes it, with the object."""
    for place in MODULES:
        module = importlib.import_module(place)
        names = getattr(module, "__all__", None) or [
            name
            for name, thing in vars(module).items()
            if inspect.isfunction(thing) and thing.__module__ == place and name[0] != "_"
        ]
        for name in names:
            if not inspect.ismodule(getattr(module, name)):
                yield f"{place.replace('.weights.', '.')}.{name}", getattr(module, name)


NAMES = dict(public())


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    # It reads the sources and imports none: it needs neither Keras nor the network. (With `--quiet`
    # nothing would fail: warnings are not counted then.)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.html")
    }


@pytest.mark.once
def test_every_page_is_there(site):
    for path in (ROOT / "docs").rglob("*.md"):
        assert path.relative_to(ROOT / "docs").with_suffix(".html").as_posix() in site
    assert {"index.html", "examples.html", "contributing.html", "changelog.html"} <= site.keys()
    assert "examples/digits.html" in site and "examples/notebooks/look_and_cut.html" in site


@pytest.mark.once
def test_nothing_is_fetched(site):
    fetched = re.compile(
        r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=\"?((?:https?:)?//[^\s\">]+)"
    )
    for name, text in site.items():
        assert not fetched.findall(text), (name, fetched.findall(text))
        assert "mermaid" not in text, f"{name}: the theme would fetch a library for this block"


@pytest.mark.once
def test_every_public_name_is_in_the_reference(site):
    text = "".join(text for name, text in site.items() if name.startswith("reference/"))
    missing = [name for name in NAMES if f"id={name}" not in text and f'id="{name}"' not in text]
    assert not missing
    assert "&gt;&gt;&gt; import" not in re.sub(r"<code>.*?</code>", "", text, flags=re.S), (
        "a doctest as text"
    )


@pytest.mark.once
def test_every_function_has_an_example():
    lacking = [
        name
        for name, thing in NAMES.items()
        if callable(thing)
        and not inspect.isclass(thing)
        and ">>>" not in (inspect.getdoc(thing) or "")
    ]
    assert not lacking


@pytest.mark.once
def test_links_between_pages_work_on_the_site_too(site):
    links = {name: set(re.findall(r'<a\b[^>]*?href="?([^\s">#]+)', site[name])) for name in site}
    assert {"cut.html", "contributing.html", "examples.html"} <= links["index.html"]
    assert "examples/share_a_layer.html" in links["six-techniques.html"]
    assert "examples/notebooks/look_and_cut.html" in links["examples.html"]
    del links["404.html"]  # served at any address, so it names each page from the root
    for name, found in links.items():
        for link in found:
            if not re.match(r"https?:|mailto:|javascript:", link):
                goal = os.path.normpath(os.path.join(os.path.dirname(name), link))
                assert goal == "." or goal in site or goal.endswith((".svg", ".png")), (name, link)


@pytest.mark.once
def test_a_flow_chart_that_is_not_understood_is_refused(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "make"))
    flowchart = importlib.import_module("flowchart")
    drawn = flowchart.svg(
        'flowchart LR\n a[One] -->|"to <b>"| b["Two"]\n b --> c[Three]\n a --> c\n a -. "same" .- c'
    )
    assert drawn.count("<rect") == 3 and drawn.count("<path") == 7 and "to &lt;b&gt;" in drawn
    for text in ("graph LR\n a --> b", "flowchart LR\n a ==> b", "flowchart LR\n a{x} --> b"):
        with pytest.raises(ValueError):
            flowchart.svg(text)


@pytest.mark.once
@pytest.mark.skipif(not hasattr(kg, "show"), reason="there are no pictures yet")
@pytest.mark.parametrize("name", ["edit", "tied"])  # "network" is a ResNet50
def test_the_pictures_are_those_of_the_pages(name, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "make"))
    monkeypatch.chdir(tmp_path)
    pictures = importlib.import_module("pictures")
    before = (ROOT / "docs" / "pictures" / f"{name}.svg").read_text()
    assert pictures.drawn(name) == before, "run: make pictures"


@pytest.mark.once
def test_every_example_is_in_the_index():
    text = (ROOT / "examples" / "README.md").read_text()
    for path in [*(ROOT / "examples").glob("*.py"), *(ROOT / "examples").glob("notebooks/*.ipynb")]:
        link = path.relative_to(ROOT / "examples").as_posix()
        assert f"]({link})" in text, f"examples/README.md does not list {link}"


@pytest.mark.once
def test_names_are_found():
    assert "keras_graft.extract" in NAMES and "keras_graft.resize.classes" in NAMES
    assert (
        NAMES["keras_graft.testing.assert_same_outputs"]
        and kg.extract is NAMES["keras_graft.extract"]
    )
