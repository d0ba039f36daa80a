"""Graphs as text, before and after a call: on plain objects where no layer has to run."""

import re
from textwrap import dedent, indent

import keras
import pytest
from keras import layers

import keras_graft as kg
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Spec, Template, Value, flat_slots
from keras_graft.graph.walk import after, crossing, lacking, needed, swept

pytestmark = pytest.mark.once


def as_text(model):
    """Return a node a line, `name(kind): inputs -> output spec`, with what is inside it indented."""
    graph = kg.read(model)
    rows = []
    for node in graph.nodes:
        reads = ", ".join(map(graph.label, node.reads))
        specs = "; ".join(str(value.spec) for value in node.outputs)
        rows.append(f"{node.label}({node.kind}): {reads} -> {specs}")
        if node.nested is not None:
            rows.append(indent(as_text(node.nested), "    "))
    return "\n".join([*rows, "outputs: " + ", ".join(map(graph.label, graph.outputs))])


def lines(text):
    return dedent(text).strip()


def plain(text):
    """Return the graph of plain objects that has this text; what no node gives is an input."""
    *rows, last = lines(text).splitlines()
    nodes, values, operations = [], {}, {}

    def value(name):
        return values.setdefault(name, Value(Spec((None, 4)), name))

    for row in rows:
        label, kind, reads, specs = re.fullmatch(r"(.+)\((\w+)\): (.+) -> (.+)", row).groups()
        name = label.partition("#")[0]
        operation = operations.setdefault(name, type(kind, (), {"name": name})())
        inputs = tuple(map(value, reads.split(", ")))
        outputs = tuple(Value(Spec((None, int(n)))) for n in re.findall(r"\(\?, (\d+)\)", specs))
        labels = [label] if len(outputs) == 1 else [f"{label}:{i}" for i in range(len(outputs))]
        values.update(zip(labels, outputs, strict=True))
        nodes.append(Node(operation, Template((flat_slots(len(inputs)),)), inputs, outputs))
    made = {value for node in nodes for value in node.outputs}
    given = [value for value in values.values() if value not in made]
    outputs = [values[name] for name in last.removeprefix("outputs: ").split(", ")]
    graph = Graph(nodes, given, outputs, flat_slots(len(given)), flat_slots(len(outputs)), "plain")
    assert as_text(graph) == lines(text)
    return graph


def residual():
    return plain("""
        stem(Conv): image -> (?, 4) float32
        conv(Conv): stem -> (?, 4) float32
        add(Add): stem, conv -> (?, 4) float32
        head(Dense): add -> (?, 2) float32
        outputs: head
    """)


def tiny():
    x = keras.Input((4,), name="x")
    a = layers.Dense(4, name="a")(x)
    b = layers.ReLU(name="b")(a)
    model = keras.Model(x, layers.Add(name="add")([a, b]), name="tiny")
    assert as_text(model) == lines("""
        a(Dense): x -> (?, 4) float32
        b(ReLU): a -> (?, 4) float32
        add(Add): a, b -> (?, 4) float32
        outputs: add
    """)
    return model


def twice():
    i = keras.Input((4,), name="i")
    inner = keras.Model(i, layers.ReLU(name="e")(layers.Dense(4, name="d")(i)), name="inner")
    x = keras.Input((4,), name="x")
    return keras.Model(x, inner(inner(x)), name="twice")


def found(graph, selectors):
    """Return what each selector finds: a line each."""
    return "\n".join(f"{s} -> {' '.join(kg.select(graph, s).labels)}" for s in selectors)


def test_selectors():
    graph = plain("""
        one(Dense): x -> (?, 4) float32
        shared#0(Scale): one -> (?, 4) float32
        shared#1(Scale): shared#0 -> (?, 4) float32
        lstm(LSTM): shared#1 -> (?, 4) float32; (?, 3) float32
        out(Dense): lstm:0, lstm:1 -> (?, 2) float32
        outputs: out
    """)
    asked = ["one", "shared", "shared#1", "lstm:1", "o*", "?", "*ar*#0", ["out", "x"]]
    assert found(graph, [*asked, re.compile("^s")]) == lines("""
        one -> one
        shared -> shared#0 shared#1
        shared#1 -> shared#1
        lstm:1 -> lstm:1
        o* -> one out
        ? -> x
        *ar*#0 -> shared#0
        ['out', 'x'] -> out x
        re.compile('^s') -> shared#0 shared#1
    """)
    assert kg.select(graph, lambda node: node.kind == "Dense").labels == ["one", "out"]


