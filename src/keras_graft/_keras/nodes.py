"""Keras nodes: read the nodes of a model, and make nodes for new models.

Keras links a model's layers in both directions: a tensor knows its node by an index into its
layer's `_inbound_nodes`, and that list holds the node, which holds the tensors. So everything made
from a donor's layers stays on the donor permanently, even if it failed or was deleted. The nodes
made here are held only by their output tensors. The layer's list gets a `_Entry`, which forgets its
node as soon as nobody uses the tensors; its place is then removed or, between other entries, used
again.
"""

from __future__ import annotations

import contextlib
import functools
import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras

from keras_graft._keras import private
from keras_graft._keras.layers import sublayers
from keras_graft._keras.private import base, guarded
from keras_graft.graph.record import remember

# -- reading ------------------------------------------------------------------------------


def functional(model: Any) -> Any:
    """Return the Functional that runs `model`, or None if there is none to read.

    Uses `Sequential._functional` (3.12 - 3.15): a built Sequential delegates to it. A subclass
    of Functional that overrides `call` does something that its graph does not say.
    """
    if isinstance(model, keras.Sequential):
        model = model._functional if type(model).call is keras.Sequential.call else None
    if isinstance(model, private.Functional) and not is_functional_subclass(model):
        return model
    return None


def is_functional_subclass(model: Any) -> bool:
    """Whether `model` is a Functional with its own `call`, which does not say that it runs the graph."""
    cls = type(model)
    if not isinstance(model, private.Functional) or cls.call is private.Functional.call:
        return False
    return not getattr(cls, "keras_graft_runs_its_graph", False)


def nodes(model: Any) -> list[Any]:
    """Return the Keras nodes of a Functional in the order in which it runs them.

    Uses `Function._nodes_by_depth` (3.12 - 3.15).
    """
    by_depth = model._nodes_by_depth
    return [
        node
        for depth in sorted(by_depth, reverse=True)
        for node in by_depth[depth]
        if not node.is_input
    ]


