"""Turn the Keras nodes of one level of a model into graph nodes and values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import keras

from keras_graft import _keras
from keras_graft.errors import ReadError
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Entry, Node, Slot, Spec, Template, Value
from keras_graft.graph.origin import Past
from keras_graft.graph.record import record_of
from keras_graft.model.calls import caller, fill, mapped
from keras_graft.model.entering import entering_spec, entries, mask_places, with_inside
from keras_graft.model.masks_taken_off import find_maskless
from keras_graft.model.symbolic import are_sparse, spec_of

tree = keras.tree


@dataclass(frozen=True)
class Inside:
    """The graph inside a call whose code was run on symbolic tensors: see `opening/`.

    Attributes:
        graph: The graph.
        sources: For each of its inputs, the tensor outside.
        masks: For a tensor that stands for a mask made inside, the output that carries this mask.
    """

    graph: Graph
    sources: tuple[Any, ...]
    masks: Mapping[int, int] = field(default_factory=dict)


class Reader(Protocol):
    """Reads the nested models: see `read.py`."""

    def opened(self, step: Any) -> Inside | None:
        """Return the graph inside a call whose code was run; None for any other."""
        ...

    def closed(self, step: Any) -> str:
        """Return why a call whose code was run stays closed; empty for any other."""
        ...

    def inside(self, operation: Any) -> Graph | None:
        """Return the graph of a nested model; None for an operation that cannot be opened."""
        ...

    def under_masks(
        self, operation: Any, plain: Graph, specs: Sequence[Spec | None],
        masks: Mapping[int, Value], training: bool | None,
    ) -> Graph:  # fmt: skip
        """Return the graph of a nested model as it runs when its inputs carry masks."""
        ...

    def trace(self, function: Callable[..., Any], inputs: Sequence[Value]) -> Traced:
        """Run a function on symbolic tensors and return its calls."""
        ...


@dataclass(frozen=True)
class Traced:
    """What a function did with symbolic tensors: its calls in order, and its outputs.

    `kinds` has, by the identity of an operation, the name that Keras made up for it during the run,
    without its number; empty if Keras made up none.
    """

    steps: tuple[Node, ...]
    outputs: tuple[Value, ...]
    kinds: Mapping[int, str] = field(default_factory=dict)


def entering(tensors: Sequence[Any]) -> list[Value]:
    """Return a value for each input tensor of a model."""
    values = {id(tensor): _input(tensor) for tensor in tensors}
    masks = [values.get(id(_keras.mask_of(tensor))) for tensor in tensors]
    return [values[id(t)].replace(mask=mask) for t, mask in zip(tensors, masks, strict=True)]


def _input(tensor: Any) -> Value:
    layer = _keras.input_layer(tensor)
    name = str(getattr(layer, "name", tensor.name))
    return Value(spec_of(tensor), name, bool(getattr(layer, "optional", False)), None, tensor)


class Level:
    """One level of one model, turned into nodes and values.

    Args:
        reader: Reads the nested models.
        inputs: The symbolic tensors that enter.
        values: The value of each.
        steps: The Keras nodes.
        foreign: Returns the value of a tensor from elsewhere.
        in_run_order: Whether the steps come in the order in which Keras runs them. Then calls that
            take masks off do so for the calls behind them.
    """

    def __init__(
        self,
        reader: Reader,
        inputs: Sequence[Any],
        values: Sequence[Value],
        steps: Sequence[Any],
        foreign: Callable[[Any], Value | None] = lambda tensor: None,
        in_run_order: bool = False,
    ) -> None:
        self._reader = reader
        self._foreign = foreign
        self._values = dict(zip(map(id, inputs), values, strict=True))
        self._nodes: list[Node] = []
        self._places: dict[int, int] = {}  # of steps, among the nodes
        self._unseen: set[Value] = set()  # masks that no symbolic tensor carries
        for step in self._in_call_order(steps, inputs):
            self._step(step)
        if in_run_order:
            places = [self._places[id(step)] for step in steps if id(step) in self._places]
            find_maskless(self._nodes, places, reader.trace)
        # Only now are all masks of inputs known: in a stage, a mask is another input.
        self._inputs = tuple(self._values[id(tensor)] for tensor in inputs)

    def traced(self, outputs: Any, name: str) -> Traced:
        """Return the calls, inputs and `outputs` as nodes and values."""
        flat = tree.flatten(outputs)
        for tensor in flat:
            if id(tensor) not in self._values:
                raise ReadError(f"An output of {name!r} does not come from its inputs: {tensor}.")
        given = tuple(self._values[id(tensor)] for tensor in flat)
        return Traced(tuple(self._nodes), given)

    def graph(
        self, inputs: Any, outputs: Any, name: str, trainable: bool = True,
        dtype_policy: Any = None, origin: Any = None,
    ) -> Graph:  # fmt: skip
        """Return the level as a graph."""
        found = self.traced(outputs, name)
        past = None if origin is None else Past(origin)
        return Graph(
            found.steps, self._inputs, found.outputs, _slots(inputs), _slots(outputs),
            name, trainable, dtype_policy, origin, past,
        ).settled()  # fmt: skip

    def _in_call_order(self, steps: Sequence[Any], inputs: Sequence[Any]) -> Iterator[Any]:
        """Yield Keras nodes in an order that can run, with each layer's calls as they were made.

        Nodes that only compute masks are included: a mask that Keras passes on is an edge too.
        """
        known = {id(tensor) for tensor in inputs}
        calls: dict[int, list[Any]] = {}
        for step in steps:
            calls.setdefault(id(step.operation), []).append(step)
        earlier: dict[int, Any] = {}
        for same in calls.values():
            if len(same) > 1:
                same.sort(key=_keras.call_index)
                earlier.update((id(b), a) for a, b in zip(same, same[1:], strict=False))

        given = {id(out): step for step in steps for out in step.outputs}
        done: set[int] = set()
        for root in steps:
            stack = [] if id(root) in done else [(root, self._before(root, earlier))]
            done.add(id(root))  # an output of a call may be the mask of another one of it
            while stack:
                step, before = stack[-1]
                for item in before:
                    if item is None:
                        continue
                    if isinstance(item, _keras.Node):
                        found = item
                    elif id(item) in known:
                        continue
                    elif (found := given.get(id(item))) is None:
                        value = self._foreign(item)
                        if value is not None:
                            self._values[id(item)] = value
                            known.add(id(item))
                            continue
                        found = _keras.node_of(item)
                    if found is None or id(found) in done:
                        continue
                    given.update((id(out), found) for out in found.outputs)
                    done.add(id(found))
                    stack.append((found, self._before(found, earlier)))
                    break
                else:
                    stack.pop()
                    yield step

    @staticmethod
    def _before(step: Any, earlier: dict[int, Any]) -> Iterator[Any]:
        yield earlier.get(id(step))
        yield from step.input_tensors
        yield from map(_keras.mask_of, step.input_tensors)
        yield from map(_keras.mask_of, step.outputs)

    def _step(self, step: Any) -> None:
        operation = step.operation
        if any(id(t) not in self._values for t in step.input_tensors):
            return  # it computes a mask from a tensor that this model does not have
        if record_of(operation).mask:
            return self._alias(step)
        inner = record_of(operation).alias
        args, kwargs = _keras.arguments(step)
        if inner is not None:
            operation = inner
            call = record_of(step.operation).call
            if call is not None:
                args, kwargs = _unwrap(call, args)
        inputs: list[Value] = []

        def slot(leaf: Any) -> Any:
            if not isinstance(leaf, keras.KerasTensor):
                return leaf
            inputs.append(self._values[id(leaf)])
            return Slot(len(inputs) - 1)

        template = Template(mapped(args, slot), mapped(kwargs, slot))
        opened = self._reader.opened(step)
        nested = self._reader.inside(operation) if opened is None else None
        specs = [value.spec for value in inputs]
        if nested is not None:
            sparse = [bool(value.spec and value.spec.sparse) for value in nested.outputs]
        else:
            sparse = are_sparse(step.outputs, operation, template, specs)
        outputs = tuple(map(self._output, step.outputs, sparse))
        hidden: list[tuple[Value, Value]] = []
        if _keras.reads_masks(operation):
            for value in dict.fromkeys(inputs):
                if value.mask is not None and value.mask not in inputs:
                    hidden.append((value.with_spec(value.spec), value.mask))
        node = Node(
            operation, template, tuple(inputs), outputs, tuple(hidden),
            trains=_keras.takes_training(operation),
            stays=_keras.recorded_flag_stays(),
            unmasks=_keras.takes_masks_off(operation),
            known_as=None if inner is None else (inner, str(step.operation.name)),
            closed=self._reader.closed(step),
        )  # fmt: skip
        if opened is not None:
            node = self._inside(node, opened)
        elif nested is not None:
            node = self._opened(node, nested)
        elif any(mask in self._unseen for _, mask in hidden):
            node = self._under_masks(node)
        self._places[id(step)] = len(self._nodes)
        self._nodes.append(node)
        for tensor, value in zip(step.outputs, node.outputs, strict=True):
            self._values[id(tensor)] = value

    def _opened(self, node: Node, nested: Graph) -> Node:
        """Return the call of a nested model with the graph that runs inside at this call."""
        found = entries(node.template, node.inputs, nested)
        places = mask_places(node.template, nested)
        for place, entry in enumerate(found):
            mask = None if entry.source is None else node.reads[entry.source].mask
            if mask is not None and place not in places:
                places[place] = node.reads.index(mask)
        if places:
            specs = [entering_spec(node, entry) for entry in found]
            masks = {place: node.reads[source] for place, source in places.items()}
            nested = self._reader.under_masks(
                node.operation, nested, specs, masks, node.training
            )  # fmt: skip
            found += tuple(Entry(source) for source in places.values())
        return self._masking(node.replace(nested=nested, entries=found), nested)

    def _inside(self, node: Node, opened: Inside) -> Node:
        """Return the call of a layer with the graph that its code makes."""
        values = [self._values[id(source)] for source in opened.sources]
        node = with_inside(node, opened.graph, [node.reads.index(value) for value in values])
        node = self._masking(node, opened.graph)
        for stand, output in opened.masks.items():
            mask = node.outputs[output].mask
            if mask is not None:
                self._values[stand] = mask
        return node

    def _masking(self, node: Node, nested: Graph) -> Node:
        """Record which masks a nested model gives: its symbolic outputs do not carry them."""
        stands: dict[Value, Value] = {}
        outputs = []
        given = {value.within(None): i for i, value in enumerate(nested.inputs)}
        for value, inner in zip(node.outputs, nested.outputs, strict=True):
            inside = None if value.mask is not None else inner.mask
            if inside is not None and inside not in stands:
                entry = node.entries[given[inside]] if inside in given else None
                if entry is not None and entry.source is not None:
                    stands[inside] = node.reads[entry.source]
                else:
                    stands[inside] = Value(inside.spec, "mask")
                self._unseen.add(stands[inside])
            outputs.append(value if inside is None else value.replace(mask=stands[inside]))
        unseen = tuple((mask, inside) for inside, mask in stands.items() if inside not in given)
        return node.replace(outputs=tuple(outputs), unseen=unseen)

    def _under_masks(self, node: Node) -> Node:
        """Find the masks that Keras computes from masks not known when the call was recorded."""
        for step in self._reader.trace(caller(node.operation, node.template), node.inputs).steps:
            if step.operation is not node.operation:
                self._nodes.append(step)
                continue
            pairs = zip(node.outputs, step.outputs, strict=True)
            node = node.replace(outputs=tuple(old.replace(mask=new.mask) for old, new in pairs))
            self._unseen.update(v.mask for v in node.outputs if v.mask is not None)
        return node

    def _output(self, tensor: Any, sparse: bool) -> Value:
        mask = _keras.mask_of(tensor)
        value = Value(
            spec_of(tensor, sparse),
            tensor.name,
            mask=None if mask is None else self._values.get(id(mask)),
            origin=tensor,
        )
        self._values[id(tensor)] = value
        return value

    def _alias(self, step: Any) -> None:
        """Read a node that only attaches a mask: its output is its input with that mask."""
        args, kwargs = _keras.arguments(step)
        value, mask = self._values[id(args[0])], self._values[id(kwargs["mask"])]
        with_mask = value.replace(mask=mask)
        self._values[id(args[0])] = self._values[id(step.outputs[0])] = with_mask


def _slots(structure: Any) -> Any:
    # By identity, not by counting: on PyTorch Keras maps and flattens a dict in different orders.
    place = {id(tensor): i for i, tensor in enumerate(tree.flatten(structure))}
    return tree.map_structure(lambda tensor: Slot(place[id(tensor)]), structure)


def _unwrap(call: Template, tensors: Any) -> tuple[Any, Any]:
    """Return the call inside a wrapper that gives a layer another name."""
    get = tree.flatten(tensors).__getitem__
    return fill(call.args, get), fill(dict(call.kwargs), get)