def test_selectors_into_a_model_inside():
    asked = ["inner", "inner/d", "inner#1/d", "inner#1/*", "**/e", "inner/i"]
    assert found(twice(), asked) == lines("""
        inner -> inner#0 inner#1
        inner/d -> inner#0/d inner#1/d
        inner#1/d -> inner#1/d
        inner#1/* -> inner#1/d inner#1/e inner#1/i
        **/e -> inner#0/e inner#1/e
        inner/i -> inner#0/i inner#1/i
    """)
    assert kg.select(twice(), layers.Dense).labels == ["inner#0/d", "inner#1/d"]


def test_what_depends_on_what():
    graph = residual()
    stem, conv, add, head = (node.values[0] for node in graph)
    walks = {
        "add needs": needed(graph, [add]),
        "head needs, given conv": needed(graph, [head], [conv]),
        "behind conv": [n for n in graph if n in after(graph, [conv])],
        "crosses at conv": crossing(graph, graph.nodes[2:], graph.outputs, [conv]),
        "crosses at add": crossing(graph, graph.nodes[3:], graph.outputs, [add]),
        "lacks conv, given stem": lacking(graph, [conv], [stem]),
        "lacks conv, given add": lacking(graph, [conv], [add]),
    }
    rows = [f"{what}: {' '.join(map(graph.label, items))}".strip() for what, items in walks.items()]
    assert "\n".join(rows) == lines("""
        add needs: stem conv add
        head needs, given conv: stem add head
        behind conv: add head
        crosses at conv: stem
        crosses at add:
        lacks conv, given stem:
        lacks conv, given add: conv
    """)


def test_what_only_served_a_value_goes_with_it():
    graph = residual()
    stem, add = graph.nodes[0].values[0], graph.nodes[2].values[0]
    assert as_text(swept(graph.spliced({}, {add: stem}), [add])) == lines("""
        stem(Conv): image -> (?, 4) float32
        head(Dense): stem -> (?, 2) float32
        outputs: head
    """)


def test_extract():
    assert as_text(kg.extract(residual(), ["conv", "stem"])) == lines("""
        stem(Conv): image -> (?, 4) float32
        conv(Conv): stem -> (?, 4) float32
        outputs: conv, stem
    """)


def test_split_and_join():
    graph = residual()
    trunk, head = kg.split(graph, at="conv", complete=True)
    assert as_text(trunk) == lines("""
        stem(Conv): image -> (?, 4) float32
        conv(Conv): stem -> (?, 4) float32
        outputs: conv, stem
    """)
    assert as_text(head) == lines("""
        add(Add): stem, conv -> (?, 4) float32
        head(Dense): add -> (?, 2) float32
        outputs: head
    """)
    assert as_text(kg.join(trunk, head)) == as_text(graph)
    with pytest.raises(kg.CutError) as caught:
        kg.split(graph, at="conv")
    assert str(caught.value) == lines("""
        'conv' is not a cut of 'plain': 1 other value crosses there:
          'stem', needed by 'conv', 'add'
        This works: kg.split(model, at=("conv", "stem")), or at=... with complete=True.
    """)


def test_split_by_a_function_and_into_equal_parts():
    graph = residual()
    stages = kg.split(graph, by=lambda node: {"stem": "first", "head": "last"}.get(node.name))
    assert "\n\n".join(map(as_text, stages)) == lines("""
        stem(Conv): image -> (?, 4) float32
        conv(Conv): stem -> (?, 4) float32
        add(Add): stem, conv -> (?, 4) float32
        outputs: add

        head(Dense): add -> (?, 2) float32
        outputs: head
    """)
    stages = kg.split(kg.read(tiny()), parts=2, balance="bytes", complete=True)
    assert "\n\n".join(map(as_text, stages)) == lines("""
        a(Dense): x -> (?, 4) float32
        outputs: a

        b(ReLU): a -> (?, 4) float32
        add(Add): a, b -> (?, 4) float32
        outputs: add
    """)


