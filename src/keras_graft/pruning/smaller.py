"""Make the layers and ops of a graph again without some positions of their axes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from keras_graft import _keras, advice
from keras_graft import ties as _ties
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Value
from keras_graft.graph.record import is_wrapper, unwrapped
from keras_graft.layers.weight import Weight
from keras_graft.model.build import build
from keras_graft.model.infer import infer
from keras_graft.model.opening.inside import as_model_call, is_layer_inside
from keras_graft.model.read import own_graph
from keras_graft.model.recreate import again
from keras_graft.model.swap import called_anew
from keras_graft.pruning.alike import alike
from keras_graft.pruning.attributes import carry_attributes
from keras_graft.pruning.call import Call, Path, all_unwrapped, variable_behind_views
from keras_graft.pruning.closure import Axis
from keras_graft.pruning.configured import build_for, built_for, op_again, plainly, put, unbuilt
from keras_graft.pruning.copied import copied
from keras_graft.pruning.initial import with_smaller_arrays
from keras_graft.pruning.network import Network
from keras_graft.pruning.refused import check_changeable

Kept = Callable[[Axis], np.ndarray]


class Smaller:
    """A graph without the positions that are removed.

    Args:
        network: The network.
        kept: Returns the positions of an axis that stay, in order; they may be repeated.
        verb: For messages.
        scaled: Returns the value of a weight, after the positions are taken; None: as it is.

    Attributes:
        variables: Pairs of variables: (new, old).
        configs: The configurations of the layers that were made, by their ids.
    """

    def __init__(
        self, network: Network, kept: Kept, verb: str, scaled: Callable[[Any, Any], Any] | None = None
    ) -> None:  # fmt: skip
        self._network = network
        self._kept = kept
        self._verb = verb
        self._scaled = scaled
        self._axes: dict[Any, list[Axis]] = {}
        changed: dict[int, tuple[Any, bool]] = {}
        for axis in network.closure.axes:
            stay = kept(axis)
            if id(stay) not in changed:
                all_stay = len(stay) == axis.size and np.array_equal(stay, np.arange(axis.size))
                changed[id(stay)] = stay, not all_stay
            if changed[id(stay)][1]:
                self._axes.setdefault(axis.holder, []).append(axis)
        self._calls: dict[int, list[Call]] = {}
        self._operations: dict[int, Any] = {}
        self._models: dict[int, tuple[Any, Any]] = {}
        self._graphs: dict[int, Graph] = {}
        self.variables: list[tuple[Any, Any]] = []
        self.configs: dict[int, dict[str, Any]] = {}
        self._checked: set[Any] = set()
        self._gather()

    def _gather(self) -> None:
        """Find the operations that change, and refuse what cannot be changed."""
        for node in self._network.nodes.values():
            if node.nested is None and self._changes(node):
                key = id(node.operation)
                self._calls.setdefault(key, []).append(self._network.call(node))
        for calls in self._calls.values():
            check_changeable(calls[0], self._verb)

    def _changes(self, node: Node) -> bool:
        layer = all_unwrapped(node.operation)
        if any(value.key in self._axes for value in (*node.inputs, *node.outputs)):
            return True
        variables = (variable_behind_views(w) for w in getattr(layer, "weights", ()))
        return any(("weight", id(w)) in self._axes for w in variables)

    def graph(self, level: Graph) -> Graph:
        """Return a level of the network without the positions that are removed."""
        if id(level) not in self._graphs:
            self._graphs[id(level)] = self._made(level)
        return self._graphs[id(level)]

    def _made(self, level: Graph) -> Graph:
        instead = {}
        for node in level.steps:
            new = self._node(node)
            if new is not node:
                instead[node] = [new]
        if not instead:
            return level
        graph = level.spliced(instead, {})
        if any(value.key in self._axes for value in level.inputs):
            inputs = [self._resized(v.within(None)) for v in level.inputs]
            graph = graph.replace(inputs=inputs, outputs=[v.within(None) for v in graph.outputs])
        return graph.settled()

    def _node(self, node: Node) -> Node:
        changed = any(v.key in self._axes for v in (*node.inputs, *node.gives))
        if node.nested is not None:
            call = as_model_call(node) if is_layer_inside(node) else node
            nested = self.graph(node.nested)
            if nested is node.nested:
                return self._with_specs(node) if changed else node
            if call is not node:
                assert call.nested is not None
                nested = self._made(call.nested)
            return self._with_specs(
                call.replace(operation=self._model(node, nested), nested=nested)
            )
        if id(node.operation) not in self._calls:
            return node
        new = self._with_specs(node.replace(operation=self._operation(node.operation)))
        for template in self._network.call(node).templates:
            new = new.replace(template=template(self._kept))
        return new

    def _model(self, node: Node, nested: Graph) -> Any:
        key = id(node.operation)
        known = self._models.get(key)
        if known is None:
            own = nested if is_layer_inside(node) else self._own(node, nested)
            model = build(own, name=node.operation.name)
            self._models[key] = known = model, nested
        elif is_layer_inside(node) and not alike(known[1], nested):
            path = self._network.nodes[node.key].path
            raise EditError(
                f"{self._verb}: {path!r} is called several times, and its code does something else "
                f"in each call. Open it first: {advice.call('inline', ('target', path))}."
            )
        return known[0]

    def _own(self, node: Node, nested: Graph) -> Graph:
        """Return the graph of a nested model without the inputs for the masks of one call."""
        own = own_graph(node)
        if own is node.nested:
            return nested
        assert node.nested is not None
        new = {
            (id(old.operation), node.nested.call_of(old)): step
            for old, step in zip(node.nested.steps, nested.steps, strict=True)
        }
        instead = {}
        for step in own.steps:
            made = new[id(step.operation), own.call_of(step)]
            called = called_anew(step, made.operation)
            if not isinstance(made.operation, keras.Layer):
                called = called.replace(template=made.template)  # with its sizes
            instead[step] = [called]
        graph = own.spliced(instead, {})
        inputs = [
            v.within(None).with_spec(given.spec)
            for v, given in zip(own.inputs, nested.inputs, strict=False)
        ]
        return infer(graph.replace(inputs=inputs, outputs=[v.within(None) for v in graph.outputs]))

    def _with_specs(self, node: Node) -> Node:
        return node.replace(
            inputs=tuple(map(self._resized, node.inputs)),
            outputs=tuple(map(self._resized, node.outputs)),
        )

    def _resized(self, value: Value) -> Value:
        axes = self._axes.get(value.key)
        if axes is None or value.spec is None:
            return value
        shape = list(value.spec.shape)
        for axis in axes:
            shape[axis.at] = len(self._kept(axis))
        return value.replace(spec=replace(value.spec, shape=tuple(shape)))

    # -- operations -------------------------------------------------------------------------

    def _operation(self, operation: Any) -> Any:
        key = id(operation)
        if key not in self._operations:
            self._operations[key] = self._again(operation)
        return self._operations[key]

    def _again(self, operation: Any) -> Any:
        calls = self._calls[id(operation)]
        if is_wrapper(operation):
            inside = unwrapped(operation)
            self._calls[id(inside)] = calls
            config = _keras.get_config(operation)
            config.pop("layer", None)
            return type(operation)(self._operation(inside), **config)
        changes: dict[Path, Any] = {}
        for call in calls:
            for path, number in call.numbers.items():
                if len(self._kept(number)) != number.size:
                    changes[path] = len(self._kept(number))
            for change in call.changes:
                changes.update(change(self._kept))
        if not isinstance(operation, keras.Layer):
            return op_again(operation, changes)
        layer, is_copy = self._layer(operation, changes, calls[0])
        sizes = self._sizes(calls)
        for new, old in zip(
            _keras.layers_inside(layer), _keras.layers_inside(operation), strict=False
        ):
            if type(new) is not type(old):
                continue
            carry_attributes(old, new, is_copy, sizes, calls[0].node.path, self._verb)
            if _keras.flag_of(new) != _keras.flag_of(old):
                _keras.set_flag(new, _keras.flag_of(old))
        return layer

    def _sizes(self, calls: list[Call]) -> set[int]:
        """Return the sizes, before, of the axes that change in or around a layer."""
        values = [v.key for c in calls for v in (*c.node.inputs, *c.node.outputs)]
        weights = [("weight", id(variable_behind_views(w))) for w in calls[0].layer.weights]
        return {a.size for key in (*values, *weights) for a in self._axes.get(key, ())}

    def _layer(self, old: Any, changes: dict[Path, Any], call: Call) -> tuple[Any, bool]:
        """Return a layer with other sizes, and whether it has all attributes of the old one."""
        known = len(self.variables)
        name, (_, config) = old.name, _ties.plain_config(old)
        config = unbuilt(copy.deepcopy(config))
        for path, value in changes.items():
            put(config, path, value)
        values = tuple(map(self._resized, call.inputs))
        shapes = built_for(old, call.node.template, values)
        new = copied(old, config, changes, shapes, self._variable, self._checked)
        if new is not None:
            self.configs[id(new)] = config
            return new, True
        del self.variables[known:]
        config = with_smaller_arrays(config, old.variables, self._taken)
        new = again(old, name, **{k: v for k, v in config.items() if k != "name"})
        if not new.built:
            build_for(new, call, values, self._verb)
        tied = {id(tie.source) for tie in _ties.ties_of(old)}
        before = [v for v in old.variables if id(v) not in tied]
        named = _ties.named_weights(new)
        now = list(new.variables)
        if tied:
            names = {id(v): k for k, v in _ties.named_weights(old, tied=False).items()}
            now = [named[names[id(v)]] for v in before]
        if isinstance(new, Weight) and before:  # its variable has the name that it had in its layer
            new.take(_keras.variable_like(before[0], self._sliced(before[0])))
            self.variables.append((new.value, before[0]))
            return new, False
        if plainly(before) != plainly(now):
            raise EditError(
                f"{self._verb}: {call.node.path!r} made again has other weights: "
                f"{[v.name for v in now]} for {[v.name for v in before]}."
            )
        for source, target in zip(before, now, strict=True):
            self._assign(target, source)
        return new, False

    def _taken(self, source: Any, array: np.ndarray) -> np.ndarray:
        """Return what stays of an array whose last axes are those of a variable."""
        missing = len(source.shape) - array.ndim
        for axis in sorted(self._axes.get(("weight", id(source)), ()), key=lambda axis: axis.at):
            if axis.at >= missing:
                array = np.take(array, self._kept(axis), axis.at - missing)
        return array

    def parts(self, source: Any) -> list[tuple[int, np.ndarray]]:
        """Return the positions that stay on the axes of a variable which change."""
        axes = self._axes.get(("weight", id(source)), ())
        return [(axis.at, self._kept(axis)) for axis in axes]

    def _sliced(self, source: Any) -> np.ndarray:
        given = _keras.values_of(source)
        array = self._taken(source, given)
        array = array.copy() if array is given else array  # NumPy may see the memory of the donor
        if self._scaled is not None:
            array = self._scaled(source, array)
        return array

    def _variable(self, source: Any) -> Any:
        """Return the variable of a copied layer for one of the layer."""
        new = _keras.variable_like(source, self._sliced(source))
        self.variables.append((new, source))
        return new

    def _assign(self, target: Any, source: Any) -> None:
        array = self._sliced(source)
        if tuple(target.shape) != array.shape:
            raise EditError(
                f"{self._verb}: {source.path!r} would be {array.shape}, and the layer made again "
                f"has {tuple(target.shape)}."
            )
        target.assign(array)
        if target.trainable != source.trainable:
            target.trainable = source.trainable
        self.variables.append((target, source))

    def tie(self) -> list[Any]:
        """Tie the new layers as the old ones were; return them."""
        instead = {id(old): new for new, old in self.variables}
        made = []
        for key, calls in list(self._calls.items()):
            old, new = calls[0].layer, self._operations.get(key)
            for tie in _ties.ties_of(old) if new is not None and key == id(old) else ():
                source = instead.get(id(tie.source), tie.source)
                owner = next((n for n in self._operations.values() if _owns(n, source)), None)
                _ties.carry_out(new, _ties.same_tie(tie, new), source, owner or tie.seen.owner)
                made.append(new)
        return made


def _owns(item: Any, variable: Any) -> bool:
    return isinstance(item, keras.Layer) and any(w is variable for w in item.weights)
