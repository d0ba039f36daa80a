"""A place in a Keras model that a PyTorch module fits in: which weight takes which tensor, and how."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from keras_graft.weights.address import Weight
from keras_graft.weights.torch_format.layouts import Layout
from keras_graft.weights.torch_format.modules import BARE, Module, role_of

WEIGHT_AND_BIAS = frozenset(("weight", "bias"))
"""The tensors of most modules."""


@dataclass(frozen=True)
class Part:
    """One weight of a layer, and the tensors that it is made of.

    Attributes:
        weight: The weight.
        tensors: Their names within the module.
        layout: The layout of each of them.
        stacked: Whether several are rows of the weight; otherwise they are added.
    """

    weight: Weight
    tensors: tuple[str, ...]
    layout: Layout
    stacked: bool = False

    def to_keras(self, arrays: list[np.ndarray]) -> np.ndarray:
        """Return the weight's values."""
        made = [self.layout.to_keras(array) for array in arrays]
        if self.stacked:
            return np.stack(made)
        if len(made) == 1:
            return made[0]
        exact = [array.astype(np.result_type(array.dtype, np.float32)) for array in made]
        return np.sum(exact, axis=0, dtype=exact[0].dtype)

    def to_torch(self, array: np.ndarray) -> list[np.ndarray]:
        """Return the values of the tensors: of several that are added all but the first are zero."""
        rows = list(array) if self.stacked else [array, *[array * 0] * (len(self.tensors) - 1)]
        return [self.layout.to_torch(row) for row in rows]


@dataclass(eq=False)
class Slot:
    """A layer, or a part of one, that corresponds to one module.

    Attributes:
        address: The address of the layer, or of the weight if it is one weight of a larger layer.
        module: The name that the module gets if no other is known.
        kind: The layer's class, for messages.
        parts: Its weights.
        allowed: The names of the tensors that such a module may have.
        why: Why no module of PyTorch computes the same; None if one does.
        parameter: Whether it is one weight of a layer of no known kind.
        automatic: Whether Keras named the layer or one around it, by what was made before.
    """

    address: str
    module: str
    kind: str
    parts: tuple[Part, ...]
    allowed: frozenset[str] = WEIGHT_AND_BIAS
    why: str | None = None
    parameter: bool = False
    automatic: bool = False

    @cached_property
    def role(self) -> str | None:
        """Its role in an attention block or a bidirectional layer, if its address says one."""
        return "reverse" if self.module.endswith("_reverse") else role_of(self.address)

    @property
    def main(self) -> Part:
        """The part that tells it from others of its kind."""
        return self.parts[0]

    def owns(self, address: str) -> bool:
        """Whether this is the address of the slot, or of the layer that has its weights."""
        return address in (self.address, self.parts[0].weight.address.rpartition("/")[0])

    def names(self, module: Module) -> list[tuple[Part, list[str]]]:
        """Return the parts that a module has tensors for, and the names of these."""
        if module.bare:
            return [(self.parts[0], [BARE])] if len(self.parts) == 1 else []
        return [
            (p, list(p.tensors)) for p in self.parts if all(n in module.tensors for n in p.tensors)
        ]

    def alike(self, module: Module) -> bool:
        """Whether a module may be this, whatever its sizes."""
        if self.why or not self.names(module):
            return False
        if not module.bare and not self.allowed.issuperset(module.tensors):
            return False
        statistics = {n for p in self.parts for n in p.tensors} & {"running_mean"}
        if not module.bare and bool(statistics) != ("running_mean" in module.tensors):
            return False
        sides = {self.role, module.role}
        return len(sides) == 1 or not sides & {"query", "key", "value", "reverse"} and None in sides

    def takes(self, module: Module) -> bool:
        """Whether a module may be this, by its tensors, their shapes, and its role."""
        return self.alike(module) and all(
            part.layout.fits(module.tensors[name].shape)
            for part, names in self.names(module)
            for name in names
        )
