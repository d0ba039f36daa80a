"""Whole networks, written in PyTorch and in Keras, narrow but as deep as the real ones.

The names are those of the libraries that publish such weights: torchvision (ResNet, ViT), timm
(EfficientNet, ViT) and transformers (BERT, ViT).
"""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers as L
from torch import nn


def random_values(module):
    """Give a module random weights and statistics of a size that keeps outputs moderate."""
    torch.manual_seed(2)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                    tensor.copy_(torch.rand(tensor.shape) + 0.5)
                elif tensor.ndim > 1:
                    tensor.copy_(torch.randn(tensor.shape) / tensor[0].numel() ** 0.5)
                else:
                    tensor.copy_(torch.randn(tensor.shape) / 10)
    return module.eval()


def images(count=2, size=32):
    return np.random.default_rng(0).normal(size=(count, size, size, 3)).astype("float32")


def both(module, model, x):
    """Return the outputs of both, of one input."""
    given = torch.tensor(np.moveaxis(x, -1, 1) if x.ndim == 4 else x)
    with torch.no_grad():
        return module(given).numpy(), keras.ops.convert_to_numpy(model(x))


def far(module, model, x):
    """Return the largest difference of the outputs, in parts of the largest output."""
    theirs, ours = both(module, model, x)
    assert np.abs(theirs).max() > 1e-3 and theirs.std() > 1e-4
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


# ResNet: torchvision's names.


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(inputs, width, stride)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = shortcut(inputs, 4 * width, stride)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


