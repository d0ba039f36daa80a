"""`Tracer`: run the code of a layer on symbolic tensors, and note what it does.

Keras makes the calls. What the code does with layers, ops, weights, sizes, random numbers and losses
arrives here, and becomes calls of one `Frame` for each opened layer. Whatever a graph of calls cannot
say raises a `Doubt`: the layer around it then stays closed.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.graph.sizes import Doubt, Size, deep, leaves
from keras_graft.layers.dynamic_op import DynamicOp
from keras_graft.layers.operator import SIGNS, Operator
from keras_graft.layers.random import Random
from keras_graft.layers.weight import weight_of
from keras_graft.model.opening.around import (
    cast,
    cast_again,
    is_other_sequential,
    originals,
    specs_of,
)
from keras_graft.model.opening.calls import given_values, is_code, plain, plain_name
from keras_graft.model.opening.constants import sliced
from keras_graft.model.opening.finish import finish
from keras_graft.model.opening.frame import Frame, Place, in_world, is_open
from keras_graft.model.opening.log import form_of_new
from keras_graft.model.opening.masks import loses_masks, strip, without_lost_masks
from keras_graft.model.opening.reasons import Reason, reason_of
from keras_graft.model.opening.written import restored


class Tracer:
    """One run of the code of a layer.

    Args:
        root: The layer whose code runs first.
        wanted: Returns None if a layer should be opened, else why not.
        closed: The places that stay closed, each with the reason.
        native: Whether Python operators are recorded as such, and not as ops of Keras.
        weights: The `Weight`s of variables; more are added.
        losing: The places whose code adds losses in training only: it runs as in training.

    Attributes:
        frames: The opened calls, by their place.
        reasons: The calls that stay closed although they should be opened.
        given: For each tensor that is passed in, by its identity, the one that it was made from.
    """

    def __init__(
        self, root: Any, wanted: Callable[[Any, Place], str | None],
        closed: Mapping[Place, Reason], native: bool, weights: dict[Any, Any],
        losing: Collection[Place] = (),
    ) -> None:  # fmt: skip
        self.active = False
        self.frames: dict[Place, Frame] = {}
        self.reasons: dict[Place, Reason] = {}
        self.given: dict[int, Any] = {}
        self._root = root
        self._wanted = wanted
        self._closed = closed
        self._native = native
        self._weights = weights
        self._losing = losing
        self._stack: list[Frame] = []
        self._pending: list[tuple[Any, Frame, Any, Any]] = []
        self._layers = {id(layer) for layer in _keras.layers_inside(root)}
        self._variables = {id(v) for v in root.variables}
        self._flags: dict[int, Any] = {}
        self._turns: dict[int, int] = {}
        self._casts: list[tuple[Any, Any]] = []
        self._gradients = _keras.records_gradients()
        self._last: tuple[Any, str] = None, ""

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Frame:
        """Call the root on symbolic tensors, and return its frame."""
        with _keras.own_call_context(), _keras.heard(self), self._on(True):
            self._root(*args, **kwargs)
        return self.frames[((self._root.name, 0),)]

    @contextlib.contextmanager
    def _on(self, active: bool) -> Iterator[None]:
        before, self.active = self.active, active
        watched, Size.watched = Size.watched, active
        try:
            yield
        finally:
            self.active, Size.watched = before, watched

    @property
    def _frame(self) -> Frame:
        return self._stack[-1]

    # -- calls of layers --------------------------------------------------------------------

    def layer(self, layer: Any, args: Any, kwargs: Any) -> Any:
        """Open a layer, or infer what it gives."""
        self._flags[id(layer)] = kwargs.get("training")  # as Keras settled it
        args, kwargs = self._as_seen(layer, (args, kwargs))
        around: Place = self._frame.place if self._stack else ()
        number = self._frame.number(layer.name) if self._stack else 0
        place = (*around, (layer.name, number))
        if self._stack and not self.holds(layer) and (layer.variables or not layer.built):
            raise Doubt(
                f"it calls the layer {layer.name!r}, which it does not hold: made in the call, or held "
                "by something that Keras does not track"
            )
        text = self._wanted(layer, place) if self._stack else None
        if text is not None and is_other_sequential(layer, args):
            text = None
        if text is None and place not in self._closed:
            try:
                return self._opened(layer, place, args, kwargs)
            except Exception as error:
                reason = reason_of(error, layer)
                if not self._stack:
                    raise Doubt(reason) from error
                self.reasons[place] = reason
        elif place in self._closed:
            self.reasons[place] = self._closed[place]
        self._last = layer, self.reasons.get(place, "")
        return self._inferred(layer, args, kwargs)

    def _as_seen(self, layer: Any, structure: Any) -> Any:
        if not self._stack or not _keras.reads_masks(layer):
            return structure
        return without_lost_masks(structure, self._frame)

    def _inferred(self, layer: Any, args: Any, kwargs: Any) -> Any:
        if any(isinstance(leaf, Size) for leaf in leaves((args, kwargs))):
            raise Doubt(f"it passes a size that is not known to {layer.name!r}")
        with self._on(False):
            first = specs_of(layer, args, kwargs, 0)
            second = specs_of(layer, args, kwargs, 1) if is_open((args, kwargs)) else first
        return self._frame.born(first, second)

    def _opened(self, layer: Any, place: Place, args: Any, kwargs: Any) -> Any:
        frame = Frame(layer, place)
        before = {id(cast): given for cast, given in self._casts}
        given = deep((args, kwargs), lambda leaf: before.get(id(leaf), leaf))
        inner_args, inner_kwargs = frame.enter(given)
        self._stack.append(frame)
        try:
            with restored(layer):
                if before:
                    inner_args, inner_kwargs = cast_again(
                        (args, kwargs), (inner_args, inner_kwargs), before
                    )
                if place in self._losing:
                    frame.adds_in_training = True
                    inner_kwargs = {**inner_kwargs, "training": True}
                outputs = layer.call(*inner_args, **inner_kwargs)
                self._close(frame, outputs, inner_args, inner_kwargs)
        finally:
            self._stack.pop()
        given = self._given(frame)
        self.frames[place] = frame
        self._pending.append((layer, frame, args, kwargs))
        return given

    def _close(self, frame: Frame, outputs: Any, args: Any, kwargs: Any) -> None:
        whole = len(self._stack) == 1
        if dataclasses.is_dataclass(outputs) and whole:
            outputs = {f.name: getattr(outputs, f.name) for f in dataclasses.fields(outputs)}
        flat = [self._tensor(leaf) for leaf in keras.tree.flatten(outputs)]
        finish(frame, outputs, flat, args, kwargs, whole)

    def _given(self, frame: Frame) -> Any:
        """Return the tensors outside for what an opened call gives."""
        if not self._stack:
            return frame.outputs
        outputs, flat = frame.structure
        outside: dict[int, Any] = {}
        entered = dict(zip(map(id, frame.tensors), frame.sources, strict=True))
        made = []
        for leaf in flat:
            new = self._frame.born(in_world(leaf, 0), in_world(leaf, 1))
            outside[id(leaf)] = new
            made.append(new)
            mask = _keras.mask_of(leaf)
            if mask is None:
                continue
            if id(mask) in entered:
                _keras.set_mask(new, entered[id(mask)])
            elif not any(mask is one for one in frame.handed_on):
                stand = self._frame.born(in_world(mask, 0), in_world(mask, 1))
                self._frame.adopt(stand)
                _keras.set_mask(new, stand)
                frame.unseen.append((stand, mask))
        count = len(keras.tree.flatten(outputs))
        return keras.tree.pack_sequence_as(outputs, made + [None] * (count - len(made)))

    def called(self, layer: Any, args: Any, kwargs: Any, outputs: Any) -> None:
        """Record the call of a layer, opened or not, as Keras records it."""
        opened = None
        args, kwargs = self._as_seen(layer, (args, kwargs))
        if self._pending and self._pending[-1][0] is layer:
            _, opened, now_args, now_kwargs = self._pending.pop()
            opened.sources = originals(opened, (args, kwargs), (now_args, now_kwargs))
            opened.given = args, kwargs
        if not self._stack:
            return
        self._check_gradients()
        frame = self._frame
        if any(isinstance(leaf, Size) for leaf in leaves((args, kwargs))) and opened is None:
            raise Doubt(f"it passes a size that is not known to {layer.name!r}")
        kwargs = given_values(layer, kwargs)
        step = frame.record(layer, deep(args, plain), deep(kwargs, plain), outputs)
        if opened is not None:
            frame.inner[id(step)] = opened
        elif self._last[0] is layer:
            frame.closed[id(step)] = self._last[1]
        what = id(layer) if self.holds(layer) else form_of_new(layer)
        rest = {key: value for key, value in kwargs.items() if key != "training"}
        frame.log.append((what, deep((args, rest), frame.said)))
        if _keras.takes_training(layer):
            frame.training[len(frame.log) - 1] = step, self._flags.pop(id(layer), None)
        strip(frame, loses_masks(layer, args, kwargs, opened))

    def _check_gradients(self) -> None:
        if _keras.records_gradients() != self._gradients:
            raise Doubt("its code turns gradients off")

    # -- ops ----------------------------------------------------------------------------------

    def op(self, op: Any, args: Any, kwargs: Any) -> Any:
        """Infer what an op gives, and record it."""
        if not self._stack:
            return self._cast(op, *args)
        self._check_gradients()
        args, kwargs, attributes = deep((args, kwargs, _keras.op_attributes(op)), self._tensor)
        if any(is_code(leaf) for leaf in leaves((args, kwargs, attributes))):
            raise Doubt(f"keras.ops.{plain_name(op)} runs a Python function")
        try:
            specs = self._op_specs(op, attributes, args, kwargs)
        except Exception:
            if any(isinstance(leaf, keras.KerasTensor) for leaf in leaves((args, kwargs))):
                raise
            # It computes with sizes alone, and takes no plain numbers: `ops.cast(length, "float32")`.
            args, kwargs = deep((args, kwargs), self._number)
            specs = self._op_specs(op, attributes, args, kwargs)
        # `ops.clip(x, low, high)` holds tensors as it holds numbers: no graph knows that it reads them.
        held = any(isinstance(leaf, keras.KerasTensor) for leaf in leaves(attributes))
        sized = held or any(isinstance(leaf, Size) for leaf in leaves((args, kwargs, attributes)))
        frame = self._frame
        outputs = frame.born(specs[0], specs[-1])
        if not sized:
            frame.record(self._named(op), args, kwargs, outputs)
            frame.log.append((type(op).__name__, deep((attributes, args, kwargs), frame.said)))
            return outputs
        name = _keras.op_name(op)
        if name is None:
            raise Doubt(
                f"the op {type(op).__name__} of its own holds a tensor or a size that is not known"
            )
        self._dynamic(f"op:{name}", plain_name(op), attributes, args, kwargs, outputs)
        return outputs

    def _cast(self, op: Any, tensor: Any) -> Any:
        """Cast an input of the root: Keras does that before its code runs."""
        with self._on(False):
            made = cast(op, tensor)
        self._casts.append((made, tensor))
        return made

    def _op_specs(self, op: Any, attributes: Any, args: Any, kwargs: Any) -> list[Any]:
        """Return what an op gives, in each world."""
        structure = attributes, args, kwargs
        sized = any(isinstance(leaf, Size) for leaf in leaves(structure))
        sized = sized or any(isinstance(leaf, keras.KerasTensor) for leaf in leaves(attributes))
        specs = []
        with self._on(False):
            for world in (0, 1) if is_open(structure) else (0,):
                told, given_args, given_kwargs = in_world(structure, world)
                here = _keras.bare_op(type(op), {**vars(op), **told}, op.name) if sized else op
                specs.append(here.compute_output_spec(*given_args, **given_kwargs))
        return specs

    def _dynamic(
        self, target: str, name: str, attributes: Any, args: Any, kwargs: Any, outputs: Any
    ) -> None:
        frame = self._frame
        sized, reads = frame.sized(target, attributes, args, kwargs)
        frame.record(DynamicOp(sized, name=name), tuple(reads), {}, outputs)
        frame.log.append((target, sized.form()))

    def _named(self, op: Any) -> Any:
        """Name an op that was made for this call plainly: Keras's numbers depend on what ran before."""
        held = vars(self._frame.layer).values()
        if _keras.is_new_op(op) and not any(op is value for value in held):
            op.name = plain_name(op)
        return op

    def made(self, name: str, function: Any, args: Any, kwargs: Any, random: bool) -> Any:
        """Record a function that makes a tensor of sizes, or draws numbers."""
        structure = deep((args, kwargs), self._tensor)
        known = [leaf for leaf in leaves(structure) if isinstance(leaf, keras.KerasTensor | Size)]
        if not known and not random:
            return NotImplemented
        given = _keras.bound(name, random, function, *structure)
        seed = given.pop("seed", None)
        if random and not isinstance(seed, keras.random.SeedGenerator):
            raise Doubt(f"keras.random.{name} has no seed generator of the layer")
        if random and id(seed.state) not in self._variables:
            raise Doubt(f"keras.random.{name} draws from a seed generator of no layer of the model")
        target = f"{'random' if random else 'ops'}:{name}"
        frame = self._frame
        sized, reads = frame.sized(target, {}, (), given)
        with self._on(False):
            symbols = [in_world(reads, world) for world in (0, 1)]
            first, second = (sized._inferred(given, i) for i, given in enumerate(symbols))
        outputs = frame.born(first, second)
        tensors = tuple(reads) or (frame.anchor,)
        if random:
            turn = self._turns[id(seed)] = self._turns.get(id(seed), -1) + 1
            layer = Random(sized, seed=seed, turn=turn, name=name)
            frame.record(layer, tensors, {}, outputs)
        else:
            frame.record(DynamicOp(sized, name=name), tensors, {}, outputs)
        frame.log.append((target, sized.form(), id(seed)))
        return outputs

    def operator(self, name: str, tensor: Any, given: Any) -> Any:
        """Record a Python operator, if it may give other bits than the op of Keras.

        `ops.power` makes a tensor of the exponent; `0.1 * x` in half precision rounds 0.1 first.
        """
        number = isinstance(given, int | float)
        half = number and "float" in tensor.dtype and "16" in tensor.dtype
        known = number or isinstance(given, keras.KerasTensor | keras.Variable)
        if not known or isinstance(given, Size | bool):
            return NotImplemented
        if not (self._native or half or name.endswith("pow")):
            return NotImplemented
        swapped = name[0] == "r" and name[1:] in SIGNS
        sign = name[1:] if swapped else name
        return self.op(
            Operator(sign, name=sign), (given, tensor) if swapped else (tensor, given), {}
        )

    def _number(self, leaf: Any) -> Any:
        """Return a size as a tensor, for an op that computes with it."""
        if not isinstance(leaf, Size):
            return leaf
        frame = self._frame
        sized, reads = frame.sized("ops:convert_to_tensor", {}, (), {"x": leaf})
        outputs = keras.KerasTensor((), "int32")
        frame.record(DynamicOp(sized, name="size"), tuple(reads), {}, outputs)
        frame.log.append(("size", sized.form()))
        return outputs

    # -- weights and losses -------------------------------------------------------------------

    def symbolic(self, leaf: Any) -> bool:
        """Whether a leaf is a weight or a size that is not known."""
        return isinstance(leaf, keras.Variable | Size)

    def _tensor(self, leaf: Any) -> Any:
        return self.weight(leaf) if isinstance(leaf, keras.Variable) else leaf

    def weight(self, variable: Any) -> Any:
        """Return the tensor of a variable, made by a `Weight` in the present frame."""
        if id(variable) not in self._variables:
            raise Doubt(f"it uses the variable {variable.path!r}, which no layer of the model has")
        frame = self._frame

        def make() -> Any:
            policy = frame.layer.dtype_policy
            key = id(variable), policy.name
            with self._on(False):
                if key not in self._weights:
                    name = variable.path.rpartition("/")[2] or variable.name
                    self._weights[key] = weight_of(variable, name, policy)
                layer = self._weights[key]
                outputs = layer.compute_output_spec(None)
            frame.record(layer, (frame.anchor,), {}, outputs)
            frame.log.append(("weight", id(variable)))
            return outputs

        return frame.lifted(variable, make)

    def sliced(self, tensor: Any, key: Any) -> Any:
        """Slice a tensor with data, if a size that is not known says where."""
        return sliced(tensor, key, self._frame)

    def lost(self, losses: list[Any]) -> None:
        """Keep losses that the code adds."""
        self._frame.losses += [self._tensor(loss) for loss in losses]

    def holds(self, layer: Any) -> bool:
        """Whether a layer is one of the model's, and not made by its code."""
        return id(layer) in self._layers
