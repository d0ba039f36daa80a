"""Edits keep the class of a model, with the attributes that its methods use."""

import copy
import gc
import pickle
import warnings
import weakref

import keras
import numpy as np
import pytest

import keras_graft as kg

TORCH = keras.backend.backend() == "torch"


@keras.saving.register_keras_serializable("test_class_kept")
class Trained(keras.Model):
    """Takes what a Functional takes; trains in its own way."""

    def train_step(self, *args, **kwargs):
        Trained.steps += 1
        return super().train_step(*args, **kwargs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return 3.0 * super().compute_loss(x, y, y_pred, sample_weight, training=training)

    def doubled(self, x):
        return 2 * self(x)

    steps = 0


@keras.saving.register_keras_serializable("test_class_kept")
class Net(keras.Model):
    """Makes its own network, as backbones do."""

    def __init__(self, blocks=4, width=3, **kwargs):
        x = keras.Input((width,), name="x")
        stem = keras.layers.Dense(width, name="stem")
        body = [keras.layers.Dense(width, "tanh", name=f"block_{i}") for i in range(blocks)]
        y = stem(x)
        taps = {}
        for layer in body:
            y = layer(y)
            taps[layer.name] = y
        head = keras.layers.Dense(2, name="head")
        super().__init__(x, head(y), **kwargs)
        self.stem, self.body, self.head, self.taps, self.first = stem, body, head, taps, x
        self.nested = {"pair": (stem, [head]), "width": width}
        self.blocks, self.width = blocks, width
        self.scale = 2.5

    def by_hand(self, x):
        y = self.stem(x)
        for layer in self.body:
            y = layer(y)
        return self.head(y)

    def get_config(self):
        return {"name": self.name, "blocks": self.blocks, "width": self.width}


def _trained():
    x = keras.Input((4,), name="x")
    y = keras.layers.Dense(4, "relu", name="a")(x)
    y = keras.layers.Dropout(0.2, name="drop")(y)
    y = keras.layers.Dense(4, "relu", name="b")(y)
    return Trained(x, keras.layers.Dense(2, name="out")(y), name="trained")


def _data(width, count=5):
    return np.random.default_rng(0).normal(size=(count, width)).astype("float32")


def _array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def _same(one, other, data):
    np.testing.assert_array_equal(_array(one(data)), _array(other(data)))


def _alike(one, other, data):
    np.testing.assert_allclose(_array(one(data)), _array(other(data)), atol=1e-6)


EDITS = {
    "replace": lambda m: kg.replace(m, "drop", keras.layers.Dropout(0.1, name="other")),
    "insert": lambda m: kg.insert(m, keras.layers.Dense(4, name="new"), after="a"),
    "remove": lambda m: kg.remove(m, "drop"),
    "rewire": lambda m: kg.rewire(m, {"drop": "a"}),
    "repeat": lambda m: kg.repeat(m, "a", "b", 2, weights="copy"),
    "reinput": lambda m: kg.reinput(m, batch_shape=(5, 4)),
    "freeze": lambda m: kg.freeze(m, "a"),
    "unfreeze": lambda m: kg.unfreeze(kg.freeze(m, "a"), "a"),
    "nest": lambda m: kg.nest(m, "a", "b", name="inner"),
    "inline": lambda m: kg.inline(kg.nest(m, "a", "b", name="inner"), "inner"),
    "tie": lambda m: kg.tie(m, "b/kernel", "a/kernel"),
    "untie": lambda m: kg.untie(kg.tie(m, "b/kernel", "a/kernel"), "b/kernel"),
    "share": lambda m: kg.share(m, ["a", "b"]),
    "unshare": lambda m: kg.unshare(kg.share(m, ["a", "b"]), "a#1"),
    "build": lambda m: kg.build(kg.read(m)),
    "copy": lambda m: kg.build(kg.read(m), weights="copy"),
    "clone": lambda m: kg.clone(m),
    "graph": lambda m: kg.build(kg.remove(kg.insert(
        kg.read(m), keras.layers.Dense(4, name="new"), after="a"), "drop")),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_every_edit_keeps_the_class(edit, tmp_path):
    model, data = _trained(), _data(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", kg.GraftWarning)
        new = EDITS[edit](model)
    assert isinstance(new, Trained) and type(new).__name__ == "Trained"
    assert kg.diff(model, new).classes == ("Trained", "Trained")
    np.testing.assert_array_equal(_array(new.doubled(data)), 2 * _array(new(data)))
    new.compile("sgd", "mse")
    plain = keras.Model(new.inputs, new.outputs)
    plain.compile("sgd", "mse")
    target = np.zeros((5, 2), "float32")
    loss = new.evaluate(data, target, batch_size=5, verbose=0)
    expected = plain.evaluate(data, target, batch_size=5, verbose=0)
    np.testing.assert_allclose(loss, 3 * expected, rtol=1e-5)
    Trained.steps = 0
    new.fit(data, target, batch_size=5, verbose=0)
    assert Trained.steps > 0
    new.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert isinstance(loaded, Trained)
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in new.layers]
    assert loaded.count_params() == new.count_params()
    _alike(loaded, new, data)
    new.save_weights(tmp_path / "m.weights.h5")
    other = kg.clone(new, weights="fresh")
    assert isinstance(other, Trained)
    other.load_weights(tmp_path / "m.weights.h5")
    _alike(other, new, data)
    _same(kg.clone(new), new, data)


@pytest.mark.parametrize("edit", ["remove", "replace", "insert"])
def test_a_file_of_a_class_that_keras_can_make_again_needs_no_other(edit, tmp_path):
    assert type(EDITS[edit](_trained())) is Trained


@pytest.mark.parametrize("verb", ["extract", "submodel", "split", "join"])
def test_a_part_is_a_plain_functional(verb):
    model = _trained()
    part = {
        "extract": lambda: kg.extract(model, "a"),
        "submodel": lambda: kg.submodel(model, outputs="b"),
        "split": lambda: kg.split(model, at="b")[0],
        "join": lambda: kg.join(*kg.split(model, at="b")),
    }[verb]()
    assert type(part).__name__ == "Functional"
    report = kg.diff(model, part)
    assert report.classes == ("Trained", "Functional")
    assert "class before" in str(report)
    assert report.to_dict()["classes"] == {"old": "Trained", "new": "Functional"}


def test_attributes_refer_to_the_layers_of_the_new_graph(tmp_path):
    model, data = Net(), _data(3)
    new = kg.remove(model, ["block_1", "block_3"])
    assert isinstance(new, Net)
    assert [layer.name for layer in new.body] == ["block_0", "block_2"]
    assert new.stem is model.stem and new.body[1] is model.body[2]
    assert new.nested["pair"][0] is model.stem and new.nested["width"] == 3
    assert new.scale == 2.5 and new.blocks == 4
    _same(new.by_hand, new, data)
    assert list(new.taps) == ["block_0", "block_1", "block_2", "block_3"]
    tapped = keras.Model(new.inputs, new.taps["block_2"])
    _same(tapped, kg.extract(new, "block_2"), data)
    _same(keras.Model(new.first, new.output), new, data)
    assert [layer.name for layer in model.body] == [f"block_{i}" for i in range(4)]  # the donor
    assert type(model) is Net

    new.save(tmp_path / "n.keras")
    loaded = keras.models.load_model(tmp_path / "n.keras")
    assert isinstance(loaded, Net) and type(loaded).__name__ == "Net"
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in new.layers]
    assert loaded.body == [loaded.get_layer("block_0"), loaded.get_layer("block_2")]
    assert loaded.nested["pair"][1][0] is loaded.get_layer("head")
    assert loaded.blocks == 4 and loaded.scale == 2.5
    _alike(loaded, new, data)
    _alike(loaded.by_hand, new, data)
    _alike(keras.Model(loaded.first, loaded.taps["block_2"]), tapped, data)
    again = kg.remove(loaded, "block_0")
    assert [layer.name for layer in again.body] == ["block_2"]
    _same(again.by_hand, again, data)
    copied = kg.clone(new)
    assert copied.body[0] is copied.get_layer("block_0") is not new.body[0]
    _same(copied.by_hand, new, data)
    made = type(new).from_config(new.get_config())
    assert [layer.name for layer in made.layers] == [layer.name for layer in new.layers]
    assert keras.models.clone_model(new).count_params() == new.count_params()


def test_a_model_that_keeps_its_class_is_copied_and_pickled():
    new, data = kg.remove(Net(), ["block_1"]), _data(3)
    for made in (
        copy.deepcopy(new),
        pickle.loads(pickle.dumps(new)),
        keras.models.model_from_json(new.to_json()),
    ):
        assert isinstance(made, Net)
        assert [layer.name for layer in made.body] == ["block_0", "block_2", "block_3"]
        made.set_weights(new.get_weights())
        _alike(made.by_hand, new, data)
    assert type(type(new)(blocks=2)) is Net  # the class is called as that of the donor


def test_a_class_that_is_not_registered_is_asked_for(tmp_path):
    class Own(Net):
        pass

    new = kg.remove(Own(), "block_1")
    new.save(tmp_path / "o.keras")
    with pytest.raises(TypeError, match="Could not locate class 'Own'"):
        keras.models.load_model(tmp_path / "o.keras")
    loaded = keras.models.load_model(tmp_path / "o.keras", custom_objects={"Own": Own})
    assert isinstance(loaded, Own) and len(loaded.body) == 3


def test_what_is_gone_says_so(tmp_path):
    model = Net()
    new = kg.remove(model, "stem")
    words = (
        r"no attribute 'stem' any more: the layer 'stem', which it holds, was removed by an edit"
    )
    with pytest.raises(AttributeError, match=words):
        new.stem  # noqa: B018
    assert not hasattr(new, "stem")
    assert new.nested["pair"] == ([model.head],)
    new.save(tmp_path / "n.keras")
    loaded = keras.models.load_model(tmp_path / "n.keras")
    for one in (loaded, kg.clone(new), kg.remove(loaded, "block_1")):
        with pytest.raises(AttributeError, match=words):
            one.stem  # noqa: B018
    new.stem = keras.layers.Identity(name="stem")  # the way out
    assert new.stem.name == "stem"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        new.nothing  # noqa: B018


@pytest.mark.filterwarnings("ignore:.* between layers that the attribute")
def test_a_layer_in_the_place_of_another_is_what_the_attribute_holds():
    model, data = Net(), _data(3)
    new = kg.replace(model, "block_*", lambda node: keras.layers.Dense(3, name=f"n_{node.name}"))
    assert [layer.name for layer in new.body] == [f"n_block_{i}" for i in range(4)]
    _same(new.by_hand, new, data)
    new = kg.insert(new, keras.layers.Dense(3, name="more"), after="stem")
    new = kg.replace(new, "stem", keras.layers.Dense(3, name="stem2"))
    assert new.stem.name == "stem2"
    graph = kg.replace(kg.read(model), "block_1", keras.layers.Dense(3, name="one"))
    graph = kg.replace(graph, "one", keras.layers.Dense(3, name="two"))
    assert [layer.name for layer in kg.build(graph).body][1] == "two"
    frozen = kg.freeze(model, "stem")
    assert isinstance(frozen.stem, kg.layers.Frozen)
    assert len(frozen.trainable_variables) == len(model.trainable_variables) - 2
    _same(frozen.by_hand, frozen, data)


def test_several_layers_in_the_place_of_one_make_the_attribute_say_so():
    model = Net()

    def two(node):
        return lambda x: keras.layers.Dense(3, name="v")(keras.layers.Dense(3, name="u")(x))

    new = kg.replace(model, "block_1", two)
    words = "attribute 'body' any more: the layer 'block_1'.*in its place are .*'u'.*'v'"
    with pytest.raises(AttributeError, match=words):
        new.body  # noqa: B018
    assert new.stem is model.stem


def test_a_graph_that_was_copied_keeps_class_and_attributes():
    model, data = Net(), _data(3)
    graph = kg.clone(kg.remove(kg.read(model), "block_1"))
    new = kg.build(kg.remove(graph, "block_2"))
    assert isinstance(new, Net)
    assert [layer.name for layer in new.body] == ["block_0", "block_3"]
    assert new.stem is new.get_layer("stem") is not model.stem
    _same(new.by_hand, new, data)
    _same(keras.Model(new.first, new.taps["block_3"]), kg.extract(new, "block_3"), data)


def test_a_nested_model_keeps_its_class(tmp_path):
    inner, data = Net(name="net"), _data(3)
    x = keras.Input((3,), name="in")
    outer = keras.Model(x, keras.layers.Dense(1, name="end")(inner(x)), name="outer")
    outer.note = "kept"
    new = kg.remove(outer, "net/block_1")
    assert isinstance(new.get_layer("net"), Net)
    assert [layer.name for layer in new.get_layer("net").body] == ["block_0", "block_2", "block_3"]
    assert type(new).__name__ == "Functional" and new.note == "kept"
    new.save(tmp_path / "o.keras")
    loaded = keras.models.load_model(tmp_path / "o.keras")
    assert isinstance(loaded.get_layer("net"), Net) and len(loaded.get_layer("net").body) == 3
    _alike(loaded, new, data)


@keras.saving.register_keras_serializable("test_class_kept")
class Holder(keras.Model):
    """A model that holds other models, things of its own, and one that its graph does not have."""

    def __init__(self, encoder, **kwargs):
        x = keras.Input((3,), name="in")
        head = keras.layers.Dense(1, name="end")
        super().__init__(x, head(encoder(x)), **kwargs)
        self.encoder = encoder
        self.inner_stem = encoder.get_layer("stem")
        self.teacher = keras.layers.Dense(1, name="teacher")
        self.teacher.build((None, 3))
        self.tracker = keras.metrics.Mean(name="tracker")
        self.temperature = keras.Variable(2.0, name="temperature")
        self.table = {"by hand": self.taught}
        self.works_with_me = lambda: self.encoder
        self.kind = np.float32

    def taught(self, x):
        return self.teacher(x) + self.encoder.get_layer("head").units

    def get_config(self):
        return {"encoder": keras.saving.serialize_keras_object(self.encoder)}


def test_attributes_of_all_kinds(tmp_path):
    model, data = Holder(Net(name="net")), _data(3)
    model.tracker.update_state(7.0)
    new = kg.replace(model, "net/stem", keras.layers.Dense(3, name="stem2"))
    assert new.encoder is new.get_layer("net") is not model.encoder
    assert new.inner_stem is new.encoder.get_layer("stem2")
    assert new.teacher is model.teacher
    assert new.table["by hand"].__self__ is new
    assert float(new.tracker.result()) == 7
    new.tracker.update_state(9.0)
    assert float(model.tracker.result()) == 7
    with pytest.raises(AttributeError, match="uses 'holder.*' of the donor"):
        new.works_with_me  # noqa: B018
    new.temperature.assign(5.0)
    new.save(tmp_path / "h.keras")
    loaded = keras.models.load_model(tmp_path / "h.keras")
    assert loaded.encoder is loaded.get_layer("net")
    assert loaded.inner_stem is loaded.encoder.get_layer("stem2")
    assert float(_array(loaded.temperature.value)) == 5
    _alike(loaded.teacher, new.teacher, data)
    _alike(loaded, new, data)
    opened = kg.inline(model, "net")
    with pytest.raises(AttributeError, match="the model 'net', which it holds, was opened"):
        opened.encoder  # noqa: B018
    assert opened.inner_stem is model.inner_stem
    _same(opened, model, data)


def test_the_donor_is_not_kept_in_memory():
    model = Net()
    new = kg.remove(model, "block_1")
    donor = weakref.ref(model)
    del model
    gc.collect()
    assert donor() is None
    assert new.stem.name == "stem"


def test_tied_layers_and_a_class_go_together(tmp_path):
    model, data = Net(), _data(3)
    new = kg.remove(kg.tie(model, "block_2/kernel", "block_0/kernel"), "block_1")
    assert isinstance(new, Net) and new.count_params() == model.count_params() - 12 - 9
    assert [layer.name for layer in new.body] == ["block_0", "block_2", "block_3"]
    new.save(tmp_path / "t.keras")
    loaded = keras.models.load_model(tmp_path / "t.keras")
    assert isinstance(loaded, Net) and loaded.count_params() == new.count_params()
    assert len(kg.sharing(loaded).variables) == 1
    _alike(loaded, new, data)
    _same(loaded.by_hand, loaded, data)


class Chain(keras.Sequential):
    def doubled(self, x):
        return 2 * self(x)


class Final(keras.Model):
    def __init__(self):
        x = keras.Input((4,), name="x")
        y = keras.layers.Dense(2, name="d")(keras.layers.Dropout(0.1, name="drop")(x))
        super().__init__(x, y, name="f")

    def __init_subclass__(cls, **kwargs):
        raise TypeError("Final has no subclasses")


def test_where_the_class_cannot_be_kept_a_warning_says_so():
    model = Final()
    words = "'f' is a plain Functional: its donor is a Final, and .*no subclasses"
    with pytest.warns(kg.GraftWarning, match=words) as caught:
        new = kg.remove(model, "drop")
    assert len(caught) == 1 and caught[0].filename == __file__
    assert type(new).__name__ == "Functional"
    assert kg.diff(model, new).classes == ("Final", "Functional")
    _same(new, model, _data(4))


def test_a_class_of_sequential(tmp_path):
    layers = [keras.Input((4,)), keras.layers.Dropout(0.1, name="drop"), keras.layers.Dense(2)]
    model = Chain(layers, name="chain")
    with pytest.warns(kg.GraftWarning, match="'chain' is a plain Functional.*Chain"):
        new = kg.remove(model, "drop")
    assert type(new).__name__ == "Functional"
    assert kg.diff(model, new).classes == ("Chain", "Functional")
    with warnings.catch_warnings():
        warnings.simplefilter("error", kg.GraftWarning)  # a Functional can say all that it can
        kg.remove(keras.Sequential(layers), "drop")


# -- backbones of keras_hub ---------------------------------------------------------------------


def _hub():
    return pytest.importorskip("keras_hub", exc_type=ImportError).models


def _tokens():
    ids = np.random.default_rng(1).integers(1, 20, size=(2, 6)).astype("int32")
    return {"token_ids": ids, "padding_mask": np.ones((2, 6), "int32")}


def _gpt2():
    return _hub().GPT2Backbone(
        vocabulary_size=20, num_layers=4, num_heads=2, hidden_dim=8, intermediate_dim=16,
        max_sequence_length=8, name="gpt2",
    )  # fmt: skip


def _halved(backbone, names):
    for before, name in names:
        backbone = kg.remove(backbone, name, keep=before)
    return backbone


def test_half_of_gpt2(tmp_path):
    donor, data = _gpt2(), _tokens()
    names = [("transformer_layer_0", "transformer_layer_1"),
             ("transformer_layer_2", "transformer_layer_3")]  # fmt: skip
    half = _halved(donor, names)
    assert isinstance(half, _hub().GPT2Backbone)
    assert half.token_embedding is donor.token_embedding and half.vocabulary_size == 20
    assert half.transformer_layers == [donor.transformer_layers[0], donor.transformer_layers[2]]
    model = _hub().GPT2CausalLM(backbone=half)
    logits = _array(model(data))
    expected = _array(donor.token_embedding(half(data), reverse=True))
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    # What generates text goes through the layers that the attributes name.
    cache = np.zeros((2, 2, 2, 6, 2, 4), "float32")
    by_cache, *_ = model.call_with_cache(
        keras.ops.convert_to_tensor(data["token_ids"]), keras.ops.convert_to_tensor(cache), 0
    )
    np.testing.assert_allclose(_array(by_cache), logits, atol=1e-5)
    model.save(tmp_path / "lm.keras")
    loaded = keras.models.load_model(tmp_path / "lm.keras")
    assert len(loaded.backbone.transformer_layers) == 2
    np.testing.assert_allclose(_array(loaded(data)), logits, atol=1e-6)
    with pytest.raises(kg.NotYetError, match="'gpt2' was edited.*model.save"):
        half.save_to_preset(tmp_path / "preset")
    assert not (tmp_path / "preset").exists()
    half.save_weights(tmp_path / "half.weights.h5")
    other = kg.clone(half, weights="fresh")
    other.load_weights(tmp_path / "half.weights.h5")
    _alike(other, half, data)


def test_half_of_bert(tmp_path):
    donor = _hub().BertBackbone(
        vocabulary_size=20, num_layers=2, num_heads=2, hidden_dim=8, intermediate_dim=16,
        max_sequence_length=8, num_segments=2, name="bert",
    )  # fmt: skip
    data = _tokens() | {"segment_ids": np.zeros((2, 6), "int32")}
    half = _halved(donor, [("transformer_layer_0", "transformer_layer_1")])
    assert isinstance(half, _hub().BertBackbone) and half.cls_token_index == 0
    assert half.token_embedding is donor.get_layer("token_embedding")
    half.save(tmp_path / "b.keras")
    loaded = keras.models.load_model(tmp_path / "b.keras")
    assert isinstance(loaded, _hub().BertBackbone)
    for key, value in half(data).items():
        np.testing.assert_allclose(_array(loaded(data)[key]), _array(value), atol=1e-6)
    masked = _hub().BertTextClassifier(backbone=half, num_classes=3)
    assert _array(masked(data)).shape == (2, 3)


def test_vit_with_another_layer(tmp_path):
    donor = _hub().ViTBackbone(
        image_shape=(8, 8, 3), patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16,
        name="vit",
    )  # fmt: skip
    data = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    last = donor.layers[-1].name
    new = kg.insert(donor, keras.layers.Dense(8, name="adapter"), after=last)
    assert isinstance(new, _hub().ViTBackbone) and new.hidden_dim == 8
    _same(new, lambda x: new.get_layer("adapter")(donor(x)), data)
    classifier = _hub().ViTImageClassifier(backbone=new, num_classes=3)
    assert _array(classifier(data)).shape == (2, 3)


def test_half_of_resnet(tmp_path):
    donor = _hub().ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[3], stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[2, 2], stackwise_num_strides=[1, 2], block_type="basic_block",
        image_shape=(16, 16, 3), name="resnet",
    )  # fmt: skip
    data = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    levels = dict(donor.pyramid_outputs)
    stage = kg.select(donor, levels["P3"]).values[0].producer.name
    new = kg.insert(donor, keras.layers.Conv2D(64, 1, name="adapter"), after=stage)
    assert isinstance(new, _hub().ResNetBackbone)
    assert set(new.pyramid_outputs) == set(levels)
    for name in levels:
        assert new.pyramid_outputs[name] is not levels[name]
    tapped = keras.Model(new.inputs, dict(new.pyramid_outputs))
    _same(lambda x: tapped(x)["P3"], kg.extract(new, "adapter"), data)
    new.save(tmp_path / "r.keras")
    loaded = keras.models.load_model(tmp_path / "r.keras")
    assert isinstance(loaded, _hub().ResNetBackbone)
    pyramid = keras.Model(loaded.inputs, dict(loaded.pyramid_outputs))
    for name, value in tapped(data).items():
        np.testing.assert_allclose(_array(pyramid(data)[name]), _array(value), atol=1e-5)


def test_what_methods_that_call_layers_one_by_one_do_not_run_is_told():
    donor = _gpt2()
    with pytest.warns(
        kg.GraftWarning, match="GPT2Backbone .*: 'adapter' lies between layers"
    ) as got:
        kg.insert(donor, keras.layers.Dense(8, name="adapter"), after="transformer_layer_0")
    assert "'_transformer_layers'" in str(got[0].message) or "layers" in str(got[0].message)
    assert "generate" in str(got[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error", kg.GraftWarning)
        kg.repeat(donor, "transformer_layer_0", "transformer_layer_1", 2, weights="copy")
        kg.replace(donor, "transformer_layer_1", lambda node: node.operation)
        kg.remove(donor, "transformer_layer_1", keep="transformer_layer_0")
        kg.freeze(donor, "transformer_layer_0")
        kg.clone(donor)
