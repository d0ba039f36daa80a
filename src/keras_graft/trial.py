"""Run calls on abstract tensors: do they do what their specs say?

Keras's own inference believes the layers. Many say of themselves what shape they give without
looking at their weights: a `LayerNormalization` or an LSTM takes any number of features then, and
fails when it runs, or, where sizes of one meet others, gives a shape that it did not announce.
Here every call runs as it would with data, without any: the backend traces it. Where that does not
tell, the one call runs on zeros.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.call import filled
from keras_graft.errors import EditError
from keras_graft.flow import needed
from keras_graft.graph import Graph
from keras_graft.node import Node, Spec, Value

Shape = tuple[int, ...]

_SIZES = (8, 64, 256)
"""What is tried for a dimension that may vary and of which no size was ever known."""

_FACTORS = (2, 0.5)
"""By what a known size is multiplied for a dimension that may vary from now on."""

_ELEMENTWISE = (
    "keras.src.layers.activations", "keras.src.layers.regularization", "keras.src.layers.core.identity",
)  # fmt: skip
"""Where Keras keeps the layers that change each number for itself."""

_NOISE = re.compile(
    r"\x1b\[\d*m|Exception encountered when calling .*|\n+Arguments received by[\s\S]*"
)


@dataclass(frozen=True)
class Failure:
    """A call that does not do what the graph says of it.

    Attributes:
        node: The call.
        given: The shapes from which the run began.
        reason: What the backend says, or what the call gave instead.
        inside: For a nested model, the labels that lead to the call inside that fails.
    """

    node: Node
    given: tuple[Shape, ...]
    reason: str
    inside: tuple[str, ...] = ()


def needs_trial(node: Node) -> bool:
    """Whether a call that was just traced may give something else than it says.

    Keras knows what some of its own layers and ops give: a layer that was built for what it reads,
    one that changes each number for itself, an op that gives what it reads.
    """
    operation, kind = node.operation, type(node.operation).__module__
    specs = [value.spec for value in node.inputs]
    if node.nested is not None:
        return specs != [value.spec for value in node.nested.inputs]
    if not kind.startswith("keras."):
        return True
    if not isinstance(operation, keras.Layer):
        return any(out.spec not in specs for out in node.outputs) or len(set(specs)) != 1
    if len(specs) != 1 or specs[0] is None or _keras.sublayers(operation):
        return True
    if not operation.weights:
        return not kind.startswith(_ELEMENTWISE)
    built = (operation.get_build_config() or {}).get("input_shape")
    return built is None or not _like(tuple(built), specs[0].shape)


def trial(
    graph: Graph,
    nodes: Sequence[Node] | None = None,
    before: Mapping[Value, Sequence[int | None] | None] | None = None,
) -> Failure | None:
    """Run calls of a graph on abstract tensors of whole shapes.

    A dimension that may vary must fit at some size: if it was fixed before, at another one. Only
    calls that are `untried` can fail; what could not run before either is taken at its word.

    Args:
        graph: The graph, its specs inferred.
        nodes: The calls to run; all if None. Where sizes are unknown, those before them run too.
        before: The shapes that the inputs had, where they were others.

    Returns:
        The first call that fails, if there is one at every size that was tried.
    """
    steps, starts = _part(graph, nodes)
    strict = nodes is None or any(v.producer is None and _is_odd(v.spec) for v in graph.inputs)
    starts = [v for v in starts if not _is_odd(v.spec, strict)]
    failure = None
    unsure = False
    for shapes in _shapes(starts, before or {}):
        run = _Walk(dict(zip(starts, shapes, strict=True)), tuple(shapes))
        try:
            failure = run.through(steps)
        except _Impossible:
            if nodes is None:
                raise
            return None
        if failure is None and not run.unsure:
            return None
        unsure = unsure or failure is None
    return None if unsure else failure


def told(graph: Graph, failure: Failure) -> str:
    """Return what is wrong: the call, what it reads and from where, and what it expected."""
    node = graph.node(failure.node)
    lines = []
    expected = node.untried or [None] * len(node.inputs)
    for value, old in zip(node.inputs, expected, strict=True):
        producer = graph.producer(value)
        source = "an input" if producer is None else f"node {graph.label(producer)!r}"
        wanted = "" if old is None or old == value.spec else f"expected {old}, "
        lines.append(f"  {graph.label(value)!r} from {source}: {wanted}found {value.spec}")
    inside = f" ({'/'.join([node.label, *failure.inside])!r} inside it)" if failure.inside else ""
    free = any(v.spec is None or None in v.spec.shape[1:] for v in node.inputs)
    tried = f"\nWhat may vary was tried at {', '.join(map(str, failure.given))}." if free else ""
    return (
        f"{node.kind} {node.label!r} in graph {graph.name!r}{inside} cannot run on its inputs:\n"
        + "\n".join(lines)
        + f"\n{failure.reason}{tried}"
    )


def rows(node: Node, inputs: Sequence[Value]) -> int | None:
    """Return how many rows a call gives for two samples, where its specs tell.

    An op such as `ops.reshape(x, (-1, 50))` makes several rows of one sample, or one of several,
    when the size of a sample is another; its spec says that the batch may vary, as before.
    """
    return _rows(node, [value.spec for value in inputs], 2)


def _rows(node: Node, specs: Sequence[Spec | None], batch: int) -> int | None:
    shapes = [None if spec is None else spec.shape for spec in specs]
    if any(shape is None or not shape or shape[0] is not None for shape in shapes):
        return None
    tensors = [keras.KerasTensor((batch, *s.shape[1:]), s.dtype) for s in specs]  # type: ignore
    args, kwargs = filled(node.template, tensors)
    try:
        given = keras.tree.flatten(node.operation.compute_output_spec(*args, **kwargs))
    except Exception:  # that it does not fit at all is found, and told better, elsewhere
        return None
    return given[0].shape[0] if given and given[0].shape else None


def _part(graph: Graph, nodes: Sequence[Node] | None) -> tuple[list[Node], list[Value]]:
    """Return the calls to run, in order, and the values from which they start."""
    if nodes is None:
        return list(graph.steps), list(graph.inputs)
    steps = [node.within(None) for node in nodes]
    free = [
        v for v in _outside(graph, steps)
        if graph.producer(v) is not None and (v.spec is None or None in v.spec.shape[1:])
    ]  # fmt: skip
    if free:
        # Sizes that go together come from the inputs alone.
        ran = {node.key for node in (*needed(graph, free), *steps)}
        steps = [node for node in graph.steps if node.key in ran]
    return steps, [v.within(graph) for v in _outside(graph, steps)]


def _outside(graph: Graph, steps: Sequence[Node]) -> list[Value]:
    inputs = {v.key for v in graph.inputs}
    made = {v.key for node in steps for v in node.outputs} - inputs
    found = dict.fromkeys(v for node in steps for v in node.inputs if v.key not in made)
    return [graph.known(v) for v in found]


def _is_odd(spec: Spec | None, strict: bool = True) -> bool:
    """Whether nothing stands for such a tensor on every backend.

    On JAX Keras calls what `x * 2.0` gives sparse (3.15). Where no input is, that is not true.
    """
    return spec is None or spec.ragged or spec.dtype == "string" or (spec.sparse and strict)


def _shapes(
    starts: Sequence[Value], before: Mapping[Value, Sequence[int | None] | None]
) -> Iterator[list[Shape]]:
    """Yield what shapes to try."""
    shapes = [tuple(v.spec.shape) for v in starts]  # type: ignore[union-attr]
    old = [before.get(v.within(None)) or () for v in starts]
    batches = [s[0] for s in shapes if s and s[0]] or [s[0] + 1 for s in old if s and s[0]] or [2]
    free = any(None in shape[1:] for shape in shapes)
    for size in _SIZES if free else _SIZES[:1]:
        for factor in _FACTORS if free and before else _FACTORS[:1]:
            yield [
                tuple(_size(d, i, was, batches[0], size, factor) for i, d in enumerate(shape))
                for shape, was in zip(shapes, old, strict=True)
            ]


def _size(
    size: int | None, place: int, before: Sequence[int | None], batch: int, free: int, factor: float
) -> int:
    if size is not None:
        return size
    if place == 0:
        return batch
    was = before[place] if place < len(before) else None
    return free if was is None else max(1, int(was * factor))


class _Impossible(EditError):
    """No tensor of a backend stands for what a run begins with."""


class _Other(ValueError):
    """A call ran, and gave something else than it says."""


class _Walk:
    """Calls that run in turn, each on what those before it gave.

    Attributes:
        unsure: Whether something could not run, here or ever.
    """

    def __init__(self, starts: Mapping[Value, Shape], given: tuple[Shape, ...]) -> None:
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
            error = run.attempt()
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
            # What stopped the run is done: the others go on from what it gave.
            steps = steps[run.count + 1 :]
        return None

    def _judged(self, node: Node, error: Exception) -> Failure | None:
        """Say whether a call that failed is at fault; if not, what it gives is known afterwards."""
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
        return Failure(node, self._given, _reason(error), inside)

    def _on_data(self, node: Node) -> Failure | None:
        if node.untried is None or any(v not in self._known for v in node.inputs):
            return None
        found = self._alone(node, self._reads(node))
        return self._judged(node, found) if isinstance(found, Exception) else None

    def _reads(self, node: Node) -> list[Any]:
        return [self._known[v] for v in node.inputs]

    def _alone(self, node: Node, tensors: Sequence[Any]) -> dict[Value, Any] | Exception:
        """Run one call on zeros, and return what it gives, or why it gives nothing."""
        run = _Run([node], dict(zip(node.inputs, tensors, strict=True)), self._announced)
        error = run.attempt(data=True)
        return {v: run.known[v] for v in node.outputs} if error is None else error

    def _never_ran(self, node: Node) -> bool:
        """Whether a call did not run on what it read before either: then it tells nothing."""
        if not node.untried or None in node.untried:
            return False
        tensors = []
        for old, now in zip(node.untried, self._reads(node), strict=True):
            assert old is not None
            like = tuple(now.shape) if len(now.shape) == len(old.shape) else ()
            rest = (d or (like[i] if like else _SIZES[0]) for i, d in enumerate(old.shape))
            tensors.append(keras.KerasTensor(tuple(rest), old.dtype))
        outputs = tuple(value.with_spec(None) for value in node.outputs)
        return isinstance(self._alone(node.replace(outputs=outputs), tensors), Exception)

    def _announced(self, node: Node) -> dict[Value, Any]:
        """Return what stands for the outputs of a call that cannot run, where that is known."""
        found = {}
        for value in node.outputs:
            spec = value.spec
            if spec is None or _is_odd(spec) or None in spec.shape[1:]:
                continue
            shape = tuple(self._batch if d is None else d for d in spec.shape)
            found[value] = keras.KerasTensor(shape, spec.dtype)
        return found

    def _inside(self, node: Node, error: Exception) -> tuple[tuple[str, ...], Exception]:
        """Find which call within a nested model it is that fails."""
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
        if found is None:
            return (), error
        self._known.update(run.known)
        culprit = nested.steps[run.count]
        deeper, found = self._inside(culprit, found)
        return (nested.label(culprit), *deeper), found


class _Run(keras.Operation):
    """Some calls as one operation, which the backend can trace.

    Attributes:
        known: The shape and dtype of each value, as far as it came.
        count: How many calls it did.
    """

    def __init__(
        self,
        steps: Sequence[Node],
        known: Mapping[Value, Any],
        announced: Callable[[Node], dict[Value, Any]],
    ) -> None:
        super().__init__(name="trial")
        self._steps = steps
        self._starts = dict(known)
        self._announced = announced
        self.known: dict[Value, Any] = {}
        self.count = 0
        self._error: Exception | None = None

    def attempt(self, data: bool = False) -> Exception | None:
        """Run the calls; return the error with which one stops, and which is number `count`."""
        tensors = list(self._starts.values())
        try:
            if data:
                with keras.StatelessScope():  # no state moves
                    self.call(*(keras.ops.zeros(_whole(t), t.dtype) for t in tensors))
            elif tensors:
                self.compute_output_spec(*tensors)
        except Exception as error:
            if self._error is None:
                raise _Impossible(_impossible(tensors, error)) from error
            return self._error
        return None

    def call(self, *tensors: Any) -> Any:
        self.count, self._error, self.known = 0, None, {}  # PyTorch tries twice
        values = dict(zip(self._starts, tensors, strict=True))
        for node in self._steps:
            if any(value not in values for value in node.inputs):
                # It reads what cannot run; or computes a mask that a closed model hands on unseen.
                made = self._announced(node)
                found = [(v, keras.ops.zeros(t.shape, t.dtype)) for v, t in made.items()]
            else:
                try:
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
        outputs = keras.tree.flatten(node.operation(*args, **kwargs))
        for value, tensor in zip(node.outputs, outputs, strict=True):
            said, given = value.spec, tuple(tensor.shape)
            if said is not None and not _like(said.shape, given):
                raise _Other(
                    f"it would say that it gives {_text(said.shape)}, and give {_text(given)}: its "
                    "weights or constants are for another shape"
                )
        _refuse_mixing(node, inputs, outputs)
        return list(zip(node.outputs, outputs, strict=True))


def _refuse_mixing(node: Node, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Refuse a call that would make another number of rows of a sample than it did before."""
    if not (node.untried and inputs and outputs):
        return
    read, given = (tuple(t.shape)[:1] for t in (inputs[0], outputs[0]))
    if not read or not given or read == given or None in (*read, *given):
        return
    before = _rows(node, node.untried, read[0])
    if before is not None and before != given[0]:
        raise _Other(f"it would mix samples: of {read[0]} it would make {given[0]} rows")