def shortcut(inputs, outputs, stride):
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    def __init__(self, block, depths, width=8, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for i, depth in enumerate(depths):
            blocks, size = [], width * 2**i
            for j in range(depth):
                blocks.append(block(inputs, size, 2 if i and not j else 1))
                inputs = size * block.expansion
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        for i in range(4):
            x = getattr(self, f"layer{i + 1}")(x)
        return self.fc(x.mean((2, 3)))


def conv_bn(x, filters, size, stride, name, relu=True):
    if size > 1:
        x = L.ZeroPadding2D(size // 2)(x)
    x = L.Conv2D(filters, size, stride, use_bias=False, name=f"{name}_conv")(x)
    x = L.BatchNormalization(epsilon=1e-5, name=f"{name}_bn")(x)
    return L.ReLU()(x) if relu else x


def keras_resnet(
    bottleneck, depths, width=8, classes=10, shortcut_first=False, size=32, unnamed=False
):
    """Return a ResNet; its shortcut is made, and added, before or after the main branch."""
    image = x = keras.Input((size, size, 3))
    x = conv_bn(x, width, 7, 2, "stem")
    x = L.MaxPooling2D(3, 2)(L.ZeroPadding2D(1)(x))
    for i, depth in enumerate(depths):
        for j in range(depth):
            name, stride = f"stage{i}_block{j}", 2 if i and not j else 1
            filters = width * 2**i
            outputs = filters * (4 if bottleneck else 1)
            new = stride > 1 or x.shape[-1] != outputs

            def side(x=x, outputs=outputs, stride=stride, name=name, new=new):
                return conv_bn(x, outputs, 1, stride, f"{name}_shortcut", relu=False) if new else x

            skip = side() if shortcut_first else None
            if bottleneck:
                y = conv_bn(x, filters, 1, 1, f"{name}_a")
                y = conv_bn(y, filters, 3, stride, f"{name}_b")
                y = conv_bn(y, outputs, 1, 1, f"{name}_c", relu=False)
            else:
                y = conv_bn(x, filters, 3, stride, f"{name}_a")
                y = conv_bn(y, filters, 3, 1, f"{name}_b", relu=False)
            x = L.ReLU()(L.Add()([skip, y] if shortcut_first else [y, side()]))
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(image, L.Dense(classes, name="head")(x), name="resnet")


# EfficientNet-B0: timm's names.

B0 = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
      (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)]  # fmt: skip
"""Repeats, kernel, stride, expansion, filters."""


class Excite(nn.Module):
    def __init__(self, channels, reduced):
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, reduced, 1)
        self.conv_expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x):
        y = nn.functional.silu(self.conv_reduce(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.conv_expand(y))


class Separable(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride):
        super().__init__()
        self.conv_dw = nn.Conv2d(
            inputs, inputs, kernel, stride, kernel // 2, groups=inputs, bias=False
        )
        self.bn1 = nn.BatchNorm2d(inputs)
        self.se = Excite(inputs, max(1, inputs // 4))
        self.conv_pw = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = self.se(nn.functional.silu(self.bn1(self.conv_dw(x))))
        y = self.bn2(self.conv_pw(y))
        return x + y if x.shape == y.shape else y


class Inverted(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride, expansion):
        super().__init__()
        middle = inputs * expansion
        self.conv_pw = nn.Conv2d(inputs, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv_dw = nn.Conv2d(
            middle, middle, kernel, stride, kernel // 2, groups=middle, bias=False
        )
        self.bn2 = nn.BatchNorm2d(middle)
        self.se = Excite(middle, max(1, inputs // 4))
        self.conv_pwl = nn.Conv2d(middle, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = nn.functional.silu(self.bn1(self.conv_pw(x)))
        y = self.se(nn.functional.silu(self.bn2(self.conv_dw(y))))
        y = self.bn3(self.conv_pwl(y))
        return x + y if x.shape == y.shape else y


class EfficientNet(nn.Module):
    def __init__(self, scale=8, classes=10):
        super().__init__()
        self.conv_stem = nn.Conv2d(3, 32 // scale, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(32 // scale)
        stages, inputs = [], 32 // scale
        for repeats, kernel, stride, expansion, filters in B0:
            blocks = []
            for j in range(repeats):
                args = inputs, filters // scale, kernel, 1 if j else stride
                blocks.append(Separable(*args) if expansion == 1 else Inverted(*args, expansion))
                inputs = filters // scale
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = nn.Conv2d(inputs, 1280 // scale, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1280 // scale)
        self.classifier = nn.Linear(1280 // scale, classes)

    def forward(self, x):
        x = self.blocks(nn.functional.silu(self.bn1(self.conv_stem(x))))
        x = nn.functional.silu(self.bn2(self.conv_head(x)))
        return self.classifier(x.mean((2, 3)))


def keras_efficientnet(scale=8, classes=10, size=64):
    def norm(x, name, act=True):
        x = L.BatchNormalization(epsilon=1e-5, name=name)(x)
        return L.Activation("silu")(x) if act else x

    def excite(x, reduced, name):
        y = L.GlobalAveragePooling2D(keepdims=True)(x)
        y = L.Conv2D(reduced, 1, activation="silu", name=f"{name}_squeeze")(y)
        y = L.Conv2D(x.shape[-1], 1, activation="sigmoid", name=f"{name}_excite")(y)
        return L.Multiply()([x, y])

    image = keras.Input((size, size, 3))
    x = L.Conv2D(32 // scale, 3, 2, use_bias=False, name="stem")(L.ZeroPadding2D(1)(image))
    x = norm(x, "stem_bn")
    for i, (repeats, kernel, stride, expansion, filters) in enumerate(B0):
        for j in range(repeats):
            name, inputs, y = f"block{i + 1}{'abcd'[j]}", x.shape[-1], x
            if expansion > 1:
                y = L.Conv2D(inputs * expansion, 1, use_bias=False, name=f"{name}_expand")(y)
                y = norm(y, f"{name}_expand_bn")
            y = L.ZeroPadding2D(kernel // 2)(y)
            y = L.DepthwiseConv2D(kernel, 1 if j else stride, use_bias=False, name=f"{name}_dw")(y)
            y = norm(y, f"{name}_dw_bn")
            y = excite(y, max(1, inputs // 4), f"{name}_se")
            y = L.Conv2D(filters // scale, 1, use_bias=False, name=f"{name}_project")(y)
            y = norm(y, f"{name}_project_bn", act=False)
            x = L.Add()([x, y]) if x.shape == y.shape else y
    x = norm(L.Conv2D(1280 // scale, 1, use_bias=False, name="top")(x), "top_bn")
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(image, L.Dense(classes, name="predictions")(x), name="efficientnet")


# BERT: the names of transformers.


class Named(nn.Module):
    """A module that only holds others, so that names have its part."""

    def __init__(this, **parts):  # noqa: N805 - one part is named self
        super().__init__()
        for name, part in parts.items():
            setattr(this, name, part)


class BertLayer(nn.Module):
    def __init__(self, dim, heads, approximate):
        super().__init__()
        self.heads, self.approximate = heads, approximate
        linear = lambda: nn.Linear(dim, dim)  # noqa: E731
        self.attention = Named(
            self=Named(query=linear(), key=linear(), value=linear()),
            output=Named(dense=linear(), LayerNorm=nn.LayerNorm(dim, eps=1e-12)),
        )
        self.intermediate = Named(dense=nn.Linear(dim, 4 * dim))
        self.output = Named(dense=nn.Linear(4 * dim, dim), LayerNorm=nn.LayerNorm(dim, eps=1e-12))

    def forward(self, x):
        own, out = self.attention.self, self.attention.output
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for p in (own.query, own.key, own.value))  # fmt: skip
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
        x = out.LayerNorm(x + out.dense(y))
        y = self.intermediate.dense(x)
        y = self.output.dense(nn.functional.gelu(y, approximate=self.approximate))
        return self.output.LayerNorm(x + y)


class Bert(nn.Module):
    def __init__(self, words=50, length=12, dim=16, heads=2, depth=12, approximate="none"):
        super().__init__()
        self.embeddings = Named(
            word_embeddings=nn.Embedding(words, dim),
            position_embeddings=nn.Embedding(length, dim),
            token_type_embeddings=nn.Embedding(2, dim),
            LayerNorm=nn.LayerNorm(dim, eps=1e-12),
        )
        self.embeddings.register_buffer("position_ids", torch.arange(length)[None])
        self.encoder = Named(
            layer=nn.ModuleList(BertLayer(dim, heads, approximate) for _ in range(depth))
        )
        self.pooler = Named(dense=nn.Linear(dim, dim))

    def forward(self, ids):
        e = self.embeddings
        places = e.position_ids[:, : ids.shape[1]]
        x = e.word_embeddings(ids) + e.position_embeddings(places)
        x = e.LayerNorm(x + e.token_type_embeddings(torch.zeros_like(ids)))
        for layer in self.encoder.layer:
            x = layer(x)
        return torch.tanh(self.pooler.dense(x[:, 0]))


def keras_bert(words=50, length=12, dim=16, heads=2, depth=12):
    ids = keras.Input((length,), dtype="int32")
    x = L.Embedding(words, dim, name="words")(ids)
    places = keras.ops.zeros_like(ids) + keras.ops.arange(length, dtype="int32")
    x = L.Add()([x, L.Embedding(length, dim, name="positions")(places)])
    x = L.Add()([x, L.Embedding(2, dim, name="types")(keras.ops.zeros_like(ids))])
    x = L.LayerNormalization(epsilon=1e-12, name="embeddings_norm")(x)
    for i in range(depth):
        y = L.MultiHeadAttention(heads, dim // heads, name=f"attention_{i}")(x, x)
        x = L.LayerNormalization(epsilon=1e-12, name=f"attention_norm_{i}")(L.Add()([x, y]))
        y = L.Dense(4 * dim, activation=exact_gelu, name=f"up_{i}")(x)
        y = L.Dense(dim, name=f"down_{i}")(y)
        x = L.LayerNormalization(epsilon=1e-12, name=f"norm_{i}")(L.Add()([x, y]))
    return keras.Model(ids, L.Dense(dim, activation="tanh", name="pooler")(x[:, 0]), name="bert")


def exact_gelu(x):
    return keras.ops.gelu(x, approximate=False)


# ViT: the names of torchvision, of timm, and of transformers.


class VitBlock(nn.Module):
    """One block; the kind of names is that of torchvision, timm or transformers."""

    def __init__(self, dim, heads, names):
        super().__init__()
        self.heads, self.names = heads, names
        norms = {"torchvision": ("ln_1", "ln_2"), "timm": ("norm1", "norm2"),
                 "transformers": ("layernorm_before", "layernorm_after")}[names]  # fmt: skip
        self.norms = norms
        setattr(self, norms[0], nn.LayerNorm(dim, eps=1e-6))
        if names == "torchvision":
            self.self_attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        elif names == "timm":
            self.attn = Named(qkv=nn.Linear(dim, 3 * dim), proj=nn.Linear(dim, dim))
        else:
            own = Named(
                query=nn.Linear(dim, dim), key=nn.Linear(dim, dim), value=nn.Linear(dim, dim)
            )
            self.attention = Named(attention=own, output=Named(dense=nn.Linear(dim, dim)))
        setattr(self, norms[1], nn.LayerNorm(dim, eps=1e-6))
        up, down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        if names == "torchvision":
            self.mlp = nn.Sequential(up, nn.GELU(), nn.Dropout(0.1), down)
        elif names == "timm":
            self.mlp = Named(fc1=up, fc2=down)
        else:
            self.intermediate, self.output = Named(dense=up), Named(dense=down)

    def attend(self, x):
        if self.names == "torchvision":
            return self.self_attention(x, x, x, need_weights=False)[0]
        if self.names == "timm":
            q, k, v = self.attn.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            out = self.attn.proj
        else:
            own = self.attention.attention
            q, k, v = (p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                       for p in (own.query, own.key, own.value))  # fmt: skip
            out = self.attention.output.dense
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return out(y.transpose(1, 2).flatten(-2))

    def forward(self, x):
        x = x + self.attend(getattr(self, self.norms[0])(x))
        y = getattr(self, self.norms[1])(x)
        if self.names == "torchvision":
            return x + self.mlp(y)
        up = self.mlp.fc1 if self.names == "timm" else self.intermediate.dense
        down = self.mlp.fc2 if self.names == "timm" else self.output.dense
        return x + down(nn.functional.gelu(up(y)))


class Vit(nn.Module):
    def __init__(self, names, size=32, patch=8, dim=16, heads=2, depth=12, classes=10):
        super().__init__()
        self.names, count = names, (size // patch) ** 2 + 1
        conv, blocks = (
            nn.Conv2d(3, dim, patch, patch),
            [VitBlock(dim, heads, names) for _ in range(depth)],
        )
        token, places = (
            nn.Parameter(torch.zeros(1, 1, dim)),
            nn.Parameter(torch.zeros(1, count, dim)),
        )
        head, norm = nn.Linear(dim, classes), nn.LayerNorm(dim, eps=1e-6)
        if names == "torchvision":
            self.class_token, self.conv_proj = token, conv
            layers = Named(**{f"encoder_layer_{i}": block for i, block in enumerate(blocks)})
            self.encoder = Named(pos_embedding=places, layers=layers, ln=norm)
            self.heads = Named(head=head)
        elif names == "timm":
            self.cls_token, self.pos_embed, self.patch_embed = token, places, Named(proj=conv)
            self.blocks, self.norm, self.head = nn.Sequential(*blocks), norm, head
        else:
            patches = Named(projection=conv)
            self.vit = Named(
                embeddings=Named(
                    cls_token=token, position_embeddings=places, patch_embeddings=patches
                ),
                encoder=Named(layer=nn.ModuleList(blocks)),
                layernorm=norm,
            )
            self.classifier = head
        self._parts = [token, places, conv, blocks, norm, head]

    def forward(self, x):
        token, places, conv, blocks, norm, head = self._parts
        x = conv(x).flatten(2).transpose(1, 2)
        x = torch.cat([token.expand(len(x), -1, -1), x], 1) + places
        for block in blocks:
            x = block(x)
        return head(norm(x)[:, 0])


@keras.saving.register_keras_serializable("tests")
class Tokens(L.Layer):
    """A class token in front of patches, and positions."""

    def build(self, shape):
        self.token = self.add_weight(name="class_token", shape=(1, 1, shape[-1]))
        self.places = self.add_weight(name="positions", shape=(1, shape[1] + 1, shape[-1]))

    def call(self, x):
        token = keras.ops.broadcast_to(self.token, (keras.ops.shape(x)[0], 1, x.shape[-1]))
        return keras.ops.concatenate([token, x], axis=1) + self.places


def keras_vit(size=32, patch=8, dim=16, heads=2, depth=12, classes=10):
    image = keras.Input((size, size, 3))
    x = L.Conv2D(dim, patch, patch, name="patches")(image)
    x = Tokens(name="tokens")(L.Reshape((-1, dim))(x))
    for i in range(depth):
        y = L.LayerNormalization(epsilon=1e-6, name=f"norm_a_{i}")(x)
        x = L.Add()([x, L.MultiHeadAttention(heads, dim // heads, name=f"attention_{i}")(y, y)])
        y = L.LayerNormalization(epsilon=1e-6, name=f"norm_b_{i}")(x)
        y = L.Dense(4 * dim, activation=exact_gelu, name=f"up_{i}")(y)
        x = L.Add()([x, L.Dense(dim, name=f"down_{i}")(y)])
    x = L.LayerNormalization(epsilon=1e-6, name="norm")(x)
    return keras.Model(image, L.Dense(classes, name="head")(x[:, 0]), name="vit")
