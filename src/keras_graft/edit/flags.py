"""Which layers and variables are trained after `unfreeze`, and a graph or model made so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from keras_graft import _keras
from keras_graft import ties as _ties
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed
from keras_graft.graph.node import Node
from keras_graft.graph.record import record_of
from keras_graft.graph.select import leaves
from keras_graft.layers.frozen import Frozen
from keras_graft.model.nested import Place, at_depth
from keras_graft.shared.kept import edited, path_of, tell_sources


class Flags:
    """What is trained after some layers of a graph were unfrozen.

    A layer's flag decides on the mode of a BatchNormalization; whether a weight is trained is
    decided by the flag of the variable, and by that of the whole model.

    Args:
        graph: The graph.
        chosen: The identities of the operations that are unfrozen.
        batch_norm: Whether BatchNormalization layers among them and inside them are unfrozen.

    Attributes:
        gained: The first call of each operation that trains more than before.

    Raises:
        EditError: If nothing of what was chosen may be unfrozen, or only half of a variable's users.
    """

    def __init__(self, graph: Graph, chosen: set[int], batch_norm: bool) -> None:
        self._graph = graph
        self._batch_norm = batch_norm
        first = {id(n.operation): n for n in reversed(list(leaves(graph.nodes)))}
        self._nodes = [n for n in first.values() if isinstance(n.operation, keras.Layer)][::-1]
        self._layers: dict[int, tuple[Any, bool]] = {}
        self._variables: dict[int, tuple[Any, bool]] = {}
        self._users: dict[int, list[tuple[Node, bool, bool]]] = {}
        self._left: list[str] = []
        self._beside: list[str] = []
        self.gained: list[Node] = []
        for node in self._nodes:
            self._add(node, id(node.operation) in chosen)
        self._check_users()
        if self._beside and not self.gained:
            raise EditError(
                f"unfreeze: kg.lora or kg.train_only froze {listed(dict.fromkeys(self._beside))}, and "
                "unfreeze does not undo that. Name all that is trained: kg.train_only(model, ...), or "
                "kg.lora(..., train=...). Or take the adapters off first: kg.merge_adapters(model), "
                "kg.remove_adapters(model)."
            )
        if self._left and not self.gained:
            raise EditError(
                f"unfreeze: only BatchNormalization layers are frozen here: {listed(self._left)}. They "
                "stay in inference mode, and are not trained, unless you ask for it: "
                "kg.unfreeze(model, ..., batch_norm=True)."
            )

    def _add(self, node: Node, chosen: bool) -> None:
        frozen = isinstance(node.operation, Frozen)
        whole = node.operation.layer if frozen else node.operation
        wrapped = frozen and not (chosen and self._may(whole))  # it stays in its wrapper
        adapts = record_of(whole).adapted is not None
        gains = False
        for layer in _keras.layers_inside(whole):
            now = self._graph.trainable and layer.trainable and not frozen
            may = chosen and self._may(layer)
            want = now or (may and not (adapts and _all_views(layer)))
            gains |= want and not now
            if chosen and not want:
                (self._beside if adapts else self._left).append(path_of(node))
            for variable in _keras.own_trained(layer):
                before = self._graph.trainable and variable.trainable and not frozen
                fixed = adapts and isinstance(variable, _keras.View)
                fixed = fixed or bool(_keras.adapters_of(layer, variable))
                after = before or (chosen and want and not fixed)
                gains |= after and not before
                self._users.setdefault(id(variable), []).append((node, before, after))
                if not wrapped:
                    known = self._variables.get(id(variable), (variable, False))[1]
                    self._variables[id(variable)] = variable, after or known
            if not wrapped:
                known = self._layers.get(id(layer), (layer, False))[1]
                self._layers[id(layer)] = layer, want or known
        if gains:
            self.gained.append(node)

    def _may(self, layer: Any) -> bool:
        return self._batch_norm or not isinstance(layer, keras.layers.BatchNormalization)

    def _check_users(self) -> None:
        for key, users in self._users.items():
            gained = [node for node, before, after in users if after and not before]
            others = [node for node, _, after in users if not after]
            if gained and others:
                one, other = path_of(gained[0]), path_of(others[0])
                name = self._variables[key][0].path
                raise EditError(
                    f"unfreeze: {one!r} and {other!r} use one variable, {name!r}, and only the first "
                    "would be unfrozen: training would change it through both. Unfreeze both: "
                    f"kg.unfreeze(model, [{listed([one, other])}])."
                )

    def _changed(self) -> dict[int, tuple[Any, bool]]:
        """Return the variables whose flags change, with the new flag, by identity."""
        return {
            key: (variable, after)
            for key, (variable, after) in self._variables.items()
            if variable.trainable != after
        }

    def graph(self) -> Graph:
        """Return the graph in which this is trained; its donor keeps its flags.

        A layer whose flags differ is made again around the same values: see `_keras.Thawed`.
        """
        instead = {
            key: _keras.thawed(_seen(variable)) if after else _keras.view(variable)
            for key, (variable, after) in self._changed().items()
        }
        made: dict[int, Any] = {}
        for node in self._nodes:
            operation = node.operation
            layer = operation.layer if isinstance(operation, Frozen) else operation
            if id(layer) not in self._layers:
                continue  # it stays in its wrapper
            inside = _keras.layers_inside(layer)
            flags = [self._layers[id(x)][1] for x in inside]
            alike = [x.trainable for x in inside] == flags
            if not alike or any(id(weight) in instead for weight in layer.weights):
                made[id(operation)] = copy = _ties.shared_copy(layer, instead=instead)
                for each, flag in zip(_keras.layers_inside(copy), flags, strict=True):
                    _keras.set_flag(each, flag)
            elif layer is not operation:
                made[id(operation)] = layer
        tell_sources(self._graph, made.values())
        if not self.gained:
            return self._graph
        return edited(self._graph, self._with(made), "unfreeze").replace(trainable=True)

    def _with(self, made: dict[int, Any]) -> Graph:
        places: dict[Node, Place] = {}
        for node in leaves(self._graph.nodes):
            if id(node.operation) in made:
                for each in (node, *node.scope):
                    places[each] = (each,)

        def edit(level: Graph, here: list[Place]) -> Graph:
            instead = {}
            for (node,) in here:
                assert isinstance(node, Node)
                if node.nested is None:
                    layer = made[id(node.operation)]
                    trains = _keras.takes_training(layer)
                    instead[level.node(node)] = [
                        level.node(node).replace(operation=layer, trains=trains)
                    ]
            result = level.spliced(instead, {}) if instead else level
            if level.stale == ():
                result = result.settled()  # no spec has changed
            return result.replace(trainable=True)

        return at_depth(self._graph, list(places.values()), edit) if places else self._graph

    @contextlib.contextmanager
    def set_in_place(self, model: Any) -> Iterator[None]:
        """Set the flags on the model's own layers; set them back if what follows fails."""
        wrapped = [path_of(n) for n in self.gained if isinstance(n.operation, Frozen)]
        if wrapped:
            raise EditError(
                f"unfreeze: kg.freeze has wrapped {listed(wrapped)}, and a wrapper cannot be taken out "
                "of a model in place. Make a new model: model = kg.unfreeze(model, ...)."
            )
        around = {id(m): m for m in (model, *(o.operation for n in self.gained for o in n.scope))}
        layers = [pair for pair in self._layers.values() if pair[0].trainable != pair[1]]
        layers += [(m, True) for m in around.values() if self.gained and not m.trainable]
        variables = list(self._changed().values())
        _set(layers, variables)
        try:
            yield
        except BaseException:
            _set([(x, not flag) for x, flag in layers], [(v, not flag) for v, flag in variables])
            raise


def _set(layers: list[tuple[Any, bool]], variables: list[tuple[Any, bool]]) -> None:
    for layer, flag in layers:
        _keras.set_flag(layer, flag)
    for variable, flag in variables:
        variable.trainable = flag


def _seen(variable: Any) -> Any:
    """Return the variable that a view shows; any other variable unchanged."""
    return variable.source if isinstance(variable, _keras.View) else variable


def _all_views(layer: Any) -> bool:
    """Whether all weights are views that a layer, with those inside it, was made to train."""
    trained = [v for each in _keras.layers_inside(layer) for v in _keras.own_trained(each)]
    return all(isinstance(v, _keras.View) for v in trained)
