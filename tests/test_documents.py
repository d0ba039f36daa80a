"""Everything that the documents show runs: Python, commands, and what is printed."""

import contextlib
import io
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path

import keras
import numpy as np
import pytest
from architectures import cheap_weights
from feature_images import photos

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if not page.stem.startswith("benchmarks")]
LANGUAGES = {"python", "console", "text", "mermaid"}


def blocks(page):
    """Return the code blocks of a page: their language, and their text at its line of the page."""
    text = page.read_text()
    found = list(re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.S | re.M))
    assert 2 * len(found) == len(re.findall(r"^ *```", text, re.M)), f"{page.name}: an open block"
    return [(m[1], "\n" * text.count("\n", 0, m.start(2)) + m[2]) for m in found]


def run(page):
    """Run the Python blocks of a page in turn; return their names, and what each one printed."""
    names, printed = {"__name__": page.stem}, []
    for language, code in blocks(page):
        if language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(code, page.name, "exec"), names)
            printed.append(out.getvalue())
        elif language == "text" and printed:  # what the last Python block prints, or a part of it
            assert stripped(code) in stripped(printed[-1]), f"{page.name}:\n{printed[-1]}"
    return names


def stripped(text):
    """Return text without spaces at the ends of lines, and without empty lines around it."""
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


@pytest.mark.once
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_says_its_language(page):
    assert {language for language, _ in blocks(page)} <= LANGUAGES


@pytest.mark.once
@pytest.mark.parametrize("page", PAGES[2:], ids=lambda page: page.stem)
def test_the_code_of_a_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keras.utils.clear_session()  # layers without names are counted as in a new process
    with cheap_weights():
        run(page)


def test_the_code_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = ROOT / "README.md"
    code, shown = (
        next(code for language, code in blocks(page) if language == wanted)
        for wanted in ("python", "text")
    )
    names = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, page.name, "exec"), names)
    x = np.ones((1, 64, 64, 3), "float32")
    expected = keras.ops.convert_to_numpy(names["model"](x))
    for same in (names["whole"](x), names["head"](names["trunk"](x)), names["new"](x)):
        assert np.array_equal(expected, keras.ops.convert_to_numpy(same))
    assert len(names["taps"](x)) == 2
    # The refusal that it shows, word for word.
    with pytest.raises(names["kg"].CutError) as caught:
        names["kg"].split(names["model"], at="conv3_block2_1_relu")
    assert str(caught.value) == shown.strip()


def commands(page):
    """Return the commands of a page, without comments, as lists of words."""
    lines = "".join(code for language, code in blocks(page) if language == "console").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.once
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page(page, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from keras_graft_cli.app import app

    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.ones((3, 32, 32, 3), "float32"))
    if page.stem in ("README", "fine-tune", "command", "train-a-head"):
        photos(tmp_path / "photos", (8, 8, 4))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    for words in commands(page):
        while "=" in words[0]:
            words.pop(0)
        match words:
            case ["keras-graft", *rest]:
                with cheap_weights():
                    result = CliRunner().invoke(app, rest)
                assert result.exit_code == 0, (words, result.output, result.exception)
            case ["make", target]:
                assert target in targets
            case ["pip", "install", what]:
                named = what.partition("[")[2].strip("]").split(",")
                assert set(named) <= set(extras["optional-dependencies"])
            case ["export", setting]:
                assert setting.startswith("KERAS_BACKEND=")
            case [".venv/bin/python", *rest]:
                assert all((ROOT / word).exists() for word in rest if word.endswith(".py")), words
            case _:
                raise AssertionError(f"{page.name} shows a command that nothing checks: {words}")


@pytest.mark.once
def test_links_lead_somewhere():
    for page in [*PAGES, ROOT / "CHANGELOG.md", ROOT / "examples" / "README.md"]:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            there = link.startswith("https://") or (page.parent / link).exists()
            assert there, (page.name, link)


@pytest.mark.once
def test_every_extra_is_in_the_readme():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "README.md").read_text()
    assert all(f"| `{extra}` |" in text for extra in project["optional-dependencies"])


@pytest.mark.once
def test_the_benchmark_runs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["structure.py", "--quick"])
    for name in ("RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling"):
        cls = getattr(keras.initializers, name)
        monkeypatch.setattr(cls, "__call__", cls.__call__)  # it replaces them: put them back
    limit = sys.getrecursionlimit()
    try:
        runpy.run_path(str(ROOT / "benchmarks" / "structure.py"), run_name="__main__")
    finally:
        sys.setrecursionlimit(limit)
    page = capsys.readouterr().out
    assert "MobileNetV3Small" in page and re.search(r"none\s+0\s+\d+", page)
