"""What of two graphs is the same by value: the operations that belong together are compared."""

from __future__ import annotations

from typing import Any

from keras_graft.graph.parameters import variable_behind
from keras_graft.graph.walk import is_op
from keras_graft.look.numbers import Numbers, place_of
from keras_graft.look.pairing import weights_in
from keras_graft.look.partners import Partners, path_of
from keras_graft.look.wiring import Wiring
from keras_graft.model import same_values


class ByValue(Partners):
    """Operations are the same if name or place, class, configuration and weights are equal.

    Attributes:
        by: "value".
        renamed: Pairs (name before, name now) of operations with another name.
        unclear: Operations that could belong to several of the old graph.
    """

    by = "value"

    def __init__(self, old: Wiring, new: Wiring) -> None:
        super().__init__(old, new)
        self._compare()
        self._equal_ops()
        names = {
            key: ("/".join(path_of(self._mine[id(was)])), "/".join(path_of(self._its[key])))
            for key, was in self._pairs.items()
            if not is_op(self._its[key])
        }
        self.renamed: tuple[tuple[str, str], ...] = tuple(
            pair for pair in names.values() if pair[0] != pair[1]
        )
        self.unclear: tuple[str, ...] = tuple(self._its[key].path for key in self._unclear)

    def before(self, operation: Any) -> Any:
        """Return the operation of the old graph that one of the new graph belongs to, or None."""
        return self._pairs.get(id(operation))

    def gone(self, operation: Any) -> bool:
        """Whether an operation of the old graph belongs to none of the new graph."""
        return id(operation) not in self._taken

    def changed(self, operation: Any) -> str:
        """Return what differs between the two, as text; empty if nothing does."""
        return self._said.get(id(operation), "")

    def identity(self, operation: Any) -> Any:
        """Return the old operation's `id` for two that compute the same; else its own."""
        if id(operation) in self._stateless:
            return self._stateless[id(operation)]
        was = self._pairs.get(id(operation))
        return id(operation) if was is None or id(operation) in self._unlike else id(was)

    def leaf(self, argument: Any) -> Any:
        """Return what stands for an argument of a call."""
        return same_values.argument(argument)

    def variable(self, key: int) -> int:
        """Return the `id` of the old variable that a new one belongs to; else its own."""
        return self._variables.get(key, key)

    def parameters(self, state: str) -> int:
        """Return how many parameters are "shared", "changed", "new" or "dropped"."""
        return self._parameters[state]

    def _compare(self) -> None:
        """Compare the configurations and the weights of what belongs together."""
        self._said: dict[int, str] = {}
        self._unlike: set[int] = set()
        self._variables: dict[int, int] = {}
        self._stateless: dict[int, Any] = {}
        unlike: dict[tuple[int, int], same_values.WeightChange | None] = {}
        for key, was in self._pairs.items():
            now = self._its[key].operation
            said: list[str] = []
            if was is not now:
                said = same_values.changed_settings(self._setting(was), self._setting(now))
            flag = same_values.only_flag(now, said)
            for mine, its in same_values.pairs(was, now):
                known = id(variable_behind(mine)), id(variable_behind(its))
                if known not in unlike:
                    unlike[known] = same_values.changed_weight(mine, its)
                    self._variables.setdefault(known[1], known[0])
                change = unlike[known]
                if change is not None:
                    flag = False
                    said.append(f"{change.name} {change.what}")
            if said:
                self._said[key] = "; ".join(said)
                if not flag:
                    self._unlike.add(key)
        before, now = weights_in(self._old.graph), weights_in(self._new.graph)
        other = {its for (_, its), change in unlike.items() if change is not None}
        old = {mine for mine, _ in unlike}
        self._parameters = {
            "shared": sum(n for k, n in now.items() if k in self._variables and k not in other),
            "changed": sum(n for k, n in now.items() if k in other),
            "new": sum(n for k, n in now.items() if k not in self._variables),
            "dropped": sum(n for k, n in before.items() if k not in old),
        }

    def _equal_ops(self) -> None:
        """Let equal ops on equal inputs count as one: loading may compute a mask twice."""
        for node in (*self._mine.values(), *self._its.values()):
            if is_op(node):
                said = tuple(sorted(self._setting(node.operation).items()))
                self._stateless[id(node.operation)] = node.kind, said
        old, new = self._left()
        if not any(is_op(n) for n in (*old, *new)):
            return
        numbers = Numbers(self.identity, self.leaf)
        before = numbers.of(self._old.graph)
        now = numbers.of(self._new.graph, self.inputs)
        known: dict[Any, Any] = {}
        for place, found in before.calls.items():
            if is_op(self._old.nodes[place]):
                known.setdefault(found, self._old.nodes[place].operation)
        there = set(now.calls.values())
        for node in new:
            was = known.get(now.calls[place_of(node)])
            if was is not None:
                self._pair(node.operation, was)
        self._taken.update(
            id(n.operation) for n in old if is_op(n) and before.calls[place_of(n)] in there
        )