def arguments(node: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the recorded call of a Keras node (`Node.arguments`, 3.12 - 3.15)."""
    return node.arguments.args, node.arguments.kwargs


def node_of(tensor: Any) -> Any:
    """Return the Keras node that gave `tensor`; None for an input, or a tensor that no call gave.

    Uses `KerasTensor._keras_history`, `Operation._inbound_nodes` (3.12 - 3.15).
    """
    history = getattr(tensor, "_keras_history", None)
    if history is None or history.operation is None:
        return None
    node = history.operation._inbound_nodes[history.node_index]
    return None if node.is_input else node


def steps_behind(outputs: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """Return the Keras nodes that depend on `inputs` and that `outputs` need.

    Masks that Keras passes along count too. Uses `Node.arguments` (3.12 - 3.15).
    """
    seen = {id(tensor) for tensor in inputs}
    found: dict[int, Any] = {}
    stack = list(outputs)
    while stack:
        tensor = stack.pop()
        if tensor is None or id(tensor) in seen:
            continue
        seen.add(id(tensor))
        stack.append(mask_of(tensor))
        node = node_of(tensor)
        if node is not None and id(node) not in found:
            found[id(node)] = node
            stack.extend(node.arguments.keras_tensors)
    users: dict[int, list[Any]] = {}
    for node in found.values():
        for tensor in node.arguments.keras_tensors:
            users.setdefault(id(tensor), []).append(node)
    reached: dict[int, Any] = {}
    stack = list(inputs)
    while stack:
        for node in users.get(id(stack.pop()), ()):
            if id(node) not in reached:
                reached[id(node)] = node
                stack.extend(node.outputs)
    return list(reached.values())


def release(steps: Sequence[Any]) -> None:
    """Remove Keras nodes from their operations, for calls that were only made to be read.

    Uses `Operation._inbound_nodes`, `_outbound_nodes` (3.12 - 3.15).
    """
    made = {id(node) for node in steps}
    operations = {id(node.operation): node.operation for node in steps}
    for node in steps:
        for tensor in node.arguments.keras_tensors:
            giver = tensor._keras_history.operation
            if giver is not None:
                operations[id(giver)] = giver
    for operation in operations.values():
        for entries in (operation._inbound_nodes, operation._outbound_nodes):
            while entries and id(entries[-1]) in made:
                entries.pop()


@contextlib.contextmanager
def undone_on_error(operations: Sequence[Any]) -> Iterator[None]:
    """Remove the calls that were made of some operations in the meantime, if there is an error.

    Uses `Operation._inbound_nodes`, `_outbound_nodes` (3.12 - 3.15).
    """
    lists = [
        entries
        for operation in operations
        for entries in (operation._inbound_nodes, operation._outbound_nodes)
    ]
    before = list(map(len, lists))
    try:
        yield
    except BaseException:
        for entries, number in zip(lists, before, strict=True):
            del entries[number:]
        raise


def name_plainly(steps: Sequence[Any]) -> None:
    """Remove Keras's running number from the names of ops that were made for these calls.

    Otherwise the same model would be read with different names every time. An op that existed
    before has more than one node. Uses `Operation._inbound_nodes` (3.12 - 3.15).
    """
    for step in steps:
        operation = step.operation
        if not isinstance(operation, keras.Layer) and len(operation._inbound_nodes) == 1:
            operation.name = re.sub(r"_\d+$", "", operation.name)


def call_index(node: Any) -> int:
    """Return the place of `node` on its operation's `_inbound_nodes` (3.12 - 3.15)."""
    return node.outputs[0]._keras_history.node_index


def mask_of(tensor: Any) -> Any:
    """Return the mask that Keras attached to a tensor (`_keras_mask`, `get_keras_mask`, 3.12 - 3.15).

    Tensors with data may be such as have no attributes, like those that JAX traces.
    """
    if isinstance(tensor, keras.KerasTensor):
        return getattr(tensor, "_keras_mask", None)
    return private.get_keras_mask(tensor)


def reads_masks(operation: Any) -> bool:
    """Whether an operation may read or pass on the masks of its inputs without an argument.

    Uses `Layer._call_has_mask_arg`, `Layer._layers` (3.12 - 3.15). A layer that contains layers
    may pass its input, with the mask, to one of them.
    """
    return isinstance(operation, keras.Layer) and bool(
        operation.supports_masking
        or getattr(operation, "_call_has_mask_arg", False)
        or sublayers(operation)
    )


def takes_training(operation: Any) -> bool:
    """Whether the `call` of `operation` takes a training flag.

    Uses `Layer._call_has_training_arg` (3.12 - 3.15).
    """
    return bool(getattr(operation, "_call_has_training_arg", False))


@functools.cache
def recorded_flag_stays() -> bool:
    """Whether a training flag recorded at a call wins over that of a model around it: from 3.16 on.

    Before, `operation_fn` replaces the recorded flag (3.12 - 3.15).
    """
    return not private.has("operation_fn")


def input_layer(tensor: Any) -> Any:
    """Return the InputLayer of a model's input tensor, None for a tensor without history.

    Uses `KerasTensor._keras_history` (3.12 - 3.15).
    """
    return getattr(getattr(tensor, "_keras_history", None), "operation", None)


def run_under_masks(
    functional: Any, tensors: Sequence[Any], masks: Sequence[Any], training: bool | None
) -> Any:
    """Run a Functional on symbolic tensors that carry masks, as its `call` does.

    Uses `Function._run_through_graph`, `operation_fn` (3.12 - 3.15). `call` itself would first
    convert the tensors, which for symbolic ones adds a node to the graph.
    """
    for tensor, mask in zip(tensors, masks, strict=True):
        if mask is not None:
            set_mask(tensor, mask)
    operation_fn = private.operation_fn
    return functional._run_through_graph(
        list(tensors), operation_fn=lambda operation: operation_fn(operation, training=training)
    )


# -- building -----------------------------------------------------------------------------


class Loose(base("Node")):
    """A node as Keras needs it, kept alive only by its output tensors."""

    def __init__(
        self, operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Sequence[Any]
    ) -> None:
        # Node.__init__ would attach the node to the layers permanently.
        self.operation = operation
        self.arguments = private.SymbolicArguments(*args, **kwargs)
        self.outputs = list(outputs)
        self.is_input = False


class _Entry(base("Node")):
    """The entry in a layer's `_inbound_nodes` for a `Loose`; it does not keep the node alive."""

    def __init__(self, real: Loose, index: int) -> None:
        operation = self.operation = real.operation
        self.is_input = False
        self.index = index
        self._ref: Callable[[], Loose | None] = weakref.ref(
            real, functools.partial(_Entry._gone, weakref.ref(operation))
        )

    @staticmethod
    def _gone(operation: Callable[[], Any], _: Any) -> None:
        layer = operation()
        if layer is not None:
            _trim(layer._inbound_nodes)

    @property
    def _node(self) -> Any:
        """The node; once it is gone, the first node that is left.

        `layer.output` is that of the first entry, and Keras counts a layer's outputs by it when it
        makes any model: a layer must not lose it when a model that used the layer is deleted.
        """
        left = (getattr(e, "_ref", lambda e=e: e)() for e in self.operation._inbound_nodes)
        return self._ref() or next((node for node in left if node is not None), None)

    @property
    def arguments(self) -> Any:  # type: ignore[override]
        node = self._node
        return private.SymbolicArguments() if node is None else node.arguments

    @property
    def outputs(self) -> list[Any]:  # type: ignore[override]
        node = self._node
        return [] if node is None else node.outputs

    @property
    def dead(self) -> bool:
        return self._ref() is None


def _trim(entries: list[Any]) -> None:
    while entries and isinstance(entries[-1], _Entry) and entries[-1].dead:
        entries.pop()


def _place(entries: list[Any], start: int) -> int:
    """Return the first place from `start` on whose node is gone, or the end of the list."""
    for index in range(start, len(entries)):
        entry = entries[index]
        if isinstance(entry, _Entry) and entry.dead:
            return index
    return len(entries)


class Builder:
    """Makes Keras nodes that are deleted with their output tensors.

    Uses `Operation._inbound_nodes`, `KerasTensor._keras_history` (3.12 - 3.15). Nothing is
    written to `_outbound_nodes`, through which a trunk would keep the head's weights in memory:
    Keras only checks (3.12, 3.13) whether the list of a model's input is empty.
    """

    def __init__(self) -> None:
        self._next: dict[int, int] = {}  # places are given in call order, layer by layer
        self._made: list[tuple[Any, _Entry]] = []

    @guarded
    def node(
        self,
        operation: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        outputs: Sequence[Any],
    ) -> None:
        """Record the call `operation(*args, **kwargs)` that gives the tensors `outputs`."""
        real = Loose(operation, args, kwargs, outputs)
        self._hang(real, outputs)

    def _hang(self, real: Loose, outputs: Sequence[Any]) -> None:
        operation = real.operation
        entries = operation._inbound_nodes
        index = _place(entries, self._next.get(id(operation), 0))
        entry = _Entry(real, index)
        if index < len(entries):
            entries[index] = entry
        else:
            entries.append(entry)
            index = entry.index = len(entries) - 1
        self._next[id(operation)] = index + 1
        self._made.append((operation, entry))
        for i, tensor in enumerate(outputs):
            tensor._keras_history = private.KerasHistory(operation, index, i)
            tensor._graft_node = real

    @property
    def nodes(self) -> list[Any]:
        """The nodes that were made, in call order."""
        return [entry._ref() for _, entry in self._made]

    def undo(self) -> None:
        """Remove every node again, after a build that failed."""
        for operation, entry in reversed(self._made):
            real = entry._ref()
            if real is not None:
                for tensor in real.outputs:
                    tensor._graft_node = None
            entry._ref = _nothing
            _trim(operation._inbound_nodes)
        self._made.clear()


def _nothing() -> None:
    return None


def set_mask(tensor: Any, mask: Any) -> None:
    """Attach a mask to a tensor (`_keras_mask`, `set_keras_mask`, 3.12 - 3.15)."""
    if isinstance(tensor, keras.KerasTensor):
        symbolic: Any = tensor
        symbolic._keras_mask = mask
    else:
        private.set_keras_mask(tensor, mask)


def set_model_state(model: Any, trainable: bool, dtype_policy: Any) -> None:
    """Give a new model its own flags without touching those of its layers.

    Uses `Layer._trainable`, `Layer._dtype_policy` (3.12 - 3.15): the public setters pass the
    flag on to every layer, which the donor shares.
    """
    if not trainable:
        model._trainable = False
    if dtype_policy is not None:
        model._dtype_policy = dtype_policy


def renamed_op(operation: Any, name: str) -> Any:
    """Return a keras op (not a layer) that does the same under another name.

    Ops hold no variables; a new object with the same attributes is the same op. Uses
    `_inbound_nodes`, `_outbound_nodes` (3.12 - 3.15).
    """
    fresh = object.__new__(type(operation))
    for key, value in vars(operation).items():
        fresh.__dict__[key] = value
    fresh.__dict__.update(name=name, _inbound_nodes=[], _outbound_nodes=[])
    remember(fresh, alias=operation)
    return fresh
