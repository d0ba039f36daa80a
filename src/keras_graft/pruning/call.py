"""`Call`: one call of a layer or op, to which a rule adds links between its axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft.graph.node import Node, Value
from keras_graft.graph.parameters import variable_behind
from keras_graft.graph.record import unwrapped
from keras_graft.model.calls import filled
from keras_graft.pruning.closure import Axis, Link

Kept = Callable[[Axis], np.ndarray]
"""Returns the positions of an axis that stay."""

Path = tuple[Any, ...]
"""Where a number is in a configuration, `("layer", "config", "units")`."""


def all_unwrapped(operation: Any) -> Any:
    """Return the layer inside all wrappers of the package."""
    while (inner := unwrapped(operation)) is not operation:
        operation = inner
    return operation


@dataclass(eq=False)
class Call:
    """What a rule knows of one call, and what it says about it.

    Attributes:
        node: The node, bound to its graph.
        layer: The operation, without wrappers.
        links: The links between axes of the call.
        settled: The axes that a link or the rule's word covers; all others stop a group.
        notes: For an axis, what changes in the numbers if zeroed positions are removed.
        doubts: For an axis, a note that holds only where the axes named with it are not zero, and
            whether all of them must be.
        stops: For an axis, why nothing can be removed there.
        summed: The axes of weights that sum over the layer's own channels, inside the layer.
        scaling: The axes of weights that read channels without summing over them.
        source: The axis that `kg.group` starts from.
        prefix: Where the configuration of `layer` is in that of the operation.
        shift: How many axes of the values behind the batch belong to the batch that `layer` sees, as
            in `TimeDistributed`: indices of axes are those of the layer.
        numbers: For each number in the configuration, the axis that it counts.
        changes: Functions that return more changes of the configuration, or of the op's attributes.
        templates: Functions that return the recorded arguments for the positions that stay.
        later: Functions of a reached axis, for links that depend on where a group comes from.
    """

    node: Node
    layer: Any
    links: list[Link] = field(default_factory=list)
    settled: set[Axis] = field(default_factory=set)
    notes: dict[Axis, str] = field(default_factory=dict)
    doubts: dict[Axis, tuple[str, tuple[Axis, ...], bool]] = field(default_factory=dict)
    stops: dict[Axis, str] = field(default_factory=dict)
    summed: set[Axis | None] = field(default_factory=set)
    scaling: set[Axis | None] = field(default_factory=set)
    source: Axis | None = None
    prefix: Path = ()
    shift: int = 0
    numbers: dict[Path, Axis] = field(default_factory=dict)
    changes: list[Callable[[Kept], dict[Path, Any]]] = field(default_factory=list)
    templates: list[Callable[[Kept], Any]] = field(default_factory=list)
    later: list[Callable[[Axis], None]] = field(default_factory=list)

    # -- what is there ----------------------------------------------------------------------

    @property
    def inputs(self) -> tuple[Value, ...]:
        """The values among the arguments, as the layer sees them."""
        return tuple(map(self._seen, self.node.inputs))

    @property
    def outputs(self) -> tuple[Value, ...]:
        """The values it gives, as the layer sees them."""
        return tuple(map(self._seen, self.node.outputs))

    def _seen(self, value: Value) -> Value:
        value = self.node.home.known(value)
        if not self.shift or value.spec is None:
            return value
        shape = (None, *value.spec.shape[1 + self.shift :])
        return value.replace(spec=replace(value.spec, shape=shape))

    def arguments(self) -> tuple[list[Any], Mapping[str, Any]]:
        """Return the recorded arguments with values in place of tensors."""
        args, kwargs = filled(self.node.template, self.inputs)
        return list(args), kwargs

    def argument(self, index: int, name: str, default: Any = None) -> Any:
        """Return one recorded argument."""
        args, kwargs = self.arguments()
        return args[index] if len(args) > index else kwargs.get(name, default)

    def constant_shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of the arrays among the recorded arguments, lists of numbers too."""
        args, kwargs = self.arguments()
        return shapes_of([*args, *kwargs.values()])

    @property
    def x(self) -> Any:
        """The first input."""
        return self.inputs[0]

    @property
    def y(self) -> Any:
        """The first output."""
        return self.outputs[0]

    def shape(self, value: Any) -> tuple[int | None, ...]:
        """Return the shape of a value: a rule is only asked where all are known."""
        return value.spec.shape

    def within(self, layer: Any, prefix: Path = (), shift: int = 0) -> Call:
        """Return the same call for a layer inside: what its rule says is said about this call."""
        return replace(self, layer=layer, prefix=(*self.prefix, *prefix), shift=self.shift + shift)

    def channel(self, value: Any) -> Axis | None:
        """Return the channel axis of a value, as the layer's `data_format` says."""
        first = getattr(self.layer, "data_format", None) == "channels_first"
        return self.axis(value, 1 if first else -1)

    # -- axes -------------------------------------------------------------------------------

    def axis(self, value: Any, index: int) -> Axis | None:
        """Return an axis of a value; None where its size varies, as that of the batch."""
        if not isinstance(value, Value) or value.spec is None:
            return None
        rank = len(value.spec.shape)
        index = index % rank if -rank <= index < rank else -1
        size = value.spec.shape[index] if index >= 0 else None
        return None if size is None else Axis(value.key, index + self.shift, size)

    def weight(self, variable: Any, index: int) -> Axis | None:
        """Return an axis of the variable behind a weight; None if there is no such weight."""
        if variable is None:
            return None
        index %= len(variable.shape)
        variable = variable_behind_views(variable)
        if isinstance(variable, _keras.Tied):
            name = variable.transform.name
            rank = len(variable.shape)
            if name == "transpose" and index >= rank - 2:
                index = 2 * rank - 3 - index
            elif name not in ("", "transpose"):
                return Axis(("transformed", id(variable)), index, variable.shape[index])
            variable = variable_behind_views(variable.source)
        kind = "weight" if isinstance(variable, keras.Variable) else "computed"
        return Axis((kind, id(variable)), index, int(variable.shape[index]))

    def number(self, path: Any, size: int) -> Axis:
        """Return the axis that a number in a configuration counts; one for all calls."""
        path = (*self.prefix, *(path if isinstance(path, tuple) else (path,)))
        return Axis(("number", id(all_unwrapped(self.node.operation)), path), 0, int(size))

    # -- what a rule says -------------------------------------------------------------------

    def link(self, one: Axis | None, mine: Any, other: Axis | None, its: Any) -> None:
        """Couple positions of two axes, pair by pair."""
        if one is None or other is None:
            return
        pair = np.broadcast_arrays(np.asarray(mine, "int64"), np.asarray(its, "int64"))
        self.links.append(Link(one, other, pair[0].ravel(), pair[1].ravel()))
        self.settled |= {one, other}

    def same(self, one: Axis | None, *others: Axis | None) -> None:
        """Couple all positions of axes of one size."""
        for other in others:
            if one is not None and other is not None and one.size == other.size:
                self.links.append(Link.same(one, other))
                self.settled |= {one, other}

    def counts(self, path: Any, axis: Axis | None) -> None:
        """Say that a number in the configuration is the size of an axis."""
        if axis is not None:
            number = self.number(path, axis.size)
            self.same(axis, number)
            self.numbers[number.holder[2]] = number  # type: ignore[index]

    def absorb(self, axis: Axis | None, note: str = "") -> None:
        """Say that an axis ends here: positions may go, and nothing else follows."""
        if axis is not None:
            self.settled.add(axis)
            if note:
                self.notes[axis] = note

    def note(self, axis: Axis | None, text: str) -> None:
        """Say what changes in the numbers if zeroed positions of an axis are removed."""
        if axis is not None:
            self.notes[axis] = text

    def sums(self, *axes: Axis | None, every: bool = False, what: str = "sum") -> None:
        """Say that positions are summed over: exact only if those that go are zero.

        Args:
            axes: The axes, multiplied with one another.
            every: Whether all of them must be zero there, and not only one.
            what: What is computed.
        """
        known = tuple(axis for axis in axes if axis is not None)
        for axis in known:
            self.doubts[axis] = (
                f"a unit of zeros is not zero here: the {what} changes",
                known,
                every,
            )

    def stop(self, axis: Axis | None, reason: str) -> None:
        """Say that nothing can be removed from an axis."""
        if axis is not None:
            self.stops[axis] = reason

    def through(self, one: Any, other: Any, leave: Sequence[int] = ()) -> None:
        """Couple the axes of two values of one rank, except some (and the batch)."""
        shapes = [v.spec.shape for v in (one, other)]
        rank = len(shapes[0])
        if rank == len(shapes[1]):
            left = {i % rank for i in leave}
            for i in range(rank):
                if i not in left:
                    self.same(self.axis(one, i), self.axis(other, i))


def shapes_of(given: Any) -> list[tuple[int, ...]]:
    """Return the shapes of the arrays and lists of numbers in a structure."""
    if isinstance(given, Value) or given is None or isinstance(given, str):
        return []
    if hasattr(given, "shape"):
        return [tuple(given.shape)]
    if isinstance(given, Mapping):
        return shapes_of(list(given.values()))
    if not isinstance(given, list | tuple):
        return []
    if given and all(isinstance(x, bool | int | float) for x in given):
        return [(len(given),)]
    return [shape for x in given for shape in shapes_of(x)]


def variable_behind_views(variable: Any) -> Any:
    """Return the variable behind views of frozen layers and sums with adapters; a tied one stays."""
    while isinstance(variable, _keras.View | _keras.Adapted):
        variable = variable_behind(variable)
    return variable
