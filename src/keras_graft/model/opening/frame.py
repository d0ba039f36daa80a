"""`Frame`: one call of a layer whose code runs on symbolic tensors, and what the code did."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.graph.node import Slot
from keras_graft.graph.sizes import (
    Axis,
    Doubt,
    Size,
    deep,
    formula_of,
    leaves,
    other,
    tensors_in,
    with_axes,
)
from keras_graft.layers.sized_call import SizedCall
from keras_graft.model.opening.log import Log, said
from keras_graft.model.opening.reasons import file_of

Place = tuple[tuple[str, int], ...]
"""Where a call is: the names of the layers around it and its own, each with its number there."""


class Frame:
    """One call of a layer, opened: the tensors that enter, the calls made, the tensors given.

    Attributes:
        layer: The layer.
        place: Where the call is.
        tensors: The symbolic tensors that enter: for the code, each an input of its own.
        sources: For each, the tensor outside.
        masks: How many of them, at the end, only enter as masks of others.
        steps: The calls that its code made, as loose Keras nodes.
        inner: For a call of a layer that was opened too, by the identity of the step, its frame.
        closed: For a call that should be opened and could not, by the step's identity, why.
        log: What two runs of the same code have in common.
        outputs: The tensors given, flat.
        given: The arguments of the call, as they were outside.
        worlds: For each tensor that enters, its sizes in both worlds.
        unseen: For a mask made here and attached to an output, what stands for it outside.
        handed_on: The masks of outputs that Keras attaches outside too, as the layer supports masks.
        fixed: The training flags that its code sets itself, each with the number of the entry.
        training: For the number of a log entry, the step and the training flag it was given.
        largest: How many numbers the largest tensor that a call gives has, in both worlds.
        plain: The tensors given, before a call of the package was put around them.
        adds_in_training: Whether its code adds losses in training only, and runs as in training.
        stripped: By the identity of a tensor that lost its mask in a call: the tensor, that mask.
        copies: By the same, a copy of it without a mask, where a later call reads one.
    """

    def __init__(self, layer: Any, place: Place) -> None:
        self.layer = layer
        self.place = place
        self.tensors: list[Any] = []
        self.sources: list[Any] = []
        self.masks = 0
        self.steps: list[Any] = []
        self.inner: dict[int, Frame] = {}
        self.closed: dict[int, str] = {}
        self.log = Log(file_of(layer))
        self.outputs: list[Any] = []
        self.structure: Any = None
        self.given: tuple[Any, dict[str, Any]] = ((), {})
        self.worlds: list[list[tuple[int, int]]] = []
        self.unseen: list[tuple[Any, Any]] = []
        self.handed_on: list[Any] = []
        self.losses: list[Any] = []
        self.training: dict[int, Any] = {}
        self.fixed: list[Any] = []
        self.largest = [0, 0]
        self.plain: list[Any] = []
        self.adds_in_training = False
        self.stripped: dict[int, tuple[Any, Any]] = {}
        self.copies: dict[int, Any] = {}
        self._inside: dict[int, Any] = {}
        self._mine: dict[int, Any] = {}
        self._number: dict[int, int] = {}
        self._known: dict[tuple[int, int], Size] = {}
        self._weights: dict[int, tuple[Any, Any]] = {}
        self._calls: dict[str, int] = {}

    # -- entering -------------------------------------------------------------------------

    def enter(self, structure: Any) -> Any:
        """Return arguments with an input of this frame for each tensor, and its masks attached."""
        given = [leaf for leaf in leaves(structure) if isinstance(leaf, keras.KerasTensor)]
        for tensor in given:
            self._input(tensor)
        explicit = len(self.tensors)
        for tensor in given:
            mask = _keras.mask_of(tensor)
            if mask is not None:
                _keras.set_mask(self._inside[id(tensor)], self._input(mask))
        self.masks = len(self.tensors) - explicit
        self.worlds = [[(int(d), int(other(d))) for d in t.shape] for t in self.tensors]
        return deep(structure, self._entered)

    def _input(self, tensor: Any) -> Any:
        if id(tensor) in self._inside:
            return self._inside[id(tensor)]
        new = twin(tensor, 0)
        shape = tuple(
            Size(int(d), d.other, Axis(new, axis)) if isinstance(d, Size) else d
            for axis, d in enumerate(tensor.shape)
        )
        _keras.set_shape(new, shape)
        self._learn(new)
        self._inside[id(tensor)] = new
        self.tensors.append(new)
        self.sources.append(tensor)
        self._mine[id(new)] = new
        self._number[id(new)] = len(self._number)
        return new

    def _entered(self, leaf: Any) -> Any:
        if isinstance(leaf, keras.KerasTensor):
            return self._inside[id(leaf)]
        if not isinstance(leaf, Size):
            return leaf
        known = self._known.get((int(leaf), leaf.other))
        if known is None:
            raise Doubt("it is called with a size that none of its inputs has")
        return known

    def _learn(self, tensor: Any) -> None:
        for size in tensor.shape:
            if isinstance(size, Size):
                self._known.setdefault((int(size), size.other), size)

    # -- what the code does -----------------------------------------------------------------

    def number(self, name: str) -> int:
        """Return which call of a layer of this name comes next, and count it."""
        found = self._calls.get(name, 0)
        self._calls[name] = found + 1
        return found

    def owns(self, tensor: Any) -> bool:
        """Whether a tensor was made by the code of this call, or entered it."""
        return id(tensor) in self._mine

    def adopt(self, tensor: Any) -> None:
        """Let the code of this call use a tensor that no call of it gave."""
        self._mine[id(tensor)] = tensor
        self._number.setdefault(id(tensor), len(self._number))

    def said(self, leaf: Any) -> Any:
        """Return what two runs of the same code have in common about an argument."""
        if isinstance(leaf, keras.KerasTensor):
            return ["tensor", self._number.get(id(leaf), -1), len(leaf.shape), leaf.dtype]
        return said(leaf)

    def record(self, operation: Any, args: Any, kwargs: Any, outputs: Any) -> Any:
        """Keep a call; its arguments must belong to this frame."""
        for leaf in leaves((args, kwargs)):
            if isinstance(leaf, keras.KerasTensor) and not self.owns(leaf):
                raise Doubt(f"{_name(operation)} reads a tensor that the code of another call made")
        step = _keras.loose_node(operation, args, kwargs, outputs, len(self.steps))
        self.steps.append(step)
        # A size that is known must be the same in all runs.
        self.log.append([[_none(d) for d in t.shape] for t in step.outputs])
        for tensor in step.outputs:
            pairs = [(int(d), int(other(d))) for d in tensor.shape]
            self.largest = [
                max(was, math.prod(pair[world] for pair in pairs))
                for world, was in enumerate(self.largest)
            ]
            self._mine[id(tensor)] = tensor
            self._number.setdefault(id(tensor), len(self._number))
        return step

    def lifted(self, variable: Any, make: Any) -> Any:
        """Return the tensor of a variable in this frame; `make` makes it the first time."""
        if id(variable) not in self._weights:
            self._weights[id(variable)] = variable, make()
        return self._weights[id(variable)][1]

    @property
    def anchor(self) -> Any:
        """The first tensor that enters."""
        if not self.tensors:
            raise Doubt("it is called without a tensor")
        return self.tensors[0]

    def born(self, first: Any, second: Any) -> Any:
        """Return new tensors for the specs that a call gives in both worlds.

        Args:
            first: The specs in the first world, in their structure.
            second: The same in the second world.
        """
        flat, others = keras.tree.flatten(first), keras.tree.flatten(second)
        if len(flat) != len(others):
            raise Doubt("it gives another number of tensors for other sizes")
        made = []
        for a, b in zip(flat, others, strict=True):
            if not isinstance(a, keras.KerasTensor):
                made.append(a)
                continue
            if len(a.shape) != len(b.shape) or a.dtype != b.dtype:
                raise Doubt("it gives tensors of another rank for other sizes")
            # Not its flag `sparse`: Keras calls the result of `x * 2.0` sparse for any `x`.
            new = keras.KerasTensor(tuple(map(_int, a.shape)), a.dtype)
            sizes = zip(map(_int, a.shape), map(_int, b.shape), strict=True)
            shape = tuple(
                x if x == y else Size(x, y, Axis(new, axis)) for axis, (x, y) in enumerate(sizes)
            )
            _keras.set_shape(new, shape)
            made.append(new)
        return keras.tree.pack_sequence_as(first, made)

    def sized(self, target: str, attributes: Any, args: Any, kwargs: Any) -> tuple[Any, list[Any]]:
        """Return a call whose sizes are read from its tensors, and these tensors."""
        reads: list[Any] = []
        # The size of an input may be that of tensors made since. With these, a cut between need not
        # hand on the input: first those of the call itself, then the last that was made.
        near: dict[tuple[int, int], Axis] = {}
        mine = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, keras.KerasTensor)]
        for tensor in (*mine, *reversed(list(self._mine.values()))):
            sizes = [(int(d), d.other) if isinstance(d, Size) else None for d in tensor.shape]
            for axis, pair in enumerate(sizes):
                if pair is not None and sizes.count(pair) == 1:
                    near.setdefault(pair, Axis(tensor, axis))

        def slot(tensor: Any) -> Slot:
            for index, known in enumerate(reads):
                if known is tensor:
                    return Slot(index)
            if not self.owns(tensor):
                raise Doubt("a size of a tensor that another call made is used")
            reads.append(tensor)
            return Slot(len(reads) - 1)

        def sealed(leaf: Any) -> Any:
            if isinstance(leaf, keras.KerasTensor):
                return slot(leaf)
            return with_axes(leaf.formula, place) if isinstance(leaf, Size) else leaf

        def place(axis: Axis) -> Axis:
            size = axis.tensor.shape[axis.axis]
            moves = any(axis.tensor is tensor for tensor in self.tensors)
            found = near.get((int(size), other(size)), axis) if moves else axis
            return Axis(slot(found.tensor), found.axis)

        attributes, args, kwargs = (deep(part, sealed) for part in (attributes, args, kwargs))
        worlds = [[(_int(d), _int(other(d))) for d in t.shape] for t in reads]
        return SizedCall(target, attributes, args, kwargs, worlds), reads

    def needed(self, outputs: Sequence[Any] | None = None) -> list[Any]:
        """Return the steps that the outputs, or other tensors, need, and their masks."""
        giver = {id(t): step for step in self.steps for t in step.outputs}
        found: set[int] = set()
        stack = list(self.outputs if outputs is None else outputs)
        while stack:
            tensor = stack.pop()
            mask = _keras.mask_of(tensor)
            if mask is not None:
                stack.append(mask)
            step = giver.get(id(tensor))
            if step is not None and id(step) not in found:
                found.add(id(step))
                stack += [t for t in step.arguments.keras_tensors]
                stack += [t for t in step.outputs]
        return [step for step in self.steps if id(step) in found]

    def anchor_weights(self, is_weight: Callable[[Any], bool]) -> None:
        """Let each weight be read where it is first used, with the tensor that it meets there.

        A weight depends on no data, but a call must have an input. With the first input of all, it
        would cross every cut.
        """
        reads = [list({id(t): t for t in s.arguments.keras_tensors}.values()) for s in self.steps]
        of_weights: dict[int, set[int]] = {}
        best: dict[int, Any] = {}
        for step, tensors in zip(self.steps, reads, strict=True):
            if is_weight(step):
                of_weights.update((id(t), {id(step)}) for t in step.outputs)
                continue
            met = {w for t in tensors for w in of_weights.get(id(t), ())}
            data = [t for t in tensors if id(t) not in of_weights]
            if met and not data:
                of_weights.update((id(t), met) for t in step.outputs)
            for weight in met if data else ():
                best.setdefault(weight, data[0])
        for step in self.steps:
            if id(step) in best:
                _keras.call_with(step, best[id(step)])


def twin(tensor: Any, world: int) -> Any:
    """Return a symbolic tensor like this one, with its sizes in one world as plain ints."""
    shape = tuple(_int(other(d) if world else d) for d in tensor.shape)
    return keras.KerasTensor(shape, tensor.dtype, sparse=bool(tensor.sparse))


def in_world(structure: Any, world: int) -> Any:
    """Return arguments as they are in one world: tensors with plain sizes, and plain ints."""
    made: dict[int, Any] = {}

    def change(leaf: Any) -> Any:
        if isinstance(leaf, keras.KerasTensor):
            if id(leaf) not in made:
                made[id(leaf)] = twin(leaf, world)
                mask = _keras.mask_of(leaf)
                if mask is not None:
                    _keras.set_mask(made[id(leaf)], change(mask))
            return made[id(leaf)]
        if isinstance(leaf, Size):
            return _int(other(leaf) if world else leaf)
        return leaf

    return deep(structure, change)


def is_open(structure: Any) -> bool:
    """Whether arguments hold a size that is not known."""
    for leaf in leaves(structure):
        if isinstance(leaf, Size):
            return True
        if isinstance(leaf, keras.KerasTensor) and any(isinstance(d, Size) for d in leaf.shape):
            return True
    return False


def tensors_of(structure: Any) -> Iterable[Any]:
    """Yield the tensors in arguments, also those that sizes are read from."""
    for leaf in leaves(structure):
        if isinstance(leaf, keras.KerasTensor):
            yield leaf
        elif isinstance(leaf, Size):
            yield from tensors_in(formula_of(leaf))


def _none(size: Any) -> Any:
    return None if isinstance(size, Size) else size


def _int(size: Any) -> Any:
    return None if size is None else int(size)


def _name(operation: Any) -> str:
    return repr(str(operation.name))
