"""Whole networks: from PyTorch to Keras with the same outputs, and back; and orders that mislead."""

import json

import keras
import keras_hub
import numpy as np
import pytest
import torch
from architectures import application, backbones, cheap_weights
from donor import arrays, equal, some
from keras import layers as L
from safetensors.torch import load_file, save_file
from torch import nn
from torch_networks import (
    BasicBlock,
    Bert,
    Bottleneck,
    EfficientNet,
    ResNet,
    Vit,
    far,
    images,
    keras_bert,
    keras_efficientnet,
    keras_resnet,
    keras_vit,
    random_values,
)
from weights import refused

import keras_graft as kg

pytestmark = pytest.mark.once

IDS = np.random.default_rng(0).integers(1, 50, (2, 12)).astype("int32")
NETWORKS = {
    "ResNet-18": (lambda: ResNet(BasicBlock, [2, 2, 2, 2]),
                  lambda: keras_resnet(False, [2, 2, 2, 2]), images(), {}),
    "ResNet-18, shortcut first": (lambda: ResNet(BasicBlock, [2, 2, 2, 2]),
                                  lambda: keras_resnet(False, [2, 2, 2, 2], shortcut_first=True), images(), {}),
    "ResNet-50": (lambda: ResNet(Bottleneck, [3, 4, 6, 3]),
                  lambda: keras_resnet(True, [3, 4, 6, 3]), images(), {}),
    "ResNet-50, shortcut first": (lambda: ResNet(Bottleneck, [3, 4, 6, 3]),
                                  lambda: keras_resnet(True, [3, 4, 6, 3], shortcut_first=True), images(), {}),
    "EfficientNet-B0": (EfficientNet, keras_efficientnet, images(size=64), {}),
    "BERT": (Bert, keras_bert, IDS, {}),
    "ViT, torchvision": (lambda: Vit("torchvision"), keras_vit, images(), {"encoder.ln": "norm"}),
    "ViT, timm": (lambda: Vit("timm"), keras_vit, images(), {}),
    "ViT, transformers": (lambda: Vit("transformers"), keras_vit, images(), {"vit.layernorm": "norm"}),
}  # fmt: skip