def _needs_data(node: Node) -> bool:
    """Whether tracing takes what cannot run, so that only data tell.

    That of TensorFlow takes a slice beyond the end of a table, that of PyTorch whole numbers where
    the weights are none.
    """
    if node.untried is None:
        return False
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _may_slice(node)
    dtypes = [v.spec.dtype for v in node.inputs if v.spec is not None]
    return backend == "torch" and any("int" in dtype for dtype in dtypes)


def _may_slice(node: Node) -> bool:
    if node.nested is not None:
        return any(_may_slice(inside) for inside in node.nested.steps)
    kinds = map(type, _keras.layers_inside(node.operation))
    return any("Slice" in k.__name__ or not k.__module__.startswith("keras.") for k in kinds)


def _like(said: Sequence[int | None], given: Sequence[int | None]) -> bool:
    pairs = zip(said, given, strict=False)
    return len(said) == len(given) and all(None in (a, b) or a == b for a, b in pairs)


def _text(shape: Sequence[int | None]) -> str:
    return f"({', '.join('?' if d is None else str(d) for d in shape)})"


def _symbol(tensor: Any) -> Any:
    return keras.KerasTensor(tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype))


def _whole(tensor: Any) -> Shape:
    return tuple(_SIZES[0] if d is None else d for d in tensor.shape)


def _reason(error: Exception) -> str:
    return _NOISE.sub("", str(error)).strip() or type(error).__name__


def _impossible(tensors: Sequence[Any], error: Exception) -> str:
    kinds = ", ".join(f"{t.shape} {t.dtype}" for t in tensors)
    reason = str(error).rpartition("Error encountered:")[2].strip().replace("\\n", "")
    return (
        f"nothing can be computed from inputs like these: {kinds}: {reason}. Give a dtype and a "
        "shape that the layers behind take."
    )
