"""`Pattern`: a function of tensors, written down as the calls that it makes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import keras

from keras_graft import _keras
from keras_graft.errors import EditError, GraftError
from keras_graft.graph.names import listed, nearest
from keras_graft.printable import shown, words_of

tree = keras.tree


class Tensor(_keras.Placeholder):
    """A tensor of a pattern: one of its parameters, or an output of one of its calls.

    Attributes:
        call: The call that gives it; None for a parameter.
        index: Which output of the call it is.
    """

    def __init__(self, name: str, call: Call | None = None, index: int = 0) -> None:
        super().__init__(name)
        self.call = call
        self.index = index

    def unknown(self, what: str) -> NoReturn:
        name = "match" if self.call is not None else self.name
        raise EditError(
            f"A tensor of a pattern has no {what}: it stands for any tensor. Say which are meant in "
            f"where=lambda {name}: ...; and for an op that asks for the {what} itself, such as "
            "keras.ops.softmax, use a wildcard: softmax=lambda op: type(op).__name__ == 'Softmax'."
        )

    def unpacked(self, count: int | None) -> list[Any]:
        if self.call is None:
            raise EditError(f"The parameter {self.name!r} is one tensor: it cannot be unpacked.")
        if count is None or self.index:
            raise EditError(
                f"How many outputs {self.call.name!r} gives is not known in a pattern: give each a "
                f"name, such as y, state = {self.call.name}(x)."
            )
        self.call.outputs = [
            self,
            *(Tensor(f"{self.call.name}:{i}", self.call, i) for i in range(1, count)),
        ]
        return self.call.outputs


class Wildcard:
    """Stands for a layer or an op where it is called, and for a constant where it is given.

    Attributes:
        name: Its parameter in the pattern.
        meant: What it may be, as the user says it.
    """

    def __init__(self, name: str, meant: Any, write: _keras.Written) -> None:
        self.name = name
        self.meant = meant
        self._write = write

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._write(self, args, kwargs)

    def __repr__(self) -> str:
        return f"<{self.name}>"


@dataclass(eq=False)
class Call:
    """One call in a pattern.

    Attributes:
        target: A `Wildcard`; or a layer or op that the pattern itself names.
        args: Its arguments, with `Tensor`s and `Wildcard`s.
        kwargs: Its arguments by name.
        name: For messages.
        outputs: What it gives.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    name: str
    outputs: list[Tensor] = field(default_factory=list)

    @property
    def reads(self) -> list[Tensor]:
        """The tensors among its arguments."""
        return [x for x in tree.flatten((self.args, self.kwargs)) if isinstance(x, Tensor)]