def test_remat():
    assert as_text(kg.remat(tiny(), ["a", "b"])) == lines("""
        b_remat(Remat): x -> (?, 4) float32; (?, 4) float32
            a(Dense): x -> (?, 4) float32
            b(ReLU): a -> (?, 4) float32
            outputs: a, b
        add(Add): b_remat:0, b_remat:1 -> (?, 4) float32
        outputs: add
    """)


def drop():
    return layers.Dropout(0.5, name="drop")


def test_insert_behind_a_value_and_before_one_input():
    assert as_text(kg.insert(tiny(), drop(), after="a")) == lines("""
        a(Dense): x -> (?, 4) float32
        drop(Dropout): a -> (?, 4) float32
        b(ReLU): drop -> (?, 4) float32
        add(Add): drop, b -> (?, 4) float32
        outputs: add
    """)
    one = kg.insert(tiny(), drop(), between=("a", "add"))
    assert as_text(one) == lines("""
        a(Dense): x -> (?, 4) float32
        drop(Dropout): a -> (?, 4) float32
        b(ReLU): a -> (?, 4) float32
        add(Add): drop, b -> (?, 4) float32
        outputs: add
    """)
    assert as_text(kg.insert(tiny(), drop(), before="add:0")) == as_text(one)


def test_patch_by_a_number_a_function_and_an_input():
    patched = kg.patch(tiny(), {"a": 0, "add": lambda x: keras.ops.tanh(x)})
    assert as_text(patched) == lines("""
        a(Dense): x -> (?, 4) float32
        a_patched(Patched): a -> (?, 4) float32
        b(ReLU): a_patched -> (?, 4) float32
        add(Add): a_patched, b -> (?, 4) float32
        add_tanh(Tanh): add -> (?, 4) float32
        add_patched(Patched): add, add_tanh -> (?, 4) float32
        outputs: add_patched
    """)
    asked = kg.patch(tiny(), {"add": kg.Given("other")})
    assert as_text(asked) == lines("""
        a(Dense): x -> (?, 4) float32
        b(ReLU): a -> (?, 4) float32
        add(Add): a, b -> (?, 4) float32
        add_patched(Patched): add, other -> (?, 4) float32
        outputs: add_patched
    """)
    assert kg.read(asked).input_names == ("x", "other")


def test_replace_by_a_layer_and_by_a_function_of_tensors():
    graph = kg.replace(kg.read(tiny()), "add", layers.Concatenate(name="both"))
    assert as_text(kg.replace(graph, "b", lambda x: layers.Dense(3)(layers.Dense(7)(x)))) == lines("""
        a(Dense): x -> (?, 4) float32
        b_dense(Dense): a -> (?, 7) float32
        b_dense_1(Dense): b_dense -> (?, 3) float32
        both(Concatenate): a, b_dense_1 -> (?, 7) float32
        outputs: both
    """)


def test_rewrite_by_a_pattern():
    pattern = lambda x, b, add: add([b(x), x])  # noqa: E731
    found = kg.matches(tiny(), pattern, b=layers.ReLU, add=layers.Add)
    assert str(found) == lines("""
        1 match
        x  b  add
        a  b  add
    """)
    new = kg.rewrite(
        kg.read(tiny()), pattern, lambda x, b: keras.ops.tanh(b(x)), b=layers.ReLU, add=layers.Add
    )
    assert as_text(new) == lines("""
        a(Dense): x -> (?, 4) float32
        b(ReLU): a -> (?, 4) float32
        add_tanh(Tanh): b -> (?, 4) float32
        outputs: add_tanh
    """)


def test_plain():
    x = keras.Input((4,), name="x")
    y = kg.layers.Operator("pow", name="square")(layers.Dense(4, name="d")(x), 2)
    model = kg.freeze(keras.Model(x, y))
    assert as_text(model).startswith("d(Frozen)")
    assert as_text(kg.plain(model)) == lines("""
        d(Dense): x -> (?, 4) float32
        square_power(Power): d -> (?, 4) float32
        outputs: square_power
    """)