def state_of(module):
    return {name: tensor.contiguous() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_from_pytorch_and_back(name, tmp_path):
    made, built, x, known = NETWORKS[name]
    module, model = random_values(made()), built()
    state = state_of(module)
    save_file(state, tmp_path / "model.safetensors")
    torch.save(module.state_dict(), tmp_path / "model.pth")
    mappings = []
    for source, match in (
        (module, "name"), (tmp_path / "model.pth", "name"), (tmp_path / "model.safetensors", known or "name"),
    ):  # fmt: skip
        for weight in model.weights:
            weight.assign(keras.ops.zeros(weight.shape))
        report = kg.transplant(source, model, names="torch", match=match)
        assert far(module, model, x) < 1e-5
        assert not report.unused and not report.missing
        mappings.append(report.mapping)
    assert mappings[0] == mappings[1] == mappings[2]

    # Back: under the names of the file, and under those of the mapping that was found.
    for how in ({"like": tmp_path / "model.safetensors", "match": known}, {"match": mappings[0]}):
        kg.save_weights(model, tmp_path / "back.safetensors", names="torch", **how)
        back = load_file(tmp_path / "back.safetensors")
        whole = {n: back.get(n, v) for n, v in state.items()} if "like" not in how else back
        assert (
            all(torch.equal(whole[n], v) for n, v in state.items()) and whole.keys() == state.keys()
        )
        assert len(back) >= len(state) - len(report.ignored)
        other = made().eval()
        other.load_state_dict(whole)
        with torch.no_grad():
            given = torch.tensor(np.moveaxis(x, -1, 1) if x.ndim == 4 else x)
            assert torch.equal(other(given), module(given))

    # And with names of Keras's layers: a file that needs no mapping.
    kg.save_weights(model, tmp_path / "own.pth", names="torch")
    twin = built()
    report = kg.transplant(tmp_path / "own.pth", twin, names="torch")
    assert {pair.how for pair in report.modules} == {"name"}
    equal(model.weights, twin.weights)


@pytest.mark.parametrize("name", ["ViT, torchvision", "ViT, transformers"])
def test_what_one_name_settles_is_refused_and_the_name_is_told(name, tmp_path):
    """The first norm of the blocks and the last of all may be a norm in front and blocks that end so."""
    made, built, x, known = NETWORKS[name]
    module, model = random_values(made()), built()
    save_file(state_of(module), tmp_path / "model.safetensors")
    words = refused(tmp_path / "model.safetensors", model, names="torch")
    ((key, layer),) = known.items()
    assert f'match={{"{key}": "{layer}"}} or "norm_a_0"' in words and "no order is certain" in words
    assert key in words and "and 5 more" in words


def test_a_file_of_names_is_written_corrected_and_given_back(tmp_path):
    made, built, x, known = NETWORKS["ViT, transformers"]
    module, model = random_values(made()), built()
    save_file(state_of(module), tmp_path / "model.safetensors")
    found = kg.torch_names(tmp_path / "model.safetensors", model)
    assert {pair.how for pair in found.modules} == {"order", "shape", "guess"}
    assert "modules guessed" in str(found) and found.to_dict()["unmatched"] == []
    found.save(tmp_path / "names.json")
    names = json.loads((tmp_path / "names.json").read_text())
    assert names == found.mapping and len(names) == len(found.modules)
    for i in range(12):
        names[f"vit.encoder.layer.{i}.layernorm_before"] = f"norm_a_{i}"
        names[f"vit.encoder.layer.{i}.layernorm_after"] = f"norm_b_{i}"
    names["vit.layernorm"] = "norm"
    (tmp_path / "names.json").write_text(json.dumps(names))
    for match in (tmp_path / "names.json", str(tmp_path / "names.json")):
        report = kg.transplant(tmp_path / "model.safetensors", model, names="torch", match=match)
        assert far(module, model, x) < 1e-5 and report.mapping == names


HUB = {
    "bert.embeddings.word_embeddings": "token_embedding",
    "bert.embeddings.position_embeddings": "position_embedding/embeddings",
    "bert.embeddings.token_type_embeddings": "segment_embedding",
    "bert.embeddings.LayerNorm": "embeddings_layer_norm",
    "bert.encoder.layer.*.attention.self": "transformer_layer_*/self_attention_layer",
    "bert.encoder.layer.*.attention.output.dense": "transformer_layer_*/self_attention_layer/attention_output",
    "bert.encoder.layer.*.attention.output.LayerNorm": "transformer_layer_*/self_attention_layer_norm",
    "bert.encoder.layer.*.intermediate.dense": "transformer_layer_*/feedforward_intermediate_dense",
    "bert.encoder.layer.*.output.dense": "transformer_layer_*/feedforward_output_dense",
    "bert.encoder.layer.*.output.LayerNorm": "transformer_layer_*/feedforward_layer_norm",
    "bert.pooler.dense": "pooled_dense",
    "cls": None,
}


@pytest.mark.parametrize("kind", ["by order", "by a dict"])
@pytest.mark.parametrize("source", ["file", "dict"])
def test_names_of_transformers_into_a_bert_of_keras_hub(kind, source, tmp_path):
    module = random_values(Bert(approximate="tanh"))  # as the hub's
    state = {f"bert.{name}": tensor for name, tensor in state_of(module).items()}
    head = nn.Linear(16, 16)
    state |= {f"cls.predictions.transform.dense.{n}": t for n, t in head.state_dict().items()}
    state["cls.predictions.bias"] = torch.zeros(50)
    state["cls.predictions.decoder.weight"] = state[
        "bert.embeddings.word_embeddings.weight"
    ].clone()
    state["cls.predictions.decoder.bias"] = state["cls.predictions.bias"].clone()
    save_file(state, tmp_path / "model.safetensors")
    model = keras_hub.models.BertBackbone(
        vocabulary_size=50, num_layers=12, num_heads=2, hidden_dim=16, intermediate_dim=64,
        max_sequence_length=12, dropout=0.0,
    )  # fmt: skip
    report = kg.transplant(
        state if source == "dict" else tmp_path / "model.safetensors",
        model,
        names="torch",
        match=HUB if kind == "by a dict" else "name",
        keep=None if kind == "by a dict" else "cls",
    )
    given = {"token_ids": IDS, "segment_ids": np.zeros_like(IDS), "padding_mask": np.ones_like(IDS)}
    with torch.no_grad():
        theirs = module(torch.tensor(IDS)).numpy()
    assert np.abs(arrays(model(given)["pooled_output"])[0] - theirs).max() < 1e-5
    assert report.mapping["bert.encoder.layer.11.attention.self.key"] == (
        "transformer_layer_11/self_attention_layer/key"
    )
    name = "bert.embeddings.position_embeddings.weight"  # one weight of a layer, so it is a tensor
    assert report.mapping[name] == "position_embedding/embeddings"
    kg.save_weights(model, tmp_path / "back.safetensors", names="torch", match=report.mapping)
    back = load_file(tmp_path / "back.safetensors")
    assert all(torch.equal(tensor, state[name]) for name, tensor in back.items())
    assert {n for n in state if n.startswith("bert.")} - back.keys() == {
        "bert.embeddings.position_ids"
    }


def test_names_of_transformers_into_a_vit_of_keras_hub(tmp_path):
    module = random_values(Vit("transformers"))
    save_file(state_of(module), tmp_path / "model.safetensors")
    model = keras_hub.models.ViTBackbone(
        image_shape=(32, 32, 3), patch_size=8, num_layers=12, num_heads=2, hidden_dim=16, mlp_dim=64,
        layer_norm_epsilon=1e-6, dropout_rate=0.0, attention_dropout=0.0,
    )  # fmt: skip
    for source, match in (
        (module, "name"), (tmp_path / "model.safetensors", {"vit.layernorm": "vit_encoder/ln"}),
    ):  # fmt: skip
        report = kg.transplant(source, model, names="torch", keep="classifier", match=match)
        with torch.no_grad():
            theirs = module(torch.tensor(np.moveaxis(images(), -1, 1))).numpy()
            ours = module.classifier(torch.tensor(arrays(model(images()))[0][:, 0])).numpy()
        assert np.abs(theirs - ours).max() < 1e-5
        assert report.kept == ("classifier.weight", "classifier.bias") or not report.unused


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_names_of_torchvision_into_a_resnet_of_keras_hub(block, tmp_path):
    module = random_values(ResNet(block, [2, 2, 0, 0], width=64))
    save_file(state_of(module), tmp_path / "model.safetensors")
    model = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[7], stackwise_num_filters=[64, 128],
        stackwise_num_blocks=[2, 2], stackwise_num_strides=[1, 2], image_shape=(32, 32, 3),
        block_type="basic_block" if block is BasicBlock else "bottleneck_block",
    )  # fmt: skip
    for source in (module, tmp_path / "model.safetensors"):
        kg.transplant(source, model, names="torch", keep="fc")
        ours = module.fc(torch.tensor(arrays(model(images()))[0].mean((1, 2)))).detach().numpy()
        with torch.no_grad():
            theirs = module(torch.tensor(np.moveaxis(images(), -1, 1))).numpy()
        assert np.abs(theirs - ours).max() < 1e-5


