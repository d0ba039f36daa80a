"""Run calls on abstract tensors, without data: each call runs on the outputs of earlier calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Spec, Value
from keras_graft.graph.select import leaves
from keras_graft.model.calls import filled
from keras_graft.printable import words_of

Shape = tuple[int, ...]

SIZES = (8, 64, 256)
"""The sizes that are tried for a variable dimension whose size was never known."""

_NOISE = re.compile(
    r"\x1b\[\d*m|Exception encountered when calling .*|\n+Arguments received by[\s\S]*"
)


@dataclass(frozen=True)
class Failure:
    """A call that does not do what the graph says.

    Attributes:
        node: The call.
        given: The shapes that the run started from.
        reason: The error of the backend, or what the call gave instead.
        inside: For a nested model, the labels that lead to the failing call inside it.
    """

    node: Node
    given: tuple[Shape, ...]
    reason: str
    inside: tuple[str, ...] = ()


class Impossible(EditError):
    """The backend has no tensors like those that the run starts from."""


class _Other(ValueError):
    """A call ran, but its output is not what its spec says."""


class Walk:
    """Calls that run in turn, each on the outputs of earlier calls.

    Attributes:
        unsure: Whether some call could not run, and so tells nothing.
    """

    def __init__(
        self, graph: Graph, starts: Mapping[Value, Shape], given: tuple[Shape, ...]
    ) -> None:
        self._graph = graph
        self._given = given
        self._batch = next((s[0] for s in given if s), 2)
        self._known = {
            v.within(None): keras.KerasTensor(shape, v.spec.dtype)  # type: ignore[union-attr]
            for v, shape in starts.items()
        }
        self.unsure = False

    def through(self, steps: Sequence[Node]) -> Failure | None:
        """Run the calls; return the first that fails."""
        while steps:
            read = {v for node in steps for v in node.inputs}
            run = _Run(steps, {v: t for v, t in self._known.items() if v in read}, self._announced)
            try:
                error = run.attempt()
            except Exception as error:
                raise Impossible(self._impossible(run, error)) from error
            self._known.update(run.known)
            for node in steps[: run.count]:
                failure = self._on_data(node) if _needs_data(node) else None
                if failure is not None:
                    return failure
            if error is None:
                return None
            failure = self._judged(steps[run.count], error)
            if failure is not None:
                return failure
            # The call that stopped the run is done: continue behind it, from its outputs.
            steps = steps[run.count + 1 :]
        return None

    def _judged(self, node: Node, error: Exception) -> Failure | None:
        """Decide whether a failed call is at fault; if not, store the outputs it should give."""
        if node.untried is None or not isinstance(error, _Other):
            found = self._alone(node, self._reads(node))
            if isinstance(found, dict):
                self._known.update(found)
                return None
            error = error if node.untried is None else found
        if node.untried is None or (not isinstance(error, _Other) and self._never_ran(node)):
            self.unsure = True
            self._known.update(self._announced(node))
            return None
        inside, error = self._inside(node, error)
        return Failure(node, self._given, reason_of(error), inside)

    def _on_data(self, node: Node) -> Failure | None:
        if node.untried is None or any(v not in self._known for v in node.inputs):
            return None
        found = self._alone(node, self._reads(node))
        return self._judged(node, found) if isinstance(found, Exception) else None

    def _reads(self, node: Node) -> list[Any]:
        return [self._known[v] for v in node.inputs]

    def _alone(self, node: Node, tensors: Sequence[Any]) -> dict[Value, Any] | Exception:
        """Run one call on zeros; return its outputs, or the error."""
        run = _Run([node], dict(zip(node.inputs, tensors, strict=True)), self._announced)
        error = run.attempt(data=True)
        return {v: run.known[v] for v in node.outputs} if error is None else error

    def _never_ran(self, node: Node) -> bool:
        """Whether a call also fails on what it read before the edit: then it tells nothing."""
        if not node.untried or any(is_odd(spec) for spec in node.untried):
            return False
        if any(
            old is None and now is not None
            for spec, value in zip(node.untried, node.inputs, strict=True)
            if spec is not None and value.spec is not None
            for old, now in zip(spec.shape[1:], value.spec.shape[1:], strict=False)
        ):
            return False  # unknown which sizes it ran on before
        tried = self._old(node)
        # A new value for each input: what it reads twice now may have been two values before.
        inputs = tuple(Value(spec) for spec in node.untried)
        outputs = tuple(value.with_spec(None) for value in node.outputs)
        node = node.replace(inputs=inputs, outputs=outputs)
        return all(isinstance(self._alone(node, tensors), Exception) for tensors in tried)

    def _old(self, node: Node) -> Iterator[list[Any]]:
        """Yield tensors of the specs that a call read before; present variable sizes come first."""
        now = [tuple(tensor.shape) for tensor in self._reads(node)]
        for size in (None, *SIZES[:-1]):
            tensors = []
            for spec, like in zip(node.untried or (), now, strict=True):
                assert spec is not None
                rest = [d or size or self._batch for d in spec.shape]
                if size is None and len(like) == len(spec.shape):
                    rest = [
                        d or now or self._batch for d, now in zip(spec.shape, like, strict=True)
                    ]
                elif spec.shape and spec.shape[0] is None:
                    rest[0] = self._batch
                tensors.append(keras.KerasTensor(tuple(rest), spec.dtype))
            yield tensors

    def _impossible(self, run: _Run, error: Exception) -> str:
        kinds = ", ".join(
            f"{self._graph.label(v)!r} {tuple(t.shape)} {t.dtype}" for v, t in run.starts.items()
        )
        reason = str(error).rpartition("Error encountered:")[2].strip().replace("\\n", "")
        return (
            f"nothing can be computed from inputs like these: {kinds}: {reason}. Give a dtype and "
            "a shape that the layers behind take."
        )

    def _announced(self, node: Node) -> dict[Value, Any]:
        """Return tensors made from the specs of a call that cannot run, where these are known."""
        found = {}
        for value in node.outputs:
            spec = value.spec
            if spec is None or is_odd(spec) or None in spec.shape[1:]:
                continue
            shape = tuple(self._batch if d is None else d for d in spec.shape)
            found[value] = keras.KerasTensor(shape, spec.dtype)
        return found

    def _inside(self, node: Node, error: Exception) -> tuple[tuple[str, ...], Exception]:
        """Find the call inside a nested model that fails."""
        nested = node.nested
        if nested is None or isinstance(error, _Other) or any(e.adapt for e in node.entries):
            return (), error
        reads = [*self._reads(node), *([None] * len(node.hidden))]
        known = {
            v.within(None): reads[e.source]
            for v, e in zip(nested.inputs, node.entries, strict=False)
            if e.source is not None and reads[e.source] is not None
        }
        run = _Run(nested.steps, known, self._announced)
        found = run.attempt(data=True)
        if found is None or run.count == len(nested.steps):
            return (), error
        self._known.update({**known, **run.known})
        culprit = nested.steps[run.count]
        deeper, found = self._inside(culprit, found)
        return (nested.label(culprit), *deeper), found


class _Run(keras.Operation):
    """Some calls as one operation, which the backend can trace.

    Attributes:
        known: The shape and dtype of each value that was computed.
        count: How many calls ran.
    """

    def __init__(
        self,
        steps: Sequence[Node],
        known: Mapping[Value, Any],
        announced: Callable[[Node], dict[Value, Any]],
    ) -> None:
        super().__init__(name="trial")
        self._steps = steps
        self.starts = dict(known)
        self._announced = announced
        self.known: dict[Value, Any] = {}
        self.count = 0
        self._error: Exception | None = None

    def attempt(self, data: bool = False) -> Exception | None:
        """Run the calls; return the error of the first that fails: call number `count`."""
        tensors = list(self.starts.values())
        try:
            if data:
                with keras.StatelessScope():  # no variable changes
                    self.call(*(keras.ops.zeros(_whole(t), t.dtype) for t in tensors))
            elif tensors:
                self.compute_output_spec(*tensors)
        except Exception as error:
            if self._error is None and not data:
                raise  # not from a call: the backend has no such tensors
            return self._error or error
        return None

    def call(self, *tensors: Any) -> Any:
        self.count, self._error, self.known = 0, None, {}  # Keras may call it twice on PyTorch
        values = dict(zip(self.starts, tensors, strict=True))
        for node in self._steps:
            if any(value not in values for value in node.inputs):
                # It reads the output of a call that cannot run, or a mask hidden in a closed model.
                made = self._announced(node)
                found = [(v, keras.ops.zeros(t.shape, t.dtype)) for v, t in made.items()]
            else:
                try:
                    _attach_masks(node, values)
                    found = self._outputs(node, [values[value] for value in node.inputs])
                except Exception as error:
                    self._error = error
                    raise
            values.update(found)
            self.known.update((v, _symbol(tensor)) for v, tensor in found)
            self.count += 1
        return []

    @staticmethod
    def _outputs(node: Node, inputs: Sequence[Any]) -> list[tuple[Value, Any]]:
        args, kwargs = filled(node.template, inputs)
        with _keras.inner_call():
            outputs = keras.tree.flatten(node.operation(*args, **kwargs))
        for value, tensor in zip(node.outputs, outputs, strict=True):
            said, given = value.spec, tuple(tensor.shape)
            if said is None:
                continue
            if not alike(said.shape, given):
                raise _Other(
                    f"it announces {_text(said.shape)}, but returns {_text(given)}: its "
                    "weights or constants are for another shape"
                )
            dtype = keras.backend.standardize_dtype(tensor.dtype)
            if dtype not in (said.dtype, _held_as(said.dtype)) and _reads_another_dtype(node):
                raise _Other(
                    f"it announces {said.dtype}, but returns {dtype}: put a cast in "
                    "front of it, such as lambda x: keras.ops.cast(x, ...)"
                )
        _refuse_mixing(node, inputs, outputs)
        return list(zip(node.outputs, outputs, strict=True))


def _attach_masks(node: Node, values: Mapping[Value, Any]) -> None:
    """Attach the masks that a node finds on its inputs, where they enter from outside."""
    for value, mask in node.hidden:
        tensor, spec = values.get(value), mask.spec
        if tensor is None or spec is None or _keras.mask_of(tensor) is not None:
            continue
        shape = [now if d is None else d for d, now in zip(spec.shape, tensor.shape, strict=False)]
        found = values.get(mask)
        _keras.set_mask(tensor, keras.ops.ones(shape, "bool") if found is None else found)


def _held_as(dtype: str) -> str:
    """Return the dtype that the backend uses for it: JAX has no 64 bits unless they are enabled."""
    if not dtype.endswith(("64", "128")):
        return dtype
    tensor: Any = keras.ops.convert_to_tensor(np.zeros((), dtype))
    return keras.backend.standardize_dtype(tensor.dtype)


def _reads_another_dtype(node: Node) -> bool:
    """Whether a call is new, or reads dtypes that differ from the recorded ones."""
    if node.untried is None:
        return False
    now = [None if v.spec is None else v.spec.dtype for v in node.inputs]
    return [None if spec is None else spec.dtype for spec in node.untried] != now


def _refuse_mixing(node: Node, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Refuse a call that would change how many rows it makes from one sample."""
    if not (node.untried and inputs and outputs):
        return
    read, given = (tuple(t.shape)[:1] for t in (inputs[0], outputs[0]))
    if not read or not given or read == given or None in (*read, *given):
        return
    before = rows_of(node, node.untried, read[0])
    if before is not None and before != given[0]:
        raise _Other(f"it would mix samples: it would turn {read[0]} rows into {given[0]}")


