"""A case: a subclassed model as a user writes it, its inputs, and what reading it must give."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

tree = keras.tree
register = keras.saving.register_keras_serializable("subclassed_cases")

CASES: dict[str, Case] = {}


@dataclasses.dataclass(frozen=True)
class Case:
    """One model, and what `kg.read` must make of it.

    Attributes:
        make: Makes the model, not built.
        inputs: Gives the arguments of the model's call for a size; a tuple is several arguments.
        sizes: The arguments of `inputs` for each set. Axes in which two sets differ are unknown.
        closed: Paths (globs) of composites that stay closed, each with words of the reason.
        refused: Words of the refusal of the whole model, the line of the user's code among them.
        open: What `kg.read` is asked to open, for a Functional.
        about: A reason why numbers are compared within float tolerance and not to the bit.
        compiled: Whether the donor itself runs when it is compiled.
        trains: Whether a training step is compared.
        unneeded: How many weights no output needs, inside a block: gone once all is inlined.
        loss: The loss of that step; None: the model's own losses and the mean of its outputs.
    """

    name: str
    make: Callable[[], keras.Model]
    inputs: Callable[..., Any]
    sizes: tuple[tuple, ...]
    closed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    refused: tuple[str, ...] = ()
    open: str | None = None
    about: str = ""
    compiled: bool = True
    trains: bool = True
    unneeded: int = 0
    after: Callable[[keras.Model], Any] | None = None

    def __repr__(self) -> str:
        return self.name

    def sets(self) -> list[tuple]:
        """Return the sets of inputs, each a tuple of arguments."""
        made = [self.inputs(*size) for size in self.sizes]
        return [x if isinstance(x, tuple) else (x,) for x in made]

    def symbols(self) -> Any:
        """Return symbolic inputs as `kg.read` takes them: axes that differ are unknown."""

        def symbol(*arrays: np.ndarray) -> keras.KerasTensor:
            shapes = zip(*(a.shape for a in arrays), strict=True)
            shape = tuple(s[0] if len(set(s)) == 1 else None for s in shapes)
            return keras.KerasTensor(shape, str(arrays[0].dtype))

        found = tree.map_structure(symbol, *self.sets())
        return found if len(found) > 1 else found[0]

    def model(self) -> keras.Model:
        """Return a new model, built, with weights that make every part of it matter."""
        keras.utils.set_random_seed(7)
        model = self.make()
        model(*self.sets()[0])
        rng = np.random.default_rng(11)
        for weight in model.weights:
            own = weight.trainable or weight.name == "moving_mean"
            if own and not np.any(keras.ops.convert_to_numpy(weight)):
                weight.assign(0.1 * rng.standard_normal(weight.shape))  # a bias, a gate
        if self.after is not None:
            self.after(model)
        return model


def case(inputs: Callable[..., Any], *sizes: tuple, **expected: Any) -> Callable[[Any], Any]:
    """Make a case of a function that makes a model; the case has the function's name."""

    def named(make: Callable[[], keras.Model]) -> Callable[[], keras.Model]:
        assert make.__name__ not in CASES
        CASES[make.__name__] = Case(make.__name__, make, inputs, sizes, **expected)
        return make

    return named


def floats(*shape: int) -> np.ndarray:
    """Return normal numbers, the same for the same shape."""
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype("float32")


def ids(high: int, *shape: int) -> np.ndarray:
    """Return integers from 1 to `high` - 1; each row ends with at least one 0, the padding."""
    drawn = np.random.default_rng(sum(shape)).integers(1, high, shape).astype("int32")
    for row, length in enumerate(range(shape[-1] - 1, shape[-1] - 1 - len(drawn), -1)):
        drawn[row, ..., max(length, 1) :] = 0
    return drawn
