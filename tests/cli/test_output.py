"""What people see: tables that fit the terminal, plain text in pipes, a pager, JSON with a schema."""

import io
import json
import re
import sys

import jsonschema
import keras
import pytest
from commands import data, run
from keras import layers
from models import residual

import keras_graft as kg
from keras_graft_cli import output
from keras_graft_cli.applications import NAMES
from keras_graft_cli.schema import schema_of, with_schema

pytestmark = pytest.mark.once


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Return a function that shows something on a terminal of a width, and returns what it sees."""

    def shown(thing, width, height=1000):
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("LINES", str(height))
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setattr(sys, "stdout", Terminal())
        output.write(thing)
        return sys.stdout.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    return shown


def plain(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.fixture(scope="module")
def mobilenet():
    return keras.applications.MobileNetV2(weights=None, input_shape=(64, 64, 3))


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_the_terminal(width, terminal, mobilenet):
    for report in (
        kg.read(mobilenet),
        kg.cuts(mobilenet, most=None),
        kg.features.advise(mobilenet, 1000, most=None),
    ):
        seen = terminal(report, width)
        lines = plain(seen).splitlines()
        assert max(map(len, lines)) <= width and "\x1b[" in seen
        assert not re.search(r"^\s*\d[\d,]*,$", plain(seen), re.M)  # no number is broken
        for name in ("block_10_project_BN", "block_16_depthwise_BN"):
            assert any(line.split()[:1] == [name] for line in lines), name


def test_no_color_is_respected(terminal, mobilenet, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    seen = terminal(kg.cuts(mobilenet), 80)
    assert not re.search(r"\x1b\[[0-9;]*3\dm", seen)


def test_names_cannot_write_to_the_terminal(terminal):
    x = keras.Input((3,), name="x")
    model = keras.Model(x, layers.Dense(2, name="[red]a\x1b[2Jb")(x))
    seen = terminal(kg.read(model), 80)
    assert r"[red]a\x1b[2Jb" in plain(seen) and "\x1b[2J" not in seen


def test_long_output_is_paged_on_a_terminal_only(terminal, mobilenet, monkeypatch, tmp_path):
    read = tmp_path / "read"
    monkeypatch.setenv("PAGER", f"cat > {read}")
    monkeypatch.setattr(sys, "stdin", Terminal())
    assert terminal(kg.cuts(mobilenet, most=None), 80, height=24) == ""
    assert "block_10_project_BN" in read.read_text()
    read.unlink()
    assert "Conv1" in terminal(kg.cuts(mobilenet, most=None), 80, height=1000) and not read.exists()
    monkeypatch.setenv("PAGER", "no-such-pager")
    assert "Conv1" in terminal(kg.cuts(mobilenet, most=None), 80, height=24)


def test_a_pipe_gets_plain_text(tmp_path):
    residual().save(tmp_path / "m.keras")
    said = run("cuts", tmp_path / "m.keras").stdout
    assert said.strip() == str(kg.cuts(residual())) and "\x1b" not in said


def test_every_command_with_json_has_a_schema(tmp_path):
    for name in with_schema():
        schema = json.loads(run("schema", *name.split()).stdout)
        assert schema == schema_of(name)
        jsonschema.Draft202012Validator.check_schema(schema)
    assert "Nearest: cuts" in run("schema", "cutz", code=2).stderr
    residual().save(tmp_path / "m.keras")
    m = tmp_path / "m.keras"
    assert data("nodes", m)["inputs"] == ["image"]
    assert data("cuts", m)[0]["name"] == kg.cuts(residual())[0].name
    assert data("sharing", m)["ties"] == []
    assert data("advise", m, "--samples", 5)["samples"] == 5
    assert data("diff", m, m)["new"] is not None
    assert data("split", m, "--at", "add0", "-o", tmp_path / "p")["written"][1]["parameters"] > 0


def test_schemas_say_what_is_wrong():
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate([{"name": "a"}], schema_of("cuts"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"written": [{"path": 1}]}, schema_of("split"))


def test_the_architectures_are_those_of_keras():
    known = [
        name for name, make in vars(keras.applications).items()
        if callable(make) and not name.startswith("_")
    ]  # fmt: skip
    assert sorted(known) == NAMES


def test_unexpected_errors_are_one_line_and_debug_shows_them(tmp_path, monkeypatch):
    residual().save(tmp_path / "m.keras")

    def broken(*_):
        raise KeyError("lost\nhere")

    monkeypatch.setattr(kg, "cuts", broken)
    said = run("cuts", tmp_path / "m.keras", code=1).stderr
    assert said.startswith("error: KeyError: ") and "--debug shows where" in said
    assert said.count("\n") == 1
    from commands import CliRunner, app

    result = CliRunner().invoke(app, ["cuts", str(tmp_path / "m.keras"), "--debug"])
    assert isinstance(result.exception, KeyError)
