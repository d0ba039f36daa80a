"""Which weights of a model a selector names, and which selector comes first for each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_graft import ties as _ties
from keras_graft.errors import NothingSelectedError, ReadError, WeightsError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed, nearest
from keras_graft.graph.parameters import variable_behind
from keras_graft.graph.record import unwrapped
from keras_graft.graph.select import leaves
from keras_graft.graph.select_nodes import select_nodes
from keras_graft.model.read import read
from keras_graft.printable import shown
from keras_graft.weights.address import Group, groups
from keras_graft.weights.rule_for import names


@dataclass(eq=False)
class Named:
    """One weight of a model.

    Attributes:
        address: Its address in the layer that owns it.
        addresses: All its addresses: a layer may be inside several others, a weight may be tied.
        variable: The variable.
    """

    address: str
    variable: Any
    addresses: set[str] = field(default_factory=set)


def behind(variable: Any) -> int:
    """Return the identity of the variable that holds a weight's value, whoever sees it."""
    while (source := variable_behind(variable)) is not variable:
        variable = source
    return id(variable)


class Weights:
    """The weights of a model, and the selectors that name them.

    Args:
        model: A built Keras model.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        whole = groups(model)
        self.all = [Named(w.address, w.variable, {w.address}) for w in whole.weights()]
        self.by_id = {behind(w.variable): w for w in self.all}
        self.trained = list(dict.fromkeys(behind(v) for v in model.trainable_variables))
        self._graph: Graph | None = None
        for address, variable in _addresses(whole, ()):
            if behind(variable) in self.by_id:
                self.by_id[behind(variable)].addresses.add(address)

    @property
    def graph(self) -> Graph:
        """The model read as a graph."""
        if self._graph is None:
            self._graph = read(self.model)
        return self._graph

    def first_of(
        self, selectors: Sequence[Any], values: Sequence[Any], what: str
    ) -> dict[int, Any]:
        """Return the value of the first selector that names each weight, by the weight's identity.

        Args:
            selectors: The selectors.
            values: The value of each.
            what: The name of the argument, for messages.

        Raises:
            WeightsError: If a selector names nothing, or nothing that is left for it; if two give
                one weight different values, each through another of its layers.
        """
        result: dict[int, tuple[Any, Any, set[str]]] = {}
        for selector, value in zip(selectors, values, strict=True):
            found = self._named(selector, what)
            for key, labels in found.items():
                if key in result and result[key][1] != value:
                    self._check_alike(result[key], (selector, value, labels), what)
            left = found.keys() - result.keys()
            if not left:
                before = result[next(iter(found))][0]
                raise WeightsError(
                    f"learning_rates: in {what}=, {shown(selector)} names only weights that "
                    f"{shown(before)} before it names too, and the first that names a weight counts. "
                    f"Put {shown(selector)} before {shown(before)}."
                )
            result |= {key: (selector, value, found[key]) for key in left}
        return {key: value for key, (_, value, _) in result.items()}

    def _check_alike(
        self, one: tuple[Any, Any, set[str]], other: tuple[Any, Any, set[str]], what: str
    ) -> None:
        (a, _, here), (b, _, there) = one, other
        if any(_same_place(x, y) for x in here for y in there):
            return  # a more general selector, for what is left
        places = min(here), min(there)
        raise WeightsError(
            f"learning_rates: {places[0]!r} and {places[1]!r} are one variable, and {what}= gives it "
            f"two values: by {shown(a)} and by {shown(b)}. One variable has one: give both the same, "
            f"or leave out {shown(b)}."
        )

    def _named(self, selector: Any, what: str) -> dict[int, set[str]]:
        if isinstance(selector, str):
            found = {
                key: labels
                for key, weight in self.by_id.items()
                if (labels := {a for a in weight.addresses if names(selector, a)})
            }
            if found:
                return found
        try:
            nodes = list(leaves(select_nodes(self.graph, selector)))
        except (NothingSelectedError, ReadError) as error:
            if isinstance(selector, str):
                raise self._nothing(selector, what) from error
            raise
        found = {}
        for node in nodes:
            layer = unwrapped(node.operation)
            if isinstance(layer, keras.Layer):
                for name, variable in _ties.named_weights(layer).items():
                    if behind(variable) in self.by_id:
                        found.setdefault(behind(variable), set()).add(f"{node.path}/{name}")
        if not found:
            raise WeightsError(
                f"learning_rates: in {what}=, {shown(selector)} names "
                f"{listed(node.path for node in nodes)}, without any weights. Leave it out."
            )
        return found

    def _nothing(self, selector: str, what: str) -> WeightsError:
        addresses = [w.address for w in self.all]
        layers = dict.fromkeys(a.rpartition("/")[0] for a in addresses)
        near = nearest(selector, [*layers, *addresses])
        hint = f"Nearest: {listed(near)}." if near else f"There are {listed(layers)}."
        return WeightsError(
            f"learning_rates: in {what}=, {shown(selector)} names no weight of "
            f"{self.model.name!r}. {hint}"
        )


def _addresses(group: Group, path: tuple[str, ...]) -> list[tuple[str, Any]]:
    """Return the addresses of all weights, one for each place where a weight is."""
    found = [("/".join([*path, w.name]), w.variable) for w in group.own] + list(group.tied)
    for inside in group.inside:
        found += _addresses(inside, (*path, inside.name))
    return found


_CALL = re.compile(r"#[0-9]+(?=/)")


def _same_place(one: str, other: str) -> bool:
    """Whether two labels may mean the same place; one with the number of a call is more exact."""
    return one == other or _CALL.sub("", one) == other or one == _CALL.sub("", other)
