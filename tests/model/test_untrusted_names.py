"""Names come from files: none may forge a line, or steer a terminal, in whatever is printed."""

import html
import inspect
import re
import warnings

import keras
import pytest
from keras import layers
from typer.testing import CliRunner

import keras_graft as kg
from keras_graft.printable import printable, quoted, words_of
from keras_graft.tables import html_table, table
from keras_graft_cli.app import app

FORGED = "x\nerror: all is lost"
STEERING = "\x1b[31m\x9b2J\r\u202e\u2066\u200b\ufeff\u2028\u3164\ufe0f\U000e0041\ud800\x00\x7f"
BAD = FORGED + STEERING + "[red]<b>&"
"""A new line, codes of a terminal, marks of direction, no width, a lone surrogate; markup."""


def assert_clean(text, lines=None):
    assert not re.search(r"^error: all is lost", text, re.M), text
    seen = text.replace("\n", "")
    assert seen.isprintable() and not set("\u3164\ufe0f") & set(seen), ascii(text)
    if lines is not None:
        assert len(text.splitlines()) == lines, text


def hostile(bad=BAD):
    """Return a model whose names are hostile; Keras lets them be set, and files hold them."""
    x = keras.Input((4,), name="x")
    a = layers.Dense(4, name="a")
    h = a(x)
    y = layers.Add(name="b")([a(h), h])
    model = keras.Model(x, layers.Dense(2, name="c")(y), name="m")
    for i, layer in enumerate(model.layers):
        layer.name = f"{i}{bad}"
    model.name = bad
    return model


def named_blocks():
    """Return a model whose hostile names are those of blocks."""
    x = y = keras.Input((4, 4), name="x")
    for i in range(2):
        z = layers.Dense(4, name=f"block{i}_dense")(y)
        y = layers.Add(name=f"block{i}_add")([y, z])
    model = keras.Model(x, y, name="m")
    for layer in model.layers[1:]:
        layer.name += BAD
    return model


def test_what_is_printable_stays_and_the_rest_is_escaped():
    assert printable("conv_1 äß 日本 ü") == "conv_1 äß 日本 ü"
    assert printable("a\nb\x1b[0m\u202e\ud800") == r"a\nb\x1b[0m\u202e\ud800"
    assert_clean(printable(BAD), 1)
    for text in ("plain", BAD, 'a"b', "back\\slash", "it's"):
        assert eval(quoted(text)) == text
        assert_clean(quoted(text), 1)
    assert words_of("one\nerror: all is lost\x1b") == "one\n  error: all is lost\\x1b"


def test_tables():
    assert_clean(table((BAD, "n"), [(BAD, 3), (None, 4)]), 3)
    page = html_table((BAD,), [(BAD,)])
    assert_clean(page, 1)
    assert "<b>" not in page and html.escape("<b>&") in page


@pytest.mark.parametrize(
    "error",
    [e for e in vars(kg).values() if inspect.isclass(e) and issubclass(e, kg.GraftError)],
)
def test_every_error(error):
    text = str(error(f"There is no {BAD!r}: {STEERING}"))
    assert_clean(text, 1)
    assert str(error("one\ntwo")) == "one\ntwo"  # our own messages have several lines


def test_reports_and_graphs():
    model = hostile()
    graph = kg.read(model)
    trunk = kg.extract(model, [graph.nodes[1]])
    for thing in (
        graph, kg.select(model, layers.Dense), kg.cuts(model), kg.sharing(model),
        kg.diff(model, kg.clone(graph)), kg.diff(model, trunk), kg.features.advise(model, 10),
        kg.transplant(model, kg.clone(model)), kg.stages(model), kg.stages(named_blocks()),
        kg.diff(model, kg.clone(model), by="value"), kg.diff(model, named_blocks(), by="value"),
    ):  # fmt: skip
        # That of a graph is a page with its code: tests/display/test_page.py.
        html = "" if thing is graph else thing._repr_html_()
        for text in (str(thing), html):
            assert_clean(text)
        assert all(map(str.isprintable, repr(thing).split("\n")))
        assert "<b>" not in html
    for item in (*graph.nodes, *graph.all_values(), *graph.inputs):
        assert_clean(repr(item), 1)
        assert_clean(repr(graph.value(item) if isinstance(item, kg.Value) else item), 1)