@pytest.mark.parametrize("source", ["dict", "file"])
def test_a_resnet_50_of_torchvision_into_that_of_keras_applications(source, tmp_path):
    """Keras's has biases, and its layers are not in PyTorch's order: shortcuts come first."""
    module = ResNet(Bottleneck, [3, 4, 6, 3], width=64, classes=1000)
    save_file(state_of(module), tmp_path / "model.safetensors")
    with cheap_weights():
        model = keras.applications.ResNet50(weights=None)
    its = module if source == "dict" else tmp_path / "model.safetensors"
    report = kg.transplant(its, model, names="torch", resize=kg.resize.bias())
    expected = {"conv1": "conv1_conv", "bn1": "conv1_bn", "fc": "predictions"}
    for i, depth in enumerate([3, 4, 6, 3]):
        for j in range(depth):
            ours, theirs = f"conv{i + 2}_block{j + 1}", f"layer{i + 1}.{j}"
            for n in (1, 2, 3):
                expected[f"{theirs}.conv{n}"] = f"{ours}_{n}_conv"
                expected[f"{theirs}.bn{n}"] = f"{ours}_{n}_bn"
            if not j:
                expected[f"{theirs}.downsample.0"] = f"{ours}_0_conv"
                expected[f"{theirs}.downsample.1"] = f"{ours}_0_bn"
    assert report.mapping == expected


