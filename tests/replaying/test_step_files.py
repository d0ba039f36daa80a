"""Files of steps: what is wrong is named by file, line and step, and nothing in them runs."""

import json
import re
import sys
import time

import jsonschema
import keras
import pytest
import yaml
from keras import layers
from models import ALL

import keras_graft as kg
from keras_graft.replaying import schema
from keras_graft.replaying.verbs import verbs

pytestmark = pytest.mark.once

GOOD = """\
format: 1
steps:
- verb: insert
  arguments:
    new: {layer: keras.layers.Dropout, config: {rate: 0.5}}
    after: add0

- verb: remove
  arguments:
    target: bn0
"""


def written(tmp_path, text, suffix="yaml"):
    path = tmp_path / f"steps.{suffix}"
    path.write_text(text)
    return path


def refused(path, kind=kg.GraftError):
    with pytest.raises(kind) as caught:
        kg.replay(ALL[0](), path)
    text = str(caught.value)
    assert "\x1b" not in text and len(text) < 1000
    return text


def test_a_file_that_was_written_by_hand(tmp_path):
    model = ALL[0]()
    new = kg.replay(model, written(tmp_path, GOOD))
    assert [n.label for n in kg.read(new).nodes][:3] == ["stem", "conv0", "add0"]
    assert new.layers[4].rate == 0.5
    text = '[{"verb": "recipes.norm_swap", "arguments": {"groups": 2}}, {"verb": "freeze"}]'
    assert len(kg.steps(kg.replay(model, written(tmp_path, text, "json")))) == 2
    each = """
- verb: replace
  arguments:
    target: conv*
    new: {for_each: {layer: keras.layers.Conv2D, config: {filters: 4, kernel_size: 1}}}
"""
    new = kg.replay(model, written(tmp_path, each))
    assert {"conv0_conv2d", "conv1_conv2d"} <= {layer.name for layer in new.layers}


