"""sharing and diff: what they say of models whose sharing and edits we know."""

import json

import keras
from keras import layers
from models import ALL, residual, shared, siamese

import keras_graft as kg


class Tied(layers.Layer):
    """Uses another layer's matrix, transposed."""

    def __init__(self, source, **kwargs):
        super().__init__(**kwargs)
        self.source = source

    def call(self, x):
        return keras.ops.matmul(x, keras.ops.transpose(self.source.embeddings))


def tied():
    ids = keras.Input((5,), dtype="int32", name="ids")
    embed = layers.Embedding(7, 3, name="embed")
    x = layers.Dense(3, name="mix")(embed(ids))
    return keras.Model(ids, Tied(embed, name="logits")(x), name="tied")


def test_sharing_counts_calls_and_ties():
    report = kg.sharing(shared())
    assert [(o.calls, o.parameters) for o in report.operations] == [
        (("shared#0", "shared#1", "shared#2"), 20)
    ]
    assert report.variables == ()
    report = kg.sharing(tied())
    assert report.operations == ()
    assert [(v.name, v.users, v.parameters) for v in report.variables] == [
        ("embed/embeddings", ("embed", "logits"), 21)
    ]
    text = str(report)
    assert "no operation is called more than once" in text
    assert "embed/embeddings  embed, logits      21" in text


def test_sharing_lists_a_shared_model_and_not_what_is_inside():
    report = kg.sharing(siamese())
    assert [o.calls for o in report.operations] == [("encoder#0", "encoder#1")]


def test_a_layer_shared_by_a_model_and_its_parent():
    layer = layers.Dense(4, name="both")
    inner = keras.Input((4,))
    sub = keras.Model(inner, layer(inner), name="sub")
    x = keras.Input((4,))
    report = kg.sharing(keras.Model(x, layer(sub(x))))
    assert [o.calls for o in report.operations] == [("sub/both", "both")]


def test_nothing_changed_between_a_model_and_itself():
    for make in ALL:
        model = make()
        report = kg.diff(model, kg.build(kg.read(model)))
        assert report.new == report.dropped == report.specs == report.other_outputs == ()
        assert report.shared_parameters == model.count_params(), make.__name__
        assert report.new_parameters == report.dropped_parameters == 0
        assert report.same_outputs


def test_diff_of_a_part():
    model = residual()
    report = kg.diff(model, kg.extract(model, ["add0", "pool"]))
    assert [x.name for x in report.dropped] == ["out"]
    assert report.dropped_parameters == model.get_layer("out").count_params()
    assert report.same_outputs == ("add0", "pool")
    assert report.other_outputs == ()


def test_inlining_changes_no_output():
    model = siamese()
    report = kg.diff(model, kg.join(*kg.split(model, at="encoder#0/d0", complete=True)))
    assert report.same_outputs == ("out",)
    assert report.new == report.dropped == ()


def test_downstream_of_a_change():
    x = keras.Input((4,), name="x")
    d, e, f = (layers.Dense(4, name=n) for n in "def")
    old = keras.Model(x, [d(x), f(e(x))])
    g = layers.Dense(4, name="g")
    new = keras.Model(x, [d(x), f(g(x))])
    report = kg.diff(old, new)
    assert report.same_outputs == ("d",)
    assert report.other_outputs == ("f",)
    assert [x.name for x in report.new] == ["g"]
    assert [x.name for x in report.dropped] == ["e"]
    assert (report.new_parameters, report.dropped_parameters) == (20, 20)
    assert "f       downstream of a change: may differ" in str(report)


def test_ties_kept_and_gone():
    model = tied()
    assert kg.diff(model, kg.build(kg.read(model))).ties_kept == ("embed/embeddings",)
    assert kg.diff(model, kg.extract(model, "mix")).ties_gone == ("embed/embeddings",)
    assert kg.diff(kg.extract(model, "mix"), model).ties_new == ("embed/embeddings",)


def test_changed_specs():
    layer = layers.GlobalAveragePooling1D(name="mean")
    first, second = keras.Input((4, 3), name="x"), keras.Input((4, 5), name="x")
    report = kg.diff(keras.Model(first, layer(first)), keras.Model(second, layer(second)))
    assert [(c.name, str(c.old), str(c.new)) for c in report.specs] == [
        ("mean", "(?, 3) float32", "(?, 5) float32")
    ]


def test_reports_are_data():
    model = tied()
    for report in (kg.sharing(model), kg.diff(model, model), kg.cuts(model)):
        assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
        assert "<table>" in report._repr_html_() and repr(report) == str(report)


def test_the_repr_of_every_report_is_its_table():
    """A dataclass would make its own, long one."""
    from keras_graft.features.store.store import FeatureStore
    from keras_graft.tables import Tabular

    kinds, found = [Tabular], []
    while kinds:
        found.append(kinds.pop())
        kinds += found[-1].__subclasses__()
    assert len(set(found)) > 12
    own = {kg.Graph, kg.Selection, FeatureStore}  # these are things, not reports
    for kind in set(found) - own:
        assert kind.__repr__ is Tabular.__repr__, kind