class Sized(nn.Module):
    """Linear layers of one size under given names, in a given order."""

    def __init__(self, names):
        super().__init__()
        for name in names:
            setattr(self, name, nn.Linear(6, 6))


def chain(names):
    x = y = keras.Input((6,))
    for name in names:
        y = L.Dense(6, name=name)(y)
    return keras.Model(x, y, name="chain")


def test_words_give_no_order_and_numbers_do(tmp_path):
    model = chain(["a", "b", "c"])
    module = Sized(["zeta", "alpha", "mid"])
    report = kg.transplant(
        module.state_dict(), model, names="torch"
    )  # in the order they were made in
    assert report.mapping == {"zeta": "a", "alpha": "b", "mid": "c"}
    assert "please check" in str(report) and "zeta" in str(report)
    save_file(module.state_dict(), tmp_path / "a.safetensors")
    for source in (tmp_path / "a.safetensors", load_file(tmp_path / "a.safetensors")):
        words = refused(source, model, names="torch")
        assert "3 modules of" in words and "'a', 'b', 'c'" in words
    numbered = Sized(["fc2", "fc10", "fc1"])
    save_file(numbered.state_dict(), tmp_path / "a.safetensors")
    report = kg.transplant(tmp_path / "a.safetensors", model, names="torch")
    assert report.mapping == {"fc1": "a", "fc2": "b", "fc10": "c"}


def test_a_role_in_a_name_is_stronger_than_the_order():
    """BART, CLIP and OPT make k_proj, v_proj, q_proj, out_proj, in this order."""
    module = Sized(["k_proj", "v_proj", "q_proj", "out_proj"])
    x = keras.Input((4, 6))
    model = keras.Model(x, L.MultiHeadAttention(2, 3, name="attn")(x, x))
    report = kg.transplant(module, model, names="torch")
    assert report.mapping == {
        "q_proj": "attn/query", "k_proj": "attn/key", "v_proj": "attn/value",
        "out_proj": "attn/attention_output",
    }  # fmt: skip
    words = refused(module, chain(["d1", "d2", "d3", "d4"]), names="torch")
    assert "Without a source" in words or "no order is certain" in words


def test_another_order_of_kinds_is_no_order():
    """A shortcut that is made first in one network, and last in the other, with layers of one shape."""
    module = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6), nn.Linear(6, 6))
    x = keras.Input((6,))
    y = L.Dense(6, name="first")(x)
    y = L.Dense(6, name="second")(y)
    y = L.Dense(6, name="third")(L.LayerNormalization(name="norm")(y))
    model = keras.Model(x, y)
    report = kg.torch_names(module, model)
    assert {p.layer: p.how for p in report.modules}["norm"] == "shape"
    # Numbers order the three all the same: it is listed as such.
    assert [p.how for p in report.modules if p.layer != "norm"] == ["order"] * 3
    module = Sized(["one", "two", "three"])
    module.norm = nn.LayerNorm(6)
    words = refused(module, model, names="torch")
    assert "3 modules of 'Sized' may each belong to several layers" in words