def test_remove_and_rewire():
    assert as_text(kg.remove(tiny(), "b")) == lines("""
        a(Dense): x -> (?, 4) float32
        add(Add): a, a -> (?, 4) float32
        outputs: add
    """)
    assert as_text(kg.rewire(tiny(), {"b": "x"})) == lines("""
        a(Dense): x -> (?, 4) float32
        add(Add): a, x -> (?, 4) float32
        outputs: add
    """)


def test_prune():
    x = keras.Input((4,), name="x")
    y = layers.Dense(6, name="wide")(x)
    model = keras.Model(x, layers.Dense(2, name="out")(layers.ReLU(name="act")(y)))
    assert as_text(kg.prune(model, {"wide": 2})) == lines("""
        wide(Dense): x -> (?, 4) float32
        act(ReLU): wide -> (?, 4) float32
        out(Dense): act -> (?, 2) float32
        outputs: out
    """)


def test_widen():
    x = keras.Input((4,), name="x")
    y = layers.Dense(6, name="wide")(x)
    model = keras.Model(x, layers.Dense(2, name="out")(layers.ReLU(name="act")(y)))
    assert as_text(kg.widen(model, {"wide": 9})) == lines("""
        wide(Dense): x -> (?, 9) float32
        act(ReLU): wide -> (?, 9) float32
        out(Dense): act -> (?, 2) float32
        outputs: out
    """)


def test_quantize_changes_no_call():
    assert as_text(kg.quantize(tiny(), "a")) == as_text(tiny())


def test_nest_and_inline():
    model = tiny()
    nested = kg.nest(model, "a", "add", name="block")
    assert as_text(nested) == lines("""
        a(Dense): x -> (?, 4) float32
        block(Functional): a -> (?, 4) float32
            b(ReLU): a -> (?, 4) float32
            add(Add): a, b -> (?, 4) float32
            outputs: add
        outputs: block
    """)
    assert as_text(kg.inline(nested)) == as_text(model)


def test_inline_a_model_that_is_called_twice():
    model = twice()
    assert as_text(model) == lines("""
        inner#0(Functional): x -> (?, 4) float32
            d(Dense): i -> (?, 4) float32
            e(ReLU): d -> (?, 4) float32
            outputs: e
        inner#1(Functional): inner#0 -> (?, 4) float32
            d(Dense): i -> (?, 4) float32
            e(ReLU): d -> (?, 4) float32
            outputs: e
        outputs: inner#1
    """)
    assert as_text(kg.inline(model)) == lines("""
        d#0(Dense): x -> (?, 4) float32
        e#0(ReLU): d#0 -> (?, 4) float32
        d#1(Dense): e#0 -> (?, 4) float32
        e#1(ReLU): d#1 -> (?, 4) float32
        outputs: e#1
    """)


def test_repeat_with_the_same_layers_and_with_copies():
    assert as_text(kg.repeat(tiny(), "a", "add", 2)) == lines("""
        a(Dense): x -> (?, 4) float32
        b#0(ReLU): a -> (?, 4) float32
        add#0(Add): a, b#0 -> (?, 4) float32
        b#1(ReLU): add#0 -> (?, 4) float32
        add#1(Add): add#0, b#1 -> (?, 4) float32
        outputs: add#1
    """)
    assert as_text(kg.repeat(tiny(), "a", "a", 2, weights="copy")) == lines("""
        a(Dense): x -> (?, 4) float32
        a_repeat(Dense): a -> (?, 4) float32
        b(ReLU): a_repeat -> (?, 4) float32
        add(Add): a_repeat, b -> (?, 4) float32
        outputs: add
    """)


def test_freeze_and_unfreeze():
    model = twice()
    frozen = kg.freeze(model, "inner/d")
    assert as_text(frozen) == as_text(model).replace("d(Dense)", "d(Frozen)")
    assert as_text(kg.unfreeze(frozen)) == as_text(model)
    frozen.trainable = False
    assert as_text(kg.unfreeze(frozen, "inner")) == as_text(model)