@dataclass(eq=False)
class Pattern:
    """A function of tensors, written down.

    Attributes:
        function: The function.
        tensors: Its parameters that are tensors.
        wildcards: Its parameters that are wildcards, by their names.
        calls: The calls that its outputs need; the first is the one that gives the first output.
        outputs: What it returns.
    """

    function: Any
    tensors: tuple[Tensor, ...]
    wildcards: dict[str, Wildcard]
    calls: tuple[Call, ...]
    outputs: tuple[Tensor, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its parameters."""
        return (*(t.name for t in self.tensors), *self.wildcards)


def patterns_of(given: Any, wildcards: Mapping[str, Any], verb: str) -> list[Pattern]:
    """Return the patterns that a function, or each function of a list, says.

    Raises:
        EditError: If it is no pattern.
    """
    functions = list(given) if isinstance(given, list | tuple) else [given]
    if not functions or not all(_is_function(f) for f in functions):
        raise EditError(
            f"{verb}: a pattern is a function of tensors, such as lambda x, conv, bn: bn(conv(x)), or "
            f"a list of such functions; got {shown(given)}."
        )
    parameters = [_parameters(function, wildcards, verb) for function in functions]
    used = {name for names in parameters for name in names}
    for name in wildcards:
        if name not in used:
            near = nearest(name, used)
            raise EditError(
                f"{verb}: {name}={shown(wildcards[name])} is a wildcard that no pattern has as a "
                f"parameter; parameters: {listed(sorted(used))}."
                + (f" Nearest: {listed(near)}." if near else "")
            )
    return [
        _written(f, names, wildcards, verb) for f, names in zip(functions, parameters, strict=True)
    ]


def _is_function(given: Any) -> bool:
    return callable(given) and not isinstance(given, type | keras.Operation)


def _parameters(function: Callable[..., Any], wildcards: Mapping[str, Any], verb: str) -> list[str]:
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise EditError(f"{verb}: {shown(function)} has no parameters: {words_of(error)}") from None
    for parameter in found:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise EditError(
                f"{verb}: a pattern names each of its tensors and wildcards; "
                f"{shown(function)} has {parameter}."
            )
    # One with a default is the function's own, unless it is given.
    return [p.name for p in found if p.default is p.empty or p.name in wildcards]


class _Writer:
    """Writes down the calls of one pattern."""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}

    def __call__(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        named = isinstance(target, Wildcard)
        name = target.name if named else type(target).__name__
        call = Call(target, args, kwargs, name)
        if not call.reads:
            raise EditError(f"The pattern calls {name!r} without a tensor of the pattern.")
        first = Tensor(name, call)
        call.outputs = [first]
        return first


def _written(
    function: Callable[..., Any], names: Sequence[str], wildcards: Mapping[str, Any], verb: str
) -> Pattern:
    write = _Writer()
    tensors = {name: Tensor(name) for name in names if name not in wildcards}
    wild = {name: Wildcard(name, wildcards[name], write) for name in names if name in wildcards}
    given = [tensors[name] if name in tensors else wild[name] for name in names]
    what = f"{verb}: the pattern {shown(getattr(function, '__name__', function))}"
    try:
        with _keras.calls_written(write):
            positional, by_name = _as_called(function, names, given)
            result = function(*positional, **by_name)
    except GraftError as error:
        raise EditError(f"{what}: {words_of(error)}") from error
    except Exception as error:
        hint = _hint(error, [name for name in tensors])
        raise EditError(f"{what} raised {type(error).__name__}: {words_of(error)}{hint}") from error
    outputs = tree.flatten(result)
    if not outputs or not all(isinstance(t, Tensor) and t.call is not None for t in outputs):
        raise EditError(
            f"{what} gives {shown(result)}. A pattern returns what its calls give, such as "
            "lambda x, conv, bn: bn(conv(x))."
        )
    calls = _behind(outputs)
    read = {id(t) for call in calls for t in call.reads}
    unused = [name for name, tensor in tensors.items() if id(tensor) not in read]
    if unused:
        hint = " A layer is given by name, such as "
        hint += f"{unused[0]}=keras.layers.Dense." if unused else ""
        raise EditError(f"{what} does not use {listed(unused)} as a tensor.{hint}")
    in_calls = {id(call.target) for call in calls}
    in_calls |= {id(x) for call in calls for x in tree.flatten((call.args, call.kwargs))}
    idle = [name for name, w in wild.items() if id(w) not in in_calls]
    if idle:
        raise EditError(f"{what} neither calls nor gives away {listed(idle)}.")
    _check_connected(calls, what)
    return Pattern(function, tuple(tensors.values()), wild, calls, tuple(outputs))


def _as_called(
    function: Callable[..., Any], names: Sequence[str], given: Sequence[Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments, by position where a parameter takes no name."""
    kinds = inspect.signature(function).parameters
    by_name = {
        name: value
        for name, value in zip(names, given, strict=True)
        if kinds[name].kind is inspect.Parameter.KEYWORD_ONLY
    }
    return [v for n, v in zip(names, given, strict=True) if n not in by_name], by_name


def _hint(error: Exception, tensors: Sequence[str]) -> str:
    text = str(error)
    if isinstance(error, TypeError) and "not callable" in text:
        return f". Tensors there: {listed(tensors)}. A layer is given by name: {tensors[-1]}=keras.layers.Dense."
    return ""


def _behind(outputs: Sequence[Tensor]) -> tuple[Call, ...]:
    """Return the calls that the outputs need, the one behind the first output first."""
    found: dict[int, Call] = {}
    stack = [t.call for t in reversed(outputs) if t.call is not None]
    while stack:
        call = stack.pop()
        if id(call) not in found:
            found[id(call)] = call
            stack += [t.call for t in reversed(call.reads) if t.call is not None]
    return tuple(found.values())


def _check_connected(calls: Sequence[Call], what: str) -> None:
    """Refuse a pattern of parts that have no tensor in common: any part would match any other."""
    reached, stack = {id(calls[0])}, [calls[0]]
    while stack:
        call = stack.pop()
        own = {id(t) for t in (*call.reads, *call.outputs)}
        for other in calls:
            if id(other) not in reached and any(
                id(t) in own for t in (*other.reads, *other.outputs)
            ):
                reached.add(id(other))
                stack.append(other)
    apart = [call.name for call in calls if id(call) not in reached]
    if apart:
        raise EditError(
            f"{what} has parts that no tensor connects: {calls[0].name!r} and {listed(apart)}. Match "
            "each by a pattern of its own."
        )