@pytest.mark.parametrize("turned", [False, True])
def test_numbers_follow_the_flow_of_data(turned, tmp_path):
    """A layer `fc2` needs what `fc1` gives: so the third one is the branch beside them."""
    x = keras.Input((6,))
    main = L.Dense(6, name="second")(L.Dense(6, name="main")(x))
    side = L.Dense(6, name="side")(x)
    model = keras.Model(x, L.Add()([side, main] if turned else [main, side]))
    save_file(Sized(["fc1", "extra", "fc2"]).state_dict(), tmp_path / "a.safetensors")
    report = kg.transplant(tmp_path / "a.safetensors", model, names="torch")
    assert report.mapping == {"fc1": "main", "fc2": "second", "extra": "side"}


def test_equal_branches_are_refused():
    x = keras.Input((6,))
    left, right = (L.Dense(6, name=f"{n}2")(L.Dense(6, name=f"{n}1")(x)) for n in ("left", "right"))
    model = keras.Model(x, L.Add()([left, right]))
    module = nn.Module()
    for name in ("deep", "wide"):
        setattr(module, name, nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)))
    words = refused(module, model, names="torch")
    assert "4 modules" in words
    report = kg.transplant(
        module, model, names="torch", match={"deep.0": "right1", "deep.1": "right2"}
    )
    assert report.mapping["wide.1"] == "left2"


def test_two_networks_of_one_shape_in_one_file(tmp_path):
    encoder = nn.Sequential(*(nn.Linear(6, 6) for _ in range(3)))
    module = nn.ModuleDict(
        {"encoder": encoder, "decoder": nn.Sequential(*(nn.Linear(6, 6) for _ in range(3)))}
    )
    save_file(state_of(module), tmp_path / "a.safetensors")
    model = chain([f"{part}_{i}" for part in ("enc", "dec") for i in range(3)])
    assert "6 modules" in refused(tmp_path / "a.safetensors", model, names="torch")
    report = kg.transplant(
        tmp_path / "a.safetensors",
        model,
        names="torch",
        match={"encoder.*": "enc_*", "decoder.*": "dec_*"},
    )
    assert all(layer == name.replace("encoder.", "enc_").replace("decoder.", "dec_")
               for name, layer in report.mapping.items())  # fmt: skip
    assert {pair.how for pair in report.modules} == {"given"}


def test_the_parts_of_a_named_part_are_matched_inside_it(tmp_path):
    module = nn.ModuleDict({
        "b": nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)),
        "a": nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)),
    })  # fmt: skip
    save_file(state_of(module), tmp_path / "a.safetensors")
    inner = [keras.Sequential([keras.Input((6,)), L.Dense(6, name="u"), L.Dense(6, name="v")], name=n)
             for n in ("first", "last")]  # fmt: skip
    x = keras.Input((6,))
    model = keras.Model(x, inner[1](inner[0](x)))
    report = kg.transplant(
        tmp_path / "a.safetensors", model, names="torch", match={"a": "last", "b": "first"}
    )
    assert report.mapping == {"b.0": "first/u", "b.1": "first/v", "a.0": "last/u", "a.1": "last/v"}


def test_a_function_says_which_module_is_which_layer():
    module = Sized(["x", "y", "z"])
    model = chain(["a", "b", "c"])
    report = kg.transplant(
        module, model, names="torch", match=lambda name: "cab"["xyz".index(name)]
    )
    assert report.mapping == {"x": "c", "y": "a", "z": "b"}
    equal(model.get_layer("c").kernel.value, module.x.weight.detach().T.contiguous())
    words = refused(module, model, names="torch", match=lambda name: 1 / 0)
    assert "match= raised ZeroDivisionError for 'x'" in words


def test_a_new_head_is_resized_by_a_rule():
    module = random_values(ResNet(BasicBlock, [1, 1, 1, 1], classes=10))
    model = keras_resnet(False, [1, 1, 1, 1], classes=3)
    words = refused(module, model, names="torch")
    assert "'head/kernel': (64, 10) in the source, (64, 3) in the target" in words
    assert "resize=kg.resize.classes(keep)" in words
    report = kg.transplant(module, model, names="torch", resize=kg.resize.classes(keep=[7, 0, 2]))
    assert [m.rule for m in report.moved if m.rule] == ["classes(3 kept, 0 new)"] * 2
    equal(model.get_layer("head").kernel.value, module.fc.weight.detach()[[7, 0, 2]].T.contiguous())
    kept = keras_resnet(False, [1, 1, 1, 1], classes=3)
    report = kg.transplant(module, kept, names="torch", keep=["fc", "head"])
    assert set(report.kept) == {"head/kernel", "head/bias"}