def rows_of(node: Node, specs: Sequence[Spec | None], batch: int) -> int | None:
    """Return how many rows a call announces for a batch of samples, None if specs do not tell."""
    shapes = [None if spec is None else spec.shape for spec in specs]
    if any(shape is None or not shape or shape[0] is not None for shape in shapes):
        return None
    tensors = [keras.KerasTensor((batch, *s.shape[1:]), s.dtype) for s in specs]  # type: ignore
    args, kwargs = filled(node.template, tensors)
    try:
        given = keras.tree.flatten(node.operation.compute_output_spec(*args, **kwargs))
    except Exception:  # a call that does not fit is reported elsewhere, with a better message
        return None
    return given[0].shape[0] if given and given[0].shape else None


def _needs_data(node: Node) -> bool:
    """Whether tracing accepts calls that cannot run, so that a run on data is needed.

    TensorFlow's tracing accepts a slice beyond the end of a table; PyTorch's accepts integers where
    the weights are floats.
    """
    if node.untried is None:
        return False
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _may_slice(node)
    dtypes = [v.spec.dtype for v in node.inputs if v.spec is not None]
    return backend == "torch" and any("int" in dtype for dtype in dtypes)


def _may_slice(node: Node) -> bool:
    kinds = {type(x) for n in leaves([node]) for x in _keras.layers_inside(n.operation)}
    return any("Slice" in k.__name__ or not k.__module__.startswith("keras.") for k in kinds)