def attempts(model):
    a, a1, add, last = kg.read(model).nodes
    return [
        lambda: kg.select(model, "nothing"),
        lambda: kg.select(model, a.name + "x"),
        lambda: kg.split(model, a1),
        lambda: kg.split(model, layers.Dense),
        lambda: kg.submodel(model, a1),
        lambda: kg.join(model, model),
        lambda: kg.remove(model, add),
        lambda: kg.remove(model, last),
        lambda: kg.remove(model, add, keep=a),
        lambda: kg.remove(model, model.layers[0].name),
        lambda: kg.insert(model, layers.ReLU(), before=add),
        lambda: kg.insert(model, layers.ReLU(), after=layers.Dense),
        lambda: kg.insert(model, layers.Dense(3), after=add),
        lambda: kg.replace(model, add, layers.Dense(3)),
        lambda: kg.replace(model, add, layers.LSTM(3)),
        lambda: kg.rewire(model, {a: add}),
        lambda: kg.rewire(model, {last: add}),
        lambda: kg.inline(model, add.name),
        lambda: kg.nest(model, a1, add, "n"),
        lambda: kg.nest(model, a, last, a.name),
        lambda: kg.nest(model, a, last, BAD + "/"),
        lambda: kg.repeat(model, a, last, 2),
        lambda: kg.repeat(model, a1, a1, 2),
        lambda: kg.tie(model, a.name + ".kernel", last.name + ".kernel"),
        lambda: kg.tie(model, last.name + ".kernel", BAD),
        lambda: kg.untie(model, last.name + ".kernel"),
        lambda: kg.share(model, [a, last]),
        lambda: kg.unshare(model, last),
        lambda: kg.clone(model, share=BAD),
        lambda: kg.transplant(kg.submodel(model, outputs=add), model),
        lambda: kg.reinput(model, (5,)),
        lambda: kg.freeze(model, BAD),
        lambda: kg.recipes.add_adapters(model, 2),
        lambda: kg.recipes.fold_batchnorm(model),
    ]


@pytest.mark.parametrize("number", range(34))
def test_refusals(number):
    model = hostile()
    try:
        attempts(model)[number]()
    except kg.GraftError as error:
        assert_clean(str(error))


class Warns(layers.Layer):
    def call(self, x):
        return x

    @classmethod
    def from_config(cls, config):
        warnings.warn(f"{config['name']}: beware", stacklevel=1)
        return cls(**config)


@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="such names are refused there")
def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(keras.saving.get_custom_objects(), "Warns", Warns)
    bad = FORGED + "\x1b[31m\u202e[red]"
    model = keras.Sequential([keras.Input((2,)), Warns(name="w")])
    model.layers[0].name = bad
    model.save(tmp_path / "warns.keras")
    result = CliRunner().invoke(app, ["nodes", str(tmp_path / "warns.keras")])
    assert "warning: x\n  error: all is lost\\u202e[red]: beware\n" in result.stderr
    assert_clean(result.stderr)
    assert_clean(result.stdout)
    hostile(BAD.replace("\ud800", "").replace("\0", "")).save(tmp_path / "m.keras")
    model = tmp_path / "m.keras"
    for args in (
        ["nodes", model], ["cuts", model], ["nodes", model, "--select", "[red]zz\x1b"],
        ["split", model, "--at", "*", "-o", tmp_path], ["extract", model, "*", "-o", tmp_path / "\x1b[red]"],
        ["nodes", tmp_path / "\x1b[red].keras"], ["nodes", "app:\x1b[red]"],
        ["cuts", "app:VGG16", "--input-shape", "\x1b[red]"], ["[red]\x1b", model],
    ):  # fmt: skip
        result = CliRunner().invoke(app, [str(a) for a in args])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert_clean(result.stdout)
        assert_clean(result.stderr)
        if "[red]" in str(args):
            assert "[red]" in result.output


def test_a_path_in_the_place_of_a_model_is_told_to_load():
    words = "got str: 'net.keras'. Load it first: keras.models.load_model.'net.keras'"
    with pytest.raises(kg.ReadError, match=words):
        kg.cuts("net.keras")