WRONG = {
    "verb": (GOOD.replace("insert", "insrt"), r"steps.yaml, line 3, step 1: there is no verb 'insrt'. Nearest: 'insert'"),
    "argument": (GOOD.replace("target", "targt"), r"line 10, step 2: remove has no argument 'targt'.*Nearest: 'target'"),
    "missing": (GOOD.replace("target: bn0", "{}"), r"line 8, step 2: remove needs 'target'"),
    "key": (GOOD.replace("- verb: remove", "- verb: remove\n  part: 1"), r"line 8, step 2: part= is for split"),
    "head": ("form: 1\nsteps: []", r"steps.yaml: 'form' is not known there"),
    "format": ("format: 7\nsteps: []", r"the format is 7, and this version.*reads format 1"),
    "no list": ("format: 1\nsteps: remove", r"steps are a list"),
    "nothing": ("format: 1", r"it has no steps"),
    "empty": ("", r"steps.yaml: the file is empty"),
    "yaml": ("steps:\n- [", r"steps.yaml, line 2: expected"),
    "twice": (GOOD.replace("    after: add0", "    after: add0\n    after: add1"), r"line 7: 'after' is there twice"),
    "number": ("- verb: 3", r"line 1, step 1: there is no verb 3. Verbs: 'extract'"),
    "date": ("- verb: remove\n  arguments:\n    target: 2026-01-01", r"line 3: '2026-01-01' is no text"),
    "on": ("- on: remove", r"line 1: the key True is not text"),
    "tag": ("- !!python/object/apply:os.system [touch x]", r"line 1: the tag .* is not read"),
    "scalar tag": ("- !!binary aGk=", r"line 1: 'aGk=' is no text"),
    "alias": ("- &a [x]\n- [*a, *a]", r"line 1: anchors and aliases"),
    "merge": ("- &a {verb: freeze}\n- <<: *a", r"anchors and aliases"),
    "model": (GOOD.replace("add0", "\"x\\e[31m\""), r"^steps.yaml, line 3, step 1, insert: Nothing in 'residual' matches 'x\\x1b"),
    "class": (GOOD.replace("keras.layers.Dropout", "os.Path"), r"step 1, insert: there is no class 'os.Path'"),
    "own class": (GOOD.replace("keras.layers.Dropout", "pkg>Mine"), r"no class 'pkg>Mine'.*register_keras_serializable"),
    "config": (GOOD.replace("rate: 0.5", "rat: 0.5"), r"'keras.layers.Dropout' cannot be made from its config"),
    "no layer": (GOOD.replace("keras.layers.Dropout", "keras.initializers.Zeros").replace("rate: 0.5", ""), r"is no layer, but Zeros"),
    "short": (GOOD.replace("keras.layers.Dropout", "Dropout"), r"write keras.layers.Dropout"),
    "stage": ("- verb: join\n  arguments: {stages: [head]}", r'line 2, step 1: join: a stage is \{"given"'),
    "given": ("- verb: join\n  arguments: {stages: [{given: head}]}", r"need 'head'"),
    "after": ("- verb: join\n  arguments: {stages: [{after: 5, steps: []}]}", r"after step 5, which was not done"),
    "part": ("- verb: split\n  part: 9\n  arguments: {at: add0}", r"part=9, and the split gives 2 parts"),
    "no part": ("- verb: split\n  arguments: {at: add0}", r"split gives several models: part="),
    "type": ("- verb: rewire\n  arguments: {reads: 3}", r"step 1, rewire: give"),
    "pairs": ("- verb: rewire\n  arguments: {reads: {pairs: [[[1], 2]]}}", r"step 1, rewire: 2 is not a selector"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_with_its_line(name, tmp_path):
    text, words = WRONG[name]
    assert re.search(words, refused(written(tmp_path, text)), re.S)


def test_json_has_lines_too(tmp_path):
    data = {
        "format": 1,
        "steps": [{"verb": "freeze"}, {"verb": "remove", "arguments": {"targt": "x"}}],
    }
    text = refused(written(tmp_path, json.dumps(data, indent=2), "json"))
    assert text.startswith("steps.json, line 10, step 2: remove has no argument 'targt'")
    for bad, words in {
        '[{"verb": "freeze"},]': "steps.json, line 1: ", "[NaN]": "NaN is no number",
        '{"format": 1, "format": 1, "steps": []}': "'format' is there twice", "3": "steps are a list",
        "": "steps.json, line 1", "[" * 100_000: "nested too deep", "[" + "9" * 5000 + "]": "steps.json",
    }.items():  # fmt: skip
        assert words in refused(written(tmp_path, bad, "json"))
    text = json.dumps({"a b": [1, {"c": "x]}"}], "steps": [{"verb": "nothing"}]}, indent=1)
    assert "'a b' is not known there" in refused(written(tmp_path, text, "json"))


def test_other_files_are_refused(tmp_path):
    assert "got '.txt'" in refused(written(tmp_path, "", "txt"))
    assert "cannot be read" in refused(tmp_path / "none.yaml")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe")
    assert "not text in UTF-8" in refused(tmp_path / "b.json")
    with pytest.raises(kg.GraftError, match="cannot be written"):
        kg.steps(ALL[0]()).save(tmp_path / "no" / "s.yaml")
    for wrong in (3, {"steps": 3}, [3], [{}], [{"verb": ["remove"]}], [{"verb": "remove", "arguments": {"target": {1: 2}}}], [{"verb": "remove", "arguments": {"target": object()}}]):  # fmt: skip
        with pytest.raises(kg.EditError):
            kg.replay(ALL[0](), wrong)


def test_files_are_bounded(tmp_path):
    start = time.process_time()
    laughs = "a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(50))
    assert "anchors" in refused(written(tmp_path, laughs))
    assert "too deep" in refused(written(tmp_path, "[" * 20_000 + "]" * 20_000))
    assert "bytes" in refused(written(tmp_path, "#" * (5 * 2**20)))
    assert "10,001 steps are more" in refused(
        written(tmp_path, '[{"verb": "freeze"}' + ', {"verb": "freeze"}' * 10_000 + "]", "json")
    )
    deep = {"verb": "remove", "arguments": {"target": []}}
    inner = deep["arguments"]["target"]
    for _ in range(200):
        inner.append([])
        inner = inner[0]
    assert "deep" in refused(written(tmp_path, json.dumps([deep]), "json"))
    huge = {"layer": "keras.layers.Dense", "config": {"units": 10**12}}
    step = {"verb": "insert", "arguments": {"new": huge, "after": "pool"}}
    assert "would have a weight of the shape" in refused(
        written(tmp_path, json.dumps([step]), "json")
    )
    step = {"verb": "repeat", "arguments": {"start": "add0", "stop": "add1", "times": 10_000}}
    twice = [{**step, "arguments": {**step["arguments"], "times": 1000}}, step]
    assert "which no steps may" in refused(written(tmp_path, json.dumps(twice), "json"))
    assert time.process_time() - start < 600


def test_nothing_in_a_file_runs_or_reads_another_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil_module.py").write_text("open('ran', 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "words.txt").write_text("secret\n")
    code = keras.saving.serialize_keras_object(layers.Lambda(lambda x: x))
    evil = {"class_name": "Thing", "module": "evil_module", "config": {}, "registered_name": None}
    get_file = {"class_name": "function", "module": "keras.utils", "config": "get_file"}
    for entry in (
        {"layer": "keras.layers.Lambda", "config": code["config"]},
        {"layer": "evil_module.Thing"},
        {"layer": "keras.layers.TimeDistributed", "config": {"layer": evil}},
        {"layer": "keras.layers.TimeDistributed", "config": {"layer": code}},
        {"layer": "keras.layers.Activation", "config": {"activation": get_file}},
        {"layer": "keras.layers.Activation", "config": {"activation": {**evil, "class_name": "function"}}},
        {"layer": "keras.layers.TFSMLayer", "config": {"filepath": str(tmp_path)}},
        {"layer": "keras.layers.StringLookup", "config": {"vocabulary": str(tmp_path / "words.txt")}},
        {"function": "keras.utils.get_file"}, {"function": "os.system"}, {"class": "os.PathLike"},
        {"function": "keras.ops.absolute.__globals__"}, {"function": "keras.ops"},
        {"each": [{"given": "words.txt"}]},
    ):  # fmt: skip
        step = {"verb": "insert", "arguments": {"new": entry, "after": "add0"}}
        refused(written(tmp_path, json.dumps([step]), "json"))
    assert not (tmp_path / "ran").exists() and "evil_module" not in sys.modules
    step = {"verb": "load_adapters", "arguments": {"path": str(tmp_path / "a.safetensors")}}
    assert "cannot be read" in refused([step]) or "no file" in refused([step]).lower()


def test_the_schema_is_that_of_the_signatures(tmp_path):
    assert schema.FILE.read_text() == schema.written()
    check = jsonschema.Draft202012Validator(json.loads(schema.FILE.read_text()))
    check.check_schema(schema.schema())
    model = ALL[0]()
    g = kg.insert(model, lambda node: layers.Conv2D(4, 1), after=["add0", "add1"])
    g = kg.join(*kg.split(g, at="add0"))
    g = kg.replace(g, "out", lambda x: x * 2.0)
    check.validate(kg.steps(g).to_dict())
    check.validate(yaml.safe_load(GOOD))
    for name in (
        "verb",
        "argument",
        "missing",
        "key",
        "format",
        "no list",
        "nothing",
        "stage",
        "no part",
    ):
        wrong = yaml.safe_load(WRONG[name][0])
        wrong = wrong if isinstance(wrong, dict) else {"format": 1, "steps": wrong}
        assert not check.is_valid(wrong), name
    assert set(verbs()) >= {"insert", "lora", "recipes.unet"}


def test_yaml_says_what_is_missing_without_pyyaml(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(kg.GraftError, match=r'pip install "keras-graft\[cli\]"'):
        kg.steps(ALL[0]()).save(tmp_path / "s.yaml")
    kg.steps(ALL[0]()).save(tmp_path / "s.json")
    assert "keras-graft[cli]" in refused(written(tmp_path, GOOD))