def is_odd(spec: Spec | None, sparse: bool = True, text: bool = True) -> bool:
    """Whether no abstract tensor has this spec: ragged, sparse, or strings outside TensorFlow.

    Args:
        spec: The spec.
        sparse: Whether sparse specs count. On JAX, Keras 3.15 marks the output of `x * 2.0` as
            sparse, even if no input is.
        text: Whether string specs count; only TensorFlow has string tensors.
    """
    if spec is None or spec.ragged or (spec.sparse and sparse):
        return True
    return text and spec.dtype == "string" and keras.backend.backend() != "tensorflow"


def alike(said: Sequence[int | None], given: Sequence[int | None]) -> bool:
    """Whether two shapes can be the same."""
    pairs = zip(said, given, strict=False)
    return len(said) == len(given) and all(None in (a, b) or a == b for a, b in pairs)


def _text(shape: Sequence[int | None]) -> str:
    return f"({', '.join('?' if d is None else str(d) for d in shape)})"


def _symbol(tensor: Any) -> Any:
    return keras.KerasTensor(tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype))


def _whole(tensor: Any) -> Shape:
    return tuple(SIZES[0] if d is None else d for d in tensor.shape)


def reason_of(error: Exception) -> str:
    """Return the message of an error, without the text that Keras adds."""
    return words_of(_NOISE.sub("", str(error)).strip()) or type(error).__name__