def test_tied_weights_are_read_and_written_once_for_each_module(tmp_path):
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(20, 6)
            self.body = nn.Linear(6, 6)
            self.lm_head = nn.Linear(6, 20, bias=False)
            self.lm_head.weight = self.embed.weight

        def forward(self, ids):
            return self.lm_head(self.body(self.embed(ids)))

    ids = keras.Input((4,), dtype="int32")
    y = L.Dense(6, name="body")(L.Embedding(20, 6, name="embed_tokens")(ids))
    model = keras.Model(ids, L.Dense(20, use_bias=False, name="out")(y))
    tied = kg.tie(model, "out/kernel", "embed_tokens/embeddings", transform="transpose")
    module = Language()
    save_file({n: t.clone() for n, t in module.state_dict().items()}, tmp_path / "a.safetensors")
    x = np.arange(8).reshape(2, 4) % 20
    for source in (module, tmp_path / "a.safetensors"):
        report = kg.transplant(source, tied, names="torch")
        assert len(report.moved) == 3 and not report.unused
        theirs = module(torch.tensor(x)).detach().numpy()
        assert np.abs(arrays(tied(x.astype("int32")))[0] - theirs).max() < 1e-5
    tied.get_layer("embed_tokens").embeddings.assign(keras.ops.ones((20, 6)))
    kg.save_weights(tied, tmp_path / "b.safetensors", names="torch", like=module)
    back = load_file(tmp_path / "b.safetensors")
    assert back.keys() == module.state_dict().keys()
    assert torch.equal(back["lm_head.weight"], torch.ones(20, 6))


def test_names_that_keras_gave_say_nothing(tmp_path):
    """`dense` is what Keras calls the first one made; in PyTorch's network it may be another."""
    x = keras.Input((6,))
    first = L.Dense(6)
    model = keras.Model(x, L.Dense(6, name="last")(first(x)))
    module = Sized(["one", first.name])
    report = kg.transplant(module, model, names="torch")
    assert report.mapping == {"one": first.name, first.name: "last"}
    kg.save_weights(model, tmp_path / "own.safetensors", names="torch")  # here all names are known
    assert {
        p.how for p in kg.transplant(tmp_path / "own.safetensors", model, names="torch").modules
    } == {"name"}


def test_a_shape_of_its_own_is_listed_where_others_are_left_over():
    """The head of a masked language model has a shape that the pooler of a classifier has too."""
    module = nn.ModuleDict(
        {"embed": nn.Embedding(9, 6), "transform": nn.Linear(6, 6), "out": nn.Linear(6, 9)}
    )
    x = keras.Input((4,), dtype="int32")
    y = L.Dense(6, name="pooler")(L.Embedding(9, 6, name="words")(x))
    model = keras.Model(x, y)
    refused(module, model, names="torch")
    report = kg.transplant(module, model, names="torch", strict=False)
    assert "transform     pooler  by shape, others left over" in str(report)


REAL = {
    **backbones(),
    **{n: lambda n=n: application(n) for n in ("MobileNetV3Small", "ConvNeXtTiny")},
}


@pytest.mark.parametrize("name", some(sorted(REAL), 9))
def test_every_weight_of_a_real_architecture_is_written_and_read(name, tmp_path):
    with cheap_weights():
        model = REAL[name]()
    other = kg.clone(model)
    for weight in other.weights:
        weight.assign(keras.ops.zeros(weight.shape, weight.dtype))
    kg.save_weights(model, tmp_path / "a.safetensors", names="torch")
    report = kg.transplant(tmp_path / "a.safetensors", other, names="torch")
    equal(model.weights, other.weights)
    assert len(report.moved) == len(model.weights)
