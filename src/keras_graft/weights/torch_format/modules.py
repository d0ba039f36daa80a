"""The modules of a PyTorch network, found by the names of its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from keras_graft.weights.torch_format.tensors import Tensor

_NAMES = ("weight", "bias", "running_mean", "running_var")
_OLD = {"gamma": "weight", "beta": "bias"}
"""How files that came from TensorFlow name the weights of a LayerNorm."""
_RECURRENT = re.compile(r"(weight|bias)_(ih|hh)(?:_(l[0-9]+(?:_reverse)?))?")
_PROJECTIONS = {"q_proj_weight": "query", "k_proj_weight": "key", "v_proj_weight": "value"}
_THIRDS = ("query", "key", "value")
_FUSED = re.compile(r"(.*\.)?qkv")

BARE = ""
"""The name of the tensor of a parameter that belongs to no known kind of module."""


@dataclass(eq=False)
class Module:
    """A module without modules inside, or one parameter that belongs to no known kind.

    Of a fused projection (`in_proj_weight`, `qkv`) each third is a module: `attn.in_proj.query`.
    Each layer and direction of a recurrent module is one: `lstm.l0`, `lstm.l0_reverse`.

    Attributes:
        name: Its dotted name; for a parameter the name of the tensor.
        tensors: Its tensors, by their names within the module.
    """

    name: str
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @property
    def bare(self) -> bool:
        """Whether it is one parameter, not a module."""
        return BARE in self.tensors

    @cached_property
    def main(self) -> Tensor:
        """The tensor that tells the module from others of its kind: the weight."""
        for name in (BARE, "weight", "weight_ih", "running_mean"):
            if name in self.tensors:
                return self.tensors[name]
        return next(iter(self.tensors.values()))

    @cached_property
    def role(self) -> str | None:
        """Its role in an attention block or a bidirectional layer, if its name says one."""
        return "reverse" if self.name.endswith("_reverse") else role_of(self.name)

    @cached_property
    def template(self) -> str:
        """Its name without numbers."""
        return re.sub("[0-9]+", "#", self.name)

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """The numbers in its name."""
        return tuple(int(n[:18]) for n in re.findall("[0-9]+", self.name))


def modules_of(tensors: Iterable[Tensor]) -> list[Module]:
    """Return the modules, in the order of their first tensors."""
    found: dict[str, Module] = {}
    tensors = list(tensors)
    names = {tensor.name for tensor in tensors}
    for tensor in tensors:
        for module, name, its in _placed(tensor, names):
            found.setdefault(module, Module(module)).tensors[name] = its
    return list(found.values())


def _placed(tensor: Tensor, names: set[str]) -> Iterator[tuple[str, str, Tensor]]:
    """Yield the module of a tensor, and its name there; of a fused tensor the three parts."""
    prefix, dot, last = tensor.name.rpartition(".")
    recurrent = _RECURRENT.fullmatch(last)
    if last in _NAMES:
        yield prefix, last, tensor
    elif last in _OLD and all(f"{prefix}{dot}{name}" in names for name in _OLD):
        yield prefix, _OLD[last], tensor
    elif recurrent:
        module = ".".join(part for part in (prefix, recurrent[3]) if part)
        yield module, f"{recurrent[1]}_{recurrent[2]}", tensor
    elif last in ("in_proj_weight", "in_proj_bias") and _in_thirds(tensor):
        for part, its in _thirds(tensor):
            yield f"{prefix}{dot}in_proj.{part}", last.removeprefix("in_proj_"), its
    elif last in _PROJECTIONS:
        yield f"{prefix}{dot}in_proj.{_PROJECTIONS[last]}", "weight", tensor
    else:
        yield tensor.name, BARE, tensor


def thirds(module: Module) -> list[Module]:
    """Return the projections of a module that is all three in one; empty if it is not one."""
    if not _FUSED.fullmatch(module.name) or not all(map(_in_thirds, module.tensors.values())):
        return []
    parts = [Module(f"{module.name}.{part}") for part in _THIRDS]
    for name, tensor in module.tensors.items():
        for part, (_, its) in zip(parts, _thirds(tensor), strict=True):
            part.tensors[name] = its
    return parts


def _in_thirds(tensor: Tensor) -> bool:
    return bool(tensor.shape) and tensor.shape[0] % 3 == 0


def _thirds(tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    size = tensor.shape[0] // 3
    for i, part in enumerate(_THIRDS):

        def read(start: int = i * size) -> np.ndarray:
            return tensor.read()[start : start + size]

        shape = (size, *tensor.shape[1:])
        yield part, replace(tensor, name=f"{tensor.name}[{part}]", shape=shape, read=read)


_FILLERS = {"proj", "projection", "lin", "linear", "dense", "layer", "conv"}
_ROLES = {
    **dict.fromkeys(("q", "query", "queries", "wq"), "query"),
    **dict.fromkeys(("k", "key", "keys", "wk"), "key"),
    **dict.fromkeys(("v", "value", "values", "wv"), "value"),
}
_SHORTCUTS = {"downsample", "shortcut", "skip"}
_NORMS = {"norm", "layernorm", "ln", "rmsnorm", "groupnorm"}


def role_of(name: str) -> str | None:
    """Return the role that a name of a module or layer says: which projection, norm or branch.

    >>> [role_of(n) for n in ("attn.q_proj", "attention.output.dense", "output.dense", "conv1")]
    ['query', 'output', None, None]
    """
    words = [
        w for w in re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])([A-Z])", r"_\1", name).lower()) if w
    ]
    count = len(words)
    while len(words) > 1 and words[-1] in _FILLERS and not _attends(words[-2]):
        words.pop()
    if not words:
        return None
    if words[-1] in _ROLES:  # a letter alone may be any name
        told = len(words[-1]) > 1 or len(words) < count or words[-2:-1] == ["to"]
        return _ROLES[words[-1]] if told or any(map(_attends, words[-4:])) else None
    near = words[-4:]
    if _SHORTCUTS.intersection(near):
        return "shortcut"
    if _NORMS & set(near[-2:]):
        return next((f"norm of {word[:3]}" for word in near if word[:3] in ("att", "emb")), None)
    ends = words[-1] in ("o", "wo", "out", "output", "proj")
    return "output" if ends and any(map(_attends, near[:-1])) else None


def _attends(word: str) -> bool:
    return word.startswith(("att", "mha", "selfatt", "crossatt"))
